//! Tests that can't be tried here say so.

use std::io::Write;

/// Whether the calling test has to do without root, where only root can do what `why` says. If so, it is told past
/// libtest, which shows nothing of a test that passes.
pub fn without_root(why: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        let test = std::thread::current().name().unwrap_or_default().to_owned();
        let _ = writeln!(std::io::stderr(), "skipped: {test}: {why}");
    }
    !root
}
