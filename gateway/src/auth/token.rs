//! The administrator's token file.

use std::{
    fs, io,
    io::{Read, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use hiveward_contract::home::TOKEN_FILE;

#[derive(Debug, thiserror::Error)]
pub enum TokenFileError {
    #[error("cannot read or write {}", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} holds no token; remove it and start again to get a new one", path.display())]
    Empty { path: PathBuf },
    #[error("{} can be read by other users (mode {mode:o}); run `chmod 600` on it", path.display())]
    Open { path: PathBuf, mode: u32 },
}

/// Makes a new token: `hw_` and 32 random bytes in hexadecimal, from the kernel.
pub fn new_token() -> io::Result<String> {
    let mut bytes = [0_u8; 32];
    fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(format!("hw_{}", blake3::Hash::from_bytes(bytes).to_hex()))
}

/// Reads the administrator's token; writes a new one first if there is none.
pub fn admin_token(data_dir: &Path) -> Result<String, TokenFileError> {
    let path = data_dir.join(TOKEN_FILE);
    let failed = |source| TokenFileError::Io { path: path.clone(), source };
    if !path.exists() {
        fs::create_dir_all(data_dir).map_err(failed)?;
        let token = new_token().map_err(failed)?;
        // Written beside and renamed, so that a crash leaves either no token or a whole one.
        let fresh = data_dir.join(format!("{TOKEN_FILE}.new"));
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh).map_err(failed)?;
        writeln!(file, "{token}").and_then(|()| file.sync_all()).map_err(failed)?;
        fs::rename(&fresh, &path).map_err(failed)?;
        fs::File::open(data_dir).and_then(|dir| dir.sync_all()).map_err(failed)?;
    }
    let mode = fs::metadata(&path).map_err(failed)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(TokenFileError::Open { path, mode });
    }
    let token = fs::read_to_string(&path).map_err(failed)?.trim().to_owned();
    if token.is_empty() { Err(TokenFileError::Empty { path }) } else { Ok(token) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_is_made_once_and_only_its_owner_can_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let token = admin_token(dir.path()).unwrap();
        assert!(token.starts_with("hw_") && token.len() == 67, "{token}");
        assert_eq!(admin_token(dir.path()).unwrap(), token);
        let path = dir.path().join(TOKEN_FILE);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(admin_token(dir.path()), Err(TokenFileError::Open { mode: 0o644, .. })));
    }
}
