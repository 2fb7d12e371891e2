//! What is to be done in a run that a daemon has, on the disk: hosts that wait for their turn go on after the daemon
//! was started again. Nothing secret is in it.

use std::collections::BTreeMap;

use anemos_proto::ids::{BlobRef, Digest};
use serde::{Deserialize, Serialize};

use super::describe::{Described, Description};
use crate::engine::{Blob, Limits};
use crate::journal::{JournalError, RunDir};

/// The file beside the blobs.
const FILE: &str = "order.json";

/// `order.json`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Kept {
    /// [`Kept::FORMAT`].
    format: u32,
    pub hosts: Vec<Described>,
    /// Those of them that have secrets, which are not here.
    pub secretive: Vec<String>,
    pub limits: Limits,
}

impl Kept {
    /// Version of this file's form.
    const FORMAT: u32 = 1;

    pub fn new(description: &Description, limits: Limits) -> Self {
        let secretive = description.secrets.keys().cloned().collect();
        Self { format: Self::FORMAT, hosts: description.hosts.clone(), secretive, limits }
    }

    /// What all hosts name by its digest.
    fn blobs(&self) -> impl Iterator<Item = BlobRef> {
        self.hosts.iter().flat_map(|host| [host.payload, host.base.lock].into_iter().chain(host.base.upload))
    }

    /// Writes it down, with the blobs that it names.
    pub fn write(&self, run: &RunDir, blobs: &BTreeMap<Digest, Blob>) -> Result<(), JournalError> {
        let json = serde_json::to_vec(self)
            .map_err(|e| JournalError::Unwritable { run: run.id.to_string(), why: e.to_string() })?;
        let named: BTreeMap<String, &Blob> =
            self.blobs().filter_map(|id| Some((id.digest.to_string(), blobs.get(&id.digest)?))).collect();
        let blobs = named.iter().map(|(name, blob)| (name.as_str(), &blob.bytes[..]));
        run.keep_order(blobs.chain([(FILE, &json[..])]))
    }

    /// Reads it.
    pub fn read(run: &RunDir) -> Result<(Self, BTreeMap<Digest, Blob>), JournalError> {
        let read = |name: &str| {
            let path = run.order_path().join(name);
            std::fs::read(&path).map_err(|source| JournalError::Io { doing: "reading", path, source })
        };
        let damaged = |name: &str, what: String| JournalError::Damaged { path: run.order_path().join(name), what };
        let json = read(FILE)?;
        let value: serde_json::Value = serde_json::from_slice(&json).map_err(|e| damaged(FILE, e.to_string()))?;
        let format = value["format"].as_u64().unwrap_or(0);
        if format != u64::from(Self::FORMAT) {
            let path = run.order_path().join(FILE);
            return Err(JournalError::Version { path, found: u32::try_from(format).unwrap_or(u32::MAX) });
        }
        let kept: Self = serde_json::from_value(value).map_err(|e| damaged(FILE, e.to_string()))?;
        let mut blobs = BTreeMap::new();
        for id in kept.blobs() {
            if blobs.contains_key(&id.digest) {
                continue;
            }
            let name = id.digest.to_string();
            let blob = Blob::new(read(&name)?);
            if blob.id != id {
                return Err(damaged(&name, "it is not what its name says".into()));
            }
            blobs.insert(id.digest, blob);
        }
        Ok((kept, blobs))
    }
}

/// Whether a daemon has the run, running or not.
pub fn is_kept(run: &RunDir) -> bool {
    run.order_path().join(FILE).exists()
}
