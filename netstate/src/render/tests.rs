use anemos_proto::net::{Address, Bond, Hop, Link, LinkId, LinkKind, NetworkState, PortVlans, Route, Rule};
use proptest::prelude::*;

use super::plan::HEADER;
use super::*;
use crate::wire::PROTOCOL_RA;

fn ifupdown(state: &NetworkState) -> Files {
    Format::Ifupdown.files(state)
}

fn iproute2(state: &NetworkState) -> Files {
    Format::Iproute2.files(state)
}

fn netplan(state: &NetworkState) -> Files {
    Format::Netplan.files(state)
}

fn networkd(state: &NetworkState) -> Files {
    Format::Networkd.files(state)
}

fn address(ip: &str, prefix: u8) -> Address {
    Address { ip: ip.parse().unwrap(), prefix, peer: None, scope: 0, valid_s: None, preferred_s: None, autoconf: false }
}

fn link(name: &str, last: u8, addresses: Vec<Address>) -> Link {
    Link {
        id: LinkId(last.into()),
        name: name.into(),
        kind: LinkKind::Card,
        below: Vec::new(),
        mac: [0x52, 0x54, 0, 0, 0, last],
        mtu: 1500,
        up: true,
        driver: "virtio_net".into(),
        set_mac: None,
        vlans: Vec::new(),
        port: Vec::new(),
        client_id: Vec::new(),
        client_unknown: String::new(),
        addresses,
    }
}

fn default_route(gateway: &str, last: u8, protocol: u8) -> Route {
    let gateway = gateway.parse::<std::net::IpAddr>().unwrap();
    Route {
        destination: None,
        v6: gateway.is_ipv6(),
        gateway: Some(gateway),
        link: LinkId(last.into()),
        metric: 0,
        onlink: false,
        source: None,
        scope: 0,
        protocol,
        table: 254,
        mtu: None,
        hops: Vec::new(),
    }
}

/// As at providers that give single addresses and a gateway outside of any network.
pub(super) fn static_host() -> NetworkState {
    NetworkState {
        hostname: "host".into(),
        links: vec![link("ens3", 1, vec![address("192.0.2.10", 32), address("2001:db8::10", 64)])],
        routes: vec![
            Route { onlink: true, ..default_route("203.0.113.1", 1, 4) },
            Route { metric: 1024, ..default_route("fe80::1", 1, 3) },
        ],
        dns: vec!["192.0.2.53".parse().unwrap()],
        search: vec!["example.net".into()],
        rules: Vec::new(),
    }
}

/// A leased link with the default routes, and a static one in a private network.
pub(super) fn leased_host() -> NetworkState {
    let lease = Address { valid_s: Some(3600), preferred_s: Some(3600), ..address("198.51.100.7", 24) };
    let made = Address { valid_s: Some(86400), preferred_s: Some(14400), autoconf: true, ..address("2001:db8::7", 64) };
    let private =
        Route { destination: Some(("10.0.0.0".parse().unwrap(), 8)), metric: 10, ..default_route("10.1.0.1", 2, 3) };
    let vlan = Link {
        id: LinkId(3),
        kind: LinkKind::Made("vlan".into()),
        below: vec![LinkId(2)],
        ..link("eth1.7", 2, vec![address("10.7.0.5", 16)])
    };
    NetworkState {
        hostname: "host".into(),
        links: vec![
            link("eth0", 1, vec![lease, made]),
            Link { mtu: 1400, ..link("eth1", 2, vec![address("10.1.0.5", 16)]) },
            vlan,
        ],
        routes: vec![default_route("198.51.100.1", 1, 3), default_route("fe80::1", 1, PROTOCOL_RA), private],
        dns: vec!["198.51.100.1".parse().unwrap()],
        search: vec![],
        rules: Vec::new(),
    }
}

fn text<'a>(files: &'a Files, path: &str) -> &'a str {
    let found = files.iter().find(|(other, _)| other == Path::new(path));
    &found.unwrap_or_else(|| panic!("no {path} in {files:?}")).1
}

/// The text without the header.
fn body<'a>(files: &'a Files, path: &str) -> &'a str {
    text(files, path).strip_prefix(HEADER).unwrap()
}

#[test]
fn networkd_static() {
    let files = networkd(&static_host());
    let want = "\
[Match]
MACAddress=52:54:00:00:00:01
Type=ether
Kind=!*

[Link]
MTUBytes=1500

[Network]
DHCP=no
IPv6AcceptRA=no
DNS=192.0.2.53
Domains=example.net

[Address]
Address=192.0.2.10/32

[Address]
Address=2001:db8::10/64

[Route]
Destination=0.0.0.0/0
Gateway=203.0.113.1
GatewayOnLink=yes

[Route]
Destination=::/0
Gateway=fe80::1
";
    assert_eq!(body(&files, "etc/systemd/network/10-ens3.network"), want);
    assert_eq!(body(&files, "etc/resolv.conf"), "search example.net\nnameserver 192.0.2.53\n");
}

#[test]
fn networkd_leased() {
    let files = networkd(&leased_host());
    let want = "\
[Match]
MACAddress=52:54:00:00:00:01
Type=ether
Kind=!*

[Link]
MTUBytes=1500

[Network]
DHCP=ipv4
IPv6AcceptRA=yes

[DHCPv4]
ClientIdentifier=mac
UseMTU=no
";
    assert_eq!(body(&files, "etc/systemd/network/10-eth0.network"), want);
    let private = body(&files, "etc/systemd/network/10-eth1.network");
    assert!(private.contains("MTUBytes=1400\nRequiredForOnline=no\n"), "{private}");
    assert!(private.ends_with("[Route]\nDestination=10.0.0.0/8\nGateway=10.1.0.1\nMetric=10\n"), "{private}");
    assert_eq!(files.len(), 3, "no VLAN");
    assert_eq!(Format::Networkd.left_out(&leased_host()), ["eth1.7 is a vlan, which is not rendered"]);
    assert_eq!(Format::Networkd.left_out(&static_host()), Vec::<String>::new());
}

/// A server may know a host by its identifier only, and give another address to one with another.
#[test]
fn a_lease_is_asked_for_by_the_same_identifier() {
    let mut state = leased_host();
    let said = |state: &NetworkState, words: &str| {
        let is_said = |format: Format| format.left_out(state).iter().any(|line| line.contains(words));
        Format::ALL.into_iter().filter(|format| is_said(*format)).collect::<Vec<_>>()
    };
    let network = "etc/systemd/network/10-eth0.network";
    let keyfile = "etc/NetworkManager/system-connections/eth0.nmconnection";
    let (added, kept) =
        ("etc/systemd/network/10-netplan-eth0.network.d/anemos.conf", "var/lib/dhcp/dhclient.lan0.leases");
    let has = |files: &Files, path: &str| files.iter().any(|(other, _)| other == Path::new(path));
    // systemd-networkd's own.
    state.links[0].client_id = vec![0xff, 0xb6, 0x22, 0x0f, 0xeb, 0, 2, 0, 0, 0xab, 0x11, 0xc3, 1, 2, 3, 4, 5, 6, 7];
    let want = "[DHCPv4]\nClientIdentifier=duid\nIAID=3055685611\nDUIDType=vendor\n\
                DUIDRawData=00:00:ab:11:c3:01:02:03:04:05:06:07\n";
    let files = networkd(&state);
    assert!(text(&files, network).contains(&format!("{want}UseMTU=no\n")), "{files:?}");
    assert_eq!(body(&netplan(&state), added), want);
    let files = Format::NetworkManager.files(&state);
    assert!(
        text(&files, keyfile).contains("dhcp-client-id=ff:b6:22:0f:eb:00:02:00:00:ab:11:c3:01:02:03:04:05:06:07\n"),
        "{files:?}"
    );
    let files = ifupdown(&state);
    let stanza = "iface lan0 inet dhcp\n    client ff:b6:22:0f:eb:00:02:00:00:ab:11:c3:01:02:03:04:05:06:07\n";
    assert!(text(&files, "etc/network/interfaces").contains(stanza), "{files:?}");
    assert!(!has(&files, kept));
    assert_eq!(said(&state, "by which eth0 has its lease has no words for dhclient"), [Format::Ifupdown]);
    // What dhclient and dhcpcd make of a DUID.
    state.links[0].client_id = vec![0xff, 0, 0, 0, 1, 0, 3, 0, 1, 0x52, 0x54, 0, 0, 0, b'"'];
    let want = "default-duid \"\\000\\003\\000\\001\\122\\124\\000\\000\\000\\042\";\n";
    assert_eq!(text(&ifupdown(&state), kept), want);
    assert!(text(&networkd(&state), network).contains("DUIDType=link-layer\nDUIDRawData=00:01:52:54:00:00:00:22\n"));
    assert_eq!(said(&state, "lease"), []);
    // A DUID of a length for which systemd-networkd would not ask at all.
    state.links[0].client_id = vec![0xff, 0, 0, 0, 1, 0, 2, 0, 0, 0xab, 0x11, 0xc3];
    assert!(text(&networkd(&state), network).contains("ClientIdentifier=mac\n"));
    assert_eq!(said(&state, "has no words"), [Format::Netplan, Format::Networkd]);
    // A name, which systemd-networkd has no words for.
    state.links[0].client_id = b"\0web1".to_vec();
    assert!(text(&Format::NetworkManager.files(&state), keyfile).contains("dhcp-client-id=00:77:65:62:31\n"));
    assert!(text(&networkd(&state), network).contains("ClientIdentifier=mac\n"));
    assert!(!has(&netplan(&state), added));
    assert_eq!(said(&state, "has no words"), [Format::Ifupdown, Format::Netplan, Format::Networkd]);
    // That of its hardware address is what is written anyway.
    state.links[0].client_id = vec![1, 0x52, 0x54, 0, 0, 0, 1];
    assert!(text(&networkd(&state), network).contains("ClientIdentifier=mac\n"));
    assert!(text(&Format::NetworkManager.files(&state), keyfile).contains("dhcp-client-id=mac\n"));
    assert_eq!(said(&state, "lease"), []);
    state.links[0].client_id = Vec::new();
    state.links[0].client_unknown = "its DHCP client is not known".into();
    let all_but_the_script = [Format::Ifupdown, Format::Netplan, Format::Networkd, Format::NetworkManager];
    assert_eq!(said(&state, "is not known (its DHCP client is not known)"), all_but_the_script);
    let address = Address { valid_s: Some(3600), ..address("2001:db8::7:1", 128) };
    state.links[0].addresses.push(address);
    assert_eq!(said(&state, "as whom eth0 has 2001:db8::7:1 from DHCPv6"), all_but_the_script);
}

#[test]
fn ifupdown_static_and_leased() {
    let files = ifupdown(&static_host());
    let want = "
auto lo
iface lo inet loopback

auto ens3
iface ens3 inet static
    address 192.0.2.10/32
    up ip link set dev $IFACE mtu 1500
    up ip -4 route replace 0.0.0.0/0 via 203.0.113.1 dev $IFACE onlink proto static
iface ens3 inet6 static
    address 2001:db8::10/64
    accept_ra 0
    up ip -6 route replace ::/0 via fe80::1 dev $IFACE proto static
";
    assert_eq!(body(&files, "etc/network/interfaces"), want);
    let want = "[Match]\nMACAddress=52:54:00:00:00:01\nType=ether\n\n[Link]\nName=ens3\n";
    assert_eq!(body(&files, "etc/systemd/network/10-ens3.link"), want);

    let files = ifupdown(&leased_host());
    let want = "
auto lo
iface lo inet loopback

auto lan0
iface lan0 inet dhcp
    up ip link set dev $IFACE mtu 1500
iface lan0 inet6 auto

auto lan1
iface lan1 inet static
    address 10.1.0.5/16
    up ip link set dev $IFACE mtu 1400
    up ip -4 route replace 10.0.0.0/8 via 10.1.0.1 dev $IFACE metric 10 proto static
";
    assert_eq!(body(&files, "etc/network/interfaces"), want);
}

#[test]
fn netplan_static_and_leased() {
    let want = r#"network:
  version: 2
  ethernets:
    "ens3":
      match:
        macaddress: "52:54:00:00:00:01"
      mtu: 1500
      dhcp4: false
      accept-ra: false
      addresses:
        - "192.0.2.10/32"
        - "2001:db8::10/64"
      routes:
        - to: "0.0.0.0/0"
          via: "203.0.113.1"
          on-link: true
        - to: "::/0"
          via: "fe80::1"
      nameservers:
        addresses: ["192.0.2.53"]
        search: ["example.net"]
"#;
    assert_eq!(body(&netplan(&static_host()), "etc/netplan/60-anemos.yaml"), want);
    let leased = netplan(&leased_host());
    let leased = body(&leased, "etc/netplan/60-anemos.yaml");
    assert!(
        leased.contains("      dhcp4: true\n      accept-ra: true\n      dhcp-identifier: mac\n    \"eth1\""),
        "{leased}"
    );
}

#[test]
fn files_replace_links_and_have_their_modes() {
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    let root = std::env::temp_dir().join(format!("anemos-render-{}", std::process::id()));
    fs::create_dir_all(root.join("etc")).unwrap();
    symlink("/nonexistent/stub-resolv.conf", root.join("etc/resolv.conf")).unwrap();
    let mode = |path: &str| fs::symlink_metadata(root.join(path)).unwrap().permissions().mode() & 0o7777;
    for files in [iproute2(&static_host()), netplan(&static_host())] {
        write_files(&root, &files).unwrap();
        write_files(&root, &files).unwrap();
    }
    assert!(fs::symlink_metadata(root.join("etc/resolv.conf")).unwrap().is_file());
    assert_eq!(mode("etc/network.sh"), 0o755);
    assert_eq!(mode("etc/netplan/60-anemos.yaml"), 0o600);
    assert_eq!(mode("etc/resolv.conf"), 0o644);
    fs::remove_dir_all(&root).unwrap();
}

#[test]
fn a_given_hardware_address_is_given_again() {
    let mut state = static_host();
    state.links[0].set_mac = Some([2, 0, 0, 0, 0, 7]);
    let has = |files: &Files, path: &str, part: &str| {
        assert!(text(files, path).contains(part), "{part:?} in {}", text(files, path));
    };
    let files = networkd(&state);
    let path = "etc/systemd/network/10-ens3.network";
    has(&files, path, "[Match]\nPermanentMACAddress=52:54:00:00:00:01\n");
    has(&files, path, "[Link]\nMTUBytes=1500\nMACAddress=02:00:00:00:00:07\n");
    let files = ifupdown(&state);
    has(&files, "etc/systemd/network/10-ens3.link", "[Match]\nPermanentMACAddress=52:54:00:00:00:01\n");
    let interfaces = "etc/network/interfaces";
    has(
        &files,
        interfaces,
        "    pre-up ip link set dev $IFACE address 02:00:00:00:00:07\n    up ip link set dev $IFACE mtu",
    );
    assert_eq!(text(&files, interfaces).matches("02:00:00:00:00:07").count(), 1);
    let part = "        macaddress: \"52:54:00:00:00:01\"\n      macaddress: \"02:00:00:00:00:07\"\n      mtu: 1500\n";
    has(&netplan(&state), "etc/netplan/60-anemos.yaml", part);
    let files = iproute2(&state);
    has(&files, "etc/network.sh", "if dev=$(link_with 52:54:00:00:00:01 02:00:00:00:00:07); then\n");
    let part = "    ip link set dev \"$dev\" address 02:00:00:00:00:07\n    ip link set dev \"$dev\" mtu 1500 up\n";
    has(&files, "etc/network.sh", part);
}

/// A bond with VLANs and a bridge on it, and one of everything else that can be made.
pub(super) fn tower() -> NetworkState {
    let made = |name: &str, last: u8, kind: LinkKind, below: &[u8], addresses: &[(&str, u8)]| Link {
        kind,
        below: below.iter().map(|last| LinkId((*last).into())).collect(),
        driver: String::new(),
        ..link(name, last, addresses.iter().map(|(ip, prefix)| address(ip, *prefix)).collect())
    };
    let vlan = |id: u16, protocol: u16, flags: u32| LinkKind::Vlan {
        id,
        protocol,
        flags,
        egress: Vec::new(),
        ingress: Vec::new(),
    };
    let bond = Bond {
        mode: 4,
        options: vec![(3, 100), (4, 200), (6, 1), (14, 1), (18, 1), (21, 1), (26, 0x0900_0000_0002)],
        ..Bond::default()
    };
    let backup = Bond {
        mode: 1,
        primary: Some(LinkId(4)),
        targets: vec!["10.4.0.1".parse().unwrap()],
        options: vec![(7, 500), (9, 3), (12, 1)],
    };
    let bridge = LinkKind::Bridge { options: vec![(1, 200), (5, 1), (6, 4096), (7, 1), (23, 1), (39, 0)] };
    let vlans = |first: u16, last: u16, tagged: bool| PortVlans { first, last, pvid: !tagged, untagged: !tagged };
    let mut links = vec![
        made("lo", 0, LinkKind::Loopback, &[], &[("203.0.113.77", 32)]),
        link("eth0", 1, vec![]),
        link("eth1", 2, vec![]),
        link("eth2", 3, vec![]),
        link("eth3", 4, vec![]),
        link("eth4", 5, vec![address("10.5.0.5", 24)]),
        made("bond0", 11, LinkKind::Bond(bond), &[1, 2], &[]),
        made("bond0.7", 12, vlan(7, 0x8100, 1), &[11], &[]),
        made("vmbr0", 13, bridge, &[12], &[("192.0.2.10", 24), ("2001:db8::10", 64)]),
        made("backup", 14, LinkKind::Bond(backup), &[3, 4], &[("10.4.0.5", 24)]),
        made("outer", 15, vlan(2, 0x88a8, 3), &[14], &[]),
        made("shim", 16, LinkKind::Macvlan { mode: 4, flags: 0 }, &[14], &[("10.4.0.6", 24)]),
        made("anycast", 17, LinkKind::Dummy, &[], &[("203.0.113.78", 32)]),
        made("mgmt", 18, LinkKind::Vrf { table: 10 }, &[5], &[]),
    ];
    links[2].port = vec![(5, 2), (9, 0)];
    links[7].port = vec![(2, 16), (3, 100), (4, 1), (8, 1), (9, 0), (33, 1)];
    if let LinkKind::Vlan { egress, ingress, .. } = &mut links[7].kind {
        (*egress, *ingress) = (vec![(0, 3), (2, 5)], vec![(5, 1)]);
    }
    links[1].mac = [0x52, 0x54, 0, 0, 0, 0x11];
    links[6].mac = links[1].mac;
    links[7].mac = links[1].mac;
    links[8].mac = links[1].mac;
    links[7].vlans = vec![vlans(9, 9, false), vlans(20, 30, true)];
    links[8].vlans = vec![vlans(20, 20, true)];
    links[9].mac = links[3].mac;
    links[10].mac = links[3].mac;
    let hop = |gateway: &str, link: u32, weight: u16| Hop {
        gateway: Some(gateway.parse().unwrap()),
        link: LinkId(link),
        onlink: false,
        weight,
    };
    let rule = Rule {
        v6: false,
        priority: 100,
        source: Some(("10.4.0.5".parse().unwrap(), 32)),
        destination: None,
        iif: None,
        oif: None,
        mark: None,
        inverted: false,
        table: 1001,
        suppress: None,
    };
    let marked = Rule { source: None, iif: Some("eth4".into()), mark: Some((1, 255)), inverted: true, ..rule.clone() };
    NetworkState {
        hostname: "host".into(),
        links,
        routes: vec![
            default_route("192.0.2.1", 13, 4),
            default_route("fe80::1", 13, 4),
            Route { table: 1001, ..default_route("10.4.0.1", 14, 4) },
            Route { table: 10, metric: 50, ..default_route("10.5.0.1", 5, 4) },
            Route {
                destination: Some(("10.64.0.0".parse().unwrap(), 10)),
                hops: vec![hop("192.0.2.9", 13, 1), hop("10.4.0.9", 14, 3)],
                ..default_route("192.0.2.9", 13, 4)
            },
            Route {
                destination: Some(("2001:db8:64::".parse().unwrap(), 48)),
                hops: vec![hop("fe80::9", 13, 1), hop("fe80::8", 14, 1)],
                ..default_route("fe80::9", 13, 4)
            },
        ],
        dns: vec!["192.0.2.53".parse().unwrap()],
        search: vec!["example.net".into()],
        rules: vec![rule, marked],
    }
}

/// `UPDATE_GOLDEN=1` writes the files anew.
#[test]
fn a_tower_in_every_language() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/render/testdata");
    for format in Format::ALL {
        let left_out = format.left_out(&tower()).into_iter().map(|line| format!("left out: {line}\n"));
        let files = format.files(&tower()).into_iter();
        let files = files.map(|(path, text)| format!("==> {}\n{}", path.display(), text.replace(HEADER, "")));
        let all: String = left_out.chain(files).collect();
        let golden = dir.join(format!("tower.{}", format.name()));
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&golden, &all).unwrap();
        }
        assert_eq!(all, fs::read_to_string(&golden).unwrap_or_default(), "{}", golden.display());
    }
}

/// Each language has each link, or says that it has no words for it.
#[test]
fn no_link_is_forgotten() {
    let state = tower();
    for format in Format::ALL {
        let files = format.files(&state);
        let left_out = format.left_out(&state);
        for link in &state.links {
            // The script and ifupdown find cards by address, and call them otherwise.
            let mac = crate::links::mac_text(link.mac);
            let is_named = |text: &str| {
                text.split(|c: char| !(c.is_ascii_alphanumeric() || "._-".contains(c))).any(|word| word == link.name)
                    || link.kind == LinkKind::Card && text.contains(&mac)
            };
            let has_file = |path: &Path| path.file_name().is_some_and(|name| is_named(&name.to_string_lossy()));
            let is_there = files.iter().any(|(path, text)| has_file(path) || is_named(text));
            let is_said = left_out.iter().any(|line| is_named(line));
            assert!(is_there || is_said, "{} in {format:?}: {left_out:?}", link.name);
            for address in &link.addresses {
                let text = address.ip.to_string();
                let is_there = files.iter().any(|(_, file)| file.contains(&text));
                assert!(is_there || is_said, "{text} of {} in {format:?}", link.name);
            }
        }
    }
}

/// dash and other shells read it.
#[test]
fn the_script_is_one() {
    let (_, script) = &iproute2(&tower())[0];
    let output = std::process::Command::new("sh").args(["-n", "-c", script]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

proptest! {
    /// Whatever a link is called, no file lands outside of its directory and no line is broken in two.
    #[test]
    fn names_are_harmless(name in "\\PC{1,15}") {
        let mut state = static_host();
        let usual = networkd(&state).len();
        state.links[0].name = name;
        for format in Format::ALL {
            let files = format.files(&state);
            prop_assert!(files.len() <= usual.max(3));
            for (path, text) in files {
                prop_assert!(path.is_relative() && path.components().count() <= 4);
                prop_assert!(path.components().all(|c| matches!(c, std::path::Component::Normal(_))));
                prop_assert!(text.is_ascii());
            }
        }
    }
}
