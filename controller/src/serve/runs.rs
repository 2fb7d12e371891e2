//! The runs of a daemon, and what each of them is waiting for.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use anemos_proto::ids::RunId;
use tokio::sync::{mpsc, oneshot, watch as signal};

use super::asker::Attached;
use super::latest::Latest;
use super::rights::{Right, Rights, Who};
use super::tally::Tally;
use crate::api::{Fault, plan_sha256};
use crate::engine::{Stop, Wish};
use crate::journal::{JournalError, RunDir, RunStore};
use crate::plan::Plan;
use crate::run::inbox::{self, Pleas};
use crate::run::{self, Answer, Description, Ended, Kind, Meeting, Prepared, RunError, Terms, Wanting};
use crate::screen;
use crate::ssh::Passphrases;

/// Where a run is.
#[derive(Debug, Clone)]
pub enum State {
    /// Its hosts are being looked at.
    Meeting,
    /// It waits for a decision.
    Met(Arc<Plans>),
    /// It was decided.
    Decided(Arc<Plans>),
}

/// What was found out, and is to be decided about.
#[derive(Debug, Default)]
pub struct Plans {
    /// Of all hosts that could be looked at.
    pub plans: Vec<Arc<Plan>>,
    /// In which order the hosts go.
    pub order: Option<String>,
}

/// A decision: whether hosts are deployed, whose it is, and who is told once it is safe.
type Decision = (bool, String, oneshot::Sender<()>);

/// A run.
#[derive(Debug)]
pub struct Owned {
    /// Where it is.
    pub dir: RunDir,
    pub(super) asks: Arc<Attached>,
    /// How far its hosts are.
    pub latest: Arc<Latest>,
    pleas: Pleas,
    pub(super) wanting: Wanting,
    /// What it waits for.
    pub state: signal::Sender<State>,
    stop: signal::Sender<Stop>,
    decide: Mutex<Option<oneshot::Sender<Decision>>>,
}

impl Owned {
    /// Has its hosts left where that costs nothing.
    pub fn stop(&self) {
        self.stop.send_replace(Stop::Leave);
    }

    /// The plans, once its hosts have been looked at.
    pub fn plans(&self) -> Option<Arc<Plans>> {
        match &*self.state.borrow() {
            State::Meeting => None,
            State::Met(plans) | State::Decided(plans) => Some(Arc::clone(plans)),
        }
    }

    /// Returns when its hosts have been looked at.
    pub async fn met(&self) -> Result<Arc<Plans>, Fault> {
        let mut state = self.state.subscribe();
        let met = state.wait_for(|state| !matches!(state, State::Meeting)).await;
        match met.map(|state| state.clone()) {
            Ok(State::Met(plans) | State::Decided(plans)) => Ok(plans),
            _ => Err(Fault::state("the run ended before its hosts were looked at")),
        }
    }

    /// Decides; returns when that is in the journals.
    pub async fn decide(&self, approve: bool, looked_at: &BTreeMap<String, String>, author: &str) -> Result<(), Fault> {
        let plans = match &*self.state.borrow() {
            State::Meeting => return Err(Fault::state("the hosts are still being looked at: ask for the plans first")),
            State::Met(plans) => Arc::clone(plans),
            State::Decided(_) => return Err(Fault::state("that was decided already")),
        };
        if approve {
            is_what_is_planned(&plans.plans, looked_at)?;
        }
        let decide = self.decide.lock().unwrap_or_else(PoisonError::into_inner).take();
        let decided = || Fault::state("that was decided already");
        let (safe, is_safe) = oneshot::channel();
        decide.ok_or_else(decided)?.send((approve, author.to_owned(), safe)).map_err(|_| decided())?;
        is_safe.await.map_err(|_| Fault::internal("the run ended before the decision was written down"))
    }
}

/// Whoever approves must have looked at what is to be done, and at nothing else.
fn is_what_is_planned(plans: &[Arc<Plan>], looked_at: &BTreeMap<String, String>) -> Result<(), Fault> {
    let able: BTreeMap<&str, &Plan> =
        plans.iter().filter(|plan| plan.refused().is_none()).map(|plan| (plan.host.as_str(), &**plan)).collect();
    if able.is_empty() {
        return Err(Fault::state("no host of the run can be deployed"));
    }
    if let Some(host) = looked_at.keys().find(|host| !able.contains_key(host.as_str())) {
        return Err(Fault::input(format!("`{host}` is no host of the run that can be deployed")));
    }
    for (host, plan) in able {
        match looked_at.get(host) {
            None => return Err(Fault::input(format!("the plan of `{host}` is not among those that were looked at"))),
            Some(sha256) if *sha256 != plan_sha256(plan) => {
                return Err(Fault::input(format!("what was looked at is not the plan of `{host}`")));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// All runs of the daemon that are not over.
#[derive(Debug)]
pub struct Runs {
    /// All runs of the user, whoever follows them.
    pub store: RunStore,
    all: Mutex<BTreeMap<RunId, Arc<Owned>>>,
    /// Everybody who may be asked something, whatever run they are attached to.
    pub(super) anybody: Arc<Attached>,
    tally: Mutex<Tally>,
    /// What people other than the daemon's own user may do.
    pub rights: Rights,
}

impl Runs {
    pub(super) fn new(store: RunStore, rights: Rights) -> Arc<Self> {
        Arc::new(Self { store, all: Mutex::default(), anybody: Arc::default(), tally: Mutex::default(), rights })
    }

    /// The run of that name, if it is one of the daemon's, and `who` may do that to all of its hosts.
    pub fn get_for(&self, who: &Who, right: Right, name: &str) -> Result<Arc<Owned>, Fault> {
        self.find_for(who, right, name)?;
        self.get(name)
    }

    /// The run of that name, whoever follows it, if `who` may do that to all of its hosts.
    pub fn find_for(&self, who: &Who, right: Right, name: &str) -> Result<RunDir, Fault> {
        let run = self.find(name)?;
        if !who.is_owner() {
            let file = run.load().map_err(|error| Fault::internal(error.to_string()))?;
            who.may(right, &file.hosts)?;
        }
        Ok(run)
    }

    /// The run of that name, if it is one of the daemon's.
    pub fn get(&self, name: &str) -> Result<Arc<Owned>, Fault> {
        let run = self.find(name)?;
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let owned = all.get(&run.id).cloned();
        owned.ok_or_else(|| Fault::state(format!("run {} is over, or not one of this daemon's", run.id)))
    }

    /// The run of that name, whoever follows it.
    pub fn find(&self, name: &str) -> Result<RunDir, Fault> {
        self.store.find(Some(name)).map_err(|error| match error {
            JournalError::NoRun(_) | JournalError::NoRuns(_) | JournalError::Ambiguous { .. } => {
                Fault::input(error.to_string())
            }
            error => Fault::internal(error.to_string()),
        })
    }

    /// Whether the daemon has the run.
    pub fn has(&self, run: &RunId) -> bool {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).contains_key(run)
    }

    fn add(&self, owned: &Arc<Owned>) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(owned.dir.id.clone(), Arc::clone(owned));
    }

    fn remove(&self, owned: &Owned) {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).remove(&owned.dir.id);
    }

    /// Begins a run. It ends undecided if whoever has the other end of `replies` leaves before the decision.
    pub(super) fn begin(
        self: &Arc<Self>,
        description: Description,
        mut terms: Terms,
        asks: Arc<Attached>,
        (replies, author): (mpsc::Sender<String>, String),
    ) -> Result<Arc<Owned>, Fault> {
        terms.daemon = true;
        let passphrases: Arc<dyn Passphrases> = Arc::clone(&asks) as _;
        let prepared = Prepared::of(description, terms, &passphrases).map_err(fault)?;
        // The journals are what anybody sees of it, but for progress.
        let (reports, latest) = Latest::of_feed();
        let (stop, stopped) = signal::channel(Stop::No);
        let meeting = tokio::task::block_in_place(|| prepared.begin(&reports, &stopped)).map_err(fault)?;
        let (decide, decided) = oneshot::channel();
        let owned = Arc::new(Owned {
            dir: meeting.dir().clone(),
            asks,
            latest,
            pleas: Arc::clone(&meeting.pleas),
            wanting: Wanting::default(),
            state: signal::channel(State::Meeting).0,
            stop,
            decide: Mutex::new(Some(decide)),
        });
        self.add(&owned);
        let (runs, run) = (Arc::clone(self), Arc::clone(&owned));
        tokio::spawn(async move {
            let ended = run.see_through(meeting, decided, (replies, author)).await;
            runs.over(&run, &ended);
        });
        Ok(owned)
    }

    /// Takes up the runs that a daemon before this one had.
    pub(super) fn resume(self: &Arc<Self>) -> Result<(), JournalError> {
        for dir in self.store.runs()?.into_iter().filter(run::is_kept) {
            let id = dir.id.clone();
            if let Err(why) = self.resume_one(dir) {
                screen::warning(&format!("run {id} can't be taken up again, and stays as it is: {why}"));
            }
        }
        Ok(())
    }

    fn resume_one(self: &Arc<Self>, dir: RunDir) -> Result<(), String> {
        let lock = dir.lock().map_err(|error| error.to_string())?;
        let asks = Arc::new(Attached::default());
        let passphrases: Arc<dyn Passphrases> = Arc::clone(&asks) as _;
        let (reports, latest) = Latest::of_feed();
        let (stop, stopped) = signal::channel(Stop::No);
        let resumed = tokio::task::block_in_place(|| {
            run::resume((dir, lock), &passphrases, &reports, &stopped).map_err(|error| error.message)
        })?;
        let owned = Arc::new(Owned {
            dir: resumed.dir().clone(),
            asks,
            latest,
            pleas: Arc::clone(&resumed.pleas),
            wanting: resumed.wanting.clone(),
            state: signal::channel(State::Decided(Arc::default())).0,
            stop,
            decide: Mutex::new(None),
        });
        self.add(&owned);
        screen::note(&format!("run {} goes on", owned.dir.id));
        let runs = Arc::clone(self);
        tokio::spawn(async move {
            let ended = resumed.ended().await;
            runs.over(&owned, &ended);
        });
        Ok(())
    }

    /// The daemon has nothing to do with a run any more.
    fn over(&self, run: &Owned, ended: &Ended) {
        let id = &run.dir.id;
        for problem in ended.problems.iter().chain(&ended.warning) {
            screen::warning(&format!("run {id}: {problem}"));
        }
        // What went wrong may be mended; then the run goes on when the daemon is started again.
        if ended.problems.is_empty()
            && let Err(error) = run.dir.forget_order()
        {
            screen::warning(&format!("run {id}: {error}"));
        }
        let count = |wanted| ended.ends.iter().flatten().filter(|end| end.outcome == wanted).count();
        let counts = Tally::ENDINGS.map(|ending| format!("{} {ending}", count(ending)));
        screen::note(&format!("run {id} is over: {}", counts.join(", ")));
        let mut tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        ended.ends.iter().flatten().for_each(|end| tally.add(end));
        drop(tally);
        self.remove(run);
    }

    /// What the runs that are over amounted to, since this daemon was started.
    pub fn tally(&self) -> Tally {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The runs that are not over.
    pub fn owned(&self) -> Vec<Arc<Owned>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

impl Owned {
    /// Has hosts do something, in the name of `author`.
    pub async fn wish(&self, hosts: &[String], wish: &Wish, author: &str) -> Result<Vec<Answer>, Fault> {
        let id = run::new_id().map_err(fault)?;
        let answers = inbox::plead_all(&self.pleas, hosts, &id, author, wish).await;
        answers.ok_or_else(|| Fault::state("a host of these is not followed any more"))
    }

    async fn see_through(
        &self,
        meeting: Meeting,
        decided: oneshot::Receiver<Decision>,
        (replies, author): (mpsc::Sender<String>, String),
    ) -> Ended {
        let mut meeting = std::pin::pin!(meeting.met());
        let met = tokio::select! {
            met = &mut meeting => met,
            () = replies.closed() => {
                self.stop();
                meeting.await
            }
        };
        let (plans, able, order) = (met.plans(), met.able(), met.order());
        self.state.send_replace(State::Met(Arc::new(Plans { plans, order })));
        let mut stop = self.stop.subscribe();
        let decision = tokio::select! {
            decision = decided, if !able.is_empty() => decision.ok(),
            _ = stop.wait_for(|stop| stop.asked()), if !able.is_empty() => None,
            () = replies.closed(), if !able.is_empty() => None,
            else => None,
        };
        drop(replies);
        let (go, author, safe) = match decision {
            Some((go, author, safe)) => (go, author, Some(safe)),
            None => (false, author, None),
        };
        let going = met.settle(go, Some(&author));
        self.state.send_modify(|state| {
            if let State::Met(plans) = state {
                *state = State::Decided(Arc::clone(plans));
            }
        });
        if let Some(safe) = safe {
            // Whoever decided may have left.
            let _ = safe.send(());
        }
        going.ended().await
    }
}

/// As a client is told of it.
pub(super) fn fault(error: RunError) -> Fault {
    match error.kind {
        Kind::BadInput => Fault::input(error.message),
        Kind::NotAll => Fault::state(error.message),
        Kind::Internal => Fault::internal(error.message),
    }
}

/// The agent that a client names.
pub(super) fn agent(path: Option<PathBuf>) -> Option<PathBuf> {
    path.filter(|path| path.is_absolute())
}
