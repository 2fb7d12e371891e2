//! The files, directories, links and devices that no package brings.

use crate::sha::{Hasher, Sha256};
use crate::tree::{Kind, MERGED, Tree};
use crate::{Error, Time};

/// One thing to add.
enum Item {
    /// A directory with this mode, and root's unless a group is given.
    Directory(u32, u32),
    /// A file with this mode and text.
    File(u32, &'static str),
    /// A symbolic link.
    Link(&'static str),
    /// A symbolic link that is only made when its target, a path of the image, exists.
    Alternative(&'static str),
    /// A character device.
    Device(u32, u32, u32),
    /// A copy of another file of the image, when there is one.
    Copy(&'static str),
}

use Item::{Alternative, Copy, Device, Directory, File, Link};

/// Raised when the code of the fix-ups makes other files than before: part of the skeleton's hash.
const REVISION: u32 = 1;

const SKELETON: &[(&str, Item)] = &[
    ("boot", Directory(0o755, 0)),
    ("dev", Directory(0o755, 0)),
    ("dev/console", Device(0o600, 5, 1)),
    ("dev/null", Device(0o666, 1, 3)),
    ("etc", Directory(0o755, 0)),
    ("etc/dpkg/origins/default", Link("debian")),
    ("etc/fstab", File(0o644, include_str!("../../skeleton/fstab"))),
    ("etc/hostname", File(0o644, "anemos\n")),
    ("etc/hosts", File(0o644, include_str!("../../skeleton/hosts"))),
    ("etc/mtab", Link("../proc/self/mounts")),
    ("etc/nsswitch.conf", File(0o644, include_str!("../../skeleton/nsswitch.conf"))),
    ("etc/pam.d/common-account", File(0o644, include_str!("../../skeleton/common-account"))),
    ("etc/pam.d/common-auth", File(0o644, include_str!("../../skeleton/common-auth"))),
    ("etc/pam.d/common-password", File(0o644, include_str!("../../skeleton/common-password"))),
    ("etc/pam.d/common-session", File(0o644, include_str!("../../skeleton/common-session"))),
    ("etc/pam.d/common-session-noninteractive", File(0o644, include_str!("../../skeleton/common-session"))),
    ("etc/profile", Copy("usr/share/base-files/profile")),
    ("etc/shells", File(0o644, include_str!("../../skeleton/shells"))),
    ("etc/ssh/sshd_config", Copy("usr/share/openssh/sshd_config")),
    ("home", Directory(0o755, 0)),
    ("media", Directory(0o755, 0)),
    ("mnt", Directory(0o755, 0)),
    ("opt", Directory(0o755, 0)),
    ("proc", Directory(0o755, 0)),
    ("root", Directory(0o700, 0)),
    ("root/.bashrc", Copy("usr/share/base-files/dot.bashrc")),
    ("root/.profile", Copy("usr/share/base-files/dot.profile")),
    ("run", Directory(0o755, 0)),
    ("run/lock", Directory(0o1777, 0)),
    ("run/sshd", Directory(0o755, 0)),
    ("srv", Directory(0o755, 0)),
    ("sys", Directory(0o755, 0)),
    ("tmp", Directory(0o1777, 0)),
    ("usr", Directory(0o755, 0)),
    ("usr/bin/awk", Alternative("mawk")),
    ("usr/bin/editor", Alternative("vim.tiny")),
    ("usr/bin/ex", Alternative("vim.tiny")),
    ("usr/bin/nawk", Alternative("mawk")),
    ("usr/bin/pager", Alternative("less")),
    ("usr/bin/vi", Alternative("vim.tiny")),
    ("usr/bin/view", Alternative("vim.tiny")),
    ("usr/bin/vim", Alternative("vim.tiny")),
    ("usr/bin/which", Alternative("which.debianutils")),
    ("usr/lib/ssl/cert.pem", Link("/etc/ssl/certs/ca-certificates.crt")),
    ("usr/local/bin", Directory(0o755, 0)),
    ("usr/local/lib", Directory(0o755, 0)),
    ("usr/local/sbin", Directory(0o755, 0)),
    ("var", Directory(0o755, 0)),
    ("var/cache/apt/archives/partial", Directory(0o700, 0)),
    ("var/lib/apt/lists/partial", Directory(0o755, 0)),
    ("var/lib/dpkg/alternatives", Directory(0o755, 0)),
    ("var/lib/dpkg/available", File(0o644, "")),
    ("var/lib/dpkg/info", Directory(0o755, 0)),
    ("var/lib/dpkg/status", File(0o644, "")),
    ("var/lib/dpkg/triggers", Directory(0o755, 0)),
    ("var/lib/dpkg/updates", Directory(0o755, 0)),
    ("var/lock", Link("/run/lock")),
    ("var/log", Directory(0o755, 0)),
    ("var/mail", Directory(0o2775, 8)),
    ("var/run", Link("/run")),
    ("var/spool/mail", Link("../mail")),
    ("var/tmp", Directory(0o1777, 0)),
];

/// Users and groups that maintainer scripts would have made, with numbers that never change: name, number, home.
pub(super) const USERS: &[(&str, u32, &str)] = &[("_apt", 42, "/nonexistent"), ("sshd", 101, "/run/sshd")];
pub(super) const GROUPS: &[(&str, u32)] = &[("_ssh", 101), ("netdev", 102), ("render", 103), ("kvm", 104)];

/// Hash of everything that this library adds to packages, its rules included. A lock has it, so that one that was
/// made by a library with other files is told from one whose packages are wrong.
pub fn skeleton_hash() -> Sha256 {
    let mut hasher = Hasher::new();
    let mut add = |text: &str| {
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    };
    add(&REVISION.to_string());
    for (path, item) in SKELETON {
        add(path);
        match item {
            Directory(mode, group) => add(&format!("directory {mode:o} {group}")),
            File(mode, text) => {
                add(&format!("file {mode:o}"));
                add(text);
            }
            Link(target) => add(&format!("link {target}")),
            Alternative(target) => add(&format!("alternative {target}")),
            Device(mode, major, minor) => add(&format!("device {mode:o} {major} {minor}")),
            Copy(from) => add(&format!("copy {from}")),
        }
    }
    for (name, id, home) in USERS {
        add(&format!("user {name} {id} {home}"));
    }
    for (name, id) in GROUPS {
        add(&format!("group {name} {id}"));
    }
    hasher.finish()
}

/// Adds all of it; or only what follows from the packages that are there, and what takes the place of something of
/// theirs.
pub(super) fn apply(tree: &mut Tree, all: bool) -> Result<(), Error> {
    for name in MERGED.iter().filter(|_| all) {
        tree.put_symlink(name, &format!("usr/{name}"));
        if tree.node(&format!("usr/{name}")).is_none() {
            tree.put_directory(&format!("usr/{name}"), 0o755);
        }
    }
    for (path, item) in SKELETON {
        match item {
            Directory(..) | File(..) | Link(_) | Device(..) if !all && tree.node(path).is_none() => {}
            Directory(mode, group) => tree.put(path, Kind::Directory, *mode, (0, *group)),
            File(mode, text) => tree.put_file(path, *mode, text.as_bytes())?,
            Link(target) => tree.put_symlink(path, target),
            Alternative(target) => {
                let (directory, _) = path.rsplit_once('/').unwrap_or_default();
                if tree.node(&format!("{directory}/{target}")).is_some() {
                    tree.put_symlink(path, target);
                }
            }
            Device(mode, major, minor) => tree.put(path, Kind::CharDevice(*major, *minor), *mode, (0, 0)),
            Copy(from) => {
                if let Some(bytes) = tree.read(from)? {
                    tree.put_file(path, 0o644, &bytes)?;
                }
            }
        }
    }
    Ok(())
}

/// `name:x:number:…` and its shadow, for users and groups, from base-passwd's master files.
pub(super) fn accounts(tree: &mut Tree, made: Time) -> Result<(), Error> {
    let days = (made.unix() / 86_400).to_string();
    let (mut passwd, mut shadow) = (String::new(), String::new());
    let mut user = |line: &str| {
        // base-passwd writes `*` where others write `x`; root without a password can still log in by key.
        let fields: Vec<&str> = line.split(':').collect();
        if let [name, _, rest @ ..] = fields.as_slice() {
            passwd.extend([name, ":x:", &rest.join(":"), "\n"]);
            shadow.extend([name, ":*:", &days, ":0:99999:7:::\n"]);
        }
    };
    master(tree, "passwd")?.lines().for_each(&mut user);
    for (name, id, home) in USERS {
        user(&format!("{name}:*:{id}:65534::{home}:/usr/sbin/nologin"));
    }
    let (mut group, mut gshadow) = (String::new(), String::new());
    let mut add = |line: &str| {
        let fields: Vec<&str> = line.split(':').collect();
        if let [name, _, rest @ ..] = fields.as_slice() {
            group.extend([name, ":x:", &rest.join(":"), "\n"]);
            gshadow.extend([name, ":*::\n"]);
        }
    };
    master(tree, "group")?.lines().for_each(&mut add);
    for (name, id) in GROUPS {
        add(&format!("{name}:*:{id}:"));
    }
    tree.put_file("etc/passwd", 0o644, passwd.as_bytes())?;
    tree.put_file("etc/group", 0o644, group.as_bytes())?;
    let shadow_group = (0, 42);
    for (path, text) in [("etc/shadow", shadow), ("etc/gshadow", gshadow)] {
        tree.put_file(path, 0o640, text.as_bytes())?;
        tree.set_owner(path, shadow_group);
    }
    Ok(())
}

fn master(tree: &Tree, which: &str) -> Result<String, Error> {
    let path = format!("usr/share/base-passwd/{which}.master");
    match tree.read(&path)? {
        Some(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        // Without base-passwd there is still root.
        None if which == "passwd" => Ok("root:*:0:0:root:/root:/bin/bash\n".to_owned()),
        None => Ok("root:*:0:\n".to_owned()),
    }
}
