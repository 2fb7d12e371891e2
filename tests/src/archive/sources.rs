//! Which mirror this machine's own apt uses for Debian.

use crate::command::run;
use crate::{Result, bail};
use std::process::Command;

/// The address of the Debian archive in this machine's apt sources. It is read at run time, so none is written anywhere.
pub fn debian_mirror() -> Result<String> {
    let output =
        run(Command::new("apt-get").args(["indextargets", "--format", "$(SITE)|$(REPO_URI)|$(RELEASE)|$(COMPONENT)"]))?;
    pick(&String::from_utf8_lossy(&output))
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
        "this machine's apt sources name no Debian archive over http or https: run `apt-get update`, then see `apt-get indextargets`"
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
    fn no_debian_is_an_error_that_says_where_to_look() {
        assert!(pick("x|http://tools.test/apt/|nodistro|main\n").unwrap_err().to_string().contains("indextargets"));
    }
}
