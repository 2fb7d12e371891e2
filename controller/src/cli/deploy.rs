//! `up`, `plan`, `validate`, `doctor` and `serve`: what leads to a deployment.

use std::path::PathBuf;

use clap::Args;

use super::ram::FinishHow;
use super::which::{Less, OfFile};

/// `up`.
#[derive(Debug, Args)]
pub struct Up {
    /// hosts.toml and which of its hosts.
    #[command(flatten)]
    pub which: PlanArgs,
    /// Do what `anemos plan -o FILE` showed, without a question, or nothing
    ///
    /// The hosts are those of the plan, or those of them that are named, and the hosts.toml is that of the plan unless
    /// another one is named. If any host, or what hosts.toml says of it, is not as it was, nothing is done to any.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["parallel", "no_canary", "max_failures", "finish"])]
    pub plan: Option<PathBuf>,
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
    /// What comes after.
    #[command(flatten)]
    pub at_end: AtEnd,
}

/// What is done once the hosts are over.
#[derive(Debug, Clone, Default, Args)]
pub struct AtEnd {
    /// Write a report of the run once it is over: JUnit's XML if the name ends in .xml, a page if in .html
    ///
    /// Of a file that is there it takes the place only if that is such a report, or empty.
    #[arg(long, value_name = "FILE")]
    pub report: Vec<PathBuf>,
    /// Run this in a shell once the hosts are over, with their summaries as JSON on its input
    ///
    /// Also if nothing was done to them, as where a plan does not hold any more, or if they were left.
    /// Its environment has ANEMOS_RUN, ANEMOS_STATUS (the exit status), and how many hosts are ANEMOS_DEPLOYED,
    /// ANEMOS_UNTOUCHED, ANEMOS_HELD and ANEMOS_LEFT (the others: they go on alone, or could not be followed). It has
    /// a minute, and is then ended with all that it has started. It can't ask on the terminal.
    #[arg(long, value_name = "COMMAND")]
    pub on_end: Option<String>,
}

/// `plan`.
#[derive(Debug, Args)]
pub struct PlanCommand {
    /// hosts.toml and which of its hosts.
    #[command(flatten)]
    pub which: PlanArgs,
    /// Write the plan into a file too, for `anemos up --plan FILE`; only if all of its hosts can be deployed
    ///
    /// A file that is there is written over if it is a plan.
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Exit with 5 if a deployment would change any host, and with 0 only if all are what it would make of them
    ///
    /// A host is, if the last run that changed it, by the journals on this machine, deployed it from the same payload,
    /// base, vars and keys, and the system of that run still answers. What was changed on the host since is not seen.
    #[arg(long)]
    pub detailed_exitcode: bool,
    /// Leave hosts out that a deployment would not change, by what --detailed-exitcode goes by; also of the file of -o
    ///
    /// Which they are is said. If none is left, nothing is written. A host that can't be deployed is not left out.
    #[arg(long)]
    pub only_changed: bool,
}

/// `init`.
#[derive(Debug, Args)]
pub struct Init {
    /// Where to: hosts.toml and payload/ are made there
    #[arg(value_name = "DIR", default_value = ".")]
    pub directory: PathBuf,
    /// The host; without it, it is asked for
    #[arg(long, value_name = "[USER@]HOST[:PORT]")]
    pub ssh: Option<String>,
    /// What to call it in hosts.toml. Default: as it calls itself
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// What becomes of it: debian, imgbuild-debian or hello
    #[arg(long, value_name = "EXAMPLE")]
    pub payload: Option<String>,
    /// The disk that may be overwritten, one that the host has. Default: the only one
    #[arg(long, value_name = "DISK")]
    pub disk: Option<String>,
    /// A public key, or a file of some, for who else may log in. The file is named from here, whatever DIR is
    #[arg(long, value_name = "KEY")]
    pub authorized_keys: Vec<String>,
    /// Take the key of a host that is not known on trust, and remember it
    #[arg(long)]
    pub accept_new: bool,
    /// Don't look at the host
    #[arg(long)]
    pub no_look: bool,
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

/// `serve`.
#[derive(Debug, Args)]
pub struct Serve {
    /// Write systemd units for your own systemd instead (a socket and a service), and say how they are started
    #[arg(long)]
    pub install: bool,
    /// With --install, as root: units for the machine's systemd, which give the daemon a user `anemos` of its own
    #[arg(long, requires = "install")]
    pub system: bool,
    /// Serve other people too, as far as this file says: users of this machine, and tokens of the page with names
    ///
    /// docs/API.md says what it consists of. Without it nobody but you (and root) is served.
    #[arg(long, value_name = "FILE")]
    pub users: Option<PathBuf>,
    /// Serve a page for browsers too, and metrics: docs/WEB.md. Default: 127.0.0.1:26366
    ///
    /// Who has the token in $XDG_STATE_HOME/anemos/web-token, which only you can read, may see and do there what you
    /// may. On a terminal the address is shown with it.
    #[arg(long, value_name = "ADDRESS:PORT", num_args = 0..=1, default_missing_value = crate::web::DEFAULT)]
    pub web: Option<std::net::SocketAddr>,
    /// The page's certificates as PEM, its own first: by TLS it may listen on any address, not only a loopback one
    #[arg(long, value_name = "FILE", requires = "web", requires = "web_key")]
    pub web_cert: Option<PathBuf>,
    /// The private key that goes with them, as PEM
    #[arg(long, value_name = "FILE", requires = "web", requires = "web_cert")]
    pub web_key: Option<PathBuf>,
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

impl PlanArgs {
    /// What is said where nothing was, for one host that no file has.
    pub fn for_one() -> Self {
        let of = OfFile { first: None, hosts: Vec::new(), less: Less::default() };
        Self { of, json: false, parallel: 1, no_canary: false, max_failures: 0, accept_new: false, lock: None }
    }
}
