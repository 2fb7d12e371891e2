//! How machines are accelerated, decided by booting a kernel and not by the presence of a device file.

use crate::command::under_us;
use crate::image::{self, System};
use crate::{Context, Lab, Net, Result, bail};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::thread;
use std::time::{Duration, Instant};

/// A kernel without a root file system gets this far by itself.
const REACHED: &str = "Unable to mount root fs";
/// Hardware does this in two seconds.
const LIMIT: Duration = Duration::from_secs(20);

/// The answer, and why.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct Accel {
    /// Whether KVM works here.
    pub kvm: bool,
    /// What was seen.
    pub reason: String,
    /// The boot of this machine that it was seen in: another may be on other hardware.
    boot_id: String,
}

impl Accel {
    /// QEMU's arguments for a machine with so many processors.
    ///
    /// Several that are emulated run in turn. Beside each other (QEMU 7.2) a kernel dies now and then of `Oops: int3`
    /// when it patches its own code: one processor runs what the other had translated before.
    pub fn arguments(&self, cpus: u32) -> [&'static str; 4] {
        match (self.kvm, cpus) {
            (true, _) => ["-accel", "kvm", "-cpu", "host"],
            (false, 1) => ["-accel", "tcg,thread=multi", "-cpu", "max"],
            (false, _) => ["-accel", "tcg,thread=single", "-cpu", "max"],
        }
    }

    /// Further arguments, which a snapshot does not depend on.
    ///
    /// QEMU emulates string instructions step by step. A kernel that is told that `rep movsb` is fast copies and clears
    /// memory byte by byte then; one that is not takes eight at a time.
    pub fn tuning(&self) -> &'static [&'static str] {
        if self.kvm { &[] } else { &["-cpu", "max,erms=off,fsrm=off"] }
    }
}

/// Probes once for each boot of this machine, and remembers.
pub fn probe(lab: &Lab) -> Result<Accel> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let cache = lab.path("accel.json");
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned();
    let cached = fs::read(&cache).ok().and_then(|bytes| serde_json::from_slice::<Accel>(&bytes).ok());
    if let Some(accel) = cached
        && accel.boot_id == boot_id
    {
        return Ok(accel);
    }
    let (kvm, reason) = decide(lab)?;
    let accel = Accel { kvm, reason, boot_id };
    let text = serde_json::to_vec_pretty(&accel).context("cannot describe the acceleration")?;
    fs::write(&cache, text).context(format!("cannot write {}", cache.display()))?;
    eprintln!("lab: {}: {}", if kvm { "KVM works" } else { "emulating the processor" }, accel.reason);
    Ok(accel)
}

fn decide(lab: &Lab) -> Result<(bool, String)> {
    if !Path::new("/dev/kvm").exists() {
        return Ok((false, "there is no /dev/kvm".to_owned()));
    }
    let image = image::ensure(lab, System::Bookworm, Net::Dhcp)?;
    let serial = tempfile::NamedTempFile::new().context("cannot make a temporary file")?;
    let begin = Instant::now();
    let mut child = under_us("qemu-system-x86_64")
        .args(["-nodefaults", "-no-user-config", "-display", "none"])
        .args(["-machine", "pc", "-accel", "kvm", "-cpu", "host", "-m", "512", "-smp", "2", "-no-reboot", "-kernel"])
        .arg(image.kernel())
        .args(["-append", "console=ttyS0 panic=-1", "-serial"])
        .arg(format!("file:{}", serial.path().display()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("cannot start QEMU")?;
    let verdict = loop {
        let said =
            fs::read(serial.path()).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
        let took = begin.elapsed().as_secs_f32();
        if said.contains(REACHED) {
            break (true, format!("a probe kernel was through in {took:.1} s"));
        }
        if let Some(status) = child.try_wait().context("cannot wait for QEMU")? {
            let last = said.lines().next_back().unwrap_or("nothing").trim().to_owned();
            break (
                false,
                format!("/dev/kvm is there, but a probe kernel died after {took:.1} s ({status}; last words: {last})"),
            );
        }
        if begin.elapsed() > LIMIT {
            let last = said.lines().next_back().unwrap_or("nothing").trim().to_owned();
            break (false, format!("/dev/kvm is there, but a probe kernel hung for {took:.0} s (last words: {last})"));
        }
        thread::sleep(Duration::from_millis(50));
    };
    let _ = child.kill();
    if child.wait().is_err() {
        bail!("cannot end the probe machine");
    }
    Ok(verdict)
}
