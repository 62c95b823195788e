//! Holds what a client said a network is; parsed once, and never changed.

use std::{fmt, net::Ipv4Addr};

use hiveward_kernel::id::{NetworkId, ProjectId};
use hiveward_runtime::error::Refused;
use serde::{Deserialize, Serialize};

/// The default of the bytes in a packet: less than what the hosts' own network takes by what VXLAN puts around a frame, which
/// is 50 bytes over IPv4.
pub const MTU_DEFAULT: u32 = 1_450;
/// The least bytes of a packet, which IPv6 needs.
pub const MTU_LEAST: u32 = 1_280;
pub const MTU_MOST: u32 = 9_000;
/// The most bytes that the kernel allows in the name of a device.
const DEVICE_BYTES_MAX: usize = 15;

/// A network as a client declared it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkSpec {
    pub id: NetworkId,
    /// The name, unique in its project: what VMs name it by.
    pub name: String,
    pub kind: Kind,
    /// The project that it belongs to. The last field, and absent from what is stored for `default`.
    #[serde(default = "crate::name::default_project", skip_serializing_if = "crate::name::is_default")]
    pub project: ProjectId,
}

/// The kind of a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// A network of each host for itself, with no way out.
    Isolated,
    /// A network of each host for itself, with DHCP by libvirt and a way out by the host's address.
    Nat { cidr: Cidr },
    /// A bridge that every host has under this name.
    Bridge { bridge: String },
    /// A network over all hosts. With a range every VM on it gets an address.
    Overlay { cidr: Option<Cidr>, mtu: u32 },
}

impl Kind {
    /// Returns the kind as clients write it.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Isolated => "isolated",
            Self::Nat { .. } => "nat",
            Self::Bridge { .. } => "bridge",
            Self::Overlay { .. } => "overlay",
        }
    }

    /// Returns its range of addresses, if it has one.
    pub const fn cidr(&self) -> Option<Cidr> {
        match self {
            Self::Nat { cidr } => Some(*cidr),
            Self::Overlay { cidr, .. } => *cidr,
            Self::Isolated | Self::Bridge { .. } => None,
        }
    }

    /// Tells whether it is a network between hosts.
    pub const fn is_overlay(&self) -> bool {
        matches!(self, Self::Overlay { .. })
    }
}

/// Tells whether a device is called as those that are made for networks of the cluster.
pub fn is_reserved(device: &str) -> bool {
    ["hwb", "hwn", "hwx"]
        .iter()
        .any(|begin| device.strip_prefix(begin).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit())))
}

/// Checks the name of a bridge of the hosts. Errors: `bridge` is invalid, and why.
pub fn check_bridge(bridge: &str) -> Result<(), Refused> {
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if bridge.is_empty() || bridge.len() > DEVICE_BYTES_MAX || !bridge.chars().all(fine) {
        let message = format!("a bridge's name has 1 to {DEVICE_BYTES_MAX} letters, digits, `.`, `_` and `-`");
        return Err(Refused::invalid("bridge", message));
    }
    if is_reserved(bridge) {
        return Err(Refused::invalid("bridge", "so the devices are called that are made for other networks of the cluster"));
    }
    Ok(())
}

/// Checks the bytes of a packet, [`MTU_LEAST`] to [`MTU_MOST`]. Errors: `mtu` is invalid.
pub fn check_mtu(mtu: u32) -> Result<(), Refused> {
    if (MTU_LEAST..=MTU_MOST).contains(&mtu) {
        return Ok(());
    }
    Err(Refused::invalid("mtu", format!("{MTU_LEAST} to {MTU_MOST}")))
}

/// A range of IPv4 addresses, such as `10.7.0.0/24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cidr {
    base: u32,
    prefix: u8,
}

impl Cidr {
    const PREFIX_LEAST: u8 = 8;
    /// The longest prefix: eight addresses, of which five are given out.
    const PREFIX_MOST: u8 = 29;

    /// Parses a range as in `10.7.0.0/24`. Errors: `cidr` is invalid, and why.
    pub fn parse(text: &str) -> Result<Self, Refused> {
        let bad = |why: String| Refused::invalid("cidr", why);
        let odd = || bad(format!("{text:?} is no range of IPv4 addresses; write one as in 10.7.0.0/24"));
        let (base, prefix) = text.split_once('/').ok_or_else(odd)?;
        let (base, prefix): (Ipv4Addr, u8) = (base.parse().map_err(|_| odd())?, prefix.parse().map_err(|_| odd())?);
        if !(Self::PREFIX_LEAST..=Self::PREFIX_MOST).contains(&prefix) {
            return Err(bad(format!("a prefix of {} to {}, not {prefix}", Self::PREFIX_LEAST, Self::PREFIX_MOST)));
        }
        let cidr = Self { base: base.to_bits(), prefix };
        if cidr.base & cidr.hosts() != 0 {
            let whole = Self { base: cidr.base & !cidr.hosts(), prefix };
            return Err(bad(format!("{text} is an address in {whole}; write the range")));
        }
        if base.is_loopback() || base.is_multicast() || base.is_broadcast() || base.octets()[0] == 0 {
            return Err(bad(format!("{text} is for other things")));
        }
        Ok(cidr)
    }

    /// Returns the bits of an address that tell one in the range from another.
    const fn hosts(self) -> u32 {
        u32::MAX >> self.prefix
    }

    /// Returns the number of bits that all addresses in it share.
    pub const fn prefix(self) -> u8 {
        self.prefix
    }

    /// Returns the address for a router, which is never given out.
    pub const fn gateway(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.base + 1)
    }

    /// Returns the first address that is given out.
    pub const fn first(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.base + 2)
    }

    /// Returns the last address that is given out, before the one that means all of them.
    pub const fn last(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.base + self.hosts() - 1)
    }

    /// Tells whether any address is in both.
    pub const fn overlaps(self, other: Self) -> bool {
        let wider = if self.prefix < other.prefix { self } else { other };
        self.base & !wider.hosts() == other.base & !wider.hosts()
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from_bits(self.base), self.prefix)
    }
}

impl From<Cidr> for String {
    fn from(cidr: Cidr) -> Self {
        cidr.to_string()
    }
}

impl TryFrom<String> for Cidr {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text).map_err(|refused| refused.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_read_strictly_and_says_what_is_wrong_with_it() {
        let range = Cidr::parse("10.7.0.0/29").unwrap();
        let ends = [range.gateway(), range.first(), range.last()].map(|address| address.to_string());
        assert_eq!((ends, range.to_string()), (["10.7.0.1".into(), "10.7.0.2".into(), "10.7.0.6".into()], "10.7.0.0/29".into()));
        for bad in ["", "10.7.0.0", "10.7.0.1/24", "10.7.0.0/30", "10.0.0.0/7", "fd00::/64", "224.0.0.0/8", "0.0.0.0/8", "x/24"] {
            assert_eq!(Cidr::parse(bad).unwrap_err().field.as_deref(), Some("cidr"), "{bad}");
        }
        let overlaps = |one: &str, other: &str| Cidr::parse(one).unwrap().overlaps(Cidr::parse(other).unwrap());
        assert!(overlaps("10.7.0.0/16", "10.7.3.0/24") && overlaps("10.7.3.0/24", "10.7.0.0/16"));
        assert!(!overlaps("10.7.0.0/24", "10.7.1.0/24") && !overlaps("10.8.0.0/16", "10.7.3.0/24"));
    }

    #[test]
    fn bridges_that_are_made_for_networks_are_not_taken_for_those_of_hosts() {
        assert!(check_bridge("br0").is_ok() && check_bridge("hwboot").is_ok());
        for bad in ["", "hwb4097", "hwx1", "hwn1", "a-name-that-is-too-long", "br 0", "br/0"] {
            assert_eq!(check_bridge(bad).unwrap_err().field.as_deref(), Some("bridge"), "{bad}");
        }
    }
}
