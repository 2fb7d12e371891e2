//! What payloads do that they should not.

use std::time::{Duration, Instant};

use lab::Result;

use super::{Cell, End, Fault, NO_PAYLOAD, Phase, Scene, Setup, System};
use crate::deployment::{LONG, expect, is_log};

pub const FAULTS: &[Fault] = &[
    Fault { name: "payload-fails", what: "the payload fails", cell: |phase| ends(phase, "exit 7\n", "status 7") },
    Fault {
        name: "payload-killed",
        what: "the payload is killed",
        cell: |phase| ends(phase, "kill -KILL $$\n", "killed by signal 9"),
    },
    Fault {
        name: "payload-hangs",
        what: "the payload does nothing until deadline `build`",
        cell: |phase| late(phase, "exec sleep 10000\n"),
    },
    Fault {
        name: "payload-ignores-term",
        what: "it does so and ignores SIGTERM",
        cell: |phase| late(phase, "trap '' TERM\nwhile :; do sleep 1; done\n"),
    },
    Fault {
        name: "payload-leaves-much",
        what: "the payload fails and leaves daemons and mounts",
        cell: |phase| ends(phase, LEAVES, "status 9"),
    },
    Fault { name: "payload-fills-memory", what: "it takes memory without end", cell: |phase| heavy(phase, ALLOCATES) },
    Fault {
        name: "payload-fills-tmpfs",
        what: "it fills /tmp, /run, / and its directory",
        cell: |phase| heavy(phase, FILLS),
    },
    Fault { name: "payload-fork-bomb", what: "it starts processes without end", cell: |phase| heavy(phase, BOMB) },
    Fault { name: "payload-floods", what: "it prints a gigabyte", cell: |phase| heavy(phase, FLOODS) },
    Fault { name: "payload-long-line", what: "it prints a line of 10 MB", cell: |phase| heavy(phase, LINE) },
    Fault { name: "payload-escapes", what: "it prints escapes and invalid UTF-8", cell: escapes },
];

const LEAVES: &str = "setsid sh -c 'while sleep 1; do :; done' &\nmkdir -p /mnt/a\nmount -t tmpfs none /mnt/a\n\
                      (cd /mnt/a && exec setsid sleep 10000) &\nexit 9\n";
const ALLOCATES: &str = "echo 'it begins'\ntail -c 10000000000 /dev/zero | wc -c\nexit 1\n";
const FILLS: &str = "echo 'it begins'\nfor dir in /tmp /run / . /dev/shm; do dd if=/dev/zero of=$dir/fill bs=1M \
                     2>/dev/null; done\necho full\nsleep 20\nexit 1\n";
const BOMB: &str = "echo 'it begins'\nbomb() { bomb | bomb & }\nbomb\nsleep 20\nexit 1\n";
const FLOODS: &str =
    "echo 'it begins'\nyes 'much too much of one thing, and nothing of any other' | head -c 1G\nexit 1\n";
const LINE: &str = "echo 'it begins'\nhead -c 10M /dev/zero | tr '\\0' x\necho\necho 'after it'\nexit 1\n";

/// How a deployment ends whose payload failed in this phase.
fn failed(phase: Phase, reason: &'static str) -> End {
    if phase == Phase::Written { End::held(reason, System::Ram) } else { End::old(reason) }
}

/// A payload that ends like this.
fn ends(phase: Phase, script: &'static str, reason: &'static str) -> Cell {
    match phase {
        Phase::Building | Phase::Written => {
            Cell::with(|setup| setup.last = Some(script.into()), |scene| scene.release(), failed(phase, reason))
        }
        _ => NO_PAYLOAD,
    }
}

/// A payload that must be ended by its deadline.
fn late(phase: Phase, script: &'static str) -> Cell {
    let setup = move |setup: &mut Setup| {
        setup.last = Some(script.into());
        setup.deadlines = setup.deadlines.replace("build = \"4m\"", "build = \"60s\"");
    };
    match phase {
        Phase::Building | Phase::Written => {
            Cell::with(setup, |scene| scene.release(), failed(phase, "deadline `build` (60 s)"))
        }
        _ => NO_PAYLOAD,
    }
}

/// A payload that takes what the machine has. Somebody who looks meanwhile gets in.
fn heavy(phase: Phase, script: &'static str) -> Cell {
    let wound = |scene: &mut Scene| {
        scene.release()?;
        scene.wait("the payload's line", |line| is_log(line, "it begins"))?;
        if scene.phase == Phase::Written {
            shell(scene)?;
        }
        Ok(())
    };
    // A shell may have written anything, so only a host that nobody looked at goes back.
    match phase {
        Phase::Building => Cell::with(|setup| setup.last = Some(script.into()), wound, End::old("the payload")),
        Phase::Written => {
            Cell::with(|setup| setup.last = Some(script.into()), wound, End::held("the payload", System::Ram))
        }
        _ => NO_PAYLOAD,
    }
}

/// A shell opens within 10 s, or 30 on a processor that another machine may be using too.
fn shell(scene: &Scene) -> Result<()> {
    let begin = Instant::now();
    let shell = scene.web.anemos.run(["shell", "web", "--", "echo in"], LONG)?;
    let took = begin.elapsed();
    expect(shell.stdout == "in\n" && took < Duration::from_secs(30), format!("after {took:?}: {shell:?}"))
}

fn escapes(phase: Phase) -> Cell {
    let script = "printf '\\033[2J\\033]0;owned\\007 \\377\\376 \\302\\233 said\\n'\nexec ./hello\n";
    match phase {
        Phase::Building | Phase::Written => {
            let wound = |scene: &mut Scene| {
                scene.release()?;
                scene.wait("the line's bytes", |line| line["base64"].is_string())?;
                let raw = scene.running()?.stdout();
                expect(!raw.contains('\u{1b}'), "an escape went to the output")
            };
            Cell::with(|setup| setup.last = Some(script.into()), wound, End::DEPLOYED)
        }
        _ => NO_PAYLOAD,
    }
}
