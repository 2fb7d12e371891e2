//! What the network is now.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use anemos_proto::net::{Address, Hop, Link, LinkId, LinkKind, NetworkState, Route, Rule};

use crate::error::Error;
use crate::leases::{self, Client};
use crate::links::{Mac, Present, covers};
use crate::ports;
use crate::resolv;
use crate::rules;
use crate::socket::Netlink;
use crate::vlans;
use crate::wire::{self, attributes, get_u16, get_u32, parse_ip};

/// `INFINITY_LIFE_TIME` of the kernel, in seconds.
const FOREVER: u32 = u32::MAX;

/// Reads the network of this host (of this network namespace).
///
/// Left out, because it comes by itself or cannot be restored: loopback with its own addresses; links that are down and
/// have no address; the IPv6 link-local addresses that the kernel gives; routes that the kernel made for an address;
/// routes other than unicast; tables that neither a VRF nor a captured rule names.
pub fn capture() -> Result<NetworkState, Error> {
    let mut netlink = Netlink::open(0)?;
    let present = Present::list(&mut netlink)?;
    let addresses = netlink.dump("addresses", wire::RTM_GETADDR, &[0; 8], parse_address)?;
    let routes = netlink.dump("routes", wire::RTM_GETROUTE, &[0; 12], parse_route)?;
    // A kernel without policy routing may refuse the question.
    let rules = rules::list(&mut netlink).unwrap_or_default();
    let resolver = resolv::read();
    let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let mut state = assemble(&present, &addresses, &routes, rules);
    for link in &mut state.links {
        link.driver = driver(&link.name);
        match leases::client(Path::new("/"), link) {
            Some(Client::Id(id)) => link.client_id = id,
            Some(Client::Unknown(why)) => link.client_unknown = why,
            Some(Client::Mac) | None => {}
        }
        // RAM has neither its driver nor its keys.
        if ["phy80211", "wireless"].iter().any(|file| Path::new("/sys/class/net").join(&link.name).join(file).exists())
        {
            link.kind = LinkKind::Made("Wi-Fi".into());
        }
    }
    vlans::capture(&mut netlink, &mut state)?;
    hostname.trim().clone_into(&mut state.hostname);
    state.dns = resolver.servers;
    state.search = resolver.search;
    Ok(state)
}

/// Name of the driver behind a link, or empty for one without hardware.
fn driver(name: &str) -> String {
    let link = std::fs::read_link(Path::new("/sys/class/net").join(name).join("device/driver"));
    link.ok().and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned())).unwrap_or_default()
}

pub struct FoundAddress {
    index: u32,
    no_prefix_route: bool,
    address: Address,
}

pub fn assemble(present: &[Present], addresses: &[FoundAddress], routes: &[Route], rules: Vec<Rule>) -> NetworkState {
    let vrf = |link: &Present| if let LinkKind::Vrf { table } = link.kind { Some(table) } else { None };
    let named = rules.iter().map(|rule| rule.table);
    let tables: Vec<u32> =
        present.iter().filter_map(vrf).chain(named).chain([wire::TABLE_MAIN, wire::TABLE_DEFAULT]).collect();
    let mut state = NetworkState { rules, ..NetworkState::default() };
    for link in present {
        // The driver of Hyper-V's adapter takes the virtual function below the adapter by itself.
        if present.iter().any(|master| Some(master.index) == link.master && master.kind == LinkKind::Card) {
            continue;
        }
        let comes_by_itself = |ip: IpAddr| ip.is_loopback() || Some(ip) == link.mac.map(link_local);
        let own = addresses.iter().filter(|found| found.index == link.index && !comes_by_itself(found.address.ip));
        let master = present.iter().find(|master| Some(master.index) == link.master);
        let addresses: Vec<_> = own.map(|found| settled(found, routes)).collect();
        let up = link.is(wire::LINK_UP);
        if addresses.is_empty() && (!up || link.kind == LinkKind::Loopback) {
            continue;
        }
        state.links.push(Link {
            id: link.id(),
            name: link.name.clone(),
            kind: link.kind.clone(),
            below: link.below(present),
            mac: link.identity().unwrap_or_default(),
            mtu: link.mtu,
            up,
            driver: String::new(),
            addresses,
            set_mac: link.set_mac(present),
            vlans: Vec::new(),
            port: master.map(|master| ports::of_meaning(&link.port, &master.kind)).unwrap_or_default(),
            client_id: Vec::new(),
            client_unknown: String::new(),
        });
    }
    let captured: Vec<_> = state.links.iter().map(|link| link.id).collect();
    let explicit =
        routes.iter().filter(|route| route.protocol != wire::PROTOCOL_KERNEL && tables.contains(&route.table));
    let mut explicit: Vec<Route> = explicit.cloned().collect();
    explicit.retain_mut(|route| route.keep_hops(|id| captured.contains(&id)));
    explicit.sort_by_key(|route| captured.iter().position(|id| *id == route.link));
    state.routes = explicit;
    for link in &mut state.links {
        link.below.retain(|id| captured.contains(id));
    }
    state
}

/// The link-local address that the kernel gives a link with this hardware address (RFC 4291, appendix A).
fn link_local(mac: Mac) -> IpAddr {
    let mut bytes = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xfe, 0, 0, 0];
    bytes[8..11].copy_from_slice(&mac[..3]);
    bytes[13..].copy_from_slice(&mac[3..]);
    bytes[8] ^= 2;
    bytes.into()
}

/// The address with the prefix length with which adding it makes the routes that were there. The kernel makes a route
/// to the network of an address that is added. Where the old system had none, the address becomes a host address.
fn settled(found: &FoundAddress, routes: &[Route]) -> Address {
    let mut address = found.address.clone();
    let network = address.peer.unwrap_or(address.ip);
    let reached = routes.iter().filter(|route| route.link == LinkId(found.index)).any(|route| {
        route.gateway.is_none()
            && route.destination.is_some_and(|(ip, prefix)| prefix == address.prefix && covers(ip, prefix, network))
    });
    if found.no_prefix_route && !reached {
        address.prefix = if address.ip.is_ipv4() { 32 } else { 128 };
    }
    address
}

pub fn parse_address(body: &[u8]) -> Option<FoundAddress> {
    let [family, prefix, flags, scope] = *body.first_chunk()?;
    let index = get_u32(body, 4)?;
    let (mut address, mut local) = (None, None);
    let mut flags = u32::from(flags);
    let mut lifetimes = (FOREVER, FOREVER);
    let mut protocol = 0;
    for (kind, value) in attributes(body.get(8..)?) {
        match kind {
            wire::IFA_ADDRESS => address = parse_ip(family, value),
            wire::IFA_LOCAL => local = parse_ip(family, value),
            wire::IFA_FLAGS => flags = get_u32(value, 0)?,
            wire::IFA_CACHEINFO => lifetimes = (get_u32(value, 0)?, get_u32(value, 4)?),
            wire::IFA_PROTO => protocol = *value.first()?,
            _ => {}
        }
    }
    let ip = local.or(address)?;
    if flags & wire::ADDRESS_DAD_FAILED != 0 {
        return None;
    }
    let made = wire::ADDRESS_MANAGES_TEMPORARY | wire::ADDRESS_TEMPORARY;
    let finite = |seconds: u32| (seconds != FOREVER).then_some(seconds);
    let address = Address {
        ip,
        prefix,
        peer: address.filter(|address| *address != ip),
        scope,
        preferred_s: finite(lifetimes.0),
        valid_s: finite(lifetimes.1),
        autoconf: ip.is_ipv6() && (flags & made != 0 || protocol == wire::ADDRESS_FROM_KERNEL_RA),
    };
    Some(FoundAddress { index, no_prefix_route: flags & wire::ADDRESS_NO_PREFIX_ROUTE != 0, address })
}

pub fn parse_route(body: &[u8]) -> Option<Route> {
    let [family, prefix, _, _, table, protocol, scope, kind] = *body.first_chunk()?;
    let flags = get_u32(body, 8)?;
    if kind != wire::ROUTE_UNICAST || flags & wire::ROUTE_CLONED != 0 {
        return None;
    }
    let v6 = family == wire::AF_INET6;
    let mut hop = Next { index: None, gateway: None, flags };
    let mut route = Route {
        destination: None,
        v6,
        gateway: None,
        // Known once all attributes are read.
        link: LinkId(0),
        metric: 0,
        onlink: false,
        source: None,
        scope,
        protocol,
        table: table.into(),
        mtu: None,
        hops: Vec::new(),
    };
    let mut destination = if v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
    for (kind, value) in attributes(body.get(12..)?) {
        match kind {
            wire::RTA_DST => destination = parse_ip(family, value)?,
            wire::RTA_TABLE => route.table = get_u32(value, 0)?,
            wire::RTA_PRIORITY => route.metric = get_u32(value, 0)?,
            wire::RTA_PREFSRC => route.source = parse_ip(family, value),
            wire::RTA_METRICS => {
                let mtu = attributes(value).find(|(kind, _)| *kind == wire::RTAX_MTU);
                route.mtu = mtu.and_then(|(_, value)| get_u32(value, 0));
            }
            wire::RTA_MULTIPATH => (hop, route.hops) = hops(family, value)?,
            _ => hop.read(family, kind, value),
        }
    }
    let local = matches!(destination, IpAddr::V6(ip) if ip.is_unicast_link_local() || ip.is_multicast());
    if local && prefix > 0 {
        return None;
    }
    route.destination = (prefix > 0).then_some((destination, prefix));
    route.gateway = hop.gateway;
    route.onlink = hop.flags & wire::HOP_ONLINK != 0;
    route.link = LinkId(hop.index?);
    Some(route)
}

/// Where a route goes next.
struct Next {
    index: Option<u32>,
    gateway: Option<IpAddr>,
    flags: u32,
}

impl Next {
    fn read(&mut self, family: u8, kind: u16, value: &[u8]) {
        match kind {
            wire::RTA_OIF => self.index = get_u32(value, 0),
            wire::RTA_GATEWAY => self.gateway = parse_ip(family, value),
            // An IPv4 route through an IPv6 neighbour.
            wire::RTA_VIA => {
                let family = get_u16(value, 0).unwrap_or_default() as u8;
                self.gateway = value.get(2..).and_then(|value| parse_ip(family, value));
            }
            _ => {}
        }
    }
}

/// The first hop of a multipath route that is not dead, else its first hop; and all of them, if there are several.
fn hops(family: u8, mut bytes: &[u8]) -> Option<(Next, Vec<Hop>)> {
    let (mut nexts, mut hops) = (Vec::new(), Vec::new());
    while let Some(length) = get_u16(bytes, 0).map(usize::from).filter(|length| *length >= 8) {
        let [flags, others] = *bytes.get(2..)?.first_chunk()?;
        let mut next = Next { index: get_u32(bytes, 4), gateway: None, flags: flags.into() };
        for (kind, value) in attributes(bytes.get(8..length)?) {
            next.read(family, kind, value);
        }
        let onlink = next.flags & wire::HOP_ONLINK != 0;
        let link = LinkId(next.index?);
        hops.push(Hop { gateway: next.gateway, link, onlink, weight: u16::from(others) + 1 });
        nexts.push(next);
        bytes = bytes.get(wire::aligned(length)..).unwrap_or_default();
    }
    let alive = nexts.iter().position(|next| next.flags & wire::HOP_DEAD == 0).unwrap_or(0);
    if hops.len() < 2 {
        hops.clear();
    }
    Some((nexts.into_iter().nth(alive)?, hops))
}
