use std::fmt::Write as _;

use anemos_proto::net::NetworkState;

use super::plan::{Files, HEADER, Plan, SCOPE_LINK, destination, metric, plan};
use crate::links::mac_text;

/// netplan(5) YAML.
pub fn netplan(state: &NetworkState) -> Files {
    let mut text = format!("{HEADER}network:\n  version: 2\n  ethernets:\n");
    for plan in plan(state) {
        text += &ethernet(&plan, state);
    }
    vec![("etc/netplan/60-anemos.yaml".into(), text)]
}

fn ethernet(plan: &Plan, state: &NetworkState) -> String {
    let mut out =
        format!("    \"{}\":\n      match:\n        macaddress: \"{}\"\n", plan.name, mac_text(plan.link.mac));
    if let Some(mac) = plan.link.set_mac {
        let _ = writeln!(out, "      macaddress: \"{}\"", mac_text(mac));
    }
    let _ = writeln!(out, "      mtu: {}", plan.link.mtu);
    let _ = writeln!(out, "      dhcp4: {}\n      accept-ra: {}", plan.dhcp, plan.ra);
    if plan.dhcp {
        let _ = writeln!(out, "      dhcp-identifier: mac");
    }
    if !plan.dns {
        let _ = writeln!(out, "      optional: true");
    }
    if !plan.addresses.is_empty() {
        let _ = writeln!(out, "      addresses:");
    }
    for address in &plan.addresses {
        // netplan has no peer addresses. So the host's address gets its full length, and the peer a route, below.
        let full = if address.ip.is_ipv6() { 128 } else { 32 };
        let prefix = if address.peer.is_some() { full } else { address.prefix };
        if address.preferred_s == Some(0) {
            let _ = writeln!(out, "        - \"{}/{prefix}\":\n            lifetime: 0", address.ip);
        } else {
            let _ = writeln!(out, "        - \"{}/{prefix}\"", address.ip);
        }
    }
    let peers: Vec<_> = plan.addresses.iter().filter_map(|address| Some((address.peer?, address.prefix))).collect();
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
    }
    if plan.dns && !plan.dhcp && !(state.dns.is_empty() && state.search.is_empty()) {
        let quoted = |words: Vec<String>| words.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(", ");
        let _ = writeln!(out, "      nameservers:");
        let _ = writeln!(out, "        addresses: [{}]", quoted(state.dns.iter().map(ToString::to_string).collect()));
        let _ = writeln!(out, "        search: [{}]", quoted(state.search.clone()));
    }
    out
}
