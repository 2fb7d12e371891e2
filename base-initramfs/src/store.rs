//! File contents, kept compressed until the image is written: a 1 GiB host has no room for all of them as they are.

use crate::Error;

/// Which contents. Two names with the same id are hard links of one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ContentId(usize);

struct Content {
    bytes: Box<[u8]>,
    size: usize,
}

/// Contents by id.
pub(crate) struct Store {
    contents: Vec<Content>,
    compressor: zstd::bulk::Compressor<'static>,
}

/// Below this size compression gains nothing worth its time.
const WORTHWHILE: usize = 200;

impl Store {
    pub(crate) fn new() -> Result<Self, Error> {
        let compressor = zstd::bulk::Compressor::new(1).map_err(|error| Error::io("starting zstd", error))?;
        Ok(Self { contents: Vec::new(), compressor })
    }

    pub(crate) fn add(&mut self, bytes: &[u8]) -> Result<ContentId, Error> {
        let mut kept = None;
        if bytes.len() >= WORTHWHILE {
            let compressed = self.compressor.compress(bytes).map_err(|error| Error::io("compressing a file", error))?;
            // Equal lengths mean "kept as it is" below, so only what became shorter is kept compressed.
            kept = (compressed.len() < bytes.len()).then(|| compressed.into_boxed_slice());
        }
        let bytes_kept = kept.unwrap_or_else(|| bytes.into());
        self.contents.push(Content { bytes: bytes_kept, size: bytes.len() });
        Ok(ContentId(self.contents.len() - 1))
    }

    pub(crate) fn size(&self, id: ContentId) -> u64 {
        self.contents[id.0].size as u64
    }

    pub(crate) fn get(&self, id: ContentId) -> Result<Vec<u8>, Error> {
        let Content { bytes, size } = &self.contents[id.0];
        if bytes.len() == *size {
            return Ok(bytes.to_vec());
        }
        zstd::bulk::decompress(bytes, *size).map_err(|error| Error::io("decompressing a file", error))
    }
}
