//! The command `makeimg`.

mod cli;
mod screen;

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use clap::{CommandFactory, Parser};
use makeimg::build::Job;
use makeimg::problem::Problem;
use makeimg::project::{self, Request};
use makeimg::settings::Format;
use makeimg::{command, look, secrets, settings, supervise};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::screen::Screen;

/// The exit status when the input is wrong, as opposed to the build.
const BAD_INPUT: u8 = 2;

fn main() -> ExitCode {
    // Parts of a build, which only this program starts.
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    match &args[..] {
        [word] if word == "worker" => return supervise::work(),
        [word, tree, words @ ..] if word == "enter" => {
            let words: Vec<String> = words.iter().map(|word| word.to_string_lossy().into_owned()).collect();
            return look::enter(Path::new(tree), &words).unwrap_or_else(|problem| say(&problem));
        }
        [word, path] if word == "keeper" => return supervise::keep(Path::new(path)),
        _ => {}
    }
    let cli = cli::Cli::parse();
    match cli.command {
        Some(cli::Command::Check(args)) => check(&args.inputs),
        Some(cli::Command::Build(args)) => build(args),
        Some(cli::Command::Run(args)) => run(&args),
        Some(cli::Command::Shell(args)) => shell(&args),
        Some(cli::Command::Reveal(args)) => reveal(args),
        None => build(cli.build),
    }
}

fn request(inputs: &cli::Inputs) -> Request {
    let (project, dirs) = (inputs.directory.clone(), inputs.dirs.clone());
    Request { project, dirs, output_dir: PathBuf::from("."), ..Request::default() }
}

fn check(inputs: &cli::Inputs) -> ExitCode {
    let read = project::read(&request(inputs));
    let mut screen = Screen::new(inputs.json, false);
    let warnings = read.warnings.len();
    screen.warnings(&read.warnings);
    let fits = |job: Job| match job.disk_problem() {
        Some(problem) => Err(vec![problem]),
        None => Ok(job),
    };
    match read.job.and_then(fits) {
        Ok(job) => {
            if !inputs.json {
                let settings = &job.imgbuild.settings;
                let count = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
                screen::say(&format!(
                    "{}: {}, {}{}",
                    settings.imgname,
                    count(settings.packages.len(), "package"),
                    count(job.inputs.len(), "input"),
                    if warnings == 0 { String::new() } else { format!(", {}", count(warnings, "warning")) }
                ));
            }
            ExitCode::SUCCESS
        }
        Err(problems) => {
            screen.problems(&problems);
            ExitCode::from(BAD_INPUT)
        }
    }
}

/// What of capabilities(7) this process lacks that mounting and making device nodes take.
fn lacks_capability() -> Option<&'static str> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    let effective = u64::from_str_radix(effective.trim(), 16).ok()?;
    // Their numbers (linux/capability.h).
    let needed = [(21, "CAP_SYS_ADMIN"), (27, "CAP_MKNOD"), (18, "CAP_SYS_CHROOT"), (0, "CAP_CHOWN")];
    needed.iter().find(|(bit, _)| effective >> bit & 1 == 0).map(|(_, name)| *name)
}

/// What an option says, or else a variable of the environment.
fn given(option: Option<String>, name: &str) -> Option<String> {
    option.or_else(|| std::env::var(name).ok()).filter(|text| !text.is_empty())
}

fn build(args: cli::Build) -> ExitCode {
    let mut screen = Screen::new(args.inputs.json, args.verbose);
    let reveal = given(args.reveal, "MAKEIMG_REVEAL");
    let mirror = given(args.mirror, "MAKEIMG_MIRROR");
    let security = given(args.security_mirror, "MAKEIMG_SECURITY_MIRROR");
    let cache = match args.cache.or_else(|| std::env::var("MAKEIMG_CACHE").ok().filter(|dir| !dir.is_empty())) {
        Some(dir) if dir.is_empty() => default_cache(),
        dir => dir.map(PathBuf::from),
    };
    let cache = cache.map(|dir| std::path::absolute(&dir).unwrap_or(dir));
    let format = args.format.filter(|format| !format.trim().is_empty());
    let mut request = Request { format, reveal, mirror, security, ..request(&args.inputs) };
    if let Some(output) = args.output {
        request.output_dir = output;
    }
    let read = project::read(&request);
    screen.warnings(&read.warnings);
    let job = match read.job {
        Ok(job) => Job { cache, keep_failed: args.keep_failed, ..job },
        Err(mut problems) => {
            mistyped(&args.inputs.dirs, &mut problems);
            screen.problems(&problems);
            return ExitCode::from(BAD_INPUT);
        }
    };
    let mut problems = job.missing_tools();
    problems.extend(job.disk_problem());
    problems.extend(bad_epoch());
    problems.extend(lacks_rights());
    let failed = look::failed(&job.output_dir, &job.imgbuild.settings.imgname);
    if job.keep_failed && failed.exists() {
        let what = format!("{} is there already, of another build that failed", failed.display());
        problems.push(Problem::build(what).hint("remove it, or build without --keep-failed"));
    }
    if let Some(output) = job.output()
        && job.imgbuild.settings.format == Format::Dir
        && output.exists()
    {
        let what = format!("{} is there already, and a directory is not replaced", output.display());
        problems.push(Problem::build(what).hint("remove it, or say another --output"));
    }
    if !problems.is_empty() {
        screen.problems(&problems);
        return ExitCode::from(BAD_INPUT);
    }
    let failed = |screen: &mut Screen, problem: Problem| {
        screen.problems(&[problem]);
        ExitCode::FAILURE
    };
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(e) => return failed(&mut screen, Problem::build(format!("finding this program failed: {e}"))),
    };
    let mut signals = match Signals::new([SIGINT, SIGTERM, SIGHUP]) {
        Ok(signals) => signals,
        Err(e) => return failed(&mut screen, Problem::build(format!("waiting for signals failed: {e}"))),
    };
    let mut building = match supervise::start(&job, &program) {
        Ok(building) => building,
        Err(problem) => return failed(&mut screen, problem),
    };
    let mut stop = building.stopper();
    std::thread::spawn(move || signals.forever().for_each(|_| stop.stop()));
    if building.follow(|event| screen.show(&event)) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Where users' caches are (XDG Base Directory Specification).
fn default_cache() -> Option<PathBuf> {
    let dir = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|dir| dir.is_absolute());
    let caches = dir("XDG_CACHE_HOME").or_else(|| dir("HOME").map(|home| home.join(".cache")))?;
    Some(caches.join("makeimg"))
}

/// What is wrong with `SOURCE_DATE_EPOCH`, which programs in the image would take as they like.
fn bad_epoch() -> Option<Problem> {
    let epoch = std::env::var_os("SOURCE_DATE_EPOCH")?.to_string_lossy().into_owned();
    let is_number = epoch.parse::<u64>().is_ok();
    let hint = "seconds since 1970, as `git log -1 --format=%ct` prints them; or unset it";
    (!is_number).then(|| Problem::build(format!("SOURCE_DATE_EPOCH: {epoch:?} is no number")).hint(hint))
}

/// A command that is mistyped is taken for an input directory.
fn mistyped(dirs: &[PathBuf], problems: &mut [Problem]) {
    let cli = cli::Cli::command();
    let commands: Vec<&str> = cli.get_subcommands().map(clap::Command::get_name).collect();
    for problem in problems {
        let missing = problem.path.as_ref().filter(|path| dirs.contains(path) && !path.exists());
        if let Some(near) = missing.and_then(|path| settings::nearest(path.to_str()?, &commands)) {
            problem.hint = Some(format!("did you mean makeimg {near}?"));
        }
    }
}

fn say(problem: &Problem) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "makeimg: {problem}");
    ExitCode::from(BAD_INPUT)
}

/// What this user lacks to build, and to work in a tree.
fn lacks_rights() -> Option<Problem> {
    if !rustix::process::geteuid().is_root() {
        let what = "building an image takes root, for the owners of its files and for mounting";
        return Some(Problem::build(what).hint("use sudo"));
    }
    let lacks = lacks_capability()?;
    let what = format!("this is root without {lacks}, as in a container, and building takes that");
    let hint = "build on a machine or in a virtual machine, or give the container what it lacks (--privileged)";
    Some(Problem::build(what).hint(hint))
}

fn shell(args: &cli::Shell) -> ExitCode {
    if !args.tree.is_dir() {
        let what = format!("there is no directory {}", args.tree.display());
        return say(&Problem::build(what).hint("`makeimg build --keep-failed` keeps one if it fails"));
    }
    if let Some(problem) = lacks_rights() {
        return say(&problem);
    }
    let program = std::env::current_exe().map_err(|e| Problem::build(format!("finding this program failed: {e}")));
    program.and_then(|program| look::shell(&program, &args.tree, &args.command)).unwrap_or_else(|problem| say(&problem))
}

fn reveal(args: cli::Reveal) -> ExitCode {
    let Some(command) = given(args.reveal, "MAKEIMG_REVEAL") else {
        return say(&Problem::build("no command reveals secrets").hint("say --reveal COMMAND"));
    };
    let mut output = std::io::stdout();
    if let Some(file) = args.file {
        return match secrets::reveal(&file, &command) {
            Ok(bytes) if output.write_all(&bytes).is_ok() => ExitCode::SUCCESS,
            Ok(_) => ExitCode::FAILURE,
            Err(problem) => say(&problem),
        };
    }
    let files = match secrets::files(&args.directory) {
        Ok(files) => files,
        Err(problems) => {
            Screen::new(false, false).problems(&problems);
            return ExitCode::from(BAD_INPUT);
        }
    };
    let mut code = ExitCode::SUCCESS;
    for (file, to) in files {
        let to = to.map_or_else(|| "a passphrase".to_owned(), |to| format!("/{}", to.display()));
        match secrets::reveal(&file, &command) {
            Ok(bytes) => drop(writeln!(output, "{}: {to}, {} bytes", file.display(), bytes.len())),
            Err(problem) => code = say(&problem),
        }
    }
    code
}

fn run(args: &cli::Run) -> ExitCode {
    let say = |problem: Problem| say(&problem);
    if !args.image.is_file() {
        return say(
            Problem::build(format!("there is no image {}", args.image.display())).hint("`makeimg build` makes one")
        );
    }
    let Some(qemu) = command::find("qemu-system-x86_64") else {
        return say(
            Problem::build("this machine has no qemu-system-x86_64").hint("install it (qemu-system-x86 on Debian)")
        );
    };
    let kvm = std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok();
    let accel = args.accel.clone().unwrap_or_else(|| if kvm { "kvm" } else { "tcg" }.into());
    let mut qemu = Command::new(qemu);
    qemu.args(["-accel", &accel, "-cpu", "max", "-m", &args.memory, "-nographic", "-no-reboot"]);
    let cache = if args.keep { "off" } else { "on" };
    // A comma in an option's value is written twice.
    let file = args.image.display().to_string().replace(',', ",,");
    let kind = if args.image.extension().is_some_and(|ending| ending == "qcow2") { "qcow2" } else { "raw" };
    qemu.arg("-drive").arg(format!("file={file},format={kind},if=virtio,snapshot={cache}"));
    if args.uefi {
        let firmware =
            ["/usr/share/ovmf/OVMF.fd", "/usr/share/edk2/x64/OVMF.4m.fd", "/usr/share/edk2/ovmf/OVMF_CODE.fd"];
        let Some(firmware) = firmware.iter().find(|path| Path::new(path).exists()) else {
            return say(
                Problem::build("this machine has no UEFI firmware for QEMU").hint("install it (ovmf on Debian)")
            );
        };
        qemu.args(["-bios", firmware]);
    }
    let forward = args.ssh.map(|port| format!(",hostfwd=tcp:127.0.0.1:{port}-:22")).unwrap_or_default();
    qemu.args(["-nic", &format!("user,model=virtio-net-pci{forward}")]);
    if std::io::stdout().is_terminal() {
        let _ = writeln!(std::io::stderr(), "makeimg: Ctrl-A X ends the machine");
    }
    let error = std::os::unix::process::CommandExt::exec(&mut qemu);
    say(Problem::build(format!("starting QEMU failed: {error}")))
}
