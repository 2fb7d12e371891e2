//! `anemos up --serve`: hands a run over to the daemon, shows its plan, asks, and looks on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch as signal;

use super::at_end::Over;
use super::passphrase::OnTerminal;
use super::saved;
use super::up::{Approved, Ask, Remember, Shown, ask_on, can_ask, limits, renew};
use super::{CommandError, Status, Stopping, at_end, base, status_of};
use crate::api::{self, ApiError, Client, Given, Request, Said, Submit};
use crate::cli::Up;
use crate::engine::Stop;
use crate::journal::{Follower, Keep, RunDir, RunStore};
use crate::plan::Plan;
use crate::report::{Update, feed};
use crate::run::{self, Intent, SavedPlan, Secrets, Wanted};
use crate::screen::{self, Control, Mode, Screen};
use crate::ssh::Passphrases;

/// Time between two looks at whether somebody else has decided.
const LOOK_EVERY: Duration = Duration::from_millis(300);

/// Whether runs are handed over without `--serve`.
pub(super) fn is_wanted() -> bool {
    std::env::var_os("ANEMOS_SERVE").is_some_and(|value| !value.is_empty() && value != "0")
}

impl From<ApiError> for CommandError {
    fn from(error: ApiError) -> Self {
        match &error {
            ApiError::Nobody { .. } => Self::bad_input(error),
            ApiError::Refused(fault) if fault.reason == api::Reason::Input => Self::bad_input(error),
            _ => Self::internal(error),
        }
    }
}

pub(super) async fn up(args: Up, stopping: Stopping) -> Result<Status, CommandError> {
    let (at_end, mut over) = (args.at_end.clone(), None);
    let came_out = through(args, stopping, &mut over).await;
    at_end::done(&at_end, over.as_ref(), came_out.as_ref().copied()).await;
    came_out
}

/// Goes about it. `over` is what has become of the hosts, also where this fails or is left.
async fn through(args: Up, stopping: Stopping, over: &mut Option<Over>) -> Result<Status, CommandError> {
    let remember = Remember::of(&args);
    let Approved { ask, chosen: (hosts_file, hosts), saved } = Approved::of(&args).await?;
    can_ask(ask)?;
    let (control, requests) = screen::control();
    let asks: Arc<dyn Passphrases> = Arc::new(OnTerminal(control.clone()));
    let dir = api::default_dir().map_err(CommandError::bad_input)?;
    // Before anything is packed.
    let mut client = Client::connect(&dir, &asks).await?;
    let lock = saved.as_ref().map_or(args.which.lock.as_deref(), |saved| saved.lock.as_deref());
    let description = run::describe(hosts, (lock, true), &base::showing()).await?;
    description.notes.iter().for_each(|note| screen::note(note));
    *over = Some(Over::default());
    if let Some(saved) = &saved {
        saved::check(&saved.wanted_otherwise(&Wanted::all(&description)))?;
    }
    for blob in description.blobs.values() {
        client.blob(blob).await?;
    }
    let hosts_file = std::path::absolute(&hosts_file).map_err(CommandError::bad_input)?;
    let secrets = description.secrets.into_iter().map(|(host, secrets)| (host, Given::from(secrets))).collect();
    let agent = std::env::var_os("SSH_AUTH_SOCK").filter(|path| !path.is_empty()).map(Into::into);
    let limits = saved.as_ref().map_or_else(|| limits(&args.which), |saved| saved.limits);
    let trusts: Vec<_> = description.hosts.iter().map(|host| (host.host.name.clone(), host.trust.clone())).collect();
    let submit = Submit { hosts: description.hosts, secrets, hosts_file, limits, agent, answers: true };
    let submitted = client.call(&Request::Submit(Box::new(submit))).await?;
    let Said::Submitted { run, hosts } = submitted else { return Err(ApiError::Strange.into()) };
    let run = RunStore::open()?.find(Some(&run)).map_err(|error| {
        CommandError::bad_input(format!(
            "{error}: the daemon in {} is another user's, whose journals this command can't read; nothing was done. \
             Its page, and programs that talk to it (docs/API.md), can do more",
            dir.display()
        ))
    })?;

    let stop = stopping().map_err(CommandError::internal)?;
    let (reports, received) = feed();
    let mode = Mode::pick(args.which.json);
    let screen = Screen::new(mode, Some(run.id.as_str()), &hosts);
    let screen = tokio::spawn(screen::run_controlled(screen, received, requests));
    let (leave, left) = signal::channel(Stop::No);
    let (entries, looked_at) = (run.load()?.hosts, run.clone());
    let all = entries.clone();
    let nothing = Arc::clone(&asks);
    let looking = tokio::spawn(async move {
        let intent = Intent { lines: Some(run::LINES), ..Intent::default() };
        run::follow(&looked_at, entries, None, &intent, &nothing, reports, &left).await
    });
    let decided = decide(&mut client, &run, (ask, mode, &control), saved.as_ref(), stop.clone()).await;
    let refused = decided.as_ref().ok().cloned();
    if refused.is_none() {
        leave.send_replace(Stop::Leave);
    }
    let refused = refused.unwrap_or_default();
    let mut looking = std::pin::pin!(looking);
    let followed = tokio::select! {
        followed = &mut looking => followed,
        left = until_left(&mut client, stop.clone(), decided.is_ok()) => {
            leave.send_replace(Stop::Leave);
            let followed = looking.await;
            drop((control, asks));
            screen.await.map_err(CommandError::internal)?;
            // What the daemon has written down by now: it may go on with the others.
            *over = Some(Over::of(&run, &all));
            decided?;
            let id = &run.id;
            if left {
                screen::note(&format!(
                    "run {id} goes on in the daemon; `anemos attach {id}` looks on again, `anemos abort` stops hosts"
                ));
                return Ok(Status::Interrupted);
            }
            return Err(match followed.map_err(CommandError::internal)? {
                Err(error) => error.into(),
                Ok(_) => CommandError::internal("the run was left"),
            });
        }
    };
    drop((control, asks));
    screen.await.map_err(CommandError::internal)?;
    *over = Some(Over::of(&run, &all));
    decided?;
    let followed = followed.map_err(CommandError::internal)??;
    for (host, trust) in trusts {
        if let Some(renewed) = run::renewed(&run, &host, trust) {
            renew(&renewed, ask, remember);
        }
    }
    if !followed.problems.is_empty() {
        return Err(CommandError::internal(followed.problems.join("\n")));
    }
    Ok(status_of(&followed.ends, &refused, stop.borrow().asked()))
}

/// Shows the plans, and decides. Returns the names of hosts that are not begun with, because of their plan. Whoever
/// leaves before the decision has everything undone.
async fn decide(
    client: &mut Client,
    run: &RunDir,
    (ask, mode, control): (Ask, Mode, &Control),
    saved: Option<&SavedPlan>,
    mut stop: signal::Receiver<Stop>,
) -> Result<Vec<String>, CommandError> {
    let id = run.id.to_string();
    let plan = Request::Plan { run: id.clone() };
    let said = tokio::select! {
        said = client.call(&plan) => match said {
            // It is over already; how, is being shown.
            Err(ApiError::Refused(fault)) if fault.reason == api::Reason::State => return Ok(Vec::new()),
            said => Some(said?),
        },
        _ = stop.wait_for(|stop| stop.asked()) => None,
    };
    let Some(said) = said else {
        client.call(&Request::Stop { run: id }).await?;
        return Ok(Vec::new());
    };
    let Said::Plans { plans: shown, order } = said else { return Err(ApiError::Strange.into()) };
    let plans: Vec<Arc<Plan>> = shown.iter().map(|shown| Arc::new((*shown.plan).clone())).collect();
    if !plans.is_empty() {
        control.plans(plans.clone(), order.clone()).await;
    }
    let able: Vec<Arc<Plan>> = plans.iter().filter(|plan| plan.refused().is_none()).cloned().collect();
    if able.is_empty() {
        return Ok(plans.iter().map(|plan| plan.host.clone()).collect());
    }
    let otherwise = saved.map(|saved| saved.met_otherwise(&plans)).unwrap_or_default();
    let asked = Shown { mode, plans: &plans, able: &able, order };
    let approve = tokio::select! {
        biased;
        approve = ask_on(ask, asked, control, stop), if otherwise.is_empty() => approve,
        () = std::future::ready(()), if !otherwise.is_empty() => false,
        (approved, author) = decided_by_another(run, &able[0].host) => {
            let what = if approved { "approved" } else { "not approved" };
            screen::note(&format!("the plan was {what} by {author}"));
            let is_able = |host: &str| able.iter().any(|plan| plan.host == host);
            return Ok(plans.iter().map(|p| p.host.clone()).filter(|host| !approved || !is_able(host)).collect());
        }
    };
    let is_able = |host: &str| able.iter().any(|plan| plan.host == host);
    let looked_at: BTreeMap<String, String> =
        shown.into_iter().filter(|shown| is_able(&shown.plan.host)).map(|s| (s.plan.host, s.sha256)).collect();
    client.call(&Request::Decide { run: id, approve, plans: looked_at }).await?;
    saved::check(&otherwise)?;
    Ok(plans.iter().map(|plan| plan.host.clone()).filter(|host| !approve || !is_able(host)).collect())
}

/// Returns when somebody else, as on the daemon's page, has decided about a host: what they decided, and who it was.
async fn decided_by_another(run: &RunDir, host: &str) -> (bool, String) {
    let mut looks = tokio::time::interval(LOOK_EVERY);
    let mut found = None;
    let mut journal = Follower::new(&run.journal(host), Keep::Lines { last: 0, after: 0 }).ok();
    loop {
        looks.tick().await;
        let polled = journal.as_mut().map(|journal| {
            journal.poll(&mut |told, _| {
                if let Update::Decided { author, approved } = told.update {
                    found = Some((approved, author));
                }
            })
        });
        match (polled, found.take()) {
            (_, Some(found)) => return found,
            (Some(Ok(())), None) => {}
            // A journal that can't be read tells nothing; whoever decides in this terminal will hear it.
            _ => journal = None,
        }
    }
}

/// Answers questions until the user leaves: `true`; `false` if there is nobody to answer any more.
async fn until_left(client: &mut Client, mut stop: signal::Receiver<Stop>, goes_on: bool) -> bool {
    if !goes_on {
        return false;
    }
    // Whoever stopped before the decision sees how that ends; the second Ctrl-C leaves.
    let heard = *stop.borrow();
    let mut lost = false;
    loop {
        tokio::select! {
            error = client.answer_questions(), if !lost => {
                lost = true;
                let why = "the run goes on once it is started again, and is looked at until then; Ctrl-C leaves";
                screen::note(&format!("{error}: {why}"));
            }
            _ = stop.wait_for(|stop| *stop > heard) => return true,
        }
    }
}

/// Gives the hosts of a daemon's run the secrets that they wait for, from the files that hosts.toml named, and answers
/// what the daemon asks until it is dropped. A daemon that is not there is not asked.
pub(super) async fn supply(run: &RunDir, asks: &Arc<dyn Passphrases>) -> Result<Option<Client>, CommandError> {
    if !run::is_kept(run) {
        return Ok(None);
    }
    let dir = api::default_dir().map_err(CommandError::bad_input)?;
    let mut client = match Client::connect(&dir, asks).await {
        Ok(client) => client,
        Err(error @ ApiError::Nobody { .. }) => {
            screen::note(&format!("run {} is the daemon's. {error}: it goes on with the run", run.id));
            return Ok(None);
        }
        Err(error) => return Err(error.into()),
    };
    let id = run.id.to_string();
    let (wanting, reveals) = match client.call(&Request::Wanting { run: id.clone() }).await {
        Ok(Said::Wanting { hosts, reveals }) => (hosts, reveals),
        Ok(_) => return Err(ApiError::Strange.into()),
        // It is over, or another daemon's.
        Err(ApiError::Refused(_)) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let mut secrets = BTreeMap::new();
    for (host, files) in wanting {
        // The daemon doesn't say from where others have theirs.
        if files.values().any(|path| path.as_os_str().is_empty()) {
            screen::note(&format!("{host} waits for secrets that another user gave: they have to give them again"));
            continue;
        }
        let mut given = Secrets::default();
        for (name, path) in files {
            let secret = run::read_secret(&name, &path, reveals.get(&host).map(String::as_str));
            let secret = secret.map_err(|why| CommandError::bad_input(format!("host `{host}`: {why}")))?;
            given.files.insert(name, secret);
        }
        screen::note(&format!("the daemon gets the secrets of {host} again"));
        secrets.insert(host, Given::from(given));
    }
    if !secrets.is_empty() {
        client.call(&Request::Give { run: id.clone(), secrets }).await?;
    }
    client.call(&Request::Attend { run: id }).await?;
    Ok(Some(client))
}

/// Answers what the daemon asks while something else goes on.
pub(super) async fn meanwhile<T>(client: Option<&mut Client>, work: impl Future<Output = T>) -> T {
    let mut work = std::pin::pin!(work);
    if let Some(client) = client {
        tokio::select! {
            done = &mut work => return done,
            // It is gone: nobody asks any more.
            _ = client.answer_questions() => {}
        }
    }
    work.await
}
