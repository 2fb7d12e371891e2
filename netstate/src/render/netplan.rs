use std::fmt::Write as _;

use anemos_proto::net::{Link, LinkKind, NetworkState, Rule};

use super::made::{below, bond_mode, options, port_options};
use super::networkd::client_section;
use super::plan::{Files, HEADER, Plan, SCOPE_LINK, destination, metric, name_of, plan};
use crate::kinds;
use crate::links::mac_text;
use crate::vlans;
use crate::wire::TABLE_MAIN;

/// netplan(5) YAML. What it has no words for is in [`left_out`].
pub fn netplan(state: &NetworkState) -> Files {
    let plans = plan(state);
    let mut text = format!("{HEADER}network:\n  version: 2\n");
    for section in ["ethernets", "bonds", "bridges", "vlans", "vrfs"] {
        let of_section = plans.iter().filter(|plan| section_of(plan.link) == Some(section));
        let bodies: Vec<String> = of_section.map(|plan| device(plan, &plans, state)).collect();
        if !bodies.is_empty() {
            let _ = write!(text, "  {section}:\n{}", bodies.concat());
        }
    }
    let mut files: Files = vec![("etc/netplan/60-anemos.yaml".into(), text)];
    // netplan's own words are for the identifiers that systemd-networkd makes by itself. So what netplan writes for it
    // is added to.
    for plan in plans.iter().filter(|plan| plan.dhcp) {
        let path = format!("etc/systemd/network/10-netplan-{}.network.d/anemos.conf", plan.name);
        files.extend(client_section(plan.link).map(|section| (path.into(), format!("{HEADER}{section}"))));
    }
    files
}

/// Where a link is described, if it can be.
fn section_of(link: &Link) -> Option<&'static str> {
    match link.kind {
        LinkKind::Card | LinkKind::Loopback => Some("ethernets"),
        LinkKind::Bond(_) => Some("bonds"),
        // Versions before 1.0 know no dummies, and refuse the whole file because of one.
        LinkKind::Bridge { .. } | LinkKind::Dummy => Some("bridges"),
        LinkKind::Vlan { protocol, .. } if protocol != kinds::VLAN_8021AD => Some("vlans"),
        LinkKind::Vrf { .. } => Some("vrfs"),
        LinkKind::Vlan { .. } | LinkKind::Macvlan { .. } | LinkKind::Made(_) => None,
    }
}

/// Whether a link is described at all.
#[cfg(test)]
pub fn has_words(link: &Link) -> bool {
    section_of(link).is_some()
}

/// What netplan has no words for, a sentence each.
pub fn left_out(state: &NetworkState) -> Vec<String> {
    let plans = plan(state);
    let mut lines = Vec::new();
    for plan in &plans {
        let name = &plan.name;
        match section_of(plan.link) {
            None if plan.link.kind.name() == "vlan" => lines.push(format!("netplan has no VLANs of 802.1ad: {name}")),
            None => lines.push(format!("netplan has no links of the kind {}: {name}", plan.link.kind.name())),
            Some(_) if plan.link.kind == LinkKind::Dummy => {
                lines.push(format!("not every netplan knows dummies, so {name} becomes a bridge without ports"));
            }
            Some("vrfs") if !plan.addresses.is_empty() => {
                lines.push(format!("netplan has no addresses of VRFs: {name}"));
            }
            Some(_) if vlans::filters(plan.link) => {
                lines.push(format!("netplan has no VLAN filtering, so {name} lets all VLANs through"));
            }
            Some(_) => {}
        }
        if let LinkKind::Vlan { egress, ingress, .. } = &plan.link.kind
            && !(egress.is_empty() && ingress.is_empty())
        {
            lines.push(format!("netplan has no priorities in tags of VLANs: {name}"));
        }
        let unknown = options(&plan.link.kind).filter(|(word, _)| word.netplan.is_empty());
        let unknown = unknown.filter(|(word, _)| !word.ip.starts_with("vlan_"));
        lines.extend(
            unknown.map(|(word, value)| format!("netplan has no option {} of {name}, which is {value}", word.ip)),
        );
    }
    let rules = state.rules.iter().filter(|rule| !is_known(rule));
    lines.extend(
        rules.map(|rule| format!("netplan has no words for the rule {} of table {}", rule.priority, rule.table)),
    );
    lines
}

fn is_known(rule: &Rule) -> bool {
    rule.iif.is_none()
        && rule.oif.is_none()
        && !rule.inverted
        && rule.suppress.is_none()
        && rule.mark.is_none_or(|(_, mask)| mask == u32::MAX)
}

fn quoted(words: impl IntoIterator<Item = impl std::fmt::Display>) -> String {
    words.into_iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(", ")
}

/// What makes a link, or what a card is known by.
fn head(plan: &Plan, plans: &[Plan]) -> String {
    let link = plan.link;
    let mut out = format!("    \"{}\":\n", plan.name);
    let below = below(plans, plan);
    match &link.kind {
        LinkKind::Card => {
            let _ = writeln!(out, "      match:\n        macaddress: \"{}\"", mac_text(link.mac));
        }
        LinkKind::Vlan { id, .. } => {
            let _ = writeln!(out, "      id: {id}\n      link: \"{}\"", below.first().unwrap_or(&""));
        }
        LinkKind::Vrf { table } => {
            let _ = writeln!(out, "      table: {table}");
        }
        _ => {}
    }
    if link.kind.is_master() {
        let _ = writeln!(out, "      interfaces: [{}]", quoted(below));
    }
    let mut parameters = Vec::new();
    match &link.kind {
        LinkKind::Bond(bond) => {
            parameters.push(format!("mode: {}", bond_mode(bond)));
            let targets: Vec<_> = bond.targets.iter().filter(|ip| ip.is_ipv4()).collect();
            if !targets.is_empty() {
                parameters.push(format!("arp-ip-targets: [{}]", quoted(targets)));
            }
            if let Some(primary) = bond.primary.and_then(|id| name_of(plans, id)) {
                parameters.push(format!("primary: \"{primary}\""));
            }
        }
        LinkKind::Bridge { .. } => {
            let stp = link.kind.option(kinds::BRIDGE_STP).is_some_and(|stp| stp != 0);
            parameters.push(format!("stp: {stp}"));
            for key in ["path-cost", "port-priority"] {
                let ports = link.below.iter().filter_map(|id| plans.iter().find(|port| port.link.id == *id));
                let values = ports.filter_map(|port| {
                    let (_, value) = port_options(port.link, Some(link)).find(|(word, _)| word.netplan == key)?;
                    Some(format!("\"{}\": {}", port.name, value.text(["false", "true"])))
                });
                let values: Vec<String> = values.collect();
                parameters.extend((!values.is_empty()).then(|| format!("{key}: {{{}}}", values.join(", "))));
            }
        }
        _ => {}
    }
    for (word, value) in options(&link.kind).filter(|(word, _)| !word.netplan.is_empty()) {
        // In seconds unless it says otherwise; the kernel counts hundredths.
        let hundredths = word.networkd.1 == "0ms" && value != "0";
        let value = if word.ip == "all_slaves_active" { (value == "1").to_string() } else { value };
        parameters.push(format!("{}: {value}{}", word.netplan, if hundredths { "0ms" } else { "" }));
    }
    if !parameters.is_empty() {
        let _ = writeln!(out, "      parameters:");
    }
    for parameter in parameters {
        let _ = writeln!(out, "        {parameter}");
    }
    // A VRF's address is seen by nobody, and netplan has no word for it.
    let own = plan.has_own_mac && !matches!(link.kind, LinkKind::Vrf { .. });
    if let Some(mac) = link.set_mac.or(own.then_some(link.mac)) {
        let _ = writeln!(out, "      macaddress: \"{}\"", mac_text(mac));
    }
    out
}

fn device(plan: &Plan, plans: &[Plan], state: &NetworkState) -> String {
    let mut out = head(plan, plans);
    let is_vrf = matches!(plan.link.kind, LinkKind::Vrf { .. });
    if plan.link.kind != LinkKind::Loopback && !is_vrf {
        let _ = writeln!(out, "      mtu: {}", plan.link.mtu);
        let _ = writeln!(out, "      dhcp4: {}\n      accept-ra: {}", plan.dhcp, plan.ra);
        if plan.dhcp {
            let _ = writeln!(out, "      dhcp-identifier: mac");
        }
        if !plan.dns {
            let _ = writeln!(out, "      optional: true");
        }
    }
    let addresses = if is_vrf { &[] } else { &plan.addresses[..] };
    if !addresses.is_empty() {
        let _ = writeln!(out, "      addresses:");
    }
    for address in addresses {
        // netplan has no peer addresses. So the host's address gets its full length, and the peer a route, below.
        let full = if address.ip.is_ipv6() { 128 } else { 32 };
        let prefix = if address.peer.is_some() { full } else { address.prefix };
        if address.preferred_s == Some(0) {
            let _ = writeln!(out, "        - \"{}/{prefix}\":\n            lifetime: 0", address.ip);
        } else {
            let _ = writeln!(out, "        - \"{}/{prefix}\"", address.ip);
        }
    }
    let peers: Vec<_> = addresses.iter().filter_map(|address| Some((address.peer?, address.prefix))).collect();
    if !peers.is_empty() || !plan.routes.is_empty() {
        let _ = writeln!(out, "      routes:");
    }
    for (peer, prefix) in peers {
        let _ = writeln!(out, "        - to: \"{peer}/{prefix}\"\n          scope: link");
    }
    for route in &plan.routes {
        let _ = writeln!(out, "        - to: \"{}\"", destination(route));
        if let Some(gateway) = route.gateway {
            let _ = writeln!(out, "          via: \"{gateway}\"");
        }
        if route.onlink {
            let _ = writeln!(out, "          on-link: true");
        }
        if let Some(metric) = metric(route) {
            let _ = writeln!(out, "          metric: {metric}");
        }
        if let Some(source) = route.source {
            let _ = writeln!(out, "          from: \"{source}\"");
        }
        if let Some(mtu) = route.mtu {
            let _ = writeln!(out, "          mtu: {mtu}");
        }
        if !route.v6 && route.gateway.is_none() && route.scope == SCOPE_LINK {
            let _ = writeln!(out, "          scope: link");
        }
        if route.table != TABLE_MAIN {
            let _ = writeln!(out, "          table: {}", route.table);
        }
    }
    let rules: Vec<_> = plan.rules.iter().filter(|rule| is_known(rule)).collect();
    if !rules.is_empty() {
        let _ = writeln!(out, "      routing-policy:");
    }
    for rule in rules {
        // One of both is wanted.
        let all = if rule.v6 { "::/0" } else { "0.0.0.0/0" };
        let from = rule.source.map_or_else(|| all.to_owned(), |(ip, length)| format!("{ip}/{length}"));
        let _ = writeln!(out, "        - from: \"{from}\"");
        if let Some((ip, length)) = rule.destination {
            let _ = writeln!(out, "          to: \"{ip}/{length}\"");
        }
        if let Some((mark, _)) = rule.mark {
            let _ = writeln!(out, "          mark: {mark}");
        }
        let _ = writeln!(out, "          table: {}\n          priority: {}", rule.table, rule.priority);
    }
    let has_servers = plan.dns && !plan.dhcp && !is_vrf;
    if has_servers && !(state.dns.is_empty() && state.search.is_empty()) {
        let _ = writeln!(out, "      nameservers:");
        let _ = writeln!(out, "        addresses: [{}]", quoted(&state.dns));
        let _ = writeln!(out, "        search: [{}]", quoted(&state.search));
    }
    out
}
