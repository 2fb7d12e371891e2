//! Brings a deployment into a phase and keeps it there, so that a fault surely meets it in that phase.

use std::fmt;

use lab::anemos::{Finished, Running, SmallState};
use lab::archive::Fault;
use lab::link::Way;
use lab::machine::Debugger;
use lab::{Context, Error, Lab, Machine, Result, Spec};
use serde_json::Value;

use super::End;
use crate::deployment::{Deployment, LONG, UP, expect, expect_status, is_event, is_log};
use crate::runs::started;

/// When a fault happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The controller connects to the old system.
    Connect,
    /// The stage is on its way to the host, or looks around there.
    Probe,
    /// The host gets what it lacks from the controller.
    Upload,
    /// The host downloads the base, and the initramfs is put together.
    Stage,
    /// The kernel is loaded, and the controller has not said that it may boot.
    Loaded,
    /// The host was told to boot, and the agent has not been heard of.
    Booting,
    /// The payload runs and has written nothing.
    Building,
    /// The payload runs and has written.
    Written,
    /// The payload has succeeded, and the controller has not acknowledged that.
    Unacknowledged,
    /// The host leaves RAM for its new system.
    Rebooting,
    /// The new system is up and being checked.
    Verifying,
}

impl Phase {
    /// All of them, in their order.
    pub const ALL: [Self; 11] = [
        Self::Connect,
        Self::Probe,
        Self::Upload,
        Self::Stage,
        Self::Loaded,
        Self::Booting,
        Self::Building,
        Self::Written,
        Self::Unacknowledged,
        Self::Rebooting,
        Self::Verifying,
    ];

    /// Its name in commands, files and documents.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Probe => "probe",
            Self::Upload => "upload",
            Self::Stage => "stage",
            Self::Loaded => "loaded",
            Self::Booting => "booting",
            Self::Building => "building",
            Self::Written => "written",
            Self::Unacknowledged => "unacknowledged",
            Self::Rebooting => "rebooting",
            Self::Verifying => "verifying",
        }
    }

    /// Whether the host has not been told to boot yet.
    pub fn is_before_boot(self) -> bool {
        matches!(self, Self::Connect | Self::Probe | Self::Upload | Self::Stage | Self::Loaded)
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a cell changes about an ordinary deployment of `examples/hello`.
pub struct Setup {
    /// The machine.
    pub spec: Spec,
    /// What root does on the old system before the deployment begins.
    pub prepare: String,
    /// Lines of shell that the payload begins with.
    pub first: String,
    /// Lines of shell that the payload ends with, in place of `examples/hello`.
    pub last: Option<String>,
    /// Lines about the host in hosts.toml.
    pub more: String,
    /// The command that is to succeed on the new system.
    pub check: String,
    /// The deadlines, as in hosts.toml.
    pub deadlines: String,
    /// Whether the workstation's journals are on a file system of their own.
    pub small_state: bool,
    /// What the archive does while the host is staged.
    pub answer: Fault,
}

impl Setup {
    /// Of a deployment that goes well where nothing is done to it.
    pub fn new(name: &str) -> Self {
        Self {
            spec: Spec::new(name),
            prepare: String::new(),
            first: String::new(),
            last: None,
            more: String::new(),
            check: "true".into(),
            deadlines: "dead_man = \"60s\", boot = \"3m\", build = \"4m\", reboot = \"5m\", ack = \"20s\"".into(),
            small_state: false,
            answer: Fault::Throttle(BASE_RATE),
        }
    }
}

/// Bytes a second at which the stage takes seconds to arrive.
const STAGE_RATE: u64 = 200_000;
/// Bytes a second at which the rest of what is sent takes seconds.
const UPLOAD_RATE: u64 = 100_000;
/// Bytes a second at which the base takes a minute.
const BASE_RATE: u64 = 1 << 20;
/// What the payload says while it waits.
const BEFORE: &str = "held before writing";
const AFTER: &str = "held after writing";
/// Lets the payload go on.
const SIGN: &str = "anemos-sign";

/// A deployment in some phase.
pub struct Scene {
    /// Machine, archive and workstation.
    pub web: Deployment,
    /// The `anemos up`, unless something ended it.
    pub up: Option<Running>,
    /// The old system's boot id.
    pub before: String,
    /// The phase it was brought into.
    pub phase: Phase,
    /// The file system with the workstation's journals, if it is one of their own.
    pub state: Option<SmallState>,
    /// A hand on the machine's processors that is not to be taken off before the end.
    pub debugger: Option<Debugger>,
}

impl Scene {
    /// Begins a deployment and brings it into the phase.
    pub fn reach(lab: &Lab, setup: Setup, phase: Phase) -> Result<Self> {
        let web = Deployment::new(lab, setup.spec)?;
        if !setup.prepare.is_empty() {
            web.machine.wait_ssh(LONG)?;
            web.machine.ask(&setup.prepare)?;
        }
        let wait =
            |said: &str| format!("echo '{said}'\nuntil grep -qs {SIGN} /sys/block/*/serial; do sleep 0.1; done\n");
        let write = "printf x | dd of=\"$ANEMOS_DISK\" bs=512 seek=1000 conv=notrunc,fsync status=none\n";
        let held = match phase {
            Phase::Building => wait(BEFORE),
            Phase::Written | Phase::Unacknowledged => format!("{write}{}", wait(AFTER)),
            _ => String::new(),
        };
        let last = setup.last.unwrap_or_else(|| "exec ./hello\n".into());
        let script = format!("#!/bin/sh\n{}{held}{last}", setup.first);
        // Long enough for a fault to meet it, unless the fault is about the check.
        let check = if phase == Phase::Verifying { format!("sleep 10; {}", setup.check) } else { setup.check };
        web.describe(&script, &format!("check = {check:?}\ndeadlines = {{ {} }}\n{}", setup.deadlines, setup.more))?;
        web.with_hello("payload", &script)?;
        let before = web.machine.boot_id()?;
        let link = web.machine.link();
        match phase {
            Phase::Connect => link.pause(),
            Phase::Probe => link.throttle(Some(STAGE_RATE)),
            Phase::Stage => web.server.fault("/base/", setup.answer),
            _ => {}
        }
        let state = if setup.small_state { Some(web.anemos.small_state()?) } else { None };
        let up = web.anemos.spawn(UP)?;
        let mut scene = Self { web, up: Some(up), before, phase, state, debugger: None };
        scene.hold()?;
        Ok(scene)
    }

    /// Waits for the phase and keeps the deployment there.
    fn hold(&mut self) -> Result<()> {
        match self.phase {
            Phase::Connect => self.wait_phase("connect"),
            Phase::Probe => self.wait_phase("probe"),
            Phase::Upload => {
                self.wait_phase("upload")?;
                self.machine().link().throttle(Some(UPLOAD_RATE));
                Ok(())
            }
            Phase::Stage => self.wait_phase("stage"),
            Phase::Loaded => {
                self.wait("the stage's work", |line| line["type"] == "event" && line["name"] == "compose")?;
                // The controller does not hear that the kernel is loaded, so it can't say that it may boot.
                self.machine().link().pause_one(Way::Down);
                let loaded = "until [ \"$(cat /sys/kernel/kexec_loaded)\" = 1 ]; do sleep 0.1; done";
                self.machine().ssh_aside(loaded, LONG).map(drop)?;
                let told = self.running()?.json().iter().any(|line| line["phase"] == "boot");
                expect(!told, "the host was told to boot before the link could be held")
            }
            Phase::Booting => {
                self.wait_phase("boot")?;
                // The old system has heard it, and is gone.
                self.machine().wait_serial("Linux version", LONG)
            }
            Phase::Building => self.wait("the payload's line", |line| is_log(line, BEFORE)),
            Phase::Written => {
                self.wait("the payload's line", |line| is_log(line, AFTER))?;
                self.wait("the write", |line| is_event(line, "written"))
            }
            Phase::Unacknowledged => {
                self.wait("the payload's line", |line| is_log(line, AFTER))?;
                self.machine().link().pause_one(Way::Up);
                self.sign()?;
                self.machine().wait_serial("anemos: the payload succeeded", LONG)
            }
            Phase::Rebooting => self.wait_phase("reboot"),
            Phase::Verifying => self.wait_phase("verify"),
        }
    }

    /// The machine.
    pub fn machine(&self) -> &Machine {
        &self.web.machine
    }

    /// The `anemos up` that still runs.
    pub fn running(&mut self) -> Result<&mut Running> {
        self.up.as_mut().ok_or_else(|| Error::new("there is no anemos any more"))
    }

    /// Waits for a line of `anemos up`.
    pub fn wait(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<()> {
        self.running()?.wait_json(what, LONG, wanted).map(drop)
    }

    fn wait_phase(&mut self, phase: &str) -> Result<()> {
        self.wait(phase, |line| started(line, phase))
    }

    /// Lets the payload go on that waits for a sign.
    fn sign(&self) -> Result<()> {
        self.machine().plug_disk(SIGN, 16).map(drop)
    }

    /// Ends what keeps the deployment in its phase, but for a link that was cut.
    pub fn release(&self) -> Result<()> {
        self.machine().link().resume();
        self.machine().link().throttle(None);
        self.web.server.mend();
        if matches!(self.phase, Phase::Building | Phase::Written) { self.sign() } else { Ok(()) }
    }

    /// Waits for the end, and holds it against what is promised: outcome, reason, exit status, the system that runs,
    /// and a journal that is whole.
    pub fn end(mut self, end: &End) -> Result<()> {
        let ended = match self.up.take() {
            // What a payload has printed is told to the end, and may be a gigabyte.
            Some(up) => up.wait(2 * LONG)?,
            None => self.web.anemos.run(["attach", "--json"], LONG)?,
        };
        expect_status(&ended, end.outcome, end.reason, end.status)?;
        self.expect_journal(&ended)?;
        self.expect_system(end.system)
    }

    fn expect_system(&self, system: System) -> Result<()> {
        match system {
            System::Same => expect(self.machine().boot_id()? == self.before, "the old system was restarted"),
            System::Old => self.web.expect_old(&self.before),
            System::New => self.web.expect_hello(&self.before),
            System::Ram => {
                let shell = self.web.anemos.run(["shell", "web", "--", "cat /proc/1/comm"], LONG)?;
                expect(shell.stdout.trim() == "init", format!("no shell in RAM: {shell:?}"))
            }
            System::Any => Ok(()),
        }
    }

    /// What is told from the journal is whole, and ends as it ended.
    fn expect_journal(&self, ended: &Finished) -> Result<()> {
        let summary = ended.summary("web")?;
        let status = self.web.anemos.run(["status", "--json"], LONG)?;
        // The newest run comes first, and a cell may have begun others after its own.
        let listed = status.json().into_iter().rfind(|line| line["host"] == "web").unwrap_or_default();
        expect(listed["outcome"] == summary["outcome"], format!("status says {listed}, the end was {summary}"))?;
        let run = listed["run"].as_str().unwrap_or_default().to_owned();
        let told = self.web.anemos.run(["attach", "--json", "--all", &run], LONG)?;
        let mut numbers: Vec<u64> = told.json_lines().filter_map(|line| line["number"].as_u64()).collect();
        // Attaching again may have come to a newer end, which is told in place of the first.
        numbers.extend(summary["number"].as_u64());
        numbers.sort_unstable();
        numbers.dedup();
        expect(numbers.iter().copied().eq(1..=numbers.len() as u64), format!("gaps in the journal: {numbers:?}"))?;
        // Where lines of output were left out, a gap says which numbers they had.
        let mut next = 1;
        for event in told.json_lines().filter(|line| line["type"] == "event" && line["speaker"] == "agent") {
            let (first, last) = if event["kind"] == "gap" { ("first", "last") } else { ("seq", "seq") };
            expect(
                event[first] == next,
                format!("facts of the agent are missing before {event}: {next} is not there"),
            )?;
            next = event[last].as_u64().unwrap_or_default() + 1;
        }
        let runs = self.web.anemos.state().join("anemos/runs").join(&run);
        for entry in std::fs::read_dir(&runs).context(runs.display())?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            expect(!name.contains("damaged"), format!("the journal was damaged: {name}"))?;
        }
        Ok(())
    }
}

/// What runs on the host in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum System {
    /// The old system, in the same boot.
    Same,
    /// The old system, in another boot.
    Old,
    /// The new system.
    New,
    /// The RAM system, which can be reached.
    Ram,
    /// Whatever: the cell looks by itself, or it is not known, as the reason says.
    Any,
}
