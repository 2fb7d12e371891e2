//! `anemos plan -o FILE`, `anemos up --plan FILE`, and `anemos plan --detailed-exitcode`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anemos_proto::ids::RunId;

use super::hosts_file::{self, Chosen};
use super::{CommandError, Status, line};
use crate::cli::OfFile;
use crate::config::Host;
use crate::engine::{Limits, now_ms};
use crate::journal::{RunFile, RunStore};
use crate::plan::Plan;
use crate::run::{self, SavedError, SavedPlan, SavedTerms, Wanted};
use crate::screen::{self, json::change_line};

impl From<SavedError> for CommandError {
    fn from(error: SavedError) -> Self {
        Self::bad_input(error)
    }
}

/// The hosts of a plan that are meant, as hosts.toml has them now: the one that the plan came from, unless another one
/// is named.
pub(super) fn of(saved: &SavedPlan, of: &OfFile) -> Result<Chosen, CommandError> {
    let (file, hosts) = hosts_file::named_or(of, Some(saved.hosts_file.clone().into_os_string()))?;
    let (mut planned, others): (Vec<Host>, Vec<Host>) =
        hosts.into_iter().partition(|host| saved.host(&host.name).is_some());
    // Who goes alone first, before all others, is what was approved, whatever the order of hosts.toml is now.
    planned.sort_by_key(|host| saved.hosts.iter().position(|other| other.plan.host == host.name));
    let all = of.names_no_host();
    let strange = others.first().filter(|_| !all);
    if let Some(host) = strange {
        return Err(CommandError::bad_input(format!("the plan has no host `{}`: make one that has it", host.name)));
    }
    let mut gone = saved.hosts.iter().filter(|saved| !file.hosts.iter().any(|host| host.name == saved.plan.host));
    if let Some(gone) = gone.next().filter(|_| all) {
        let (name, path) = (&gone.plan.host, file.path.display());
        return Err(refused(&[format!("{name}: {path} does not have it any more (name the hosts that are meant)")]));
    }
    if planned.is_empty() {
        return Err(CommandError::bad_input("no host of the plan is left by what was named"));
    }
    Ok((file.path, planned))
}

/// That nothing is done, since these are not what the plan in the file says.
fn refused(otherwise: &[String]) -> CommandError {
    let message = format!(
        "nothing was done, since it is not what the plan in the file says:\n{}\nLook at it anew with `anemos plan`; \
         `--exclude HOST` leaves a host out",
        otherwise.iter().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
    );
    CommandError { status: Status::Refused, message }
}

/// Refuses if anything is otherwise than the plan in the file says.
pub(super) fn check(otherwise: &[String]) -> Result<(), CommandError> {
    if otherwise.is_empty() { Ok(()) } else { Err(refused(otherwise)) }
}

/// Where the plan goes, and what it is made with.
pub(super) struct Output<'a> {
    pub path: &'a Path,
    pub terms: SavedTerms<'a>,
}

/// Writes the plan, and says so. One that could not be carried out for some host is not written, nor is one of no host.
pub(super) fn write(
    output: &Output<'_>,
    mut wanted: Vec<(String, Wanted)>,
    plans: &[Arc<Plan>],
    changes: &[HostChange],
) -> Result<(), CommandError> {
    let path = output.path.display();
    wanted.retain(|(name, _)| !changes.iter().any(|change| change.left_out && change.host == *name));
    if wanted.is_empty() {
        screen::note(&format!("{path} is not written: no host would be changed"));
        return Ok(());
    }
    match SavedPlan::of(&wanted, plans, &output.terms) {
        Ok(saved) => {
            saved.write(output.path)?;
            screen::note(&format!("the plan is in {path}; `anemos up --plan {path}` does it, without a question"));
        }
        Err(why) => screen::warning(&format!("{path} is not written: {why}")),
    }
    Ok(())
}

/// Whether a deployment would make something else of a host than what it is.
pub(super) struct HostChange {
    /// The host's name in hosts.toml.
    pub host: String,
    /// The run that made the host what it would become, as far as the journals tell.
    pub made_by: Option<RunId>,
    /// Nothing would change, and so it is not in the plan.
    pub left_out: bool,
}

impl HostChange {
    /// Says it: to programs of every host, and to people of those that would stay as they are.
    pub(super) fn say(&self, json: bool) {
        let Self { host, made_by, left_out } = self;
        if json {
            line(change_line(host, made_by.as_ref().map(RunId::as_str), now_ms()));
        }
        if let Some(run) = made_by {
            let so = if *left_out { ", and is left out" } else { "" };
            screen::note(&format!("{host} is what run {run} made, from what it would be made of now{so}"));
        }
    }
}

/// Of each host that was met, whether it would become something else than what it is, as far as the journals tell.
/// `only_changed` leaves those out that would not; one that can't be deployed is not left out. `file` is the run as it
/// would be written down.
pub(super) fn changes(
    file: &RunFile,
    plans: &[Arc<Plan>],
    only_changed: bool,
) -> Result<Vec<HostChange>, CommandError> {
    let store = RunStore::open()?;
    let change = |plan: &Arc<Plan>| {
        let made_by = match file.hosts.iter().find(|entry| entry.name == plan.host) {
            Some(entry) => run::made_so(&store, entry, &file.hosts_file, &plan.host_key)?,
            None => None,
        };
        let left_out = only_changed && made_by.is_some() && plan.refused().is_none();
        Ok(HostChange { host: plan.host.clone(), made_by, left_out })
    };
    plans.iter().map(change).collect()
}

/// The plans that are not left out, and in which order their hosts go.
pub(super) fn seen(changes: &[HostChange], plans: &[Arc<Plan>], limits: &Limits) -> (Vec<Arc<Plan>>, Option<String>) {
    let left_out = |plan: &Arc<Plan>| changes.iter().any(|change| change.left_out && change.host == plan.host);
    let seen: Vec<Arc<Plan>> = plans.iter().filter(|plan| !left_out(plan)).map(Arc::clone).collect();
    let able = seen.iter().filter(|plan| plan.refused().is_none()).map(|plan| plan.host.clone());
    let order = limits.order(&able.collect::<Vec<_>>());
    (seen, order)
}

/// A file that a plan may go to, before any host is met.
pub(super) fn output(path: Option<PathBuf>) -> Result<Option<PathBuf>, CommandError> {
    path.map(|path| SavedPlan::may_be_written(&path).map(|()| path)).transpose().map_err(CommandError::from)
}
