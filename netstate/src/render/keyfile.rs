use std::fmt::Write as _;

use anemos_proto::net::{LinkId, LinkKind, NetworkState, Route};

use super::made::{bond_mode, ip_rule, options, pairs, port_options, renamed, vlan_protocol};
use super::plan::{Files, HEADER, Plan, destination, hex, metric, name_of, other_id, plan};
use crate::kinds;
use crate::links::mac_text;
use crate::vlans::{filters, range};
use crate::wire::TABLE_MAIN;

/// NetworkManager's keyfiles, one a link (nm-settings-keyfile(5)). What it has no words for is in [`left_out`].
pub fn networkmanager(state: &NetworkState) -> Files {
    let plans = plan(state);
    let is_described = |plan: &&Plan| plan.link.kind != LinkKind::Loopback;
    let file = |plan: &Plan| {
        let path = format!("etc/NetworkManager/system-connections/{}.nmconnection", plan.name);
        (path.into(), text(plan, &plans, state))
    };
    plans.iter().filter(is_described).map(file).collect()
}

/// What keyfiles have no words for, a sentence each.
pub fn left_out(state: &NetworkState) -> Vec<String> {
    let mut lines = Vec::new();
    for plan in plan(state) {
        match plan.link.kind {
            LinkKind::Loopback => lines.push(format!("not every NetworkManager knows addresses of {}", plan.name)),
            LinkKind::Vlan { protocol, .. } if protocol == kinds::VLAN_8021AD => {
                lines.push(format!("not every NetworkManager knows VLANs of 802.1ad: {}", plan.name));
            }
            _ => {}
        }
    }
    lines
}

/// Names a connection to others: these may be called otherwise on the new system, but for links that are made.
fn uuid(id: LinkId) -> String {
    format!("616e656d-6f73-4000-8000-{:012x}", id.0)
}

fn text(plan: &Plan, plans: &[Plan], state: &NetworkState) -> String {
    let link = plan.link;
    let kind = if link.kind == LinkKind::Card { "ethernet" } else { link.kind.name() };
    let mut out = format!("{HEADER}[connection]\nid={}\nuuid={}\ntype={kind}\n", plan.name, uuid(link.id));
    if link.kind != LinkKind::Card {
        let _ = writeln!(out, "interface-name={}", plan.name);
    }
    if let Some(master) = plan.master {
        let _ = writeln!(out, "master={}\nslave-type={}", uuid(master.id), master.kind.name());
    }
    let _ = writeln!(out, "\n[ethernet]\nmtu={}", link.mtu);
    if link.kind == LinkKind::Card {
        let _ = writeln!(out, "mac-address={}", mac_text(link.mac));
    }
    if let Some(mac) = link.set_mac.or(plan.has_own_mac.then_some(link.mac)) {
        let _ = writeln!(out, "cloned-mac-address={}", mac_text(mac));
    }
    out += &made(plan, plans);
    let options = port_options(link, plan.master).filter(|(word, _)| !word.manager.is_empty());
    let mut lines: Vec<_> =
        options.map(|(word, value)| format!("{}={}\n", word.manager, value.text(["false", "true"]))).collect();
    if !link.vlans.is_empty() && plan.master.is_some_and(filters) {
        lines.push(format!("vlans={}\n", vlans(plan)));
    }
    if let Some(master) = plan.master.filter(|_| !lines.is_empty()) {
        let _ = write!(out, "\n[{}-port]\n{}", master.kind.name(), lines.concat());
    }
    if plan.master.is_none_or(|master| matches!(master.kind, LinkKind::Vrf { .. })) {
        out += &family(plan, plans, state, false);
        out += &family(plan, plans, state, true);
    }
    out
}

/// What makes a link.
fn made(plan: &Plan, plans: &[Plan]) -> String {
    let link = plan.link;
    let parent = link.below.first().map(|id| uuid(*id)).unwrap_or_default();
    let mut out = String::new();
    match &link.kind {
        LinkKind::Vlan { id, protocol, flags, egress, ingress } => {
            let _ = writeln!(out, "\n[vlan]\nid={id}\nparent={parent}\nflags={flags}");
            if *protocol == kinds::VLAN_8021AD {
                let _ = writeln!(out, "protocol={}", vlan_protocol(*protocol));
            }
            for (word, map) in [("egress", egress), ("ingress", ingress)] {
                let pairs: Vec<_> = pairs(map, ":").collect();
                if !pairs.is_empty() {
                    let _ = writeln!(out, "{word}-priority-map={};", pairs.join(";"));
                }
            }
        }
        LinkKind::Macvlan { mode, .. } => {
            // It counts the modes otherwise than the kernel.
            let number = match mode {
                1 => 3,
                2 => 1,
                8 => 4,
                16 => 5,
                _ => 2,
            };
            let _ = writeln!(out, "\n[macvlan]\nmode={number}\nparent={parent}");
        }
        LinkKind::Bond(bond) => {
            let _ = writeln!(out, "\n[bond]\nmode={}", bond_mode(bond));
            let targets: Vec<String> = bond.targets.iter().filter(|ip| ip.is_ipv4()).map(ToString::to_string).collect();
            if !targets.is_empty() {
                let _ = writeln!(out, "arp_ip_target={}", targets.join(","));
            }
            if let Some(primary) = bond.primary.and_then(|id| name_of(plans, id)) {
                let _ = writeln!(out, "primary={primary}");
            }
            for (word, value) in options(&link.kind) {
                let _ = writeln!(out, "{}={value}", word.ip);
            }
        }
        LinkKind::Bridge { .. } => {
            let stp = link.kind.option(kinds::BRIDGE_STP).is_some_and(|stp| stp != 0);
            let _ = writeln!(out, "\n[bridge]\nstp={stp}");
            for (word, value) in options(&link.kind) {
                let key = match word.ip {
                    "group_fwd_mask" => "group-forward-mask".to_owned(),
                    "mcast_snooping" => "multicast-snooping".to_owned(),
                    "mcast_querier" => "multicast-querier".to_owned(),
                    word => word.replace('_', "-"),
                };
                // Times are in seconds; the kernel counts hundredths.
                let seconds = (word.networkd.1 == "0ms").then(|| value.parse::<u64>().unwrap_or_default() / 100);
                let value = match (word.ip, seconds) {
                    (_, Some(seconds)) => seconds.to_string(),
                    ("mcast_snooping" | "mcast_querier" | "vlan_filtering", _) => (value == "1").to_string(),
                    _ => value,
                };
                let _ = writeln!(out, "{key}={value}");
            }
            if !link.vlans.is_empty() {
                let _ = writeln!(out, "vlans={}", vlans(plan));
            }
        }
        LinkKind::Vrf { table } => {
            let _ = writeln!(out, "\n[vrf]\ntable={table}");
        }
        LinkKind::Card | LinkKind::Made(_) | LinkKind::Dummy | LinkKind::Loopback => {}
    }
    out
}

fn vlans(plan: &Plan) -> String {
    let texts = plan.link.vlans.iter().map(|vlans| {
        let pvid = if vlans.pvid { " pvid" } else { "" };
        let untagged = if vlans.untagged { " untagged" } else { "" };
        format!("{}{pvid}{untagged}", range(*vlans))
    });
    texts.collect::<Vec<_>>().join(", ")
}

fn family(plan: &Plan, plans: &[Plan], state: &NetworkState, v6: bool) -> String {
    let mut addresses = Vec::new();
    let mut routes = Vec::new();
    for address in plan.addresses.iter().filter(|address| address.ip.is_ipv6() == v6) {
        // There are no peers. So the host's address gets its full length, and the peer a route.
        let full = if v6 { 128 } else { 32 };
        let prefix = if address.peer.is_some() { full } else { address.prefix };
        addresses.push(format!("{}/{prefix}", address.ip));
        routes.extend(address.peer.map(|peer| (format!("{peer}/{}", address.prefix), String::new())));
    }
    let of_family = |route: &&Route| route.v6 == v6;
    let has_ways = |route: &Route| !v6 && !route.hops.is_empty();
    routes.extend(plan.routes.iter().copied().filter(of_family).filter(|route| !has_ways(route)).map(route));
    // Each connection has its own hops of such a route, and NetworkManager puts them together.
    for whole in state.routes.iter().filter(of_family).filter(|route| has_ways(route)) {
        for hop in whole.hops.iter().filter(|hop| hop.link == plan.link.id) {
            let (text, options) = route(&Route { gateway: hop.gateway, onlink: hop.onlink, ..whole.clone() });
            let weight = format!("weight={}", hop.weight.min(256));
            routes.push((text, if options.is_empty() { weight } else { format!("{options},{weight}") }));
        }
    }
    let comes = if v6 { plan.ra } else { plan.dhcp };
    let method = match (comes, addresses.is_empty()) {
        (true, _) => "auto",
        (false, false) => "manual",
        (false, true) if v6 => "link-local",
        (false, true) => "disabled",
    };
    let mut out = format!("\n[{}]\nmethod={method}\n", if v6 { "ipv6" } else { "ipv4" });
    if comes && !v6 {
        // So that the new system asks as who the old one was, or as who the card is, whatever its machine id.
        let id = other_id(plan.link).map_or_else(|| "mac".to_owned(), hex);
        let _ = writeln!(out, "dhcp-client-id={id}");
    }
    for (number, address) in (1..).zip(addresses) {
        let _ = writeln!(out, "address{number}={address}");
    }
    for (number, (route, options)) in (1..).zip(routes) {
        let _ = writeln!(out, "route{number}={route}");
        if !options.is_empty() {
            let _ = writeln!(out, "route{number}_options={options}");
        }
    }
    for (number, rule) in (1..).zip(plan.rules.iter().filter(|rule| rule.v6 == v6)) {
        // The words are those of ip(8), but for two.
        let all = if v6 { "from ::/0" } else { "from 0.0.0.0/0" };
        let rule = ip_rule(rule, |old| renamed(plans, old)).replace("lookup ", "table ").replace("from all", all);
        let _ = writeln!(out, "routing-rule{number}={rule}");
    }
    if plan.dns && !comes {
        let servers: Vec<String> =
            state.dns.iter().filter(|ip| ip.is_ipv6() == v6).map(|ip| format!("{ip};")).collect();
        if !servers.is_empty() {
            let _ = writeln!(out, "dns={}", servers.concat());
        }
        if !state.search.is_empty() {
            let _ = writeln!(out, "dns-search={};", state.search.join(";"));
        }
    }
    out
}

/// A route, and its options.
fn route(route: &Route) -> (String, String) {
    let mut text = destination(route);
    match (route.gateway, metric(route)) {
        (None, None) => {}
        (gateway, metric) => {
            let any = if route.v6 { "::".to_owned() } else { "0.0.0.0".to_owned() };
            text = format!("{text},{}", gateway.map_or(any, |gateway| gateway.to_string()));
            if let Some(metric) = metric {
                text = format!("{text},{metric}");
            }
        }
    }
    let mut options = Vec::new();
    options.extend(route.onlink.then(|| "onlink=true".to_owned()));
    options.extend(route.mtu.map(|mtu| format!("mtu={mtu}")));
    options.extend(route.source.map(|source| format!("src={source}")));
    options.extend((route.table != TABLE_MAIN).then(|| format!("table={}", route.table)));
    (text, options.join(","))
}
