//! The conversation with the controller. One thread listens and decides; probing and staging run in others, so that an
//! abort, the end of the connection and every deadline are seen at any time.
//!
//! The states (`Phase`), the requests that lead from one to the next, and (in brackets) the replies:
//!
//! ```text
//!              Probe                          Stage
//!  Probing <--------------- Idle -------------------------> Staging ----------------> Staged
//!     |                      ^                              [Need …]   [Staged]        |
//!     +----------------------+                                                           | Boot
//!             [Facts]                                                                    v
//!                                                                [Booting], the kexec, or a restart
//! ```
//!
//! - Probing and Staging end by themselves. A probe or a staging that fails ends the conversation.
//! - `Blob` is taken in every state, if a staging has asked for that blob.
//! - `Abort`, the end of the connection, a signal, a deadline that passes (Idle and Staged: an hour; Probing: a minute;
//!   Staging: the plan's) and every request that the diagram doesn't show end the conversation from every state: what
//!   was loaded is unloaded, the private directory is removed, and then the reply is [Aborted] or [Failed].
//! - In a container Stage and Boot fail, so that nothing is done to the system around it.
//! - After [Booting] the stage reads nothing more that would stop it.
//!
//! The order is held by `Conversation::phase`; the step that a staging has got to is known to its thread only.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use anemos_base::{Fetcher, Limits};
use anemos_host::Root;
use anemos_proto::host::HostFacts;
use anemos_proto::stage::{StagePlan, StageReply, StageRequest, Staged};

use crate::blobs::Blobs;
use crate::boot;
use crate::error::{Fault, Result};
use crate::facts;
use crate::gate::Gate;
use crate::guardian::Guardian;
use crate::kexec::refusal;
use crate::private_dir::{self, PrivateDir};
use crate::report::Report;
use crate::stage::Job;
use crate::sys;
use crate::wire::{self, Input, Output};

/// Time for a probe. One that takes longer waits for a device that doesn't answer.
const PROBE: Duration = Duration::from_secs(60);

/// Time for a person to answer the controller's question.
const SILENCE: Duration = Duration::from_secs(3600);

/// Time for the last reply to be sent.
const LAST_WORD: Duration = Duration::from_secs(5);

/// Time for the controller to close its side before the boot.
const GOODBYE: Duration = Duration::from_secs(5);

/// How the stage was started.
pub struct Options {
    /// The private directory.
    pub dir: PathBuf,
    /// Where facts are read from.
    pub root: Root,
    /// This build, for people.
    pub build: String,
}

enum Message {
    Input(Input),
    Signal(i32),
    Probed(Result<Box<HostFacts>>),
    Staged(Result<(Staged, bool)>),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nothing under way.
    Idle,
    Probing,
    Staging,
    /// The kernel is loaded, and the controller may say Boot.
    Staged,
}

/// Speaks with the controller until one of them ends it.
pub fn serve(options: &Options) -> ExitCode {
    sys::signal::block();
    sys::signal::ignore_hangup();
    // Before any other thread runs, as a fork wants it.
    let started = Guardian::start(&options.root).and_then(|guardian| start(options, guardian));
    match started {
        Ok(code) => code,
        Err(error) => {
            eprintln!("anemos-stage: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Finds out about the host.
fn probe(root: &Root, gate: &Gate) -> Result<HostFacts> {
    let mut facts = facts::collect(root)?;
    facts.kexec.refused = refusal::of_own_image(root, gate, &facts.kexec, &facts.kernel_release)?;
    Ok(facts)
}

fn start(options: &Options, guardian: Guardian) -> io::Result<ExitCode> {
    // If memory runs out, the stage ends, and nothing that the host runs does.
    _ = std::fs::write("/proc/self/oom_score_adj", "1000");
    let output = Output::start(io::stdout(), &options.build)?;
    let (sender, receiver) = mpsc::channel();
    let (inputs, build) = (sender.clone(), options.build.clone());
    std::thread::Builder::new()
        .name("input".into())
        .spawn(move || wire::read(io::stdin(), &build, |input| inputs.send(Message::Input(input)).is_ok()))?;
    let signals = sender.clone();
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        while let Ok(signal) = sys::signal::wait() {
            if signals.send(Message::Signal(signal)).is_err() {
                return;
            }
        }
    })?;
    let dir = match PrivateDir::take(&options.dir) {
        Ok(dir) => dir,
        Err(fault) => {
            // The directory is left alone: the stage that has it removes it.
            output.send(&StageReply::Failed(fault.into_failure()));
            output.flush(LAST_WORD);
            return Ok(ExitCode::FAILURE);
        }
    };
    let gate = Arc::new(Gate::new(guardian));
    let (panicked, path) = (Arc::clone(&gate), options.dir.clone());
    crate::panic::report_to(output.clone(), move || {
        panicked.abandon();
        _ = private_dir::remove(&path);
    });
    let conversation = Conversation {
        root: options.root.clone(),
        dir,
        report: Report::new(output.clone()),
        output,
        sender,
        blobs: Arc::default(),
        gate,
        fetcher: Arc::new(Fetcher::new(Limits::default())),
        phase: Phase::Idle,
        feeds_bmc: false,
        deadline: (Instant::now() + SILENCE, SILENCE),
    };
    Ok(conversation.run(&receiver))
}

struct Conversation {
    root: Root,
    dir: PrivateDir,
    output: Output,
    report: Report,
    sender: Sender<Message>,
    blobs: Arc<Blobs>,
    gate: Arc<Gate>,
    fetcher: Arc<Fetcher>,
    phase: Phase,
    /// Whether the kernel that was loaded feeds a BMC's watchdog.
    feeds_bmc: bool,
    /// When the phase must be over, and how long it was given.
    deadline: (Instant, Duration),
}

/// How the conversation ends, if not by a boot.
enum End {
    /// The controller asked for it.
    Aborted,
    /// The controller has gone.
    Gone,
    Failed(Fault),
}

impl Conversation {
    fn run(mut self, messages: &Receiver<Message>) -> ExitCode {
        loop {
            let left = self.deadline.0.saturating_duration_since(Instant::now());
            let ended = match messages.recv_timeout(left) {
                Ok(Message::Input(Input::Request(request))) if *request == StageRequest::Boot => {
                    // boot returns only if it could not begin.
                    Err(self.boot(messages))
                }
                Ok(message) => self.take(message),
                Err(RecvTimeoutError::Timeout) => Err(self.too_late()),
                // Can't happen, since this struct holds a sender itself.
                Err(RecvTimeoutError::Disconnected) => Ok(Some(End::Gone)),
            };
            match ended {
                Ok(None) => {}
                Ok(Some(end)) => return self.end(end),
                Err(fault) => return self.end(End::Failed(fault)),
            }
        }
    }

    fn take(&mut self, message: Message) -> Result<Option<End>> {
        match message {
            Message::Input(Input::Request(request)) => return self.request(*request),
            Message::Input(Input::Closed) => return Ok(Some(End::Gone)),
            Message::Input(Input::Broken(why)) => {
                return Err(Fault::new("understanding the controller", why));
            }
            Message::Signal(signal) => {
                return Err(Fault::new("running the stage", format!("it was ended by signal {signal}")));
            }
            Message::Probed(facts) => {
                self.output.send(&StageReply::Facts(facts?));
                self.enter(Phase::Idle, SILENCE);
            }
            Message::Staged(staged) => {
                let (staged, feeds_bmc) = staged?;
                self.feeds_bmc = feeds_bmc;
                self.output.send(&StageReply::Staged(staged));
                self.enter(Phase::Staged, SILENCE);
            }
        }
        Ok(None)
    }

    fn request(&mut self, request: StageRequest) -> Result<Option<End>> {
        let unexpected = |what: &str| Err(Fault::new(format!("answering {what}"), "it came at the wrong time"));
        match (request, self.phase) {
            (StageRequest::Abort, _) => return Ok(Some(End::Aborted)),
            (StageRequest::Probe, Phase::Idle) => self.probe()?,
            (StageRequest::Stage(plan), Phase::Idle) => self.stage(*plan)?,
            (StageRequest::Blob { digest, data }, _) => self.blobs.receive(digest, &data)?,
            (StageRequest::Probe, _) => return unexpected("Probe"),
            (StageRequest::Stage(_), _) => return unexpected("Stage"),
            (StageRequest::Boot, _) => return unexpected("Boot"),
        }
        Ok(None)
    }

    fn enter(&mut self, phase: Phase, limit: Duration) {
        self.phase = phase;
        self.deadline = (Instant::now() + limit, limit);
    }

    fn spawn(&self, name: &str, work: impl FnOnce() -> Message + Send + 'static) -> Result<()> {
        let sender = self.sender.clone();
        let work = move || _ = sender.send(work());
        let started = std::thread::Builder::new().name(name.into()).spawn(work);
        started.map(|_| ()).map_err(|error| Fault::new("starting a thread", error))
    }

    fn probe(&mut self) -> Result<()> {
        self.enter(Phase::Probing, PROBE);
        let (root, gate) = (self.root.clone(), Arc::clone(&self.gate));
        self.spawn("probe", move || Message::Probed(probe(&root, &gate).map(Box::new)))
    }

    fn stage(&mut self, plan: StagePlan) -> Result<()> {
        // The plan refuses a container. Whoever asks all the same must not get at the system around it.
        facts::inside::not_in_container(&self.root)?;
        self.enter(Phase::Staging, Duration::from_secs(plan.deadline_s.into()));
        self.dir.say(&format!("run {}", plan.run.run)).map_err(|error| Fault::new("writing the lock", error))?;
        let job = Job {
            root: self.root.clone(),
            dir: self.dir.path().to_owned(),
            plan,
            blobs: Arc::clone(&self.blobs),
            fetcher: Arc::clone(&self.fetcher),
            gate: Arc::clone(&self.gate),
            report: self.report.clone(),
            output: self.output.clone(),
        };
        self.spawn("stage", move || Message::Staged(job.run()))
    }

    fn too_late(&self) -> Fault {
        let seconds = self.deadline.1.as_secs();
        let (what, doing) = match self.phase {
            Phase::Idle | Phase::Staged => ("waiting for the controller", None),
            Phase::Probing => ("probing the host", None),
            Phase::Staging => ("staging", self.report.current()),
        };
        let doing = doing.map_or(String::new(), |doing| format!(", and was at: {doing}"));
        Fault::new(what, format!("it took longer than its {seconds} s{doing}"))
    }

    /// Boots what is staged. Returns only if it could not be begun.
    fn boot(&mut self, messages: &Receiver<Message>) -> Fault {
        let booting = |why: &str| Fault::new("booting", why);
        if let Err(fault) = facts::inside::not_in_container(&self.root) {
            return fault;
        }
        if self.phase != Phase::Staged {
            return booting("nothing is staged");
        }
        if !self.root.is_real() {
            return booting("the host's files were read from another root");
        }
        if !anemos_host::kexec::is_loaded(&self.root) {
            return booting("the kernel that was loaded is gone: somebody else unloaded it");
        }
        boot::detach(&self.root);
        self.output.send(&StageReply::Booting);
        self.output.flush(GOODBYE);
        let deadline = Instant::now() + GOODBYE;
        while let Ok(message) = messages.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            if matches!(message, Message::Input(Input::Closed | Input::Broken(_))) {
                break;
            }
        }
        // An error is ignored: the boot matters more than files that are left.
        _ = self.dir.remove();
        boot::go(&self.root, self.gate.guardian(), self.feeds_bmc)
    }

    fn end(&self, end: End) -> ExitCode {
        // Undoes everything before it answers, so that whoever reads the answer may rely on it.
        self.fetcher.cancel();
        let unloaded = self.gate.close().map_err(|error| format!("the loaded kernel could not be unloaded: {error}"));
        let removed = self.dir.remove().map_err(|fault| fault.to_string());
        let left: Vec<_> = [unloaded, removed].into_iter().filter_map(std::result::Result::err).collect();
        let (reply, code) = match end {
            End::Gone => (None, ExitCode::FAILURE),
            End::Aborted if left.is_empty() => (Some(StageReply::Aborted), ExitCode::SUCCESS),
            End::Aborted => {
                let fault = Fault::new("undoing the staging", left.join("; "));
                (Some(StageReply::Failed(fault.into_failure())), ExitCode::FAILURE)
            }
            End::Failed(fault) => {
                let mut failure = fault.into_failure();
                for text in left {
                    failure.why = format!("{}; also, {text}", failure.why);
                }
                (Some(StageReply::Failed(failure)), ExitCode::FAILURE)
            }
        };
        if let Some(reply) = reply {
            self.output.send(&reply);
            self.output.flush(LAST_WORD);
        }
        code
    }
}
