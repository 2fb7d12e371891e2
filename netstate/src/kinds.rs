//! What makes a link of its kind: `IFLA_INFO_DATA` of rtnetlink(7), read and written.
//!
//! The attributes are those of linux/if_link.h. Which of a bond's options a mode has is what the bonding driver's table
//! of options says; it refuses the others, though it lists them all.

use std::net::IpAddr;

use anemos_proto::net::{Bond, LinkId, LinkKind, LinkOption};

use crate::wire::{self, NESTED, attributes, attributes_of, get_u16, get_u32};

const VLAN_ID: u16 = 1;
const VLAN_FLAGS: u16 = 2;
const VLAN_EGRESS: u16 = 3;
const VLAN_INGRESS: u16 = 4;
const VLAN_PROTOCOL: u16 = 5;
/// `IFLA_VLAN_QOS_MAPPING`.
const VLAN_MAPPING: u16 = 1;
const MACVLAN_MODE: u16 = 1;
const MACVLAN_FLAGS: u16 = 2;
const VRF_TABLE: u16 = 1;
const BOND_MODE: u16 = 1;
pub const BOND_MIIMON: u16 = 3;
pub const BOND_UPDELAY: u16 = 4;
pub const BOND_DOWNDELAY: u16 = 5;
pub const BOND_ARP_INTERVAL: u16 = 7;
const BOND_TARGETS: u16 = 8;
const BOND_PRIMARY: u16 = 11;
pub const BOND_FAIL_OVER_MAC: u16 = 13;
pub const BOND_XMIT_HASH: u16 = 14;
pub const BOND_MIN_LINKS: u16 = 18;
pub const BOND_LACP_RATE: u16 = 21;
pub const BOND_AD_SELECT: u16 = 22;
const BOND_TARGETS_V6: u16 = 31;
pub const BRIDGE_FORWARD_DELAY: u16 = 1;
pub const BRIDGE_STP: u16 = 5;
pub const BRIDGE_AGEING: u16 = 4;
pub const BRIDGE_PRIORITY: u16 = 6;
pub const BRIDGE_VLAN_FILTERING: u16 = 7;
pub const BRIDGE_DEFAULT_PVID: u16 = 39;

/// Ethernet type of a tag of 802.1ad.
pub const VLAN_8021AD: u16 = 0x88a8;
const VLAN_8021Q: u16 = 0x8100;
/// `VLAN_FLAG_REORDER_HDR`.
const VLAN_REORDER: u32 = 1;

/// Modes of a bond, as bits.
const ALL: u8 = 0x7f;
const ROUND_ROBIN: u8 = 0x01;
/// Those that may ask addresses to see whether a member works.
const ASKING: u8 = 0x0f;
/// Those that prefer a member.
const PREFERRING: u8 = 0x62;
const LACP: u8 = 0x10;
const BALANCING: u8 = 0x60;

/// The options of a bond, in the order in which they can be set: number, bytes of the value, and modes that have it.
const BOND: &[(u16, usize, u8)] = &[
    (BOND_MIIMON, 4, ALL),
    (BOND_UPDELAY, 4, ALL),
    (BOND_DOWNDELAY, 4, ALL),
    // use_carrier
    (6, 1, ALL),
    (BOND_ARP_INTERVAL, 4, ASKING),
    // arp_validate, arp_all_targets
    (9, 4, ASKING),
    (10, 4, ASKING),
    // primary_reselect
    (12, 1, PREFERRING),
    (BOND_FAIL_OVER_MAC, 1, ALL),
    (BOND_XMIT_HASH, 1, ALL),
    // resend_igmp, num_peer_notif, all_slaves_active
    (15, 4, ALL),
    (16, 1, ALL),
    (17, 1, ALL),
    (BOND_MIN_LINKS, 4, ALL),
    // lp_interval, packets_per_slave
    (19, 4, ALL),
    (20, 4, ROUND_ROBIN),
    (BOND_LACP_RATE, 1, LACP),
    (BOND_AD_SELECT, 1, LACP),
    // ad_actor_sys_prio, ad_user_port_key, ad_actor_system
    (24, 2, LACP),
    (25, 2, LACP),
    (26, 6, LACP),
    // tlb_dynamic_lb, peer_notif_delay, lacp_active, missed_max, coupled_control
    (27, 1, BALANCING),
    (28, 4, ALL),
    (29, 1, LACP),
    (30, 1, ASKING),
    (32, 1, LACP),
];

/// The options of a bridge, in the order in which they can be set: number, and bytes of the value.
const BRIDGE: &[(u16, usize)] = &[
    (BRIDGE_FORWARD_DELAY, 4),
    // hello_time, max_age
    (2, 4),
    (3, 4),
    (BRIDGE_AGEING, 4),
    (BRIDGE_STP, 4),
    (BRIDGE_PRIORITY, 2),
    // vlan_protocol
    (8, 2),
    // The kernel changes it only while VLAN filtering is off.
    (BRIDGE_DEFAULT_PVID, 2),
    (BRIDGE_VLAN_FILTERING, 1),
    // group_fwd_mask, mcast_snooping, mcast_querier
    (9, 2),
    (23, 1),
    (25, 1),
];

/// The kind that `IFLA_INFO_KIND` and `IFLA_INFO_DATA` say.
pub fn read(name: String, data: &[u8]) -> LinkKind {
    let get = |wanted: u16| attributes(data).find(|(number, _)| *number == wanted).map(|(_, value)| value);
    let known = match &*name {
        "" => Some(LinkKind::Card),
        "vlan" => get(VLAN_ID).and_then(|id| get_u16(id, 0)).map(|id| LinkKind::Vlan {
            id,
            protocol: get(VLAN_PROTOCOL).and_then(|value| get_u16(value, 0)).map_or(VLAN_8021Q, u16::from_be),
            flags: get(VLAN_FLAGS).and_then(|value| get_u32(value, 0)).unwrap_or_default(),
            egress: mappings(get(VLAN_EGRESS).unwrap_or_default()),
            ingress: mappings(get(VLAN_INGRESS).unwrap_or_default()),
        }),
        "bond" => {
            get(BOND_MODE).and_then(|mode| mode.first()).filter(|mode| **mode < 7).map(|mode| read_bond(*mode, data))
        }
        "bridge" => Some(LinkKind::Bridge { options: options(data, BRIDGE.iter().copied()) }),
        "macvlan" => get(MACVLAN_MODE).and_then(|mode| get_u32(mode, 0)).map(|mode| LinkKind::Macvlan {
            mode,
            flags: get(MACVLAN_FLAGS).and_then(|value| get_u16(value, 0)).unwrap_or_default(),
        }),
        "dummy" => Some(LinkKind::Dummy),
        "vrf" => get(VRF_TABLE).and_then(|table| get_u32(table, 0)).map(|table| LinkKind::Vrf { table }),
        _ => None,
    };
    known.unwrap_or(LinkKind::Made(name))
}

/// Pairs of priorities, in an order that doesn't depend on that in which they were told the kernel.
fn mappings(data: &[u8]) -> Vec<(u32, u32)> {
    let pairs = attributes(data).filter(|(number, _)| *number == VLAN_MAPPING);
    let mut pairs: Vec<_> = pairs.filter_map(|(_, pair)| Some((get_u32(pair, 0)?, get_u32(pair, 4)?))).collect();
    pairs.sort_unstable();
    pairs
}

/// The attribute that makes of the pairs `now` those that are `wanted`; `None` if they are the same.
fn to_map(number: u16, wanted: &[(u32, u32)], now: &[(u32, u32)]) -> Option<(u16, Vec<u8>)> {
    let gone =
        now.iter().filter(|(from, _)| !wanted.iter().any(|(other, _)| from == other)).map(|(from, _)| (*from, 0));
    let pairs = wanted.iter().copied().filter(|pair| !now.contains(pair)).chain(gone);
    let pairs: Vec<_> =
        pairs.map(|(from, to)| (VLAN_MAPPING, [from.to_ne_bytes(), to.to_ne_bytes()].concat())).collect();
    (!pairs.is_empty()).then(|| (number | NESTED, attributes_of(&pairs)))
}

fn read_bond(mode: u8, data: &[u8]) -> LinkKind {
    let mut bond = Bond { mode, ..Bond::default() };
    let of_mode = BOND.iter().filter(|(.., modes)| modes & (1 << mode) != 0);
    bond.options = options(data, of_mode.map(|(number, width, _)| (*number, *width)));
    for (number, value) in attributes(data) {
        match number {
            BOND_PRIMARY => bond.primary = get_u32(value, 0).map(LinkId),
            BOND_TARGETS => bond
                .targets
                .extend(attributes(value).filter_map(|(_, ip)| Some(IpAddr::from(<[u8; 4]>::try_from(ip).ok()?)))),
            BOND_TARGETS_V6 => bond
                .targets
                .extend(attributes(value).filter_map(|(_, ip)| Some(IpAddr::from(<[u8; 16]>::try_from(ip).ok()?)))),
            _ => {}
        }
    }
    LinkKind::Bond(bond)
}

/// Those of `table` that are in `data`, in its order.
pub fn options(data: &[u8], table: impl Iterator<Item = (u16, usize)>) -> Vec<LinkOption> {
    let value = |(wanted, width): (u16, usize)| {
        let (_, value) = attributes(data).find(|(number, _)| *number == wanted)?;
        let mut bytes = [0; 8];
        bytes.get_mut(..width)?.copy_from_slice(value.get(..width)?);
        Some((wanted, u64::from_le_bytes(bytes)))
    };
    table.filter_map(value).collect()
}

/// The attributes with which a link of this kind is made.
pub fn to_make(kind: &LinkKind) -> Vec<(u16, Vec<u8>)> {
    let bytes = |value: u32| value.to_ne_bytes().to_vec();
    match kind {
        LinkKind::Vlan { id, protocol, flags, egress, ingress } => {
            let mut made = vec![
                (VLAN_ID, id.to_ne_bytes().to_vec()),
                // The flags, and the mask of those that are set or cleared: one is set unless it is cleared, and the
                // kernel refuses a mask with flags that it doesn't know.
                (VLAN_FLAGS, [bytes(*flags), bytes(flags | VLAN_REORDER)].concat()),
                (VLAN_PROTOCOL, protocol.to_be_bytes().to_vec()),
            ];
            made.extend([to_map(VLAN_EGRESS, egress, &[]), to_map(VLAN_INGRESS, ingress, &[])].into_iter().flatten());
            made
        }
        LinkKind::Bond(bond) => vec![(BOND_MODE, vec![bond.mode])],
        LinkKind::Macvlan { mode, flags } => {
            vec![(MACVLAN_MODE, bytes(*mode)), (MACVLAN_FLAGS, flags.to_ne_bytes().to_vec())]
        }
        LinkKind::Vrf { table } => vec![(VRF_TABLE, bytes(*table))],
        LinkKind::Card | LinkKind::Made(_) | LinkKind::Bridge { .. } | LinkKind::Dummy | LinkKind::Loopback => {
            Vec::new()
        }
    }
}

/// The attributes that a link of the kind `now` lacks to be of the kind `wanted`, in the order in which they can be
/// set. They are set one at a time: the kernel that is told them may be another than the one they were captured from,
/// and one that it refuses costs no other.
pub fn to_change(wanted: &LinkKind, now: &LinkKind) -> Vec<(u16, Vec<u8>)> {
    let mut changes = Vec::new();
    let (options, widths): (_, Vec<(u16, usize)>) = match (wanted, now) {
        (LinkKind::Bond(wanted), LinkKind::Bond(now)) => {
            if wanted.mode != now.mode {
                changes.push((BOND_MODE, vec![wanted.mode]));
            }
            (&wanted.options, BOND.iter().map(|(number, width, _)| (*number, *width)).collect())
        }
        (LinkKind::Bridge { options }, LinkKind::Bridge { .. }) => (options, BRIDGE.to_vec()),
        (LinkKind::Vlan { egress, ingress, .. }, LinkKind::Vlan { egress: out, ingress: into, .. }) => {
            return [to_map(VLAN_EGRESS, egress, out), to_map(VLAN_INGRESS, ingress, into)]
                .into_iter()
                .flatten()
                .collect();
        }
        _ => return changes,
    };
    for (number, value) in options.iter().filter(|(number, value)| now.option(*number) != Some(*value)) {
        let width = widths.iter().find(|(other, _)| other == number).map_or(0, |(_, width)| *width);
        changes.push((*number, value.to_le_bytes()[..width].to_vec()));
    }
    if let (LinkKind::Bond(wanted), LinkKind::Bond(now)) = (wanted, now)
        && wanted.targets != now.targets
    {
        let of = |v6: bool| {
            let ips = wanted.targets.iter().filter(|ip| ip.is_ipv6() == v6).map(|ip| wire::octets(*ip));
            (0..).zip(ips).collect::<Vec<(u16, Vec<u8>)>>()
        };
        for (number, targets) in [(BOND_TARGETS, of(false)), (BOND_TARGETS_V6, of(true))] {
            if !targets.is_empty() {
                changes.push((number | NESTED, attributes_of(&targets)));
            }
        }
    }
    changes
}

/// The attribute that makes a bond prefer the member with this index.
pub fn primary(index: u32) -> (u16, Vec<u8>) {
    (BOND_PRIMARY, index.to_ne_bytes().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What ip(8) 6.1 sends for `ip link add bond7 type bond mode 802.3ad miimon 100 lacp_rate fast xmit_hash_policy
    /// layer3+4 ad_actor_system 02:00:00:00:00:09`, as strace(1) shows it. The kernel's own lists have the same form.
    const BOND7: &[u8] =
        b"\x05\x00\x01\x00\x04\x00\x00\x00\x08\x00\x03\x00\x64\x00\x00\x00\x05\x00\x15\x00\x01\x00\x00\
        \x00\x05\x00\x0e\x00\x01\x00\x00\x00\x0a\x00\x1a\x00\x02\x00\x00\x00\x00\x09\x00\x00";

    /// `ip link add link v0 name v0.7 type vlan id 7 protocol 802.1ad`
    const VLAN: &[u8] = b"\x06\x00\x01\x00\x07\x00\x00\x00\x06\x00\x05\x00\x88\xa8\x00\x00";

    /// `ip link set bond0 type bond arp_ip_target 1.2.3.4,5.6.7.8 primary v0`, where v0 has index 3.
    const TARGETS: &[u8] =
        b"\x14\x00\x08\x00\x08\x00\x00\x00\x01\x02\x03\x04\x08\x00\x01\x00\x05\x06\x07\x08\x08\x00\x0b\
        \x00\x03\x00\x00\x00";

    fn sorted(mut attributes: Vec<(u16, Vec<u8>)>) -> Vec<(u16, Vec<u8>)> {
        for (number, _) in &mut attributes {
            *number &= !NESTED;
        }
        attributes.sort();
        attributes
    }

    fn listed(data: &[u8]) -> Vec<(u16, Vec<u8>)> {
        sorted(attributes(data).map(|(number, value)| (number, value.to_vec())).collect())
    }

    fn bond(kind: &LinkKind) -> &Bond {
        let LinkKind::Bond(bond) = kind else { panic!("{kind:?}") };
        bond
    }

    #[test]
    fn a_bond_is_made_as_ip_makes_it() {
        let kind = read("bond".into(), BOND7);
        assert_eq!(kind.name(), "bond");
        assert_eq!(bond(&kind).mode, 4);
        let options = [(BOND_MIIMON, 100), (BOND_XMIT_HASH, 1), (BOND_LACP_RATE, 1), (26, 0x0900_0000_0002)];
        assert_eq!(bond(&kind).options, options);
        let fresh = LinkKind::Bond(Bond { mode: 4, ..Bond::default() });
        let mut sent = to_make(&kind);
        sent.extend(to_change(&kind, &fresh));
        assert_eq!(sorted(sent), listed(BOND7));
        assert_eq!(to_change(&kind, &kind), [], "nothing is set twice");
        let other = LinkKind::Bond(Bond::default());
        assert_eq!(to_change(&kind, &other)[0], (BOND_MODE, vec![4]), "the mode decides what else can be set");
    }

    #[test]
    fn targets_and_the_preferred_member() {
        let mut data = attributes_of(&[(BOND_MODE, vec![1])]);
        data.extend(TARGETS);
        let kind = read("bond".into(), &data);
        let ips: Vec<IpAddr> = ["1.2.3.4", "5.6.7.8"].map(|ip| ip.parse().unwrap()).into();
        assert_eq!((&bond(&kind).targets, bond(&kind).primary), (&ips, Some(LinkId(3))));
        let mut sent = to_change(&kind, &LinkKind::Bond(Bond { mode: 1, ..Bond::default() }));
        sent.push(primary(3));
        assert_eq!(sorted(sent), listed(TARGETS));
        let v6: IpAddr = "2001:db8::1".parse().unwrap();
        let kind = LinkKind::Bond(Bond { mode: 1, targets: vec![ips[0], v6], ..Bond::default() });
        let again = to_change(&kind, &LinkKind::Bond(Bond::default()));
        let again = [attributes_of(&again), attributes_of(&to_make(&kind))].concat();
        assert_eq!(read("bond".into(), &again), kind);
    }

    /// Whatever the kernel lists, only what a mode has is told to a bond of that mode: the kernel refuses the rest.
    #[test]
    fn options_are_those_of_the_mode() {
        let all: Vec<_> = BOND.iter().map(|(number, width, _)| (*number, vec![9; *width])).collect();
        for (mode, has, lacks) in [
            (0, &[BOND_ARP_INTERVAL, 20][..], &[12, BOND_LACP_RATE, 26, 27][..]),
            (1, &[BOND_ARP_INTERVAL, 9, 12, 30], &[20, BOND_LACP_RATE, 27]),
            (2, &[BOND_ARP_INTERVAL, BOND_XMIT_HASH], &[12, 20, BOND_LACP_RATE]),
            (3, &[BOND_ARP_INTERVAL], &[12, 20, BOND_LACP_RATE]),
            (4, &[BOND_LACP_RATE, BOND_AD_SELECT, 24, 25, 26, 29, 32], &[BOND_ARP_INTERVAL, 9, 12, 20, 27, 30]),
            (5, &[12, 27], &[BOND_ARP_INTERVAL, 20, BOND_LACP_RATE]),
            (6, &[12, 27], &[BOND_ARP_INTERVAL, 20, BOND_LACP_RATE]),
        ] {
            let data = [attributes_of(&all), attributes_of(&[(BOND_MODE, vec![mode])])].concat();
            let kind = read("bond".into(), &data);
            assert!(has.iter().chain(&[BOND_MIIMON]).all(|number| kind.option(*number).is_some()), "{mode}: {kind:?}");
            assert!(lacks.iter().all(|number| kind.option(*number).is_none()), "{mode}: {kind:?}");
        }
        let data = attributes_of(&[(BOND_MODE, vec![7])]);
        assert_eq!(read("bond".into(), &data), LinkKind::Made("bond".into()), "a mode that is not known");
    }

    #[test]
    fn other_kinds() {
        let vlan = LinkKind::Vlan { id: 7, protocol: 0x88a8, flags: 0, egress: Vec::new(), ingress: Vec::new() };
        assert_eq!(read("vlan".into(), VLAN), vlan);
        let kinds = [
            LinkKind::Vlan {
                id: 4094,
                protocol: 0x8100,
                flags: 1,
                egress: vec![(0, 3), (16, 7)],
                ingress: vec![(5, 1)],
            },
            LinkKind::Macvlan { mode: 4, flags: 1 },
            LinkKind::Vrf { table: 1001 },
            LinkKind::Dummy,
            LinkKind::Card,
        ];
        for kind in kinds {
            assert_eq!(read(kind.name().into(), &attributes_of(&to_make(&kind))), kind);
        }
        for name in ["vlan", "macvlan", "vrf", "bond", "team", "wireguard"] {
            assert_eq!(read(name.into(), b"\x05\x00\x63\x00"), LinkKind::Made(name.into()));
        }
    }

    #[test]
    fn priorities_are_changed_where_they_differ() {
        let kind = |egress: &[(u32, u32)]| LinkKind::Vlan {
            id: 7,
            protocol: 0x8100,
            flags: 1,
            egress: egress.to_vec(),
            ingress: vec![(5, 1)],
        };
        let (wanted, now) = (kind(&[(0, 3), (2, 2)]), kind(&[(0, 1), (2, 2), (4, 4)]));
        let changes = to_change(&wanted, &now);
        let pair = |from: u32, to: u32| (VLAN_MAPPING, [from.to_ne_bytes(), to.to_ne_bytes()].concat());
        assert_eq!(changes, [(VLAN_EGRESS | NESTED, attributes_of(&[pair(0, 3), pair(4, 0)]))]);
        assert_eq!(to_change(&wanted, &wanted), []);
    }

    #[test]
    fn a_bridge_is_changed_where_it_differs() {
        let kind = |options: &[LinkOption]| LinkKind::Bridge { options: options.to_vec() };
        let default = kind(&[(1, 1500), (5, 0), (6, 0x8000), (39, 1), (7, 0)]);
        let wanted = kind(&[(1, 0), (5, 0), (6, 0x1000), (39, 0), (7, 1)]);
        let changes = to_change(&wanted, &default);
        assert_eq!(changes, [(1, vec![0; 4]), (6, vec![0, 0x10]), (39, vec![0, 0]), (7, vec![1])]);
        assert_eq!(read("bridge".into(), &attributes_of(&changes)), kind(&[(1, 0), (6, 0x1000), (39, 0), (7, 1)]));
    }
}
