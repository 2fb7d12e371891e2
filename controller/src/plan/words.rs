//! How values of the wire's types are written in a plan: as the words of docs/JSON.md.

use anemos_proto::config::Finish;
use anemos_proto::stage::KernelSource;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
#[serde(remote = "KernelSource", rename_all = "lowercase")]
pub(super) enum KernelWord {
    Host,
    Locked,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Finish", rename_all = "lowercase")]
pub(super) enum FinishWord {
    Reboot,
    Kexec,
    PowerOff,
    Hold,
}

/// A digest as its hexadecimal digits.
pub(super) mod digest {
    use anemos_proto::ids::Digest;
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub fn serialize<S: Serializer>(digest: &Digest, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(digest)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Digest, D::Error> {
        String::deserialize(from)?.parse().map_err(de::Error::custom)
    }
}
