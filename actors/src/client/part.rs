//! Changes of the parts of the catalogue: each noun's own file calls this one.

use hiveward_catalogue::{
    part::{Declaration, PartChange},
    roster::message::asks as roster,
};
use hiveward_runtime::{error::Refused, id::Key, op::Op};

use super::{ControlPlane, Done, command::operation};

impl ControlPlane {
    /// Changes a part, and answers with the key of the thing it was about when this node knows of it. The same operation with
    /// the same change is answered as the first time.
    pub async fn change_part(&self, op: &Op, change: PartChange) -> Result<Done<Key>, Refused> {
        let operation = operation(op, &change);
        let done = self.declare(op, roster::Declare { declaration: Declaration::of(&change)?, operation }).await?;
        self.known_at(op, done.cursor).await?;
        Ok(Done { value: done.value, cursor: done.cursor })
    }
}
