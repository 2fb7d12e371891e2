//! Configuration files for a new system, from a captured network. Pure but for [`write_files`].
//!
//! What was leased is leased again (DHCP; router advertisements), what was static stays static. [`Format::Iproute2`] is
//! the exception: there nothing but ip(8) is assumed, so all is static.

mod ifupdown;
mod iproute2;
mod keyfile;
mod made;
mod netplan;
mod networkd;
mod plan;

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anemos_proto::net::{Address, Link, LinkKind, NetworkState, Route};

pub use plan::Files;
use plan::destination;

/// A configuration language.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// interfaces(5).
    Ifupdown,
    /// A script for ip(8).
    Iproute2,
    /// netplan(5).
    Netplan,
    /// systemd.network(5).
    Networkd,
    /// NetworkManager's keyfiles.
    NetworkManager,
}

impl Format {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Ifupdown, Self::Iproute2, Self::Netplan, Self::Networkd, Self::NetworkManager];

    /// The format that somebody calls so.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.name() == name)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Ifupdown => "ifupdown",
            Self::Iproute2 => "iproute2",
            Self::Netplan => "netplan",
            Self::Networkd => "networkd",
            Self::NetworkManager => "networkmanager",
        }
    }

    /// The configuration.
    pub fn files(self, state: &NetworkState) -> Files {
        match self {
            Self::Ifupdown => ifupdown::ifupdown(state),
            Self::Iproute2 => iproute2::iproute2(state),
            Self::Netplan => netplan::netplan(state),
            Self::Networkd => networkd::networkd(state),
            Self::NetworkManager => keyfile::networkmanager(state),
        }
    }

    /// What is in the state but in none of the files, a sentence each.
    pub fn left_out(self, state: &NetworkState) -> Vec<String> {
        let not_rendered = |link: &Link| match &link.kind {
            LinkKind::Made(kind) => Some(format!("{} is a {kind}, which is not rendered", link.name)),
            _ => None,
        };
        let mut lines: Vec<_> = state.links.iter().filter_map(not_rendered).collect();
        let is_rendered =
            |route: &Route| state.link(route.link).is_some_and(|link| !matches!(link.kind, LinkKind::Made(_)));
        let lost = state.routes.iter().filter(|route| !is_rendered(route));
        lines.extend(lost.map(|route| format!("the route to {} has no rendered link", destination(route))));
        let ways = state.routes.iter().filter(|route| !route.hops.is_empty() && is_rendered(route));
        lines.extend(ways.filter_map(|route| self.way_left_out(route)));
        lines.extend(self.leases_left_out(state));
        lines.extend(self.ports_left_out(state));
        lines.extend(match self {
            Self::Netplan => netplan::left_out(state),
            Self::NetworkManager => keyfile::left_out(state),
            Self::Ifupdown | Self::Iproute2 | Self::Networkd => Vec::new(),
        });
        lines
    }

    /// What becomes of a route with several next hops for which there are no words.
    fn way_left_out(self, route: &Route) -> Option<String> {
        let to = destination(route);
        match self {
            Self::Ifupdown | Self::Iproute2 => None,
            Self::Networkd if networkd::knows_hops(route) => None,
            Self::NetworkManager if !route.v6 => {
                Some(format!("not every NetworkManager knows routes with several next hops: {to}"))
            }
            _ => Some(format!("there are no words for several next hops of the route to {to}, which has one only")),
        }
    }

    /// What ports of bridges and members of bonds have, and there are no words for.
    fn ports_left_out(self, state: &NetworkState) -> Vec<String> {
        let mut lines = Vec::new();
        for plan in plan::plan(state) {
            let Some(master) = plan.master else { continue };
            for (word, value) in made::port_options(plan.link, Some(master)) {
                let known = match self {
                    Self::Ifupdown | Self::Iproute2 => word.ip,
                    Self::Netplan => word.netplan,
                    Self::Networkd => word.networkd,
                    Self::NetworkManager => word.manager,
                };
                if known.is_empty() {
                    let value = value.text(["off", "on"]);
                    let (option, name, of) = (word.ip, &plan.name, plan::plain(&master.name));
                    lines.push(format!("there are no words for {option} of {name} in {of}, which is {value}"));
                }
            }
        }
        lines
    }

    /// Leases that may become others, because those who ask for them are known by another name.
    fn leases_left_out(self, state: &NetworkState) -> Vec<String> {
        if self == Self::Iproute2 {
            return Vec::new();
        }
        let mut lines = Vec::new();
        for plan in plan::plan(state) {
            let name = &plan.name;
            let unknown = &plan.link.client_unknown;
            let has_words = networkd::client_section(plan.link).is_some();
            let why = match self {
                _ if !plan.dhcp => None,
                _ if !unknown.is_empty() => {
                    Some(format!("by which identifier {name} has its lease is not known ({unknown})"))
                }
                _ if plan::other_id(plan.link).is_none() => None,
                Self::Ifupdown if ifupdown::dhclient_duid(plan.link).is_none() => {
                    Some(format!("the identifier by which {name} has its lease has no words for dhclient"))
                }
                Self::Netplan | Self::Networkd if !has_words => {
                    Some(format!("the identifier by which {name} has its lease has no words here"))
                }
                _ => None,
            };
            lines.extend(why.map(|why| format!("{why}: it may get another address")));
            let by_dhcp6 = |address: &&Address| {
                address.ip.is_ipv6() && address.prefix == 128 && address.valid_s.is_some() && !address.autoconf
            };
            lines.extend(plan.link.addresses.iter().find(by_dhcp6).map(|address| {
                format!("as whom {name} has {} from DHCPv6 is not kept: it may get another address", address.ip)
            }));
        }
        lines
    }
}

/// Writes `files` below `root`, in place of whatever is there. A symbolic link at the file's own path is replaced and
/// not followed: `etc/resolv.conf` may point at something that only exists in a running system.
pub fn write_files(root: &Path, files: &Files) -> io::Result<()> {
    for (path, text) in files {
        let path = root.join(path);
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        // netplan warns of files that others can read, and NetworkManager takes none.
        let private = path.extension().is_some_and(|extension| extension == "yaml" || extension == "nmconnection");
        let mode = if text.starts_with("#!") {
            0o755
        } else if private {
            0o600
        } else {
            0o644
        };
        fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&path)?.write_all(text.as_bytes())?;
    }
    Ok(())
}

#[cfg(test)]
mod programs;
#[cfg(test)]
mod tests;
