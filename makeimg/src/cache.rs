//! What bootstraps have made, kept from build to build: the whole tree, before any of the project's files is in it. It
//! is used again if the image's own apt, with new lists, has nothing newer for it.
//!
//! Packages alone are not kept: apt takes an archive that lies in its directory for what it should be if the size is
//! right, and bootstrapping is mostly unpacking and configuring.

use std::fmt::Write as _;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use sha2::{Digest, Sha256};

use crate::chroot::{Chroot, environment, with_proxies};
use crate::command::{self, Context, Tool};
use crate::inside::Inside;
use crate::problem::{Doing, Problem};

/// Trees that nobody has asked for so long are removed.
const UNUSED: Duration = Duration::from_secs(60 * 24 * 60 * 60);
/// What names of trees end with.
const ENDING: &str = ".tar";

/// A tree's place.
#[derive(Debug)]
pub struct Cache<'a> {
    dir: &'a Path,
    tree: PathBuf,
}

/// Whether only this user can have put anything there.
fn is_own(dir: &Path) -> bool {
    let found = fs::symlink_metadata(dir);
    found.is_ok_and(|found| {
        found.is_dir() && found.uid() == rustix::process::geteuid().as_raw() && found.mode() & 0o022 == 0
    })
}

/// Removes what is in a directory, but for mount points and what ext file systems have at their top.
fn empty(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if !entry.file_type()?.is_dir() {
            fs::remove_file(entry.path())?;
        } else if entry.file_name() != "lost+found" {
            empty(&entry.path())?;
            // What is mounted stays.
            let _ = fs::remove_dir(entry.path());
        }
    }
    Ok(())
}

impl<'a> Cache<'a> {
    /// The place of what is described by `parts`, all that a bootstrap depends on but the archives' contents.
    ///
    /// # Errors
    /// The directory can't be made, or others may write there.
    pub fn open(dir: &'a Path, parts: &[&[u8]]) -> Result<Self, Problem> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
        made.doing(|| format!("making the cache {}", dir.display()))?;
        if !is_own(dir) {
            let what = format!("others may write into {}, so nothing in it can be relied on", dir.display());
            return Err(Problem::build(what).hint("say another directory with --cache, or make it root's, 0700"));
        }
        let mut hash = Sha256::new();
        for part in parts {
            hash.update(part.len().to_le_bytes());
            hash.update(part);
        }
        let mut name = hash.finalize().iter().take(16).fold(String::new(), |mut name, byte| {
            let _ = write!(name, "{byte:02x}");
            name
        });
        name += ENDING;
        Ok(Self { dir, tree: dir.join(name) })
    }

    /// Puts the tree into an empty directory if there is one and the archives have nothing newer. Returns whether it is
    /// there.
    ///
    /// # Errors
    /// The build was cancelled, or what can't be used can't be removed again.
    pub fn restore(&self, context: &Context, root: &Path) -> Result<bool, Problem> {
        if !self.tree.is_file() {
            return Ok(false);
        }
        let tar = Tool::new("tar").args(["--extract", "--preserve-permissions", "--numeric-owner", "--xattrs"]);
        let tar = tar.args(["--xattrs-include=*"]).args(compressor()).arg("--file").arg(&self.tree);
        let used = tar.arg("--directory").arg(root).run(context).and_then(|()| is_newest(context, root));
        context.cancel.check()?;
        match used {
            Ok(true) => {
                // When it was used last.
                let now = fs::File::open(&self.tree).and_then(|file| file.set_modified(SystemTime::now()));
                now.doing(|| format!("setting the time of {}", self.tree.display()))?;
                return Ok(true);
            }
            Ok(false) => context.report.output("the archives have newer packages than the cache"),
            Err(problem) => context.report.warn(format!("the cache is not used: {problem}")),
        }
        empty(root).doing(|| format!("removing what the cache has put into {}", root.display()))?;
        Ok(false)
    }

    /// Keeps a tree. `unique` is a name that no other build has.
    ///
    /// # Errors
    /// It can't be written.
    pub fn keep(&self, context: &Context, root: &Path, unique: &str) -> Result<(), Problem> {
        if !root.join("usr/bin/apt-get").exists() {
            return Ok(());
        }
        let new = self.dir.join(format!("{unique}.new"));
        let tar = Tool::new("tar").args(["--create", "--format=posix", "--numeric-owner", "--xattrs"]);
        let tar = tar.args(["--xattrs-include=*"]).args(compressor()).arg("--file").arg(&new);
        let made = tar.arg("--directory").arg(root).arg(".").run(context);
        let kept = made
            .and_then(|()| fs::rename(&new, &self.tree).doing(|| format!("moving a tree to {}", self.tree.display())));
        let _ = fs::remove_file(&new);
        self.prune();
        kept
    }

    /// Removes trees that were not used for long.
    fn prune(&self) {
        for entry in fs::read_dir(self.dir).into_iter().flatten().flatten() {
            let is_tree = entry.path().extension().is_some_and(|ending| ending == "tar" || ending == "new");
            let modified = entry.metadata().and_then(|found| found.modified());
            if is_tree && modified.is_ok_and(|time| time.elapsed().is_ok_and(|age| age > UNUSED)) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

/// Quick rather than small, if there is zstd; both ways.
fn compressor() -> Option<&'static str> {
    command::find("zstd").map(|_| "--use-compress-program=zstd -q -1")
}

/// Whether the archives have nothing else for what is installed.
fn is_newest(context: &Context, root: &Path) -> Result<bool, Problem> {
    let image = Inside::open(root).doing(|| format!("opening {}", root.display()))?;
    let chroot = Chroot::new(&image)?;
    let apt = |words: &[&str]| with_proxies(environment(chroot.command("apt-get").args(["-y", "-q"]).args(words)));
    apt(&["-o", "Acquire::Languages=none", "--error-on=any", "update"])
        .watch(context, |line| context.report.output(line))?
        .map_err(|ended| ended.problem("apt-get"))?;
    let told = apt(&["--no-install-recommends", "--simulate", "dist-upgrade"]).try_output(context)?;
    let told = told.map_err(|ended| ended.problem("apt-get"))?;
    Ok(!String::from_utf8_lossy(&told).lines().any(|line| line.starts_with("Inst ") || line.starts_with("Remv ")))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn places() {
        let dir = tempfile::tempdir().unwrap();
        let place = |parts: &[&[u8]]| Cache::open(dir.path(), parts).unwrap().tree;
        assert_eq!(place(&[b"a", b"b"]), place(&[b"a", b"b"]));
        assert_ne!(place(&[b"a", b"b"]), place(&[b"ab", b""]));
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(Cache::open(dir.path(), &[]).unwrap_err().what.contains("others may write into"));
    }

    #[test]
    fn what_was_not_used_for_long_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path(), &[]).unwrap();
        let file = |name: &str, age: Duration| {
            let file = fs::File::create(dir.path().join(name)).unwrap();
            file.set_modified(SystemTime::now() - age).unwrap();
        };
        let day = Duration::from_secs(24 * 60 * 60);
        file("a.tar", day * 61);
        file("b.tar", day * 59);
        file("mine", day * 99);
        cache.prune();
        let mut names: Vec<_> = fs::read_dir(dir.path()).unwrap().flatten().map(|entry| entry.file_name()).collect();
        names.sort();
        assert_eq!(names, ["b.tar", "mine"]);
    }

    #[test]
    fn emptied() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        fs::create_dir(dir.path().join("lost+found")).unwrap();
        std::os::unix::fs::symlink("/", dir.path().join("a/link")).unwrap();
        empty(dir.path()).unwrap();
        let names: Vec<_> = fs::read_dir(dir.path()).unwrap().flatten().map(|entry| entry.file_name()).collect();
        assert_eq!(names, ["lost+found"]);
    }
}
