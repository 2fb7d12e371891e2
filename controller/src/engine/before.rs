//! Up to the boot: connect, probe, decide, stage. Whatever goes wrong here leaves the host untouched.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Duration;

use anemos_proto::config::{Deadlines, RunConfig};
use anemos_proto::event::Level;
use anemos_proto::host::{DiskId, HostFacts};
use anemos_proto::stage::{KernelSource, KexecMethod, StagePlan, Staged};
use tokio::sync::{OwnedSemaphorePermit, watch as signal};
use tokio::time::{Instant, sleep_until};

use super::error::Trouble;
use super::reporter::{Reporter, now_ms};
use super::stage::{Stage, StageError};
use super::{Decision, Gate, Job, Prepared};
use crate::config::{Kernel, format_duration, select_disks};
use crate::journal::{OldSystem, Record};
use crate::report::{Phase, Update};
use crate::ssh::{self, ConnectError, HostKey, Judgement, Session, Tuning};

/// Somebody has to find and type a passphrase.
const TYPING: Duration = Duration::from_secs(120);

/// How long the old connection may outlive the stage's last word before the host is looked for anew.
const HANGING_UP: Duration = Duration::from_millis(1500);

/// The host is on its way into RAM, or may be.
pub(super) struct Booted {
    pub old: OldSystem,
    pub last_word: Instant,
    pub slot: OwnedSemaphorePermit,
}

/// The host was not booted, and is as it was.
pub(super) enum NotBooted {
    OnlyPlan,
    Decided(String),
    Trouble(Trouble),
}

impl From<Trouble> for NotBooted {
    fn from(trouble: Trouble) -> Self {
        Self::Trouble(trouble)
    }
}

/// Lets `work` run until the deadline passes or the user stops it.
async fn bounded<T>(
    stop: &mut signal::Receiver<bool>,
    deadline: Instant,
    name: &'static str,
    work: impl Future<Output = Result<T, StageError>>,
) -> Result<T, StageError> {
    tokio::select! {
        done = work => done,
        _ = stop.wait_for(|stop| *stop) => Err(StageError::Stopped),
        () = sleep_until(deadline) => Err(StageError::Deadline(name)),
    }
}

pub(super) async fn boot(
    job: &Job,
    reporter: &mut Reporter,
    gate: Gate,
    mut stop: signal::Receiver<bool>,
) -> Result<Booted, NotBooted> {
    let probing = Arc::clone(&gate.probes).acquire_owned().await;
    reporter.phase(Phase::Connect);
    let session = tokio::select! {
        session = connect(job, reporter) => session?,
        _ = stop.wait_for(|stop| *stop) => return Err(NotBooted::Decided("stopped before anything was done".into())),
    };

    reporter.phase(Phase::Probe);
    let allowed = job.host.deadlines.stage;
    let deadline = Instant::now() + allowed;
    let start = Stage::start(&session, &job.artifacts.stage, &job.artifacts.build);
    let mut stage = bounded(&mut stop, deadline, "stage", start)
        .await
        .map_err(|error| trouble(Phase::Probe, "starting the stage", error, allowed))?;
    let probed = bounded(&mut stop, deadline, "stage", stage.probe(reporter)).await;
    let facts = match probed {
        Ok(facts) => facts,
        Err(error) => return Err(give_up(stage, Phase::Probe, "looking at the host", error, allowed).await.into()),
    };
    reporter.tell(Update::Facts(facts.clone()));
    reporter.phase_done();
    drop(probing);

    let selected = select_disks(job.host.all_disks(), &facts.disks)
        .map(|disks| disks.into_iter().map(|disk| disk.id.clone()).collect::<Vec<_>>());
    let disks = match selected {
        Ok(disks) => disks,
        Err(error) => {
            let trouble = Trouble::before(Phase::Probe, "choosing the disk", error);
            return Err(undo(stage, trouble).await.into());
        }
    };
    let prepared = prepare(job, &facts, &disks, stage.cached, &session.host_key);
    let Gate { plan, mut decision, slots, .. } = gate;
    // Nobody waiting for the plan means that the decision is made without it.
    let _ = plan.send(prepared);
    let stopped = || Decision::Refuse("stopped before the boot".into());
    let decided = tokio::select! {
        decided = decision.wait_for(|decision| *decision != Decision::Pending) => {
            decided.map_or_else(|_| stopped(), |decision| decision.clone())
        }
        _ = stop.wait_for(|stop| *stop) => stopped(),
        // The stage says nothing unasked: if it does, or ends, the host is gone.
        ended = stage.ended() => {
            return Err(trouble(Phase::Probe, "waiting for the decision", ended, allowed).into());
        }
    };
    let why_not = match decided {
        Decision::Go => None,
        Decision::Pending => Some(NotBooted::Decided("nothing was decided".into())),
        Decision::Refuse(why) => Some(NotBooted::Decided(why)),
        Decision::OnlyPlan => Some(NotBooted::OnlyPlan),
    };
    if let Some(why_not) = why_not {
        stage.abort().await.map_err(|error| trouble(Phase::Probe, "removing the stage", error, allowed))?;
        session.close().await;
        return Err(why_not);
    }

    let slot = tokio::select! {
        slot = slots.acquire_owned() => slot.ok(),
        _ = stop.wait_for(|stop| *stop) => None,
    };
    let Some(slot) = slot else { return Err(undo_stopped(stage).await) };
    let plan = stage_plan(job, &session, disks);
    let blobs = [&job.artifacts.agent, &job.base.lock, &job.payload].into_iter().chain(&job.base.upload);
    let blobs: BTreeMap<_, _> = blobs.map(|blob| (blob.id.digest, Arc::clone(&blob.bytes))).collect();
    let deadline = Instant::now() + allowed;
    let staged = bounded(&mut stop, deadline, "stage", stage.stage(plan, &blobs, reporter)).await;
    let staged = match staged {
        Ok(staged) => staged,
        Err(StageError::Stopped) => return Err(undo_stopped(stage).await),
        Err(error) => {
            let phase = reporter.now().unwrap_or(Phase::Stage);
            return Err(give_up(stage, phase, "preparing the boot", error, allowed).await.into());
        }
    };
    if *stop.borrow() {
        return Err(undo_stopped(stage).await);
    }
    if let Some(broken) = reporter.broken() {
        let trouble = Trouble::before(Phase::Stage, "keeping the journal", broken)
            .hint("without a journal nobody could take the run up again, so it was not begun");
        return Err(undo(stage, trouble).await.into());
    }

    let old = remember(job, reporter, &session, &facts, &stage.identity, &staged);
    reporter.phase(Phase::Boot);
    reporter.record(&Record::BootSent { wall_ms: now_ms() });
    if !reporter.sync() {
        let why = reporter.broken().unwrap_or_default().to_owned();
        return Err(undo(stage, Trouble::before(Phase::Boot, "keeping the journal", why)).await.into());
    }
    // From here on a lost connection proves nothing: it is what a boot looks like.
    let last_word = match tokio::time::timeout(Duration::from_secs(60), stage.boot(reporter)).await {
        Ok(Ok(last_word)) => last_word,
        Ok(Err(StageError::Failed(failure))) => {
            return Err(trouble(Phase::Boot, "booting", StageError::Failed(failure), allowed).into());
        }
        Ok(Err(_)) | Err(_) => Instant::now(),
    };
    hang_up(&session, last_word).await;
    Ok(Booted { old, last_word, slot })
}

/// Until the old system has let go of the connection, only it would answer.
async fn hang_up(session: &Session, last_word: Instant) {
    let until = last_word + HANGING_UP;
    while !session.is_closed() && Instant::now() < until {
        sleep_until((Instant::now() + Duration::from_millis(50)).min(until)).await;
    }
    session.close().await;
}

async fn connect(job: &Job, reporter: &mut Reporter) -> Result<Session, Trouble> {
    let allowed = job.host.deadlines.connect;
    let entry = &job.entry;
    let deadline = Instant::now() + allowed;
    let counters = Arc::clone(&reporter.counters);
    let connected = ssh::connect(&entry.address, &job.trust.policy(), &counters, deadline, &Tuning::default())
        .await
        .map_err(|error| connect_trouble(job, &error, allowed))?;
    match job.trust.remember(&connected.host_key) {
        Some(Ok(text)) => reporter.say(Level::Warning, text),
        Some(Err(why)) => {
            let text = format!("the new host key {} could not be remembered: {why}", connected.host_key);
            reporter.say(Level::Warning, text);
        }
        None => {}
    }
    let typing = if std::io::stdin().is_terminal() { TYPING } else { Duration::ZERO };
    connected.authenticate(&entry.user, &job.user, deadline + typing).await.map_err(|error| {
        Trouble::before(Phase::Connect, format!("logging into {} as `{}`", entry.address, entry.user), error)
    })
}

fn connect_trouble(job: &Job, error: &ConnectError, allowed: Duration) -> Trouble {
    let address = &job.entry.address;
    let trouble = Trouble::before(Phase::Connect, format!("connecting to {address}"), error);
    match error {
        ConnectError::HostKey { judgement: Judgement::Unknown, .. } => trouble.hint(
            "log in once with ssh to check and remember its key, or give --accept-new if nobody can be in between",
        ),
        ConnectError::HostKey { judgement: Judgement::Changed(_), .. } => trouble.hint(
            "another machine may be answering; if the host was reinstalled, remove its old key with ssh-keygen -R",
        ),
        ConnectError::Timeout { .. } => trouble.hint(format!("deadline `connect` is {}", format_duration(allowed))),
        _ => trouble,
    }
}

/// Has the stage undo everything after something else went wrong.
async fn undo(stage: Stage, mut trouble: Trouble) -> Trouble {
    if let Err(error) = stage.abort().await {
        let more = reason(error, Duration::ZERO);
        trouble.why = format!("{}; and the stage did not say that it has cleaned up: {more}", trouble.why);
    }
    trouble
}

async fn undo_stopped(stage: Stage) -> NotBooted {
    match stage.abort().await {
        Ok(()) => NotBooted::Decided("stopped before the boot; everything was undone".into()),
        Err(error) => trouble(Phase::Stage, "undoing what was prepared", error, Duration::ZERO).into(),
    }
}

/// After an error of the stage's: has it undo everything, unless it has.
async fn give_up(stage: Stage, phase: Phase, what: &str, error: StageError, allowed: Duration) -> Trouble {
    let undone = matches!(error, StageError::Failed(_) | StageError::Lost(_) | StageError::Bootstrap(_));
    let trouble = trouble(phase, what, error, allowed);
    if undone { trouble } else { undo(stage, trouble).await }
}

fn trouble(phase: Phase, what: &str, error: StageError, allowed: Duration) -> Trouble {
    match error {
        StageError::Failed(failure) => Trouble::before(phase, failure.what, failure.why).hint(failure.hint),
        other => Trouble::before(phase, what, reason(other, allowed)),
    }
}

fn reason(error: StageError, allowed: Duration) -> String {
    match error {
        StageError::Failed(failure) => format!("{}: {}", failure.what, failure.why),
        StageError::Bootstrap(why) | StageError::Lost(why) | StageError::Protocol(why) => why,
        StageError::Deadline(name) if allowed.is_zero() => format!("deadline `{name}` passed"),
        StageError::Deadline(name) => format!("deadline `{name}` ({}) passed", format_duration(allowed)),
        StageError::Stopped => "stopped".into(),
    }
}

fn prepare(job: &Job, facts: &HostFacts, disks: &[DiskId], stage_cached: bool, key: &HostKey) -> Prepared {
    let mut uploads = vec![("stage", job.artifacts.stage.gz.len() as u64, stage_cached)];
    let blobs = [("agent", &job.artifacts.agent), ("base.lock", &job.base.lock), ("payload", &job.payload)];
    for (what, blob) in blobs.into_iter().chain(job.base.upload.iter().map(|blob| ("base", blob))) {
        let cached = match what {
            "base" => facts.cached_bases.contains(&job.base.image),
            _ => facts.cached_blobs.contains(&blob.id.digest),
        };
        uploads.push((what, blob.id.size, cached));
    }
    let mut warnings = Vec::new();
    if facts.disks.iter().filter(|disk| disks.contains(&disk.id)).any(|disk| disk.read_only) {
        warnings.push("a disk that the payload may write is read-only".into());
    }
    Prepared {
        host: job.host.name.clone(),
        facts: Box::new(facts.clone()),
        host_key: key.to_string(),
        disks: disks.iter().map(|id| id.name.clone()).collect(),
        uploads,
        warnings,
    }
}

fn stage_plan(job: &Job, session: &Session, disks: Vec<DiskId>) -> StagePlan {
    let host = &job.host;
    let seconds = |duration: Duration| u32::try_from(duration.as_secs()).unwrap_or(u32::MAX);
    let run_key = job.run_key.public().line().to_owned();
    let mut target_keys = job.authorized_keys.clone();
    let ours = session.our_key.line().to_owned();
    // So that the user gets into the new system as into the old one.
    if !target_keys.contains(&ours) {
        target_keys.push(ours);
    }
    StagePlan {
        lock: job.base.lock.id,
        agent: job.artifacts.agent.id,
        payload: job.payload.id,
        base: job.base.sources.clone(),
        mirror: host.mirror.clone(),
        fallback_mirror: job.fallback_mirror.clone(),
        snapshot: host.snapshot.clone(),
        kernel: match host.kernel {
            Kernel::Host => KernelSource::Host,
            Kernel::Locked => KernelSource::Locked,
        },
        load: KexecMethod::Auto,
        cmdline_extra: String::new(),
        deadline_s: seconds(host.deadlines.stage),
        run: RunConfig {
            run: job.run.clone(),
            host: host.name.clone(),
            host_key: job.agent_seed.clone(),
            authorized_keys: std::iter::once(run_key).chain(job.authorized_keys.iter().cloned()).collect(),
            target_keys,
            disks,
            vars: host.vars.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
            secrets: job.secrets.clone(),
            mirror: host.mirror.clone(),
            finish: host.finish,
            ssh_port: host.ssh_port_ram,
            deadlines: Deadlines {
                dead_man_s: seconds(host.deadlines.dead_man),
                payload_s: seconds(host.deadlines.build),
                ack_s: seconds(host.deadlines.ack),
            },
            payload: job.payload.id.digest,
        },
    }
}

/// Puts what tells the old system from others into the journal.
fn remember(
    job: &Job,
    reporter: &mut Reporter,
    session: &Session,
    facts: &HostFacts,
    identity: &str,
    staged: &Staged,
) -> OldSystem {
    reporter.downloaded = staged.downloaded_bytes;
    reporter.initramfs = staged.initramfs_bytes;
    let old = OldSystem {
        boot_id: facts.boot_id.clone(),
        proved: session.host_key.clone(),
        host_keys: facts.host_keys.iter().filter_map(|line| HostKey::parse(line)).collect(),
        // Without the number of the file system the rest proves nothing.
        identity: if identity.starts_with('-') { String::new() } else { identity.to_owned() },
        agent_port: job.host.ssh_port_ram.unwrap_or(job.entry.address.port),
        downloaded: staged.downloaded_bytes,
        initramfs: staged.initramfs_bytes,
    };
    reporter.record(&Record::OldSystem(old.clone()));
    old
}
