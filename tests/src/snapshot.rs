//! Booted hosts, kept as a frozen disk and a file with the memory. Every machine starts from new overlays of the disk,
//! so nothing of it is copied, and from the memory read as an incoming migration.

use crate::image::{self, Image, System};
use crate::machine::{Boot, Disks, Machine, Snapshot, Spec};
use crate::{Context, Lab, Result, accel, bail};
use serde_json::json;
use std::fs;
use std::time::{Duration, Instant};

/// Changed whenever the machine's hardware is.
const VERSION: &str = "1";
/// How long Debian may take to boot where the processor is emulated and shared.
const BOOT: Duration = Duration::from_secs(300);

impl Machine {
    /// Starts a machine. One that starts from a snapshot answers SSH, and has the right time, when this returns.
    pub fn start(lab: &Lab, spec: Spec) -> Result<Self> {
        let name = spec.name.clone();
        let start = || {
            let image = image::ensure(lab, spec.system, spec.net)?;
            let snapshot = match &spec.boot {
                // Only what most tests have is worth the room.
                Boot::Snapshot if spec.system != System::Bookworm => None,
                Boot::Snapshot => Some(ensure(lab, &spec, &image)?),
                Boot::Image | Boot::Disks(_) => None,
            };
            Self::start_from(lab, spec, &image, snapshot.as_ref())
        };
        start().context(format!("machine {name}"))
    }
}

/// The snapshot for this hardware, made now if there is none for the present image.
pub fn ensure(lab: &Lab, spec: &Spec, image: &Image) -> Result<Snapshot> {
    let hardware = spec.hardware();
    let dir = lab.path("snapshots").join(hardware.to_string());
    let identity = format!("{VERSION} {} {}", image.id()?, accel::probe(lab)?.arguments(spec.cpus).join(" "));
    let vars = dir.join("vars.qcow2");
    let snapshot = Snapshot {
        disks: Disks {
            root: dir.join("disk.qcow2"),
            vars: matches!(spec.firmware, crate::Firmware::Uefi).then_some(vars),
        },
        memory: dir.join("memory"),
    };
    let _lock = lab.lock(&format!("snapshot-{hardware}"))?;
    let stamp = dir.join("stamp");
    if fs::read_to_string(&stamp).is_ok_and(|text| text == identity) {
        return Ok(snapshot);
    }
    if dir.exists() {
        fs::remove_dir_all(&dir).context(format!("cannot remove {}", dir.display()))?;
    }
    fs::create_dir_all(&dir).context(format!("cannot make {}", dir.display()))?;
    eprintln!("lab: booting Debian 12 for the snapshot {hardware}");
    let begin = Instant::now();
    let disks = Disks::from_image(image, spec.firmware, &dir)?;
    let machine = Machine::start_from(
        lab,
        Spec {
            boot: Boot::Disks(disks),
            data_disk: None,
            kernel: None,
            archive: None,
            name: format!("snapshot-{hardware}"),
            ..spec.clone()
        },
        image,
        None,
    )?;
    machine.wait_ssh(BOOT)?;
    let banner = begin.elapsed();
    settle(&machine)?;
    save(&machine, &snapshot)?;
    // The disks are the snapshot's now.
    let _kept = machine.into_disks()?;
    fs::write(&stamp, identity).context("cannot write the snapshot's stamp")?;
    eprintln!(
        "lab: {hardware} answered SSH after {:.1} s, snapshot made after {:.1} s",
        banner.as_secs_f32(),
        begin.elapsed().as_secs_f32()
    );
    Ok(snapshot)
}

/// Waits until the host has nothing left to start, so that every machine begins from the same rest.
fn settle(machine: &Machine) -> Result<()> {
    let state =
        machine.ssh_within("systemctl is-system-running --wait || systemctl --failed --no-legend; sync", BOOT)?;
    if state.lines().next() != Some("running") {
        bail!("the host image did not boot cleanly:\n{state}");
    }
    Ok(())
}

fn save(machine: &Machine, snapshot: &Snapshot) -> Result<()> {
    let monitor = machine.monitor();
    monitor.execute("stop", &json!({}))?;
    monitor.execute("migrate-set-parameters", &json!({"max-bandwidth": 10_u64 << 30}))?;
    monitor.execute("migrate", &json!({"uri": format!("exec:cat > '{}'", snapshot.memory.display())}))?;
    monitor.wait("query-migrate", Duration::from_secs(120), |status| match status["status"].as_str() {
        Some("completed") => Ok(true),
        Some("failed" | "cancelled") => bail!("QEMU could not save the machine: {status}"),
        _ => Ok(false),
    })
}
