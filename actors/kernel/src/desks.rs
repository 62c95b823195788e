//! The numbers of the desks that answer other nodes on a lane; the runtime's own are in its `net::desk`.

use hiveward_runtime::net::desk::number::FREE;

pub const TRANSCRIPTS: u8 = FREE;
pub const REPORTS: u8 = FREE + 1;
pub const TERMINALS: u8 = FREE + 2;
pub const BUDGETS: u8 = FREE + 3;
