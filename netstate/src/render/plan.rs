//! What every configuration says, whatever its language.

use std::net::IpAddr;
use std::path::PathBuf;

use anemos_proto::net::{Address, Link, LinkKind, NetworkState, Route};

use crate::apply::in_order;
use crate::resolv::write_resolv_conf;
use crate::wire::{PROTOCOL_RA, TABLE_MAIN};

/// Files of a configuration: path below the new system's root, and text.
pub type Files = Vec<(PathBuf, String)>;

/// `RTPROT_DHCP`.
const PROTOCOL_DHCP: u8 = 16;
/// `RTPROT_STATIC`.
const PROTOCOL_STATIC: u8 = 4;
/// `RT_SCOPE_LINK`.
pub const SCOPE_LINK: u8 = 253;

pub const HEADER: &str = "# Written by Anemos at deployment, from the network as it was under the old system.\n";

/// A link as a configuration wants it.
pub struct Plan<'a> {
    pub link: &'a Link,
    /// Fit for file names and configuration languages.
    pub name: String,
    /// Whether IPv4 comes by DHCP.
    pub dhcp: bool,
    /// Whether IPv6 comes from router advertisements (and from DHCPv6, if they say so).
    pub ra: bool,
    /// Addresses that do not come by themselves.
    pub addresses: Vec<&'a Address>,
    /// Routes that do not come by themselves, in an order in which they can be added.
    pub routes: Vec<&'a Route>,
    /// Whether the name servers are written here: they are reached through this link.
    pub dns: bool,
}

pub fn plan(state: &NetworkState) -> Vec<Plan<'_>> {
    let cards = || state.links.iter().filter(|link| link.kind == LinkKind::Card);
    let is_rendered = |route: &&Route| route.table == TABLE_MAIN;
    let routes_of = |link: &Link| {
        in_order(&state.routes)
            .into_iter()
            .filter(is_rendered)
            .filter(|route| route.link == link.id)
            .collect::<Vec<_>>()
    };
    let has_default = |link: &Link| routes_of(link).iter().any(|route| route.destination.is_none());
    let gateway = cards().find(|link| has_default(link)).or_else(|| cards().next());
    cards()
        .map(|link| {
            let routes = routes_of(link);
            let leased = |address: &Address| address.valid_s.is_some() || address.autoconf;
            let dhcp = link.addresses.iter().any(|address| address.ip.is_ipv4() && leased(address));
            let ra = link.addresses.iter().any(|address| address.ip.is_ipv6() && leased(address))
                || routes.iter().any(|route| route.v6 && route.protocol == PROTOCOL_RA);
            let comes_by_itself = |route: &Route| {
                let default = route.destination.is_none() && route.protocol != PROTOCOL_STATIC;
                if route.v6 {
                    ra && route.protocol == PROTOCOL_RA
                } else {
                    dhcp && (route.protocol == PROTOCOL_DHCP || default)
                }
            };
            Plan {
                link,
                name: plain(&link.name),
                dhcp,
                ra,
                addresses: link
                    .addresses
                    .iter()
                    .filter(|address| !leased(address) && !is_link_local(address))
                    .collect(),
                routes: routes.into_iter().filter(|route| !comes_by_itself(route)).collect(),
                dns: gateway.is_some_and(|gateway| gateway.id == link.id),
            }
        })
        .collect()
}

/// Whether every system gives its links such an address by itself.
pub fn is_link_local(address: &Address) -> bool {
    matches!(address.ip, IpAddr::V6(ip) if ip.is_unicast_link_local())
}

/// The name with all characters replaced that a file name or a configuration language may not take.
fn plain(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' }).collect()
}

/// By what systemd is to know a card from its address. One that is given another address must be found by its own all
/// the same; older versions of systemd know the present address only.
pub fn match_key(link: &Link) -> &'static str {
    if link.set_mac.is_some() { "PermanentMACAddress" } else { "MACAddress" }
}

/// `192.0.2.0/24`; the default route in full too, since only that tells the families apart.
pub fn destination(route: &Route) -> String {
    match route.destination {
        Some((ip, prefix)) => format!("{ip}/{prefix}"),
        None if route.v6 => "::/0".to_owned(),
        None => "0.0.0.0/0".to_owned(),
    }
}

/// The metric, unless it is the one that the kernel takes by default: 0, and 1024 for IPv6.
pub fn metric(route: &Route) -> Option<u32> {
    (route.metric != if route.v6 { 1024 } else { 0 }).then_some(route.metric).filter(|metric| *metric != 0)
}

/// Arguments of `ip address replace` for a device given separately.
pub fn ip_address(address: &Address) -> String {
    let Address { ip, prefix, peer, .. } = address;
    let mut words = vec![peer.map_or_else(|| format!("{ip}/{prefix}"), |peer| format!("{ip} peer {peer}/{prefix}"))];
    if address.ip.is_ipv6() {
        words.push("nodad".into());
    } else if peer.is_none() && (1..=30).contains(prefix) {
        words.push("broadcast +".into());
    }
    if address.scope != 0 {
        words.push(format!("scope {}", address.scope));
    }
    if address.preferred_s == Some(0) {
        words.push("preferred_lft 0".into());
    }
    words.join(" ")
}

/// A command that adds a route on `device`, or replaces the one that is there.
pub fn ip_route(route: &Route, device: &str) -> String {
    let mut words = vec![format!("ip {} route replace {}", if route.v6 { "-6" } else { "-4" }, destination(route))];
    if let Some(gateway) = route.gateway {
        let family = if gateway.is_ipv6() && !route.v6 { "inet6 " } else { "" };
        words.push(format!("via {family}{gateway}"));
    }
    words.push(format!("dev {device}"));
    if route.onlink {
        words.push("onlink".into());
    }
    words.extend(metric(route).map(|metric| format!("metric {metric}")));
    words.extend(route.source.map(|source| format!("src {source}")));
    words.extend(route.mtu.map(|mtu| format!("mtu {mtu}")));
    if !route.v6 && route.gateway.is_none() {
        words.push(format!("scope {}", route.scope));
    }
    words.push("proto static".into());
    words.join(" ")
}

pub fn resolv_conf(state: &NetworkState) -> (PathBuf, String) {
    ("etc/resolv.conf".into(), HEADER.to_owned() + &write_resolv_conf(state))
}
