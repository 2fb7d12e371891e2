//! Prepares the boot: everything between the plan and a loaded kernel.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use anemos_base::{Archive, Fetcher, Group, Lock, Proxies};
use anemos_host::{Root, disks, host_keys};
use anemos_netstate::Reached;
use anemos_proto::config::HostConfig;
use anemos_proto::event::{Level, Unit};
use anemos_proto::host::Watchdog;
use anemos_proto::net::NetworkState;
use anemos_proto::stage::{KernelSource, StagePlan, StageReply, Staged};
use anemos_proto::{Digest, Secret, codec};
use rustix::rand::{GetRandomFlags, getrandom};

use crate::base::{self, Sources};
use crate::blobs::Blobs;
use crate::cmdline;
use crate::compose::{Initramfs, ModuleFiles, RunFiles};
use crate::error::{Doing, Fault, Result};
use crate::facts;
use crate::gate::Gate;
use crate::kernel_set::KernelSet;
use crate::kexec::{self, Boot};
use crate::memory;
use crate::modules::firmware::Firmware;
use crate::modules::index::Index;
use crate::modules::{self, select};
use crate::patch;
use crate::report::Report;
use crate::wire::Output;

/// Most bytes that base.lock, and the agent, may have when unpacked.
const BLOB_LIMIT: usize = 64 << 20;

/// Number of random bytes for the new kernel's pool.
const SEED: usize = 256;

/// One staging, and what it needs. To give it up, close the gate and cancel the fetcher.
pub struct Job {
    /// The host's files.
    pub root: Root,
    /// The stage's private directory.
    pub dir: PathBuf,
    /// What to stage.
    pub plan: StagePlan,
    /// What the controller sends.
    pub blobs: Arc<Blobs>,
    /// Downloads.
    pub fetcher: Arc<Fetcher>,
    /// Guards the loading.
    pub gate: Arc<Gate>,
    /// To tell how it goes.
    pub report: Report,
    /// To ask for blobs.
    pub output: Output,
}

impl Job {
    /// Stages: returns once the kernel is loaded, and whether it feeds a BMC's watchdog from its beginning.
    pub fn run(&self) -> Result<(Staged, bool)> {
        let Self { root, plan, blobs, report, .. } = self;
        // Checks the network before anything is downloaded. It is read again below, where it is stored.
        let lost = anemos_netstate::lost_servers(&network()?);
        if !lost.is_empty() {
            report.note(Level::Warning, no_names(&lost));
        }
        let needed = blobs.announce(root, &[plan.lock, plan.agent, plan.payload])?;
        self.output.send(&StageReply::Need(needed));
        if anemos_host::kexec::is_loaded(root) {
            report.note(Level::Warning, "a kernel was loaded for kexec already; it will be replaced");
        }

        let lock_blob = blobs.take(plan.lock.digest);
        let lock = parse_lock(&lock_blob)?;
        memory::of(root).before(lock.image_size())?;
        self.fetcher.go_through(base::proxies(root, plan));
        let mut kernel = self.kernel(&lock)?;
        let mut initramfs = Initramfs::new()?;
        let sources = Sources { root, plan, lock: &lock, fetcher: &self.fetcher, blobs, output: &self.output, report };
        let images = sources.write(&mut initramfs)?;

        let step = report.step("compose");
        let index = kernel.index()?;
        let network = network()?;
        let needed = network.links.iter().filter(|link| anemos_netstate::is_needed(&network, link));
        let mut hardware = modules::hardware(root, needed.map(|link| &*link.name));
        let made = network.links.iter().filter(|link| link.kind.can_be_made());
        hardware.kinds = made.map(|link| link.kind.name().to_owned()).collect();
        if kernel.is_locked() {
            can_make(&index, &hardware.kinds)?;
        }
        let selection = select::select(&index, &hardware);
        all_are_fed(&facts::watchdogs::watchdogs(root, &facts::kernel_release(root)), &selection.first)?;
        kernel.take(&selection.modules)?;
        let mut firmware = Firmware::new(root, &kernel.release, &hardware.loaded, memory::of(root).total);
        let files = ModuleFiles {
            release: &kernel.release,
            index: &index,
            selection: &selection,
            also: &kernel.further_files(),
            read: &|path| kernel.module(path),
        };
        initramfs.modules(&files, &mut firmware)?;
        if let Some((level, text)) = about(&firmware) {
            report.note(level, text);
        }
        let agent_blob = blobs.take(plan.agent.digest);
        let agent = unpack("the agent", &agent_blob)?;
        let payload = blobs.take(plan.payload.digest);
        let stage = own()?;
        let host = self.host_config(&lock, &images, &kernel, network)?;
        let run = codec::to_bytes(&plan.run).doing(|| "encoding the run's configuration".into())?;
        let files = [
            ("run.bin", &run[..]),
            ("host.bin", &host[..]),
            ("payload.tar.zst", &payload[..]),
            ("kernel", &kernel.image[..]),
            ("agent.patch", &agent_blob[..]),
            ("base.lock", &lock_blob[..]),
            ("stage", &stage[..]),
        ];
        initramfs.run(&RunFiles { agent: &agent, files: &files })?;
        step.finish();

        let initramfs_bytes = initramfs.len()?;
        memory::of(root).holds(initramfs.unpacked(), lock.image_size() + initramfs.later())?;

        let step = report.step("load");
        step.progress(0, Some(initramfs_bytes), Unit::Bytes, Some(&kernel.name));
        let cmdline = cmdline::compose(&root.text("/proc/cmdline").unwrap_or_default());
        let boot = Boot {
            name: &kernel.name,
            image: &kernel.image,
            kernel: &kernel.file,
            initramfs: initramfs.file(),
            cmdline: &cmdline,
            room: &|copies| Ok(memory::of(root).loads(initramfs_bytes, copies)?),
        };
        self.gate.load(|| kexec::load(root, &boot))?;
        step.finish();
        let feeds_bmc = selection.first.iter().any(|name| name == Watchdog::IPMI);
        Ok((Staged { initramfs_bytes, downloaded_bytes: self.fetcher.downloaded() }, feeds_bmc))
    }

    fn kernel(&self, lock: &Lock) -> Result<KernelSet> {
        let without = match self.plan.kernel {
            KernelSource::Host => match KernelSet::of_host(&self.root, &facts::kernel_release(&self.root)) {
                Ok(kernel) => return Ok(kernel),
                Err(fault) => Some(fault),
            },
            KernelSource::Locked => None,
        };
        let Some(locked) = &lock.kernel else {
            let missing = || Fault::new("choosing the kernel", "base.lock names no kernel");
            return Err(without.unwrap_or_else(missing));
        };
        if let Some(fault) = without {
            self.report.note(Level::Warning, format!("{fault}; booting the locked kernel instead"));
        }
        let step = self.report.step("kernel");
        let mirrors = base::archives(&self.root, &self.plan);
        let archive = Archive::new(&self.fetcher, lock, mirrors, || base::snapshot(&self.root, &self.plan, lock));
        // Counts one item for each package, and one for all modules in them.
        let total = locked.packages.len() as u64 + 1;
        let mut done = 0;
        let kernel = KernelSet::locked(locked, &archive, &self.dir, |what| {
            step.progress(done, Some(total), Unit::Items, Some(what));
            done += 1;
        })?;
        step.finish();
        Ok(kernel)
    }

    fn host_config(
        &self,
        lock: &Lock,
        images: &[(String, &Group)],
        kernel: &KernelSet,
        network: NetworkState,
    ) -> Result<Vec<u8>> {
        let (root, plan) = (&self.root, &self.plan);
        let mut seed_cache: Vec<_> = images.iter().map(|(file, group)| (file.clone(), group.file_name())).collect();
        seed_cache.extend([
            ("agent.patch".to_owned(), format!("blob-{}", plan.agent.digest)),
            ("base.lock".to_owned(), format!("blob-{}", plan.lock.digest)),
            // The stage is cached unpacked, because the new system may lack the tool to unpack it.
            ("stage".to_owned(), "stage".to_owned()),
        ]);
        let mut random = vec![0; SEED];
        getrandom(&mut random[..], GetRandomFlags::empty()).doing(|| "getting random bytes".into())?;
        let identity = host_keys::all(root).into_iter().map(|(name, bytes)| (name, Secret::new(bytes)));
        let proxies = self.fetcher.proxies().map(Proxies::variables).unwrap_or_default().into_iter();
        let proxies = proxies.map(|(name, value)| (name, Secret::new(value.into_bytes())));
        let whole = disks::whole(root);
        let here = whole.iter().filter(|name| facts::disks::remote(root, name).is_none());
        let host = HostConfig {
            network,
            ssh_port: facts::ssh_port(std::env::var("SSH_CONNECTION").ok().as_deref()),
            ssh_identity: identity.collect(),
            firmware: facts::firmware(root),
            arch: rustix::system::uname().machine().to_string_lossy().into_owned(),
            kernel_release: kernel.release.clone(),
            mirror: base::mirrors(root, plan).into_iter().next(),
            security_mirror: facts::security_mirror(root),
            base: Digest(*lock.digest().as_bytes()),
            base_size: lock.image_size(),
            // The agent waits for all of these, to guard them.
            disks: here.map(|name| disks::id(root, name)).collect(),
            random_seed: Secret::new(random),
            seed_cache,
            wall_ms: crate::report::wall_ms(),
            proxies: proxies.collect(),
        };
        codec::to_bytes(&host).doing(|| "encoding the host's configuration".into())
    }
}

/// What of the host's network is restored in RAM, unless the host could not be reached with it.
fn network() -> Result<NetworkState> {
    let network = anemos_netstate::capture().doing(|| "reading the host's network".into())?;
    let reached = facts::reached(&network, &std::env::var("SSH_CONNECTION").unwrap_or_default())?;
    can_be_restored(&network, &reached)?;
    Ok(anemos_netstate::restorable(network, &reached))
}

fn can_be_restored(network: &NetworkState, reached: &Reached) -> Result<()> {
    let lost = anemos_netstate::lost_ways(network, reached);
    if lost.is_empty() {
        return Ok(());
    }
    let why = format!(
        "the host is reached through {}, which can't be restored in RAM: nobody could reach it there. Nothing was \
         changed on the host",
        lost.join(" and ")
    );
    Err(Fault::new("making sure that the host will be reached in RAM", why).hint(
        "reach it at another address, or move its address and default route to a network card, or to a VLAN, a bond or \
         a bridge of cards, for the deployment, then try again",
    ))
}

/// Fails if the kernel with these modules could not make a link of one of these kinds.
fn can_make(index: &Index, kinds: &BTreeSet<String>) -> Result<()> {
    let is_missing = |kind: &&String| index.resolve(&select::link_alias(kind)).is_empty();
    let Some(kind) = kinds.iter().find(is_missing) else { return Ok(()) };
    let why = format!(
        "the host's network has a link of the kind {kind}, and the locked kernel has no module for such links. \
         Nothing was changed on the host"
    );
    Err(Fault::new("making sure that the host will be reached in RAM", why)
        .hint("use kernel = \"host\", or move the address to a network card for the deployment"))
}

/// Fails if a watchdog would reset the machine in RAM.
fn all_are_fed(watchdogs: &[Watchdog], first: &[String]) -> Result<()> {
    let unfed = facts::watchdogs::unfed(watchdogs, first);
    if unfed.is_empty() {
        return Ok(());
    }
    let names: Vec<_> =
        unfed.iter().map(|watchdog| format!("{} (driver {})", watchdog.name, watchdog.module)).collect();
    let why = format!(
        "{} is active and can't be stopped from here, and the kernel that boots has no such driver: nobody would feed \
         it, and it would reset the machine while the payload runs. Nothing was changed on the host",
        names.join(" and ")
    );
    Err(Fault::new("making sure that no watchdog resets the machine in RAM", why).hint(STOP_WATCHDOG))
}

/// How a watchdog is stopped under the old system.
const STOP_WATCHDOG: &str = "stop it for the deployment, then try again: `systemctl stop watchdog`, or \
    RuntimeWatchdogSec=0 in /etc/systemd/system.conf and `systemctl daemon-reexec`; one that can't be stopped \
    (nowayout) only a boot without it stops";

fn no_names(servers: &[String]) -> String {
    format!(
        "names will not resolve in RAM: /etc/resolv.conf names only {}, which cannot be taken along; if the payload \
         needs names, put a name server of the network there first, or let the payload write its own resolv.conf",
        servers.join(" and ")
    )
}

/// A note on firmware that is not taken along, if any.
fn about(firmware: &Firmware<'_>) -> Option<(Level, String)> {
    match (firmware.too_much(), firmware.missing()) {
        ([], 0) => None,
        ([], 1) => Some((Level::Info, "one firmware file that a loaded driver names is not on the host".into())),
        ([], n) => Some((Level::Info, format!("{n} firmware files that loaded drivers name are not on the host"))),
        (files, _) => Some((
            Level::Warning,
            format!(
                "no room for firmware that loaded drivers name: {}; their devices may not work in RAM",
                files.join(", ")
            ),
        )),
    }
}

fn parse_lock(blob: &[u8]) -> Result<Lock> {
    let text = String::from_utf8(unpack("base.lock", blob)?).doing(|| "reading base.lock".into())?;
    Lock::parse("base.lock", &text).doing(|| "reading base.lock".into())
}

/// The stage's own executable.
fn own() -> Result<Vec<u8>> {
    std::fs::read("/proc/self/exe").doing(|| "reading the stage's own executable".into())
}

/// Unpacks a blob: zstd, or a patch to the stage's own executable, with which the agent has much in common.
fn unpack(what: &str, blob: &[u8]) -> Result<Vec<u8>> {
    use std::io::Read;
    let unpacking = || format!("unpacking {what}");
    let own = own()?;
    if let Some(made) = patch::apply(blob, &own, BLOB_LIMIT) {
        return made.map_err(|why| Fault::new(unpacking(), why));
    }
    let mut bytes = Vec::new();
    let decoder = zstd::stream::read::Decoder::new(blob).doing(unpacking)?;
    decoder.take(BLOB_LIMIT as u64 + 1).read_to_end(&mut bytes).doing(unpacking)?;
    if bytes.len() > BLOB_LIMIT {
        return Err(Fault::new(unpacking(), format!("it is larger than {BLOB_LIMIT} bytes")));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_that_would_be_lost_is_refused() {
        use anemos_proto::net::{Address, Link, LinkId, LinkKind};
        let address = Address {
            ip: "192.0.2.10".parse().unwrap(),
            prefix: 24,
            peer: None,
            scope: 0,
            valid_s: None,
            preferred_s: None,
            autoconf: false,
        };
        let mut link = Link {
            id: LinkId(1),
            name: "team0".into(),
            kind: LinkKind::Made("team".into()),
            below: Vec::new(),
            mac: [1; 6],
            mtu: 1500,
            up: true,
            driver: String::new(),
            set_mac: None,
            vlans: Vec::new(),
            port: Vec::new(),
            client_id: Vec::new(),
            client_unknown: String::new(),
            addresses: vec![address],
        };
        let network = |link: &Link| NetworkState { links: vec![link.clone()], ..NetworkState::default() };
        let at = |ip: &str| Reached { at: Some(ip.parse().unwrap()), ..Reached::default() };
        let refused = can_be_restored(&network(&link), &at("192.0.2.10")).unwrap_err().to_string();
        for said in ["team0 (team)", "Nothing was changed", "to a network card"] {
            assert!(refused.contains(said), "{refused}");
        }
        let refused = can_be_restored(&network(&link), &at("192.0.2.11")).unwrap_err().to_string();
        assert!(refused.contains("192.0.2.11, which none of its links has"), "{refused}");
        link.kind = LinkKind::Card;
        assert!(can_be_restored(&network(&link), &at("192.0.2.10")).is_ok());
    }

    #[test]
    fn a_locked_kernel_without_the_module_is_refused() {
        let kinds = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<String>>();
        let index = Index::parse("kernel/drivers/net/bonding/bonding.ko:\n", "alias rtnl-link-bond bonding\n", "");
        assert!(can_make(&index, &kinds(&["bond"])).is_ok());
        assert!(can_make(&index, &kinds(&[])).is_ok());
        let refused = can_make(&index, &kinds(&["bond", "vrf"])).unwrap_err().to_string();
        assert!(refused.contains("of the kind vrf") && refused.contains("Nothing was changed"), "{refused}");
    }

    #[test]
    fn a_watchdog_that_nobody_would_feed_is_refused() {
        let watchdog = Watchdog {
            name: "watchdog0".into(),
            identity: "x".into(),
            module: "x_wdt".into(),
            active: true,
            timeout_s: None,
            nowayout: false,
            holder: Some("systemd (1)".into()),
        };
        let refused = all_are_fed(std::slice::from_ref(&watchdog), &[]).unwrap_err().to_string();
        for said in ["watchdog0 (driver x_wdt)", "Nothing was changed", "RuntimeWatchdogSec=0"] {
            assert!(refused.contains(said), "{refused}");
        }
        assert!(all_are_fed(&[watchdog], &["x_wdt".into()]).is_ok());
    }

    #[test]
    fn the_words_about_names_say_which_servers() {
        let text = no_names(&["127.0.0.1".into(), "::1".into()]);
        assert!(text.contains("names only 127.0.0.1 and ::1, which"), "{text}");
    }

    #[test]
    fn blobs_may_be_patches_to_the_running_program() -> std::io::Result<()> {
        let own = std::fs::read("/proc/self/exe")?;
        let mut patched = own[own.len() - (64 << 10)..].to_vec();
        patched[1000..2000].fill(7);
        let patch = patch::make(&patched, &own).expect("it can be packed");
        assert!(patch.len() < patched.len() / 20, "{} bytes", patch.len());
        assert!(unpack("a patch", &patch).unwrap() == patched);
        let plain = zstd::bulk::compress(b"no patch", 1)?;
        assert_eq!(unpack("a blob", &plain).unwrap(), b"no patch");
        assert!(unpack("a blob", b"nonsense").is_err());
        Ok(())
    }
}
