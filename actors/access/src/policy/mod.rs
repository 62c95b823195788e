//! The policies, and what they decide: Cedar, with the roles as policies that are always there.
//!
//! Whatever no policy permits is refused. A set of policies is checked against the schema that the table of verbs makes before it
//! counts; one that does not fit changes nothing.

mod judge;
mod schema;
mod source;

pub use judge::{Action, Judge, Ruling};
pub use schema::text as schema_text;
pub use source::{BadPolicy, POLICY_BYTES_MAX, PolicySource};
