//! Copies of a domain's disks as they are at one moment, in files on the node.
//!
//! While the domain is on, the hypervisor writes the moment into the pool and the guest runs on; one that is off is copied as
//! it is. Then the copy is brought to the node, hashed as it is written, and removed from the pool. Every copy stands alone:
//! what the image had is in it.

use std::{
    fs::File,
    io::Write,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use virt::{domain::Domain, stream::Stream};

use crate::{
    domain::{Host, escaped, is_on, problem},
    protocol::{DiskCopy, Problem},
    store, sys,
};

/// Of the hypervisor's own part, from the moment that is kept on.
const WITHIN: Duration = Duration::from_secs(3_600);
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// For a job that was asked to end.
const END_WITHIN: Duration = Duration::from_secs(30);
const PIECE_BYTES: usize = 256 << 10;

struct Disk {
    /// As the guest's machine has it.
    target: String,
    /// As the VM was made with it; a disk that is not written to, such as the seed, has none.
    name: Option<String>,
}

/// The disks of a domain, by its own description.
fn disks(domain: &Domain, vm: &str) -> Result<Vec<Disk>, Problem> {
    let xml = domain.xml_desc(0).map_err(|error| problem(&error))?;
    let within = |text: &str, begin: &str| -> Option<String> {
        let (_, rest) = text.split_once(begin)?;
        Some(rest.split_once('\'')?.0.to_owned())
    };
    let blocks = xml.split("<disk ").skip(1).filter_map(|rest| rest.split_once("</disk>")).map(|(block, _)| block);
    Ok(blocks
        .filter_map(|block| {
            let target = within(block, "<target dev='")?;
            let file = within(block, "<source file='")?;
            let name = file.rsplit('/').next()?.strip_prefix(&format!("{vm}-"))?.strip_suffix(".qcow2")?.to_owned();
            Some(Disk { target, name: (!block.contains("<readonly/>")).then_some(name) })
        })
        .collect())
}

fn scratch(vm: &str, disk: &str) -> String {
    format!("{vm}-backup-{disk}.part")
}

/// Ends one that is under way, and removes what it wrote into the pool.
pub fn end(host: &Host, vm: &str) -> Result<(), Problem> {
    if !host.has_disks() {
        return Ok(());
    }
    if let Some(domain) = host.own(vm)? {
        let begun = Instant::now();
        while sys::is_backed_up(&domain).unwrap_or(false) {
            let _ = sys::abort(&domain);
            if begun.elapsed() > END_WITHIN {
                return Err(Problem::Failed("a backup of it does not end".into()));
            }
            thread::sleep(LOOK_EVERY);
        }
    }
    host.store.remove_those(&host.connection, &format!("{vm}-backup-"))
}

/// Into files of `dir`, which is empty: all of them, or one.
pub fn backup(host: &Host, vm: &str, dir: &str, only: Option<&str>) -> Result<Vec<DiskCopy>, Problem> {
    let refused = |message: &str| Err(Problem::Refused(message.into()));
    if !host.has_disks() {
        return refused("this hypervisor has no disks to keep");
    }
    let Some(domain) = host.own(vm)? else { return refused("there is no such domain") };
    end(host, vm)?;
    let mut disks = disks(&domain, vm)?;
    for disk in &mut disks {
        // One without a name is left out.
        disk.name = disk.name.take().filter(|name| only.is_none_or(|only| only == name));
    }
    if is_on(&domain)? {
        push(host, &domain, vm, &disks)?
    } else {
        copy(host, vm, &disks)?
    }
    let mut copies = Vec::new();
    for name in disks.iter().filter_map(|disk| disk.name.as_ref()) {
        copies.push(bring(host, vm, name, Path::new(dir))?);
    }
    end(host, vm)?;
    Ok(copies)
}

/// All disks at one moment, by the hypervisor.
fn push(host: &Host, domain: &Domain, vm: &str, disks: &[Disk]) -> Result<(), Problem> {
    let mut xml = "<domainbackup mode='push'><disks>".to_owned();
    for Disk { target, name } in disks {
        xml.push_str(&match name {
            None => format!("<disk name='{}' backup='no'/>", escaped(target)),
            Some(name) => format!(
                "<disk name='{}' backup='yes' type='file'><driver type='qcow2'/><target file='{}/{}'/></disk>",
                escaped(target),
                escaped(host.store.path()),
                escaped(&scratch(vm, name))
            ),
        });
    }
    xml.push_str("</disks></domainbackup>");
    sys::begin_backup(domain, &xml).map_err(|error| problem(&error))?;
    let begun = Instant::now();
    while sys::is_backed_up(domain).map_err(|error| problem(&error))? {
        if begun.elapsed() > WITHIN {
            let _ = sys::abort(domain);
            return Err(Problem::Failed(format!("the hypervisor did not copy its disks within {} s", WITHIN.as_secs())));
        }
        thread::sleep(LOOK_EVERY);
    }
    if sys::was_backed_up(domain).map_err(|error| problem(&error))? {
        Ok(())
    } else {
        Err(Problem::Failed("the hypervisor did not come to the end of the copy".into()))
    }
}

fn copy(host: &Host, vm: &str, disks: &[Disk]) -> Result<(), Problem> {
    for name in disks.iter().filter_map(|disk| disk.name.as_ref()) {
        host.store.duplicate(&host.connection, vm, name, &scratch(vm, name))?;
    }
    Ok(())
}

fn bring(host: &Host, vm: &str, name: &str, dir: &Path) -> Result<DiskCopy, Problem> {
    let cannot = |error: std::io::Error| Problem::Failed(format!("the copy cannot be written on the node: {error}"));
    let volume = host.store.volume(&host.connection, &scratch(vm, name))?;
    let bytes = store::length(&volume).map_err(|error| problem(&error))?;
    let stream = Stream::new(&host.connection, 0).map_err(|error| problem(&error))?;
    volume.download(&stream, 0, bytes, 0).map_err(|error| problem(&error))?;
    let file_name = format!("{name}.qcow2");
    let mut file = File::create_new(dir.join(&file_name)).map_err(cannot)?;
    let (mut hash, mut piece, mut got) = (blake3::Hasher::new(), vec![0; PIECE_BYTES], 0_u64);
    let mut header = Vec::new();
    loop {
        let read = stream.recv(&mut piece).map_err(|error| problem(&error))?;
        let part = piece.get(..usize::try_from(read).unwrap_or(0)).unwrap_or_default();
        if part.is_empty() {
            break;
        }
        if header.len() < 32 {
            header.extend_from_slice(part);
        }
        hash.update(part);
        got += part.len() as u64;
        if let Err(error) = file.write_all(part) {
            let _ = stream.abort();
            return Err(cannot(error));
        }
    }
    stream.finish().map_err(|error| problem(&error))?;
    file.sync_all().map_err(cannot)?;
    let virtual_bytes = header.get(24..32).map(|field| field.iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte)));
    let whole = got == bytes && header.starts_with(b"QFI\xfb");
    let Some(virtual_bytes) = virtual_bytes.filter(|_| whole) else {
        return Err(Problem::Failed(format!("{got} of {bytes} bytes of disk {name} came, or they are no qcow2")));
    };
    let hash = hash.finalize().to_hex().to_string();
    Ok(DiskCopy { disk: name.to_owned(), file: file_name, bytes, virtual_bytes, format: "qcow2".into(), hash })
}
