//! From a lock to an image, and checks that an image is the lock's.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;

use crate::archive::Packages;
use crate::error::{Error, Failure, ImageError};
use crate::fetch::{Body, Fetcher};
use crate::lock::{CORE, Group};
use crate::sha::{Hasher, HashingWriter, Sha256, TeeReader};
use crate::{Lock, Package, Time, Tree, deb, fixup, newc};

/// How far a build is.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// The package that is being unpacked.
    pub package: &'a str,
    /// How many are done.
    pub done: usize,
    /// How many there are.
    pub total: usize,
    /// Bytes of packages that are done.
    pub done_bytes: u64,
    /// Bytes of all packages.
    pub total_bytes: u64,
}

/// What was built or checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Image {
    /// SHA-256 of the uncompressed image.
    pub sha256: Sha256,
    /// Bytes uncompressed.
    pub size: u64,
    /// Bytes as zstd.
    pub compressed_size: u64,
}

/// Builds the image of a group of the lock, writes it to `out` as zstd of this level, and checks it against the lock.
///
/// What was written is only good if this returns `Ok`. Memory: about 100 MiB and whatever `out` takes.
pub fn build<W: Write>(
    lock: &Lock,
    group: &Group,
    packages: &dyn Packages,
    level: i32,
    out: W,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Image, Error> {
    let found = crate::skeleton_hash();
    if found != lock.skeleton {
        return Err(Error::Image(ImageError::Skeleton { expected: lock.skeleton, found }));
    }
    let tree =
        assemble(lock, group, packages, group.image_size, progress).map_err(|error| packages.explain(error, lock))?;
    let image = write_image(&tree, lock.made, level, out)?;
    check(
        group,
        image,
        "; the packages are the pinned ones, so another anemos wrote the lock: make it anew with `anemos base lock`",
    )
}

/// Unpacks a group's packages and applies the fix-ups.
pub(crate) fn assemble(
    lock: &Lock,
    group: &Group,
    source: &dyn Packages,
    limit: u64,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Tree, Error> {
    /// Downloads at a time. Their order doesn't matter: packages are unpacked in the order of their names.
    const WORKERS: usize = 3;
    let mut packages: Vec<&Package> = group.packages.iter().collect();
    packages.sort_by(|a, b| a.name.cmp(&b.name));
    let mut tree = Tree::new(&lock.exclude, limit)?;
    let stop = AtomicBool::new(false);
    let total_bytes = group.download_size();
    std::thread::scope(|scope| {
        // Each worker takes every third package and may be one ahead: at most six packages are in memory.
        let mut lanes = Vec::new();
        for worker in 0..WORKERS {
            let (sender, receiver) = sync_channel(1);
            let (packages, stop) = (&packages, &stop);
            lanes.push(receiver);
            scope.spawn(move || {
                for package in packages.iter().skip(worker).step_by(WORKERS) {
                    if stop.load(Ordering::Relaxed) || sender.send(source.get(package, stop)).is_err() {
                        break;
                    }
                }
            });
        }
        let mut done_bytes = 0;
        let mut unpack_all = || {
            for (index, package) in packages.iter().enumerate() {
                progress(Progress {
                    package: &package.name,
                    done: index,
                    total: packages.len(),
                    done_bytes,
                    total_bytes,
                });
                let bytes = lanes[index % WORKERS].recv().map_err(|_| Error::Cancelled)??;
                let owner: Arc<str> = package.path.as_str().into();
                deb::read(&package.path, bytes.as_slice(), &mut |entry| tree.add(&owner, entry))?;
                done_bytes += package.size;
            }
            Ok(())
        };
        let result = unpack_all();
        if result.is_err() {
            stop.store(true, Ordering::Relaxed);
        }
        // A worker that still waits to hand over a package sees its lane closed, and ends.
        lanes.clear();
        result
    })?;
    fixup::apply(&mut tree, lock.made, group.name == CORE)?;
    tree.close()?;
    Ok(tree)
}

/// Writes the tree as a compressed image.
pub(crate) fn write_image<W: Write>(tree: &Tree, made: Time, level: i32, out: W) -> Result<Image, Error> {
    let wrong = |error| Error::io("writing the base image", error);
    let counted = HashingWriter::new(out);
    let encoder = zstd::stream::write::Encoder::new(counted, level).map_err(wrong)?;
    let hashed = newc::write_tree(tree, made.unix(), HashingWriter::new(encoder)).map_err(wrong)?;
    let (encoder, uncompressed) = hashed.into_parts();
    let (mut out, compressed) = encoder.finish().map_err(wrong)?.into_parts();
    out.flush().map_err(wrong)?;
    let (size, compressed_size) = (uncompressed.length(), compressed.length());
    Ok(Image { sha256: uncompressed.finish(), size, compressed_size })
}

fn check(group: &Group, image: Image, hint: &'static str) -> Result<Image, Error> {
    if image.size != group.image_size && hint.is_empty() {
        return Err(Error::Image(ImageError::Size { expected: group.image_size, found: image.size }));
    }
    if image.sha256 != group.image {
        return Err(Error::Image(ImageError::Hash { expected: group.image, found: image.sha256, hint }));
    }
    Ok(image)
}

/// Reads a compressed image to its end and checks that it is the group's.
pub fn verify<R: BufRead>(group: &Group, image: R) -> Result<Image, Error> {
    copy_verified(group, image, io::sink())
}

/// As [`verify`], writing what is read (the compressed bytes) to `copy` on the way. What was written is only good if
/// this returns `Ok`.
pub fn copy_verified<R: BufRead, W: Write>(group: &Group, mut image: R, copy: W) -> Result<Image, Error> {
    let image = read_image(&mut image, copy, group.image_size)?;
    check(group, image, "")
}

/// Reads the next of the images that follow one another, and writes it, compressed as it is, to `copy`.
fn read_image<R: BufRead, W: Write>(image: &mut R, copy: W, limit: u64) -> Result<Image, Error> {
    let tee = TeeReader { inner: image, copy, length: 0, failed: None };
    let decoder = zstd::stream::read::Decoder::with_buffer(tee).map_err(|error| Error::io("starting zstd", error))?;
    let mut decoder = decoder.single_frame();
    let mut hasher = Hasher::new();
    let mut chunk = vec![0; 128 << 10];
    loop {
        let read = decoder.read(&mut chunk).map_err(damaged)?;
        if read == 0 {
            break;
        }
        hasher.update(&chunk[..read]);
        if hasher.length() > limit {
            return Err(Error::Image(ImageError::Size { expected: limit, found: hasher.length() }));
        }
    }
    let tee = decoder.finish();
    if let Some(error) = tee.failed {
        return Err(damaged(error));
    }
    let (size, compressed_size) = (hasher.length(), tee.length);
    Ok(Image { sha256: hasher.finish(), size, compressed_size })
}

/// Most bytes of an image that is not known to be wanted before it is read.
const LARGEST: u64 = 2 << 30;

/// Where images go that are read one after another.
pub trait Places {
    /// An empty place for the next image. What was written to the one before, and not kept, goes.
    fn begin(&mut self) -> io::Result<Box<dyn Write + '_>>;

    /// What was written to the last place is the image of this group.
    fn keep(&mut self, group: &Group) -> io::Result<()>;
}

/// Reads the images that follow one another in a file, compressed each by itself, until all are there that are
/// `missing`. Others that the file has are left out.
///
/// What is kept is good, and not missing any more, also if this fails.
pub fn copy_images<R: BufRead>(missing: &mut Vec<&Group>, mut images: R, into: &mut dyn Places) -> Result<(), Error> {
    let writing = |error| Error::io("making room for the base image", error);
    while !missing.is_empty() {
        if images.fill_buf().map_err(damaged)?.is_empty() {
            let groups = missing.iter().map(|group| group.name.clone()).collect();
            return Err(Error::Image(ImageError::Lacks { groups }));
        }
        let image = read_image(&mut images, into.begin().map_err(writing)?, LARGEST)?;
        if let Some(at) = missing.iter().position(|group| group.image == image.sha256) {
            into.keep(missing.remove(at)).map_err(writing)?;
        }
    }
    Ok(())
}

/// The groups whose images follow one another in a file, each compressed by itself.
///
/// Fails at an image that is of no group, and if there is none.
pub fn images_in<R: BufRead>(lock: &Lock, mut images: R) -> Result<Vec<&Group>, Error> {
    let mut groups = Vec::new();
    loop {
        if images.fill_buf().map_err(damaged)?.is_empty() && !groups.is_empty() {
            return Ok(groups);
        }
        let image = read_image(&mut images, io::sink(), LARGEST)?;
        let hint = "";
        let unknown = || match &lock.groups[..] {
            [group] => ImageError::Hash { expected: group.image, found: image.sha256, hint },
            _ => ImageError::Unknown { found: image.sha256 },
        };
        let group = lock.groups.iter().find(|group| group.image == image.sha256);
        groups.push(group.ok_or_else(|| Error::Image(unknown()))?);
    }
}

/// The error of reading a compressed image: one of the network's, or damage in the image itself.
fn damaged(error: io::Error) -> Error {
    match error.downcast::<crate::Failure>() {
        Ok(Failure::Cancelled) => Error::Cancelled,
        Ok(failure) => Error::Image(ImageError::Download(failure)),
        Err(error) => Error::Image(ImageError::Compression(error.to_string())),
    }
}

/// Fetches a group's compressed image from the first of `urls` that has it, checks it, and writes it with `copy`.
///
/// `start` is called for each address that is tried, and gives the (emptied) place to write to.
pub fn fetch_image<W: Write>(
    fetcher: &Fetcher,
    group: &Group,
    urls: &[String],
    start: &mut dyn FnMut() -> io::Result<W>,
) -> Result<Image, Error> {
    fetch(fetcher, compressed_limit(group.image_size), urls, &mut |body| {
        let copy = start().map_err(|error| Error::io("making room for the base image", error))?;
        copy_verified(group, BufReader::with_capacity(CHUNK, body), copy)
    })
}

/// As [`copy_images`], from as many of `urls` as it takes.
pub fn fetch_images(
    fetcher: &Fetcher,
    missing: &mut Vec<&Group>,
    urls: &[String],
    into: &mut dyn Places,
) -> Result<(), Error> {
    fetch(fetcher, compressed_limit(LARGEST), urls, &mut |body| {
        copy_images(missing, BufReader::with_capacity(CHUNK, body), into)
    })
}

/// Bytes of a download that are read at a time.
const CHUNK: usize = 128 << 10;

/// Most bytes that an image of this size is compressed to: zstd adds 3 bytes to each 128 KiB that it can't compress,
/// and some at either end.
const fn compressed_limit(size: u64) -> u64 {
    size.saturating_add(size / 1024).saturating_add(4096)
}

fn fetch<T>(
    fetcher: &Fetcher,
    limit: u64,
    urls: &[String],
    read: &mut dyn FnMut(Body<'_>) -> Result<T, Error>,
) -> Result<T, Error> {
    let (mut attempts, mut ended, stop) = (Vec::new(), None, AtomicBool::new(false));
    let mut get = |url: &str| {
        let failure = match read(fetcher.open(url, limit)?) {
            Err(Error::Image(ImageError::Hash { expected, found, .. })) => Failure::Hash { expected, found },
            Err(Error::Image(ImageError::Download(failure))) => failure,
            Err(Error::Image(error)) => Failure::Connection(error.to_string()),
            // The image was fetched, or there is a reason against it that no other address mends.
            result => {
                let done = result.is_ok();
                ended = Some(result);
                stop.store(true, Ordering::Relaxed);
                return if done { Ok(()) } else { Err(Failure::Cancelled) };
            }
        };
        Err(failure)
    };
    if !fetcher.try_each(urls, &stop, &mut attempts, &mut get) {
        fetcher.try_again(&stop, &mut attempts, &mut get);
    }
    ended.unwrap_or_else(|| Err(fetcher.none_of("base image", attempts)))
}
