use std::fmt::Write as _;

use anemos_proto::net::NetworkState;

use super::plan::{Files, HEADER, Plan, ip_address, ip_route, match_key, plan, resolv_conf};
use crate::links::mac_text;

/// interfaces(5), with a systemd.link(5) file for each link that pins its old name to its hardware address, because
/// ifupdown goes by names; and `etc/resolv.conf`.
pub fn ifupdown(state: &NetworkState) -> Files {
    let mut plans = plan(state);
    avoid_kernel_names(&mut plans);
    let mut text = format!("{HEADER}\nauto lo\niface lo inet loopback\n");
    let mut files = Files::new();
    for plan in &plans {
        text += &stanzas(plan);
        let link = format!(
            "{HEADER}[Match]\n{}={}\nType=ether\n\n[Link]\nName={}\n",
            match_key(plan.link),
            mac_text(plan.link.mac),
            plan.name
        );
        files.push((format!("etc/systemd/network/10-{}.link", plan.name).into(), link));
    }
    files.push(("etc/network/interfaces".into(), text));
    files.push(resolv_conf(state));
    files
}

/// Replaces names such as `eth0` by `lan0` if there are several links. The kernel gives out `eth0`, `eth1`, … in the
/// order of probing, so another link may already have the name when udev renames this one.
fn avoid_kernel_names(plans: &mut [Plan]) {
    if plans.len() < 2 {
        return;
    }
    for plan in plans {
        if let Some(number) = plan.name.strip_prefix("eth").filter(|rest| rest.parse::<u32>().is_ok()) {
            plan.name = format!("lan{number}");
        }
    }
}

fn stanzas(plan: &Plan) -> String {
    let mut out = format!("\nauto {}\n", plan.name);
    let mut mac = plan.link.set_mac;
    for v6 in [false, true] {
        let wants = |is_v6: bool| is_v6 == v6;
        let mut addresses: Vec<_> = plan.addresses.iter().filter(|a| wants(a.ip.is_ipv6())).collect();
        let routes = plan.routes.iter().filter(|route| wants(route.v6));
        let family = if v6 { "inet6" } else { "inet" };
        let plain = addresses.iter().position(|a| a.peer.is_none() && a.scope == 0 && a.preferred_s.is_none());
        if if v6 { plan.ra } else { plan.dhcp } {
            let _ = writeln!(out, "iface {} {family} {}", plan.name, if v6 { "auto" } else { "dhcp" });
        } else if let Some(address) = plain.map(|at| addresses.remove(at)) {
            let _ = writeln!(out, "iface {} {family} static", plan.name);
            let _ = writeln!(out, "    address {}/{}", address.ip, address.prefix);
            if v6 {
                let _ = writeln!(out, "    accept_ra 0");
            }
        } else if !v6 || !addresses.is_empty() || routes.clone().next().is_some() {
            let _ = writeln!(out, "iface {} {family} manual\n    up ip link set dev $IFACE up", plan.name);
        } else {
            continue;
        }
        if let Some(mac) = mac.take() {
            let _ = writeln!(out, "    pre-up ip link set dev $IFACE address {}", mac_text(mac));
        }
        if !v6 {
            let _ = writeln!(out, "    up ip link set dev $IFACE mtu {}", plan.link.mtu);
        }
        for address in addresses {
            let _ = writeln!(out, "    up ip address replace {} dev $IFACE", ip_address(address));
        }
        for route in routes {
            let _ = writeln!(out, "    up {}", ip_route(route, "$IFACE"));
        }
    }
    out
}
