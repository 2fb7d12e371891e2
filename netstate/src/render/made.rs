//! Links that the kernel makes, in the words of each configuration language.

use anemos_proto::net::{Bond, Link, LinkKind, Rule};

use super::plan::{Plan, name_of};
use crate::kinds::{self, BRIDGE_VLAN_FILTERING};
use crate::links::mac_text;
use crate::ports;
use crate::vlans::range;

/// What an option of a bond or a bridge is called.
pub struct Word {
    /// Its `IFLA_BOND_*` or `IFLA_BR_*`.
    number: u16,
    /// The value that it has by itself, and that is not written.
    default: u64,
    /// For ip(8), and for NetworkManager's bonds.
    pub ip: &'static str,
    /// For systemd.netdev(5), with the unit of its value; empty where it has none.
    pub networkd: (&'static str, &'static str),
    /// For netplan(5); empty where it has none.
    pub netplan: &'static str,
}

const fn word(
    number: u16,
    default: u64,
    ip: &'static str,
    networkd: (&'static str, &'static str),
    netplan: &'static str,
) -> Word {
    Word { number, default, ip, networkd, netplan }
}

const BOND: &[Word] = &[
    word(kinds::BOND_MIIMON, 0, "miimon", ("MIIMonitorSec", "ms"), "mii-monitor-interval"),
    word(kinds::BOND_UPDELAY, 0, "updelay", ("UpDelaySec", "ms"), "up-delay"),
    word(kinds::BOND_DOWNDELAY, 0, "downdelay", ("DownDelaySec", "ms"), "down-delay"),
    word(6, 1, "use_carrier", ("", ""), ""),
    word(kinds::BOND_ARP_INTERVAL, 0, "arp_interval", ("ARPIntervalSec", "ms"), "arp-interval"),
    word(9, 0, "arp_validate", ("ARPValidate", ""), "arp-validate"),
    word(10, 0, "arp_all_targets", ("ARPAllTargets", ""), "arp-all-targets"),
    word(12, 0, "primary_reselect", ("PrimaryReselectPolicy", ""), "primary-reselect-policy"),
    word(kinds::BOND_FAIL_OVER_MAC, 0, "fail_over_mac", ("FailOverMACPolicy", ""), "fail-over-mac-policy"),
    word(kinds::BOND_XMIT_HASH, 0, "xmit_hash_policy", ("TransmitHashPolicy", ""), "transmit-hash-policy"),
    word(15, 1, "resend_igmp", ("ResendIGMP", ""), "resend-igmp"),
    word(16, 1, "num_grat_arp", ("GratuitousARP", ""), "gratuitous-arp"),
    word(17, 0, "all_slaves_active", ("AllSlavesActive", ""), "all-slaves-active"),
    word(kinds::BOND_MIN_LINKS, 0, "min_links", ("MinLinks", ""), "min-links"),
    word(19, 1, "lp_interval", ("LearnPacketIntervalSec", ""), "learn-packet-interval"),
    word(20, 1, "packets_per_slave", ("PacketsPerSlave", ""), "packets-per-slave"),
    word(kinds::BOND_LACP_RATE, 0, "lacp_rate", ("LACPTransmitRate", ""), "lacp-rate"),
    word(kinds::BOND_AD_SELECT, 0, "ad_select", ("AdSelect", ""), "ad-select"),
    word(24, 65535, "ad_actor_sys_prio", ("AdActorSystemPriority", ""), ""),
    word(25, 0, "ad_user_port_key", ("AdUserPortKey", ""), ""),
    word(26, 0, "ad_actor_system", ("AdActorSystem", ""), ""),
    word(27, 1, "tlb_dynamic_lb", ("DynamicTransmitLoadBalancing", ""), ""),
];

const BRIDGE: &[Word] = &[
    word(kinds::BRIDGE_FORWARD_DELAY, 1500, "forward_delay", ("ForwardDelaySec", "0ms"), "forward-delay"),
    word(2, 200, "hello_time", ("HelloTimeSec", "0ms"), "hello-time"),
    word(3, 2000, "max_age", ("MaxAgeSec", "0ms"), "max-age"),
    word(kinds::BRIDGE_AGEING, 30000, "ageing_time", ("AgeingTimeSec", "0ms"), "ageing-time"),
    word(kinds::BRIDGE_PRIORITY, 0x8000, "priority", ("Priority", ""), "priority"),
    word(9, 0, "group_fwd_mask", ("GroupForwardMask", ""), ""),
    word(23, 1, "mcast_snooping", ("MulticastSnooping", ""), ""),
    word(25, 0, "mcast_querier", ("MulticastQuerier", ""), ""),
    word(kinds::BRIDGE_DEFAULT_PVID, 1, "vlan_default_pvid", ("DefaultPVID", ""), ""),
    word(BRIDGE_VLAN_FILTERING, 0, "vlan_filtering", ("VLANFiltering", ""), ""),
];

/// What an option of a bridge's port is called, or of a bond's member.
pub struct PortWord {
    /// Its `IFLA_BRPORT_*` or `IFLA_BOND_SLAVE_*`.
    number: u16,
    /// The value that it has by itself, if that is known.
    default: Option<u64>,
    /// For ip(8).
    pub ip: &'static str,
    /// For systemd.network(5); empty where it has none.
    pub networkd: &'static str,
    /// For NetworkManager; empty where it has none.
    pub manager: &'static str,
    /// For netplan(5); empty where it has none.
    pub netplan: &'static str,
}

const fn port(
    number: u16,
    default: Option<u64>,
    ip: &'static str,
    networkd: &'static str,
    manager: &'static str,
    netplan: &'static str,
) -> PortWord {
    PortWord { number, default, ip, networkd, manager, netplan }
}

const BRIDGE_PORT: &[PortWord] = &[
    port(ports::BRIDGE_PRIORITY, Some(32), "priority", "Priority", "priority", "port-priority"),
    port(ports::BRIDGE_COST, None, "cost", "Cost", "path-cost", "path-cost"),
    port(4, Some(0), "hairpin", "HairPin", "hairpin-mode", ""),
    // systemd-networkd has words for these two, and different versions of it take them for opposites.
    port(5, Some(0), "guard", "", "", ""),
    port(6, Some(0), "root_block", "", "", ""),
    port(7, Some(0), "fastleave", "FastLeave", "", ""),
    port(8, Some(1), "learning", "Learning", "", ""),
    port(9, Some(1), "flood", "UnicastFlood", "", ""),
    port(10, Some(0), "proxy_arp", "ProxyARP", "", ""),
    port(12, Some(0), "proxy_arp_wifi", "ProxyARPWiFi", "", ""),
    port(27, Some(1), "mcast_flood", "MulticastFlood", "", ""),
    port(30, Some(1), "bcast_flood", "", "", ""),
    port(32, Some(0), "neigh_suppress", "NeighborSuppression", "", ""),
    port(33, Some(0), "isolated", "Isolated", "", ""),
];

const BOND_PORT: &[PortWord] =
    &[port(5, Some(0), "queue_id", "", "queue-id", ""), port(9, Some(0), "prio", "", "", "")];

/// What a port of a bridge or a member of a bond has that is not as it is by itself, and the values.
pub fn port_options<'l>(
    port: &'l Link,
    master: Option<&Link>,
) -> impl Iterator<Item = (&'static PortWord, PortValue)> + use<'l> {
    let (words, is_bridge) = match master.map(|master| &master.kind) {
        Some(LinkKind::Bridge { .. }) => (BRIDGE_PORT, true),
        Some(LinkKind::Bond(_)) => (BOND_PORT, false),
        _ => (&[][..], false),
    };
    words.iter().filter_map(move |word| {
        let (_, value) = port.port.iter().find(|(number, _)| *number == word.number)?;
        let is_flag = is_bridge && ![ports::BRIDGE_PRIORITY, ports::BRIDGE_COST].contains(&word.number);
        // A member's priority may be below zero.
        let given =
            if is_flag { PortValue::Flag(*value != 0) } else { PortValue::Number((*value as u32).cast_signed()) };
        (word.default != Some(*value)).then_some((word, given))
    })
}

/// The value of an option of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortValue {
    Flag(bool),
    Number(i32),
}

impl PortValue {
    /// With words for a flag that is not set, and for one that is.
    pub fn text(self, [off, on]: [&str; 2]) -> String {
        match self {
            Self::Flag(set) => if set { on } else { off }.to_owned(),
            Self::Number(number) => number.to_string(),
        }
    }
}

/// A command of ip(8) that gives a port or a member what it had, if that is not what it has by itself. A shell knows it
/// as `device`.
pub fn ip_port(port: &Link, master: &Link, device: &str) -> Option<String> {
    let words: Vec<String> = port_options(port, Some(master))
        .map(|(word, value)| format!(" {} {}", word.ip, value.text(["off", "on"])))
        .collect();
    let kind = master.kind.name();
    (!words.is_empty()).then(|| format!("ip link set dev {device} type {kind}_slave{}", words.concat()))
}

/// Pairs of priorities, as `0:3`, or with another sign in between.
pub fn pairs<'p>(pairs: &'p [(u32, u32)], between: &'p str) -> impl Iterator<Item = String> + use<'p> {
    pairs.iter().map(move |(from, to)| format!("{from}{between}{to}"))
}

/// The options of a bond or a bridge that are not as they are by themselves, and their values in words.
pub fn options(kind: &LinkKind) -> impl Iterator<Item = (&'static Word, String)> {
    let words = match kind {
        LinkKind::Bond(_) => BOND,
        LinkKind::Bridge { .. } => BRIDGE,
        _ => &[],
    };
    let is_bond = matches!(kind, LinkKind::Bond(_));
    words.iter().filter_map(move |word| {
        let value = kind.option(word.number).filter(|value| *value != word.default)?;
        let text = if is_bond { bond_value(word.number, value) } else { value.to_string() };
        Some((word, text))
    })
}

fn bond_value(number: u16, value: u64) -> String {
    let names: &[&str] = match number {
        9 => &["none", "active", "backup", "all", "filter", "filter_active", "filter_backup"],
        10 => &["any", "all"],
        12 => &["always", "better", "failure"],
        kinds::BOND_FAIL_OVER_MAC => &["none", "active", "follow"],
        kinds::BOND_XMIT_HASH => &["layer2", "layer3+4", "layer2+3", "encap2+3", "encap3+4", "vlan+srcmac"],
        kinds::BOND_LACP_RATE => &["slow", "fast"],
        kinds::BOND_AD_SELECT => &["stable", "bandwidth", "count"],
        26 => {
            let [mac @ .., _, _] = value.to_le_bytes();
            return mac_text(mac);
        }
        _ => &[],
    };
    names.get(value as usize).map_or_else(|| value.to_string(), |name| (*name).to_owned())
}

/// A bond's mode in words.
pub fn bond_mode(bond: &Bond) -> &'static str {
    bond.mode_name().unwrap_or(Bond::MODES[0])
}

/// A macvlan's mode in words.
pub fn macvlan_mode(mode: u32) -> &'static str {
    match mode {
        1 => "private",
        2 => "vepa",
        8 => "passthru",
        16 => "source",
        _ => "bridge",
    }
}

/// `802.1Q` or `802.1ad`.
pub fn vlan_protocol(protocol: u16) -> &'static str {
    if protocol == kinds::VLAN_8021AD { "802.1ad" } else { "802.1Q" }
}

/// Flags of a VLAN that are not as they are by themselves: for ip(8), for systemd.netdev(5), and whether it is set.
pub fn vlan_flags(flags: u32) -> impl Iterator<Item = (&'static str, &'static str, bool)> {
    let known = [
        (1, "reorder_hdr", "ReorderHeader", true),
        (2, "gvrp", "GVRP", false),
        (4, "loose_binding", "LooseBinding", false),
        (8, "mvrp", "MVRP", false),
    ];
    known.into_iter().filter_map(move |(bit, ip, networkd, default)| {
        let is_set = flags & bit != 0;
        (is_set != default).then_some((ip, networkd, is_set))
    })
}

/// Arguments of `ip link add` for a made link. `lower` is what a shell has in place of the name of the link below it.
pub fn ip_link_add(plan: &Plan, lower: &str) -> String {
    let (name, link) = (&plan.name, plan.link);
    let mut words = Vec::new();
    if let LinkKind::Vlan { .. } | LinkKind::Macvlan { .. } = link.kind {
        words.push(format!("link {lower}"));
    }
    words.push(format!("name {name}"));
    if plan.has_own_mac {
        words.push(format!("address {}", mac_text(link.mac)));
    }
    words.push(format!("type {}", link.kind.name()));
    match &link.kind {
        LinkKind::Vlan { id, protocol, flags, egress, ingress } => {
            words.push(format!("protocol {} id {id}", vlan_protocol(*protocol)));
            words.extend(vlan_flags(*flags).map(|(word, _, on)| format!("{word} {}", if on { "on" } else { "off" })));
            for (word, map) in [("egress", egress), ("ingress", ingress)] {
                let pairs: Vec<_> = pairs(map, ":").collect();
                words.extend((!pairs.is_empty()).then(|| format!("{word}-qos-map {}", pairs.join(" "))));
            }
        }
        LinkKind::Bond(bond) => {
            words.push(format!("mode {}", bond_mode(bond)));
            let v4 = bond.targets.iter().filter(|ip| ip.is_ipv4()).map(ToString::to_string).collect::<Vec<_>>();
            if !v4.is_empty() {
                words.push(format!("arp_ip_target {}", v4.join(",")));
            }
        }
        LinkKind::Bridge { .. } => {
            let stp = link.kind.option(kinds::BRIDGE_STP).is_some_and(|stp| stp != 0);
            words.extend(stp.then(|| "stp_state 1".to_owned()));
        }
        LinkKind::Macvlan { mode, .. } => words.push(format!("mode {}", macvlan_mode(*mode))),
        LinkKind::Vrf { table } => words.push(format!("table {table}")),
        LinkKind::Dummy | LinkKind::Card | LinkKind::Made(_) | LinkKind::Loopback => {}
    }
    words.extend(options(&link.kind).map(|(word, value)| format!("{} {value}", word.ip)));
    words.join(" ")
}

/// Commands of bridge(8) that give a port of `bridge`, or the bridge itself, its VLANs. A shell knows the port as
/// `device`.
pub fn bridge_vlans(bridge: &Link, port: &Link, device: &str) -> Vec<String> {
    let vlans = &port.vlans;
    let own = if bridge.id == port.id { " self" } else { "" };
    let mut commands = Vec::new();
    // The kernel puts each port into the default VLAN.
    let default = bridge.kind.option(kinds::BRIDGE_DEFAULT_PVID).unwrap_or(1);
    if default != 0 && !vlans.iter().any(|vlans| (vlans.first..=vlans.last).contains(&(default as u16))) {
        commands.push(format!("bridge vlan delete dev {device} vid {default}{own} 2>/dev/null || true"));
    }
    commands.extend(vlans.iter().map(|vlans| {
        let pvid = if vlans.pvid { " pvid" } else { "" };
        let untagged = if vlans.untagged { " untagged" } else { "" };
        format!("bridge vlan add dev {device} vid {}{pvid}{untagged}{own}", range(*vlans))
    }));
    commands
}

/// Arguments of `ip rule add`, in which a link is called as `name` says.
pub fn ip_rule(rule: &Rule, name: impl Fn(&str) -> String) -> String {
    let mut words = vec![format!("priority {}", rule.priority)];
    if rule.inverted {
        words.push("not".into());
    }
    let prefix = |prefix: &Option<(std::net::IpAddr, u8)>| {
        prefix.map_or_else(|| "all".to_owned(), |(ip, length)| format!("{ip}/{length}"))
    };
    words.push(format!("from {}", prefix(&rule.source)));
    if rule.destination.is_some() {
        words.push(format!("to {}", prefix(&rule.destination)));
    }
    words.extend(rule.mark.map(|(mark, mask)| format!("fwmark {mark:#x}/{mask:#x}")));
    words.extend(rule.iif.as_ref().map(|link| format!("iif {}", name(link))));
    words.extend(rule.oif.as_ref().map(|link| format!("oif {}", name(link))));
    words.push(format!("lookup {}", rule.table));
    words.extend(rule.suppress.map(|length| format!("suppress_prefixlength {length}")));
    words.join(" ")
}

/// The name in a rendered configuration of the link that the old system called `old`.
pub fn renamed(plans: &[Plan], old: &str) -> String {
    plans.iter().find(|plan| plan.link.name == old).map_or_else(|| super::plan::plain(old), |plan| plan.name.clone())
}

/// Names of the links that a link stands on.
pub fn below<'p>(plans: &'p [Plan], plan: &Plan) -> Vec<&'p str> {
    plan.link.below.iter().filter_map(|id| name_of(plans, *id)).collect()
}
