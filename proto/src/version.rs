//! Whether two builds understand each other, in two numbers.

/// Version of everything in this crate. Both sides of a conversation must have the same one.
pub const VERSION: u16 = 10;

/// Fingerprint of the types in this crate. Both sides of a conversation must have the same one, because bincode is
/// positional: bytes of other types would be misread and not refused.
///
/// It is the 64-bit FNV-1a hash of the types' listing in docs/PROTOCOL.md, which a test holds against the types. So
/// builds with equal types have equal fingerprints, and a new build alone changes no byte of the stage or the agent.
pub const TYPES: u64 = {
    let document = include_bytes!("../../docs/PROTOCOL.md");
    let start = position(document, 0, b"<!-- types: ");
    fnv1a(document, start, position(document, start, b"<!-- end of types -->"))
};

/// Where `words` are in `bytes` at or after `from`.
const fn position(bytes: &[u8], from: usize, words: &[u8]) -> usize {
    let mut at = from;
    loop {
        let mut same = 0;
        while same < words.len() && bytes[at + same] == words[same] {
            same += 1;
        }
        if same == words.len() {
            return at;
        }
        at += 1;
    }
}

/// The hash of `bytes[at..end]`, with the offset basis and the prime that FNV names for 64 bits.
const fn fnv1a(bytes: &[u8], mut at: usize, end: usize) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325;
    while at < end {
        hash = (hash ^ bytes[at] as u64).wrapping_mul(0x0000_0100_0000_01b3);
        at += 1;
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The values are from the test vectors of draft-eastlake-fnv.
    #[test]
    fn hashes_as_others_do() {
        assert_eq!(fnv1a(b"", 0, 0), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"a", 0, 1), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv1a(b"<foobar>", 1, 7), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn finds_words() {
        assert_eq!(position(b"abcabcd", 0, b"abc"), 0);
        assert_eq!(position(b"abcabcd", 1, b"abcd"), 3);
    }
}
