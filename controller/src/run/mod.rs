//! Runs: the hosts of one, begun together or taken up again, with what people wish of them meanwhile. No terminal: who
//! asks, shows and ends a process is a command.

mod again;
pub mod base;
mod begin;
mod check;
mod describe;
mod descriptors;
mod error;
mod find;
mod host;
pub mod inbox;
mod intent;
mod jobs;
mod made;
mod member;
mod onlook;
mod order;
mod plea;
mod resume;
#[cfg(test)]
pub mod samples;
mod saved;
mod wanted;

pub use again::{follow, new_id};
pub use begin::{Ended, Meeting, Order, Prepared, Renewed, Terms, new_keys, renewed};
pub use check::{Checked, check};
pub use describe::{Described, Description, Secrets, describe, read_secret};
pub use error::{Kind, RunError};
pub use find::{Asked, Booted, Found, Last, last_booted, read, some_in_ram};
pub use intent::{Intent, LINES};
pub use made::made_so;
pub use order::is_kept;
pub use plea::Answer;
pub use resume::{Wanting, resume};
pub use saved::Terms as SavedTerms;
pub use saved::{SavedError, SavedPlan};
pub use wanted::Wanted;

use crate::journal::{HostEntry, RunDir};
use crate::report::Ending;

/// Deletes the run's key once no host of it, by the journals, can be in RAM any more. Returns what went wrong with
/// that.
pub fn forget(dir: &RunDir, hosts: &[HostEntry]) -> Option<String> {
    let over = |host: &HostEntry| {
        read(dir, &host.name).is_ok_and(|journal| journal.end().is_some_and(|end| end.outcome != Ending::Held))
    };
    if hosts.iter().all(over) { dir.forget_key().err().map(|error| error.to_string()) } else { None }
}
