//! What scenarios that deploy a host begin with, and what they look for in what `anemos` printed.

use lab::anemos::{Anemos, Finished, host_table};
use lab::archive::Server;
use lab::command::run;
use lab::{Context, Error, Lab, Machine, Result, Spec, bail, base, checkout};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// More than any part of a deployment takes on a machine that is emulated beside another.
pub const LONG: Duration = Duration::from_secs(600);
/// For the old system to come back from its disk.
pub const BOOT: Duration = Duration::from_secs(300);

/// A machine, called `web`, an archive that it can reach, and a workstation.
pub struct Deployment {
    pub machine: Machine,
    pub anemos: Anemos,
    /// The archive.
    pub server: Server,
    hosts: String,
}

impl Deployment {
    /// Of a machine that downloads its base ready-made.
    pub fn new(lab: &Lab, spec: Spec) -> Result<Self> {
        let server = Server::start(lab)?;
        let anemos = Anemos::new(lab, &spec.name)?;
        let machine = Machine::start(lab, Spec { archive: Some(server.port()), ..spec })?;
        let hosts = host_table(lab, "web", &machine) + &base::from_url(lab, &machine)?;
        Ok(Self { machine, anemos, server, hosts })
    }

    /// Writes hosts.toml, with these lines about the host, and a payload with this script.
    pub fn describe(&self, deploy: &str, more: &str) -> Result<()> {
        self.anemos.payload("payload", deploy)?;
        self.anemos.write("hosts.toml", &format!("{}payload = \"payload\"\n{more}\n", self.hosts)).map(drop)
    }

    /// A payload of this script, with `examples/hello` as `./hello` beside it.
    pub fn with_hello(&self, name: &str, deploy: &str) -> Result<PathBuf> {
        let dir = self.anemos.payload(name, deploy)?;
        let hello = checkout().join("examples/hello/payload");
        for entry in fs::read_dir(&hello).context("cannot read examples/hello")? {
            let from = entry.context("cannot read examples/hello")?.path();
            // The script may need more of the base than the example.
            if from.ends_with("needs") {
                continue;
            }
            let name = from.file_name().unwrap_or_default();
            let to = dir.join(if name == "deploy" { "hello".as_ref() } else { name });
            fs::copy(&from, &to).context(format!("cannot make {}", to.display()))?;
        }
        Ok(dir)
    }

    /// `examples/imgbuild-debian` as payload, in place of what was there.
    pub fn with_imgbuild(&self, name: &str) -> Result<PathBuf> {
        let dir = self.anemos.dir().join(name);
        let _ = fs::remove_dir_all(&dir);
        copy_payload("imgbuild-debian", &dir)?;
        Ok(dir)
    }

    /// The machine's system is what `examples/imgbuild-debian` makes, in another boot than `before`.
    pub fn expect_imgbuild(&self, before: &str) -> Result<()> {
        self.machine.wait_boot(before, BOOT)?;
        let facts = self.machine.ask("cat /etc/motd; hostname")?;
        expect(facts.starts_with("Made by makeimg: debian, Debian trixie.\ndebian\n"), format!("not that: {facts}"))
    }

    /// The machine's system is `examples/hello`, in another boot than `before`, with the old host keys.
    pub fn expect_hello(&self, before: &str) -> Result<()> {
        // A server that was asked often while it started lets nobody in for some seconds.
        self.machine.wait_boot(before, BOOT)?;
        let release = self.machine.ask("cat /etc/os-release")?;
        expect(release.contains("ID=anemos-hello"), format!("not the new system: {release}"))
    }

    /// The machine's system is the old one, in another boot than `before`.
    pub fn expect_old(&self, before: &str) -> Result<()> {
        self.machine.wait_boot(before, BOOT)?;
        // Anemos' own system is a Debian, too, but in memory.
        let system = self.machine.ask("cat /etc/os-release; findmnt -no SOURCE /")?;
        let old = system.lines().any(|line| line == "ID=debian") && system.contains("/dev/");
        expect(old, format!("not the old system: {system}"))
    }
}

/// Copies the payload of examples/EXAMPLE to a path where nothing is.
pub fn copy_payload(example: &str, to: &Path) -> Result<()> {
    run(Command::new("cp").arg("-r").arg(checkout().join("examples").join(example).join("payload")).arg(to)).map(drop)
}

/// What `up` is called with.
pub const UP: [&str; 4] = ["up", "--yes", "--json", "hosts.toml"];

/// An error where something is not as it should be.
pub fn expect(holds: bool, what: impl Into<String>) -> Result<()> {
    if holds { Ok(()) } else { Err(Error::new(what)) }
}

/// How the host ended, with the exit status that goes with it.
pub fn expect_end(ended: &Finished, outcome: &str, reason: &str) -> Result<()> {
    expect_status(ended, outcome, reason, if outcome == "deployed" { 0 } else { 4 })
}

/// The same with an exit status that says more.
pub fn expect_status(ended: &Finished, outcome: &str, reason: &str, code: i32) -> Result<()> {
    let summary = ended.summary("web")?;
    let text = summary["reason"].as_str().unwrap_or_default();
    if summary["outcome"] != outcome || !text.contains(reason) || ended.code() != code {
        bail!("wanted {outcome} ({reason}), exit status {code}, got {}: {summary}", ended.code());
    }
    Ok(())
}

/// Whether it is an event of the agent's, of this kind.
pub fn is_event(line: &Value, kind: &str) -> bool {
    line["type"] == "event" && line["speaker"] == "agent" && line["kind"] == kind
}

/// Whether the payload or the kernel printed a line that contains this.
pub fn is_log(line: &Value, text: &str) -> bool {
    is_event(line, "log") && line["text"].as_str().is_some_and(|line| line.contains(text))
}

/// The agent's events, in the order in which they were shown, without the time at which the workstation heard of each
/// and the number there: the journal keeps the time of a line to a tenth of a second, and what it had not got when its
/// process died is told again.
pub fn agent_events(lines: &[Value]) -> Vec<Value> {
    let is_agents = |line: &&Value| line["type"] == "event" && line["speaker"] == "agent";
    let mut events: Vec<Value> = lines.iter().filter(is_agents).cloned().collect();
    for event in events.iter_mut().filter_map(Value::as_object_mut) {
        event.remove("time");
        event.remove("number");
    }
    events
}
