//! Disks: partitions, file systems, and what starts the system.

mod geometry;
mod grub;
mod layout;
mod making;
mod old;

pub use self::grub::{has_kernel, install_bios};
pub use self::layout::Wanted;
pub use self::making::Disk;
