//! The one directory of ours on the host: held by one stage at a time, and removed at the end.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anemos_host::Root;
use anemos_host::mounts::{self, Mount};
use anemos_proto::stage::{KEPT_OUT, MOUNTED_AS};
use rustix::fs::FlockOperation;
use rustix::mount::UnmountFlags;

use crate::error::{Doing, Fault, Result};

/// The directory, held.
#[derive(Debug)]
pub struct PrivateDir {
    path: PathBuf,
    lock: File,
}

impl PrivateDir {
    /// Takes the directory at `path`, unless another stage has it.
    pub fn take(path: &Path) -> Result<Self> {
        let taking = || format!("taking the stage's directory {}", path.display());
        let metadata = std::fs::symlink_metadata(path).doing(taking)?;
        // The directory is removed later with all that is in it, so it must be a private one of this user.
        let ours = metadata.is_dir() && metadata.uid() == rustix::process::getuid().as_raw();
        if !ours || metadata.mode() & 0o077 != 0 || !path.is_absolute() || path.parent().is_none() {
            return Err(Fault::new(taking(), "it is no directory of this user's own with mode 0700"));
        }
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path.join("lock"))
            .doing(taking)?;
        if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            let mut holder = String::new();
            _ = lock.read_to_string(&mut holder);
            let holder = if holder.is_empty() { "unknown" } else { holder.trim() };
            return Err(Fault::new("starting the stage", format!("{KEPT_OUT}: {holder}"))
                .hint("wait for it to end, or abort its run"));
        }
        let dir = Self { path: path.to_owned(), lock };
        dir.say("no run yet").doing(taking)?;
        Ok(dir)
    }

    /// Writes into the lock which run this is, so that a second stage can name it.
    pub fn say(&self, run: &str) -> std::io::Result<()> {
        let mut lock = &self.lock;
        lock.set_len(0)?;
        lock.rewind()?;
        writeln!(lock, "pid {}, {run}", std::process::id())
    }

    /// The directory's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the directory with all that is in it.
    pub fn remove(&self) -> Result<()> {
        match remove(&self.path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).doing(|| format!("removing {}", self.path.display()))
            }
            _ => Ok(()),
        }
    }
}

/// Removes a directory of ours, and the file system that was mounted there for it where no other can be written and
/// holds programs: one in memory, with our name for a source.
pub fn remove(path: &Path) -> std::io::Result<()> {
    let ours = |mount: &Mount| Path::new(&mount.target) == path && mount.kind == "tmpfs" && mount.source == MOUNTED_AS;
    if mounts::mounts(&Root::host()).iter().any(ours) {
        // This program is in it, and is running.
        rustix::mount::unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)?;
    }
    std::fs::remove_dir_all(path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn one_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
        let first = PrivateDir::take(dir.path()).unwrap();
        first.say("run 20260101-000000-abcd").unwrap();
        let error = PrivateDir::take(dir.path()).unwrap_err().to_string();
        assert!(error.contains(&format!("pid {}, run 20260101-000000-abcd", std::process::id())), "{error}");
        drop(first);
        PrivateDir::take(dir.path()).unwrap().remove().unwrap();
        assert!(!dir.path().exists());
    }

    #[test]
    fn only_a_private_directory() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        assert!(PrivateDir::take(dir.path()).unwrap_err().why().contains("0700"));
        assert!(PrivateDir::take(Path::new("/")).is_err());
    }
}
