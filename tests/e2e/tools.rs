//! The same IMGBUILD by mmdebstrap and by debootstrap: what differs is known, line by line, with its reason.

use crate::makeimg::{makeimg, without_mmdebstrap};
use crate::{Outcome, Scenario};
use lab::archive::Server;
use lab::command::tail;
use lab::{Context, Error, Lab, Result, bail};
use rustix::fs::{lgetxattr, llistxattr};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs::{self, Metadata};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

pub const SCENARIOS: &[Scenario] = &[Scenario { name: "makeimg::same_by_both_tools", run: same_by_both_tools }];

const IMGBUILD: &str = "
imgname=system
target=debian
debian_suite=trixie
debian_variant=minbase
format=dir
packages='
    systemd-sysv
    systemd-resolved
    udev
    dbus
    iproute2
    openssh-server
    initramfs-tools
'
hostname=twin
services='
    ssh
    systemd-networkd
'
users='
    admin:adm
'
";

/// A path at which the two systems differ.
struct Known {
    path: &'static str,
    /// In what, as [`differences`] says it.
    how: &'static str,
    /// What both must be alike in all the same.
    alike: Alike,
    why: &'static str,
}

/// What two files or links that differ have in common.
#[derive(Clone, Copy)]
enum Alike {
    /// Nothing that counts.
    Nothing,
    /// The lines, in another order.
    Lines,
    /// All lines but for those that begin so.
    But(&'static str),
    /// All lines that mmdebstrap's has.
    More,
    /// The target, where /lib is a link to usr/lib.
    Target,
}

const ONLY_DEBOOTSTRAP: &str = "only by debootstrap";
const LINES: (&str, Alike) = ("contents", Alike::Lines);
const ORDER: &str = "packages that bring users (sysusers.d(5)) are set up in another order";
const TIMER: &str = "deb-systemd-helper, which looks below /lib first, enables it where apt is set up before \
    systemd, and else systemctl, which looks below /usr/lib";
const OF_APT: &str = "apt gives it to its own user when it downloads: the image's apt did after debootstrap, and \
    mmdebstrap calls the building machine's";
const BACKUP: &str = "what debconf knew before the last change: packages are set up in another order";
const OF_SETUP: &str =
    "debootstrap makes it for dpkg, which needs neither (`Creating a minimal system`, debootstrap(8))";

const fn known(path: &'static str, (how, alike): (&'static str, Alike), why: &'static str) -> Known {
    Known { path, how, alike, why }
}

/// All of them.
const KNOWN: &[Known] = &[
    known("etc/gshadow", LINES, ORDER),
    known("etc/gshadow-", LINES, ORDER),
    known("etc/shadow", LINES, ORDER),
    known("etc/shadow-", LINES, ORDER),
    known("etc/systemd/system/timers.target.wants/apt-daily-upgrade.timer", ("target", Alike::Target), TIMER),
    known("etc/systemd/system/timers.target.wants/apt-daily.timer", ("target", Alike::Target), TIMER),
    known("var/cache/apt/archives/partial", ("owner", Alike::Nothing), OF_APT),
    known("var/cache/debconf/config.dat-old", ("contents", Alike::Nothing), BACKUP),
    known("var/cache/debconf/templates.dat-old", ("contents", Alike::Nothing), BACKUP),
    known(
        "var/cache/debconf/tmp.ci",
        (ONLY_DEBOOTSTRAP, Alike::Nothing),
        "where the image's own apt asks packages what they have to ask (dpkg-preconfigure(8))",
    ),
    known(
        "var/lib/apt/extended_states",
        ("contents", Alike::More),
        "what essential packages need: mmdebstrap unpacks that before there is an apt to note it, and after \
         debootstrap makeimg has apt note it",
    ),
    known("var/lib/apt/lists/auxfiles", (ONLY_DEBOOTSTRAP, Alike::Nothing), OF_APT),
    known("var/lib/apt/lists/partial", ("owner", Alike::Nothing), OF_APT),
    known(
        "var/lib/dpkg/arch",
        ("only by mmdebstrap", Alike::Nothing),
        "mmdebstrap writes the list of foreign architectures, which is empty, as it is without the file",
    ),
    known("var/lib/dpkg/available", (ONLY_DEBOOTSTRAP, Alike::Nothing), OF_SETUP),
    known("var/lib/dpkg/cmethopt", (ONLY_DEBOOTSTRAP, Alike::Nothing), OF_SETUP),
    known(
        "var/lib/dpkg/status",
        ("contents", Alike::But("Priority: ")),
        "dpkg takes the archive's priorities, which debootstrap tells it, before the packages' own",
    ),
    known(
        "var/lib/dpkg/status-old",
        ("contents", Alike::Nothing),
        "what dpkg knew before its last change: packages are set up in another order",
    ),
];

/// Both systems are the same but for what is known.
fn same_by_both_tools(lab: &Lab) -> Result<Outcome> {
    let server = Server::start(lab)?;
    let work = lab.path("runs").join(format!("makeimg-tools-{}", std::process::id()));
    let project = work.join("project");
    fs::create_dir_all(&project).context("the project")?;
    fs::write(project.join("IMGBUILD"), IMGBUILD).context("the IMGBUILD")?;
    let tools = without_mmdebstrap(&work.join("bin"))?;
    let build = |by: &str| {
        let into = work.join(by);
        fs::create_dir_all(&into).context("the directory for the result")?;
        let mut command = Command::new(makeimg()?);
        // Times are not compared, but the days of /etc/shadow are.
        command.args(["build", "--json", "--mirror", &server.url()]).env("SOURCE_DATE_EPOCH", "1700000000");
        command.arg("-C").arg(&project).arg("-o").arg(&into);
        if by == "debootstrap" {
            command.env("PATH", &tools);
        }
        let built = command.output().context("makeimg")?;
        let said = String::from_utf8_lossy(&built.stdout);
        // Its last word.
        let is_debootstrap = said.contains("I: Base system installed successfully.");
        if !built.status.success() || is_debootstrap != (by == "debootstrap") {
            bail!("by {by}, makeimg: {}\n{}", built.status, tail(&said, 12));
        }
        Ok::<_, Error>(into)
    };
    let [one, two] = [build("mmdebstrap")?, build("debootstrap")?];
    for beside in ["system.packages", "system.spdx.json"] {
        let [one, two] = [&one, &two].map(|dir| fs::read(dir.join(beside)).unwrap_or_default());
        assert!(!one.is_empty() && one == two, "the two have another {beside}");
    }
    let roots = [one.join("system"), two.join("system")];
    let found = differences(&roots)?;
    let unexplained: Vec<String> = found
        .iter()
        .filter(|(path, how)| !is_explained(&roots, path, how))
        .map(|(path, how)| line(path, how))
        .collect();
    let unneeded: Vec<&str> =
        KNOWN.iter().map(|known| known.path).filter(|path| !found.contains_key(Path::new(path))).collect();
    if !unexplained.is_empty() || !unneeded.is_empty() {
        bail!(
            "what differs and is not known:\n{}\nwhat is known and does not differ: {unneeded:?}\n{}",
            unexplained.join("\n"),
            diff(&roots)
        );
    }
    for Known { path, how, why, .. } in KNOWN {
        println!("makeimg::same_by_both_tools: {path}: {how}: {why}");
    }
    fs::remove_dir_all(&work).context("what was made")?;
    Ok(Outcome::Passed)
}

fn line(path: &Path, how: &str) -> String {
    format!("{}: {how}", path.display())
}

/// diff(1)'s words about the text that differs, for people.
fn diff(roots: &[PathBuf; 2]) -> String {
    let mut command = Command::new("diff");
    let output = command.args(["-r", "-u", "--no-dereference"]).args(roots).output();
    output.map_or_else(|error| error.to_string(), |output| tail(&String::from_utf8_lossy(&output.stdout), 200))
}

/// Whether a difference is one that is known, and no greater than that.
fn is_explained(roots: &[PathBuf; 2], path: &Path, how: &str) -> bool {
    let Some(known) = KNOWN.iter().find(|known| Path::new(known.path) == path && known.how == how) else {
        return false;
    };
    let text = |root: &PathBuf| {
        let path = root.join(path);
        let target = fs::read_link(&path).map(|target| target.to_string_lossy().into_owned());
        target.or_else(|_| fs::read_to_string(&path)).unwrap_or_default()
    };
    let common = |root| {
        let text: String = text(root);
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        match known.alike {
            Alike::Nothing => lines.clear(),
            Alike::Lines | Alike::More => lines.sort(),
            Alike::But(head) => lines.retain(|line| !line.starts_with(head)),
            Alike::Target => lines = vec![text.strip_prefix("/usr").unwrap_or(&text).to_owned()],
        }
        lines
    };
    let [one, two] = [common(&roots[0]), common(&roots[1])];
    if matches!(known.alike, Alike::More) { one.iter().all(|line| two.contains(line)) } else { one == two }
}

/// The paths at which two trees differ, and in what: only one has it, or words of `type`, `mode`, `owner`, `device`,
/// `target`, `contents` and `attributes` (xattr(7)). Times are not looked at.
fn differences(roots: &[PathBuf; 2]) -> Result<BTreeMap<PathBuf, String>> {
    let mut found = BTreeMap::new();
    let [one, two] = [paths(&roots[0])?, paths(&roots[1])?];
    for path in one.union(&two) {
        let how = match (one.contains(path), two.contains(path)) {
            (true, false) => "only by mmdebstrap".to_owned(),
            (false, true) => ONLY_DEBOOTSTRAP.to_owned(),
            _ => differ(&roots[0].join(path), &roots[1].join(path))?,
        };
        if !how.is_empty() {
            found.insert(path.clone(), how);
        }
    }
    Ok(found)
}

/// All paths below a directory, relative to it, and itself.
fn paths(root: &Path) -> Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::from([PathBuf::new()]);
    let mut open = vec![PathBuf::new()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(root.join(&dir)).context(dir.display())? {
            let entry = entry.context(dir.display())?;
            let path = dir.join(entry.file_name());
            if entry.file_type().context(path.display())?.is_dir() {
                open.push(path.clone());
            }
            found.insert(path);
        }
    }
    Ok(found)
}

fn differ(one: &Path, two: &Path) -> Result<String> {
    let look = |path: &Path| fs::symlink_metadata(path).context(path.display());
    let [a, b] = [look(one)?, look(two)?];
    let mut how = Vec::new();
    let mut compare = |what, equal: bool| how.extend((!equal).then_some(what));
    compare("type", a.file_type() == b.file_type());
    compare("mode", a.mode() & 0o7777 == b.mode() & 0o7777);
    compare("owner", (a.uid(), a.gid()) == (b.uid(), b.gid()));
    compare("device", a.rdev() == b.rdev());
    let both = |kind: fn(&Metadata) -> bool| kind(&a) && kind(&b);
    if both(Metadata::is_symlink) {
        let [a, b] = [one, two].map(fs::read_link);
        compare("target", a.context(one.display())? == b.context(two.display())?);
    }
    if both(Metadata::is_file) {
        let [a, b] = [one, two].map(fs::read);
        compare("contents", a.context(one.display())? == b.context(two.display())?);
    }
    compare("attributes", attributes(one)? == attributes(two)?);
    Ok(how.join(", "))
}

fn attributes(path: &Path) -> Result<BTreeMap<OsString, Vec<u8>>> {
    // The most that the kernel gives (limits.h, XATTR_LIST_MAX and XATTR_SIZE_MAX).
    let (mut names, mut value) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    let length = llistxattr(path, &mut names[..]).context(path.display())?;
    let names = names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    names
        .map(|name| {
            let name = OsStr::from_bytes(name);
            let length = lgetxattr(path, name, &mut value[..]).context(path.display())?;
            Ok((name.to_owned(), value[..length].to_vec()))
        })
        .collect()
}
