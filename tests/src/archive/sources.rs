//! Which mirror this machine's own apt uses for Debian.

use crate::command::run;
use crate::{Result, bail};
use std::process::Command;

/// The address of the Debian archive in this machine's apt sources. It is read at run time, so none is written
/// anywhere.
pub fn debian_mirror() -> Result<String> {
    let output =
        run(Command::new("apt-get").args(["indextargets", "--format", "$(SITE)|$(REPO_URI)|$(RELEASE)|$(COMPONENT)"]))?;
    pick(&String::from_utf8_lossy(&output))
}

/// The address of the archive of Debian's security updates, if this machine's apt sources have one.
pub fn security_mirror() -> Result<Option<String>> {
    let output =
        run(Command::new("apt-get").args(["indextargets", "--format", "$(REPO_URI)|$(RELEASE)|$(COMPONENT)"]))?;
    Ok(pick_security(&String::from_utf8_lossy(&output)))
}

fn pick_security(targets: &str) -> Option<String> {
    let security = |line: &str| {
        let fields: Vec<&str> = line.split('|').collect();
        let [uri, release, "main"] = fields[..] else { return None };
        (release.ends_with("-security") && uri.starts_with("http")).then(|| uri.trim_end_matches('/').to_owned())
    };
    targets.lines().find_map(security)
}

fn pick(targets: &str) -> Result<String> {
    for line in targets.lines() {
        let fields: Vec<&str> = line.split('|').collect();
        let [_, uri, release, component] = fields[..] else { continue };
        let debian = matches!(release, "bookworm" | "trixie" | "forky" | "sid" | "stable" | "oldstable" | "testing");
        if debian && component == "main" && uri.starts_with("http") {
            return Ok(uri.trim_end_matches('/').to_owned());
        }
    }
    bail!(
        "this machine's apt sources name no Debian archive over http or https: run `apt-get update`, then see \
         `apt-get indextargets`"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_main_archive_of_debian_is_taken() {
        let targets = "x|http://tools.test/apt/|nodistro|main\n\
                       x|http://mirror.test/debian-security/|bookworm-security|main\n\
                       x|http://mirror.test/debian/|bookworm|contrib\n\
                       x|http://mirror.test/debian/|bookworm|main\n\
                       x|http://other.test/debian/|trixie|main\n";
        assert_eq!(pick(targets).unwrap(), "http://mirror.test/debian");
    }

    #[test]
    fn security_updates_are_elsewhere() {
        let targets =
            "http://mirror.test/debian/|bookworm|main\nhttp://mirror.test/debian-security/|bookworm-security|main\n";
        assert_eq!(pick_security(targets).as_deref(), Some("http://mirror.test/debian-security"));
        assert_eq!(pick_security("http://mirror.test/debian/|bookworm|main\n"), None);
    }

    #[test]
    fn no_debian_is_an_error_that_says_where_to_look() {
        assert!(pick("x|http://tools.test/apt/|nodistro|main\n").unwrap_err().to_string().contains("indextargets"));
    }
}
