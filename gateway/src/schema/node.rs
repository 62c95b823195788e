//! Relay's `node(id)`: any entity by its key.

use async_graphql::{Context, ID, Interface, Object};
use hiveward_actors::client::ControlPlane;
use hiveward_kernel::id::{AgentId, HostId, ImageId, NetworkId, SwarmId, TaskId, VmId};
use hiveward_runtime::{error::Refused, op::NodeId};

use super::{
    Result, agent::Agent, caught_up, cluster::ClusterNode, door, host::Host, image::Image, network::Network, op, parse,
    scalars::Cursor, swarm::Swarm, task::Task, vm::Vm,
};

/// Anything that has a key.
#[derive(Interface)]
#[graphql(field(name = "id", ty = "ID", desc = "The key, such as `task_0192…`."))]
pub enum Node {
    Task(Task),
    Agent(Agent),
    Swarm(Swarm),
    ClusterNode(ClusterNode),
    Host(Host),
    Vm(Vm),
    Image(Image),
    Network(Network),
}

#[derive(Default)]
pub struct NodeQuery;

#[Object]
impl NodeQuery {
    /// The entity with this key, or null if there is none.
    async fn node(&self, ctx: &Context<'_>, id: ID, at_least: Option<Cursor>) -> Result<Option<Node>> {
        caught_up(ctx, at_least).await?;
        let control = door(ctx)?;
        // Views may lag behind what was acknowledged: only views that have caught up can say that there is none.
        if let Some(found) = find(control, &id)? {
            return Ok(Some(found));
        }
        control.settled(&op(ctx, None)?).await?;
        Ok(find(control, &id)?)
    }
}

fn find(control: &ControlPlane, id: &ID) -> std::result::Result<Option<Node>, Refused> {
    let key = parse::key("id", id)?;
    Ok(match key.noun() {
        TaskId::NOUN => control.task(parse::id("id", id)?)?.map(|record| Node::Task(record.into())),
        AgentId::NOUN => control.agent(parse::id("id", id)?)?.map(|record| Node::Agent(record.into())),
        SwarmId::NOUN => control.swarm(parse::id("id", id)?)?.map(|record| Node::Swarm(record.into())),
        HostId::NOUN => super::host::find(control, id)?.map(Node::Host),
        VmId::NOUN => control.vm(parse::id("id", id)?)?.map(|record| Node::Vm(record.into())),
        ImageId::NOUN => super::image::find(control, id)?.map(Node::Image),
        NetworkId::NOUN => super::network::find(control, id)?.map(Node::Network),
        NodeId::NOUN => ClusterNode::find(control, parse::id("id", id)?).map(Node::ClusterNode),
        noun => {
            return Err(Refused::invalid(
                "id",
                format!(
                    "nothing here is a {noun:?}; keys are task_…, agent_…, swarm_…, node_…, host_…, vm_…, image_… and network_…"
                ),
            ));
        }
    })
}
