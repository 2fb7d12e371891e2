//! Through which links the host is reached, what these stand on, and whether all of it can be restored in another
//! kernel.

use std::net::IpAddr;

use anemos_proto::net::{Link, LinkId, LinkKind, NetworkState};

use crate::error::Error;
use crate::routing;
use crate::socket::Netlink;
use crate::wire::{self, Message, attributes, get_u32};

/// How somebody reaches the host.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reached {
    /// The host's address that somebody reaches it at.
    pub at: Option<IpAddr>,
    /// Name of the link of a link-local address.
    pub zone: Option<String>,
    /// The way that the host's answers take.
    pub back: Option<Way>,
    /// Whether the host speaks with routers, which may send packets to it only because it asks them to.
    pub speaks_routing: bool,
}

/// A route to one address, as the kernel picks it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Way {
    /// The link that it goes through.
    pub link: LinkId,
    /// The routing table that it is of.
    pub table: u32,
}

/// What `SSH_CONNECTION` of sshd(8) says of how this host is reached, with what the kernel says of the way back. An
/// address that is not one says nothing.
pub fn reached(state: &NetworkState, connection: &str) -> Result<Reached, Error> {
    let words: Vec<&str> = connection.split_whitespace().collect();
    let [client, _, server, _] = words[..] else { return Ok(Reached::default()) };
    let (address, zone) = server.split_once('%').map_or((server, None), |(ip, zone)| (ip, Some(zone.to_owned())));
    let at = address.parse::<IpAddr>().ok().map(|ip| ip.to_canonical());
    let mut reached = Reached { at, zone, back: None, speaks_routing: routing::is_spoken() };
    // The zone names the way already.
    if let (None, Some(at), Ok(client)) = (&reached.zone, at, client.parse::<IpAddr>()) {
        let mut netlink = Netlink::open(0)?;
        reached.back = way_back(&mut netlink, state, at, client.to_canonical());
    }
    Ok(reached)
}

/// The way from `at` to `client`; `None` if there is none, or the client is on this host.
fn way_back(netlink: &mut Netlink, state: &NetworkState, at: IpAddr, client: IpAddr) -> Option<Way> {
    let mut body = [0; 12];
    body[0] = wire::family(client.is_ipv6());
    let full = if client.is_ipv6() { 128 } else { 32 };
    (body[1], body[2]) = (full, full);
    body[8..12].copy_from_slice(&wire::LOOKUP_TABLE.to_ne_bytes());
    let mut message = Message::new(wire::RTM_GETROUTE, wire::ACK, &body)
        .attribute(wire::RTA_DST, &wire::octets(client))
        .attribute(wire::RTA_SRC, &wire::octets(at));
    // Connections that come in through a VRF are answered through it.
    let has_it = |link: &&Link| link.addresses.iter().any(|address| address.ip == at);
    let holder = state.links.iter().find(has_it).map(|link| link.id);
    let is_its_vrf =
        |link: &&Link| matches!(link.kind, LinkKind::Vrf { .. }) && holder.is_some_and(|id| link.below.contains(&id));
    if let Some(vrf) = state.links.iter().find(is_its_vrf) {
        message = message.attribute(wire::RTA_OIF, &vrf.id.0.to_ne_bytes());
    }
    netlink.get("find the way back to whoever is connected", message, parse_way).ok().flatten()
}

/// Reads the answer to a question for one route.
fn parse_way(body: &[u8]) -> Option<Way> {
    let [_, _, _, _, table, _, _, kind] = *body.first_chunk()?;
    let mut way = Way { link: LinkId(0), table: table.into() };
    for (attribute, value) in attributes(body.get(12..)?) {
        match attribute {
            wire::RTA_OIF => way.link = LinkId(get_u32(value, 0)?),
            wire::RTA_TABLE => way.table = get_u32(value, 0)?,
            _ => {}
        }
    }
    (kind == wire::ROUTE_UNICAST).then_some(way)
}

/// The links that the host is reached through: that with the address, and that of the way back. Where the way back is
/// not known, those with a default route. Others, such as those of containers, don't count.
pub fn ways(state: &NetworkState, reached: &Reached) -> Vec<LinkId> {
    let is_way = |link: &&Link| {
        reached.zone.as_ref() == Some(&link.name)
            || reached.zone.is_none() && link.addresses.iter().any(|address| Some(address.ip) == reached.at)
            || match reached.back {
                Some(back) => back.link == link.id,
                None => state.routes.iter().any(|route| route.destination.is_none() && route.link == link.id),
            }
    };
    state.links.iter().filter(is_way).map(|link| link.id).collect()
}

/// What the host is reached through and can't be restored, as `wg0 (wireguard)`: without it the host will not be
/// reached.
pub fn lost_ways(state: &NetworkState, reached: &Reached) -> Vec<String> {
    let mut lost: Vec<String> =
        lost_links(state, reached).iter().map(|link| format!("{} ({})", link.name, link.kind.name())).collect();
    let has_it = |ip: IpAddr| state.links.iter().flat_map(|link| &link.addresses).any(|address| address.ip == ip);
    match reached.at {
        Some(at) if at.is_loopback() => {
            lost.push(format!("a program of its own, such as a tunnel's, which connects to {at}"));
        }
        Some(at) if reached.zone.is_none() && !has_it(at) => {
            lost.push(format!("the address {at}, which none of its links has"));
        }
        _ => {}
    }
    // Nobody sends packets to an address behind the host's cards unless told to. Where the host itself tells it, it is
    // told no longer in RAM; where somebody has set it up elsewhere, it stays so.
    let is_behind = |link: &&Link| match link.kind {
        LinkKind::Loopback | LinkKind::Dummy => true,
        LinkKind::Bridge { .. } => link.below.is_empty(),
        _ => false,
    };
    let holds_it = |link: &&Link| link.addresses.iter().any(|address| Some(address.ip) == reached.at);
    if let Some(link) = state.links.iter().find(|link| reached.speaks_routing && is_behind(link) && holds_it(link)) {
        lost.push(format!("an address of {}, which a routing daemon of its own makes known (BGP or OSPF)", link.name));
    }
    let kept = [wire::TABLE_MAIN, wire::TABLE_DEFAULT, wire::TABLE_LOCAL];
    let is_vrfs = |table: u32| state.links.iter().any(|link| link.kind == LinkKind::Vrf { table });
    if let Some(back) = reached.back
        && !kept.contains(&back.table)
        && !is_vrfs(back.table)
        && !state.routes.iter().any(|route| route.table == back.table)
    {
        lost.push(format!("routing table {}, to which a rule leads that can't be restored", back.table));
    }
    lost
}

/// Addresses that the host will have in another kernel too, by which it may be reached where the way that was taken is
/// lost.
pub fn instead(state: &NetworkState, reached: &Reached) -> Vec<IpAddr> {
    let firm = firm(state);
    let kept = restorable(state.clone(), reached);
    let links = kept.links.iter().filter(|link| firm.contains(&link.id) && link.kind != LinkKind::Loopback);
    let addresses = links.flat_map(|link| &link.addresses).filter(|address| address.scope == 0);
    // A link-local address means nothing elsewhere.
    let means_something = |ip: &IpAddr| !matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
    addresses.map(|address| address.ip).filter(|ip| Some(*ip) != reached.at).filter(means_something).take(8).collect()
}

/// The links that can be restored with all that they need.
fn firm(state: &NetworkState) -> Vec<LinkId> {
    standing(state, |link| match link.kind {
        LinkKind::Card | LinkKind::Dummy | LinkKind::Vrf { .. } | LinkKind::Loopback => Some(true),
        LinkKind::Made(_) => Some(false),
        // It is there for its address alone.
        LinkKind::Bridge { .. } if link.below.is_empty() => Some(true),
        _ => None,
    })
}

/// The links that can't be restored and that a way in stands on, or is.
fn lost_links<'a>(state: &'a NetworkState, reached: &Reached) -> Vec<&'a Link> {
    let firm = firm(state);
    let ways = ways(state, reached);
    let infirm = |ids: &[LinkId]| {
        ids.iter().filter(|id| !firm.contains(id)).filter_map(|id| state.link(*id)).collect::<Vec<&Link>>()
    };
    let (mut lost, mut seen) = (Vec::new(), Vec::new());
    let mut open = infirm(&ways);
    while let Some(link) = open.pop() {
        if seen.contains(&link.id) {
            continue;
        }
        seen.push(link.id);
        let below = infirm(&link.below);
        if below.is_empty() || !link.kind.can_be_made() {
            lost.push(link);
        }
        open.extend(below);
    }
    // Of links that stand on each other, which the kernel doesn't make, none is at the bottom.
    if lost.is_empty() {
        lost = infirm(&ways);
    }
    lost.sort_by_key(|link| link.id);
    lost
}

/// `state` without what is not restored: links that can't be made, and those that nobody reaches the host through and
/// that don't stand on a card, such as the bridge of containers, or that nothing needs, such as a bridge for guests on
/// which the host has no address. Ports of bridges that belong to guests go with them.
pub fn restorable(mut state: NetworkState, reached: &Reached) -> NetworkState {
    let ways = ways(&state, reached);
    let on_card = standing(&state, |link| match link.kind {
        LinkKind::Card | LinkKind::Loopback => Some(true),
        LinkKind::Made(_) | LinkKind::Dummy => Some(false),
        _ => None,
    });
    let is_used =
        |link: &Link| !link.addresses.is_empty() || state.routes.iter().any(|route| route.leads_through(link.id));
    let holds_used = |link: &Link| {
        matches!(link.kind, LinkKind::Vrf { .. }) && link.below.iter().filter_map(|id| state.link(*id)).any(is_used)
    };
    let is_wanted = |link: &Link| {
        matches!(link.kind, LinkKind::Card | LinkKind::Loopback)
            || link.kind.can_be_made()
                && (ways.contains(&link.id) || on_card.contains(&link.id) && (is_used(link) || holds_used(link)))
    };
    let mut kept: Vec<LinkId> = Vec::new();
    let mut open: Vec<LinkId> = state.links.iter().filter(|link| is_wanted(link)).map(|link| link.id).collect();
    while let Some(id) = open.pop() {
        if !kept.contains(&id) {
            kept.push(id);
            let below = state.link(id).into_iter().flat_map(|link| &link.below);
            open.extend(below.filter(|id| on_card.contains(id)));
        }
    }
    state.links.retain(|link| kept.contains(&link.id));
    state.routes.retain_mut(|route| route.keep_hops(|id| kept.contains(&id)));
    let leads_somewhere =
        |table: u32| table == wire::TABLE_MAIN || state.routes.iter().any(|route| route.table == table);
    let is_there = |name: &Option<String>| {
        name.as_ref().is_none_or(|name| name == "lo" || state.links.iter().any(|link| link.name == *name))
    };
    state.rules.retain(|rule| leads_somewhere(rule.table) && is_there(&rule.iif) && is_there(&rule.oif));
    for link in &mut state.links {
        link.below.retain(|id| kept.contains(id));
    }
    state
}

/// The links that stand on what `judge` says yes to. Where it says nothing, a link does if what it is made on does, or
/// one of its members or ports.
fn standing(state: &NetworkState, judge: impl Fn(&Link) -> Option<bool>) -> Vec<LinkId> {
    let mut standing: Vec<LinkId> = Vec::new();
    for link in bottom_up(&state.links) {
        if judge(link).unwrap_or_else(|| link.below.iter().any(|id| standing.contains(id))) {
            standing.push(link.id);
        }
    }
    standing
}

/// The links in an order in which each comes after those that it stands on.
pub fn bottom_up(links: &[Link]) -> Vec<&Link> {
    let mut ordered: Vec<&Link> = Vec::new();
    let mut rest: Vec<&Link> = links.iter().collect();
    loop {
        let waits = |link: &&Link| link.below.iter().any(|id| rest.iter().any(|other| other.id == *id));
        let (later, now): (Vec<_>, Vec<_>) = rest.iter().copied().partition(waits);
        if now.is_empty() {
            return ordered;
        }
        ordered.extend(now);
        rest = later;
    }
}

#[cfg(test)]
mod tests {
    use anemos_proto::net::{Address, Bond, Hop, Route, Rule};

    use super::*;

    fn link(id: u32, name: &str, kind: &str, addresses: &[&str]) -> Link {
        let address = |ip: &&str| Address {
            ip: ip.parse().unwrap(),
            prefix: if ip.contains(':') { 64 } else { 24 },
            peer: None,
            scope: 0,
            valid_s: None,
            preferred_s: None,
            autoconf: false,
        };
        let kind = match kind {
            "" => LinkKind::Card,
            "vlan" => LinkKind::Vlan { id: 7, protocol: 0x8100, flags: 1, egress: Vec::new(), ingress: Vec::new() },
            "bond" => LinkKind::Bond(Bond::default()),
            "bridge" => LinkKind::Bridge { options: Vec::new() },
            "dummy" => LinkKind::Dummy,
            "lo" => LinkKind::Loopback,
            "vrf" => LinkKind::Vrf { table: 10 },
            name => LinkKind::Made(name.into()),
        };
        Link {
            id: LinkId(id),
            name: name.into(),
            kind,
            below: Vec::new(),
            mac: [1; 6],
            mtu: 1500,
            up: true,
            driver: String::new(),
            set_mac: None,
            vlans: Vec::new(),
            port: Vec::new(),
            client_id: Vec::new(),
            client_unknown: String::new(),
            addresses: addresses.iter().map(address).collect(),
        }
    }

    fn on(below: &[u32], link: Link) -> Link {
        Link { below: below.iter().copied().map(LinkId).collect(), ..link }
    }

    fn default_route(gateway: &str, link: u32) -> Route {
        let gateway: std::net::IpAddr = gateway.parse().unwrap();
        Route {
            destination: None,
            v6: gateway.is_ipv6(),
            gateway: Some(gateway),
            link: LinkId(link),
            metric: 0,
            onlink: false,
            source: None,
            scope: 0,
            protocol: 4,
            table: 254,
            mtu: None,
            hops: Vec::new(),
        }
    }

    fn state(links: Vec<Link>, gateways: &[(&str, u32)]) -> NetworkState {
        let routes = gateways.iter().map(|(gateway, link)| default_route(gateway, *link)).collect();
        NetworkState { links, routes, ..NetworkState::default() }
    }

    fn names(links: impl IntoIterator<Item = impl std::borrow::Borrow<Link>>) -> Vec<String> {
        links.into_iter().map(|link| link.borrow().name.clone()).collect()
    }

    fn at(text: &str) -> Reached {
        let (ip, zone) = text.split_once('%').map_or((text, None), |(ip, zone)| (ip, Some(zone.to_owned())));
        let at = ip.parse::<IpAddr>().ok().map(|ip| ip.to_canonical());
        Reached { at, zone, ..Reached::default() }
    }

    fn answers(through: u32, reached: Reached) -> Reached {
        Reached { back: Some(Way { link: LinkId(through), table: 254 }), ..reached }
    }

    type Case = (Vec<Link>, Vec<(&'static str, u32)>, Reached, Vec<&'static str>, Vec<&'static str>);

    #[test]
    fn ways_in() {
        let card = || link(1, "eth0", "", &["192.0.2.10"]);
        let member = || link(1, "eth0", "", &[]);
        let bridge = |below: &[u32]| on(below, link(2, "br0", "bridge", &["192.0.2.10", "2001:db8::10"]));
        let docker = || link(3, "docker0", "bridge", &["172.17.0.1"]);
        let tap = || link(9, "tap0", "tun", &[]);
        let vlan = |below: &[u32]| on(below, link(4, "eth0.7", "vlan", &["198.51.100.10"]));
        let team = || link(5, "team0", "team", &["192.0.2.10"]);
        let bond = |below: &[u32]| on(below, link(5, "bond0", "bond", &["192.0.2.10"]));
        let wireguard = || link(7, "wg0", "wireguard", &["10.9.0.5"]);
        let lo = || link(8, "lo", "lo", &["203.0.113.77"]);
        let nobody = Reached::default;
        let cases: Vec<Case> = vec![
            (vec![card(), docker()], vec![("192.0.2.1", 1)], at("192.0.2.10"), vec!["eth0"], vec![]),
            (vec![card(), docker()], vec![("192.0.2.1", 1)], nobody(), vec!["eth0"], vec![]),
            (vec![member(), bridge(&[1]), docker()], vec![("192.0.2.1", 2)], nobody(), vec!["br0"], vec![]),
            (vec![member(), bridge(&[1])], vec![("fe80::1", 2)], nobody(), vec!["br0"], vec![]),
            (vec![member(), bridge(&[1, 9]), tap()], vec![], at("2001:db8::10"), vec!["br0"], vec![]),
            (vec![member(), bridge(&[1])], vec![], at("::ffff:192.0.2.10"), vec!["br0"], vec![]),
            (vec![member(), bridge(&[1])], vec![], at("fe80::5%br0"), vec!["br0"], vec![]),
            (vec![member(), bridge(&[1])], vec![], nobody(), vec![], vec![]),
            (vec![member(), bridge(&[9]), tap()], vec![], at("192.0.2.10"), vec!["br0"], vec!["tap0 (tun)"]),
            (vec![card(), vlan(&[1])], vec![("192.0.2.1", 1)], at("192.0.2.10"), vec!["eth0"], vec![]),
            (vec![card(), vlan(&[1])], vec![("198.51.100.1", 4)], at("nonsense"), vec!["eth0.7"], vec![]),
            (vec![team(), vlan(&[5])], vec![("198.51.100.1", 4)], nobody(), vec!["eth0.7"], vec!["team0 (team)"]),
            (vec![vlan(&[])], vec![("198.51.100.1", 4)], nobody(), vec!["eth0.7"], vec!["eth0.7 (vlan)"]),
            (vec![team()], vec![], at("192.0.2.10"), vec!["team0"], vec!["team0 (team)"]),
            (vec![member(), bond(&[1])], vec![("192.0.2.1", 5)], nobody(), vec!["bond0"], vec![]),
            (vec![bond(&[])], vec![("192.0.2.1", 5)], nobody(), vec!["bond0"], vec!["bond0 (bond)"]),
            (vec![bond(&[5])], vec![("192.0.2.1", 5)], nobody(), vec!["bond0"], vec!["bond0 (bond)"]),
            // The way back counts, and no other default route.
            (
                vec![card(), wireguard()],
                vec![("192.0.2.1", 1)],
                answers(7, at("10.9.0.5")),
                vec!["wg0"],
                vec!["wg0 (wireguard)"],
            ),
            (
                vec![card(), wireguard()],
                vec![("10.9.0.1", 7)],
                answers(7, at("192.0.2.10")),
                vec!["eth0", "wg0"],
                vec!["wg0 (wireguard)"],
            ),
            (vec![card(), wireguard()], vec![("10.9.0.1", 7)], answers(1, at("192.0.2.10")), vec!["eth0"], vec![]),
            (vec![card(), lo()], vec![("192.0.2.1", 1)], answers(1, at("203.0.113.77")), vec!["eth0", "lo"], vec![]),
            (
                vec![card(), lo()],
                vec![("192.0.2.1", 1)],
                Reached { speaks_routing: true, ..answers(1, at("203.0.113.77")) },
                vec!["eth0", "lo"],
                vec!["an address of lo, which a routing daemon of its own makes known (BGP or OSPF)"],
            ),
            (
                vec![card(), lo()],
                vec![("192.0.2.1", 1)],
                Reached { speaks_routing: true, ..answers(1, at("192.0.2.10")) },
                vec!["eth0"],
                vec![],
            ),
            (
                vec![card()],
                vec![("192.0.2.1", 1)],
                answers(1, at("100.64.0.5")),
                vec!["eth0"],
                vec!["the address 100.64.0.5, which none of its links has"],
            ),
            (
                vec![card()],
                vec![("192.0.2.1", 1)],
                at("127.0.0.1"),
                vec!["eth0"],
                vec!["a program of its own, such as a tunnel's, which connects to 127.0.0.1"],
            ),
            // A neighbour, to whom leads a route that the kernel makes by itself.
            (
                vec![card(), on(&[1], link(6, "mgmt", "vrf", &[]))],
                vec![],
                Reached { back: Some(Way { link: LinkId(1), table: 10 }), ..at("192.0.2.10") },
                vec!["eth0"],
                vec![],
            ),
            (
                vec![card()],
                vec![],
                Reached { back: Some(Way { link: LinkId(1), table: 77 }), ..at("192.0.2.10") },
                vec!["eth0"],
                vec!["routing table 77, to which a rule leads that can't be restored"],
            ),
        ];
        for (links, gateways, reached, through, lost) in cases {
            let state = state(links, &gateways);
            let found = ways(&state, &reached).into_iter().map(|id| state.link(id).unwrap());
            assert_eq!(names(found), through, "{state:?} {reached:?}");
            assert_eq!(lost_ways(&state, &reached), lost, "{state:?} {reached:?}");
        }
    }

    #[test]
    fn addresses_that_survive() {
        let links = vec![
            link(1, "eth0", "", &["192.0.2.10", "fe80::7"]),
            link(2, "wg0", "wireguard", &["10.9.0.5"]),
            link(3, "docker0", "bridge", &["172.17.0.1"]),
            link(4, "lo", "lo", &["203.0.113.77"]),
            on(&[6], link(5, "br0", "bridge", &["10.5.0.1"])),
            link(6, "tap0", "tun", &[]),
        ];
        let state = state(links, &[("192.0.2.1", 1)]);
        let found = instead(&state, &answers(2, at("10.9.0.5")));
        assert_eq!(found, ["192.0.2.10".parse::<IpAddr>().unwrap()]);
    }

    #[test]
    fn rules_go_with_their_tables_and_links() {
        let rule = |table: u32, iif: Option<&str>| Rule {
            v6: false,
            priority: 100,
            source: None,
            destination: None,
            iif: iif.map(str::to_owned),
            oif: None,
            mark: None,
            inverted: false,
            table,
            suppress: None,
        };
        let links = vec![link(1, "eth0", "", &["192.0.2.10"]), link(2, "wg0", "wireguard", &["10.9.0.5"])];
        let mut state = state(links, &[("192.0.2.1", 1), ("192.0.2.1", 1), ("10.9.0.1", 2)]);
        (state.routes[1].table, state.routes[2].table) = (100, 200);
        let wanted = [rule(100, None), rule(100, Some("eth0")), rule(100, Some("lo")), rule(254, None)];
        state.rules = wanted.to_vec();
        state.rules.extend([rule(200, None), rule(300, None), rule(100, Some("wg0"))]);
        assert_eq!(restorable(state, &at("192.0.2.10")).rules, wanted);
    }

    /// Proxmox with guests and containers, a storage network, and a VRF for management.
    #[test]
    fn what_is_restored() {
        let links = vec![
            link(1, "eno1", "", &[]),
            link(2, "eno2", "", &[]),
            link(3, "eno3", "", &["10.3.0.5"]),
            on(&[1, 2], link(4, "bond0", "bond", &[])),
            on(&[4], link(5, "bond0.7", "vlan", &[])),
            on(&[5, 7, 8], link(6, "vmbr0", "bridge", &["192.0.2.10"])),
            link(7, "tap100i0", "tun", &[]),
            link(8, "fwpr100p0", "veth", &[]),
            on(&[9], link(10, "fwbr100i0", "bridge", &[])),
            link(9, "fwln100i0", "veth", &[]),
            link(11, "docker0", "bridge", &["172.17.0.1"]),
            on(&[4], link(12, "bond0.20", "vlan", &["10.20.0.5"])),
            on(&[4], link(13, "bond0.30", "vlan", &[])),
            on(&[13, 7], link(14, "vmbr1", "bridge", &[])),
            link(15, "dummy0", "dummy", &["10.99.0.1"]),
            on(&[3], link(16, "mgmt", "vrf", &[])),
            link(17, "vxlan1", "vxlan", &["10.50.0.1"]),
        ];
        let mut state = state(links, &[("192.0.2.1", 6)]);
        let via = |link: u32| Route {
            destination: Some(("10.60.0.0".parse().unwrap(), 16)),
            ..default_route("10.0.0.1", link)
        };
        let hop = |link: u32| Hop { gateway: None, link: LinkId(link), onlink: false, weight: 1 };
        state.routes.extend([via(3), via(17)]);
        state.routes.push(Route { hops: vec![hop(17), hop(3), hop(6)], ..via(17) });
        state.routes.push(Route { hops: vec![hop(17), hop(12)], ..via(17) });
        let kept = restorable(state.clone(), &at("192.0.2.10"));
        let want = ["eno1", "eno2", "eno3", "bond0", "bond0.7", "vmbr0", "bond0.20", "mgmt"];
        assert_eq!(names(kept.links.iter()), want);
        assert_eq!(kept.link(LinkId(6)).unwrap().below, [LinkId(5)], "no ports of guests");
        assert_eq!(kept.routes.iter().map(|route| route.link.0).collect::<Vec<_>>(), [6, 3, 3, 12]);
        assert_eq!(kept.routes[2].hops, [hop(3), hop(6)], "without the one that is lost");
        assert_eq!((&*kept.routes[3].hops, kept.routes[3].gateway), (&[][..], None), "one hop makes a plain route");
        let order: Vec<_> = names(bottom_up(&kept.links));
        assert_eq!(order, ["eno1", "eno2", "eno3", "bond0", "mgmt", "bond0.7", "bond0.20", "vmbr0"]);
        assert_eq!(restorable(kept.clone(), &at("192.0.2.10")), kept);

        let anycast = restorable(state, &at("10.99.0.1"));
        assert!(anycast.links.iter().any(|link| link.name == "dummy0"), "the host is reached at its address");
    }
}
