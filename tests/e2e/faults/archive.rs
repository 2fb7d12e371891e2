//! What archives do that they should not. The base is what the host downloads by itself.

use lab::archive::Fault as Answer;

use super::{Cell, End, Fault, NO_DOWNLOAD, Phase, Scene};
use crate::deployment::LONG;

pub const FAULTS: &[Fault] = &[
    Fault { name: "archive-slow", what: "the archive sends 200 kB a second", cell: slow },
    Fault { name: "archive-stalls", what: "it stops in the middle and keeps the connection", cell: stalls },
    Fault { name: "archive-503", what: "it answers 503, and later as it should", cell: |phase| busy(phase, 503) },
    Fault { name: "archive-429", what: "it answers 429, and later as it should", cell: |phase| busy(phase, 429) },
    Fault {
        name: "archive-redirects",
        what: "it redirects, five times in a row",
        cell: |phase| leads(phase, Answer::Redirect(vec![301, 302, 303, 307, 308]), End::DEPLOYED),
    },
    Fault {
        name: "archive-circle",
        what: "it redirects in a circle",
        cell: |phase| leads(phase, Answer::Circle, End::same("redirected too often")),
    },
    Fault {
        name: "archive-leads-away",
        what: "it redirects to an https address where nobody is",
        cell: |phase| leads(phase, Answer::Lead("https://127.0.0.1:9/"), End::same("getting the base image")),
    },
    Fault {
        name: "archive-leads-in",
        what: "it redirects to a file of the host's",
        cell: |phase| leads(phase, Answer::Lead("file:///dev/zero"), End::same("file:///dev/zero")),
    },
    Fault { name: "archive-truncates", what: "it closes the connection in the middle", cell: truncates },
    Fault { name: "archive-lies", what: "it sends something else of another size", cell: lies },
];

/// A cell of the only phase in which the host downloads.
fn staging(phase: Phase, answer: Answer, mends: bool, end: End) -> Cell {
    let wound = move |scene: &mut Scene| {
        scene.web.server.mend();
        scene.web.server.fault("/base/", answer.clone());
        // Ends what is on its way, so that the host asks again and gets this answer.
        scene.web.server.hang_up();
        let end = std::time::Instant::now() + LONG;
        while scene.web.server.given(&answer) == 0 {
            if std::time::Instant::now() >= end {
                lab::bail!("the host did not ask again");
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        if mends { scene.release() } else { Ok(()) }
    };
    match phase {
        Phase::Stage => Cell::tried(wound, end),
        _ => NO_DOWNLOAD,
    }
}

fn slow(phase: Phase) -> Cell {
    staging(phase, Answer::Throttle(200_000), false, End::DEPLOYED)
}

fn stalls(phase: Phase) -> Cell {
    staging(phase, Answer::Stall(100_000), false, End::same("nothing came for"))
}

fn busy(phase: Phase, status: u16) -> Cell {
    staging(phase, Answer::Status(status), true, End::DEPLOYED)
}

/// An archive that sends elsewhere from the beginning.
fn leads(phase: Phase, answer: Answer, end: End) -> Cell {
    match phase {
        Phase::Stage => Cell::with(move |setup| setup.answer = answer.clone(), |_| Ok(()), end),
        _ => NO_DOWNLOAD,
    }
}

fn truncates(phase: Phase) -> Cell {
    staging(phase, Answer::Truncate(100_000), true, End::DEPLOYED)
}

fn lies(phase: Phase) -> Cell {
    staging(phase, Answer::Replace(vec![7; 1000]), false, End::same(""))
}
