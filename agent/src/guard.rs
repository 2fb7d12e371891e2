//! Keeps every disk but the declared ones from being written: read-only in the kernel, and closed to the payload's
//! processes.

use anemos_proto::event::Level;

use crate::app::App;
use crate::cgroup;
use crate::disks::Disks;

/// Sets all disks but `allowed` read-only; returns failures. A name in `allowed` that another disk has got since counts
/// for nothing.
pub fn guard(app: &App, allowed: &[String]) -> Vec<String> {
    let disks = Disks::new(&app.paths.tree);
    let (done, failed) = disks.guard(&disks.still(allowed, &app.run.disks));
    if !done.is_empty() {
        app.log.note(Level::Info, format!("set read-only: {}", done.join(", ")));
        fence(app, allowed);
    }
    failed
}

/// Keeps the payload's processes from opening any disk but `allowed` for writing. A name in `allowed` that another disk
/// has got since counts for nothing.
pub fn fence(app: &App, allowed: &[String]) {
    if !app.paths.machine {
        return;
    }
    let disks = Disks::new(&app.paths.tree);
    let devices = disks.numbers_without(&disks.still(allowed, &app.run.disks));
    if let Err(e) = cgroup::forbid_writing(&devices) {
        let text = format!("other disks are protected from the payload only by being set read-only: {e}");
        app.log.note(Level::Warning, text);
    }
}
