//! A host's network as plain data: what is captured before the kexec and restored after it.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// The network of one host.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NetworkState {
    /// The host's name.
    pub hostname: String,
    /// Its links; loopback only where it has addresses beside its own.
    pub links: Vec<Link>,
    /// Unicast routes of the main table, and of others if rules need them.
    pub routes: Vec<Route>,
    /// Name servers (never a local stub's address).
    pub dns: Vec<IpAddr>,
    /// Search domains.
    pub search: Vec<String>,
    /// What picks other routing tables than main, in the kernel's order.
    #[serde(default)]
    pub rules: Vec<Rule>,
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
    /// A network card, real or a hypervisor's.
    #[default]
    Card,
    /// A link of a kind that nobody can make again from what is captured, by its name in `IFLA_INFO_KIND` of
    /// rtnetlink(7): `tun`, `wireguard`, `team`, … Journals of earlier builds have every made link so.
    Made(String),
    /// A VLAN on the link below it.
    Vlan {
        /// VLAN id.
        id: u16,
        /// Ethernet type of its tag: 0x8100 (802.1Q) or 0x88a8 (802.1ad).
        protocol: u16,
        /// `VLAN_FLAG_*` of linux/if_vlan.h.
        flags: u32,
        /// Priorities of the host's packets, and those that their tags have, where these differ from 0.
        #[serde(default)]
        egress: Vec<(u32, u32)>,
        /// Priorities that tags have, and those that the host's packets get by them, where these differ from 0.
        #[serde(default)]
        ingress: Vec<(u32, u32)>,
    },
    /// A bond of the links below it.
    Bond(Bond),
    /// A bridge; the links below it are its ports.
    Bridge {
        /// Options by their `IFLA_BR_*`.
        options: Vec<LinkOption>,
    },
    /// A link with a hardware address of its own on the link below it.
    Macvlan {
        /// `MACVLAN_MODE_*`.
        mode: u32,
        /// `MACVLAN_FLAG_*`.
        flags: u16,
    },
    /// A link that leads nowhere and has addresses.
    Dummy,
    /// A routing domain; the links below it belong to it.
    Vrf {
        /// Its routing table.
        table: u32,
    },
    /// The loopback link.
    Loopback,
}

/// A numeric option of a made link: number of its attribute, and value. A hardware address has its first byte in the
/// lowest bits.
pub type LinkOption = (u16, u64);

/// What makes a bond (linux/if_link.h, `IFLA_BOND_*`).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Bond {
    /// Its number among [`Self::MODES`].
    pub mode: u8,
    /// The member that is preferred.
    pub primary: Option<LinkId>,
    /// Addresses that are asked to see whether a member works.
    pub targets: Vec<IpAddr>,
    /// Other options that its mode has.
    pub options: Vec<LinkOption>,
}

impl Bond {
    /// The modes in words, by their numbers: Documentation/networking/bonding.rst.
    pub const MODES: [&str; 7] =
        ["balance-rr", "active-backup", "balance-xor", "broadcast", "802.3ad", "balance-tlb", "balance-alb"];

    /// The mode in words, if it is one of these.
    pub fn mode_name(&self) -> Option<&'static str> {
        Self::MODES.get(usize::from(self.mode)).copied()
    }
}

impl LinkKind {
    /// Its `IFLA_INFO_KIND`; empty for a card.
    pub fn name(&self) -> &str {
        match self {
            Self::Card => "",
            Self::Made(name) => name,
            Self::Vlan { .. } => "vlan",
            Self::Bond(_) => "bond",
            Self::Bridge { .. } => "bridge",
            Self::Macvlan { .. } => "macvlan",
            Self::Dummy => "dummy",
            Self::Vrf { .. } => "vrf",
            Self::Loopback => "loopback",
        }
    }

    /// Whether the kernel can be told to make it as it was.
    pub fn can_be_made(&self) -> bool {
        !matches!(self, Self::Card | Self::Made(_) | Self::Loopback)
    }

    /// Whether the links below it have it as their master.
    pub fn is_master(&self) -> bool {
        matches!(self, Self::Bond(_) | Self::Bridge { .. } | Self::Vrf { .. })
    }

    /// The value of an option of a bond or a bridge, if it was captured.
    pub fn option(&self, number: u16) -> Option<u64> {
        let (Self::Bond(Bond { options, .. }) | Self::Bridge { options }) = self else { return None };
        options.iter().find(|(other, _)| *other == number).map(|(_, value)| *value)
    }
}

/// VLANs that a bridge with VLAN filtering lets through a port, or takes itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortVlans {
    /// The first id.
    pub first: u16,
    /// The last id.
    pub last: u16,
    /// Frames without a tag belong to it.
    pub pvid: bool,
    /// Its frames leave without a tag.
    pub untagged: bool,
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
    /// usually has that of a link below it.
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
    /// The VLANs of a port of a bridge with VLAN filtering, or of such a bridge itself.
    #[serde(default)]
    pub vlans: Vec<PortVlans>,
    /// What it has as a port of a bridge, by its `IFLA_BRPORT_*`, or as a member of a bond, by its `IFLA_BOND_SLAVE_*`.
    #[serde(default)]
    pub port: Vec<LinkOption>,
    /// The client identifier (option 61 of RFC 2132) by which it has a lease, if it is known; or empty.
    #[serde(default)]
    pub client_id: Vec<u8>,
    /// Why that is not known, though it has a lease by one, or may have; or empty.
    #[serde(default)]
    pub client_unknown: String,
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
    /// All next hops of a route that has several (multipath). Its own link and next hop are those of one of them.
    #[serde(default)]
    pub hops: Vec<Hop>,
}

impl Route {
    /// Whether it leads through this link, be it with one of several hops.
    pub fn leads_through(&self, link: LinkId) -> bool {
        self.link == link || self.hops.iter().any(|hop| hop.link == link)
    }

    /// Leaves of its hops those through links that are there, and has it lead through one of them. False if there is
    /// none.
    pub fn keep_hops(&mut self, is_there: impl Fn(LinkId) -> bool) -> bool {
        self.hops.retain(|hop| is_there(hop.link));
        if !is_there(self.link) {
            let Some(hop) = self.hops.first() else { return false };
            (self.link, self.gateway, self.onlink) = (hop.link, hop.gateway, hop.onlink);
        }
        if self.hops.len() < 2 {
            self.hops.clear();
        }
        true
    }
}

/// One of several next hops of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hop {
    /// Next hop; `None` if the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// The link it goes through.
    pub link: LinkId,
    /// The gateway is to be reached though no address covers it.
    pub onlink: bool,
    /// Its share of the packets, beside those of the others.
    pub weight: u16,
}

/// A rule that says which routing table counts for some packets (linux/fib_rules.h).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// IPv6.
    pub v6: bool,
    /// Rules of lower numbers come first.
    pub priority: u32,
    /// It is for packets that come from here.
    pub source: Option<(IpAddr, u8)>,
    /// It is for packets that go there.
    pub destination: Option<(IpAddr, u8)>,
    /// Name of the link that they came in through, under the old system; `lo` for the host's own packets.
    pub iif: Option<String>,
    /// Name of the link that they are bound to, under the old system.
    pub oif: Option<String>,
    /// Mark and mask of the packets.
    pub mark: Option<(u32, u32)>,
    /// It is for all packets but those.
    pub inverted: bool,
    /// The routing table.
    pub table: u32,
    /// Routes with prefixes as short as this, or shorter, don't count.
    pub suppress: Option<u32>,
}
