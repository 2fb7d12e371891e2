//! Writing newc cpio archives, as the kernel unpacks them.
//!
//! Source: the kernel's `Documentation/driver-api/early-userspace/buffer-format.rst`. An initramfs is a sequence of
//! such archives (segments), each possibly compressed; later ones overwrite earlier ones. In a group of hard links the
//! first entry has the contents and the others have none, which that document permits.

use std::collections::{BTreeSet, HashMap};
use std::io::{self, Read, Write};

use cpio::newc::{Builder, trailer};

use crate::store::ContentId;
use crate::tree::{Kind, MERGED, Tree, parents};

const DIRECTORY: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;
const CHAR: u32 = 0o020_000;
const BLOCK: u32 = 0o060_000;
const FIFO: u32 = 0o010_000;

/// Which device nodes a [`Segment`] can make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// A character device.
    Char,
    /// A block device.
    Block,
}

/// Writes one small segment of an initramfs, entry by entry. Everything belongs to root.
///
/// Missing parent directories are written, with mode 0755, before what is in them. Paths have no leading slash. The
/// top-level names that the base makes symbolic links (`bin`, `lib`, …) are refused, but for these very links.
///
/// ```
/// let mut segment = anemos_base::Segment::new(Vec::new(), 0);
/// segment.file("init", 0o755, b"#!/bin/sh\n")?;
/// segment.directory("anemos", 0o700)?;
/// segment.file("anemos/run.bin", 0o600, b"\x01")?;
/// let bytes = segment.finish()?;
/// assert_eq!(bytes.len() % 4, 0);
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct Segment<W> {
    out: Unflushed<W>,
    mtime: u32,
    inode: u32,
    directories: BTreeSet<String>,
}

impl<W: Write> Segment<W> {
    /// A segment whose files all have this modification time (seconds since 1970).
    pub const fn new(out: W, mtime: u32) -> Self {
        Self { out: Unflushed(out), mtime, inode: 0, directories: BTreeSet::new() }
    }

    /// A directory. Writing one a second time sets its mode anew.
    pub fn directory(&mut self, path: &str, mode: u32) -> io::Result<()> {
        self.parents(path)?;
        self.directories.insert(path.to_owned());
        self.entry(path, DIRECTORY | mode & 0o7777, 2, (0, 0), 0, &mut io::empty())
    }

    /// A file from bytes.
    pub fn file(&mut self, path: &str, mode: u32, bytes: &[u8]) -> io::Result<()> {
        self.file_from(path, mode, bytes.len() as u64, &mut &*bytes)
    }

    /// A file from a reader that gives exactly `size` bytes.
    pub fn file_from(&mut self, path: &str, mode: u32, size: u64, contents: &mut dyn Read) -> io::Result<()> {
        self.parents(path)?;
        self.entry(path, FILE | mode & 0o7777, 1, (0, 0), size, contents)
    }

    /// One file with several names, as hard links.
    pub fn linked_files(&mut self, paths: &[&str], mode: u32, bytes: &[u8]) -> io::Result<()> {
        for path in paths {
            self.parents(path)?;
        }
        self.inode += 1;
        let links = u32::try_from(paths.len()).map_err(|_| invalid("too many links"))?;
        for (index, path) in paths.iter().enumerate() {
            let bytes = if index == 0 { bytes } else { &[] };
            let builder = Builder::new(checked(path)?).ino(self.inode).mode(FILE | mode & 0o7777).nlink(links);
            write_entry(&mut self.out, builder.mtime(self.mtime), bytes.len() as u64, &mut &*bytes)?;
        }
        Ok(())
    }

    /// A symbolic link.
    pub fn symlink(&mut self, path: &str, target: &str) -> io::Result<()> {
        if !MERGED.contains(&path) || target.strip_prefix("usr/") != Some(path) {
            self.parents(path)?;
        }
        self.entry(path, SYMLINK | 0o777, 1, (0, 0), target.len() as u64, &mut target.as_bytes())
    }

    /// A device node.
    pub fn device(&mut self, path: &str, mode: u32, device: Device, major: u32, minor: u32) -> io::Result<()> {
        self.parents(path)?;
        let kind = if device == Device::Char { CHAR } else { BLOCK };
        self.entry(path, kind | mode & 0o7777, 1, (major, minor), 0, &mut io::empty())
    }

    /// Ends the segment. What is written is a multiple of 4 bytes, as what follows it needs.
    pub fn finish(mut self) -> io::Result<W> {
        trailer(&mut self.out)?;
        self.out.0.flush()?;
        Ok(self.out.0)
    }

    fn parents(&mut self, path: &str) -> io::Result<()> {
        let top = path.split('/').next().unwrap_or_default();
        if MERGED.contains(&top) {
            return Err(invalid(format!("{path}: /{top} belongs to the base image, write below usr/ instead")));
        }
        for parent in parents(path) {
            if self.directories.insert(parent.to_owned()) {
                self.entry(parent, DIRECTORY | 0o755, 2, (0, 0), 0, &mut io::empty())?;
            }
        }
        Ok(())
    }

    fn entry(
        &mut self,
        path: &str,
        mode: u32,
        links: u32,
        device: (u32, u32),
        size: u64,
        contents: &mut dyn Read,
    ) -> io::Result<()> {
        self.inode += 1;
        let builder = Builder::new(checked(path)?).ino(self.inode).mode(mode).nlink(links);
        let builder = builder.mtime(self.mtime).rdev_major(device.0).rdev_minor(device.1);
        write_entry(&mut self.out, builder, size, contents)
    }
}

/// Writes the whole tree as one segment: names sorted, every time the same, inode numbers counted in that order.
pub(crate) fn write_tree<W: Write>(tree: &Tree, mtime: u32, out: W) -> io::Result<W> {
    let mut out = Unflushed(out);
    let mut links: HashMap<ContentId, u32> = HashMap::new();
    for (_, node) in tree.nodes() {
        if let Kind::File(id) = node.kind {
            *links.entry(id).or_default() += 1;
        }
    }
    let mut inodes: HashMap<ContentId, u32> = HashMap::new();
    let mut inode = 0;
    for (path, node) in tree.nodes() {
        let builder = Builder::new(checked(path)?).uid(node.uid).gid(node.gid).mtime(mtime);
        let contents;
        let (builder, bytes): (Builder, &[u8]) = match &node.kind {
            Kind::File(id) => {
                let builder = builder.mode(FILE | node.mode).nlink(links[id]);
                if let Some(first) = inodes.get(id) {
                    (builder.ino(*first), &[])
                } else {
                    inode += 1;
                    inodes.insert(*id, inode);
                    contents = tree.store().get(*id).map_err(io::Error::other)?;
                    (builder.ino(inode), &contents)
                }
            }
            kind => {
                inode += 1;
                let builder = builder.ino(inode).nlink(if *kind == Kind::Directory { 2 } else { 1 });
                match kind {
                    Kind::Directory => (builder.mode(DIRECTORY | node.mode), &[]),
                    Kind::Symlink(target) => (builder.mode(SYMLINK | node.mode), target.as_bytes()),
                    Kind::Fifo => (builder.mode(FIFO | node.mode), &[]),
                    Kind::CharDevice(major, minor) => {
                        (builder.mode(CHAR | node.mode).rdev_major(*major).rdev_minor(*minor), &[])
                    }
                    Kind::BlockDevice(major, minor) => {
                        (builder.mode(BLOCK | node.mode).rdev_major(*major).rdev_minor(*minor), &[])
                    }
                    Kind::File(_) => unreachable!("handled above"),
                }
            }
        };
        write_entry(&mut out, builder, bytes.len() as u64, &mut &*bytes)?;
    }
    trailer(&mut out)?;
    Ok(out.0)
}

fn write_entry<W: Write>(out: &mut W, builder: Builder, size: u64, contents: &mut dyn Read) -> io::Result<()> {
    let size32 = u32::try_from(size).map_err(|_| invalid("a file of 4 GiB or more does not fit into newc"))?;
    let mut writer = builder.write(out, size32);
    let copied = io::copy(&mut contents.take(size), &mut writer)?;
    if copied != size {
        return Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            format!("a file ended after {copied} of {size} bytes"),
        ));
    }
    writer.finish()?;
    Ok(())
}

fn checked(path: &str) -> io::Result<&str> {
    let plain = path.split('/').all(|part| !matches!(part, "" | "." | "..")) && !path.contains('\0');
    if plain && path != "TRAILER!!!" { Ok(path) } else { Err(invalid(format!("{path:?} is not a plain path"))) }
}

fn invalid(reason: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, reason.into())
}

/// Keeps the cpio crate's flush after each entry from a compressor, which would end a block at each.
struct Unflushed<W>(W);

impl<W: Write> Write for Unflushed<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
