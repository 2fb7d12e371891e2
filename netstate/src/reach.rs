//! Whether the host will be reached as it is now once its network is restored in another kernel.

use anemos_proto::net::{Link, NetworkState};

use crate::links::link_of;

/// The links that the host is reached through and that are not restored: VLANs, bonds, bridges and the like, with a default
/// route or with the address `reached_at` (which may have a zone, `fe80::1%br0`). Others of their kinds, such as those of
/// containers, are nobody's way in.
pub fn lost_ways<'a>(state: &'a NetworkState, reached_at: Option<&str>) -> Vec<&'a Link> {
    let (ip, zone) = reached_at.map_or((None, None), |text| match text.split_once('%') {
        // Link-local addresses are not captured; their zone says all.
        Some((_, zone)) => (None, Some(zone)),
        None => (text.parse::<std::net::IpAddr>().ok().map(|ip| ip.to_canonical()), None),
    });
    let routed: Vec<_> = state.routes.iter().filter(|route| route.destination.is_none()).collect();
    let is_way = |link: &Link| {
        zone == Some(&*link.name)
            || link.addresses.iter().any(|address| Some(address.ip) == ip)
            || routed.iter().any(|route| link_of(state, route).is_some_and(|of| std::ptr::eq(of, link)))
    };
    state.links.iter().filter(|link| !link.kind.is_empty() && is_way(link)).collect()
}

#[cfg(test)]
mod tests {
    use anemos_proto::net::{Address, Route};

    use super::*;

    fn link(name: &str, kind: &str, mac: u8, addresses: &[&str]) -> Link {
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
            name: name.into(),
            mac: [mac; 6],
            mtu: 1500,
            up: true,
            kind: kind.into(),
            driver: String::new(),
            addresses: addresses.iter().map(address).collect(),
        }
    }

    fn default_route(gateway: &str, mac: u8) -> Route {
        let gateway: std::net::IpAddr = gateway.parse().unwrap();
        Route {
            destination: None,
            v6: gateway.is_ipv6(),
            gateway: Some(gateway),
            mac: [mac; 6],
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
        let card = || link("eth0", "", 1, &["192.0.2.10"]);
        let member = || link("eth0", "", 1, &[]);
        let bridge = || link("br0", "bridge", 1, &["192.0.2.10", "2001:db8::10"]);
        let docker = || link("docker0", "bridge", 7, &["172.17.0.1"]);
        let vlan = || link("eth0.7", "vlan", 1, &["198.51.100.10"]);
        for (links, gateways, reached_at, lost) in [
            (vec![card(), docker()], vec![("192.0.2.1", 1)], Some("192.0.2.10"), vec![]),
            (vec![card(), docker()], vec![("192.0.2.1", 1)], None, vec![]),
            (vec![member(), bridge(), docker()], vec![("192.0.2.1", 1)], None, vec!["br0"]),
            // The router's address says nothing about which of two links with one hardware address is meant.
            (vec![member(), bridge()], vec![("fe80::1", 1)], None, vec!["br0"]),
            (vec![member(), bridge()], vec![], Some("2001:db8::10"), vec!["br0"]),
            (vec![member(), bridge()], vec![], Some("::ffff:192.0.2.10"), vec!["br0"]),
            (vec![member(), bridge()], vec![], Some("fe80::5%br0"), vec!["br0"]),
            (vec![member(), bridge()], vec![], None, vec![]),
            (vec![card(), vlan()], vec![("192.0.2.1", 1)], Some("192.0.2.10"), vec![]),
            (vec![card(), vlan()], vec![("192.0.2.1", 1)], Some("198.51.100.10"), vec!["eth0.7"]),
            (vec![card(), vlan()], vec![("198.51.100.1", 1)], Some("nonsense"), vec!["eth0.7"]),
            (vec![link("bond0", "bond", 1, &["192.0.2.10"])], vec![("192.0.2.1", 1)], None, vec!["bond0"]),
        ] {
            let routes = gateways.iter().map(|(gateway, mac)| default_route(gateway, *mac)).collect();
            let state = NetworkState { links, routes, ..NetworkState::default() };
            let names: Vec<_> = lost_ways(&state, reached_at).iter().map(|link| &*link.name).collect();
            assert_eq!(names, lost, "{state:?} {reached_at:?}");
        }
    }
}
