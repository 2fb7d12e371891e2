//! The zstd streams whose pieces are the bodies of blocks.

use std::io;

use zstd::stream::raw::{CParameter, DParameter, Decoder, Encoder, InBuffer, Operation, OutBuffer};

use super::blocks::STARTS;

/// After so many bytes a new stream begins: damage costs no more than what is left of its stream, and whoever wants the
/// end reads no more than this.
pub const STREAM: usize = 2 << 20;

/// Bytes that one block may decompress to.
const MAX_PLAIN: usize = 16 << 20;

/// log2 of what is looked back on for repetitions, and of the tables for it: a run may have five hundred hosts, each
/// with a stream. Logs repeat what is near.
const WINDOW_LOG: u32 = 18;
const TABLE_LOG: u32 = 15;

const LEVEL: i32 = 9;

/// Compresses pieces.
pub struct Packer {
    encoder: Encoder<'static>,
    plain: usize,
}

impl Packer {
    /// Before the first stream.
    pub fn new() -> io::Result<Self> {
        let mut encoder = Encoder::new(LEVEL)?;
        encoder.set_parameter(CParameter::WindowLog(WINDOW_LOG))?;
        encoder.set_parameter(CParameter::HashLog(TABLE_LOG))?;
        encoder.set_parameter(CParameter::ChainLog(TABLE_LOG))?;
        Ok(Self { encoder, plain: 0 })
    }

    /// Whether the next piece should begin a stream, after [`Packer::begin`].
    pub fn is_due(&self) -> bool {
        self.plain == 0 || self.plain >= STREAM
    }

    /// Begins a stream.
    pub fn begin(&mut self) -> io::Result<()> {
        self.plain = 0;
        self.encoder.reinit()
    }

    /// Compresses a piece: flags and body of a block. After an error no further piece can follow.
    pub fn pack(&mut self, plain: &[u8]) -> io::Result<(u8, Vec<u8>)> {
        let flags = if self.plain == 0 { STARTS } else { 0 };
        self.plain += plain.len();
        let mut body = Vec::with_capacity(plain.len() / 4 + 64);
        let mut part = [0; 16 << 10];
        let mut input = InBuffer::around(plain);
        while input.pos() < plain.len() {
            let mut output = OutBuffer::around(&mut part[..]);
            self.encoder.run(&mut input, &mut output)?;
            body.extend_from_slice(output.as_slice());
        }
        loop {
            let mut output = OutBuffer::around(&mut part[..]);
            let left = self.encoder.flush(&mut output)?;
            body.extend_from_slice(output.as_slice());
            if left == 0 {
                return Ok((flags, body));
            }
        }
    }
}

/// Decompresses pieces.
pub struct Unpacker {
    decoder: Decoder<'static>,
    /// All pieces of this stream so far were there.
    whole: bool,
}

impl Unpacker {
    /// Before the first stream.
    pub fn new() -> io::Result<Self> {
        let mut decoder = Decoder::new()?;
        decoder.set_parameter(DParameter::WindowLogMax(WINDOW_LOG))?;
        Ok(Self { decoder, whole: false })
    }

    /// A piece is missing: what is left of its stream can't be read.
    pub fn lose(&mut self) {
        self.whole = false;
    }

    /// Decompresses a piece. `None` if a piece before it is missing, or it is none.
    pub fn unpack(&mut self, flags: u8, body: &[u8]) -> Option<Vec<u8>> {
        if flags & STARTS != 0 {
            self.whole = self.decoder.reinit().is_ok();
        }
        if !self.whole {
            return None;
        }
        let plain = self.run(body);
        self.whole = plain.is_some();
        plain
    }

    fn run(&mut self, body: &[u8]) -> Option<Vec<u8>> {
        let mut plain = Vec::new();
        let mut part = [0; 16 << 10];
        let mut input = InBuffer::around(body);
        loop {
            let mut output = OutBuffer::around(&mut part[..]);
            self.decoder.run(&mut input, &mut output).ok()?;
            let made = output.as_slice();
            plain.extend_from_slice(made);
            if plain.len() > MAX_PLAIN {
                return None;
            }
            if input.pos() == body.len() && made.len() < part.len() {
                return Some(plain);
            }
        }
    }
}
