//! Runs that a daemon has: they need no terminal, and outlast the daemon's own process.

use crate::deployment::{Deployment, LONG, expect, expect_end, is_event};
use crate::{Outcome, Scenario};
use lab::{Context, Lab, Result, Spec};
use std::time::Duration;

pub const SCENARIOS: &[Scenario] =
    &[Scenario { name: "daemon::killed_during_the_build", run: killed_during_the_build }];

/// Nothing has to boot.
const SHORT: Duration = Duration::from_secs(120);

/// A run is handed over, and its terminal is closed during the build; then the daemon is killed and started again. The
/// host is deployed, and everything was told once, with nobody there whose key would open the new system: the run's own
/// key does, and is gone from it at the end.
fn killed_during_the_build(lab: &Lab) -> Result<Outcome> {
    let web = Deployment::new(lab, Spec::new("daemon"))?;
    web.describe("", "verify_key = true")?;
    let key = web.anemos.dir().join("key");
    std::fs::copy(lab.key(), &key).context("the user's key")?;
    let table = std::fs::read_to_string(web.anemos.dir().join("hosts.toml")).context("hosts.toml")?;
    let (ours, its) = (format!("{:?}", lab.key()), format!("{key:?}"));
    expect(table.contains(&ours), "hosts.toml names another key")?;
    web.anemos.write("hosts.toml", &table.replace(&ours, &its))?;
    // The build goes on when somebody says so in the host's RAM.
    let script = "#!/bin/bash\nset -e\nmkfifo /tmp/go\nanemos-agent note 'ready'\nread -r _ </tmp/go\nexec ./hello\n";
    web.with_hello("payload", script)?;
    let before = web.machine.boot_id()?;
    let daemon = web.anemos.spawn(["serve"])?;
    daemon.wait_stderr("listening", SHORT)?;
    let mut up = web.anemos.spawn(["up", "--serve", "--yes", "--json", "hosts.toml"])?;
    up.wait_json("the payload", LONG, |line| is_event(line, "note") && line["text"] == "ready")?;
    up.kill()?;
    daemon.kill()?;
    std::fs::remove_file(&key).context("the user's key")?;
    let daemon = web.anemos.spawn(["serve"])?;
    daemon.wait_stderr("goes on", SHORT)?;
    let go = web.anemos.run(["shell", "web", "--", "echo go >/tmp/go"], LONG)?;
    expect(go.code() == 0, format!("the payload could not be told to go on: {go:?}"))?;
    let ended = web.anemos.run(["attach", "--all", "--json"], 2 * LONG)?;
    expect_end(&ended, "deployed", "Anemos hello")?;
    web.expect_hello(&before)?;
    let keys = web.machine.ask("cat /root/.ssh/authorized_keys")?;
    expect(!keys.contains("anemos-run-"), format!("the run's key is left: {keys}"))?;
    expect(!ended.stdout.contains("this run's key was to be removed"), "it was not seen that the key is gone")?;
    let numbers: Vec<u64> = ended.json_lines().filter_map(|line| line["number"].as_u64()).collect();
    expect(numbers.iter().copied().eq(1..=numbers.len() as u64), format!("told otherwise than once: {numbers:?}"))?;
    let of = |kind: &str| ended.json_lines().filter(|line| line["type"] == kind).count();
    expect((of("decision"), of("summary")) == (1, 1), "decided or ended otherwise than once")?;
    let attempts = ended.json_lines().filter(|line| is_event(line, "attempt")).count();
    expect(attempts == 1, format!("{attempts} attempts"))?;
    daemon.wait_stderr("is over: 1 deployed", SHORT)?;
    daemon.leave(SHORT).map(|_| Outcome::Passed)
}
