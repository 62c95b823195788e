//! What libvirt itself takes, with nothing around it: makes, stops, starts and removes so many domains, one after the other
//! on one connection, and prints microseconds as JSON.
//!
//! `bare URI COUNT` does so with a test hypervisor's (for `benches/libvirt`). `bare URI COUNT DOMAIN POOL BASE SEED` does so
//! with machines, each with a disk over `BASE` and a copy of the file `SEED` in the directory `POOL`: `DOMAIN` is a file that
//! describes one, with `@NAME@`, `@ROOT@` and `@SEED@` in it.

use std::{path::Path, time::Instant};

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

fn main() -> Fallible<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (uri, count, machine) = match arguments.as_slice() {
        [uri, count] => (uri, count.parse::<u32>()?, None),
        [uri, count, domain, pool, base, seed] => (uri, count.parse()?, Some((domain, pool, base, seed))),
        _ => return Err("bare URI COUNT [DOMAIN POOL BASE SEED]".into()),
    };
    let connection = Connect::open(Some(uri))?;
    let (description, disks) = match machine {
        None => {
            let test = "<domain type='test'><name>@NAME@</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>\
                        <os><type>hvm</type></os></domain>";
            (test.to_owned(), None)
        }
        Some((domain, pool, base, seed)) => {
            (std::fs::read_to_string(domain)?, Some(Disks::of(&connection, pool, base, Path::new(seed))?))
        }
    };
    let timed = |what: &str, each: &mut dyn FnMut() -> Result<(), Error>| -> Result<String, Error> {
        let begun = Instant::now();
        each()?;
        Ok(format!("\"{what}\":{}", begun.elapsed().as_micros()))
    };
    let mut domains: Vec<Domain> = Vec::new();
    let create = timed("create", &mut || {
        for number in 0..count {
            let name = format!("bare-{number}");
            let mut xml = description.replace("@NAME@", &name);
            if let Some(disks) = &disks {
                let (root, seed) = disks.make(&connection, &name)?;
                xml = xml.replace("@ROOT@", &root).replace("@SEED@", &seed);
            }
            let domain = connection.define_domain_xml(&xml)?;
            domain.create()?;
            domains.push(domain);
        }
        Ok(())
    })?;
    let each = |what: &str, call: fn(&Domain) -> Result<(), Error>| timed(what, &mut || domains.iter().try_for_each(call));
    let stop = each("stop", Domain::destroy)?;
    let start = each("start", Domain::create)?;
    each("stop", Domain::destroy)?;
    let remove = timed("remove", &mut || {
        for (number, domain) in domains.iter().enumerate() {
            domain.undefine()?;
            if let Some(disks) = &disks {
                disks.remove(&format!("bare-{number}"))?;
            }
        }
        Ok(())
    })?;
    if let Some(disks) = &disks {
        disks.pool.destroy()?;
        disks.pool.delete(0)?;
        disks.pool.undefine()?;
    }
    println!("{{{create},{stop},{start},{remove}}}");
    Ok(())
}
