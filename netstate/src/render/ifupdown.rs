use std::fmt::Write as _;

use anemos_proto::net::{Link, LinkKind, NetworkState};

use super::made::{below, bridge_vlans, ip_link_add, ip_port, ip_rule, renamed};
use super::plan::{
    Files, HEADER, Plan, client_id, hex, ip_address, ip_route, ip_ways, match_key, name_of, other_id, plan, resolv_conf,
};
use crate::leases::tail;
use crate::links::mac_text;

/// interfaces(5), with a systemd.link(5) file for each card that pins its old name to its hardware address, because
/// ifupdown goes by names; and `etc/resolv.conf`.
///
/// Links are made by ip(8), which ifupdown needs anyway: its own words for VLANs, bonds and bridges are those of
/// further packages, each with a part of what the kernel has.
pub fn ifupdown(state: &NetworkState) -> Files {
    let mut plans = plan(state);
    avoid_kernel_names(&mut plans);
    let mut text = format!("{HEADER}\nauto lo\niface lo inet loopback\n");
    let mut files = Files::new();
    // A link loses its addresses when it joins a VRF, so it joins before it gets them.
    plans.sort_by_key(|plan| !matches!(plan.link.kind, LinkKind::Vrf { .. }));
    for plan in &plans {
        text += &stanzas(plan, &plans);
        if plan.link.kind == LinkKind::Card {
            let link = format!(
                "{HEADER}[Match]\n{}={}\nType=ether\n\n[Link]\nName={}\n",
                match_key(plan.link),
                mac_text(plan.link.mac),
                plan.name
            );
            files.push((format!("etc/systemd/network/10-{}.link", plan.name).into(), link));
        }
    }
    for plan in plans.iter().filter(|plan| plan.dhcp) {
        if let Some(duid) = dhclient_duid(plan.link) {
            let escaped = duid.iter().map(|byte| format!("\\{byte:03o}")).collect::<Vec<_>>().concat();
            let path = format!("var/lib/dhcp/dhclient.{}.leases", plan.name);
            files.push((path.into(), format!("default-duid \"{escaped}\";\n")));
        }
    }
    files.push(("etc/network/interfaces".into(), text));
    files.push(resolv_conf(state));
    files
}

/// Replaces names such as `eth0` by `lan0` if there are several cards. The kernel gives out `eth0`, `eth1`, … in the
/// order of probing, so another card may already have the name when udev renames this one.
fn avoid_kernel_names(plans: &mut [Plan]) {
    let is_card = |plan: &&mut Plan| plan.link.kind == LinkKind::Card;
    if plans.iter_mut().filter(is_card).count() < 2 {
        return;
    }
    for plan in plans.iter_mut().filter(is_card) {
        if let Some(number) = plan.name.strip_prefix("eth").filter(|rest| rest.parse::<u32>().is_ok()) {
            plan.name = format!("lan{number}");
        }
    }
}

/// The DUID of which a link's client identifier is made, if dhclient makes the same of it, as Debian's ifupdown has it
/// do.
pub fn dhclient_duid(link: &Link) -> Option<&[u8]> {
    let (iaid, duid) = client_id(link)?;
    (iaid.to_be_bytes() == tail(link.set_mac.unwrap_or(link.mac))).then_some(duid)
}

fn stanzas(plan: &Plan, plans: &[Plan]) -> String {
    // Its stanza is there already.
    let is_loopback = plan.link.kind == LinkKind::Loopback;
    let mut out = if is_loopback { String::new() } else { format!("\nauto {}\n", plan.name) };
    let mut first = make(plan, plans);
    for v6 in [false, true] {
        let wants = |is_v6: bool| is_v6 == v6;
        let mut addresses: Vec<_> = plan.addresses.iter().filter(|a| wants(a.ip.is_ipv6())).collect();
        let routes = plan.routes.iter().filter(|route| wants(route.v6) && route.hops.is_empty());
        let ways = plan.ways.iter().filter(|route| wants(route.v6));
        let rules = plan.rules.iter().filter(|rule| wants(rule.v6));
        let is_empty = addresses.is_empty()
            && routes.clone().chain(ways.clone()).next().is_none()
            && rules.clone().next().is_none();
        let family = if v6 { "inet6" } else { "inet" };
        let plain = addresses.iter().position(|a| a.peer.is_none() && a.scope == 0 && a.preferred_s.is_none());
        if is_loopback {
            if !v6 && !is_empty {
                // Goes on with the stanza of the loopback link.
            } else if v6 && !is_empty {
                let _ = writeln!(out, "iface {} {family} loopback", plan.name);
            } else {
                continue;
            }
        } else if if v6 { plan.ra } else { plan.dhcp } {
            let _ = writeln!(out, "iface {} {family} {}", plan.name, if v6 { "auto" } else { "dhcp" });
            if let Some(id) = other_id(plan.link).filter(|_| !v6) {
                // dhcpcd asks by it. dhclient has a DUID in its own file.
                let _ = writeln!(out, "    client {}", hex(id));
            }
        } else if let Some(address) = plain.map(|at| addresses.remove(at)) {
            let _ = writeln!(out, "iface {} {family} static", plan.name);
            let _ = writeln!(out, "    address {}/{}", address.ip, address.prefix);
            if v6 {
                let _ = writeln!(out, "    accept_ra 0");
            }
        } else if !v6 || !is_empty {
            let _ = writeln!(out, "iface {} {family} manual\n    up ip link set dev $IFACE up", plan.name);
        } else {
            continue;
        }
        for command in first.drain(..) {
            let _ = writeln!(out, "    pre-up {command}");
        }
        if !v6 && !is_loopback {
            let _ = writeln!(out, "    up ip link set dev $IFACE mtu {}", plan.link.mtu);
        }
        for address in addresses {
            let _ = writeln!(out, "    up ip address replace {} dev $IFACE", ip_address(address));
        }
        for route in routes {
            let _ = writeln!(out, "    up {}", ip_route(route, "$IFACE"));
        }
        for route in ways {
            let _ = writeln!(out, "    up {}", ip_ways(route, |id| name_of(plans, id).map(str::to_owned)));
        }
        for rule in rules {
            let family = if v6 { "-6" } else { "-4" };
            let rule = ip_rule(rule, |old| renamed(plans, old));
            let _ =
                writeln!(out, "    up ip {family} rule add {rule} || true\n    down ip {family} rule delete {rule}");
        }
    }
    out
}

/// Commands before a link is up: they make it and give it its members, or give a card its address.
fn make(plan: &Plan, plans: &[Plan]) -> Vec<String> {
    let link = plan.link;
    let mut commands = Vec::new();
    if let Some(mac) = link.set_mac {
        commands.push(format!("ip link set dev $IFACE address {}", mac_text(mac)));
    }
    if link.kind.can_be_made() {
        commands.extend(make_link(plan, plans));
    }
    if let Some(vrf) = plan.master.filter(|master| matches!(master.kind, LinkKind::Vrf { .. })) {
        commands.extend(name_of(plans, vrf.id).map(|vrf| format!("ip link set dev $IFACE master {vrf}")));
    }
    commands
}

fn make_link(plan: &Plan, plans: &[Plan]) -> Vec<String> {
    let link = plan.link;
    let mut commands = Vec::new();
    let members = below(plans, plan);
    let add = ip_link_add(plan, members.first().unwrap_or(&""));
    commands.push(format!("test -e /sys/class/net/$IFACE || ip link add {add}"));
    if link.kind.is_master() && !matches!(link.kind, LinkKind::Vrf { .. }) {
        for member in &members {
            commands.push(format!(
                "test -e /sys/class/net/{member}/master || {{ ip link set dev {member} down && \
                 ip link set dev {member} master $IFACE && ip link set dev {member} up; }}"
            ));
        }
    }
    for port in link.below.iter().filter_map(|id| plans.iter().find(|port| port.link.id == *id)) {
        // The new system's kernel may not know them all.
        commands.extend(ip_port(port.link, link, &port.name).map(|command| format!("{command} || true")));
    }
    if let LinkKind::Bond(bond) = &link.kind
        && let Some(primary) = bond.primary.and_then(|id| name_of(plans, id))
    {
        commands.push(format!("ip link set dev $IFACE type bond primary {primary}"));
    }
    if crate::vlans::filters(link) {
        let ports = link.below.iter().filter_map(|id| plans.iter().find(|port| port.link.id == *id));
        commands.extend(ports.flat_map(|port| bridge_vlans(link, port.link, &port.name)));
        commands.extend(bridge_vlans(link, link, "$IFACE"));
    }
    commands
}
