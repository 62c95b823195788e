//! What holds when processes die at any instant.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod adoption;
mod kill;

/// Short in the ordinary run, long with `HIVEWARD_LONG=1`.
fn rounds(short: usize, long: usize) -> usize {
    if std::env::var_os("HIVEWARD_LONG").is_some() { long } else { short }
}
