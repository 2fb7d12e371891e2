//! The agent proper: drives the state machine.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use anemos_host::Root;
use anemos_proto::agent::{Leaving, SUBSYSTEM};
use anemos_proto::config::Finish;
use anemos_proto::event::{AgentState, EventKind, Level, Outcome};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::app::{App, Message};
use crate::given::PROBLEMS;
use crate::heart::{Beat, Heart};
use crate::helper::{self, Plea};
use crate::log::Log;
use crate::machine::{Action, Input, Machine};
use crate::paths::Paths;
use crate::payload::{self, Runner};
use crate::ssh::{Keys, Server, Service};
use crate::writes::{self, Counts};
use crate::{clock, console, desk, finish, given, guard, kmsg, memory, note, prepare};

/// How often to look for disks that have come or were written, while the payload runs.
const LOOK: Duration = Duration::from_secs(1);
/// Time for attached controllers to be told that the agent leaves.
const GOODBYE: Duration = Duration::from_secs(8);
/// Deadline `judge`: time to make sure that nothing was written.
const JUDGE: Duration = Duration::from_secs(180);
/// Deadline `seal`: time to write all data of the payload to the disks.
const SEAL: Duration = Duration::from_secs(1800);

/// Runs the agent, which tells init of itself through `heart`. Returns only if the agent can't run, with the reason.
pub fn run(paths: &Paths, held: Option<String>, heart: Heart) -> Result<(), String> {
    let last_words = paths.last_words();
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let _ = fs::write(&last_words, panic.to_string());
        usual(panic);
    }));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    let result = runtime.block_on(Box::pin(serve(paths.clone(), held, heart)));
    if let Err(why) = &result {
        let _ = fs::write(paths.last_words(), why);
    }
    result
}

async fn serve(paths: Paths, held: Option<String>, heart: Heart) -> Result<(), String> {
    fs::create_dir_all(&paths.run).map_err(|e| format!("{}: {e}", paths.run.display()))?;
    let run = given::read_run(&paths)?;
    let host = given::read_host(&paths)?;
    // Before the log opens, so that every event has the right time. An agent before this one has done it already.
    let clock = if paths.machine && held.is_none() { clock::mend(host.wall_ms) } else { None };
    let cap = memory::log_cap(&paths);
    let log = Log::open(&paths.run.join("log"), cap);
    let boot_id = anemos_host::boot_id(&Root::host());
    let baseline = writes::baseline(&paths)?;
    let port = run.ssh_port.unwrap_or(host.ssh_port);
    let (app, messages) = App::new(paths, run, host, log, boot_id);

    let (keys, problems) = Keys::parse(&app.run.authorized_keys);
    let boot_problems = fs::read_to_string(app.paths.run.join(PROBLEMS)).unwrap_or_default();
    let _ = fs::remove_file(app.paths.run.join(PROBLEMS));
    for problem in boot_problems.lines().map(str::to_owned).chain(problems) {
        app.log.note(Level::Warning, problem);
    }
    match clock {
        Some(Ok(text)) => app.log.note(Level::Info, text),
        Some(Err(text)) => app.log.note(Level::Warning, text),
        None => {}
    }
    if keys.is_empty() {
        app.log.note(Level::Error, "nobody can log in: there is no usable key in the run's authorized_keys");
    }
    let seed = app.run.host_key.clone();
    let (opened, channels) = mpsc::unbounded_channel();
    let (close, closing) = watch::channel(false);
    let server = Server::new(seed.expose(), keys, Service { subsystem: SUBSYSTEM, opened }, closing)?;
    let listener =
        Server::bind(app.paths.listen, port).await.map_err(|e| format!("can't listen for SSH on port {port}: {e}"))?;
    let server = tokio::spawn(server.run(listener));
    tokio::spawn(desk::run(app.clone(), channels));

    let (pleas, calls) = mpsc::unbounded_channel();
    helper::listen(app.clone(), pleas).map_err(|e| format!("{}: {e}", app.paths.socket().display()))?;
    let machine = Machine::new(app.run.deadlines, app.run.finish, clock::uptime_ms());
    if app.paths.machine {
        tokio::spawn(kmsg::follow(app.clone(), held.is_none()));
    }
    let machine = match held {
        None => machine,
        Some(reason) => {
            payload::kill_leftovers(&app).await;
            app.log.note(Level::Error, &reason);
            let ready = prepare::was_ready(&app);
            machine.held(reason, ready.is_some(), last_attempt(&app.log))
        }
    };
    let driver = Driver {
        disks: prepare::was_ready(&app).unwrap_or_default(),
        app: app.clone(),
        machine,
        baseline,
        told_written: false,
        heart,
        pass: guard::Pass::default(),
        calls: Some(calls),
        returned_calls: None,
        stop: None,
        close,
        server: Some(server),
        rebooting: Arc::default(),
        port,
    };
    driver.run(messages).await
}

fn last_attempt(log: &Log) -> u32 {
    let (mut cursor, mut attempt) = (crate::log::Cursor::default(), 0);
    while let Ok(events) = log.read(&mut cursor) {
        if events.is_empty() {
            break;
        }
        for event in events {
            if let EventKind::Attempt(n) = event.kind {
                attempt = n;
            }
        }
    }
    attempt
}

struct Driver {
    app: Arc<App>,
    machine: Machine,
    baseline: Counts,
    /// Whether the log of this agent says that a disk was written.
    told_written: bool,
    heart: Heart,
    /// Guards disks that come while the payload runs.
    pass: guard::Pass,
    /// Declared disks, by name.
    disks: Vec<String>,
    /// The payload's calls, while no payload has them.
    calls: Option<mpsc::UnboundedReceiver<Plea>>,
    returned_calls: Option<JoinHandle<mpsc::UnboundedReceiver<Plea>>>,
    stop: Option<mpsc::UnboundedSender<String>>,
    /// Closes the SSH server.
    close: watch::Sender<bool>,
    /// The SSH server's task, until the agent leaves.
    server: Option<JoinHandle<()>>,
    /// Whether reboot(2) is about to be called.
    rebooting: Arc<AtomicBool>,
    port: u16,
}

impl Driver {
    async fn run(mut self, mut messages: mpsc::UnboundedReceiver<Message>) -> Result<(), String> {
        // An agent that init had to start again begins in another state, which controllers are told as soon as they
        // attach.
        self.app.enter(self.machine.state());
        self.show_state();
        self.app.log.append(EventKind::State(self.machine.state()));
        let starting = self.machine.state() == AgentState::Starting;
        let (disks_found, mut found) = mpsc::unbounded_channel();
        let app = self.app.clone();
        tokio::spawn(async move {
            let network = async {
                if app.paths.machine {
                    prepare::network(&app).await;
                    console::say(&console::reachable(app.run.ssh_port.unwrap_or(app.host.ssh_port)));
                }
            };
            // Modules load while the network is being restored, since the network may wait for a module that is not
            // among the first.
            tokio::join!(network, prepare::load_modules(&app));
            if starting {
                match prepare::ready(&app).await {
                    Ok(disks) => {
                        let _ = disks_found.send(disks);
                        app.tell(Input::Ready);
                    }
                    Err(why) => app.tell(Input::NotReady(why)),
                }
            }
        });
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let deadline = self.machine.deadline();
            let message = tokio::select! {
                Some(message) = messages.recv() => message,
                () = until(deadline) => Message::Happened(Input::Tick),
                Some(text) = self.pass.end() => {
                    self.app.log.note(Level::Warning, text);
                    continue;
                }
                _ = look.tick() => {
                    // Reads the counters often, because a disk that fails takes its counters with it.
                    self.look_for_writes().await;
                    self.beat();
                    self.guard();
                    continue;
                }
            };
            while let Ok(disks) = found.try_recv() {
                self.disks = disks;
            }
            // The machine must know of writes before it takes any input, since they decide where it may go.
            self.look_for_writes().await;
            match message {
                Message::Happened(input) => self.step(input, None).await,
                Message::Wanted(input, answer) => self.step(input, Some(answer)).await,
            }
        }
    }

    fn beat(&mut self) {
        let beat = if self.rebooting.load(Relaxed) { Beat::Leaving } else { self.machine.beat() };
        self.heart.beat(beat);
    }

    fn guard(&mut self) {
        if self.machine.state() == AgentState::Running && self.app.paths.machine {
            let (app, disks) = (self.app.clone(), self.disks.clone());
            if let Some(text) = self.pass.begin(clock::uptime_ms(), move || guard::guard(&app, &disks)) {
                self.app.log.note(Level::Warning, text);
            }
        }
    }

    /// Tells the machine of writes. Logs the first of them at once, because an agent that dies later could not report
    /// it any more.
    async fn look_for_writes(&mut self) {
        let written = self.written();
        if written.is_empty() {
            return;
        }
        if !self.told_written {
            self.told_written = true;
            let counts = writes::counts(&self.app.paths.tree);
            for name in writes::lost(&writes::found(&self.app.paths).unwrap_or_default(), &counts) {
                let text = format!(
                    "{name} is gone, or another disk has its name: what was written to it can't be known, so it counts \
                     as written"
                );
                self.app.log.note(Level::Warning, text);
            }
            self.app.log.append(EventKind::Written(written));
            self.step(Input::Written, None).await;
            // Init must know at once, because from now on a hang is no reboot any more.
            return self.beat();
        }
        self.step(Input::Written, None).await;
    }

    fn written(&self) -> Vec<(String, u64)> {
        writes::touched(&self.app.paths, &self.baseline)
    }

    /// Gives the machine an input, answers whoever asked for it, and carries out the machine's actions.
    async fn step(&mut self, input: Input, mut answer: Option<oneshot::Sender<Result<(), String>>>) {
        let mut inputs = vec![input];
        while let Some(input) = inputs.pop() {
            let (actions, result) = match self.machine.handle(clock::uptime_ms(), input) {
                Ok(actions) => (actions, Ok(())),
                Err(reason) => (Vec::new(), Err(reason)),
            };
            self.app.closing.store(self.machine.is_closing(), Relaxed);
            if let Some(answer) = answer.take() {
                let _ = answer.send(result);
                // Lets the answer go out before the actions, which may close the channel of whoever asked.
                tokio::task::yield_now().await;
            }
            for action in actions {
                if let Some(more) = self.act(action).await {
                    inputs.push(more);
                }
            }
            let state = self.machine.state();
            if *self.app.state.borrow() != state {
                self.app.enter(state);
                self.show_state();
            }
        }
    }

    async fn act(&mut self, action: Action) -> Option<Input> {
        let app = &self.app;
        match action {
            Action::Record(kind) => drop(app.log.append(kind)),
            Action::Announce(attempt) => {
                let seq = app.log.append(EventKind::Attempt(attempt));
                return Some(Input::Recorded(seq));
            }
            Action::Judge => {
                let app = app.clone();
                tokio::spawn(async move {
                    let here = app.clone();
                    let judged = guard::apart("judge", JUDGE, move || finish::judge(&here)).await;
                    app.tell(Input::Judged(judged.flatten()));
                });
            }
            Action::Conclude(outcome) => {
                app.log.append(EventKind::Written(self.written()));
                if let Outcome::Failed { reason, .. } = &outcome {
                    console::say_if(app.paths.machine, &format!("failed: {reason}"));
                }
                let seq = app.log.append(EventKind::Outcome(outcome));
                return Some(Input::Recorded(seq));
            }
            Action::Start(_) => {
                // The task of the attempt before this one returns the receiver of calls when it ends.
                if let Some(task) = self.returned_calls.take() {
                    self.calls = task.await.ok();
                }
                let Some(mut calls) = self.calls.take() else {
                    return Some(Input::Broken("the payload's calls got lost".into()));
                };
                // Drops calls of the attempt before this one.
                while calls.try_recv().is_ok() {}
                let (stop, mut stopped) = mpsc::unbounded_channel();
                self.stop = Some(stop);
                writes::expose(&app.paths);
                // The helper accepts the payload's calls only in this state.
                app.state.send_replace(AgentState::Running);
                let runner = Runner::new(app.clone(), self.disks.clone());
                let app = app.clone();
                self.returned_calls = Some(tokio::spawn(async move {
                    let result = runner.run(&mut calls, &mut stopped).await;
                    app.tell(Input::Ended(result));
                    calls
                }));
            }
            Action::Stop(reason) => {
                if let Some(stop) = &self.stop {
                    let _ = stop.send(reason);
                }
            }
            Action::Seal => {
                let app = app.clone();
                tokio::spawn(async move {
                    let here = app.clone();
                    let sealed = guard::apart("seal", SEAL, move || finish::seal(&here)).await;
                    app.tell(match sealed.flatten() {
                        Ok(()) => Input::Sealed,
                        Err(why) => Input::Broken(format!("the payload succeeded, but {why}")),
                    });
                });
            }
            Action::Leave(leaving) => self.leave(leaving),
        }
        None
    }

    /// Begins to leave RAM. The driver goes on meanwhile, since init must hear its heart until the machine reboots.
    fn leave(&mut self, leaving: Leaving) {
        let app = self.app.clone();
        let (finish, text) = match &leaving {
            Leaving::Finish(finish) => (*finish, format!("leaving: {finish:?}")),
            Leaving::OldSystem(why) => (Finish::Reboot, format!("going back to the old system: {why}")),
        };
        console::say_if(app.paths.machine, &text);
        app.leaving.send_replace(Some(leaving));
        self.close.send_replace(true);
        let note = self.machine.unheard().filter(|_| app.paths.machine);
        let (server, rebooting) = (self.server.take(), self.rebooting.clone());
        tokio::spawn(async move {
            if let Some(server) = server {
                let _ = tokio::time::timeout(GOODBYE, server).await;
            }
            let here = app.clone();
            let left = tokio::task::spawn_blocking(move || {
                if let Some(attempt) = note {
                    note::write(&here.run.run, attempt);
                }
                let why = finish::leave(&here, finish, || rebooting.store(true, Relaxed));
                // Leaving failed. Processes that are started from now on may write, so the note might become untrue.
                note::remove();
                why
            });
            app.tell(Input::Broken(left.await.unwrap_or_else(|e| e.to_string())));
        });
    }

    fn show_state(&self) {
        let text = match self.machine.state() {
            AgentState::Starting => "starting".into(),
            AgentState::Waiting => "ready, waiting for the controller".into(),
            AgentState::Running => "the payload is running".into(),
            AgentState::Held(reason) => format!("held: {reason}\n{}", console::reachable(self.port)),
            AgentState::Succeeded => "the payload succeeded".into(),
            AgentState::Returning(reason) => format!("going back to the old system: {reason}"),
        };
        console::say_if(self.app.paths.machine, &text);
    }
}

async fn until(uptime_ms: Option<u64>) {
    match uptime_ms {
        Some(at) => tokio::time::sleep(Duration::from_millis(at.saturating_sub(clock::uptime_ms()))).await,
        None => std::future::pending().await,
    }
}
