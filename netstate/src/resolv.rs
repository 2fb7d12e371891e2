//! Name servers, as resolv.conf(5) has them.

use std::fmt::Write as _;
use std::net::IpAddr;

use anemos_proto::net::NetworkState;

/// What a resolv.conf says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Resolver {
    /// Name servers in order.
    pub servers: Vec<IpAddr>,
    /// Search domains in order.
    pub search: Vec<String>,
}

impl Resolver {
    /// Whether all servers are on this machine itself: a stub or a cache, which another system will not have.
    fn is_stub(&self) -> bool {
        self.servers.iter().all(IpAddr::is_loopback)
    }
}

/// Reads the text of a resolv.conf. Of several `search` and `domain` lines the last one counts, as for glibc.
/// A link-local server with a zone (`fe80::1%eth0`) is left out: the zone would not mean the same after a boot.
pub fn parse_resolv_conf(text: &str) -> Resolver {
    let mut resolver = Resolver::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => resolver.servers.extend(words.next().and_then(|word| word.parse::<IpAddr>().ok())),
            Some("search") => resolver.search = words.map(str::to_owned).collect(),
            Some("domain") => resolver.search = words.next().map(str::to_owned).into_iter().collect(),
            _ => {}
        }
    }
    // Other characters could mean something in the configuration files that the domains are written to.
    let is_name = |domain: &str| domain.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
    resolver.search.retain(|domain| domain != "." && is_name(domain));
    resolver
}

/// Files in which local stubs name the servers that they forward to.
const BEHIND_STUBS: [&str; 5] = [
    "/run/systemd/resolve/resolv.conf",
    "/run/NetworkManager/no-stub-resolv.conf",
    "/run/NetworkManager/resolv.conf",
    "/run/dnsmasq/resolv.conf",
    "/run/resolvconf/resolv.conf",
];

/// The host's resolver. For a local stub, the servers that it forwards to; empty if they are not known.
pub(crate) fn read() -> Resolver {
    choose("/etc/resolv.conf", &BEHIND_STUBS, |path| std::fs::read_to_string(path).ok())
}

/// All name servers of the host's resolv.conf, if none in `state` would answer another system on this host; else none.
/// Servers on the host itself would not answer, nor link-local ones, whose zone the other system doesn't know.
pub fn lost_servers(state: &NetworkState) -> Vec<String> {
    lost(state, &std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default())
}

fn lost(state: &NetworkState, text: &str) -> Vec<String> {
    let own: Vec<_> = state.links.iter().flat_map(|link| &link.addresses).map(|address| address.ip).collect();
    if state.dns.iter().any(|server| !own.contains(server)) {
        return Vec::new();
    }
    let server =
        |line: &str| line.trim_start().strip_prefix("nameserver")?.split_whitespace().next().map(str::to_owned);
    text.lines().filter_map(server).collect()
}

fn choose(first: &str, others: &[&str], read: impl Fn(&str) -> Option<String>) -> Resolver {
    let parse = |path: &str| read(path).map(|text| parse_resolv_conf(&text));
    let mut resolver = parse(first).unwrap_or_default();
    if resolver.is_stub() {
        let behind = others.iter().filter_map(|path| parse(path)).find(|other| !other.is_stub());
        if let Some(behind) = behind {
            let search = if resolver.search.is_empty() { behind.search.clone() } else { resolver.search };
            resolver = Resolver { search, ..behind };
        }
    }
    resolver.servers.retain(|server| !server.is_loopback());
    resolver
}

/// The text of a resolv.conf for this state. glibc reads the first three servers only, so no more are written.
pub fn write_resolv_conf(state: &NetworkState) -> String {
    let mut text = String::new();
    if !state.search.is_empty() {
        let _ = writeln!(text, "search {}", state.search.join(" "));
    }
    for server in state.dns.iter().take(3) {
        let _ = writeln!(text, "nameserver {server}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const STUB: &str =
        "# Managed by systemd-resolved\nnameserver 127.0.0.53\noptions edns0 trust-ad\nsearch example.net\n";

    fn resolver(servers: &[&str], search: &[&str]) -> Resolver {
        Resolver {
            servers: servers.iter().map(|s| s.parse().unwrap()).collect(),
            search: search.iter().map(|s| (*s).to_owned()).collect(),
        }
    }

    #[test]
    fn reads_what_glibc_reads() {
        for (text, want) in [
            ("", resolver(&[], &[])),
            ("nameserver 192.0.2.1\nnameserver 2001:db8::1 # second\n", resolver(&["192.0.2.1", "2001:db8::1"], &[])),
            ("domain a.example\nsearch b.example c.example\n", resolver(&[], &["b.example", "c.example"])),
            ("search a.example $(x)\n", resolver(&[], &["a.example"])),
            ("search .\nnameserver\tfe80::1%eth0\n;nameserver 192.0.2.9\n", resolver(&[], &[])),
            ("nameserver nonsense\r\nnameserver 192.0.2.1\r\n", resolver(&["192.0.2.1"], &[])),
        ] {
            assert_eq!(parse_resolv_conf(text), want, "{text:?}");
        }
    }

    #[test]
    fn looks_behind_a_stub() {
        let files = |path: &str| match path {
            "etc" => Some(STUB.to_owned()),
            "empty" => Some("nameserver 127.0.0.1\n".to_owned()),
            "upstream" => Some("nameserver 192.0.2.1\nsearch upstream.example\n".to_owned()),
            _ => None,
        };
        assert_eq!(choose("etc", &["none", "empty", "upstream"], files), resolver(&["192.0.2.1"], &["example.net"]));
        assert_eq!(choose("etc", &["none"], files), resolver(&[], &["example.net"]));
        assert_eq!(choose("none", &["upstream"], files), resolver(&["192.0.2.1"], &["upstream.example"]));
    }

    #[test]
    fn a_resolver_that_is_left_behind() {
        use anemos_proto::net::{Address, Link, LinkId, LinkKind};
        let address = Address {
            ip: "192.0.2.10".parse().unwrap(),
            prefix: 24,
            peer: None,
            scope: 0,
            valid_s: None,
            preferred_s: None,
            autoconf: false,
        };
        let link = Link {
            id: LinkId(1),
            name: "eth0".into(),
            kind: LinkKind::Card,
            below: Vec::new(),
            mac: [1; 6],
            mtu: 1500,
            up: true,
            driver: String::new(),
            set_mac: None,
            vlans: Vec::new(),
            port: Vec::new(),
            client_id: Vec::new(),
            client_unknown: String::new(),
            addresses: vec![address],
        };
        for (text, dns, want) in [
            ("nameserver 127.0.0.1\n", vec![], vec!["127.0.0.1"]),
            ("nameserver 127.0.0.53\nnameserver ::1\n", vec![], vec!["127.0.0.53", "::1"]),
            (STUB, vec!["192.0.2.1"], vec![]),
            ("nameserver 192.0.2.10\n", vec!["192.0.2.10"], vec!["192.0.2.10"]),
            ("nameserver 192.0.2.10\nnameserver 192.0.2.1\n", vec!["192.0.2.10", "192.0.2.1"], vec![]),
            ("nameserver\tfe80::1%eth0\n", vec![], vec!["fe80::1%eth0"]),
            ("# nameserver 127.0.0.1\n", vec![], vec![]),
            ("", vec![], vec![]),
        ] {
            let dns = resolver(&dns, &[]).servers;
            let state = NetworkState { dns, links: vec![link.clone()], ..NetworkState::default() };
            assert_eq!(lost(&state, text), want, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn written_is_read(dns in proptest::collection::vec(any::<IpAddr>(), 0..3),
                           search in proptest::collection::vec("[a-z]{1,9}\\.example", 0..4)) {
            let state = NetworkState { dns: dns.clone(), search: search.clone(), ..NetworkState::default() };
            prop_assert_eq!(parse_resolv_conf(&write_resolv_conf(&state)), Resolver { servers: dns, search });
        }
    }
}
