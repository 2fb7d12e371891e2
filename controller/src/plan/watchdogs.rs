//! What a watchdog that the old system runs means for the boot and for the RAM system.

use anemos_proto::host::Watchdog;
use anemos_proto::stage::KernelSource;

/// What is said of each watchdog that counts.
pub(super) fn warnings(watchdogs: &[Watchdog]) -> impl Iterator<Item = String> {
    let active = watchdogs.iter().filter(|watchdog| watchdog.active);
    active.map(|watchdog| {
        let Watchdog { timeout_s, holder, .. } = watchdog;
        let seconds = timeout_s.map_or(String::new(), |seconds| format!(" after {seconds} s"));
        let feeder = holder.as_deref().map_or("nobody", name);
        format!(
            "the watchdog {} resets this machine{seconds} unless it is fed, as {feeder} does now: it is stopped for \
             the boot if it can be, and its driver is loaded in RAM and fed there",
            text(watchdog)
        )
    })
}

/// Why a watchdog would reset the machine while the payload runs, for each of which that is to be feared. The stage
/// makes sure of those whose driver is a module. The host's own kernel is proposed where it `host_fits`.
pub(super) fn refusals(watchdogs: &[Watchdog], kernel: KernelSource, host_fits: bool) -> Vec<String> {
    let is_feared = |watchdog: &&Watchdog| {
        let goes_on = watchdog.active && !watchdog.can_be_stopped();
        goes_on && watchdog.module.is_empty() && kernel == KernelSource::Locked
    };
    let or = if host_fits { ", or say kernel = \"host\"" } else { "" };
    let refusal = |watchdog: &Watchdog| {
        let why = if watchdog.nowayout { "it can't be stopped" } else { "PID 1 does not let go of it" };
        format!(
            "the watchdog {} is active, {why}, and its driver is part of the host's kernel, and perhaps not of the one \
             from base.lock: nobody might feed it in RAM. Stop it for the deployment (`systemctl stop watchdog`; or \
             RuntimeWatchdogSec=0 in /etc/systemd/system.conf and `systemctl daemon-reexec`){or}",
            text(watchdog)
        )
    };
    watchdogs.iter().filter(is_feared).map(refusal).collect()
}

/// Whether one of them resets the machine should the new kernel hang before its init: a BMC's, which PID 1 feeds now,
/// or which the stage starts because the kernel that boots surely has its driver.
pub(super) fn cover_the_boot(watchdogs: &[Watchdog], kernel: KernelSource) -> bool {
    let mut of_bmc = watchdogs.iter().filter(|watchdog| watchdog.module == Watchdog::IPMI);
    of_bmc.any(|watchdog| kernel == KernelSource::Host || watchdog.active && watchdog.is_held_by_init())
}

/// The name in `systemd (1)`. The number is left out, since it changes when a daemon is started again.
fn name(holder: &str) -> &str {
    holder.rsplit_once(" (").map_or(holder, |(name, _)| name)
}

fn text(watchdog: &Watchdog) -> String {
    let Watchdog { name, identity, .. } = watchdog;
    if identity.is_empty() { name.clone() } else { format!("{name} ({identity})") }
}
