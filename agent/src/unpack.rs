//! Unpacks the base image and payloads, never outside of the directory they are meant for.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, lchown, symlink};
use std::path::{Component, Path, PathBuf};

use anemos_host::sha256::Hasher;
use anemos_proto::Digest;
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, mknodat, utimensat};

/// A reader that hashes and counts the bytes that pass.
pub struct Hashing<R> {
    inner: R,
    hash: Hasher,
    count: u64,
}

impl<R: Read> Hashing<R> {
    /// Reads from `inner`.
    pub fn new(inner: R) -> Self {
        Self { inner, hash: Hasher::new(), count: 0 }
    }

    /// Reads to the end, and returns the digest of all bytes.
    pub fn finish(mut self) -> io::Result<Digest> {
        io::copy(&mut self, &mut io::sink())?;
        Ok(self.hash.finish())
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.hash.update(&buffer[..n]);
        self.count += n as u64;
        Ok(n)
    }
}

/// The digest of a file.
pub fn digest_of(path: &Path) -> io::Result<Digest> {
    Hashing::new(File::open(path)?).finish()
}

/// Unpacks the uncompressed newc image `image` into `root`, but nothing at or below the paths in `spare`. Returns the
/// digest of the whole image. Calls `progress` with the number of bytes read so far.
pub fn cpio(image: impl Read, root: &Path, spare: &[&str], mut progress: impl FnMut(u64)) -> io::Result<Digest> {
    let mut image = Hashing::new(BufReader::with_capacity(256 * 1024, image));
    let mut tree = Tree { root: root.into(), spare, known: HashMap::new() };
    let mut links = HashMap::new();
    // Directories get their times last, because unpacking files into a directory changes its time.
    let mut directories = Vec::new();
    loop {
        progress(image.count);
        let mut entry = cpio::newc::Reader::new(image)?;
        if entry.entry().is_trailer() {
            image = entry.finish()?;
            break;
        }
        let name = relative(Path::new(entry.entry().name()))?;
        let spared = spare.iter().any(|path| name.starts_with(path));
        if !spared && !name.as_os_str().is_empty() {
            let path = tree.locate(&name)?;
            one(&mut entry, &path, &mut links).map_err(|e| at(&path, &e))?;
            if entry.entry().mode() & 0o170_000 == 0o040_000 {
                directories.push((path, entry.entry().mtime()));
            }
        }
        image = entry.finish()?;
    }
    for (path, mtime) in directories.into_iter().rev() {
        set_mtime(&path, mtime)?;
    }
    let count = image.count;
    let digest = image.finish()?;
    progress(count);
    Ok(digest)
}

type Links = HashMap<(u32, u32, u32), PathBuf>;

fn one<R: Read>(reader: &mut cpio::newc::Reader<R>, path: &Path, links: &mut Links) -> io::Result<()> {
    let entry = reader.entry();
    let (mode, uid, gid, mtime) = (entry.mode(), entry.uid(), entry.gid(), entry.mtime());
    let permissions = fs::Permissions::from_mode(mode & 0o7777);
    match mode & 0o170_000 {
        0o040_000 => {
            // What is no directory goes, as the kernel has it: a symlink would have another directory changed.
            if !is_plain_dir(path) {
                remove(path)?;
                fs::create_dir(path)?;
            }
            lchown(path, Some(uid), Some(gid))?;
            return fs::set_permissions(path, permissions);
        }
        0o100_000 => {
            let key = (entry.dev_major(), entry.dev_minor(), entry.ino());
            let (linked, size) = (entry.nlink() > 1, entry.file_size());
            remove(path)?;
            // Something else may be at the first name by now. A hard link of a symlink would be followed.
            let first = links.get(&key).filter(|first| fs::symlink_metadata(first).is_ok_and(|found| found.is_file()));
            if linked && let Some(first) = first {
                fs::hard_link(first, path)?;
                if size == 0 {
                    return Ok(());
                }
                // By convention the data comes with the last of the links.
                let mut file = fs::OpenOptions::new().write(true).truncate(true).open(path)?;
                io::copy(reader, &mut file)?;
            } else {
                let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
                io::copy(reader, &mut file)?;
                if linked {
                    links.insert(key, path.into());
                }
            }
            lchown(path, Some(uid), Some(gid))?;
            // Set after chown(2), which clears the setuid bit.
            fs::set_permissions(path, permissions)?;
        }
        0o120_000 => {
            let mut target = String::new();
            reader.take(4096).read_to_string(&mut target)?;
            remove(path)?;
            symlink(target, path)?;
            lchown(path, Some(uid), Some(gid))?;
        }
        kind @ (0o020_000 | 0o060_000 | 0o010_000 | 0o140_000) => {
            let device = rustix::fs::makedev(entry.rdev_major(), entry.rdev_minor());
            remove(path)?;
            mknodat(CWD, path, FileType::from_raw_mode(kind), Mode::from_raw_mode(mode & 0o7777), device)?;
            lchown(path, Some(uid), Some(gid))?;
            fs::set_permissions(path, permissions)?;
        }
        other => return Err(io::Error::other(format!("unknown file type {other:o} in the image"))),
    }
    set_mtime(path, mtime)
}

fn is_plain_dir(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.is_dir())
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

fn set_mtime(path: &Path, mtime: u32) -> io::Result<()> {
    let time = Timespec { tv_sec: i64::from(mtime), tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    Ok(utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// A name from an archive as a path below its root: no `..`, and no leading `/` or `.`.
pub fn relative(name: &Path) -> io::Result<PathBuf> {
    let mut path = PathBuf::new();
    for component in name.components() {
        match component {
            Component::Normal(part) => path.push(part),
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return Err(io::Error::other(format!(
                    "the archive has a path that leads out of it: {}",
                    name.display()
                )));
            }
        }
    }
    Ok(path)
}

/// Directories under a root, with those that are known to be plain directories.
struct Tree<'a> {
    root: PathBuf,
    /// Where nothing is written.
    spare: &'a [&'a str],
    known: HashMap<PathBuf, PathBuf>,
}

impl Tree<'_> {
    /// Where `name` goes. Symlinks in its parents are followed, as in /bin → usr/bin, but never out of the root.
    /// Parents that are missing are made.
    fn locate(&mut self, name: &Path) -> io::Result<PathBuf> {
        let parent = match name.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => self.directory(parent, 0)?,
            _ => self.root.clone(),
        };
        let last = name.file_name().ok_or_else(|| io::Error::other("the archive has an empty path"))?;
        Ok(parent.join(last))
    }

    fn directory(&mut self, name: &Path, depth: u32) -> io::Result<PathBuf> {
        if depth > 16 {
            return Err(io::Error::other(format!("too many symlinks in {}", name.display())));
        }
        if self.spare.iter().any(|path| name.starts_with(path)) {
            return Err(io::Error::other(format!("the archive has a symlink that leads into {}", name.display())));
        }
        if let Some(known) = self.known.get(name) {
            return Ok(known.clone());
        }
        let path = self.locate_in(name, depth)?;
        let resolved = match fs::symlink_metadata(&path) {
            Ok(found) if found.is_dir() => path,
            Ok(found) if found.is_symlink() => {
                let target = fs::read_link(&path)?;
                let base = if target.is_absolute() { Path::new("") } else { name.parent().unwrap_or(Path::new("")) };
                let inside = relative(&base.join(target.strip_prefix("/").unwrap_or(&target)))?;
                self.directory(&inside, depth + 1)?
            }
            Ok(_) => return Err(io::Error::other(format!("{} is not a directory", path.display()))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                fs::create_dir(&path)?;
                path
            }
            Err(e) => return Err(e),
        };
        // Only plain directories may be remembered: the archive can replace a symlink, never a directory.
        if resolved.strip_prefix(&self.root).is_ok_and(|rest| rest == name) {
            self.known.insert(name.into(), resolved.clone());
        }
        Ok(resolved)
    }

    fn locate_in(&mut self, name: &Path, depth: u32) -> io::Result<PathBuf> {
        match (name.parent(), name.file_name()) {
            (Some(parent), Some(last)) if !parent.as_os_str().is_empty() => {
                Ok(self.directory(parent, depth)?.join(last))
            }
            (_, Some(last)) => Ok(self.root.join(last)),
            _ => Ok(self.root.clone()),
        }
    }
}

/// Unpacks the payload archive at `path`, whose digest is `expected`, into the directory `to`, which has nothing else
/// then. The directory itself stays if it is there: it may be a mount point.
pub fn payload(path: &Path, expected: Digest, to: &Path) -> io::Result<()> {
    let found = digest_of(path)?;
    if found != expected {
        return Err(io::Error::other(format!("{} has SHA-256 {found}, expected {expected}", path.display())));
    }
    fs::create_dir_all(to).and_then(|()| empty(to)).map_err(|e| at(to, &e))?;
    let mut archive = tar::Archive::new(zstd::stream::read::Decoder::new(File::open(path)?)?);
    archive.set_preserve_permissions(true);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let name = entry.path()?.into_owned();
        relative(&name)?;
        // unpack_in refuses paths that lead out through symlinks that were unpacked before.
        if !entry.unpack_in(to).map_err(|e| at(&name, &e))? {
            return Err(io::Error::other(format!("the payload has a path that leads out of it: {}", name.display())));
        }
    }
    Ok(())
}

fn empty(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let is_dir = entry.file_type()?.is_dir();
        if is_dir { fs::remove_dir_all(entry.path())? } else { fs::remove_file(entry.path())? }
    }
    Ok(())
}

fn at(path: &Path, error: &io::Error) -> io::Error {
    // The tar crate gives the reason only in the error's source.
    let mut text = format!("{}: {error}", path.display());
    let mut source = std::error::Error::source(error);
    while let Some(reason) = source {
        text = format!("{text}: {reason}");
        source = reason.source();
    }
    io::Error::new(error.kind(), text)
}

#[cfg(test)]
mod tests;
