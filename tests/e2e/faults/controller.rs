//! What happens to the controller and its workstation.

use std::thread::sleep;
use std::time::Duration;

use rustix::process::Signal;

use super::{Cell, End, Fault, Phase, Scene};
use crate::deployment::{LONG, UP, expect};

pub const FAULTS: &[Fault] = &[
    Fault { name: "controller-killed", what: "the controller is killed, and attached again", cell: killed },
    Fault { name: "controller-stopped", what: "the controller is stopped for a minute", cell: stopped },
    Fault { name: "controller-disk-full", what: "the journal's disk is full until the controller ends", cell: full },
    Fault { name: "two-controllers", what: "another run is begun on the same host", cell: two },
];

fn killed(phase: Phase) -> Cell {
    let wound = |scene: &mut Scene| {
        if let Some(up) = scene.up.take() {
            up.kill()?;
        }
        scene.release()
    };
    if phase.is_before_boot() { Cell::tried(wound, End::same("")) } else { Cell::tried(wound, End::DEPLOYED) }
}

fn stopped(phase: Phase) -> Cell {
    let wound = |scene: &mut Scene| {
        scene.running()?.signal(Signal::STOP)?;
        sleep(Duration::from_secs(60));
        scene.release()?;
        scene.running()?.signal(Signal::CONT)
    };
    match phase {
        Phase::Connect => Cell::tried(wound, End::same("deadline `connect`")),
        _ => Cell::tried(wound, End::DEPLOYED),
    }
}

fn full(_: Phase) -> Cell {
    Cell::Open("the workstation's state directory must be a small file system of its own")
}

fn two(phase: Phase) -> Cell {
    let wound = |scene: &mut Scene| {
        if matches!(scene.phase, Phase::Connect | Phase::Loaded | Phase::Unacknowledged) {
            // The second must get through to the host.
            scene.machine().link().resume();
        }
        let second = scene.web.anemos.run(UP, LONG)?;
        let summary = second.summary("web")?;
        expect(
            second.code() != 0 && summary["outcome"] != "deployed",
            format!("the second run was not refused: {summary}"),
        )?;
        scene.release()
    };
    match phase {
        Phase::Connect => Cell::Never("neither is on the host then: the phases after it show who wins"),
        Phase::Loaded | Phase::Unacknowledged => {
            Cell::Never("the link is held so that the first stays there, and the second needs the link")
        }
        Phase::Booting | Phase::Rebooting => Cell::Never("nobody answers on the host then"),
        _ => Cell::tried(wound, End::DEPLOYED),
    }
}
