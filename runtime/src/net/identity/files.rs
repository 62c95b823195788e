//! Private files that are replaced whole or not at all.

use std::{
    fs::{self, DirBuilder, File},
    io::{self, Read},
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::Path,
};

use super::IdentityError;
use crate::file;

/// The most that is read of a file. It is more than any certificate or key of ours; a larger file is not ours.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// Makes `dir` for this user only; one that exists is closed to others.
pub(super) fn private_dir(dir: &Path) -> Result<(), IdentityError> {
    let failed = |source| IdentityError::File { what: "make the directory", path: dir.to_owned(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).map_err(failed)
}

/// Replaces a file as [`file::replace`] does.
pub(super) fn replace(path: &Path, content: &[u8]) -> Result<(), IdentityError> {
    let failed = |source| IdentityError::File { what: "write", path: path.to_owned(), source };
    file::replace(path, content).map_err(failed)
}

/// Reads the file's text; `None` if there is no file.
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
