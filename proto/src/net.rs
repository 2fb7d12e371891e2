//! A host's network as plain data: what is captured before the kexec and restored after it.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// The network of one host.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NetworkState {
    /// The host's name.
    pub hostname: String,
    /// Its links but for loopback.
    pub links: Vec<Link>,
    /// Unicast routes of the main table, and of others if rules need them.
    pub routes: Vec<Route>,
    /// Name servers (never a local stub's address).
    pub dns: Vec<IpAddr>,
    /// Search domains.
    pub search: Vec<String>,
}

impl NetworkState {
    /// The link of this id, if it was captured.
    pub fn link(&self, id: LinkId) -> Option<&Link> {
        self.links.iter().find(|link| link.id == id)
    }
}

/// Names a link within one [`NetworkState`]: its index in the old system's kernel (`ifi_index` of rtnetlink(7)), which
/// means nothing in another kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LinkId(pub u32);

/// What a link is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum LinkKind {
    /// A network card, real or a hypervisor's. Only cards are restored.
    #[default]
    Card,
    /// A link that the kernel makes, by its name in `IFLA_INFO_KIND` of rtnetlink(7): `vlan`, `bond`, `bridge`, …
    Made(String),
}

impl LinkKind {
    /// The kind with this `IFLA_INFO_KIND`, which is empty for a card.
    pub fn of(info_kind: String) -> Self {
        if info_kind.is_empty() { Self::Card } else { Self::Made(info_kind) }
    }

    /// Its `IFLA_INFO_KIND`; empty for a card.
    pub fn name(&self) -> &str {
        match self {
            Self::Card => "",
            Self::Made(name) => name,
        }
    }
}

/// A network link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// What routes and other links call it.
    pub id: LinkId,
    /// Name under the old system.
    pub name: String,
    /// What it is.
    pub kind: LinkKind,
    /// The captured links that it stands on: a VLAN's link, the members of a bond, the ports of a bridge.
    pub below: Vec<LinkId>,
    /// Hardware address, of a card the permanent one. A card is found by it after the boot. A VLAN, a bond or a bridge
    /// has that of a link below it.
    pub mac: [u8; 6],
    /// Bytes.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// Kernel driver of a card, or empty.
    pub driver: String,
    /// Addresses, in the kernel's order.
    pub addresses: Vec<Address>,
    /// The hardware address that somebody gave a card in place of its permanent one.
    #[serde(default)]
    pub set_mac: Option<[u8; 6]>,
}

/// An address of a link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// The address.
    pub ip: IpAddr,
    /// Prefix length, bits.
    pub prefix: u8,
    /// The other end of a point-to-point address, if it has one.
    pub peer: Option<IpAddr>,
    /// `rt_scope_t` of rtnetlink(7).
    pub scope: u8,
    /// Seconds for which it is valid; `None` for ever. Finite for leased and autoconfigured addresses.
    pub valid_s: Option<u32>,
    /// Seconds for which it is preferred; `None` for ever.
    pub preferred_s: Option<u32>,
    /// Made by the kernel from a router advertisement, or temporary (privacy) address.
    pub autoconf: bool,
}

/// A unicast route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Destination and prefix length; `None` is the default route.
    pub destination: Option<(IpAddr, u8)>,
    /// IPv6 (needed to tell the two default routes apart).
    pub v6: bool,
    /// Next hop; `None` if the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// The link it goes through.
    pub link: LinkId,
    /// Metric (priority); 0 is the family's default.
    pub metric: u32,
    /// The gateway is to be reached though no address covers it.
    pub onlink: bool,
    /// Preferred source address.
    pub source: Option<IpAddr>,
    /// `rt_scope_t` of rtnetlink(7).
    pub scope: u8,
    /// Who made it: `rtm_protocol` of rtnetlink(7).
    pub protocol: u8,
    /// Routing table, 254 is main.
    pub table: u32,
    /// MTU of the route in bytes, if set.
    pub mtu: Option<u32>,
}
