//! Whether the host will be reached as it is now once its network is restored in another kernel.

use anemos_proto::net::{Link, LinkKind, NetworkState};

/// The links that the host is reached through and that are not restored: VLANs, bonds, bridges and the like, with a
/// default route or with the address `reached_at` (which may have a zone, `fe80::1%br0`). Other links of these kinds,
/// such as those of containers, don't count, because nobody reaches the host through them.
pub fn lost_ways<'a>(state: &'a NetworkState, reached_at: Option<&str>) -> Vec<&'a Link> {
    let (ip, zone) = reached_at.map_or((None, None), |text| match text.split_once('%') {
        // Link-local addresses are not captured, but their zone names the link.
        Some((_, zone)) => (None, Some(zone)),
        None => (text.parse::<std::net::IpAddr>().ok().map(|ip| ip.to_canonical()), None),
    });
    let routed: Vec<_> = state.routes.iter().filter(|route| route.destination.is_none()).collect();
    let is_way = |link: &Link| {
        zone == Some(&*link.name)
            || link.addresses.iter().any(|address| Some(address.ip) == ip)
            || routed.iter().any(|route| route.link == link.id)
    };
    state.links.iter().filter(|link| link.kind != LinkKind::Card && is_way(link)).collect()
}

#[cfg(test)]
mod tests {
    use anemos_proto::net::{Address, LinkId, Route};

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
        Link {
            id: LinkId(id),
            name: name.into(),
            kind: LinkKind::of(kind.into()),
            below: Vec::new(),
            mac: [1; 6],
            mtu: 1500,
            up: true,
            driver: String::new(),
            set_mac: None,
            addresses: addresses.iter().map(address).collect(),
        }
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

    #[test]
    fn ways_in() {
        let card = || link(1, "eth0", "", &["192.0.2.10"]);
        let member = || link(1, "eth0", "", &[]);
        let bridge = || link(2, "br0", "bridge", &["192.0.2.10", "2001:db8::10"]);
        let docker = || link(3, "docker0", "bridge", &["172.17.0.1"]);
        let vlan = || link(4, "eth0.7", "vlan", &["198.51.100.10"]);
        for (links, gateways, reached_at, lost) in [
            (vec![card(), docker()], vec![("192.0.2.1", 1)], Some("192.0.2.10"), vec![]),
            (vec![card(), docker()], vec![("192.0.2.1", 1)], None, vec![]),
            (vec![member(), bridge(), docker()], vec![("192.0.2.1", 2)], None, vec!["br0"]),
            (vec![member(), bridge()], vec![("fe80::1", 2)], None, vec!["br0"]),
            (vec![member(), bridge()], vec![], Some("2001:db8::10"), vec!["br0"]),
            (vec![member(), bridge()], vec![], Some("::ffff:192.0.2.10"), vec!["br0"]),
            (vec![member(), bridge()], vec![], Some("fe80::5%br0"), vec!["br0"]),
            (vec![member(), bridge()], vec![], None, vec![]),
            (vec![card(), vlan()], vec![("192.0.2.1", 1)], Some("192.0.2.10"), vec![]),
            (vec![card(), vlan()], vec![("192.0.2.1", 1)], Some("198.51.100.10"), vec!["eth0.7"]),
            (vec![card(), vlan()], vec![("198.51.100.1", 4)], Some("nonsense"), vec!["eth0.7"]),
            (vec![link(1, "bond0", "bond", &["192.0.2.10"])], vec![("192.0.2.1", 1)], None, vec!["bond0"]),
        ] {
            let routes = gateways.iter().map(|(gateway, link)| default_route(gateway, *link)).collect();
            let state = NetworkState { links, routes, ..NetworkState::default() };
            let names: Vec<_> = lost_ways(&state, reached_at).iter().map(|link| &*link.name).collect();
            assert_eq!(names, lost, "{state:?} {reached_at:?}");
        }
    }
}
