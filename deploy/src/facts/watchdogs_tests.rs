use std::os::unix::fs::symlink;

use super::*;
use crate::facts::disks::tests::tree;

const DEP: &str = "
    lib/modules/6.1/modules.dep = kernel/drivers/watchdog/iTCO_wdt.ko: kernel/drivers/watchdog/iTCO_vendor.ko\\n\
        kernel/drivers/watchdog/softdog.ko.xz:\\nkernel/drivers/char/ipmi/ipmi_watchdog.ko:\\nkernel/fs/ext4/ext4.ko:
";

/// What a host is, its files, who holds what open, and what is found.
type Case = (&'static str, String, Vec<(&'static str, &'static str, &'static str)>, Vec<Watchdog>);

/// A tree as `tree` makes it, with `/proc/PID/fd/FD` for who holds what open.
fn host(files: &str, open: &[(&str, &str, &str)]) -> (tempfile::TempDir, Root) {
    let (dir, root) = tree(&(DEP.to_owned() + files));
    for (pid, comm, device) in open {
        let fds = root.at(&format!("/proc/{pid}/fd"));
        std::fs::create_dir_all(&fds).unwrap();
        std::fs::write(root.at(&format!("/proc/{pid}/comm")), format!("{comm}\n")).unwrap();
        symlink("/dev/null", fds.join("0")).unwrap();
        symlink(device, fds.join("7")).unwrap();
    }
    (dir, root)
}

fn watchdog(name: &str, identity: &str, module: &str) -> Watchdog {
    Watchdog {
        name: name.into(),
        identity: identity.into(),
        module: module.into(),
        active: false,
        timeout_s: None,
        nowayout: false,
        holder: None,
    }
}

// A board with Intel's chipset under systemd's RuntimeWatchdogSec=30.
const ITCO: &str = "
    proc/modules = iTCO_wdt 16384 1 - Live 0x0\\nlpc_ich 28672 0 - Live 0x0
    sys/class/watchdog/watchdog0 -> ../../devices/pci0000:00/0000:00:1f.0/iTCO_wdt/watchdog/watchdog0
    sys/devices/pci0000:00/0000:00:1f.0/iTCO_wdt/watchdog/watchdog0/identity = iTCO_wdt
    sys/devices/pci0000:00/0000:00:1f.0/iTCO_wdt/watchdog/watchdog0/state = active
    sys/devices/pci0000:00/0000:00:1f.0/iTCO_wdt/watchdog/watchdog0/timeout = 30
    sys/devices/pci0000:00/0000:00:1f.0/iTCO_wdt/watchdog/watchdog0/nowayout = 0
    sys/devices/pci0000:00/0000:00:1f.0/iTCO_wdt/watchdog/watchdog0/device -> ../..
    sys/devices/pci0000:00/0000:00:1f.0/iTCO_wdt/driver/module -> ../../../../module/iTCO_wdt
    sys/class/misc/watchdog -> ../../devices/pci0000:00/0000:00:1f.0/iTCO_wdt/misc/watchdog
    sys/devices/pci0000:00/0000:00:1f.0/iTCO_wdt/misc/watchdog/dev = 10:130
";

// A server whose BMC's watchdog is fed by a daemon.
const BMC: &str = "
    proc/modules = ipmi_watchdog 32768 1 - Live 0x0\\nipmi_si 81920 1 - Live 0x0
    sys/class/misc/watchdog -> ../../devices/virtual/misc/watchdog
    sys/devices/virtual/misc/watchdog/dev = 10:130
    sys/module/ipmi_watchdog/parameters/timeout = 60
    sys/module/ipmi_watchdog/parameters/nowayout = Y
";

#[test]
fn hosts() {
    let itco = |change: fn(Watchdog) -> Watchdog| {
        let usual = Watchdog { active: true, timeout_s: Some(30), ..watchdog("watchdog0", "iTCO_wdt", "iTCO_wdt") };
        vec![change(usual)]
    };
    let held = |watchdog: Watchdog, holder: &str| Watchdog { holder: Some(holder.into()), ..watchdog };
    let bmc = Watchdog { timeout_s: Some(60), nowayout: true, ..watchdog("watchdog", Watchdog::IPMI, Watchdog::IPMI) };
    let is_left = |line: &&str| !line.contains("watchdog/watchdog0/") || line.contains("device ->");
    let without_sysfs = ITCO.lines().filter(is_left).collect::<Vec<_>>().join("\n")
        + "\nsys/devices/pci0000:00/0000:00:1f.0/iTCO_wdt/watchdog/watchdog0/dev = 250:0\n";
    let both = ITCO.replace("iTCO_wdt 16384", "ipmi_watchdog 32768 1 - Live 0x0\\niTCO_wdt 16384").replace(
        "sys/class/misc/watchdog -> ../../devices/pci0000:00/0000:00:1f.0/iTCO_wdt/misc/watchdog",
        "sys/class/misc/watchdog -> ../../devices/virtual/misc/watchdog",
    ) + "sys/devices/virtual/misc/watchdog/dev = 10:130\n";
    let cases: Vec<Case> = vec![
        ("none", String::new(), vec![("7", "sh", "/dev/tty")], vec![]),
        (
            "systemd by the second name",
            ITCO.into(),
            vec![("1", "systemd", "/dev/watchdog")],
            itco(|w| Watchdog { holder: Some("systemd (1)".into()), ..w }),
        ),
        (
            "systemd by its own name",
            ITCO.into(),
            vec![("1", "systemd", "/dev/watchdog0")],
            itco(|w| Watchdog { holder: Some("systemd (1)".into()), ..w }),
        ),
        (
            "nobody",
            ITCO.replace("state = active", "state = inactive"),
            vec![],
            itco(|w| Watchdog { active: false, ..w }),
        ),
        (
            "the kernel contains the driver",
            ITCO.replace("iTCO_wdt 16384 1 - Live 0x0\\n", ""),
            vec![],
            itco(|w| Watchdog { module: String::new(), ..w }),
        ),
        (
            "a kernel without CONFIG_WATCHDOG_SYSFS",
            without_sysfs,
            vec![("812", "watchdog", "/dev/watchdog")],
            itco(|w| Watchdog { timeout_s: None, holder: Some("watchdog (812)".into()), ..w }),
        ),
        ("a BMC", BMC.into(), vec![], vec![bmc.clone()]),
        (
            "a BMC, and a daemon",
            BMC.into(),
            vec![("812", "watchdog", "/dev/watchdog")],
            vec![held(Watchdog { active: true, ..bmc.clone() }, "watchdog (812)")],
        ),
        (
            "a BMC next to a chipset",
            both,
            vec![("1", "systemd", "/dev/watchdog0"), ("812", "watchdog", "/dev/watchdog")],
            vec![
                held(itco(|w| w).remove(0), "systemd (1)"),
                held(
                    Watchdog { active: true, ..watchdog("watchdog", Watchdog::IPMI, Watchdog::IPMI) },
                    "watchdog (812)",
                ),
            ],
        ),
        (
            "the kernel's own timer",
            "proc/modules = softdog 16384 1 - Live 0x0
             sys/class/watchdog/watchdog0 -> ../../devices/virtual/watchdog/watchdog0
             sys/devices/virtual/watchdog/watchdog0/identity = Software Watchdog
             sys/devices/virtual/watchdog/watchdog0/state = inactive
             sys/devices/virtual/watchdog/watchdog0/nowayout = 1
             sys/class/misc/watchdog -> ../../devices/virtual/misc/watchdog
             sys/devices/virtual/misc/watchdog/dev = 10:130"
                .into(),
            vec![],
            vec![Watchdog { nowayout: true, ..watchdog("watchdog0", "Software Watchdog", "softdog") }],
        ),
    ];
    for (what, files, open, expected) in cases {
        let (_dir, root) = host(&files, &open);
        assert_eq!(watchdogs(&root, "6.1"), expected, "{what}");
    }
}

#[test]
fn what_nobody_could_feed() {
    let first = ["iTCO_wdt".to_owned()];
    let active = |module: &str| Watchdog { active: true, ..watchdog("watchdog0", "x", module) };
    let held = |holder: &str, watchdog: Watchdog| Watchdog { holder: Some(holder.into()), ..watchdog };
    let forever = |watchdog: Watchdog| Watchdog { nowayout: true, ..watchdog };
    for (what, watchdog, lost) in [
        ("it goes along", held("systemd (1)", active("iTCO_wdt")), false),
        ("the kernel contains it", held("systemd (1)", active("")), false),
        ("it does not count", Watchdog { active: false, ..forever(active("x_wdt")) }, false),
        ("a daemon lets go of it", held("watchdog (812)", active("x_wdt")), false),
        ("PID 1 holds it", held("systemd (1)", active("x_wdt")), true),
        ("nothing stops it", forever(active("x_wdt")), true),
        ("nothing stops it, and a daemon feeds it", held("watchdog (812)", forever(active("x_wdt"))), true),
    ] {
        assert_eq!(unfed(std::slice::from_ref(&watchdog), &first).len(), usize::from(lost), "{what}");
    }
}
