//! All views of a node, in the order in which they take events in.

use hiveward_agents::{approvals_table::ApprovalView, table::AgentView};
use hiveward_kernel::operation::table::OperationView;
use hiveward_machines::vm::table::VmView;
use hiveward_models::table::UsageView;
use hiveward_runtime::{
    clock::{AgeClock, Clock},
    ledger::view::View,
};
use hiveward_work::{swarm::table::SwarmView, task::table::TaskView};

use crate::retention::Retention;

/// Makes all views of a node. Their order is the one in which they take each event in.
pub fn of_a_node(retention: &Retention, clock: &Clock) -> Vec<Box<dyn View>> {
    vec![
        Box::new(TaskView { keep: retention.tasks, clock: AgeClock::of(clock.clone()) }),
        Box::new(AgentView),
        Box::new(SwarmView),
        Box::new(ApprovalView),
        Box::new(UsageView),
        Box::new(VmView),
        Box::new(OperationView {
            named: crate::operations::named,
            keep: retention.operations,
            clock: AgeClock::of(clock.clone()),
        }),
    ]
}
