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

/// A network link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Name under the old system. After the boot links are found by `mac`.
    pub name: String,
    /// Hardware address.
    pub mac: [u8; 6],
    /// Bytes.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// Kind, as in `IFLA_INFO_KIND` (`vlan`, `bond`, `bridge`, …); empty for hardware.
    pub kind: String,
    /// Kernel driver of the hardware, or empty.
    pub driver: String,
    /// Addresses, in the kernel's order.
    pub addresses: Vec<Address>,
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
    /// Hardware address of the link it goes through.
    pub mac: [u8; 6],
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
