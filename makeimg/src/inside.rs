//! Files in an image's root directory. Paths are resolved as if that were `/`, so no symbolic link in the image leads
//! to the machine that builds it (openat2(2), `RESOLVE_IN_ROOT`; Linux 5.6).

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, SeekFrom, Stat, Uid};
use rustix::io::Errno;

/// An image's root directory.
#[derive(Debug)]
pub struct Inside {
    fd: OwnedFd,
    path: PathBuf,
}

/// Name of a file that is being written, in the directory where it will be.
const NEW: &str = ".makeimg.new";

impl Inside {
    /// The directory.
    ///
    /// # Errors
    /// It can't be opened.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty())?;
        Ok(Self { fd, path: path.to_owned() })
    }

    /// Its path on the building machine. What is below it must not be opened by path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn resolve(&self, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        rustix::fs::openat2(&self.fd, path, flags | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::IN_ROOT)
    }

    /// Opens a directory, and makes it (root's, 0755) with those above it where they are missing.
    ///
    /// # Errors
    /// Something on the way is no directory, or can't be made.
    pub fn dir(&self, path: &Path) -> io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        match self.resolve(path, flags) {
            Err(Errno::NOENT) => {}
            found => return Ok(found?),
        }
        let (parent, name) = split(path)?;
        let parent = self.dir(&parent)?;
        match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755)) {
            Err(Errno::EXIST) => {}
            made => {
                made?;
                rustix::fs::chmodat(&parent, name, Mode::from_raw_mode(0o755), AtFlags::empty())?;
            }
        }
        Ok(self.resolve(path, flags)?)
    }

    /// What a path is, itself and not what it leads to; `None` if there is nothing.
    ///
    /// # Errors
    /// It can't be looked at.
    pub fn look(&self, path: &Path) -> io::Result<Option<Stat>> {
        let found = self.resolve(path, OFlags::PATH | OFlags::NOFOLLOW);
        match found.and_then(|fd| rustix::fs::fstat(&fd)) {
            Ok(found) => Ok(Some(found)),
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// Reads a file, through symbolic links.
    ///
    /// # Errors
    /// It can't be read, or is no ordinary file.
    pub fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        // A pipe must not be waited for.
        let mut file = File::from(self.resolve(path, OFlags::RDONLY | OFlags::NONBLOCK)?);
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("it is no ordinary file"));
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// What a path leads to, to be mounted on.
    ///
    /// # Errors
    /// It is not there.
    pub fn open_path(&self, path: &Path) -> io::Result<OwnedFd> {
        Ok(self.resolve(path, OFlags::PATH)?)
    }

    /// Names in a directory, sorted; none where there is no directory.
    pub fn names(&self, path: &Path) -> Vec<String> {
        let Ok(fd) = self.resolve(path, OFlags::RDONLY | OFlags::DIRECTORY) else { return Vec::new() };
        let Ok(entries) = rustix::fs::Dir::read_from(fd) else { return Vec::new() };
        let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
        let mut names: Vec<String> = names.filter(|name| name != "." && name != "..").collect();
        names.sort();
        names
    }

    /// Whether a path leads to something.
    pub fn exists(&self, path: &str) -> bool {
        self.resolve(Path::new(path), OFlags::PATH).is_ok()
    }

    /// Writes a file, root's, in place of whatever file or symbolic link was there.
    ///
    /// # Errors
    /// It can't be read or written, or is a directory.
    pub fn write(&self, path: &Path, mut contents: impl Read, mode: u32) -> io::Result<()> {
        self.fill(path, &mut contents, (mode, 0, 0))
    }

    /// Copies a file of the building machine's, as [`Inside::write`] does, with its holes and extended attributes.
    /// `each` is asked before every piece.
    ///
    /// # Errors
    /// It can't be read or written, `each` says no, or the image's file system can't keep an attribute.
    pub fn copy(
        &self,
        path: &Path,
        from: &File,
        mode: u32,
        mut each: impl FnMut() -> io::Result<()>,
    ) -> io::Result<()> {
        self.replace(path, |dir, name| {
            let file = new_file(dir, name)?;
            copy_data(from, &file, &mut each)?;
            give(&file, mode, 0, 0)?;
            // A new owner would take capabilities away.
            copy_attributes(from, &file)
        })
    }

    /// Gives a file new contents; owner and mode stay.
    ///
    /// # Errors
    /// It is missing, or can't be written.
    pub fn rewrite(&self, path: &Path, mut contents: impl Read) -> io::Result<()> {
        let fd = self.resolve(path, OFlags::PATH)?;
        let found = rustix::fs::fstat(&fd)?;
        // Where symbolic links lead: /lib/x may be /usr/lib/x.
        let place = |fd: &OwnedFd| fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()));
        let real = place(&fd)?;
        let path = real.strip_prefix(place(&self.fd)?).map_err(io::Error::other)?;
        self.fill(path, &mut contents, (found.st_mode & 0o7777, found.st_uid, found.st_gid))
    }

    fn fill(&self, path: &Path, contents: &mut dyn Read, (mode, user, group): (u32, u32, u32)) -> io::Result<()> {
        self.replace(path, |dir, name| {
            let mut file = new_file(dir, name)?;
            io::copy(contents, &mut file)?;
            give(&file, mode, user, group)
        })
    }

    /// Makes a symbolic link in place of whatever file or symbolic link was there.
    ///
    /// # Errors
    /// It can't be made, or the path is a directory.
    pub fn link(&self, path: &Path, target: &Path) -> io::Result<()> {
        self.replace(path, |dir, name| Ok(rustix::fs::symlinkat(target, dir, name)?))
    }

    /// Adds a unit of systemd's, which the units `wants` start (systemd.unit(5)).
    ///
    /// # Errors
    /// It can't be written.
    pub fn unit(&self, name: &str, text: &str, wants: &[&str]) -> io::Result<()> {
        let units = Path::new("etc/systemd/system");
        self.write(&units.join(name), text.as_bytes(), 0o644)?;
        let link = |by: &&str| self.link(&units.join(format!("{by}.wants/{name}")), &Path::new("..").join(name));
        wants.iter().try_for_each(link)
    }

    /// Removes a file or symbolic link, if it is there.
    ///
    /// # Errors
    /// It can't be removed.
    pub fn remove(&self, path: &Path) -> io::Result<()> {
        let (parent, name) = split(path)?;
        match self.resolve(&parent, OFlags::PATH | OFlags::DIRECTORY) {
            Err(Errno::NOENT) => Ok(()),
            found => match rustix::fs::unlinkat(found?, name, AtFlags::empty()) {
                Err(Errno::NOENT) => Ok(()),
                removed => Ok(removed?),
            },
        }
    }

    /// Removes whatever is at a path, a directory with all that is below it. No symbolic link is followed.
    ///
    /// # Errors
    /// Something can't be removed.
    pub fn remove_all(&self, path: &Path) -> io::Result<()> {
        let found = self.look(path)?.map(|found| FileType::from_raw_mode(found.st_mode));
        if found != Some(FileType::Directory) {
            return self.remove(path);
        }
        self.names(path).iter().try_for_each(|name| self.remove_all(&path.join(name)))?;
        let (parent, name) = split(path)?;
        let parent = self.resolve(&parent, OFlags::PATH | OFlags::DIRECTORY)?;
        Ok(rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)?)
    }

    /// Gives a path another owner and mode.
    ///
    /// # Errors
    /// It can't be changed.
    pub fn give(&self, path: &Path, mode: u32, user: u32, group: u32) -> io::Result<()> {
        let fd = self.resolve(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW)?;
        give(&fd, mode, user, group)
    }

    fn replace(&self, path: &Path, make: impl FnOnce(&OwnedFd, &str) -> io::Result<()>) -> io::Result<()> {
        let (parent, name) = split(path)?;
        let dir = self.dir(&parent)?;
        match rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) if FileType::from_raw_mode(found.st_mode) == FileType::Directory => {
                return Err(io::Error::other("there is a directory of that name in the image"));
            }
            Ok(_) | Err(Errno::NOENT) => {}
            Err(e) => return Err(e.into()),
        }
        let made = make(&dir, NEW).and_then(|()| Ok(rustix::fs::renameat(&dir, NEW, &dir, name)?));
        if made.is_err() {
            let _ = rustix::fs::unlinkat(&dir, NEW, AtFlags::empty());
        }
        made
    }
}

fn new_file(dir: &OwnedFd, name: &str) -> io::Result<File> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::openat(dir, name, flags, Mode::from_raw_mode(0o600))?))
}

/// Copies what is in a file, and leaves its holes (lseek(2), `SEEK_DATA`).
fn copy_data(from: &File, to: &File, each: &mut dyn FnMut() -> io::Result<()>) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 20];
    let mut at = 0;
    loop {
        let begin = match rustix::fs::seek(from, SeekFrom::Data(at)) {
            Err(Errno::NXIO) => break,
            found => found?,
        };
        let end = rustix::fs::seek(from, SeekFrom::Hole(begin))?;
        at = begin;
        while at < end {
            each()?;
            let most = buffer.len().min(usize::try_from(end - at).unwrap_or(usize::MAX));
            let read = from.read_at(&mut buffer[..most], at)?;
            if read == 0 {
                break;
            }
            to.write_all_at(&buffer[..read], at)?;
            at += read as u64;
        }
        // Whoever makes it shorter meanwhile must not be waited for.
        at = at.max(end);
    }
    to.set_len(from.metadata()?.len())
}

/// Extended attributes that are of the file and not of the machine (xattr(7)): capabilities, access lists, and those of
/// users. Labels of SELinux and the like are the image's own business.
fn copy_attributes(from: &File, to: &File) -> io::Result<()> {
    // The most that the kernel gives (limits.h, XATTR_LIST_MAX and XATTR_SIZE_MAX).
    let (mut names, mut value) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    let length = match rustix::fs::flistxattr(from, &mut names[..]) {
        Err(Errno::NOTSUP) => return Ok(()),
        length => length?,
    };
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let of_users = name.starts_with(b"user.");
        if !of_users && name != b"security.capability" && name != b"system.posix_acl_access" {
            continue;
        }
        let length = rustix::fs::fgetxattr(from, name, &mut value[..])?;
        match rustix::fs::fsetxattr(to, name, &value[..length], rustix::fs::XattrFlags::empty()) {
            // Whatever stores notes of its own in files has not asked the author.
            Err(Errno::NOTSUP) if of_users => {}
            set => set.map_err(|e| {
                io::Error::other(format!("its attribute {} can't be kept there: {e}", String::from_utf8_lossy(name)))
            })?,
        }
    }
    Ok(())
}

fn give(file: &impl std::os::fd::AsFd, mode: u32, user: u32, group: u32) -> io::Result<()> {
    // In this order: a new owner takes set-user-ID away.
    rustix::fs::fchown(file, Some(Uid::from_raw(user)), Some(Gid::from_raw(group)))?;
    Ok(rustix::fs::fchmod(file, Mode::from_raw_mode(mode))?)
}

/// Parent and last name of a path in the image.
fn split(path: &Path) -> io::Result<(PathBuf, &std::ffi::OsStr)> {
    let bad = || io::Error::other(format!("{} is no path in an image", path.display()));
    if path.components().any(|part| part == Component::ParentDir) {
        return Err(bad());
    }
    let name = path.file_name().ok_or_else(bad)?;
    Ok((path.parent().unwrap_or_else(|| Path::new("")).to_owned(), name))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    fn image() -> (tempfile::TempDir, Inside) {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        fs::create_dir(&root).unwrap();
        let inside = Inside::open(&root).unwrap();
        (dir, inside)
    }

    #[test]
    fn links_lead_nowhere_else() {
        if !crate::common::is_root() {
            return;
        }
        let (dir, inside) = image();
        fs::write(dir.path().join("outside"), "mine").unwrap();
        fs::create_dir_all(inside.path().join("usr/lib")).unwrap();
        symlink("usr/lib", inside.path().join("lib")).unwrap();
        symlink("../../outside", inside.path().join("up")).unwrap();
        symlink(dir.path(), inside.path().join("away")).unwrap();
        inside.write(Path::new("/lib/systemd/x"), &b"x"[..], 0o640).unwrap();
        let made = fs::metadata(inside.path().join("usr/lib/systemd/x")).unwrap();
        assert_eq!((made.mode() & 0o7777, made.uid()), (0o640, 0));
        inside.write(Path::new("up"), &b"yours"[..], 0o644).unwrap();
        assert_eq!(fs::read(inside.path().join("up")).unwrap(), b"yours", "the link is replaced");
        // An absolute link means the image's own directory of that name, which is made.
        let error = inside.write(Path::new("away/outside"), &b"yours"[..], 0o644);
        assert_eq!(fs::read(dir.path().join("outside")).unwrap(), b"mine", "{error:?}");
        assert!(inside.write(Path::new("a/../../outside"), &b""[..], 0o644).is_err());
        assert!(inside.read(Path::new("up")).is_ok() && inside.read(Path::new("/../../outside")).is_err());
    }

    #[test]
    fn directories_are_not_replaced() {
        if !crate::common::is_root() {
            return;
        }
        let (_dir, inside) = image();
        fs::create_dir(inside.path().join("etc")).unwrap();
        assert!(inside.write(Path::new("etc"), &b""[..], 0o644).unwrap_err().to_string().contains("a directory"));
        assert!(inside.link(Path::new("etc"), Path::new("x")).is_err());
        inside.write(Path::new("etc/a"), &b"a"[..], 0o644).unwrap();
        let error = inside.write(Path::new("etc/a/b"), &b"a"[..], 0o644).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotADirectory);
        assert_eq!(inside.names(Path::new("etc")), ["a"], "nothing half written is left");
    }

    #[test]
    fn a_directory_goes_with_all_that_is_below() {
        if !crate::common::is_root() {
            return;
        }
        let (dir, inside) = image();
        fs::create_dir(dir.path().join("theirs")).unwrap();
        fs::write(dir.path().join("theirs/file"), "").unwrap();
        inside.write(Path::new("run/a/b/c"), &b""[..], 0o644).unwrap();
        symlink(dir.path().join("theirs"), inside.path().join("run/a/link")).unwrap();
        inside.remove_all(Path::new("run/a")).unwrap();
        assert!(inside.exists("run") && inside.names(Path::new("run")).is_empty());
        assert!(dir.path().join("theirs/file").exists(), "a link was followed");
        inside.remove_all(Path::new("nothing")).unwrap();
    }

    #[test]
    fn new_contents_keep_owner_and_mode() {
        if !crate::common::is_root() {
            return;
        }
        let (_dir, inside) = image();
        inside.write(Path::new("usr/conf"), &b"old"[..], 0o4755).unwrap();
        inside.give(Path::new("usr/conf"), 0o4755, 7, 8).unwrap();
        symlink("usr/conf", inside.path().join("conf")).unwrap();
        inside.rewrite(Path::new("conf"), &b"new"[..]).unwrap();
        let made = fs::metadata(inside.path().join("usr/conf")).unwrap();
        assert_eq!((made.permissions().mode() & 0o7777, made.uid(), made.gid()), (0o4755, 7, 8));
        assert!(fs::symlink_metadata(inside.path().join("conf")).unwrap().is_symlink());
        assert_eq!(inside.read(Path::new("conf")).unwrap(), b"new");
    }
}
