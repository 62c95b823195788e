//! Decides who may speak to a session: only the process that holds the lock on the node's data directory, as the kernel says.
//!
//! Agents run as the node's own user, so neither the mode of a socket nor a secret in a file keeps one of them out. Which
//! process is at the other end of a socket, and which one holds a lock, they cannot make up.

use std::{
    fs, io,
    os::unix::{fs::MetadataExt, net::UnixStream},
    path::Path,
};

use hiveward_kernel::shim::peer;
use nix::sys::stat::{major, minor};

/// Returns the process that holds the lock on this file, if the kernel names one.
pub fn holder(lock: &Path) -> io::Result<Option<i32>> {
    let file = fs::metadata(lock)?;
    let locks = fs::read_to_string("/proc/locks")?;
    Ok(holder_in(&locks, (major(file.dev()), minor(file.dev())), file.ino()))
}

/// Returns why the process at the other end may not speak to this session, if it may not.
pub(super) fn refuses(socket: &UnixStream, lock: &Path) -> Option<String> {
    let held = peer(socket).and_then(|peer| Ok((peer, holder(lock)?)));
    match held {
        Ok((peer, Some(holder))) if peer == holder => None,
        Ok((peer, _)) => Some(format!("this session is its node's: process {peer} is not the node, and may not speak to it")),
        Err(error) => Some(format!("it cannot be told who asks ({error}): try again")),
    }
}

/// Finds the holder of a lock. Lines are `1: FLOCK  ADVISORY  WRITE 4711 fd:00:123 0 EOF`; those with `->` wait.
fn holder_in(locks: &str, (major, minor): (u64, u64), inode: u64) -> Option<i32> {
    let mut elsewhere = None;
    for line in locks.lines() {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let [_, "FLOCK", _, "WRITE", pid, place, ..] = words.as_slice() else { continue };
        let mut place = place.split(':');
        let (Some(on_major), Some(on_minor), Some(number)) = (place.next(), place.next(), place.next()) else { continue };
        if number.parse() != Ok(inode) {
            continue;
        }
        let hex = |text: &str| u64::from_str_radix(text, 16).ok();
        let Ok(pid) = pid.parse() else { continue };
        if (hex(on_major), hex(on_minor)) == (Some(major), Some(minor)) {
            return Some(pid);
        }
        elsewhere.get_or_insert(pid);
    }
    // Some file systems tell programs another device than the kernel has for its own: then the number of the file must do.
    elsewhere
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_of_a_lock_is_who_has_it_and_not_who_waits_nor_who_has_another() {
        let locks = "1: POSIX  ADVISORY  WRITE 9 fd:00:123 0 EOF\n\
                     2: FLOCK  ADVISORY  READ 8 fd:00:123 0 EOF\n\
                     3: FLOCK  ADVISORY  WRITE 7 fd:01:123 0 EOF\n\
                     4: FLOCK  ADVISORY  WRITE 6 fd:00:124 0 EOF\n\
                     5: FLOCK  ADVISORY  WRITE 4711 fd:00:123 0 EOF\n\
                     5: -> FLOCK  ADVISORY  WRITE 5 fd:00:123 0 EOF\n\
                     6: FLOCK  ADVISORY  WRITE\n";
        assert_eq!(holder_in(locks, (0xfd, 0), 123), Some(4711));
        assert_eq!(holder_in(locks, (0xfd, 0), 124), Some(6));
        assert_eq!(holder_in(locks, (0xfd, 0), 125), None);
        assert_eq!(holder_in(locks, (0, 0x2a), 124), Some(6), "a file system with a device of its own");
        assert_eq!(holder_in("", (0, 0), 0), None);
    }

    #[test]
    fn the_kernel_names_this_process_as_the_holder_of_a_lock_that_it_has() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let file = fs::File::create(&path).unwrap();
        assert_eq!(holder(&path).unwrap(), None);
        let held = nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusiveNonblock).unwrap();
        assert_eq!(holder(&path).unwrap(), i32::try_from(std::process::id()).ok());
        drop(held);
        assert_eq!(holder(&path).unwrap(), None);
    }
}
