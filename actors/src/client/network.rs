//! Networks of VMs: creating, removing and listing them, and what VMs have on them.

use std::{ops::Bound, sync::Arc};

use hiveward_access::{resource::ResourceKind, verb::Verb};
use hiveward_catalogue::host::{
    event::FleetChange,
    network::{
        book::{Card, NetworkEntry},
        spec::{Cidr, Kind, MTU_DEFAULT, NetworkSpec, check_bridge, check_mtu},
    },
};
use hiveward_kernel::{
    id::{NetworkId, VmId},
    page::Page,
};
use hiveward_runtime::{
    error::{Code, Refused},
    id::Key,
    op::Op,
};

use super::{ControlPlane, Done, check, command::operation, query::page_key};
use crate::client::access::Sought;

/// Which kind of network a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewKind {
    Isolated,
    Nat,
    Bridge,
    Overlay,
}

/// A network that a client asks for.
#[derive(Clone, Debug)]
pub struct NewNetwork {
    pub name: String,
    pub kind: NewKind,
    /// A range such as `10.7.0.0/24`: a NAT needs one, an overlay may have one for addresses that the cluster gives out.
    pub cidr: Option<String>,
    /// The bridge of the hosts, for the kind that is one.
    pub bridge: Option<String>,
    /// The largest packet of an overlay, in bytes; [`MTU_DEFAULT`] if absent.
    pub mtu: Option<u32>,
}

impl NewNetwork {
    fn kind(&self) -> Result<Kind, Refused> {
        let cidr = self.cidr.as_deref().map(Cidr::parse).transpose()?;
        let (is_nat, is_bridge, is_overlay) =
            (self.kind == NewKind::Nat, self.kind == NewKind::Bridge, self.kind == NewKind::Overlay);
        let only = |field: &str, kinds: &str| Err(Refused::invalid(field, format!("only of {kinds}")));
        if cidr.is_some() && !is_nat && !is_overlay {
            return only("cidr", "a NAT and of an overlay");
        }
        if self.bridge.is_some() && !is_bridge {
            return only("bridge", "the kind that is a bridge of the hosts");
        }
        if self.mtu.is_some() && !is_overlay {
            return only("mtu", "an overlay");
        }
        Ok(match self.kind {
            NewKind::Isolated => Kind::Isolated,
            NewKind::Nat => {
                let missing = || Refused::invalid("cidr", "a NAT needs a range of its own, such as 10.7.0.0/24");
                Kind::Nat { cidr: cidr.ok_or_else(missing)? }
            }
            NewKind::Bridge => {
                let missing = || Refused::invalid("bridge", "say which bridge it is on every host, such as br0");
                let bridge = self.bridge.clone().ok_or_else(missing)?;
                check_bridge(&bridge)?;
                Kind::Bridge { bridge }
            }
            NewKind::Overlay => {
                let mtu = self.mtu.unwrap_or(MTU_DEFAULT);
                check_mtu(mtu)?;
                Kind::Overlay { cidr, mtu }
            }
        })
    }
}

/// A VM's place on one of its networks.
#[derive(Clone, Debug)]
pub struct VmCard {
    /// The network's name, as its VM names it.
    pub network: String,
    pub card: Card,
    pub prefix: Option<u8>,
}

impl ControlPlane {
    /// Adds a network. It is known when this answers; hosts make it when a VM on it comes to them.
    pub async fn create_network(&self, op: Op, new: NewNetwork) -> Result<Done<NetworkEntry>, Refused> {
        let op = self.may(op, Verb::CreateNetwork, Sought::Cluster(ResourceKind::Cluster)).await?;
        let operation = operation(&op, &new);
        check::name("name", &new.name)?;
        let kind = new.kind()?;
        let spec = NetworkSpec { id: NetworkId::new(), name: new.name, kind, project: self.project() };
        let spec = Arc::new(spec);
        let done = self.change_fleet(&op, FleetChange::AddNetwork { spec }, operation).await?;
        self.known_at(&op, done.cursor).await?;
        let network = NetworkId::try_from(&done.value).map_err(|error| Refused::new(Code::Internal, error.to_string()))?;
        let value = self.network(network).ok_or_else(|| Refused::not_found(network))?;
        Ok(Done { value, cursor: done.cursor })
    }

    /// Removes a network; refused while a VM is on it. Hosts have removed what they made for it by then, or do so at their next
    /// look. The value is absent where the same operation has removed it before.
    pub async fn remove_network(&self, op: Op, network: NetworkId) -> Result<Done<Option<NetworkEntry>>, Refused> {
        let op = self.may(op, Verb::RemoveNetwork, network).await?;
        let operation = operation(&op, &("remove-network", network));
        let entry = self.surely(&op, |directory| directory.read(|known| known.fleet.networks.all.get(&network).cloned()));
        let value = entry.await?;
        let done = self.change_fleet(&op, FleetChange::RemoveNetwork { network }, operation).await?;
        self.known_at(&op, done.cursor).await?;
        Ok(Done { value, cursor: done.cursor })
    }

    /// Returns what an operation that was done before was about: a name that it removed means nothing any more.
    pub fn was_about<T: for<'a> TryFrom<&'a Key>>(&self, op: &Op) -> Option<T> {
        let operation = operation(op, &())?;
        // Who cannot be told that it was done before is told that there is no such thing, and may repeat it.
        let (_, key) = self.house.declared_before(&operation).ok().flatten()?;
        T::try_from(&key).ok()
    }

    /// Returns a network as this node's directory has it.
    pub fn network(&self, network: NetworkId) -> Option<NetworkEntry> {
        self.house.directory.read(|known| known.fleet.networks.all.get(&network).cloned()).filter(|_| self.sees(network))
    }

    /// Returns the network with this name.
    pub fn network_named(&self, name: &str) -> Option<NetworkId> {
        self.house.directory.read(|known| known.fleet.networks.named(self.project(), name)).filter(|network| self.sees(*network))
    }

    /// Lists the networks in the order in which they were created.
    pub fn networks(&self, after: Option<&str>, first: usize) -> Result<Page<NetworkEntry>, Refused> {
        let from = after.map(page_key::<NetworkId>).transpose()?.map_or(Bound::Unbounded, Bound::Excluded);
        Ok(self.house.directory.read(|known| {
            let mut page = Page::default();
            let all = known.fleet.networks.all.range((from, Bound::Unbounded));
            for (network, entry) in all.filter(|(id, _)| self.sees_in(known, Sought::Network(**id))) {
                if page.items.len() == first {
                    page.has_next = true;
                    break;
                }
                page.last_seen = Some(network.to_string());
                page.items.push((network.to_string(), entry.clone()));
            }
            page
        }))
    }

    /// Returns what a VM has on networks of the cluster, in the order of its networks.
    pub fn vm_cards(&self, vm: VmId) -> Vec<VmCard> {
        self.house.directory.read(|known| {
            let Some(entry) = known.fleet.vms.get(&vm) else { return Vec::new() };
            let cards = entry.cards.iter().filter_map(|card| {
                let of = known.fleet.networks.all.get(&card.network)?;
                let prefix = of.spec.kind.cidr().map(|range| range.prefix());
                Some(VmCard { network: of.spec.name.clone(), card: card.clone(), prefix })
            });
            cards.collect()
        })
    }
}
