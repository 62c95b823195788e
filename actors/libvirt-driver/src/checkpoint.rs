//! Checkpoints: from when on a domain's writes are marked, so that a backup can be of what was written since.
//!
//! QEMU keeps the marks in the disks themselves and takes care of them while the domain is on. libvirt refuses snapshots of a
//! domain that is off and has checkpoints, QEMU refuses to revert a disk that has marks, and neither removes marks of a domain
//! that is off. So they give way: what is based on them begins anew, and says why.

use virt::{connect::Connect, domain::Domain, storage_vol::StorageVol, stream::Stream};

use crate::{
    domain::{is_on, problem},
    protocol::{CHECKPOINT_MARK, CHECKPOINTS_MAX, Problem},
    sys,
};

/// Of a qcow2 file's header, as far as the features that a writer must know.
const HEADER_BYTES: usize = 96;
/// The last byte of the features that are void when a writer does not know them; its lowest bit is the marks'.
const MARKS_AT: usize = 95;
const MARKS_BIT: u8 = 1;

/// Removes our checkpoints but for those, of which there are no more than there may be.
pub fn keep_only(domain: &Domain, keep: &[&str]) -> Result<(), Problem> {
    let mut wanted: Vec<&str> = Vec::new();
    for name in keep {
        if wanted.len() < CHECKPOINTS_MAX - 1 && !wanted.contains(name) {
            wanted.push(name);
        }
    }
    for (name, _) in sys::checkpoints(domain).map_err(|error| problem(&error))? {
        if name.starts_with(CHECKPOINT_MARK) && !wanted.contains(&name.as_str()) {
            remove(domain, &name)?;
        }
    }
    Ok(())
}

/// A mark that was lost with its QEMU cannot be removed, and then libvirt is told to forget it.
pub fn remove(domain: &Domain, name: &str) -> Result<(), Problem> {
    sys::remove_checkpoint(domain, name, false)
        .or_else(|_| sys::remove_checkpoint(domain, name, true))
        .map_err(|error| problem(&error))
}

/// The disks of a checkpoint, as the guest's machine has them; `None` if there is none of that name.
pub fn disks(domain: &Domain, name: &str) -> Result<Option<Vec<String>>, Problem> {
    let all = sys::checkpoints(domain).map_err(|error| problem(&error))?;
    Ok(all.into_iter().find(|(known, _)| known == name).map(|(_, xml)| {
        let disks = xml.split("<disk name='").skip(1).filter(|rest| rest.contains("checkpoint='bitmap'"));
        disks.filter_map(|rest| Some(rest.split_once('\'')?.0.to_owned())).collect()
    }))
}

/// Away with all of ours, so that the disks can be snapshots' matter.
pub fn give_way(domain: &Domain) -> Result<(), Problem> {
    keep_only(domain, &[])?;
    if is_on(domain)? { Ok(()) } else { void(domain) }
}

/// Makes the marks in the disks of a domain that is off void: QEMU drops them when it opens the disks next.
pub fn void(domain: &Domain) -> Result<(), Problem> {
    let xml = domain.xml_desc(0).map_err(|error| problem(&error))?;
    let connection = domain.connect().map_err(|error| problem(&error))?;
    for block in xml.split("<disk ").skip(1).filter(|block| block.contains("type='qcow2'")) {
        let file = block.split_once("<source file='").and_then(|(_, rest)| rest.split_once('\''));
        let Some((file, _)) = file else { continue };
        // One that no pool has was not made here.
        let Ok(volume) = connection.lookup_storage_vol_by_path(file) else { continue };
        let mut header = read(&connection, &volume)?;
        let is_new = header.get(..8) == Some(b"QFI\xfb\0\0\0\x03");
        if let Some(byte) = header.get_mut(MARKS_AT).filter(|byte| is_new && **byte & MARKS_BIT != 0) {
            *byte &= !MARKS_BIT;
            let byte = *byte;
            write(&connection, &volume, byte)?;
        }
    }
    Ok(())
}

fn read(connection: &Connect, volume: &StorageVol) -> Result<Vec<u8>, Problem> {
    let stream = Stream::new(connection, 0).map_err(|error| problem(&error))?;
    volume.download(&stream, 0, HEADER_BYTES as u64, 0).map_err(|error| problem(&error))?;
    let (mut header, mut piece) = (Vec::new(), [0; HEADER_BYTES]);
    loop {
        let read = stream.recv(&mut piece).map_err(|error| problem(&error))?;
        match piece.get(..usize::try_from(read).unwrap_or(0)).filter(|part| !part.is_empty()) {
            Some(part) => header.extend_from_slice(part),
            None => break,
        }
    }
    stream.finish().map_err(|error| problem(&error))?;
    Ok(header)
}

fn write(connection: &Connect, volume: &StorageVol, byte: u8) -> Result<(), Problem> {
    let stream = Stream::new(connection, 0).map_err(|error| problem(&error))?;
    volume.upload(&stream, MARKS_AT as u64, 1, 0).map_err(|error| problem(&error))?;
    stream.send(&[byte]).map_err(|error| problem(&error))?;
    stream.finish().map_err(|error| problem(&error))
}
