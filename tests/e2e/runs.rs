//! `anemos` as its user meets it: plans, refusals, several hosts, and being interrupted.

use crate::deployment::{is_event, is_log};
use crate::{Outcome, Scenario};
use lab::anemos::{Anemos, Finished, Running, host_table};
use lab::archive::{Fault, Server};
use lab::machine::DataDisk;
use lab::{Context, Lab, Machine, Result, Spec, bail, base, checkout, ssh};
use rustix::process::Signal;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "runs::two_hosts_one_fails", run: two_hosts },
    Scenario { name: "runs::one_bad_payload_costs_one_host", run: bad_payload },
    Scenario { name: "runs::a_host_that_changed_while_it_waited", run: changed_while_waiting },
    Scenario { name: "runs::plan_refusals_and_ctrl_c", run: plan_and_refusals },
    Scenario { name: "runs::one_machine_under_two_names", run: two_names },
];

/// A machine under emulation may boot several times slower than it should.
pub const LONG: Duration = Duration::from_secs(420);

/// Nothing has to boot.
const SHORT: Duration = Duration::from_secs(120);

/// Bytes that a first deployment of examples/hello may send.
const FIRST: u64 = 1_805_000;

/// Whether a JSON line says that a phase started.
pub fn started(line: &Value, phase: &str) -> bool {
    line["type"] == "phase" && line["phase"] == phase && line["state"] == "started"
}

/// One of two hosts fails before it has written anything, and is back in its old system; the other becomes
/// examples/hello. The mirror has no packages: the first gets its base from the workstation.
fn two_hosts(lab: &Lab) -> Result<Outcome> {
    let server = Server::start(lab)?;
    let machine = |name: &str| Machine::start(lab, Spec { archive: Some(server.port()), ..Spec::new(name) });
    let (bad, good) = (machine("bad")?, machine("good")?);
    let before = (bad.boot_id()?, good.boot_id()?);
    server.fault("/debian/pool/", Fault::NotFound);
    let anemos = Anemos::new(lab, "two-hosts")?;
    let base = base::on_workstation(lab, &anemos)?;
    anemos.payload(
        "failing",
        "#!/bin/sh\nanemos-agent step 'look around'\nsha256sum <$ANEMOS_SECRETS/token\necho no luck >&2\nexit 3\n",
    )?;
    let token = anemos.write("token", SECRET)?;
    let hello = checkout().join("examples/hello/payload").display().to_string();
    let hosts = format!(
        "{}payload = \"failing\"\nsecrets = {{ token = \"token\" }}\nbase = \"auto\"\n{}payload = {hello:?}\n{}",
        host_table(lab, "bad", &bad),
        host_table(lab, "good", &good),
        base::from_url(lab, &good)?,
    );
    anemos.write("hosts.toml", &hosts)?;
    // One after the other, though the first fails: the second waits for its turn with the stage on it.
    let ended = anemos.run(["up", "--yes", "--json", "--max-failures", "1", "hosts.toml"], 2 * LONG)?;
    assert_eq!(ended.code(), 4, "{}", ended.stderr);

    let lines = ended.json();
    assert_eq!(waited_for(&lines, "good"), ["waits for bad, which goes alone until one host is deployed"]);
    assert_eq!(lines.len(), ended.stdout.lines().count(), "not every line is JSON");
    assert_eq!(lines[0]["type"], "start");
    assert_eq!(lines[0]["schema"], 1);
    assert_eq!(lines[0]["hosts"], serde_json::json!(["bad", "good"]));
    for host in ["bad", "good"] {
        let last = lines.iter().rev().find(|line| line["host"] == host);
        assert_eq!(last.map(|line| &line["type"]), Some(&Value::from("summary")), "{host}");
        numbered_without_gaps(&lines, host);
    }
    let failed = complete_summary(&ended, "bad", &["connect", "probe", "upload", "stage", "boot", "build", "reboot"])?;
    assert_eq!(failed["outcome"], "untouched");
    let reason = failed["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("the payload exited with status 3"), "{reason}");
    let bytes = |field: &str| failed[field].as_u64().unwrap_or_default();
    // The mirror had nothing, so the base was sent.
    assert!(bytes("uploaded_bytes") > base && bytes("host_downloaded_bytes") < base / 100, "{failed}");
    let outcome = lines.iter().find(|line| line["host"] == "bad" && is_event(line, "outcome"));
    assert!(outcome.is_some_and(|outcome| outcome["written"] == false), "said to be written: {outcome:?}");
    assert!(lines.iter().any(|line| is_log(line, "no luck")), "its complaint was not shown");
    assert!(bad.boot_id()? != before.0, "the failed host was not in RAM");
    assert!(bad.ask("cat /etc/os-release")?.contains("bookworm"), "the failed host is not what it was");
    let deployed = complete_summary(&ended, "good", PHASES)?;
    assert_eq!(deployed["outcome"], "deployed", "{deployed}");
    assert!(good.boot_id()? != before.1, "the deployed host has its old boot id");
    assert!(good.ask("cat /etc/os-release")?.contains("anemos-hello"), "the host is not what was built");
    let sent = deployed["uploaded_bytes"].as_u64().unwrap_or(u64::MAX);
    assert!(sent <= FIRST, "{sent} bytes were sent for a first deployment");
    // What the socket counted is what the line carried, but for what this test itself asked.
    let carried = good.link().counts().sent;
    assert!((sent..sent + 100_000).contains(&carried), "{sent} bytes counted, {carried} carried");

    let hash = lab::machine::file_sha256(&token)?;
    let logged = lines.iter().any(|line| line["text"].as_str().is_some_and(|text| text.contains(&hash)));
    assert!(logged, "the payload did not get its secret");
    std::fs::remove_file(&token).context("the secret")?;
    let found = files_with(anemos.dir(), SECRET)?;
    assert!(found.is_empty(), "the secret is in {found:?}");
    let keys = files_with(&anemos.state(), "PRIVATE KEY")?;
    assert!(keys.is_empty(), "the run is over, and its key is still in {keys:?}");

    let looks = anemos.run(["status"], SHORT)?;
    assert!(looks.stdout.contains("untouched") && looks.stdout.contains("deployed"), "{}", looks.stdout);
    Ok(Outcome::Passed)
}

/// What a host said that it waits for.
fn waited_for(lines: &[Value], host: &str) -> Vec<String> {
    let waits = lines.iter().filter(|line| line["type"] == "waiting" && line["host"] == host);
    waits.filter_map(|line| line["reason"].as_str().map(str::to_owned)).collect()
}

/// Three hosts get one payload, which fails after it has written. The first can't even be prepared, which says nothing
/// of the payload; the second pays for it; the third is never told to boot.
fn bad_payload(lab: &Lab) -> Result<Outcome> {
    let server = Server::start(lab)?;
    let machine = |name: &str| Machine::start(lab, Spec { archive: Some(server.port()), ..Spec::new(name) });
    let (lame, bad, spared) = (machine("lame")?, machine("bad-payload")?, machine("spared")?);
    let before = [lame.boot_id()?, bad.boot_id()?, spared.boot_id()?];
    let clean = [traces(&lame)?, traces(&spared)?];
    let anemos = Anemos::new(lab, "bad-payload")?;
    anemos.payload("payload", "#!/bin/sh\nprintf spoilt | dd of=\"$ANEMOS_DISK\" conv=notrunc,fsync\nexit 1\n")?;
    let hosts = format!(
        "[defaults]\npayload = \"payload\"\n{}base = {{ urls = [\"{}-not\"] }}\n{}{}{}{}",
        host_table(lab, "lame", &lame),
        base::url(&lame)?,
        host_table(lab, "bad", &bad),
        base::from_url(lab, &bad)?,
        host_table(lab, "spared", &spared),
        base::from_url(lab, &spared)?,
    );
    anemos.write("hosts.toml", &hosts)?;

    let plan = anemos.run(["plan", "hosts.toml"], SHORT)?;
    assert!(plan.stdout.contains("first lame alone, then 2 at once; "), "{}", plan.stdout);
    let ended = anemos.run(["up", "--yes", "--json", "hosts.toml"], LONG)?;
    assert_eq!(ended.code(), 4, "{}", ended.stderr);
    let lines = ended.json();
    let end = |host: &str| -> Result<(String, String)> {
        let summary = ended.summary(host)?;
        let text = |field: &str| summary[field].as_str().unwrap_or_default().to_owned();
        Ok((text("outcome"), text("reason")))
    };
    let (outcome, reason) = end("lame")?;
    assert!(outcome == "untouched" && reason.contains("no address had it"), "lame: {outcome}: {reason}");
    let (outcome, reason) = end("bad")?;
    assert!(outcome == "held" && reason.contains("the payload exited with status 1"), "bad: {outcome}: {reason}");
    let (outcome, reason) = end("spared")?;
    assert_eq!(outcome, "untouched", "spared: {reason}");
    for part in [
        "bad was and ended held: the payload exited with status 1",
        "`anemos up hosts.toml spared`",
        "--max-failures 1",
    ] {
        assert!(reason.contains(part), "no {part:?} in {reason}");
    }
    let told: Vec<&str> =
        lines.iter().filter(|line| started(line, "boot")).filter_map(|line| line["host"].as_str()).collect();
    assert_eq!(told, ["bad"], "told to boot");
    assert!(!lines.iter().any(|line| line["host"] == "spared" && started(line, "stage")), "it was prepared too early");
    assert_eq!(
        waited_for(&lines, "spared"),
        ["lame", "bad"].map(|host| format!("waits for {host}, which goes alone until one host is deployed"))
    );
    assert_eq!([lame.boot_id()?, spared.boot_id()?], [before[0].clone(), before[2].clone()], "a host was booted");
    assert_eq!([traces(&lame)?, traces(&spared)?], clean, "something was left on a host");
    assert!(bad.wait_boot(&before[1], Duration::from_secs(10)).is_err(), "the host that is held is not in RAM");
    Ok(Outcome::Passed)
}

/// While a host waits for another, the partition that its plan showed as kept loses its label. With that, the IMGBUILD
/// would have it made anew. The host is looked at again before it is told anything, and stays as it is.
fn changed_while_waiting(lab: &Lab) -> Result<Outcome> {
    let server = Server::start(lab)?;
    let machine = |name: &str| Machine::start(lab, Spec { archive: Some(server.port()), ..Spec::new(name) });
    let (first, changed) = (machine("goes-first")?, machine("changed")?);
    let before = [first.boot_id()?, changed.boot_id()?];
    let clean = traces(&changed)?;
    let anemos = Anemos::new(lab, "changed")?;
    anemos.payload("failing", "#!/bin/sh\nexit 1\n")?;
    let example = checkout().join("examples/imgbuild-debian/payload/IMGBUILD");
    let imgbuild = std::fs::read_to_string(&example).context(example.display())?;
    anemos.write("payload/IMGBUILD", &format!("{imgbuild}\nfilesystems='/srv 64M keep LABEL=data'\n"))?;
    let hosts = format!(
        "{}payload = \"failing\"\n{}{}payload = \"payload\"\n{}",
        host_table(lab, "first", &first),
        base::from_url(lab, &first)?,
        host_table(lab, "changed", &changed),
        base::from_url(lab, &changed)?,
    );
    anemos.write("hosts.toml", &hosts)?;

    // The first host is prepared until it is told to stop: its base never comes.
    server.fault("/base/", Fault::Stall(1000));
    let mut running = anemos.spawn(["up", "--yes", "--json", "hosts.toml"])?;
    running.wait_json("stage", SHORT, |line| line["host"] == "first" && started(line, "stage"))?;
    running.wait_json("waiting", SHORT, |line| line["host"] == "changed" && line["type"] == "waiting")?;
    let content = "sha256sum <$part";
    let find = |label: &str| format!("part=$(blkid -t LABEL={label} -o device)");
    let bytes = changed.ssh(&format!("{}; e2label $part date; sync; udevadm settle; {content}", find("data")))?;
    first.ssh(
        "for exe in /proc/[0-9]*/exe; do case $(readlink $exe) in */stage-*) kill $(basename ${exe%/exe});; esac; done",
    )?;
    let ended = running.wait(SHORT)?;
    assert_eq!(ended.code(), 4, "{}", ended.stderr);

    let stopped = ended.summary("first")?;
    let reason = stopped["reason"].as_str().unwrap_or_default();
    assert!(stopped["outcome"] == "untouched" && reason.contains("signal 15"), "{stopped}");
    let refused = ended.summary("changed")?;
    let reason = refused["reason"].as_str().unwrap_or_default();
    assert_eq!(refused["outcome"], "untouched", "{refused}");
    for part in ["was ext4 “data” (", "kept) and is ext4 “date” (", "it is made", "look at the plan again"] {
        assert!(reason.contains(part), "no {part:?} in {reason}");
    }
    let lines = ended.json();
    let of = |wanted: &str| lines.iter().filter(|line| line["host"] == "changed" && line["type"] == wanted).count();
    assert_eq!((of("plan"), of("facts"), of("uploaded")), (1, 2, 0), "it was not looked at again, or prepared");
    assert_eq!(changed.ssh(&format!("{}; {content}", find("date")))?, bytes, "the partition has changed");
    assert_eq!([first.boot_id()?, changed.boot_id()?], before, "a host was booted");
    assert_eq!(traces(&changed)?, clean, "something was left on the host");
    Ok(Outcome::Passed)
}

/// Two names lead to one machine: one of them is the other, and says so. (All of the lab's machines have one boot id,
/// since they go on from one snapshot; the other scenarios show that they are not taken for one.)
fn two_names(lab: &Lab) -> Result<Outcome> {
    let machine = Machine::start(lab, Spec::new("two-names"))?;
    let anemos = Anemos::new(lab, "two-names")?;
    let line = machine.another_line()?;
    let known = anemos.write("known", &ssh::known_hosts_lines(line.port(), machine.host_keys()))?;
    anemos.payload("payload", "#!/bin/sh\nexit 1\n")?;
    let first = host_table(lab, "first", &machine);
    let second = host_table(lab, "second", &machine)
        .replace(&format!("port = {}", machine.port()), &format!("port = {}", line.port()))
        .replace(&machine.dir().join("known_hosts").display().to_string(), &known.display().to_string());
    anemos.write("hosts.toml", &format!("[defaults]\npayload = \"payload\"\n{first}{second}"))?;
    let ended = anemos.run(["plan", "--json", "hosts.toml"], SHORT)?;
    assert_ne!(ended.code(), 0, "{}", ended.stdout);
    let told = ["first", "second"].map(|host| format!("it is the same machine as `{host}`"));
    assert!(told.iter().any(|text| ended.stdout.contains(text)), "{}", ended.stdout);
    let plans = ended.json().iter().filter(|line| line["type"] == "plan").count();
    assert_eq!(plans, 1, "{}", ended.stdout);
    Ok(Outcome::Passed)
}

/// What must be found nowhere.
const SECRET: &str = "correct horse battery staple";

/// Files under a directory that hold a text.
pub fn files_with(dir: &Path, text: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).context(dir.display())?.flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files_with(&path, text)?);
        } else {
            let bytes = std::fs::read(&path).context(path.display())?;
            if bytes.windows(text.len()).any(|window| window == text.as_bytes()) {
                found.push(path);
            }
        }
    }
    Ok(found)
}

const PHASES: &[&str] = &["connect", "probe", "upload", "stage", "boot", "build", "reboot", "verify"];

/// The summary of a host, with every field that is promised, and seconds for the phases that were reached.
fn complete_summary(ended: &Finished, host: &str, reached: &[&str]) -> Result<Value> {
    let summary = ended.summary(host)?;
    for field in ["uploaded_bytes", "received_bytes", "host_downloaded_bytes", "initramfs_bytes"] {
        assert!(summary[field].is_u64(), "{host}: {field} is {}", summary[field]);
    }
    for field in ["total_seconds", "first_event_seconds"] {
        assert!(summary[field].as_f64().is_some_and(|seconds| seconds > 0.0), "{host}: {field} is {}", summary[field]);
    }
    assert!(summary["outcome"].is_string() && summary["reason"].is_string(), "{summary}");
    for phase in PHASES {
        let seconds = &summary["seconds"][phase];
        assert_eq!(seconds.is_f64(), reached.contains(phase), "{host}: seconds of {phase} are {seconds}");
    }
    Ok(summary)
}

/// Facts of each speaker come as 1, 2, 3, …
fn numbered_without_gaps(lines: &[Value], host: &str) {
    for speaker in ["stage", "agent"] {
        let seqs: Vec<u64> = lines
            .iter()
            .filter(|line| line["type"] == "event" && line["host"] == host && line["speaker"] == speaker)
            .filter_map(|line| line["seq"].as_u64())
            .collect();
        assert!(!seqs.is_empty(), "{host}: {speaker} said nothing");
        assert!(seqs.iter().copied().eq(1..=seqs.len() as u64), "{host}: {speaker} said {seqs:?}");
    }
}

/// What is where a deployment keeps its files, and whether a kernel is loaded or the stage runs.
fn traces(machine: &Machine) -> Result<String> {
    machine.ssh(
        "find /var/lib /var/cache /root /run/anemos /tmp -maxdepth 2 -printf '%p %y\\n' 2>/dev/null | \
         grep -v systemd-private | sort; \
         cat /sys/kernel/kexec_loaded; ls -l /proc/[0-9]*/exe 2>/dev/null | grep -c anemos; true",
    )
}

/// Everything that ends with the host in its old system, on one machine.
fn plan_and_refusals(lab: &Lab) -> Result<Outcome> {
    let server = Server::start(lab)?;
    let machine = Machine::start(
        lab,
        Spec { archive: Some(server.port()), data_disk: Some(DataDisk::Pattern { mib: 64 }), ..Spec::new("plan") },
    )?;
    machine.ssh("udevadm settle")?;
    let before = machine.boot_id()?;
    let traces_before = traces(&machine)?;
    let anemos = Anemos::new(lab, "plan")?;
    anemos.payload("payload", "#!/bin/sh\necho \"waiting on $ANEMOS_DISK\"\nexec sleep 3600\n")?;
    let table =
        format!("{}payload = \"payload\"\n{}", host_table(lab, "web", &machine), base::from_url(lab, &machine)?);
    anemos.write("hosts.toml", &table)?;

    refused_without_meeting_the_host(&anemos, &machine, &table)?;

    let plan = anemos.run(["plan", "hosts.toml"], SHORT)?;
    assert_eq!(plan.code(), 0, "{}", plan.stderr);
    for part in ["WIPED", "anemos-root", "anemos-data", "read-only", "downloaded by the host", "reboot into the new"] {
        assert!(plan.stdout.contains(part), "no {part:?} in the plan:\n{}", plan.stdout);
    }
    let runs = anemos.run(["status"], SHORT)?;
    assert!(runs.stdout.contains("no runs yet"), "a plan left a run behind: {}", runs.stdout);
    selectors(&anemos, &table)?;
    assert_eq!(traces(&machine)?, traces_before, "a plan left something on the host");

    // Ctrl-C while the host prepares the boot.
    let mut running = anemos.spawn(["up", "--yes", "--json", "hosts.toml"])?;
    running.wait_json("stage", SHORT, |line| started(line, "stage"))?;
    running.signal(Signal::INT)?;
    let ended = running.wait(SHORT)?;
    assert_eq!(ended.code(), 130, "{}", ended.stderr);
    let summary = ended.summary("web")?;
    assert_eq!(summary["outcome"], "untouched");
    assert!(summary["reason"].as_str().is_some_and(|why| why.contains("everything was undone")), "{summary}");
    assert_eq!(traces(&machine)?, traces_before, "Ctrl-C left something on the host");
    assert_eq!(machine.boot_id()?, before, "the host was booted");

    killed_before_the_boot(&anemos, &machine, &traces_before)?;
    assert_eq!(machine.boot_id()?, before, "the host was booted");
    abort_in_ram(&anemos, &machine)?;
    Ok(Outcome::Passed)
}

fn refused_without_meeting_the_host(anemos: &Anemos, machine: &Machine, table: &str) -> Result<()> {
    let connections = machine.link().counts().connections;
    let refused = anemos.run(["up", "hosts.toml"], SHORT)?;
    assert_eq!(refused.code(), 3, "{}", refused.stderr);
    assert!(refused.stderr.contains("--yes") && refused.stderr.contains("anemos plan"), "{}", refused.stderr);

    anemos.write("typo.toml", &format!("{}\ndsik = \"/dev/vda\"\n", table.trim_end()))?;
    let wrong = anemos.run(["plan", "typo.toml"], SHORT)?;
    assert_eq!(wrong.code(), 2, "{}", wrong.stderr);
    let place = format!("typo.toml:{}:1:", table.lines().count() + 1);
    assert!(wrong.stderr.contains(&place) && wrong.stderr.contains("did you mean `disk`"), "{}", wrong.stderr);
    let unknown = anemos.run(["plan", "hosts.toml", "wbe"], SHORT)?;
    assert_eq!(unknown.code(), 2, "{}", unknown.stderr);
    assert!(unknown.stderr.contains("`web`"), "{}", unknown.stderr);
    assert_eq!(machine.link().counts().connections, connections, "the host was met");
    Ok(())
}

/// A selector that means no disk or two is refused, and the disks are listed.
fn selectors(anemos: &Anemos, table: &str) -> Result<()> {
    let own = "disk = { serial = \"anemos-root\" }";
    for (selector, says) in
        [("disk = { serial = \"other\" }", "no disk is"), ("disk = { min_size = \"1MB\" }", "2 disks are")]
    {
        if !table.contains(own) {
            bail!("the table names its disk otherwise: {table}");
        }
        anemos.write("disks.toml", &table.replace(own, selector))?;
        for command in [&["plan"][..], &["up", "--yes"]] {
            let ended = anemos.run(command.iter().copied().chain(["--json", "disks.toml"]), SHORT)?;
            assert_eq!(ended.code(), 3, "{}", ended.stderr);
            let said = ended.stdout + &ended.stderr;
            for part in [says, "anemos-root", "anemos-data"] {
                assert!(said.contains(part), "no {part:?} in {said}");
            }
        }
    }
    Ok(())
}

/// The controller dies while the host prepares the boot: the host clears up, and whoever attaches looks whether it is
/// there.
fn killed_before_the_boot(anemos: &Anemos, machine: &Machine, traces_before: &str) -> Result<()> {
    let mut running = anemos.spawn(["up", "--yes", "--json", "hosts.toml"])?;
    running.wait_json("stage", SHORT, |line| started(line, "stage"))?;
    running.kill()?;
    let begin = Instant::now();
    while traces(machine)? != traces_before {
        if begin.elapsed() > SHORT {
            bail!("the stage has left something: {}", traces(machine)?);
        }
    }
    let connections = machine.link().counts().connections;
    let attached = anemos.run(["attach", "--json"], SHORT)?;
    assert_eq!(attached.code(), 4, "{}", attached.stderr);
    let summary = attached.summary("web")?;
    let reason = summary["reason"].as_str().unwrap_or_default();
    assert_eq!(summary["outcome"], "untouched", "{summary}");
    assert!(reason.contains("still runs its old system"), "{reason}");
    assert!(machine.link().counts().connections > connections, "nobody looked");
    Ok(())
}

/// Goes into RAM and stays there until the log has the line.
fn up_until(anemos: &Anemos, line: &str) -> Result<Running> {
    let mut running = anemos.spawn(["up", "--yes", "--json", "hosts.toml"])?;
    running.wait_json("the payload's line", LONG, |said| said["text"] == line)?;
    Ok(running)
}

/// Nothing was written, so an abort leads back to the old system. Before that, a look around in RAM.
fn abort_in_ram(anemos: &Anemos, machine: &Machine) -> Result<()> {
    let before = machine.boot_id()?;
    let running = up_until(anemos, "waiting on /dev/vda")?;
    running.signal(Signal::INT)?;
    let detached = running.wait(SHORT)?;
    assert_eq!(detached.code(), 130, "{}", detached.stderr);
    let word = detached.json().into_iter().rev().find(|line| line["type"] == "message");
    assert!(
        word.as_ref().and_then(|word| word["text"].as_str()).is_some_and(|text| text.contains("anemos attach")),
        "Ctrl-C said {word:?}"
    );
    let status = anemos.run(["status", "--json"], SHORT)?;
    let newest = status.json().into_iter().next().unwrap_or_default();
    assert_eq!((&newest["host"], &newest["phase"], &newest["outcome"]), (&"web".into(), &"build".into(), &Value::Null));

    // On a terminal: its size is passed on, the status of what ran as well, and it is left as it was.
    let mut terminal = anemos.on_terminal(
        "stty rows 31 cols 97; \"$anemos\" shell web -- 'stty size; tty; exit 7'; echo status $?; stty -a",
    );
    let shown = ssh::success("a shell on a terminal", &ssh::output_within(&mut terminal, SHORT)?)?;
    for part in ["31 97", "/dev/pts/", "status 7", " icanon", " echo "] {
        assert!(shown.contains(part), "no {part:?} in {shown}");
    }

    let aborted = anemos.run(["abort", "web", "--json"], LONG)?;
    assert_eq!(aborted.code(), 4, "{}", aborted.stderr);
    let summary = aborted.summary("web")?;
    assert_eq!(summary["outcome"], "untouched", "{summary}");
    assert!(machine.boot_id()? != before, "it never was in RAM");
    assert!(machine.ask("cat /etc/os-release")?.contains("bookworm"), "another system came back");
    Ok(())
}
