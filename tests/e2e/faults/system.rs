//! What is wrong with a new system.

use super::{Cell, End, Fault, NOT_YET, Phase, Scene, Setup, System};

pub const FAULTS: &[Fault] = &[
    Fault { name: "new-never-comes", what: "the new system never comes up", cell: never_comes },
    Fault { name: "new-other-key", what: "the new system has another host key", cell: other_key },
    Fault { name: "new-fails-check", what: "the new system fails its check", cell: fails_check },
    Fault { name: "new-other-address", what: "the new system comes up at another address", cell: other_address },
];

fn never_comes(phase: Phase) -> Cell {
    let setup = |setup: &mut Setup| {
        setup.last = Some("dd if=/dev/zero of=\"$ANEMOS_DISK\" bs=1M count=4 conv=fsync status=none\n".into());
        setup.deadlines = setup.deadlines.replace("reboot = \"5m\"", "reboot = \"90s\"");
    };
    let end = End::held("the new system did not answer within deadline `reboot` (90s)", System::Any);
    match phase {
        Phase::Rebooting => Cell::with(setup, |scene: &mut Scene| scene.release(), end),
        _ => NOT_YET,
    }
}

fn other_key(phase: Phase) -> Cell {
    match phase {
        Phase::Rebooting => Cell::Shown("identity::impostor_after_kexec"),
        _ => NOT_YET,
    }
}

fn fails_check(phase: Phase) -> Cell {
    match phase {
        Phase::Verifying => Cell::with(
            |setup| setup.check = "echo it does not work; exit 3".into(),
            |scene| scene.release(),
            End::held("it does not work", System::New),
        ),
        _ => NOT_YET,
    }
}

fn other_address(phase: Phase) -> Cell {
    match phase {
        Phase::Rebooting => {
            Cell::Open("hosts.toml can't say yet at which other address the new system is to be looked for")
        }
        _ => NOT_YET,
    }
}
