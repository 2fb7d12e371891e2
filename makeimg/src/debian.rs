//! Debian and its kin, by mmdebstrap(1), or debootstrap(8) where there is no mmdebstrap.

use std::path::Path;

use crate::command::{self, Context, Tool};
use crate::problem::Problem;
use crate::progress;

/// What is bootstrapped.
#[derive(Debug, Clone)]
pub struct Debian<'a> {
    /// A release's name or class.
    pub suite: &'a str,
    /// As debootstrap(8) has it, or `important`.
    pub variant: &'a str,
    /// To install besides.
    pub packages: &'a [String],
    /// An archive's URL; the tool's own otherwise.
    pub mirror: Option<&'a str>,
}

/// Fills an empty directory.
///
/// # Errors
/// What the tool said.
pub fn bootstrap(context: &Context, debian: &Debian<'_>, root: &Path) -> Result<(), Problem> {
    let mut progress = Progress::default();
    let packages = debian.packages.join(",");
    let (name, tool) = if command::find("mmdebstrap").is_some() {
        let mut tool = Tool::new("mmdebstrap").args(["--verbose", "--mode=root", "--format=directory"]);
        // Other file systems are mounted there already.
        tool = tool.arg("--skip=check/empty");
        tool = tool.arg(format!("--variant={}", debian.variant));
        if !packages.is_empty() {
            tool = tool.arg(format!("--include={packages}"));
        }
        ("mmdebstrap", tool.arg(debian.suite).arg(root).args(debian.mirror))
    } else {
        let mut tool = Tool::new("debootstrap").arg("--merged-usr");
        if debian.variant != "important" {
            tool = tool.arg(format!("--variant={}", debian.variant));
        }
        if !packages.is_empty() {
            tool = tool.arg(format!("--include={packages}"));
        }
        ("debootstrap", tool.arg(debian.suite).arg(root).args(debian.mirror))
    };
    // Hooks and maintainer scripts are not the place for what this shell happens to have.
    let tool = tool.env("DEBIAN_FRONTEND", "noninteractive").env("LC_ALL", "C.UTF-8").env("TMPDIR", "/tmp");
    let errors = ["E: ", "W: Couldn't download package "];
    progress::watch(context, name, tool, |line| progress.line(line), &errors)
}

/// Counts packages: each is unpacked and then set up.
#[derive(Debug, Default)]
struct Progress {
    done: u64,
    total: u64,
}

impl Progress {
    /// Done, total and what, if the line is about a package.
    fn line<'a>(&mut self, line: &'a str) -> Option<(u64, u64, &'a str)> {
        // `0 upgraded, 12 newly installed, 0 to remove and 0 not upgraded.`
        if let Some((head, _)) = line.split_once(" newly installed, ") {
            let count: u64 = head.rsplit(' ').next()?.parse().ok()?;
            self.total += 2 * count;
            return None;
        }
        let what = ["Unpacking ", "Setting up ", "I: Unpacking ", "I: Configuring "];
        what.iter().find(|head| line.starts_with(**head))?;
        self.done += 1;
        self.total = if self.total == 0 { 0 } else { self.total.max(self.done) };
        let what = line.strip_prefix("I: ").unwrap_or(line);
        Some((self.done, self.total, what.split(" (").next().unwrap_or(what).trim_end_matches([' ', '.'])))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_counted() {
        let mut progress = Progress::default();
        let mut lines = |line: &'static str| progress.line(line);
        assert_eq!(lines("Reading package lists..."), None);
        assert_eq!(lines("0 upgraded, 2 newly installed, 0 to remove and 0 not upgraded."), None);
        assert_eq!(lines("Unpacking dash (0.5.12-12) ..."), Some((1, 4, "Unpacking dash")));
        assert_eq!(lines("Setting up dash (0.5.12-12) ..."), Some((2, 4, "Setting up dash")));
        assert_eq!(lines("12 upgraded, 1 newly installed, 0 to remove and 0 not upgraded."), None);
        assert_eq!(lines("Unpacking a (1) over (0) ..."), Some((3, 6, "Unpacking a")));
        let mut progress = Progress::default();
        assert_eq!(progress.line("I: Unpacking libc6:amd64..."), Some((1, 0, "Unpacking libc6:amd64")));
    }
}
