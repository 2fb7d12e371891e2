//! Tests that can't be tried here say so.
#![allow(dead_code, reason = "several tests have this module, and not all use all of it")]

use std::io::Write;

/// Says that the calling test does nothing, and why: past libtest, which shows nothing of a test that passes.
pub fn skipped(why: &str) {
    let test = std::thread::current().name().unwrap_or_default().to_owned();
    let _ = writeln!(std::io::stderr(), "skipped: {test}: {why}");
}

/// Whether this is root, and not only root of a user namespace, who can neither make device nodes nor use loop devices.
pub fn is_root() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let everybody = map.split_whitespace().eq(["0", "0", "4294967295"]);
    let root = everybody && rustix::process::geteuid().is_root();
    if !root {
        skipped("only root can make file systems, and give files to others");
    }
    root
}
