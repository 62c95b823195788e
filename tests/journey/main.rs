//! What a user meets, over a real node and the real command line.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod bad_input;
mod dead_letters;
mod images;
mod limits;
mod traces;
mod watching;
