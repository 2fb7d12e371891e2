//! One record of each kind, with every kind of fact in it: what the golden files hold.

use anemos_proto::Secret;
use anemos_proto::config::Finish;
use anemos_proto::event::{AgentState, Event, EventKind, Level, Outcome, Progress, StepOutcome, Stream, Unit};
use anemos_proto::host::{Disk, DiskId, Firmware, HostFacts, Inside, KexecSupport, Partition, Watchdog};
use anemos_proto::ids::Digest;
use anemos_proto::net::{Address, Bond, Hop, Link, LinkId, LinkKind, NetworkState, PortVlans, Route, Rule};

use super::{HostEntry, OldSystem, Record, RunFile};
use crate::plan;
use crate::report::{Ending, Phase, PhaseSeconds, Speaker, Summary, Update, What, Wished};
use crate::ssh::{self, HostKey, RunKey};
use crate::ssh_config::Agent;

/// When all of this was.
const NOW: u64 = 1_795_860_000_000;

fn key() -> HostKey {
    let line = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIQr8xQuCc4EgyOdEyDMALuAkLUWsLkXbTJFWwT3jPW2";
    HostKey::parse(line).unwrap()
}

fn facts() -> HostFacts {
    HostFacts {
        hostname: "web1".into(),
        os: "Debian GNU/Linux 12 (bookworm)".into(),
        boot_id: "4a5a0b4e-0b5f-4d0c-a2f5-3a6e8e0b6d11".into(),
        arch: "x86_64".into(),
        kernel_release: "6.1.0-40-amd64".into(),
        kernel_image: Some("/boot/vmlinuz-6.1.0-40-amd64".into()),
        cmdline: "root=/dev/vda1 ro".into(),
        firmware: Firmware::Uefi { secure_boot: false },
        memory_total: 1 << 30,
        memory_available: 800 << 20,
        disks: vec![Disk {
            id: DiskId {
                name: "/dev/vda".into(),
                serial: Some("lab-1".into()),
                wwid: None,
                path: "/sys/devices/pci0000:00/0000:00:04.0/virtio1/block".into(),
                size: 8 << 30,
            },
            model: "QEMU".into(),
            removable: false,
            rotational: true,
            read_only: false,
            table: Some("gpt".into()),
            content: None,
            partitions: vec![Partition {
                name: "/dev/vda1".into(),
                size: 7 << 30,
                content: Some("ext4".into()),
                label: Some("root".into()),
                mounts: vec!["/".into()],
            }],
            mounts: Vec::new(),
            out_of_reach: None,
        }],
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
                mac: [0x52, 0x54, 0, 1, 2, 3],
                mtu: 1500,
                up: true,
                driver: "virtio_net".into(),
                set_mac: None,
                vlans: Vec::new(),
                port: Vec::new(),
                client_id: Vec::new(),
                client_unknown: String::new(),
                addresses: vec![Address {
                    ip: "192.0.2.10".parse().unwrap(),
                    prefix: 24,
                    peer: None,
                    scope: 0,
                    valid_s: Some(3600),
                    preferred_s: None,
                    autoconf: false,
                }],
            }],
            routes: vec![Route {
                destination: Some(("2001:db8::".parse().unwrap(), 32)),
                v6: true,
                gateway: Some("fe80::1".parse().unwrap()),
                link: LinkId(1),
                metric: 100,
                onlink: true,
                source: None,
                scope: 0,
                protocol: 3,
                table: 254,
                mtu: Some(1400),
                hops: Vec::new(),
            }],
            dns: vec!["192.0.2.1".parse().unwrap()],
            search: vec!["example.com".into()],
            rules: Vec::new(),
        },
        lost_ways: vec!["br0 (bridge)".into()],
        ways: Vec::new(),
        instead: Vec::new(),
        kernel_lacks: Vec::new(),
        inside: Inside::Machine,
        memory_reserved: 0,
        snapshot: None,
        proxy: None,
        ssh_port: 22,
        host_keys: vec![key().line().into()],
        mirrors: vec!["http://mirror.example/debian".into()],
        cached_blobs: vec![Digest([7; 32])],
        cached_bases: vec![Digest([8; 32])],
        watchdogs: Vec::new(),
    }
}

/// What hosts have told since.
fn facts_since() -> HostFacts {
    let mut facts = facts();
    facts.disks[0].out_of_reach = Some("reached over the network (iSCSI)".into());
    let card = &mut facts.network.links[0];
    card.set_mac = Some([2, 0, 0, 0, 0, 7]);
    card.client_id = vec![1, 0x52, 0x54, 0, 1, 2, 3];
    card.client_unknown = "its DHCP client is not known".into();
    card.port = vec![(3, 100)];
    card.vlans = vec![PortVlans { first: 7, last: 9, pvid: true, untagged: true }];
    let card = card.clone();
    let bond =
        Bond { mode: 1, primary: Some(card.id), targets: vec!["192.0.2.1".parse().unwrap()], options: vec![(7, 500)] };
    let kinds = [
        LinkKind::Made("tun".into()),
        LinkKind::Vlan { id: 7, protocol: 0x8100, flags: 1, egress: vec![(0, 3)], ingress: vec![(5, 1)] },
        LinkKind::Bond(bond),
        LinkKind::Bridge { options: vec![(5, 1)] },
        LinkKind::Macvlan { mode: 4, flags: 0 },
        LinkKind::Dummy,
        LinkKind::Vrf { table: 10 },
        LinkKind::Loopback,
    ];
    let made = (2..).zip(kinds).map(|(id, kind)| Link { id: LinkId(id), kind, below: vec![card.id], ..card.clone() });
    facts.network.links.extend(made);
    let hop =
        |link: u32| Hop { gateway: Some("fe80::1".parse().unwrap()), link: LinkId(link), onlink: false, weight: 1 };
    facts.network.routes[0].hops = vec![hop(1), hop(3)];
    facts.kernel_lacks = vec!["CONFIG_CGROUP_BPF".into()];
    facts.ways = vec![LinkId(3)];
    facts.instead = vec!["192.0.2.10".parse().unwrap()];
    facts.inside = Inside::Encrypted("SEV-SNP".into());
    facts.memory_reserved = 192 << 20;
    facts.snapshot = Some("https://past.example/debian/@SNAPSHOTID@/".into());
    facts.proxy = Some("http://proxy.example:3128".into());
    (facts.kexec.loads_left, facts.kexec.appraised) = (Some(3), true);
    facts.kexec.refused = Some("its signature is missing".into());
    facts.network.rules = vec![Rule {
        v6: false,
        priority: 100,
        source: Some(("192.0.2.0".parse().unwrap(), 24)),
        destination: None,
        iif: Some("lo".into()),
        oif: None,
        mark: Some((1, 255)),
        inverted: true,
        table: 1001,
        suppress: Some(0),
    }];
    facts.watchdogs.push(Watchdog {
        name: "watchdog0".into(),
        identity: "iTCO_wdt".into(),
        module: "iTCO_wdt".into(),
        active: true,
        timeout_s: Some(30),
        nowayout: false,
        holder: Some("systemd (1)".into()),
    });
    facts
}

/// Facts of every kind.
pub fn events() -> Vec<EventKind> {
    let log = |stream, line: &[u8]| EventKind::Log { stream, line: line.into() };
    let failed = |written| Outcome::Failed { reason: "exit status 1".into(), written };
    vec![
        EventKind::StepStarted { step: 1, parent: None, name: "network".into() },
        EventKind::StepStarted { step: 2, parent: Some(1), name: "ens3".into() },
        EventKind::StepFinished { step: 2, outcome: StepOutcome::Done },
        EventKind::StepFinished { step: 1, outcome: StepOutcome::Skipped("nothing to do".into()) },
        EventKind::StepFinished { step: 3, outcome: StepOutcome::Failed("no disk".into()) },
        log(Stream::Stdout, b"Unpacking base-files (12.4+deb12u12) ..."),
        log(Stream::Stderr, b"W: \xff\xfe not UTF-8"),
        log(Stream::Kernel, b"<6>EXT4-fs (vda1): mounted filesystem"),
        log(Stream::Stdout, b""),
        log(Stream::Stdout, b"two\nlines"),
        EventKind::Note { level: Level::Info, text: "unpacking the base".into() },
        EventKind::Note { level: Level::Warning, text: "slow".into() },
        EventKind::Note { level: Level::Error, text: "no".into() },
        EventKind::State(AgentState::Starting),
        EventKind::State(AgentState::Waiting),
        EventKind::Attempt(1),
        EventKind::State(AgentState::Running),
        EventKind::Gap { first: 17, last: 40, bytes: 4096 },
        EventKind::Written(vec![("vda".into(), 2048)]),
        EventKind::HostKeys(vec![key().line().into()]),
        EventKind::Seeded(60_000_000),
        EventKind::Outcome(Outcome::Succeeded),
        EventKind::Outcome(failed(true)),
        EventKind::State(AgentState::Held("the payload failed".into())),
        EventKind::State(AgentState::Succeeded),
        EventKind::State(AgentState::Returning("nobody came".into())),
    ]
}

/// Facts that came after the first build with format 16: each new kind of fact or record has its line in `records.txt`.
pub fn since() -> Vec<Record> {
    let kinds = [EventKind::NothingWritten { attempt: 1 }, EventKind::Shell];
    let told = |kind| {
        let event = Event { seq: 1, uptime_ms: 2010, wall_ms: NOW, kind };
        Record::Told { wall_ms: NOW, update: Update::Event(Speaker::Agent, event) }
    };
    let wished =
        |what| Update::Wished(Wished { author: "ann (process 77)".into(), id: "0123456789abcdef".into(), what });
    let wishes = [
        wished(What::Retry { payload: None }),
        wished(What::Retry { payload: Some(Digest([9; 32])) }),
        wished(What::Abort),
        wished(What::Finish(Finish::PowerOff)),
        Update::Answered { wish: 17, refused: None },
        Update::Answered { wish: 18, refused: Some("the payload is running".into()) },
        Update::Decided { author: "ann (process 77)".into(), approved: true },
    ];
    let planned = Update::Planned { plan: Box::new(plan::tests::plan()), order: Some("all 2 at once".into()) };
    let facts = Update::Facts(Box::new(facts_since()));
    let updates = wishes.into_iter().chain([planned, facts]).map(|update| Record::Told { wall_ms: NOW, update });
    let verified = Record::Verified { os: "Some OS".into() };
    kinds.map(told).into_iter().chain(updates).chain([verified]).collect()
}

/// The key of a run whose hosts nobody reaches.
pub fn run_key() -> RunKey {
    RunKey::from_seed(&Secret::new(vec![3; 32])).unwrap()
}

/// A run with that name, of these hosts: at an address that nobody has (RFC 5737), with the shortest deadlines.
pub fn run_file(id: &str, names: &[&str]) -> RunFile {
    let host = |name: &&str| HostEntry {
        name: (*name).into(),
        labels: Vec::new(),
        address: ssh::Address { host: "192.0.2.1".into(), port: 22, way: ssh::Way::Direct },
        new_address: None,
        algorithms: ssh::Algorithms::default(),
        user: "root".into(),
        new_user: None,
        becomes: None,
        agent: Agent::Disabled,
        identities_only: true,
        identity_files: Vec::new(),
        identities_given: false,
        certificate_files: Vec::new(),
        agent_key: run_key().public(),
        check: None,
        verify_key: false,
        finish: Finish::Reboot,
        boot_s: 1,
        build_s: 1,
        reboot_s: 1,
        verify_s: 1,
        ack_s: 1,
        dead_man_s: 1,
        ram: None,
        wanted: None,
    };
    RunFile {
        format: RunFile::FORMAT,
        run: id.parse().unwrap(),
        started_ms: 1,
        hosts_file: "/x/hosts.toml".into(),
        pid: 1,
        hosts: names.iter().map(host).collect(),
    }
}

/// That a host ended, with numbers that nobody looks at.
pub fn ended(host: &str, outcome: Ending) -> Record {
    let summary = Summary { host: host.into(), ..summary(outcome) };
    Record::Told { wall_ms: 2, update: Update::Summary(Box::new(summary)) }
}

/// How it ended.
pub fn summary(outcome: Ending) -> Summary {
    Summary {
        host: "web1".into(),
        outcome,
        reason: "so it went".into(),
        uploaded_bytes: 1_234_567,
        received_bytes: 89_012,
        host_downloaded_bytes: 40_000_000,
        initramfs_bytes: 265 << 20,
        seconds: PhaseSeconds {
            connect: Some(0.5),
            probe: Some(0.25),
            upload: None,
            stage: Some(20.125),
            boot: Some(10.0),
            build: Some(600.0),
            reboot: Some(30.0),
            verify: Some(1.0),
        },
        first_event_seconds: Some(9.75),
        total_seconds: 662.625,
    }
}

/// Records of every kind.
pub fn records() -> Vec<Record> {
    let told = |update| Record::Told { wall_ms: NOW, update };
    let old = OldSystem {
        boot_id: "4a5a0b4e-0b5f-4d0c-a2f5-3a6e8e0b6d11".into(),
        proved: key(),
        host_keys: vec![key()],
        identity: "ext4 0f2b root".into(),
        agent_port: 22,
        downloaded: 40_000_000,
        initramfs: 265 << 20,
    };
    let progress = |unit, total| Progress { step: 1, done: 5, total, unit, what: Some("bash".into()) };
    let mut records = vec![
        told(Update::Message(Level::Info, "hello".into())),
        told(Update::PhaseStarted(Phase::Connect)),
        Record::Met { host_key: key() },
        told(Update::PhaseFinished(Phase::Connect, 0.5)),
        told(Update::Facts(Box::new(facts()))),
        told(Update::Uploaded { sent: 10, total: 20 }),
        told(Update::Progress(Speaker::Stage, progress(Unit::Bytes, Some(10)))),
        told(Update::Progress(Speaker::Agent, progress(Unit::Items, None))),
        Record::OldSystem(old),
        told(Update::PhaseStarted(Phase::Boot)),
        Record::BootSent { wall_ms: NOW + 1 },
        Record::Ram { boot_id: "b-2".into() },
        told(Update::LinkLost("reset by peer".into())),
        told(Update::LinkBack),
    ];
    let firmware = Update::Facts(Box::new(HostFacts { firmware: Firmware::Bios, ..facts() }));
    records.push(told(firmware));
    let phases = Phase::ALL.into_iter().map(|phase| told(Update::PhaseStarted(phase)));
    records.extend(phases);
    for (at, kind) in events().into_iter().enumerate() {
        let seq = at as u64 + 1;
        let event = Event { seq, uptime_ms: 2000 + 10 * seq, wall_ms: NOW + 2 + 10 * seq, kind };
        let speaker = if seq == 7 { Speaker::Stage } else { Speaker::Agent };
        // Told when it was printed: lines that took about as long as each other to arrive are told exactly so.
        records.push(Record::Told { wall_ms: event.wall_ms, update: Update::Event(speaker, event) });
    }
    let finishes = [Finish::Reboot, Finish::Kexec, Finish::PowerOff, Finish::Hold];
    let left = |finish| Record::Left { wall_ms: NOW + 9, finish, reason: "told to".into() };
    records.extend(finishes.map(|finish| left(Some(finish))));
    records.extend([
        left(None),
        Record::Counted { sent: 1_234_567, received: 89_012 },
        told(Update::Summary(Box::new(summary(Ending::Untouched)))),
        Record::Reopened { wall_ms: NOW + 10 },
        told(Update::Summary(Box::new(summary(Ending::Held)))),
        Record::Reopened { wall_ms: NOW + 11 },
        Record::Counted { sent: 1_234_568, received: 89_000 },
        told(Update::Summary(Box::new(summary(Ending::Deployed)))),
    ]);
    records
}
