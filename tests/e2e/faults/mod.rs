//! The fault matrix: what becomes of a deployment when a fault meets it, for every fault in every phase.
//!
//! Each pair is a [`Cell`]: it is tried on a machine, or shown by another scenario, or can't happen, for the reason
//! that stands there. `make faults` tries the cells and writes docs/FAULTS.md ([`book`]). `make test` tries those that
//! guard a promise.

mod archive;
mod controller;
mod disk;
mod host;
mod kernel;
mod link;
mod payload;
mod phase;
mod system;

use lab::{Lab, Result};

use crate::book;

pub use phase::{Phase, Scene, Setup, System};

/// A kind of fault.
pub struct Fault {
    /// Its name in commands and files.
    pub name: &'static str,
    /// What happens, for the document.
    pub what: &'static str,
    /// What becomes of it in each phase.
    pub cell: fn(Phase) -> Cell,
}

impl Fault {
    /// The cell's name in commands and files.
    pub fn in_phase(&self, phase: Phase) -> String {
        format!("{}.{phase}", self.name)
    }
}

/// What is known of a fault in a phase.
pub enum Cell {
    /// It is tried on a machine.
    Tried(Try),
    /// The scenario of that name shows it.
    Shown(&'static str),
    /// It can't happen: why.
    Never(&'static str),
}

/// What is done to a deployment.
pub type Wound = dyn Fn(&mut Scene) -> Result<()>;

/// How a cell is tried.
pub struct Try {
    /// What it changes about the deployment.
    pub setup: Box<dyn Fn(&mut Setup)>,
    /// The fault. It ends with [`Scene::release`] where the deployment is to go on.
    pub wound: Box<Wound>,
    /// What is promised.
    pub end: End,
}

/// How a deployment ends.
#[derive(Clone, Copy)]
pub struct End {
    /// `deployed`, `untouched` or `held`.
    pub outcome: &'static str,
    /// A part of the reason.
    pub reason: &'static str,
    /// The exit status.
    pub status: i32,
    /// What runs on the host then.
    pub system: System,
}

impl Cell {
    /// A cell that is tried on an ordinary deployment.
    pub fn tried(wound: impl Fn(&mut Scene) -> Result<()> + 'static, end: End) -> Self {
        Self::with(|_| {}, wound, end)
    }

    /// A cell that is tried on a deployment that is set up for it.
    pub fn with(
        setup: impl Fn(&mut Setup) + 'static,
        wound: impl Fn(&mut Scene) -> Result<()> + 'static,
        end: End,
    ) -> Self {
        Self::Tried(Try { setup: Box::new(setup), wound: Box::new(wound), end })
    }
}

impl End {
    /// The new system is up and is the one that was built.
    pub const DEPLOYED: Self = Self { outcome: "deployed", reason: "Anemos hello", status: 0, system: System::New };

    /// The old system was not even restarted.
    pub const fn same(reason: &'static str) -> Self {
        Self { outcome: "untouched", reason, status: 4, system: System::Same }
    }

    /// The plan says that it can't be.
    pub const fn refused(reason: &'static str) -> Self {
        Self { status: 3, ..Self::same(reason) }
    }

    /// The old system is back.
    pub const fn old(reason: &'static str) -> Self {
        Self { outcome: "untouched", reason, status: 4, system: System::Old }
    }

    /// A person has to look; this runs.
    pub const fn held(reason: &'static str, system: System) -> Self {
        Self { outcome: "held", reason, status: 4, system }
    }
}

/// Faults that have no meaning in a phase, for these reasons.
const NO_PAYLOAD: Cell = Cell::Never("no payload runs then");
const NOT_YET: Cell = Cell::Never("there is no new system then");
const NO_STAGE: Cell = Cell::Never("the stage does not run then");
const NO_DOWNLOAD: Cell = Cell::Never("the host downloads nothing then that Anemos asks for");

/// All faults, in the order of the document.
pub fn all() -> impl Iterator<Item = &'static Fault> {
    [link::FAULTS, controller::FAULTS, host::FAULTS, payload::FAULTS, archive::FAULTS, system::FAULTS]
        .into_iter()
        .flatten()
}

/// The cells that guard a promise, by name: `make test` tries them.
const GUARDS: &[&str] = &[
    "link-cut-20s.written",
    "stage-killed.loaded",
    "disk-vanishes.building",
    "archive-circle.stage",
    "archive-leads-in.stage",
    "new-other-address.rebooting",
];

/// The faults that meet machines with two processors, so that the matrix has such machines in every phase.
const TWO_PROCESSORS: &[&str] = &["reset", "stage-killed"];

/// Tries a cell.
pub fn attempt(lab: &Lab, fault: &Fault, phase: Phase, cell: &Try) -> Result<()> {
    let mut setup = Setup::new(&fault.in_phase(phase));
    if TWO_PROCESSORS.contains(&fault.name) {
        setup.spec.cpus = 2;
    }
    (cell.setup)(&mut setup);
    let mut scene = Scene::reach(lab, setup, phase)?;
    (cell.wound)(&mut scene)?;
    scene.end(&cell.end)
}

/// The matrix, to be tried and written down.
pub fn table() -> book::Table {
    let cell = |fault: &'static Fault, phase| match (fault.cell)(phase) {
        Cell::Tried(Try { end, .. }) => book::Cell::Tried(book::Tried {
            name: fault.in_phase(phase),
            word: end.outcome,
            promise: format!("{} on {:?}: {:?}", end.outcome, end.system, end.reason),
            attempt: Box::new(move |lab| match (fault.cell)(phase) {
                Cell::Tried(cell) => attempt(lab, fault, phase, &cell),
                _ => lab::bail!("{} is no cell that is tried", fault.in_phase(phase)),
            }),
        }),
        Cell::Shown(scenario) => book::Cell::Shown(scenario),
        Cell::Never(why) => book::Cell::Never(why),
    };
    book::Table {
        name: "faults",
        corner: "fault",
        document: "docs/FAULTS.md",
        results: "tests/e2e/faults/results.txt",
        guards: GUARDS,
        columns: Phase::ALL.map(Phase::name).to_vec(),
        rows: all().map(|fault| (fault.what, Phase::ALL.map(|phase| cell(fault, phase)).into())).collect(),
    }
}
