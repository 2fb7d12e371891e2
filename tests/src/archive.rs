//! A Debian archive on loopback: upstream's own signed indexes, the packages that the tests and examples need at
//! upstream's own paths, and a server that can misbehave on request.

mod fault;
mod fill;
mod http;
mod serve;
pub mod sources;
mod updates;

pub use fault::Fault;
pub use fill::unpack;
pub use serve::{Request, Server};
pub use updates::kernels;

use crate::{Lab, Result};

/// What the archive holds.
#[derive(Debug, Clone, Copy)]
pub struct Filled {
    /// Packages.
    pub packages: usize,
    /// Their size together.
    pub bytes: u64,
    /// Packages that were fetched just now.
    pub fetched: usize,
}

impl Filled {
    fn and(self, other: Self) -> Self {
        Self {
            packages: self.packages + other.packages,
            bytes: self.bytes + other.bytes,
            fetched: self.fetched + other.fetched,
        }
    }
}

/// Fills the archive unless that was done for the present base.lock.
pub fn fill_if_missing(lab: &Lab) -> Result<()> {
    let wanted = fill::identity()?;
    let filled = if !fill::is_filled(lab, &wanted) {
        fill(lab)?
    } else if !updates::are_fresh(lab, &wanted) {
        // What has been filled may be years old; updates expire within days.
        let _lock = lab.lock("archive")?;
        updates::fill(lab)?
    } else {
        return Ok(());
    };
    eprintln!(
        "lab: archive of {} packages, {} MB ({} fetched)",
        filled.packages,
        filled.bytes / 1_000_000,
        filled.fetched
    );
    Ok(())
}

/// Brings the archive up to date. What is there already is not fetched again.
pub fn fill(lab: &Lab) -> Result<Filled> {
    let _lock = lab.lock("archive")?;
    let main = fill::fill(lab)?;
    Ok(main.and(updates::fill(lab)?))
}
