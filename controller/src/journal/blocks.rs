//! A journal file: a header, then blocks, each with its length under a checksum of its own.
//!
//! | bytes | what |
//! |---|---|
//! | 8 | the header: `ANJRNL`, a zero byte, [`FORMAT`] |
//! | 2 | of each block: [`MARKER`] |
//! | 1 | flags: [`STARTS`] |
//! | 3 | length of the body, big endian |
//! | 4 | CRC-32 of the six bytes before, big endian |
//! | 4 | CRC-32 of the body, big endian |
//! | … | the body: a piece of a zstd stream, flushed, so that all before it can be decompressed |
//!
//! Blocks are only ever appended, each with one write. So what a crash leaves at the end is the beginning of a block,
//! or zeros where the file system had made room and not more; that is told apart from damage because the length can be
//! believed. After damage the reader goes on at the next block.

use std::io::{self, Read};

/// Version of all that is in a journal. The numbers up to 15 are those of Anemos before the journal had a format of its
/// own: the version of the wire's.
pub const FORMAT: u8 = 16;

/// The first eight bytes.
pub const HEADER: [u8; 8] = [b'A', b'N', b'J', b'R', b'N', b'L', 0, FORMAT];

/// The first two bytes of each block.
pub const MARKER: [u8; 2] = [0xd5, 0x4a];

/// Flag: a zstd stream begins with this block, and what is in it stands without the blocks before.
pub const STARTS: u8 = 1;

/// Bytes of a block before its body.
pub const BLOCK_HEAD: usize = 14;

/// Bytes of a block's head under its first checksum, and that checksum.
const HEAD_CHECKED: usize = 10;

/// Longest body, in bytes.
pub const MAX_BODY: usize = 8 << 20;

/// Zeros that a file system leaves begin at a multiple of this, …
const SECTOR: u64 = 512;

/// … and fewer of them are taken for damage.
const ZEROS: usize = 64;

/// Bytes asked of the file at once.
const CHUNK: usize = 128 << 10;

/// CRC-32 (IEEE).
pub fn crc(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}

/// A whole block for `body`.
pub fn block(flags: u8, body: &[u8]) -> Vec<u8> {
    let [_, a, b, c] = (body.len() as u32).to_be_bytes();
    let mut block = Vec::with_capacity(BLOCK_HEAD + body.len());
    block.extend([MARKER[0], MARKER[1], flags, a, b, c]);
    block.extend(crc(&block).to_be_bytes());
    block.extend(crc(body).to_be_bytes());
    block.extend(body);
    block
}

/// What is next in a file.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece {
    /// A whole block.
    Block {
        /// Where it begins.
        at: u64,
        /// Its flags.
        flags: u8,
        /// Its body.
        body: Vec<u8>,
    },
    /// Bytes that are no block, though blocks follow or the bytes are not what a crash leaves.
    Damage {
        /// Where they begin.
        at: u64,
    },
    /// The end of the file.
    End {
        /// What a crash left of a block that was being written: so many bytes, 0 for none.
        torn: u64,
    },
}

/// Cuts what a reader gives into blocks.
pub struct Blocks<R> {
    reader: R,
    buffer: Vec<u8>,
    start: usize,
    /// Where `buffer[start..]` is in the file.
    at: u64,
    ended: bool,
}

/// The head of a block at the beginning of `bytes`: flags, length of the body, checksum of the body.
fn head(bytes: &[u8]) -> Option<(u8, usize, u32)> {
    let (head, _) = bytes.split_first_chunk::<BLOCK_HEAD>()?;
    let [m0, m1, flags, a, b, c, h0, h1, h2, h3, b0, b1, b2, b3] = *head;
    let length = u32::from_be_bytes([0, a, b, c]) as usize;
    let good = [m0, m1] == MARKER && u32::from_be_bytes([h0, h1, h2, h3]) == crc(&head[..6]) && length <= MAX_BODY;
    good.then_some((flags, length, u32::from_be_bytes([b0, b1, b2, b3])))
}

impl<R: Read> Blocks<R> {
    /// Reads blocks from a reader that stands at `at` bytes of a file.
    pub fn new(reader: R, at: u64) -> Self {
        Self { reader, buffer: Vec::new(), start: 0, at, ended: false }
    }

    /// Where the next piece begins.
    pub fn at(&self) -> u64 {
        self.at
    }

    fn rest(&self) -> &[u8] {
        &self.buffer[self.start..]
    }

    fn skip(&mut self, count: usize) {
        self.start += count;
        self.at += count as u64;
    }

    /// Reads until `count` bytes are there, or the file ends.
    fn fill(&mut self, count: usize) -> io::Result<()> {
        while self.rest().len() < count && !self.ended {
            self.buffer.drain(..self.start);
            self.start = 0;
            let have = self.buffer.len();
            let want = CHUNK.max(count - have) as u64;
            let got = self.reader.by_ref().take(want).read_to_end(&mut self.buffer)?;
            self.ended = (got as u64) < want;
        }
        Ok(())
    }

    /// The next piece. After [`Piece::End`] it is the same again.
    pub fn next(&mut self) -> io::Result<Piece> {
        self.piece(true)
    }

    /// The next piece, checked but without its body.
    pub fn pass(&mut self) -> io::Result<Piece> {
        self.piece(false)
    }

    fn piece(&mut self, wanted: bool) -> io::Result<Piece> {
        self.fill(BLOCK_HEAD)?;
        let at = self.at;
        if self.rest().is_empty() {
            return Ok(Piece::End { torn: 0 });
        }
        let Some((flags, length, sum)) = head(self.rest()) else { return self.resynchronise() };
        self.fill(BLOCK_HEAD + length)?;
        let Some(body) = self.rest().get(BLOCK_HEAD..BLOCK_HEAD + length) else {
            return Ok(Piece::End { torn: self.rest().len() as u64 });
        };
        if crc(body) == sum {
            let body = if wanted { body.to_vec() } else { Vec::new() };
            self.skip(BLOCK_HEAD + length);
            return Ok(Piece::Block { at, flags, body });
        }
        self.fill(BLOCK_HEAD + length + 1)?;
        if self.rest().len() == BLOCK_HEAD + length && self.ends_in_zeros() {
            return Ok(Piece::End { torn: self.rest().len() as u64 });
        }
        // Where the next block begins can be believed.
        self.skip(BLOCK_HEAD + length);
        Ok(Piece::Damage { at })
    }

    /// Goes on at the next head of a block; without one the file ends here, torn or damaged.
    fn resynchronise(&mut self) -> io::Result<Piece> {
        let at = self.at;
        if self.rest().len() < BLOCK_HEAD {
            let rest = self.rest();
            let begins = rest.len() >= HEAD_CHECKED || rest.iter().zip(MARKER).all(|(byte, marker)| *byte == marker);
            if begins && self.head_is_good() || self.rest().iter().all(|byte| *byte == 0) {
                return Ok(Piece::End { torn: self.rest().len() as u64 });
            }
            self.skip(self.rest().len());
            return Ok(Piece::Damage { at });
        }
        let mut written = at;
        loop {
            let byte = self.rest()[0];
            self.skip(1);
            if byte != 0 {
                written = self.at;
            }
            self.fill(BLOCK_HEAD)?;
            if self.rest().is_empty() {
                break;
            }
            if head(self.rest()).is_some() {
                return Ok(Piece::Damage { at });
            }
        }
        // A head of which the file system wrote only the part in an earlier sector.
        let zeros = written.next_multiple_of(SECTOR);
        let begun = zeros < at + BLOCK_HEAD as u64 && self.at.saturating_sub(zeros) >= ZEROS as u64;
        if written == at || begun { Ok(Piece::End { torn: self.at - at }) } else { Ok(Piece::Damage { at }) }
    }

    /// Whether as much of a head as there is can be the beginning of one.
    fn head_is_good(&self) -> bool {
        match self.rest().first_chunk::<HEAD_CHECKED>() {
            Some([head @ .., h0, h1, h2, h3]) => crc(head) == u32::from_be_bytes([*h0, *h1, *h2, *h3]),
            None => true,
        }
    }

    /// Whether the rest ends in zeros as a file system leaves them.
    fn ends_in_zeros(&self) -> bool {
        let rest = self.rest();
        let zeros = rest.iter().rev().take_while(|byte| **byte == 0).count();
        let from = (self.at + (rest.len() - zeros) as u64).next_multiple_of(SECTOR);
        (self.at + rest.len() as u64).saturating_sub(from) >= ZEROS as u64
    }
}
