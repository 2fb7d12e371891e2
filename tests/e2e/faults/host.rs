//! What happens to the machine, its kernel and its stage.

use std::time::Duration;

use lab::Result;
use lab::machine::OnPanic;

use super::{Cell, End, Fault, NO_STAGE, Phase, Scene, Setup, System, disk, kernel};
use crate::deployment::{LONG, is_event};

pub const FAULTS: &[Fault] = &[
    Fault { name: "reset", what: "the machine is reset", cell: reset },
    Fault { name: "stage-killed", what: "the stage is killed", cell: stage_killed },
    Fault { name: "memory-taken", what: "all of the old system's memory is taken", cell: memory },
    Fault { name: "run-full", what: "/run is full", cell: run_full },
    Fault { name: "run-noexec", what: "/run forbids executables, as the other places do", cell: noexec },
    Fault { name: "kexec-disabled", what: "kernel.kexec_load_disabled is set", cell: kexec_disabled },
    Fault { name: "kexec-ignored", what: "the loaded kernel is never executed", cell: kexec_ignored },
    Fault { name: "kernel-panics", what: "the RAM system's kernel panics", cell: panics },
    Fault { name: "kernel-hangs", what: "the RAM system's kernel hangs before init", cell: hangs },
    Fault { name: "kernel-hangs-watched", what: "it does so, and a BMC has a watchdog", cell: hangs_watched },
    Fault { name: "no-network-driver", what: "the RAM system has no driver for its network", cell: no_driver },
    Fault { name: "one-processor-dead", what: "one of two processors does not come up", cell: one_dead },
    Fault {
        name: "disk-slow",
        what: "the disk takes 256 KiB a second from then on, 2 MiB under the payload",
        cell: slow_disk,
    },
    Fault { name: "disk-fails", what: "the disk returns errors", cell: fails },
    Fault { name: "disk-vanishes", what: "the declared disk is pulled out", cell: vanishes },
    Fault { name: "disk-busy", what: "the disk is part of RAID, LVM, LUKS or swap", cell: busy },
    Fault { name: "disk-renamed", what: "the disk has another name after the kexec", cell: renamed },
    Fault { name: "disk-small", what: "the disk is smaller than hosts.toml says", cell: small },
    Fault { name: "clock-wrong", what: "the clock is ten years off", cell: clock },
];

const NO_START: Cell = Cell::Never("init runs by then, or the kernel is not booted yet");

fn reset(phase: Phase) -> Cell {
    let wound = |scene: &mut Scene| {
        scene.machine().reset()?;
        scene.release()
    };
    match phase {
        _ if phase.is_before_boot() => Cell::tried(wound, End::old("")),
        Phase::Booting => Cell::tried(wound, End::old("went back to its old system")),
        Phase::Building => Cell::tried(wound, End::held("whether a disk was written is not known", System::Old)),
        Phase::Written => Cell::tried(wound, End::held("written", System::Old)),
        _ => Cell::tried(wound, End::DEPLOYED),
    }
}

fn stage_killed(phase: Phase) -> Cell {
    let wound = |scene: &mut Scene| {
        // The stage is the only process whose executable is there. In the probe it is on its way yet.
        let kill = "killed=; until [ $killed ]; do sleep 0.1; for exe in /proc/[0-9]*/exe; do case $(readlink $exe) \
                    in */stage-*) kill -KILL $(basename ${exe%/exe}) && killed=1;; esac; done; done; until [ \
                    \"$(cat /sys/kernel/kexec_loaded)\" = 0 ]; do sleep 0.1; done";
        scene.machine().ssh_aside(kill, Duration::from_secs(60))?;
        scene.release()
    };
    match phase {
        Phase::Probe | Phase::Upload | Phase::Stage | Phase::Loaded => Cell::tried(wound, End::same("")),
        _ => NO_STAGE,
    }
}

fn memory(phase: Phase) -> Cell {
    let wound = |scene: &mut Scene| {
        let fill = "mount -t tmpfs -o size=100% none /mnt && dd if=/dev/zero of=/mnt/fill bs=1M \
                    count=$(awk '/MemAvailable/ { print int($2 / 1024) - 100 }' /proc/meminfo) status=none";
        scene.machine().ssh_aside(fill, Duration::from_secs(120))?;
        scene.release()
    };
    match phase {
        Phase::Probe | Phase::Upload | Phase::Stage => Cell::tried(wound, End::same("memory")),
        Phase::Connect => Cell::Never("as in the phase after it: nothing is on the host yet"),
        Phase::Loaded => Cell::Never("all that the boot needs is taken by then"),
        _ => Cell::Never("the old system does not run then"),
    }
}

/// Places of the stage's own, made useless.
fn spoil(scene: &mut Scene, script: &str) -> Result<()> {
    scene.machine().ssh_aside(script, Duration::from_secs(60))?;
    scene.release()
}

fn run_full(phase: Phase) -> Cell {
    let wound = |scene: &mut Scene| spoil(scene, "dd if=/dev/zero of=/run/fill bs=1M 2>/dev/null; test -s /run/fill");
    match phase {
        // What is sent is kept in memory, not in files.
        Phase::Connect | Phase::Upload | Phase::Stage | Phase::Loaded => Cell::tried(wound, End::DEPLOYED),
        Phase::Probe => Cell::Never("the stage may be written already then, or not: the phases beside it show both"),
        _ => Cell::Never("the old system does not run then"),
    }
}

fn noexec(phase: Phase) -> Cell {
    let wound = |scene: &mut Scene| {
        spoil(
            scene,
            "for dir in /run /dev/shm /tmp /var/tmp; do \
             mount --bind $dir $dir && mount -o remount,bind,noexec $dir; done",
        )
    };
    match phase {
        Phase::Connect => Cell::tried(wound, End::DEPLOYED),
        _ => Cell::Never("the stage runs by then, or has run"),
    }
}

fn kexec_disabled(phase: Phase) -> Cell {
    let wound = |scene: &mut Scene| spoil(scene, "sysctl -q -w kernel.kexec_load_disabled=1");
    match phase {
        Phase::Upload | Phase::Stage => Cell::tried(wound, End::same("kexec")),
        Phase::Connect | Phase::Probe => Cell::tried(wound, End::refused("kexec is switched off")),
        Phase::Loaded => Cell::Never("the kernel is loaded by then, and a loaded kernel may be executed"),
        _ => Cell::Never("the old system does not run then"),
    }
}

fn kexec_ignored(phase: Phase) -> Cell {
    let wound = |scene: &mut Scene| {
        // Loads nothing in place of what was loaded (kexec_load(2) without segments) when the old system's processes
        // are told to end, after which nobody looks any more.
        let unload = "setsid perl -e '$| = 1; $SIG{TERM} = sub { syscall(246, 0, 0, 0, 0) }; print \"ready\\n\"; \
                      sleep 9 while 1' </dev/null >/run/unload 2>&1 & until grep -qs ready /run/unload; do sleep \
                      0.1; done";
        spoil(scene, unload)
    };
    match phase {
        Phase::Loaded => Cell::with(
            |setup| setup.spec.on_panic = OnPanic::Note,
            wound,
            End::old("the RAM system did not come up, and the machine went back to its old system"),
        ),
        _ => Cell::Never("a kernel is loaded only then"),
    }
}

fn panics(phase: Phase) -> Cell {
    let wound = |scene: &mut Scene| {
        let crash = "echo c >/proc/sysrq-trigger";
        let _ = scene.web.anemos.run(["shell", "web", "--", crash], LONG);
        scene.release()
    };
    let noted = |setup: &mut Setup| setup.spec.on_panic = OnPanic::Note;
    match phase {
        Phase::Building | Phase::Written => Cell::with(noted, wound, End::held("", System::Any)),
        Phase::Booting => Cell::with(noted, kernel::panic_early, End::old("went back to its old system")),
        Phase::Unacknowledged => Cell::Never("as after the write: a shell is not let in by a link that is held"),
        Phase::Rebooting => Cell::Never("the RAM system's kernel ends then: the phase before it shows a panic"),
        _ => Cell::Never("the RAM system does not run then"),
    }
}

fn hangs(phase: Phase) -> Cell {
    match phase {
        Phase::Booting => Cell::with(
            |setup| setup.deadlines = setup.deadlines.replace("boot = \"3m\"", "boot = \"90s\""),
            kernel::hang_early,
            End::held("the RAM system did not answer within deadline `boot`", System::Any),
        ),
        _ => NO_START,
    }
}

fn hangs_watched(phase: Phase) -> Cell {
    match phase {
        Phase::Booting => Cell::with(
            |setup| {
                // The cloud kernel of the lab's other machines has no driver for a BMC.
                setup.spec.system = lab::System::Trixie;
                setup.spec.bmc = true;
                setup.prepare = "modprobe -a ipmi_si ipmi_watchdog && test -c /dev/watchdog".into();
                setup.deadlines = setup.deadlines.replace("boot = \"3m\"", "boot = \"10m\"");
            },
            kernel::hang_early,
            End::old("went back to its old system"),
        ),
        _ => NO_START,
    }
}

fn no_driver(phase: Phase) -> Cell {
    let wound = |scene: &mut Scene| {
        // The stage takes modules as it finds them. One that is missing it would miss.
        let other = "cd /lib/modules/$(uname -r)/kernel/drivers/net && cp dummy.ko virtio_net.ko";
        spoil(scene, other)
    };
    match phase {
        // The agent goes back when nobody has come.
        Phase::Probe => Cell::tried(wound, End::old("went back to its old system")),
        Phase::Booting => Cell::Never("what it boots is put together in the phases before"),
        _ => Cell::Never("modules are taken after the probe, and once"),
    }
}

fn one_dead(phase: Phase) -> Cell {
    match phase {
        Phase::Booting => Cell::with(
            |setup| {
                setup.spec.cpus = 2;
                setup.first = kernel::PROCESSORS.into();
            },
            kernel::lose_processor,
            End::DEPLOYED,
        ),
        _ => Cell::Never("processors come up when a kernel boots"),
    }
}

fn slow_disk(phase: Phase) -> Cell {
    let wound = |scene: &mut Scene| {
        scene.machine().throttle_disk(Some(2 << 20))?;
        scene.release()?;
        // The payload writes some hundred megabytes; the rest of the deployment need not take an hour.
        scene.wait("the outcome", |line| is_event(line, "outcome"))?;
        scene.machine().throttle_disk(None)
    };
    match phase {
        Phase::Stage | Phase::Loaded => Cell::with(
            |setup| setup.deadlines = setup.deadlines.replace("boot = \"3m\"", "boot = \"10m\""),
            slow_until_ram,
            End::DEPLOYED,
        ),
        Phase::Building | Phase::Written => Cell::with(
            |setup| setup.deadlines = setup.deadlines.replace("build = \"4m\"", "build = \"20m\""),
            wound,
            End::DEPLOYED,
        ),
        _ => Cell::Never("the disk is hardly used then"),
    }
}

/// The disk is slow until the old system has ended.
fn slow_until_ram(scene: &mut Scene) -> Result<()> {
    scene.machine().throttle_disk(Some(256 << 10))?;
    scene.release()?;
    scene.machine().wait_serial("anemos: starting", LONG)?;
    scene.machine().throttle_disk(None)
}

fn fails(phase: Phase) -> Cell {
    let wound = |scene: &mut Scene| {
        scene.machine().fail_disk()?;
        scene.release()
    };
    let brief = |setup: &mut Setup| setup.deadlines = setup.deadlines.replace("reboot = \"5m\"", "reboot = \"90s\"");
    // The machine can't boot from such a disk, whatever is on it.
    let lost = |reason| Cell::with(brief, wound, End::held(reason, System::Any));
    match phase {
        Phase::Connect | Phase::Probe | Phase::Upload | Phase::Stage => {
            Cell::tried(wound, End::same("Input/output error"))
        }
        // The payload fails before it writes, so the agent goes back.
        Phase::Loaded | Phase::Booting | Phase::Building => {
            lost("the old system did not come back within deadline `reboot` (1m30s)")
        }
        Phase::Written => Cell::tried(wound, End::held("the payload exited with status 1", System::Ram)),
        Phase::Unacknowledged | Phase::Rebooting => {
            lost("the new system did not answer within deadline `reboot` (1m30s)")
        }
        // What the check needs has been read by then.
        Phase::Verifying => Cell::tried(wound, End { system: System::Any, ..End::DEPLOYED }),
    }
}

fn vanishes(phase: Phase) -> Cell {
    let wound = |scene: &mut Scene| {
        scene.machine().unplug_disk()?;
        scene.release()
    };

    match phase {
        Phase::Stage => Cell::Shown("disks::unplugged_while_staging"),
        Phase::Building | Phase::Written => Cell::tried(wound, End::held("the payload", System::Ram)),
        _ => Cell::Never("as in the phases that look for the disk or use it"),
    }
}

fn busy(phase: Phase) -> Cell {
    match phase {
        Phase::Probe => Cell::tried(disk::stack, End::DEPLOYED),
        _ => Cell::Never("what a disk is part of is found in the probe; in RAM nothing is assembled"),
    }
}

fn renamed(phase: Phase) -> Cell {
    match phase {
        Phase::Booting => Cell::Shown("disks::unplugged_while_staging"),
        _ => Cell::Never("disks get names when a kernel boots"),
    }
}

fn small(phase: Phase) -> Cell {
    match phase {
        Phase::Probe => Cell::Shown("runs::plan_refusals_and_ctrl_c"),
        _ => Cell::Never("sizes are compared in the probe"),
    }
}

fn clock(phase: Phase) -> Cell {
    let wound = |scene: &mut Scene| spoil(scene, "date -u -s 2016-01-01 >/dev/null; hwclock --systohc --utc");
    match phase {
        Phase::Probe => Cell::tried(wound, End::DEPLOYED),
        _ => Cell::Never("the clock is handed over before the boot; the RAM system starts with it"),
    }
}
