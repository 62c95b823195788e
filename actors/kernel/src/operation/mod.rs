//! Names operations by which clients repeat a mutation, so that one that is repeated is answered as the first time.
//!
//! Whoever decides a mutation remembers its operation in memory until the views have taken it in. From then on the view
//! ([`table`]) knows it, for as long as [`OperationRetention`](crate::keep::OperationRetention) says.

pub mod recall;
pub mod table;

use hiveward_runtime::{
    error::{Code, Refused},
    op::OperationId,
};
use serde::{Deserialize, Serialize};

pub use table::{Answered, OperationTable, OperationView};

/// Returns the refusal of an operation whose id was used before for something else.
pub fn used_otherwise(operation: &Operation) -> Refused {
    Refused {
        code: Code::Conflict,
        message: format!("operation id {:?} was used before with another input; choose a new one", operation.id),
        field: Some("operationId".into()),
    }
}

/// A client's own name for a mutation, and a fingerprint of what it asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    pub id: OperationId,
    #[serde(with = "serde_bytes")]
    pub input: [u8; 16],
}

/// The most mutations that are remembered in memory to answer their repetition. The views remember them for longer: those
/// that they have taken in are forgotten here, and where so many wait for the views further ones are refused.
pub const OPERATIONS_KEPT_MAX: usize = 100_000;
