//! A machine: one QEMU with a disk of its own, seen from outside as a provider's customer sees a server, plus a hand on
//! its power button, its cable and its serial line.

mod debugger;
pub mod net;
mod process;
mod spec;
pub mod switch;

pub use debugger::Debugger;
pub use net::Net;
pub use spec::{Boot, Bus, DataDisk, Disks, Firmware, Kernel, OnPanic, Snapshot, Spec};

use crate::image::Image;
use crate::link::Link;
use crate::qemu::Monitor;
use crate::ssh;
use crate::{Context, Error, Lab, Result, bail, evidence};
use net::{OTHER_PORT, Wiring};
use process::Process;
use ring::digest;
use serde_json::json;
use std::fs::{self, File};
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long a restored machine may take to answer SSH. It takes seconds; another machine may be using the processor.
const RESTORED: Duration = Duration::from_secs(90);

/// How long a guest may take to let go of a device that is to be unplugged. It takes seconds.
const UNPLUGGED: Duration = Duration::from_secs(60);

/// Size of an NVMe disk.
const NVME_MIB: u64 = 64;

/// The socket of QEMU's debugger, in the machine's directory.
const DEBUGGER: &str = "debugger.sock";

/// Linux' number for an input or output error.
const EIO: i32 = 5;

/// A command that prints the kernel's boot id.
const BOOT_ID: &str = "cat /proc/sys/kernel/random/boot_id";

/// A running (or ended) machine. Dropping it ends it.
pub struct Machine {
    lab: Lab,
    name: String,
    dir: PathBuf,
    process: Process,
    monitor: Monitor,
    link: Link,
    wiring: Wiring,
    host_keys: String,
    disks: Option<Disks>,
    net: Net,
    data_disk: Option<PathBuf>,
    nvme: Vec<String>,
}

impl Machine {
    /// Starts a machine from this image or snapshot, or from the disks that the specification has.
    pub(crate) fn start_from(lab: &Lab, spec: Spec, image: &Image, snapshot: Option<&Snapshot>) -> Result<Self> {
        if (spec.bmc || !spec.nvme.is_empty()) && snapshot.is_some() {
            bail!("a machine with NVMe disks or a BMC has to boot: there is no snapshot of one");
        }
        let dir = new_dir(lab, &spec.name)?;
        let disks = match (snapshot, &spec.boot) {
            (Some(snapshot), _) => snapshot.disks.over(&dir)?,
            (None, Boot::Disks(disks)) => disks.clone(),
            (None, _) => Disks::from_image(image, spec.firmware, &dir)?,
        };
        let wiring = Wiring::new(lab, spec.net, spec.archive, &dir)?;
        let mut command = spec::qemu(lab, &spec.name, &spec.hardware(), &dir, &disks)?;
        command.args(wiring.arguments());
        if spec.bmc {
            command.args(["-device", "ipmi-bmc-sim,id=bmc", "-device", "isa-ipmi-kcs,bmc=bmc"]);
        }
        for serial in &spec.nvme {
            let file = nvme_file(&dir, serial);
            spec::write_pattern(&file, NVME_MIB)?;
            spec::add_nvme(&mut command, serial, &file);
        }
        if let Some(snapshot) = snapshot {
            // The one form of migration that reads a plain file in every version of QEMU.
            command.arg("-incoming").arg(format!("exec:cat '{}'", snapshot.memory.display()));
        }
        if let Some(kernel) = &spec.kernel {
            kernel.arguments(&mut command, image);
        }
        evidence::note(format!("{} on its serial line", spec.name), dir.join("serial.log"));
        evidence::note(format!("{}'s processors at the end", spec.name), dir.join("processors.log"));
        let (process, stdin, stdout) = Process::start(command, &dir, Arc::clone(&wiring.namespace), spec.on_panic)?;
        let monitor = Monitor::new(stdin, stdout).map_err(|error| process.explain(&error))?;
        let link = Link::new(wiring.target(22))?;
        let mut machine = Self {
            lab: lab.clone(),
            name: spec.name,
            dir,
            process,
            monitor,
            link,
            wiring,
            host_keys: image.host_keys()?,
            disks: Some(disks),
            net: spec.net,
            data_disk: None,
            nvme: spec.nvme,
        };
        machine.known_hosts_file()?;
        if snapshot.is_some() {
            machine.monitor.wait("query-status", RESTORED, |status| Ok(status["status"] != "inmigrate"))?;
        }
        if let Some(disk) = spec.data_disk {
            machine.add_disk(disk)?;
        }
        if snapshot.is_some() {
            machine.monitor.execute("cont", &json!({}))?;
            machine.wait_ssh(RESTORED)?;
            machine.set_clock()?;
        }
        Ok(machine)
    }

    /// The name it was given.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its directory: serial log, QEMU's own words, known_hosts, disks.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Everything it said on its serial line.
    pub fn serial_log(&self) -> PathBuf {
        self.dir.join("serial.log")
    }

    /// The loopback port on which the guest's port 22 answers, through [`Machine::link`].
    pub fn port(&self) -> u16 {
        self.link.port()
    }

    /// The line to the guest's port 22.
    pub fn link(&self) -> &Link {
        &self.link
    }

    /// A further line, to another TCP port of the guest.
    pub fn line_to(&self, port: u16) -> Result<Link> {
        if let Some(request) = self.wiring.open(port) {
            self.forward(&request)?;
        }
        Link::new(self.wiring.target(port))
    }

    /// A line from 127.0.0.2 to port 22 of another address that the guest takes, by the same port as
    /// [`Machine::link`]'s. For a guest with DHCP.
    pub fn line_at(&self, guest: Ipv4Addr) -> Result<Link> {
        self.forward(&self.wiring.open_at(guest)?)?;
        let listener =
            TcpListener::bind(("127.0.0.2", self.link.port())).context("cannot listen at another address")?;
        Link::on(listener, self.wiring.target(OTHER_PORT))
    }

    fn forward(&self, request: &str) -> Result<()> {
        let refusal = self.monitor.human(request)?;
        if !refusal.trim().is_empty() {
            bail!("{}: {}", self.name, refusal.trim());
        }
        Ok(())
    }

    /// Leads [`Machine::link`] to an address that the guest took by itself.
    pub fn lead_to(&self, guest: IpAddr) -> Result<()> {
        self.link.redirect(self.wiring.target_at(guest)?);
        Ok(())
    }

    /// Another line to the guest's port 22.
    pub fn another_line(&self) -> Result<Link> {
        Link::new(self.wiring.target(22))
    }

    /// Runs a shell command on the machine over a line of its own, whatever is done to [`Machine::link`].
    pub fn ssh_aside(&self, script: &str, limit: Duration) -> Result<String> {
        let line = self.another_line()?;
        let known_hosts = self.dir.join(format!("known_hosts-{}", line.port()));
        fs::write(&known_hosts, ssh::known_hosts_lines(line.port(), &self.host_keys))
            .context(format!("cannot write {}", known_hosts.display()))?;
        self.run_ssh(ssh::client(line.port(), &self.lab.key(), &known_hosts), script, limit)
    }

    /// Limits the disk that the machine boots from to so many bytes a second; `None` lifts the limit.
    pub fn throttle_disk(&self, rate: Option<u64>) -> Result<()> {
        let rate = rate.unwrap_or(0);
        self.monitor
            .execute(
                "block_set_io_throttle",
                &json!({"device": "root0", "bps": rate, "bps_rd": 0, "bps_wr": 0, "iops": 0, "iops_rd": 0,
                    "iops_wr": 0}),
            )
            .map(drop)
    }

    /// Has the disk that the machine boots from answer nothing but errors from now on.
    pub fn fail_disk(&self) -> Result<()> {
        self.monitor.execute(
            "blockdev-add",
            &json!({"driver": "blkdebug", "node-name": "root-failing", "image": spec::ROOT_DISK,
                "inject-error": [{"event": "none", "errno": EIO, "once": false}]}),
        )?;
        self.monitor
            .execute(
                "blockdev-reopen",
                &json!({"options": [{"driver": "raw", "node-name": spec::ROOT, "file": "root-failing"}]}),
            )
            .map(drop)
    }

    /// Pulls the disk out that the machine boots from; the guest has let go of it when this returns.
    pub fn unplug_disk(&self) -> Result<()> {
        self.unplug(spec::ROOT)
    }

    /// Stops all processors, with a hand on them.
    pub fn debug(&self) -> Result<Debugger> {
        // QEMU takes commas and spaces in a path for its own, so it gets a name in its directory.
        let told = self.monitor.human(&format!("gdbserver unix:{DEBUGGER},server=on,wait=off"))?;
        let debugger = Debugger::connect(&self.dir.join(DEBUGGER));
        debugger.map_err(|error| Error::new(format!("{}: {error} ({})", self.name, told.trim())))
    }

    /// The archive's address as the guest sees it.
    pub fn archive_url(&self) -> String {
        net::archive_url(self.net)
    }

    /// Where past versions of the archive are as the guest sees it, with `@SNAPSHOTID@` for the time.
    pub fn snapshot_url(&self) -> String {
        format!("{}/snapshot/@SNAPSHOTID@/", self.archive_url().trim_end_matches("/debian"))
    }

    /// The old system's public host keys, one a line.
    pub fn host_keys(&self) -> &str {
        &self.host_keys
    }

    /// known_hosts lines for [`Machine::port`].
    pub fn known_hosts(&self) -> String {
        ssh::known_hosts_lines(self.port(), &self.host_keys)
    }

    /// A known_hosts file with [`Machine::known_hosts`].
    pub fn known_hosts_file(&self) -> Result<PathBuf> {
        let path = self.dir.join("known_hosts");
        fs::write(&path, self.known_hosts()).context(format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    /// An `ssh` command to the machine as root, with the host keys that it had when its image was built.
    pub fn ssh_command(&self) -> Command {
        ssh::client(self.port(), &self.lab.key(), &self.dir.join("known_hosts"))
    }

    /// Runs a shell command on the machine, at most a minute long, and gives its standard output.
    pub fn ssh(&self, script: &str) -> Result<String> {
        self.ssh_within(script, Duration::from_secs(60))
    }

    /// Runs a shell command on the machine.
    pub fn ssh_within(&self, script: &str, limit: Duration) -> Result<String> {
        self.run_ssh(self.ssh_command(), script, limit)
    }

    fn run_ssh(&self, mut client: Command, script: &str, limit: Duration) -> Result<String> {
        let what = format!("{}: ssh: {script}", self.name);
        let output = ssh::output_within(client.arg(script), limit).context(&what)?;
        ssh::success(&what, &output)
    }

    /// Waits until an SSH server's banner comes, or the machine has ended, or the time is over.
    pub fn wait_ssh(&self, limit: Duration) -> Result<String> {
        let end = Instant::now() + limit;
        let address: SocketAddr = ([127, 0, 0, 1], self.port()).into();
        loop {
            self.check()?;
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!(
                    "{}: no SSH banner within {} s; serial log {}",
                    self.name,
                    limit.as_secs(),
                    self.serial_log().display()
                );
            }
            let patience = left.min(Duration::from_secs(5)).max(Duration::from_millis(1));
            if let Ok(banner) = ssh::banner(address, patience) {
                return Ok(banner);
            }
            self.leave_menu();
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// Presses Enter while GRUB shows its menu. GRUB takes the time that a millisecond of the power management timer
    /// takes it for the processor's speed. A machine that is emulated beside another may be out of turn just then, and
    /// a menu of five seconds lasts minutes.
    fn leave_menu(&self) {
        let serial = self.serial();
        let shown = serial.rsplit_once("GNU GRUB").map(|(_, after)| after);
        if shown.is_some_and(|after| !after.contains("Loading ") && !after.contains("Linux version")) {
            // Whoever waits notices by itself that a machine has ended.
            let _ = self.monitor.execute("send-key", &json!({"keys": [{"type": "qcode", "data": "ret"}]}));
        }
    }

    /// Asks with a command that may run twice, again and again for a minute: OpenSSH lets nobody in for some seconds
    /// who knocked often while it was starting.
    pub fn ask(&self, question: &str) -> Result<String> {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            match self.ssh(question) {
                Err(error) if Instant::now() >= end => return Err(error),
                Err(_) => self.check()?,
                answer => return answer,
            }
            thread::sleep(Duration::from_secs(1));
        }
    }

    /// The kernel's boot id, as [`Machine::ask`] asks.
    pub fn boot_id(&self) -> Result<String> {
        Ok(self.ask(BOOT_ID)?.trim().to_owned())
    }

    fn ask_boot_id(&self) -> Result<String> {
        Ok(self.ssh(BOOT_ID)?.trim().to_owned())
    }

    /// Waits until the machine answers as itself with another boot id than `old`, and gives the new one.
    pub fn wait_boot(&self, old: &str, limit: Duration) -> Result<String> {
        let end = Instant::now() + limit;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            self.wait_ssh(left)?;
            match self.ask_boot_id() {
                Ok(id) if id != old => return Ok(id),
                _ => thread::sleep(Duration::from_millis(200)),
            }
        }
    }

    /// Plugs the cable in or pulls it.
    pub fn set_link(&self, up: bool) -> Result<()> {
        self.monitor.execute("set_link", &json!({"name": "nic0", "up": up})).map(drop)
    }

    /// Presses the reset button.
    pub fn reset(&self) -> Result<()> {
        self.monitor.execute("system_reset", &json!({})).map(drop)
    }

    /// Stops and starts the whole machine, as a hypervisor that is busy elsewhere.
    pub fn freeze(&self, frozen: bool) -> Result<()> {
        self.monitor.execute(if frozen { "stop" } else { "cont" }, &json!({})).map(drop)
    }

    /// Fails if the machine has ended, with the reason.
    pub fn check(&self) -> Result<()> {
        match self.process.ended() {
            Some(cause) => {
                Err(Error::new(format!("{} has ended: {cause}; serial log {}", self.name, self.serial_log().display())))
            }
            None => Ok(()),
        }
    }

    /// The first fatal line on the serial console, if there was one.
    pub fn panicked(&self) -> Option<String> {
        self.process.panicked()
    }

    /// Waits for the machine to end by itself and gives the cause.
    pub fn wait_end(&self, limit: Duration) -> Result<String> {
        self.process.wait(limit)
    }

    /// Waits until a text has appeared on the serial line.
    pub fn wait_serial(&self, text: &str, limit: Duration) -> Result<()> {
        let end = Instant::now() + limit;
        loop {
            let ended = self.check();
            if self.serial().contains(text) {
                return Ok(());
            }
            ended?;
            if Instant::now() >= end {
                bail!("{}: no {text:?} on the serial line within {} s", self.name, limit.as_secs());
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// What the serial line carried so far.
    pub fn serial(&self) -> String {
        fs::read(self.serial_log()).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// The data disk's file, if the machine has one.
    pub fn data_disk(&self) -> Option<&Path> {
        self.data_disk.as_deref()
    }

    /// Pulls the plug, with everything the guest has written on the disk, and gives the disks for another machine.
    pub fn into_disks(mut self) -> Result<Disks> {
        self.monitor.execute("quit", &json!({}))?;
        self.process.wait(Duration::from_secs(60))?;
        self.disks.take().ok_or_else(|| Error::new("the disks are gone"))
    }

    /// Ends this machine and boots its disks in a new one, which shares nothing else with it.
    pub fn boot_afresh(self, spec: Spec) -> Result<Self> {
        let lab = self.lab.clone();
        let disks = self.into_disks()?;
        Self::start(&lab, Spec { boot: Boot::Disks(disks), ..spec })
    }

    /// Plugs another disk into the running machine, full of bytes that are not zero, with this serial number; gives its
    /// file.
    pub fn plug_disk(&self, serial: &str, mib: u64) -> Result<PathBuf> {
        let path = self.dir.join(format!("{serial}.raw"));
        spec::write_pattern(&path, mib)?;
        self.monitor.execute(
            "blockdev-add",
            &json!({"driver": "raw", "node-name": serial, "file": {"driver": "file", "filename": path}}),
        )?;
        let device =
            json!({"driver": "virtio-blk-pci", "id": format!("disk-{serial}"), "drive": serial, "serial": serial});
        self.monitor.execute("device_add", &device)?;
        Ok(path)
    }

    /// The file of the NVMe disk with this serial number.
    pub fn nvme_disk(&self, serial: &str) -> PathBuf {
        nvme_file(&self.dir, serial)
    }

    /// Pulls the NVMe disk with this serial number out; the guest has let go of it when this returns.
    pub fn unplug_nvme(&self, serial: &str) -> Result<()> {
        self.unplug(&format!("nvme-{serial}"))
    }

    fn unplug(&self, device: &str) -> Result<()> {
        self.monitor.execute("device_del", &json!({"id": device}))?;
        let id = json!(device).to_string();
        self.monitor.wait("query-pci", UNPLUGGED, |buses| Ok(!buses.to_string().contains(&id)))
    }

    pub(crate) fn monitor(&self) -> &Monitor {
        &self.monitor
    }

    /// Adds a disk while the machine runs, so that snapshots need not know of it.
    fn add_disk(&mut self, disk: DataDisk) -> Result<()> {
        let mut device = json!({"driver": "virtio-blk-pci", "id": "disk1", "drive": "data0", "addr": "0x9"});
        device["serial"] = "anemos-data".into();
        let path = match disk {
            DataDisk::Pattern { mib } => {
                let path = self.dir.join("data.raw");
                spec::write_pattern(&path, mib)?;
                path
            }
            DataDisk::File(path) => path,
            DataDisk::Sectors4k { mib } => {
                let path = self.dir.join("data.raw");
                let file = File::create(&path).context(format!("cannot make {}", path.display()))?;
                file.set_len(mib << 20).context("cannot size the disk")?;
                for (property, value) in [("logical_block_size", 4096), ("physical_block_size", 4096), ("bootindex", 0)]
                {
                    device[property] = value.into();
                }
                path
            }
        };
        self.monitor.execute(
            "blockdev-add",
            &json!({"driver": "raw", "node-name": "data0", "file": {"driver": "file", "filename": path}}),
        )?;
        self.monitor.execute("device_add", &device)?;
        self.data_disk = Some(path);
        Ok(())
    }

    /// A restored machine believes it is still the moment of its snapshot.
    fn set_clock(&self) -> Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?.as_secs();
        self.ssh(&format!("date -u -s @{now} >/dev/null && hwclock --systohc --utc")).map(drop)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Somebody wants to look at the machine. Without its disks, which are taken for another one, it is no longer
        // wanted.
        if std::env::var_os("ANEMOS_LAB_WAIT").is_some() && self.disks.is_some() && self.process.ended().is_none() {
            eprintln!("{} still runs: {:?}\nPress Enter to end it.", self.name, self.ssh_command());
            let _ = std::io::stdin().read_line(&mut String::new());
        }
        // Where its processors were: all that is to be known of a machine that hung.
        if self.process.ended().is_none()
            && let Ok(registers) = self.monitor.human("info registers -a")
        {
            let told = |line: &&str| line.starts_with("CPU#") || line.contains("RIP=");
            let lines: String = registers.lines().filter(told).flat_map(|line| [line.trim_end(), "\n"]).collect();
            let _ = fs::write(self.dir.join("processors.log"), lines);
        }
        self.process.kill();
        // Logs stay; disks are large and no use without the machine, unless somebody took them.
        if std::env::var_os("ANEMOS_LAB_KEEP").is_none()
            && let Some(disks) = self.disks.take()
        {
            disks.remove();
            if let Some(path) = &self.data_disk {
                let _ = fs::remove_file(path);
            }
            for serial in &self.nvme {
                let _ = fs::remove_file(self.nvme_disk(serial));
            }
        }
    }
}

fn nvme_file(dir: &Path, serial: &str) -> PathBuf {
    dir.join(format!("nvme-{serial}.raw"))
}

/// SHA-256 of a file, in hexadecimal.
pub fn file_sha256(path: &Path) -> Result<String> {
    let mut file = File::open(path).context(format!("cannot open {}", path.display()))?;
    let mut digest = digest::Context::new(&digest::SHA256);
    let mut buffer = vec![0; 1 << 20];
    loop {
        let read = file.read(&mut buffer).context(format!("cannot read {}", path.display()))?;
        if read == 0 {
            return Ok(hex(digest.finish().as_ref()));
        }
        digest.update(&buffer[..read]);
    }
}

/// Bytes in hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]).map(|digit| char::from(DIGITS[usize::from(digit)])).collect()
}

/// Deletes the disks of machines whose lab was killed before it could.
pub(crate) fn remove_orphaned_disks(machines: &Path) {
    let Ok(entries) = fs::read_dir(machines) else { return };
    for dir in entries.flatten().map(|entry| entry.path()) {
        // NAME-PID-NUMBER, see `new_dir`.
        let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let owner = name.rsplit('-').nth(1).unwrap_or_default();
        if std::env::var_os("ANEMOS_LAB_KEEP").is_some() || Path::new("/proc").join(owner).exists() {
            continue;
        }
        // Most have none left.
        for file in fs::read_dir(&dir).into_iter().flatten().flatten().map(|entry| entry.path()) {
            if file.extension().is_some_and(|kind| kind == "qcow2" || kind == "raw") {
                let _ = fs::remove_file(file);
            }
        }
    }
}

fn new_dir(lab: &Lab, name: &str) -> Result<PathBuf> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let dir = lab.path("machines").join(format!("{name}-{}-{number}", std::process::id()));
    fs::create_dir_all(&dir).context(format!("cannot make {}", dir.display()))?;
    Ok(dir)
}
