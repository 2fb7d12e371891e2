//! Where logging into jump hosts takes a person: one connection to them, which all ways through them share.
//!
//! A host is knocked at again and again while it boots, and each knock is a login at the jump host. Whoever had to type
//! a code for each would be typing all day. So the user's own `ssh` keeps one connection (`ControlMaster`) that was
//! typed for, until this process ends, and the others go through it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::process::{Child, ChildStderr, ChildStdin, Command};
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard, watch};
use tokio::time::{sleep, timeout};

use super::askpass::Askpass;
use super::way::{Fault, Hop, Way, login};
use super::{ConnectError, Passphrases, sys};
use crate::text::{keep_last, sanitise_str};

/// Where the connection is shared, in the directory of its questions.
const SHARED: &str = "way";

/// Time between two looks at whether it is there.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What `ssh` says may come so long after its end.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A login at a jump host mostly takes less.
const FIRST: Duration = Duration::from_secs(8);

/// Bytes of that which are kept.
const SAID: usize = 4096;

/// Becomes `ssh`. What it leaves behind ends it and removes the directory `$0` when this process has ended, however it
/// did: our end of its standard input is closed then. `ssh` and all that it has started are one group of processes.
const HELD: &str = r#"exec 3<&0; (cat <&3; rm -rf "$0"; kill 0) >/dev/null 2>&1 & exec "$@" 3<&- </dev/null"#;

/// The connections, by the jump hosts that they lead through.
#[derive(Debug)]
pub(super) struct Trunks {
    asks: Arc<dyn Passphrases>,
    /// The user's own `ssh`, with the arguments that come before all others.
    ssh: Vec<String>,
    /// This executable.
    executable: PathBuf,
    all: Mutex<HashMap<Vec<Hop>, watch::Receiver<Trunk>>>,
    /// Whether one is needed, as far as is known.
    needed: Mutex<HashMap<Vec<Hop>, Needed>>,
}

/// Whether a person has to be asked, as far as is known. Held while that is being tried.
type Needed = Arc<AsyncMutex<Option<bool>>>;

/// Whoever tries a way first, while nothing is known of its jump hosts, keeps the others from trying: each of them
/// would be refused as well, and jump hosts shut out whoever is refused too often (`PerSourcePenalties`).
pub(super) struct Turn {
    needed: Option<bool>,
    first: Option<OwnedMutexGuard<Option<bool>>>,
}

impl Turn {
    /// Whether a person has to be asked, as far as is known.
    pub(super) fn wants_person(&self) -> bool {
        self.needed == Some(true)
    }

    /// What came of trying.
    pub(super) fn came(&mut self, error: Option<&ConnectError>) {
        let needed = match error {
            Some(ConnectError::Way { fault: Fault::Refused, .. }) => Some(true),
            None | Some(ConnectError::Way { fault: Fault::Target | Fault::Forbidden, .. }) => Some(self.wants_person()),
            Some(_) => self.needed,
        };
        self.needed = needed;
        if let Some(mut first) = self.first.take() {
            *first = needed;
        }
    }
}

/// What is known of one connection.
#[derive(Debug, Clone)]
enum Trunk {
    /// Somebody is asked, or will be.
    Making,
    /// It is there, and shared by this.
    Made(PathBuf),
    /// What was typed did not open. Nobody is asked again.
    Refused(String),
    /// It has ended, or can't be made now.
    Gone(String),
}

/// That of this process.
static TRUNKS: OnceLock<Arc<Trunks>> = OnceLock::new();

/// From now on a person is asked where a jump host wants more than a key.
pub fn ask_at_jump_hosts(asks: &Arc<dyn Passphrases>) {
    // Also after it was replaced by an update.
    let executable = format!("/proc/{}/exe", std::process::id());
    let _ = TRUNKS.set(Arc::new(Trunks::new(asks, vec!["ssh".into()], executable.into())));
}

impl Trunks {
    pub(super) fn new(asks: &Arc<dyn Passphrases>, ssh: Vec<String>, executable: PathBuf) -> Self {
        Self { asks: Arc::clone(asks), ssh, executable, all: Mutex::default(), needed: Mutex::default() }
    }

    /// That of this process, if anybody can be asked.
    pub(super) fn own() -> Option<&'static Arc<Self>> {
        TRUNKS.get()
    }

    /// The user's own `ssh`.
    pub(super) fn ssh(&self) -> Vec<&str> {
        self.ssh.iter().map(String::as_str).collect()
    }

    /// Where the connection through these is shared, if there is one.
    pub(super) fn shared(&self, hops: &[Hop]) -> Option<PathBuf> {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        match &*all.get(hops)?.borrow() {
            Trunk::Made(path) => Some(path.clone()),
            Trunk::Making | Trunk::Refused(_) | Trunk::Gone(_) => None,
        }
    }

    /// Waits until somebody else has tried a way through these, if nothing is known of them, but not for long.
    pub(super) async fn turn(&self, hops: &[Hop]) -> Turn {
        let needed = {
            let mut all = self.needed.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(all.entry(hops.to_vec()).or_default())
        };
        match timeout(FIRST, needed.lock_owned()).await {
            Ok(first) if first.is_none() => Turn { needed: None, first: Some(first) },
            Ok(known) => Turn { needed: *known, first: None },
            Err(_) => Turn { needed: None, first: None },
        }
    }

    /// Waits until there is one, for which a person is asked if need be. `None`: nobody can be asked. An error says
    /// why there is none. Who does not wait to the end leaves the question standing.
    pub(super) async fn open(self: &Arc<Self>, hops: &[Hop]) -> Option<Result<(), String>> {
        if !self.asks.possible() {
            return None;
        }
        let mut trunk = {
            let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
            let there = all.get(hops).filter(|trunk| !matches!(*trunk.borrow(), Trunk::Gone(_)));
            there.cloned().unwrap_or_else(|| {
                let (told, trunk) = watch::channel(Trunk::Making);
                all.insert(hops.to_vec(), trunk.clone());
                let (trunks, hops) = (Arc::clone(self), hops.to_vec());
                tokio::spawn(async move {
                    let end = trunks.hold(&hops, &told).await;
                    tracing::debug!(?hops, ?end, "the shared connection ended");
                    told.send_replace(end);
                });
                trunk
            })
        };
        let opened = trunk.wait_for(|trunk| !matches!(trunk, Trunk::Making)).await;
        Some(match opened.as_deref() {
            Ok(Trunk::Made(_)) => Ok(()),
            Ok(Trunk::Refused(why) | Trunk::Gone(why)) => Err(why.clone()),
            Ok(Trunk::Making) | Err(_) => Err("nothing came of asking".into()),
        })
    }

    /// Makes the connection, and keeps it until it ends.
    async fn hold(&self, hops: &[Hop], told: &watch::Sender<Trunk>) -> Trunk {
        let whose = Way::Jump(hops.to_vec()).to_string();
        let mut whose = whose.chars();
        let whose = whose.next().map_or(String::new(), |first| format!("{}{}", first.to_uppercase(), whose.as_str()));
        let askpass = match Askpass::new(&self.executable, &self.asks, whose) {
            Ok(askpass) => askpass,
            Err(error) => return Trunk::Gone(format!("nobody can be asked: {error}")),
        };
        let shared = askpass.dir().join(SHARED);
        let (mut child, input, stderr) = match self.start(hops, &askpass, &shared) {
            Ok(started) => started,
            Err(error) => {
                let _ = std::fs::remove_dir_all(askpass.dir());
                return Trunk::Gone(format!("ssh can't be run: {error}"));
            }
        };
        let listening = tokio::spawn(listen(stderr));
        tokio::select! {
            () = async {
                while !shared.exists() {
                    sleep(LOOK_EVERY).await;
                }
                told.send_replace(Trunk::Made(shared.clone()));
                std::future::pending::<()>().await;
            } => {}
            _ = child.wait() => {}
            _ = askpass.answer() => {}
        }
        drop(input);
        let said = timeout(LAST_WORDS, listening).await.map_or_else(|_| Vec::new(), Result::unwrap_or_default);
        let text = String::from_utf8_lossy(&said);
        let lines: Vec<_> = text.lines().map(|line| sanitise_str(line).trim().to_owned()).collect();
        let why = lines.into_iter().filter(|line| !line.is_empty()).collect::<Vec<_>>().join("\n");
        let opened = matches!(*told.borrow(), Trunk::Made(_));
        let refused = askpass.was_asked() || Fault::of(&why) == Fault::Refused;
        if refused && !opened { Trunk::Refused(why) } else { Trunk::Gone(why) }
    }

    /// Starts `ssh`. It ends when the second of these is dropped.
    fn start(
        &self,
        hops: &[Hop],
        askpass: &Askpass,
        shared: &Path,
    ) -> std::io::Result<(Child, ChildStdin, ChildStderr)> {
        let mut command = Command::new("sh");
        command.arg("-c").arg(HELD).arg(askpass.dir()).args(login(hops, &self.ssh(), shared));
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        command.env("SSH_ASKPASS", askpass.program()).env("SSH_ASKPASS_REQUIRE", "force");
        // Before 8.4, it starts the program where there is no terminal, and a display, whatever that is.
        if std::env::var_os("DISPLAY").is_none() {
            command.env("DISPLAY", "none");
        }
        sys::in_own_session(&mut command);
        let mut child = command.spawn()?;
        match (child.stdin.take(), child.stderr.take()) {
            (Some(input), Some(stderr)) => Ok((child, input, stderr)),
            _ => Err(std::io::ErrorKind::BrokenPipe.into()),
        }
    }
}

/// What is said last.
async fn listen(mut stderr: ChildStderr) -> Vec<u8> {
    let (mut said, mut bytes) = (Vec::new(), vec![0; SAID]);
    while let Ok(count @ 1..) = stderr.read(&mut bytes).await {
        keep_last(&mut said, &bytes[..count], SAID);
    }
    said
}
