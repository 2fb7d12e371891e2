//! Captures and restores real links in a network namespace of this test's own, made by root or in a user namespace.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anemos_netstate::{Deadlines, Restored, apply, capture, render};
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
        .args(["--exact", test, "--nocapture"])
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

/// Without the far ends, and without what a boot may change: names, and ids, which become the last byte of the address.
fn comparable(mut state: NetworkState) -> NetworkState {
    state.links.retain(|link| !link.name.ends_with("-far"));
    for route in &mut state.routes {
        let link = state.links.iter().find(|link| link.id == route.link).unwrap();
        route.link = LinkId(link.mac[5].into());
    }
    for link in &mut state.links {
        link.name.clear();
        link.id = LinkId(link.mac[5].into());
    }
    state
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
        let sorted = |mut state: NetworkState| {
            state.links.sort_by_key(|link| link.mac);
            state.routes.sort_by_key(|route| format!("{route:?}"));
            state
        };
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
        let files = render::iproute2(&NetworkState {
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
        let files = render::iproute2(&hardware);

        ip("link delete u0");
        plug("w0", "52:54:00:00:00:01");
        let output = Command::new("sh").args(["-c", &files[0].1]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
        assert!(output.status.success());
        assert_eq!(comparable(capture().unwrap()), before);
    });
}
