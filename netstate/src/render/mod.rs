//! Configuration files for a new system, from a captured network. Pure but for [`write_files`].
//!
//! What was leased is leased again (DHCP; router advertisements), what was static stays static. [`iproute2`] is the
//! exception: there nothing but ip(8) is assumed, so all is static.

mod ifupdown;
mod iproute2;
mod netplan;
mod networkd;
mod plan;

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anemos_proto::net::{Link, LinkKind, NetworkState, Route};

pub use ifupdown::ifupdown;
pub use iproute2::iproute2;
pub use netplan::netplan;
pub use networkd::networkd;
pub use plan::Files;
use plan::destination;

use crate::wire::TABLE_MAIN;

/// What is in the state but in no rendered file, a sentence each.
pub fn left_out(state: &NetworkState) -> Vec<String> {
    let not_rendered = |link: &Link| {
        let kind = Some(link.kind.name()).filter(|_| link.kind != LinkKind::Card)?;
        Some(format!("{} is a {kind}, which is not rendered", link.name))
    };
    let mut lines: Vec<_> = state.links.iter().filter_map(not_rendered).collect();
    let is_rendered = |route: &Route| state.link(route.link).is_some_and(|link| link.kind == LinkKind::Card);
    let lost = state.routes.iter().filter(|route| !is_rendered(route));
    lines.extend(lost.map(|route| format!("the route to {} has no rendered link", destination(route))));
    let others = state.routes.iter().filter(|route| route.table != TABLE_MAIN);
    lines.extend(others.map(|route| format!("the route to {} is in table {}", destination(route), route.table)));
    lines
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
        // netplan warns of files that others can read.
        let private = path.extension().is_some_and(|extension| extension == "yaml");
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
