//! The agent as a patch to the stage: what the stage's executable and the agent's have in common is not sent twice.
//!
//! A patch is [`MAGIC`], the size of what it makes (32 bits, little endian), and raw LZMA2 behind liblzma's filter for
//! x86 code, with the executable that it is a patch to as its dictionary.

use crate::sys::lzma;

/// What a patch begins with. No zstd frame does (RFC 8878, 3.1.1).
const MAGIC: [u8; 4] = *b"AnLZ";

/// A patch that makes `new` out of `known`.
pub fn make(new: &[u8], known: &[u8]) -> Result<Vec<u8>, String> {
    let size = u32::try_from(new.len()).map_err(|_| "it is too large")?;
    let mut patch = [MAGIC, size.to_le_bytes()].concat();
    patch.extend(lzma::encode(new, known)?);
    Ok(patch)
}

/// What a patch to `known` makes, of at most `limit` bytes; `None` if these bytes are no patch.
pub fn apply(patch: &[u8], known: &[u8], limit: usize) -> Option<Result<Vec<u8>, String>> {
    let (size, packed) = patch.strip_prefix(&MAGIC)?.split_first_chunk()?;
    let size = u32::from_le_bytes(*size) as usize;
    if size > limit {
        return Some(Err(format!("it says that it makes {size} bytes, and may make {limit}")));
    }
    Some(lzma::decode(packed, known, size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_both_have_is_not_sent() {
        let known = std::fs::read("/proc/self/exe").unwrap();
        let known = &known[..known.len().min(3 << 20)];
        let mut new = known.to_vec();
        new[1000..2000].fill(7);
        new.extend(b"and more");
        let patch = make(&new, known).unwrap();
        assert!(patch.len() < new.len() / 100, "{} bytes", patch.len());
        assert!(apply(&patch, known, new.len()).unwrap().unwrap() == new);
        // Each of these is an error, never other bytes and never a crash.
        let wrong = |patch: &[u8], known: &[u8], limit| apply(patch, known, limit).unwrap().unwrap_err();
        assert!(wrong(&patch, known, new.len() - 1).contains("may make"));
        assert!(wrong(&patch[..patch.len() / 2], known, new.len()).contains("damaged"));
        let mut longer = patch.clone();
        longer[4] ^= 1;
        assert!(!wrong(&longer, known, new.len() + 1).is_empty());
        assert!(apply(b"no patch", known, 100).is_none() && apply(b"AnLZ", known, 100).is_none());
    }

    proptest::proptest! {
        #[test]
        fn any_patch_is_survived(
            rest in proptest::collection::vec(proptest::num::u8::ANY, 0..200),
            size in 0..300_u32,
        ) {
            let patch = [&MAGIC[..], &size.to_le_bytes(), &rest].concat();
            _ = apply(&patch, b"something that is known", 200);
        }

        #[test]
        fn what_was_made_is_had_back(
            known in proptest::collection::vec(proptest::num::u8::ANY, 0..3000),
            new in proptest::collection::vec(proptest::num::u8::ANY, 0..3000),
        ) {
            let patch = make(&new, &known).unwrap();
            proptest::prop_assert_eq!(apply(&patch, &known, 3000), Some(Ok(new)));
        }
    }
}
