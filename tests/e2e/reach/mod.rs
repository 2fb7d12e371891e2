//! Which hosts can be deployed, by which way in: kinds of hosts, each with every way.
//!
//! Each pair ends *deployed*, or is *refused in the plan*, before the question and before anything but the stage was
//! sent; none is found out later. `make reach` tries them and writes docs/REACH.md ([`book`]); `make test` tries those
//! of [`GUARDS`].

mod kinds;
mod way;

use lab::{Lab, Result, Spec, System};

use crate::book::{self, Cell, Tried};
use crate::deployment::{Deployment, LONG, expect, expect_status};
use crate::faults::End;

use kinds::{KINDS, Kind, Known};
use way::Way;

/// The pairs that `make test` tries, by name.
const GUARDS: &[&str] = &["container.root", "kexec-off.jump", "kernel-renamed.sudo"];

/// The table, to be tried and written down.
pub fn table() -> book::Table {
    let cell = |kind: &'static Kind, way: Way| match kind.known {
        Known::Tried { spec, .. } if way == Way::Sudo && spec(Spec::new("")).system == System::Busybox => {
            Cell::Never("it has no sudo")
        }
        Known::Tried { end, .. } => Cell::Tried(Tried {
            name: name(kind, way),
            word: if end.outcome == "deployed" { "deployed" } else { "refused" },
            promise: format!("{}: {:?}", end.outcome, reason(end, way)),
            attempt: Box::new(move |lab| attempt(lab, kind, way)),
        }),
        Known::Shown(scenario) if way == Way::Root => Cell::Shown(scenario),
        Known::Shown(_) => Cell::Open("only with root's key"),
        Known::Open(why) => Cell::Open(why),
    };
    book::Table {
        name: "reach",
        corner: "host",
        document: "docs/REACH.md",
        results: "tests/e2e/reach/results.txt",
        guards: GUARDS,
        columns: Way::ALL.map(Way::what).to_vec(),
        rows: KINDS.iter().map(|kind| (kind.what, Way::ALL.map(|way| cell(kind, way)).into())).collect(),
    }
}

fn name(kind: &Kind, way: Way) -> String {
    format!("{}.{}", kind.name, way.name())
}

fn attempt(lab: &Lab, kind: &Kind, way: Way) -> Result<()> {
    let Known::Tried { spec, prepare, end } = kind.known else {
        lab::bail!("{} is not tried", kind.name);
    };
    let web = Deployment::new(lab, spec(Spec::new(name(kind, way))))?;
    web.machine.wait_ssh(LONG)?;
    let before = web.machine.boot_id()?;
    if way == Way::Image {
        let archive = web.machine.archive_url();
        web.describe("", &format!("mirror = {archive:?}\nauthorized_keys = [{:?}]", lab.key().with_extension("pub")))?;
        web.with_imgbuild("payload")?;
    } else {
        web.describe("", "check = \"test $(id -u) = 0\"")?;
        web.with_hello("payload", "#!/bin/sh\nexec ./hello\n")?;
    }
    let entrance = way.open(lab, &web)?;
    prepare.run(lab, &web)?;
    // It may have another server of SSH now, which begins.
    web.machine.wait_ssh(LONG)?;
    let sent = web.machine.link().counts();
    let ended = entrance.up(&web)?;
    expect_status(&ended, end.outcome, reason(end, way), end.status)?;
    if end.outcome == "deployed" {
        return if way == Way::Image { web.expect_imgbuild(&before) } else { web.expect_hello(&before) };
    }
    // Not even the agent was sent.
    let sent = web.machine.link().counts().sent - sent.sent;
    expect(sent < MOST_FOR_A_PLAN, format!("{sent} bytes were sent for a plan that refuses"))?;
    expect(web.machine.boot_id()? == before, "the host was restarted")
}

/// What is said of the end: of a system that was deployed, what it is.
fn reason(end: End, way: Way) -> &'static str {
    if way == Way::Image && end.outcome == "deployed" { "Debian GNU/Linux 13" } else { end.reason }
}

/// Bytes that get the stage there, and no more.
const MOST_FOR_A_PLAN: u64 = 1_100_000;
