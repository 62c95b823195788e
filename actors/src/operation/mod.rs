//! Operations: the names that clients give their mutations, so that one that is repeated is answered as the first time.
//!
//! Who decides a mutation remembers its operation in memory until the views have taken it in. From then on the view
//! ([`table`]) knows it, for as long as [`OperationRetention`](crate::retention::OperationRetention) says.

pub mod recall;
pub mod table;

use hiveward_runtime::error::{Code, Refused};

pub use table::{Answered, OperationTable, OperationView};

use crate::swarm::event::Operation;

/// The answer to an operation whose id was used before for something else.
pub fn used_otherwise(operation: &Operation) -> Refused {
    Refused {
        code: Code::Conflict,
        message: format!("operation id {:?} was used before with another input; choose a new one", operation.id),
        field: Some("operationId".into()),
    }
}
