//! What must not happen to a host, whatever its payload or its network does.

use crate::deployment::{BOOT, Deployment, LONG, UP, expect, expect_end, is_event, is_log};
use crate::{Outcome, Scenario};
use lab::command::{program, run_with_input};
use lab::machine::{DataDisk, file_sha256};
use lab::{Error, Lab, Result, Spec};

pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "safety::dead_mans_clock", run: dead_mans_clock },
    Scenario { name: "safety::agent_that_breaks", run: agent_that_breaks },
    Scenario { name: "safety::payload_stays_in", run: payload_stays_in },
    Scenario { name: "safety::undeclared_disk", run: undeclared_disk },
    Scenario { name: "safety::raw_access", run: raw_access },
    Scenario { name: "safety::frozen_agent", run: frozen_agent },
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
    web.describe("#!/bin/sh\necho waiting\nexec sleep 1000\n", "deadlines = { dead_man = \"20s\" }")?;
    let before = web.machine.boot_id()?;
    let mut up = web.anemos.spawn(UP)?;
    up.wait_json("the payload's line", LONG, |line| is_log(line, "waiting"))?;
    // What a person starts is outside of the payload's cgroup, which ends with the agent.
    let kill = "setsid sh -c 'while sleep 1; do pkill -KILL -f \"^/init serve\"; done' >/dev/null 2>&1 </dev/null &";
    web.anemos.run(["shell", "web", "--", kill], LONG)?;
    web.machine.wait_serial("anemos: the agent broke (signal: 9 (SIGKILL))", BOOT)?;
    web.machine.wait_serial("anemos: the agent breaks again and again, and no write was counted", BOOT)?;
    up.kill()?;
    web.expect_old(&before)?;
    let ended = web.anemos.run(["attach", "--json"], LONG)?;
    expect_end(&ended, "held", "whether a disk was written is not known")?;
    Ok(Outcome::Passed)
}

/// Sends a SCSI command past the kernel's counters (`SG_IO` of `<scsi/sg.h>`), and fails.
const RAW: &str = r#"#!/usr/bin/perl
open(my $disk, "+<", $ENV{ANEMOS_DISK}) or die "open: $!";
my $header = "S" . "\0" x 87;
ioctl($disk, 0x2285, $header);
print "SG_IO: ", $! + 0, "\n";
exit 1;
"#;

/// A host whose hosts.toml allows commands that the kernel doesn't count is never called untouched once its payload was
/// started.
fn raw_access(lab: &Lab) -> Result<Outcome> {
    let web = Deployment::new(lab, Spec::new("raw"))?;
    web.describe(RAW, "raw_access = true")?;
    let ended = web.anemos.run(UP, LONG)?;
    let lines = ended.json();
    expect(lines.iter().any(|line| is_log(line, "SG_IO: ")), "the payload did not get to its command")?;
    expect(!lines.iter().any(|line| is_log(line, "SG_IO: 1")), "the command was refused though allowed")?;
    expect_end(&ended, "held", "the payload exited with status 1")?;
    Ok(Outcome::Passed)
}

/// An agent that is stopped says nothing more: init ends it and starts another, which holds.
fn frozen_agent(lab: &Lab) -> Result<Outcome> {
    let web = Deployment::new(lab, Spec::new("frozen"))?;
    web.describe("#!/bin/sh\npkill -STOP -f '^/init serve'\nsleep 1000\n", "deadlines = { hang = \"30s\" }")?;
    let up = web.anemos.spawn(UP)?;
    let ended = up.wait(LONG)?;
    expect_end(&ended, "held", "the agent gave no sign of life within deadline `hang` (30 s)")?;
    let shell = web.anemos.run(["shell", "web", "--", "echo in"], LONG)?;
    expect(shell.stdout == "in\n", format!("no shell: {shell:?}"))?;
    Ok(Outcome::Passed)
}

/// What a payload may try to get out of its cgroup, or past its filters.
const LEAVE: &str = r#"#!/bin/bash
inside() {
    [ "$(</proc/self/cgroup)" = 0::/ ] && ! grep -qx $$ /run/anemos/cgroup/cgroup.procs && echo "still inside: $1"
}
for tree in /sys/fs/cgroup /run/anemos/cgroup /proc/1/root/run/anemos/cgroup; do
    echo $$ >"$tree/cgroup.procs"
    inside "$tree"
done
mkdir -p /tmp/tree && mount -t cgroup2 none /tmp/tree && echo $$ >/tmp/tree/cgroup.procs
inside 'mounted anew'
umount /sys/fs/cgroup; echo $$ >/sys/fs/cgroup/cgroup.procs
inside 'unmounted'
mkdir -p /tmp/old && mount -t cgroup -o devices none /tmp/old && echo 'mounted the old kind'
nsenter --target 1 --cgroup true && echo 'entered the namespace of init'
perl -e 'open F, "<", "/proc/1/ns/cgroup"; print "entered without a type\n" unless syscall(308, fileno(F), 0)'
for limit in memory.max pids.max; do
    echo max >"/run/anemos/cgroup/anemos-payload/$limit" && echo "set $limit"
done
perl -e 'open F, "<", $ENV{ANEMOS_DISK} or die; $b = "\0" x 128; $a = $b;
    ioctl(F, 0x2285, $a); print "SG_IO: $!\n";
    print "HDIO_GETGEO: ", ioctl(F, 0x301, $b) ? "works" : $!, "\n"'
(: >>/dev/mem) && echo 'opened the memory'
setsid sh -c 'while sleep 3; do pkill -KILL -f "^/init serve"; done' >/dev/null 2>&1 </dev/null &
exec sleep 1000
"#;

/// A payload does what it can to leave its cgroup, and then kills the agent, again and again: it ends with the first.
fn payload_stays_in(lab: &Lab) -> Result<Outcome> {
    let web = Deployment::new(lab, Spec::new("inside"))?;
    web.describe(LEAVE, "")?;
    let before = web.machine.boot_id()?;
    let ended = web.anemos.run(UP, LONG)?;
    expect_end(&ended, "held", "the agent broke (signal: 9 (SIGKILL))")?;
    let lines = ended.json();
    for what in [
        "still inside: /sys/fs/cgroup",
        "still inside: /run/anemos/cgroup",
        "still inside: /proc/1/root/run/anemos/cgroup",
        "still inside: mounted anew",
        "still inside: unmounted",
        "SG_IO: Operation not permitted",
        "HDIO_GETGEO: works",
    ] {
        expect(lines.iter().any(|line| is_log(line, what)), format!("no “{what}” in {}", ended.stdout))?;
    }
    for what in [
        "mounted the old kind",
        "entered the namespace",
        "entered without a type",
        "set memory.max",
        "set pids.max",
        "opened the memory",
    ] {
        expect(!lines.iter().any(|line| is_log(line, what)), format!("the payload {what}"))?;
    }
    let ended = web.anemos.run(["abort", "--json"], LONG)?;
    expect_end(&ended, "untouched", "nothing had been written to a disk")?;
    web.expect_old(&before)?;
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
