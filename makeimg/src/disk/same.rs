//! Disk images that are the same bytes each time. The kernel writes a file system in an order of its own, with the time
//! of each change; so the file systems in which an image was built are only what the image's own are filled from, by
//! mke2fs(8) and in the order of names. XFS and Btrfs have no tool for that in the versions that distributions have.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_OMIT, utimensat};
use rustix::mount::{UnmountFlags, unmount};

use crate::command::{Context, Tool};
use crate::problem::{Doing, Problem};

/// Name of the new image, in the working directory.
pub(super) const NEW: &str = "image.same";
/// What is copied at once, in bytes.
const PIECE: usize = 1 << 20;

/// Gives no file below a directory a time later than `epoch`.
pub(super) fn clamp(dir: &Path, epoch: u64) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            clamp(&entry.path(), epoch)?;
        }
        clamp_one(&entry.path(), epoch)?;
    }
    clamp_one(dir, epoch)
}

fn clamp_one(path: &Path, epoch: u64) -> io::Result<()> {
    let found = fs::symlink_metadata(path)?;
    let epoch = epoch.cast_signed();
    if (found.mtime(), found.mtime_nsec()) <= (epoch, 0) {
        return Ok(());
    }
    let omit = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
    let times = Timestamps { last_access: omit, last_modification: Timespec { tv_sec: epoch, tv_nsec: 0 } };
    Ok(utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// Copies a range of a file to the same place in another, where that has zeros.
fn copy(from: &File, to: &File, mut at: u64, end: u64) -> io::Result<()> {
    let mut buffer = vec![0; PIECE];
    while at < end {
        let piece = &mut buffer[..PIECE.min((end - at) as usize)];
        from.read_exact_at(piece, at)?;
        if piece.iter().any(|byte| *byte != 0) {
            to.write_all_at(piece, at)?;
        }
        at += piece.len() as u64;
    }
    Ok(())
}

/// Inodes that are in use, but for those that the file system itself has, as `dumpe2fs` tells it.
fn inodes(dump: &str) -> Vec<u32> {
    let field = |name: &str| dump.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u32>().ok());
    let free: Vec<(u32, u32)> = dump
        .lines()
        .filter_map(|line| line.strip_prefix("  Free inodes: "))
        .flat_map(|ranges| ranges.split(", "))
        .filter_map(|range| {
            let (from, to) = range.split_once('-').unwrap_or((range, range));
            Some((from.trim().parse().ok()?, to.trim().parse().ok()?))
        })
        .collect();
    let is_used = |inode: &u32| !free.iter().any(|(from, to)| (from..=to).contains(&inode));
    let first = field("First inode:").unwrap_or(11);
    let count = field("Inode count:").unwrap_or(0);
    std::iter::once(2).chain((first..=count).filter(is_used)).collect()
}

/// A file system to be filled again.
pub(super) struct Fill {
    /// The first byte of its partition.
    pub start: u64,
    /// Its partition's size in bytes.
    pub size: u64,
    /// What mount(8) calls its kind.
    pub kind: &'static str,
    /// Where it is now; it is not mounted.
    pub device: String,
    /// What makes it anew in another file, from what [`place`] says.
    pub mkfs: Tool,
}

/// Where mke2fs(8) is to make a file system in a file: values of its `-E`.
pub(super) fn place(start: u64) -> String {
    format!("offset={start},nodiscard")
}

/// Writes an image anew, into [`NEW`] in `work`, with these file systems filled again. They are in the order of their
/// places.
///
/// # Errors
/// A tool failed, or a file can't be read or written.
pub(super) fn rewrite(
    context: &Context,
    epoch: u64,
    image: &Path,
    work: &Path,
    fills: Vec<Fill>,
) -> Result<(), Problem> {
    let new = work.join(NEW);
    let doing = || format!("writing {}", new.display());
    let (from, to) = (File::open(image).doing(doing)?, File::create_new(&new).doing(doing)?);
    let size = from.metadata().doing(doing)?.len();
    to.set_len(size).doing(doing)?;
    let mut done = 0;
    for fill in fills {
        copy(&from, &to, done, fill.start).doing(doing)?;
        done = fill.start + fill.size;
        fill.again(context, epoch, work, &new)?;
    }
    copy(&from, &to, done, size).doing(doing)?;
    to.sync_all().doing(doing)
}

impl Fill {
    fn again(self, context: &Context, epoch: u64, work: &Path, new: &Path) -> Result<(), Problem> {
        let at = work.join("source");
        fs::create_dir_all(&at).doing(|| format!("making {}", at.display()))?;
        Tool::new("mount").args(["-t", self.kind, &self.device]).arg(&at).run(context)?;
        // Each by itself: what a mount point hides has a time, too.
        let clamped = clamp(&at, epoch).doing(|| format!("setting the times of files in {}", at.display()));
        let filled = clamped.and_then(|()| self.fill(context, epoch, work, &at, new));
        let unmounted = unmount(&at, UnmountFlags::empty());
        filled.and_then(|()| unmounted.doing(|| format!("unmounting {}", at.display())))
    }

    fn fill(self, context: &Context, epoch: u64, work: &Path, source: &Path, new: &Path) -> Result<(), Problem> {
        let time = |tool: Tool| tool.env("E2FSPROGS_FAKE_TIME", epoch.to_string()).env("LC_ALL", "C");
        let tool = time(self.mkfs).arg("-d").arg(source).arg(new);
        tool.arg(format!("{}k", self.size >> 10)).run(context)?;

        // What is in a file system has also the time at which it came there, and when it was last looked at.
        let there = format!("{}?offset={}", new.display(), self.start);
        let dump = time(Tool::new("dumpe2fs")).arg(&there).output(context)?;
        let mut script = String::new();
        for inode in inodes(&String::from_utf8_lossy(&dump)) {
            for field in ["atime", "ctime"] {
                let _ = writeln!(script, "sif <{inode}> {field} @{epoch}\nsif <{inode}> {field}_extra 0");
            }
        }
        let root = fs::metadata(source).doing(|| format!("reading {}", source.display()))?;
        let _ =
            writeln!(script, "sif <2> mode 0{:o}\nsif <2> uid {}\nsif <2> gid {}", root.mode(), root.uid(), root.gid());
        let _ = writeln!(script, "sif <2> mtime @{}", root.mtime().min(epoch.cast_signed()));
        let file = work.join("debugfs");
        fs::write(&file, script).doing(|| format!("writing {}", file.display()))?;
        // It ends well whatever happens; it repeats commands and says its version.
        let mut wrong = None;
        let tool = time(Tool::new("debugfs")).args(["-w", "-f"]).arg(&file).arg(&there);
        let ended = tool.watch(context, |line| {
            if !line.starts_with("debugfs") && !line.trim().is_empty() {
                wrong.get_or_insert_with(|| line.to_owned());
            }
        })?;
        ended.map_err(|ended| ended.problem("debugfs"))?;
        wrong.map_or(Ok(()), |line| Err(Problem::build(format!("debugfs failed: {line}"))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn used_inodes() {
        // Parts of what dumpe2fs 1.47.0 prints.
        let dump = "Inode count:              40\nFirst inode:              11\n\
                    Group 0: (Blocks 1-8192)\n  Free inodes: 14-18, 20\n\
                    Group 1: (Blocks 8193-16383)\n  Free inodes: 21-40\n";
        assert_eq!(inodes(dump), [2, 11, 12, 13, 19]);
        let full = "Inode count:              12\nFirst inode:              11\n  Free inodes: \n";
        assert_eq!(inodes(full), [2, 11, 12]);
    }

    #[test]
    fn times() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("a")).unwrap();
        std::os::unix::fs::symlink("/nowhere", dir.path().join("a/link")).unwrap();
        let old = dir.path().join("a/old");
        let file = File::create(&old).unwrap();
        file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::new(999, 5)).unwrap();
        clamp(dir.path(), 1000).unwrap();
        let time = |name: &str| {
            let found = fs::symlink_metadata(dir.path().join(name)).unwrap();
            (found.mtime(), found.mtime_nsec())
        };
        assert_eq!([time(""), time("a"), time("a/link")], [(1000, 0); 3]);
        assert_eq!(time("a/old"), (999, 5));
    }
}
