//! Decides who may do what: principals and their roles, the verbs, and the policies that allow them.
//!
//! Pure: it reads no ledger and asks nobody. The clients' door (`actors/src/client/`) gives it the principal, the roles that the
//! directory knows of, and the thing that is asked for; it answers yes or no, and which policies said so.

pub mod policy;
pub mod principal;
pub mod resource;
pub mod role;
pub mod verb;
