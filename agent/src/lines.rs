//! Splits output into lines.

use anemos_proto::event::MAX_LINE;

/// Takes bytes as they come and gives lines, without their newlines. Lines over [`MAX_LINE`] are split.
#[derive(Debug, Default)]
pub struct Lines {
    partial: Vec<u8>,
}

impl Lines {
    /// Takes bytes, and hands each whole line to `sink`.
    pub fn push(&mut self, mut bytes: &[u8], mut sink: impl FnMut(Vec<u8>)) {
        while let Some(end) = bytes.iter().position(|&b| b == b'\n') {
            self.extend(&bytes[..end], &mut sink);
            sink(std::mem::take(&mut self.partial));
            bytes = &bytes[end + 1..];
        }
        self.extend(bytes, &mut sink);
    }

    /// The last line, if the output ended without a newline.
    pub fn finish(&mut self) -> Option<Vec<u8>> {
        (!self.partial.is_empty()).then(|| std::mem::take(&mut self.partial))
    }

    /// Adds bytes to the line. A full piece is emitted only when more bytes follow, so that a line of exactly
    /// [`MAX_LINE`] bytes stays in one piece.
    fn extend(&mut self, mut bytes: &[u8], sink: &mut impl FnMut(Vec<u8>)) {
        while !bytes.is_empty() {
            if self.partial.len() == MAX_LINE {
                sink(std::mem::take(&mut self.partial));
            }
            let take = bytes.len().min(MAX_LINE - self.partial.len());
            self.partial.extend_from_slice(&bytes[..take]);
            bytes = &bytes[take..];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(pieces: &[&[u8]]) -> Vec<Vec<u8>> {
        let (mut lines, mut found) = (Lines::default(), Vec::new());
        for piece in pieces {
            lines.push(piece, |line| found.push(line));
        }
        found.extend(lines.finish());
        found
    }

    #[test]
    fn lines_don_t_depend_on_how_the_bytes_arrive() {
        let whole: &[u8] = b"one\n\ntwo\r\nthree";
        let expected: Vec<Vec<u8>> = [&b"one"[..], b"", b"two\r", b"three"].map(<[u8]>::to_vec).into();
        assert_eq!(split(&[whole]), expected);
        for at in 0..=whole.len() {
            assert_eq!(split(&[&whole[..at], &whole[at..]]), expected, "split at {at}");
        }
        let single: Vec<&[u8]> = whole.chunks(1).collect();
        assert_eq!(split(&single), expected);
    }

    #[test]
    fn long_lines_are_split_and_lose_nothing() {
        let exact = vec![b'x'; MAX_LINE];
        let mut with_newline = exact.clone();
        with_newline.push(b'\n');
        assert_eq!(split(&[&with_newline]), std::slice::from_ref(&exact));

        let long = vec![b'y'; 2 * MAX_LINE + 5];
        let pieces = split(&[&long]);
        assert_eq!(pieces.iter().map(Vec::len).collect::<Vec<_>>(), [MAX_LINE, MAX_LINE, 5]);
        assert_eq!(pieces.concat(), long);
    }

    #[test]
    fn nothing_comes_of_nothing() {
        assert!(split(&[b"", b""]).is_empty());
    }
}
