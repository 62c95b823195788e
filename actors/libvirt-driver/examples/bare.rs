//! What libvirt itself takes, with nothing around it: makes, stops, starts and removes so many domains on one connection,
//! and prints microseconds as JSON.
//!
//! `bare URI COUNT` does so with a test hypervisor's, one after the other (for `benches/libvirt`).
//! `bare URI COUNT THREADS DOMAIN POOL BASE SEED` does so with machines, each with a disk over `BASE` and a copy of the file
//! `SEED` in the directory `POOL`: `DOMAIN` is a file that describes one, with `@NAME@`, `@ROOT@` and `@SEED@` in it.

use std::{
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
    time::Instant,
};

use virt::{connect::Connect, domain::Domain, error::Error, storage_pool::StoragePool, storage_vol::StorageVol, stream::Stream};

type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

struct Disks {
    pool: StoragePool,
    dir: String,
    base: String,
    seed: Vec<u8>,
}

impl Disks {
    fn of(connection: &Connect, dir: &str, base: &str, seed: &Path) -> Fallible<Self> {
        let xml = format!("<pool type='dir'><name>bare</name><target><path>{dir}</path></target></pool>");
        let pool = connection.define_storage_pool_xml(&xml, 0)?;
        pool.build(0)?;
        pool.create(0)?;
        Ok(Self { pool, dir: dir.into(), base: base.into(), seed: std::fs::read(seed)? })
    }

    /// As the disks of ours are made: a difference to the image, and a seed that is written.
    fn make(&self, connection: &Connect, name: &str) -> Result<(String, String), Error> {
        let volume = |file: &str, more: &str| {
            let xml = format!(
                "<volume><name>{file}</name><capacity unit='bytes'>268435456</capacity><allocation>0</allocation>{more}</volume>"
            );
            StorageVol::create_xml(&self.pool, &xml, 0)
        };
        let (root, seed) = (format!("{name}.qcow2"), format!("{name}.img"));
        let backing = format!(
            "<target><format type='qcow2'/></target><backingStore><path>{}</path><format type='qcow2'/></backingStore>",
            self.base
        );
        volume(&root, &backing)?;
        let volume = volume(&seed, "<target><format type='raw'/></target>")?;
        let stream = Stream::new(connection, 0)?;
        volume.upload(&stream, 0, self.seed.len() as u64, 0)?;
        let mut rest = self.seed.as_slice();
        while !rest.is_empty() {
            let sent = usize::try_from(stream.send(rest)?).unwrap_or(rest.len());
            rest = rest.get(sent..).unwrap_or_default();
        }
        stream.finish()?;
        Ok((format!("{}/{root}", self.dir), format!("{}/{seed}", self.dir)))
    }

    fn remove(&self, name: &str) -> Result<(), Error> {
        for file in [format!("{name}.qcow2"), format!("{name}.img")] {
            self.pool.lookup_storage_vol_by_name(&file)?.delete(0)?;
        }
        Ok(())
    }
}

/// What is done with each, and by so many threads.
struct Work {
    connection: Connect,
    description: String,
    disks: Option<Disks>,
    count: usize,
    threads: usize,
}

impl Work {
    fn make(&self, number: usize) -> Result<(), Error> {
        let name = format!("bare-{number}");
        let mut xml = self.description.replace("@NAME@", &name);
        if let Some(disks) = &self.disks {
            let (root, seed) = disks.make(&self.connection, &name)?;
            xml = xml.replace("@ROOT@", &root).replace("@SEED@", &seed);
        }
        self.connection.define_domain_xml(&xml)?.create()
    }

    fn domain(&self, number: usize) -> Result<Domain, Error> {
        self.connection.lookup_domain_by_name(&format!("bare-{number}"))
    }

    fn remove(&self, number: usize) -> Result<(), Error> {
        self.domain(number)?.undefine()?;
        self.disks.as_ref().map_or(Ok(()), |disks| disks.remove(&format!("bare-{number}")))
    }

    /// As `"what":microseconds`.
    fn timed(&self, what: &str, each: impl Fn(usize) -> Result<(), Error> + Sync) -> Fallible<String> {
        let (begun, next) = (Instant::now(), AtomicUsize::new(0));
        let work = || {
            let mut numbers = std::iter::from_fn(|| Some(next.fetch_add(1, Ordering::Relaxed)).filter(|n| *n < self.count));
            numbers.try_for_each(&each)
        };
        std::thread::scope(|scope| {
            let all: Vec<_> = (0..self.threads).map(|_| scope.spawn(work)).collect();
            all.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        })?;
        Ok(format!("\"{what}\":{}", begun.elapsed().as_micros()))
    }
}

fn main() -> Fallible<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (uri, count, machine) = match arguments.as_slice() {
        [uri, count] => (uri, count, None),
        [uri, count, threads, domain, pool, base, seed] => (uri, count, Some((threads, domain, pool, base, seed))),
        _ => return Err("bare URI COUNT [THREADS DOMAIN POOL BASE SEED]".into()),
    };
    let (connection, count) = (Connect::open(Some(uri))?, count.parse()?);
    let work = match machine {
        None => {
            let description = "<domain type='test'><name>@NAME@</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>\
                               <os><type>hvm</type></os></domain>";
            Work { connection, description: description.into(), disks: None, count, threads: 1 }
        }
        Some((threads, domain, pool, base, seed)) => {
            let disks = Some(Disks::of(&connection, pool, base, Path::new(seed))?);
            let (description, threads) = (std::fs::read_to_string(domain)?, threads.parse()?);
            Work { connection, description, disks, count, threads }
        }
    };
    let create = work.timed("create", |n| work.make(n))?;
    let stop = work.timed("stop", |n| work.domain(n)?.destroy())?;
    let start = work.timed("start", |n| work.domain(n)?.create())?;
    work.timed("stop", |n| work.domain(n)?.destroy())?;
    let remove = work.timed("remove", |n| work.remove(n))?;
    if let Some(disks) = &work.disks {
        disks.pool.destroy()?;
        disks.pool.delete(0)?;
        disks.pool.undefine()?;
    }
    println!("{{{create},{stop},{start},{remove}}}");
    Ok(())
}
