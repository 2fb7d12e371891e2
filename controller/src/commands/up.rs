//! `anemos up` and `anemos plan`.

use std::io::IsTerminal;
use std::os::unix::fs::DirBuilderExt;
use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc, oneshot, watch as signal};

use super::jobs::{Jobs, new_run_id, prepare};
use super::look_back::read;
use super::passphrase::OnTerminal;
use super::{CommandError, Status, status_of, stop_signal};
use crate::cli::{PlanArgs, Up};
use crate::config::{self, Host};
use crate::embed;
use crate::engine::{Decision, End, Fleet, Gate, Job, Limits, Reporter, Seat, drive, now_ms};
use crate::journal::{Appender, HostEntry, RunDir, RunFile, RunStore};
use crate::plan::Plan;
use crate::report::{Ending, Report};
use crate::screen::plan::confirm;
use crate::screen::text::Paint;
use crate::screen::{self, Mode, Screen};
use crate::ssh::{Passphrases, RunKey, new_seed};

/// How the question is settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ask {
    Yes,
    Terminal,
    OnlyPlan,
}

pub(super) async fn up(args: Up) -> Result<Status, CommandError> {
    let ask = if args.yes { Ask::Yes } else { Ask::Terminal };
    let finish = args.finish.map(Into::into);
    deploy(args.which, ask, finish).await
}

pub(super) async fn plan(args: PlanArgs) -> Result<Status, CommandError> {
    deploy(args, Ask::OnlyPlan, None).await
}

/// One host on its way.
struct Running {
    name: String,
    plan: oneshot::Receiver<Arc<Plan>>,
    decision: signal::Sender<Decision>,
    task: tokio::task::JoinHandle<Option<End>>,
}

async fn deploy(args: PlanArgs, ask: Ask, finish: Option<config::Finish>) -> Result<Status, CommandError> {
    let hosts = chosen(&args, finish)?;
    if ask == Ask::Terminal && !(std::io::stdin().is_terminal() && std::io::stderr().is_terminal()) {
        return Err(CommandError {
            status: Status::Refused,
            message: "there is no terminal to ask on what may be overwritten; look with `anemos plan`, then give --yes"
                .into(),
        });
    }
    let artifacts = Arc::new(embed::artifacts().map_err(CommandError::bad_input)?);
    let run = new_run_id()?;
    let run_key = new_seed().and_then(|seed| RunKey::from_seed(&seed)).map_err(CommandError::internal)?;
    let (control, requests) = screen::control();
    let asks: Arc<dyn Passphrases> = Arc::new(OnTerminal(control.clone()));
    let Jobs { jobs, notes } = prepare(hosts, &run, &run_key, &artifacts, args.lock.as_deref(), &asks).await?;
    for note in notes {
        eprintln!("note: {note}");
    }

    let names: Vec<String> = jobs.iter().map(|job| job.host.name.clone()).collect();
    let hosts_file = std::path::absolute(&args.hosts_file).unwrap_or_else(|_| args.hosts_file.clone());
    let run_file = RunFile {
        format: RunFile::FORMAT,
        run: run.clone(),
        started_ms: now_ms(),
        hosts_file,
        pid: std::process::id(),
        hosts: jobs.iter().map(|job| job.entry.clone()).collect(),
    };
    // A plan leaves nothing behind, not even here.
    let plan_dir = PlanDir::new(ask == Ask::OnlyPlan, &run)?;
    let store = match &plan_dir {
        Some(dir) => RunStore::at(dir.0.clone()),
        None => RunStore::open()?,
    };
    let (dir, _lock) = store.create(&run_file, &run_key)?;

    let stop = stop_signal()?;
    let (reports, received) = mpsc::unbounded_channel();
    let mode = Mode::pick(args.json);
    let screen = Screen::new(mode, plan_dir.is_none().then_some(run.as_str()), &names);
    let screen = tokio::spawn(screen::run_controlled(screen, received, requests));

    let limits =
        Limits { parallel: args.parallel as usize, canary: !args.no_canary, max_failures: args.max_failures as usize };
    let (fleet, _) = signal::channel(Fleet::new(&names, limits, &args.hosts_file.display().to_string()));
    let probes = Arc::new(Semaphore::new(args.parallel as usize));
    let mut running = Vec::new();
    for (number, job) in jobs.into_iter().enumerate() {
        let (journal, _) = Appender::open(&dir.journal(&job.host.name))?;
        let seat = Seat::new(&fleet, number);
        running.push(start(job, reports.clone(), journal, (seat, &probes), stop.clone()));
    }
    drop(reports);

    let mut plans: Vec<Arc<Plan>> = Vec::new();
    let mut waiting = Vec::new();
    let mut tasks = Vec::new();
    for host in running {
        // A host that can't be deployed sends no plan; its own report says why.
        if let Ok(plan) = host.plan.await {
            waiting.push((host.name.clone(), host.decision, Arc::clone(&plan)));
            plans.push(plan);
        }
        tasks.push((host.name, host.task));
    }
    let able = |plan: &&Arc<Plan>| plan.refusals.is_empty();
    let going: Vec<String> = plans.iter().filter(able).map(|plan| plan.host.clone()).collect();
    let order = limits.order(&going);
    if !plans.is_empty() {
        control.plans(plans.clone(), order.clone()).await;
    }
    plans.retain(|plan| plan.refusals.is_empty());
    let go = match ask {
        _ if plans.is_empty() => false,
        Ask::OnlyPlan => false,
        Ask::Yes => true,
        Ask::Terminal => {
            let paused = control.pause().await;
            let answer = question(plans, order, stop.clone()).await;
            drop(paused);
            answer
        }
    };
    fleet.send_modify(|fleet| fleet.begin(&going));
    let mut refused = Vec::new();
    for (host, decision, plan) in waiting {
        let why_not = plan.refused();
        if why_not.is_some() || (!go && ask != Ask::OnlyPlan) {
            refused.push(host);
        }
        let decided = match (ask, why_not) {
            (Ask::OnlyPlan, _) => Decision::OnlyPlan,
            (_, Some(why)) => Decision::Refuse(why),
            _ if go => Decision::Go,
            _ => Decision::Refuse("the plan was refused".into()),
        };
        // A host whose task has ended has reported why.
        let _ = decision.send(decided);
    }

    let mut ends = Vec::new();
    let mut problem = None;
    for (name, task) in tasks {
        match task.await {
            Ok(Some(End::Over(summary))) => ends.push(Some(*summary)),
            Ok(Some(End::Detached)) => ends.push(None),
            Ok(Some(End::Refused(why))) => problem = Some(format!("{name}: {why}")),
            Ok(None) => {}
            Err(error) => problem = Some(format!("{name}: {error}")),
        }
    }
    drop(control);
    screen.await.map_err(CommandError::internal)?;
    forget(&dir, &run_file.hosts);
    if let Some(problem) = problem {
        return Err(CommandError::internal(problem));
    }
    let stopped = *stop.borrow();
    Ok(status_of(&ends, &refused, stopped))
}

/// Deletes the run's key once no host of it, by the journals, can be in RAM any more.
pub(super) fn forget(dir: &RunDir, hosts: &[HostEntry]) {
    let over = |host: &HostEntry| {
        read(dir, &host.name).is_ok_and(|journal| journal.end().is_some_and(|end| end.outcome != Ending::Held))
    };
    if hosts.iter().all(over)
        && let Err(error) = dir.forget_key()
    {
        eprintln!("warning: {error}");
    }
}

/// The hosts that are meant, as the command line changes them.
fn chosen(args: &PlanArgs, finish: Option<config::Finish>) -> Result<Vec<Host>, CommandError> {
    let file = config::load(&args.hosts_file).map_err(CommandError::bad_input)?;
    let hosts = file.pick(&args.hosts).map_err(CommandError::bad_input)?.into_iter().cloned();
    let changed = hosts.map(|mut host| {
        host.accept_new |= args.accept_new;
        host.finish = finish.unwrap_or(host.finish);
        host
    });
    Ok(changed.collect())
}

fn start(
    job: Job,
    reports: mpsc::UnboundedSender<Report>,
    journal: Appender,
    (seat, probes): (Seat, &Arc<Semaphore>),
    stop: signal::Receiver<bool>,
) -> Running {
    let (plan_tx, plan) = oneshot::channel();
    let (decision, decided) = signal::channel(Decision::Pending);
    let gate = Gate { plan: plan_tx, decision: decided, seat, probes: Arc::clone(probes) };
    let name = job.host.name.clone();
    let task = tokio::spawn(async move {
        let mut reporter = Reporter::new(&job.host.name, reports, journal);
        drive(&job, &mut reporter, gate, stop).await
    });
    Running { name, plan, decision, task }
}

/// Asks on the terminal. Ctrl-C is a no.
async fn question(plans: Vec<Arc<Plan>>, order: Option<String>, mut stop: signal::Receiver<bool>) -> bool {
    let answer = tokio::task::spawn_blocking(move || {
        let paint = Paint::pick(std::io::stderr().is_terminal());
        let mut input = std::io::stdin().lock();
        confirm(&plans, order.as_deref(), &mut input, &mut std::io::stderr(), paint).unwrap_or(false)
    });
    tokio::select! {
        answer = answer => answer.unwrap_or(false),
        _ = stop.wait_for(|stop| *stop) => false,
    }
}

/// A private directory for the journal of a plan, which nobody will read.
struct PlanDir(std::path::PathBuf);

impl PlanDir {
    fn new(wanted: bool, run: &anemos_proto::ids::RunId) -> Result<Option<Self>, CommandError> {
        if !wanted {
            return Ok(None);
        }
        let path = std::env::temp_dir().join(format!("anemos-plan-{run}-{}", std::process::id()));
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .map_err(|e| CommandError::internal(format!("{}: {e}", path.display())))?;
        Ok(Some(Self(path)))
    }
}

impl Drop for PlanDir {
    fn drop(&mut self) {
        // At worst a small directory stays among the temporary files.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use crate::cli::Cli;
    use crate::commands::{Status, run};

    /// What is wrong with the command line is said before what is missing around it, such as a terminal.
    #[tokio::test]
    async fn a_file_that_is_not_there_is_the_first_complaint() {
        for arguments in [&["up", "nosuch.toml"][..], &["up", "nosuch.toml", "web1"], &["plan", "nosuch.toml"]] {
            let cli = Cli::parse_from(["anemos"].iter().chain(arguments));
            let error = run(cli).await.unwrap_err();
            assert_eq!(error.status, Status::BadInput, "{error}");
            assert!(error.message.contains("nosuch.toml: No such file or directory"), "{error}");
        }
    }
}
