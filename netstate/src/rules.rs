//! Policy routing: `RTM_GETRULE` and `RTM_NEWRULE` of rtnetlink(7), with the attributes of linux/fib_rules.h.

use anemos_proto::net::{NetworkState, Rule};

use crate::error::Error;
use crate::socket::Netlink;
use crate::wire::{self, Message, attributes, get_u32, octets, parse_ip, text};

const FRA_DST: u16 = 1;
const FRA_SRC: u16 = 2;
const FRA_IIFNAME: u16 = 3;
const FRA_PRIORITY: u16 = 6;
const FRA_FWMARK: u16 = 10;
const FRA_SUPPRESS_PREFIXLEN: u16 = 14;
const FRA_TABLE: u16 = 15;
const FRA_FWMASK: u16 = 16;
const FRA_OIFNAME: u16 = 17;
/// Attributes that say of which packets or with what effect a rule is in a way that is not known here: tunnel id,
/// group of links, VRF, user, protocol, ports, and what is newer.
const OTHERS: [u16; 7] = [12, 13, 19, 20, 22, 23, 24];

/// `FR_ACT_TO_TBL`.
const TO_TABLE: u8 = 1;
/// `FIB_RULE_INVERT`.
const INVERTED: u32 = 2;
/// `NONE` of a number.
const NONE: u32 = u32::MAX;

/// The rules that lead to a table and say for what in known words, but for those that every kernel has.
pub fn list(netlink: &mut Netlink) -> Result<Vec<Rule>, Error> {
    netlink.dump("routing rules", wire::RTM_GETRULE, &[0; 12], parse)
}

/// Reads the body of a `RTM_NEWRULE`.
pub fn parse(body: &[u8]) -> Option<Rule> {
    let [family, to, from, tos, table, _, _, action] = *body.first_chunk()?;
    let flags = get_u32(body, 8)?;
    let v6 = match family {
        wire::AF_INET => false,
        wire::AF_INET6 => true,
        // Rules of multicast routing have families of their own.
        _ => return None,
    };
    let mut rule = Rule {
        v6,
        priority: 0,
        source: None,
        destination: None,
        iif: None,
        oif: None,
        mark: None,
        inverted: flags & INVERTED != 0,
        table: table.into(),
        suppress: None,
    };
    let (mut mark, mut mask) = (None, NONE);
    for (kind, value) in attributes(body.get(12..)?) {
        match kind {
            FRA_DST => rule.destination = Some((parse_ip(family, value)?, to)),
            FRA_SRC => rule.source = Some((parse_ip(family, value)?, from)),
            FRA_IIFNAME => rule.iif = Some(text(value)),
            FRA_OIFNAME => rule.oif = Some(text(value)),
            FRA_PRIORITY => rule.priority = get_u32(value, 0)?,
            FRA_FWMARK => mark = get_u32(value, 0),
            FRA_FWMASK => mask = get_u32(value, 0)?,
            FRA_TABLE => rule.table = get_u32(value, 0)?,
            FRA_SUPPRESS_PREFIXLEN => rule.suppress = get_u32(value, 0).filter(|length| *length != NONE),
            // The group is listed where there is none, too.
            13 if get_u32(value, 0) == Some(NONE) => {}
            other if OTHERS.contains(&other) => return None,
            _ => {}
        }
    }
    rule.mark = mark.map(|mark| (mark, mask));
    let of_every_kernel = [(0, wire::TABLE_LOCAL), (32766, wire::TABLE_MAIN), (32767, wire::TABLE_DEFAULT)];
    let is_plain = rule.source.is_none() && rule.destination.is_none() && rule.suppress.is_none();
    let is_known = is_plain && of_every_kernel.contains(&(rule.priority, rule.table));
    (action == TO_TABLE && tos == 0 && !is_known).then_some(rule)
}

/// Adds the rules that are not there yet. `now` gives the present name of a link by its name under the old system.
pub fn restore(
    netlink: &mut Netlink,
    state: &NetworkState,
    now: impl Fn(&str) -> String,
    mut note: impl FnMut(Result<(), Error>),
) -> Result<(), Error> {
    if state.rules.is_empty() {
        return Ok(());
    }
    let present = list(netlink)?;
    for rule in &state.rules {
        let renamed = |name: &Option<String>| name.as_deref().map(&now);
        let rule = Rule { iif: renamed(&rule.iif), oif: renamed(&rule.oif), ..rule.clone() };
        if !present.contains(&rule) {
            let action = format!("add the rule {} for routing table {}", rule.priority, rule.table);
            note(netlink.request(&action, add(&rule)));
        }
    }
    Ok(())
}

fn add(rule: &Rule) -> Message {
    let length = |prefix: Option<(std::net::IpAddr, u8)>| prefix.map_or(0, |(_, length)| length);
    let mut body = [0; 12];
    body[0] = wire::family(rule.v6);
    body[1] = length(rule.destination);
    body[2] = length(rule.source);
    body[4] = u8::try_from(rule.table).unwrap_or(0);
    body[7] = TO_TABLE;
    body[8..12].copy_from_slice(&if rule.inverted { INVERTED } else { 0 }.to_ne_bytes());
    let number = |value: u32| value.to_ne_bytes();
    let mut message = Message::new(wire::RTM_NEWRULE, wire::ACK | wire::CREATE | wire::EXCLUSIVE, &body)
        .attribute(FRA_PRIORITY, &number(rule.priority))
        .attribute(FRA_TABLE, &number(rule.table));
    for (kind, prefix) in [(FRA_DST, rule.destination), (FRA_SRC, rule.source)] {
        if let Some((ip, _)) = prefix {
            message = message.attribute(kind, &octets(ip));
        }
    }
    for (kind, name) in [(FRA_IIFNAME, &rule.iif), (FRA_OIFNAME, &rule.oif)] {
        if let Some(name) = name {
            message = message.attribute(kind, format!("{name}\0").as_bytes());
        }
    }
    if let Some((mark, mask)) = rule.mark {
        message = message.attribute(FRA_FWMARK, &number(mark)).attribute(FRA_FWMASK, &number(mask));
    }
    if let Some(length) = rule.suppress {
        message = message.attribute(FRA_SUPPRESS_PREFIXLEN, &number(length));
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_added_is_listed() {
        let rule = Rule {
            v6: false,
            priority: 100,
            source: Some(("192.0.2.0".parse().unwrap(), 24)),
            destination: None,
            iif: Some("lo".into()),
            oif: None,
            mark: Some((0xca6c, NONE)),
            inverted: true,
            table: 1001,
            suppress: Some(0),
        };
        let body = |rule: &Rule| {
            let bytes = add(rule).finish(1);
            wire::messages(&bytes).next().unwrap().payload.to_vec()
        };
        assert_eq!(parse(&body(&rule)), Some(rule.clone()));
        let main = Rule { source: None, suppress: None, priority: 32766, table: 254, ..rule.clone() };
        assert_eq!(parse(&body(&main)), None, "every kernel has it");
        let suppressing = Rule { suppress: Some(0), ..main };
        assert_eq!(parse(&body(&suppressing)), Some(suppressing.clone()), "WireGuard's");
        for other in OTHERS {
            let mut body = body(&rule);
            body.extend(wire::attributes_of(&[(other, vec![1; 8])]));
            assert_eq!(parse(&body), None, "a rule that is for other packets, by attribute {other}");
        }
        let mut blackhole = body(&rule);
        blackhole[7] = 6;
        assert_eq!(parse(&blackhole), None);
    }
}
