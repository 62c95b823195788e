//! The public names of the enumerations; each mirrors one of the domain's.

use async_graphql::Enum;
use hiveward_actors::client;
use hiveward_agents as agent;
use hiveward_catalogue::placement;
use hiveward_machines::{host, vm};
use hiveward_runtime::supervise;
use hiveward_work::task;

#[derive(Enum, Clone, Copy, Debug, PartialEq, Eq)]
#[graphql(remote = "task::TaskStatus")]
pub enum TaskStatus {
    /// Waits for dependencies.
    Pending,
    /// Waits for an agent, or for its delay.
    Queued,
    /// Leased to an agent that has not begun.
    Assigned,
    Running,
    /// The work is done; its gate runs.
    Verifying,
    /// Waits for the next attempt's time.
    Retrying,
    Succeeded,
    /// Ended by a failure that another attempt would not mend.
    Failed,
    /// Attempts are used up; listed as a dead letter until redriven.
    Dead,
    Cancelled,
}

#[derive(Enum, Clone, Copy, Debug, PartialEq, Eq)]
#[graphql(remote = "task::Priority")]
pub enum Priority {
    Critical,
    High,
    Normal,
    Low,
}

#[derive(Enum, Clone, Copy, Debug, PartialEq, Eq)]
#[graphql(remote = "task::AttemptStatus")]
pub enum AttemptStatus {
    Assigned,
    Running,
    Verifying,
    Succeeded,
    Failed,
    TimedOut,
    Cancelled,
    /// The agent or its host was lost while it held the lease.
    Lost,
}

#[derive(Enum, Clone, Copy, Debug, PartialEq, Eq)]
#[graphql(remote = "task::spec::Aggregate")]
pub enum Aggregate {
    /// A JSON array with one entry per subtask.
    Collect,
    /// JSON objects merged key by key.
    Merge,
    /// Text, one result after the other.
    Concat,
    /// The JSON value that most subtasks returned.
    Majority,
}

#[derive(Enum, Clone, Copy, Debug, PartialEq, Eq)]
#[graphql(remote = "agent::AgentStatus")]
pub enum AgentStatus {
    Created,
    Starting,
    Idle,
    Busy,
    Paused,
    Stopping,
    Stopped,
    Failed,
    Lost,
}

#[derive(Enum, Clone, Copy, Debug, PartialEq, Eq)]
#[graphql(remote = "host::HostStatus")]
pub enum HostStatus {
    /// Not reached yet.
    Connecting,
    Up,
    /// It takes nothing, and what runs on it moves, or is stopped.
    Draining,
    Drained,
    /// Its hypervisor does not answer.
    Unreachable,
    /// No node holds its connection.
    Lost,
}

#[derive(Enum, Clone, Copy, Debug, PartialEq, Eq)]
#[graphql(remote = "vm::VmStatus")]
pub enum VmStatus {
    /// It has never run.
    Defined,
    Starting,
    Running,
    Paused,
    Stopping,
    Stopped,
    Migrating,
    /// It does not run, and was to.
    Failed,
    /// Its host cannot be asked.
    Lost,
    /// Nothing of it is left: the answer to its removal, and to no query.
    Removed,
}

/// What becomes of a migration that has not ended by its limit. If that does not help in as long again, it is ended.
#[derive(Enum, Clone, Copy, Debug, PartialEq, Eq)]
#[graphql(remote = "vm::migrate::Limit")]
pub enum VmMigrationLimit {
    /// It is ended, and the VM runs on where it was.
    Abort,
    /// The guest stands still until it is there.
    Pause,
    /// Its CPUs are slowed from the start, and at the limit a longer standstill at the end is put up with.
    Converge,
}

#[derive(Enum, Clone, Copy, Debug, PartialEq, Eq)]
#[graphql(remote = "vm::event::Wanted")]
pub enum VmWanted {
    Stopped,
    Running,
    Paused,
    /// It is being removed.
    Absent,
}

#[derive(Enum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum VmOperationStatus {
    Running,
    Succeeded,
    Failed,
    /// Another was asked that left it without a sense.
    Superseded,
}

#[derive(Enum, Clone, Copy, Debug, PartialEq, Eq)]
#[graphql(remote = "placement::vm::Strategy")]
pub enum VmPlacementStrategy {
    /// The host that is emptiest afterwards, by its scarcer resource.
    Spread,
    /// The host that is fullest afterwards.
    Pack,
    /// The weighted sum of free CPU, free memory and how evenly both are used.
    Weighted,
}

#[derive(Enum, Clone, Copy, Debug, PartialEq, Eq)]
#[graphql(remote = "client::NewKind")]
pub enum NetworkKind {
    /// The VMs of each host among themselves, with no way out.
    Isolated,
    /// As that, with DHCP and a way out by the host's address.
    Nat,
    /// A bridge that every host has.
    Bridge,
    /// One network over all hosts, apart from every other.
    Overlay,
}

#[derive(Enum, Clone, Copy, Debug, PartialEq, Eq)]
#[graphql(remote = "hiveward_catalogue::host::placing::Basis")]
pub enum BalanceBasis {
    /// What VMs were made with, of what may be promised.
    Reserved,
    /// What VMs were measured to use in the last minutes, of what is there.
    Used,
}

#[derive(Enum, Clone, Copy, Debug, PartialEq, Eq)]
#[graphql(remote = "client::PackingSolver")]
pub enum PackingSolver {
    /// The best of several packings, then hosts are emptied one after another.
    Annealing,
    /// The largest first, each on the first host that takes it.
    FirstFit,
    /// By trying everything: for ten VMs at most.
    Exact,
}

#[derive(Enum, Clone, Copy, Debug, PartialEq, Eq)]
#[graphql(remote = "placement::Strategy")]
pub enum PlacementStrategy {
    /// The weighted sum of specialisation, success rate and free capacity.
    Skill,
    RoundRobin,
    LeastBusy,
    /// By chance, in proportion to each agent's weight.
    Weighted,
}

#[derive(Enum, Clone, Copy, Debug, PartialEq, Eq)]
#[graphql(remote = "hiveward_catalogue::swarm::Topology")]
pub enum Topology {
    Hierarchical,
}

#[derive(Enum, Clone, Copy, Debug, PartialEq, Eq)]
#[graphql(remote = "client::StopMode")]
pub enum StopMode {
    /// Interrupt, grace period, SIGTERM, SIGKILL.
    Graceful,
    Now,
}

#[derive(Enum, Clone, Copy, Debug, PartialEq, Eq)]
#[graphql(remote = "client::PauseMode")]
pub enum PauseMode {
    /// Takes no new task; what runs goes on.
    NextStep,
    /// Freezes every process now.
    Freeze,
}

#[derive(Enum, Clone, Copy, Debug, PartialEq, Eq)]
#[graphql(remote = "client::TaskOrder")]
pub enum TaskOrder {
    CreatedDesc,
    CreatedAsc,
    PriorityThenCreated,
}

#[derive(Enum, Clone, Copy, Debug, PartialEq, Eq)]
#[graphql(remote = "client::OutputStream")]
pub enum OutputStream {
    Stdout,
    Stderr,
}

#[derive(Enum, Clone, Copy, Debug, PartialEq, Eq)]
#[graphql(remote = "supervise::ActorStatus")]
pub enum ActorStatus {
    Starting,
    Running,
    /// Waits for its backoff.
    Restarting,
    Stopping,
    Stopped,
    /// Given up.
    Failed,
}

#[derive(Enum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionKind {
    Pipes,
    Pty,
    /// A VM of its own for each attempt.
    Vm,
}
