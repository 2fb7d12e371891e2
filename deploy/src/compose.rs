//! The initramfs, composed in memory: the base as a file, then modules, then the run's own.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;

use anemos_base::{Device, Segment};
use rustix::fs::MemfdFlags;

use crate::error::{Doing, Result};
use crate::modules::index::Index;
use crate::modules::select::Selection;
use crate::modules::{self};

/// Where the base image lies in the initramfs.
pub const BASE: &str = "anemos/base.cpio.zst";

/// Where in a newc header the file's size stands: eight hexadecimal digits.
const SIZE_AT: u64 = 54;

/// Little is gained by a higher level, and the host waits for it.
const LEVEL: i32 = 3;

/// An initramfs that grows, in a file that exists only in memory.
pub struct Initramfs {
    file: File,
    /// Bytes of the files in it, as they will be in the new system's memory.
    unpacked: u64,
}

/// What the run adds.
pub struct RunFiles<'a> {
    /// The agent's binary.
    pub agent: &'a [u8],
    /// Files in `/anemos`, by name.
    pub files: &'a [(&'a str, &'a [u8])],
}

impl Initramfs {
    /// An empty one.
    pub fn new() -> Result<Self> {
        let file = rustix::fs::memfd_create("anemos-initramfs", MemfdFlags::CLOEXEC)
            .doing(|| "making a file in memory (memfd_create)".into())?;
        Ok(Self { file: file.into(), unpacked: 0 })
    }

    /// The file, for the kernel to read.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Bytes as loaded.
    pub fn len(&self) -> Result<u64> {
        Ok(self.file.metadata().doing(|| "measuring the initramfs".into())?.len())
    }

    /// Bytes that its files take in the new system.
    pub fn unpacked(&self) -> u64 {
        self.unpacked
    }

    /// Writes the first segment: the base image, as a file that `fill` writes, compressed, from where the given file
    /// stands. Its length need not be known before.
    pub fn base<T>(&mut self, fill: impl FnOnce(&mut File) -> Result<T>) -> Result<T> {
        let writing = || "writing the base into the initramfs".into();
        let mut segment = Segment::new(&self.file, 0);
        segment.directory("anemos", 0o700).doing(writing)?;
        let header = (&self.file).stream_position().doing(writing)?;
        segment.file(BASE, 0o600, &[]).doing(writing)?;
        let start = (&self.file).stream_position().doing(writing)?;
        // The segment writes straight to the file and keeps no count of its own, so the contents can come from here.
        let made = fill(&mut self.file)?;
        let end = self.file.seek(SeekFrom::End(0)).doing(writing)?;
        let size = u32::try_from(end - start).doing(|| "fitting the base into a cpio archive".into())?;
        self.file.write_all_at(format!("{size:08x}").as_bytes(), header + SIZE_AT).doing(writing)?;
        align(&self.file).doing(writing)?;
        Segment::new(&self.file, 0).finish().doing(writing)?;
        self.unpacked += u64::from(size);
        Ok(made)
    }

    /// Writes the second segment: the selected modules of `release` with what modprobe needs. `read` gives a module's
    /// file by its path in the index. `also` are further files of the modules directory.
    pub fn modules(
        &mut self,
        release: &str,
        index: &Index,
        selection: &Selection,
        zstd: bool,
        also: &[(&str, Vec<u8>)],
        mut read: impl FnMut(&str) -> Result<Vec<u8>>,
    ) -> Result<()> {
        let writing = || "writing kernel modules into the initramfs".into();
        let out: Box<dyn FinishWrite> = if zstd {
            Box::new(zstd::stream::write::Encoder::new(&self.file, LEVEL).doing(writing)?)
        } else {
            Box::new(&self.file)
        };
        let mut segment = Segment::new(out, 0);
        let dir = format!("usr/lib/modules/{release}");
        let mut unpacked = 0;
        for module in selection.modules.iter().filter_map(|name| index.modules.get(name)) {
            let bytes = modules::unpack(&module.path, read(&module.path)?)?;
            unpacked += bytes.len() as u64;
            let path = format!("{dir}/{}", modules::plain_path(&module.path));
            segment.file(&path, 0o644, &bytes).doing(writing)?;
        }
        let indexes = modules::render(index, selection);
        for (name, bytes) in indexes.iter().chain(also) {
            unpacked += bytes.len() as u64;
            segment.file(&format!("{dir}/{name}"), 0o644, bytes).doing(writing)?;
        }
        let load = modules::render_load(index, selection, release);
        segment.directory("anemos", 0o700).doing(writing)?;
        segment.file("anemos/modules.load", 0o600, load.as_bytes()).doing(writing)?;
        segment.finish().and_then(FinishWrite::finish).doing(writing)?;
        align(&self.file).doing(writing)?;
        self.unpacked += unpacked;
        Ok(())
    }

    /// Writes the last segment: the agent as `/init` and `/usr/bin/anemos-agent`, and the run's files.
    pub fn run(&mut self, run: &RunFiles<'_>) -> Result<()> {
        let writing = || "writing the agent into the initramfs".into();
        let mut segment = Segment::new(&self.file, 0);
        segment.linked_files(&["init", "usr/bin/anemos-agent"], 0o755, run.agent).doing(writing)?;
        // What the kernel opens for init's first messages; not every kernel brings its own.
        segment.device("dev/console", 0o600, Device::Char, 5, 1).doing(writing)?;
        segment.directory("anemos", 0o700).doing(writing)?;
        for (name, bytes) in run.files {
            segment.file(&format!("anemos/{name}"), 0o600, bytes).doing(writing)?;
            self.unpacked += bytes.len() as u64;
        }
        segment.finish().doing(writing)?;
        self.unpacked += run.agent.len() as u64;
        Ok(())
    }
}

/// A writer with an end of its own, such as a compressor's.
trait FinishWrite: Write {
    fn finish(self: Box<Self>) -> io::Result<()>;
}

impl FinishWrite for &File {
    fn finish(self: Box<Self>) -> io::Result<()> {
        Ok(())
    }
}

impl FinishWrite for zstd::stream::write::Encoder<'static, &File> {
    fn finish(self: Box<Self>) -> io::Result<()> {
        (*self).finish().map(|_| ())
    }
}

/// Fills up with zeros, which the kernel skips between segments, to a multiple of four.
fn align(mut file: &File) -> io::Result<()> {
    let at = file.stream_position()?;
    let missing = (at.next_multiple_of(4) - at) as usize;
    file.write_all(&[0; 4][..missing])
}

#[cfg(test)]
#[path = "compose_tests.rs"]
mod tests;
