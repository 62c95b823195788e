//! Supervision in OTP's words: children with restart types under strategies, intensity and backoff, in a living tree.
//!
//! `behaviour` is what an actor's author writes; `child_spec` says how a child is kept; `supervisor` is the handle, `keeper`
//! the actor behind it, `children` what it remembers; `tree` is what anyone can read of all of it without asking the actors.

pub mod backoff;
pub mod behaviour;
pub mod child_spec;
mod children;
pub mod intensity;
mod keeper;
pub mod supervisor;
pub mod tree;

pub use backoff::Backoff;
pub use behaviour::{Behaviour, Context, Failure, TimerHandle};
pub use child_spec::{ActorSpec, ChildSpec, Restart, Shutdown, Strategy, SupervisorSpec};
pub use intensity::Intensity;
pub use supervisor::{StartError, StopError, Supervisor};
pub use tree::{ActorStatus, Change, LastFailure, Tree, TreeChange, TreeChanges, TreeNode};
