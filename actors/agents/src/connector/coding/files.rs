//! Reads and writes files for an agent's program: inside its workspace, and nowhere else.

use std::{
    fs::File,
    io::{self, Read, Write},
    path::Path,
};

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use serde_json::{Value, json};

use super::dialect::Want;

/// Bytes of a file that is read or written through us.
const FILE_BYTES_MAX: u64 = 8 << 20;

/// Gives the answer, and the file that was written.
pub(super) fn do_it(workspace: &Path, want: &Want) -> (Result<Value, String>, Option<String>) {
    match want {
        Want::ReadFile { path, line, limit } => {
            (read(workspace, path).map(|text| json!({"content": part(&text, *line, *limit)})), None)
        }
        Want::WriteFile { path, content } => match write(workspace, path, content) {
            Ok(()) => (Ok(Value::Null), Some(path.clone())),
            Err(error) => (Err(error), None),
        },
    }
}

/// Returns the path relative to the workspace; one outside it has no place in it, whatever links there are.
fn relative<'a>(workspace: &Path, path: &'a str) -> Result<&'a Path, String> {
    let path = Path::new(path);
    if path.is_relative() {
        return Ok(path);
    }
    path.strip_prefix(workspace).map_err(|_| format!("{} is outside the workspace", path.display()))
}

/// Opens a file beneath the workspace. The kernel itself refuses whatever leads out, also if somebody changes a link meanwhile.
fn beneath(workspace: &Path, path: &Path, flags: OFlags) -> io::Result<File> {
    let root = File::open(workspace)?;
    let mode = if flags.contains(OFlags::CREATE) { Mode::from_raw_mode(0o644) } else { Mode::empty() };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    Ok(openat2(&root, path, flags | OFlags::CLOEXEC, mode, resolve)?.into())
}

fn read(workspace: &Path, path: &str) -> Result<String, String> {
    let said = |error: io::Error| format!("{path} cannot be read: {error}");
    let file = beneath(workspace, relative(workspace, path)?, OFlags::RDONLY).map_err(said)?;
    if !file.metadata().map_err(said)?.is_file() {
        return Err(format!("{path} is no file"));
    }
    let mut text = String::new();
    file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(said)?;
    if text.len() as u64 > FILE_BYTES_MAX { Err(format!("{path} has more than {FILE_BYTES_MAX} bytes")) } else { Ok(text) }
}

fn write(workspace: &Path, path: &str, content: &str) -> Result<(), String> {
    let said = |error: io::Error| format!("{path} cannot be written: {error}");
    if content.len() as u64 > FILE_BYTES_MAX {
        return Err(format!("{path} would have more than {FILE_BYTES_MAX} bytes"));
    }
    let inside = relative(workspace, path)?;
    // Directories on the way are made one by one, each beneath the last.
    let mut so_far = std::path::PathBuf::new();
    for part in inside.parent().into_iter().flat_map(Path::components) {
        so_far.push(part);
        match beneath(workspace, &so_far, OFlags::RDONLY | OFlags::DIRECTORY) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let above = so_far.parent().filter(|above| !above.as_os_str().is_empty());
                let above = beneath(workspace, above.unwrap_or(Path::new(".")), OFlags::RDONLY | OFlags::DIRECTORY);
                let above = above.map_err(said)?;
                let Some(name) = so_far.file_name() else { return Err(format!("{path} leads out of the workspace")) };
                match rustix::fs::mkdirat(&above, name, Mode::from_raw_mode(0o755)) {
                    Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                    Err(error) => return Err(said(error.into())),
                }
            }
            Err(error) => return Err(said(error)),
            Ok(_) => {}
        }
    }
    let mut file = beneath(workspace, inside, OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC).map_err(said)?;
    file.write_all(content.as_bytes()).map_err(said)
}

/// Returns the lines from `line` on, counted from 1, at most `limit`.
fn part(text: &str, line: Option<u64>, limit: Option<u64>) -> String {
    if line.is_none() && limit.is_none() {
        return text.to_owned();
    }
    let from = usize::try_from(line.unwrap_or(1).saturating_sub(1)).unwrap_or(usize::MAX);
    let count = limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    text.split_inclusive('\n').skip(from).take(count).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_and_written_in_the_workspace_and_nowhere_else() {
        let root = tempfile::tempdir().unwrap();
        let root = std::fs::canonicalize(root.path()).unwrap();
        let (work, secret) = (root.join("work"), root.join("secret"));
        std::fs::create_dir(&work).unwrap();
        std::fs::write(&secret, "s").unwrap();
        std::os::unix::fs::symlink(&root, work.join("out")).unwrap();
        let write = |path: &str| do_it(&work, &Want::WriteFile { path: path.into(), content: "1\n2\n3\n".into() });
        let read = |path: &str| do_it(&work, &Want::ReadFile { path: path.into(), line: Some(2), limit: Some(1) }).0;
        assert_eq!(write("a/b/c.txt"), (Ok(Value::Null), Some("a/b/c.txt".into())));
        assert_eq!(read(&work.join("a/b/c.txt").display().to_string()), Ok(json!({"content": "2\n"})));
        for out in ["../secret", "out/secret", "/etc/hostname", "a/../../secret", "out/new/file"] {
            assert!(write(out).0.is_err() && read(out).is_err(), "{out}");
        }
        assert_eq!(std::fs::read_to_string(&secret).unwrap(), "s");
        assert!(!root.join("new").exists());
    }
}
