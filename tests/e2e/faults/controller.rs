//! What happens to the controller and its workstation.

use std::thread::sleep;
use std::time::Duration;

use lab::anemos::SmallState;
use rustix::process::Signal;
use serde_json::Value;

use super::{Cell, End, Fault, Phase, Scene, Setup};
use crate::deployment::{LONG, UP, expect_end};

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

fn stopped(_: Phase) -> Cell {
    let wound = |scene: &mut Scene| {
        scene.running()?.signal(Signal::STOP)?;
        sleep(Duration::from_secs(60));
        scene.release()?;
        scene.running()?.signal(Signal::CONT)
    };
    Cell::tried(wound, End::DEPLOYED)
}

fn full(phase: Phase) -> Cell {
    let setup = |setup: &mut Setup| {
        setup.small_state = true;
        // More than fits into the rest of the journal's last page, however well it is packed.
        setup.last = Some("head -c 20000 /dev/urandom | base64\nexec ./hello\n".into());
    };
    let wound = |scene: &mut Scene| {
        scene.state.as_ref().map_or(Ok(()), SmallState::fill)?;
        scene.release()?;
        // Before the boot it gives up, and after the payload's end it has nothing more to wait for. In between it
        // says what is wrong, and stays until somebody ends it.
        let stays = matches!(scene.phase, Phase::Booting | Phase::Building | Phase::Written);
        if stays {
            scene.wait("the journal's end", |line| is_said(line, "the journal can't be kept from here on"))?;
        }
        let up = scene.up.take().ok_or_else(|| lab::Error::new("there is no anemos any more"))?;
        let ended = if stays { up.leave(LONG)? } else { up.wait(LONG)? };
        if scene.phase.is_before_boot() {
            expect_end(&ended, "untouched", "journal")?;
        }
        scene.state.as_ref().map_or(Ok(()), SmallState::free)
    };
    let end = if phase.is_before_boot() { End::same("") } else { End::DEPLOYED };
    Cell::with(setup, wound, end)
}

/// Whether the controller itself says this.
fn is_said(line: &Value, text: &str) -> bool {
    line["type"] == "message" && line["text"].as_str().is_some_and(|line| line.contains(text))
}

fn two(phase: Phase) -> Cell {
    let wound = |scene: &mut Scene| {
        if matches!(scene.phase, Phase::Connect | Phase::Loaded | Phase::Unacknowledged) {
            // The second must get through to the host.
            scene.machine().link().resume();
        }
        let second = scene.web.anemos.run(UP, LONG)?;
        match scene.phase {
            // Where its new system is up, the host is one like any other: this is its next deployment.
            Phase::Verifying => expect_end(&second, "deployed", "Anemos hello")?,
            Phase::Building | Phase::Written => expect_end(&second, "untouched", "the host is in RAM")?,
            _ => expect_end(&second, "untouched", "")?,
        }
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
