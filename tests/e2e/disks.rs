//! Which disk it is, on machines whose disks come, go and look alike.

use crate::deployment::{BOOT, LONG, UP, expect};
use crate::{Outcome, Scenario};
use lab::anemos::{Anemos, host_table};
use lab::archive::{Fault, Server};
use lab::machine::{Boot, file_sha256};
use lab::{Lab, Machine, Result, Spec, base};

pub const SCENARIOS: &[Scenario] = &[Scenario { name: "disks::unplugged_while_staging", run: unplugged_while_staging }];

/// Bytes a second at which the base comes: slow enough for a disk to be unplugged meanwhile.
const SLOWLY: u64 = 4 << 20;

/// One of two equal NVMe disks is declared, and pulled out before the host is in RAM. There the other has its name and
/// its number, and must not be taken for it.
fn unplugged_while_staging(lab: &Lab) -> Result<Outcome> {
    let server = Server::start(lab)?;
    let spec = Spec {
        boot: Boot::Image,
        nvme: vec!["anemos-a".into(), "anemos-b".into()],
        archive: Some(server.port()),
        ..Spec::new("equal-disks")
    };
    let machine = Machine::start(lab, spec)?;
    machine.wait_ssh(BOOT)?;
    let before = machine.boot_id()?;
    let heads =
        machine.ask("cd /sys/block && for d in nvme*; do readlink -f $d; cat $d/device/serial $d/size; done")?;
    for part in ["/virtual/nvme-subsystem/nvme-subsys0/nvme0n1", "/nvme-subsys1/nvme1n1", "anemos-a", "anemos-b"] {
        expect(heads.contains(part), format!("no {part} among the host's disks:\n{heads}"))?;
    }

    let anemos = Anemos::new(lab, "equal-disks")?;
    anemos.payload("payload", "#!/bin/sh\ndd if=/dev/zero of=\"$ANEMOS_DISK\" bs=1M count=8 conv=fsync\nexit 1\n")?;
    let table = host_table(lab, "web", &machine).replace("anemos-root", "anemos-a");
    anemos.write("hosts.toml", &format!("{table}payload = \"payload\"\n{}", base::from_url(lab, &machine)?))?;
    let sibling = machine.nvme_disk("anemos-b");
    let bytes = file_sha256(&sibling)?;

    server.fault("/base/", Fault::Throttle(SLOWLY));
    let mut up = anemos.spawn(UP)?;
    up.wait_json("the stage", LONG, |line| line["type"] == "phase" && line["phase"] == "stage")?;
    machine.unplug_nvme("anemos-a")?;
    expect(!up.json().iter().any(|line| line["phase"] == "boot"), "the host was told to boot before the disk was out")?;
    let ended = up.wait(LONG)?;
    let summary = ended.summary("web")?;
    let reason = summary["reason"].as_str().unwrap_or_default();
    expect(summary["outcome"] == "untouched" && ended.code() == 4, format!("it ended otherwise: {summary}"))?;
    for part in ["the disk that was /dev/nvme", "serial anemos-a", "is not here", "anemos-b", "waited 60 s"] {
        expect(reason.contains(part), format!("no {part:?} in the reason: {reason}"))?;
    }
    machine.wait_boot(&before, BOOT)?;
    let release = machine.ask("cat /etc/os-release")?;
    expect(release.contains("VERSION_CODENAME=bookworm"), format!("not the old system: {release}"))?;

    expect(file_sha256(&sibling)? == bytes, "the other disk was written")?;
    Ok(Outcome::Passed)
}
