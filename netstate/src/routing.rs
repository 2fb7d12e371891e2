//! Whether this host speaks a routing protocol with others: BGP by a TCP connection, OSPF by a raw socket.

/// The port of BGP.
const BGP: u16 = 179;
/// The protocol number of OSPF, which the kernel lists as a raw socket's port.
const OSPF: u16 = 89;
/// `TCP_ESTABLISHED`.
const ESTABLISHED: &str = "01";

/// Whether a socket of this network namespace is of such a protocol.
pub fn is_spoken() -> bool {
    let read = |name: &str| std::fs::read_to_string(format!("/proc/self/net/{name}")).unwrap_or_default();
    ["tcp", "tcp6"].iter().any(|name| has_bgp(&read(name))) || ["raw", "raw6"].iter().any(|name| has_ospf(&read(name)))
}

/// Reads proc_net_tcp(5): number, local and remote address with port in hexadecimal, and state.
fn has_bgp(text: &str) -> bool {
    text.lines().any(|line| {
        let words: Vec<&str> = line.split_whitespace().take(4).collect();
        let [_, local, remote, state] = words[..] else { return false };
        state == ESTABLISHED && [local, remote].into_iter().any(|address| port(address) == Some(BGP))
    })
}

fn has_ospf(text: &str) -> bool {
    text.lines().any(|line| line.split_whitespace().nth(1).and_then(port) == Some(OSPF))
}

fn port(address: &str) -> Option<u16> {
    u16::from_str_radix(address.rsplit_once(':')?.1, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid\n";

    #[test]
    fn sockets_of_routing_daemons() {
        let tcp = |line: &str| has_bgp(&format!("{HEAD}{line}\n"));
        assert!(
            tcp("   0: 0A0200C0:B5C2 010200C0:00B3 01 00000000:00000000 00:00000000 00000000     0"),
            "to a router"
        );
        assert!(tcp("   1: 0A0200C0:00B3 010200C0:B5C2 01 00000000:00000000 00:00000000 00000000     0"), "from one");
        assert!(tcp(
            "   2: B80D0120000000000000000001000000:B5C2 B80D0120000000000000000002000000:00B3 01 00000000:00000000"
        ));
        assert!(
            !tcp("   3: 00000000:00B3 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0"),
            "nobody came"
        );
        assert!(!tcp("   4: 0A0200C0:0016 010200C0:B5C2 01 00000000:00000000 00:00000000 00000000     0"), "SSH");
        let raw = |line: &str| has_ospf(&format!("{HEAD}{line}\n"));
        assert!(raw("   89: 00000000:0059 00000000:0000 07 00000000:00000000 00:00000000 00000000     0"));
        assert!(!raw("   58: 00000000:003A 00000000:0000 07 00000000:00000000 00:00000000 00000000     0"));
        assert!(!has_bgp("") && !has_ospf("") && !has_bgp(HEAD) && !has_ospf(HEAD));
    }
}
