//! Gives memory back to the machine that the C library's allocator would keep.
//!
//! What thousands of sockets or large requests leave lies between small pieces that live on, so glibc keeps all of it: a node
//! that held 512 large agents which were removed stayed at 1,890 MB, of which it used 134. So it is looked at, again and again,
//! how much of what the process has is free, whoever let go of it; and much of it is given back, never on a thread that others
//! wait for.
//!
//! The only `unsafe` of the gateway is here: two functions of glibc that may be called from any thread at any time and change
//! nothing that is in use. One takes a number, the other returns numbers.
#![allow(unsafe_code)]

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// The free bytes, beyond those that could not be given back the last time, that it is worth to give back.
const WORTH_IT_BYTES: usize = 32 << 20;
/// How long those that could not be given back are left alone: pages are whole again when what lay between went.
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// What the last time left. There is one for the process, as there is one allocator.
static LAST: Mutex<Last> = Mutex::new(Last { left: 0, tried: None });

/// How the last time went that memory was given back.
#[derive(Debug)]
struct Last {
    /// The free bytes that stayed.
    left: usize,
    tried: Option<Instant>,
}

impl Last {
    /// Tells whether it is worth to give back now that so many bytes are free.
    fn is_worth_it(&mut self, free: usize, now: Instant) -> bool {
        // What is used again is no longer left over.
        self.left = self.left.min(free);
        let again = self.tried.is_none_or(|tried| now.duration_since(tried) >= TRY_AGAIN_AFTER);
        free >= self.left + WORTH_IT_BYTES || (again && free >= WORTH_IT_BYTES)
    }
}

/// Gives free memory back if there is much of it. Looking takes a few milliseconds, giving back some more for each hundred
/// megabytes; others may allocate meanwhile. Returns at once if another thread is at it.
pub fn give_back_if_worth_it() {
    let Some(mut last) = LAST.try_lock() else { return };
    let began = Instant::now();
    let Some(free) = allocator::free_bytes() else { return };
    if !last.is_worth_it(free, began) {
        return;
    }
    let looked = began.elapsed();
    allocator::give_back();
    last.left = allocator::free_bytes().unwrap_or(free);
    last.tried = Some(began);
    tracing::debug!(free, left = last.left, ?looked, took = ?began.elapsed(), "free memory was given back");
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod allocator {
    use std::ffi::c_int;

    /// What glibc says of its arenas, under its own names.
    #[repr(C)]
    struct Mallinfo2 {
        arena: usize,
        ordblks: usize,
        smblks: usize,
        hblks: usize,
        hblkhd: usize,
        usmblks: usize,
        fsmblks: usize,
        uordblks: usize,
        fordblks: usize,
        keepcost: usize,
    }

    unsafe extern "C" {
        fn malloc_trim(pad: usize) -> c_int;
        fn mallinfo2() -> Mallinfo2;
    }

    pub fn give_back() {
        unsafe { malloc_trim(0) };
    }

    /// Returns how much of the process's own memory is not in use; `None` if that cannot be known.
    pub fn free_bytes() -> Option<usize> {
        let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
        let mut pages = statm.split_ascii_whitespace().skip(1).map_while(|pages| pages.parse::<usize>().ok());
        let (resident, shared) = (pages.next()?, pages.next()?);
        let own = resident.saturating_sub(shared) * rustix::param::page_size();
        let info = unsafe { mallinfo2() };
        Some(own.saturating_sub(info.uordblks + info.hblkhd))
    }
}

/// Other allocators give back by themselves.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
mod allocator {
    pub fn give_back() {}

    pub fn free_bytes() -> Option<usize> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_gives_back_what_is_much_and_tries_what_stayed_only_now_and_then() {
        let now = Instant::now();
        let mut last = Last { left: 0, tried: None };
        assert!(!last.is_worth_it(WORTH_IT_BYTES - 1, now) && last.is_worth_it(WORTH_IT_BYTES, now));
        last = Last { left: 10 * WORTH_IT_BYTES, tried: Some(now) };
        assert!(!last.is_worth_it(10 * WORTH_IT_BYTES, now) && last.is_worth_it(11 * WORTH_IT_BYTES, now));
        assert!(last.is_worth_it(10 * WORTH_IT_BYTES, now + TRY_AGAIN_AFTER));
        // What was left over is used, and more becomes free.
        assert!(!last.is_worth_it(0, now) && last.is_worth_it(WORTH_IT_BYTES, now));
    }
}
