//! A terminal for doas, which takes a password from nothing else.
//!
//! A terminal has one stream for all that is said, knows no end of its input, and takes what others write into it. So
//! it is there for the password alone. It is that of a second channel, in which doas runs; and what runs there as root
//! has the streams of the first, as if it had been started in that. The user's shell makes pipes for it in the first,
//! which have no names any more when root opens them, and passes on what they carry.

use std::time::Duration;

use super::look::exit_text;
use super::root::{self, ASKS, PATH, Questions, Reply, Way, says_wrong};
use super::said::Said;
use super::script::{MARK, marked, quoted};
use crate::config::Become;
use crate::patience::within;
use crate::ssh::{Exec, ExecError, Output, Session};

/// How long a host may say nothing until root speaks. doas and PAM take their time.
const SPEAK: Duration = Duration::from_secs(60);

/// Bytes of a line that are looked at.
const LINE: usize = 64 * 1024;

/// Why nothing runs as root there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// The password was another one.
    WrongPassword(Become),
    /// The host says no, because …
    Because(String),
    /// The connection or the channel is gone.
    Lost(String),
}

impl Refused {
    /// Why, for people.
    pub fn why(self) -> String {
        match self {
            Self::WrongPassword(by) => format!("the password was wrong ({by})"),
            Self::Because(why) | Self::Lost(why) => why,
        }
    }
}

impl From<ExecError> for Refused {
    fn from(error: ExecError) -> Self {
        match error {
            ExecError::Refused { .. } => Self::Because(error.to_string()),
            ExecError::Closed | ExecError::Timeout { .. } => Self::Lost(error.to_string()),
        }
    }
}

/// Makes the pipes, and says `anemos: terminal PID` of the shell that has them, or `anemos: error …`. If it then reads
/// `on`, root has its ends: it says `anemos: by doas`, and from there on it is what root runs.
///
/// Root opens them in `/proc`, since a name could lead elsewhere by then. Both ends are open here first, so that nobody
/// waits for the other; those that are root's are closed here once root has them, so that an end is noticed.
const STREAMS: &str = r#"set -uf; umask 077; LC_ALL=C; export LC_ALL;
say() { printf "anemos: %s\n" "$*"; };
d=; why=;
for t in /tmp /dev/shm /var/tmp "${HOME-/}"; do
d=$t/anemos-$$;
w=$( { mkdir "$d" && mkfifo "$d/in" "$d/out" "$d/err" "$d/end"; } 2>&1) && break;
why="$why $(echo $w);"; rmdir "$d" 2>/dev/null; d=;
done;
[ -n "$d" ] || { say "error no pipes can be made for doas:$why"; exit 1; };
exec 4<>"$d/in" 5<>"$d/out" 6<>"$d/err" 7<>"$d/end";
rm -rf "$d";
say "terminal $$";
read -r go || go=;
[ "$go" = on ] || exit 1;
say "by doas";
f=/proc/$$/fd;
exec 3<&0 8>"$f/4" 4>&-;
exec 9<"$f/5" 5>&-;
exec 4<"$f/6" 6>&-;
exec 5<"$f/7" 7>&-;
cat <&3 >&8 2>/dev/null 4<&- 5<&- 9<&- &
exec 3<&- 8>&-;
(cat <&4 >&2 & cat <&9; wait);
read -r end <&5 || end=255;
exit $end"#;

/// Has doas run what comes: `$1` for root, `$2` the script that is meant, `$3` the shell that has the pipes.
const DOAS: &str = r#"set -uf; LC_ALL=C; SHELL=/bin/sh; export LC_ALL SHELL;
exec doas /bin/sh -c "$1" anemos "$2" "${SSH_CONNECTION-}" $3"#;

/// What root runs first: `$1` is the script that is meant, `$2` the user's `SSH_CONNECTION`. The terminal hangs up when
/// the connection ends, which the script is to learn from the end of its input as ever.
const ROOT: &str = r#"trap "" HUP; SSH_CONNECTION=$2; export PATH SSH_CONNECTION; cd /; f=/proc/$3/fd;
exec 3<"$f/4" 4>"$f/5" 5>"$f/6" 6>"$f/7";
printf "anemos: root\n";
sh -c "$1" <&3 >&4 2>&5 3<&- 4>&- 5>&- 6>&-;
echo $? >&6"#;

/// Starts `script` as root: it may still ask on standard error for a password, as [`root::command`] says, unless that
/// is doas'.
pub async fn start(session: &Session, script: &str, way: &Way) -> Result<Exec, Refused> {
    if !matches!(way, Way::Password(Become::Doas, _)) {
        return Ok(session.exec(&root::command(script, way)).await?);
    }
    let mut streams = session.exec(&quoted(STREAMS, &[])).await?;
    let started = on_terminal(session, &mut streams, script, way).await;
    if started.is_err() {
        // It waits for us. It may have ended by itself.
        let _ = streams.writer().end().await;
    }
    started.map(|()| streams)
}

async fn on_terminal(session: &Session, streams: &mut Exec, script: &str, way: &Way) -> Result<(), Refused> {
    let words = heard(streams, &mut Questions::new(&Way::Login)).await?;
    let shell = match words.split_once(' ').unwrap_or((&words, "")) {
        ("terminal", pid) => pid.parse::<u32>().map_err(|_| Refused::Because(format!("no process is `{pid}`")))?,
        ("error", why) => return Err(Refused::Because(why.to_owned())),
        _ => return Err(Refused::Because(format!("it said `{words}`"))),
    };
    let root = format!("PATH={PATH}; {ROOT}");
    let doas = format!("printf \"{ASKS}\\n\"; {DOAS}");
    let mut terminal = session.terminal(&quoted(&doas, &[&root, script, &shell.to_string()])).await?;
    let heard = heard(&mut terminal, &mut Questions::new(way)).await;
    if heard.is_err() {
        let _ = terminal.writer().close().await;
    }
    match heard?.as_str() {
        "root" => Ok(streams.writer().send(b"on\n".to_vec()).await?),
        words => Err(Refused::Because(format!("it said `{words}`"))),
    }
}

/// Our script's next words, if whoever stands before them has no questions but the one for the password.
async fn heard(exec: &mut Exec, questions: &mut Questions) -> Result<String, Refused> {
    let (mut said, mut line) = (Said::default(), Vec::new());
    loop {
        let quiet = questions.quiet();
        let bytes = match within(quiet.unwrap_or(SPEAK), exec.next()).await {
            Ok(Some(Output::Stdout(bytes))) => bytes,
            Ok(Some(Output::Stderr(bytes))) => {
                said.err(&bytes);
                continue;
            }
            Ok(None) => {
                let (how, said) = (exit_text(&exec.exit()), said.text().unwrap_or_default());
                return Err(if questions.answered() && says_wrong(&said) {
                    Refused::WrongPassword(Become::Doas)
                } else {
                    Refused::Because(format!("nothing was run as root: {how}; it said: {said}"))
                });
            }
            Err(_) if quiet.is_some() => {
                match questions.reply() {
                    Reply::Nothing => {}
                    Reply::Line(answer) => exec.writer().send(answer).await?,
                    Reply::Wrong => return Err(Refused::WrongPassword(Become::Doas)),
                    Reply::Unknown(question) => {
                        return Err(Refused::Because(format!("doas asks for more than a password: `{question}`")));
                    }
                }
                continue;
            }
            Err(_) => {
                let said = said.text().map_or(String::new(), |said| format!("; it said: {said}"));
                return Err(Refused::Because(format!("nothing was run as root within {}s{said}", SPEAK.as_secs())));
            }
        };
        questions.push(&bytes);
        said.out(&bytes);
        for byte in bytes {
            if byte != b'\n' {
                if line.len() < LINE {
                    line.push(byte);
                }
                continue;
            }
            let text = String::from_utf8_lossy(&std::mem::take(&mut line)).into_owned();
            if let Some(words) = marked(&text).filter(|words| *words != ASKS.trim_start_matches(MARK)) {
                return Ok(words.to_owned());
            }
        }
    }
}
