//! Running a build so that nothing of it outlives this process, however it ends.
//!
//! The build is a process with mount and PID namespaces of its own: nobody else sees what it mounts, and when its first
//! process ends, which ends with this process, the kernel ends all others. What namespaces don't hold (files, loop
//! devices) is removed by a keeper: a process in a process group of its own, which waits until this process has ended.

use std::fs::{self, File, TryLockError};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::build::{self, Job};
use crate::command::{Cancel, Context, find};
use crate::output;
use crate::problem::{Doing, Problem};
use crate::report::{Event, Report};

/// How long the kernel may take to let go of what a killed build had open.
const LET_GO: Duration = Duration::from_secs(30);

/// A build that goes on.
#[derive(Debug)]
pub struct Building {
    build: Child,
    control: Option<ChildStdin>,
    keeper: Child,
    work: PathBuf,
    /// Its lock shows other builds that the working directory is in use.
    lock: File,
}

/// What stops a build.
#[derive(Debug)]
pub struct Stop {
    control: Option<ChildStdin>,
    build: rustix::process::Pid,
}

impl Stop {
    /// Called the first time, tells the build to end: it ends the program that runs, calls `cleanup` and sends its last
    /// event. Called again, kills it.
    pub fn stop(&mut self) {
        if self.control.take().is_none() {
            let _ = rustix::process::kill_process(self.build, rustix::process::Signal::KILL);
        }
    }
}

/// Starts a build. `program` must call [`work`] if its only argument is `worker`, and [`keep`] if its arguments are
/// `keeper` and a path.
///
/// # Errors
/// It can't be started.
pub fn start(job: &Job, program: &Path) -> Result<Building, Problem> {
    remove_stale(&job.output_dir, &job.imgbuild.settings.imgname);
    let work = &job.work;
    let lock = make_work(work).doing(|| format!("making {}", work.display()))?;
    let mut keeper = Command::new(program);
    keeper.arg("keeper").arg(work).stdin(Stdio::piped()).stdout(Stdio::null()).process_group(0);
    let keeper = match keeper.spawn() {
        Ok(keeper) => keeper,
        Err(e) => {
            let _ = fs::remove_dir_all(work);
            return Err(Problem::build(format!("starting {} failed: {e}", program.display())));
        }
    };
    let mut command = Command::new(find("setpriv").unwrap_or_else(|| "setpriv".into()));
    command.args(["--pdeathsig", "KILL", "--", "unshare", "--mount", "--propagation", "private", "--pid", "--fork"]);
    command.args(["--kill-child=SIGKILL", "--mount-proc", "--"]).arg(program).arg("worker");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0);
    let mut build = match command.spawn() {
        Ok(build) => build,
        Err(e) => {
            finish_keeper(keeper);
            return Err(Problem::build(format!("starting setpriv failed: {e}")));
        }
    };
    let mut control = build.stdin.take();
    let mut text = serde_json::to_vec(job).doing(|| "describing the build".into())?;
    text.push(b'\n');
    if let Some(control) = &mut control {
        // If it fails, the build's last word, or its lack, says why.
        let _ = control.write_all(&text);
    }
    Ok(Building { build, control, keeper, work: work.clone(), lock })
}

impl Building {
    /// What stops it.
    pub fn stopper(&mut self) -> Stop {
        Stop { control: self.control.take(), build: rustix::process::Pid::from_child(&self.build) }
    }

    /// Follows it to its end. Returns whether it was built; the last event says what or why not.
    pub fn follow(mut self, mut each: impl FnMut(Event)) -> bool {
        let mut ended = None;
        if let Some(output) = self.build.stdout.take() {
            for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
                let Ok(event) = serde_json::from_slice(&line) else { continue };
                match event {
                    Event::Built { .. } | Event::Failed { .. } => ended = Some(event),
                    event => each(event),
                }
            }
        }
        let status = self.build.wait();
        finish_keeper(self.keeper);
        // Also if the keeper was killed.
        let _ = remove(&self.work);
        drop(self.lock);
        let last = ended.unwrap_or_else(|| {
            let status = status.map_or_else(|e| e.to_string(), |status| status.to_string());
            Event::from(&Problem::build(format!("the build ended without a word ({status})")))
        });
        let built = matches!(last, Event::Built { .. });
        each(last);
        built
    }
}

fn finish_keeper(mut keeper: Child) {
    drop(keeper.stdin.take());
    let _ = keeper.wait();
}

/// Runs in the build's own process. Reads a [`Job`] from standard input, and stops when that ends. Events go to
/// standard output.
pub fn work() -> ExitCode {
    let context = Context { report: Arc::new(Report::json(io::stdout())), cancel: Cancel::default() };
    let mut input = BufReader::new(io::stdin());
    let mut text = String::new();
    let job = input.read_line(&mut text).map_err(|e| e.to_string());
    let job: Result<Job, String> = job.and_then(|_| serde_json::from_str(&text).map_err(|e| e.to_string()));
    let cancel = context.cancel.clone();
    std::thread::spawn(move || {
        let _ = io::copy(&mut input, &mut io::sink());
        cancel.cancel();
    });
    let built = job.doing(|| "reading what to build".into()).and_then(|job| build::run(&job, &context));
    match built {
        Ok(output) => {
            context.report.tell(&Event::Built { output: output.map(|path| path.display().to_string()) });
            ExitCode::SUCCESS
        }
        Err(problem) => {
            context.report.tell(&Event::from(&problem));
            ExitCode::FAILURE
        }
    }
}

/// The keeper's own process: waits for the end of standard input, then takes away what the build in `work` has left.
pub fn keep(work: &Path) -> ExitCode {
    // It ends when its work is done, also where all processes are told to end.
    #[cfg(feature = "cli")]
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT, signal_hook::consts::SIGHUP] {
        let _ = signal_hook::flag::register(signal, Arc::default());
    }
    let _ = io::copy(&mut io::stdin(), &mut io::sink());
    let until = Instant::now() + LET_GO;
    loop {
        // The kernel ends the build with whoever started it, but not at once.
        let gone = remove(work);
        if gone.is_ok() {
            return ExitCode::SUCCESS;
        }
        if Instant::now() > until {
            eprintln!(
                "makeimg: {} can't be removed: {}",
                work.display(),
                gone.err().map_or_else(String::new, |e| e.to_string())
            );
            return ExitCode::FAILURE;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Makes a working directory, locked before it has the name by which [`remove_stale`] knows it.
fn make_work(work: &Path) -> io::Result<File> {
    let mut new = work.to_owned().into_os_string();
    new.push(".new");
    fs::DirBuilder::new().mode(0o700).create(&new)?;
    let made = File::create(Path::new(&new).join("lock"))
        .and_then(|file| Ok(file.try_lock().map(|()| file)?))
        .and_then(|file| fs::rename(&new, work).map(|()| file));
    if made.is_err() {
        let _ = fs::remove_dir_all(&new);
    }
    made
}

/// Detaches loop devices of files in a directory, and removes it.
fn remove(work: &Path) -> io::Result<()> {
    for device in loops_in(work) {
        let losetup = find("losetup").unwrap_or_else(|| "losetup".into());
        Command::new(losetup).arg("--detach").arg(device).stderr(Stdio::null()).status()?;
    }
    // A loop device can only be found as long as its file exists.
    let left = loops_in(work);
    if !left.is_empty() {
        return Err(io::Error::other(format!("{} is still attached to it", left.join(", "))));
    }
    match fs::remove_dir_all(work) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// Loop devices of the image in a directory. They are found by the image's inode, because the path that the kernel
/// tells is of the build's mount namespace, which may be gone.
fn loops_in(work: &Path) -> Vec<String> {
    let image = fs::symlink_metadata(work.join("image")).ok().filter(fs::Metadata::is_file);
    let Some(image) = image else { return Vec::new() };
    let (major, minor) = (rustix::fs::major(image.dev()), rustix::fs::minor(image.dev()));
    let losetup = find("losetup").unwrap_or_else(|| "losetup".into());
    let list = Command::new(losetup).args(["--list", "--noheadings", "--output=BACK-MAJ:MIN,BACK-INO,NAME"]).output();
    let list = list.map(|list| String::from_utf8_lossy(&list.stdout).into_owned()).unwrap_or_default();
    let ours = |line: &str| {
        let mut words = line.split_whitespace();
        let of = words.next()? == format!("{major}:{minor}") && words.next()? == image.ino().to_string();
        of.then(|| words.next().map(str::to_owned)).flatten()
    };
    list.lines().filter_map(ours).collect()
}

/// Whether it is a working directory that only this user can have made, as [`make_work`] makes it. Others may write
/// where the result is to be, too.
fn is_own(work: &Path) -> bool {
    let found = fs::symlink_metadata(work).ok().filter(fs::Metadata::is_dir);
    let own =
        |found: fs::Metadata| found.uid() == rustix::process::geteuid().as_raw() && found.mode() & 0o7777 == 0o700;
    found.is_some_and(own)
}

/// Opens the lock of a working directory, which waits for nobody and leads nowhere.
fn open_lock(work: &Path) -> io::Result<File> {
    let flags = (rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK).bits().cast_signed();
    fs::OpenOptions::new().read(true).custom_flags(flags).open(work.join("lock"))
}

/// Removes what builds of this name left when the machine lost its power.
fn remove_stale(output_dir: &Path, imgname: &str) {
    let prefix = output::work_prefix(imgname);
    let entries = fs::read_dir(output_dir).into_iter().flatten().flatten();
    let stale: Vec<PathBuf> = entries
        .filter(|entry| {
            let name = entry.file_name();
            let number = name.to_str().and_then(|name| name.strip_prefix(&prefix));
            number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
        })
        .map(|entry| entry.path())
        .collect();
    for work in stale.into_iter().filter(|work| is_own(work)) {
        let file = open_lock(&work);
        if !matches!(file.as_ref().map(File::try_lock), Ok(Err(TryLockError::WouldBlock))) {
            let _ = remove(&work);
        }
    }
}
