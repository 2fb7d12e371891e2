//! What a person at the machine's own screen sees.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;

use rustix::fs::OFlags;

/// Writes a line to every console and to the kernel's ring buffer. Nothing is done about failures: there is nobody to
/// tell.
pub fn say(text: &str) {
    for line in text.lines() {
        for console in consoles() {
            // A serial line with flow control must not stop the agent.
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

/// The same, unless this is not a machine of ours.
pub fn say_if(machine: bool, text: &str) {
    if machine {
        say(text);
    }
}

/// How a person gets in, for the screen.
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

/// The line after an address in fib_trie says whether it is this machine's.
fn local_v4(fib_trie: &str) -> Vec<IpAddr> {
    let lines: Vec<&str> = fib_trie.lines().map(str::trim).collect();
    let pairs = lines.windows(2).filter(|pair| pair[1].starts_with("/32 host LOCAL"));
    pairs
        .filter_map(|pair| pair[0].strip_prefix("|-- ")?.parse().ok())
        .filter(|ip: &IpAddr| !ip.is_loopback())
        .collect()
}

/// Global addresses of if_inet6: 32 digits, index, prefix length, scope, …
fn local_v6(if_inet6: &str) -> Vec<IpAddr> {
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
        let trie = "Local:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 10.0.2.15\n        /32 host LOCAL\n     |-- 10.0.2.255\n        \
                    /32 link BROADCAST\n     |-- 127.0.0.1\n        /32 host LOCAL\n";
        assert_eq!(local_v4(trie), ["10.0.2.15".parse::<IpAddr>().unwrap()]);
        let inet6 = "fe80000000000000505400fffe123456 02 40 20 80     eth0\n\
                     20010db8000000000000000000000015 02 40 00 80     eth0\n\
                     00000000000000000000000000000001 01 80 10 80       lo\n";
        assert_eq!(local_v6(inet6), ["2001:db8::15".parse::<IpAddr>().unwrap()]);
    }
}
