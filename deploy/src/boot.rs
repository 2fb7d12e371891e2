//! Leaves the old system for the kernel that was loaded: as cleanly as a second or two allow, and without asking any
//! service.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anemos_host::Root;
use anemos_host::deadline::within;
use anemos_host::processes::{self, Process};
use anemos_proto::host::Watchdog;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use rustix::system::{RebootCommand, reboot};
use rustix::time::Timespec;

use crate::facts::kernel_release;
use crate::facts::watchdogs::watchdogs;
use crate::guardian::Guardian;
use crate::sys;

/// Time for processes to end after SIGTERM.
const TERMINATION: Duration = Duration::from_secs(2);

/// If no process has ended for so long, those that are left are taken to ignore SIGTERM.
const QUIET: Duration = Duration::from_millis(300);

/// Time for writing everything to disk, which would never end on a network file system whose server is gone.
const SYNC: Duration = Duration::from_secs(30);

/// Time for the kernel to make file systems read-only.
const READ_ONLY: Duration = Duration::from_secs(2);

/// Leaves the session and the control group of the connection, so that the connection's end doesn't end the stage.
pub fn detach(root: &Root) {
    sys::signal::ignore_all();
    // setsid(2) fails only for a process that leads a group already, which needs no new session.
    _ = rustix::process::setsid();
    // A service manager that stops sshd may end everything in its control group.
    _ = std::fs::write(root.at("/sys/fs/cgroup/cgroup.procs"), std::process::id().to_string());
    _ = std::env::set_current_dir("/");
    // From here on the host is better off with a stage that gets to its end.
    _ = std::fs::write("/proc/self/oom_score_adj", "-1000");
}

/// Time for a BMC to answer.
const BMC: Duration = Duration::from_secs(10);

/// Ends processes, syncs, makes file systems read-only, and boots what was loaded. If that fails, restarts into the old
/// system. Never returns. A BMC's watchdog is started if the kernel that boots `feeds_bmc`.
pub fn go(root: &Root, guardian: &Guardian, feeds_bmc: bool) -> ! {
    terminate(root, guardian.pid());
    stop_watchdogs(root);
    _ = within(SYNC, rustix::fs::sync);
    make_read_only(root);
    // reboot(2) hangs if a driver does; the guardian resets the machine then.
    guardian.leaves();
    let armed = if feeds_bmc { arm_bmc(root) } else { None };
    let error = reboot(RebootCommand::Kexec).err();
    // The connection is gone, so the error goes to the kernel's log, and thereby to the console.
    let text = format!("anemos-stage: kexec failed ({error:?}), restarting into the old system\n");
    _ = std::fs::write(root.at("/dev/kmsg"), &text);
    eprint!("{text}");
    if let Some(mut device) = armed {
        _ = within(BMC, move || device.write_all(b"V"));
    }
    _ = reboot(RebootCommand::Restart);
    std::process::exit(1);
}

/// Names, as the kernel cuts them, of programs that may give back a leased address when they are told to end. RAM goes
/// on with the address, and nobody else must get it.
const LEASEHOLDERS: [&str; 5] = ["systemd-network", "NetworkManager", "dhcpcd", "dhclient", "udhcpc"];

/// Stops the DHCP clients where they are, so that they don't hear the signals that follow, and returns them. They end
/// with the old system.
fn hold_leases(others: &[Process]) -> Vec<i32> {
    let clients = others.iter().filter(|process| LEASEHOLDERS.contains(&&*process.name)).map(|process| process.pid);
    let stop = |pid: &i32| Pid::from_raw(*pid).is_some_and(|pid| kill_process(pid, Signal::STOP).is_ok());
    clients.filter(stop).collect()
}

/// Asks every process but the `guardian` to end, and waits until all have ended, none has for [`QUIET`], or
/// [`TERMINATION`] has passed.
fn terminate(root: &Root, guardian: Option<i32>) {
    let others = processes::others(root);
    let held = hold_leases(&others);
    let others = others.into_iter().filter(|other| Some(other.pid) != guardian && !held.contains(&other.pid));
    let mut waiting: Vec<OwnedFd> =
        others.filter_map(|other| pidfd_open(Pid::from_raw(other.pid)?, PidfdFlags::empty()).ok()).collect();
    if sys::signal::terminate_others().is_err() {
        return;
    }
    let deadline = Instant::now() + TERMINATION;
    while !waiting.is_empty() && Instant::now() < deadline {
        let mut polled: Vec<_> = waiting.iter().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
        let limit = Timespec { tv_sec: 0, tv_nsec: i64::from(QUIET.subsec_nanos()) };
        match poll(&mut polled, Some(&limit)) {
            Ok(ended) if ended > 0 => {}
            // No process has ended within QUIET, or poll(2) failed.
            _ => return,
        }
        let ended: Vec<_> = polled.iter().map(|fd| !fd.revents().is_empty()).collect();
        let mut ended = ended.into_iter();
        waiting.retain(|_| ended.next() == Some(false));
    }
}

/// Stops the watchdogs that count and whose feeders have ended, as the feeders should have done. One that PID 1 holds
/// can't be opened; the RAM system feeds it, as it does one that can't be stopped.
fn stop_watchdogs(root: &Root) {
    for name in root.names("/sys/class/watchdog") {
        let sys = format!("/sys/class/watchdog/{name}");
        // Opening a watchdog starts it, so one that doesn't count is left alone.
        if root.text(&format!("{sys}/state")).is_none_or(|state| state != "active")
            || root.flag(&format!("{sys}/nowayout"))
        {
            continue;
        }
        if let Ok(mut device) = OpenOptions::new().write(true).open(root.at(&format!("/dev/{name}"))) {
            // The character says that the close that follows is meant (Documentation/watchdog/watchdog-api.rst).
            _ = device.write_all(b"V");
        }
    }
}

/// Starts the BMC's watchdog, which counts through the restart: its driver gives it two minutes at least then
/// (drivers/char/ipmi/ipmi_watchdog.c). So a kernel that hangs before its init ends in the old system. One that PID 1
/// holds counts already. What is returned keeps it open.
fn arm_bmc(root: &Root) -> Option<File> {
    let all = watchdogs(root, &kernel_release(root));
    let bmc = all.into_iter().find(|watchdog| watchdog.module == Watchdog::IPMI)?;
    let path = root.at(&format!("/dev/{}", bmc.name));
    within(BMC, move || {
        let mut device = OpenOptions::new().write(true).open(path).ok()?;
        // It begins to count with the first write.
        device.write_all(b"\0").ok().map(|()| device)
    })?
}

/// Has the kernel make every file system read-only, which also marks it clean, and waits until all on disks are.
fn make_read_only(root: &Root) {
    if std::fs::write(root.at("/proc/sysrq-trigger"), "u").is_err() {
        return;
    }
    // The kernel works in the background and doesn't tell when it is done, so the mount table is read again and again.
    let deadline = Instant::now() + READ_ONLY;
    while Instant::now() < deadline && writable_disks(&root.text("/proc/mounts").unwrap_or_default()) {
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whether `/proc/mounts` has a file system on a block device that can still be written.
pub fn writable_disks(text: &str) -> bool {
    text.lines().any(|line| {
        let mut words = line.split(' ');
        let source = words.next().unwrap_or_default();
        let options = words.nth(2).unwrap_or_default();
        source.starts_with("/dev/") && options.split(',').next() == Some("rw")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writable() {
        let rw = "proc /proc proc rw,nosuid 0 0\n/dev/sda1 / ext4 rw,relatime,errors=remount-ro 0 0\n";
        assert!(writable_disks(rw));
        assert!(!writable_disks(&rw.replace("ext4 rw", "ext4 ro")));
        assert!(!writable_disks("tmpfs /run tmpfs rw 0 0\n"));
    }

    /// A DHCP client that is told to end may release its lease.
    #[test]
    fn dhcp_clients_stand_still() -> std::io::Result<()> {
        let dir = tempfile::tempdir()?;
        let start = |name: &str| {
            let program = dir.path().join(name);
            std::fs::copy("/bin/sleep", &program)?;
            std::process::Command::new(program).arg("600").spawn()
        };
        let (mut client, mut other) = (start("udhcpc")?, start("sshd")?);
        let pid = |child: &std::process::Child| child.id().cast_signed();
        let process = |child: &std::process::Child, name: &str| Process { pid: pid(child), name: name.into() };
        let held = hold_leases(&[process(&client, "udhcpc"), process(&other, "sshd")]);
        let state = |child: &std::process::Child| {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
            stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next())
        };
        let until = Instant::now() + Duration::from_secs(20);
        while state(&client) != Some('T') && Instant::now() < until {
            std::thread::yield_now();
        }
        let states = (state(&client), state(&other));
        let expected = vec![pid(&client)];
        for child in [&mut client, &mut other] {
            child.kill()?;
            child.wait()?;
        }
        assert_eq!(held, expected);
        assert_eq!(states.0, Some('T'), "it doesn't hear SIGTERM");
        assert_ne!(states.1, Some('T'));
        Ok(())
    }

    #[test]
    fn a_bmc_is_armed_and_nothing_else() -> std::io::Result<()> {
        for (modules, armed) in [("ipmi_watchdog 32768 0 - Live 0x0\n", true), ("iTCO_wdt 16384 0 - Live 0x0\n", false)]
        {
            let dir = tempfile::tempdir()?;
            let root = Root::new(dir.path());
            for path in ["/dev", "/proc", "/sys/class/misc/watchdog"] {
                std::fs::create_dir_all(root.at(path))?;
            }
            std::fs::write(root.at("/proc/modules"), modules)?;
            std::fs::write(root.at("/dev/watchdog"), "")?;
            assert_eq!(arm_bmc(&root).is_some(), armed, "{modules}");
            assert_eq!(std::fs::read(root.at("/dev/watchdog"))? == b"\0", armed, "{modules}");
        }
        Ok(())
    }

    #[test]
    fn only_watchdogs_that_count_and_can_be_stopped_are() -> std::io::Result<()> {
        let dir = tempfile::tempdir()?;
        let root = Root::new(dir.path());
        std::fs::create_dir(root.at("/dev"))?;
        let cases = [("active", "0", "V"), ("inactive", "0", ""), ("active", "1", "")];
        for (number, (state, nowayout, _)) in cases.iter().enumerate() {
            let sys = root.at(&format!("/sys/class/watchdog/watchdog{number}"));
            std::fs::create_dir_all(&sys)?;
            std::fs::write(sys.join("state"), format!("{state}\n"))?;
            std::fs::write(sys.join("nowayout"), format!("{nowayout}\n"))?;
            std::fs::write(root.at(&format!("/dev/watchdog{number}")), "")?;
        }
        stop_watchdogs(&root);
        for (number, (state, nowayout, written)) in cases.iter().enumerate() {
            let text = std::fs::read_to_string(root.at(&format!("/dev/watchdog{number}")))?;
            assert_eq!(text, *written, "{state}, nowayout {nowayout}");
        }
        Ok(())
    }
}
