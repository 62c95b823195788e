//! Says where a node keeps its data unless it is told otherwise, and its administrator's token in there.

use std::path::PathBuf;

/// The file of a data directory that holds the administrator's token.
pub const TOKEN_FILE: &str = "admin.token";

fn data_home() -> PathBuf {
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/share"));
    std::env::var_os("XDG_DATA_HOME")
        .map(PathBuf::from)
        .filter(|dir| dir.is_absolute())
        .or_else(home)
        .unwrap_or_else(|| PathBuf::from("/var/lib"))
}

/// Returns the data directory of a node unless another is chosen: under `XDG_DATA_HOME`, `~/.local/share` or `/var/lib`.
pub fn default_data_dir() -> PathBuf {
    data_home().join("hiveward")
}

/// Returns the data directory of `hiveward dev` unless another is chosen.
pub fn dev_data_dir() -> PathBuf {
    default_data_dir().join("dev")
}
