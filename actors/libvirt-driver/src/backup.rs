//! Copies of a domain's disks as they are at one moment, in files on the node.
//!
//! While the domain is on, the hypervisor writes the moment into the pool and the guest runs on; one that is off is copied as
//! it is. Then the copy is brought to the node, hashed as it is written, and removed from the pool. A copy stands alone, with
//! what the image had in it, or has what was written since a checkpoint. That is never guessed: where a checkpoint is not
//! what it was the copy is a whole one.

use std::{
    fs::File,
    io::Write,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use virt::{domain::Domain, stream::Stream};

use crate::{
    checkpoint,
    domain::{Host, escaped, is_on, problem},
    protocol::{DiskCopies, DiskCopy, Marks, Problem},
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
pub fn backup(host: &Host, vm: &str, dir: &str, only: Option<&str>, marks: &Marks) -> Result<DiskCopies, Problem> {
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
    let mut copies = if is_on(&domain)? {
        marked(host, &domain, vm, &disks, marks)?
    } else {
        copy(host, vm, &disks)?;
        let asked = marks.since.is_some() || marks.new.is_some();
        DiskCopies { why: asked.then(|| OFF.to_owned()), ..DiskCopies::default() }
    };
    for name in disks.iter().filter_map(|disk| disk.name.as_ref()) {
        copies.disks.push(bring(host, vm, name, Path::new(dir))?);
    }
    end(host, vm)?;
    Ok(copies)
}

const OFF: &str = "it is off, and only what a running guest writes is marked";

/// The least that is asked for and possible: since a checkpoint; everything, with a new checkpoint; everything.
fn marked(host: &Host, domain: &Domain, vm: &str, disks: &[Disk], marks: &Marks) -> Result<DiskCopies, Problem> {
    if marks.new.is_some() {
        let mut kept: Vec<&str> = marks.since.iter().chain(&marks.keep).map(String::as_str).collect();
        // An earlier try may have made the new one already.
        kept.retain(|name| Some(*name) != marks.new.as_deref());
        checkpoint::keep_only(domain, &kept)?;
    }
    let (mut since, mut why) = (marks.since.as_deref(), None);
    if let Some(name) = since {
        let mut ours: Vec<&str> = disks.iter().filter(|disk| disk.name.is_some()).map(|disk| &*disk.target).collect();
        ours.sort_unstable();
        why = match checkpoint::disks(domain, name)? {
            None => Some("its host has no checkpoint of its last backup any more".to_owned()),
            Some(mut known) => {
                known.sort_unstable();
                (known != ours).then(|| "it has other disks than at its last backup".to_owned())
            }
        };
        since = since.filter(|_| why.is_none());
    }
    let mut new = marks.new.as_deref();
    loop {
        let refused = match push(host, domain, vm, disks, since, new) {
            Ok(()) => break,
            Err(Pushed::NotBegun(problem @ Problem::Unreachable(_)) | Pushed::Broke(problem)) => return Err(problem),
            Err(Pushed::NotBegun(Problem::Refused(message) | Problem::Failed(message))) => message,
        };
        match (since, new) {
            (Some(lost), _) => {
                why = Some(format!("what was written since its last backup is not known: {refused}"));
                checkpoint::remove(domain, lost)?;
                since = None;
            }
            (None, Some(_)) => {
                why = Some(format!("no checkpoint can be made of it: {refused}"));
                new = None;
            }
            (None, None) => return Err(Problem::Failed(refused)),
        }
        end(host, vm)?;
    }
    let owned = |name: Option<&str>| name.map(str::to_owned);
    Ok(DiskCopies { disks: Vec::new(), since: owned(since), mark: owned(new), why })
}

enum Pushed {
    NotBegun(Problem),
    Broke(Problem),
}

/// All disks at one moment, by the hypervisor.
fn push(host: &Host, domain: &Domain, vm: &str, disks: &[Disk], since: Option<&str>, new: Option<&str>) -> Result<(), Pushed> {
    let mut xml = "<domainbackup mode='push'>".to_owned();
    let mut marks = format!("<domaincheckpoint><name>{}</name><disks>", escaped(new.unwrap_or_default()));
    if let Some(since) = since {
        xml.push_str(&format!("<incremental>{}</incremental>", escaped(since)));
    }
    xml.push_str("<disks>");
    for Disk { target, name } in disks {
        let target = escaped(target);
        xml.push_str(&match name {
            None => format!("<disk name='{target}' backup='no'/>"),
            Some(name) => format!(
                "<disk name='{target}' backup='yes' type='file'><driver type='qcow2'/><target file='{}/{}'/></disk>",
                escaped(host.store.path()),
                escaped(&scratch(vm, name))
            ),
        });
        let kind = if name.is_some() { "bitmap" } else { "no" };
        marks.push_str(&format!("<disk name='{target}' checkpoint='{kind}'/>"));
    }
    xml.push_str("</disks></domainbackup>");
    marks.push_str("</disks></domaincheckpoint>");
    let begun = sys::begin_backup(domain, &xml, new.is_some().then_some(&marks));
    begun.map_err(|error| Pushed::NotBegun(problem(&error)))?;
    let broke = |error: virt::error::Error| Pushed::Broke(problem(&error));
    let begun = Instant::now();
    while sys::is_backed_up(domain).map_err(broke)? {
        if begun.elapsed() > WITHIN {
            let _ = sys::abort(domain);
            let message = format!("the hypervisor did not copy its disks within {} s", WITHIN.as_secs());
            return Err(Pushed::Broke(Problem::Failed(message)));
        }
        thread::sleep(LOOK_EVERY);
    }
    if sys::was_backed_up(domain).map_err(broke)? {
        Ok(())
    } else {
        Err(Pushed::Broke(Problem::Failed("the hypervisor did not come to the end of the copy".into())))
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
