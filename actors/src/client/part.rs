//! Changes of the parts of the catalogue: each noun's own file calls this one.

use std::fmt::Debug;

use hiveward_catalogue::{
    part::{Declaration, PartChange},
    roster::message::asks as roster,
};
use hiveward_runtime::{error::Refused, id::Key, op::Op};

use super::{ControlPlane, Done, command::operation};

impl ControlPlane {
    /// Changes a part, and answers with the key of the thing it was about when this node knows of it. `asked` is what the client
    /// gave, without ids that were made for it: the same operation with the same of it is answered as the first time.
    pub async fn change_part(&self, op: &Op, asked: &impl Debug, change: PartChange) -> Result<Done<Key>, Refused> {
        let operation = operation(op, asked);
        let done = self.declare(op, roster::Declare { declaration: Declaration::of(&change)?, operation }).await?;
        self.known_at(op, done.cursor).await?;
        Ok(Done { value: done.value, cursor: done.cursor })
    }
}
