//! What is judged, and how.

use std::net::IpAddr;
use std::sync::Arc;

use anemos_proto::config::Finish;
use anemos_proto::host::{Disk, DiskId, Firmware, HostFacts, Inside, KexecSupport, Partition, Watchdog};
use anemos_proto::ids::{BlobRef, Digest};
use anemos_proto::net::{Address, Bond, Link, LinkId, LinkKind, NetworkState, Route};
use anemos_proto::stage::{BaseSource, KernelSource, Proxy};

use proptest::prelude::*;

use super::{Approval, Choices, Plan, PlanDisk, Upload, judge};
use crate::config::{Become, DiskSelector};
use crate::payload::Keep;

pub fn disk(name: &str, size: u64) -> Disk {
    Disk {
        id: DiskId {
            name: format!("/dev/{name}"),
            serial: Some(format!("SER-{name}")),
            wwid: Some(format!("wwid-{name}")),
            path: "pci0000:00/0000:00:05.0/virtio2".into(),
            size,
        },
        model: "QEMU HARDDISK".into(),
        removable: false,
        rotational: false,
        read_only: false,
        table: Some("gpt".into()),
        content: None,
        partitions: Vec::new(),
        mounts: Vec::new(),
        out_of_reach: None,
    }
}

pub fn partition(name: &str, size: u64, content: &str, mounts: &[&str]) -> Partition {
    Partition {
        name: format!("/dev/{name}"),
        size,
        content: Some(content.into()),
        label: None,
        mounts: mounts.iter().map(|&mount| mount.into()).collect(),
    }
}

pub fn facts() -> HostFacts {
    let mut system = disk("vda", 20 << 30);
    system.partitions = vec![
        partition("vda1", 127 << 20, "vfat", &["/boot/efi"]),
        Partition { label: Some("root".into()), ..partition("vda2", 19 << 30, "ext4", &["/"]) },
        partition("vda3", 512 << 20, "swap", &["[SWAP]"]),
    ];
    let mut data = disk("vdb", 2 << 40);
    data.content = Some("xfs".into());
    data.mounts = vec!["/srv".into()];
    let ip: IpAddr = [192, 0, 2, 7].into();
    let mac = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
    HostFacts {
        hostname: "web1".into(),
        os: "Debian GNU/Linux 12 (bookworm)".into(),
        boot_id: "d9f3c1d2-6a5e-4d59-8a4e-0d6f1c1f2a3b".into(),
        arch: "x86_64".into(),
        kernel_release: "6.1.0-28-cloud-amd64".into(),
        kernel_image: Some("/boot/vmlinuz-6.1.0-28-cloud-amd64".into()),
        cmdline: "root=/dev/vda2 ro".into(),
        firmware: Firmware::Uefi { secure_boot: false },
        memory_total: 2 << 30,
        memory_available: 1 << 30,
        disks: vec![system, data],
        kexec: KexecSupport {
            file_load: true,
            load: true,
            disabled: false,
            lockdown: "none".into(),
            loads_left: None,
            appraised: false,
            refused: None,
        },
        network: NetworkState {
            hostname: "web1".into(),
            links: vec![Link {
                id: LinkId(1),
                name: "ens3".into(),
                kind: LinkKind::Card,
                below: Vec::new(),
                mac,
                mtu: 1500,
                up: true,
                driver: "virtio_net".into(),
                set_mac: None,
                vlans: Vec::new(),
                port: Vec::new(),
                client_id: Vec::new(),
                client_unknown: String::new(),
                addresses: vec![Address {
                    ip,
                    prefix: 24,
                    peer: None,
                    scope: 0,
                    valid_s: None,
                    preferred_s: None,
                    autoconf: false,
                }],
            }],
            routes: vec![Route {
                destination: None,
                v6: false,
                gateway: Some([192, 0, 2, 1].into()),
                link: LinkId(1),
                metric: 0,
                onlink: false,
                source: None,
                scope: 0,
                protocol: 3,
                table: 254,
                mtu: None,
                hops: Vec::new(),
            }],
            dns: vec![[192, 0, 2, 53].into()],
            search: vec!["example.org".into()],
            rules: Vec::new(),
        },
        lost_ways: Vec::new(),
        ways: vec![LinkId(1)],
        instead: Vec::new(),
        kernel_lacks: Vec::new(),
        inside: Inside::Machine,
        memory_reserved: 0,
        snapshot: None,
        proxy: None,
        ssh_port: 22,
        host_keys: vec!["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBvMEaYrEAoJpg0YaZD5aPahfRI1O5ZQNNGGKHzSjDzv web1".into()],
        mirrors: vec!["http://mirror.example/debian".into()],
        cached_blobs: vec![Digest([1; 32])],
        cached_bases: vec![Digest([2; 32])],
        watchdogs: vec![Watchdog { active: false, ..watchdog("iTCO_wdt", None) }],
    }
}

pub fn choices() -> Choices {
    let blob = |number, size| BlobRef { digest: Digest([number; 32]), size };
    Choices {
        host: "web1".into(),
        address: "root@192.0.2.7:22".into(),
        becomes: None,
        host_key: "ssh-ed25519 SHA256:abc".into(),
        system: "77ab01f2-0123456789abcdef".into(),
        disks: vec![DiskSelector::Path("/dev/vda".into())],
        stage: Upload { what: "stage".into(), bytes: 740_000, cached: true },
        blobs: vec![("agent", blob(9, 960_000)), ("payload", blob(8, 12_000)), ("base.lock", blob(1, 21_000))],
        kernel: KernelSource::Host,
        locked_kernel: Some("6.12.57+deb13-amd64".into()),
        base: Digest([0xab; 32]),
        groups: vec!["core".into(), "disk".into()],
        images: vec![Digest([0xab; 32]), Digest([0xad; 32])],
        base_size: 166 << 20,
        sources: vec![BaseSource::Cache, BaseSource::Build],
        has_mirror: false,
        has_snapshot: false,
        proxy: Proxy::Own,
        payload: "examples/debian".into(),
        keeps: Vec::new(),
        is_unsigned: false,
        finish: Finish::Reboot,
        check: Some("systemctl is-system-running --wait".into()),
        verify_key: false,
    }
}

/// A plan that nothing speaks against.
pub fn plan() -> Plan {
    judge(&facts(), choices())
}

fn with(change: impl FnOnce(&mut HostFacts)) -> Plan {
    let mut facts = facts();
    change(&mut facts);
    judge(&facts, choices())
}

fn keep(label: &str, or_made: bool) -> Keep {
    Keep { label: label.into(), or_made }
}

fn names(disks: &[PlanDisk]) -> Vec<&str> {
    disks.iter().map(|disk| &*disk.id.name).collect()
}

#[test]
fn only_the_chosen_disk_is_wiped() {
    let one = plan();
    assert_eq!((names(&one.wipe), names(&one.untouched)), (vec!["/dev/vda"], vec!["/dev/vdb"]));
    let disks = ["/dev/vdb", "/dev/vda"].map(|name| DiskSelector::Path(name.into())).into();
    let both = judge(&facts(), Choices { disks, ..choices() });
    assert_eq!(names(&both.wipe), ["/dev/vdb", "/dev/vda"], "ANEMOS_DISK comes first");
    assert_eq!(both.disks(), [facts().disks[1].id.clone(), facts().disks[0].id.clone()]);
    assert!(both.warnings.iter().any(|w| w.contains("/srv")), "{:?}", both.warnings);
}

#[test]
fn what_is_sent_is_what_the_host_lacks() {
    let sources = |plan: &Plan| plan.base_source.clone();
    assert_eq!(plan().upload_bytes, 972_000);
    assert_eq!(sources(&plan()), "built on the host from distribution packages");
    let cached = with(|f| f.cached_bases.extend([Digest([0xad; 32]), Digest([0xab; 32])]));
    assert_eq!(sources(&cached), "in the host's cache");
    let half = with(|f| f.cached_bases.push(Digest([0xab; 32])));
    assert_eq!(sources(&half), "built on the host from distribution packages");
    let image = BaseSource::Upload(BlobRef { digest: Digest([7; 32]), size: 40 << 20 });
    let last = Choices { sources: vec![BaseSource::Cache, BaseSource::Build, image.clone()], ..choices() };
    let last = judge(&facts(), last);
    assert_eq!(last.upload_bytes, 972_000, "it is sent only if the host can't build it");
    let both = "built on the host from distribution packages; should that fail, uploaded from here (40.0 MiB)";
    assert_eq!(sources(&last), both);
    let only = judge(&facts(), Choices { sources: vec![BaseSource::Cache, image], ..choices() });
    assert_eq!(only.upload_bytes, 972_000 + (40 << 20));
}

/// Whatever it is that would not start: an image without shim only where the firmware insists.
#[test]
fn what_secure_boot_would_not_start() {
    for (secure_boot, is_unsigned) in [(false, false), (false, true), (true, false), (true, true)] {
        let facts = HostFacts { firmware: Firmware::Uefi { secure_boot }, ..facts() };
        let refusals = judge(&facts, Choices { is_unsigned, ..choices() }).refusals;
        let refused = refusals.iter().any(|why| why.contains("add `shim-signed` to its `packages`"));
        assert_eq!(refused, secure_boot && is_unsigned, "{refusals:?}");
    }
}

#[test]
fn warnings() {
    assert_eq!(plan().warnings, Vec::<String>::new());
    let has = |plan: Plan, word: &str| {
        assert!(plan.warnings.iter().any(|w| w.contains(word)), "{word}: {:?}", plan.warnings);
    };
    has(
        with(|f| f.memory_total = 480 << 20),
        "little memory: of 480 MiB the RAM system takes about 272 MiB; payload and",
    );
    has(with(|f| f.firmware = Firmware::Uefi { secure_boot: true }), "Secure Boot");
    has(with(|f| f.kexec.lockdown = "integrity".into()), "lockdown is `integrity`");
    has(with(|f| f.kernel_image = None), "locked kernel boots instead");
    let lacks =
        |f: &mut HostFacts| f.kernel_lacks = vec!["the device filters of Linux 4.15".into(), "CONFIG_TMPFS".into()];
    let said = "the host's kernel 6.1.0-28-cloud-amd64 lacks the device filters of Linux 4.15, CONFIG_TMPFS: the \
                locked kernel boots instead";
    has(with(lacks), said);
    has(with(|f| f.disks[0].partitions[1].mounts = vec!["/home".into()]), "/dev/vda2 is mounted on /home");
    has(with(|f| f.disks[0].partitions.push(partition("vda4", 1, "LVM2_member", &[]))), "part of something larger");
    has(with(|f| f.disks[0].removable = true), "removable");
    let tunnel = |f: &mut HostFacts| f.network.links[0].kind = LinkKind::Made("sit".into());
    has(with(tunnel), "the default route of IPv4 leads through ens3 (sit), which can't be restored in RAM");
    let refused = with(|f| {
        tunnel(f);
        f.lost_ways = vec!["ens3 (sit)".into()];
    });
    assert_eq!(refused.warnings, Vec::<String>::new(), "the refusal says it");
    let second = with(|f| {
        tunnel(f);
        f.network.links.push(Link { id: LinkId(2), kind: LinkKind::Card, ..f.network.links[0].clone() });
        f.network.routes.push(Route { link: LinkId(2), ..f.network.routes[0].clone() });
    });
    assert_eq!(second.warnings, Vec::<String>::new(), "another one stays");
    let unknown = |f: &mut HostFacts| f.network.links[0].client_unknown = "its DHCP client is not known".into();
    has(with(unknown), "as whom the host asks for the lease of ens3 is not known (its DHCP client is not known)");
    has(with(|f| f.disks[0].read_only = true), "read-only");
}

fn watchdog(module: &str, holder: Option<&str>) -> Watchdog {
    Watchdog {
        name: "watchdog0".into(),
        identity: "iTCO_wdt".into(),
        module: module.into(),
        active: true,
        timeout_s: Some(30),
        nowayout: false,
        holder: holder.map(str::to_owned),
    }
}

#[test]
fn watchdogs() {
    let judged = |watchdog: Watchdog, kernel| {
        let facts = HostFacts { watchdogs: vec![watchdog], ..facts() };
        judge(&facts, Choices { kernel, ..choices() })
    };
    let by_init = |module| watchdog(module, Some("systemd (1)"));
    let plan = judged(by_init("iTCO_wdt"), KernelSource::Host);
    assert_eq!((plan.warnings.len(), &plan.refusals, plan.hang_covered), (1, &vec![], false));
    let said = "the watchdog watchdog0 (iTCO_wdt) resets this machine after 30 s unless it is fed, as systemd does now";
    assert!(plan.warnings[0].starts_with(said), "{:?}", plan.warnings);
    let idle = judged(Watchdog { active: false, ..by_init("iTCO_wdt") }, KernelSource::Host);
    assert!(idle.warnings.is_empty(), "{:?}", idle.warnings);
    assert!(judged(by_init("ipmi_watchdog"), KernelSource::Host).hang_covered, "a BMC counts on");
    let by_daemon = || watchdog("ipmi_watchdog", Some("watchdog (812)"));
    assert!(judged(by_daemon(), KernelSource::Host).hang_covered, "the stage starts it once the daemon has ended");
    assert!(judged(Watchdog { active: false, ..by_daemon() }, KernelSource::Host).hang_covered, "the stage starts it");
    assert!(!judged(by_daemon(), KernelSource::Locked).hang_covered, "that kernel may not have its driver");

    let forever = |watchdog: Watchdog| Watchdog { nowayout: true, ..watchdog };
    for (what, watchdog, kernel, refused) in [
        ("a built-in driver that only the host's kernel may have", by_init(""), KernelSource::Locked, true),
        ("one that can't be stopped", forever(watchdog("", None)), KernelSource::Locked, true),
        ("the kernel that has it boots", forever(by_init("")), KernelSource::Host, false),
        ("a daemon lets go of it", watchdog("", Some("watchdog (812)")), KernelSource::Locked, false),
        ("the stage sees whether the module is there", by_init("iTCO_wdt"), KernelSource::Locked, false),
        ("it does not count", Watchdog { active: false, ..forever(by_init("")) }, KernelSource::Locked, false),
    ] {
        let refusals = judged(watchdog, kernel).refusals;
        assert_eq!(refusals.iter().any(|why| why.contains("RuntimeWatchdogSec=0")), refused, "{what}: {refusals:?}");
    }
}

#[test]
fn a_kernel_that_is_unfit_is_not_proposed() {
    let proposed = |kernel_lacks: Vec<String>, refused: Option<String>| {
        let mut facts = HostFacts { watchdogs: vec![watchdog("", Some("systemd (1)"))], kernel_lacks, ..facts() };
        (facts.kexec.lockdown, facts.kexec.refused) = ("integrity".into(), refused);
        let plan = judge(&facts, Choices { kernel: KernelSource::Locked, ..choices() });
        plan.warnings.iter().chain(&plan.refusals).filter(|said| said.contains("kernel = \"host\"")).count()
    };
    assert_eq!(proposed(Vec::new(), None), 2);
    assert_eq!(proposed(vec!["CONFIG_TMPFS".into()], None), 0);
    assert_eq!(proposed(Vec::new(), Some("no key".into())), 0);
}

/// Which disk the firmware starts is not known where the old system's stays, and is where it is written.
#[test]
fn the_old_system_may_start_again() {
    let said = |disks: &[&str], change: fn(&mut HostFacts)| {
        let mut facts = facts();
        change(&mut facts);
        let disks = disks.iter().map(|name| DiskSelector::Path((*name).into())).collect();
        let plan = judge(&facts, Choices { disks, ..choices() });
        plan.warnings.into_iter().find(|warning| warning.starts_with("the old system starts from"))
    };
    assert_eq!(said(&["/dev/vda"], |_| {}), None);
    assert_eq!(said(&["/dev/vda", "/dev/vdb"], |_| {}), None);
    let other = said(&["/dev/vdb"], |_| {}).unwrap();
    assert!(other.contains("/dev/vda, which stays as it is: the firmware may start that again and not /dev/vdb"));
    // One half of a mirror.
    let half = said(&["/dev/vda"], |f| f.disks[1].mounts = vec!["/boot".into()]).unwrap();
    assert!(half.contains("starts from /dev/vdb, which stays as it is"));
    assert_eq!(said(&["/dev/vdb"], |f| f.disks[0].partitions.clear()), None, "it is not known to start from any");
}

#[test]
fn disks_that_ram_cannot_have_are_refused() {
    let chosen = with(|f| f.disks[0].out_of_reach = Some("reached over the network (iSCSI)".into()));
    let why = "/dev/vda can't be had in RAM, where nothing makes it a disk: it is reached over the network (iSCSI)";
    assert!(chosen.refusals[0].starts_with(why), "{:?}", chosen.refusals);
    let other = with(|f| f.disks[1].out_of_reach = Some("reached over the network (iSCSI)".into()));
    assert_eq!(other.refusals, Vec::<String>::new(), "it is not to be written");
}

#[test]
fn what_is_kept() {
    let judged = |keeps: Vec<Keep>| {
        let mut facts = facts();
        facts.disks[0].partitions[1].mounts = vec!["/home".into()];
        judge(&facts, Choices { keeps, ..choices() })
    };
    let kept = judged(vec![keep("root", false)]);
    assert_eq!((&kept.warnings, &kept.refusals), (&vec![], &vec![]));
    let contents = kept.wipe[0].contents.iter().filter(|content| content.kept);
    assert_eq!(contents.map(|content| &*content.name).collect::<Vec<_>>(), ["/dev/vda2"]);
    assert_eq!(kept.keeps(), ["root"]);
    let made = judged(vec![keep("srv", true)]);
    assert!(made.warnings.iter().any(|w| w.contains("no partition labelled “srv” to keep: it is made")));
    assert!(made.warnings.iter().any(|w| w.contains("/home: what is there will be lost")), "{:?}", made.warnings);
    assert!(made.keeps().is_empty());
    assert!(judged(vec![keep("srv", false)]).refusals[0].starts_with("/dev/vda has no partition labelled “srv”"));
    let mut facts = facts();
    facts.disks[0].partitions[0].label = Some("root".into());
    let twice = judge(&facts, Choices { keeps: vec![keep("root", true)], ..choices() });
    assert!(twice.refusals[0].starts_with("/dev/vda1 and /dev/vda2 are both labelled"), "{:?}", twice.refusals);
}

/// The host's card and another are bonded, and it is reached through a VLAN on the bond.
fn on_bond(facts: &mut HostFacts, _: &mut Choices) {
    let card = facts.network.links[0].clone();
    let link = |id: u32, name: &str, kind: LinkKind, below: &[u32]| Link {
        id: LinkId(id),
        name: name.into(),
        kind,
        below: below.iter().copied().map(LinkId).collect(),
        ..card.clone()
    };
    facts.network.links.extend([
        link(2, "ens4", LinkKind::Card, &[]),
        link(3, "bond0", LinkKind::Bond(Bond { mode: 4, ..Bond::default() }), &[1, 2]),
        link(
            4,
            "bond0.7",
            LinkKind::Vlan { id: 7, protocol: 0x8100, flags: 1, egress: Vec::new(), ingress: Vec::new() },
            &[3],
        ),
    ]);
    facts.ways = vec![LinkId(4)];
}

#[test]
fn the_way_in_is_shown_unless_it_is_a_card() {
    let through = |ways: &[u32]| {
        let (mut facts, mut choices) = (facts(), choices());
        on_bond(&mut facts, &mut choices);
        facts.ways = ways.iter().copied().map(LinkId).collect();
        judge(&facts, choices).through
    };
    assert_eq!(through(&[1]), None);
    assert_eq!(through(&[4]).as_deref(), Some("bond0.7 (VLAN 7 on bond0 of ens3, ens4)"));
    assert_eq!(through(&[1, 3]).as_deref(), Some("ens3, bond0 (bond 802.3ad of ens3, ens4)"));
    assert_eq!(through(&[9]), None, "one that is not known");
    let circle = with(|f| {
        f.network.links[0].below = vec![LinkId(1)];
        f.network.links[0].kind = LinkKind::Dummy;
    });
    assert!(circle.through.is_some_and(|text| text.starts_with("ens3 (dummy on ens3 on ens3") && text.ends_with("…)")));
}

#[test]
fn refusals() {
    assert_eq!((plan().refusals, plan().refused()), (Vec::new(), None));
    let disabled = with(|f| f.kexec.disabled = true);
    assert!(disabled.refusals[0].contains("kexec_load_disabled"), "{:?}", disabled.refusals);
    let team = with(|f| f.lost_ways = vec!["team0 (team)".into()]);
    assert!(team.refusals[0].contains("reached through team0 (team)"), "{:?}", team.refusals);
    assert!(team.refusals[0].contains("restored in RAM: move its address"), "{:?}", team.refusals);
    let vpn = with(|f| {
        f.lost_ways = vec!["wg0 (wireguard)".into()];
        f.instead = vec![[203, 0, 113, 5].into(), [10, 1, 0, 5].into()];
    });
    let said = "restored in RAM: it would have 203.0.113.5 and 10.1.0.5 there, so give one of these as its `address` \
                if it is reached at it; or move";
    assert!(vpn.refusals[0].contains(said), "{:?}", vpn.refusals);
    let mut facts = facts();
    (facts.kexec.file_load, facts.kexec.load) = (false, false);
    let both = judge(&facts, Choices { disks: vec![DiskSelector::Path("/dev/sda".into())], ..choices() });
    assert!(both.wipe.is_empty() && names(&both.untouched) == ["/dev/vda", "/dev/vdb"], "{both:?}");
    assert!(both.refusals[0].lines().count() > 1 && both.refusals[1].contains("no kexec"), "{:?}", both.refusals);
    let why = both.refused().unwrap();
    assert!(why.starts_with("it can't be deployed as hosts.toml says: ") && why.lines().count() == 1, "{why}");
    assert!(why.ends_with("; the running kernel has no kexec"), "{why}");
}

#[test]
fn where_the_hosts_kernel_will_not_do_the_locked_one_boots() {
    type Change = fn(&mut HostFacts);
    let cases: [(Change, &str); 3] = [
        (|f| f.kernel_image = None, "no readable image of the running kernel 6.1.0-28-cloud-amd64"),
        (
            |f| f.kernel_lacks = vec!["CONFIG_CGROUP_BPF".into()],
            "the host's kernel 6.1.0-28-cloud-amd64 lacks CONFIG_CGROUP_BPF",
        ),
        (
            |f| {
                f.kernel_lacks = vec!["CONFIG_TMPFS".into()];
                f.kernel_image = None;
            },
            "the host's kernel 6.1.0-28-cloud-amd64 lacks CONFIG_TMPFS",
        ),
    ];
    for (change, why) in cases {
        let mut facts = facts();
        change(&mut facts);
        let plan = judge(&facts, choices());
        assert_eq!((&*plan.kernel, plan.kernel_source), ("6.12.57+deb13-amd64", KernelSource::Locked));
        assert_eq!(plan.warnings, [format!("{why}: the locked kernel boots instead")]);
        assert_eq!(plan.refusals, Vec::<String>::new());
        let without = judge(&facts, Choices { locked_kernel: None, ..choices() });
        assert!(without.refusals[0].starts_with(&format!("{why}, and base.lock names no kernel")), "{without:?}");
        assert_eq!((without.refusals.len(), without.warnings.len()), (1, 0));
        // It was not to boot anyway.
        let locked = judge(&facts, Choices { kernel: KernelSource::Locked, ..choices() });
        assert_eq!((locked.refusals.len(), locked.warnings.len(), locked.kernel_source), (0, 0, KernelSource::Locked));
    }
}

#[test]
fn a_plan_is_plain_data() {
    let plan = judge(&facts(), Choices { keeps: vec![keep("root", false)], finish: Finish::PowerOff, ..choices() });
    let text = serde_json::to_string(&plan).unwrap();
    for word in [r#""firmware":"uefi""#, r#""kernel_source":"host""#, r#""finish":"poweroff""#, r#""base":"abab"#] {
        assert!(text.contains(word), "{word}: {text}");
    }
    assert_eq!(serde_json::from_str::<Plan>(&text).unwrap(), plan);
}

#[test]
fn only_a_plan_without_refusals_is_approved() {
    let good = Arc::new(plan());
    let approval = Approval::of(&good).unwrap();
    assert_eq!((approval.plan(), approval.covers(&good)), (&*good, Ok(())));
    let refused = Arc::new(with(|f| f.kexec.disabled = true));
    assert_eq!(Approval::of(&refused).unwrap_err(), refused.refused().unwrap());
    // Somebody takes the refusals away and approves what is left.
    let forged = Approval::of(&Arc::new(Plan { refusals: Vec::new(), ..(*refused).clone() })).unwrap();
    assert_eq!(forged.covers(&refused), Err(refused.refused().unwrap()));
    let other = Plan { host: "web2".into(), ..plan() };
    assert_eq!(approval.covers(&other), Err("it is not what was approved: the host was `web1` and is `web2`".into()));
}

/// Each changes the facts, or the choices, of a host whose plan was approved.
type Change = fn(&mut HostFacts, &mut Choices);

fn differences(change: Change) -> Vec<String> {
    let (mut facts, mut choices) = (facts(), Choices { keeps: vec![keep("root", true)], ..choices() });
    let approval = Approval::of(&Arc::new(judge(&facts, choices.clone()))).unwrap();
    change(&mut facts, &mut choices);
    approval.differences(&judge(&facts, choices))
}

#[test]
fn what_must_be_as_it_was_approved() {
    let cases: &[(Change, &[&str])] = &[
        (
            |f, _| f.disks[0].partitions[1].label = None,
            &[
                "/dev/vda2 was ext4 “root” (20401094656 bytes, kept) and is ext4 (20401094656 bytes)",
                "there was no warning that /dev/vda has no partition labelled “root” to keep: it is made",
            ],
        ),
        (
            |f, c| (f.disks[0].partitions[1].label, c.keeps[0].or_made) = (None, false),
            &[
                "/dev/vda2 was ext4 “root” (20401094656 bytes, kept) and is ext4 (20401094656 bytes)",
                "it can't be deployed now: /dev/vda has no partition labelled “root”",
            ],
        ),
        (
            |f, _| f.disks[0].partitions[0].label = Some("root".into()),
            &[
                "/dev/vda1 was vfat (133169152 bytes) and is vfat “root” (133169152 bytes)",
                "/dev/vda2 was ext4 “root” (20401094656 bytes, kept) and is ext4 “root” (20401094656 bytes)",
                "it can't be deployed now: /dev/vda1 and /dev/vda2 are both labelled “root”",
            ],
        ),
        (
            |f, _| f.disks[0].partitions[2].size += 512,
            &["/dev/vda3 was swap (536870912 bytes) and is swap (536871424 bytes)"],
        ),
        (
            |f, _| f.disks[0].partitions[2].content = Some("ext4".into()),
            &["/dev/vda3 was swap (536870912 bytes) and is ext4 (536870912 bytes)"],
        ),
        (
            |f, _| f.disks[0].partitions[2].mounts.push("/srv/db".into()),
            &[
                "/dev/vda3 was swap (536870912 bytes) and is swap (536870912 bytes, on /srv/db)",
                "there was no warning that /dev/vda3 is mounted on /srv/db: what is there will be lost",
            ],
        ),
        (|f, _| drop(f.disks[0].partitions.remove(2)), &["/dev/vda3 was swap (536870912 bytes) and is gone"]),
        (
            |f, _| f.disks[0].partitions.push(partition("vda4", 7, "xfs", &[])),
            &["/dev/vda4 was not there and is xfs (7 bytes)"],
        ),
        (
            |f, _| f.disks[0].id.serial = Some("OTHER".into()),
            &["the disk that is wiped was /dev/vda (21474836480 bytes, serial SER-vda, wwid wwid-vda, at \
             pci0000:00/0000:00:05.0/virtio2) and is /dev/vda (21474836480 bytes, serial OTHER, wwid wwid-vda, at \
             pci0000:00/0000:00:05.0/virtio2)"],
        ),
        (|f, _| f.disks[0].id.size -= 512, &["the disk that is wiped was /dev/vda (21474836480 bytes"]),
        (|f, _| f.disks[0].model = "OTHER".into(), &["the model of /dev/vda was `QEMU HARDDISK` and is `OTHER`"]),
        (
            |f, _| drop(f.disks.remove(0)),
            &["1 disks were to be wiped and 0 would be", "it can't be deployed now: no disk is"],
        ),
        (
            |_, c| c.disks.push(DiskSelector::Path("/dev/vdb".into())),
            &[
                "1 disks were to be wiped and 2 would be",
                "there was no warning that /dev/vdb is mounted on /srv: what is there will be lost",
            ],
        ),
        (|f, _| f.disks[0].read_only = true, &["there was no warning that /dev/vda is read-only"]),
        (|_, c| c.becomes = Some(Become::Sudo), &["the way to root was `login` and is `sudo`"]),
        (
            |_, c| c.host_key = "ssh-ed25519 SHA256:xyz".into(),
            &["its host key was `ssh-ed25519 SHA256:abc` and is `ssh-ed25519 SHA256:xyz`"],
        ),
        (|_, c| c.system = "0-0".into(), &["its root file system was `77ab01f2-0123456789abcdef` and is `0-0`"]),
        (|f, _| f.hostname = "web9".into(), &["its name was `web1` and is `web9`"]),
        (|f, _| f.os.clear(), &["its system was `Debian GNU/Linux 12 (bookworm)` and is unknown"]),
        (|f, _| f.arch = "aarch64".into(), &["its machine was `x86_64` and is `aarch64`"]),
        (|f, _| f.firmware = Firmware::Bios, &["its firmware was `UEFI` and is `BIOS`"]),
        (|f, _| f.firmware = Firmware::Uefi { secure_boot: true }, &["there was no warning that Secure Boot is on"]),
        (
            |f, _| f.kernel_release = "6.1.0-29".into(),
            &["the kernel that boots was `6.1.0-28-cloud-amd64` and is `6.1.0-29`"],
        ),
        (
            |f, _| f.kernel_image = None,
            &[
                "the kernel that boots was `6.1.0-28-cloud-amd64` and is `6.12.57+deb13-amd64`",
                "the kernel's source was `the host` and is `base.lock`",
                "there was no warning that no readable image of the running kernel",
            ],
        ),
        (|f, _| f.kexec.disabled = true, &["it can't be deployed now: kexec is switched off"]),
        (
            |f, _| f.watchdogs = vec![watchdog("iTCO_wdt", Some("systemd (1)"))],
            &["there was no warning that the watchdog watchdog0 (iTCO_wdt) resets this machine after 30 s"],
        ),
        (
            |f, _| f.disks[0].out_of_reach = Some("one of the paths of mpatha".into()),
            &["it can't be deployed now: /dev/vda can't be had in RAM"],
        ),
        (|f, _| f.lost_ways = vec!["team0 (team)".into()], &["it can't be deployed now: the host is reached through"]),
        (on_bond, &["the way in was `a card` and is `bond0.7 (VLAN 7 on bond0 of ens3, ens4)`"]),
        (|_, c| c.base = Digest([0xac; 32]), &["the base was `abab"]),
        (|_, c| c.payload = "examples/arch".into(), &["the payload was `examples/debian` and is `examples/arch`"]),
        (|_, c| c.finish = Finish::Hold, &["the finish was `reboot` and is `hold`"]),
        (|_, c| c.verify_key = true, &["whether the run's own key opens the new system is not as it was"]),
        (|_, c| c.check = None, &["the check was `systemctl is-system-running --wait` and is unknown"]),
        (
            |_, c| c.address = "root@192.0.2.8:22".into(),
            &["its address was `root@192.0.2.7:22` and is `root@192.0.2.8:22`"],
        ),
    ];
    for (number, (change, expected)) in cases.iter().enumerate() {
        let found = differences(*change);
        let same = found.len() == expected.len() && found.iter().zip(*expected).all(|(a, b)| a.starts_with(b));
        assert!(same, "{number}: {found:#?}, and not {expected:#?}");
    }
}

#[test]
fn what_may_be_otherwise_than_approved() {
    let cases: &[Change] = &[
        |_, _| {},
        |f, _| f.cached_blobs = vec![Digest([9; 32]), Digest([8; 32])],
        |f, _| f.cached_bases = vec![Digest([0xab; 32]), Digest([0xad; 32])],
        |_, c| c.stage.cached = !c.stage.cached,
        |f, _| (f.memory_total, f.memory_available) = (480 << 20, 200 << 20),
        |f, _| f.boot_id = "another".into(),
        |f, _| drop(f.disks.remove(1)),
        |f, _| f.disks.push(disk("sdz", 1 << 30)),
        |f, _| f.disks[1].mounts.clear(),
        |f, _| f.disks[0].partitions[0].mounts.clear(),
        |f, _| f.disks[0].partitions[2].mounts.clear(),
        |f, _| f.disks[0].partitions[2].label = Some(String::new()),
        |f, _| f.watchdogs.clear(),
    ];
    for (number, change) in cases.iter().enumerate() {
        assert_eq!(differences(*change), Vec::<String>::new(), "{number}");
    }
}

proptest! {
    /// Whatever is on a disk: an approval covers its own plan, and another only if the same is wiped and kept.
    #[test]
    fn a_plan_is_what_was_approved(
        one in any_facts(),
        two in any_facts(),
        keeps in prop::collection::vec("[ab]", 0..3),
    ) {
        let keeps: Vec<Keep> = keeps.iter().map(|label| keep(label, true)).collect();
        let judged = |facts| Arc::new(judge(facts, Choices { keeps: keeps.clone(), ..choices() }));
        let (one, two) = (judged(&one), judged(&two));
        match (Approval::of(&one), Approval::of(&two)) {
            (Ok(first), Ok(second)) => {
                prop_assert_eq!(first.differences(&one), Vec::<String>::new());
                prop_assert_eq!(first.covers(&one), Ok(()));
                prop_assert_eq!(first.covers(&two).is_ok(), second.covers(&one).is_ok());
                prop_assert_eq!(first.covers(&two).is_ok(), one.wipe == two.wipe);
            }
            (first, _) => prop_assert_eq!(first.is_err(), !one.refusals.is_empty()),
        }
    }
}

/// Hosts that have a first disk with some partitions, labelled or not.
fn any_facts() -> impl Strategy<Value = HostFacts> {
    let part = ("[ab]?", 0..3_u64, prop::sample::select(vec!["ext4", "vfat"]));
    prop::collection::vec(part, 0..4).prop_map(|parts| {
        let mut facts = facts();
        let numbered = (1..).zip(parts);
        facts.disks[0].partitions = numbered
            .map(|(number, (label, size, content))| {
                let label = (!label.is_empty()).then_some(label);
                Partition { label, ..partition(&format!("vda{number}"), size, content, &[]) }
            })
            .collect();
        facts
    })
}
