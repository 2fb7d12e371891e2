//! Which VLANs a bridge with VLAN filtering lets through each port: messages of the family `AF_BRIDGE`.

use anemos_proto::net::{Link, LinkKind, NetworkState, PortVlans};

use crate::error::Error;
use crate::kinds::BRIDGE_VLAN_FILTERING;
use crate::socket::Netlink;
use crate::wire::{self, Message, attributes, get_u16, get_u32};

/// `RTEXT_FILTER_BRVLAN_COMPRESSED`: VLANs are listed as ranges.
const RANGES: u32 = 4;

const IFLA_BRIDGE_FLAGS: u16 = 0;
const IFLA_BRIDGE_VLAN_INFO: u16 = 2;
/// `BRIDGE_FLAGS_SELF`: the bridge itself is meant.
const SELF: u16 = 2;

/// `BRIDGE_VLAN_INFO_*`.
const PVID: u16 = 2;
const UNTAGGED: u16 = 4;
const BEGIN: u16 = 8;
const END: u16 = 16;

/// Whether the link is a bridge with VLAN filtering.
pub fn filters(link: &Link) -> bool {
    link.kind.option(BRIDGE_VLAN_FILTERING) == Some(1)
}

/// Reads the VLANs of bridges with VLAN filtering and of their ports.
pub fn capture(netlink: &mut Netlink, state: &mut NetworkState) -> Result<(), Error> {
    let bridges = state.links.iter().filter(|link| filters(link));
    let ids: Vec<_> = bridges.flat_map(|bridge| bridge.below.iter().copied().chain([bridge.id])).collect();
    if ids.is_empty() {
        return Ok(());
    }
    let found = list(netlink)?;
    for link in state.links.iter_mut().filter(|link| ids.contains(&link.id)) {
        link.vlans = of(&found, link.id.0);
    }
    Ok(())
}

/// Gives a port of such a bridge, or the bridge itself, the VLANs that it had.
pub fn restore(netlink: &mut Netlink, link: &Link, index: u32) -> Result<(), Error> {
    let now = of(&list(netlink)?, index);
    if now == link.vlans {
        return Ok(());
    }
    let is_bridge = matches!(link.kind, LinkKind::Bridge { .. });
    for vlans in now {
        let vlans = PortVlans { pvid: false, untagged: false, ..vlans };
        let action = format!("take VLAN {} off {}", range(vlans), link.name);
        netlink.request(&action, change(wire::RTM_DELLINK, index, is_bridge, vlans))?;
    }
    for vlans in &link.vlans {
        let action = format!("put {} into VLAN {}", link.name, range(*vlans));
        netlink.request(&action, change(wire::RTM_SETLINK, index, is_bridge, *vlans))?;
    }
    Ok(())
}

/// `7`, or `7-9`.
pub fn range(vlans: PortVlans) -> String {
    let PortVlans { first, last, .. } = vlans;
    if first == last { first.to_string() } else { format!("{first}-{last}") }
}

fn of(found: &[(u32, Vec<PortVlans>)], index: u32) -> Vec<PortVlans> {
    found.iter().filter(|(other, _)| *other == index).flat_map(|(_, vlans)| vlans).copied().collect()
}

fn list(netlink: &mut Netlink) -> Result<Vec<(u32, Vec<PortVlans>)>, Error> {
    let mut body = vec![0; 16];
    body[0] = wire::AF_BRIDGE;
    body.extend(wire::attributes_of(&[(wire::IFLA_EXT_MASK, RANGES.to_ne_bytes().to_vec())]));
    netlink.dump("VLANs of bridges", wire::RTM_GETLINK, &body, parse)
}

/// Reads the body of a `RTM_NEWLINK` of that family: a link's index, and its VLANs.
pub fn parse(body: &[u8]) -> Option<(u32, Vec<PortVlans>)> {
    let index = get_u32(body, 4)?;
    let (_, spec) = attributes(body.get(16..)?).find(|(kind, _)| *kind == wire::IFLA_AF_SPEC)?;
    let mut vlans: Vec<PortVlans> = Vec::new();
    let mut begun = false;
    for (_, info) in attributes(spec).filter(|(kind, _)| *kind == IFLA_BRIDGE_VLAN_INFO) {
        let (flags, id) = (get_u16(info, 0)?, get_u16(info, 2)?);
        let (pvid, untagged) = (flags & PVID != 0, flags & UNTAGGED != 0);
        match vlans.last_mut().filter(|_| begun && flags & END != 0) {
            Some(range) => range.last = id,
            None => vlans.push(PortVlans { first: id, last: id, pvid, untagged }),
        }
        begun = flags & BEGIN != 0;
    }
    Some((index, vlans))
}

fn change(kind: u16, index: u32, is_bridge: bool, vlans: PortVlans) -> Message {
    let mut body = [0; 16];
    body[0] = wire::AF_BRIDGE;
    body[4..8].copy_from_slice(&index.to_ne_bytes());
    let PortVlans { first, last, pvid, untagged } = vlans;
    let flags = if pvid { PVID } else { 0 } | if untagged { UNTAGGED } else { 0 };
    let info = |id: u16, flags: u16| (IFLA_BRIDGE_VLAN_INFO, [flags.to_ne_bytes(), id.to_ne_bytes()].concat());
    let mut spec = Vec::new();
    if is_bridge {
        spec.push((IFLA_BRIDGE_FLAGS, SELF.to_ne_bytes().to_vec()));
    }
    if first == last {
        spec.push(info(first, flags));
    } else {
        spec.extend([info(first, flags | BEGIN), info(last, flags | END)]);
    }
    Message::new(kind, wire::ACK, &body).nested(wire::IFLA_AF_SPEC, &spec)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(message: Message) -> Vec<u8> {
        let bytes = message.finish(1);
        wire::messages(&bytes).next().unwrap().payload.to_vec()
    }

    /// As bridge(8) 6.1 sends it for `vlan add dev v0 vid 7-9 untagged`, by strace(1).
    #[test]
    fn messages_are_those_of_bridge() {
        let vlans = PortVlans { first: 7, last: 9, pvid: false, untagged: true };
        let sent = body(change(wire::RTM_SETLINK, 3, false, vlans));
        let spec: Vec<_> = attributes(&sent[16..]).collect();
        let want = b"\x08\x00\x02\x00\x0c\x00\x07\x00\x08\x00\x02\x00\x14\x00\x09\x00";
        assert_eq!(spec, [(wire::IFLA_AF_SPEC, &want[..])]);
        assert_eq!((sent[0], parse(&sent)), (7, Some((3, vec![vlans]))));
        let own = PortVlans { first: 7, last: 7, pvid: true, untagged: false };
        let sent = body(change(wire::RTM_SETLINK, 5, true, own));
        let want = b"\x06\x00\x00\x00\x02\x00\x00\x00\x08\x00\x02\x00\x02\x00\x07\x00";
        assert_eq!(attributes(&sent[16..]).next(), Some((wire::IFLA_AF_SPEC, &want[..])));
        assert_eq!(parse(&sent), Some((5, vec![own])));
    }

    #[test]
    fn ranges_and_single_ones() {
        let info = |flags: u16, id: u16| (IFLA_BRIDGE_VLAN_INFO, [flags.to_ne_bytes(), id.to_ne_bytes()].concat());
        let spec = [info(PVID | UNTAGGED, 1), info(BEGIN, 2), info(END, 99), info(0, 200), info(END, 201)];
        let mut body = vec![0; 16];
        body.extend(wire::attributes_of(&[(wire::IFLA_AF_SPEC, wire::attributes_of(&spec))]));
        let (_, vlans) = parse(&body).unwrap();
        let texts: Vec<_> = vlans.iter().map(|vlans| range(*vlans)).collect();
        assert_eq!(texts, ["1", "2-99", "200", "201"]);
        assert!(vlans[0].pvid && vlans[0].untagged && !vlans[1].pvid && !vlans[1].untagged);
    }
}
