//! Holds the one owner of all budgets and rates of a cluster: the node that leads.
//!
//! `state` is the owner: it holds every call of every node that a budget or a rate concerns, and says who goes on. `teller` is a
//! node's own side: what its calls are, and what the owner has been told of them. Both are pure; `wire` is what goes between
//! them. `counter` is both of a node at work, and `keeper` follows who leads, what is spent and which budgets there are.
//!
//! A new owner grants nothing until every node that may act has told it what it holds. Whoever told it listens to no owner of an
//! earlier term again; whoever did not is lost first, and ends what it runs before that. So no two owners ever grant from the
//! same budget.

mod counter;
mod keeper;
#[cfg(test)]
mod simulation;
mod state;
mod teller;
mod wire;

pub use counter::{Counter, Hold};
pub use keeper::{BankDesk, Following, follow};
