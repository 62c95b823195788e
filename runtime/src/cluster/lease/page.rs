//! The page, a file in which processes beside a node read until when it holds its lease. They end what must not outlive the lease
//! though the node is dead or stands still. The file is written in place, in as many bytes as before, so that a full disk does
//! not end a lease.

use std::{fs, io, os::unix::fs::FileExt, path::Path, time::Duration};

/// The file `lease` in a directory of the node's.
pub struct LeasePage;

/// Returns the id of this start of the machine: the clock that a lease is counted on begins anew with each.
fn boot() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

impl LeasePage {
    /// Writes the end of the lease; `until` is a moment on the clock that [`BootClock`](super::BootClock) reads.
    pub fn write(dir: &Path, until: Duration) -> io::Result<()> {
        let ms = u64::try_from(until.as_millis()).unwrap_or(u64::MAX);
        // Twice, so that one that was read half-written is known.
        let text = format!("{} {ms:020} {ms:020}\n", boot()?);
        fs::create_dir_all(dir)?;
        let file = fs::File::options().create(true).truncate(false).write(true).open(dir.join("lease"))?;
        file.write_all_at(text.as_bytes(), 0)
    }

    /// Reads the end of the lease; `None` if nothing of this start of the machine was written, or it cannot be read.
    pub fn read(dir: &Path) -> Option<Duration> {
        let boot = boot().ok()?;
        // Being written just now: whole the next time.
        (0..8).find_map(|_| {
            let text = fs::read_to_string(dir.join("lease")).ok()?;
            let mut words = text.split_whitespace();
            let (at, first, second) = (words.next()?, words.next()?, words.next()?);
            (at == boot && first == second).then(|| first.parse().ok().map(Duration::from_millis))?
        })
    }
}
