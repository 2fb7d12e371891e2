//! The command line.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use anemos_proto::config::Finish;
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::screen::Wishes;
use crate::screen::text::Colors;
use crate::select::{Pattern, Selection};

/// Turns machines that you reach by SSH into exactly what a directory describes.
///
/// `anemos up` reads ./hosts.toml (or the one that you name), connects to each host, shows what will be lost and what
/// will be sent, asks, boots a small system into the host's memory, runs your payload there, and watches until the new
/// system has proved itself.
///
/// Every deployment ends in one of three ways. Deployed: the new system is up, and is the one that was built.
/// Untouched: the old system is up, and known to be as it was. Held: you have to look; the host waits in RAM for you
/// and says why, or the reason says what is not known of it.
#[derive(Debug, Parser)]
#[command(
    version = crate::embed::BUILD,
    max_term_width = 100,
    after_help = "Examples:
  anemos plan                          what would be done by ./hosts.toml; changes nothing
  anemos up fleet/hosts.toml           do what another file says
  anemos up web1 'db*' --exclude db3   do it for some of the hosts
  anemos up --yes --json | jq -r 'select(.type == \"summary\")'
  anemos attach                        follow the newest run again, from any terminal
  anemos shell web1                    look around in a host that is held in RAM
  anemos retry web1 --payload mended   and run a mended payload there

Exit status:
  0    all hosts deployed (plan, status, logs, base: it did what it should)
  1    internal error (base check: packages have left the mirror)
  2    bad input or usage: hosts.toml, a payload, a lock, an argument, no such host in RAM
  3    refused: by you, for want of a terminal to ask on, or, of a plan, for what a host lacks
  4    some host was not deployed but untouched or held, asked for or not; its summary says why
  130  stopped or detached by Ctrl-C

Environment:
  ANEMOS_HOSTS                     the hosts.toml to read where none is named, instead of ./hosts.toml
  XDG_STATE_HOME, XDG_CACHE_HOME   where runs and base images are kept (~/.local/state, ~/.cache)
  SSH_AUTH_SOCK                    your SSH agent
  NO_COLOR, CLICOLOR=0             no colours
  CLICOLOR_FORCE                   colours also where there is no terminal
  TZ                               the time zone of what is shown; --json is in UTC
  ANEMOS_SERVE                     `up` hands its run over to the daemon, as with --serve
  XDG_RUNTIME_DIR                  where the daemon listens
  ANEMOS_LOG                       diagnostics on standard error: debug, or trace"
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Only what went wrong, and how hosts end
    #[arg(long, short, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// What it does, on standard error; -vv for more. ANEMOS_LOG says it in detail
    #[arg(long, short, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// When there are colours
    #[arg(long, global = true, value_enum, value_name = "WHEN", default_value_t = Colors::Auto)]
    pub color: Colors,
    /// Ring the terminal's bell when something is asked, and at the end
    #[arg(long, global = true)]
    pub bell: bool,
    /// Have the terminal's title say how far it is
    #[arg(long, global = true)]
    pub title: bool,
}

impl Cli {
    /// How things are to be shown.
    pub fn wishes(&self) -> Wishes {
        Wishes { quiet: self.quiet, bell: self.bell, title: self.title }
    }

    /// What is said on standard error of what is done, where ANEMOS_LOG says nothing else.
    pub fn diagnostics(&self) -> &'static str {
        match self.verbose {
            0 => "off",
            1 => "anemos=debug",
            _ => "anemos=trace",
        }
    }
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Deploy hosts: probe, show the plan, ask, build, verify
    ///
    /// Nothing is done to any host before all of them were looked at and you have typed `yes`. Until a host boots into
    /// RAM, Ctrl-C undoes everything on it. From then on Ctrl-C only detaches, once the payload has begun: the host
    /// goes on alone, and `anemos attach` follows it again. A second Ctrl-C leaves at once, and says when a host whose
    /// payload has not begun goes back to its old system. SIGTERM and SIGHUP are as Ctrl-C.
    ///
    /// Of several hosts the first goes alone. Once it is deployed, the others follow. After a host that was told to
    /// boot and ended otherwise than deployed, no other host is told to: those that are left stay as they are.
    #[command(after_help = "Examples:
  anemos up                              all hosts of ./hosts.toml
  anemos up web1 db1                     two of them
  anemos up '@web' --exclude 'web1?'     a group or tag, without some
  anemos up fleet/hosts.toml --yes       another file; don't ask

Exit status: 0 all deployed, 2 bad input, 3 plan refused, 4 some host not deployed, 130 Ctrl-C.")]
    Up(Up),
    /// Show what `up` would do; changes nothing on the hosts
    ///
    /// Connects to each host, has it say what it is, and takes everything away again: the disks with model, serial and
    /// contents, what would be lost, what would be sent, and what would boot.
    #[command(after_help = "Examples:
  anemos plan                            all hosts of ./hosts.toml
  anemos plan fleet/hosts.toml 'web*'    some of another file's

Exit status: 0 all can be deployed, 2 bad input, 3 some can't, 4 some can't be looked at.")]
    Plan(PlanArgs),
    /// Check hosts.toml and all that it names, without a network
    ///
    /// Reads the file, packs the payloads, and reads the keys, secrets and locks that it names, as `up` would before it
    /// meets a host. Says everything that is wrong, and not only the first.
    #[command(after_help = "Examples:
  anemos validate
  anemos validate fleet/hosts.toml '@web'

Exit status: 0 nothing is wrong, 2 something is.")]
    Validate(Validate),
    /// Print the JSON Schema of hosts.toml, for editors
    #[command(after_help = "Example: anemos schema > hosts.schema.json, and as the first line of hosts.toml
  #:schema ./hosts.schema.json")]
    Schema,
    /// Say what would stop a deployment of a host, whatever is deployed; changes nothing on it
    ///
    /// Logs in, becomes root, and has the host say what it is: its key, sudo, kexec and lockdown, memory, network,
    /// watchdogs, and where packages come from. No payload is needed, and with --ssh no hosts.toml either.
    #[command(after_help = "Examples:
  anemos doctor web1                     a host of ./hosts.toml
  anemos doctor --ssh root@203.0.113.7   one that is in no hosts.toml

Exit status: 0 nothing would stop it, 2 bad input, 3 something would, 4 some host can't be looked at.")]
    Doctor(Doctor),
    /// Follow a run again, from the first event to the end
    ///
    /// Shows what happened since the beginning, each event once, though of the lines that were printed only the last
    /// 1000 of each host; then what happens now. While another process follows the run, this shows what that one writes
    /// down; once it is gone, this goes on in its place.
    #[command(after_help = "Examples:
  anemos attach                      the newest run
  anemos attach web1                 one host of the newest run that has it
  anemos attach --run 0a1b 'web*'    some hosts of another run; `anemos attach 0a1b` is all of them

Exit status: 0 all deployed, 2 bad input, 4 some host not deployed, 130 Ctrl-C.")]
    Attach(Attach),
    /// Show runs, or the hosts of one, as last seen
    ///
    /// Only reads the journals on this machine; `anemos attach` asks the hosts.
    #[command(after_help = "Examples:
  anemos status                      all runs
  anemos status 0a1b                 the hosts of the run whose name ends so
  anemos status web1                 that host in the newest run that has it")]
    Status(Status),
    /// Print what a host's payload and kernel wrote during a run
    ///
    /// Of several hosts one comes after the other, and each line begins with its host's name; with --follow, what is
    /// new of all of them comes as it is written.
    #[command(after_help = "Examples:
  anemos logs web1                   of the newest run that has it
  anemos logs web1 -f -n 20          the last 20 lines, and what comes
  anemos logs --since 10m            all hosts of the newest run, since ten minutes ago
  anemos logs --run 0a1b web1        of another run; `anemos logs 0a1b web1` is the same")]
    Logs(Logs),
    /// List runs with how they ended and how much room they take, or delete old ones
    #[command(after_help = "Examples:\n  anemos runs\n  anemos runs prune --keep 20")]
    Runs(Runs),
    /// Open a shell in a host's RAM system
    ///
    /// Works while the payload runs, and while the host is held. The exit status is that of what ran there, or 255 if
    /// the link was lost.
    #[command(after_help = "Examples:\n  anemos shell web1\n  anemos shell web1 --run 0a1b -- 'lsblk; dmesg | tail'")]
    Shell(Shell),
    /// Run the payload again on hosts that are held
    ///
    /// The payload starts afresh in the same RAM system; what an earlier attempt wrote to the disk is still there.
    #[command(after_help = "Example: anemos retry web1 --payload payloads/debian\n\n\
                      Exit status: 0 all deployed, 2 none in RAM, 3 refused by you or for want of a terminal to \
                      ask on, 4 some host not deployed, 130 Ctrl-C.")]
    Retry(Retry),
    /// End the payload: with nothing written the host goes back to its old system, else it is held
    #[command(after_help = "Examples:\n  anemos abort web1\n  anemos abort --all\n\n\
                      Exit status: 2 none in RAM, 3 refused by you or for want of a terminal to ask on, 4 some host \
                      not deployed, as is one that goes back, 130 Ctrl-C.")]
    Abort(Pick),
    /// Make a held host leave its RAM system
    #[command(after_help = "Examples:\n  anemos finish web1\n  anemos finish 'web*' kexec\n\n\
                      Exit status: 0 deployed, 2 not in RAM, 4 not deployed, as is a host that is powered off, \
                      130 Ctrl-C.")]
    Finish(FinishArgs),
    /// Have runs that were handed over, whoever looks on: a daemon
    ///
    /// Listens on a Unix socket that only you can reach, in $XDG_RUNTIME_DIR/anemos, and writes what it does to
    /// standard error. A run that was begun with `anemos up --serve` is its own: it goes on when your terminal is
    /// closed, and when the daemon is started again after it was stopped, killed, or its machine rebooted. Hosts that
    /// wait for their turn then wait for it again; those that have secrets wait for `anemos attach`, since secrets are
    /// kept in memory only. docs/API.md describes the conversation with it.
    #[command(after_help = "Examples:\n  anemos serve\n  anemos serve --install\n\n\
                      Exit status: 0 stopped, 2 it can't listen, or another daemon does.")]
    Serve(Serve),
    /// Make, build and check the base initramfs
    #[command(subcommand, after_help = "Examples:\n  anemos base check\n  anemos base build")]
    Base(Base),
    /// Print what has a shell complete the words of these commands
    #[command(after_help = "Examples:
  anemos completions bash > ~/.local/share/bash-completion/completions/anemos
  anemos completions zsh > ~/.zfunc/_anemos
  anemos completions fish > ~/.config/fish/completions/anemos.fish")]
    Completions {
        /// The shell
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Write the manual pages of all commands into a directory
    #[command(hide = true, after_help = "Example: anemos man-pages target/man")]
    ManPages {
        /// The directory, which is there
        directory: PathBuf,
    },
}

/// `up`.
#[derive(Debug, Args)]
pub struct Up {
    /// hosts.toml and which of its hosts.
    #[command(flatten)]
    pub which: PlanArgs,
    /// Don't ask. Needed where there is no terminal to ask on
    #[arg(long, short)]
    pub yes: bool,
    /// Put the host keys that new systems proved into known_hosts, in place of the old ones. Without it, and without
    /// --yes, that is asked
    #[arg(long)]
    pub update_known_hosts: bool,
    /// How hosts leave RAM after success, instead of what hosts.toml says
    #[arg(long, value_enum)]
    pub finish: Option<FinishHow>,
    /// Hand the run over to the daemon (`anemos serve`): once you have said yes, it goes on without this terminal
    ///
    /// Ctrl-C then only ends the looking on; `anemos abort` stops hosts. Also if $ANEMOS_SERVE is set, and not to 0.
    #[arg(long)]
    pub serve: bool,
}

/// `doctor`.
#[derive(Debug, Args)]
pub struct Doctor {
    /// Which hosts, and how.
    #[command(flatten)]
    pub plan: PlanArgs,
    /// A host that is in no hosts.toml
    #[arg(long, value_name = "[USER@]HOST[:PORT]", conflicts_with_all = ["first", "hosts", "limit", "exclude"])]
    pub ssh: Option<String>,
}

/// `validate`.
#[derive(Debug, Args)]
pub struct Validate {
    /// Which hosts of which file.
    #[command(flatten)]
    pub of: OfFile,
    /// Another base.lock than the one in this executable
    #[arg(long, value_name = "FILE")]
    pub lock: Option<PathBuf>,
}

/// Which hosts of which hosts.toml.
#[derive(Debug, Args)]
pub struct OfFile {
    /// Describes the hosts: a word that ends in .toml or has a / in it. Default: $ANEMOS_HOSTS, else ./hosts.toml
    #[arg(value_name = "HOSTS.TOML")]
    pub first: Option<OsString>,
    /// Only these hosts of it: names, patterns such as 'web*', groups and tags as @NAME
    #[arg(value_name = "HOST", value_delimiter = ',')]
    pub hosts: Vec<String>,
    /// Which of them.
    #[command(flatten)]
    pub less: Less,
}

/// `serve`.
#[derive(Debug, Args)]
pub struct Serve {
    /// Write systemd units for your own systemd instead (a socket and a service), and say how they are started
    #[arg(long)]
    pub install: bool,
}

/// What `up` and `plan` have in common.
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// Which hosts of which file.
    #[command(flatten)]
    pub of: OfFile,
    /// One JSON object a line on standard output; docs/JSON.md describes them
    #[arg(long)]
    pub json: bool,
    /// So many hosts at once; the others wait for their turn
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..))]
    pub parallel: u32,
    /// Don't have one host go alone until one is deployed
    #[arg(long)]
    pub no_canary: bool,
    /// Tell further hosts to boot until more than N that were told to have ended otherwise than deployed
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub max_failures: u32,
    /// Take the host keys of unknown hosts on trust, and remember them. A changed or revoked key is refused all the
    /// same
    #[arg(long)]
    pub accept_new: bool,
    /// Another base.lock than the one in this executable
    #[arg(long, value_name = "FILE")]
    pub lock: Option<PathBuf>,
}

/// What narrows down which hosts are meant.
#[derive(Debug, Clone, Default, Args)]
pub struct Less {
    /// Of the hosts that are meant only these; written as HOST is
    #[arg(long, value_name = "HOST", value_delimiter = ',')]
    pub limit: Vec<Pattern>,
    /// Of the hosts that are meant not these; written as HOST is
    #[arg(long, value_name = "HOST", value_delimiter = ',')]
    pub exclude: Vec<Pattern>,
}

/// Which hosts of which run.
#[derive(Debug, Clone, Default, Args)]
pub struct OfRun {
    /// Hosts of the run: names, patterns such as 'web*', groups and tags as @NAME. The first word may be a run instead
    #[arg(value_name = "HOST", value_delimiter = ',')]
    pub words: Vec<String>,
    /// The run; its beginning or end is enough. Default: the newest that has the hosts
    #[arg(long, value_name = "RUN")]
    pub run: Option<String>,
    /// Which of them.
    #[command(flatten)]
    pub less: Less,
}

/// What is called so where no other is named.
const HOSTS_FILE: &str = "hosts.toml";

/// Names a hosts.toml for all commands that want one.
pub const HOSTS_VARIABLE: &str = "ANEMOS_HOSTS";

/// Whether a word of the command line is a file. That depends on nothing but the word, so that no file that happens to
/// lie there is taken for one, and no host either.
fn is_file(word: &OsStr) -> bool {
    let word = word.to_string_lossy();
    word.ends_with(".toml") || word.contains('/')
}

impl OfFile {
    /// The hosts.toml, and which of its hosts are meant. `variable` is what $ANEMOS_HOSTS says.
    pub fn meant(&self, variable: Option<OsString>) -> Result<(PathBuf, Selection), String> {
        let mut words = Vec::new();
        let file = match self.first.as_ref() {
            Some(first) if is_file(first) => PathBuf::from(first),
            first => {
                let first = first.map(|first| first.to_str().ok_or("the name of a host is text"));
                words.extend(first.transpose()?.into_iter().flat_map(|first| first.split(',')));
                match variable.filter(|file| !file.is_empty()) {
                    // So that it can be written on a command line that is shown.
                    Some(file) if !is_file(&file) => Path::new(".").join(file),
                    Some(file) => file.into(),
                    None => HOSTS_FILE.into(),
                }
            }
        };
        words.extend(self.hosts.iter().map(String::as_str));
        if let Some(late) = words.iter().find(|word| is_file(word.as_ref())) {
            return Err(format!("`{late}` is a file, not a host: one hosts.toml comes before all hosts"));
        }
        let hosts = words.into_iter().map(str::parse).collect::<Result<_, _>>()?;
        let Less { limit, exclude } = self.less.clone();
        Ok((file, Selection { hosts, limit, exclude }))
    }
}

/// A number of what was told of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct After {
    /// Of which one; `None`: of the only one.
    pub host: Option<String>,
    /// The number.
    pub number: u64,
}

impl std::str::FromStr for After {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (host, number) = match text.rsplit_once('=') {
            Some((host, number)) => (Some(host.to_owned()), number),
            None => (None, text),
        };
        let number = number.parse().map_err(|_| format!("`{number}` is no number; it is NUMBER or HOST=NUMBER"))?;
        Ok(Self { host, number })
    }
}

/// `attach`.
#[derive(Debug, Args)]
pub struct Attach {
    /// Whom.
    #[command(flatten)]
    pub of: OfRun,
    /// Every line that was printed so far, and not only the last 1000 of each host
    #[arg(long)]
    pub all: bool,
    /// Only what comes after this number, as `--json` has it, of the only host or of the one named
    #[arg(long, value_name = "[HOST=]NUMBER", conflicts_with = "all")]
    pub after: Vec<After>,
    /// One JSON object a line on standard output
    #[arg(long)]
    pub json: bool,
}

/// `status`.
#[derive(Debug, Args)]
pub struct Status {
    /// Of whom; without anything, of all runs.
    #[command(flatten)]
    pub of: OfRun,
    /// One JSON object a line on standard output
    #[arg(long)]
    pub json: bool,
}

/// `logs`.
#[derive(Debug, Args)]
pub struct Logs {
    /// Whose.
    #[command(flatten)]
    pub of: OfRun,
    /// Go on with what is written from now, until the hosts are over
    #[arg(long, short)]
    pub follow: bool,
    /// Only what was written since: an age such as 10m, or a time such as 09:30, '2026-11-23 09:30' (local) or
    /// 2026-11-23T09:30:00Z
    #[arg(long, value_name = "TIME")]
    pub since: Option<Since>,
    /// Only the last N lines of each host
    #[arg(long, short = 'n', value_name = "N")]
    pub lines: Option<usize>,
    /// Every fact, as `up` shows them when piped
    #[arg(long, conflicts_with = "raw")]
    pub all: bool,
    /// The bytes as they came, with whatever a terminal would obey
    #[arg(long)]
    pub raw: bool,
}

/// A time in the past.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Since {
    /// So long ago.
    Ago(std::time::Duration),
    /// Then: milliseconds since the Unix epoch.
    At(u64),
}

impl Since {
    /// Milliseconds since the Unix epoch.
    pub fn wall_ms(self, now_ms: u64) -> u64 {
        match self {
            Self::Ago(ago) => now_ms.saturating_sub(u64::try_from(ago.as_millis()).unwrap_or(u64::MAX)),
            Self::At(wall_ms) => wall_ms,
        }
    }
}

impl std::str::FromStr for Since {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(ago) = age(text) {
            return Ok(Self::Ago(ago));
        }
        let here = jiff::tz::TimeZone::system();
        let today = || {
            let time: jiff::civil::Time = text.contains(':').then(|| text.parse().ok())??;
            Some(here.to_datetime(jiff::Timestamp::now()).date().to_datetime(time))
        };
        let at: Option<jiff::Timestamp> = text.parse().ok().or_else(|| {
            let at: jiff::civil::DateTime = text.parse().ok().or_else(today)?;
            here.to_timestamp(at).ok()
        });
        let ms = at.and_then(|at| u64::try_from(at.as_millisecond()).ok());
        ms.map(Self::At).ok_or_else(|| {
            "write an age such as 10m, or a time such as 09:30, '2026-11-23 09:30' or 2026-11-23T09:30:00Z".to_owned()
        })
    }
}

/// `runs`.
#[derive(Debug, Args)]
pub struct Runs {
    /// What to do with them; without it they are listed.
    #[command(subcommand)]
    pub what: Option<RunsCommand>,
    /// One JSON object a line on standard output
    #[arg(long)]
    pub json: bool,
}

/// What can be done with runs.
#[derive(Debug, Subcommand)]
pub enum RunsCommand {
    /// Delete runs that are over, with their journals
    ///
    /// A run stays that is followed now, of which a host is held or on its way or not known, or whose key is still
    /// there: without the key nobody gets into the RAM system any more.
    #[command(after_help = "Examples:\n  anemos runs prune --keep 20\n  anemos runs prune --older 30d --yes\n\n\
                            Exit status: 0 done, 2 bad input, 3 refused by you or for want of a terminal to ask on.")]
    Prune(Prune),
}

/// `runs prune`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("which").required(true).multiple(true).args(["keep", "older"]))]
pub struct Prune {
    /// All but the newest N runs
    #[arg(long, value_name = "N")]
    pub keep: Option<usize>,
    /// Only runs that began longer ago than this, such as 30d or 12h
    #[arg(long, value_name = "AGE", value_parser = age)]
    pub older: Option<std::time::Duration>,
    /// Also runs that are not over, of which a host is held or not known, or that can't be read. Nobody gets into their
    /// hosts' RAM systems any more, and nothing tells how they ended
    #[arg(long)]
    pub force: bool,
    /// Don't ask
    #[arg(long, short)]
    pub yes: bool,
}

/// Reads `30d`, `12h`, `90m` or `30s`.
fn age(text: &str) -> Result<std::time::Duration, String> {
    let bad = || "write a number and s, m, h, d or w, such as 30d".to_owned();
    let at = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
    let number: u64 = text[..at].parse().map_err(|_| bad())?;
    let unit = match &text[at..] {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 24 * 3600,
        "w" => 7 * 24 * 3600,
        _ => return Err(bad()),
    };
    number.checked_mul(unit).map(std::time::Duration::from_secs).ok_or_else(bad)
}

/// `shell`.
#[derive(Debug, Args)]
pub struct Shell {
    /// The host, or a pattern that means one
    pub host: Pattern,
    /// The run; its beginning or end is enough. Default: the newest that has the host in RAM
    #[arg(long, value_name = "RUN")]
    pub run: Option<String>,
    /// Run this instead of a login shell
    #[arg(last = true)]
    pub command: Vec<String>,
}

/// `abort`.
#[derive(Debug, Args)]
pub struct Pick {
    /// Whom; without a host all of the run that are in RAM, after a question if the run has several. The others are
    /// shown as they are.
    #[command(flatten)]
    pub of: OfRun,
    /// Don't ask whether all hosts of the run are meant. Needed where there is no terminal to ask on
    #[arg(long)]
    pub all: bool,
    /// One JSON object a line on standard output
    #[arg(long)]
    pub json: bool,
}

/// `retry`.
#[derive(Debug, Args)]
pub struct Retry {
    /// Which.
    #[command(flatten)]
    pub pick: Pick,
    /// A mended payload, instead of the one that is there
    #[arg(long, value_name = "DIR")]
    pub payload: Option<PathBuf>,
}

/// `finish`.
#[derive(Debug, Args)]
pub struct FinishArgs {
    /// The host, a pattern, or several with commas between
    #[arg(value_name = "HOST")]
    pub hosts: String,
    /// How
    #[arg(value_enum, default_value = "reboot")]
    pub how: FinishHow,
    /// The run; its beginning or end is enough. Default: the newest that has the hosts in RAM
    #[arg(long, value_name = "RUN")]
    pub run: Option<String>,
    /// One JSON object a line on standard output
    #[arg(long)]
    pub json: bool,
}

/// Ways out of RAM.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum FinishHow {
    /// Through the firmware
    Reboot,
    /// Straight into the new system's kernel
    Kexec,
    /// Power off
    #[value(name = "poweroff")]
    PowerOff,
    /// Stay in RAM until told otherwise
    Hold,
}

impl From<FinishHow> for Finish {
    fn from(how: FinishHow) -> Self {
        match how {
            FinishHow::Reboot => Self::Reboot,
            FinishHow::Kexec => Self::Kexec,
            FinishHow::PowerOff => Self::PowerOff,
            FinishHow::Hold => Self::Hold,
        }
    }
}

/// `base`.
#[derive(Debug, Subcommand)]
pub enum Base {
    /// Resolve a list of packages against a mirror's signed index, and write the lock
    ///
    /// The suite's updates and security updates are in it. While none of the archives changes, neither does the lock.
    #[command(
        after_help = "Example: anemos base lock base.toml --output base.lock, then `base = { lock = \"base.lock\" }` \
                            in hosts.toml"
    )]
    Lock {
        /// The list of packages
        list: PathBuf,
        /// The lock to write
        #[arg(long, short, default_value = "base.lock")]
        output: PathBuf,
        /// Where packages come from.
        #[command(flatten)]
        places: LockPlaces,
    },
    /// Build the images that a lock describes
    ///
    /// The same lock makes the same images everywhere, one of each group. Serve a directory that has them (`base = {
    /// urls = ["https://…/"] }` in hosts.toml), or leave them in this machine's cache, from which they are uploaded to
    /// hosts that can't come by them otherwise.
    #[command(after_help = "Examples:\n  anemos base build\n  anemos base build base.lock -o base.cpio.zst")]
    Build {
        /// The lock; default: the one in this executable
        lock: Option<PathBuf>,
        /// Build these groups only, those that they require, and `core`; default: all
        #[arg(long, value_name = "GROUP", value_delimiter = ',')]
        needs: Vec<String>,
        /// Where to: a directory, for a file of each group, or a file, for all images one after another; default: the
        /// cache that uploads are taken from
        #[arg(long, short)]
        output: Option<PathBuf>,
        /// Where packages come from.
        #[command(flatten)]
        places: BasePlaces,
    },
    /// Say which packages of a lock have left the mirror, and where they still are
    ///
    /// Asks for each package of the groups and of the kernel, and downloads none. Hosts that build their base get what
    /// has left from an archive of past versions, if one is known.
    #[command(after_help = "Example: anemos base check base.lock\n\n\
                      Exit status: 0 all are there, 1 some have left, 2 bad input, or a mirror can't be asked.")]
    Check {
        /// The lock; default: the one in this executable
        lock: Option<PathBuf>,
        /// Where packages come from.
        #[command(flatten)]
        places: BasePlaces,
    },
    /// Check images against a lock
    #[command(after_help = "Example: anemos base verify base.cpio.zst --lock base.lock")]
    Verify {
        /// The file: an image, or several one after another, as zstd
        image: PathBuf,
        /// The lock; default: the one in this executable
        #[arg(long)]
        lock: Option<PathBuf>,
    },
}

/// Where `base lock` finds packages.
#[derive(Debug, Args)]
pub struct LockPlaces {
    /// URL of a package archive; default: this machine's own
    #[arg(long)]
    pub mirror: Option<String>,
    /// URL of the archive of security updates, or `none`; default: the one beside the mirror, or this machine's own
    #[arg(long)]
    pub security_mirror: Option<String>,
    /// URL of an archive of past versions, with @SNAPSHOTID@ where the time goes, for the lock to name; default: none
    #[arg(long)]
    pub snapshot: Option<String>,
}

/// Where `base` looks for packages.
#[derive(Debug, Args)]
pub struct BasePlaces {
    /// URL of a package archive; default: this machine's own
    #[arg(long)]
    pub mirror: Option<String>,
    /// URL of the archive of security updates; default: those beside the mirror, and this machine's own
    #[arg(long)]
    pub security_mirror: Option<String>,
    /// URL of an archive of past versions, with @SNAPSHOTID@ where the time goes; default: the one that the lock
    /// names, or that this machine's apt knows
    #[arg(long)]
    pub snapshot: Option<String>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn is_consistent() {
        Cli::command().debug_assert();
    }

    /// The file and the hosts that `anemos plan` is about.
    fn meant(line: &str, variable: Option<&str>) -> Result<String, String> {
        let cli = Cli::try_parse_from(["anemos", "plan"].into_iter().chain(line.split_whitespace()))
            .map_err(|error| error.to_string())?;
        let Command::Plan(args) = cli.command else { unreachable!() };
        let (file, selection) = args.of.meant(variable.map(OsString::from))?;
        let words = |patterns: &[Pattern]| patterns.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        let Selection { hosts, limit, exclude } = selection;
        Ok(format!("{}|{}|{}|{}", file.display(), words(&hosts), words(&limit), words(&exclude)))
    }

    #[test]
    fn the_first_word_is_a_file_or_a_host() {
        for (line, variable, expected) in [
            ("", None, "hosts.toml|||"),
            ("", Some("fleet/hosts.toml"), "fleet/hosts.toml|||"),
            ("", Some(""), "hosts.toml|||"),
            ("", Some("fleet"), "./fleet|||"),
            ("other.toml", Some("fleet.toml"), "other.toml|||"),
            ("other.toml web1 db1", None, "other.toml|web1 db1||"),
            ("web1 db*", None, "hosts.toml|web1 db*||"),
            ("web1,db1 @x", Some("fleet.toml"), "fleet.toml|web1 db1 @x||"),
            ("./hosts web1", None, "./hosts|web1||"),
            ("/dev/stdin", None, "/dev/stdin|||"),
            ("--limit a,b --exclude c web*", None, "hosts.toml|web*|a b|c"),
        ] {
            assert_eq!(meant(line, variable).as_deref(), Ok(expected), "{line} {variable:?}");
        }
        let late = meant("web1 hosts.toml", None).unwrap_err();
        assert_eq!(late, "`hosts.toml` is a file, not a host: one hosts.toml comes before all hosts");
        for wrong in ["web1 w[", "--exclude !web1", "a@b"] {
            let error = meant(wrong, None).unwrap_err();
            assert!(error.contains("is no "), "{error}");
        }
    }

    #[test]
    fn times_in_the_past() {
        let at = |text: &str| text.parse::<Since>().map(|since| since.wall_ms(10_000_000));
        assert_eq!(at("10m"), Ok(10_000_000 - 600_000));
        assert_eq!(at("1970-01-01T00:00:01.5Z"), Ok(1500));
        assert_eq!(at("1970-01-01T01:00:01+01:00"), Ok(1000));
        // Whatever the zone of this machine is, noon comes twelve hours after midnight but on days of change.
        let (midnight, noon) = (at("2026-01-15").unwrap(), at("2026-01-15 12:00").unwrap());
        assert_eq!(noon - midnight, 12 * 3_600_000);
        assert_eq!(at("12:00").unwrap() - at("11:30").unwrap(), 1_800_000);
        for text in ["", "yesterday", "25:00", "2026-13-01", "10", "1960-01-01T00:00:00Z"] {
            assert!(text.parse::<Since>().is_err(), "{text}");
        }
    }

    /// Whoever reads how a command is called sees it called.
    #[test]
    fn every_command_shows_an_example() {
        fn check(command: &mut clap::Command, path: &str) {
            let help = command.render_long_help().to_string();
            assert!(
                help.contains(&format!("  {path}")) || help.contains(&format!("Example: {path}")),
                "{path}: {help}"
            );
            for below in command.get_subcommands_mut().filter(|below| below.get_name() != "help") {
                let path = format!("{path} {}", below.get_name());
                check(below, &path);
            }
        }
        check(&mut Cli::command(), "anemos");
    }

    #[test]
    fn ages() {
        let day = 24 * 3600;
        for (text, seconds) in [("30d", 30 * day), ("2w", 14 * day), ("12h", 12 * 3600), ("0s", 0)] {
            assert_eq!(super::age(text), Ok(std::time::Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "30", "d", "-1d", "1.5d", "30 days", "99999999999999999999d"] {
            assert!(super::age(text).is_err(), "{text}");
        }
    }
}
