//! Many hosts of one daemon: each has a real agent in a trial of its own, which is reached over real SSH. Only what
//! comes before and after the agent is played. It takes minutes and memory, so `make many` runs it.

#[path = "hostile/carried.rs"]
mod carried;
#[path = "hostile/daemon.rs"]
#[allow(dead_code, reason = "tests/serve.rs and tests/web.rs need more of it")]
mod daemon;
#[path = "hostile/host.rs"]
#[allow(dead_code, reason = "the hostile hosts need more of it")]
mod host;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anemos_proto::Secret;
use anemos_proto::codec::to_bytes;
use anemos_proto::config::{HostConfig, RunConfig};
use anemos_proto::host::Firmware;
use anemos_proto::ids::Digest;
use anemos_proto::net::NetworkState;
use anemos_proto::stage::{StageReply, Staged};
use daemon::Workstation;
use host::{Boot, Host, Script, Wire};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::sync::Mutex;

/// What the daemon may take for all of them, in bytes, when as many go at once as by default: docs/BENCHMARKS.md says
/// what was measured, and what takes it.
const MOST: u64 = 300 << 20;

/// Lines that each payload prints.
const LINES: u64 = 200;

/// All hosts have ended by then, also on a machine that has much else to do.
const ALL: Duration = Duration::from_secs(3600);

/// A number that the environment may change.
fn number(name: &str, otherwise: usize) -> usize {
    std::env::var(name).map_or(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// A host with a real agent.
#[derive(Clone)]
struct Real {
    number: u16,
    dir: Arc<TempDir>,
    /// Where the daemon's runs are.
    runs: PathBuf,
    agent: Arc<Mutex<Option<Child>>>,
    /// How often it was prepared.
    staged: Arc<AtomicU32>,
}

impl Real {
    fn new(number: u16, runs: &Path) -> Self {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        Self { number, dir, runs: runs.into(), agent: Arc::default(), staged: Arc::default() }
    }

    /// What a stage leaves for the agent, and what the agent looks at of its machine.
    fn lay_out(&self, run: &RunConfig, host: &Host) {
        let root = self.dir.path();
        for dir in ["anemos", "root", "sys/block", "sys/devices/pci0/vda", "target/etc/ssh"] {
            fs::create_dir_all(root.join(dir)).unwrap();
        }
        let disk = &run.disks[0];
        let sectors = format!("{}\n", disk.size / 512);
        let serial = format!("{}\n", disk.serial.as_ref().unwrap());
        for (file, text) in
            [("size", &*sectors), ("serial", &*serial), ("dev", "254:0\n"), ("stat", "0 0 0 0 0 0 0 0\n")]
        {
            fs::write(root.join("sys/devices/pci0/vda").join(file), text).unwrap();
        }
        let _ = fs::remove_file(root.join("sys/block/vda"));
        std::os::unix::fs::symlink("../devices/pci0/vda", root.join("sys/block/vda")).unwrap();
        fs::write(root.join("target/etc/ssh/ssh_host_ed25519_key.pub"), host.key_line() + "\n").unwrap();
        let base = [entry("etc", 0o040_755), entry("TRAILER!!!", 0)].concat();
        let config = HostConfig {
            network: NetworkState { hostname: run.host.clone(), ..NetworkState::default() },
            ssh_port: 22,
            ssh_identity: Vec::new(),
            firmware: Firmware::Bios,
            arch: "x86_64".into(),
            kernel_release: "6.1".into(),
            mirror: None,
            security_mirror: None,
            base: sha256(&sha256(&base).0),
            base_size: base.len() as u64,
            disks: Vec::new(),
            random_seed: Secret::default(),
            wall_ms: 0,
            proxies: Vec::new(),
            seed_cache: Vec::new(),
        };
        // The daemon keeps what it would have sent, by its digest.
        let payload = self.runs.join(run.run.as_str()).join("order").join(run.payload.to_string());
        fs::copy(payload, root.join("anemos/payload.tar.zst")).unwrap();
        fs::write(root.join("anemos/run.bin"), to_bytes(run).unwrap()).unwrap();
        fs::write(root.join("anemos/host.bin"), to_bytes(&config).unwrap()).unwrap();
        fs::write(root.join("anemos/base-00.cpio.zst"), zstd::bulk::compress(&base, 3).unwrap()).unwrap();
    }

    /// Starts the agent, and returns once it listens. Every one has a loopback address of its own: of hundreds that are
    /// started together, two would be given the same free port.
    async fn start(&self, host: &Arc<Host>) {
        let run = host.run().expect("the stage has it");
        self.lay_out(&run, host);
        let [high, low] = self.number.to_be_bytes();
        // Another run of this test may be going on.
        let ours = 1 + u8::try_from(std::process::id() % 250).unwrap();
        let own = Ipv4Addr::new(127, ours, high, low);
        let address = TcpListener::bind((own, 0)).await.unwrap().local_addr().unwrap();
        let mut command = Command::new(executable());
        command.arg("serve").arg("--root").arg(self.dir.path()).args(["--listen", &address.to_string()]);
        let log = fs::File::create(self.dir.path().join("agent.log")).unwrap();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).kill_on_drop(true);
        *self.agent.lock().await = Some(command.spawn().unwrap());
        let until = Instant::now() + ALL;
        while TcpStream::connect(address).await.is_err() {
            assert!(Instant::now() < until, "{}", self.said());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        host.stand_in(address);
        let (real, host) = (self.clone(), Arc::clone(host));
        tokio::spawn(async move { real.turn_when_left(&host).await });
    }

    /// Has the new system answer once the agent has left.
    async fn turn_when_left(&self, host: &Host) {
        while !fs::read_to_string(self.dir.path().join("run/left")).is_ok_and(|text| text.ends_with('\n')) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        *self.agent.lock().await = None;
        host.turn_into(Boot::New);
    }

    fn said(&self) -> String {
        fs::read_to_string(self.dir.path().join("agent.log")).unwrap_or_default()
    }
}

impl Script for Real {
    async fn stage(&self, wire: &mut Wire) -> bool {
        self.staged.fetch_add(1, Ordering::Relaxed);
        let host = wire.host();
        self.start(&host).await;
        wire.say(&StageReply::Need(Vec::new())).await;
        wire.say(&StageReply::Staged(Staged { initramfs_bytes: 1, downloaded_bytes: 1 })).await;
        true
    }

    async fn command(&self, wire: &mut Wire, command: &str) {
        if !command.contains("true check") {
            wire.send(b"anemos: boot new\nanemos: root 56-78\nanemos: os New\n".to_vec()).await;
        }
    }
}

/// The agent of the build that is tested, with its symbols.
fn executable() -> PathBuf {
    let beside = Path::new(env!("CARGO_BIN_EXE_anemos")).with_file_name("anemos-agent");
    std::env::var_os("ANEMOS_AGENT_BIN").map_or(beside, PathBuf::from)
}

fn sha256(bytes: &[u8]) -> Digest {
    Digest(ring::digest::digest(&ring::digest::SHA256, bytes).as_ref().try_into().unwrap())
}

/// An entry without content of a cpio archive (newc, cpio(5)).
fn entry(name: &str, mode: u32) -> Vec<u8> {
    let name_size = name.len() + 1;
    let numbers = [1, mode, 0, 0, 1, 0, 0, 0, 0, 0, 0, u32::try_from(name_size).unwrap(), 0];
    let mut entry = b"070701".to_vec();
    for number in numbers {
        write!(entry, "{number:08X}").unwrap();
    }
    entry.extend_from_slice(name.as_bytes());
    entry.resize((entry.len() + 1).next_multiple_of(4), 0);
    entry
}

/// A field of a process' status, in bytes: proc_pid_status(5).
fn memory(process: u32, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() << 10
}

/// Subscribes to all of a run, and reads it to its end.
fn subscribe(socket: &Path, run: &str) -> Vec<Value> {
    let mut stream = UnixStream::connect(socket).unwrap();
    for request in [
        json!({"number": 1, "type": "hello", "api": 1}),
        json!({"number": 2, "type": "subscribe", "run": run, "after": {}}),
    ] {
        writeln!(stream, "{request}").unwrap();
    }
    let mut told = Vec::new();
    for line in BufReader::new(stream).lines() {
        let mut line: Value = serde_json::from_str(&line.unwrap()).unwrap();
        match line["type"].as_str().unwrap() {
            "welcome" => {}
            "line" => told.push(line["line"].take()),
            "end" => return told,
            _ => panic!("{line}"),
        }
    }
    panic!("the daemon hung up")
}

/// Five hundred hosts, sixteen at a time, and somebody who hears all of it: every host is deployed once, every line of
/// every payload is told once and in order, and the daemon takes less than its limit. `MANY_HOSTS` and `MANY_PARALLEL`
/// in the environment are other numbers.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes; `make many` runs it"]
async fn hundreds_of_hosts_are_no_burden() {
    let count = number("MANY_HOSTS", 500);
    let parallel = number("MANY_PARALLEL", 16);
    // Connections and listeners of as many hosts are in this one process.
    let mut files = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    files.current = files.maximum;
    rustix::process::setrlimit(rustix::process::Resource::Nofile, files).unwrap();
    let workstation = Workstation::new(&[], &[]);
    let runs = workstation.path("state/anemos/runs");
    let mut hosts = Vec::new();
    for number in 1..=u16::try_from(count).unwrap() {
        let real = Real::new(number, &runs);
        hosts.push((format!("h{number:03}"), Host::start(number, real.clone()).await, real));
    }
    tokio::task::spawn_blocking(move || many(workstation, &hosts, parallel)).await.unwrap();
}

fn many(mut workstation: Workstation, hosts: &[(String, Arc<Host>, Real)], parallel: usize) {
    let payload = format!("#!/bin/sh\nfor i in $(seq {LINES}); do echo \"line $i of what a payload prints\"; done\n");
    fs::write(workstation.path("payload/deploy"), payload).unwrap();
    let mut toml = fs::read_to_string(workstation.path("hosts.toml")).unwrap();
    // On two processors, some wait for long.
    toml = toml.replace("connect = \"2m\", verify = \"3m\"", "connect = \"1h\", boot = \"1h\", verify = \"1h\"");
    let mut known = String::new();
    for (name, host, _) in hosts {
        toml.extend([format!("[hosts.{name}]\naddress = \"127.0.0.1\"\nport = {}\n", host.address.port())]);
        known += &host.known_hosts_line();
    }
    fs::write(workstation.path("hosts.toml"), toml).unwrap();
    fs::write(workstation.path("known_hosts"), known).unwrap();
    let daemon = workstation.daemon.as_ref().unwrap().id();
    let empty = memory(daemon, "VmHWM");
    let began = Instant::now();
    let mut up = workstation.up_with(&["--no-canary", "--parallel", &parallel.to_string()]);
    let until = began + ALL;
    while !workstation.up_said().contains("\"planned\"") && !workstation.up_said().contains("\"plan\"") {
        assert!(up.try_wait().unwrap().is_none() && Instant::now() < until, "{}", workstation.up_said());
        std::thread::sleep(Duration::from_millis(200));
    }
    let run = workstation.run().file_name().unwrap().to_str().unwrap().to_owned();
    let socket = workstation.path("runtime/anemos/socket");
    let hearing = std::thread::spawn(move || subscribe(&socket, &run));
    let code = loop {
        if let Some(status) = up.try_wait().unwrap() {
            break status.code();
        }
        assert!(Instant::now() < until, "it does not end: {}", workstation.said());
        std::thread::sleep(Duration::from_millis(500));
    };
    let told = hearing.join().unwrap();
    let most = memory(daemon, "VmHWM");
    let mib = |bytes: u64| bytes >> 20;
    eprintln!(
        "{} hosts, {parallel} at a time, in {}s: the daemon took {} MiB at most, {} of them before",
        hosts.len(),
        began.elapsed().as_secs(),
        mib(most),
        mib(empty)
    );
    assert_eq!(code, Some(0), "{}", workstation.said());
    let mut by_host: BTreeMap<&str, Vec<&Value>> = BTreeMap::new();
    for line in &told {
        by_host.entry(line["host"].as_str().unwrap()).or_default().push(line);
    }
    assert_eq!(by_host.len(), hosts.len());
    for (name, host, real) in hosts {
        let told = &by_host[name.as_str()];
        assert_eq!((host.boots(), real.staged.load(Ordering::Relaxed)), (1, 1), "{name}: {}", real.said());
        let numbers: Vec<u64> = told.iter().filter_map(|line| line["number"].as_u64()).collect();
        assert_eq!(numbers, (1..=told.len() as u64).collect::<Vec<_>>(), "{name}");
        let printed: Vec<&str> = told.iter().filter_map(|line| line["text"].as_str()).collect();
        let printed: Vec<&str> = printed.into_iter().filter(|text| text.starts_with("line ")).collect();
        let wanted: Vec<String> = (1..=LINES).map(|i| format!("line {i} of what a payload prints")).collect();
        assert_eq!(printed, wanted, "{name}");
        let ends: Vec<&Value> = told.iter().filter(|l| l["type"] == "summary").map(|l| &l["outcome"]).collect();
        assert_eq!(ends, ["deployed"], "{name}: {}", real.said());
    }
    workstation.kill();
    assert!(parallel > 16 || most < MOST, "the daemon took {} MiB", mib(most));
}
