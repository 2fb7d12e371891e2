//! From a lock to an image, and checks that an image is the lock's.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;

use crate::archive::Packages;
use crate::error::{Error, Failure, ImageError};
use crate::fetch::Fetcher;
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

/// Builds the lock's image, writes it to `out` as zstd of this level, and checks it against the lock.
///
/// What was written is only good if this returns `Ok`. Memory: about 100 MiB and whatever `out` takes.
pub fn build<W: Write>(
    lock: &Lock,
    packages: &dyn Packages,
    level: i32,
    out: W,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Image, Error> {
    let found = crate::skeleton_hash();
    if found != lock.skeleton {
        return Err(Error::Image(ImageError::Skeleton { expected: lock.skeleton, found }));
    }
    let tree = assemble(lock, packages, lock.image_size, progress).map_err(|error| packages.explain(error, lock))?;
    let image = write_image(&tree, lock.made, level, out)?;
    check(
        lock,
        image,
        "; the packages are the pinned ones, so another anemos wrote the lock: make it anew with `anemos base lock`",
    )
}

/// Unpacks the lock's packages and applies the fix-ups.
pub(crate) fn assemble(
    lock: &Lock,
    source: &dyn Packages,
    limit: u64,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Tree, Error> {
    /// Downloads at a time. Their order doesn't matter: packages are unpacked in the order of their names.
    const WORKERS: usize = 3;
    let mut packages: Vec<&Package> = lock.packages.iter().collect();
    packages.sort_by(|a, b| a.name.cmp(&b.name));
    let mut tree = Tree::new(&lock.exclude, limit)?;
    let stop = AtomicBool::new(false);
    let total_bytes = lock.download_size();
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
    fixup::apply(&mut tree, lock.made)?;
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

fn check(lock: &Lock, image: Image, hint: &'static str) -> Result<Image, Error> {
    if image.size != lock.image_size && hint.is_empty() {
        return Err(Error::Image(ImageError::Size { expected: lock.image_size, found: image.size }));
    }
    if image.sha256 != lock.image {
        return Err(Error::Image(ImageError::Hash { expected: lock.image, found: image.sha256, hint }));
    }
    Ok(image)
}

/// Reads a compressed image to its end and checks that it is the lock's.
pub fn verify<R: Read>(lock: &Lock, image: R) -> Result<Image, Error> {
    copy_verified(lock, image, io::sink())
}

/// As [`verify`], writing what is read (the compressed bytes) to `copy` on the way. What was written is only good if
/// this returns `Ok`.
pub fn copy_verified<R: Read, W: Write>(lock: &Lock, image: R, copy: W) -> Result<Image, Error> {
    let tee = TeeReader { inner: image, copy, length: 0 };
    let mut decoder = zstd::stream::read::Decoder::new(tee).map_err(|error| Error::io("starting zstd", error))?;
    let mut hasher = Hasher::new();
    let mut chunk = vec![0; 128 << 10];
    loop {
        let read = decoder.read(&mut chunk).map_err(damaged)?;
        if read == 0 {
            break;
        }
        hasher.update(&chunk[..read]);
        if hasher.length() > lock.image_size {
            let found = hasher.length();
            return Err(Error::Image(ImageError::Size { expected: lock.image_size, found }));
        }
    }
    let (size, compressed_size) = (hasher.length(), decoder.finish().into_inner().length);
    check(lock, Image { sha256: hasher.finish(), size, compressed_size }, "")
}

/// The error of reading a compressed image: one of the network's, or damage in the image itself.
fn damaged(error: io::Error) -> Error {
    match error.downcast::<crate::Failure>() {
        Ok(Failure::Cancelled) => Error::Cancelled,
        Ok(failure) => Error::Image(ImageError::Download(failure)),
        Err(error) => Error::Image(ImageError::Compression(error.to_string())),
    }
}

/// Fetches a ready-made compressed image from the first of `urls` that has it, checks it, and writes it with `copy`.
///
/// `start` is called for each address that is tried, and gives the (emptied) place to write to.
pub fn fetch_image<W: Write>(
    fetcher: &Fetcher,
    lock: &Lock,
    urls: &[String],
    start: &mut dyn FnMut() -> io::Result<W>,
) -> Result<Image, Error> {
    // zstd adds 3 bytes to each 128 KiB that it can't compress, and some at either end.
    let limit = lock.image_size + lock.image_size / 1024 + 4096;
    let (mut attempts, mut ended, stop) = (Vec::new(), None, AtomicBool::new(false));
    let mut get = |url: &str| {
        let body = fetcher.open(url, limit)?;
        let copied = start().map_err(|error| Error::io("making room for the base image", error));
        let failure = match copied.and_then(|copy| copy_verified(lock, body, copy)) {
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
