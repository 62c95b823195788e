//! Every noun's id type, declared once.

hiveward_runtime::id! {
    /// One unit of work a client asked for.
    TaskId => "task",
    /// One agent; survives restarts, moves and new incarnations.
    AgentId => "agent",
    /// Agents with a coordinator and its queue of tasks.
    SwarmId => "swarm",
}
