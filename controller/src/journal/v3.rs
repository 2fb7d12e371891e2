//! Journals from before they had a format of their own: frames of length, CRC-32 and one record in bincode, which is
//! positional, so the types are kept here as they were and never change. Only read: such a run is shown, and whoever
//! began it goes on with it.
//!
//! The names are those of the types of today, and so a record becomes one of today by way of JSON.

use std::net::IpAddr;

use anemos_proto::codec;
use serde::{Deserialize, Serialize};

use super::blocks::crc;
use super::by_mac;

/// The byte after the magic: the version of the wire at that time.
pub const FORMAT: u8 = 3;

/// Bytes before each record: length and CRC-32 of the record, big endian.
const FRAME_HEAD: usize = 8;

/// Longest record, in bytes.
const MAX_FRAME: usize = 1 << 20;

/// What is at some place of such a journal.
#[derive(Debug)]
pub enum Piece {
    /// A record, and how many bytes it takes.
    Record(Box<super::Record>, usize),
    /// So many bytes that are no record.
    Damage(usize),
    /// So many bytes at the end that a crash left; 0 at the very end.
    End(usize),
}

/// What is at the beginning of `rest`, which goes on to the end of the file.
pub fn piece(rest: &[u8]) -> Piece {
    if let Some((record, used)) = frame(rest) {
        return Piece::Record(Box::new(record), used);
    }
    if rest.iter().all(|byte| *byte == 0) {
        return Piece::End(rest.len());
    }
    // The length had no checksum. A frame that the file ends in is unfinished, unless records follow or its own
    // checksum says that it is whole and the length is wrong.
    if let Some(next) = (1..rest.len()).find(|at| frame(&rest[*at..]).is_some()) {
        return Piece::Damage(next);
    }
    let unfinished = match rest.split_first_chunk::<FRAME_HEAD>() {
        None => true,
        Some(([l0, l1, l2, l3, c0, c1, c2, c3], body)) => {
            let length = u32::from_be_bytes([*l0, *l1, *l2, *l3]) as usize;
            (1..=MAX_FRAME).contains(&length)
                && length > body.len()
                && crc(body) != u32::from_be_bytes([*c0, *c1, *c2, *c3])
        }
    };
    if unfinished { Piece::End(rest.len()) } else { Piece::Damage(rest.len()) }
}

fn frame(bytes: &[u8]) -> Option<(super::Record, usize)> {
    let ([l0, l1, l2, l3, c0, c1, c2, c3], rest) = bytes.split_first_chunk::<FRAME_HEAD>()?;
    let length = u32::from_be_bytes([*l0, *l1, *l2, *l3]) as usize;
    if !(1..=MAX_FRAME).contains(&length) {
        return None;
    }
    let body = rest.get(..length)?;
    if crc(body) != u32::from_be_bytes([*c0, *c1, *c2, *c3]) {
        return None;
    }
    Some((of_today(codec::from_bytes(body).ok()?)?, FRAME_HEAD + length))
}

fn of_today(record: Record) -> Option<super::Record> {
    use anemos_proto::event as today;
    // Nearly all of a journal; the others can take the longer way.
    let Record::Told { wall_ms, update: Update::Event(speaker, Event { seq, uptime_ms, wall_ms: clock, kind }) } =
        record
    else {
        let mut value = serde_json::to_value(record).ok()?;
        by_mac::give_ids(&mut value);
        return serde_json::from_value(value).ok();
    };
    let EventKind::Log { stream, line } = kind else {
        let event = Event { seq, uptime_ms, wall_ms: clock, kind };
        let record = Record::Told { wall_ms, update: Update::Event(speaker, event) };
        return serde_json::from_value(serde_json::to_value(record).ok()?).ok();
    };
    let speaker = match speaker {
        Speaker::Stage => crate::report::Speaker::Stage,
        Speaker::Agent => crate::report::Speaker::Agent,
    };
    let stream = match stream {
        Stream::Stdout => today::Stream::Stdout,
        Stream::Stderr => today::Stream::Stderr,
        Stream::Kernel => today::Stream::Kernel,
    };
    let kind = today::EventKind::Log { stream, line };
    let event = today::Event { seq, uptime_ms, wall_ms: clock, kind };
    Some(super::Record::Told { wall_ms, update: crate::report::Update::Event(speaker, event) })
}

#[derive(Serialize, Deserialize)]
enum Record {
    Told { wall_ms: u64, update: Update },
    OldSystem(OldSystem),
    BootSent { wall_ms: u64 },
    Ram { boot_id: String },
    Left { wall_ms: u64, finish: Option<Finish>, reason: String },
    Counted { sent: u64, received: u64 },
    Reopened { wall_ms: u64 },
    Met { host_key: String },
}

#[derive(Serialize, Deserialize)]
struct OldSystem {
    boot_id: String,
    proved: String,
    host_keys: Vec<String>,
    identity: String,
    agent_port: u16,
    downloaded: u64,
    initramfs: u64,
}

#[derive(Serialize, Deserialize)]
enum Finish {
    Reboot,
    Kexec,
    PowerOff,
    Hold,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Phase {
    Connect,
    Probe,
    Upload,
    Stage,
    Boot,
    Build,
    Reboot,
    Verify,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Speaker {
    Stage,
    Agent,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Ending {
    Deployed,
    Untouched,
    Held,
}

#[derive(Serialize, Deserialize)]
enum Update {
    PhaseStarted(Phase),
    PhaseFinished(Phase, f64),
    Facts(Box<HostFacts>),
    Uploaded { sent: u64, total: u64 },
    Event(Speaker, Event),
    Progress(Speaker, Progress),
    LinkLost(String),
    LinkBack,
    Message(Level, String),
    Summary(Box<Summary>),
}

#[derive(Serialize, Deserialize)]
struct Summary {
    host: String,
    outcome: Ending,
    reason: String,
    uploaded_bytes: u64,
    received_bytes: u64,
    host_downloaded_bytes: u64,
    initramfs_bytes: u64,
    seconds: PhaseSeconds,
    first_event_seconds: Option<f64>,
    total_seconds: f64,
}

#[derive(Serialize, Deserialize)]
struct PhaseSeconds {
    connect: Option<f64>,
    probe: Option<f64>,
    upload: Option<f64>,
    stage: Option<f64>,
    boot: Option<f64>,
    build: Option<f64>,
    reboot: Option<f64>,
    verify: Option<f64>,
}

#[derive(Serialize, Deserialize)]
struct Event {
    seq: u64,
    uptime_ms: u64,
    wall_ms: u64,
    kind: EventKind,
}

#[derive(Serialize, Deserialize)]
enum EventKind {
    StepStarted { step: u32, parent: Option<u32>, name: String },
    StepFinished { step: u32, outcome: StepOutcome },
    Log { stream: Stream, line: Vec<u8> },
    Note { level: Level, text: String },
    State(AgentState),
    Gap { first: u64, last: u64, bytes: u64 },
    Attempt(u32),
    Written(Vec<(String, u64)>),
    HostKeys(Vec<String>),
    Seeded(u64),
    Outcome(Outcome),
}

#[derive(Serialize, Deserialize)]
enum StepOutcome {
    Done,
    Skipped(String),
    Failed(String),
}

#[derive(Serialize, Deserialize)]
enum Stream {
    Stdout,
    Stderr,
    Kernel,
}

#[derive(Serialize, Deserialize)]
enum Level {
    Info,
    Warning,
    Error,
}

#[derive(Serialize, Deserialize)]
enum Outcome {
    Succeeded,
    Failed { reason: String, written: bool },
}

#[derive(Serialize, Deserialize)]
enum AgentState {
    Starting,
    Waiting,
    Running,
    Held(String),
    Succeeded,
    Returning(String),
}

#[derive(Serialize, Deserialize)]
struct Progress {
    step: u32,
    done: u64,
    total: Option<u64>,
    unit: Unit,
    what: Option<String>,
}

#[derive(Serialize, Deserialize)]
enum Unit {
    Bytes,
    Items,
}

#[derive(Serialize, Deserialize)]
struct HostFacts {
    hostname: String,
    os: String,
    boot_id: String,
    arch: String,
    kernel_release: String,
    kernel_image: Option<String>,
    cmdline: String,
    firmware: Firmware,
    memory_total: u64,
    memory_available: u64,
    disks: Vec<Disk>,
    kexec: KexecSupport,
    network: NetworkState,
    lost_ways: Vec<String>,
    ssh_port: u16,
    host_keys: Vec<String>,
    mirrors: Vec<String>,
    cached_blobs: Vec<[u8; 32]>,
    cached_bases: Vec<[u8; 32]>,
}

#[derive(Serialize, Deserialize)]
enum Firmware {
    Bios,
    Uefi { secure_boot: bool },
}

#[derive(Serialize, Deserialize)]
struct KexecSupport {
    file_load: bool,
    load: bool,
    disabled: bool,
    lockdown: String,
}

#[derive(Serialize, Deserialize)]
struct Disk {
    id: DiskId,
    model: String,
    removable: bool,
    rotational: bool,
    read_only: bool,
    table: Option<String>,
    content: Option<String>,
    partitions: Vec<Partition>,
    mounts: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct DiskId {
    name: String,
    serial: Option<String>,
    wwid: Option<String>,
    path: String,
    size: u64,
}

#[derive(Serialize, Deserialize)]
struct Partition {
    name: String,
    size: u64,
    content: Option<String>,
    label: Option<String>,
    mounts: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct NetworkState {
    hostname: String,
    links: Vec<Link>,
    routes: Vec<Route>,
    dns: Vec<IpAddr>,
    search: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct Link {
    name: String,
    mac: [u8; 6],
    mtu: u32,
    up: bool,
    kind: String,
    driver: String,
    addresses: Vec<Address>,
}

#[derive(Serialize, Deserialize)]
struct Address {
    ip: IpAddr,
    prefix: u8,
    peer: Option<IpAddr>,
    scope: u8,
    valid_s: Option<u32>,
    preferred_s: Option<u32>,
    autoconf: bool,
}

#[derive(Serialize, Deserialize)]
struct Route {
    destination: Option<(IpAddr, u8)>,
    v6: bool,
    gateway: Option<IpAddr>,
    mac: [u8; 6],
    metric: u32,
    onlink: bool,
    source: Option<IpAddr>,
    scope: u8,
    protocol: u8,
    table: u32,
    mtu: Option<u32>,
}
