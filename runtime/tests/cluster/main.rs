//! The cluster's foundation over real sockets on loopback: several link managers in one process.

mod hostile;
mod joining;
mod links;
mod routing;
mod slow;
mod speed;
mod support;
