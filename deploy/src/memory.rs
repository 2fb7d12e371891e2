//! How much memory the host has, and the stage's error where that is too little.

use anemos_host::{Root, memory};
use anemos_proto::memory::{Memory, TooLittle};

use crate::error::Fault;

/// What there is now. `total` counts what is kept for a kernel that would tell of a crash, since the one that boots
/// is told to keep none.
pub fn of(root: &Root) -> Memory {
    let memory = memory::Memory::of(root);
    let reserved = memory::reserved(root);
    Memory {
        total: memory.total.map_or(u64::MAX, |total| total.saturating_add(reserved)),
        available: memory.available.unwrap_or(u64::MAX),
    }
}

impl From<TooLittle> for Fault {
    fn from(TooLittle { why, hint }: TooLittle) -> Self {
        Self::new("checking the host's memory", why).hint(hint)
    }
}
