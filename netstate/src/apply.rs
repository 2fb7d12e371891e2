//! Restores a captured network.

use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anemos_proto::net::{Address, Link, LinkId, LinkKind, NetworkState, Route};

use crate::error::Error;
use crate::kinds::{BRIDGE_FORWARD_DELAY, BRIDGE_STP};
use crate::links::{Present, covers, find, mac_text};
use crate::made;
use crate::ports;
use crate::reach::bottom_up;
use crate::rules;
use crate::socket::Netlink;
use crate::vlans;
use crate::wire::{self, Message, attributes_of, family, octets};

/// How long to wait for hardware. After that, [`apply`] reports what is missing and restores the rest.
#[derive(Debug, Clone, Copy)]
pub struct Deadlines {
    /// For links to appear: drivers probe in their own time.
    pub links: Duration,
    /// For the links of the default routes to have a carrier: negotiation and spanning tree take seconds.
    pub carrier: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self { links: Duration::from_secs(30), carrier: Duration::from_secs(30) }
    }
}

/// What [`apply`] did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Restored {
    /// Name of each link under the old system, and now.
    pub names: Vec<(String, String)>,
    /// What could not be restored and why, a sentence each.
    pub problems: Vec<String>,
}

/// Restores `state` in this kernel (in this network namespace), and returns when the links of its default routes have a
/// carrier.
///
/// Lifetimes are not restored: an address that expired would cut the host off, and no DHCP client runs to renew it. An
/// address that was deprecated stays so. Duplicate address detection is skipped, because the host had these addresses a
/// moment ago. Router advertisements are heeded only on links where they were heeded before.
///
/// What is there already is replaced or kept, so this can be repeated. One failure does not stop the rest.
pub fn apply(state: &NetworkState, deadlines: Deadlines) -> Result<Restored, Error> {
    let mut restored = Restored::default();
    // Listening starts before the first look, so that nothing happens unseen in between.
    let notices = Netlink::open(wire::GROUP_LINK)?;
    let mut netlink = Netlink::open(0)?;
    let needed: Vec<&Link> = state.links.iter().filter(|link| is_needed(state, link)).collect();
    let present = watch(&mut netlink, &notices, deadlines.links, |present| {
        needed.iter().all(|link| find(present, link).is_some())
    })?;

    if let Some(loopback) = present.iter().find(|link| link.is(wire::LINK_LOOPBACK)) {
        note(&mut restored, netlink.request("bring up loopback", wire::bring_up(loopback.index)));
    }
    // What a link stands on is there, and belongs to it, before either is up.
    let ordered = bottom_up(&state.links);
    let mut indices: Vec<(LinkId, u32)> = Vec::new();
    for link in &ordered {
        match made::restore(&mut netlink, link, &indices, &mut restored.problems)? {
            Some(index) => indices.push((link.id, index)),
            None if link.kind.can_be_made() => {}
            None => restored.problems.push(match &link.kind {
                LinkKind::Made(kind) => format!("{} was a {kind}: links of that kind are not restored", link.name),
                _ => format!(
                    "no link with the address {} (it was {}, driver {}) appeared within {} s",
                    mac_text(link.mac),
                    link.name,
                    if link.driver.is_empty() { "unknown" } else { &link.driver },
                    deadlines.links.as_secs()
                ),
            }),
        }
    }
    for link in ordered.iter().filter(|link| vlans::filters(link)) {
        for port in link.below.iter().chain([&link.id]) {
            let index = indices.iter().find(|(id, _)| id == port);
            if let (Some(port), Some((_, index))) = (state.link(*port), index) {
                note(&mut restored, vlans::restore(&mut netlink, port, *index));
            }
        }
    }
    let present = Present::list(&mut netlink)?;
    let is_now = |id: LinkId| {
        let index = indices.iter().find(|(other, _)| *other == id).map(|(_, index)| *index);
        present.iter().find(|now| Some(now.index) == index)
    };
    for master in ordered.iter().filter(|link| link.kind.is_master()) {
        for port in master.below.iter().filter_map(|id| state.link(*id)) {
            if let Some(now) = is_now(port.id) {
                ports::restore(&mut netlink, master, port, now.index, &now.port, |result| note(&mut restored, result));
            }
        }
    }
    let mut found = Vec::new();
    for link in ordered {
        let Some(now) = is_now(link.id) else { continue };
        restored.names.push((link.name.clone(), now.name.clone()));
        found.push((link, now));
        restore_link(&mut netlink, state, link, now, &mut restored);
    }
    let now = |name: &str| {
        let renamed = found.iter().find(|(link, _)| link.name == name);
        renamed.map_or(name, |(_, now)| &now.name).to_owned()
    };
    rules::restore(&mut netlink, state, now, |result| note(&mut restored, result))?;
    let index_of = |id: LinkId| found.iter().find(|(link, _)| link.id == id).map(|(_, now)| now.index);
    for route in in_order(&state.routes) {
        let all = route.hops.len();
        let mut route = route.clone();
        if route.keep_hops(|id| index_of(id).is_some()) && route.hops.len() < all {
            restored.problems.push(format!("{} has lost next hops: their links are not there", describe(&route)));
        }
        match found.iter().find(|(link, _)| link.id == route.link) {
            Some((link, now)) => restore_route(&mut netlink, link, route, now, index_of, &mut restored),
            None => restored.problems.push(format!("{}: its link is not there", describe(&route))),
        }
    }
    if !state.hostname.is_empty() {
        set_hostname(&state.hostname, &mut restored);
    }
    await_carrier(&mut netlink, &notices, state, &found, deadlines.carrier, &mut restored)?;
    Ok(restored)
}

/// Whether this is a card that the host can be reached through: [`apply`] waits for it.
pub fn is_needed(state: &NetworkState, link: &Link) -> bool {
    let used = !link.addresses.is_empty()
        || state.routes.iter().any(|route| route.leads_through(link.id))
        || state.links.iter().any(|other| other.below.contains(&link.id));
    link.kind == LinkKind::Card && used
}

/// Looks at the links whenever one changes, until `enough` or the deadline; returns the last look.
fn watch(
    netlink: &mut Netlink,
    notices: &Netlink,
    patience: Duration,
    enough: impl Fn(&[Present]) -> bool,
) -> Result<Vec<Present>, Error> {
    let deadline = Instant::now() + patience;
    loop {
        let present = Present::list(netlink)?;
        if enough(&present) || notices.receive(deadline)?.is_none() {
            return Ok(present);
        }
    }
}

fn restore_link(netlink: &mut Netlink, state: &NetworkState, link: &Link, now: &Present, restored: &mut Restored) {
    set_ipv6_policy(state, link, now);
    let mac = if link.kind.can_be_made() { Some(link.mac) } else { link.set_mac };
    if let Some(mac) = mac.filter(|mac| now.mac != Some(*mac)) {
        // Before the link is up, since most drivers refuse it afterwards.
        let message = wire::change_link(now.index).attribute(wire::IFLA_ADDRESS, &mac);
        let action = format!("give {} the hardware address {}", now.name, mac_text(mac));
        note(restored, netlink.request(&action, message));
    }
    if link.mtu != now.mtu {
        let message = wire::change_link(now.index).attribute(wire::IFLA_MTU, &link.mtu.to_ne_bytes());
        note(restored, netlink.request(&format!("set the MTU of {} to {}", now.name, link.mtu), message));
    }
    if !link.up {
        return;
    }
    note(restored, netlink.request(&format!("bring up {}", now.name), wire::bring_up(now.index)));
    for address in oldest_first(link) {
        let action = format!("add {}/{} to {}", address.ip, address.prefix, now.name);
        let mut add = || netlink.request(&action, add_address(now.index, address));
        // The kernel makes an address by a router's advertisement between looking for it and adding ours: the second
        // time it finds it, and gives it what ours has.
        let added = add().or_else(|error| if error.is(rustix::io::Errno::EXIST) { add() } else { Err(error) });
        note(restored, added);
    }
}

/// The addresses of a link in the order in which they were added, so that the kernel lists them as before: it lists
/// IPv4 addresses oldest first and IPv6 addresses newest first.
pub(crate) fn oldest_first(link: &Link) -> impl Iterator<Item = &Address> {
    let (v4, v6): (Vec<_>, Vec<_>) = link.addresses.iter().partition(|address| address.ip.is_ipv4());
    v4.into_iter().chain(v6.into_iter().rev())
}

/// Sets what the kernel does by itself on a link with IPv6. A missing file means that IPv6 is off, so errors are
/// ignored.
fn set_ipv6_policy(state: &NetworkState, link: &Link, now: &Present) {
    let directory = PathBuf::from("/proc/sys/net/ipv6/conf").join(&now.name);
    let advertised = link.addresses.iter().any(|address| address.autoconf)
        || state
            .routes
            .iter()
            .any(|route| route.leads_through(link.id) && route.v6 && route.protocol == wire::PROTOCOL_RA);
    if !advertised {
        let _ = fs::write(directory.join("accept_ra"), "0");
    }
    // `apply` restores the default route. A router advertisement would add a second one.
    if state.routes.iter().any(|route| route.leads_through(link.id) && route.v6 && route.destination.is_none()) {
        let _ = fs::write(directory.join("accept_ra_defrtr"), "0");
    }
    // Duplicate address detection would block the link-local address for a second, and the host reaches routers from
    // it.
    let _ = fs::write(directory.join("accept_dad"), "0");
}

fn add_address(index: u32, address: &Address) -> Message {
    let mut body = [0; 8];
    body[0] = family(address.ip.is_ipv6());
    body[1] = address.prefix;
    body[3] = address.scope;
    body[4..8].copy_from_slice(&index.to_ne_bytes());
    let mut message = Message::new(wire::RTM_NEWADDR, wire::ACK | wire::CREATE | wire::REPLACE, &body)
        .attribute(wire::IFA_LOCAL, &octets(address.ip))
        .attribute(wire::IFA_ADDRESS, &octets(address.peer.unwrap_or(address.ip)));
    if let (IpAddr::V4(ip), None, 1..=30) = (address.ip, address.peer, address.prefix) {
        let broadcast = ip.to_bits() | (u32::MAX >> address.prefix);
        message = message.attribute(wire::IFA_BROADCAST, &broadcast.to_be_bytes());
    }
    if address.ip.is_ipv6() {
        message = message.attribute(wire::IFA_FLAGS, &wire::ADDRESS_NODAD.to_ne_bytes());
    }
    if address.preferred_s == Some(0) {
        let mut lifetimes = [0; 16];
        lifetimes[4..8].copy_from_slice(&u32::MAX.to_ne_bytes());
        message = message.attribute(wire::IFA_CACHEINFO, &lifetimes);
    }
    message
}

/// Routes in an order in which each gateway can be reached when it is needed.
pub(crate) fn in_order(routes: &[Route]) -> Vec<&Route> {
    let mut routes: Vec<&Route> = routes.iter().collect();
    routes.sort_by_key(|route| (route.gateway.is_some(), route.destination.is_none()));
    routes
}

fn restore_route(
    netlink: &mut Netlink,
    link: &Link,
    mut route: Route,
    now: &Present,
    index_of: impl Fn(LinkId) -> Option<u32>,
    restored: &mut Restored,
) {
    let action = format!("restore the {} on {}", describe(&route), now.name);
    let mut attempt = |route: &Route| netlink.request(&action, add_route(now.index, route, &index_of));
    if !route.hops.is_empty() {
        let Err(error) = attempt(&route) else { return };
        route.hops.iter_mut().for_each(|hop| hop.onlink |= hop.gateway.is_some());
        if attempt(&route).is_ok() {
            return;
        }
        route.hops.clear();
        restored.problems.push(format!("{} has one of its next hops only: {}", describe(&route), error.in_full()));
    }
    let Err(error) = attempt(&route) else { return };
    // The route to the gateway may belong to something that is not restored. `onlink` needs no route to it.
    if let Some(gateway) = route.gateway.filter(|_| !route.onlink) {
        let local = link.addresses.iter().any(|address| covers(address.ip, address.prefix, gateway));
        route.onlink = true;
        if !local && attempt(&route).is_ok() {
            return;
        }
    }
    if let Some(source) = route.source.take()
        && attempt(&route).is_ok()
    {
        restored.problems.push(format!(
            "{} is restored without its source {source}: {}",
            describe(&route),
            error.in_full()
        ));
        return;
    }
    note(restored, Err(error));
}

fn add_route(index: u32, route: &Route, index_of: impl Fn(LinkId) -> Option<u32>) -> Message {
    let mut body = [0; 12];
    body[0] = family(route.v6);
    body[1] = route.destination.map_or(0, |(_, prefix)| prefix);
    body[4] = u8::try_from(route.table).unwrap_or(0);
    body[5] = route.protocol;
    body[6] = route.scope;
    body[7] = wire::ROUTE_UNICAST;
    let onlink = route.onlink && route.hops.is_empty();
    body[8..12].copy_from_slice(&if onlink { wire::HOP_ONLINK } else { 0 }.to_ne_bytes());
    let mut message = Message::new(wire::RTM_NEWROUTE, wire::ACK | wire::CREATE | wire::REPLACE, &body)
        .attribute(wire::RTA_TABLE, &route.table.to_ne_bytes())
        .attribute(wire::RTA_PRIORITY, &route.metric.to_ne_bytes());
    if let Some((ip, _)) = route.destination {
        message = message.attribute(wire::RTA_DST, &octets(ip));
    }
    if route.hops.is_empty() {
        message = message.attribute(wire::RTA_OIF, &index.to_ne_bytes());
        if let Some((kind, value)) = route.gateway.map(|gateway| next(gateway, route.v6)) {
            message = message.attribute(kind, &value);
        }
    } else {
        message = message.attribute(wire::RTA_MULTIPATH, &hops(route, index_of));
    }
    if let Some(source) = route.source {
        message = message.attribute(wire::RTA_PREFSRC, &octets(source));
    }
    if let Some(mtu) = route.mtu {
        message = message.nested(wire::RTA_METRICS, &[(wire::RTAX_MTU, mtu.to_ne_bytes().to_vec())]);
    }
    message
}

/// The attribute of a next hop.
fn next(gateway: IpAddr, v6: bool) -> (u16, Vec<u8>) {
    if gateway.is_ipv6() == v6 {
        return (wire::RTA_GATEWAY, octets(gateway));
    }
    let mut via = u16::from(family(gateway.is_ipv6())).to_ne_bytes().to_vec();
    via.extend(octets(gateway));
    (wire::RTA_VIA, via)
}

/// What `RTA_MULTIPATH` has: a `struct rtnexthop` for each hop, with its attributes.
fn hops(route: &Route, index_of: impl Fn(LinkId) -> Option<u32>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for hop in &route.hops {
        let gateway: Vec<_> = hop.gateway.map(|gateway| next(gateway, route.v6)).into_iter().collect();
        let gateway = attributes_of(&gateway);
        bytes.extend((8 + gateway.len() as u16).to_ne_bytes());
        let flags = if hop.onlink { wire::HOP_ONLINK as u8 } else { 0 };
        bytes.extend([flags, u8::try_from(hop.weight.saturating_sub(1)).unwrap_or(u8::MAX)]);
        bytes.extend(index_of(hop.link).unwrap_or_default().to_ne_bytes());
        bytes.extend(gateway);
    }
    bytes
}

fn set_hostname(name: &str, restored: &mut Restored) {
    const FILE: &str = "/proc/sys/kernel/hostname";
    if fs::read_to_string(FILE).is_ok_and(|now| now.trim() == name) {
        return;
    }
    if let Err(error) = fs::write(FILE, name) {
        restored.problems.push(format!("cannot set the host's name to {name}: {error}"));
    }
}

fn await_carrier(
    netlink: &mut Netlink,
    notices: &Netlink,
    state: &NetworkState,
    found: &[(&Link, &Present)],
    patience: Duration,
    restored: &mut Restored,
) -> Result<(), Error> {
    let has_default =
        |id: LinkId| state.routes.iter().any(|route| route.destination.is_none() && route.leads_through(id));
    let no_default = !found.iter().any(|(link, _)| has_default(link.id));
    let wanted: Vec<_> = found
        .iter()
        .filter(|(link, _)| link.up && (has_default(link.id) || no_default && !link.addresses.is_empty()))
        .collect();
    let patience = patience + spanning(state);
    let running =
        |present: &[Present], index: u32| present.iter().any(|link| link.index == index && link.has_carrier());
    let present =
        watch(netlink, notices, patience, |present| wanted.iter().all(|(_, now)| running(present, now.index)))?;
    for (_, now) in wanted.into_iter().filter(|(_, now)| !running(&present, now.index)) {
        restored.problems.push(format!("{} has had no carrier for {} s", now.name, patience.as_secs()));
    }
    Ok(())
}

/// The time that the spanning tree of bridges takes until a port forwards: the delay passes twice.
fn spanning(state: &NetworkState) -> Duration {
    let delay = |link: &Link| {
        let spans = made::wanted_kind(link).option(BRIDGE_STP).is_some_and(|stp| stp != 0);
        // In hundredths of a second.
        link.kind.option(BRIDGE_FORWARD_DELAY).filter(|_| spans)
    };
    let longest = state.links.iter().filter_map(delay).max().unwrap_or_default();
    Duration::from_millis(longest.min(3000) * 2 * 10)
}

fn note(restored: &mut Restored, result: Result<(), Error>) {
    if let Err(error) = result {
        restored.problems.push(error.in_full());
    }
}

fn describe(route: &Route) -> String {
    let family = if route.v6 { "IPv6" } else { "IPv4" };
    let to = route.destination.map_or_else(|| "default".to_owned(), |(ip, prefix)| format!("{ip}/{prefix}"));
    let via = route.gateway.map(|gateway| format!(" via {gateway}")).unwrap_or_default();
    let others = if route.hops.is_empty() { "" } else { " and others" };
    format!("{family} route {to}{via}{others}")
}
