//! Arch Linux, by pacman(8): what pacstrap(8) does, and what a system needs that no package brings.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::chroot::{Chroot, environment, with_proxies};
use crate::command::{Context, Tool};
use crate::inside::Inside;
use crate::problem::{Doing, Problem};
use crate::progress::{self, Step};
use crate::words::HOSTS;

/// Packages that are installed without being named: those that pacstrap(8) installs if none is named.
const BASE: &str = "base";
/// The package with the keys of those who sign packages.
const KEYRING: &str = "archlinux-keyring";
/// What pacman-key(8) calls them.
const ARCH: &str = "archlinux";

/// What the image may take from the building machine.
pub const HOSTCONF: [&str; 2] = ["keyring", "mirrorlist"];

/// Where pacman finds its configuration, its servers and the keys that it trusts: below `/` on the building machine,
/// and in the image.
const CONF: &str = "etc/pacman.conf";
const MIRRORLIST: &str = "etc/pacman.d/mirrorlist";
const GNUPG: &str = "etc/pacman.d/gnupg";
/// Where the image's pacman has packages and lists of them.
const PACKAGES: &str = "var/cache/pacman/pkg";
const LISTS: &str = "var/lib/pacman/sync";

/// Where pacman-key(8) looks for keyrings: on Arch, and on Debian.
const KEYRINGS: [&str; 2] = ["/usr/share/pacman/keyrings", "/usr/share/keyrings"];

/// Whether this makeimg builds nothing for other machines, and need not know how.
const ONLY_HERE: bool = !cfg!(feature = "all-targets");

/// What is bootstrapped.
#[derive(Debug, Clone, Copy)]
pub struct Arch<'a> {
    /// The directory that may have `pacman.conf`, `mirrorlist` and `keys`.
    pub project: &'a Path,
    /// What is taken from the building machine.
    pub hostconf: &'a [String],
    /// To install besides.
    pub packages: &'a [String],
    /// The console's keymap: mkinitcpio(8) wants to know it.
    pub keymap: Option<&'a str>,
    /// Whether the system is for this machine and no other.
    pub is_here: bool,
    /// A directory for this build alone.
    pub work: &'a Path,
}

/// Why packages can't be had, if nothing says where they are.
pub fn problem(project: &Path, is_here: bool) -> Option<Problem> {
    let list = project.join("mirrorlist");
    if list.exists() {
        return None;
    }
    let is_here = is_here || ONLY_HERE;
    let read = |path: &Path| fs::read_to_string(path).unwrap_or_default();
    let (own, theirs) = (read(&project.join("pacman.conf")), read(&Path::new("/").join(CONF)));
    let is_known = |conf: &str| has_repository(conf) && !(is_here && conf.lines().any(includes_list));
    if is_known(&own) || own.is_empty() && !is_here && is_known(&theirs) {
        return None;
    }
    let hint = "list servers there as in /etc/pacman.d/mirrorlist, such as `Server = https://MIRROR/$repo/os/$arch`";
    Some(Problem::new(&list, None, "there is no such file, and no pacman.conf that says where packages are").hint(hint))
}

/// Whether pacman.conf(5) names a repository.
fn has_repository(conf: &str) -> bool {
    let sections = conf.lines().filter_map(|line| line.trim().strip_prefix('[')?.strip_suffix(']'));
    sections.into_iter().any(|section| section != "options")
}

/// The value of a directive of pacman.conf(5), if the line has it.
fn value<'a>(line: &'a str, directive: &str) -> Option<&'a str> {
    let (name, value) = line.split_once('=')?;
    (name.trim() == directive).then(|| value.trim())
}

fn includes_list(line: &str) -> bool {
    value(line, "Include").is_some_and(|path| path.trim_start_matches('/') == MIRRORLIST)
}

/// A configuration with a list of servers in the place where it includes the machine's. Downloads are done by root, and
/// not by a user that the building machine may not have.
fn composed(conf: &str, list: Option<&str>) -> String {
    let lines = conf.lines().filter(|line| value(line, "DownloadUser").is_none());
    let lines = lines.map(|line| list.filter(|_| includes_list(line)).unwrap_or(line).trim_end());
    lines.fold(String::new(), |text, line| text + line + "\n")
}

/// Installs Arch Linux into an empty directory.
///
/// # Errors
/// Nothing says where packages are, or what a tool said.
pub fn bootstrap(context: &Context, arch: &Arch<'_>, root: &Path) -> Result<(), Problem> {
    let image = Inside::open(root).doing(|| format!("opening {}", root.display()))?;
    arch.prepare(&image).doing(|| "preparing the image for pacman".into())?;
    let conf = arch.work.join("pacman.conf");
    fs::write(&conf, arch.conf()?).doing(|| format!("writing {}", conf.display()))?;
    let keyring = arch.keyring(context)?;
    {
        let _mounted = Chroot::bare(&image)?;
        let mut progress = Progress::default();
        let pacman = |words: &[&str]| pacman(root, &conf, &keyring).args(words);
        let mut run = |tool| progress::watch(context, "pacman", tool, |line| progress.line(line), &["error: "]);
        run(pacman(&["-Sy"]))?;
        // The archive's keys are newer than the building machine's, and may be those of who has signed the rest.
        if pacman(&["-Sddp", KEYRING]).try_output(context)?.is_ok() {
            run(pacman(&["-Sdd", "--asdeps", "--noscriptlet", KEYRING]))?;
            populate(context, &keyring, &root.join("usr/share/pacman/keyrings"), ARCH)?;
        }
        run(pacman(&["-S", BASE]).args(arch.packages.iter().filter(|name| *name != BASE)))?;
    }
    arch.finish(context, &image, &keyring)?;
    tidy(&image).doing(|| "removing what is left of the bootstrap".into())
}

impl Arch<'_> {
    fn is_here(&self) -> bool {
        ONLY_HERE || self.is_here
    }

    fn takes(&self, item: &str) -> bool {
        self.hostconf.iter().any(|wanted| wanted == item)
    }

    /// What pacman reads: the project's file, else the building machine's, else one with Arch's own repositories.
    fn conf(&self) -> Result<String, Problem> {
        let read = |path: &Path| fs::read_to_string(path).doing(|| format!("reading {}", path.display()));
        let (own, list) = (self.project.join("pacman.conf"), self.project.join("mirrorlist"));
        let theirs = Path::new("/").join(CONF);
        let conf = if own.exists() {
            read(&own)?
        } else if !self.is_here() && read(&theirs).is_ok_and(|conf| has_repository(&conf)) {
            read(&theirs)?
        } else {
            let servers = format!("Include = /{MIRRORLIST}\n");
            let options = "[options]\nArchitecture = auto\nSigLevel = Required DatabaseOptional\n";
            format!("{options}[core]\n{servers}[extra]\n{servers}")
        };
        let list = if list.exists() { Some(read(&list)?) } else { None };
        Ok(composed(&conf, list.as_deref()))
    }

    /// What must be there before any package: what pacstrap(8) makes, and what mkinitcpio(8) reads when a kernel is
    /// installed.
    fn prepare(&self, image: &Inside) -> io::Result<()> {
        for dir in [PACKAGES, "var/lib/pacman", "var/log", "etc/pacman.d", "proc", "tmp"] {
            image.dir(Path::new(dir))?;
        }
        image.give(Path::new("tmp"), 0o1777, 0, 0)?;
        if let Some(keymap) = self.keymap {
            image.write(Path::new("etc/vconsole.conf"), format!("KEYMAP={keymap}\n").as_bytes(), 0o644)?;
        }
        if self.is_here() {
            return Ok(());
        }
        let text = "# By makeimg: the image starts on other machines than the one that has built it.\n\
                    HOOKS=(${HOOKS[@]/#autodetect/})\n";
        image.write(Path::new("etc/mkinitcpio.conf.d/makeimg.conf"), text.as_bytes(), 0o644)
    }

    /// A keyring of this build's with what the building machine trusts, or else with what its package of Arch's keys
    /// has, and with the project's keys. gpg(1) wants one that it can write to, with a key of its own.
    fn keyring(&self, context: &Context) -> Result<PathBuf, Problem> {
        let (made, theirs) = (self.work.join("gnupg"), Path::new("/").join(GNUPG));
        if theirs.join("pubring.gpg").exists() && !self.is_here() {
            Tool::new("cp").arg("-a").args([&theirs, &made]).run(context)?;
        } else {
            fs::create_dir(&made).doing(|| format!("making {}", made.display()))?;
            alone("pacman-key").args(["--init", "--gpgdir"]).arg(&made).run(context)?;
            let ours = KEYRINGS.map(Path::new).into_iter().find(|dir| dir.join(format!("{ARCH}.gpg")).exists());
            if let Some(ours) = ours {
                populate(context, &made, ours, ARCH)?;
            }
        }
        let keys = self.project.join("keys");
        if keys.exists() {
            let doing = || format!("reading {}", keys.display());
            for entry in fs::read_dir(&keys).doing(doing)? {
                let name = entry.doing(doing)?.file_name();
                if let Some(name) = name.to_string_lossy().strip_suffix(".gpg") {
                    populate(context, &made, &keys, name)?;
                }
            }
        }
        Ok(made)
    }

    /// What the image has of the project and the building machine when its packages are there.
    fn finish(&self, context: &Context, image: &Inside, keyring: &Path) -> Result<(), Problem> {
        let own = Some(self.project.join("mirrorlist")).filter(|own| own.exists());
        let theirs = self.takes("mirrorlist").then(|| Path::new("/").join(MIRRORLIST));
        if let Some(list) = own.or(theirs) {
            let copied = fs::read(&list).and_then(|text| image.write(Path::new(MIRRORLIST), &text[..], 0o644));
            copied.doing(|| format!("copying {} into the image", list.display()))?;
        }
        // It has a secret key of its own, which several machines must not share.
        if self.is_here() || self.takes("keyring") {
            if !image.exists(GNUPG) {
                Tool::new("cp").arg("-a").arg(keyring).arg(image.path().join(GNUPG)).run(context)?;
            }
            // gpg-agent's, which has ended.
            for socket in image.names(Path::new(GNUPG)).iter().filter(|name| name.starts_with("S.")) {
                let removed = image.remove(&Path::new(GNUPG).join(socket));
                removed.doing(|| format!("removing /{GNUPG}/{socket} in the image"))?;
            }
        } else if image.exists("usr/lib/systemd/systemd") {
            let made = image.unit(KEYRING_NAME, KEYRING_UNIT, &["multi-user.target"]);
            made.doing(|| "having each machine make a keyring of its own for pacman".into())?;
        }
        Ok(())
    }
}

/// A program that nothing survives which it starts, such as gpg-agent(1).
fn alone(program: &str) -> Tool {
    let options = ["--mount", "--pid", "--fork", "--kill-child=SIGKILL", "--mount-proc", "--"];
    environment(Tool::new("unshare").args(options).arg(program))
}

/// pacman with an image as its root. It needs /proc there: it changes its root for scripts and hooks.
fn pacman(root: &Path, conf: &Path, keyring: &Path) -> Tool {
    let tool = alone("sh").args(["-c", "mount -t proc proc \"$0/proc\" && exec pacman \"$@\""]).arg(root);
    let at = [("--config", conf), ("--gpgdir", keyring), ("--root", root)];
    let tool = at.into_iter().fold(tool, |tool, (option, path)| tool.arg(option).arg(path));
    let below = [("--cachedir", PACKAGES), ("--hookdir", "etc/pacman.d/hooks")];
    let tool = below.into_iter().fold(tool, |tool, (option, path)| tool.arg(option).arg(root.join(path)));
    with_proxies(tool.args(["--noconfirm", "--noprogressbar"]))
}

/// Adds the keyring NAME of a directory: `NAME.gpg`, and what is trusted and revoked of it (pacman-key(8)).
fn populate(context: &Context, keyring: &Path, from: &Path, name: &str) -> Result<(), Problem> {
    // pacman-key knows one directory, which is another one on Debian.
    let script = "for at in $0; do [ ! -d $at ] || mount --bind \"$1\" $at; done; shift; exec pacman-key \"$@\"";
    let tool = alone("sh").args(["-ec", script, &KEYRINGS.join(" ")]).arg(from);
    tool.arg("--gpgdir").arg(keyring).args(["--populate", name]).run(context)
}

/// Removes what only the bootstrap needed, and what must differ from machine to machine.
fn tidy(image: &Inside) -> io::Result<()> {
    for dir in [PACKAGES, LISTS].map(Path::new) {
        for name in image.names(dir) {
            // There may be a directory of an interrupted download among them.
            let _ = image.remove(&dir.join(name));
        }
    }
    let hosts = Path::new("etc/hosts");
    let old = if image.exists("etc/hosts") { image.read(hosts)? } else { Vec::new() };
    if !String::from_utf8_lossy(&old).lines().any(|line| !line.starts_with('#') && line.contains("localhost")) {
        image.write(hosts, &[&old[..], HOSTS.as_bytes()].concat()[..], 0o644)?;
    }
    // Empty, it is made when the machine first starts (machine-id(5)).
    image.write(Path::new("etc/machine-id"), &b""[..], 0o644)
}

const KEYRING_NAME: &str = "makeimg-pacman-keyring.service";
/// A unit that makes pacman's keyring where there is none (systemd.unit(5), pacman-key(8)).
const KEYRING_UNIT: &str = "\
[Unit]
Description=Keys that pacman trusts on this machine
ConditionPathExists=!/etc/pacman.d/gnupg/pubring.gpg

[Service]
Type=oneshot
ExecStart=/usr/bin/pacman-key --init
ExecStart=/usr/bin/pacman-key --populate
";

/// Counts packages: away from a terminal, pacman says only how many there are, and which it installs.
#[derive(Debug, Default)]
struct Progress {
    done: u64,
    total: u64,
}

impl Progress {
    fn line<'a>(&mut self, line: &'a str) -> Step<'a> {
        // `Packages (12) acl-2.3.2-1  …`
        if let Some((count, _)) = line.strip_prefix("Packages (").and_then(|rest| rest.split_once(')')) {
            self.done = 0;
            self.total = count.parse().unwrap_or(0);
        }
        let what = line.strip_suffix("...").filter(|what| what.starts_with("installing "))?;
        self.done += 1;
        Some((self.done, self.total, what))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_counted() {
        let mut progress = Progress::default();
        assert_eq!(progress.line("Packages (2) base-1-1  greeting-1-1"), None);
        assert_eq!(progress.line("installing base..."), Some((1, 2, "installing base")));
        assert_eq!(progress.line("loading package files..."), None);
        assert_eq!(progress.line("installing greeting..."), Some((2, 2, "installing greeting")));
        assert_eq!(progress.line("Packages (1) more-1-1"), None);
        assert_eq!(progress.line("installing more..."), Some((1, 1, "installing more")));
    }

    #[test]
    fn the_projects_servers_are_in_the_place_of_the_machines() {
        let conf = "[options]\nDownloadUser = alpm\n#Include = /etc/pacman.d/mirrorlist\n[core]\n\
                    Include=/etc/pacman.d/mirrorlist\n[more]\nServer = file:///more\n";
        let composed = composed(conf, Some("Server = http://m.test/$repo\n"));
        let servers = "[core]\nServer = http://m.test/$repo\n[more]\nServer = file:///more\n";
        assert_eq!(composed, format!("[options]\n#Include = /etc/pacman.d/mirrorlist\n{servers}"));
        assert!(super::composed(conf, None).contains("\nInclude=/etc/pacman.d/mirrorlist\n"));
    }

    #[test]
    fn a_host_has_no_servers_but_the_projects() {
        let dir = tempfile::tempdir().unwrap();
        let project = dir.path();
        let said = |is_here| problem(project, is_here).map(|problem| problem.to_string());
        assert!(said(true).is_some_and(|said| said.contains("/mirrorlist: there is no such file")));
        fs::write(project.join("pacman.conf"), "[options]\nSigLevel = Never\n").unwrap();
        assert!(said(true).is_some() && said(false).is_some());
        fs::write(project.join("pacman.conf"), "[core]\nInclude = /etc/pacman.d/mirrorlist\n").unwrap();
        assert!(said(true).is_some() && said(false).is_none());
        fs::write(project.join("mirrorlist"), "").unwrap();
        assert!(said(true).is_none());
        fs::remove_file(project.join("mirrorlist")).unwrap();
        fs::write(project.join("pacman.conf"), "[core]\nServer = file:///here\n").unwrap();
        assert!(said(true).is_none());
    }
}
