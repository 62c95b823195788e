//! Small files that are replaced as a whole, and files and directories whose names survive a power cut.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use crate::fault;

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
    sync_name(path)
}

/// Makes the name of a file or a directory durable: its content alone is not found again after a power cut.
pub fn sync_name(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(dir) if dir.as_os_str().is_empty() => sync_dir(Path::new(".")),
        Some(dir) => sync_dir(dir),
        None => Ok(()),
    }
}

/// Makes the names in a directory durable.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    fault::point_sync("store.sync_dir", None).map_err(io::Error::other)?;
    let synced = File::open(dir).and_then(|dir| dir.sync_all());
    synced
        .map_err(|error| io::Error::new(error.kind(), format!("the names in {} cannot be made durable: {error}", dir.display())))
}

/// Makes a directory and those above it that are missing, each with a name that survives a power cut. The name of one that is
/// there already is made durable, too: its maker may have died before.
pub fn make_dir(path: &Path) -> io::Result<()> {
    let missing = path.ancestors().take_while(|dir| !dir.as_os_str().is_empty() && !dir.exists()).count();
    fs::create_dir_all(path)?;
    path.ancestors().take(missing.max(1)).try_for_each(sync_name)
}

/// Opens a file for reading and writing, made if need be, with a name that survives a power cut.
pub fn make_file(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
    sync_name(path)?;
    Ok(file)
}

/// Gives a file another name, and makes that durable. Both names are in one directory.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    sync_name(to)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts the syncs of directories while `run` runs. Tests run in a process each.
    fn syncs(run: impl FnOnce()) -> u32 {
        let struck = || fault::list().iter().map(|place| place.struck).sum::<u32>();
        fault::arm_from_text("store.sync_dir=delay:0*1000").unwrap();
        let before = struck();
        run();
        let counted = struck() - before;
        fault::disarm("store.sync_dir");
        counted
    }

    #[test]
    fn what_is_made_is_named_in_directories_that_are_synced() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("a/b/c");
        assert_eq!(syncs(|| make_dir(&deep).unwrap()), 3, "each of the three is a name in the one above it");
        assert_eq!(syncs(|| make_dir(&deep).unwrap()), 1, "who made it may have died before");
        assert_eq!(syncs(|| drop(make_file(&deep.join("f")).unwrap())), 1);
        assert_eq!(syncs(|| rename(&deep.join("f"), &deep.join("g")).unwrap()), 1);
        assert_eq!(syncs(|| replace(&deep.join("g"), b"x").unwrap()), 1);
        fault::arm_from_text("store.sync_dir=error:no power").unwrap();
        let error = make_dir(&dir.path().join("d")).unwrap_err().to_string();
        assert!(error.contains("no power"), "{error}");
    }
}
