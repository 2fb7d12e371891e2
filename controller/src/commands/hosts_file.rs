//! The hosts.toml that a command line means, `anemos validate`, and `anemos schema`.

use std::ffi::OsString;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use super::{CommandError, Status, line};
use crate::cli::{HOSTS_VARIABLE, OfFile, Validate};
use crate::config::{self, Host, HostsFile, LoadError};
use crate::run::{self, Checked, SavedPlan};
use crate::screen;
use crate::screen::text::bytes;

/// Where a hosts.toml is, and hosts of it.
pub(super) type Chosen = (PathBuf, Vec<Host>);

/// The hosts.toml, and those of its hosts that are meant.
pub(super) fn of(of: &OfFile) -> Result<(HostsFile, Vec<Host>), CommandError> {
    named_or(of, std::env::var_os(HOSTS_VARIABLE))
}

/// The same; where none is named, `other` is read.
pub(super) fn named_or(of: &OfFile, other: Option<OsString>) -> Result<(HostsFile, Vec<Host>), CommandError> {
    let first = of.first.as_ref();
    let (path, selection) = of.meant(other).map_err(CommandError::bad_input)?;
    let file = config::load(&path).map_err(|error| CommandError::bad_input(unread(&error, first)))?;
    let hosts = file.pick(&selection).map_err(|why| CommandError::bad_input(not_there(why, first)))?;
    let hosts = hosts.into_iter().cloned().collect();
    Ok((file, hosts))
}

/// Why there is no hosts.toml, and how one is named. `first` is the first word that was given.
fn unread(error: &LoadError, first: Option<&OsString>) -> String {
    match error {
        LoadError::Read { path, source } if source.kind() == ErrorKind::NotFound && named(path, first).is_none() => {
            let asked = if std::env::var_os(HOSTS_VARIABLE).is_some_and(|file| !file.is_empty()) {
                format!("${HOSTS_VARIABLE} names it")
            } else {
                format!("${HOSTS_VARIABLE} names no other one")
            };
            format!("{error}; {asked}. A hosts.toml is named first: `anemos plan fleet/hosts.toml`")
        }
        _ => match first.and_then(|first| if_plan(Path::new(first))) {
            Some(hint) => format!("{hint}; it is no hosts.toml"),
            None => error.to_string(),
        },
    }
}

/// The first word, if it is the file.
fn named<'w>(path: &Path, first: Option<&'w OsString>) -> Option<&'w OsString> {
    first.filter(|first| Path::new(first) == path)
}

/// Why hosts are not there, with a word on a first one that may have been meant as a file.
fn not_there(why: String, first: Option<&OsString>) -> String {
    let file =
        first.and_then(|first| first.to_str()).filter(|first| !first.contains('/') && Path::new(first).is_file());
    match file {
        Some(name) if why.contains(&format!("`{name}`")) => {
            let hint = if_plan(Path::new(name));
            format!("{why}; {}", hint.unwrap_or_else(|| format!("the file of that name is ./{name}")))
        }
        _ => why,
    }
}

/// How a plan is used, if that file is one.
fn if_plan(path: &Path) -> Option<String> {
    // A pipe is not read: it may never end.
    let is_plan = path.is_file() && SavedPlan::may_be_written(path).is_ok();
    is_plan.then(|| {
        let path = path.display();
        format!("{path} is a plan that `anemos plan -o` wrote: `anemos up --plan {path}` does it")
    })
}

pub(super) async fn validate(args: Validate) -> Result<Status, CommandError> {
    let (file, hosts) = of(&args.of)?;
    let count = hosts.len();
    let checking = tokio::task::spawn_blocking(move || run::check(&hosts, args.lock.as_deref()));
    let Checked { problems, notes, payloads } = checking.await.map_err(CommandError::internal)?;
    for (payload, size) in payloads {
        line(format_args!("{}: {} packed", payload.display(), bytes(size)));
    }
    for note in &notes {
        screen::warning(note);
    }
    if !problems.is_empty() {
        return Err(CommandError::bad_input(problems.join("\n")));
    }
    let hosts = if count == 1 { "1 host".to_owned() } else { format!("{count} hosts") };
    line(format_args!("{}: {hosts}, and nothing wrong that can be seen from here", file.path.display()));
    Ok(Status::Done)
}

pub(super) fn schema() -> Status {
    // That its reader has gone is no error.
    let _ = std::io::stdout().write_all(config::SCHEMA.as_bytes());
    Status::Done
}
