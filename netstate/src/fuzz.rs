//! What the fuzzer calls: everything here that reads bytes of somebody else's, with what must hold for all of them.

use std::path::Component;

use anemos_proto::net::NetworkState;

use crate::capture::{assemble, parse_address, parse_route};
use crate::links::Present;
use crate::{reach, render, resolv, rules, socket, vlans, wire};

/// What is done with an input.
pub type Target = fn(&[u8]);

/// Targets by name.
pub const TARGETS: &[(&str, Target)] = &[("leases", leases), ("netlink", netlink), ("resolv-conf", resolv_conf)];

/// The network that the kernel's answers describe, and the links of them.
fn described(data: &[u8]) -> (NetworkState, Vec<Present>) {
    let (mut present, mut addresses, mut routes, mut found_rules) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for message in wire::messages(data) {
        match message.kind {
            wire::RTM_NEWLINK if message.payload.first() == Some(&wire::AF_BRIDGE) => {
                vlans::parse(message.payload);
            }
            wire::RTM_NEWLINK => present.extend(Present::parse(message.payload)),
            wire::RTM_NEWADDR => addresses.extend(parse_address(message.payload)),
            wire::RTM_NEWROUTE => routes.extend(parse_route(message.payload)),
            wire::RTM_NEWRULE => found_rules.extend(rules::parse(message.payload)),
            _ => drop(socket::outcome("ask", message)),
        }
    }
    let state = assemble(&present, &addresses, &routes, found_rules);
    assert!(state.links.len() <= present.len() && state.routes.len() <= routes.len() * state.links.len().max(1));
    (state, present)
}

/// The kernel's answers to all questions, and the configurations that are made of what they say.
///
/// A name in them can't add a line to a file, nor a file elsewhere.
fn netlink(data: &[u8]) {
    let (state, present) = described(data);
    let reached = reach::Reached { at: Some([192, 0, 2, 1].into()), ..reach::Reached::default() };
    reach::lost_ways(&state, &reached);
    reach::instead(&state, &reached);
    let kept = reach::restorable(state.clone(), &reached);
    assert_eq!(reach::restorable(kept.clone(), &reached), kept);
    for link in &state.links {
        crate::links::find(&present, link);
    }
    for format in render::Format::ALL {
        format.left_out(&state);
        for (path, text) in format.files(&state) {
            assert!(path.components().all(|part| matches!(part, Component::Normal(_))), "{}", path.display());
            let hidden = text.chars().find(|c| c.is_control() && *c != '\n');
            assert_eq!(hidden, None, "{text}");
            assert!(text.is_ascii(), "{text}");
        }
    }
}

/// Files of DHCP clients: what comes before the first empty line is a lease, and the rest a configuration.
fn leases(data: &[u8]) {
    crate::leases::read_all(data);
}

/// A resolv.conf. What is written for it is read as the same.
fn resolv_conf(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let resolver = resolv::parse_resolv_conf(&text);
    let resolv::Resolver { mut servers, search } = resolver;
    servers.truncate(3);
    let state = NetworkState { dns: servers, search, ..Default::default() };
    let again = resolv::parse_resolv_conf(&resolv::write_resolv_conf(&state));
    assert_eq!((again.servers, again.search), (state.dns, state.search));
}

#[cfg(test)]
#[path = "../../fuzz/seeds.rs"]
mod seeds;

#[cfg(test)]
mod tests {
    use anemos_proto::net::{Bond, LinkId, LinkKind};

    use super::*;

    /// `ip -d monitor all file fuzz/seeds/netlink/tower` says what is in the seed.
    #[test]
    fn a_tower_is_read_as_ip_reads_it() {
        let (state, _) = described(include_bytes!("../../fuzz/seeds/netlink/tower"));
        let of = |name: &str| state.links.iter().find(|link| link.name == name).unwrap();
        let bond = Bond {
            mode: 4,
            primary: Some(LinkId(2)),
            targets: vec!["192.0.2.1".parse().unwrap()],
            options: vec![(3, 100), (14, 1), (21, 1), (26, 0x0900_0000_0002)],
        };
        for (name, kind, below) in [
            ("lo", LinkKind::Loopback, &[][..]),
            ("eth0", LinkKind::Card, &[]),
            ("eth1", LinkKind::Card, &[]),
            ("bond0", LinkKind::Bond(bond), &[2, 3]),
            (
                "bond0.7",
                LinkKind::Vlan { id: 7, protocol: 0x8100, flags: 1, egress: Vec::new(), ingress: Vec::new() },
                &[4],
            ),
            ("br0", LinkKind::Bridge { options: vec![(1, 1500), (5, 1), (6, 0x8000), (39, 1), (7, 1)] }, &[5]),
            ("mv0", LinkKind::Macvlan { mode: 4, flags: 0 }, &[6]),
            ("mgmt", LinkKind::Vrf { table: 10 }, &[]),
            ("wg0", LinkKind::Made("wireguard".into()), &[]),
        ] {
            assert_eq!(of(name).kind, kind, "{name}");
            assert_eq!(of(name).below.iter().map(|id| id.0).collect::<Vec<_>>(), below, "{name}");
        }
        assert_eq!((of("eth0").mac[5], of("eth1").mac[5]), (1, 2), "a member of a bond has its own address");
        assert_eq!(state.routes.iter().map(|route| route.table).collect::<Vec<_>>(), [254, 1001]);
        assert_eq!((state.rules.len(), state.rules[0].mark), (1, Some((1, 255))));
    }

    #[test]
    fn seeds_and_what_is_near_them() {
        seeds::run(TARGETS, 256);
    }
}
