//! A switch that a machine's two cards are plugged into, as in a rack: Open vSwitch as an ordinary process, which
//! speaks LACP with the machine and carries a VLAN beside the untagged network. Both have a router: dnsmasq leases
//! addresses, and radvd advertises a prefix in the VLAN.
//!
//! The programs are Debian's, unpacked beside the lab and not installed: they would start by themselves on the
//! workstation.

use crate::archive::sources;
use crate::command::{new_uuid, program, run, under_us};
use crate::netns::Namespace;
use crate::{Context, Error, Lab, Result, bail};
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Time for a program to begin. It takes a second; machines may be using the processor.
const BEGIN: Duration = Duration::from_secs(60);

/// The router in the untagged network, and the only address that it leases there.
pub const NATIVE: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 0, 2, 2), Ipv4Addr::new(10, 0, 2, 15)];
/// The router in the VLAN, and the only address that it leases there.
pub const TAGGED: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 7, 0, 1), Ipv4Addr::new(10, 7, 0, 15)];
/// The VLAN.
pub const VLAN: u16 = 7;
/// What is advertised in it: the first 64 bits of addresses.
pub const PREFIX: &str = "2001:db8:7:7";

/// The switch, until it is dropped.
pub struct Switch {
    /// Dropped, it ends the thread.
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Switch {
    /// Starts one in this namespace, with its files in `dir`. `taps` are the cards' other ends.
    pub fn start(lab: &Lab, namespace: &Arc<Namespace>, dir: &Path, taps: [&str; 2]) -> Result<Self> {
        let programs = Programs::ensure(lab)?;
        let dir = dir.join("switch");
        fs::create_dir_all(&dir).context(format!("cannot make {}", dir.display()))?;
        let (stop, stopped) = channel::<()>();
        let (started, starting) = channel();
        let (namespace, taps) = (Arc::clone(namespace), taps.map(str::to_owned));
        // The programs end with the thread that starts them.
        let thread = thread::spawn(move || {
            let mut children = Children(Vec::new());
            let begun = namespace.enter().and_then(|()| begin(&programs, &dir, &taps, &mut children));
            let _ = started.send(begun);
            let _ = stopped.recv();
        });
        let switch = Self { stop: Some(stop), thread: Some(thread) };
        starting.recv().map_err(|_| Error::new("the thread of the switch died"))??;
        Ok(switch)
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        self.stop = None;
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

struct Children(Vec<Child>);

impl Drop for Children {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn begin(programs: &Programs, dir: &Path, taps: &[String; 2], children: &mut Children) -> Result<()> {
    let mut start = |mut command: Command, name: &str| -> Result<()> {
        let log =
            fs::File::create(dir.join(format!("{name}.log"))).context(format!("cannot make the log of {name}"))?;
        command.stdin(std::process::Stdio::null()).stderr(log.try_clone().context("a log")?).stdout(log);
        children.0.push(command.spawn().context(format!("cannot run {name}"))?);
        Ok(())
    };
    let at = |name: &str| dir.join(name).display().to_string();
    let (database, socket) = (at("conf.db"), at("db.sock"));
    let vsctl = |words: &str| {
        let mut command = programs.command("usr/bin/ovs-vsctl", dir);
        command.arg(format!("--db=unix:{socket}")).arg(format!("--timeout={}", BEGIN.as_secs()));
        run(command.args(words.split_whitespace())).map(drop)
    };
    let schema = programs.root.join("usr/share/openvswitch/vswitch.ovsschema");
    run(programs.command("usr/bin/ovsdb-tool", dir).args(["create", &database]).arg(schema))?;
    let mut server = programs.lasting("usr/sbin/ovsdb-server", dir);
    server.args([&format!("--remote=punix:{socket}"), &format!("--unixctl={}", at("db.ctl")), &database]);
    start(server, "ovsdb-server")?;
    let end = Instant::now() + BEGIN;
    while !Path::new(&socket).exists() {
        if Instant::now() > end {
            bail!("ovsdb-server does not begin: see {}", at("ovsdb-server.log"));
        }
        thread::sleep(Duration::from_millis(50));
    }
    vsctl("--no-wait init")?;
    let mut switch = programs.lasting("usr/lib/openvswitch-switch/ovs-vswitchd", dir);
    switch.args([&format!("--unixctl={}", at("vs.ctl")), &format!("unix:{socket}")]);
    start(switch, "ovs-vswitchd")?;
    // A machine that has not made its bond yet is let in through one of its cards.
    vsctl(&format!(
        "add-br br0 -- set bridge br0 datapath_type=netdev \
         -- add-bond br0 bond0 {} {} lacp=active bond_mode=balance-slb \
         -- set port bond0 other_config:lacp-fallback-ab=true other_config:lacp-time=fast \
            vlan_mode=native-untagged tag=1 trunks={VLAN} \
         -- add-port br0 native tag=1 -- set interface native type=internal \
         -- add-port br0 tagged tag={VLAN} -- set interface tagged type=internal",
        taps[0], taps[1]
    ))?;
    for words in [
        &format!("addr add {}/24 dev native", NATIVE[0]),
        &format!("addr add {}/24 dev tagged", TAGGED[0]),
        &format!("-6 addr add {PREFIX}::1/64 dev tagged nodad"),
        "link set native up",
        "link set tagged up",
    ] {
        run(program("ip").args(words.split(' ')))?;
    }
    let mut leases = programs.lasting("usr/sbin/dnsmasq", dir);
    leases.args([
        "--keep-in-foreground",
        "--no-daemon",
        "--conf-file=/dev/null",
        "--port=0",
        "--log-dhcp",
        "--user=root",
    ]);
    leases.arg(format!("--dhcp-leasefile={}", at("leases"))).arg("--pid-file=");
    for [router, leased] in [NATIVE, TAGGED] {
        leases.arg(format!("--dhcp-range={leased},{leased},255.255.255.0,10m"));
        leases.arg(format!("--listen-address={router}"));
    }
    start(leases, "dnsmasq")?;
    let advertised = format!(
        "interface tagged {{ AdvSendAdvert on; MinRtrAdvInterval 3; MaxRtrAdvInterval 10; prefix {PREFIX}::/64 {{ }}; \
         RDNSS {PREFIX}::1 {{ }}; }};\n"
    );
    fs::write(dir.join("radvd.conf"), advertised).context("cannot write radvd.conf")?;
    let mut advertises = programs.lasting("usr/sbin/radvd", dir);
    advertises.args(["--nodaemon", "--logmethod=stderr", "--config", &at("radvd.conf"), "--pidfile", &at("radvd.pid")]);
    start(advertises, "radvd")
}

/// Debian's programs, unpacked.
struct Programs {
    root: PathBuf,
}

impl Programs {
    /// Unpacks them, if nobody has.
    fn ensure(lab: &Lab) -> Result<Self> {
        let root = lab.path("switch");
        let _lock = lab.lock("switch")?;
        if !root.exists() {
            let new = lab.path(format!("switch.{}", new_uuid()?));
            let mut unpack = program("mmdebstrap");
            unpack.args(["--variant=extract", "--include=openvswitch-switch,radvd,dnsmasq-base", "--mode=root"]);
            unpack.args(["--aptopt=APT::Install-Recommends \"false\"", "--keyring", crate::tools::KEYRING]);
            run(unpack.arg("bookworm").arg(&new).arg(sources::debian_mirror()?))?;
            fs::rename(&new, &root).context(format!("cannot rename {}", new.display()))?;
        }
        Ok(Self { root })
    }

    /// A command for one of them, with the libraries that came with it.
    fn with(&self, mut command: Command, path: &str, dir: &Path) -> Command {
        let libraries = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu", "usr/lib"];
        let libraries = libraries.map(|library| self.root.join(library).display().to_string()).join(":");
        command.args(["--library-path", &libraries]).arg(self.root.join(path));
        for variable in ["OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR"] {
            command.env(variable, dir);
        }
        command.env("OVS_PKGDATADIR", self.root.join("usr/share/openvswitch")).current_dir(dir);
        command
    }

    fn command(&self, path: &str, dir: &Path) -> Command {
        self.with(Command::new(self.loader()), path, dir)
    }

    /// One that ends with the thread that starts it.
    fn lasting(&self, path: &str, dir: &Path) -> Command {
        self.with(under_us(self.loader()), path, dir)
    }

    fn loader(&self) -> PathBuf {
        self.root.join("lib/x86_64-linux-gnu/ld-linux-x86-64.so.2")
    }
}
