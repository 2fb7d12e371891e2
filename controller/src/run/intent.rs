//! What somebody takes up a run for, and how much of what was told before is shown.

use std::collections::HashMap;

use anemos_proto::event::Level;
use anemos_proto::ids::RunId;

use crate::engine::Wish;
use crate::journal::Keep;
use crate::report::Update;

/// Of what was told before, so many lines are shown at once.
pub const LINES: usize = 1000;

/// What somebody takes up a run for.
#[derive(Debug, Clone, Default)]
pub struct Intent {
    /// What is wanted of the hosts; `None`: only to follow them.
    pub wish: Option<Wish>,
    /// Of the lines of output so far, so many; `None`: all.
    pub lines: Option<usize>,
    /// Of each host only what comes after this number.
    pub after: HashMap<String, u64>,
}

impl Intent {
    /// How much of a host's journal is shown.
    pub(super) fn keep(&self, after: u64) -> Keep {
        self.lines.map_or(Keep::All, |last| Keep::Lines { last, after })
    }

    pub(super) fn after(&self, host: &str) -> u64 {
        self.after.get(host).copied().unwrap_or(0)
    }
}

/// Says that lines are not shown.
pub(super) fn left_out(lines: u64, run: &RunId, host: &str) -> Update {
    let text = format!(
        "{lines} earlier lines are left out here; `anemos logs {host} --run {run}` has them, \
         `anemos attach --all {run}` shows all"
    );
    Update::Message(Level::Info, text)
}
