//! Debian and its kin, by mmdebstrap(1), or debootstrap(8) where there is no mmdebstrap.

#[cfg(feature = "images")]
use std::fs;
use std::path::Path;

use rustix::fs::FileType;

use crate::apt::Apt;
#[cfg(feature = "images")]
use crate::cache::Cache;
use crate::chroot::{Chroot, environment, with_proxies};
use crate::command::{self, Context, Tool};
use crate::inside::Inside;
#[cfg(feature = "images")]
use crate::manifest;
use crate::problem::{Doing, Problem};
use crate::progress;
use crate::sources::{Sources, Wanted};
use crate::words::HOSTS;

/// What is bootstrapped.
#[derive(Debug, Clone)]
pub struct Debian<'a> {
    /// As debootstrap(8) has it, or `important`.
    pub variant: &'a str,
    /// To install besides.
    pub packages: &'a [String],
    /// What the project says to apt.
    pub apt: Apt,
    /// Where packages come from, but for the archive itself.
    pub wanted: Wanted<'a>,
    /// What is known of the archive, and of what belongs to it; the tool's own archive otherwise.
    pub sources: Option<Sources>,
    /// A directory that keeps what bootstraps have made.
    pub cache: Option<&'a Path>,
}

/// What apt and debootstrap say when they fail.
const ERRORS: [&str; 2] = ["E: ", "W: Couldn't download package "];

/// Installs Debian into an empty directory.
///
/// # Errors
/// What the tool said.
pub fn bootstrap(context: &Context, debian: &Debian<'_>, root: &Path) -> Result<(), Problem> {
    #[cfg(feature = "images")]
    if let Some(dir) = debian.cache {
        let cache = place(dir, debian)?;
        if !cache.restore(context, root)? {
            install(context, debian, root)?;
            let unique = debian.wanted.work.file_name().unwrap_or_default().to_string_lossy();
            // What is built is whole without it.
            if let Err(problem) = cache.keep(context, root, unique.trim_start_matches('.')) {
                context.report.warn(format!("nothing is kept for the next build: {problem}"));
            }
        }
        return leave(context, root, debian.wanted.work);
    }
    install(context, debian, root)?;
    leave(context, root, debian.wanted.work)
}

/// Where the cache has what this bootstrap makes.
#[cfg(feature = "images")]
fn place<'a>(dir: &'a Path, debian: &Debian<'_>) -> Result<Cache<'a>, Problem> {
    let Debian { variant, packages, apt, wanted, sources, .. } = debian;
    let tool = if command::find("mmdebstrap").is_some() { "mmdebstrap" } else { "debootstrap" };
    let epoch = std::env::var("SOURCE_DATE_EPOCH").ok();
    let lines = sources.as_ref().map(Sources::lines);
    let said = format!(
        "{} {} {tool} {variant} {} {:?} {:?} {:?} {epoch:?} {lines:?} {packages:?}",
        env!("CARGO_PKG_VERSION"),
        std::env::consts::ARCH,
        wanted.suite,
        wanted.components,
        wanted.security,
        wanted.known
    );
    let keyring = match wanted.keyring {
        Some(path) => fs::read(path).doing(|| format!("reading {}", path.display()))?,
        None => Vec::new(),
    };
    let files = apt.contents()?;
    let parts: Vec<&[u8]> = [said.as_bytes(), &keyring].into_iter().chain(files.iter().map(Vec::as_slice)).collect();
    Cache::open(dir, &parts)
}

fn install(context: &Context, debian: &Debian<'_>, root: &Path) -> Result<(), Problem> {
    let Debian { variant, packages, apt, wanted, sources, .. } = debian;
    // Sources, pins and answers to questions must be there before the packages that they are for.
    let later = apt.is_for_the_image();
    let by_tls = sources.as_ref().is_some_and(Sources::by_tls) || apt.by_tls();
    let mut progress = Progress::default();
    // A host's base has it.
    let mmdebstrap = !cfg!(feature = "images") || command::find("mmdebstrap").is_some();
    let components = wanted.components.join(",");
    let tool = if mmdebstrap {
        let tool = Tool::new("mmdebstrap").args(["--verbose", "--mode=root", "--format=directory"]);
        // Other file systems are mounted there already.
        let tool = tool.arg("--skip=check/empty").arg(format!("--variant={variant}"));
        let certificates = if by_tls { "ca-certificates" } else { "" };
        let first = if later { certificates.to_owned() } else { packages.join(",") };
        let tool = if first.is_empty() { tool } else { tool.arg(format!("--include={first}")) };
        // Until it is noted what they say of packages; `tidy` removes them.
        let tool = if cfg!(feature = "images") { tool.arg("--skip=cleanup/apt/lists") } else { tool };
        // apt's own user can't read a file of the project's.
        let tool = if wanted.keyring.is_some() { tool.arg("--aptopt=APT::Sandbox::User \"root\"") } else { tool };
        let tool = tool.arg(format!("--components={components}")).arg(wanted.suite).arg(root);
        tool.args(sources.iter().flat_map(Sources::lines))
    } else {
        // It takes the oldest of everything, so the image's own apt has the rest to do.
        let mut tool = Tool::new("debootstrap").args(["--merged-usr", &format!("--components={components}")]);
        if *variant != "important" {
            tool = tool.arg(format!("--variant={variant}"));
        }
        if by_tls {
            tool = tool.arg("--include=ca-certificates");
        }
        if let Some(keyring) = wanted.keyring {
            tool = tool.arg(format!("--keyring={}", keyring.display()));
        }
        tool.arg(wanted.suite).arg(root).args(sources.as_ref().and_then(|sources| sources.mirror(wanted.suite)))
    };
    let tool = with_proxies(tool);
    // Hooks and maintainer scripts are not the place for what this shell happens to have.
    let tool = tool.env("DEBIAN_FRONTEND", "noninteractive").env("LC_ALL", "C.UTF-8").env("TMPDIR", "/tmp");
    let name = if mmdebstrap { "mmdebstrap" } else { "debootstrap" };
    progress::watch(context, name, tool, |line| progress.line(line), &ERRORS)?;

    let image = Inside::open(root).doing(|| format!("opening {}", root.display()))?;
    if mmdebstrap {
        // What `--aptopt` has left.
        let _ = image.remove(Path::new("etc/apt/apt.conf.d/99mmdebstrap"));
    }
    if !mmdebstrap {
        note_dependencies(context, &image, variant)?;
    }
    let mut whole = mmdebstrap && !later;
    let sources = match sources {
        Some(sources) => sources.clone(),
        None => match Sources::of_tool(&image, wanted.suite, wanted.components) {
            Some(sources) if sources.is_whole(wanted.suite) && wanted.security.is_none() => sources,
            Some(sources) => {
                let mirror = sources.mirror(wanted.suite).unwrap_or_default();
                let found = Sources::find(context, wanted, mirror)?;
                whole &= found.lines().len() <= sources.lines().len();
                found
            }
            None => {
                context.report.warn(format!(
                    "{name} has written no source of {} into /etc/apt/sources.list: what it wrote stays as it is",
                    wanted.suite
                ));
                return Ok(());
            }
        },
    };
    sources.write(&image)?;
    if !whole {
        let rest = if mmdebstrap && !later { &[][..] } else { *packages };
        complete(context, &image, apt, rest, &mut progress)?;
    }
    Ok(())
}

fn leave(context: &Context, root: &Path, work: &Path) -> Result<(), Problem> {
    let image = Inside::open(root).doing(|| format!("opening {}", root.display()))?;
    #[cfg(feature = "images")]
    manifest::note(context, &Chroot::new(&image)?, work)?;
    #[cfg(not(feature = "images"))]
    let _ = (context, work);
    tidy(&image).doing(|| "removing what is left of the bootstrap".into())
}

/// Tells apt which packages are there only because others need them, so that they go with these (apt-mark(8)): apt
/// knows it of what it has installed itself, as it does for mmdebstrap, but not of what debootstrap has.
fn note_dependencies(context: &Context, image: &Inside, variant: &str) -> Result<(), Problem> {
    let status = image.read(Path::new("var/lib/dpkg/status")).unwrap_or_default();
    let packages = dependencies(&String::from_utf8_lossy(&status), variant);
    if packages.is_empty() {
        return Ok(());
    }
    let chroot = Chroot::new(image)?;
    environment(chroot.command("apt-mark").args(["-q", "auto", "--"]).args(packages)).run(context)
}

/// The packages of dpkg's list that no variant of debootstrap's, and not makeimg, asks for by name or priority.
fn dependencies(status: &str, variant: &str) -> Vec<String> {
    let is_asked = |name: &str, priority: &str, is_essential: bool| {
        let of_variant = priority == "required" || (priority == "important" && variant != "minbase");
        is_essential || of_variant || ["apt", "ca-certificates"].contains(&name)
    };
    let mut packages = Vec::new();
    for paragraph in status.split("\n\n") {
        let field = |name: &str| paragraph.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        let (name, priority) = (field("Package: "), field("Priority: "));
        if !name.is_empty() && !is_asked(name, priority, field("Essential: ") == "yes") {
            packages.push(name.to_owned());
        }
    }
    packages
}

/// Brings what is there up to date, and installs more, by the image's own apt.
fn complete(
    context: &Context,
    image: &Inside,
    project: &Apt,
    packages: &[String],
    progress: &mut Progress,
) -> Result<(), Problem> {
    let chroot = Chroot::new(image)?;
    let packages = &project.prepare(context, &chroot, packages)?[..];
    let apt = |words: &[&str]| with_proxies(environment(chroot.command("apt-get").args(["-y", "-q"]).args(words)));
    let mut run = |words: &[&str], more: &[String]| {
        progress::watch(context, "apt-get", apt(words).args(more), |line| progress.line(line), &ERRORS)
    };
    run(&["-o", "Acquire::Languages=none", "--error-on=any", "update"], &[])?;
    run(&["--no-install-recommends", "dist-upgrade"], &[])?;
    if !packages.is_empty() {
        run(&["--no-install-recommends", "install", "--"], packages)?;
    }
    run(&["clean"], &[])
}

/// Removes what only the bootstrap needed, what the building machine lent to it, and what must differ from machine to
/// machine.
fn tidy(image: &Inside) -> std::io::Result<()> {
    // Both tools copy them, whatever the suite has.
    let _ = image.remove(Path::new("etc/hostname"));
    let conf = Path::new("etc/resolv.conf");
    let regular = image.look(conf)?.is_some_and(|found| FileType::from_raw_mode(found.st_mode).is_file());
    if regular && std::fs::read("/etc/resolv.conf").is_ok_and(|ours| image.read(conf).is_ok_and(|it| it == ours)) {
        image.remove(conf)?;
    }
    if !image.exists("etc/hosts") {
        image.write(Path::new("etc/hosts"), HOSTS.as_bytes(), 0o644)?;
    }
    for dir in ["var/lib/apt/lists", "var/cache/apt/archives", "var/cache/apt"] {
        for name in
            image.names(Path::new(dir)).iter().filter(|name| !["partial", "lock", "archives"].contains(&&***name))
        {
            // There are directories of apt's own among them.
            let _ = image.remove(&Path::new(dir).join(name));
        }
    }
    // What programs left there that ran without a file system in memory.
    for dir in ["run/lock", "run"].map(Path::new) {
        // base-files has both.
        for name in image.names(dir).iter().filter(|name| *name != "lock") {
            image.remove_all(&dir.join(name))?;
        }
    }
    // Empty, it is made when the machine first starts (machine-id(5)).
    if image.exists("etc/machine-id") || image.exists("bin/systemctl") {
        image.write(Path::new("etc/machine-id"), &b""[..], 0o644)?;
    }
    Ok(())
}

/// Counts packages: each is unpacked and then set up.
#[derive(Debug, Default)]
struct Progress {
    done: u64,
    total: u64,
}

impl Progress {
    /// Done, total and what, if the line is about a package.
    fn line<'a>(&mut self, line: &'a str) -> Option<(u64, u64, &'a str)> {
        // `0 upgraded, 12 newly installed, 0 to remove and 0 not upgraded.`
        if let Some((head, _)) = line.split_once(" newly installed, ") {
            let count: u64 = head.rsplit(' ').next()?.parse().ok()?;
            self.total += 2 * count;
            return None;
        }
        let what = ["Unpacking ", "Setting up ", "I: Unpacking ", "I: Configuring "];
        what.iter().find(|head| line.starts_with(**head))?;
        self.done += 1;
        self.total = if self.total == 0 { 0 } else { self.total.max(self.done) };
        let what = line.strip_prefix("I: ").unwrap_or(line);
        Some((self.done, self.total, what.split(" (").next().unwrap_or(what).trim_end_matches([' ', '.'])))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_others_need_is_found() {
        let of = |name: &str, more: &str| format!("Package: {name}\nStatus: install ok installed\n{more}\n");
        let all = [
            of("base-files", "Essential: yes\nPriority: required\n"),
            of("libc6", "Priority: optional\nDescription: Essential: yes\n"),
            of("apt", "Priority: important\n"),
            of("cron", "Priority: important\n"),
            of("tzdata", "Priority: required\n"),
        ];
        let all = all.join("");
        assert_eq!(dependencies(&all, "minbase"), ["libc6", "cron"]);
        assert_eq!(dependencies(&all, "important"), ["libc6"]);
        assert_eq!(dependencies("", "important"), Vec::<String>::new());
    }

    #[test]
    fn packages_are_counted() {
        let mut progress = Progress::default();
        let mut lines = |line: &'static str| progress.line(line);
        assert_eq!(lines("Reading package lists..."), None);
        assert_eq!(lines("0 upgraded, 2 newly installed, 0 to remove and 0 not upgraded."), None);
        assert_eq!(lines("Unpacking dash (0.5.12-12) ..."), Some((1, 4, "Unpacking dash")));
        assert_eq!(lines("Setting up dash (0.5.12-12) ..."), Some((2, 4, "Setting up dash")));
        assert_eq!(lines("12 upgraded, 1 newly installed, 0 to remove and 0 not upgraded."), None);
        assert_eq!(lines("Unpacking a (1) over (0) ..."), Some((3, 6, "Unpacking a")));
        let mut progress = Progress::default();
        assert_eq!(progress.line("I: Unpacking libc6:amd64..."), Some((1, 0, "Unpacking libc6:amd64")));
    }
}
