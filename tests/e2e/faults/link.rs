//! What happens to the line between the workstation and the host.

use std::thread::sleep;
use std::time::Duration;

use lab::Result;
use lab::link::Way;

use super::{Cell, End, Fault, Phase, Scene, Setup, System};
use crate::deployment::{LONG, expect};

pub const FAULTS: &[Fault] = &[
    Fault { name: "link-cut-20s", what: "the link is cut, and is back after 20 s", cell: cut_and_back },
    Fault { name: "link-cut", what: "the link is cut for good", cell: cut },
    Fault { name: "link-one-way", what: "nothing comes from the host any more, for 40 s", cell: one_way },
    Fault { name: "link-thin", what: "64 kbit/s, and 300 ms later, from then on", cell: thin },
];

fn cut_and_back(phase: Phase) -> Cell {
    let wound = |scene: &mut Scene| {
        close(scene);
        // How long a link is away is the fault itself.
        sleep(Duration::from_secs(20));
        scene.machine().link().refuse(false);
        scene.release()
    };
    if phase.is_before_boot() { Cell::tried(wound, End::same("")) } else { Cell::tried(wound, End::DEPLOYED) }
}

fn close(scene: &Scene) {
    let link = scene.machine().link();
    link.refuse(true);
    link.cut();
}

fn cut(phase: Phase) -> Cell {
    let wound = |scene: &mut Scene| {
        close(scene);
        scene.release()
    };
    // The workstation can't see what runs there: the cell looks over a line of its own.
    let unseen = |reason| End::held(reason, System::Any);
    match phase {
        _ if phase.is_before_boot() => {
            let wound = |scene: &mut Scene| {
                close(scene);
                scene.release()?;
                same_boot_aside(scene)
            };
            Cell::tried(wound, End { system: System::Any, ..End::same("") })
        }
        Phase::Booting => {
            let wound = |scene: &mut Scene| {
                close(scene);
                // Nobody attaches, so no payload is started, and the host goes back by itself.
                scene.machine().wait_serial("going back to the old system: nobody attached", LONG)
            };
            Cell::tried(wound, unseen("the RAM system did not answer within deadline `boot`"))
        }
        Phase::Building | Phase::Written | Phase::Unacknowledged => {
            Cell::with(hurried, wound, unseen("deadline `build`"))
        }
        _ => Cell::with(hurried, wound, unseen("did not answer within deadline `reboot`")),
    }
}

/// Nobody comes back, so nothing is gained by a long wait.
fn hurried(setup: &mut Setup) {
    setup.deadlines = "dead_man = \"60s\", boot = \"3m\", build = \"60s\", reboot = \"60s\", ack = \"20s\"".into();
}

/// The stage undoes what it did when its connection ends, and the old system goes on.
fn same_boot_aside(scene: &mut Scene) -> Result<()> {
    let left =
        "until ! ls -d /run/anemos* >/dev/null 2>&1 && [ \"$(cat /sys/kernel/kexec_loaded)\" = 0 ]; do sleep 0.2; done";
    let left = format!("{left}; cat /proc/sys/kernel/random/boot_id");
    let boot = scene.machine().ssh_aside(&left, Duration::from_secs(120))?;
    expect(boot.trim() == scene.before, "the old system was restarted")
}

fn one_way(phase: Phase) -> Cell {
    let wound = |scene: &mut Scene| {
        scene.machine().link().resume();
        scene.machine().link().pause_one(Way::Down);
        sleep(Duration::from_secs(40));
        scene.release()
    };
    match phase {
        // The connection must stand within 30 s.
        Phase::Connect => Cell::tried(wound, End::same("deadline `connect`")),
        // A link that says nothing for 25 s counts as lost, and nobody comes back to a stage.
        _ if phase.is_before_boot() => Cell::tried(wound, End::same("the connection")),
        _ => Cell::tried(wound, End::DEPLOYED),
    }
}

fn thin(phase: Phase) -> Cell {
    let wound = |scene: &mut Scene| {
        scene.release()?;
        scene.machine().link().throttle(Some(8_000));
        scene.machine().link().delay(Duration::from_millis(300));
        Ok(())
    };
    match phase {
        Phase::Loaded => Cell::Never("nothing is sent then but one word"),
        _ => Cell::tried(wound, End::DEPLOYED),
    }
}
