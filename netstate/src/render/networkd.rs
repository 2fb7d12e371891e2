use std::fmt::Write as _;
use std::net::IpAddr;

use anemos_proto::net::{Address, Link, LinkKind, NetworkState, PortVlans, Route, Rule};

use super::made::{below, bond_mode, macvlan_mode, options, pairs, port_options, renamed, vlan_flags, vlan_protocol};
use super::plan::{
    Files, HEADER, Plan, SCOPE_LINK, client_id, destination, hex, match_key, metric, name_of, plan, resolv_conf,
};
use crate::kinds;
use crate::links::mac_text;
use crate::vlans::range;
use crate::wire::TABLE_MAIN;

/// systemd.network(5) files, one a link, a systemd.netdev(5) file for each link that is made, and `etc/resolv.conf` for
/// systems without systemd-resolved.
pub fn networkd(state: &NetworkState) -> Files {
    let plans = plan(state);
    let mut files = Files::new();
    for plan in &plans {
        if plan.link.kind.can_be_made() {
            files.push((format!("etc/systemd/network/10-{}.netdev", plan.name).into(), netdev(plan)));
        }
        files.push((format!("etc/systemd/network/10-{}.network", plan.name).into(), network(plan, &plans, state)));
    }
    files.push(resolv_conf(state));
    files
}

fn yes_no(yes: bool) -> &'static str {
    if yes { "yes" } else { "no" }
}

/// What makes a link.
fn netdev(plan: &Plan) -> String {
    let link = plan.link;
    let mut out = format!("{HEADER}[NetDev]\nName={}\nKind={}\n", plan.name, link.kind.name());
    if plan.has_own_mac {
        let _ = writeln!(out, "MACAddress={}", mac_text(link.mac));
    }
    match &link.kind {
        LinkKind::Vlan { id, protocol, flags, egress, ingress } => {
            let _ = writeln!(out, "\n[VLAN]\nId={id}");
            if *protocol == kinds::VLAN_8021AD {
                let _ = writeln!(out, "Protocol={}", vlan_protocol(*protocol));
            }
            for (_, word, on) in vlan_flags(*flags) {
                let _ = writeln!(out, "{word}={}", yes_no(on));
            }
            for (word, map) in [("Egress", egress), ("Ingress", ingress)] {
                let pairs: Vec<_> = pairs(map, "-").collect();
                if !pairs.is_empty() {
                    let _ = writeln!(out, "{word}QOSMaps={}", pairs.join(" "));
                }
            }
        }
        LinkKind::Bond(bond) => {
            let _ = writeln!(out, "\n[Bond]\nMode={}", bond_mode(bond));
            let targets: Vec<String> = bond.targets.iter().filter(|ip| ip.is_ipv4()).map(ToString::to_string).collect();
            if !targets.is_empty() {
                let _ = writeln!(out, "ARPIPTargets={}", targets.join(" "));
            }
        }
        LinkKind::Bridge { .. } => {
            let stp = link.kind.option(kinds::BRIDGE_STP).is_some_and(|stp| stp != 0);
            let _ = writeln!(out, "\n[Bridge]\nSTP={}", yes_no(stp));
        }
        LinkKind::Macvlan { mode, .. } => {
            let _ = writeln!(out, "\n[MACVLAN]\nMode={}", macvlan_mode(*mode));
        }
        LinkKind::Vrf { table } => {
            let _ = writeln!(out, "\n[VRF]\nTable={table}");
        }
        LinkKind::Dummy | LinkKind::Card | LinkKind::Made(_) | LinkKind::Loopback => {}
    }
    for (word, value) in options(&link.kind) {
        let (key, unit) = word.networkd;
        let no_pvid = key == "DefaultPVID" && value == "0";
        if !key.is_empty() {
            let _ = writeln!(out, "{key}={}{unit}", if no_pvid { "none" } else { &value });
        }
    }
    out
}

fn network(plan: &Plan, plans: &[Plan], state: &NetworkState) -> String {
    let link = plan.link;
    let mut out = HEADER.to_owned();
    if link.kind == LinkKind::Card {
        // A VLAN or a bridge on top of the card has the card's address too, but it has a kind, and a card has none.
        let _ = writeln!(out, "[Match]\n{}={}\nType=ether\nKind=!*\n", match_key(link), mac_text(link.mac));
    } else {
        let _ = writeln!(out, "[Match]\nName={}\n", plan.name);
    }
    let _ = writeln!(out, "[Link]\nMTUBytes={}", link.mtu);
    if let Some(mac) = link.set_mac {
        let _ = writeln!(out, "MACAddress={}", mac_text(mac));
    }
    if !plan.dns {
        let _ = writeln!(out, "RequiredForOnline=no");
    }
    let dhcp = if plan.dhcp { "ipv4" } else { "no" };
    let _ = writeln!(out, "\n[Network]\nDHCP={dhcp}\nIPv6AcceptRA={}", yes_no(plan.ra));
    for above in plans.iter().filter(|above| above.link.below.contains(&link.id)) {
        let key = match &above.link.kind {
            LinkKind::Vlan { .. } => "VLAN",
            LinkKind::Macvlan { .. } => "MACVLAN",
            LinkKind::Bond(bond) => {
                if bond.primary == Some(link.id) {
                    let _ = writeln!(out, "PrimarySlave=yes");
                }
                "Bond"
            }
            LinkKind::Bridge { .. } => "Bridge",
            LinkKind::Vrf { .. } => "VRF",
            _ => continue,
        };
        let _ = writeln!(out, "{key}={}", above.name);
    }
    if link.kind.is_master() && below(plans, plan).is_empty() {
        // It has no port that could have a carrier.
        let _ = writeln!(out, "ConfigureWithoutCarrier=yes");
    }
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
        // lease. What the old system was known by stays, or else the hardware address.
        let id = client_section(link).unwrap_or_else(|| "[DHCPv4]\nClientIdentifier=mac\n".to_owned());
        let _ = writeln!(out, "\n{id}UseMTU=no");
    }
    let mut options = port_options(link, plan.master).filter(|(word, _)| !word.networkd.is_empty()).peekable();
    if options.peek().is_some() {
        let _ = writeln!(out, "\n[Bridge]");
    }
    for (word, value) in options {
        let _ = writeln!(out, "{}={}", word.networkd, value.text(["no", "yes"]));
    }
    for vlans in &link.vlans {
        bridge_vlan(&mut out, *vlans);
    }
    for address in &plan.addresses {
        self::address(&mut out, address);
    }
    for route in &plan.routes {
        self::route(&mut out, route, plans);
    }
    for rule in &plan.rules {
        self::rule(&mut out, rule, plans);
    }
    out
}

/// The section with the client identifier of a link, if it is of a form for which there are words.
pub fn client_section(link: &Link) -> Option<String> {
    let (iaid, duid) = client_id(link)?;
    let (kind, data) = duid.split_first_chunk()?;
    // It asks for no lease at all where a DUID is not as long as it thinks that one of its type has to be.
    let word = match (u16::from_be_bytes(*kind), data.len()) {
        (1, 7..) => "link-layer-time",
        (2, 12) => "vendor",
        (3, 3..) => "link-layer",
        (4, 16) => "uuid",
        _ => return None,
    };
    Some(format!("[DHCPv4]\nClientIdentifier=duid\nIAID={iaid}\nDUIDType={word}\nDUIDRawData={}\n", hex(data)))
}

fn bridge_vlan(out: &mut String, vlans: PortVlans) {
    let range = range(vlans);
    let _ = writeln!(out, "\n[BridgeVLAN]\nVLAN={range}");
    if vlans.untagged {
        let _ = writeln!(out, "EgressUntagged={range}");
    }
    if vlans.pvid {
        let _ = writeln!(out, "PVID={}", vlans.first);
    }
}

fn address(out: &mut String, address: &Address) {
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

/// Whether there are words for all next hops of a route.
pub fn knows_hops(route: &Route) -> bool {
    route.hops.iter().all(|hop| !hop.onlink && hop.gateway.is_some_and(|gateway| gateway.is_ipv6() == route.v6))
}

fn route(out: &mut String, route: &Route, plans: &[Plan]) {
    let _ = writeln!(out, "\n[Route]\nDestination={}", destination(route));
    let hops = if knows_hops(route) { &route.hops[..] } else { &[] };
    for hop in hops {
        let Some(gateway) = hop.gateway else { continue };
        // Cards may be called otherwise, and the kernel finds the link of an address in a network of its own.
        let is_clear = !matches!(gateway, IpAddr::V6(ip) if ip.is_unicast_link_local())
            && plans.iter().any(|plan| plan.link.id == hop.link && plan.link.kind == LinkKind::Card);
        let name = name_of(plans, hop.link).filter(|_| !is_clear).map(|name| format!("@{name}")).unwrap_or_default();
        let _ = writeln!(out, "MultiPathRoute={gateway}{name} {}", hop.weight);
    }
    if let Some(gateway) = route.gateway.filter(|_| hops.is_empty()) {
        let _ = writeln!(out, "Gateway={gateway}");
    }
    if route.onlink && hops.is_empty() {
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
    if route.table != TABLE_MAIN {
        let _ = writeln!(out, "Table={}", route.table);
    }
}

fn rule(out: &mut String, rule: &Rule, plans: &[Plan]) {
    let _ = writeln!(out, "\n[RoutingPolicyRule]\nTable={}\nPriority={}", rule.table, rule.priority);
    for (key, prefix) in [("From", rule.source), ("To", rule.destination)] {
        if let Some((ip, length)) = prefix {
            let _ = writeln!(out, "{key}={ip}/{length}");
        }
    }
    if rule.source.is_none() && rule.destination.is_none() {
        let _ = writeln!(out, "Family={}", if rule.v6 { "ipv6" } else { "ipv4" });
    }
    for (key, name) in [("IncomingInterface", &rule.iif), ("OutgoingInterface", &rule.oif)] {
        if let Some(name) = name {
            let _ = writeln!(out, "{key}={}", renamed(plans, name));
        }
    }
    if let Some((mark, mask)) = rule.mark {
        let _ = writeln!(out, "FirewallMark={mark}/{mask}");
    }
    if rule.inverted {
        let _ = writeln!(out, "InvertRule=yes");
    }
    if let Some(length) = rule.suppress {
        let _ = writeln!(out, "SuppressPrefixLength={length}");
    }
}
