//! Through which links the host is reached, what these stand on, and whether all of it can be restored in another
//! kernel.

use anemos_proto::net::{Link, LinkId, LinkKind, NetworkState};

/// The links that the host is reached through: those with a default route or with the address `reached_at` (which may
/// have a zone, `fe80::1%br0`). Others, such as those of containers, don't count.
pub fn ways(state: &NetworkState, reached_at: Option<&str>) -> Vec<LinkId> {
    let (ip, zone) = reached_at.map_or((None, None), |text| match text.split_once('%') {
        // Link-local addresses are not captured, but their zone names the link.
        Some((_, zone)) => (None, Some(zone)),
        None => (text.parse::<std::net::IpAddr>().ok().map(|ip| ip.to_canonical()), None),
    });
    let routed: Vec<_> = state.routes.iter().filter(|route| route.destination.is_none()).collect();
    let is_way = |link: &&Link| {
        zone == Some(&*link.name)
            || link.addresses.iter().any(|address| Some(address.ip) == ip)
            || routed.iter().any(|route| route.link == link.id)
    };
    state.links.iter().filter(is_way).map(|link| link.id).collect()
}

/// The links that can't be restored and that a way in stands on, or is: without them the host will not be reached.
pub fn lost_ways<'a>(state: &'a NetworkState, reached_at: Option<&str>) -> Vec<&'a Link> {
    let firm = standing(state, |link| match link.kind {
        LinkKind::Card | LinkKind::Dummy | LinkKind::Vrf { .. } => Some(true),
        LinkKind::Made(_) => Some(false),
        // It is there for its address alone.
        LinkKind::Bridge { .. } if link.below.is_empty() => Some(true),
        _ => None,
    });
    let ways = ways(state, reached_at);
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
pub fn restorable(mut state: NetworkState, reached_at: Option<&str>) -> NetworkState {
    let ways = ways(&state, reached_at);
    let on_card = standing(&state, |link| match link.kind {
        LinkKind::Card => Some(true),
        LinkKind::Made(_) | LinkKind::Dummy => Some(false),
        _ => None,
    });
    let is_used = |link: &Link| !link.addresses.is_empty() || state.routes.iter().any(|route| route.link == link.id);
    let holds_used = |link: &Link| {
        matches!(link.kind, LinkKind::Vrf { .. }) && link.below.iter().filter_map(|id| state.link(*id)).any(is_used)
    };
    let is_wanted = |link: &Link| {
        link.kind == LinkKind::Card
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
    state.routes.retain(|route| kept.contains(&route.link));
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
    use anemos_proto::net::{Address, Bond, LinkId, Route};

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
            "vlan" => LinkKind::Vlan { id: 7, protocol: 0x8100, flags: 1 },
            "bond" => LinkKind::Bond(Bond::default()),
            "bridge" => LinkKind::Bridge { options: Vec::new() },
            "dummy" => LinkKind::Dummy,
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
        }
    }

    fn state(links: Vec<Link>, gateways: &[(&str, u32)]) -> NetworkState {
        let routes = gateways.iter().map(|(gateway, link)| default_route(gateway, *link)).collect();
        NetworkState { links, routes, ..NetworkState::default() }
    }

    fn names(links: impl IntoIterator<Item = impl std::borrow::Borrow<Link>>) -> Vec<String> {
        links.into_iter().map(|link| link.borrow().name.clone()).collect()
    }

    type Case = (Vec<Link>, Vec<(&'static str, u32)>, Option<&'static str>, Vec<&'static str>, Vec<&'static str>);

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
        let cases: Vec<Case> = vec![
            (vec![card(), docker()], vec![("192.0.2.1", 1)], Some("192.0.2.10"), vec!["eth0"], vec![]),
            (vec![card(), docker()], vec![("192.0.2.1", 1)], None, vec!["eth0"], vec![]),
            (vec![member(), bridge(&[1]), docker()], vec![("192.0.2.1", 2)], None, vec!["br0"], vec![]),
            (vec![member(), bridge(&[1])], vec![("fe80::1", 2)], None, vec!["br0"], vec![]),
            (vec![member(), bridge(&[1, 9]), tap()], vec![], Some("2001:db8::10"), vec!["br0"], vec![]),
            (vec![member(), bridge(&[1])], vec![], Some("::ffff:192.0.2.10"), vec!["br0"], vec![]),
            (vec![member(), bridge(&[1])], vec![], Some("fe80::5%br0"), vec!["br0"], vec![]),
            (vec![member(), bridge(&[1])], vec![], None, vec![], vec![]),
            (vec![member(), bridge(&[9]), tap()], vec![], Some("192.0.2.10"), vec!["br0"], vec!["tap0"]),
            (vec![card(), vlan(&[1])], vec![("192.0.2.1", 1)], Some("192.0.2.10"), vec!["eth0"], vec![]),
            (vec![card(), vlan(&[1])], vec![("198.51.100.1", 4)], Some("nonsense"), vec!["eth0.7"], vec![]),
            (vec![team(), vlan(&[5])], vec![("198.51.100.1", 4)], None, vec!["eth0.7"], vec!["team0"]),
            (vec![vlan(&[])], vec![("198.51.100.1", 4)], None, vec!["eth0.7"], vec!["eth0.7"]),
            (vec![team()], vec![], Some("192.0.2.10"), vec!["team0"], vec!["team0"]),
            (vec![member(), bond(&[1])], vec![("192.0.2.1", 5)], None, vec!["bond0"], vec![]),
            (vec![bond(&[])], vec![("192.0.2.1", 5)], None, vec!["bond0"], vec!["bond0"]),
            (vec![bond(&[5])], vec![("192.0.2.1", 5)], None, vec!["bond0"], vec!["bond0"]),
        ];
        for (links, gateways, reached_at, through, lost) in cases {
            let state = state(links, &gateways);
            let found = ways(&state, reached_at).into_iter().map(|id| state.link(id).unwrap());
            assert_eq!(names(found), through, "{state:?} {reached_at:?}");
            assert_eq!(names(lost_ways(&state, reached_at)), lost, "{state:?} {reached_at:?}");
        }
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
        state.routes.extend([via(3), via(17)]);
        let kept = restorable(state.clone(), Some("192.0.2.10"));
        let want = ["eno1", "eno2", "eno3", "bond0", "bond0.7", "vmbr0", "bond0.20", "mgmt"];
        assert_eq!(names(kept.links.iter()), want);
        assert_eq!(kept.link(LinkId(6)).unwrap().below, [LinkId(5)], "no ports of guests");
        assert_eq!(kept.routes.iter().map(|route| route.link.0).collect::<Vec<_>>(), [6, 3]);
        let order: Vec<_> = names(bottom_up(&kept.links));
        assert_eq!(order, ["eno1", "eno2", "eno3", "bond0", "mgmt", "bond0.7", "bond0.20", "vmbr0"]);
        assert_eq!(restorable(kept.clone(), Some("192.0.2.10")), kept);

        let anycast = restorable(state, Some("10.99.0.1"));
        assert!(anycast.links.iter().any(|link| link.name == "dummy0"), "the host is reached at its address");
    }
}
