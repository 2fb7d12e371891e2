//! Measurements, each beside what a user would do instead, on machines of the same kind, in the same minute.

pub mod images;

use crate::anemos::{Anemos, host_table};
use crate::archive::{Fault, Server, unpack};
use crate::machine::Machine;
use crate::{Context, Error, Lab, Result, Spec, bail, checkout};
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

const DEPLOYMENT: Duration = Duration::from_secs(900);
/// A kexec that says nothing for so long is not coming.
const KEXEC: Duration = Duration::from_secs(120);

/// Loads the network card's driver, takes the address that the host had, and knocks.
const INIT: &str = "#!/bin/busybox sh
/bin/busybox mount -t devtmpfs none /dev
for module in /modules/*; do /bin/busybox insmod $module; done
/bin/busybox ip link set eth0 up
/bin/busybox ip address add 10.0.2.15/24 dev eth0
until /bin/busybox wget -q -O /dev/null http://10.0.2.2/bench/up; do :; done
/bin/busybox sleep 600
";

/// The least that a kexec takes: a busybox in an initramfs, and two system calls (`kexec_file_load` is 320, `reboot`
/// 169), which the host's own Perl makes without the dozen libraries that kexec-tools brings along.
const PREPARE: &str = "set -e
get() { /usr/lib/apt/apt-helper download-file http://10.0.2.2/bench/$1 $2 >/dev/null; }
mkdir -p /root/bench/bin /root/bench/modules /root/bench/dev
get busybox /root/bench/bin/busybox; get init /root/bench/init
chmod 755 /root/bench/bin/busybox /root/bench/init
number=10
depends=$(for name in virtio_pci virtio_net; do modprobe --show-depends $name; done)
for module in $(echo \"$depends\" | awk '/^insmod/ && !seen[$2]++ { print $2 }'); do
    cp $module /root/bench/modules/$number.ko; number=$((number + 1))
done
cd /root/bench && find . | cpio --quiet -o -H newc > /run/initrd
perl -e 'open(K, \"<\", shift) && open(I, \"<\", shift) || die $!;
    my $line = \"console=ttyS0 rdinit=/init panic=10\\0\";
    syscall(320, fileno(K), fileno(I), length($line), $line, 0) == 0 || die $!;' /boot/vmlinuz-$(uname -r) /run/initrd
sync
";

/// Measures, prints, and fails where a promise is not kept.
pub fn run(lab: &Lab, rounds: usize) -> Result<()> {
    if rounds == 0 {
        bail!("nothing can be measured in no rounds");
    }
    let mut bare = Vec::new();
    let mut deployed = Vec::new();
    for round in 1..=rounds {
        let seconds = bare_kexec(lab)?;
        println!("round {round}: bare kexec to the first connection: {seconds:.2} s");
        bare.push(seconds);
        let (first, again) = deploy_twice(lab)?;
        for (what, run) in [("first deployment", &first), ("redeployment", &again)] {
            println!(
                "round {round}: {what}: last word to first event {:.2} s, {} bytes sent, {} received, \
                 initramfs {} bytes; seconds: {}",
                run.first_event, run.uploaded, run.received, run.initramfs, run.phases
            );
        }
        deployed.push((first, again));
    }
    let bare = median(bare);
    let event = median(deployed.iter().map(|(first, _)| first.first_event).collect());
    let most = |pick: fn(&(Deployment, Deployment)) -> u64| deployed.iter().map(pick).max().unwrap_or_default();
    let first = most(|runs| runs.0.uploaded);
    let again = most(|runs| runs.1.uploaded);
    let mut judged = Judged::default();
    let ratio = event / bare;
    let value = format!("{event:.2} s / {bare:.2} s = {ratio:.2}");
    judged.judge("first event, against a bare kexec", &value, "1.5", ratio <= 1.5);
    judged.judge("bytes sent, no caches", &first.to_string(), "1920000", first <= 1_920_000);
    judged.judge("bytes sent, caches", &again.to_string(), "65536", again <= 65_536);
    judged.end()
}

/// Whether all limits were kept.
#[derive(Debug, Default)]
struct Judged {
    broken: bool,
}

impl Judged {
    fn judge(&mut self, what: &str, value: &str, limit: &str, good: bool) {
        println!("{} {what}: {value} (limit {limit})", if good { "ok  " } else { "OVER" });
        self.broken |= !good;
    }

    fn end(self) -> Result<()> {
        if self.broken { Err(Error::new("not everything is within its limit")) } else { Ok(()) }
    }
}

/// Seconds from the kexec of the host's own kernel to the first connection from the system it starts.
pub fn bare_kexec(lab: &Lab) -> Result<f64> {
    let server = Server::start(lab)?;
    server.fault("/bench/busybox", Fault::Replace(busybox(lab)?));
    server.fault("/bench/init", Fault::Replace(INIT.into()));
    server.fault("/bench/up", Fault::Replace(b"up\n".to_vec()));
    let machine = Machine::start(lab, Spec { archive: Some(server.port()), ..Spec::new("bare-kexec") })?;
    machine.ssh_within(PREPARE, KEXEC)?;
    let mut command = machine.ssh_command();
    command
        .arg("echo going; exec perl -e 'syscall(169, 0xfee1dead, 672274793, 0x45584543, 0); die $!'")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut ssh = command.spawn().context("cannot start ssh")?;
    let mut word = String::new();
    let stdout = ssh.stdout.take().ok_or_else(|| Error::new("no output of ssh"))?;
    let read = BufReader::new(stdout).read_line(&mut word);
    let begin = Instant::now();
    let up = loop {
        if server.requests().iter().any(|request| request.path == "/bench/up") {
            break Some(begin.elapsed());
        }
        if begin.elapsed() > KEXEC || machine.check().is_err() {
            break None;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    // Its connection has lost its other end, which it would notice in a minute.
    let _ = ssh.kill();
    let _ = ssh.wait();
    read.context("ssh said nothing")?;
    machine.check()?;
    let log = machine.serial_log();
    up.map(|time| time.as_secs_f64()).ok_or_else(|| {
        Error::new(format!("a bare kexec did not knock within {} s, see {}", KEXEC.as_secs(), log.display()))
    })
}

/// A static busybox, from the package of the hosts' distribution.
fn busybox(lab: &Lab) -> Result<Vec<u8>> {
    let tools = lab.path("tools");
    let program = tools.join("bin/busybox");
    if !program.exists() {
        fs::create_dir_all(&tools).context("cannot make the tools' directory")?;
        unpack(lab, "bookworm", &["busybox-static"], &tools)?;
    }
    fs::read(&program).context(format!("cannot read {}", program.display()))
}

struct Deployment {
    first_event: f64,
    uploaded: u64,
    received: u64,
    initramfs: u64,
    phases: String,
}

/// Deploys examples/hello on a host without caches, and again on what that made.
fn deploy_twice(lab: &Lab) -> Result<(Deployment, Deployment)> {
    let server = Server::start(lab)?;
    let machine = Machine::start(lab, Spec { archive: Some(server.port()), ..Spec::new("bench-hello") })?;
    let anemos = Anemos::new(lab, "bench-hello")?;
    let payload = checkout().join("examples/hello/payload");
    let table = host_table(lab, "bench", &machine);
    // The new system's apt has no sources of its own to find a mirror in.
    let hosts = format!(
        "{table}payload = \"{}\"\nmirror = {:?}\nauthorized_keys = [\"{}\"]\n",
        payload.display(),
        machine.archive_url(),
        lab.key().with_extension("pub").display()
    );
    anemos.write("hosts.toml", &hosts)?;
    Ok((deploy(&anemos)?, deploy(&anemos)?))
}

fn deploy(anemos: &Anemos) -> Result<Deployment> {
    let ended = anemos.run(["up", "--yes", "--json", "hosts.toml"], DEPLOYMENT)?;
    let summary = ended.summary("bench")?;
    if summary["outcome"] != "deployed" {
        bail!("the deployment failed: {}\n{}", summary["reason"], ended.stderr);
    }
    let number = |name: &str| summary[name].as_u64().ok_or_else(|| Error::new(format!("no {name} in the summary")));
    Ok(Deployment {
        first_event: summary["first_event_seconds"]
            .as_f64()
            .ok_or_else(|| Error::new("no first_event_seconds in the summary"))?,
        uploaded: number("uploaded_bytes")?,
        received: number("received_bytes")?,
        initramfs: number("initramfs_bytes")?,
        phases: phases(&summary["seconds"]),
    })
}

fn phases(seconds: &Value) -> String {
    let Some(table) = seconds.as_object() else { return "not given".to_owned() };
    let words: Vec<String> =
        table.iter().map(|(name, value)| format!("{name} {:.1}", value.as_f64().unwrap_or_default())).collect();
    words.join(", ")
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
