//! The command line: what the commands are called. Their arguments are in the files below, one for each family.

mod base;
mod deploy;
mod past;
mod ram;
mod which;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

pub use base::{Base, BasePlaces, LockPlaces};
pub use deploy::{AtEnd, Doctor, Init, PlanArgs, PlanCommand, Serve, Up, Validate};
pub use past::{After, Attach, Logs, Prune, Report, Runs, RunsCommand, Status};
pub use ram::{Copy, FinishArgs, Pick, Retry, Shell, Ssh};
pub use which::{HOSTS_VARIABLE, Less, OfFile, OfRun};

use crate::screen::Wishes;
use crate::screen::text::Colors;

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
  5    plan --detailed-exitcode: some host would be changed
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
  anemos up --plan web.plan              what `anemos plan -o web.plan` showed, or nothing
  anemos up --report run.xml --on-end 'mail -s \"anemos: $ANEMOS_STATUS\" ann'

Exit status: 0 all deployed, 2 bad input, 3 plan refused, 4 some host not deployed, 130 Ctrl-C.")]
    Up(Up),
    /// Show what `up` would do; changes nothing on the hosts
    ///
    /// Connects to each host, has it say what it is, and takes everything away again: the disks with model, serial and
    /// contents, what would be lost, what would be sent, and what would boot.
    #[command(after_help = "Examples:
  anemos plan                            all hosts of ./hosts.toml
  anemos plan fleet/hosts.toml 'web*'    some of another file's
  anemos plan -o web.plan 'web*'         for somebody to approve, and for `anemos up --plan web.plan`
  anemos plan --detailed-exitcode        for a timer: is anything to be deployed that is not yet?
  anemos plan --only-changed -o new.plan a plan without the hosts that would stay as they are

Exit status: 0 all can be deployed, 2 bad input, 3 some can't, 4 some can't be looked at,
5 with --detailed-exitcode: all can, and some would be changed.")]
    Plan(PlanCommand),
    /// Write a hosts.toml and a payload to begin with
    ///
    /// Asks for the host and what is to become of it, looks at the host as `doctor` does, and changes nothing on it.
    /// Nothing is written over. With --ssh it asks nothing that it needs not know, so that it can be used in scripts.
    #[command(after_help = "Examples:
  anemos init                                      asks
  anemos init servers --ssh root@203.0.113.7 --payload hello

Exit status: 0 they are there, 2 bad input, 4 the host can't be looked at (--no-look writes them all the same).")]
    Init(Init),
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
    #[command(after_help = "Examples:\n  anemos runs\n  anemos runs web1\n  anemos runs show 0a1b\n  \
                            anemos runs prune --keep 20")]
    Runs(Runs),
    /// Write what became of a run into a file, for CI systems or for people
    ///
    /// Only reads the journals on this machine. A report of a run that goes on says how far it is.
    #[command(after_help = "Examples:
  anemos report -o report.html           the newest run
  anemos report 0a1b web1 -o a.xml -o a.html")]
    Report(Report),
    /// Open a shell in a host's RAM system
    ///
    /// Works while the payload runs, and while the host is held. The exit status is that of what ran there, or 255 if
    /// the link was lost.
    #[command(after_help = "Examples:\n  anemos shell web1\n  anemos shell web1 --run 0a1b -- 'lsblk; dmesg | tail'")]
    Shell(Shell),
    /// Log into a host, whatever runs there now: its old system, the one in RAM, or the new one
    ///
    /// In RAM this is `anemos shell`. Else it is your own ssh, told what hosts.toml says, and after a deployment the
    /// host keys that the new system was built with, so that it is known before known_hosts is. Of the runs on this
    /// machine, one counts only if its host of that name was at the address that hosts.toml has now.
    #[command(after_help = "Examples:\n  anemos ssh web1\n  anemos ssh fleet/hosts.toml web1 -- uptime\n\n\
                            Exit status: that of what ran there; 2 bad input; 255 if it can't be reached.")]
    Ssh(Ssh),
    /// Copy a file into a host's RAM system, or out of it
    ///
    /// The destination is there once all of it is, or is as it was. What is there already is written over. Ownership is
    /// not copied. A file keeps its mode; here without what your umask takes away, and what is written over lets nobody
    /// at it afterwards whom it did not let before.
    #[command(after_help = "Examples:
  anemos cp mended.sh web1:/tmp/
  anemos cp web1:/var/log/install.log .

Exit status: 0 copied, 2 bad input or not in RAM, 4 it could not be copied, 130 Ctrl-C.")]
    Cp(Copy),
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
    #[command(after_help = "Examples:\n  anemos serve\n  anemos serve --web\n  anemos serve --install\n\n\
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

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn is_consistent() {
        Cli::command().debug_assert();
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
}
