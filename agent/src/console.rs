//! What a person at the machine's own screen is shown.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;

use rustix::fs::OFlags;

/// Writes the lines of `text` to every console and to the kernel's ring buffer. Failures are ignored, since nobody
/// could be told of them.
pub fn say(text: &str) {
    for line in text.lines() {
        for console in consoles() {
            // Without NONBLOCK a serial line whose flow control says stop would stop the agent.
            let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
            if let Ok(mut file) = OpenOptions::new().write(true).custom_flags(flags).open(&console) {
                let _ = file.write_all(format!("\r\nanemos: {line}\r\n").as_bytes());
            }
        }
        if let Ok(mut file) = OpenOptions::new().write(true).open("/dev/kmsg") {
            let _ = file.write_all(format!("<6>anemos: {line}\n").as_bytes());
        }
    }
}

fn consoles() -> Vec<String> {
    let listed = fs::read_to_string("/proc/consoles").unwrap_or_default();
    let mut found: Vec<String> =
        listed.lines().filter_map(|line| line.split_whitespace().next()).map(|name| format!("/dev/{name}")).collect();
    found.retain(|path| std::path::Path::new(path).exists());
    if found.is_empty() {
        found.push("/dev/console".into());
    }
    found
}

/// Does what [`say`] does if `machine` is true, and nothing in a trial on an ordinary machine.
pub fn say_if(machine: bool, text: &str) {
    if machine {
        say(text);
    }
}

/// Tells a person at the screen how to log in over SSH.
pub fn reachable(port: u16) -> String {
    let addresses = addresses();
    if addresses.is_empty() {
        return "this machine has no address on the network".into();
    }
    let list: Vec<String> = addresses.iter().map(|ip| format!("ssh -p {port} root@{ip}")).collect();
    format!("reachable by: {}", list.join("   "))
}

/// Addresses of this machine that others can reach, from /proc.
fn addresses() -> Vec<IpAddr> {
    let v4 = fs::read_to_string("/proc/net/fib_trie").unwrap_or_default();
    let v6 = fs::read_to_string("/proc/net/if_inet6").unwrap_or_default();
    let mut found: Vec<IpAddr> = local_v4(&v4).into_iter().chain(local_v6(&v6)).collect();
    found.sort();
    found.dedup();
    found
}

/// This machine's IPv4 addresses, loopback left out, from `/proc/net/fib_trie`: the line after an address tells whether
/// the address is local.
pub fn local_v4(fib_trie: &str) -> Vec<IpAddr> {
    let lines: Vec<&str> = fib_trie.lines().map(str::trim).collect();
    let pairs = lines.windows(2).filter(|pair| pair[1].starts_with("/32 host LOCAL"));
    pairs
        .filter_map(|pair| pair[0].strip_prefix("|-- ")?.parse().ok())
        .filter(|ip: &IpAddr| !ip.is_loopback())
        .collect()
}

/// The global IPv6 addresses in `/proc/net/if_inet6`, whose fields are 32 hexadecimal digits, index, prefix length,
/// scope (00: global), flags and name.
pub fn local_v6(if_inet6: &str) -> Vec<IpAddr> {
    let one = |line: &str| {
        let mut fields = line.split_whitespace();
        let bits = u128::from_str_radix(fields.next()?, 16).ok()?;
        (fields.nth(2)? == "00").then(|| IpAddr::V6(bits.into()))
    };
    if_inet6.lines().filter_map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_from_proc() {
        let trie = "Local:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 10.0.2.15\n        /32 host LOCAL\n     |-- 10.0.2.255\n\
                    \x20       /32 link BROADCAST\n     |-- 127.0.0.1\n        /32 host LOCAL\n";
        assert_eq!(local_v4(trie), ["10.0.2.15".parse::<IpAddr>().unwrap()]);
        let inet6 = "fe80000000000000505400fffe123456 02 40 20 80     eth0\n\
                     20010db8000000000000000000000015 02 40 00 80     eth0\n\
                     00000000000000000000000000000001 01 80 10 80       lo\n";
        assert_eq!(local_v6(inet6), ["2001:db8::15".parse::<IpAddr>().unwrap()]);
    }
}
