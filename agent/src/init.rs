//! PID 1: makes the machine usable, starts the agent, reaps processes, starts the agent again, held, if it ends or
//! hangs, and feeds the watchdogs. [`Supervisor`] decides; here is what it sees and does.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel};
use std::time::Duration;

use anemos_host::Root;
use anemos_host::deadline::within;
use anemos_proto::config::Deadlines;
use rustix::io::FdFlags;
use rustix::mount::{MountFlags, mount, mount_remount};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, wait};
use rustix::system::{RebootCommand, reboot, sethostname};

use crate::console::say;
use crate::given::{self, PROBLEMS};
use crate::heart::Beat;
use crate::paths::{CGROUPS, Paths};
use crate::reset::{self, Way};
use crate::supervisor::{Action, Input, Supervisor};
use crate::watchdog::{self, Order, Watchdogs, Word};
use crate::writes::{self, Counts};
use crate::{clock, detectors, memory, modules};

/// Time for each of the modules that the network needs to load.
const FIRST_MODULES: Duration = Duration::from_secs(30);

/// How often init looks after everything, at least.
const PULSE: Duration = Duration::from_secs(1);

/// Time for data on its way to reach the disks before init reboots.
const SYNC: Duration = Duration::from_secs(30);

/// Runs as PID 1, for ever.
pub fn run() -> ! {
    let mut problems = Vec::new();
    let paths = Paths::host();
    make_machine(&paths, &mut problems);
    let deadlines = given::read_run(&paths).map(|run| run.deadlines).ok();
    let init = Init::new(&paths, deadlines);
    problems.extend(detectors::arm(&Root::host(), init.supervisor.hang_s()));
    prepare(&paths, &mut problems);
    // Loads only what the network needs, and watchdogs; the agent loads the others once a controller has heard of it.
    problems.extend(modules::load(&paths, "modules.first", FIRST_MODULES));
    let _ = fs::write(paths.run.join(PROBLEMS), problems.join("\n"));
    init.run()
}

/// Mounts a file system, and makes its directory if there is none.
fn mount_at(path: &str, kind: &CStr, flags: MountFlags, data: &CStr, problems: &mut Vec<String>) {
    let _ = fs::create_dir_all(path);
    // EINVAL: the kernel may be too old for the option.
    let mounted = mount(kind, path, kind, flags, data).or_else(|e| match e {
        rustix::io::Errno::INVAL if !data.is_empty() => mount(kind, path, kind, flags, c""),
        other => Err(other),
    });
    match mounted {
        // EBUSY: the kernel may have mounted /dev itself.
        Ok(()) | Err(rustix::io::Errno::BUSY) => {}
        Err(e) => problems.push(format!("can't mount {path}: {e}")),
    }
}

/// The mount table. The root file system is the kernel's own; /tmp is a directory in it.
fn mount_all(paths: &Paths, problems: &mut Vec<String>) {
    let usual = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let devices = MountFlags::NOSUID | MountFlags::NOEXEC;
    let shared = MountFlags::NOSUID | MountFlags::NODEV;
    mount_at("/proc", c"proc", usual, c"", problems);
    let base = given::read_host(paths).map_or(0, |host| host.base_size);
    let sizes = memory::sizes(paths, base);
    let limit = |size: u64, mode: &str| CString::new(format!("size={size},mode={mode}")).unwrap_or_default();
    let (shm, run) = (limit(sizes.shm, "1777"), limit(sizes.run, "0755"));
    let (own, payload) = (limit(sizes.agent, "0755"), limit(sizes.payload, "0755"));
    let (own_dir, payload_dir) = (paths.run.to_string_lossy(), paths.payload());
    let payload_dir = payload_dir.to_string_lossy();
    let mounts: [(&str, &CStr, MountFlags, &CStr); 8] = [
        ("/sys", c"sysfs", usual, c""),
        ("/dev", c"devtmpfs", MountFlags::NOSUID, c"mode=0755"),
        ("/dev/pts", c"devpts", devices, c"gid=5,mode=620,ptmxmode=666"),
        ("/dev/shm", c"tmpfs", shared, &shm),
        ("/run", c"tmpfs", shared, &run),
        // What fills /run or the payload's directory takes no room from the agent's log and archives.
        (&own_dir, c"tmpfs", shared, &own),
        (&payload_dir, c"tmpfs", shared, &payload),
        // A process in a namespace of cgroups can't leave the cgroup that is the namespace's root, nor change its
        // limits.
        (CGROUPS, c"cgroup2", usual, c"nsdelegate"),
    ];
    for (path, kind, flags, data) in mounts {
        mount_at(path, kind, flags, data, problems);
    }
    let root = CString::new(format!("size={}", sizes.root)).unwrap_or_default();
    if let Err(e) = mount_remount("/", MountFlags::empty(), &*root) {
        problems.push(format!("the size of the root file system can't be set: {e}"));
    }
    let _ = fs::create_dir_all("/tmp");
    let _ = fs::set_permissions("/tmp", fs::Permissions::from_mode(0o1777));
}

fn make_machine(paths: &Paths, problems: &mut Vec<String>) {
    mount_all(paths, problems);
    for (link, to) in [
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "/proc/self/fd/0"),
        ("/dev/stdout", "/proc/self/fd/1"),
        ("/dev/stderr", "/proc/self/fd/2"),
    ] {
        let _ = symlink(to, link);
    }
    if let Ok(console) = OpenOptions::new().read(true).write(true).open("/dev/console") {
        let _ = rustix::stdio::dup2_stdin(&console);
        let _ = rustix::stdio::dup2_stdout(&console);
        let _ = rustix::stdio::dup2_stderr(&console);
    }
    // Keeps kernel messages below a warning off the screen, which is for what the agent says.
    let _ = crate::sys::set_console_level(5);
    if let Err(e) = reboot(RebootCommand::CadOff) {
        problems.push(format!("Ctrl-Alt-Del still reboots: {e}"));
    }
    // When memory runs out, the kernel must not kill init or the agent, which inherits this.
    let _ = fs::write("/proc/self/oom_score_adj", "-1000");
}

fn prepare(paths: &Paths, problems: &mut Vec<String>) {
    let _ = fs::create_dir_all(&paths.run);
    match given::read_host(paths) {
        Ok(host) => {
            let feed = OpenOptions::new().write(true).open("/dev/urandom");
            if let Err(e) = feed.and_then(|random| crate::sys::add_entropy(&random, host.random_seed.expose())) {
                problems.push(format!("the random seed can't be used: {e}"));
            }
            if let Err(e) = sethostname(host.network.hostname.as_bytes()) {
                problems.push(format!("the host's name can't be set: {e}"));
            }
        }
        // The agent fails by itself if it needs what is missing.
        Err(e) => problems.push(e),
    }
}

/// What init works with while it supervises the agent.
struct Init<'a> {
    paths: &'a Paths,
    supervisor: Supervisor,
    /// The agent's process, while there is one.
    agent: Option<Pid>,
    /// How many agents were started.
    started: u32,
    /// What the kernel had counted before anything could be written.
    baseline: Counts,
    watchdogs: Watchdogs,
    /// Where the watchdogs' threads take orders.
    orders: BTreeMap<String, SyncSender<Order>>,
    /// Where events come from, and where threads send them.
    events: (Sender<Event>, Receiver<Event>),
    /// Whether hangs are a reboot.
    guarded: bool,
}

/// What init's threads hear of.
enum Event {
    /// A byte from the agent with this number; `None`: its end of the pipe is closed.
    Heart(u32, Option<u8>),
    /// An answer of a watchdog's thread.
    Watchdog(String, Word),
}

impl<'a> Init<'a> {
    fn new(paths: &'a Paths, deadlines: Option<Deadlines>) -> Self {
        Self {
            paths,
            supervisor: Supervisor::new(deadlines, clock::uptime_ms()),
            agent: None,
            started: 0,
            baseline: writes::counts(&paths.tree),
            watchdogs: Watchdogs::default(),
            orders: BTreeMap::new(),
            events: channel(),
            guarded: true,
        }
    }

    /// Wakes every second at least, and waits for nothing that may never come: neither for a disk nor for a watchdog.
    fn run(mut self) -> ! {
        loop {
            match self.events.1.recv_timeout(PULSE) {
                Ok(Event::Heart(number, Some(byte))) if number == self.started => {
                    if let Some(beat) = Beat::of(byte) {
                        self.handle(Input::Beat(beat));
                    }
                }
                Ok(Event::Watchdog(name, word)) => {
                    if let Some(text) = self.watchdogs.told(clock::uptime_ms(), &name, word) {
                        say(&text);
                    }
                    // The agent tells of them when it is ready.
                    let _ = fs::write(self.paths.watchdogs(), self.watchdogs.list().join("\n"));
                }
                // The end of the pipe wakes init, which finds below whether the agent has ended.
                Ok(Event::Heart(..)) | Err(_) => {}
            }
            self.reap();
            self.look_for_writes();
            self.handle(Input::Tick);
            self.tend();
        }
    }

    fn handle(&mut self, input: Input) {
        for action in self.supervisor.handle(clock::uptime_ms(), input) {
            match action {
                Action::Start(held) => self.start(held),
                Action::Kill => {
                    if let Some(agent) = self.agent {
                        let _ = kill_process(agent, Signal::KILL);
                    }
                }
                Action::Say(text) => say(&text),
                Action::GoBack(why) => self.go_back(&why),
            }
        }
        if self.guarded && self.supervisor.is_written() {
            self.guarded = false;
            for problem in detectors::disarm(&Root::host()) {
                say(&problem);
            }
        }
    }

    fn start(&mut self, held: Option<String>) {
        let _ = fs::remove_file(self.paths.last_words());
        let mut command = Command::new("/init");
        command.arg("serve");
        if let Some(reason) = held {
            command.arg("--held").arg(reason);
        }
        self.started += 1;
        let (number, tell) = (self.started, self.events.0.clone());
        match start_with_heart(command, move |byte| drop(tell.send(Event::Heart(number, byte)))) {
            Ok(child) => self.agent = Pid::from_raw(child.id().cast_signed()),
            Err(e) => self.handle(Input::Ended(format!("the agent can't be started: {e}"))),
        }
    }

    /// Reaps every process that has ended.
    fn reap(&mut self) {
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) if Some(pid) == self.agent => {
                    self.agent = None;
                    let mut text = format!("the agent broke ({})", ExitStatus::from_raw(status.as_raw()));
                    let last_words = fs::read_to_string(self.paths.last_words()).unwrap_or_default();
                    if !last_words.is_empty() {
                        text = format!("{text}: {}", last_words.trim());
                    }
                    self.handle(Input::Ended(text));
                }
                Ok(Some(_)) | Err(rustix::io::Errno::INTR) => {}
                Ok(None) | Err(_) => return,
            }
        }
    }

    /// Looks for itself whether the kernel has counted a write, since the agent may hang.
    fn look_for_writes(&mut self) {
        let is_touched = || self.paths.raw_mark().exists() || !writes::touched(self.paths, &self.baseline).is_empty();
        if !self.supervisor.is_written() && is_touched() {
            self.handle(Input::Written);
        }
    }

    /// Takes new watchdogs, and gives those it has their orders.
    fn tend(&mut self) {
        let care = self.supervisor.care();
        let names = self.paths.tree.names("/sys/class/watchdog");
        let old = Path::new("/dev").join(watchdog::OLD).exists();
        for name in self.watchdogs.found(&names, old, care) {
            let (tell, to) = (self.events.0.clone(), name.clone());
            let tell = move |word| drop(tell.send(Event::Watchdog(to.clone(), word)));
            match watchdog::keep(Path::new("/dev").join(&name), self.supervisor.hang_s(), tell) {
                Ok(orders) => drop(self.orders.insert(name, orders)),
                Err(e) => say(&format!("{name} can't be used: {e}")),
            }
        }
        for (name, order) in self.watchdogs.orders(clock::uptime_ms(), care) {
            if let Some(orders) = self.orders.get(&name) {
                // A full queue means that its driver hangs.
                let _ = orders.try_send(order);
            }
        }
    }

    /// Reboots into the old system, unless a write is counted once every process is ended. That none is proves nothing,
    /// since data may still be on its way to a disk, so init doesn't claim that nothing was written.
    fn go_back(&mut self, why: &str) {
        say(&format!("{why}, and no write was counted: going back to the old system"));
        crate::sys::kill_all_others();
        within(SYNC, rustix::fs::sync);
        self.look_for_writes();
        if !self.supervisor.is_written() {
            reset::leave(Way::Restart);
        }
    }
}

/// Starts an agent with a pipe to init, and a thread that tells of each byte in it.
fn start_with_heart(mut command: Command, tell: impl Fn(Option<u8>) + Send + 'static) -> io::Result<Child> {
    let (mut reader, writer) = io::pipe()?;
    std::thread::Builder::new().name("heart".into()).spawn(move || {
        let mut byte = [0];
        while reader.read_exact(&mut byte).is_ok() {
            tell(Some(byte[0]));
        }
        tell(None);
    })?;
    // Only the agent gets this end: init starts nothing else meanwhile, and the agent keeps it from what it starts.
    rustix::io::fcntl_setfd(&writer, FdFlags::empty())?;
    command.arg("--heart").arg(writer.as_raw_fd().to_string()).spawn()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A shell stands for the agent.
    #[test]
    fn init_hears_what_the_agent_sends_and_when_it_stops() -> io::Result<()> {
        let (tell, told) = channel();
        let mut command = Command::new("sh");
        command.args(["-c", r#"printf aw > "/proc/self/fd/$2"; read _"#, "agent"]).stdin(std::process::Stdio::piped());
        let mut child = start_with_heart(command, move |byte| {
            let _ = tell.send(byte);
        })?;
        let wait = || told.recv_timeout(Duration::from_secs(30)).unwrap();
        assert_eq!([wait(), wait()], [Some(b'a'), Some(b'w')]);
        drop(child.stdin.take());
        child.wait()?;
        assert_eq!(wait(), None);
        Ok(())
    }
}
