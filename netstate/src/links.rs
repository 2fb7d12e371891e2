//! The links of this kernel, and which of them a captured link or route means.

use std::net::IpAddr;

use anemos_proto::net::{Link, NetworkState, Route};

use crate::Error;
use crate::socket::Netlink;
use crate::wire::{self, attributes, get_u32};

/// A hardware address.
pub type Mac = [u8; 6];

/// A link that exists now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Present {
    pub index: u32,
    pub name: String,
    pub flags: u32,
    pub mtu: u32,
    pub kind: String,
    pub master: Option<u32>,
    pub mac: Option<Mac>,
    pub permanent: Option<Mac>,
}

impl Present {
    /// Reads the body of a `RTM_NEWLINK`.
    pub fn parse(body: &[u8]) -> Option<Self> {
        let mut link = Self { index: get_u32(body, 4)?, flags: get_u32(body, 8)?, ..Self::default() };
        for (kind, value) in attributes(body.get(16..)?) {
            match kind {
                wire::IFLA_ADDRESS => link.mac = value.try_into().ok(),
                wire::IFLA_PERM_ADDRESS => link.permanent = value.try_into().ok(),
                wire::IFLA_IFNAME => link.name = text(value),
                wire::IFLA_MTU => link.mtu = get_u32(value, 0)?,
                wire::IFLA_MASTER => link.master = get_u32(value, 0),
                wire::IFLA_LINKINFO => {
                    let kind = attributes(value).find(|(kind, _)| *kind == wire::IFLA_INFO_KIND);
                    link.kind = kind.map(|(_, value)| text(value)).unwrap_or_default();
                }
                _ => {}
            }
        }
        Some(link)
    }

    /// All links, in the kernel's order.
    pub fn list(netlink: &mut Netlink) -> Result<Vec<Self>, Error> {
        netlink.dump("links", wire::RTM_GETLINK, &[0; 16], Self::parse)
    }

    /// The address that this link will have in a fresh kernel: for hardware the one burnt in, which a bond's member hides.
    pub fn identity(&self) -> Option<Mac> {
        if self.kind.is_empty() { self.permanent.or(self.mac) } else { self.mac }
    }

    /// Whether packets can pass. The carrier is known at once but used a moment later; the operational state is the
    /// other way round, and right after `up` still a stale "unknown".
    pub fn has_carrier(&self) -> bool {
        self.is(wire::LINK_LOWER_UP) && self.is(wire::LINK_RUNNING)
    }

    pub fn is(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).trim_end_matches('\0').to_owned()
}

/// The present link that `wanted` means. A VLAN or a bond has the address of hardware below it, so the kind counts too;
/// and a virtual function below Hyper-V's adapter has the adapter's, so a link without a master is preferred.
pub fn find<'a>(present: &'a [Present], wanted: &Link) -> Option<&'a Present> {
    let same = |link: &&Present| link.identity() == Some(wanted.mac) && link.kind == wanted.kind;
    present.iter().filter(same).min_by_key(|link| link.master.is_some())
}

/// The captured link that a route goes through. Where several share the address, it is the one in whose networks the
/// route's gateway, source or destination is; else one with an address of the route's family, since a bridge's port and a
/// bond's member have none.
pub fn link_of<'a>(state: &'a NetworkState, route: &Route) -> Option<&'a Link> {
    let near = route.gateway.or(route.source).or(route.destination.map(|(ip, _)| ip));
    let covers = |link: &&Link| near.is_some_and(|ip| link.addresses.iter().any(|a| covers(a.ip, a.prefix, ip)));
    let speaks = |link: &&Link| link.addresses.iter().any(|address| address.ip.is_ipv6() == route.v6);
    let mut same = state.links.iter().filter(|link| link.mac == route.mac);
    same.clone().find(covers).or_else(|| same.clone().find(speaks)).or_else(|| same.next())
}

/// Whether `ip` is in the network of `of`.
pub fn covers(of: IpAddr, prefix: u8, ip: IpAddr) -> bool {
    match (of, ip) {
        (IpAddr::V4(of), IpAddr::V4(ip)) => {
            let mask = u32::MAX.checked_shl(32u32.saturating_sub(prefix.into())).unwrap_or(0);
            (of.to_bits() ^ ip.to_bits()) & mask == 0
        }
        (IpAddr::V6(of), IpAddr::V6(ip)) => {
            let mask = u128::MAX.checked_shl(128u32.saturating_sub(prefix.into())).unwrap_or(0);
            (of.to_bits() ^ ip.to_bits()) & mask == 0
        }
        _ => false,
    }
}

/// `52:54:00:12:34:56`.
pub fn mac_text(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn present(index: u32, kind: &str, mac: u8, permanent: Option<u8>, master: Option<u32>) -> Present {
        Present {
            index,
            kind: kind.to_owned(),
            mac: Some([mac; 6]),
            permanent: permanent.map(|byte| [byte; 6]),
            master,
            ..Present::default()
        }
    }

    fn link(kind: &str, mac: u8) -> Link {
        Link {
            name: String::new(),
            mac: [mac; 6],
            mtu: 1500,
            up: true,
            kind: kind.to_owned(),
            driver: String::new(),
            addresses: Vec::new(),
        }
    }

    #[test]
    fn finds_by_address_and_kind() {
        let links = [
            present(2, "", 1, Some(1), Some(3)),
            present(3, "", 1, None, None),
            present(4, "", 9, Some(2), Some(5)),
            present(5, "bond", 9, None, None),
        ];
        let index = |wanted: &Link| find(&links, wanted).map(|link| link.index);
        assert_eq!(index(&link("", 1)), Some(3), "the adapter, not the function below it");
        assert_eq!(index(&link("", 2)), Some(4), "a bond's member by the address burnt in");
        assert_eq!(index(&link("bond", 9)), Some(5));
        assert_eq!(index(&link("", 9)), None);
        assert_eq!(index(&link("vlan", 1)), None);
    }

    #[test]
    fn networks() {
        for (of, prefix, ip, want) in [
            ("192.0.2.10", 24, "192.0.2.1", true),
            ("192.0.2.10", 32, "192.0.2.1", false),
            ("192.0.2.10", 0, "203.0.113.1", true),
            ("2001:db8::1", 64, "2001:db8::ffff", true),
            ("2001:db8::1", 64, "2001:db8:1::", false),
            ("2001:db8::1", 0, "fe80::1", true),
            ("0.0.0.0", 0, "::", false),
        ] {
            assert_eq!(covers(of.parse().unwrap(), prefix, ip.parse().unwrap()), want, "{of}/{prefix} {ip}");
        }
    }
}
