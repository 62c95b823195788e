//! Private files that are replaced whole or not at all.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::Path,
};

use super::IdentityError;

/// More than any certificate or key of ours; a larger file is not ours.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// Makes `dir` for this user only; one that exists is closed to others.
pub(super) fn private_dir(dir: &Path) -> Result<(), IdentityError> {
    let failed = |source| IdentityError::File { what: "make the directory", path: dir.to_owned(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).map_err(failed)
}

/// Writes beside the file, syncs, renames over it and syncs the directory: a crash leaves the old content or the new.
pub(super) fn replace(path: &Path, content: &[u8]) -> Result<(), IdentityError> {
    let beside = path.with_extension("new");
    let write = || -> io::Result<()> {
        // What a crash left there may have other rights; ours are set at creation, so that the key is never readable.
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
    };
    write().map_err(|source| IdentityError::File { what: "write", path: path.to_owned(), source })
}

/// The file's text; `None` if there is none.
pub(super) fn read(path: &Path) -> Result<Option<String>, IdentityError> {
    let failed = |source| IdentityError::File { what: "read", path: path.to_owned(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut text = String::new();
    file.take(FILE_BYTES_MAX).read_to_string(&mut text).map_err(failed)?;
    Ok(Some(text))
}
