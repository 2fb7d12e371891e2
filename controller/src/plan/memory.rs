//! Whether the host has the memory, as far as that is known before anything is sent.

use anemos_proto::host::HostFacts;
use anemos_proto::memory::{Memory, is_tight, usual_files};

use crate::config::format_bytes;

/// Less memory than this is worth a warning: a machine sold as 1 GiB has more.
const LOW: u64 = 900 << 20;

/// How each warning begins that is of memory. How much there is may change without anybody being asked again.
pub(super) const LITTLE: &str = "little memory: ";

/// What there is. RAM has what the old system keeps for a crash.
pub(super) fn of(facts: &HostFacts) -> Memory {
    // 0 where the host's kernel doesn't say.
    let known = |bytes| if bytes == 0 { u64::MAX } else { bytes };
    Memory {
        total: known(facts.memory_total).saturating_add(facts.memory_reserved),
        available: known(facts.memory_available),
    }
}

/// Why a base of `image` bytes doesn't fit.
pub(super) fn refusal(facts: &HostFacts, image: u64) -> Option<String> {
    of(facts).before(image).err().map(|short| short.to_string())
}

/// What is said where there is little.
pub(super) fn warning(facts: &HostFacts, image: u64) -> Option<String> {
    let total = of(facts).total;
    if total >= LOW || refusal(facts, image).is_some() {
        return None;
    }
    let doubt = if is_tight(total, image) { ", and perhaps will not" } else { "" };
    Some(format!(
        "{LITTLE}of {} the RAM system takes about {}; payload and what it unpacks must fit into the rest{doubt}",
        format_bytes(total),
        format_bytes(usual_files(image))
    ))
}

#[cfg(test)]
mod tests {
    use super::super::tests::facts;
    use super::*;

    const MIB: u64 = 1 << 20;

    /// What machines of these sizes have left once the kernel has taken its own (62 of 1024 MiB, 52 of 384).
    #[test]
    fn table() {
        // The base of base.lock.
        let image = 173_319_396;
        for (what, total, reserved, available, refused, warned) in [
            ("384 MiB", 332, 0, 260, Some("the system in RAM needs 351 MiB"), None),
            ("512 MiB", 458, 0, 380, None, Some("and perhaps will not")),
            ("512 MiB, busy", 458, 0, 120, Some("composing and loading the initramfs takes 127 MiB"), None),
            ("1 GiB, much of it kept for a crash", 668, 192, 420, None, Some("of 860 MiB the RAM system takes about")),
            ("the same, where it is not known how much", 668, 0, 420, None, Some("of 668 MiB the RAM system takes")),
            ("384 MiB with as much kept for a crash", 332, 384, 260, None, Some("of 716 MiB")),
            ("1 GiB", 962, 0, 780, None, None),
            ("it is not known", 0, 0, 0, None, None),
        ] {
            let mut facts = facts();
            facts.memory_total = total * MIB;
            facts.memory_reserved = reserved * MIB;
            facts.memory_available = available * MIB;
            let (found, said) = (refusal(&facts, image), warning(&facts, image));
            let fits = |found: &Option<String>, expected: Option<&str>| match (found, expected) {
                (Some(found), Some(expected)) => found.contains(expected),
                (found, expected) => found.is_none() && expected.is_none(),
            };
            assert!(fits(&found, refused) && fits(&said, warned), "{what}: {found:?} {said:?}");
        }
    }
}
