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

use anemos_proto::net::{Link, LinkKind, NetworkState, Route};

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
        let asks_as_another = |plan: &plan::Plan| plan.dhcp && plan::client_id(plan.link).is_some();
        if let Self::Ifupdown | Self::Netplan = self {
            let plans = plan::plan(state);
            lines.extend(plans.iter().filter(|plan| asks_as_another(plan)).map(|plan| {
                format!(
                    "the identifier by which {} has its lease has no words here: it may get another address",
                    plan.name
                )
            }));
        }
        lines.extend(match self {
            Self::Netplan => netplan::left_out(state),
            Self::NetworkManager => keyfile::left_out(state),
            Self::Ifupdown | Self::Iproute2 | Self::Networkd => Vec::new(),
        });
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
mod tests;
