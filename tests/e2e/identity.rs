//! Who answers: before the boot, and after it.

use crate::runs::{LONG, started};
use crate::{Outcome, Scenario};
use lab::anemos::{Anemos, host_table};
use lab::archive::Server;
use lab::command::{run, run_with_input};
use lab::impostor::Impostor;
use lab::link::{Link, Target};
use lab::{Context, Lab, Machine, Result, Spec, bail, base, ssh};
use std::process::Command;
use std::time::Duration;

pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "identity::wrong_host_key_before", run: wrong_host_key_before },
    Scenario { name: "identity::impostor_after_kexec", run: impostor_after_kexec },
];

/// The lab's public key, which an impostor lets in so that nothing but the host key could warn us.
fn lab_key(lab: &Lab) -> Result<String> {
    std::fs::read_to_string(lab.key().with_extension("pub")).context("the lab's key")
}

/// Before anything was sent: an impostor in the host's place, a host that nobody knows, and a revoked key.
fn wrong_host_key_before(lab: &Lab) -> Result<Outcome> {
    let machine = Machine::start(lab, Spec::new("wrong-key"))?;
    let before = machine.boot_id()?;
    let anemos = Anemos::new(lab, "wrong-key")?;
    anemos.payload("payload", "#!/bin/sh\nexit 1\n")?;
    let table = format!("{}payload = \"payload\"\n", host_table(lab, "web", &machine));
    anemos.write("hosts.toml", &table)?;
    let up = ["up", "--yes", "--json", "hosts.toml"];

    let impostor = Impostor::start(&machine.dir().join("impostor"), &lab_key(lab)?)?;
    let honest = machine.link().target();
    machine.link().redirect(Target::Here(impostor.address()));
    let ended = anemos.run(up, Duration::from_secs(60))?;
    assert_eq!(ended.code(), 4, "{}", ended.stderr);
    let summary = ended.summary("web")?;
    assert_eq!(summary["outcome"], "untouched");
    let reason = summary["reason"].as_str().unwrap_or_default();
    let theirs = fingerprint(&impostor_key(&machine)?)?;
    let known = machine.dir().join("known_hosts").display().to_string();
    for part in [theirs.as_str(), known.as_str(), "ssh-keygen -R", "connect"] {
        assert!(reason.contains(part), "no {part:?} in: {reason}");
    }
    assert_eq!(impostor.connections(), 1);
    impostor.assert_told_nothing()?;
    machine.link().redirect(honest);

    // Nothing is known of the host: trust on first use has to be asked for.
    anemos.write("hosts.toml", &table.replace(&known, &anemos.dir().join("empty").display().to_string()))?;
    let ended = anemos.run(up, Duration::from_secs(60))?;
    assert_eq!(ended.code(), 4, "{}", ended.stderr);
    let reason = ended.summary("web")?["reason"].as_str().unwrap_or_default().to_owned();
    let own = machine.host_keys().lines().map(fingerprint).collect::<Result<Vec<_>>>()?;
    assert!(own.iter().any(|own| reason.contains(own)) && reason.contains("--accept-new"), "{reason}");

    let revoked: String = machine.known_hosts().lines().flat_map(|line| [line, "\n@revoked ", line, "\n"]).collect();
    let file = anemos.write("revoked", &revoked)?;
    anemos.write("hosts.toml", &table.replace(&known, &file.display().to_string()))?;
    let ended = anemos.run([&up[..], &["--accept-new"]].concat(), Duration::from_secs(60))?;
    assert_eq!(ended.code(), 4, "{}", ended.stderr);
    let reason = ended.summary("web")?["reason"].as_str().unwrap_or_default().to_owned();
    assert!(reason.contains("@revoked"), "{reason}");

    assert_eq!(machine.boot_id()?, before);
    let left = machine.ssh("ls -d /var/lib/anemos /root/.anemos /run/anemos 2>/dev/null; true")?;
    assert_eq!(left, "", "something was left on the host");
    Ok(Outcome::Passed)
}

/// After the kexec somebody else answers in the host's place. It learns nothing, and when the host is back the run goes
/// on.
fn impostor_after_kexec(lab: &Lab) -> Result<Outcome> {
    let server = Server::start(lab)?;
    let machine = Machine::start(lab, Spec { archive: Some(server.port()), ..Spec::new("impostor") })?;
    let anemos = Anemos::new(lab, "impostor")?;
    anemos.payload("payload", "#!/bin/sh\necho reached the payload\nexec sleep 600\n")?;
    let table =
        format!("{}payload = \"payload\"\n{}", host_table(lab, "web", &machine), base::from_url(lab, &machine)?);
    anemos.write("hosts.toml", &table)?;
    let mut running = anemos.spawn(["up", "--yes", "--json", "hosts.toml"])?;
    running.wait_json("boot", LONG, |line| started(line, "boot"))?;

    // It would let in the run's key as well: nothing but its host key gives it away.
    let admits = format!("{}{}", lab_key(lab)?, run_key(&anemos)?);
    let impostor = Impostor::start(&machine.dir().join("impostor"), &admits)?;
    let honest = machine.link().target();
    machine.link().redirect(Target::Here(impostor.address()));
    let theirs = fingerprint(&impostor_key(&machine)?)?;
    let told = running.wait_json("word about the impostor", LONG, |line| {
        line["type"] == "message" && line["text"].as_str().is_some_and(|text| text.contains(&theirs))
    })?;
    assert_eq!(told["level"], "error");
    assert!(told["text"].as_str().is_some_and(|text| text.contains("impostor")), "{told}");
    // It goes on refusing while the agent waits behind another line.
    let aside = Link::new(honest.clone())?;
    wait(LONG, "agent", || {
        let banner = ssh::banner(([127, 0, 0, 1], aside.port()).into(), Duration::from_secs(5));
        banner.is_ok_and(|banner| !banner.contains("OpenSSH"))
    })?;
    let asked = impostor.connections();
    wait(Duration::from_secs(60), "a second try", || impostor.connections() > asked)?;
    impostor.assert_told_nothing()?;

    machine.link().redirect(honest);
    running.wait_json("the payload's line", LONG, |line| line["text"] == "reached the payload")?;
    impostor.assert_told_nothing()?;
    running.kill()?;
    Ok(Outcome::Passed)
}

/// The public half of the only run's key.
fn run_key(anemos: &Anemos) -> Result<String> {
    let runs = anemos.state().join("anemos/runs");
    let Some(dir) = std::fs::read_dir(&runs).context("the runs")?.flatten().next() else { bail!("there is no run") };
    Ok(text(&run(Command::new("ssh-keygen").args(["-y", "-f"]).arg(dir.path().join("keys/run")))?))
}

fn impostor_key(machine: &Machine) -> Result<String> {
    std::fs::read_to_string(machine.dir().join("impostor/host_key.pub")).context("the impostor's key")
}

/// `SHA256:…` of a public key.
fn fingerprint(key: &str) -> Result<String> {
    let shown = text(&run_with_input(Command::new("ssh-keygen").args(["-l", "-f", "-"]), key.as_bytes())?);
    match shown.split_whitespace().nth(1) {
        Some(fingerprint) => Ok(fingerprint.to_owned()),
        None => bail!("no fingerprint in {shown:?}"),
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Waits until something holds.
fn wait(limit: Duration, what: &str, holds: impl Fn() -> bool) -> Result<()> {
    let end = std::time::Instant::now() + limit;
    while !holds() {
        if std::time::Instant::now() >= end {
            bail!("no {what} within {} s", limit.as_secs());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}
