//! Small files that are replaced as a whole.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

/// Writes beside the file, syncs, renames over it and syncs the directory: a crash or a power cut leaves the old content or
/// the new. For this user only.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let beside = path.with_added_extension("new");
    // What a crash left there may have other rights; ours are set at creation, so that a secret is never readable.
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    match path.parent() {
        Some(dir) => File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}
