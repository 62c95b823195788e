//! Makes the files that a program named as artifacts durable, before its end is recorded: a power cut leaves them whole, or no
//! end. Whoever keeps them reads them later, perhaps in another life of the machine.

use std::{
    collections::BTreeSet,
    fs::{File, OpenOptions},
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use hiveward_runtime::file::sync_dir;
use nix::fcntl::OFlag;

use crate::lines::{Line, Lines, Said};

/// Number of files of one program that are made durable; it may name as many as it likes, and fewer are kept.
const FILES_MAX: usize = 1_024;

/// Makes the files durable that `stdout` names, each below `dir` or an absolute path. Errors: one of them cannot be made durable.
/// One that is not there, or is no file, is nobody's: who keeps artifacts says so.
pub(super) fn sync(stdout: &Path, dir: &Path) -> io::Result<()> {
    let mut dirs = BTreeSet::new();
    for path in named(stdout)? {
        let path = dir.join(path);
        // Neither waits for whoever writes into a pipe, nor asks for more than reading.
        let opened = OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(&path);
        let Some(file) = opened.ok().filter(|file| file.metadata().is_ok_and(|meta| meta.is_file())) else { continue };
        file.sync_all()?;
        dirs.extend(path.ancestors().skip(1).take_while(|above| above.starts_with(dir)).map(Path::to_owned));
    }
    if dirs.is_empty() {
        return Ok(());
    }
    // The attempt's own directory and its name.
    dirs.extend(dir.ancestors().skip(1).take(2).map(Path::to_owned));
    dirs.iter().try_for_each(|dir| sync_dir(dir))
}

fn named(stdout: &Path) -> io::Result<BTreeSet<PathBuf>> {
    let (mut file, mut lines, mut named) = (File::open(stdout)?, Lines::default(), BTreeSet::new());
    let mut each = |line: Line<'_>| {
        if let Line::Whole(line) = line
            && let Some(Said::Artifact { path, .. }) = Said::parse(line)
            && named.len() < FILES_MAX
        {
            named.insert(path.into());
        }
    };
    let mut buffer = vec![0; 64 << 10];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            read => lines.feed(&buffer[..read], &mut each),
        }
    }
    lines.finish(&mut each);
    Ok(named)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_that_the_output_names_are_found_wherever_their_lines_are_and_what_is_no_file_is_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let (stdout, work) = (dir.path().join("stdout"), dir.path().join("attempts/one/work"));
        std::fs::create_dir_all(work.join("deep")).unwrap();
        let said = |name: &str| format!("{{\"hiveward\":\"artifact\",\"name\":\"n\",\"path\":\"{name}\"}}");
        let text =
            format!("noise\n{}\n{}{}\n{}\nlast {{\n{}", said("a"), "x".repeat(200_000), said("no"), said("deep/b"), said("gone"));
        std::fs::write(&stdout, text).unwrap();
        assert_eq!(named(&stdout).unwrap().into_iter().collect::<Vec<_>>(), ["a", "deep/b", "gone"].map(PathBuf::from));
        std::fs::write(work.join("a"), "kept").unwrap();
        nix::unistd::mkfifo(&work.join("deep/b"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        sync(&stdout, &work).unwrap();
    }
}
