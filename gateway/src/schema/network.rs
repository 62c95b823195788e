//! Networks of VMs: their type, queries and mutations, and what a VM has on them.

use async_graphql::{Context, ID, InputObject, Object, SimpleObject};
use hiveward_actors::client::{self, Done, NewNetwork, VmCard};
use hiveward_catalogue::host::network::{book::NetworkEntry, spec::Kind};
use hiveward_kernel::id::NetworkId;
use hiveward_runtime::error::Refused;

use super::{
    Result, caught_up, door,
    enums::NetworkKind,
    op,
    page::{self, Pages},
    parse,
    scalars::{Cursor, DateTime},
};
use crate::schema::access::Project;
use crate::schema::{door_in, op_in};

/// Of those that a network is on.
const HOSTS_SHOWN: usize = 100;

/// What VMs are connected by, as the cluster has it.
#[derive(Clone)]
pub struct Network(pub NetworkEntry);

impl From<NetworkEntry> for Network {
    fn from(entry: NetworkEntry) -> Self {
        Self(entry)
    }
}

#[Object]
impl Network {
    pub(super) async fn id(&self) -> ID {
        self.0.spec.id.to_string().into()
    }
    /// The project that it belongs to.
    async fn project(&self, ctx: &Context<'_>) -> Result<Option<Project>> {
        Project::find(ctx, self.0.spec.project)
    }
    /// Unique in its project: what VMs name it by.
    async fn name(&self) -> &str {
        &self.0.spec.name
    }
    async fn kind(&self) -> NetworkKind {
        match self.0.spec.kind {
            Kind::Isolated => NetworkKind::Isolated,
            Kind::Nat { .. } => NetworkKind::Nat,
            Kind::Bridge { .. } => NetworkKind::Bridge,
            Kind::Overlay { .. } => NetworkKind::Overlay,
        }
    }
    /// Its addresses. Of an overlay the cluster gives them out, of a NAT each host does.
    async fn cidr(&self) -> Option<String> {
        self.0.spec.kind.cidr().map(String::from)
    }
    /// Of the hosts, of the kind that is one.
    async fn bridge(&self) -> Option<&str> {
        if let Kind::Bridge { bridge } = &self.0.spec.kind { Some(bridge) } else { None }
    }
    /// What its frames may hold, of an overlay.
    async fn mtu(&self) -> Option<u32> {
        if let Kind::Overlay { mtu, .. } = self.0.spec.kind { Some(mtu) } else { None }
    }
    /// The number of its VXLAN, which no other network ever had or gets; of an overlay.
    async fn vni(&self) -> Option<u32> {
        self.0.spec.kind.is_overlay().then_some(self.0.number)
    }
    /// VMs that are on it; while there are any it is not removed.
    async fn vm_count(&self) -> usize {
        self.0.vms.len()
    }
    /// Hosts that those VMs are on, or on their way to.
    async fn host_count(&self) -> usize {
        self.0.carriers.len()
    }
    /// Their names; at most a hundred.
    async fn hosts(&self, ctx: &Context<'_>) -> Result<Vec<String>> {
        let some: Vec<_> = self.0.carriers.keys().take(HOSTS_SHOWN).copied().collect();
        let known = door(ctx)?.hosts_by_id(&some);
        Ok(known.into_iter().flatten().map(|host| host.spec.name.clone()).collect())
    }
    async fn added_at(&self) -> DateTime {
        self.0.added_at.into()
    }
}

/// A VM's place on a network of the cluster. On other networks its hypervisor gives it one, which nobody here knows.
#[derive(SimpleObject)]
pub struct VmAddress {
    /// As the VM names it.
    network: String,
    network_id: ID,
    /// Of the VM's card there, for as long as it is on the network.
    mac: String,
    /// With the network's prefix, such as `10.7.0.2/24`: reserved for it wherever it runs, and told to the guest at its first
    /// boot. Absent where the cluster gives none out.
    address: Option<String>,
}

impl From<VmCard> for VmAddress {
    fn from(VmCard { network, card, prefix }: VmCard) -> Self {
        let address = card.address.zip(prefix).map(|(address, prefix)| format!("{address}/{prefix}"));
        Self { network, network_id: card.network.to_string().into(), mac: card.mac, address }
    }
}

#[derive(InputObject)]
pub struct CreateNetworkInput {
    operation_id: Option<ID>,
    /// Unique in its project.
    name: String,
    /// By key or name; the caller's own if absent, or else `default`.
    project: Option<ID>,
    kind: NetworkKind,
    /// A range such as `10.7.0.0/24`: a NAT needs one; with it an overlay gives each VM an address.
    cidr: Option<String>,
    /// Of the kind that is a bridge of the hosts: its name on each of them.
    bridge: Option<String>,
    /// Of an overlay; 1450 if absent, which fits into Ethernet's 1500.
    mtu: Option<i32>,
}

#[derive(InputObject)]
pub struct RemoveNetworkInput {
    operation_id: Option<ID>,
    /// By key or name.
    network: ID,
}

#[derive(Default)]
pub struct NetworkQuery;

#[Object]
impl NetworkQuery {
    async fn networks(
        &self,
        ctx: &Context<'_>,
        first: Option<i32>,
        after: Option<String>,
        at_least: Option<Cursor>,
    ) -> Result<Pages<Network>> {
        caught_up(ctx, at_least).await?;
        let after = after.as_deref();
        Ok(page::connection(door(ctx)?.networks(after, page::first(first)?)?, after))
    }
}

#[derive(SimpleObject)]
pub struct CreateNetworkPayload {
    network: Network,
    cursor: Cursor,
}

impl From<Done<NetworkEntry>> for CreateNetworkPayload {
    fn from(done: Done<NetworkEntry>) -> Self {
        Self { network: done.value.into(), cursor: done.cursor.into() }
    }
}

#[derive(SimpleObject)]
pub struct RemoveNetworkPayload {
    /// As it was; absent where the same operation has removed it before.
    network: Option<Network>,
    cursor: Cursor,
}

impl From<Done<Option<NetworkEntry>>> for RemoveNetworkPayload {
    fn from(done: Done<Option<NetworkEntry>>) -> Self {
        Self { network: done.value.map(Network::from), cursor: done.cursor.into() }
    }
}

#[derive(Default)]
pub struct NetworkMutation;

#[Object]
impl NetworkMutation {
    /// VMs may name it from then on. A host makes it just before it runs a VM that does, and says there if it cannot.
    async fn create_network(&self, ctx: &Context<'_>, input: CreateNetworkInput) -> Result<CreateNetworkPayload> {
        let new = NewNetwork {
            name: parse::name("name", input.name)?,
            kind: input.kind.into(),
            cidr: input.cidr,
            bridge: input.bridge,
            mtu: parse::optional_natural("mtu", input.mtu)?,
        };
        let control = door_in(ctx, input.project.as_ref())?;
        Ok(control.create_network(op_in(ctx, &control, input.operation_id.as_ref())?, new).await?.into())
    }
    /// Refused while a VM is on it.
    async fn remove_network(&self, ctx: &Context<'_>, input: RemoveNetworkInput) -> Result<RemoveNetworkPayload> {
        let (control, op) = (door(ctx)?, op(ctx, input.operation_id.as_ref())?);
        let network = network_id(ctx, &input.network).or_else(|unknown| control.was_about(&op).ok_or(unknown))?;
        Ok(control.remove_network(op, network).await?.into())
    }
}

fn network_id(ctx: &Context<'_>, given: &ID) -> Result<NetworkId> {
    parse::reference("network", given)?;
    if given.starts_with("network_") {
        return Ok(parse::id("network", given)?);
    }
    let found = door(ctx)?.network_named(given);
    let unknown =
        || Refused { field: Some("network".into()), ..Refused::not_found(format!("network named {:?}", given.as_str())) };
    Ok(found.ok_or_else(unknown)?)
}

pub(super) fn find(control: &client::ControlPlane, id: &ID) -> Result<Option<Network>, Refused> {
    Ok(control.network(parse::id("id", id)?).map(Network::from))
}
