//! As whom this host asks for its leases: what DHCP clients keep of it in files, each in its own way.
//!
//! A server may know a host by its client identifier only (option 61 of RFC 2132), and give another address to one that
//! comes with another. systemd-networkd and NetworkManager write down what they sent. dhclient and dhcpcd make it of a
//! DUID, which they keep, and of the hardware address, unless their configuration says otherwise.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use anemos_proto::net::{Link, LinkKind};

use crate::links::Mac;

/// As long as the option may be.
const LONGEST: usize = 255;

/// What is known of a link's client identifier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Client {
    /// It is this one.
    Id(Vec<u8>),
    /// There is none, or that of the hardware address: a server knows the link by that.
    Mac,
    /// It can't be known, for this reason.
    Unknown(String),
}

/// As whom `link` asks, by the files below `root`; `None` where it has no lease.
pub fn client(root: &Path, link: &Link) -> Option<Client> {
    let read = |path: String| fs::read_to_string(root.join(path)).ok();
    if let Some(lease) = read(format!("run/systemd/netif/leases/{}", link.id.0)) {
        return Some(networkd(&lease));
    }
    let leased: Vec<IpAddr> = link.addresses.iter().filter(|a| a.valid_s.is_some()).map(|a| a.ip).collect();
    if !leased.iter().any(IpAddr::is_ipv4) {
        return None;
    }
    let of_dhclient = || {
        let (path, lease) = dhclient_lease(root, link, &leased)?;
        let own = [
            format!("var/lib/NetworkManager/dhclient-{}.conf", link.name),
            format!("etc/dhcp/dhclient-{}.conf", link.name),
            format!("etc/dhclient-{}.conf", link.name),
            "etc/dhcp/dhclient.conf".to_owned(),
            "etc/dhclient.conf".to_owned(),
        ];
        let is_managers = path.starts_with("var/lib/NetworkManager");
        let config = own.into_iter().skip(usize::from(!is_managers)).find_map(read).unwrap_or_default();
        Some(dhclient(&lease, &config, link))
    };
    let of_dhcpcd = || {
        let names = ["dhcpcd/{}.lease", "dhcpcd/dhcpcd-{}.lease", "dhcpcd5/dhcpcd-{}.lease"];
        let leases = names.iter().map(|name| root.join("var/lib").join(name.replace("{}", &link.name)));
        let lease = leases.filter_map(|path| fs::read(path).ok()).find(|lease| is_for(lease, &leased))?;
        let duids = ["var/lib/dhcpcd/duid", "etc/dhcpcd.duid", "var/lib/dhcpcd/dhcpcd.duid"];
        let duid = duids.iter().find_map(|path| read((*path).to_owned())).unwrap_or_default();
        Some(dhcpcd(&lease, &read("etc/dhcpcd.conf".into()).unwrap_or_default(), &duid, link))
    };
    let device = read(format!("run/NetworkManager/devices/{}", link.id.0));
    let by_manager = device.and_then(|device| network_manager(&device, |uuid| profile(root, uuid)));
    let known = match by_manager {
        Some(Client::Id(_)) => by_manager,
        // It may have dhclient ask.
        other => of_dhclient().or(other).or_else(of_dhcpcd),
    };
    Some(match known {
        Some(Client::Id(id)) if id.len() > LONGEST => Client::Unknown("it is longer than one may be".into()),
        Some(known) => known,
        None => Client::Unknown("its DHCP client is not known".into()),
    })
}

/// A lease that systemd-networkd keeps.
fn networkd(lease: &str) -> Client {
    let digits = lease.lines().find_map(|line| line.strip_prefix("CLIENTID=")).unwrap_or_default().trim();
    let byte = |at: usize| u8::from_str_radix(digits.get(at..at + 2)?, 16).ok();
    let bytes: Option<Vec<u8>> = (0..digits.len().min(2 * LONGEST)).step_by(2).map(byte).collect();
    bytes.filter(|bytes| !bytes.is_empty()).map_or(Client::Mac, Client::Id)
}

/// What NetworkManager keeps of a link, and of the profile by which it has it; `None` if it has no lease.
fn network_manager(device: &str, profile: impl FnOnce(&str) -> Option<String>) -> Option<Client> {
    let value = |key: &str| device.lines().find_map(|line| line.trim().strip_prefix(key)?.strip_prefix('='));
    if let Some(id) = value("dhcp4.dhcp_client_identifier").and_then(bytes) {
        return Some(Client::Id(id));
    }
    let uuid = value("connection-uuid")?;
    // Older versions don't write down what they sent.
    let Some(profile) = profile(uuid) else {
        return Some(Client::Unknown("its client id is in no keyfile of NetworkManager's".into()));
    };
    let mut section = "";
    let mut wanted = None;
    for line in profile.lines().map(str::trim) {
        if line.starts_with('[') {
            section = line;
        } else if section == "[ipv4]"
            && let Some((key, value)) = line.split_once('=')
            && key.trim() == "dhcp-client-id"
        {
            wanted = Some(value.trim());
        }
    }
    Some(match wanted {
        None | Some("" | "mac" | "perm-mac" | "none") => Client::Mac,
        Some(made @ ("duid" | "ipv6-duid" | "stable")) => {
            Client::Unknown(format!("NetworkManager makes it, by dhcp-client-id={made}"))
        }
        // What is no list of bytes is a name, and has the type 0.
        Some(text) => Client::Id(bytes(text).unwrap_or_else(|| [&[0], text.as_bytes()].concat())),
    })
}

/// The keyfile of this connection, if it needs no default that is set elsewhere.
fn profile(root: &Path, uuid: &str) -> Option<String> {
    let is_it = |text: &String| text.lines().any(|line| line.trim().strip_prefix("uuid=") == Some(uuid));
    let dirs = ["etc", "run", "usr/lib"].map(|dir| root.join(dir).join("NetworkManager/system-connections"));
    let profile =
        dirs.iter().flat_map(|dir| files(dir)).filter_map(|path| fs::read_to_string(path).ok()).find(is_it)?;
    let mut configs = files(&root.join("etc/NetworkManager/conf.d"));
    configs.push(root.join("etc/NetworkManager/NetworkManager.conf"));
    let sets_it = |path: &PathBuf| fs::read_to_string(path).is_ok_and(|text| text.contains("ipv4.dhcp-client-id"));
    (profile.contains("dhcp-client-id") || !configs.iter().any(sets_it)).then_some(profile)
}

/// The files in `dir`. To read what is none, such as a pipe, may never end.
fn files(dir: &Path) -> Vec<PathBuf> {
    let paths = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    paths.filter(|path| path.is_file()).collect()
}

/// The file with dhclient's lease of one of these addresses, below `root`, and its text. Who starts dhclient says where
/// it is.
fn dhclient_lease(root: &Path, link: &Link, leased: &[IpAddr]) -> Option<(PathBuf, String)> {
    let dirs = ["var/lib/dhcp", "var/lib/dhclient", "var/lib/NetworkManager", "run"];
    let is_named = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("dhclient"));
    let found = dirs.iter().flat_map(|dir| files(&root.join(dir))).filter(is_named).filter_map(|path| {
        let text = fs::read_to_string(&path).ok()?;
        // The last lease of the link is the one that counts.
        let block = text.rsplit("lease {").find(|block| block.contains(&format!("interface \"{}\";", link.name)))?;
        let ip = statement(block, "fixed-address")?.parse::<IpAddr>().ok()?;
        let changed = path.metadata().and_then(|metadata| metadata.modified()).ok();
        leased.contains(&ip).then(|| (changed, path.strip_prefix(root).unwrap_or(&path).to_owned(), text))
    });
    found.max_by_key(|(changed, ..)| *changed).map(|(_, path, text)| (path, text))
}

/// What follows `words` in a statement of dhclient's, up to its semicolon.
fn statement<'a>(text: &'a str, words: &str) -> Option<&'a str> {
    let rest = text.split_once(words)?.1.strip_prefix([' ', '\t', '='])?;
    let (mut is_quoted, mut is_escaped) = (false, false);
    let end = rest.find(|c| {
        is_quoted ^= c == '"' && !is_escaped;
        is_escaped = c == '\\' && !is_escaped;
        c == ';' && !is_quoted
    });
    Some(rest[..end?].trim())
}

fn dhclient(leases: &str, config: &str, link: &Link) -> Client {
    let uncommented: String =
        config.lines().filter_map(|line| line.split('#').next()).fold(String::new(), |all, line| all + line + "\n");
    // A statement for another link would count for this one.
    let own = match uncommented.split_once(&format!("interface \"{}\"", link.name)) {
        Some((_, own)) => own,
        None => uncommented.split("interface ").next().unwrap_or_default(),
    };
    if let Some(sent) = statement(own, "send dhcp-client-identifier") {
        let sent = sent.trim_start_matches(['=', ' ', '\t']);
        let known =
            if sent == "hardware" { Some(Client::Mac) } else { quoted(sent).or_else(|| bytes(sent)).map(Client::Id) };
        return known.unwrap_or_else(|| Client::Unknown("dhclient.conf makes it by an expression".into()));
    }
    // It is there if dhclient makes the identifier of it (`-i`, as Debian's ifupdown says).
    match statement(leases, "default-duid").and_then(|duid| quoted(duid).or_else(|| bytes(duid))) {
        Some(duid) if duid.len() > 2 => Client::Id(with_duid(tail(mac_of(link)), &duid)),
        _ => Client::Mac,
    }
}

/// The bytes between quotes, in which `\ooo` stands for one that is no letter.
fn quoted(text: &str) -> Option<Vec<u8>> {
    let mut rest = text.strip_prefix('"')?.strip_suffix('"')?.bytes();
    let mut out = Vec::new();
    while let Some(byte) = rest.next() {
        let octal = |digit: u8| (b'0'..=b'7').contains(&digit).then(|| u32::from(digit - b'0'));
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        let first = rest.next()?;
        out.push(match octal(first) {
            Some(high) => u8::try_from(high * 64 + octal(rest.next()?)? * 8 + octal(rest.next()?)?).ok()?,
            None => first,
        });
    }
    (1..=LONGEST).contains(&out.len()).then_some(out)
}

/// The bytes that `1:2a:…` means.
fn bytes(text: &str) -> Option<Vec<u8>> {
    let bytes: Option<Vec<u8>> = text.trim().split(':').map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
    bytes.filter(|bytes| (2..=LONGEST).contains(&bytes.len()))
}

/// Whether a lease that dhcpcd keeps, the server's answer as it came (RFC 2131), is of one of these addresses.
fn is_for(lease: &[u8], leased: &[IpAddr]) -> bool {
    let ip = lease.get(16..20).and_then(|ip| <[u8; 4]>::try_from(ip).ok());
    ip.is_some_and(|ip| leased.contains(&Ipv4Addr::from(ip).into()))
}

/// The client identifier that the server says in its answer, as RFC 6842 wants.
fn answered(lease: &[u8]) -> Option<&[u8]> {
    let mut rest = lease.get(240..)?;
    loop {
        rest = match rest {
            [0, rest @ ..] => rest,
            [61, length, rest @ ..] => return rest.get(..usize::from(*length)),
            [1..=254, length, rest @ ..] => rest.get(usize::from(*length)..)?,
            _ => return None,
        };
    }
}

fn dhcpcd(lease: &[u8], config: &str, duid: &str, link: &Link) -> Client {
    if let Some(id) = answered(lease).filter(|id| !id.is_empty()) {
        return Client::Id(id.to_vec());
    }
    let (mut id, mut iaid) = (Client::Mac, None);
    let mut counts = true;
    for line in config.lines().filter_map(|line| line.split('#').next()) {
        let mut words = line.split_whitespace();
        let (Some(key), value) = (words.next(), words.next()) else { continue };
        match (key, value) {
            ("interface", Some(name)) => counts = name == link.name,
            ("profile" | "ssid", _) => counts = false,
            _ if !counts => {}
            ("anonymous", _) => return Client::Unknown("dhcpcd is to be anonymous".into()),
            ("clientid", None) => id = Client::Mac,
            ("clientid", Some(text)) => {
                let text = text.trim_matches('"');
                id = Client::Id(bytes(text).unwrap_or_else(|| [&[0], text.as_bytes()].concat()));
            }
            // Of the file, once the rest is known.
            ("duid", None) => id = Client::Id(Vec::new()),
            ("duid", Some(_)) => id = Client::Unknown("dhcpcd.conf says what kind of DUID it is made of".into()),
            ("iaid", Some(text)) => {
                let named = bytes(text).and_then(|bytes| bytes.try_into().ok());
                iaid = named.or_else(|| text.parse::<u32>().ok().map(u32::to_be_bytes));
            }
            _ => {}
        }
    }
    if id != Client::Id(Vec::new()) {
        return id;
    }
    let by_itself = match link.kind {
        LinkKind::Vlan { id, .. } => u32::to_be_bytes(0xff00_0000 | u32::from(id)),
        _ => tail(mac_of(link)),
    };
    match bytes(duid) {
        Some(duid) => Client::Id(with_duid(iaid.unwrap_or(by_itself), &duid)),
        None => Client::Unknown("dhcpcd's DUID is in none of its files".into()),
    }
}

/// The address that a link has while somebody asks for it.
fn mac_of(link: &Link) -> Mac {
    link.set_mac.unwrap_or(link.mac)
}

/// Both clients take the end of a hardware address for a link's IAID.
pub fn tail(mac: Mac) -> [u8; 4] {
    let [_, _, tail @ ..] = mac;
    tail
}

/// A client identifier of RFC 4361.
fn with_duid(iaid: [u8; 4], duid: &[u8]) -> Vec<u8> {
    [&[255], &iaid[..], duid].concat()
}

/// Each client's reading of `data`: what comes before the first empty line is a lease, and the rest a configuration.
#[cfg(any(test, fuzzing))]
pub fn read_all(data: &[u8]) {
    let all = String::from_utf8_lossy(data);
    let (lease, config) = all.split_once("\n\n").unwrap_or((&all, ""));
    let link = Link {
        id: anemos_proto::net::LinkId(3),
        name: "u0".into(),
        kind: LinkKind::Card,
        below: Vec::new(),
        mac: [2; 6],
        mtu: 1500,
        up: true,
        driver: String::new(),
        addresses: Vec::new(),
        set_mac: None,
        vlans: Vec::new(),
        port: Vec::new(),
        client_id: Vec::new(),
        client_unknown: String::new(),
    };
    let found = [
        networkd(lease),
        dhclient(lease, config, &link),
        dhcpcd(data, config, lease, &link),
        network_manager(lease, |_| Some(config.to_owned())).unwrap_or(Client::Mac),
    ];
    assert!(!found.contains(&Client::Id(Vec::new())), "{found:?}");
}

#[cfg(test)]
mod tests {
    use anemos_proto::net::{Address, LinkId};

    use super::*;

    const MAC: Mac = [0x52, 0x54, 0, 0, 0, 1];

    fn leased(kind: LinkKind) -> Link {
        Link {
            id: LinkId(3),
            name: "u0".into(),
            kind,
            below: Vec::new(),
            mac: MAC,
            mtu: 1500,
            up: true,
            driver: String::new(),
            set_mac: None,
            vlans: Vec::new(),
            port: Vec::new(),
            client_id: Vec::new(),
            client_unknown: String::new(),
            addresses: vec![Address {
                ip: "192.0.2.53".parse().unwrap(),
                prefix: 24,
                peer: None,
                scope: 0,
                valid_s: Some(3600),
                preferred_s: Some(3600),
                autoconf: false,
            }],
        }
    }

    fn id(text: &str) -> Client {
        Client::Id(bytes(text).unwrap())
    }

    fn is_unknown(client: &Client, why: &str) -> bool {
        matches!(client, Client::Unknown(text) if text.contains(why))
    }

    /// As systemd-networkd 252 writes it.
    #[test]
    fn systemd_networkd_writes_it_down() {
        let lease = "# This is private data. Do not parse.\nADDRESS=192.0.2.57\nNETMASK=255.255.255.0\n\
                     CLIENTID=ffb6220feb00020000ab11c3d2\n";
        assert_eq!(networkd(lease), id("ff:b6:22:0f:eb:00:02:00:00:ab:11:c3:d2"));
        let nothing =
            ["", "ADDRESS=192.0.2.57\n", "CLIENTID=\n", "CLIENTID=ff0\n", "CLIENTID=zz\n", "CLIENTID=\u{e9}a\n"];
        for other in nothing {
            assert_eq!(networkd(other), Client::Mac, "{other}");
        }
        let Client::Id(long) = networkd(&format!("CLIENTID={}\n", "ab".repeat(4000))) else { panic!() };
        assert_eq!(long.len(), 255);
    }

    /// As ISC's dhclient 4.4.3 wrote it for `dhclient -4 -i`; dnsmasq then had a lease of
    /// ff:00:00:00:01:00:01:00:01:32:a0:96:e2:52:54:00:00:00:01.
    const DHCLIENT: &str = r#"default-duid "\000\001\000\0012\240\226\342RT\000\000\000\001";
lease {
  interface "u0";
  fixed-address 192.0.2.53;
  option subnet-mask 255.255.255.0;
  option dhcp-server-identifier 192.0.2.1;
  renew 1 2026/11/30 20:42:35;
}
"#;

    #[test]
    fn dhclient_makes_it_of_a_duid() {
        let link = leased(LinkKind::Card);
        let of_duid = id("ff:00:00:00:01:00:01:00:01:32:a0:96:e2:52:54:00:00:00:01");
        let debian = "send host-name = gethostname();\n#send dhcp-client-identifier 1:0:a0:24:ab:fb:9c;\n";
        assert_eq!(dhclient(DHCLIENT, debian, &link), of_duid);
        let (_, lease) = DHCLIENT.split_once('\n').unwrap();
        assert_eq!(dhclient(lease, debian, &link), Client::Mac, "it sends none");
        let cut = DHCLIENT.replace(r"\0012", "\\001;");
        assert_eq!(dhclient(&cut, "", &link), id("ff:00:00:00:01:00:01:00:01:3b:a0:96:e2:52:54:00:00:00:01"));
        for (config, want) in [
            ("send dhcp-client-identifier 1:0:a0:24:ab:fb:9c;", id("1:0:a0:24:ab:fb:9c")),
            ("send dhcp-client-identifier \"web1\";", Client::Id(b"web1".into())),
            ("send dhcp-client-identifier = hardware;", Client::Mac),
            ("interface \"u0\" { send dhcp-client-identifier \"a;b\"; }", Client::Id(b"a;b".into())),
            ("interface \"u1\" { send dhcp-client-identifier \"other\"; }", of_duid.clone()),
        ] {
            assert_eq!(dhclient(DHCLIENT, config, &link), want, "{config}");
        }
        let made = dhclient(DHCLIENT, "send dhcp-client-identifier = concat(1, hardware);", &link);
        assert!(is_unknown(&made, "by an expression"), "{made:?}");
    }

    /// What dnsmasq had a lease of after each, by dhcpcd 9.4.1.
    #[test]
    fn dhcpcd_makes_it_as_its_configuration_says() {
        const DUID: &str = "00:01:00:01:32:a0:96:ef:52:54:00:00:00:01\n";
        let link = leased(LinkKind::Card);
        let of_duid = "ff:00:00:00:01:00:01:00:01:32:a0:96:ef:52:54:00:00:00:01";
        for (config, want) in [
            ("# Debian's\nduid\npersistent\n", id(of_duid)),
            ("clientid\n", Client::Mac),
            ("", Client::Mac),
            ("interface u0\nclientid fooBar\n", id("00:66:6f:6f:42:61:72")),
            ("clientid 01:02:03:04\n", id("01:02:03:04")),
            ("duid\ninterface u0\niaid 7\n", id("ff:00:00:00:07:00:01:00:01:32:a0:96:ef:52:54:00:00:00:01")),
            ("duid\ninterface u1\nclientid bla\n", id(of_duid)),
        ] {
            assert_eq!(dhcpcd(&[], config, DUID, &link), want, "{config}");
        }
        let vlan =
            leased(LinkKind::Vlan { id: 7, protocol: 0x8100, flags: 1, egress: Vec::new(), ingress: Vec::new() });
        let of_vlan = "ff:ff:00:00:07:00:01:00:01:32:a0:96:ef:52:54:00:00:00:01";
        assert_eq!(dhcpcd(&[], "duid", DUID, &vlan), id(of_vlan), "by its manual");
        for (config, duid, why) in
            [("duid", "", "none of its files"), ("duid ll", DUID, "kind of DUID"), ("anonymous", DUID, "anonymous")]
        {
            let client = dhcpcd(&[], config, duid, &link);
            assert!(is_unknown(&client, why), "{client:?}");
        }
        // Whatever made it: its name on the command line, too.
        let mut answer = vec![0; 240];
        answer.extend([53, 1, 5, 0, 61, 3, 0, b'a', b'b', 255]);
        assert_eq!(dhcpcd(&answer, "duid", DUID, &link), id("00:61:62"));
        for cut in [0, 100, 240, 241, 243, 246] {
            assert_eq!(answered(&answer[..cut]), None, "{cut}");
        }
    }

    /// As NetworkManager 1.42 writes it below /run.
    #[test]
    fn network_manager_writes_it_down_or_has_it_in_a_profile() {
        let device = "[device]\nmanaged=true\nperm-hw-addr-fake=52:54:00:00:00:01\n\
                      connection-uuid=11111111-2222-4333-8444-555555555555\nnm-owned=false\n";
        let sent = format!(
            "{device}\n[dhcp4]\ndhcp4.broadcast_address=192.0.2.255\n\
             dhcp4.dhcp_client_identifier=ff:be:3c:99:80:00:02:00:00:ab:11:00:33:bd:eb:f9:5e:19:2c\n"
        );
        let by = |profile: &str| network_manager(device, |_| Some(profile.to_owned())).unwrap();
        let want = id("ff:be:3c:99:80:00:02:00:00:ab:11:00:33:bd:eb:f9:5e:19:2c");
        assert_eq!(network_manager(&sent, |_| None), Some(want));
        assert_eq!(by("[ipv4]\nmethod=auto\n"), Client::Mac);
        assert_eq!(by("[ipv4]\ndhcp-client-id=mac\n"), Client::Mac);
        assert_eq!(by("[ipv4]\ndhcp-client-id=01:02:03\n\n[ipv6]\ndhcp-client-id=9\n"), id("01:02:03"));
        assert_eq!(by("[ipv4]\ndhcp-client-id=web1\n"), Client::Id(b"\0web1".into()));
        assert!(is_unknown(&by("[ipv4]\ndhcp-client-id=stable\n"), "dhcp-client-id=stable"));
        assert!(is_unknown(&network_manager(device, |_| None).unwrap(), "in no keyfile"));
        assert_eq!(network_manager("[device]\nmanaged=true\n", |_| None), None);
    }

    #[test]
    fn files_are_found() {
        let root = std::env::temp_dir().join(format!("anemos-leases-{}", std::process::id()));
        let write = |path: &str, bytes: &[u8]| {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        };
        let _ = fs::remove_dir_all(&root);
        let mut link = leased(LinkKind::Card);
        let asked = |link: &Link| client(&root, link);
        assert!(is_unknown(&asked(&link).unwrap(), "its DHCP client is not known"));
        let mut lease = vec![0; 300];
        lease[16..20].copy_from_slice(&[192, 0, 2, 53]);
        write("var/lib/dhcpcd/u0.lease", &lease);
        write("etc/dhcpcd.conf", format!("clientid {}\n", "long".repeat(64)).as_bytes());
        assert!(is_unknown(&asked(&link).unwrap(), "longer"));
        write("etc/dhcpcd.conf", b"clientid web1\n");
        assert_eq!(asked(&link), Some(Client::Id(b"\0web1".into())));
        write("var/lib/dhcp/dhclient.u1.leases", DHCLIENT.replace("\"u0\"", "\"u1\"").as_bytes());
        write("var/lib/dhcp/dhclient.leases", DHCLIENT.replace(".53", ".54").as_bytes());
        assert_eq!(asked(&link), Some(Client::Id(b"\0web1".into())), "leases of others, and one that is over");
        write("var/lib/dhcp/dhclient.u0.leases", DHCLIENT.as_bytes());
        assert!(matches!(asked(&link), Some(Client::Id(id)) if id.len() == 19));
        write("run/NetworkManager/devices/3", b"[device]\nconnection-uuid=1-2\n");
        write("etc/NetworkManager/system-connections/u0", b"[connection]\nuuid=1-2\n[ipv4]\nmethod=auto\n");
        assert!(matches!(asked(&link), Some(Client::Id(_))), "it has dhclient ask");
        fs::remove_file(root.join("var/lib/dhcp/dhclient.u0.leases")).unwrap();
        assert_eq!(asked(&link), Some(Client::Mac));
        write("etc/NetworkManager/conf.d/ids.conf", b"[connection]\nipv4.dhcp-client-id=duid\n");
        assert!(is_unknown(&asked(&link).unwrap(), "in no keyfile"));
        write("run/systemd/netif/leases/3", b"CLIENTID=0102\n");
        assert_eq!(asked(&link), Some(id("01:02")));
        fs::remove_file(root.join("run/systemd/netif/leases/3")).unwrap();
        link.addresses[0].valid_s = None;
        assert_eq!(asked(&link), None, "no lease");
        fs::remove_dir_all(&root).unwrap();
    }
}
