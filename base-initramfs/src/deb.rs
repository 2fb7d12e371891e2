//! Debian packages: an `ar` archive that holds a compressed tar archive of the files.
//!
//! Sources: deb(5) for the members and their order; ar(5) for the 60-byte member headers. Maintainer scripts and
//! everything else in `control.tar` are not looked at.

use std::io::{self, Read};

use liblzma::stream::Stream;

use crate::Error;

/// What one entry of a package is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A directory.
    Directory,
    /// A regular file, whose contents the entry's reader gives.
    File,
    /// Another name for a file that came before.
    HardLink(String),
    /// A symbolic link.
    Symlink(String),
    /// A character device.
    CharDevice(u32, u32),
    /// A block device.
    BlockDevice(u32, u32),
    /// A named pipe.
    Fifo,
}

/// One entry of a package's file archive. Its path is as the archive has it (`./usr/bin/x`), unchecked.
pub struct Entry<'a> {
    /// The path.
    pub path: String,
    /// What it is.
    pub kind: EntryKind,
    /// Permission bits, with set-uid, set-gid and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes of a file.
    pub size: u64,
    /// A file's contents; what is not read is skipped.
    pub contents: &'a mut dyn Read,
}

/// The most memory that unpacking xz may take. Debian's packages need 9 MiB, at xz's highest level 65 MiB.
const XZ_MEMORY: u64 = 128 << 20;

/// Gives every entry of the package to `visit`, in the archive's order. `file` is the name in errors.
pub fn read<R: Read>(
    file: &str,
    package: R,
    visit: &mut dyn FnMut(Entry<'_>) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut ar = Ar::open(file, package)?;
    match ar.next()? {
        Some(name) if name == "debian-binary" => {}
        _ => return Err(Error::package(file, "not a Debian package: the first member is not `debian-binary`")),
    }
    let mut version = String::new();
    ar.read_to_string(&mut version).map_err(|error| ar.error(&error))?;
    if !version.starts_with("2.") {
        return Err(Error::package(
            file,
            format_args!("package format {:?} is not known, only 2.x", version.trim_end()),
        ));
    }
    loop {
        let Some(name) = ar.next()? else {
            return Err(Error::package(file, "has no member `data.tar`"));
        };
        let Some(compression) = name.strip_prefix("data.tar") else { continue };
        return match compression {
            "" => read_tar(file, &mut ar, visit),
            ".gz" => read_tar(file, flate2::read::GzDecoder::new(&mut ar), visit),
            ".xz" => {
                let stream = Stream::new_stream_decoder(XZ_MEMORY, 0).map_err(|error| Error::package(file, error))?;
                read_tar(file, liblzma::read::XzDecoder::new_stream(&mut ar, stream), visit)
            }
            ".zst" => {
                let decoder = zstd::stream::read::Decoder::new(&mut ar).map_err(|error| Error::package(file, error))?;
                read_tar(file, decoder, visit)
            }
            other => Err(Error::package(file, format_args!("compression `{other}` of data.tar is not known"))),
        };
    }
}

fn read_tar<R: Read>(
    file: &str,
    reader: R,
    visit: &mut dyn FnMut(Entry<'_>) -> Result<(), Error>,
) -> Result<(), Error> {
    let wrong = |error: io::Error| Error::package(file, format_args!("data.tar: {error}"));
    let mut archive = tar::Archive::new(reader);
    for entry in archive.entries().map_err(wrong)? {
        let mut entry = entry.map_err(wrong)?;
        let path = utf8(file, &entry.path_bytes())?;
        let header = entry.header();
        let device = || -> Result<(u32, u32), Error> {
            let number = |number: io::Result<Option<u32>>| Ok(number.map_err(wrong)?.unwrap_or(0));
            Ok((number(header.device_major())?, number(header.device_minor())?))
        };
        let target = || match entry.link_name_bytes() {
            Some(target) => utf8(file, &target),
            None => Err(Error::package(file, format_args!("data.tar: link {path} has no target"))),
        };
        let kind = match header.entry_type() {
            tar::EntryType::Directory => EntryKind::Directory,
            tar::EntryType::Regular | tar::EntryType::Continuous => EntryKind::File,
            tar::EntryType::Link => EntryKind::HardLink(target()?),
            tar::EntryType::Symlink => EntryKind::Symlink(target()?),
            tar::EntryType::Char => device().map(|(major, minor)| EntryKind::CharDevice(major, minor))?,
            tar::EntryType::Block => device().map(|(major, minor)| EntryKind::BlockDevice(major, minor))?,
            tar::EntryType::Fifo => EntryKind::Fifo,
            other => {
                return Err(Error::package(file, format_args!("data.tar: {path} is of unknown type {other:?}")));
            }
        };
        let id = |id: io::Result<u64>| u32::try_from(id.map_err(wrong)?).map_err(|_| Error::package(file, "owner"));
        let (mode, uid, gid) = (header.mode().map_err(wrong)? & 0o7777, id(header.uid())?, id(header.gid())?);
        let size = if kind == EntryKind::File { entry.size() } else { 0 };
        visit(Entry { path, kind, mode, uid, gid, size, contents: &mut entry })?;
    }
    Ok(())
}

fn utf8(file: &str, bytes: &[u8]) -> Result<String, Error> {
    std::str::from_utf8(bytes)
        .map(str::to_owned)
        .map_err(|_| Error::package(file, format_args!("the name {} is not UTF-8", bytes.escape_ascii())))
}

/// Reads an `ar` archive from front to back; as a reader it gives the current member.
struct Ar<'a, R> {
    file: &'a str,
    inner: R,
    /// Bytes of the current member still to come.
    left: u64,
    /// Whether the current member's size is odd, and a byte of padding follows.
    padded: bool,
}

impl<'a, R: Read> Ar<'a, R> {
    fn open(file: &'a str, mut inner: R) -> Result<Self, Error> {
        let mut magic = [0; 8];
        inner.read_exact(&mut magic).map_err(|_| Error::package(file, "not a Debian package: too short"))?;
        if magic != *b"!<arch>\n" {
            return Err(Error::package(file, "not a Debian package: it doesn't start as an ar archive does"));
        }
        Ok(Self { file, inner, left: 0, padded: false })
    }

    fn error(&self, error: &io::Error) -> Error {
        Error::package(self.file, format_args!("ar: {error}"))
    }

    /// Skips to the next member and gives its name.
    fn next(&mut self) -> Result<Option<String>, Error> {
        let skip = self.left + u64::from(self.padded);
        let skipped =
            io::copy(&mut self.inner.by_ref().take(skip), &mut io::sink()).map_err(|error| self.error(&error))?;
        // The padding of the last member is often left out.
        if skipped < self.left {
            return Err(Error::package(self.file, "truncated in the middle of a member"));
        }
        (self.left, self.padded) = (0, false);
        let mut header = Vec::with_capacity(60);
        self.inner.by_ref().take(60).read_to_end(&mut header).map_err(|error| self.error(&error))?;
        if header.is_empty() {
            return Ok(None);
        }
        if header.len() < 60 || header[58..] != *b"`\n" {
            return Err(Error::package(self.file, "a damaged ar member header"));
        }
        let field = |from: usize, to: usize| std::str::from_utf8(&header[from..to]).map(str::trim_end);
        let (Ok(name), Ok(Ok(size))) = (field(0, 16), field(48, 58).map(str::parse::<u64>)) else {
            return Err(Error::package(self.file, "a damaged ar member header"));
        };
        (self.left, self.padded) = (size, size % 2 == 1);
        Ok(Some(name.strip_suffix('/').unwrap_or(name).to_owned()))
    }
}

impl<R: Read> Read for Ar<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.by_ref().take(self.left).read(buf)?;
        self.left -= read as u64;
        Ok(read)
    }
}
