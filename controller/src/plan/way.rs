//! What the host is reached through, for people.

use anemos_proto::host::HostFacts;
use anemos_proto::net::{Link, LinkKind, NetworkState};

/// Links that are named at most: a host may tell of any number, and of circles.
const NAMES: usize = 32;

/// The routing table that counts where no rule says otherwise.
const MAIN: u32 = 254;

/// Each way in that is not a card itself, and what it stands on: `bond0.7 (VLAN 7 on bond0 of eno1, eno2)`. `None` if
/// all ways in are cards.
pub fn through(facts: &HostFacts) -> Option<String> {
    let ways: Vec<&Link> = facts.ways.iter().take(NAMES).filter_map(|id| facts.network.link(*id)).collect();
    if ways.iter().all(|link| link.kind == LinkKind::Card) {
        return None;
    }
    let mut left = NAMES;
    let texts: Vec<String> = ways.into_iter().map(|link| text(&facts.network, link, &mut left)).collect();
    Some(texts.join(", "))
}

/// What is said of a host whose default routes of a family all lead through links that RAM doesn't have, though it is
/// reached otherwise.
pub fn lost_default(facts: &HostFacts, v6: bool) -> Option<String> {
    if !facts.lost_ways.is_empty() {
        return None;
    }
    let routes = facts.network.routes.iter();
    let routes = routes.filter(|route| route.v6 == v6 && route.destination.is_none() && route.table == MAIN);
    let links: Vec<&Link> = routes.take(NAMES).filter_map(|route| facts.network.link(route.link)).collect();
    let LinkKind::Made(kind) = &links.first()?.kind else { return None };
    let is_lost = |link: &&Link| matches!(link.kind, LinkKind::Made(_));
    links.iter().all(is_lost).then(|| {
        let family = if v6 { "IPv6" } else { "IPv4" };
        format!(
            "the default route of {family} leads through {} ({kind}), which can't be restored in RAM: the payload \
             reaches only what other routes lead to",
            links[0].name
        )
    })
}

/// What is said of a host that may get another address by DHCP, because it is not known as whom it asks for its lease.
pub fn unknown_client(facts: &HostFacts) -> Option<String> {
    let Link { name, client_unknown, .. } = facts.network.links.iter().find(|link| !link.client_unknown.is_empty())?;
    Some(format!(
        "as whom the host asks for the lease of {name} is not known ({client_unknown}): a new system that asks as the \
         card may get another address, which `new_address` can name"
    ))
}

fn text(network: &NetworkState, link: &Link, left: &mut usize) -> String {
    let what = match &link.kind {
        LinkKind::Card => return link.name.clone(),
        LinkKind::Vlan { id, .. } => format!("VLAN {id}"),
        LinkKind::Bond(bond) => bond.mode_name().map_or("bond".into(), |mode| format!("bond {mode}")),
        LinkKind::Vrf { .. } => "VRF".into(),
        kind => kind.name().to_owned(),
    };
    format!("{} ({what}{})", link.name, below(network, link, left))
}

/// ` on bond0 of eno1, eno2`: what a link stands on. `left` counts the links that may still be named.
fn below(network: &NetworkState, link: &Link, left: &mut usize) -> String {
    let mut texts = Vec::new();
    for id in &link.below {
        if *left == 0 {
            texts.push("…".into());
            break;
        }
        *left -= 1;
        let Some(lower) = network.link(*id) else { continue };
        texts.push(format!("{}{}", lower.name, below(network, lower, left)));
    }
    match &texts[..] {
        [] => String::new(),
        texts if link.kind.is_master() => format!(" of {}", texts.join(", ")),
        texts => format!(" on {}", texts.join(", ")),
    }
}
