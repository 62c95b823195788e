//! Who answers other nodes on a lane, by number: see the runtime's own in its `cluster::desk`.

use hiveward_runtime::cluster::desk::number::FREE;

pub const TRANSCRIPTS: u8 = FREE;
pub const REPORTS: u8 = FREE + 1;
pub const TERMINALS: u8 = FREE + 2;
pub const BUDGETS: u8 = FREE + 3;
