//! Arch Linux, by pacstrap(8).

use std::path::Path;

use crate::command::{Context, Tool};
use crate::problem::Problem;
use crate::progress::{self, Step};

/// Packages that are installed without being named: those that pacstrap(8) installs if none is named.
const BASE: &str = "base";

/// What the image may take from the building machine.
pub const HOSTCONF: [&str; 2] = ["keyring", "mirrorlist"];

/// Installs Arch Linux into an empty directory. `pacman.conf` in the project's directory is used, if it is there.
///
/// # Errors
/// What the tool said.
pub fn bootstrap(
    context: &Context,
    project: &Path,
    hostconf: &[String],
    packages: &[String],
    root: &Path,
) -> Result<(), Problem> {
    let mut tool = Tool::new("pacstrap");
    let conf = project.join("pacman.conf");
    if conf.exists() {
        tool = tool.arg("-C").arg(conf);
    }
    for (item, without) in HOSTCONF.into_iter().zip(["-G", "-M"]) {
        if !hostconf.iter().any(|wanted| wanted == item) {
            tool = tool.arg(without);
        }
    }
    tool = tool.arg(root).arg(BASE).args(packages.iter().filter(|name| *name != BASE));
    let mut progress = Progress::default();
    progress::watch(context, "pacstrap", tool.env("LC_ALL", "C.UTF-8"), |line| progress.line(line), &["error: "])
}

/// Counts packages: away from a terminal, pacman says only how many there are, and which it installs.
#[derive(Debug, Default)]
struct Progress {
    done: u64,
    total: u64,
}

impl Progress {
    fn line<'a>(&mut self, line: &'a str) -> Step<'a> {
        // `Packages (12) acl-2.3.2-1  …`
        if let Some((count, _)) = line.strip_prefix("Packages (").and_then(|rest| rest.split_once(')')) {
            self.total = count.parse().unwrap_or(0);
        }
        let what = line.strip_suffix("...").filter(|what| what.starts_with("installing "))?;
        self.done += 1;
        Some((self.done, self.total, what))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_counted() {
        let mut progress = Progress::default();
        assert_eq!(progress.line("Packages (2) base-1-1  greeting-1-1"), None);
        assert_eq!(progress.line("installing base..."), Some((1, 2, "installing base")));
        assert_eq!(progress.line("loading package files..."), None);
        assert_eq!(progress.line("installing greeting..."), Some((2, 2, "installing greeting")));
    }
}
