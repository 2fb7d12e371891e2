use std::fmt::Write as _;

use anemos_proto::net::{Link, LinkKind, NetworkState};

use super::plan::{Files, HEADER, ip_address, ip_route, is_link_local, resolv_conf};
use crate::apply::{in_order, oldest_first};
use crate::links::mac_text;
use crate::wire::TABLE_MAIN;

const FUNCTION: &str = r#"
# Prints the name of the link with hardware address $1, or $2, as soon as it is there. Names depend on who gives them.
link_with() {
    tries=0
    while [ "$tries" -lt 100 ]; do
        for link in /sys/class/net/*; do
            # A function below a virtual adapter has the adapter's address, and a master.
            [ ! -e "$link/master" ] && read -r mac <"$link/address" || continue
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

ip link set dev lo up
"#;

/// A POSIX shell script, `etc/network.sh`, that needs nothing but ip(8), and `etc/resolv.conf`. No DHCP client is
/// assumed, so leased addresses become static. The script goes on after a command that fails.
pub fn iproute2(state: &NetworkState) -> Files {
    let mut text = format!("#!/bin/sh\n{HEADER}{FUNCTION}");
    for link in state.links.iter().filter(|link| link.kind == LinkKind::Card && link.up) {
        text += &commands(link, state);
    }
    vec![("etc/network.sh".into(), text), resolv_conf(state)]
}

fn commands(link: &Link, state: &NetworkState) -> String {
    // The script may run again, when the link has the address that it was given.
    let macs: Vec<String> = [Some(link.mac), link.set_mac].into_iter().flatten().map(mac_text).collect();
    let mut out = format!("\nif dev=$(link_with {}); then\n", macs.join(" "));
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
    let routes = in_order(&state.routes).into_iter().filter(|route| route.link == link.id);
    for route in routes.filter(|route| route.table == TABLE_MAIN) {
        line(&ip_route(route, r#""$dev""#));
    }
    out + "fi\n"
}
