//! What every configuration says, whatever its language.

use std::net::IpAddr;
use std::path::PathBuf;

use anemos_proto::net::{Address, Link, LinkId, LinkKind, NetworkState, Route, Rule};

use crate::apply::in_order;
use crate::reach::bottom_up;
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
    /// The bond, bridge or VRF that it belongs to.
    pub master: Option<&'a Link>,
    /// Whether a made link is to be given its hardware address: it would not have it by itself.
    pub has_own_mac: bool,
    /// Whether IPv4 comes by DHCP.
    pub dhcp: bool,
    /// Whether IPv6 comes from router advertisements (and from DHCPv6, if they say so).
    pub ra: bool,
    /// Addresses that do not come by themselves.
    pub addresses: Vec<&'a Address>,
    /// Routes that do not come by themselves, in an order in which they can be added. Those with several next hops are
    /// with the link of the one that is written where there are no words for several.
    pub routes: Vec<&'a Route>,
    /// Routes with several next hops of which this is the last link: the others come before it.
    pub ways: Vec<&'a Route>,
    /// Rules for the routing tables of which it has routes, or for which no link has.
    pub rules: Vec<&'a Rule>,
    /// Whether the name servers are written here: they are reached through this link.
    pub dns: bool,
}

/// The links that can be rendered, each after those that it stands on.
pub fn plan(state: &NetworkState) -> Vec<Plan<'_>> {
    let links: Vec<&Link> = bottom_up(&state.links);
    let links: Vec<&Link> = links.into_iter().filter(|link| !matches!(link.kind, LinkKind::Made(_))).collect();
    let routes_of =
        |link: &Link| in_order(&state.routes).into_iter().filter(|route| route.link == link.id).collect::<Vec<_>>();
    let has_default =
        |link: &Link| routes_of(link).iter().any(|route| route.destination.is_none() && route.table == TABLE_MAIN);
    let master_of = |link: &Link| links.iter().find(|other| other.kind.is_master() && other.below.contains(&link.id));
    let is_free = |link: &&&Link| link.kind != LinkKind::Loopback && master_of(link).is_none();
    let gateway = links.iter().find(|link| has_default(link)).or_else(|| links.iter().find(is_free));
    let is_gateway = |link: &Link| gateway.is_some_and(|gateway| gateway.id == link.id);
    // Each rule goes with one link.
    let holder = |rule: &Rule| {
        let of_table = state.routes.iter().find(|route| route.table == rule.table && route.table != TABLE_MAIN);
        of_table.map(|route| route.link).or_else(|| gateway.map(|link| link.id))
    };
    let is_last = |route: &Route, link: &Link| {
        let last = links.iter().rev().find(|link| route.leads_through(link.id));
        !route.hops.is_empty() && last.is_some_and(|last| last.id == link.id)
    };
    links
        .iter()
        .map(|link| {
            let routes = routes_of(link);
            let leased = |address: &Address| address.valid_s.is_some() || address.autoconf;
            let dhcp = link.addresses.iter().any(|address| address.ip.is_ipv4() && leased(address));
            let ra = link.addresses.iter().any(|address| address.ip.is_ipv6() && leased(address))
                || routes.iter().any(|route| route.v6 && route.protocol == PROTOCOL_RA);
            let comes_by_itself = |route: &Route| {
                let default = route.destination.is_none() && route.protocol != PROTOCOL_STATIC;
                let comes = if route.v6 {
                    ra && route.protocol == PROTOCOL_RA
                } else {
                    dhcp && (route.protocol == PROTOCOL_DHCP || default)
                };
                comes && route.table == TABLE_MAIN
            };
            let lower = link.below.first().and_then(|id| state.link(*id));
            let lower_mac = lower.map(|lower| lower.set_mac.unwrap_or(lower.mac));
            Plan {
                link,
                name: plain(&link.name),
                master: master_of(link).copied(),
                has_own_mac: match link.kind {
                    LinkKind::Card | LinkKind::Made(_) | LinkKind::Loopback => false,
                    // It has that of the link below it.
                    LinkKind::Vlan { .. } => lower_mac != Some(link.mac),
                    _ => true,
                },
                dhcp,
                ra,
                addresses: link
                    .addresses
                    .iter()
                    .filter(|address| !leased(address) && !is_link_local(address))
                    .collect(),
                routes: routes.into_iter().filter(|route| !comes_by_itself(route)).collect(),
                ways: state.routes.iter().filter(|route| is_last(route, link)).collect(),
                rules: state.rules.iter().filter(|rule| holder(rule) == Some(link.id)).collect(),
                dns: is_gateway(link),
            }
        })
        .collect()
}

/// The name of the link with this id.
pub fn name_of<'p>(plans: &'p [Plan], id: LinkId) -> Option<&'p str> {
    plans.iter().find(|plan| plan.link.id == id).map(|plan| &*plan.name)
}

/// The parts of a client identifier that is made of them (RFC 4361): the IAID, and the DUID. `None` for any other, such
/// as a hardware address.
pub fn client_id(link: &Link) -> Option<(u32, &[u8])> {
    let (255, rest) = link.client_id.split_first()? else { return None };
    let (iaid, duid) = rest.split_first_chunk()?;
    (duid.len() > 2).then_some((u32::from_be_bytes(*iaid), duid))
}

/// The client identifier by which a link asks, unless it is that of its hardware address.
pub fn other_id(link: &Link) -> Option<&[u8]> {
    let of_card = [&[1], &link.set_mac.unwrap_or(link.mac)[..]].concat();
    Some(&*link.client_id).filter(|id| !id.is_empty() && *id != of_card)
}

/// `ff:00:1a`.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
}

/// Whether every system gives its links such an address by itself.
pub fn is_link_local(address: &Address) -> bool {
    matches!(address.ip, IpAddr::V6(ip) if ip.is_unicast_link_local())
}

/// The name with all characters replaced that a file name or a configuration language may not take.
pub fn plain(name: &str) -> String {
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
    let mut words = begin(route);
    words.extend(via(route.gateway, route.v6));
    words.push(format!("dev {device}"));
    if route.onlink {
        words.push("onlink".into());
    }
    words.extend(rest(route));
    if !route.v6 && route.gateway.is_none() {
        words.push(format!("scope {}", route.scope));
    }
    words.join(" ")
}

/// A command that adds a route with several next hops, through links that are called as `name` says.
pub fn ip_ways(route: &Route, name: impl Fn(LinkId) -> Option<String>) -> String {
    let mut words = begin(route);
    words.extend(rest(route));
    for hop in &route.hops {
        let Some(device) = name(hop.link) else { continue };
        words.push("nexthop".into());
        words.extend(via(hop.gateway, route.v6));
        words.push(format!("dev {device} weight {}", hop.weight));
        if hop.onlink {
            words.push("onlink".into());
        }
    }
    words.join(" ")
}

fn begin(route: &Route) -> Vec<String> {
    vec![format!("ip {} route replace {}", if route.v6 { "-6" } else { "-4" }, destination(route))]
}

fn via(gateway: Option<IpAddr>, v6: bool) -> Option<String> {
    let gateway = gateway?;
    let family = if gateway.is_ipv6() && !v6 { "inet6 " } else { "" };
    Some(format!("via {family}{gateway}"))
}

/// What a route has beside its destination and its hops.
fn rest(route: &Route) -> Vec<String> {
    let mut words = Vec::new();
    words.extend(metric(route).map(|metric| format!("metric {metric}")));
    words.extend(route.source.map(|source| format!("src {source}")));
    words.extend(route.mtu.map(|mtu| format!("mtu {mtu}")));
    words.extend((route.table != TABLE_MAIN).then(|| format!("table {}", route.table)));
    words.push("proto static".into());
    words
}

pub fn resolv_conf(state: &NetworkState) -> (PathBuf, String) {
    ("etc/resolv.conf".into(), HEADER.to_owned() + &write_resolv_conf(state))
}
