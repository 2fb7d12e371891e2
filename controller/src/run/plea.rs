//! A wish on its way to a host, and its answer.

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::engine::Wish;

/// A wish on its way to a host.
#[derive(Debug)]
pub struct Plea {
    /// See [`crate::report::Wished`].
    pub id: String,
    /// See [`crate::report::Wished`].
    pub author: String,
    /// Its number, if the host's journal has it already: the process that wrote it down ended before it was answered.
    pub number: Option<u64>,
    /// What.
    pub wish: Wish,
    /// Takes the answer. Dropped without one if the host is not followed any more.
    pub answer: oneshot::Sender<Answer>,
}

/// What became of a wish for one host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The host.
    pub host: String,
    /// The wish's number in the host's journal, if it is there.
    pub number: Option<u64>,
    /// Why it won't be done; `None` if it is, or will be.
    pub refused: Option<String>,
    /// The host has got it. If not, it gets it as soon as it is reached.
    pub made: bool,
}
