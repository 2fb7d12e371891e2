//! What a link has as a port of a bridge or as a member of a bond: `IFLA_INFO_SLAVE_DATA` of rtnetlink(7), with the
//! attributes of linux/if_link.h.

use anemos_proto::net::{Link, LinkKind, LinkOption};

use crate::error::Error;
use crate::kinds::{self, BRIDGE_STP};
use crate::socket::Netlink;
use crate::wire::{self, Message, NESTED, attributes_of, change_link};

pub const BRIDGE_PRIORITY: u16 = 2;
pub const BRIDGE_COST: u16 = 3;

/// Options of a bridge's port: number, and bytes of the value.
const BRIDGE: &[(u16, usize)] = &[
    (BRIDGE_PRIORITY, 2),
    (BRIDGE_COST, 4),
    // hairpin, guard, root_block, fastleave, learning, flood, proxy_arp
    (4, 1),
    (5, 1),
    (6, 1),
    (7, 1),
    (8, 1),
    (9, 1),
    (10, 1),
    // proxy_arp_wifi, mcast_flood, bcast_flood, neigh_suppress, isolated
    (12, 1),
    (27, 1),
    (30, 1),
    (32, 1),
    (33, 1),
];

/// Options of a bond's member: queue_id, and prio.
const BOND: &[(u16, usize)] = &[(5, 2), (9, 4)];

fn table(master: &str) -> &'static [(u16, usize)] {
    match master {
        "bridge" => BRIDGE,
        "bond" => BOND,
        _ => &[],
    }
}

/// What `IFLA_INFO_SLAVE_DATA` says of a link whose master is of this kind.
pub fn read(master: &str, data: &[u8]) -> Vec<LinkOption> {
    kinds::options(data, table(master).iter().copied())
}

/// Those that mean something below this master. Costs and priorities are for the spanning tree; without one they are
/// but what the kernel thinks of a card's speed.
pub fn of_meaning(options: &[LinkOption], master: &LinkKind) -> Vec<LinkOption> {
    let is_bridge = matches!(master, LinkKind::Bridge { .. });
    let spans = master.option(BRIDGE_STP).is_some_and(|stp| stp != 0);
    let counts = |number: u16| !is_bridge || spans || ![BRIDGE_PRIORITY, BRIDGE_COST].contains(&number);
    options.iter().copied().filter(|(number, _)| counts(*number)).collect()
}

/// Gives a port or a member with this index what it had and has not `now`, one option at a time: this kernel may not
/// know them all.
pub fn restore(
    netlink: &mut Netlink,
    master: &Link,
    port: &Link,
    index: u32,
    now: &[LinkOption],
    mut note: impl FnMut(Result<(), Error>),
) {
    for option in port.port.iter().filter(|option| !now.contains(option)) {
        let action = format!("set option {} of {} in {}", option.0, port.name, master.name);
        if let Some(message) = set(master.kind.name(), index, *option) {
            note(netlink.request(&action, message));
        }
    }
}

fn set(master: &str, index: u32, (number, value): LinkOption) -> Option<Message> {
    let (_, width) = table(master).iter().find(|(other, _)| *other == number)?;
    let value = value.to_le_bytes().get(..*width)?.to_vec();
    let info = [
        (wire::IFLA_INFO_SLAVE_KIND, format!("{master}\0").into_bytes()),
        (wire::IFLA_INFO_SLAVE_DATA | NESTED, attributes_of(&[(number, value)])),
    ];
    Some(change_link(index).nested(wire::IFLA_LINKINFO, &info))
}

#[cfg(test)]
mod tests {
    use anemos_proto::net::Bond;

    use super::*;
    use crate::wire::attributes;

    #[test]
    fn what_is_set_is_listed() {
        for (master, option) in
            [("bridge", (BRIDGE_COST, 60_000)), ("bridge", (33, 1)), ("bond", (5, 2)), ("bond", (9, 5))]
        {
            let bytes = set(master, 3, option).unwrap().finish(1);
            let body = wire::messages(&bytes).next().unwrap().payload;
            let (_, info) = attributes(&body[16..]).find(|(kind, _)| *kind == wire::IFLA_LINKINFO).unwrap();
            let (_, data) = attributes(info).find(|(kind, _)| *kind == wire::IFLA_INFO_SLAVE_DATA).unwrap();
            assert_eq!(read(master, data), [option]);
        }
        assert!(set("bridge", 3, (1, 3)).is_none(), "a port's state is the kernel's");
        assert!(set("vrf", 3, (5, 1)).is_none());
    }

    #[test]
    fn costs_are_the_spanning_trees() {
        let bridge = |stp: u64| LinkKind::Bridge { options: vec![(BRIDGE_STP, stp)] };
        let options = [(BRIDGE_PRIORITY, 32), (BRIDGE_COST, 4), (33, 1)];
        assert_eq!(of_meaning(&options, &bridge(1)), options);
        assert_eq!(of_meaning(&options, &bridge(0)), [(33, 1)]);
        assert_eq!(of_meaning(&[(5, 2)], &LinkKind::Bond(Bond::default())), [(5, 2)]);
    }
}
