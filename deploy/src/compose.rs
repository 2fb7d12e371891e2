//! The initramfs, composed in memory: the base as a file, then modules, then the run's own files. The first event must
//! wait for what the kernel unpacks, so most of it is in files that the agent unpacks later.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;

use anemos_base::{Device, Segment};
use rustix::fs::MemfdFlags;

use crate::error::{Doing, Result};
use crate::modules::firmware::Firmware;
use crate::modules::index::Index;
use crate::modules::select::Selection;
use crate::modules::{self};

/// Name in `/anemos` of one of the images that make the base. The agent unpacks all of them, in the order of their
/// names.
pub fn base_name(number: usize) -> String {
    format!("base-{number:02}.cpio.zst")
}

/// Path of the archive of modules that the agent unpacks.
const MODULES: &str = "anemos/modules.cpio.zst";

/// Lists of the modules that init loads for watchdogs and the network, and of those that the agent loads later.
const FIRST: &str = "anemos/modules.first";
const LOAD: &str = "anemos/modules.load";

/// Offset of the file's size in a newc header: eight hexadecimal digits.
const SIZE_AT: u64 = 54;

/// zstd level of the modules. A higher one gains little, and the host waits for it.
const LEVEL: i32 = 3;

/// An initramfs that is being composed, in a file that exists only in memory.
pub struct Initramfs {
    file: File,
    /// Bytes that its files take once the kernel has unpacked them.
    unpacked: u64,
    /// Bytes of the modules that the agent unpacks.
    later: u64,
}

/// A segment that is being written.
pub struct Opened {
    path: String,
    /// Where it begins.
    begin: u64,
    /// Where the header of its file is.
    header: u64,
    /// Where the contents of that file begin.
    start: u64,
}

/// A kernel's modules, and which of them go along.
pub struct ModuleFiles<'a> {
    /// The kernel's release.
    pub release: &'a str,
    /// All modules of the kernel.
    pub index: &'a Index,
    /// The modules to take.
    pub selection: &'a Selection,
    /// Further files of the modules directory, for depmod.
    pub also: &'a [(&'a str, Vec<u8>)],
    /// Gives a module's file by its path in the index.
    pub read: &'a dyn Fn(&str) -> Result<Vec<u8>>,
}

/// Files of this run.
pub struct RunFiles<'a> {
    /// The agent's binary.
    pub agent: &'a [u8],
    /// Files in `/anemos`, by name.
    pub files: &'a [(&'a str, &'a [u8])],
}

impl Initramfs {
    /// An empty initramfs.
    pub fn new() -> Result<Self> {
        let file = rustix::fs::memfd_create("anemos-initramfs", MemfdFlags::CLOEXEC)
            .doing(|| "making a file in memory (memfd_create)".into())?;
        Ok(Self { file: file.into(), unpacked: 0, later: 0 })
    }

    /// The file, for the kernel to read.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Bytes of the whole file, which is what gets loaded.
    pub fn len(&self) -> Result<u64> {
        Ok(self.file.metadata().doing(|| "measuring the initramfs".into())?.len())
    }

    /// Bytes that its files take in the new system.
    pub fn unpacked(&self) -> u64 {
        self.unpacked
    }

    /// Bytes of what the agent unpacks besides the base.
    pub fn later(&self) -> u64 {
        self.later
    }

    /// Writes a segment with one file. `fill` writes the contents to the given file, from its position on, and need not
    /// know the length before. The kernel copies the contents without looking into them.
    pub fn opaque<T>(&mut self, path: &str, fill: impl FnOnce(&mut File) -> Result<T>) -> Result<T> {
        let opened = self.open(path)?;
        // The cpio writer keeps no count of the contents, so `fill` may write them straight to the file.
        let made = fill(&mut self.file)?;
        self.close(&opened)?;
        Ok(made)
    }

    /// Begins a segment with one file, whose contents are what is written to [`file`](Self::file) from here on.
    pub fn open(&mut self, path: &str) -> Result<Opened> {
        let writing = || format!("writing {path} into the initramfs");
        let begin = (&self.file).stream_position().doing(writing)?;
        let mut segment = Segment::new(&self.file, 0);
        segment.directory("anemos", 0o700).doing(writing)?;
        let header = (&self.file).stream_position().doing(writing)?;
        segment.file(path, 0o600, &[]).doing(writing)?;
        let start = (&self.file).stream_position().doing(writing)?;
        Ok(Opened { path: path.to_owned(), begin, header, start })
    }

    /// Ends what was begun.
    pub fn close(&mut self, opened: &Opened) -> Result<()> {
        let Opened { path, header, start, .. } = opened;
        let writing = || format!("writing {path} into the initramfs");
        let end = self.file.seek(SeekFrom::End(0)).doing(writing)?;
        let size = u32::try_from(end - start).doing(|| format!("fitting {path} into a cpio archive"))?;
        self.file.write_all_at(format!("{size:08x}").as_bytes(), header + SIZE_AT).doing(writing)?;
        align(&self.file).doing(writing)?;
        Segment::new(&self.file, 0).finish().doing(writing)?;
        self.unpacked += u64::from(size);
        Ok(())
    }

    /// Cuts off what was begun.
    pub fn undo(&mut self, opened: &Opened) -> io::Result<()> {
        self.file.set_len(opened.begin)?;
        self.file.seek(SeekFrom::Start(opened.begin)).map(|_| ())
    }

    /// Writes the modules, each with its firmware. Those that are loaded first become files of the initramfs, which
    /// the kernel unpacks. The others become one archive, which the agent unpacks, many times faster, once a controller
    /// has attached.
    pub fn modules(&mut self, modules: &ModuleFiles<'_>, firmware: &mut Firmware<'_>) -> Result<()> {
        let writing = || "writing kernel modules into the initramfs".into();
        let ModuleFiles { release, index, selection, also, read } = modules;
        let dir = format!("usr/lib/modules/{release}");
        let file = |name: &str| -> Result<Option<(String, Vec<u8>)>> {
            let Some(module) = index.modules.get(name) else { return Ok(None) };
            let bytes = modules::unpack(&module.path, read(&module.path)?)?;
            Ok(Some((format!("{dir}/{}", modules::plain_path(&module.path)), bytes)))
        };

        let mut segment = Segment::new(&self.file, 0);
        // The kernel looks for firmware in /lib, which is a link to usr/lib once the base is unpacked. Modules are
        // loaded before that.
        segment.symlink("lib", "usr/lib").doing(writing)?;
        for name in &selection.first {
            let Some((path, bytes)) = file(name)? else { continue };
            segment.file(&path, 0o644, &bytes).doing(writing)?;
            self.unpacked += bytes.len() as u64;
            for (path, bytes) in firmware.of(name, &bytes) {
                segment.file(&path, 0o644, &bytes).doing(writing)?;
                self.unpacked += bytes.len() as u64;
            }
        }
        segment.directory("anemos", 0o700).doing(writing)?;
        for (list, names) in [(FIRST, &selection.first), (LOAD, &selection.load)] {
            let text = modules::render_load(index, names, &selection.parameters, release);
            segment.file(list, 0o600, text.as_bytes()).doing(writing)?;
        }
        segment.finish().doing(writing)?;

        self.later += self.opaque(MODULES, |out| {
            let mut segment = Segment::new(zstd::stream::write::Encoder::new(out, LEVEL).doing(writing)?, 0);
            let mut unpacked = 0;
            for name in selection.modules.iter().filter(|name| !selection.first.contains(name)) {
                let Some((path, bytes)) = file(name)? else { continue };
                segment.file(&path, 0o644, &bytes).doing(writing)?;
                unpacked += bytes.len() as u64;
                for (path, bytes) in firmware.of(name, &bytes) {
                    segment.file(&path, 0o644, &bytes).doing(writing)?;
                    unpacked += bytes.len() as u64;
                }
            }
            for (name, bytes) in *also {
                unpacked += bytes.len() as u64;
                segment.file(&format!("{dir}/{name}"), 0o644, bytes).doing(writing)?;
            }
            segment.finish().and_then(zstd::stream::write::Encoder::finish).doing(writing)?;
            Ok(unpacked)
        })?;
        Ok(())
    }

    /// Writes the last segment: the agent as `/init` and `/usr/bin/anemos-agent`, and the run's files.
    pub fn run(&mut self, run: &RunFiles<'_>) -> Result<()> {
        let writing = || "writing the agent into the initramfs".into();
        let mut segment = Segment::new(&self.file, 0);
        segment.linked_files(&["init", "usr/bin/anemos-agent"], 0o755, run.agent).doing(writing)?;
        // The kernel opens /dev/console for init's first messages, and not every kernel brings the node itself.
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

/// Fills the file up to a multiple of four with zeros, which the kernel skips between segments.
fn align(mut file: &File) -> io::Result<()> {
    let at = file.stream_position()?;
    let missing = (at.next_multiple_of(4) - at) as usize;
    file.write_all(&[0; 4][..missing])
}

#[cfg(test)]
#[path = "compose_tests.rs"]
mod tests;
