//! Captures and restores real links in a network namespace of this test's own, made by root or in a user namespace.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anemos_netstate::render::Format;
use anemos_netstate::{Deadlines, Reached, Restored, apply, capture, instead, lost_ways, reached, restorable};
use anemos_proto::net::{Link, LinkId, LinkKind, NetworkState};

/// Set in the process that runs inside the namespace.
const INSIDE: &str = "ANEMOS_TEST_NAMESPACE";

/// Runs a test body in a new network namespace: this test again, below unshare(1).
fn in_namespace(test: &str, body: fn()) {
    if std::env::var_os(INSIDE).is_some() {
        body();
        return;
    }
    let works = |options: &&[&str]| {
        let tried = Command::new("unshare").args(*options).arg("true").stderr(Stdio::null()).status();
        tried.is_ok_and(|status| status.success())
    };
    let Some(options) = [&["--net", "--mount"][..], &["--net", "--mount", "--map-root-user"]].into_iter().find(works)
    else {
        // Past libtest, which shows nothing of a test that passes.
        let why = "it needs a network namespace, which only root may make here";
        let _ = writeln!(std::io::stderr(), "skipped: {test}: {why}");
        return;
    };
    // sysfs shows the links of the namespace in which it was mounted.
    let output = Command::new("unshare")
        .args(options)
        .args(["sh", "-c", "mount -t sysfs sysfs /sys && exec \"$@\"", "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--include-ignored"])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "{test} failed in its namespace:\n{said}");
}

fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn ip_json(arguments: &str) -> serde_json::Value {
    serde_json::from_str(&ip(&format!("-json {arguments}"))).unwrap()
}

/// A link with a carrier, and the machine at the other end of its cable.
fn plug(name: &str, mac: &str) {
    ip(&format!("link add {name} address {mac} type veth peer name {name}-far"));
    ip(&format!("link set {name}-far up addrgenmode none"));
}

/// Without the far ends, and without what a boot may change: names, and ids, which become the last byte of the address
/// of a pair's end and the name's last byte of other links.
fn comparable(mut state: NetworkState) -> NetworkState {
    state.links.retain(|link| !link.name.ends_with("-far"));
    let links = state.links.clone();
    let id = |id: LinkId| {
        let link = links.iter().find(|link| link.id == id).unwrap();
        let is_pair = link.kind == LinkKind::Made("veth".into());
        LinkId(if is_pair { link.mac[5].into() } else { 256 + u32::from(*link.name.as_bytes().last().unwrap()) })
    };
    for route in &mut state.routes {
        route.link = id(route.link);
        route.hops.iter_mut().for_each(|hop| hop.link = id(hop.link));
    }
    for link in &mut state.links {
        link.id = id(link.id);
        link.below.iter_mut().for_each(|below| *below = id(*below));
        link.below.sort();
        if let LinkKind::Bond(bond) = &mut link.kind {
            bond.primary = bond.primary.map(id);
        }
        if !link.kind.can_be_made() && link.kind != LinkKind::Loopback {
            link.name.clear();
        }
    }
    state
}

/// What does not depend on the order in which the kernel lists it.
fn sorted(mut state: NetworkState) -> NetworkState {
    state.links.sort_by_key(|link| link.id);
    state.routes.sort_by_key(|route| format!("{route:?}"));
    state
}

/// Takes all links away, plugs the ends of cables in again under other names, and restores: twice, and with the same
/// result.
fn again(before: &NetworkState, plug_again: impl Fn()) {
    for link in ip_json("link show").as_array().unwrap() {
        let name = link["ifname"].as_str().unwrap();
        // The other end of a cable has gone with the first.
        if name != "lo" {
            let _ = Command::new("ip").args(["link", "delete", name]).stderr(Stdio::null()).status();
        }
    }
    plug_again();
    for _ in 0..2 {
        assert_eq!(apply(before, quick()).unwrap().problems, Vec::<String>::new());
        assert_eq!(sorted(comparable(capture().unwrap())), sorted(before.clone()));
    }
}

fn quick() -> Deadlines {
    Deadlines { links: Duration::from_secs(5), carrier: Duration::from_secs(5) }
}

#[test]
fn a_static_host_is_restored() {
    in_namespace("a_static_host_is_restored", || {
        plug("old0", "52:54:00:00:00:01");
        plug("old1", "52:54:00:00:00:02");
        for command in [
            "link set old0 mtu 1400 up",
            "link set old1 up",
            "address add 192.0.2.10/32 dev old0",
            "address add 198.51.100.5/24 broadcast + dev old1",
            "address add 198.51.100.6/24 broadcast + dev old1",
            "address add 10.9.9.1 peer 10.9.9.2/32 dev old1",
            "address add 2001:db8::10/64 dev old0 nodad",
            "address add 2001:db8::11/64 dev old0 nodad preferred_lft 0",
            "address add 2001:db8:5::1/64 dev old1 nodad noprefixroute",
            "route add default via 203.0.113.1 dev old0 onlink proto static metric 50 mtu 1300",
            "route add default via 198.51.100.1 dev old1 proto dhcp src 198.51.100.6 metric 200",
            "route add 203.0.113.128/25 dev old0 scope link",
            "route add 10.0.0.0/8 via 198.51.100.9 dev old1",
            "route add 10.64.0.0/10 nexthop via 198.51.100.10 dev old1 nexthop via 198.51.100.11 dev old1",
            "route add 10.1.2.0/24 via inet6 fe80::9 dev old0",
            "route add unreachable 10.99.0.0/16",
            "route add 192.0.2.99 dev old0 table 77",
            "-6 route add default via fe80::1 dev old0 metric 7",
            "-6 route add 2001:db8:7::/48 via 2001:db8:ffff::1 dev old0 onlink",
        ] {
            ip(command);
        }
        let before = comparable(capture().unwrap());

        assert_eq!(before.links.len(), 2);
        assert_eq!(before.links[0].mac, [0x52, 0x54, 0, 0, 0, 1]);
        assert_eq!((before.links[0].mtu, before.links[0].kind.name()), (1400, "veth"));
        let addresses: Vec<_> =
            before.links.iter().flat_map(|l| &l.addresses).map(|a| format!("{}/{}", a.ip, a.prefix)).collect();
        assert!(addresses.contains(&"2001:db8:5::1/128".to_owned()), "no route to its network: {addresses:?}");
        assert_eq!(addresses.len(), 7, "{addresses:?}");
        assert!(before.routes.iter().all(|route| route.table == 254));
        assert_eq!(before.routes.len(), 8, "{:#?}", before.routes);
        let routes = ip_json("route show default");

        ip("link delete old0");
        ip("link delete old1");
        assert!(comparable(capture().unwrap()).links.is_empty());
        // Other names, other order.
        plug("new7", "52:54:00:00:00:02");
        plug("new3", "52:54:00:00:00:01");
        let restored = apply(&before, quick()).unwrap();
        assert_eq!(restored.problems, Vec::<String>::new());
        assert_eq!(restored.names.len(), 2);
        assert_eq!(sorted(comparable(capture().unwrap())), sorted(before.clone()));

        // What ip(8) says is the same but for the names.
        let text = ip_json("route show default").to_string().replace("new3", "old0").replace("new7", "old1");
        assert_eq!(text, routes.to_string());
        assert!(ip_json("address show dev lo")[0]["flags"].to_string().contains("\"UP\""));
        assert_eq!(fs::read_to_string("/proc/sys/net/ipv6/conf/new3/accept_ra").unwrap().trim(), "0");

        // Once more changes nothing.
        assert_eq!(apply(&before, quick()).unwrap().problems, Vec::<String>::new());
        assert_eq!(sorted(comparable(capture().unwrap())), sorted(before));
    });
}

#[test]
fn a_given_hardware_address_is_given_again() {
    in_namespace("a_given_hardware_address_is_given_again", || {
        plug("u0", "52:54:00:00:00:01");
        ip("link set u0 up");
        ip("address add 192.0.2.10/24 dev u0");
        ip("route add default via 192.0.2.1 dev u0");
        let mut state = comparable(capture().unwrap());
        // Links of this kind have no permanent address, from which the present one could differ.
        state.links[0].set_mac = Some([2, 0, 0, 0, 0, 7]);
        let files = Format::Iproute2.files(&NetworkState {
            links: state.links.iter().map(|link| Link { kind: LinkKind::Card, ..link.clone() }).collect(),
            ..state.clone()
        });
        let address = |name: &str| ip_json(&format!("link show {name}"))[0]["address"].as_str().unwrap().to_owned();
        // The second time the link is known by the address that it was given the first time.
        ip("link delete u0");
        plug("w0", "52:54:00:00:00:01");
        for _ in 0..2 {
            assert_eq!(apply(&state, quick()).unwrap().problems, Vec::<String>::new());
            assert_eq!(address("w0"), "02:00:00:00:00:07");
        }
        ip("link delete w0");
        plug("x0", "52:54:00:00:00:01");
        for _ in 0..2 {
            let output = Command::new("sh").args(["-c", &files[0].1]).output().unwrap();
            assert_eq!(String::from_utf8_lossy(&output.stderr), "");
            assert_eq!(address("x0"), "02:00:00:00:00:07");
        }
        assert!(ip("address show dev x0").contains("192.0.2.10/24"));
    });
}

#[test]
fn a_missing_link_is_reported() {
    in_namespace("a_missing_link_is_reported", || {
        plug("u0", "52:54:00:00:00:01");
        ip("link set u0 up");
        ip("address add 192.0.2.10/24 dev u0");
        ip("route add default via 192.0.2.1 dev u0");
        let mut state = comparable(capture().unwrap());
        // Only hardware is waited for, so it passes for hardware; then only its absence can be seen.
        state.links[0].kind = LinkKind::Card;
        let patience = Deadlines { links: Duration::from_millis(300), ..quick() };
        let Restored { problems, .. } = apply(&state, patience).unwrap();
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(problems[0].contains("52:54:00:00:00:01"), "{problems:?}");
        assert!(problems[1].contains("default via 192.0.2.1"), "{problems:?}");
    });
}

#[test]
fn carrier_is_awaited() {
    in_namespace("carrier_is_awaited", || {
        plug("u0", "52:54:00:00:00:01");
        ip("link set u0 up");
        ip("address add 192.0.2.10/24 dev u0");
        ip("address add 2001:db8::10/64 dev u0 nodad");
        ip("route add default via 192.0.2.1 dev u0");
        ip("-6 route add default via fe80::1 dev u0 src 2001:db8::10");
        let state = comparable(capture().unwrap());
        ip("link delete u0");
        plug("w0", "52:54:00:00:00:01");
        ip("link set w0-far down");
        let patience = Deadlines { carrier: Duration::from_millis(200), ..quick() };
        let Restored { problems, .. } = apply(&state, patience).unwrap();
        assert_eq!(problems, ["w0 has had no carrier for 0 s"]);

        let cable = thread::spawn(|| {
            thread::sleep(Duration::from_millis(300));
            ip("link set w0-far up");
        });
        let Restored { problems, .. } = apply(&state, quick()).unwrap();
        cable.join().unwrap();
        assert_eq!(problems, Vec::<String>::new());
        assert_eq!(comparable(capture().unwrap()), state);
    });
}

#[test]
fn leases_become_permanent() {
    in_namespace("leases_become_permanent", || {
        plug("u0", "52:54:00:00:00:01");
        ip("link set u0 up");
        ip("address add 192.0.2.10/24 dev u0 valid_lft 3600 preferred_lft 1800");
        ip("address add 2001:db8::10/64 dev u0 nodad mngtmpaddr valid_lft 3600 preferred_lft 0");
        ip("-6 route add default via fe80::1 dev u0 proto ra");
        let state = comparable(capture().unwrap());
        let [v4, v6] = &state.links[0].addresses[..] else { panic!("{state:#?}") };
        let within = |lifetime: Option<u32>, most: u32| lifetime.is_some_and(|s| s <= most && s + 60 > most);
        assert!(within(v4.valid_s, 3600) && within(v4.preferred_s, 1800) && !v4.autoconf, "{v4:?}");
        assert!(within(v6.valid_s, 3600) && v6.preferred_s == Some(0) && v6.autoconf, "{v6:?}");
        ip("link delete u0");
        plug("w0", "52:54:00:00:00:01");
        assert_eq!(apply(&state, quick()).unwrap().problems, Vec::<String>::new());
        let after = comparable(capture().unwrap());
        let [v4, v6] = &after.links[0].addresses[..] else { panic!("{after:#?}") };
        assert_eq!((v4.valid_s, v4.preferred_s), (None, None));
        assert_eq!((v6.valid_s, v6.preferred_s), (None, Some(0)), "still deprecated");
        assert_eq!(after.routes, state.routes);
        assert_ne!(fs::read_to_string("/proc/sys/net/ipv6/conf/w0/accept_ra").unwrap().trim(), "0");
    });
}

#[test]
fn the_rendered_script_restores_the_same() {
    in_namespace("the_rendered_script_restores_the_same", || {
        plug("u0", "52:54:00:00:00:01");
        for command in [
            "link set u0 mtu 1400 up",
            "address add 192.0.2.10/32 dev u0",
            "address add 198.51.100.5/24 broadcast + dev u0",
            "address add 10.9.9.1 peer 10.9.9.2/32 dev u0",
            "address add 2001:db8::10/64 dev u0 nodad",
            "address add 2001:db8::11/64 dev u0 nodad",
            "route add default via 203.0.113.1 dev u0 onlink proto static metric 50 mtu 1300",
            "route add 203.0.113.128/25 dev u0 scope link proto static",
            "route add 10.1.2.0/24 via inet6 fe80::9 dev u0 proto static src 198.51.100.5",
            "-6 route add default via fe80::1 dev u0 metric 7 proto static",
            "-6 route add 2001:db8:7::/48 via 2001:db8:ffff::1 dev u0 onlink proto static",
        ] {
            ip(command);
        }
        let before = comparable(capture().unwrap());
        let mut hardware = before.clone();
        hardware.links[0].kind = LinkKind::Card;
        let files = Format::Iproute2.files(&hardware);

        ip("link delete u0");
        plug("w0", "52:54:00:00:00:01");
        let output = Command::new("sh").args(["-c", &files[0].1]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
        assert!(output.status.success());
        assert_eq!(comparable(capture().unwrap()), before);
    });
}

/// As on Proxmox: a bridge of a card and of guests' links, and a link with an address of its own on top of the bridge.
#[test]
fn a_bridge_is_made_again() {
    in_namespace("a_bridge_is_made_again", || {
        plug("u0", "52:54:00:00:00:01");
        for command in [
            "link add br0 address 52:54:00:00:00:01 type bridge forward_delay 0 ageing_time 20000 priority 4096",
            "link set br0 type bridge mcast_snooping 0",
            "link set u0 master br0 up mtu 1400",
            "tuntap add tap0 mode tap",
            "link set tap0 master br0 up",
            "link set br0 mtu 1400 up",
            "address add 192.0.2.10/24 broadcast + dev br0",
            "address add 2001:db8::10/64 dev br0 nodad",
            "route add default via 192.0.2.1 dev br0 proto static",
            "link add mv1 link br0 address 02:00:00:00:00:09 type macvlan mode bridge",
            "link set mv1 up",
            "address add 198.51.100.5/24 broadcast + dev mv1",
            "link add docker7 type bridge",
            "link set docker7 up",
            "address add 172.17.0.1/16 dev docker7",
        ] {
            ip(command);
        }
        let all = capture().unwrap();
        assert!(
            all.links.iter().any(|link| link.name == "tap0") && all.links.iter().any(|link| link.name == "docker7")
        );
        let at = Reached { at: Some("192.0.2.10".parse().unwrap()), ..Reached::default() };
        assert_eq!(lost_ways(&all, &at), ["u0 (veth)", "tap0 (tun)"], "nothing below the bridge is a card");
        // A pair's end stands for a card, which the kernel can't make either.
        let mut cards = all.clone();
        cards.links.iter_mut().filter(|link| link.name == "u0").for_each(|link| link.kind = LinkKind::Card);
        assert!(lost_ways(&cards, &at).is_empty());
        let mut kept = restorable(cards, &at);
        kept.links
            .iter_mut()
            .filter(|link| link.name == "u0")
            .for_each(|link| link.kind = LinkKind::Made("veth".into()));
        let before = comparable(kept);
        let names: Vec<_> = before.links.iter().map(|link| &*link.name).collect();
        assert_eq!(names, ["", "br0", "mv1"], "neither guests nor containers");
        again(&before, || plug("w0", "52:54:00:00:00:01"));
        let bridge = &ip_json("-details link show br0")[0];
        assert_eq!((&bridge["address"], &bridge["mtu"]), (&"52:54:00:00:00:01".into(), &1400.into()));
        let data = &bridge["linkinfo"]["info_data"];
        assert_eq!((&data["priority"], &data["ageing_time"]), (&4096.into(), &20000.into()), "{data}");
        assert_eq!(ip_json("link show w0")[0]["master"], "br0");
    });
}

/// What a port lets through and what it costs, which is not what the kernel gives a port by itself.
#[test]
fn ports_of_a_bridge_are_as_they_were() {
    in_namespace("ports_of_a_bridge_are_as_they_were", || {
        let cables = |prefix: &str| {
            plug(&format!("{prefix}1"), "52:54:00:00:00:01");
            plug(&format!("{prefix}2"), "52:54:00:00:00:02");
        };
        cables("u");
        for command in [
            "link add br0 type bridge stp_state 1",
            "link set u1 master br0 up",
            "link set u2 master br0 up",
            "link set br0 up",
            "link set u1 type bridge_slave priority 16 cost 7000 guard on root_block on fastleave on",
            "link set u2 type bridge_slave hairpin on learning off flood off mcast_flood off bcast_flood off",
            "link set u2 type bridge_slave isolated on proxy_arp on neigh_suppress on",
        ] {
            ip(command);
        }
        let before = comparable(capture().unwrap());
        let port = |mac: u8| &before.links.iter().find(|link| link.mac == [0x52, 0x54, 0, 0, 0, mac]).unwrap().port;
        for option in [(2, 16), (3, 7000), (5, 1), (6, 1), (7, 1)] {
            assert!(port(1).contains(&option), "{option:?} in {:?}", port(1));
        }
        for option in [(2, 32), (4, 1), (8, 0), (9, 0), (10, 1), (27, 0), (30, 0), (32, 1), (33, 1)] {
            assert!(port(2).contains(&option), "{option:?} in {:?}", port(2));
        }
        again(&before, || cables("w"));

        // The script does the same.
        let mut hardware = before.clone();
        let pairs = hardware.links.iter_mut().filter(|link| link.kind == LinkKind::Made("veth".into()));
        pairs.for_each(|link| link.kind = LinkKind::Card);
        ip("link delete br0");
        ip("link delete w1");
        ip("link delete w2");
        cables("x");
        let output = Command::new("sh").args(["-c", &Format::Iproute2.files(&hardware)[0].1]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
        assert_eq!(sorted(comparable(capture().unwrap())), sorted(before.clone()));

        // Without a spanning tree, costs mean nothing.
        ip("link set br0 type bridge stp_state 0");
        let numbers: Vec<_> = capture().unwrap().links.iter().flat_map(|link| link.port.clone()).collect();
        assert!(!numbers.is_empty() && numbers.iter().all(|(number, _)| *number > 3), "{numbers:?}");
    });
}

/// A spanning tree is for circles, which one port makes none of; with it a port forwards only after a while.
#[test]
fn a_bridge_with_one_port_forwards_at_once() {
    in_namespace("a_bridge_with_one_port_forwards_at_once", || {
        let make = |ports: &[(&str, &str)]| {
            ip("link add br0 type bridge forward_delay 200 stp_state 1");
            for (name, mac) in ports {
                plug(name, mac);
                ip(&format!("link set {name} master br0 up"));
            }
            ip("link set br0 up");
            ip("address add 192.0.2.10/24 broadcast + dev br0");
            let state = comparable(capture().unwrap());
            ip("link delete br0");
            state
        };
        let spans = || ip_json("-details link show br0")[0]["linkinfo"]["info_data"]["stp_state"].clone();
        let one = make(&[("u0", "52:54:00:00:00:01")]);
        // The wait for a carrier would not last until a port forwards.
        let patience = Deadlines { carrier: Duration::from_secs(1), ..quick() };
        assert_eq!(apply(&one, patience).unwrap().problems, Vec::<String>::new());
        assert_eq!(spans(), 0);
        ip("link delete br0");
        ip("link delete u0");

        let two = make(&[("u1", "52:54:00:00:00:02"), ("u2", "52:54:00:00:00:03")]);
        assert_eq!(
            apply(&two, patience).unwrap().problems,
            Vec::<String>::new(),
            "the time of the spanning tree is given"
        );
        assert_eq!(spans(), 1);
    });
}

/// A card may be called in RAM what a bridge was called.
#[test]
fn a_name_that_is_taken() {
    in_namespace("a_name_that_is_taken", || {
        plug("p0", "52:54:00:00:00:01");
        ip("link add eth0 type bridge");
        ip("link set p0 master eth0 up");
        ip("link set eth0 up");
        ip("address add 192.0.2.10/24 broadcast + dev eth0");
        let before = comparable(capture().unwrap());
        ip("link delete eth0");
        ip("link delete p0");
        plug("eth0", "52:54:00:00:00:01");
        for _ in 0..2 {
            let restored = apply(&before, quick()).unwrap();
            assert_eq!(restored.problems, Vec::<String>::new());
            let (_, name) = restored.names.iter().find(|(old, _)| old == "eth0").unwrap();
            assert_ne!(name, "eth0");
            assert!(ip(&format!("address show dev {name}")).contains("192.0.2.10/24"));
            assert_eq!(ip_json("link show eth0")[0]["master"].as_str(), Some(&**name));
        }
    });
}

/// Both ends of two cables are bonded, and the bonds negotiate.
#[test]
#[ignore = "run in a lab machine, whose kernel has such links, by the scenario `ways::links_in_a_guest`"]
fn bonds_of_every_mode_are_made_again() {
    in_namespace("bonds_of_every_mode_are_made_again", || {
        let cables = |prefix: &str, far: &str| {
            for n in [1, 2] {
                plug(&format!("{prefix}{n}"), &format!("52:54:00:00:00:0{n}"));
                ip(&format!("link set {prefix}{n}-far down"));
            }
            ip(&format!("link add far7-far type bond {far} miimon 50"));
            for n in [1, 2] {
                ip(&format!("link set {prefix}{n}-far master far7-far"));
            }
            ip("link set far7-far up");
        };
        for (near, far) in [
            ("mode balance-rr miimon 100 packets_per_slave 4", "mode balance-rr"),
            ("mode active-backup miimon 100 updelay 200 primary_reselect better fail_over_mac none", "mode balance-rr"),
            ("mode balance-xor miimon 100 xmit_hash_policy layer3+4", "mode balance-xor"),
            ("mode broadcast miimon 100", "mode balance-rr"),
            (
                "mode 802.3ad miimon 100 lacp_rate fast min_links 1 ad_select bandwidth xmit_hash_policy layer2+3 \
                 ad_actor_sys_prio 1000 ad_user_port_key 7",
                "mode 802.3ad",
            ),
            ("mode balance-tlb miimon 100 tlb_dynamic_lb 0", "mode balance-rr"),
            ("mode balance-alb miimon 100", "mode balance-rr"),
        ] {
            cables("u", far);
            ip(&format!("link add bond0 type bond {near}"));
            for n in [1, 2] {
                ip(&format!("link set u{n} master bond0"));
            }
            if near.contains("primary_reselect") {
                ip("link set bond0 type bond primary u2");
            }
            ip("link set u2 type bond_slave queue_id 2");
            ip("link set bond0 mtu 1400 up");
            ip("address add 192.0.2.10/24 broadcast + dev bond0");
            ip("route add default via 192.0.2.1 dev bond0 proto static");
            let before = comparable(capture().unwrap());
            assert_eq!(before.links.len(), 3, "{near}");
            assert!(before.links.iter().any(|link| link.port.contains(&(5, 2))), "{near}: {before:#?}");
            again(&before, || {
                cables("w", far);
                // The driver makes one by itself when it is loaded.
                ip("link add bond0 type bond");
            });
            let members = ip("-o link show master bond0").lines().count();
            assert_eq!(members, 2, "{near}");
            for name in ["bond0", "far7-far", "w1", "w2"] {
                ip(&format!("link delete {name}"));
            }
        }
    });
}

/// A bridge on a VLAN on a bond, and a VLAN within a VLAN.
#[test]
#[ignore = "run in a lab machine, whose kernel has such links, by the scenario `ways::links_in_a_guest`"]
fn towers_are_made_again() {
    in_namespace("towers_are_made_again", || {
        let cables = |prefix: &str| {
            plug(&format!("{prefix}1"), "52:54:00:00:00:01");
            plug(&format!("{prefix}2"), "52:54:00:00:00:02");
        };
        cables("u");
        for command in [
            "link add bond1 type bond mode active-backup miimon 100",
            "link set u1 master bond1",
            "link set u2 master bond1",
            "link set bond1 mtu 1500 up",
            "link add link bond1 name bond1.7 type vlan id 7 reorder_hdr off egress-qos-map 0:3 2:5",
            "link set bond1.7 type vlan ingress-qos-map 5:1",
            "link set bond1.7 mtu 1450 up",
            "link add br8 address 52:54:00:00:00:01 type bridge",
            "link set bond1.7 master br8",
            "link set br8 mtu 1450 up",
            "link add link bond1 name outer2 type vlan id 2 protocol 802.1ad",
            "link set outer2 up",
            "link add link outer2 name inner3 address 02:00:00:00:00:33 type vlan id 3 loose_binding on",
            "link set inner3 up",
            "link add dummy4 type dummy",
            "link set dummy4 up",
            "address add 192.0.2.10/24 broadcast + dev br8",
            "address add 10.3.0.5/24 broadcast + dev inner3",
            "address add 203.0.113.77/32 dev dummy4",
            "route add default via 192.0.2.1 dev br8 proto static src 203.0.113.77",
        ] {
            ip(command);
        }
        let before = comparable(capture().unwrap());
        assert_eq!(before.links.len(), 8, "{before:#?}");
        let maps = |link: &Link| match &link.kind {
            LinkKind::Vlan { egress, ingress, .. } => (egress.clone(), ingress.clone()),
            _ => (Vec::new(), Vec::new()),
        };
        let inner = before.links.iter().find(|link| link.name == "bond1.7").unwrap();
        assert_eq!(maps(inner), (vec![(0, 3), (2, 5)], vec![(5, 1)]));
        again(&before, || cables("w"));
    });
}

#[test]
#[ignore = "run in a lab machine, whose kernel has such links, by the scenario `ways::links_in_a_guest`"]
fn a_vrf_is_made_again() {
    in_namespace("a_vrf_is_made_again", || {
        plug("u1", "52:54:00:00:00:01");
        for command in [
            "link add mgmt9 address 02:00:00:00:00:99 type vrf table 1001",
            "link set mgmt9 up",
            "link set u1 master mgmt9 up",
            "address add 192.0.2.10/24 broadcast + dev u1",
            "route add default via 192.0.2.1 dev u1 table 1001 proto static",
        ] {
            ip(command);
        }
        let before = comparable(capture().unwrap());
        assert_eq!(before.routes.len(), 1, "{before:#?}");
        again(&before, || plug("w1", "52:54:00:00:00:01"));
        assert_eq!(fs::read_to_string("/proc/sys/net/ipv4/tcp_l3mdev_accept").unwrap().trim(), "1");
    });
}

#[test]
#[ignore = "run in a lab machine, whose kernel has such links, by the scenario `ways::links_in_a_guest`"]
fn a_bridge_filters_vlans_as_before() {
    in_namespace("a_bridge_filters_vlans_as_before", || {
        let bridge = |arguments: &str| {
            let status = Command::new("bridge").args(arguments.split_whitespace()).status().unwrap();
            assert!(status.success(), "bridge {arguments}");
        };
        plug("u1", "52:54:00:00:00:01");
        ip("link add vmbr0 address 52:54:00:00:00:01 type bridge vlan_filtering 1 vlan_default_pvid 0");
        ip("link set u1 master vmbr0 up");
        ip("link set vmbr0 up");
        bridge("vlan add dev u1 vid 9 pvid untagged");
        bridge("vlan add dev u1 vid 20-30");
        bridge("vlan add dev vmbr0 vid 7 self");
        ip("link add link vmbr0 name vmbr0.7 type vlan id 7");
        ip("link set vmbr0.7 up");
        ip("address add 192.0.2.10/24 broadcast + dev vmbr0.7");
        ip("route add default via 192.0.2.1 dev vmbr0.7 proto static");
        let before = comparable(capture().unwrap());
        let vlans: Vec<_> = before.links.iter().map(|link| link.vlans.len()).collect();
        assert_eq!(vlans, [2, 1, 0], "{before:#?}");
        again(&before, || plug("w1", "52:54:00:00:00:01"));
    });
}

/// Packets to one network go out through two cards, by turns.
#[test]
fn routes_with_several_next_hops_are_restored() {
    in_namespace("routes_with_several_next_hops_are_restored", || {
        let cables = |prefix: &str| {
            plug(&format!("{prefix}1"), "52:54:00:00:00:01");
            plug(&format!("{prefix}2"), "52:54:00:00:00:02");
        };
        cables("u");
        for command in [
            "link set u1 up",
            "link set u2 up",
            "address add 192.0.2.10/24 broadcast + dev u1",
            "address add 198.51.100.5/24 broadcast + dev u2",
            "address add 2001:db8::10/64 dev u1 nodad",
            "route add default proto static metric 50 src 192.0.2.10 mtu 1400 nexthop via 192.0.2.1 dev u1 weight 3 \
             nexthop via 198.51.100.1 dev u2",
            "route add 10.0.0.0/8 table 77 proto static nexthop via inet6 fe80::9 dev u1 nexthop dev u2",
            "route add 10.64.0.0/10 proto static nexthop via 203.0.113.1 dev u1 onlink nexthop via 192.0.2.7 dev u1",
            "rule add priority 100 from 198.51.100.5 lookup 77",
            "-6 route add 2001:db8:64::/48 proto static metric 7 nexthop via fe80::9 dev u1 nexthop via fe80::8 dev u2",
        ] {
            ip(command);
        }
        let before = comparable(capture().unwrap());
        let hops: Vec<usize> = before.routes.iter().map(|route| route.hops.len()).collect();
        assert_eq!(hops, [2; 4], "{:#?}", before.routes);
        let default = before.routes.iter().find(|route| route.destination.is_none()).unwrap();
        assert_eq!(default.hops.iter().map(|hop| (hop.weight, hop.link.0)).collect::<Vec<_>>(), [(3, 1), (1, 2)]);
        again(&before, || {
            let _ = Command::new("ip").args(["rule", "delete", "priority", "100"]).status();
            cables("w");
        });
        assert_eq!(ip("route show default").matches("nexthop").count(), 2);

        // The script does the same.
        let mut hardware = before.clone();
        let pairs = hardware.links.iter_mut().filter(|link| link.kind == LinkKind::Made("veth".into()));
        pairs.for_each(|link| link.kind = LinkKind::Card);
        let script = &Format::Iproute2.files(&hardware)[0].1;
        for command in ["rule delete priority 100", "link delete w1", "link delete w2"] {
            ip(command);
        }
        cables("x");
        for _ in 0..2 {
            let output = Command::new("sh").args(["-c", script]).output().unwrap();
            assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{script}");
            assert_eq!(sorted(comparable(capture().unwrap())), sorted(before.clone()));
        }

        // A link that is not there takes its hop along, and no other.
        for name in ["x1", "x2"] {
            ip(&format!("link delete {name}"));
        }
        plug("y2", "52:54:00:00:00:02");
        let patience = Deadlines { links: Duration::from_millis(100), ..quick() };
        let problems = apply(&before, patience).unwrap().problems;
        assert!(problems.iter().any(|text| text.contains("has lost next hops")), "{problems:?}");
        let left = capture().unwrap().routes;
        assert!(left.iter().any(|route| route.gateway == Some("198.51.100.1".parse().unwrap())), "{left:#?}");
        assert!(left.iter().all(|route| route.hops.is_empty()), "{left:#?}");
    });
}

/// Two cards with a default route each, and an address that no card has.
#[test]
fn rules_tables_and_loopback_are_restored() {
    in_namespace("rules_tables_and_loopback_are_restored", || {
        let plug_both = |prefix: &str| {
            plug(&format!("{prefix}1"), "52:54:00:00:00:01");
            plug(&format!("{prefix}2"), "52:54:00:00:00:02");
        };
        plug_both("u");
        for command in [
            "link set u1 up",
            "link set u2 up",
            "link set lo up",
            "address add 203.0.113.77/32 dev lo",
            "address add 192.0.2.10/24 broadcast + dev u1",
            "address add 198.51.100.5/24 broadcast + dev u2",
            "address add 2001:db8::10/64 dev u2 nodad",
            "route add default via 192.0.2.1 dev u1 proto static",
            "route add default via 198.51.100.1 dev u2 table 1001 proto static",
            "route add 10.0.0.0/8 via 198.51.100.9 dev u2 table 77 proto static",
            "-6 route add default via fe80::1 dev u2 table 1001 proto static",
            "rule add priority 100 from 198.51.100.5 lookup 1001",
            "rule add priority 101 not fwmark 0x10/0xff iif lo lookup 77 suppress_prefixlength 0",
            "-6 rule add priority 100 from 2001:db8::10 to 2001:db8:9::/48 lookup 1001",
            "rule add priority 102 from 192.0.2.99 blackhole",
        ] {
            ip(command);
        }
        let before = comparable(capture().unwrap());
        assert_eq!((before.links.len(), before.routes.len(), before.rules.len()), (3, 4, 3), "{before:#?}");
        again(&before, || {
            for command in [
                "address delete 203.0.113.77/32 dev lo",
                "rule delete priority 100",
                "rule delete priority 101",
                "-6 rule delete priority 100",
            ] {
                ip(command);
            }
            plug_both("w");
        });
        let way = ip("route get 192.0.2.250 from 198.51.100.5");
        assert!(way.contains("via 198.51.100.1 dev w2 table 1001"), "{way}");
    });
}

/// Cards have other names in RAM, and rules name links.
#[test]
fn a_rule_names_a_link_as_it_is_called_now() {
    in_namespace("a_rule_names_a_link_as_it_is_called_now", || {
        plug("u1", "52:54:00:00:00:01");
        ip("link set u1 up");
        ip("address add 192.0.2.10/24 broadcast + dev u1");
        ip("route add default via 192.0.2.1 dev u1 table 77 proto static");
        ip("rule add priority 100 iif u1 lookup 77");
        let before = comparable(capture().unwrap());
        // What names a link by name is only known with the names.
        let named = NetworkState {
            links: before.links.iter().map(|link| Link { name: "u1".into(), ..link.clone() }).collect(),
            ..before
        };
        ip("link delete u1");
        ip("rule delete priority 100");
        plug("w1", "52:54:00:00:00:01");
        for _ in 0..2 {
            assert_eq!(apply(&named, quick()).unwrap().problems, Vec::<String>::new());
            assert_eq!(ip("rule show iif w1").lines().count(), 1);
        }
    });
}

#[test]
fn the_way_back_is_the_kernels() {
    in_namespace("the_way_back_is_the_kernels", || {
        plug("u1", "52:54:00:00:00:01");
        plug("u2", "52:54:00:00:00:02");
        for command in [
            "link set u1 up",
            "link set u2 up",
            "tuntap add tun0 mode tun",
            "link set tun0 up",
            "address add 192.0.2.10/24 dev u1",
            "address add 198.51.100.5/24 dev u2",
            "address add 10.9.0.5/24 dev tun0",
            "address add 2001:db8::10/64 dev u1 nodad",
            "address add fe80::1234/64 dev u1 nodad",
            "route add default via 192.0.2.1 dev u1",
            "route add 203.0.113.0/24 dev tun0",
            "route add default via 198.51.100.1 dev u2 table 1001",
            "rule add priority 100 from 198.51.100.5 lookup 1001",
        ] {
            ip(command);
        }
        let mut state = capture().unwrap();
        // A pair's end stands for a card.
        let pairs = state.links.iter_mut().filter(|link| link.kind == LinkKind::Made("veth".into()));
        pairs.for_each(|link| link.kind = LinkKind::Card);
        let look = |connection: &str| {
            let reached = reached(&state, connection).unwrap();
            let back = reached.back.map(|way| (state.link(way.link).unwrap().name.clone(), way.table));
            (back, lost_ways(&state, &reached))
        };
        let tun = || vec!["tun0 (tun)".to_owned()];
        let way = |name: &str, table: u32| Some((name.to_owned(), table));
        assert_eq!(look("192.0.2.7 5000 192.0.2.10 22"), (way("u1", 254), vec![]), "a neighbour");
        assert_eq!(look("100.64.0.9 5000 192.0.2.10 22"), (way("u1", 254), vec![]), "by the default route");
        assert_eq!(look("100.64.0.9 5000 198.51.100.5 22"), (way("u2", 1001), vec![]), "by a rule");
        assert_eq!(look("10.9.0.1 5000 10.9.0.5 22"), (way("tun0", 254), tun()));
        assert_eq!(look("203.0.113.9 5000 192.0.2.10 22"), (way("tun0", 254), tun()), "answers go into the tunnel");
        assert_eq!(look("2001:db8::7 5000 2001:db8::10 22"), (way("u1", 254), vec![]));
        assert_eq!(look("fe80::7%u1 5000 fe80::1234%u1 22"), (None, vec![]));
        assert_eq!(look(""), (None, vec![]));
        assert_eq!(look("UNKNOWN 65535 UNKNOWN 65535"), (None, vec![]));
        let (back, lost) = look("127.0.0.1 5000 127.0.0.1 22");
        assert_eq!((back, lost.len()), (None, 1), "{lost:?}");
        let (_, lost) = look("100.64.0.9 5000 100.64.0.5 22");
        assert_eq!(lost, ["the address 100.64.0.5, which none of its links has"]);
        let others = instead(&state, &reached(&state, "10.9.0.1 5000 10.9.0.5 22").unwrap());
        let others: Vec<_> = others.iter().filter(|ip| ip.is_ipv4()).map(ToString::to_string).collect();
        assert_eq!(others, ["192.0.2.10", "198.51.100.5"]);
        let u1 = state.links.iter().find(|link| link.name == "u1").unwrap();
        let own: Vec<_> = u1.addresses.iter().map(|address| address.ip.to_string()).collect();
        assert_eq!(own.iter().filter(|ip| ip.starts_with("fe80")).collect::<Vec<_>>(), ["fe80::1234"], "{own:?}");
    });
}

/// The script makes what is made, and can run again.
#[test]
fn the_rendered_script_makes_links() {
    in_namespace("the_rendered_script_makes_links", || {
        plug("u1", "52:54:00:00:00:01");
        plug("u2", "52:54:00:00:00:02");
        for command in [
            "link add br7 address 52:54:00:00:00:01 type bridge forward_delay 0 priority 4096",
            "link set u1 master br7 mtu 1400 up",
            "link set br7 mtu 1400 up",
            "link add mv8 link br7 address 02:00:00:00:00:09 type macvlan mode bridge",
            "link set mv8 mtu 1400 up",
            "link set u2 up",
            "link set lo up",
            "address add 203.0.113.77/32 dev lo",
            "address add 192.0.2.10/24 broadcast + dev br7",
            "address add 10.8.0.5/24 broadcast + dev mv8",
            "address add 198.51.100.5/24 broadcast + dev u2",
            "route add default via 192.0.2.1 dev br7 proto static",
            "route add default via 198.51.100.1 dev u2 table 1001 proto static",
            "rule add priority 100 from 198.51.100.5 lookup 1001",
        ] {
            ip(command);
        }
        let before = comparable(capture().unwrap());
        let mut hardware = before.clone();
        let pairs = hardware.links.iter_mut().filter(|link| link.kind == LinkKind::Made("veth".into()));
        pairs.for_each(|link| link.kind = LinkKind::Card);
        let files = Format::Iproute2.files(&hardware);
        for name in ["mv8", "br7", "u1", "u2"] {
            ip(&format!("link delete {name}"));
        }
        ip("rule delete priority 100");
        ip("address delete 203.0.113.77/32 dev lo");
        plug("w1", "52:54:00:00:00:01");
        plug("w2", "52:54:00:00:00:02");
        for _ in 0..2 {
            let output = Command::new("sh").args(["-c", &files[0].1]).output().unwrap();
            assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{}", files[0].1);
            assert_eq!(sorted(comparable(capture().unwrap())), sorted(before.clone()));
        }
    });
}
