//! Networks over many hosts: for each a bridge and a VXLAN device, in the hypervisor's network namespace.
//!
//! What is broadcast goes to every peer that is named (head-end replication); where a guest's card is the device learns from
//! what comes, because a guest that migrates says so itself the moment it runs elsewhere. The bridge has no address: the
//! host is not on the network. Devices of ours are in one device group from the moment that they are there, and carry
//! their host's mark once they are whole.

use std::{collections::BTreeSet, net::IpAddr};

use crate::protocol::Problem;
use futures_util::{StreamExt, TryStreamExt};
use rtnetlink::{
    Handle, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVxlan,
    packet_core::{NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload},
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        link::{AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
        neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
    },
};

const BRIDGE: &str = "hwb";
const VXLAN: &str = "hwx";
/// The device group of everything that is made here: "hw".
const GROUP: u32 = 0x6877;
/// As IANA has it.
const PORT: u16 = 4789;
const ANYBODY: [u8; 6] = [0; 6];

/// One overlay as it is to be here.
pub struct Overlay {
    pub number: u32,
    pub local: IpAddr,
    pub peers: BTreeSet<IpAddr>,
    pub mtu: u32,
}

fn failed(error: rtnetlink::Error) -> Problem {
    match error {
        rtnetlink::Error::NetlinkError(error) => match error.to_io() {
            io if io.kind() == std::io::ErrorKind::PermissionDenied => Problem::Refused(
                "this process may make no network devices; run the node as root, or give its driver CAP_NET_ADMIN and \
                 CAP_SYS_ADMIN"
                    .into(),
            ),
            io => Problem::Failed(io.to_string()),
        },
        error => Problem::Failed(error.to_string()),
    }
}

fn gone_again(what: &str) -> Problem {
    Problem::Failed(format!("the {what} is gone again"))
}

/// Speaks to the kernel of the namespace that this thread is in.
fn speak<T, F: Future<Output = Result<T, Problem>>>(work: impl FnOnce(Handle) -> F) -> Result<T, Problem> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_io().build().map_err(|error| Problem::Failed(error.to_string()))?;
    runtime.block_on(async {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(|error| Problem::Failed(error.to_string()))?;
        let speaking = tokio::spawn(connection);
        let done = work(handle).await;
        speaking.abort();
        done
    })
}

/// A device as the kernel describes it.
struct Device {
    index: u32,
    name: String,
    bridge: Option<u32>,
    group: u32,
    alias: Option<String>,
    mtu: u32,
    up: bool,
    /// Of a VXLAN device.
    wire: Option<(u32, IpAddr)>,
}

impl Device {
    fn of(link: LinkMessage) -> Self {
        let mut device = Self {
            index: link.header.index,
            name: String::new(),
            bridge: None,
            group: 0,
            alias: None,
            mtu: 0,
            up: link.header.flags.contains(LinkFlags::Up),
            wire: None,
        };
        for attribute in link.attributes {
            match attribute {
                LinkAttribute::IfName(name) => device.name = name,
                LinkAttribute::Controller(index) => device.bridge = Some(index),
                LinkAttribute::Group(group) => device.group = group,
                LinkAttribute::IfAlias(alias) => device.alias = Some(alias),
                LinkAttribute::Mtu(mtu) => device.mtu = mtu,
                LinkAttribute::LinkInfo(infos) => device.wire = infos.into_iter().find_map(wire),
                _ => {}
            }
        }
        device
    }

    /// The mark of its host; none if it is not ours, or nobody's yet because its making was cut short.
    fn mark(&self) -> Option<&str> {
        self.alias.as_deref()?.strip_prefix("hiveward ")
    }

    /// Whether this host may change it.
    fn is_of(&self, owner: &str) -> bool {
        self.group == GROUP && self.alias.is_none() || self.mark() == Some(owner)
    }

    /// Of which overlay it would be, by its name.
    fn number(&self) -> Option<u32> {
        let digits = self.name.strip_prefix(BRIDGE).or_else(|| self.name.strip_prefix(VXLAN))?;
        digits.parse().ok()
    }
}

fn wire(info: LinkInfo) -> Option<(u32, IpAddr)> {
    let LinkInfo::Data(InfoData::Vxlan(infos)) = info else { return None };
    let id = infos.iter().find_map(|info| if let InfoVxlan::Id(id) = info { Some(*id) } else { None })?;
    let local = infos.iter().find_map(|info| match info {
        InfoVxlan::Local(local) => Some(IpAddr::V4(*local)),
        InfoVxlan::Local6(local) => Some(IpAddr::V6(*local)),
        _ => None,
    })?;
    Some((id, local))
}

async fn devices(handle: &Handle) -> Result<Vec<Device>, Problem> {
    handle.link().get().execute().map_ok(Device::of).try_collect().await.map_err(failed)
}

/// The one of this name, if it is ours; an error if it is another's.
fn own<'a>(all: &'a [Device], name: &str, owner: &str) -> Result<Option<&'a Device>, Problem> {
    let found = all.iter().find(|device| device.name == name);
    match found {
        Some(device) if !device.is_of(owner) => Err(Problem::Refused(match device.mark() {
            Some(_) => format!("the host has a device {name} of another registration of it; remove it there"),
            None => format!("the host has a device {name} that is not Hiveward's; rename or remove it there"),
        })),
        found => Ok(found),
    }
}

pub fn ensure(owner: &str, overlays: &[Overlay]) -> Result<(), (u32, Problem)> {
    overlays.iter().try_for_each(|overlay| {
        speak(|handle| async move { ensure_one(&handle, owner, overlay).await }).map_err(|error| (overlay.number, error))
    })
}

async fn ensure_one(handle: &Handle, owner: &str, overlay: &Overlay) -> Result<(), Problem> {
    let (bridge, vxlan) = (format!("{BRIDGE}{}", overlay.number), format!("{VXLAN}{}", overlay.number));
    let mut all = devices(handle).await?;
    if own(&all, &bridge, owner)?.is_none() {
        // A bridge that snoops speaks to the network itself, and lets multicast of who has just moved wait.
        let new = LinkMessageBuilder::<LinkBridge>::new(&bridge).forward_delay(0).mcast_snooping(false);
        handle.link().add(new.link_group(GROUP).mtu(overlay.mtu).build()).execute().await.map_err(failed)?;
        all = devices(handle).await?;
    }
    // Another address of this host, as when it was registered anew: a device's own never changes.
    if let Some(other) = own(&all, &vxlan, owner)?
        && other.wire != Some((overlay.number, overlay.local))
    {
        handle.link().del(other.index).execute().await.map_err(failed)?;
        all = devices(handle).await?;
    }
    let index = own(&all, &bridge, owner)?.map(|device| device.index).ok_or_else(|| gone_again("bridge"))?;
    if own(&all, &vxlan, owner)?.is_none() {
        let new = LinkVxlan::new(&vxlan, overlay.number).port(PORT).learning(true);
        let new = match overlay.local {
            IpAddr::V4(local) => new.local(local),
            IpAddr::V6(local) => new.local6(local),
        };
        let new = new.link_group(GROUP).controller(index).mtu(overlay.mtu);
        handle.link().add(new.build()).execute().await.map_err(failed)?;
        all = devices(handle).await?;
    }
    let device = own(&all, &vxlan, owner)?.ok_or_else(|| gone_again("VXLAN device"))?;
    if device.bridge != Some(index) {
        let message = LinkUnspec::new_with_index(device.index).controller(index).build();
        handle.link().set(message).execute().await.map_err(failed)?;
    }
    // Its peers before it speaks.
    peers(handle, device.index, &overlay.peers).await?;
    for device in [own(&all, &bridge, owner)?, Some(device)].into_iter().flatten() {
        finish(handle, owner, device, overlay.mtu).await?;
    }
    Ok(())
}

/// The last of what makes a device whole, and its mark.
async fn finish(handle: &Handle, owner: &str, device: &Device, mtu: u32) -> Result<(), Problem> {
    if device.mtu != mtu {
        let message = LinkUnspec::new_with_index(device.index).mtu(mtu).build();
        handle.link().set(message).execute().await.map_err(failed)?;
    }
    if device.up && device.alias.is_some() {
        return Ok(());
    }
    // Not even an address of its own making. Refused where the host has no IPv6, and then there is none.
    let none = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]);
    let silent = LinkUnspec::new_with_index(device.index).append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![none]));
    if std::path::Path::new("/proc/sys/net/ipv6").exists() {
        handle.link().set(silent.build()).execute().await.map_err(failed)?;
    }
    let message = LinkUnspec::new_with_index(device.index).alias(format!("hiveward {owner}")).up().build();
    handle.link().set(message).execute().await.map_err(failed)
}

/// What the VXLAN device knows of where frames go.
struct Entry {
    card: Vec<u8>,
    to: IpAddr,
}

async fn entries(handle: &Handle, index: u32) -> Result<Vec<Entry>, Problem> {
    let mut asked = handle.neighbours().get().set_address_family(AddressFamily::Bridge);
    asked.message_mut().header.ifindex = index;
    let all: Vec<NeighbourMessage> = asked.execute().try_collect().await.map_err(failed)?;
    let entry = |message: NeighbourMessage| {
        let mut card = None;
        let mut to = None;
        for attribute in &message.attributes {
            match attribute {
                NeighbourAttribute::LinkLayerAddress(address) => card = Some(address.clone()),
                NeighbourAttribute::Destination(address) => to = ip(address),
                _ => {}
            }
        }
        Some(Entry { card: card?, to: to? })
    };
    // The bridge's own entries of the same port lead nowhere.
    Ok(all.into_iter().filter(|message| message.header.ifindex == index).filter_map(entry).collect())
}

fn ip(address: &NeighbourAddress) -> Option<IpAddr> {
    match address {
        NeighbourAddress::Inet(address) => Some((*address).into()),
        NeighbourAddress::Inet6(address) => Some((*address).into()),
        NeighbourAddress::Other(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(&bytes[..]).ok().map(IpAddr::from),
            16 => <[u8; 16]>::try_from(&bytes[..]).ok().map(IpAddr::from),
            _ => None,
        },
        _ => None,
    }
}

fn toward(index: u32, card: &[u8], to: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = index;
    message.header.state = NeighbourState::Permanent;
    message.header.flags = NeighbourFlags::Own;
    message.attributes.push(NeighbourAttribute::LinkLayerAddress(card.to_vec()));
    message.attributes.push(NeighbourAttribute::Destination(match to {
        IpAddr::V4(to) => NeighbourAddress::Inet(to),
        IpAddr::V6(to) => NeighbourAddress::Inet6(to),
    }));
    message
}

/// Broadcasts go to these and to nobody else; what was learned of a peer that is gone is forgotten.
async fn peers(handle: &Handle, index: u32, wanted: &BTreeSet<IpAddr>) -> Result<(), Problem> {
    let known = entries(handle, index).await?;
    for entry in known.iter().filter(|entry| !wanted.contains(&entry.to)) {
        match handle.neighbours().del(toward(index, &entry.card, entry.to)).execute().await {
            Ok(()) => {}
            // What was learned ages, too.
            Err(rtnetlink::Error::NetlinkError(error)) if error.to_io().kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
    }
    let there: BTreeSet<IpAddr> = known.iter().filter(|entry| entry.card == ANYBODY).map(|entry| entry.to).collect();
    for peer in wanted.difference(&there) {
        // One more of the same card: the crate's own request would take its place or be refused.
        let mut request = NetlinkMessage::from(RouteNetlinkMessage::NewNeighbour(toward(index, &ANYBODY, *peer)));
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_APPEND;
        let mut answer = handle.clone().request(request).map_err(failed)?;
        while let Some(message) = answer.next().await {
            if let NetlinkPayload::Error(error) = message.payload
                && error.code.is_some()
            {
                return Err(failed(rtnetlink::Error::NetlinkError(error)));
            }
        }
    }
    Ok(())
}

/// Removes this host's overlays but for those of these numbers, and those that a guest is still on.
pub fn sweep(owner: &str, keep: &[u32]) -> Result<(), Problem> {
    speak(|handle| async move {
        let all = devices(&handle).await?;
        let gone = |device: &&Device| device.is_of(owner) && device.number().is_some_and(|number| !keep.contains(&number));
        let is_vxlan = |device: &Device| device.name.starts_with(VXLAN);
        let (wires, bridges): (Vec<&Device>, Vec<&Device>) = all.iter().filter(gone).partition(|device| is_vxlan(device));
        let in_use = |bridge: &Device| all.iter().any(|port| port.bridge == Some(bridge.index) && !is_vxlan(port));
        let used: BTreeSet<Option<u32>> = bridges.iter().filter(|bridge| in_use(bridge)).map(|bridge| bridge.number()).collect();
        // First what leads to other hosts.
        for device in wires.into_iter().chain(bridges).filter(|device| !used.contains(&device.number())) {
            handle.link().del(device.index).execute().await.map_err(failed)?;
        }
        Ok(())
    })
}
