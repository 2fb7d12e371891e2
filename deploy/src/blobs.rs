//! Blobs, which the controller sends or an earlier deployment left in the cache. SHA-256 names and checks them.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, PoisonError};

use anemos_host::Root;
use anemos_host::memory::Memory;
use anemos_host::sha256::digest;
use anemos_proto::Digest;
use anemos_proto::ids::BlobRef;

use crate::error::{Fault, Result};
use crate::facts::CACHE;

/// Bytes of memory that are assumed to be available where the kernel doesn't say.
const DEFAULT_AVAILABLE: u64 = 256 << 20;

/// Blobs that are being received, and whole ones. One thread receives, another waits for the blobs that it needs.
#[derive(Default)]
pub struct Blobs {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Announced and not whole yet: size, and the bytes received so far.
    open: BTreeMap<Digest, (u64, Vec<u8>)>,
    whole: BTreeMap<Digest, Vec<u8>>,
}

impl Blobs {
    /// Looks for `wanted` in the cache; returns those that must be sent, each once. Fails if they need more than half
    /// of the available memory.
    pub fn announce(&self, root: &Root, wanted: &[BlobRef]) -> Result<Vec<Digest>> {
        let size = wanted.iter().fold(0_u64, |sum, blob| sum.saturating_add(blob.size));
        let available = Memory::of(root).available.unwrap_or(DEFAULT_AVAILABLE);
        if size > available / 2 {
            let why = format!("{size} bytes are announced, and the host has {available} bytes of memory available");
            return Err(Fault::new("making room for what is sent", why).hint("give the host more memory"));
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut needed = Vec::new();
        for blob in wanted {
            if state.open.contains_key(&blob.digest) || state.whole.contains_key(&blob.digest) {
                continue;
            }
            match cached(root, blob) {
                Some(bytes) => _ = state.whole.insert(blob.digest, bytes),
                None if blob.size == 0 && blob.digest == digest(&[]) => _ = state.whole.insert(blob.digest, Vec::new()),
                None => {
                    needed.push(blob.digest);
                    state.open.insert(blob.digest, (blob.size, Vec::new()));
                }
            }
        }
        Ok(needed)
    }

    /// Takes the next bytes of a blob.
    pub fn receive(&self, name: Digest, data: &[u8]) -> Result<()> {
        let fault = |why: String| Err(Fault::new(format!("receiving blob {name}"), why));
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((size, bytes)) = state.open.get_mut(&name) else {
            return fault("it was not asked for".into());
        };
        bytes.extend_from_slice(data);
        let got = bytes.len() as u64;
        if got > *size {
            return fault(format!("it is longer than the {size} bytes announced"));
        }
        if got == *size {
            let found = digest(bytes);
            if found != name {
                return fault(format!("its {size} bytes have SHA-256 {found}"));
            }
            if let Some((_, bytes)) = state.open.remove(&name) {
                state.whole.insert(name, bytes);
            }
            self.changed.notify_all();
        }
        Ok(())
    }

    /// Waits until `name` is whole, and takes it. The wait has no deadline: if the blob doesn't come, the deadline of
    /// the staging ends the process.
    pub fn take(&self, name: Digest) -> Vec<u8> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(bytes) = state.whole.remove(&name) {
                return bytes;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

fn cached(root: &Root, blob: &BlobRef) -> Option<Vec<u8>> {
    let path = format!("{CACHE}/blob-{}", blob.digest);
    // Compares lengths first, so that a file of another size isn't read at all.
    let length = std::fs::metadata(root.at(&path)).ok()?.len();
    let bytes = (length == blob.size).then(|| root.read(&path).ok())??;
    (digest(&bytes) == blob.digest).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob(bytes: &[u8]) -> BlobRef {
        BlobRef { digest: digest(bytes), size: bytes.len() as u64 }
    }

    #[test]
    fn only_what_the_cache_lacks_is_needed() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let (here, damaged, there) = (blob(b"here"), blob(b"damaged"), blob(b"there"));
        std::fs::create_dir_all(root.at(CACHE)).unwrap();
        std::fs::write(root.at(&format!("{CACHE}/blob-{}", here.digest)), b"here").unwrap();
        std::fs::write(root.at(&format!("{CACHE}/blob-{}", damaged.digest)), b"dAmaged").unwrap();
        let blobs = Blobs::default();
        assert_eq!(blobs.announce(&root, &[here, there, damaged, there]).unwrap(), [there.digest, damaged.digest]);
        assert_eq!(blobs.take(here.digest), b"here");
    }

    #[test]
    fn chunks_make_a_blob() {
        let (root, blobs) = (Root::new("/nonexistent"), Blobs::default());
        let whole = blob(b"hello world");
        blobs.announce(&root, &[whole]).unwrap();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| blobs.take(whole.digest));
            blobs.receive(whole.digest, b"hello ").unwrap();
            blobs.receive(whole.digest, b"world").unwrap();
            assert_eq!(waiting.join().unwrap(), b"hello world");
        });
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let (root, blobs) = (Root::new("/nonexistent"), Blobs::default());
        let (whole, other) = (blob(b"hello"), blob(b"other"));
        blobs.announce(&root, &[whole, other]).unwrap();
        let huge = BlobRef { size: u64::MAX, ..whole };
        assert!(blobs.announce(&root, &[huge]).unwrap_err().why().contains("announced"));
        assert!(blobs.receive(blob(b"x").digest, b"x").unwrap_err().why().contains("not asked for"));
        assert!(blobs.receive(whole.digest, b"hello!").unwrap_err().why().contains("longer"));
        assert!(blobs.receive(other.digest, b"OTHER").unwrap_err().why().contains("SHA-256"));
    }
}
