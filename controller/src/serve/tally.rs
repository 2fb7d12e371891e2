//! What runs that are over amounted to since this daemon was started.

use crate::report::{Ending, Phase, Summary};

/// Sums over the hosts of runs that are over.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Tally {
    /// Hosts by how they ended: deployed, untouched, held.
    pub ends: [u64; 3],
    /// Bytes written to the sockets of their SSH connections.
    pub sent: u64,
    /// Bytes read from them.
    pub received: u64,
    /// Seconds of all hosts, and how many hosts, of each phase in the order of [`Phase::ALL`].
    pub phases: [(f64, u64); Phase::ALL.len()],
}

impl Tally {
    /// The endings in the order of [`Tally::ends`].
    pub const ENDINGS: [Ending; 3] = [Ending::Deployed, Ending::Untouched, Ending::Held];

    /// Takes in the end of a host.
    pub(super) fn add(&mut self, summary: &Summary) {
        for (ending, count) in Self::ENDINGS.iter().zip(&mut self.ends) {
            *count += u64::from(*ending == summary.outcome);
        }
        self.sent = self.sent.saturating_add(summary.uploaded_bytes);
        self.received = self.received.saturating_add(summary.received_bytes);
        for (phase, (sum, count)) in Phase::ALL.into_iter().zip(&mut self.phases) {
            if let Some(seconds) = summary.seconds.of(phase) {
                *sum += seconds;
                *count += 1;
            }
        }
    }
}
