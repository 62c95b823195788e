//! What the model gateway and the scripted model server promise, over real sockets.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

// A failed wish is how a test says no; the lint's own exception covers only functions marked as tests.

mod budgets;
mod proxy;
mod scripted;
mod support;
mod usage;
