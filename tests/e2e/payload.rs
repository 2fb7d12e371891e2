//! Payloads that fail, and controllers that are gone while they run.

use crate::deployment::{Deployment, LONG, UP, agent_events, expect, expect_end, is_event, is_log};
use crate::{Outcome, Scenario};
use lab::anemos::Anemos;
use lab::{Context, Lab, Result, Spec, bail};
use rustix::process::Signal;
use serde_json::Value;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "payload::fails_after_writing_then_retry", run: fails_after_writing },
    Scenario { name: "payload::controller_killed", run: controller_killed },
    Scenario { name: "payload::loads_what_it_opens", run: loads_what_it_opens },
    Scenario { name: "payload::wishes_from_another_process", run: wishes_from_another },
];

/// A host whose payload fails after it has written is held for a person, who gets in, looks around, and sends a payload
/// that works.
fn fails_after_writing(lab: &Lab) -> Result<Outcome> {
    let web = Deployment::new(lab, Spec::new("fails-after"))?;
    let script = "#!/bin/sh\nanemos-agent step 'write a little'\n\
                  printf x | dd of=\"$ANEMOS_DISK\" bs=512 seek=2048 conv=notrunc,fsync status=none\n\
                  echo 'that was all' >&2\nexit 3\n";
    web.describe(script, "finish = \"hold\"")?;
    let before = web.machine.boot_id()?;
    let ended = web.anemos.run(UP, LONG)?;
    expect_end(&ended, "held", "the payload exited with status 3")?;
    let lines = ended.json();
    let run = run_of(&lines)?;
    let outcome = lines.iter().find(|line| is_event(line, "outcome"));
    expect(outcome.is_some_and(|outcome| outcome["written"] == true), format!("said not to be written: {outcome:?}"))?;

    // A command, with its input, output and exit status.
    let mut shell = web.anemos.command(["shell", "web", "--", "cat; hostname; echo oops >&2; exit 9"]);
    shell.stdin(Stdio::from(File::open(web.anemos.write("input", "from here\n")?).context("the input")?));
    let shell = web.anemos.start(shell)?.wait(LONG)?;
    expect(
        shell.stdout == "from here\nlab-dhcp\n" && shell.stderr.contains("oops") && shell.code() == 9,
        format!("the shell: {shell:?}"),
    )?;
    terminal(&web.anemos)?;

    let status = web.anemos.run(["status", "--json"], LONG)?;
    expect(status.json().iter().any(|line| line["state"] == "held"), format!("status says {}", status.stdout))?;
    let logs = web.anemos.run(["logs", &run, "web"], LONG)?;
    expect(logs.stdout.contains("that was all\n"), format!("the log has only {:?}", logs.stdout))?;
    let refused = web.anemos.run(["abort", "--json", &run], LONG)?;
    expect(refused.code() == 4 && refused.stderr.contains("retry"), format!("abort: {refused:?}"))?;

    // The agent dies, and is started again: it holds, with its reason, and has forgotten nothing.
    let kill = "kill -KILL $(grep -lsxz '[s]erve' /proc/[0-9]*/cmdline | cut -d/ -f3)";
    let killed = web.anemos.run(["shell", "web", "--", kill], LONG)?;
    expect(killed.code() == 255, format!("the agent survived: {killed:?}"))?;
    let ended = web.anemos.run(["attach", "--json"], LONG)?;
    expect_end(&ended, "held", "the agent broke (signal: 9 (SIGKILL))")?;
    expect_contiguous(&agent_events(&ended.json()))?;

    // What the RAM system was not composed for is refused here.
    let other = web.with_hello("other", "#!/bin/sh\nexec ./hello\n")?;
    fs::write(other.join("needs"), "disk\narch\n").context("what it needs")?;
    web.with_imgbuild("imgbuild")?;
    for (payload, why) in [
        ("other", "web: the payload needs groups of the base that are not in RAM: arch "),
        ("imgbuild", "began with a script"),
    ] {
        let refused = web.anemos.run(["retry", "--json", "--payload", payload], LONG)?;
        expect(refused.code() == 2 && refused.stderr.contains(why), format!("{payload}: {refused:?}"))?;
    }
    web.with_hello("mended", "#!/bin/sh\nexec ./hello\n")?;
    let ended = web.anemos.run(["retry", "--json", "--payload", "mended"], LONG)?;
    // hosts.toml has it hold.
    expect_end(&ended, "held", "the payload succeeded")?;
    let lines = ended.json();
    expect(lines.iter().any(|line| is_event(line, "attempt") && line["attempt"] == 2), "there was no second attempt")?;
    let ended = web.anemos.run(["finish", "--json", "web", "kexec"], LONG)?;
    expect_end(&ended, "deployed", "Anemos hello")?;
    web.expect_hello(&before)?;
    // A boot loader adds what it has loaded.
    let cmdline = web.machine.ask("cat /proc/cmdline")?;
    expect(!cmdline.contains("BOOT_IMAGE="), format!("it went through the boot loader: {cmdline}"))?;
    Ok(Outcome::Passed)
}

/// A shell in a terminal: `script` gives `anemos` one, with somebody typing.
fn terminal(anemos: &Anemos) -> Result<()> {
    let shell = anemos.command(["shell", "web"]);
    let transcript = anemos.dir().join("terminal");
    let program = anemos.binary().display().to_string();
    let mut script = Command::new("script");
    script.args(["-q", "-e", "-c", &format!("exec '{program}' shell web"), "/dev/null"]).env_clear();
    for (name, value) in shell.get_envs() {
        script.env(name, value.unwrap_or_default());
    }
    let output = File::create(&transcript).context("the transcript")?;
    let mut child = script.stdin(Stdio::piped()).stdout(output).spawn().context("cannot run script")?;
    let mut keyboard = child.stdin.take().expect("stdin was piped");
    let mut typing = || -> Result<()> {
        wait_text(&transcript, "#")?;
        keyboard.write_all(b"stty size; tty; echo $((6 * 7))-$TERM\n").context("typing")?;
        wait_text(&transcript, "42-dumb")?;
        wait_text(&transcript, "/dev/pts/")?;
        keyboard.write_all(b"exit 5\n").context("typing")
    };
    let typed = typing();
    let status = child.wait().context("cannot wait for script");
    typed?;
    expect(status?.code() == Some(5), "the terminal's shell did not end with its own status")
}

fn wait_text(file: &Path, text: &str) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        let found = String::from_utf8_lossy(&std::fs::read(file).unwrap_or_default()).into_owned();
        if found.contains(text) {
            return Ok(());
        }
        if Instant::now() >= end {
            bail!("no {text:?} on the terminal: {found:?}");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A payload gets a loop device and device mapper also where the old system had not loaded them, as a new one has not.
fn loads_what_it_opens(lab: &Lab) -> Result<Outcome> {
    let web = Deployment::new(lab, Spec::new("opens"))?;
    web.machine.ssh("modprobe -r loop dm_mod; ! grep -qE '^(loop|dm_mod) ' /proc/modules")?;
    web.describe(
        "#!/bin/sh\nset -e\nhead -c 1M /dev/zero >/tmp/file\nloop=$(losetup --show -f /tmp/file)\ndmsetup version\n\
         anemos-agent note \"got $loop\"\nlosetup -d \"$loop\"\nexit 1\n",
        "",
    )?;
    let ended = web.anemos.run(UP, LONG)?;
    let got =
        |line: &Value| is_event(line, "note") && line["text"].as_str().is_some_and(|t| t.contains("got /dev/loop"));
    expect(ended.json().iter().any(got), "the payload got no loop device, or no device mapper")?;
    expect_end(&ended, "untouched", "nothing had been written to a disk").map(|()| Outcome::Passed)
}

/// The workstation dies in the middle; the host goes on, and whoever comes later misses nothing.
fn controller_killed(lab: &Lab) -> Result<Outcome> {
    const FLOOD: usize = 30_000;
    let web = Deployment::new(lab, Spec::new("killed"))?;
    // A flood, a daemon that goes on talking, and an output that is closed before the work is done.
    let script = format!(
        "#!/bin/bash\nset -e\nseq -f 'flood %.0f' {FLOOD}\n\
         setsid sh -c 'while echo still here; do sleep 1; done' &\n\
         anemos-agent note 'the flood is over'\nexec >&-\n./hello >&2\n"
    );
    web.describe("", "")?;
    web.with_hello("payload", &script)?;
    let before = web.machine.boot_id()?;
    let mut up = web.anemos.spawn(UP)?;
    up.wait_json("the flood's end", LONG, |line| is_event(line, "note") && line["text"] == "the flood is over")?;
    let seen = up.json();
    up.kill()?;
    web.machine.wait_serial("anemos: the payload succeeded", LONG)?;

    let ended = web.anemos.run(["attach", "--all", "--json"], LONG)?;
    expect_end(&ended, "deployed", "Anemos hello")?;
    let events = agent_events(&ended.json());
    expect_contiguous(&events)?;
    let last = events.last().map(|event| event["kind"].clone()).unwrap_or_default();
    expect(last == "outcome" || last == "state", format!("the last event is no end but {last}"))?;
    expect(events.starts_with(&agent_events(&seen)), "events changed since they were first shown")?;
    let flood: Vec<&str> = events.iter().filter_map(|event| event["text"].as_str()?.strip_prefix("flood ")).collect();
    expect(flood.len() == FLOOD, format!("{} lines of {FLOOD}", flood.len()))?;
    expect(flood.iter().zip(1..).all(|(text, n)| text.parse() == Ok(n)), "the lines are not in order")?;
    expect(events.iter().any(|event| is_log(event, "still here")), "the daemon was not heard")?;

    let again = web.anemos.run(["attach", "--all", "--json"], LONG)?;
    expect(agent_events(&again.json()) == events, "a second look shows other events")?;
    // Without --all the beginning is left out, and said to be.
    let end = web.anemos.run(["attach", "--json"], LONG)?.json();
    let shown = agent_events(&end).into_iter().filter(|event| event["kind"] == "log").count();
    let left_out =
        format!("{} earlier lines are left out", events.iter().filter(|e| e["kind"] == "log").count() - shown);
    let told =
        |line: &Value| line["type"] == "message" && line["text"].as_str().is_some_and(|t| t.starts_with(&left_out));
    expect(shown == 1000 && end.iter().any(told), format!("{shown} lines are shown, and “{left_out}” is not said"))?;
    let logs = web.anemos.run(["logs", &run_of(&seen)?, "web"], LONG)?;
    let line = |event: &Value| {
        let from = if event["stream"] == "kernel" { "kernel: " } else { "" };
        event["text"].as_str().filter(|_| event["kind"] == "log").map(|text| format!("{from}{text}"))
    };
    expect(
        logs.stdout.lines().map(str::to_owned).eq(events.iter().filter_map(line)),
        "`anemos logs` shows other lines",
    )?;

    web.expect_hello(&before)?;
    Ok(Outcome::Passed)
}

/// None is missing, and none comes twice.
fn expect_contiguous(events: &[Value]) -> Result<()> {
    for (event, seq) in events.iter().zip(1..) {
        expect(event["seq"] == seq, format!("event {seq} is missing or comes twice: {event}"))?;
    }
    expect(!events.is_empty(), "there are no events")
}

/// The run's name.
fn run_of(lines: &[Value]) -> Result<String> {
    let run = lines.iter().find(|line| line["type"] == "start").and_then(|line| line["run"].as_str());
    run.map(str::to_owned).ok_or_else(|| lab::Error::new("the output names no run"))
}

/// A payload that would go on for ever is ended from another terminal: by the process that follows the run, and where
/// that one hangs and dies, by the one that was told to.
fn wishes_from_another(lab: &Lab) -> Result<Outcome> {
    let web = Deployment::new(lab, Spec::new("wishes"))?;
    web.describe("#!/bin/sh\nanemos-agent note begun\nexec sleep 100000\n", "")?;
    let begun = |line: &Value| is_event(line, "note") && line["text"] == "begun";

    let before = web.machine.boot_id()?;
    let mut up = web.anemos.spawn(UP)?;
    up.wait_json("the payload", LONG, begun)?;
    let follower = up.id()?;
    // What can't be done is refused, and said to both.
    let asked = Instant::now();
    let refused = web.anemos.run(["retry", "--json"], LONG)?;
    let took = asked.elapsed();
    expect(refused.code() == 4 && refused.stderr.contains("web: "), format!("retry: {refused:?}"))?;
    expect(took < Duration::from_secs(8), format!("the answer took {took:?}"))?;
    expect(
        refused.stderr.contains(&format!("(process {follower})")),
        format!("not said to be asked: {}", refused.stderr),
    )?;
    let aborted = web.anemos.run(["abort", "--json", "web"], LONG)?;
    expect_end(&aborted, "untouched", "aborted")?;
    let ended = up.wait(LONG)?;
    expect_end(&ended, "untouched", "aborted")?;
    let lines = ended.json();
    let (retry, no) = wish(&lines, "retry")?;
    expect(no["accepted"] == false && no["reason"].is_string(), format!("{retry} was answered {no}"))?;
    let (abort, yes) = wish(&lines, "abort")?;
    expect(yes["accepted"] == true && abort["author"] != retry["author"], format!("{abort} was answered {yes}"))?;
    // Both have seen the same, under the same numbers, and nothing is missing.
    // The journal has the time of a line of output only about.
    let numbered = |lines: &[Value]| {
        let mut lines: Vec<Value> = lines.iter().filter(|line| line["number"].is_u64()).cloned().collect();
        for line in &mut lines {
            line["time"] = Value::Null;
        }
        lines
    };
    expect(numbered(&lines) == numbered(&aborted.json()), "the two processes have seen different things")?;
    let numbers = lines.iter().filter_map(|line| line["number"].as_u64());
    expect(numbers.eq(1..=numbered(&lines).len() as u64), "the numbers have gaps")?;
    // A reader goes on after any of them.
    let after = numbered(&lines).len() as u64 / 2;
    let rest = web.anemos.run(["attach", "--json", "--after", &after.to_string()], LONG)?.json();
    expect(numbered(&lines)[after as usize..] == numbered(&rest)[..], format!("after {after} comes something else"))?;
    web.expect_old(&before)?;

    let before = web.machine.boot_id()?;
    let mut up = web.anemos.spawn(UP)?;
    up.wait_json("the payload", LONG, begun)?;
    let run = run_of(&up.json())?;
    up.signal(Signal::STOP)?;
    let abort = web.anemos.spawn(["abort", "--json", &run])?;
    // It waits for an answer that does not come.
    abort.wait_stderr("asking it", LONG)?;
    up.kill()?;
    let ended = abort.wait(LONG)?;
    expect_end(&ended, "untouched", "aborted")?;
    let (_, yes) = wish(&ended.json(), "abort")?;
    expect(yes["accepted"] == true, format!("answered {yes}"))?;
    web.expect_old(&before)?;
    Ok(Outcome::Passed)
}

/// The only wish of that name, and its answer.
fn wish(lines: &[Value], name: &str) -> Result<(Value, Value)> {
    let wishes: Vec<&Value> = lines.iter().filter(|line| line["type"] == "wish" && line["wish"] == name).collect();
    let [wish] = wishes[..] else { bail!("{} wishes to {name}", wishes.len()) };
    let answer = lines.iter().find(|line| line["type"] == "answer" && line["wish"] == wish["number"]);
    let Some(answer) = answer else { bail!("no answer to {wish}") };
    Ok((wish.clone(), answer.clone()))
}
