use std::fmt::Write as _;

use anemos_proto::net::{LinkKind, NetworkState};

use super::made::{bridge_vlans, ip_link_add, ip_port, ip_rule};
use super::plan::{Files, HEADER, Plan, ip_address, ip_route, ip_ways, is_link_local, plan, resolv_conf};
use crate::apply::{in_order, oldest_first};
use crate::links::mac_text;

const FUNCTION: &str = r#"
# Whether the link in the directory $1 was made of others.
is_made() {
    while read -r line; do
        case $line in DEVTYPE=*) return 0 ;; esac
    done <"$1/uevent"
    return 1
}

# Prints the name of the link with hardware address $1, or $2, as soon as it is there. Names depend on who gives them.
link_with() {
    tries=0
    while [ "$tries" -lt 100 ]; do
        for link in /sys/class/net/*; do
            # The bonding driver has a file among them.
            [ -d "$link" ] || continue
            # What is made of a link has its address, as has a function below a virtual adapter.
            is_made "$link" && continue
            [ -e "$link/master" ] && ! is_made "$link/master" && continue
            file="$link/bonding_slave/perm_hwaddr"
            [ -e "$file" ] || file="$link/address"
            read -r mac <"$file" || continue
            if [ "$mac" = "$1" ] || [ "$mac" = "$2" ]; then
                echo "${link##*/}"
                return 0
            fi
        done
        tries=$((tries + 1))
        sleep 0.2
    done
    echo "network: no link has the address $1" >&2
    return 1
}

# Makes the link $1 part of $2, unless it is.
add_to() {
    [ -n "$1" ] && [ ! -e "/sys/class/net/$1/master" ] || return 0
    ip link set dev "$1" down
    ip link set dev "$1" master "$2"
}

ip link set dev lo up
"#;

/// A POSIX shell script, `etc/network.sh`, that needs nothing but ip(8), and bridge(8) of the same package where a
/// bridge filters VLANs; and `etc/resolv.conf`. No DHCP client is assumed, so leased addresses become static. The
/// script goes on after a command that fails.
pub fn iproute2(state: &NetworkState) -> Files {
    let mut text = format!("#!/bin/sh\n{HEADER}{FUNCTION}");
    let plans = plan(state);
    let made: Vec<&Plan> = plans.iter().filter(|plan| plan.link.kind.can_be_made()).collect();
    // A variable has the name of a card that something stands on, or that a rule names, or a route with others.
    let is_named = |plan: &&Plan| {
        let name = Some(&plan.link.name);
        made.iter().any(|made| made.link.below.contains(&plan.link.id))
            || state.routes.iter().any(|route| !route.hops.is_empty() && route.leads_through(plan.link.id))
            || state.rules.iter().any(|rule| rule.iif.as_ref() == name || rule.oif.as_ref() == name)
    };
    for plan in plans.iter().filter(|plan| plan.link.kind == LinkKind::Card).filter(is_named) {
        let _ = write!(text, "\n{}=$(link_with {})\n", variable(plan), macs(plan));
        if let Some(mac) = plan.link.set_mac {
            let _ = writeln!(text, "ip link set dev \"${}\" address {}", variable(plan), mac_text(mac));
        }
        let _ = writeln!(text, "ip link set dev \"${}\" mtu {}", variable(plan), plan.link.mtu);
    }
    for plan in &made {
        text += &make(plan, &plans);
    }
    for plan in plans.iter().filter(|plan| plan.link.up) {
        text += &commands(plan, state);
    }
    for route in state.routes.iter().filter(|route| !route.hops.is_empty()) {
        let name = |id| plans.iter().find(|plan| plan.link.id == id).map(in_shell);
        let _ = write!(text, "\n{}\n", ip_ways(route, name));
    }
    for rule in &state.rules {
        let name = |old: &str| {
            let plan = plans.iter().find(|plan| plan.link.name == old);
            plan.map_or_else(|| super::plan::plain(old), in_shell)
        };
        let family = if rule.v6 { "-6" } else { "-4" };
        let rule = ip_rule(rule, name);
        let _ = write!(text, "\nip {family} rule delete {rule} 2>/dev/null\nip {family} rule add {rule}\n");
    }
    vec![("etc/network.sh".into(), text), resolv_conf(state)]
}

fn variable(plan: &Plan) -> String {
    format!("card{}", plan.link.id.0)
}

/// A link's name for the shell.
fn in_shell(plan: &Plan) -> String {
    if plan.link.kind == LinkKind::Card { format!("\"${}\"", variable(plan)) } else { plan.name.clone() }
}

/// The addresses of a card. The script may run again, when the card has the address that it was given.
fn macs(plan: &Plan) -> String {
    let macs: Vec<String> = [Some(plan.link.mac), plan.link.set_mac].into_iter().flatten().map(mac_text).collect();
    macs.join(" ")
}

/// Commands that make a link, and give it its members.
fn make(plan: &Plan, plans: &[Plan]) -> String {
    let name = &plan.name;
    let lower = |id| plans.iter().find(|plan| plan.link.id == id).map(in_shell);
    let members: Vec<String> = plan.link.below.iter().filter_map(|id| lower(*id)).collect();
    let first = members.first().cloned().unwrap_or_default();
    let mut out = format!("\n[ -e /sys/class/net/{name} ] ||\n    ip link add {}\n", ip_link_add(plan, &first));
    if plan.link.kind.is_master() {
        for member in &members {
            let _ = writeln!(out, "add_to {member} {name}");
        }
    }
    for port in plan.link.below.iter().filter_map(|id| plans.iter().find(|port| port.link.id == *id)) {
        if let Some(command) = ip_port(port.link, plan.link, &in_shell(port)) {
            let _ = writeln!(out, "{command}");
        }
    }
    if let LinkKind::Vrf { .. } = plan.link.kind {
        // The routes of its members are in its table, and wait for it.
        let _ = writeln!(out, "ip link set dev {name} up");
    }
    if let LinkKind::Bond(bond) = &plan.link.kind
        && let Some(primary) = bond.primary.and_then(lower)
    {
        let _ = writeln!(out, "ip link set dev {name} type bond primary {primary}");
    }
    if crate::vlans::filters(plan.link) {
        let ports = plan.link.below.iter().filter_map(|id| plans.iter().find(|port| port.link.id == *id));
        let ports = ports.map(|port| bridge_vlans(plan.link, port.link, &in_shell(port)));
        for command in ports.chain([bridge_vlans(plan.link, plan.link, name)]).flatten() {
            let _ = writeln!(out, "{command}");
        }
    }
    out
}

/// Commands that bring a link up, with its addresses and routes.
fn commands(plan: &Plan, state: &NetworkState) -> String {
    let link = plan.link;
    let mut out = match link.kind {
        LinkKind::Card => format!("\nif dev=$(link_with {}); then\n", macs(plan)),
        _ => format!("\ndev={}\nif [ -e \"/sys/class/net/$dev\" ]; then\n", plan.name),
    };
    let mut line = |text: &str| {
        let _ = writeln!(out, "    {text}");
    };
    // The host reaches routers from its link-local address, which duplicate address detection would block for a second.
    line(r#"[ ! -d "/proc/sys/net/ipv6/conf/$dev" ] || echo 0 >"/proc/sys/net/ipv6/conf/$dev/accept_dad""#);
    if let Some(mac) = link.set_mac {
        line(&format!(r#"ip link set dev "$dev" address {}"#, mac_text(mac)));
    }
    line(&format!(r#"ip link set dev "$dev" mtu {} up"#, link.mtu));
    for address in oldest_first(link).filter(|address| !is_link_local(address)) {
        line(&format!(r#"ip address replace {} dev "$dev""#, ip_address(address)));
    }
    for route in in_order(&state.routes).into_iter().filter(|route| route.link == link.id && route.hops.is_empty()) {
        line(&ip_route(route, r#""$dev""#));
    }
    out + "fi\n"
}
