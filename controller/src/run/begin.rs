//! Begins a run: prepares it, meets its hosts, and goes ahead with those that it is decided for.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Weak};

use anemos_proto::event::{Event, EventKind};
use anemos_proto::ids::Digest;
use tokio::sync::{Semaphore, mpsc, oneshot, watch as signal};

use super::base::Showing;
use super::describe::{Description, describe};
use super::descriptors;
use super::error::RunError;
use super::forget;
use super::host::{Busy, attend};
use super::inbox::{Inbox, Pleas};
use super::jobs::{Common, new_run_id};
use super::member::{Member, Task};
use super::order::Kept;
use super::plea::Plea;
use super::wanted::Wanted;
use crate::config::Host;
use crate::embed;
use crate::engine::{
    Blob, Decision, End, Fleet, Gate, Job, Limits, Passwords, Reporter, Seat, Stop, Trust, drive, now_ms,
};
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

/// How a run is gone about.
pub struct Terms {
    /// See [`Order::hosts_file`].
    pub hosts_file: PathBuf,
    /// See [`Order::limits`].
    pub limits: Limits,
    /// See [`Order::only_plan`].
    pub only_plan: bool,
    /// A daemon has the run: what is to be done is written down, and hosts that are held stay at hand.
    pub daemon: bool,
    /// The user's SSH agent, if it is not the one that this process has.
    pub agent: Option<PathBuf>,
}

/// A run that is prepared: no host has been met yet.
pub struct Prepared {
    terms: Terms,
    jobs: Vec<Job>,
    file: RunFile,
    key: RunKey,
    /// What a daemon writes down, and the blobs of it.
    kept: Option<(Kept, BTreeMap<Digest, Blob>)>,
    /// What is wanted of each host.
    pub wanted: Vec<(String, Wanted)>,
    /// What the user should know.
    pub notes: Vec<String>,
}

/// A run whose hosts are being met.
pub struct Meeting {
    begun: Vec<Begun>,
    fleet: signal::Sender<Fleet>,
    limits: Limits,
    only_plan: bool,
    running: Running,
    /// Where its hosts take wishes.
    pub pleas: Pleas,
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
    reporter: Weak<Reporter>,
    /// Its plan, and where the decision goes; `None` if it can't be deployed, which its own report tells.
    met: Option<(Arc<Plan>, signal::Sender<Decision>)>,
    trust: Trust,
    task: Doing,
}

/// What is being done about hosts, by their names.
pub(super) type Tasks = Vec<(String, Doing)>;

/// What is being done about a host.
type Doing = tokio::task::JoinHandle<Result<Option<End>, String>>;

/// A run that was decided about.
pub struct Going {
    tasks: Vec<(String, Trust, Doing)>,
    refused: Vec<String>,
    only_plan: bool,
    running: Running,
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

impl Ended {
    /// Takes in how the task of a host ended.
    pub(super) fn take(&mut self, host: &str, end: Result<Result<Option<End>, String>, tokio::task::JoinError>) {
        match end {
            Ok(Ok(Some(End::Over(summary)))) => self.ends.push(Some(*summary)),
            Ok(Ok(Some(End::Detached))) => self.ends.push(None),
            Ok(Ok(None)) => {}
            Ok(Err(why)) => self.problems.push(format!("{host}: {why}")),
            Err(error) => self.problems.push(format!("{host}: {error}")),
        }
    }
}

impl Prepared {
    /// Finds out everything that can be known without meeting a host.
    pub async fn new(order: Order, asks: &Arc<dyn Passphrases>, show: &Showing) -> Result<Self, RunError> {
        let Order { hosts, hosts_file, lock, limits, no_payload, only_plan } = order;
        descriptors::enough(hosts.len(), 0, limits.parallel)?;
        embed::artifacts().map_err(RunError::bad_input)?;
        let description = describe(hosts, (lock.as_deref(), !no_payload), show).await?;
        let terms = Terms { hosts_file, limits, only_plan, daemon: false, agent: None };
        Self::of(description, terms, asks)
    }

    /// Prepares what was described.
    pub fn of(description: Description, terms: Terms, asks: &Arc<dyn Passphrases>) -> Result<Self, RunError> {
        let artifacts = Arc::new(embed::artifacts().map_err(RunError::bad_input)?);
        let run = new_run_id()?;
        let run_key = new_seed().and_then(|seed| RunKey::from_seed(&seed)).map_err(RunError::internal)?;
        let kept = terms.daemon.then(|| (Kept::new(&description, terms.limits), description.blobs.clone()));
        let wanted = Wanted::all(&description);
        let Description { hosts, mut secrets, blobs, notes } = description;
        let may_want = hosts.iter().filter(|described| described.host.becomes.is_some());
        let passwords = Passwords::new(asks, may_want.map(|described| described.host.name.clone()));
        let (asks, agent) = (Arc::clone(asks), terms.agent.clone());
        let common = Common { run, run_key, artifacts, asks, passwords, agent };
        let job = |described| common.job(described, secrets.remove(&described.host.name).unwrap_or_default(), &blobs);
        let jobs: Vec<Job> = hosts.iter().map(job).collect::<Result<_, _>>()?;
        let through = jobs.iter().filter(|job| !job.entry.address.way.is_direct()).count();
        descriptors::enough(jobs.len(), through, terms.limits.parallel)?;
        let hosts_file = std::path::absolute(&terms.hosts_file).unwrap_or_else(|_| terms.hosts_file.clone());
        let file = RunFile {
            format: RunFile::FORMAT,
            run: common.run,
            started_ms: now_ms(),
            hosts_file,
            pid: std::process::id(),
            hosts: jobs.iter().map(|job| job.entry.clone()).collect(),
        };
        Ok(Self { terms, jobs, file, key: common.run_key, kept, wanted, notes })
    }

    /// The name of the run; `None` if nothing of it stays.
    pub fn run(&self) -> Option<&str> {
        (!self.terms.only_plan).then_some(self.file.run.as_str())
    }

    /// It, as `run.json` has it, or would.
    pub fn file(&self) -> &RunFile {
        &self.file
    }

    /// The names of its hosts.
    pub fn names(&self) -> Vec<String> {
        self.jobs.iter().map(|job| job.host.name.clone()).collect()
    }

    /// Begins the run, and meets its hosts. Returns when each has its plan, or is over.
    pub async fn meet(self, reports: Feed, stop: &signal::Receiver<Stop>) -> Result<Met, RunError> {
        let meeting = self.begin(&reports, stop)?;
        // The screens end with the last host.
        drop(reports);
        Ok(meeting.met().await)
    }

    /// Begins the run.
    pub fn begin(self, reports: &Feed, stop: &signal::Receiver<Stop>) -> Result<Meeting, RunError> {
        let names = self.names();
        let Self { terms, jobs, file, key, kept, .. } = self;
        let Terms { hosts_file, limits, only_plan, daemon, .. } = terms;
        let (dir, lock, journals) = if only_plan {
            (RunDir::nowhere(&file.run), None, names.iter().map(|_| Appender::nowhere()).collect())
        } else {
            let (dir, lock, journals) = create(&RunStore::open()?, &file, &key, kept.as_ref())?;
            (dir, Some(lock), journals)
        };
        let fleet = signal::channel(Fleet::new(&names, limits, &hosts_file.display().to_string())).0;
        let probes = Arc::new(Semaphore::new(limits.parallel));
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
                daemon,
            };
            let seat = Seat::new(&fleet, number);
            let (host, pleas) = start(job, member, journal, (seat, &probes), busy.clone());
            inbox.insert(host.name.clone(), pleas);
            begun.push(host);
        }
        let pleas: Pleas = Arc::new(inbox);
        let inbox = if only_plan { None } else { Inbox::open(&dir, Arc::clone(&pleas)) };
        let running = Running { dir, file, _lock: lock, _inbox: inbox };
        Ok(Meeting { begun, fleet, limits, only_plan, running, pleas })
    }
}

impl Meeting {
    /// The run.
    pub fn dir(&self) -> &RunDir {
        &self.running.dir
    }

    /// Returns when each host has its plan, or is over.
    pub async fn met(self) -> Met {
        let Self { begun, fleet, limits, only_plan, running, .. } = self;
        let mut hosts = Vec::new();
        for Begun { name, reporter, plan, decision, trust, task } in begun {
            // A host that can't be deployed sends no plan; its own report says why.
            let met = plan.await.ok().map(|plan| (plan, decision));
            hosts.push(Attended { name, reporter, met, trust, task });
        }
        let met = Met { hosts, fleet, limits, only_plan, running };
        let order = met.order();
        for host in &met.hosts {
            // A host that is over meanwhile has said its last word.
            if let (Some((plan, _)), Some(reporter)) = (&host.met, host.reporter.upgrade()) {
                let order = order.clone().filter(|_| plan.refused().is_none());
                reporter.tell(Update::Planned { plan: Box::new((**plan).clone()), order });
            }
        }
        met
    }
}

/// Makes the run, a journal for each of its hosts, and what a daemon keeps. If that fails, nothing of the run is left.
fn create(
    store: &RunStore,
    file: &RunFile,
    key: &RunKey,
    kept: Option<&(Kept, BTreeMap<Digest, Blob>)>,
) -> Result<(RunDir, Lock, Vec<Appender>), JournalError> {
    let (dir, lock) = store.create(file, key)?;
    let open = |host: &HostEntry| Appender::open(&dir.journal(&host.name), Keep::Nothing).map(|(journal, _)| journal);
    let journals = file.hosts.iter().map(open).collect::<Result<Vec<_>, _>>();
    let written = journals.and_then(|journals| {
        kept.map_or(Ok(()), |(kept, blobs)| kept.write(&dir, blobs))?;
        Ok(journals)
    });
    match written {
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
    task: Doing,
}

/// The host keys that the agent reported of the new system, by the host's journal, if known_hosts has others. `trust`
/// is what known_hosts says of the host. Only a host that was deployed has proved such keys.
pub fn renewed(dir: &RunDir, host: &str, trust: Trust) -> Option<Renewed> {
    let keys = new_keys(dir, host)?;
    trust.is_stale(&keys).then(|| Renewed { host: host.into(), trust, keys })
}

/// The host keys of the new system of a host that was deployed, as the agent reported them.
pub fn new_keys(dir: &RunDir, host: &str) -> Option<Vec<HostKey>> {
    // What can't be read is told when it matters.
    let journal = digest(&dir.journal(host), Keep::Lines { last: 0, after: 0 }).ok()?;
    if journal.end().is_none_or(|summary| summary.outcome != Ending::Deployed) {
        return None;
    }
    let reported = journal.told.into_iter().rev().find_map(|told| match told.update {
        Update::Event(_, Event { kind: EventKind::HostKeys(keys), .. }) => Some(keys),
        _ => None,
    });
    Some(reported?.iter().filter_map(|line| HostKey::parse(line)).collect())
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
        self.settle(go, None).ended().await
    }

    /// Goes ahead, or not. If there is an author, the journals say that it was their decision before anything is done.
    pub fn settle(self, go: bool, author: Option<&str>) -> Going {
        let going = self.going();
        self.fleet.send_modify(|fleet| fleet.begin(&going));
        let Self { hosts, only_plan, running, .. } = self;
        let mut refused = Vec::new();
        let mut tasks = Vec::new();
        for Attended { name, reporter, met, trust, task } in hosts {
            if let Some((plan, decision)) = met {
                let approval = Approval::of(&plan);
                if let (Some(author), Some(reporter)) = (author, reporter.upgrade()) {
                    let approved = go && approval.is_ok();
                    reporter.tell(Update::Decided { author: author.into(), approved });
                    // Where that fails, the host is not told to boot.
                    reporter.sync();
                }
                if approval.is_err() || !(go || only_plan) {
                    refused.push(name.clone());
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
        Going { tasks, refused, only_plan, running }
    }
}

impl Going {
    /// Returns when all hosts are over or left.
    pub async fn ended(self) -> Ended {
        let Self { tasks, refused, only_plan, running } = self;
        let mut ended = Ended { refused, ..Ended::default() };
        for (name, trust, task) in tasks {
            ended.take(&name, task.await);
            ended.renewed.extend(tokio::task::block_in_place(|| renewed(&running.dir, &name, trust)));
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
    use crate::journal::samples::{run_file, run_key, summary};

    /// Whoever plans makes no file that could stay when it is killed.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_plan_has_its_key_in_memory_only() {
        let mut file = run_file("20261123-093000-0a1b", &[]);
        file.run = new_run_id().unwrap();
        let limits = Limits { parallel: 1, canary: true, max_failures: 0 };
        let (hosts_file, run) = (PathBuf::from("hosts.toml"), file.run.to_string());
        let terms = Terms { hosts_file, limits, only_plan: true, daemon: false, agent: None };
        let prepared = Prepared {
            terms,
            jobs: Vec::new(),
            file,
            key: run_key(),
            kept: None,
            wanted: Vec::new(),
            notes: Vec::new(),
        };
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
        let mut tell = |update| {
            journal.append(&crate::journal::Record::Told { wall_ms: 1, update }).unwrap();
            journal.sync().unwrap();
            new_keys(&run, "web1")
        };
        for line in [old, new.line()] {
            let event = Event { seq: 1, uptime_ms: 1, wall_ms: 1, kind: EventKind::HostKeys(vec![line.into()]) };
            assert_eq!(tell(Update::Event(crate::report::Speaker::Agent, event)), None, "nothing is proved yet");
        }
        let end = |ending| Update::Summary(Box::new(summary(ending)));
        assert_eq!(tell(end(Ending::Held)), None);
        assert_eq!(tell(end(Ending::Deployed)), Some(vec![new]));
        assert_eq!(new_keys(&run, "web2"), None);
    }

    #[test]
    fn a_run_that_did_not_begin_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let store = RunStore::at(dir.path().to_owned());
        let mut file = run_file("20261123-093000-0a1b", &["web1"]);
        // No file can have such a name.
        file.hosts[0].name = "x".repeat(300);
        create(&store, &file, &run_key(), None).map(|_| ()).unwrap_err();
        assert!(store.runs().unwrap().is_empty());
    }
}
