//! One full value of each message, for golden bytes and round trips.
#![allow(missing_docs, dead_code, reason = "several tests have this module, and none uses all of it")]

use std::net::IpAddr;

use anemos_proto::agent::{AgentReply, AgentRequest, Leaving};
use anemos_proto::config::{Deadlines, Finish, HostConfig, RunConfig};
use anemos_proto::event::{AgentState, Event, EventKind, Level, Outcome, Progress, StepOutcome, Stream, Unit};
use anemos_proto::host::{Disk, DiskId, Firmware, HostFacts, Inside, KexecSupport, Partition, Watchdog};
use anemos_proto::ids::BlobRef;
use anemos_proto::net::{Address, Bond, Hop, Link, LinkId, LinkKind, NetworkState, PortVlans, Route, Rule};
use anemos_proto::stage::{BaseSource, Failure, KernelSource, Proxy, StagePlan, StageReply, StageRequest, Staged};
use anemos_proto::{Digest, RunId, Secret};

pub fn digest(n: u8) -> Digest {
    Digest([n; 32])
}

pub fn run() -> RunId {
    "20261123-090500-0a1f".parse().unwrap()
}

fn blob(n: u8) -> BlobRef {
    BlobRef { digest: digest(n), size: u64::from(n) * 1000 }
}

pub fn disk_id() -> DiskId {
    DiskId {
        name: "/dev/vda".into(),
        serial: Some("S1".into()),
        wwid: None,
        path: "pci0000:00/0000:00:04.0/virtio1/block".into(),
        size: 8 << 30,
    }
}

pub fn network() -> NetworkState {
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    NetworkState {
        hostname: "web1".into(),
        links: vec![Link {
            id: LinkId(2),
            name: "ens3".into(),
            kind: LinkKind::Bond(Bond {
                mode: 1,
                primary: Some(LinkId(3)),
                targets: vec![ip("192.0.2.1")],
                options: vec![(7, 500)],
            }),
            below: vec![LinkId(3), LinkId(4)],
            mac: [0x52, 0x54, 0, 0x12, 0x34, 0x56],
            mtu: 1500,
            up: true,
            driver: "virtio_net".into(),
            addresses: vec![
                Address {
                    ip: ip("192.0.2.10"),
                    prefix: 24,
                    peer: None,
                    scope: 0,
                    valid_s: Some(3600),
                    preferred_s: Some(1800),
                    autoconf: false,
                },
                Address {
                    ip: ip("2001:db8::10"),
                    prefix: 64,
                    peer: None,
                    scope: 0,
                    valid_s: None,
                    preferred_s: None,
                    autoconf: true,
                },
            ],
            set_mac: Some([2, 0, 0, 0, 0, 7]),
            port: vec![(3, 100)],
            client_id: vec![255, 1, 2],
            client_unknown: "dhcp-client-id=stable".into(),
            vlans: vec![PortVlans { first: 7, last: 9, pvid: false, untagged: true }],
        }],
        routes: vec![Route {
            destination: None,
            v6: false,
            gateway: Some(ip("192.0.2.1")),
            link: LinkId(2),
            metric: 100,
            onlink: true,
            source: None,
            scope: 0,
            protocol: 3,
            table: 254,
            mtu: Some(1400),
            hops: vec![Hop { gateway: Some(ip("192.0.2.1")), link: LinkId(2), onlink: true, weight: 2 }],
        }],
        dns: vec![ip("192.0.2.53")],
        search: vec!["example.org".into()],
        rules: vec![Rule {
            v6: false,
            priority: 100,
            source: Some((ip("192.0.2.0"), 24)),
            destination: None,
            iif: Some("lo".into()),
            oif: None,
            mark: Some((1, 255)),
            inverted: true,
            table: 1001,
            suppress: Some(0),
        }],
    }
}

pub fn run_config() -> RunConfig {
    RunConfig {
        run: run(),
        host: "web1".into(),
        host_key: Secret::new(vec![7; 32]),
        authorized_keys: vec!["ssh-ed25519 AAAA run".into()],
        target_keys: vec!["ssh-ed25519 BBBB me".into()],
        disks: vec![disk_id()],
        keeps: vec!["srv".into()],
        raw_access: false,
        vars: vec![("GREETING".into(), "hello".into())],
        secrets: vec![("token".into(), Secret::new(b"s3cret".to_vec()))],
        mirror: Some("http://192.0.2.5/debian".into()),
        finish: Finish::Reboot,
        ssh_port: Some(2222),
        deadlines: Deadlines { dead_man_s: 600, payload_s: 7200, ack_s: 60, start_s: 600, hang_s: 120 },
        payload: digest(3),
    }
}

pub fn host_config() -> HostConfig {
    HostConfig {
        network: network(),
        ssh_port: 22,
        ssh_identity: vec![("ssh_host_ed25519_key".into(), Secret::new(vec![1, 2, 3]))],
        firmware: Firmware::Uefi { secure_boot: true },
        arch: "x86_64".into(),
        kernel_release: "6.1.0-40-cloud-amd64".into(),
        mirror: None,
        security_mirror: Some("http://192.0.2.5/debian-security".into()),
        base: digest(9),
        base_size: 200_000_000,
        disks: vec![disk_id()],
        random_seed: Secret::new(vec![5; 4]),
        seed_cache: vec![("agent.zst".into(), "blob-02".into())],
        wall_ms: 1_795_424_700_123,
        proxies: vec![("http_proxy".into(), Secret::new(b"http://192.0.2.7:3128".to_vec()))],
    }
}

pub fn facts() -> HostFacts {
    HostFacts {
        hostname: "web1".into(),
        os: "Debian GNU/Linux 12 (bookworm)".into(),
        boot_id: "6a0bb3b0-0000-4000-8000-000000000001".into(),
        arch: "x86_64".into(),
        kernel_release: "6.1.0-40-cloud-amd64".into(),
        kernel_image: Some("/boot/vmlinuz-6.1.0-40-cloud-amd64".into()),
        cmdline: "console=ttyS0".into(),
        firmware: Firmware::Bios,
        memory_total: 1 << 30,
        memory_available: 1 << 29,
        disks: vec![Disk {
            id: disk_id(),
            model: "QEMU".into(),
            removable: false,
            rotational: true,
            read_only: false,
            table: Some("gpt".into()),
            content: None,
            partitions: vec![Partition {
                name: "/dev/vda1".into(),
                size: 1 << 30,
                content: Some("ext4".into()),
                label: Some("root".into()),
                mounts: vec!["/".into()],
            }],
            mounts: vec![],
            out_of_reach: Some("iSCSI".into()),
        }],
        kexec: KexecSupport {
            file_load: true,
            load: true,
            disabled: false,
            lockdown: "none".into(),
            loads_left: Some(3),
            appraised: true,
            refused: Some("no key".into()),
        },
        network: network(),
        lost_ways: vec!["br0 (bridge)".into()],
        ssh_port: 22,
        host_keys: vec!["ssh-ed25519 CCCC".into()],
        mirrors: vec!["http://192.0.2.5/debian".into()],
        cached_blobs: vec![digest(2)],
        cached_bases: vec![],
        watchdogs: vec![Watchdog {
            name: "watchdog0".into(),
            identity: "iTCO_wdt".into(),
            module: "iTCO_wdt".into(),
            active: true,
            timeout_s: Some(30),
            nowayout: false,
            holder: Some("systemd (1)".into()),
        }],
        ways: vec![LinkId(2)],
        instead: vec!["192.0.2.10".parse().unwrap()],
        kernel_lacks: vec!["CONFIG_CGROUP_BPF".into()],
        inside: Inside::Encrypted("SEV-SNP".into()),
        memory_reserved: 192 << 20,
        snapshot: Some("https://past.example/debian/@SNAPSHOTID@/".into()),
        proxy: Some("http://192.0.2.7:3128".into()),
    }
}

pub fn stage_plan() -> StagePlan {
    StagePlan {
        lock: blob(1),
        agent: blob(2),
        payload: blob(3),
        base: vec![
            BaseSource::Cache,
            BaseSource::Urls(vec!["http://192.0.2.5/base".into()]),
            BaseSource::Build,
            BaseSource::Upload(blob(4)),
        ],
        mirror: None,
        fallback_mirror: Some("http://192.0.2.6/debian".into()),
        snapshot: None,
        fallback_snapshot: Some("http://192.0.2.6/past/@SNAPSHOTID@/".into()),
        proxy: Proxy::At("http://192.0.2.7:3128".into()),
        kernel: KernelSource::Host,
        deadline_s: 900,
        run: run_config(),
    }
}

fn event(kind: EventKind) -> Event {
    Event { seq: 300, uptime_ms: 70_000, wall_ms: 1_795_424_700_123, kind }
}

pub fn events() -> Vec<Event> {
    [
        EventKind::StepStarted { step: 1, parent: None, name: "network".into() },
        EventKind::StepFinished { step: 1, outcome: StepOutcome::Done },
        EventKind::StepFinished { step: 2, outcome: StepOutcome::Skipped("nothing to do".into()) },
        EventKind::StepFinished { step: 3, outcome: StepOutcome::Failed("no such disk".into()) },
        EventKind::Log { stream: Stream::Stderr, line: vec![0xff, b'!'] },
        EventKind::Note { level: Level::Warning, text: "clock".into() },
        EventKind::State(AgentState::Held("payload failed".into())),
        EventKind::Gap { first: 2, last: 9, bytes: 4096 },
        EventKind::Attempt(2),
        EventKind::Written(vec![("/dev/vda".into(), 2048)]),
        EventKind::HostKeys(vec!["ssh-ed25519 DDDD".into()]),
        EventKind::Seeded(50_000_000),
        EventKind::Outcome(Outcome::Succeeded),
        EventKind::Outcome(Outcome::Failed { reason: "exit status 3".into(), written: true }),
        EventKind::NothingWritten { attempt: 2 },
        EventKind::Shell,
    ]
    .map(event)
    .into()
}

pub fn progress() -> Progress {
    Progress { step: 4, done: 10, total: Some(20), unit: Unit::Items, what: Some("bash".into()) }
}

pub fn stage_requests() -> Vec<StageRequest> {
    vec![
        StageRequest::Probe,
        StageRequest::Stage(Box::new(stage_plan())),
        StageRequest::Blob { digest: digest(2), data: vec![1, 2, 3] },
        StageRequest::Boot,
        StageRequest::Abort,
    ]
}

pub fn stage_replies() -> Vec<StageReply> {
    let mut replies = vec![
        StageReply::Facts(Box::new(facts())),
        StageReply::Need(vec![digest(1), digest(2)]),
        StageReply::Progress(progress()),
        StageReply::Staged(Staged { initramfs_bytes: 70_000_000, downloaded_bytes: 60_000_000 }),
        StageReply::Booting,
        StageReply::Aborted,
        StageReply::Failed(Failure { what: "loading the kernel".into(), why: "EPERM".into(), hint: "lockdown".into() }),
    ];
    replies.extend(events().into_iter().map(StageReply::Event));
    replies
}

pub fn agent_requests() -> Vec<AgentRequest> {
    vec![
        AgentRequest::Attach { after: 0 },
        AgentRequest::Ack { seq: 300 },
        AgentRequest::Abort,
        AgentRequest::Retry { payload: Some(blob(3)) },
        AgentRequest::Blob { digest: digest(3), data: vec![0; 3] },
        AgentRequest::Finish(Finish::Kexec),
    ]
}

pub fn agent_replies() -> Vec<AgentReply> {
    let mut replies = vec![
        AgentReply::Attached { boot_id: "b".into(), state: AgentState::Waiting, last: 12 },
        AgentReply::Progress(progress()),
        AgentReply::Accepted,
        AgentReply::Refused("the payload is running".into()),
        AgentReply::Leaving(Leaving::Finish(Finish::PowerOff)),
        AgentReply::Leaving(Leaving::OldSystem("nobody attached".into())),
    ];
    replies.extend(events().into_iter().map(AgentReply::Event));
    replies
}
