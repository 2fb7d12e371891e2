//! Makes again the links that the kernel makes: VLANs, bonds, bridges and the like.

use std::borrow::Cow;
use std::fs;

use anemos_proto::net::{Link, LinkId, LinkKind};

use crate::error::Error;
use crate::kinds::{self, BRIDGE_STP};
use crate::links::{Present, find, other_name};
use crate::socket::Netlink;
use crate::wire::{self, Message, NESTED, attributes_of, bring_down, change_link};

/// Sees to it that `link` is there, is what it was, and has its members. `indices` are those of the links that it
/// stands on. Returns its index, or `None` if it isn't there.
///
/// What is there already is kept: the bonding driver makes a `bond0` by itself, and another [`apply`](crate::apply)
/// may have been here before. Nothing is changed that is as it was, because most options can't be changed later.
pub fn restore(
    netlink: &mut Netlink,
    link: &Link,
    indices: &[(LinkId, u32)],
    problems: &mut Vec<String>,
) -> Result<Option<u32>, Error> {
    let present = Present::list(netlink)?;
    if !link.kind.can_be_made() {
        return Ok(find(&present, link).map(|now| now.index));
    }
    let mut note = |result: Result<(), Error>| {
        if let Err(error) = result {
            problems.push(error.in_full());
        }
    };
    let index_of = |id: LinkId| indices.iter().find(|(other, _)| *other == id).map(|(_, index)| *index);
    let made;
    let now = if let Some(now) = find(&present, link) {
        now
    } else {
        let lower = link.below.iter().find_map(|id| index_of(*id));
        note(make(netlink, link, lower, &present));
        made = Present::list(netlink)?;
        let Some(now) = find(&made, link) else { return Ok(None) };
        now
    };
    for change in kinds::to_change(&wanted_kind(link), &now.kind) {
        let action = format!("set option {} of the {} {}", change.0 & !NESTED, link.kind.name(), now.name);
        note(netlink.request(&action, set(&link.kind, now.index, change)));
    }
    if link.kind.is_master() {
        for member in link.below.iter().filter_map(|id| index_of(*id)) {
            note(enslave(netlink, link, now, present.iter().find(|other| other.index == member)));
        }
    }
    if let LinkKind::Bond(bond) = &link.kind
        && let Some(primary) = bond.primary.and_then(index_of)
        && !matches!(&now.kind, LinkKind::Bond(is) if is.primary == Some(LinkId(primary)))
    {
        let message = set(&link.kind, now.index, kinds::primary(primary));
        note(netlink.request(&format!("set the preferred member of {}", now.name), message));
    }
    if let LinkKind::Vrf { .. } = link.kind {
        // A server that listens everywhere is then reached in the VRF too.
        let _ = fs::write("/proc/sys/net/ipv4/tcp_l3mdev_accept", "1");
    }
    Ok(Some(now.index))
}

/// Its kind as it is to be. A bridge with one port makes no circle, and without a spanning tree the port forwards at
/// once.
pub fn wanted_kind(link: &Link) -> Cow<'_, LinkKind> {
    let mut kind = Cow::Borrowed(&link.kind);
    if link.below.len() < 2
        && let LinkKind::Bridge { options } = kind.to_mut()
    {
        options.iter_mut().filter(|(number, _)| *number == BRIDGE_STP).for_each(|(_, value)| *value = 0);
    }
    kind
}

fn make(netlink: &mut Netlink, link: &Link, lower: Option<u32>, present: &[Present]) -> Result<(), Error> {
    let taken = present.iter().any(|other| other.name == link.name);
    let name = if taken { other_name(link) } else { link.name.clone() };
    let mut message = Message::new(wire::RTM_NEWLINK, wire::ACK | wire::CREATE | wire::EXCLUSIVE, &[0; 16])
        .attribute(wire::IFLA_IFNAME, format!("{name}\0").as_bytes());
    if let LinkKind::Vlan { .. } | LinkKind::Macvlan { .. } = link.kind {
        // The kernel says what is missing.
        message = message.attribute(wire::IFLA_LINK, &lower.unwrap_or_default().to_ne_bytes());
    } else {
        message = message.attribute(wire::IFLA_MTU, &link.mtu.to_ne_bytes());
    }
    // A VLAN takes the address of the link below it, and follows it.
    if !matches!(link.kind, LinkKind::Vlan { .. }) {
        message = message.attribute(wire::IFLA_ADDRESS, &link.mac);
    }
    let info =
        [kind_attribute(&link.kind), (wire::IFLA_INFO_DATA | NESTED, attributes_of(&kinds::to_make(&link.kind)))];
    let message = message.nested(wire::IFLA_LINKINFO, &info);
    netlink.request(&format!("make the {} {name}", link.kind.name()), message)
}

fn set(kind: &LinkKind, index: u32, change: (u16, Vec<u8>)) -> Message {
    let info = [kind_attribute(kind), (wire::IFLA_INFO_DATA | NESTED, attributes_of(&[change]))];
    change_link(index).nested(wire::IFLA_LINKINFO, &info)
}

fn kind_attribute(kind: &LinkKind) -> (u16, Vec<u8>) {
    (wire::IFLA_INFO_KIND, format!("{}\0", kind.name()).into_bytes())
}

fn enslave(netlink: &mut Netlink, link: &Link, master: &Present, member: Option<&Present>) -> Result<(), Error> {
    let Some(member) = member.filter(|member| member.master != Some(master.index)) else { return Ok(()) };
    // A bond takes no member that is up, and some drivers change their address only while they are down.
    if member.is(wire::LINK_UP) {
        netlink.request(&format!("bring down {}", member.name), bring_down(member.index))?;
    }
    let message = change_link(member.index).attribute(wire::IFLA_MASTER, &master.index.to_ne_bytes());
    netlink.request(&format!("add {} to {}", member.name, link.name), message)
}
