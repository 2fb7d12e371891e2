//! How a command comes to run as root on a host that lets another user in: by sudo, doas or su.
//!
//! The user's login shell runs a script of ours, which becomes root and hands over the script that is meant. Nothing
//! that the user can write is run as root: what is to be run is in the command line, or comes over standard input. A
//! password is in neither: it is the answer to a question on standard error, and given only to that. doas asks on a
//! terminal only, which [`super::terminal`] gives it.

use std::time::Duration;

use anemos_proto::Secret;

use super::script::{MARK, quoted};
use crate::config::Become;

/// How a login becomes root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// The user is root.
    Login,
    /// By what takes no password: that, or what is found.
    Free(Option<Become>),
    /// With a password.
    Password(Become, Secret),
}

impl Way {
    /// That of a user, before anything is known of the host.
    pub fn of(user: &str, becomes: Option<Become>) -> Self {
        if user == "root" { Self::Login } else { Self::Free(becomes) }
    }

    /// The password, as it is typed.
    fn line(&self) -> Option<Vec<u8>> {
        match self {
            Self::Password(_, password) => Some([password.expose(), b"\n"].concat()),
            Self::Login | Self::Free(_) => None,
        }
    }
}

/// Where root looks for programs. The user's own PATH may lead to files of the user's.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/run/current-system/sw/bin";

/// What root runs first: `$1` is the script that is meant, `$2` the user's `SSH_CONNECTION`, which sudo takes away.
///
/// su and doas kill their child two seconds after a SIGTERM of their own, and the stage sends one to all others. So
/// their child is this shell, which waits, and not the stage.
const ROOT: &str = "SSH_CONNECTION=$2; export PATH SSH_CONNECTION; cd /; sh -c \"$1\"; exit $?";

/// A command that runs `script` as root.
///
/// It says `anemos: by HOW` before it becomes root. Where it can't, it says `anemos: error …`, or `anemos: password
/// HOW …` if a password would help. Where it has one it says `anemos: asks` on standard error: what stands there
/// without an end of line after that is a question. A password for doas is of no use to it.
pub fn command(script: &str, way: &Way) -> String {
    let (free, then) = match way {
        Way::Login => return quoted(script, &[]),
        Way::Free(None) => ("sudo doas", UNKNOWN.to_owned()),
        Way::Free(Some(Become::Sudo)) => ("sudo", "say \"password sudo $why\"; exit 1".to_owned()),
        Way::Free(Some(Become::Doas)) | Way::Password(Become::Doas, _) => ("doas", DOAS.to_owned()),
        Way::Free(Some(Become::Su)) => ("", "say \"password su\"; exit 1".to_owned()),
        // What takes no password any more is not given one.
        Way::Password(Become::Su, _) => ("", format!("printf \"{ASKS}\\n\" >&2; go su")),
        Way::Password(Become::Sudo, _) => ("sudo", format!("printf \"{ASKS}\\n\" >&2; go sudo -S")),
    };
    // `script` gives sudo a terminal where `requiretty` is set, and leaves it our streams.
    let login = format!(
        r#"set -uf; LC_ALL=C; SUDO_PROMPT="password: "; SHELL=/bin/sh; ANEMOS_SCRIPT=$1; ANEMOS_ROOT=$2;
export LC_ALL SUDO_PROMPT SHELL ANEMOS_SCRIPT ANEMOS_ROOT;
say() {{ printf "{MARK}%s\n" "$*"; }};
u=$(id -u 2>&1) || {{ say "error the host can not say who is logged in: $u"; exit 1; }};
if [ "$u" = 0 ]; then exec sh -c "$1"; fi;
tty=; why=;
go() {{
say "by $1";
if [ $1 = su ]; then exec su -s /bin/sh -c "$ANEMOS_ROOT" root anemos "$ANEMOS_SCRIPT" "${{SSH_CONNECTION-}}"; fi;
if [ -z "$tty" ]; then exec "$@" /bin/sh -c "$ANEMOS_ROOT" anemos "$ANEMOS_SCRIPT" "${{SSH_CONNECTION-}}"; fi;
words="\"\$ANEMOS_ROOT\" anemos \"\$ANEMOS_SCRIPT\" \"\${{SSH_CONNECTION-}}\"";
exec script -qec "exec $* /bin/sh -c $words <&3 >&4 2>&5" /dev/null 3<&0 4>&1 5>&2 </dev/null >/dev/null 2>&1;
}};
for by in {free}; do
command -v $by >/dev/null 2>&1 || {{ told="not found"; why="$why $by: not found;"; continue; }};
told=$($by -n /bin/sh -c : </dev/null 2>&1) && go $by -n;
case $told in (*" tty "*)
tty=1; told=$(script -qec "exec $by -n /bin/sh -c :" /dev/null </dev/null 2>&1) && go $by -n;;
esac;
why="$why $(echo $told | tr -d "\r");";
done;
{then}"#
    );
    quoted(&login, &[script, &format!("PATH={PATH}; {ROOT}")])
}

/// Nothing worked that hosts.toml does not name.
const UNKNOWN: &str =
    r#"say "error the user $(id -un) is not root, and nothing makes it root without a password:$why"; exit 1"#;

/// It says whether a password would help.
const DOAS: &str = r#"case $why in (*required*) say "password doas $why";;
(*) say "error doas does not make the user $(id -un) root:$why";; esac; exit 1"#;

/// From here on, what stands on standard error, or on a terminal, without an end of line is a question.
pub const ASKS: &str = "anemos: asks";

/// What a question is to be answered with.
#[derive(Debug, PartialEq, Eq)]
pub enum Reply {
    /// Nothing: it is no question.
    Nothing,
    /// This.
    Line(Vec<u8>),
    /// Nothing, since this one was answered: the answer was wrong.
    Wrong,
    /// Nothing, since it is another question: this one.
    Unknown(String),
}

/// Answers the question for a password, once.
#[derive(Debug)]
pub struct Questions {
    line: Option<Vec<u8>>,
    asked: Option<String>,
    began: bool,
    /// The line that has no end yet.
    open: Vec<u8>,
}

/// Bytes of a question at most.
const QUESTION: usize = 1024;

/// A message may be written in pieces, and one of them end as a question does.
const QUIET: Duration = Duration::from_millis(700);

impl Questions {
    /// Those of a host which is entered so.
    pub fn new(way: &Way) -> Self {
        Self { line: way.line(), asked: None, began: false, open: Vec::new() }
    }

    /// Whether the password was given.
    pub fn answered(&self) -> bool {
        self.asked.is_some()
    }

    /// Takes in what comes on standard error, or on a terminal.
    pub fn push(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if byte == b'\n' {
                self.began |= String::from_utf8_lossy(&self.open).contains(ASKS);
                self.open.clear();
            } else if self.open.len() < QUESTION {
                self.open.push(byte);
            }
        }
    }

    /// How long to wait for more than a line without an end, before it is taken for a question.
    pub fn quiet(&self) -> Option<Duration> {
        self.question().map(|_| QUIET)
    }

    /// What stands there without an end, if it may be a question. A message that comes in pieces begins with a
    /// program's name.
    fn question(&self) -> Option<String> {
        let line = String::from_utf8_lossy(&self.open).trim().to_owned();
        let message = ["sudo:", "doas:", "su:", "sh:", "script:"].iter().any(|name| line.starts_with(name));
        (self.began && !message && line.ends_with([':', '?', '>'])).then_some(line)
    }

    /// What to say, as nothing followed for so long.
    pub fn reply(&mut self) -> Reply {
        let Some(question) = self.question() else { return Reply::Nothing };
        // Its answer is followed by what comes next, with no end of line in between.
        self.open.clear();
        match (&self.asked, self.line.take()) {
            (None, Some(line)) => {
                self.asked = Some(question);
                Reply::Line(line)
            }
            (Some(asked), _) if question.ends_with(asked.as_str()) => Reply::Wrong,
            _ => Reply::Unknown(question),
        }
    }
}

/// Whether these words say that the password was wrong.
pub fn says_wrong(said: &str) -> bool {
    let said = said.to_lowercase();
    ["incorrect password", "authentication failure", "authentication failed", "try again"]
        .iter()
        .any(|words| said.contains(words))
}
