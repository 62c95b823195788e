//! Faults injected into a living node at every kind of entity: who is struck comes back, and nobody else notices.
//! One file per promise.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod scene;

mod a_crash_loop_is_stopped_and_shown;
mod a_hang_harms_nobody_else;
mod who_crashes_comes_back;
