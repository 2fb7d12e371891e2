//! The links of this kernel, and which of them a captured link means.

use std::net::IpAddr;

use anemos_proto::net::{Link, LinkId, LinkKind, LinkOption};

use crate::error::Error;
use crate::kinds;
use crate::ports;
use crate::socket::Netlink;
use crate::wire::{self, attributes, get_u16, get_u32, text};

/// A hardware address.
pub type Mac = [u8; 6];

/// A link that exists now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Present {
    pub index: u32,
    pub name: String,
    pub flags: u32,
    pub mtu: u32,
    pub kind: LinkKind,
    /// The bond, the bridge or the adapter that it is part of.
    pub master: Option<u32>,
    /// The link that it is made on, as a VLAN is, or the other end of a pair of links.
    pub lower: Option<u32>,
    pub mac: Option<Mac>,
    pub permanent: Option<Mac>,
    /// What it has as part of its master.
    pub port: Vec<LinkOption>,
}

impl Present {
    /// Reads the body of a `RTM_NEWLINK`.
    pub fn parse(body: &[u8]) -> Option<Self> {
        let mut link = Self { index: get_u32(body, 4)?, flags: get_u32(body, 8)?, ..Self::default() };
        let mut elsewhere = false;
        for (kind, value) in attributes(body.get(16..)?) {
            match kind {
                wire::IFLA_ADDRESS => link.mac = value.try_into().ok(),
                wire::IFLA_PERM_ADDRESS => link.permanent = value.try_into().ok().or(link.permanent),
                wire::IFLA_IFNAME => link.name = text(value),
                wire::IFLA_MTU => link.mtu = get_u32(value, 0)?,
                wire::IFLA_MASTER => link.master = get_u32(value, 0),
                wire::IFLA_LINK => link.lower = get_u32(value, 0),
                // The index is of another network namespace.
                wire::IFLA_LINK_NETNSID => elsewhere = true,
                wire::IFLA_LINKINFO => {
                    let get = |wanted: u16| attributes(value).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
                    let name = get(wire::IFLA_INFO_KIND).map(text).unwrap_or_default();
                    link.kind = kinds::read(name, get(wire::IFLA_INFO_DATA).unwrap_or_default());
                    let master = get(wire::IFLA_INFO_SLAVE_KIND).map(text).unwrap_or_default();
                    let data = get(wire::IFLA_INFO_SLAVE_DATA).unwrap_or_default();
                    link.port = ports::read(&master, data);
                    // Kernels before 5.6 say it of a bond's members only.
                    let mut own = attributes(data).filter(|_| master == "bond");
                    let own = own.find(|(kind, _)| *kind == wire::IFLA_BOND_SLAVE_PERM_HWADDR);
                    link.permanent = link.permanent.or(own.and_then(|(_, mac)| mac.try_into().ok()));
                }
                _ => {}
            }
        }
        link.lower = link.lower.filter(|_| !elsewhere);
        if link.is(wire::LINK_LOOPBACK) {
            link.kind = LinkKind::Loopback;
        } else if link.kind == LinkKind::Card && link.mac.is_none() {
            // `ARPHRD_*` of linux/if_arp.h. Such links are not Ethernet.
            link.kind = LinkKind::Made(match get_u16(body, 2)? {
                32 => "InfiniBand".into(),
                512 => "ppp".into(),
                kind => format!("link of type {kind}"),
            });
        }
        Some(link)
    }

    pub fn id(&self) -> LinkId {
        LinkId(self.index)
    }

    /// The links among `present` that this one stands on. The two ends of a pair (veth) stand on nothing.
    pub fn below(&self, present: &[Self]) -> Vec<LinkId> {
        let stands_on = |other: &&Self| {
            other.master == Some(self.index) || self.lower == Some(other.index) && other.lower != Some(self.index)
        };
        present.iter().filter(|other| other.index != self.index).filter(stands_on).map(Self::id).collect()
    }

    /// All links, in the kernel's order.
    pub fn list(netlink: &mut Netlink) -> Result<Vec<Self>, Error> {
        netlink.dump("links", wire::RTM_GETLINK, &[0; 16], Self::parse)
    }

    /// The address that this link will have in another kernel, before it is given another. For a card it is the
    /// permanent one: a bond gives its members another for as long as they belong to it.
    pub fn identity(&self) -> Option<Mac> {
        if self.kind.can_be_made() { self.mac } else { self.permanent.or(self.mac) }
    }

    /// The address that somebody gave this card in place of its permanent one. What a bond, or Hyper-V's adapter, gives
    /// its members is not meant.
    pub fn set_mac(&self, present: &[Self]) -> Option<Mac> {
        let master = present.iter().find(|link| Some(link.index) == self.master);
        let keeps_its_own = |master: &Self| matches!(master.kind, LinkKind::Bridge { .. } | LinkKind::Vrf { .. });
        let is_given = self.kind == LinkKind::Card && self.master.is_none_or(|_| master.is_some_and(keeps_its_own));
        self.mac.filter(|mac| is_given && self.permanent.is_some_and(|permanent| permanent != *mac))
    }

    /// Whether packets can pass. Both flags are needed: `LOWER_UP` is set before the kernel uses the carrier, and
    /// `RUNNING` is also set right after `up`, while the operational state is still "unknown".
    pub fn has_carrier(&self) -> bool {
        self.is(wire::LINK_LOWER_UP) && self.is(wire::LINK_RUNNING)
    }

    pub fn is(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }
}

/// The present link that `wanted` means. One that can be made is known by its name, and its kind.
///
/// A card is known by its address; the kind counts too, because a VLAN or a bond has the address of a card below it. A
/// link without a master is preferred, because a virtual function below Hyper-V's adapter has the adapter's address.
/// Where no link has the address, one has it that somebody gave the card: some cards keep it, and show it as their own
/// after a boot.
pub fn find<'a>(present: &'a [Present], wanted: &Link) -> Option<&'a Present> {
    let of_kind = || present.iter().filter(|link| link.kind.name() == wanted.kind.name());
    if wanted.kind.can_be_made() {
        let named = |name: &str| of_kind().find(|link| link.name == name);
        return named(&wanted.name).or_else(|| named(&other_name(wanted)));
    }
    let with =
        |mac: Mac| of_kind().filter(move |link| link.identity() == Some(mac)).min_by_key(|link| link.master.is_some());
    with(wanted.mac).or_else(|| with(wanted.set_mac?))
}

/// The name of a link that is made, if another link has its own.
pub fn other_name(wanted: &Link) -> String {
    format!("a{}", wanted.id.0)
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
    use anemos_proto::net::Bond;

    use super::*;

    fn present(index: u32, kind: &str, mac: u8, permanent: Option<u8>, master: Option<u32>) -> Present {
        Present {
            index,
            kind: kind_of(kind),
            mac: Some([mac; 6]),
            permanent: permanent.map(|byte| [byte; 6]),
            master,
            ..Present::default()
        }
    }

    fn link(kind: &str, mac: u8) -> Link {
        Link {
            id: LinkId(1),
            name: String::new(),
            kind: kind_of(kind),
            below: Vec::new(),
            mac: [mac; 6],
            mtu: 1500,
            up: true,
            driver: String::new(),
            set_mac: None,
            addresses: Vec::new(),
            vlans: Vec::new(),
            port: Vec::new(),
            client_id: Vec::new(),
            client_unknown: String::new(),
        }
    }

    fn kind_of(name: &str) -> LinkKind {
        match name {
            "" => LinkKind::Card,
            "bond" => LinkKind::Bond(Bond::default()),
            "bridge" => LinkKind::Bridge { options: Vec::new() },
            name => LinkKind::Made(name.to_owned()),
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
        assert_eq!(index(&link("", 9)), None);
        assert_eq!(index(&link("veth", 1)), None);
        let given = |mac: u8, set: u8| Link { set_mac: Some([set; 6]), ..link("", mac) };
        assert_eq!(index(&given(2, 1)), Some(4), "its own address counts more than the one that it was given");
        assert_eq!(index(&given(7, 1)), Some(3), "a card that kept what it was given");
        assert_eq!(index(&given(7, 8)), None);
    }

    #[test]
    fn finds_made_links_by_name_and_kind() {
        let named = |name: &str, link: Present| Present { name: name.into(), ..link };
        let links = [
            named("eth0", present(2, "", 1, Some(1), None)),
            named("bond0", present(3, "bond", 1, None, None)),
            named("a9", present(4, "bridge", 1, None, None)),
        ];
        let index = |id: u32, name: &str, kind: &str| {
            find(&links, &Link { id: LinkId(id), name: name.into(), ..link(kind, 7) }).map(|link| link.index)
        };
        assert_eq!(index(1, "bond0", "bond"), Some(3), "whatever its address");
        assert_eq!(index(1, "bond0", "bridge"), None);
        assert_eq!(index(1, "eth0", "bond"), None);
        assert_eq!(index(9, "eth0", "bridge"), Some(4), "a card has its name now");
        assert_eq!(index(8, "eth0", "bridge"), None);
    }

    #[test]
    fn addresses_that_somebody_gave_a_card() {
        let masters = [present(5, "bond", 9, None, None), present(6, "bridge", 9, None, None)];
        let set_mac = |link: Present| link.set_mac(&masters);
        assert_eq!(set_mac(present(2, "", 9, Some(1), None)), Some([9; 6]));
        assert_eq!(set_mac(present(2, "", 1, Some(1), None)), None, "its own");
        assert_eq!(set_mac(present(2, "", 9, None, None)), None, "nothing says that it isn't its own");
        assert_eq!(set_mac(present(2, "", 9, Some(1), Some(5))), None, "a bond's");
        assert_eq!(set_mac(present(2, "", 9, Some(1), Some(6))), Some([9; 6]), "a bridge gives its ports none");
        assert_eq!(set_mac(present(2, "", 9, Some(1), Some(7))), None, "that of a master that is not known");
        assert_eq!(set_mac(present(2, "bond", 9, Some(1), None)), None);
    }

    /// A member of a bond as Linux 4.19 lists it, without `IFLA_PERM_ADDRESS`.
    #[test]
    fn a_member_of_a_bond_has_its_own_address() {
        let slave = wire::attributes_of(&[(1, vec![0]), (4, vec![7; 6]), (5, vec![0, 0])]);
        let parse = |kind: &[u8]| {
            let info = wire::attributes_of(&[(4, kind.to_vec()), (5, slave.clone())]);
            let mut body = vec![0; 16];
            body.extend(wire::attributes_of(&[(wire::IFLA_ADDRESS, vec![9; 6]), (wire::IFLA_LINKINFO, info)]));
            Present::parse(&body).unwrap()
        };
        assert_eq!(parse(b"bond\0").identity(), Some([7; 6]));
        assert_eq!(parse(b"bridge\0").identity(), Some([9; 6]));
    }

    #[test]
    fn what_stands_on_what() {
        let made_on = |lower: u32, link: Present| Present { lower: Some(lower), ..link };
        let links = [
            present(2, "", 1, None, Some(4)),
            present(3, "", 2, None, Some(4)),
            present(4, "bond", 1, None, None),
            made_on(4, present(5, "vlan", 1, None, None)),
            made_on(7, present(6, "veth", 3, None, None)),
            made_on(6, present(7, "veth", 4, None, None)),
        ];
        let below: Vec<_> = links.iter().map(|link| link.below(&links)).collect();
        let ids = |ids: &[u32]| ids.iter().copied().map(LinkId).collect::<Vec<_>>();
        assert_eq!(below, [ids(&[]), ids(&[]), ids(&[2, 3]), ids(&[4]), ids(&[]), ids(&[])]);
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
