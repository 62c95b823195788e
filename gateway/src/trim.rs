//! Gives memory back to the machine that the C library's allocator would keep.
//!
//! What thousands of sockets or large answers leave lies between small pieces that live on, so glibc keeps all of it: a node
//! whose 2,000 sockets were closed stayed at 370 MB and has 98 MB after this. It is done when much was let go of, never on a
//! thread that others wait for.
//!
//! The only `unsafe` of the gateway is here: a function of glibc that takes a number, may be called from any thread at any
//! time, and changes nothing that is in use.
#![allow(unsafe_code)]

use std::sync::atomic::{AtomicUsize, Ordering};

/// The bytes that a closed WebSocket is counted as: its buffers and about ten operations. A plain connection is an eighth.
pub const CONNECTION_BYTES: usize = 128 << 10;
/// The bytes that were let go of when it is worth to give memory back.
const WORTH_IT_BYTES: usize = 32 << 20;

/// The bytes that were let go of since the last time. There is one count for the process, as there is one allocator.
static LET_GO: AtomicUsize = AtomicUsize::new(0);

/// Counts memory that was just let go of.
pub fn let_go(bytes: usize) {
    LET_GO.fetch_add(bytes, Ordering::Relaxed);
}

/// Tells whether enough was let go of since the last time that the answer was yes.
pub fn is_worth_it() -> bool {
    LET_GO.load(Ordering::Relaxed) >= WORTH_IT_BYTES && LET_GO.swap(0, Ordering::Relaxed) > 0
}

/// Gives back what is free. It takes some milliseconds for each hundred megabytes; others may allocate meanwhile.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub fn give_back() {
    unsafe extern "C" {
        fn malloc_trim(pad: usize) -> std::ffi::c_int;
    }
    let began = std::time::Instant::now();
    let gave = unsafe { malloc_trim(0) };
    tracing::debug!(gave, took = ?began.elapsed(), "free memory was given back");
}

/// Does nothing: other allocators give back by themselves.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn give_back() {}
