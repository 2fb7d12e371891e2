//! Whether a disk was written: a host is called untouched only where that is known, whatever died.

use crate::deployment::{BOOT, Deployment, LONG, UP, expect, expect_end, is_event, is_log};
use crate::{Outcome, Scenario};
use lab::machine::{Firmware, OnPanic};
use lab::{Lab, Result, Spec};

pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "writes::memory_runs_out", run: memory_runs_out },
    Scenario { name: "writes::reset_unheard", run: reset_unheard },
    Scenario { name: "writes::reset_after_the_verdict", run: reset_after_the_verdict },
    Scenario { name: "writes::killed_before_the_release", run: killed_before_the_release },
    Scenario { name: "writes::went_back_alone", run: went_back_alone },
];

/// Writes one sector between the partition table and the first partition, which nothing reads.
const ONE_SECTOR: &str = "printf x | dd of=\"$ANEMOS_DISK\" bs=512 seek=1000 conv=notrunc,fsync status=none";

/// The payload writes one sector and then fills all memory there is. The RAM system dies, and the old one comes back.
fn memory_runs_out(lab: &Lab) -> Result<Outcome> {
    let web = Deployment::new(lab, Spec { on_panic: OnPanic::Note, ..Spec::new("memory") })?;
    web.describe(
        &format!(
            "#!/bin/sh\n{ONE_SECTOR}\necho 'filling the memory'\n\
             for dir in /tmp /run /; do dd if=/dev/zero of=$dir/fill bs=1M status=none & done; wait\n\
             while :; do for dir in /tmp /run /; do head -c 1M /dev/zero >>$dir/more; done; done\n"
        ),
        "",
    )?;
    let before = web.machine.boot_id()?;
    let mut up = web.anemos.spawn(UP)?;
    up.wait_json("the payload's line", LONG, |line| is_log(line, "filling the memory"))?;
    web.expect_old(&before)?;
    let ended = up.wait(LONG)?;
    // What the agent could still say before it died is not certain; that a sector was written is.
    expect_end(&ended, "held", "written")?;
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
