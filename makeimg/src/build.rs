//! A build, step by step. It runs in mount and PID namespaces of its own, which `supervise` makes, so that nothing that
//! it mounts or starts can outlive it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Stat};
use serde::{Deserialize, Serialize};

#[cfg(feature = "all-targets")]
use crate::alpine;
use crate::apt::Apt;
use crate::arch::{self, Arch};
use crate::chroot::{self, Chroot};
use crate::command::{self, Context};
use crate::debian::{self, Debian};
use crate::disk::{self, Disk, Wanted};
use crate::imgbuild::Imgbuild;
use crate::inputs::{self, Input, Putting};
use crate::inside::Inside;
use crate::problem::{Doing, Problem};
use crate::settings::{Format, SIGNED_GRUB, Target};
use crate::sources::{self, Sources};
use crate::words::{Bootloader, Filesystem, Table};
use crate::{declare, functions, luks, output, volumes};

/// What is to be built.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Job {
    /// The IMGBUILD.
    pub imgbuild: Imgbuild,
    /// What goes into the image.
    pub inputs: Vec<Input>,
    /// For templates.
    pub variables: BTreeMap<String, String>,
    /// The command that reveals secrets.
    pub reveal: Option<String>,
    /// A package archive's URL.
    pub mirror: Option<String>,
    /// The URL of the archive that has Debian's security updates, or `none`, in place of what the IMGBUILD says.
    pub security: Option<String>,
    /// The URL of an archive that may have Debian's security updates, for when neither of the above names one.
    pub known_security: Option<String>,
    /// Where the result goes.
    pub output_dir: PathBuf,
    /// A directory for this build alone, on the same file system.
    pub work: PathBuf,
    /// A directory that keeps what bootstraps have made.
    pub cache: Option<PathBuf>,
    /// Whether the tree of a build that failed is kept.
    pub keep_failed: bool,
}

/// A disk that becomes what an IMGBUILD describes, in place of a file. Of `format` only the partition table and the
/// file system count then.
pub struct Machine<'a> {
    /// Its device.
    pub disk: &'a Path,
    /// An empty directory, where the new system's root stays mounted.
    pub root: &'a Path,
    /// Further words for the kernel.
    pub cmdline: &'a str,
    /// Called when packages and files are in the image. Returns further services to enable.
    pub offer: &'a dyn Fn(&Inside) -> Result<Vec<String>, Problem>,
}

impl Job {
    /// What `format` says of a disk.
    fn wanted(&self) -> Option<Wanted> {
        let Format::Raw { size, table, filesystem, .. } = self.imgbuild.settings.format else { return None };
        Some(self.disk(size, table, filesystem))
    }

    fn disk(&self, size: u64, table: Table, filesystem: Filesystem) -> Wanted {
        let settings = &self.imgbuild.settings;
        let grub = settings.bootloader != Some(Bootloader::None);
        let seed = disk::Seed::from_environment(&settings.imgname);
        Wanted { size, table, filesystem, grub, volumes: settings.filesystems.clone(), seed, keys: Vec::new() }
    }

    /// The directory of the IMGBUILD.
    fn project(&self) -> &Path {
        self.imgbuild.path.parent().unwrap_or_else(|| Path::new("/"))
    }

    fn sources<'a>(&'a self, suite: &'a str, keyring: Option<&'a Path>) -> sources::Wanted<'a> {
        let settings = &self.imgbuild.settings;
        let security = self.security.as_deref().or(settings.debian_security.as_deref());
        let (components, known, work) = (&settings.debian_components, self.known_security.as_deref(), &*self.work);
        sources::Wanted { suite, components, security, keyring, known, work }
    }

    /// The author's file with the keys of the archive.
    fn keyring(&self) -> Option<PathBuf> {
        self.imgbuild.settings.debian_keyring.as_ref().map(|name| self.project().join(name))
    }

    /// Where the result will be.
    pub fn output(&self) -> Option<PathBuf> {
        let settings = &self.imgbuild.settings;
        output::name(&settings.imgname, &settings.format).map(|name| self.output_dir.join(name))
    }

    /// The packages, with those that other variables ask for.
    fn packages(&self, on_disk: bool) -> Vec<String> {
        let settings = &self.imgbuild.settings;
        let mut packages = settings.packages.clone();
        packages.extend(declare::packages(settings).into_iter().map(str::to_owned));
        let grub = on_disk && settings.bootloader != Some(Bootloader::None);
        if grub {
            let loaders: &[&str] = match settings.target {
                Target::Debian { .. } => &["grub-pc-bin", "grub-efi-amd64-bin", "grub2-common"],
                Target::Arch => &["grub"],
                Target::Alpine => &["grub-bios", "grub-efi"],
            };
            packages.extend(loaders.iter().map(|name| (*name).to_owned()));
            if settings.has_shim() {
                packages.push(SIGNED_GRUB.to_owned());
            }
        }
        let mut seen = BTreeSet::new();
        packages.retain(|name| seen.insert(name.clone()));
        packages
    }

    /// What can't be put on a disk image of the size that `format` says.
    pub fn disk_problem(&self) -> Option<Problem> {
        let problem = self.wanted()?.place(&[]).err()?;
        Some(Problem { path: Some(self.imgbuild.path.clone()), ..problem })
    }

    /// Programs that this machine lacks, each with what to do.
    pub fn missing_tools(&self) -> Vec<Problem> {
        let mut tools = vec!["unshare", "setpriv", "mount"];
        tools.extend(self.wanted().iter().flat_map(Wanted::tools));
        tools.extend(output::tools(&self.imgbuild.settings.format));
        if self.inputs.iter().any(|input| input.kind == inputs::Kind::Patch) {
            tools.push("patch");
        }
        let mut problems: Vec<Problem> = tools
            .into_iter()
            .filter(|tool| command::find(tool).is_none())
            .map(|tool| {
                Problem::build(format!("this machine has no `{tool}`, which the build needs")).hint("install it")
            })
            .collect();
        let bootstrap: &[&str] = match self.imgbuild.settings.target {
            Target::Debian { .. } => &["mmdebstrap", "debootstrap"],
            Target::Arch => &["pacman"],
            Target::Alpine => &["apk"],
        };
        if !bootstrap.iter().any(|tool| command::find(tool).is_some()) {
            let what = format!("this machine has no {}, which the target needs", bootstrap.join(" or "));
            problems.push(Problem::build(what).hint(format!("install {}", bootstrap[0])));
        }
        problems
    }
}

/// Builds it. Returns where the result is.
///
/// # Errors
/// The first thing that went wrong. `cleanup` has run, whatever happened.
pub fn run(job: &Job, context: &Context) -> Result<Option<PathBuf>, Problem> {
    let root = job.work.join("root");
    fs::create_dir(&root).doing(|| format!("making {}", root.display()))?;
    perform(job, context, None, &root)
}

/// Builds it on a disk. Nothing is unmounted: this is for a system that exists for nothing else.
///
/// # Errors
/// As with [`run`]. Where it can't be built on a disk at all, nothing was done: `cleanup` has not run either.
pub fn deploy(job: &Job, context: &Context, machine: &Machine<'_>) -> Result<(), Problem> {
    if let Some(problem) = job.imgbuild.machine_problem() {
        return Err(problem);
    }
    perform(job, context, Some(machine), machine.root).map(drop)
}

fn perform(
    job: &Job,
    context: &Context,
    machine: Option<&Machine<'_>>,
    root: &Path,
) -> Result<Option<PathBuf>, Problem> {
    let variables = [("imgdir", root), ("outdir", &*job.output_dir)];
    let mut filled = fill(job, context, machine, root, &variables);
    filled = filled.and_then(|disk| context.cancel.check().map(|()| disk));
    if let Err(problem) = &mut filled {
        problem.step = context.report.current();
    }
    #[cfg(feature = "images")]
    if let Err(problem) = &mut filled
        && job.keep_failed
        && machine.is_none()
        && !context.cancel.is_cancelled()
    {
        keep_failed(job, context, root, problem);
    }
    let mut cleaned = Ok(());
    if job.imgbuild.functions.contains("cleanup") {
        context.report.step("cleanup()");
        let cleanup = || functions::here(context, &job.imgbuild, "cleanup", &job.work, &variables);
        cleaned = context.cancel.shield(cleanup);
    }
    match (filled, cleaned) {
        (Ok(disk), Ok(())) => finish(job, context, machine, disk, root)
            .map_err(|problem| Problem { step: context.report.current(), ..problem }),
        (Ok(_), Err(problem)) => Err(problem),
        (Err(problem), cleaned) => {
            if let Err(also) = cleaned {
                context.report.warn(format!("after the failure {also}"));
            }
            Err(problem)
        }
    }
}

/// Keeps what there is of an image that could not be built, and says how to look at it.
#[cfg(feature = "images")]
fn keep_failed(job: &Job, context: &Context, root: &Path, problem: &mut Problem) {
    let to = crate::look::failed(&job.output_dir, &job.imgbuild.settings.imgname);
    // A disk's file systems are mounted there.
    let copied = fs::create_dir(&to).doing(|| format!("making {}", to.display())).and_then(|()| {
        command::Tool::new("cp").args(["--archive", "--target-directory"]).arg(&to).arg(root.join(".")).run(context)
    });
    match copied {
        Ok(()) => {
            let look = format!("`makeimg shell {}` shows what there is of it", to.display());
            let hint = problem.hint.take().map(|hint| format!("{hint}; ")).unwrap_or_default();
            problem.hint = Some(hint + &look);
        }
        Err(error) => context.report.warn(format!("what there is of the image could not be kept: {error}")),
    }
}

fn fill(
    job: &Job,
    context: &Context,
    machine: Option<&Machine<'_>>,
    root: &Path,
    variables: &[(&str, &Path)],
) -> Result<Option<Disk>, Problem> {
    let report = &context.report;
    let settings = &job.imgbuild.settings;
    if job.imgbuild.functions.contains("setup") {
        report.step("setup()");
        functions::here(context, &job.imgbuild, "setup", &job.work, variables)?;
    }
    // Before anything is written.
    let sources = sources(job, context)?;
    if machine.is_none()
        && settings.target == Target::Arch
        && let Some(problem) = arch::problem(job.project(), false)
    {
        return Err(problem);
    }
    let with_keys = |wanted: Wanted| {
        let keys = luks::keys(context, job.project(), &settings.filesystems, job.reveal.as_deref())?;
        Ok::<_, Problem>(Wanted { keys, ..wanted })
    };
    let disk = match (machine, job.wanted()) {
        (Some(machine), wanted) => {
            report.step("partitions and file systems");
            // GPT and ext4 where the IMGBUILD says nothing of disks.
            let wanted = with_keys(wanted.unwrap_or_else(|| job.disk(0, Table::Gpt, Filesystem::Ext4)))?;
            Some(Disk::device(context, wanted, machine.disk, &job.work, root)?)
        }
        (None, Some(wanted)) => {
            report.step("partitions and file systems");
            Some(Disk::image(context, with_keys(wanted)?, &job.work, root)?)
        }
        (None, None) => None,
    };
    match &settings.target {
        Target::Debian { suite } => {
            report.step(format!("bootstrap Debian {suite}"));
            let packages = job.packages(disk.is_some());
            let variant = &settings.debian_variant;
            let (keyring, apt) = (job.keyring(), Apt::of(job.project(), &packages));
            let wanted = job.sources(suite, keyring.as_deref());
            let cache = job.cache.as_deref();
            let debian = Debian { variant, packages: &packages, apt, wanted, sources, cache };
            debian::bootstrap(context, &debian, root)?;
        }
        Target::Arch => {
            report.step("bootstrap Arch");
            let (packages, hostconf) = (&job.packages(disk.is_some())[..], &settings.hostconf[..]);
            let (keymap, is_here) = (settings.keymap.as_deref(), machine.is_some());
            let arch = Arch { project: job.project(), hostconf, packages, keymap, is_here, work: &job.work };
            arch::bootstrap(context, &arch, root)?;
        }
        #[cfg(not(feature = "all-targets"))]
        Target::Alpine => return Err(Problem::build("this makeimg does not build target=alpine")),
        #[cfg(feature = "all-targets")]
        Target::Alpine => {
            report.step("bootstrap Alpine");
            let packages = job.packages(disk.is_some());
            alpine::bootstrap(context, job.project(), &settings.hostconf, &packages, root)?;
        }
    }
    let image = Inside::open(root).doing(|| format!("opening {}", root.display()))?;
    let host_keys = HostKeys::of(&image);
    if let Some(disk) = &disk {
        fstab(&image, disk)?;
        crypttab(&image, disk).doing(|| "writing /etc/crypttab in the image".into())?;
    }
    if !job.inputs.is_empty() {
        report.step("files");
        let (variables, reveal) = (&job.variables, job.reveal.as_deref());
        let putting = Putting { context, image: &image, variables, reveal, work: &job.work };
        for (done, input) in job.inputs.iter().enumerate() {
            context.cancel.check()?;
            report.progress(done as u64, job.inputs.len() as u64, format!("/{}", input.path.display()));
            putting.put(input)?;
        }
        own_sources(&image, &job.inputs).doing(|| "removing the package sources that the project replaces".into())?;
    }
    let mut declared = settings.clone();
    if let Some(machine) = machine {
        declared.services.extend((machine.offer)(&image)?);
    }
    context.cancel.check()?;
    let chroot = Chroot::new(&image)?;
    report.step("settings");
    declare::apply(context, &declared, &chroot)?;
    if job.imgbuild.functions.contains("provision") {
        report.step("provision()");
        functions::provision(context, &job.imgbuild, &chroot)?;
        #[cfg(feature = "images")]
        crate::manifest::note(context, &chroot, &job.work)?;
    }
    if volumes::encrypted(&settings.filesystems).next().is_some() && disk.is_some() {
        report.step("initramfs");
        luks::initramfs(context, &chroot)?;
    }
    if let Some(disk) = &disk
        && settings.bootloader != Some(Bootloader::None)
    {
        if settings.bootloader.is_some() || disk::has_kernel(&image) {
            report.step("boot loader");
            let more = machine.map_or("", |machine| machine.cmdline);
            let words = [&*disk.kernel_words(&settings.target, &settings.cmdline), &settings.cmdline, more];
            let cmdline: Vec<&str> = words.iter().flat_map(|words| words.split_whitespace()).collect();
            disk.grub(context, &chroot, &settings.target, &cmdline.join(" "))?;
        } else {
            report.warn(
                "there is no kernel in /boot, so no boot loader is installed; bootloader=none says that this is meant",
            );
        }
    }
    drop(chroot);
    tidy(&image, &job.inputs);
    if machine.is_none() {
        host_keys.leave(&image).doing(|| "having each machine make its own SSH host keys".into())?;
        #[cfg(feature = "images")]
        crate::manifest::write(&image, &settings.imgname, &job.work)?;
    }
    Ok(disk)
}

/// SSH host keys that packages made. Every machine that is started from an image would have them.
struct HostKeys(Vec<(PathBuf, Vec<u8>)>);

/// A unit that makes host keys where there are none (systemd.unit(5), ssh-keygen(1)).
const HOST_KEYS_UNIT: &str = "\
[Unit]
Description=SSH host keys of this machine
ConditionPathExistsGlob=!/etc/ssh/ssh_host_*_key
Before=ssh.service ssh.socket

[Service]
Type=oneshot
ExecStart=/usr/bin/ssh-keygen -A
";
const HOST_KEYS_NAME: &str = "makeimg-host-keys.service";

impl HostKeys {
    /// Those that are there.
    fn of(image: &Inside) -> Self {
        let dir = Path::new("etc/ssh");
        let names = image.names(dir).into_iter().filter(|name| name.starts_with("ssh_host_"));
        let keys = names.map(|name| dir.join(name));
        Self(keys.filter_map(|path| image.read(&path).ok().map(|bytes| (path, bytes))).collect())
    }

    /// Removes those that are as they were, and has systemd make new ones if none are left.
    fn leave(self, image: &Inside) -> io::Result<()> {
        let unchanged = self.0.iter().filter(|(path, bytes)| image.read(path).is_ok_and(|now| now == *bytes));
        let mut removed = false;
        for (path, _) in unchanged {
            image.remove(path)?;
            removed = true;
        }
        if !removed || !image.exists("usr/lib/systemd/systemd") {
            return Ok(());
        }
        image.unit(HOST_KEYS_NAME, HOST_KEYS_UNIT, &["ssh.service", "ssh.socket"])
    }
}

/// The package sources that the named mirror and the archives that belong to it offer; `None` if no mirror is named.
fn sources(job: &Job, context: &Context) -> Result<Option<Sources>, Problem> {
    let settings = &job.imgbuild.settings;
    let mirror = job.mirror.as_ref().or(settings.debian_mirror.as_ref());
    let (Target::Debian { suite }, Some(mirror)) = (&settings.target, mirror) else {
        return Ok(None);
    };
    context.report.step("package archives");
    Sources::find(context, &job.sources(suite, job.keyring().as_deref()), mirror).map(Some)
}

/// Removes our file of package sources if the author's inputs have another one: apt warns of an archive that is named
/// twice.
fn own_sources(image: &Inside, inputs: &[Input]) -> io::Result<()> {
    let has =
        |path: &str| inputs.iter().any(|input| input.path == Path::new(path) && input.kind != inputs::Kind::Patch);
    match (has(sources::OLD_FILE), has(sources::FILE)) {
        (true, false) => image.remove(Path::new(sources::FILE)),
        _ => Ok(()),
    }
}

fn fstab(image: &Inside, disk: &Disk) -> Result<(), Problem> {
    let path = Path::new("etc/fstab");
    let old = image.read(path).unwrap_or_default();
    // Debian's says `UNCONFIGURED FSTAB FOR BASE SYSTEM` in a comment.
    if String::from_utf8_lossy(&old).lines().any(|line| !line.trim().is_empty() && !line.trim().starts_with('#')) {
        return Ok(());
    }
    image.write(path, disk.fstab().as_bytes(), 0o644).doing(|| "writing /etc/fstab in the image".into())?;
    for path in disk.kept_paths() {
        image.dir(Path::new(path.trim_start_matches('/'))).doing(|| format!("making {path} in the image"))?;
    }
    Ok(())
}

/// Says what is encrypted, and gives the initramfs the passphrases that it is to have.
fn crypttab(image: &Inside, disk: &Disk) -> io::Result<()> {
    let text = disk.crypttab();
    if text.is_empty() {
        return Ok(());
    }
    image.write(Path::new("etc/crypttab"), text.as_bytes(), 0o644)?;
    let mut has_keys = false;
    for (path, key) in disk.key_files() {
        image.write(Path::new(path.trim_start_matches('/')), key, 0o400)?;
        has_keys = true;
    }
    if has_keys { luks::take_keys(image) } else { Ok(()) }
}

/// Removes logs and caches of the build, which would make each image of the same IMGBUILD different, and what packages
/// made in the build that must differ from machine to machine.
fn tidy(image: &Inside, inputs: &[Input]) {
    let logs = [
        "alternatives.log",
        "bootstrap.log",
        "dpkg.log",
        "apt/history.log",
        "apt/term.log",
        "apt/eipp.log.xz",
        "pacman.log",
    ];
    for path in
        logs.map(|name| format!("var/log/{name}")).iter().map(String::as_str).chain(["var/cache/ldconfig/aux-cache"])
    {
        let _ = image.remove(Path::new(path));
    }
    // D-Bus takes /etc/machine-id where it has none of its own.
    let id = Path::new("var/lib/dbus/machine-id");
    let is_file = |found: Stat| FileType::from_raw_mode(found.st_mode).is_file();
    if image.look(id).ok().flatten().is_some_and(is_file) && !inputs.iter().any(|input| input.path == id) {
        let _ = image.remove(id);
    }
    chroot::forget_resolver(image);
}

fn finish(
    job: &Job,
    context: &Context,
    machine: Option<&Machine<'_>>,
    disk: Option<Disk>,
    root: &Path,
) -> Result<Option<PathBuf>, Problem> {
    context.cancel.check()?;
    if machine.is_some() {
        context.report.step("partition table");
        return disk.map_or(Ok(()), |disk| disk.finish(context)).map(|()| None);
    }
    write_result(job, context, disk, root)
}

#[cfg(not(feature = "images"))]
fn write_result(_: &Job, _: &Context, _: Option<Disk>, _: &Path) -> Result<Option<PathBuf>, Problem> {
    Err(Problem::build("this makeimg builds on a machine's own disk only"))
}

#[cfg(feature = "images")]
fn write_result(job: &Job, context: &Context, disk: Option<Disk>, root: &Path) -> Result<Option<PathBuf>, Problem> {
    let Some(output) = job.output() else { return Ok(None) };
    context.report.step(format!("write {}", output.display()));
    let (settings, result) = (&job.imgbuild.settings, job.work.join("result"));
    let made = match (&settings.format, disk) {
        (Format::Tar(compression), _) => output::tar(context, root, &result, *compression).map(|()| result)?,
        (Format::Squashfs(squash), _) => output::squashfs(context, root, &result, *squash).map(|()| result)?,
        (Format::Oci(compression), _) => {
            let layer = output::oci::Layer { root, compression: *compression };
            output::oci::write(context, &settings.imgname, &layer, &job.work, &result)?;
            result
        }
        (Format::Raw { kind, .. }, Some(disk)) => {
            disk.finish(context)?;
            output::disk(context, job.work.join("image"), result, *kind)?
        }
        _ => output::directory(root)?,
    };
    context.cancel.check()?;
    for ending in crate::manifest::ENDINGS {
        let (made, to) = (job.work.join(ending), output.with_file_name(format!("{}.{ending}", settings.imgname)));
        if made.exists() {
            fs::rename(&made, &to).doing(|| format!("moving a manifest to {}", to.display()))?;
        }
    }
    fs::rename(&made, &output).doing(|| format!("moving the result to {}", output.display()))?;
    Ok(Some(output))
}
