//! The networks a machine can be in.
//!
//! Each machine's QEMU runs in a network namespace of its own, from which nothing but the lab can be reached: what the
//! lab offers to the guest is carried in, and what the guest offers is carried out, by a [`Link`].
//!
//! *dhcp* is QEMU's user network: a lease with a router and a name server, and a router advertisement.
//! *static* is a tap device where no DHCP server and no router advertisement exist, the addresses are given by hand,
//! and both gateways are outside the host's prefix (onlink).
//! *trunk* is a [`Switch`] with two cards; the machine begins in the untagged network, with a lease.

use super::switch::{self, Switch};
use crate::link::{Link, Target};
use crate::netns::Namespace;
use crate::{Lab, Result, bail};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

/// What the guest calls its network card.
pub const GUEST_DEVICE: &str = "ens3";
/// The card's address.
pub const MAC: &str = "52:54:00:a0:e0:03";
/// What the guest calls its second card, where it has one.
pub const SECOND_DEVICE: &str = "ens7";
/// The second card's address.
const SECOND_MAC: &str = "52:54:00:a0:e0:07";
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
    /// Two cards at a switch that does LACP and carries a VLAN.
    Trunk,
}

impl Net {
    /// The network that the image of a machine in this one is made for.
    #[must_use]
    pub fn of_image(self) -> Self {
        if self == Self::Trunk { Self::Dhcp } else { self }
    }
}

impl fmt::Display for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dhcp => "dhcp",
            Self::Static => "static",
            Self::Trunk => "trunk",
        })
    }
}

/// The archive's address as guests see it, always the same.
pub fn archive_url(net: Net) -> String {
    let address = match net {
        Net::Dhcp | Net::Trunk => DHCP_ARCHIVE,
        Net::Static => STATIC_V4_GATEWAY,
    };
    format!("http://{address}/debian")
}

/// The lab's side of a machine's network.
pub(super) struct Wiring {
    net: Net,
    pub namespace: Arc<Namespace>,
    _switch: Option<Switch>,
    /// Carries the guest's connections to the archive.
    _archive: Option<Link>,
}

impl Wiring {
    /// Makes the network; what serves it has its files in `dir`.
    pub fn new(lab: &Lab, net: Net, archive: Option<u16>, dir: &Path) -> Result<Self> {
        let namespace = Arc::new(Namespace::new()?);
        namespace.ip("link set lo up")?;
        let mut switch = None;
        if net == Net::Trunk {
            for tap in TAPS {
                namespace.ip(&format!("tuntap add {tap} mode tap"))?;
                namespace.ip(&format!("link set {tap} up"))?;
            }
            switch = Some(Switch::start(lab, &namespace, dir, TAPS)?);
        }
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
        Ok(Self { net, namespace, _switch: switch, _archive: archive })
    }

    /// QEMU's arguments for the cards and what they are plugged into.
    pub fn arguments(&self) -> Vec<String> {
        let tap = |n: usize, more: &str| format!("tap,id=net{n},ifname={},script=no,downscript=no{more}", TAPS[n]);
        // No romfile: nothing boots from the network here, and it would be one more thing that a snapshot depends on.
        let card = |n: usize, mac: &str, slot: u32, more: &str| {
            format!("virtio-net-pci,id=nic{n},netdev=net{n},mac={mac},addr={slot:#x},romfile={more}")
        };
        // The switch takes frames as they are on a wire, with their sums and no longer than a wire carries them. LACP
        // has cards of one speed only.
        let (wire, speed) = (",vnet_hdr=off", ",speed=1000,duplex=full");
        let cards = match self.net {
            Net::Dhcp => vec![(format!("user,id=net0,hostfwd={}", forward(22)), card(0, MAC, 3, ""))],
            Net::Static => vec![(tap(0, ""), card(0, MAC, 3, ""))],
            Net::Trunk => {
                vec![(tap(0, wire), card(0, MAC, 3, speed)), (tap(1, wire), card(1, SECOND_MAC, 7, speed))]
            }
        };
        let words = |(netdev, card)| ["-netdev".into(), netdev, "-device".into(), card];
        cards.into_iter().flat_map(words).collect()
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
            Net::Trunk => (switch::NATIVE[1], port).into(),
        };
        Target::Inside(Arc::clone(&self.namespace), address)
    }

    /// Where port 22 of an address is that the guest took by itself.
    pub fn target_at(&self, guest: IpAddr) -> Result<Target> {
        if self.net == Net::Dhcp {
            bail!("behind QEMU's own router a guest has no other address than the leased one");
        }
        Ok(Target::Inside(Arc::clone(&self.namespace), (guest, 22).into()))
    }
}

/// The other ends of the cards in the namespace.
const TAPS: [&str; 2] = ["tap0", "tap1"];

/// Where port 22 of another address of the guest is.
pub(super) const OTHER_PORT: u16 = 2022;

/// The namespace's ports are all the machine's own, so they need not be searched for; the archive has port 80.
fn forward_port(port: u16) -> u16 {
    if port == 80 { 8080 } else { port }
}

fn forward(port: u16) -> String {
    format!("tcp:127.0.0.1:{}-:{port}", forward_port(port))
}
