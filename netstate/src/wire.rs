//! The parts of netlink(7) and rtnetlink(7) that this crate needs: headers, attributes, constants.

use std::net::IpAddr;

/// `NLMSG_*`, `RTM_*`: message types.
pub const NLMSG_ERROR: u16 = 2;
pub const NLMSG_DONE: u16 = 3;
pub const RTM_NEWLINK: u16 = 16;
pub const RTM_DELLINK: u16 = 17;
pub const RTM_GETLINK: u16 = 18;
pub const RTM_SETLINK: u16 = 19;
pub const RTM_NEWADDR: u16 = 20;
pub const RTM_GETADDR: u16 = 22;
pub const RTM_NEWROUTE: u16 = 24;
pub const RTM_GETROUTE: u16 = 26;
pub const RTM_NEWRULE: u16 = 32;
pub const RTM_GETRULE: u16 = 34;

/// `NLM_F_*`: flags of the header.
pub const REQUEST: u16 = 0x1;
pub const ACK: u16 = 0x4;
pub const DUMP_INTERRUPTED: u16 = 0x10;
pub const DUMP: u16 = 0x300;
pub const REPLACE: u16 = 0x100;
pub const EXCLUSIVE: u16 = 0x200;
pub const CREATE: u16 = 0x400;
pub const ERROR_HAS_ATTRIBUTES: u16 = 0x200;

pub const AF_INET: u8 = 2;
pub const AF_BRIDGE: u8 = 7;
pub const AF_INET6: u8 = 10;

/// `RTMGRP_LINK`: its members are told of each change of a link.
pub const GROUP_LINK: u32 = 1;

/// `IFF_*`: flags of a link.
pub const LINK_UP: u32 = 0x1;
pub const LINK_LOOPBACK: u32 = 0x8;
pub const LINK_RUNNING: u32 = 0x40;
pub const LINK_LOWER_UP: u32 = 0x1_0000;

pub const IFLA_ADDRESS: u16 = 1;
pub const IFLA_IFNAME: u16 = 3;
pub const IFLA_MTU: u16 = 4;
pub const IFLA_LINK: u16 = 5;
pub const IFLA_MASTER: u16 = 10;
pub const IFLA_LINKINFO: u16 = 18;
pub const IFLA_INFO_KIND: u16 = 1;
pub const IFLA_INFO_DATA: u16 = 2;
pub const IFLA_INFO_SLAVE_KIND: u16 = 4;
pub const IFLA_INFO_SLAVE_DATA: u16 = 5;
pub const IFLA_BOND_SLAVE_PERM_HWADDR: u16 = 4;
pub const IFLA_AF_SPEC: u16 = 26;
pub const IFLA_EXT_MASK: u16 = 29;
pub const IFLA_LINK_NETNSID: u16 = 37;
pub const IFLA_PERM_ADDRESS: u16 = 54;

pub const IFA_ADDRESS: u16 = 1;
pub const IFA_LOCAL: u16 = 2;
pub const IFA_BROADCAST: u16 = 4;
pub const IFA_CACHEINFO: u16 = 6;
pub const IFA_FLAGS: u16 = 8;
pub const IFA_PROTO: u16 = 11;

/// `IFA_F_*`: flags of an address. For IPv4, `TEMPORARY` means "secondary".
pub const ADDRESS_TEMPORARY: u32 = 0x01;
pub const ADDRESS_NODAD: u32 = 0x02;
pub const ADDRESS_DAD_FAILED: u32 = 0x08;
pub const ADDRESS_MANAGES_TEMPORARY: u32 = 0x100;
pub const ADDRESS_NO_PREFIX_ROUTE: u32 = 0x200;
/// `IFAPROT_KERNEL_RA`.
pub const ADDRESS_FROM_KERNEL_RA: u8 = 2;

pub const RTA_DST: u16 = 1;
pub const RTA_SRC: u16 = 2;
pub const RTA_OIF: u16 = 4;
pub const RTA_GATEWAY: u16 = 5;
pub const RTA_PRIORITY: u16 = 6;
pub const RTA_PREFSRC: u16 = 7;
pub const RTA_METRICS: u16 = 8;
pub const RTAX_MTU: u16 = 2;
pub const RTA_MULTIPATH: u16 = 9;
pub const RTA_TABLE: u16 = 15;
pub const RTA_VIA: u16 = 18;

/// `RTM_F_CLONED`: a cache entry.
pub const ROUTE_CLONED: u32 = 0x200;
pub const HOP_DEAD: u32 = 0x1;
pub const HOP_ONLINK: u32 = 0x4;
/// `RTN_UNICAST`.
pub const ROUTE_UNICAST: u8 = 1;
pub const PROTOCOL_KERNEL: u8 = 2;
pub const PROTOCOL_RA: u8 = 9;
pub const TABLE_DEFAULT: u32 = 253;
pub const TABLE_MAIN: u32 = 254;
pub const TABLE_LOCAL: u32 = 255;
/// `RTM_F_LOOKUP_TABLE`: the answer to a question for one route says of which table the route is.
pub const LOOKUP_TABLE: u32 = 0x1000;

const HEADER: usize = 16;
pub const NESTED: u16 = 0x8000;
const TYPE_MASK: u16 = 0x3fff;

/// A message being written.
pub struct Message(Vec<u8>);

impl Message {
    /// Starts a message with the fixed part of its type.
    pub fn new(kind: u16, flags: u16, body: &[u8]) -> Self {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(flags | REQUEST).to_ne_bytes());
        bytes.extend_from_slice(body);
        Self(bytes)
    }

    pub fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        self.push(kind, value);
        self
    }

    pub fn nested(self, kind: u16, inner: &[(u16, Vec<u8>)]) -> Self {
        self.attribute(kind | NESTED, &attributes_of(inner))
    }

    fn push(&mut self, kind: u16, value: &[u8]) {
        self.0.resize(aligned(self.0.len()), 0);
        self.0.extend_from_slice(&(value.len() as u16 + 4).to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
    }

    /// The bytes to send.
    pub fn finish(mut self, sequence: u32) -> Vec<u8> {
        self.0.resize(aligned(self.0.len()), 0);
        let length = self.0.len() as u32;
        self.0[0..4].copy_from_slice(&length.to_ne_bytes());
        self.0[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.0
    }
}

/// The bytes of attributes, as they are in a message or in another attribute.
pub fn attributes_of(list: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let mut out = Message(Vec::new());
    for (kind, value) in list {
        out.push(*kind, value);
    }
    out.0.resize(aligned(out.0.len()), 0);
    out.0
}

pub fn family(v6: bool) -> u8 {
    if v6 { AF_INET6 } else { AF_INET }
}

/// An address of the family, from its bytes.
pub fn parse_ip(family: u8, value: &[u8]) -> Option<IpAddr> {
    match family {
        AF_INET => <[u8; 4]>::try_from(value).ok().map(IpAddr::from),
        AF_INET6 => <[u8; 16]>::try_from(value).ok().map(IpAddr::from),
        _ => None,
    }
}

/// A text that a zero byte ends.
pub fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).trim_end_matches('\0').to_owned()
}

pub fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

/// The beginning of a change of a link that leaves its flags as they are.
pub fn change_link(index: u32) -> Message {
    change_flags(index, 0, 0)
}

pub fn bring_down(index: u32) -> Message {
    change_flags(index, 0, LINK_UP)
}

/// `mask` are the bits of `ifi_flags` that the kernel is to change.
fn change_flags(index: u32, flags: u32, mask: u32) -> Message {
    let mut body = [0; 16];
    body[4..8].copy_from_slice(&index.to_ne_bytes());
    body[8..12].copy_from_slice(&flags.to_ne_bytes());
    body[12..16].copy_from_slice(&mask.to_ne_bytes());
    Message::new(RTM_NEWLINK, ACK, &body)
}

pub fn bring_up(index: u32) -> Message {
    change_flags(index, LINK_UP, LINK_UP)
}

/// A message that was read.
#[derive(Debug, Clone, Copy)]
pub struct Received<'a> {
    pub kind: u16,
    pub flags: u16,
    pub sequence: u32,
    pub payload: &'a [u8],
}

/// The messages of one datagram. Stops at the first malformed one.
pub fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Received<'_>> {
    std::iter::from_fn(move || {
        let length = get_u32(bytes, 0)? as usize;
        let payload = bytes.get(HEADER..length)?;
        let message =
            Received { kind: get_u16(bytes, 4)?, flags: get_u16(bytes, 6)?, sequence: get_u32(bytes, 8)?, payload };
        bytes = bytes.get(aligned(length)..).unwrap_or_default();
        Some(message)
    })
}

/// The attributes in `bytes`. Stops at the first malformed one.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(get_u16(bytes, 0)?);
        let kind = get_u16(bytes, 2)? & TYPE_MASK;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(aligned(length)..).unwrap_or_default();
        Some((kind, value))
    })
}

pub fn get_u16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

pub fn get_u32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

pub fn aligned(length: usize) -> usize {
    length.div_ceil(4) * 4
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_written_is_read() {
        let bytes = Message::new(RTM_NEWROUTE, ACK, &[7; 12])
            .attribute(RTA_OIF, &3u32.to_ne_bytes())
            .nested(RTA_METRICS, &[(RTAX_MTU, 1400u32.to_ne_bytes().to_vec())])
            .attribute(IFLA_IFNAME, b"eth0\0")
            .finish(9);
        let all: Vec<_> = messages(&bytes).collect();
        assert_eq!(all.len(), 1);
        assert_eq!((all[0].kind, all[0].flags, all[0].sequence), (RTM_NEWROUTE, ACK | REQUEST, 9));
        let attributes: Vec<_> = attributes(&all[0].payload[12..]).collect();
        assert_eq!(attributes[0], (RTA_OIF, &3u32.to_ne_bytes()[..]));
        assert_eq!(attributes[1].0, RTA_METRICS);
        assert_eq!(super::attributes(attributes[1].1).next(), Some((RTAX_MTU, &1400u32.to_ne_bytes()[..])));
        assert_eq!(attributes[2], (IFLA_IFNAME, &b"eth0\0"[..]));
    }

    proptest! {
        #[test]
        fn any_bytes_end(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let read: usize = messages(&bytes).map(|m| m.payload.len() + HEADER).sum();
            prop_assert!(read <= bytes.len());
            prop_assert!(attributes(&bytes).count() <= bytes.len() / 4);
        }
    }
}
