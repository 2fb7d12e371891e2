//! Running programs in an image, with /proc, /sys, /dev, /run and name resolution as they expect them. File systems are
//! mounted in this mount namespace only, and [`Chroot`] unmounts them when it is dropped.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::fs::{FileType, Mode, makedev, mknodat, symlinkat};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::command::{self, Tool};
use crate::inside::Inside;
use crate::problem::{Doing, Problem};

/// Device nodes that programs may rely on: name, numbers (Documentation/admin-guide/devices.txt).
const NODES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// Keeps Debian's packages from starting services (invoke-rc.d(8)).
const POLICY: &str = "usr/sbin/policy-rc.d";

/// An image in which programs can run.
#[derive(Debug)]
pub struct Chroot<'a> {
    image: &'a Inside,
    /// Mount points in the order of mounting.
    mounted: Vec<OwnedFd>,
    lent: Vec<Lent>,
}

/// A file that is in the image only while a [`Chroot`] exists. It is written and not bind-mounted, because a program in
/// the image could not replace a mount point by a symbolic link.
#[derive(Debug)]
struct Lent {
    path: &'static Path,
    text: Vec<u8>,
    /// What was there.
    before: Option<File>,
}

/// Contents, mode, user and group.
#[derive(Debug)]
struct File(Vec<u8>, u32, u32, u32);

impl<'a> Chroot<'a> {
    /// Mounts what is needed.
    ///
    /// # Errors
    /// Something can't be mounted.
    pub fn new(image: &'a Inside) -> Result<Self, Problem> {
        let mut chroot = Self::bare(image)?;
        chroot.resolver()?;
        chroot.policy()?;
        Ok(chroot)
    }

    /// The same for an image that has no packages yet: their files must not be there before them, so none is lent.
    ///
    /// # Errors
    /// Something can't be mounted.
    pub fn bare(image: &'a Inside) -> Result<Self, Problem> {
        let mut chroot = Self { image, mounted: Vec::new(), lent: Vec::new() };
        let quiet = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        chroot.mount("sys", "sysfs", quiet | MountFlags::RDONLY, c"")?;
        chroot.mount("run", "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, c"mode=755")?;
        chroot.mount("dev", "tmpfs", MountFlags::NOSUID, c"mode=755,size=4M")?;
        chroot.devices().doing(|| "making the image's /dev".into())?;
        chroot.mount(
            "dev/pts",
            "devpts",
            MountFlags::NOSUID | MountFlags::NOEXEC,
            c"newinstance,ptmxmode=0666,mode=620,gid=5",
        )?;
        chroot.mount("dev/shm", "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, c"mode=1777")?;
        // /proc is missing here: unshare(1) mounts it in the PID namespace whose processes it is to show.
        image.dir(Path::new("proc")).doing(|| "making the image's /proc".into())?;
        Ok(chroot)
    }

    /// The image.
    pub fn image(&self) -> &Inside {
        self.image
    }

    /// A program of the image's, with a PID namespace of its own: what it leaves running ends with it.
    pub fn command(&self, program: &str) -> Tool {
        let root = self.image.path();
        Tool::new("unshare")
            // In the new root: that is changed to first.
            .args(["--mount", "--pid", "--fork", "--kill-child=SIGKILL", "--mount-proc"])
            .arg(format!("--root={}", root.display()))
            .args(["--wd=/", "--", program])
    }

    fn mount(&mut self, path: &str, kind: &str, flags: MountFlags, data: &std::ffi::CStr) -> Result<(), Problem> {
        let doing = || format!("mounting {kind} on the image's /{path}");
        let at = self.image.dir(Path::new(path)).doing(doing)?;
        mount(kind, place(&at), kind, flags, data).doing(doing)?;
        // What is on top now.
        self.mounted.push(self.image.dir(Path::new(path)).doing(doing)?);
        Ok(())
    }

    fn devices(&self) -> std::io::Result<()> {
        let dev = self.image.dir(Path::new("dev"))?;
        let mode = Mode::from_raw_mode(0o666);
        for (name, major, minor) in NODES {
            mknodat(&dev, name, FileType::CharacterDevice, mode, makedev(major, minor))?;
            rustix::fs::chmodat(&dev, name, mode, rustix::fs::AtFlags::empty())?;
        }
        for (name, target) in LINKS {
            symlinkat(target, &dev, name)?;
        }
        Ok(())
    }

    /// Shows a block device of this machine's, by its name and as udev(7) does by the UUID of its file system.
    ///
    /// # Errors
    /// There is no such device, or its node can't be made.
    pub fn lend_device(&self, device: &str, uuid: &str) -> io::Result<()> {
        let number = rustix::fs::stat(device)?.st_rdev;
        let name = device.strip_prefix("/dev/").ok_or(io::ErrorKind::InvalidInput)?;
        let dev = self.image.dir(Path::new("dev"))?;
        // That it is a loop device or a mapped one is the building machine's matter: GRUB's scripts make no menu for a
        // system on one.
        let node = format!("image-{}", name.replace('/', "-"));
        mknodat(&dev, &node, FileType::BlockDevice, Mode::from_raw_mode(0o600), number)?;
        let (above, last) = name.rsplit_once('/').unwrap_or(("", name));
        let above = if above.is_empty() { dev } else { self.image.dir(&Path::new("dev").join(above))? };
        symlinkat("../".repeat(name.matches('/').count()) + &node, &above, last)?;
        let by_uuid = self.image.dir(Path::new("dev/disk/by-uuid"))?;
        Ok(symlinkat(format!("../../{node}"), &by_uuid, uuid)?)
    }

    /// Makes programs in the image resolve names as the building machine does.
    fn resolver(&mut self) -> Result<(), Problem> {
        let doing = || "giving the image the building machine's /etc/resolv.conf".to_owned();
        let Ok(theirs) = fs::read("/etc/resolv.conf") else { return Ok(()) };
        let conf = Path::new("etc/resolv.conf");
        let found = self.image.look(conf).doing(doing)?.map(|found| FileType::from_raw_mode(found.st_mode));
        if found != Some(FileType::Symlink) {
            return self.lend(conf, theirs, 0o644).doing(doing);
        }
        // A link to something in /run that is not there yet gets its target. A link to elsewhere is left alone.
        if !self.image.exists("etc/resolv.conf")
            && let Ok(link) =
                rustix::fs::readlinkat(self.image.dir(Path::new("etc")).doing(doing)?, "resolv.conf", Vec::new())
        {
            let link = PathBuf::from(link.to_string_lossy().into_owned());
            let to = lexical(&Path::new("/etc").join(link));
            if to.starts_with("run") {
                self.image.write(&to, &theirs[..], 0o644).doing(doing)?;
            }
        }
        Ok(())
    }

    fn policy(&mut self) -> Result<(), Problem> {
        if self.image.exists("usr/sbin/invoke-rc.d") && !self.image.exists(POLICY) {
            let lent = self.lend(Path::new(POLICY), b"#!/bin/sh\nexit 101\n".to_vec(), 0o755);
            lent.doing(|| format!("writing the image's /{POLICY}"))?;
        }
        Ok(())
    }

    fn lend(&mut self, path: &'static Path, text: Vec<u8>, mode: u32) -> io::Result<()> {
        let before = match self.image.look(path)? {
            Some(found) => Some(File(self.image.read(path)?, found.st_mode & 0o7777, found.st_uid, found.st_gid)),
            None => None,
        };
        self.image.write(path, &text[..], mode)?;
        self.lent.push(Lent { path, text, before });
        Ok(())
    }

    /// Puts back what was there, unless the file has become something of the author's.
    fn take_back(&self, lent: &Lent) -> io::Result<()> {
        let found = self.image.look(lent.path)?.map(|found| FileType::from_raw_mode(found.st_mode));
        if found != Some(FileType::RegularFile) || self.image.read(lent.path)? != lent.text {
            return Ok(());
        }
        let Some(File(text, mode, user, group)) = &lent.before else { return self.image.remove(lent.path) };
        self.image.write(lent.path, &text[..], *mode)?;
        self.image.give(lent.path, *mode, *user, *group)
    }
}

impl Drop for Chroot<'_> {
    fn drop(&mut self) {
        // A lazy unmount is enough: no program that runs has files open there, and the namespace ends with the build.
        while let Some(at) = self.mounted.pop() {
            let _ = unmount(place(&at), UnmountFlags::DETACH);
        }
        for lent in &self.lent {
            let _ = self.take_back(lent);
        }
    }
}

/// Removes copies of the building machine's /etc/resolv.conf that packages have made of the one that they were lent,
/// such as systemd-resolved's, which it would put back when it is removed.
pub fn forget_resolver(image: &Inside) {
    let Ok(theirs) = fs::read("/etc/resolv.conf") else { return };
    let dir = Path::new("etc");
    let mut copies = image.names(dir);
    copies.retain(|name| name.contains("resolv.conf") && name != "resolv.conf" && !theirs.is_empty());
    for path in copies.iter().map(|name| dir.join(name)) {
        let found = image.look(&path).ok().flatten().map(|found| FileType::from_raw_mode(found.st_mode));
        if found == Some(FileType::RegularFile) && image.read(&path).is_ok_and(|it| it == theirs) {
            let _ = image.remove(&path);
        }
    }
}

/// The variables that programs in an image have. systemctl(1) must know that the systemd that runs is another's.
pub fn environment(tool: Tool) -> Tool {
    let tool = tool
        .clean()
        .env("SYSTEMD_OFFLINE", "1")
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    let tool = tool.env("HOME", "/root").env("LANG", "C.UTF-8").env("DEBIAN_FRONTEND", "noninteractive");
    match std::env::var_os("SOURCE_DATE_EPOCH") {
        Some(epoch) => tool.env("SOURCE_DATE_EPOCH", epoch),
        None => tool,
    }
}

/// The variables by which programs find an HTTP proxy, from the building machine: its way out is theirs. Where the
/// caller's environment names none, what the machine's own apt uses counts (apt-transport-http(1)).
pub fn with_proxies(tool: Tool) -> Tool {
    static OF_APT: OnceLock<Vec<(&str, String)>> = OnceLock::new();
    let all = std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
    let proxies: Vec<_> = all.filter(|(name, _)| name.to_ascii_lowercase().ends_with("_proxy")).collect();
    let of_apt = OF_APT.get_or_init(proxies_of_apt).iter();
    let is_new = |name: &str| !proxies.iter().any(|(known, _)| known.eq_ignore_ascii_case(name));
    let tool = of_apt.filter(|(name, _)| is_new(name)).fold(tool, |tool, (name, value)| tool.env(name, value));
    proxies.iter().fold(tool, |tool, (name, value)| tool.env(name, value))
}

fn proxies_of_apt() -> Vec<(&'static str, String)> {
    let Some(program) = command::find("apt-config") else { return Vec::new() };
    let of = |(name, option): (&'static str, &str)| {
        let said = std::process::Command::new(&program).args(["shell", "it", option]).output().ok()?;
        // `it='http://proxy.test:3142'`; a host of its own may need another, or none (`DIRECT`).
        let said = String::from_utf8(said.stdout).ok()?;
        let value = said.trim().strip_prefix("it='")?.strip_suffix('\'')?.to_owned();
        (value.contains("://") && !value.contains('\'')).then_some((name, value))
    };
    [("http_proxy", "Acquire::http::Proxy"), ("https_proxy", "Acquire::https::Proxy")]
        .into_iter()
        .filter_map(of)
        .collect()
}

fn place(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// Without `.` and `..`, relative to the root.
fn lexical(path: &Path) -> PathBuf {
    let mut parts = Vec::new();
    for part in path.components() {
        match part {
            std::path::Component::Normal(name) => parts.push(name),
            std::path::Component::ParentDir => drop(parts.pop()),
            _ => {}
        }
    }
    parts.iter().collect()
}
