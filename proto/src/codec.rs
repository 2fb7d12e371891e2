//! Frames: a `u32` length in big endian, then one value in bincode 2 (standard configuration: variable-length integers,
//! little endian), which must fill the frame.
//!
//! Decoding is bounded: a frame longer than [`MAX_FRAME`] is refused by its length alone, and no value allocates more
//! than the frame that carries it could hold.

use serde::Serialize;
use serde::de::DeserializeOwned;
use zstd::stream::raw::{InBuffer, Operation, OutBuffer};

/// Longest frame body, in bytes.
pub const MAX_FRAME: usize = 1 << 20;

/// Most memory in bytes that bincode may claim for one value. It is more than [`MAX_FRAME`], because a decoded value
/// may be larger than its bytes.
const LIMIT: usize = 4 * MAX_FRAME;

/// The same for a value in a frame. A list of empty texts takes three times what bincode claims for it.
const FRAME_LIMIT: usize = 2 * MAX_FRAME;

/// log2 of the largest zstd window that is accepted, so that a peer can't make us hold more than 8 MiB.
const MAX_WINDOW_LOG: u32 = 23;

/// Why bytes are no frames of the type asked for.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// A frame, to be sent or received, is longer than [`MAX_FRAME`].
    #[error("a frame of {0} bytes is longer than the limit of {MAX_FRAME}")]
    TooLong(usize),
    /// The bytes are no value of the type.
    #[error("a frame is malformed: {0}")]
    Malformed(String),
    /// The compressed stream is damaged.
    #[error("the compressed stream is damaged: {0}")]
    Compression(String),
}

fn bincode_config<const LIMIT: usize>() -> impl bincode::config::Config {
    bincode::config::standard().with_limit::<LIMIT>()
}

/// Encodes a value without a frame around it (for files such as `/anemos/run.bin`).
pub fn to_bytes<T: Serialize>(value: &T) -> Result<Vec<u8>, CodecError> {
    bincode::serde::encode_to_vec(value, bincode_config::<LIMIT>()).map_err(|e| CodecError::Malformed(e.to_string()))
}

/// Decodes what [`to_bytes`] made; all of `bytes` must be used.
pub fn from_bytes<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    decode::<T, LIMIT>(bytes)
}

fn decode<T: DeserializeOwned, const LIMIT: usize>(bytes: &[u8]) -> Result<T, CodecError> {
    let (value, used) = bincode::serde::decode_from_slice(bytes, bincode_config::<LIMIT>())
        .map_err(|e| CodecError::Malformed(e.to_string()))?;
    if used == bytes.len() {
        Ok(value)
    } else {
        Err(CodecError::Malformed(format!("{} bytes left over after the value", bytes.len() - used)))
    }
}

/// Encodes one frame, with its length.
pub fn encode_frame<T: Serialize>(value: &T) -> Result<Vec<u8>, CodecError> {
    let body = to_bytes(value)?;
    if body.len() > MAX_FRAME {
        return Err(CodecError::TooLong(body.len()));
    }
    let mut frame = Vec::with_capacity(4 + body.len());
    frame.extend((body.len() as u32).to_be_bytes());
    frame.extend(body);
    Ok(frame)
}

/// Takes bytes in pieces of any size, and returns each frame once it is whole.
#[derive(Debug, Default)]
pub struct FrameReader {
    buffer: Vec<u8>,
    start: usize,
}

impl FrameReader {
    /// An empty reader.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes more bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.start);
        self.start = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// Bytes that no frame has used yet.
    pub fn pending(&self) -> usize {
        self.buffer.len() - self.start
    }

    /// The next whole frame, or `None` if more bytes are needed for it. After an error nothing more can be read from
    /// the stream.
    pub fn next_frame<T: DeserializeOwned>(&mut self) -> Result<Option<T>, CodecError> {
        let rest = &self.buffer[self.start..];
        let Some((head, rest)) = rest.split_first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_be_bytes(*head) as usize;
        if length > MAX_FRAME {
            return Err(CodecError::TooLong(length));
        }
        let Some(body) = rest.get(..length) else { return Ok(None) };
        let value = decode::<T, FRAME_LIMIT>(body)?;
        self.start += 4 + length;
        Ok(Some(value))
    }
}

/// Compresses the agent's side: one zstd stream, to be flushed whenever the peer should see what was written.
pub struct Compressor {
    encoder: zstd::stream::raw::Encoder<'static>,
}

impl Compressor {
    /// Starts a stream.
    pub fn new() -> Result<Self, CodecError> {
        let mut encoder = zstd::stream::raw::Encoder::new(6).map_err(|e| compression(&e))?;
        // The window has 1 MiB: a host with little memory can afford it, and text that a log repeats is still in it.
        encoder.set_parameter(zstd::stream::raw::CParameter::WindowLog(20)).map_err(|e| compression(&e))?;
        Ok(Self { encoder })
    }

    /// Compresses `bytes` and flushes: what comes out can be decompressed up to here.
    pub fn compress(&mut self, bytes: &[u8]) -> Result<Vec<u8>, CodecError> {
        let mut out = Vec::new();
        let mut block = vec![0; zstd::zstd_safe::CCtx::out_size()];
        let mut input = InBuffer::around(bytes);
        while input.pos() < bytes.len() {
            let mut output = OutBuffer::around(&mut block[..]);
            self.encoder.run(&mut input, &mut output).map_err(|e| compression(&e))?;
            out.extend_from_slice(output.as_slice());
        }
        loop {
            let mut output = OutBuffer::around(&mut block[..]);
            let left = self.encoder.flush(&mut output).map_err(|e| compression(&e))?;
            out.extend_from_slice(output.as_slice());
            if left == 0 {
                return Ok(out);
            }
        }
    }
}

/// Decompresses what [`Compressor`] made. Memory is bounded: the caller takes each block of output as it comes.
pub struct Decompressor {
    decoder: zstd::stream::raw::Decoder<'static>,
    /// The last block was full, so that more may come without more bytes.
    full: bool,
}

impl Decompressor {
    /// Starts a stream.
    pub fn new() -> Result<Self, CodecError> {
        let mut decoder = zstd::stream::raw::Decoder::new().map_err(|e| compression(&e))?;
        decoder
            .set_parameter(zstd::stream::raw::DParameter::WindowLogMax(MAX_WINDOW_LOG))
            .map_err(|e| compression(&e))?;
        Ok(Self { decoder, full: false })
    }

    /// Takes bytes off the front of `bytes`, and gives the next block of output, at most 128 KiB. `None`: all bytes are
    /// taken, and no output is left. A few bytes may become gigabytes, so whoever takes them must not take all at once.
    pub fn next_block(&mut self, bytes: &mut &[u8]) -> Result<Option<Vec<u8>>, CodecError> {
        while self.full || !bytes.is_empty() {
            let mut block = vec![0; zstd::zstd_safe::DCtx::out_size()];
            let mut input = InBuffer::around(bytes);
            let mut output = OutBuffer::around(&mut block[..]);
            self.decoder.run(&mut input, &mut output).map_err(|e| compression(&e))?;
            let (used, made) = (input.pos(), output.as_slice().len());
            *bytes = &bytes[used..];
            self.full = made == block.len();
            if made > 0 {
                block.truncate(made);
                return Ok(Some(block));
            }
        }
        Ok(None)
    }

    /// Decompresses all of `bytes`, handing each block of output to `sink`, which may refuse.
    pub fn decompress(
        &mut self,
        mut bytes: &[u8],
        mut sink: impl FnMut(&[u8]) -> Result<(), CodecError>,
    ) -> Result<(), CodecError> {
        while let Some(block) = self.next_block(&mut bytes)? {
            sink(&block)?;
        }
        Ok(())
    }
}

fn compression(error: &std::io::Error) -> CodecError {
    CodecError::Compression(error.to_string())
}
