//! Reads what the first bytes of an image's file say of it. Pure.

use serde::{Deserialize, Serialize};

/// The format of an image's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    Qcow2,
    Raw,
}

impl Format {
    /// Returns the format as hypervisors write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Qcow2 => "qcow2",
            Self::Raw => "raw",
        }
    }
}

/// The number of bytes of a file that are enough to read its header.
pub const HEADER_BYTES: usize = 512;

const QCOW_MAGIC: [u8; 4] = *b"QFI\xfb";
/// The bit of a feature that must be understood: the data is in a file beside it. The first such feature is harmless (it was
/// not closed well).
const EXTERNAL_DATA: u64 = 1 << 2;
/// The other formats that QEMU would read and this does not.
const OTHERS: [(&[u8], &str); 4] = [(b"KDMV", "VMDK"), (b"COWD", "VMDK"), (b"conectix", "VHD"), (b"vhdxfile", "VHDX")];

/// Returns the format and the bytes of the disk. Errors: why the file is nothing to begin a disk with.
pub fn read(header: &[u8], file_bytes: u64) -> Result<(Format, u64), String> {
    if let Some((_, name)) = OTHERS.iter().find(|(magic, _)| header.starts_with(magic)) {
        return Err(format!("this is {name}; convert it with `qemu-img convert -O qcow2`"));
    }
    if !header.starts_with(&QCOW_MAGIC) {
        if header.starts_with(b"\x1f\x8b") || header.starts_with(b"\xfd7zXZ") || header.starts_with(b"\x28\xb5\x2f\xfd") {
            return Err("this is compressed; unpack it first".into());
        }
        // A raw disk is whatever it is, and has a length in whole sectors.
        return match file_bytes {
            0 => Err("this is empty".into()),
            bytes if bytes % 512 != 0 => Err("this is neither qcow2 nor a disk: it does not end with a whole sector".into()),
            bytes => Ok((Format::Raw, bytes)),
        };
    }
    let number = |at: usize, bytes: usize| {
        header.get(at..at + bytes).map(|field| field.iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte)))
    };
    let cut = || "this qcow2 image ends within its header".to_owned();
    let version = number(4, 4).ok_or_else(cut)?;
    if !(2..=3).contains(&version) {
        return Err(format!("this is qcow2 of version {version}; 2 and 3 are understood"));
    }
    // A file that names another would be opened on the host, whatever it is.
    if number(8, 8).ok_or_else(cut)? != 0 {
        return Err("this image is a difference to another file; flatten it with `qemu-img convert -O qcow2`".into());
    }
    let virtual_bytes = number(24, 8).ok_or_else(cut)?;
    if number(32, 4).ok_or_else(cut)? != 0 {
        return Err("this image is encrypted; decrypt it first".into());
    }
    if version == 3 && number(72, 8).ok_or_else(cut)? & EXTERNAL_DATA != 0 {
        return Err("this image keeps its data in another file; flatten it with `qemu-img convert -O qcow2`".into());
    }
    if virtual_bytes == 0 {
        return Err("this image is of a disk without a byte".into());
    }
    Ok((Format::Qcow2, virtual_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn qcow2(change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut header = vec![0; HEADER_BYTES];
        header[..4].copy_from_slice(&QCOW_MAGIC);
        header[7] = 3;
        header[24..32].copy_from_slice(&(10_u64 << 30).to_be_bytes());
        change(&mut header);
        header
    }

    #[test]
    fn an_image_stands_alone_or_is_refused_with_what_to_do() {
        assert_eq!(read(&qcow2(|_| {}), 4_096), Ok((Format::Qcow2, 10 << 30)));
        assert_eq!(read(&[0; HEADER_BYTES], 1 << 20), Ok((Format::Raw, 1 << 20)));
        for (header, bytes, says) in [
            (qcow2(|header| header[15] = 1), 4_096, "difference"),
            (qcow2(|header| header[35] = 1), 4_096, "encrypted"),
            (qcow2(|header| header[79] = 4), 4_096, "another file"),
            (qcow2(|header| header[7] = 4), 4_096, "version 4"),
            (qcow2(|header| header.truncate(20)), 20, "ends within"),
            (b"KDMV".to_vec(), 4_096, "VMDK"),
            (b"\x1f\x8b\x08".to_vec(), 4_096, "compressed"),
            (b"<html>".to_vec(), 4_097, "whole sector"),
            (Vec::new(), 0, "empty"),
        ] {
            let refused = read(&header, bytes).unwrap_err();
            assert!(refused.contains(says), "{refused}");
        }
    }
}
