//! Disks: partitions, file systems, and what starts the system.

mod features;
pub(crate) mod geometry;
pub(crate) mod grub;
pub(crate) mod layout;
mod luks;
mod making;
pub(crate) mod old;
#[cfg(feature = "images")]
mod same;
mod seed;

pub use self::grub::{has_kernel, install_bios};
pub use self::layout::Wanted;
pub use self::making::Disk;
pub use self::seed::Seed;
