//! What is wrong with a new system.

use std::net::Ipv4Addr;

use lab::impostor::Impostor;
use lab::link::Target;
use serde_json::Value;

use super::{Cell, End, Fault, NOT_YET, Phase, Scene, Setup, System};
use crate::deployment::expect;

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
    let end = End::held("the new system did not answer within deadline `reboot` (1m30s)", System::Any);
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
    let other = Ipv4Addr::new(10, 0, 2, 77);
    let setup = move |setup: &mut Setup| {
        setup.more = "new_address = \"127.0.0.2\"\n".into();
        // In the payload's own copy, after the file was made.
        let moved = format!("sed -i 's/10\\.0\\.2\\.15/{other}/' \"$target/etc/network.sh\"");
        let edit = format!("sed -i '/network render/r /dev/stdin' hello <<'MOVED'\n{moved}\nMOVED\n");
        setup.last = Some(format!("{edit}grep -qF 'etc/network.sh' hello && exec ./hello\n"));
    };
    let wound = move |scene: &mut Scene| {
        // Somebody else has its old address then.
        let stranger = Impostor::start(&scene.machine().dir().join("stranger"), "")?;
        scene.machine().link().redirect(Target::Here(stranger.address()));
        let _line = scene.machine().line_at(other)?;
        let there = "the host is at 127.0.0.2";
        let is_there = |line: &Value| line["text"].as_str().is_some_and(|text| text.contains(there));
        scene.wait("the new system's address", is_there)?;
        scene.wait("the end", |line| line["type"] == "summary")?;
        expect(stranger.connections() > 0, "nobody asked the stranger")?;
        stranger.assert_told_nothing()
    };
    match phase {
        Phase::Rebooting => Cell::with(setup, wound, End { system: System::Any, ..End::DEPLOYED }),
        _ => NOT_YET,
    }
}
