//! The two networks a machine can be in.
//!
//! Each machine's QEMU runs in a network namespace of its own, from which nothing but the lab can be reached: what the
//! lab offers to the guest is carried in, and what the guest offers is carried out, by a [`Link`].
//!
//! *dhcp* is QEMU's user network: a lease with a router and a name server, and a router advertisement.
//! *static* is a tap device where no DHCP server and no router advertisement exist, the addresses are given by hand,
//! and both gateways are outside the host's prefix (onlink).

use crate::link::{Link, Target};
use crate::netns::Namespace;
use crate::{Result, bail};
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

/// What the guest calls its network card.
pub const GUEST_DEVICE: &str = "ens3";
/// The card's address.
pub const MAC: &str = "52:54:00:a0:e0:03";
/// The archive's address in the dhcp network: QEMU leads it to the loopback device of its namespace.
const DHCP_ARCHIVE: &str = "10.0.2.2";
/// The static host's address, alone in its prefix.
pub const STATIC_V4: &str = "198.51.100.10";
const STATIC_V4_OCTETS: [u8; 4] = [198, 51, 100, 10];
/// The static host's router, outside any prefix of the host; the archive answers there too.
pub const STATIC_V4_GATEWAY: &str = "203.0.113.1";
/// The static host's IPv6 address.
pub const STATIC_V6: &str = "2001:db8:77::10";
/// The lab's IPv6 address in the static network.
pub const STATIC_V6_LAB: &str = "2001:db8:77::1";
/// The static host's IPv6 router.
pub const STATIC_V6_GATEWAY: &str = "fe80::1";

/// The kind of network a machine is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Net {
    /// Leased IPv4, advertised IPv6.
    Dhcp,
    /// Static IPv4 and IPv6 with onlink gateways, and nobody to ask for an address.
    Static,
}

impl fmt::Display for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dhcp => "dhcp",
            Self::Static => "static",
        })
    }
}

/// The archive's address as guests see it, always the same.
pub fn archive_url(net: Net) -> String {
    let address = match net {
        Net::Dhcp => DHCP_ARCHIVE,
        Net::Static => STATIC_V4_GATEWAY,
    };
    format!("http://{address}/debian")
}

/// The lab's side of a machine's network.
pub(super) struct Wiring {
    net: Net,
    pub namespace: Arc<Namespace>,
    /// Carries the guest's connections to the archive.
    _archive: Option<Link>,
}

impl Wiring {
    pub fn new(net: Net, archive: Option<u16>) -> Result<Self> {
        let namespace = Arc::new(Namespace::new()?);
        namespace.ip("link set lo up")?;
        if net == Net::Static {
            for command in [
                "tuntap add tap0 mode tap",
                "link set tap0 up",
                &format!("addr add {STATIC_V4_GATEWAY}/32 dev tap0"),
                &format!("route add {STATIC_V4}/32 dev tap0"),
                &format!("-6 addr add {STATIC_V6_GATEWAY}/64 dev tap0 nodad"),
                &format!("-6 addr add {STATIC_V6_LAB}/64 dev tap0 nodad"),
            ] {
                namespace.ip(command)?;
            }
        }
        let archive = match archive {
            Some(port) => {
                let listener = namespace.listen(([0, 0, 0, 0], 80).into())?;
                Some(Link::on(listener, Target::Here(([127, 0, 0, 1], port).into()))?)
            }
            None => None,
        };
        Ok(Self { net, namespace, _archive: archive })
    }

    /// QEMU's `-netdev`.
    pub fn netdev(&self) -> String {
        match self.net {
            Net::Dhcp => format!("user,id=net0,hostfwd={}", forward(22)),
            Net::Static => "tap,id=net0,ifname=tap0,script=no,downscript=no".to_owned(),
        }
    }

    /// What to ask of QEMU's monitor before the guest's port can be reached.
    pub fn open(&self, port: u16) -> Option<String> {
        (self.net == Net::Dhcp).then(|| format!("hostfwd_add net0 {}", forward(port)))
    }

    /// What to ask of QEMU's monitor before port 22 of another address of the guest can be reached, at [`OTHER_PORT`].
    pub fn open_at(&self, guest: Ipv4Addr) -> Result<String> {
        if self.net != Net::Dhcp {
            bail!("only a guest with DHCP has other addresses");
        }
        Ok(format!("hostfwd_add net0 tcp:127.0.0.1:{OTHER_PORT}-{guest}:22"))
    }

    /// Where the guest's port is.
    pub fn target(&self, port: u16) -> Target {
        let address: SocketAddr = match self.net {
            Net::Dhcp => ([127, 0, 0, 1], forward_port(port)).into(),
            Net::Static => (STATIC_V4_OCTETS, port).into(),
        };
        Target::Inside(Arc::clone(&self.namespace), address)
    }
}

/// Where port 22 of another address of the guest is.
pub(super) const OTHER_PORT: u16 = 2022;

/// The namespace's ports are all the machine's own, so they need not be searched for; the archive has port 80.
fn forward_port(port: u16) -> u16 {
    if port == 80 { 8080 } else { port }
}

fn forward(port: u16) -> String {
    format!("tcp:127.0.0.1:{}-:{port}", forward_port(port))
}
