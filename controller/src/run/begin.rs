//! Begins a run: prepares it, meets its hosts, and goes ahead with those that it is decided for.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Weak};

use anemos_proto::event::{Event, EventKind};
use tokio::sync::{Semaphore, mpsc, oneshot, watch as signal};

use super::base::Showing;
use super::descriptors;
use super::error::RunError;
use super::forget;
use super::host::{Busy, attend};
use super::inbox::Inbox;
use super::jobs::{Jobs, new_run_id, prepare};
use super::member::{Member, Task};
use super::plea::Plea;
use crate::config::Host;
use crate::embed;
use crate::engine::{Decision, End, Fleet, Gate, Job, Limits, Reporter, Seat, Stop, Trust, drive, now_ms};
use crate::journal::{Appender, HostEntry, JournalError, Keep, Lock, RunDir, RunFile, RunStore, digest};
use crate::plan::{Approval, Plan};
use crate::report::{Ending, Feed, Summary, Update};
use crate::ssh::{HostKey, Passphrases, RunKey, new_seed};

/// What a run is begun with.
pub struct Order {
    /// Its hosts, in the order of hosts.toml.
    pub hosts: Vec<Host>,
    /// Where that is, as the user names it.
    pub hosts_file: PathBuf,
    /// A base.lock for hosts that name none.
    pub lock: Option<PathBuf>,
    /// How many at once, and how many may fail.
    pub limits: Limits,
    /// Whatever the hosts become: their payloads and secrets are not looked at, so nothing can come of it but a look.
    pub no_payload: bool,
    /// Only the plan is wanted: the run leaves nothing behind, not even on this machine.
    pub only_plan: bool,
}

/// A run that is prepared: no host has been met yet.
pub struct Prepared {
    order: Order,
    jobs: Vec<Job>,
    file: RunFile,
    key: RunKey,
    /// What the user should know.
    pub notes: Vec<String>,
}

/// A run whose hosts have been met.
pub struct Met {
    hosts: Vec<Attended>,
    fleet: signal::Sender<Fleet>,
    limits: Limits,
    only_plan: bool,
    running: Running,
}

/// What lasts as long as the run is followed.
struct Running {
    dir: RunDir,
    file: RunFile,
    /// `None` if nothing of the run stays.
    _lock: Option<Lock>,
    _inbox: Option<Inbox>,
}

/// One host that is being followed.
struct Attended {
    name: String,
    /// Its plan, and where the decision goes; `None` if it can't be deployed, which its own report tells.
    met: Option<(Arc<Plan>, signal::Sender<Decision>)>,
    trust: Trust,
    task: tokio::task::JoinHandle<Result<Option<End>, String>>,
}

/// How a run ended.
#[derive(Default)]
pub struct Ended {
    /// How the hosts ended; `None`: they go on alone.
    pub ends: Vec<Option<Summary>>,
    /// Hosts that were not begun with, because of their plan.
    pub refused: Vec<String>,
    /// What should not have happened.
    pub problems: Vec<String>,
    /// What went wrong with clearing up.
    pub warning: Option<String>,
    /// Hosts whose new systems have proved other host keys than known_hosts has.
    pub renewed: Vec<Renewed>,
}

/// A host whose new system has other host keys than the old one.
pub struct Renewed {
    /// Its name.
    pub host: String,
    /// What known_hosts says of it.
    pub trust: Trust,
    /// The keys of its new system, as the agent reported them; one of them it has proved.
    pub keys: Vec<HostKey>,
}

impl Prepared {
    /// Finds out everything that can be known without meeting a host.
    pub async fn new(order: Order, asks: &Arc<dyn Passphrases>, show: &Showing) -> Result<Self, RunError> {
        descriptors::enough(order.hosts.len(), 0, order.limits.parallel)?;
        let artifacts = Arc::new(embed::artifacts().map_err(RunError::bad_input)?);
        let run = new_run_id()?;
        let key = new_seed().and_then(|seed| RunKey::from_seed(&seed)).map_err(RunError::internal)?;
        let mut hosts = order.hosts.clone();
        if order.no_payload {
            for host in &mut hosts {
                host.secrets.clear();
            }
        }
        let lock = order.lock.as_deref();
        let prepared = prepare(hosts, &run, &key, &artifacts, (lock, !order.no_payload), (asks, show)).await?;
        let Jobs { jobs, notes } = prepared;
        let through = jobs.iter().filter(|job| !job.entry.address.way.is_direct()).count();
        descriptors::enough(jobs.len(), through, order.limits.parallel)?;
        let hosts_file = std::path::absolute(&order.hosts_file).unwrap_or_else(|_| order.hosts_file.clone());
        let file = RunFile {
            format: RunFile::FORMAT,
            run,
            started_ms: now_ms(),
            hosts_file,
            pid: std::process::id(),
            hosts: jobs.iter().map(|job| job.entry.clone()).collect(),
        };
        Ok(Self { order, jobs, file, key, notes })
    }

    /// The name of the run; `None` if nothing of it stays.
    pub fn run(&self) -> Option<&str> {
        (!self.order.only_plan).then_some(self.file.run.as_str())
    }

    /// The names of its hosts.
    pub fn names(&self) -> Vec<String> {
        self.jobs.iter().map(|job| job.host.name.clone()).collect()
    }

    /// Begins the run, and meets its hosts. Returns when each has its plan, or is over.
    pub async fn meet(self, reports: Feed, stop: &signal::Receiver<Stop>) -> Result<Met, RunError> {
        let names = self.names();
        let Self { order, jobs, file, key, .. } = self;
        let (dir, lock, journals) = if order.only_plan {
            (RunDir::nowhere(&file.run), None, names.iter().map(|_| Appender::nowhere()).collect())
        } else {
            let (dir, lock, journals) = create(&RunStore::open()?, &file, &key)?;
            (dir, Some(lock), journals)
        };
        let fleet = signal::channel(Fleet::new(&names, order.limits, &order.hosts_file.display().to_string())).0;
        let probes = Arc::new(Semaphore::new(order.limits.parallel));
        let busy = Busy::new(jobs.len());
        let (mut inbox, mut begun) = (HashMap::new(), Vec::new());
        for ((number, job), journal) in jobs.into_iter().enumerate().zip(journals) {
            let member = Member {
                run: dir.clone(),
                entry: job.entry.clone(),
                user: job.user.clone(),
                passwords: Arc::clone(&job.passwords),
                key: Some(key.clone()),
                reports: reports.clone(),
                stop: stop.clone(),
                keep: Keep::Lines { last: 0, after: 0 },
            };
            let seat = Seat::new(&fleet, number);
            let (host, pleas) = start(job, member, journal, (seat, &probes), busy.clone());
            inbox.insert(host.name.clone(), pleas);
            begun.push(host);
        }
        drop(reports);
        let inbox = if order.only_plan { None } else { Inbox::open(&dir, inbox) };
        let mut hosts = Vec::new();
        let mut reporters = Vec::new();
        for Begun { name, reporter, plan, decision, trust, task } in begun {
            // A host that can't be deployed sends no plan; its own report says why.
            let met = plan.await.ok().map(|plan| (plan, decision));
            reporters.extend(met.is_some().then_some(reporter));
            hosts.push(Attended { name, met, trust, task });
        }
        let running = Running { dir, file, _lock: lock, _inbox: inbox };
        let met = Met { hosts, fleet, limits: order.limits, only_plan: order.only_plan, running };
        let order = met.order();
        for (reporter, plan) in reporters.into_iter().zip(met.plans()) {
            let order = order.clone().filter(|_| plan.refused().is_none());
            // A host that is over meanwhile has said its last word.
            if let Some(reporter) = reporter.upgrade() {
                reporter.tell(Update::Planned { plan: Box::new((*plan).clone()), order });
            }
        }
        Ok(met)
    }
}

/// Makes the run, and a journal for each of its hosts. If that fails, nothing of the run is left.
fn create(store: &RunStore, file: &RunFile, key: &RunKey) -> Result<(RunDir, Lock, Vec<Appender>), JournalError> {
    let (dir, lock) = store.create(file, key)?;
    let open = |host: &HostEntry| Appender::open(&dir.journal(&host.name), Keep::Nothing).map(|(journal, _)| journal);
    match file.hosts.iter().map(open).collect() {
        Ok(journals) => Ok((dir, lock, journals)),
        Err(error) => {
            // The error says what is wrong; that this fails too says no more.
            let _ = dir.delete(lock);
            Err(error)
        }
    }
}

/// One host on its way to its plan.
struct Begun {
    name: String,
    reporter: Weak<Reporter>,
    plan: oneshot::Receiver<Arc<Plan>>,
    decision: signal::Sender<Decision>,
    trust: Trust,
    task: tokio::task::JoinHandle<Result<Option<End>, String>>,
}

/// The host keys that the agent reported of the new system, by the host's journal.
fn new_keys(dir: &RunDir, host: &str) -> Vec<HostKey> {
    // A host is deployed by then, and its journal was written: what can't be read is told when it matters.
    let told = digest(&dir.journal(host), Keep::Lines { last: 0, after: 0 }).map(|journal| journal.told);
    let reported = told.unwrap_or_default().into_iter().rev().find_map(|told| match told.update {
        Update::Event(_, Event { kind: EventKind::HostKeys(keys), .. }) => Some(keys),
        _ => None,
    });
    reported.unwrap_or_default().iter().filter_map(|line| HostKey::parse(line)).collect()
}

fn start(
    job: Job,
    member: Member,
    journal: Appender,
    (seat, probes): (Seat, &Arc<Semaphore>),
    busy: Busy,
) -> (Begun, mpsc::UnboundedSender<Plea>) {
    let (plan_tx, plan) = oneshot::channel();
    let (decision, decided) = signal::channel(Decision::Pending);
    let gate = Gate { plan: plan_tx, decision: decided, seat, probes: Arc::clone(probes) };
    let name = job.host.name.clone();
    let reporter = Arc::new(Reporter::new(&name, member.reports.clone(), journal));
    let trust = job.trust.clone();
    let (wishes, asked) = mpsc::unbounded_channel();
    let (telling, stop) = (Arc::clone(&reporter), member.stop.clone());
    let work = Box::pin(async move { Ok(drive(&job, &telling, gate, asked, stop).await) });
    let (pleas, received) = mpsc::unbounded_channel();
    let voice = Arc::downgrade(&reporter);
    let task = tokio::spawn(async move { attend(&member, Task { reporter, wishes, work }, received, busy).await });
    (Begun { name, reporter: voice, plan, decision, trust, task }, pleas)
}

impl Met {
    /// The plans of all hosts that were met, in the order of hosts.toml.
    pub fn plans(&self) -> Vec<Arc<Plan>> {
        self.hosts.iter().filter_map(|host| host.met.as_ref()).map(|(plan, _)| Arc::clone(plan)).collect()
    }

    /// Those of the hosts that can be deployed.
    pub fn able(&self) -> Vec<Arc<Plan>> {
        self.plans().into_iter().filter(|plan| plan.refused().is_none()).collect()
    }

    /// The order in which those go that can be deployed, for people; `None` for a single one.
    pub fn order(&self) -> Option<String> {
        self.limits.order(&self.going())
    }

    /// The hosts that can be deployed.
    fn going(&self) -> Vec<String> {
        self.able().iter().map(|plan| plan.host.clone()).collect()
    }

    /// Goes ahead, or not, and returns when all hosts are over or left.
    pub async fn decide(self, go: bool) -> Ended {
        let going = self.going();
        self.fleet.send_modify(|fleet| fleet.begin(&going));
        let Self { hosts, only_plan, running, .. } = self;
        let mut ended = Ended::default();
        let mut tasks = Vec::new();
        for Attended { name, met, trust, task } in hosts {
            if let Some((plan, decision)) = met {
                let approval = Approval::of(&plan);
                if approval.is_err() || !(go || only_plan) {
                    ended.refused.push(name.clone());
                }
                // A host whose task has ended has reported why.
                let _ = decision.send(match approval {
                    _ if only_plan => Decision::OnlyPlan,
                    Err(why) => Decision::Refuse(why),
                    Ok(approval) if go => Decision::Go(approval),
                    Ok(_) => Decision::Refuse("the plan was refused".into()),
                });
            }
            tasks.push((name, trust, task));
        }
        for (name, trust, task) in tasks {
            match task.await {
                Ok(Ok(Some(End::Over(summary)))) => {
                    if summary.outcome == Ending::Deployed {
                        let keys = tokio::task::block_in_place(|| new_keys(&running.dir, &name));
                        ended.renewed.extend(trust.is_stale(&keys).then_some(Renewed { host: name, trust, keys }));
                    }
                    ended.ends.push(Some(*summary));
                }
                Ok(Ok(Some(End::Detached))) => ended.ends.push(None),
                Ok(Ok(None)) => {}
                Ok(Err(why)) => ended.problems.push(format!("{name}: {why}")),
                Err(error) => ended.problems.push(format!("{name}: {error}")),
            }
        }
        if !only_plan {
            ended.warning = forget(&running.dir, &running.file.hosts);
        }
        ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::samples::{run_file, run_key};

    /// Whoever plans makes no file that could stay when it is killed.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_plan_has_its_key_in_memory_only() {
        let mut file = run_file("20261123-093000-0a1b", &[]);
        file.run = new_run_id().unwrap();
        let limits = Limits { parallel: 1, canary: true, max_failures: 0 };
        let (hosts_file, run) = (PathBuf::from("hosts.toml"), file.run.to_string());
        let order = Order { hosts: Vec::new(), hosts_file, lock: None, limits, no_payload: true, only_plan: true };
        let prepared = Prepared { order, jobs: Vec::new(), file, key: run_key(), notes: Vec::new() };
        let (reports, _received) = crate::report::feed();
        let (_stopping, stop) = signal::channel(Stop::No);
        let met = prepared.meet(reports, &stop).await.unwrap();
        assert!(!met.running.dir.path().exists());
        let temporary = std::fs::read_dir(std::env::temp_dir()).unwrap();
        let ours = temporary.flatten().filter(|entry| entry.file_name().to_string_lossy().contains(&run));
        assert_eq!(ours.count(), 0);
    }

    #[test]
    fn the_keys_of_a_new_system_are_those_reported_last() {
        let dir = tempfile::tempdir().unwrap();
        let store = RunStore::at(dir.path().to_owned());
        let (run, _lock) = store.create(&run_file("20261123-093000-0a1b", &["web1", "web2"]), &run_key()).unwrap();
        let (mut journal, _) = Appender::open(&run.journal("web1"), Keep::All).unwrap();
        let old = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBvMEaYrEAoJpg0YaZD5aPahfRI1O5ZQNNGGKHzSjDzv";
        let new = run_key().public();
        for line in [old, new.line()] {
            let event = Event { seq: 1, uptime_ms: 1, wall_ms: 1, kind: EventKind::HostKeys(vec![line.into()]) };
            let update = Update::Event(crate::report::Speaker::Agent, event);
            journal.append(&crate::journal::Record::Told { wall_ms: 1, update }).unwrap();
        }
        journal.sync().unwrap();
        assert_eq!(new_keys(&run, "web1"), [new]);
        assert_eq!(new_keys(&run, "web2"), []);
    }

    #[test]
    fn a_run_that_did_not_begin_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let store = RunStore::at(dir.path().to_owned());
        let mut file = run_file("20261123-093000-0a1b", &["web1"]);
        // No file can have such a name.
        file.hosts[0].name = "x".repeat(300);
        create(&store, &file, &run_key()).map(|_| ()).unwrap_err();
        assert!(store.runs().unwrap().is_empty());
    }
}
