//! The stage as it is sent: packed in each way that a host may be able to unpack.

use std::sync::Arc;

use anemos_proto::ids::Digest;

use super::sha256;

/// A way in which the stage is packed for the wire.
#[derive(Debug, PartialEq, Eq)]
pub struct Packing {
    /// The end of the name of the file that `deploy/build-remote.sh` makes.
    pub name: &'static str,
    /// The command that unpacks it from standard input to standard output.
    pub unpack: &'static str,
    /// The letter `x`, packed with the same filters and the same need of memory, in words that `printf` takes.
    pub sample: &'static str,
}

/// All ways. gzip is on every host; the others are smaller. The samples are from `printf x | TOOL …` with the options
/// of `deploy/build-remote.sh`.
pub const PACKINGS: [Packing; 4] = [
    Packing {
        name: "x86.xz",
        unpack: "xz -dc",
        sample: concat!(
            r"\3757zXZ\000\000\001i\042\3366\002\001\004\000\041\001\024\000\217\344\003\055\001\000\000x\000",
            r"\000\000\000\203\026\334\214\000\001\025\001\251c4\140\220B\231\015\001\000\000\000\000\001YZ"
        ),
    },
    Packing {
        name: "xz",
        unpack: "xz -dc",
        sample: concat!(
            r"\3757zXZ\000\000\001i\042\3366\002\000\041\001\024\000\000\000\377\347\354\011\001\000\000x\000",
            r"\000\000\000\203\026\334\214\000\001\025\001\251c4\140\220B\231\015\001\000\000\000\000\001YZ"
        ),
    },
    Packing { name: "zst", unpack: "zstd -dc", sample: r"\050\265\057\375\004X\011\000\000x\043\021\004\203" },
    Packing {
        name: "gz",
        unpack: "gzip -dc",
        sample: r"\037\213\010\000\000\000\000\000\000\003\253\000\000\203\026\334\214\001\000\000\000",
    },
];

/// The stage binary, as it is sent.
#[derive(Debug, Clone)]
pub struct StageBinary {
    /// Packed in each way, the smallest first.
    pub packed: Vec<(&'static Packing, Arc<[u8]>)>,
    /// SHA-256 of the executable itself.
    pub digest: Digest,
    /// `uname -m` of the machines that it runs on.
    pub arch: &'static str,
}

impl StageBinary {
    /// An executable, and what it was packed into.
    pub fn new(executable: &[u8], mut packed: Vec<(&'static Packing, Arc<[u8]>)>, arch: &'static str) -> Self {
        packed.sort_by_key(|(_, bytes)| bytes.len());
        Self { packed, digest: sha256(executable), arch }
    }
}
