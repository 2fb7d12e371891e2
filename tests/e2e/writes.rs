//! Whether a disk was written: a host is called untouched only where that is known, whatever died.

use crate::deployment::{BOOT, Deployment, LONG, UP, expect, expect_end, is_event, is_log};
use crate::{Outcome, Scenario};
use lab::machine::Firmware;
use lab::{Lab, Result, Spec};
use std::time::{Duration, Instant};

/// Time for a shell to open, whatever a payload does.
const SHELL: Duration = Duration::from_secs(10);

pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "writes::memory_runs_out", run: memory_runs_out },
    Scenario { name: "writes::reset_unheard", run: reset_unheard },
    Scenario { name: "writes::reset_after_the_verdict", run: reset_after_the_verdict },
    Scenario { name: "writes::killed_before_the_release", run: killed_before_the_release },
    Scenario { name: "writes::went_back_alone", run: went_back_alone },
];

/// Writes one sector between the partition table and the first partition, which nothing reads.
const ONE_SECTOR: &str = "printf x | dd of=\"$ANEMOS_DISK\" bs=512 seek=1000 conv=notrunc,fsync status=none";

/// Fills every file system in memory, takes memory without end, and starts processes without end.
const GREEDY: &str = r#"
mkfifo /tmp/never
for dir in /run /tmp / /dev/shm "$ANEMOS_PAYLOAD"; do cat /dev/zero >$dir/fill; done
echo 'all is full'
tail /dev/zero
bomb() { while :; do bomb & done; }
echo 'bombing'
bomb &
read -r never </tmp/never
"#;

/// The payload writes one sector and then takes all that there is. Only it ends; the RAM system is reached throughout,
/// and can begin anew.
fn memory_runs_out(lab: &Lab) -> Result<Outcome> {
    let web = Deployment::new(lab, Spec::new("memory"))?;
    web.describe(&format!("#!/bin/bash\n{ONE_SECTOR}\n{GREEDY}"), "")?;
    let mut up = web.anemos.spawn(UP)?;
    up.wait_json("the payload's line", LONG, |line| is_log(line, "all is full"))?;
    up.wait_json("the payload's line", LONG, |line| is_log(line, "bombing"))?;
    for _ in 0..3 {
        let began = Instant::now();
        let shell = web.anemos.run(["shell", "web", "--", "echo in; cat /proc/loadavg"], LONG)?;
        expect(shell.stdout.starts_with("in\n"), format!("no shell: {shell:?}"))?;
        expect(began.elapsed() < SHELL, format!("a shell took {:?}: {}", began.elapsed(), shell.stdout))?;
    }
    // The payload may have ended by itself.
    web.anemos.run(["abort", "--json"], LONG)?;
    let ended = up.wait(LONG)?;
    expect_end(&ended, "held", "ran out of memory: limit ")?;

    // Neither an agent that is started again nor the next attempt needs what is full.
    let kill = "kill -KILL $(grep -lsxz '[s]erve' /proc/[0-9]*/cmdline | cut -d/ -f3)";
    web.anemos.run(["shell", "web", "--", kill], LONG)?;
    let ended = web.anemos.run(["attach", "--json"], LONG)?;
    expect_end(&ended, "held", "the agent broke (signal: 9 (SIGKILL))")?;
    web.anemos.payload("mended", "#!/bin/sh\ndf\necho here >here && cat here && exit 5\n")?;
    let ended = web.anemos.run(["retry", "--json", "--payload", "mended"], LONG)?;
    expect_end(&ended, "held", "the payload exited with status 5")?;
    Ok(Outcome::Passed)
}

/// Nobody hears that the payload has written a sector: the link is cut before, and the machine reset after it.
fn reset_unheard(lab: &Lab) -> Result<Outcome> {
    let web = Deployment::new(lab, Spec::new("unheard"))?;
    // A disk that is plugged in tells the payload that the link is cut.
    web.describe(
        &format!(
            "#!/bin/sh\necho 'about to write'\nuntil [ -e /dev/vdb ]; do sleep 0.1; done\n{ONE_SECTOR}\n\
             echo 'a sector is written' >/dev/ttyS0\nsleep 1000\n"
        ),
        "",
    )?;
    let before = web.machine.boot_id()?;
    let mut up = web.anemos.spawn(UP)?;
    up.wait_json("the payload's line", LONG, |line| is_log(line, "about to write"))?;
    web.machine.link().refuse(true);
    web.machine.link().cut();
    web.machine.plug_disk("anemos-late", 16)?;
    web.machine.wait_serial("a sector is written", BOOT)?;
    expect(!up.json().iter().any(|line| is_event(line, "written")), "the controller heard of the write")?;
    web.machine.reset()?;
    web.machine.link().refuse(false);
    web.expect_old(&before)?;
    let ended = up.wait(LONG)?;
    expect_end(&ended, "held", "whether a disk was written is not known: attempt 1")?;
    Ok(Outcome::Passed)
}

/// The agent has made sure that nothing was written, and that is in the journal: how the machine leaves RAM matters no
/// more.
fn reset_after_the_verdict(lab: &Lab) -> Result<Outcome> {
    let web = Deployment::new(lab, Spec::new("verdict"))?;
    web.describe("#!/bin/sh\nsetsid sleep 1000 &\nexit 1\n", "")?;
    let before = web.machine.boot_id()?;
    let mut up = web.anemos.spawn(UP)?;
    let verdict = up.wait_json("the verdict", LONG, |line| is_event(line, "nothing-written"))?;
    web.machine.reset()?;
    expect(verdict["attempt"] == 1, format!("of which attempt? {verdict}"))?;
    web.expect_old(&before)?;
    let ended = up.wait(LONG)?;
    expect_end(&ended, "untouched", "nothing had been written to a disk")?;
    Ok(Outcome::Passed)
}

/// The workstation dies after it has attached and before it could let the payload start: it never starts, and the host
/// goes back.
fn killed_before_the_release(lab: &Lab) -> Result<Outcome> {
    let web = Deployment::new(lab, Spec::new("release"))?;
    web.describe(
        "#!/bin/sh\necho 'the payload runs' >/dev/ttyS0\ndd if=/dev/zero of=\"$ANEMOS_DISK\" bs=1M count=64\n",
        "deadlines = { dead_man = \"30s\" }",
    )?;
    let before = web.machine.boot_id()?;
    let mut up = web.anemos.spawn(UP)?;
    // The agent attaches nobody before it has network; it has the base to unpack after that.
    up.wait_json("a word of the agent", LONG, |line| is_event(line, "step-started"))?;
    up.kill()?;
    web.machine.wait_serial("anemos: going back to the old system: ", BOOT)?;
    web.expect_old(&before)?;
    expect(!web.machine.serial().contains("the payload runs"), "the payload was started")?;
    let ended = web.anemos.run(["attach", "--json"], LONG)?;
    expect_end(&ended, "untouched", "no payload had been started")?;
    Ok(Outcome::Passed)
}

/// The payload fails before it has written, and nobody is there to hear of it. The firmware keeps a note.
fn went_back_alone(lab: &Lab) -> Result<Outcome> {
    let web = Deployment::new(lab, Spec { firmware: Firmware::Uefi, ..Spec::new("alone") })?;
    web.describe(
        "#!/bin/sh\necho 'about to fail'\nuntil [ -e /dev/vdb ]; do sleep 0.1; done\nexit 1\n",
        "deadlines = { ack = \"10s\" }",
    )?;
    let before = web.machine.boot_id()?;
    let mut up = web.anemos.spawn(UP)?;
    up.wait_json("the payload's line", LONG, |line| is_log(line, "about to fail"))?;
    up.kill()?;
    web.machine.plug_disk("anemos-late", 16)?;
    web.expect_old(&before)?;
    let ended = web.anemos.run(["attach", "--json"], LONG)?;
    expect_end(&ended, "untouched", "as the RAM system noted in the firmware")?;
    Ok(Outcome::Passed)
}
