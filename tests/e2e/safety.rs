//! What must not happen to a host, whatever its payload or its network does.

use crate::deployment::{BOOT, Deployment, LONG, UP, expect, expect_end, is_event, is_log};
use crate::{Outcome, Scenario};
use lab::command::{program, run_with_input};
use lab::machine::{DataDisk, file_sha256};
use lab::{Error, Lab, Result, Spec};

pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "safety::dead_mans_clock", run: dead_mans_clock },
    Scenario { name: "safety::agent_that_breaks", run: agent_that_breaks },
    Scenario { name: "safety::undeclared_disk", run: undeclared_disk },
];

/// Nobody comes and nothing was written: the host goes back by itself.
fn dead_mans_clock(lab: &Lab) -> Result<Outcome> {
    let web = Deployment::new(lab, Spec::new("dead-man"))?;
    web.describe(
        "#!/bin/sh\ndd if=/dev/zero of=\"$ANEMOS_DISK\" bs=1M count=64\n",
        "deadlines = { dead_man = \"20s\" }",
    )?;
    let before = web.machine.boot_id()?;
    let mut up = web.anemos.spawn(UP)?;
    up.wait_json("the boot", LONG, |line| line["type"] == "phase" && line["phase"] == "boot")?;
    // The connection to the old system goes on; there will be none to the RAM system.
    web.machine.link().refuse(true);
    // From here on the clock runs, whatever else the RAM system still has to do.
    web.machine.wait_serial("anemos: reachable by: ", BOOT)?;
    up.kill()?;
    web.machine
        .wait_serial("anemos: going back to the old system: nobody attached within deadline `dead_man` (20 s)", BOOT)?;
    web.machine.link().refuse(false);
    web.expect_old(&before)?;
    let ended = web.anemos.run(["attach", "--json"], LONG)?;
    expect_end(&ended, "untouched", "")?;
    Ok(Outcome::Passed)
}

/// The agent breaks again and again, so its clock never runs out, and no write was counted: the host goes back all the
/// same. But a payload was started, and no agent lived to make sure that it wrote nothing.
fn agent_that_breaks(lab: &Lab) -> Result<Outcome> {
    let web = Deployment::new(lab, Spec::new("breaks"))?;
    web.describe(
        "#!/bin/sh
        # Out of the payload's cgroup, which ends with the agent.
        echo $$ >/sys/fs/cgroup/cgroup.procs
        while sleep 1; do pkill -KILL -f '^/init serve'; done",
        "deadlines = { dead_man = \"20s\" }",
    )?;
    let before = web.machine.boot_id()?;
    let up = web.anemos.spawn(UP)?;
    web.machine.wait_serial("anemos: the agent broke (signal: 9 (SIGKILL))", BOOT)?;
    web.machine.wait_serial("anemos: the agent breaks again and again, and no write was counted", BOOT)?;
    up.kill()?;
    web.expect_old(&before)?;
    let ended = web.anemos.run(["attach", "--json"], LONG)?;
    expect_end(&ended, "held", "whether a disk was written is not known")?;
    Ok(Outcome::Passed)
}

/// What a payload may try on a disk that is not its own. Each attempt may fail, and none may stop the script.
const WIPE: &str = r#"#!/bin/bash
wipe() {
    local device=$1 name=${1#/dev/}
    blockdev --setrw "$device"
    dd if=/dev/zero of="$device" bs=1M count=8 conv=fsync,notrunc
    blockdev --setrw "$device"; dd if=/dev/zero of="$device" bs=1M count=8 oflag=direct conv=notrunc
    blockdev --setrw "$device"; blkdiscard -f "$device"
    blockdev --setrw "$device"; blkdiscard -f -z "$device"
    wipefs -a -f "$device"
    sgdisk --zap-all "$device"
    echo 'label: dos' | sfdisk --force --wipe always "$device"
    mkfs.ext4 -F -q "$device"
    mkdir -p /tmp/there
    mount "$device" /tmp/there && { rm -rf /tmp/there/*; echo wiped >/tmp/there/file; umount /tmp/there; }
    loop=$(losetup --show -f "$device") && { dd if=/dev/zero of="$loop" bs=1M count=1 conv=fsync; losetup -d "$loop"; }
    echo "0 8192 linear $device 0" | dmsetup create "over-$name" &&
        dd if=/dev/zero of="/dev/mapper/over-$name" bs=1M count=1 conv=fsync
    dmsetup remove "over-$name"
    pvcreate -y -ff "$device"
    mdadm --zero-superblock "$device"
    mdadm --create --run --force --level=1 --raid-devices=2 "/dev/md/$name" "$device" missing </dev/null
    for ((i = 0; i < 30; i++)); do
        blockdev --setrw "$device"
        printf wiped | dd of="$device" bs=512 seek="$i" conv=notrunc,fsync status=none
    done
}
anemos-agent step 'wipe everything'
for device in /dev/vdb?* /dev/vdb; do wipe "$device"; done
grep -H . /sys/block/vd*/ro /sys/block/vd*/stat
echo 'ready for another disk'
until [ -e /dev/vdc ]; do sleep 0.1; done
for ((i = 0; i < 100 && $(</sys/block/vdc/ro) == 0; i++)); do sleep 0.1; done
wipe /dev/vdc
wipefs -a -f "$ANEMOS_DISK"
exit 1
"#;

/// Disks that hosts.toml doesn't name keep every byte, though the payload does its worst.
fn undeclared_disk(lab: &Lab) -> Result<Outcome> {
    let web = Deployment::new(lab, Spec { data_disk: Some(DataDisk::Pattern { mib: 64 }), ..Spec::new("undeclared") })?;
    let data = web.machine.data_disk().ok_or_else(|| Error::new("no data disk"))?.to_owned();
    // A file system in one partition, and what looks like data in the other.
    run_with_input(program("sfdisk").arg("-q").arg(&data), b"label: gpt\nsize=32MiB\nsize=16MiB\n")?;
    web.machine.ssh("blockdev --rereadpt /dev/vdb && mkfs.ext4 -q /dev/vdb1 && sync")?;
    web.describe(WIPE, "")?;

    let mut up = web.anemos.spawn(UP)?;
    up.wait_json("the boot", LONG, |line| line["type"] == "phase" && line["phase"] == "boot")?;
    web.machine.wait_serial("anemos: starting", LONG)?;
    let before = file_sha256(&data)?;
    up.wait_json("room for another disk", LONG, |line| is_log(line, "ready for another disk"))?;
    let plugged = web.machine.plug_disk("anemos-late", 16)?;
    let plugged_before = file_sha256(&plugged)?;
    let ended = up.wait(LONG)?;
    expect_end(&ended, "held", "the payload exited with status 1")?;
    let lines = ended.json();
    let written = lines.iter().rev().find(|line| is_event(line, "written"));
    let written = written.ok_or_else(|| Error::new("nothing is said to be written"))?;
    let named: Vec<&str> =
        written["disks"].as_array().into_iter().flatten().filter_map(|d| d["name"].as_str()).collect();
    expect(named == ["/dev/vda"] || named == ["vda"], format!("said to be written: {written}"))?;
    expect(
        lines.iter().any(|line| is_event(line, "note") && line["text"].as_str().is_some_and(|t| t.contains("vdc"))),
        "the disk that came late was not noted",
    )?;

    // With the machine off, whatever it still kept to itself is in the files.
    let ended = web.anemos.run(["finish", "--json", "web", "poweroff"], LONG)?;
    expect_end(&ended, "held", "powered off")?;
    web.machine.wait_end(BOOT)?;
    expect(file_sha256(&data)? == before, "the undeclared disk was written")?;
    expect(file_sha256(&plugged)? == plugged_before, "the disk that came late was written")?;
    Ok(Outcome::Passed)
}
