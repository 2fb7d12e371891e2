//! Files that tell what happened, noted by whatever makes them, and shown when a scenario fails.

use crate::command::tail;
use std::cell::RefCell;
use std::fs;
use std::path::PathBuf;

thread_local! {
    static FILES: RefCell<Vec<(String, PathBuf)>> = const { RefCell::new(Vec::new()) };
}

/// Notes a file that this thread's scenario writes.
pub fn note(what: impl Into<String>, path: impl Into<PathBuf>) {
    FILES.with_borrow_mut(|files| files.push((what.into(), path.into())));
}

/// Forgets the files of an earlier scenario.
pub fn forget() {
    FILES.with_borrow_mut(Vec::clear);
}

/// Where the files are, and how they end: this many lines.
pub fn show(lines: usize) -> String {
    FILES.with_borrow(|files| {
        let mut text = String::new();
        for (what, path) in files {
            let bytes = fs::read(path).unwrap_or_default();
            let end = tail(&String::from_utf8_lossy(&bytes), lines);
            let head = format!("--- {what}: {} ({} bytes), its end:\n", path.display(), bytes.len());
            text.extend([head.as_str(), end.as_str(), "\n"]);
        }
        text
    })
}
