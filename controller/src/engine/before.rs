//! Up to the boot: connect, probe, decide, stage. Whatever goes wrong here leaves the host untouched.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anemos_proto::Secret;
use anemos_proto::config::{Deadlines, RunConfig};
use anemos_proto::event::Level;
use anemos_proto::host::HostFacts;
use anemos_proto::stage::{BaseSource, KEPT_OUT, KernelSource, StagePlan, Staged};
use tokio::sync::{Semaphore, oneshot, watch as signal};
use tokio::time::{Instant, sleep_until};

use super::error::Trouble;
use super::fleet::{Seat, Verdict};
use super::limits::LIST;
use super::look::{Look, look};
use super::reporter::{Reporter, now_ms};
use super::root::Way;
use super::said;
use super::stage::{Stage, StageError};
use super::{Decision, Job};
use crate::config::{Become, Host, Kernel, format_duration};
use crate::journal::{OldSystem, Record};
use crate::patience;
use crate::plan::{self, Approval, Choices, Plan, Upload, judge};
use crate::report::{Phase, Update};
use crate::ssh::{self, ConnectError, HostKey, Judgement, Session, Tuning};
use crate::text::quoted;

/// Somebody has to find and type a passphrase.
pub(super) const TYPING: Duration = Duration::from_secs(120);

/// What was found out about a host longer ago than this may not be so any more. The host is looked at again before it
/// is told what to do.
const FRESH: Duration = Duration::from_secs(10);

/// How long the old connection may outlive the stage's last word before the host is looked for anew.
const HANGING_UP: Duration = Duration::from_millis(1500);

/// The host is on its way into RAM, or may be.
pub(super) struct Booted {
    pub old: OldSystem,
    pub last_word: Instant,
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
    mut deadline: Instant,
    name: &'static str,
    work: impl Future<Output = Result<T, StageError>>,
) -> Result<T, StageError> {
    tokio::select! {
        done = patience::until(&mut deadline, work) => done.unwrap_or(Err(StageError::Deadline(name))),
        _ = stop.wait_for(|stop| *stop) => Err(StageError::Stopped),
    }
}

/// What a host that was stopped before the boot is reported with.
const STOPPED: &str = "stopped before the boot; everything was undone";

/// A host that was met: the stage runs on it and has looked around.
struct Met {
    session: Session,
    stage: Stage,
    facts: Box<HostFacts>,
    /// What follows from these facts.
    plan: Arc<Plan>,
    /// When it looked around.
    seen: Instant,
}

/// Connects, starts the stage, and has it look around.
async fn meet(
    job: &Job,
    reporter: &Reporter,
    (seat, probes): (&Seat, &Arc<Semaphore>),
    stop: &mut signal::Receiver<bool>,
) -> Result<Met, NotBooted> {
    let stopped = || NotBooted::Decided("stopped before anything was done".into());
    let wants = job.passwords.open(&job.host.name);
    let probing = tokio::select! {
        permit = Arc::clone(probes).acquire_owned() => permit,
        _ = stop.wait_for(|stop| *stop) => return Err(stopped()),
    };
    reporter.phase(Phase::Connect);
    let session = tokio::select! {
        session = connect(job, reporter) => session?,
        _ = stop.wait_for(|stop| *stop) => return Err(stopped()),
    };
    reporter.record(&Record::Met { host_key: session.host_key.clone() });

    reporter.phase(Phase::Probe);
    let allowed = job.host.deadlines.stage;
    let name = &job.host.name;
    let mut way = Way::of(&job.entry.user, job.host.becomes);
    if let (Some(by), Some(password)) = (job.host.becomes, job.passwords.given(name, &job.entry.user)) {
        way = Way::Password(by, password);
    }
    let (mut probing, mut wrong) = (Some(probing), 0);
    let (stage, deadline) = loop {
        let deadline = Instant::now() + allowed;
        let start = Stage::start(&session, &job.artifacts.stage, &job.artifacts.build, &way);
        let by = match bounded(stop, deadline, "stage", start).await {
            Ok(stage) => break (stage, deadline),
            // It removes itself when its connection ends.
            Err(StageError::Stopped) => return Err(stopped()),
            Err(StageError::Password(by, _)) => by,
            Err(StageError::WrongPassword(by)) if wrong + 1 < TRIES => {
                wrong += 1;
                by
            }
            Err(error) => {
                let trouble = trouble(Phase::Probe, "starting the stage", error, allowed);
                return Err(unless_twin(&session, seat, trouble).await.into());
            }
        };
        // Whoever types keeps no other host from being looked at.
        drop(probing.take());
        let password = tokio::select! {
            typed = typed(job, by, wrong > 0) => typed?,
            _ = stop.wait_for(|stop| *stop) => return Err(stopped()),
        };
        let permit = tokio::select! {
            permit = Arc::clone(probes).acquire_owned() => permit,
            _ = stop.wait_for(|stop| *stop) => return Err(stopped()),
        };
        probing = Some(permit);
        way = Way::Password(by, password);
    };
    drop(wants);
    look_around(job, reporter, session, stage, (seat, deadline, stop)).await
}

/// Times that a password is asked for.
const TRIES: usize = 3;

/// The password with which the user becomes root.
async fn typed(job: &Job, by: Become, wrong: bool) -> Result<Secret, Trouble> {
    let user = &job.entry.user;
    let trouble = |why: String| Trouble::before(Phase::Probe, format!("becoming root by {by} as `{user}`"), why);
    let asked = job.passwords.get(&job.host.name, user, by, wrong);
    asked.await.map_err(|why| {
        let free = "let the user become root without one, by NOPASSWD in sudoers, or run anemos from a terminal";
        trouble(why).hint(free)
    })
}

/// How long it may take to see whether a host that won't be looked at is being looked at under another name.
const TWIN: Duration = Duration::from_secs(10);

/// What went wrong with a host. One that another stage keeps busy may be one of this very run, under another name.
/// The boot id alone does not tell: machines that go on from one snapshot share it. But two machines keep no stage out
/// of each other.
async fn unless_twin(session: &Session, seat: &Seat, trouble: Trouble) -> Trouble {
    if !trouble.why.starts_with(KEPT_OUT) {
        return trouble;
    }
    let deadline = Instant::now() + TWIN;
    let Ok(Look { boot_id, .. }) = look(session, deadline).await else { return trouble };
    match seat.twin(&boot_id, deadline).await {
        Some(other) => same_machine(&other),
        None => trouble,
    }
}

fn same_machine(other: &str) -> Trouble {
    let why = format!("it is the same machine as `{other}`: both have the same boot id");
    Trouble::before(Phase::Probe, "looking at the host", why).hint("take one of the two out of hosts.toml")
}

/// Has the stage look around, and judges what it finds.
async fn look_around(
    job: &Job,
    reporter: &Reporter,
    session: Session,
    mut stage: Stage,
    (seat, deadline, stop): (&Seat, Instant, &mut signal::Receiver<bool>),
) -> Result<Met, NotBooted> {
    let allowed = job.host.deadlines.stage;
    let facts = match bounded(stop, deadline, "stage", stage.probe(reporter)).await {
        Ok(facts) => facts,
        Err(StageError::Stopped) => return Err(undo_stopped(stage).await),
        Err(error) => {
            let trouble = give_up(stage, Phase::Probe, "looking at the host", error, allowed).await;
            return Err(unless_twin(&session, seat, trouble).await.into());
        }
    };
    seat.met(&facts.boot_id);
    reporter.tell(Update::Facts(facts.clone()));
    reporter.phase_done();
    let plan = Arc::new(judge(&facts, choices(job, &session, &stage)));
    Ok(Met { session, stage, facts, plan, seen: Instant::now() })
}

/// Waits for the decision; whatever else it is than an approval of the host's plan, the stage is gone afterwards.
async fn decided(
    mut met: Met,
    mut decision: signal::Receiver<Decision>,
    stop: &mut signal::Receiver<bool>,
    allowed: Duration,
) -> Result<(Met, Approval), NotBooted> {
    let stopped = || Decision::Refuse(STOPPED.into());
    let decided = tokio::select! {
        decided = decision.wait_for(|decision| *decision != Decision::Pending) => {
            decided.map_or_else(|_| stopped(), |decision| decision.clone())
        }
        _ = stop.wait_for(|stop| *stop) => stopped(),
        // The stage says nothing unasked: if it does, or ends, the host is gone.
        ended = met.stage.ended() => {
            return Err(trouble(Phase::Probe, "waiting for the decision", ended, allowed).into());
        }
    };
    let why_not = match approved(decided, &met.plan) {
        Ok(approval) => return Ok((met, approval)),
        Err(why_not) => why_not,
    };
    met.stage.abort().await.map_err(|error| trouble(Phase::Probe, "removing the stage", error, allowed))?;
    met.session.close().await;
    Err(why_not)
}

/// The approval of this plan, if that is what was decided.
fn approved(decision: Decision, plan: &Plan) -> Result<Approval, NotBooted> {
    match decision {
        Decision::Go(approval) => match approval.covers(plan) {
            Ok(()) => Ok(approval),
            Err(why) => Err(NotBooted::Decided(why)),
        },
        Decision::Pending => Err(NotBooted::Decided("nothing was decided".into())),
        Decision::Refuse(why) => Err(NotBooted::Decided(why)),
        Decision::OnlyPlan => Err(NotBooted::OnlyPlan),
    }
}

/// What is left of the meeting with a host, once the host may go on.
enum Still {
    /// All of it.
    Met(Met),
    /// The stage waits, but what it found may not be so any more.
    Waiting(Met),
    /// Nothing: the stage or the connection has ended.
    Gone,
}

/// Waits until the host may go on. The hosts before it may take longer than the stage or the connection last.
async fn turn(
    reporter: &Reporter,
    mut met: Met,
    seat: &mut Seat,
    stop: &mut signal::Receiver<bool>,
) -> Result<Still, NotBooted> {
    let mut ended = false;
    let mut told = String::new();
    let why_not = loop {
        if *stop.borrow() {
            break Some(STOPPED.to_owned());
        }
        match seat.verdict() {
            Verdict::Go => break None,
            Verdict::Never(why) => break Some(why),
            Verdict::Wait(why) if why != told => {
                told.clone_from(&why);
                reporter.tell(Update::Waiting(why));
            }
            Verdict::Wait(_) => {}
        }
        tokio::select! {
            () = seat.changed() => {}
            _ = stop.wait_for(|stop| *stop) => {}
            _ = met.stage.ended(), if !ended => ended = true,
        }
    };
    match why_not {
        None if ended => Ok(Still::Gone),
        None if !told.is_empty() || met.seen.elapsed() > FRESH => Ok(Still::Waiting(met)),
        None => Ok(Still::Met(met)),
        Some(why) if ended => Err(NotBooted::Decided(why)),
        Some(why) => Err(undo_decided(met.stage, why).await),
    }
}

/// Looks at the host again if need be. What is there then is judged again, whole, and must be what was approved.
async fn confirmed(
    job: &Job,
    reporter: &Reporter,
    (still, approval): (Still, &Approval),
    (seat, probes): (&Seat, &Arc<Semaphore>),
    stop: &mut signal::Receiver<bool>,
) -> Result<Met, NotBooted> {
    let met = match still {
        Still::Met(met) => return Ok(met),
        Still::Waiting(Met { session, stage, .. }) => {
            reporter.phase(Phase::Probe);
            let deadline = Instant::now() + job.host.deadlines.stage;
            look_around(job, reporter, session, stage, (seat, deadline, stop)).await?
        }
        Still::Gone => meet(job, reporter, (seat, probes), stop).await?,
    };
    match changed(approval, &met.plan) {
        None => Ok(met),
        Some(trouble) => Err(undo(met.stage, trouble).await.into()),
    }
}

/// Why a host that was looked at again can't be deployed with the approval that it has.
fn changed(approval: &Approval, plan: &Plan) -> Option<Trouble> {
    let differences = approval.differences(plan);
    let why = format!("it is not what was approved any more: {}", differences.join("; "));
    let trouble = Trouble::before(Phase::Probe, "looking at the host again", why);
    (!differences.is_empty()).then(|| trouble.hint("look at the plan again"))
}

pub(super) async fn boot(
    job: &Job,
    reporter: &Reporter,
    (plan, decision): (oneshot::Sender<Arc<Plan>>, signal::Receiver<Decision>),
    seat: &mut Seat,
    probes: &Arc<Semaphore>,
    mut stop: signal::Receiver<bool>,
) -> Result<Booted, NotBooted> {
    let allowed = job.host.deadlines.stage;
    let met = meet(job, reporter, (&*seat, probes), &mut stop).await?;
    // Nobody waiting for the plan means that the decision is made without it.
    let _ = plan.send(Arc::clone(&met.plan));
    let (met, approval) = decided(met, decision, &mut stop, allowed).await?;
    let still = turn(reporter, met, seat, &mut stop).await?;
    let met = confirmed(job, reporter, (still, &approval), (&*seat, probes), &mut stop).await?;
    let Met { session, mut stage, facts, .. } = met;
    let sources = plan::sources(&facts, &choices(job, &session, &stage));
    let plan = stage_plan(job, &session, approval.plan(), sources);
    let blobs = [&job.agent, &job.base.lock, &job.payload].into_iter().chain(&job.base.upload);
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

    // Another host may have shown meanwhile what the payload does.
    if let Err(why) = seat.boot() {
        return Err(undo_decided(stage, why).await);
    }
    let old = remember(job, reporter, &session, &facts, &stage.identity, &staged);
    reporter.phase(Phase::Boot);
    reporter.record(&Record::BootSent { wall_ms: now_ms() });
    if !reporter.attempt(0) {
        let why = reporter.broken().unwrap_or_default();
        return Err(undo(stage, Trouble::before(Phase::Boot, "keeping the journal", why)).await.into());
    }
    // From here on a lost connection proves nothing: it is what a boot looks like.
    let last_word = match patience::within(Duration::from_secs(60), stage.boot(reporter)).await {
        Ok(Ok(last_word)) => last_word,
        Ok(Err(StageError::Failed(failure))) => {
            return Err(trouble(Phase::Boot, "booting", StageError::Failed(failure), allowed).into());
        }
        Ok(Err(_)) | Err(_) => Instant::now(),
    };
    hang_up(&session, last_word).await;
    Ok(Booted { old, last_word })
}

/// Until the old system has let go of the connection, only it would answer.
async fn hang_up(session: &Session, last_word: Instant) {
    let until = last_word + HANGING_UP;
    while !session.is_closed() && Instant::now() < until {
        sleep_until((Instant::now() + Duration::from_millis(50)).min(until)).await;
    }
    session.close().await;
}

async fn connect(job: &Job, reporter: &Reporter) -> Result<Session, Trouble> {
    let allowed = job.host.deadlines.connect;
    let entry = &job.entry;
    let deadline = Instant::now() + allowed;
    let counters = Arc::clone(reporter.counters());
    let tuning = Tuning { algorithms: entry.algorithms.clone(), ..Tuning::default() };
    let connected = ssh::connect(&entry.address, &job.trust.policy(), &counters, deadline, &tuning)
        .await
        .map_err(|error| connect_trouble(job, &error, allowed))?;
    // An authority vouches for a certified key, and may certify another one tomorrow.
    let new = if connected.certified { None } else { job.trust.remember(&connected.host_key) };
    match new {
        Some(Ok(text)) => reporter.say(Level::Warning, text),
        Some(Err(why)) => {
            let text = format!("the new host key {} could not be remembered: {why}", connected.host_key);
            reporter.say(Level::Warning, text);
        }
        None => {}
    }
    let deadline = connected.deadline;
    let typing = if job.user.may_ask() { TYPING } else { Duration::ZERO };
    let trouble =
        |why| Trouble::before(Phase::Connect, format!("logging into {} as `{}`", entry.address, entry.user), why);
    let session = connected
        .authenticate_or_ask(&entry.user, &job.user, deadline + typing)
        .await
        .map_err(|error| trouble(error.to_string()))?;
    if session.by_password {
        say_of_password(job, reporter, session.our_key.as_ref()).map_err(trouble)?;
    }
    Ok(session)
}

/// Says who gets into the new system where a password let us into the old one. An error is that nobody would.
fn say_of_password(job: &Job, reporter: &Reporter, key: Option<&HostKey>) -> Result<(), String> {
    let text = match key {
        Some(key) => format!("no key let us in; {key}, the first of yours, goes into the new system"),
        None if job.authorized_keys.is_empty() => {
            return Err(
                "there is no key of yours to let you into the new system afterwards, since a password does not \
                        go there: give `identity_file` or `authorized_keys` in hosts.toml"
                    .into(),
            );
        }
        None => "no key let us in; the new system lets in the `authorized_keys` of hosts.toml".into(),
    };
    reporter.say(Level::Warning, text);
    Ok(())
}

fn connect_trouble(job: &Job, error: &ConnectError, allowed: Duration) -> Trouble {
    let address = &job.entry.address;
    let trouble = Trouble::before(Phase::Connect, format!("connecting to {address}"), error.why());
    let known_as =
        if address.port == 22 { address.host.clone() } else { format!("[{}]:{}", address.host, address.port) };
    let file = job.host.known_hosts.as_ref();
    let file = file.map_or(String::new(), |file| format!(" -f {}", quoted(&file.display().to_string())));
    match error {
        ConnectError::HostKey { judgement: Judgement::Unknown, .. } => trouble.hint(
            "log in once with ssh to check and remember its key, or give --accept-new if nobody can be in between",
        ),
        ConnectError::HostKey { judgement: Judgement::Changed(_), .. } => trouble.hint(format!(
            "another machine may be answering; if the host was reinstalled, forget its old key with `ssh-keygen -R \
             {}{file}`",
            quoted(&known_as)
        )),
        ConnectError::HostKey { judgement: Judgement::Undecided(_), .. } => trouble.hint(
            "mend that, or, once you have checked the key's fingerprint with whoever runs the host, put the key into \
             known_hosts",
        ),
        ConnectError::Agent { .. } => trouble.hint(
            "`anemos status` says whether one of your runs has it, and `anemos attach` goes on with that; else ask who \
             else deploys this host",
        ),
        ConnectError::Way { fault, .. } => trouble.hint(fault.hint().unwrap_or_default()),
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
    undo_decided(stage, STOPPED.into()).await
}

/// Has the stage undo everything, since it was decided so.
async fn undo_decided(stage: Stage, why: String) -> NotBooted {
    match stage.abort().await {
        Ok(()) => NotBooted::Decided(why),
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
        other => {
            let trouble = Trouble::before(phase, what, reason(other, allowed));
            let hint = said::hint(&trouble.why).unwrap_or_default();
            trouble.hint(hint)
        }
    }
}

fn reason(error: StageError, allowed: Duration) -> String {
    match error {
        StageError::Failed(failure) => format!("{}: {}", failure.what, failure.why),
        StageError::Bootstrap(why) | StageError::Lost(why) | StageError::Protocol(why) => why,
        StageError::Password(by, why) => format!("{by} wants a password: {why}"),
        StageError::WrongPassword(by) => format!("the password was wrong {TRIES} times ({by})"),
        StageError::Deadline(name) if allowed.is_zero() => format!("deadline `{name}` passed"),
        StageError::Deadline(name) => format!("deadline `{name}` ({}) passed", format_duration(allowed)),
        StageError::Stopped => "stopped".into(),
    }
}

/// What is chosen for the host, and what the connection showed of it.
fn choices(job: &Job, session: &Session, stage: &Stage) -> Choices {
    let Job { host, entry, base, .. } = job;
    let address = &entry.address;
    Choices {
        host: host.name.clone(),
        address: format!(
            "{}@{}:{}{}",
            entry.user,
            address.host,
            address.port,
            if address.way.is_direct() { String::new() } else { format!(" {}", address.way) }
        ),
        becomes: stage.becomes,
        host_key: session.host_key.to_string(),
        system: stage.identity.clone(),
        disks: host.all_disks().cloned().collect(),
        stage: Upload { what: "stage".into(), bytes: stage.size, cached: stage.cached },
        blobs: vec![("agent", job.agent.id), ("base.lock", base.lock.id), ("payload", job.payload.id)],
        kernel: wanted_kernel(host),
        locked_kernel: base.kernel.clone(),
        base: base.digest,
        groups: base.groups.clone(),
        images: base.images.clone(),
        base_size: base.image_size,
        sources: base.sources.clone(),
        has_mirror: host.mirror.is_some() || job.fallback_mirror.is_some(),
        has_snapshot: host.snapshot.is_some() || job.fallback_snapshot.is_some(),
        proxy: host.proxy.clone(),
        payload: host.payload.display().to_string(),
        keeps: job.keeps.clone(),
        is_unsigned: job.is_unsigned,
        finish: host.finish,
        check: host.check.clone(),
        verify_key: host.verify_key,
    }
}

fn wanted_kernel(host: &Host) -> KernelSource {
    match host.kernel {
        Kernel::Host => KernelSource::Host,
        Kernel::Locked => KernelSource::Locked,
    }
}

/// What the stage is to do, for a plan that was approved.
fn stage_plan(job: &Job, session: &Session, plan: &Plan, base: Vec<BaseSource>) -> StagePlan {
    let host = &job.host;
    let seconds = |duration: Duration| u32::try_from(duration.as_secs()).unwrap_or(u32::MAX);
    let run_key = job.run_key.public().line().to_owned();
    let mut target_keys = job.authorized_keys.clone();
    // So that the user gets into the new system as into the old one.
    if let Some(ours) = session.our_key.as_ref().map(|key| key.line().to_owned())
        && !target_keys.contains(&ours)
    {
        target_keys.push(ours);
    }
    if host.verify_key {
        target_keys.push(super::withdraw::line(&job.run, &job.run_key.public()));
    }
    StagePlan {
        lock: job.base.lock.id,
        agent: job.agent.id,
        payload: job.payload.id,
        base,
        mirror: host.mirror.clone(),
        fallback_mirror: job.fallback_mirror.clone(),
        snapshot: host.snapshot.clone(),
        fallback_snapshot: job.fallback_snapshot.clone(),
        proxy: host.proxy.clone(),
        kernel: wanted_kernel(host),
        deadline_s: seconds(host.deadlines.stage),
        run: RunConfig {
            run: job.run.clone(),
            host: host.name.clone(),
            host_key: job.agent_seed.clone(),
            authorized_keys: std::iter::once(run_key).chain(job.authorized_keys.iter().cloned()).collect(),
            target_keys,
            disks: plan.disks(),
            keeps: plan.keeps(),
            raw_access: host.raw_access,
            vars: host.vars.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
            secrets: job.secrets.clone(),
            mirror: host.mirror.clone(),
            finish: host.finish,
            ssh_port: host.ssh_port_ram,
            deadlines: Deadlines {
                dead_man_s: seconds(host.deadlines.dead_man),
                payload_s: seconds(host.deadlines.build),
                ack_s: seconds(host.deadlines.ack),
                start_s: seconds(host.deadlines.start),
                hang_s: seconds(host.deadlines.hang),
            },
            payload: job.payload.id.digest,
        },
    }
}

/// Puts what tells the old system from others into the journal.
fn remember(
    job: &Job,
    reporter: &Reporter,
    session: &Session,
    facts: &HostFacts,
    identity: &str,
    staged: &Staged,
) -> OldSystem {
    reporter.staged(staged.downloaded_bytes, staged.initramfs_bytes);
    let old = OldSystem {
        boot_id: facts.boot_id.clone(),
        proved: session.host_key.clone(),
        host_keys: facts.host_keys.iter().take(LIST).filter_map(|line| HostKey::parse(line)).collect(),
        // Without the number of the file system the rest proves nothing.
        identity: if identity.starts_with('-') { String::new() } else { identity.to_owned() },
        agent_port: job.host.ssh_port_ram.unwrap_or(job.entry.address.port),
        downloaded: staged.downloaded_bytes,
        initramfs: staged.initramfs_bytes,
    };
    reporter.record(&Record::OldSystem(old.clone()));
    old
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::plan;

    /// Why this decision doesn't let this plan be carried out.
    fn why_not(decision: Decision, plan: &Plan) -> Option<String> {
        match approved(decision, plan) {
            Ok(_) => None,
            Err(NotBooted::Decided(why)) => Some(why),
            Err(_) => Some("another end".into()),
        }
    }

    #[test]
    fn nothing_is_done_but_what_was_approved() {
        let good = Arc::new(plan());
        let go = |plan: &Arc<Plan>| Decision::Go(Approval::of(plan).unwrap());
        assert_eq!(why_not(go(&good), &good), None);
        assert_eq!(why_not(Decision::Refuse("no".into()), &good), Some("no".into()));
        // Nobody can approve a refused plan, so somebody takes the refusals away and approves what is left.
        let refused = Plan { refusals: vec!["no disk is that:\n  /dev/vda".into(), "no kexec".into()], ..plan() };
        let why = "it can't be deployed as hosts.toml says: no disk is that:; no kexec";
        assert_eq!(why_not(go(&good), &refused), Some(why.into()));
        let other = Arc::new(Plan { host_key: "another".into(), ..plan() });
        let why = why_not(go(&other), &good).unwrap();
        assert!(why.starts_with("it is not what was approved: its host key was `another`"), "{why}");
    }

    #[test]
    fn a_host_that_is_otherwise_than_approved_ends_with_what_is_otherwise() {
        let approval = Approval::of(&Arc::new(plan())).unwrap();
        assert_eq!(changed(&approval, &Plan { upload_bytes: 0, ..plan() }), None);
        let mut relabelled = plan();
        relabelled.wipe[0].contents[1].label = Some("swap".into());
        let reason = changed(&approval, &relabelled).unwrap().reason();
        assert_eq!(
            reason,
            "probe: looking at the host again: it is not what was approved any more: /dev/vda2 was ext4 “root” \
             (20401094656 bytes) and is ext4 “swap” (20401094656 bytes) (look at the plan again)"
        );
    }
}
