//! What a host says in its own words where ours were asked for: a forced command, a shell that is none, sudo.

use crate::text::keep_last;

/// Bytes of each stream that are kept: the last ones.
const KEPT: usize = 4 * 1024;

/// Characters that are shown at most: the last ones.
const SHOWN: usize = 600;

/// Characters of a line that are shown at most: a shell that is none quotes our whole script.
const LINE: usize = 200;

/// The last words on both streams.
#[derive(Debug, Default)]
pub struct Said {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl Said {
    /// On standard output.
    pub fn out(&mut self, bytes: &[u8]) {
        keep_last(&mut self.stdout, bytes, KEPT);
    }

    /// On standard error.
    pub fn err(&mut self, bytes: &[u8]) {
        keep_last(&mut self.stderr, bytes, KEPT);
    }

    /// All of it in one line, but for our own scripts' words; `None` if that is nothing.
    pub fn text(&self) -> Option<String> {
        let (stdout, stderr) = (String::from_utf8_lossy(&self.stdout), String::from_utf8_lossy(&self.stderr));
        let lines = stdout.lines().chain(stderr.lines()).map(str::trim);
        let lines: Vec<String> = lines.filter(|line| !line.is_empty() && !is_ours(line)).map(clipped).collect();
        let text = lines.join("; ");
        let excess = text.chars().count().saturating_sub(SHOWN);
        let shown: String = text.chars().skip(excess).collect();
        (!text.is_empty()).then(|| if excess > 0 { format!("…{shown}") } else { shown })
    }
}

/// Whether one of our scripts says this, and nobody quotes the script.
fn is_ours(line: &str) -> bool {
    super::script::marked(line).is_some_and(|words| !words.contains("%s"))
}

fn clipped(line: &str) -> String {
    let shown: String = line.chars().take(LINE).collect();
    if shown.len() < line.len() { format!("{shown}…") } else { shown }
}

/// What is known by these words, and what to do about it.
const KNOWN: &[(&[&str], &str)] = &[
    (&[": restricted"], "the user's login shell is a restricted one: log in as another user, or give it /bin/sh"),
    (
        &["fatal: unrecognized command", "git-shell"],
        "the user's login shell is git-shell, which runs nothing but git: log in as another user",
    ),
    (&["This account is currently not available"], "the user may not log in: log in as another one"),
    (&["sftp connections only"], "the user may transfer files only: log in as another one"),
    (&["assword has expired", "assword change required"], "log in with ssh and change it, then try again"),
    (
        &["nothing makes it root without a password"],
        "let the user become root by sudo; with `become = \"sudo\"`, \"doas\" or \"su\" in hosts.toml the password is \
         asked for",
    ),
    (
        &["doas does not make the user", "doas: Operation not permitted"],
        "write `permit` for the user in doas.conf, or use `become = \"su\"`",
    ),
    (
        &["refused to open a terminal"],
        "doas takes a password from a terminal only, which the host's sshd does not give (PermitTTY, MaxSessions): \
         write `permit nopass` for the user in doas.conf, or use `become = \"su\"`",
    ),
    (&["not in the sudoers file", "is not allowed to execute"], "let the user run /bin/sh as root by sudo"),
];

/// What to do about what a host said.
pub fn hint(said: &str) -> Option<String> {
    // What cloud-init has root's key say (`disable_root_opts` of its configuration).
    let rather = |rest: &str| rest.contains("rather than the user \"root\"");
    if let Some((user, rest)) = said.split_once("login as the user \"").and_then(|(_, rest)| rest.split_once('"'))
        && rather(rest)
        && !user.is_empty()
        && user.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
    {
        return Some(format!("write `user = \"{user}\"` in hosts.toml: it becomes root by sudo"));
    }
    let known = |(words, _): &&(&[&str], _)| words.iter().any(|words| said.contains(words));
    KNOWN.iter().find(known).map(|(_, hint)| (*hint).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_words_of_both_streams() {
        let mut said = Said::default();
        assert_eq!(said.text(), None);
        said.out(b"\nPlease login as the user \"ubuntu\" rather than the user \"root\".\r\n\nanemos: by sudo\n");
        said.err(b"bye\n");
        let text = said.text().unwrap();
        assert_eq!(text, "Please login as the user \"ubuntu\" rather than the user \"root\".; bye");
        for _ in 0..50 {
            said.err(format!("{}\n", "é".repeat(LINE + 1)).as_bytes());
        }
        let text = said.text().unwrap();
        assert_eq!(text.chars().count(), SHOWN + 1);
        assert!(text.starts_with('…') && text.ends_with("é…") && said.stderr.len() == KEPT, "{text}");
    }

    #[test]
    fn a_script_that_is_quoted_is_shown_in_part() {
        let mut said = Said::default();
        let script =
            super::super::script::quoted("set -u; say() { printf \"anemos: %s\\n\" \"$*\"; }", &[&"x".repeat(2000)]);
        said.err(format!("fatal: unrecognized command '{script}'\n").as_bytes());
        let text = said.text().unwrap();
        assert!(text.starts_with("fatal: unrecognized command") && text.chars().count() == LINE + 1, "{text}");
    }

    #[test]
    fn what_to_do_about_it() {
        let user = "Please login as the user \"ec2-user\" rather than the user \"root\".";
        assert_eq!(hint(user).unwrap(), "write `user = \"ec2-user\"` in hosts.toml: it becomes root by sudo");
        assert_eq!(hint("login as the user \"`x`\" rather than the user \"root\""), None);
        for (said, about) in [
            ("rbash: line 1: exec: restricted", "restricted"),
            ("fatal: unrecognized command 'exec sh -c '", "git-shell"),
            ("This account is currently not available.", "may not log in"),
            ("This service allows sftp connections only.", "transfer files"),
            ("WARNING: Your password has expired.; Password change required but no TTY available.", "change it"),
            ("admin is not in the sudoers file.", "/bin/sh"),
        ] {
            assert!(hint(said).unwrap().contains(about), "{said}");
        }
        assert_eq!(hint("Killed"), None);
    }
}
