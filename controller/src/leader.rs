//! A program that is ended with all that it has started.

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::Child;

/// The first process of a group of its own, whose number is the group's: whoever starts it sees to that. Dropped, it is
/// killed with the group, unless it has ended.
pub(crate) struct Leader(pub Child);

impl Leader {
    /// Sends a signal to all of the group. Once its end was waited for, it goes nowhere.
    pub(crate) fn signal(&self, signal: Signal) {
        // Until it was waited for, nobody else can have its number.
        if let Some(group) = self.0.id().and_then(|pid| Pid::from_raw(pid.cast_signed())) {
            let _ = kill_process_group(group, signal);
        }
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}
