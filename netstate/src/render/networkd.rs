use std::fmt::Write as _;

use anemos_proto::net::NetworkState;

use super::plan::{Files, HEADER, Plan, SCOPE_LINK, destination, match_key, metric, plan, resolv_conf};
use crate::links::mac_text;

/// systemd.network(5) files, one a link, and `etc/resolv.conf` for systems without systemd-resolved.
pub fn networkd(state: &NetworkState) -> Files {
    let file = |plan: &Plan| (format!("etc/systemd/network/10-{}.network", plan.name).into(), text(plan, state));
    plan(state).iter().map(file).chain([resolv_conf(state)]).collect()
}

fn text(plan: &Plan, state: &NetworkState) -> String {
    let mut out = HEADER.to_owned();
    // A VLAN or a bridge on top of the card has the card's address too, but it has a kind, and a card has none.
    let _ = writeln!(out, "[Match]\n{}={}\nType=ether\nKind=!*\n", match_key(plan.link), mac_text(plan.link.mac));
    let _ = writeln!(out, "[Link]\nMTUBytes={}", plan.link.mtu);
    if let Some(mac) = plan.link.set_mac {
        let _ = writeln!(out, "MACAddress={}", mac_text(mac));
    }
    if !plan.dns {
        let _ = writeln!(out, "RequiredForOnline=no");
    }
    let yes_no = |yes| if yes { "yes" } else { "no" };
    let dhcp = if plan.dhcp { "ipv4" } else { "no" };
    let _ = writeln!(out, "\n[Network]\nDHCP={dhcp}\nIPv6AcceptRA={}", yes_no(plan.ra));
    if plan.dns && !plan.dhcp {
        for server in &state.dns {
            let _ = writeln!(out, "DNS={server}");
        }
        if !state.search.is_empty() {
            let _ = writeln!(out, "Domains={}", state.search.join(" "));
        }
    }
    if plan.dhcp {
        // The default identifier is made from the machine id, which a new system has another of, and would get another
        // lease. The hardware address stays.
        let _ = writeln!(out, "\n[DHCPv4]\nClientIdentifier=mac\nUseMTU=no");
    }
    for address in &plan.addresses {
        let _ = writeln!(out, "\n[Address]\nAddress={}/{}", address.ip, address.prefix);
        if let Some(peer) = address.peer {
            let _ = writeln!(out, "Peer={peer}/{}", address.prefix);
        }
        if address.scope != 0 {
            let _ = writeln!(out, "Scope={}", address.scope);
        }
        if address.preferred_s == Some(0) {
            let _ = writeln!(out, "PreferredLifetime=0");
        }
    }
    for route in &plan.routes {
        let _ = writeln!(out, "\n[Route]\nDestination={}", destination(route));
        if let Some(gateway) = route.gateway {
            let _ = writeln!(out, "Gateway={gateway}");
        }
        if route.onlink {
            let _ = writeln!(out, "GatewayOnLink=yes");
        }
        if let Some(metric) = metric(route) {
            let _ = writeln!(out, "Metric={metric}");
        }
        if let Some(source) = route.source {
            let _ = writeln!(out, "PreferredSource={source}");
        }
        if let Some(mtu) = route.mtu {
            let _ = writeln!(out, "MTUBytes={mtu}");
        }
        if !route.v6 && route.gateway.is_none() && route.scope == SCOPE_LINK {
            let _ = writeln!(out, "Scope=link");
        }
    }
    out
}
