//! The record of which pieces of standard input the process was given: one tagged line each, in the session's directory.

use std::{
    collections::HashSet,
    fs::{self, File},
    io::{self, Write},
};

use hiveward_runtime::clock::WallMs;

use super::super::layout::ACCEPTED;

pub(super) fn record(tag: &[u8]) -> io::Result<()> {
    let mut line = format!("{} ", WallMs::now().0).into_bytes();
    line.extend_from_slice(tag);
    line.push(b'\n');
    File::options().append(true).create(true).open(ACCEPTED)?.write_all(&line)
}

/// Takes out what nobody will ask for again, so that the record of a process that lives for months stays short.
pub(super) fn forget(tags: &[String]) -> io::Result<()> {
    let gone: HashSet<&str> = tags.iter().map(String::as_str).collect();
    let text = match fs::read_to_string(ACCEPTED) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        text => text?,
    };
    let kept: String = text
        .lines()
        .filter(|line| !line.split_once(' ').is_some_and(|(_, tag)| gone.contains(tag)))
        .flat_map(|line| [line, "\n"])
        .collect();
    let new = format!(".{ACCEPTED}.new");
    fs::write(&new, kept)?;
    fs::rename(new, ACCEPTED)
}
