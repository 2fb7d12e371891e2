//! The plan: what will be lost, what stays, what is sent and what boots, before anything happens.

use std::collections::HashSet;
use std::io::{self, BufRead, Write};

use anemos_proto::config::Finish;
use anemos_proto::host::{Disk, Firmware, HostFacts, Partition};
use anemos_proto::ids::Digest;
use anemos_proto::stage::KernelSource;
use serde::{Serialize, Serializer};

use crate::payload::Keep;

use super::text::{Paint, bytes, fit, sanitise_str, width, wrap};

/// Less usable memory than this is worth a warning: a machine sold as 1 GiB has more.
const LOW_MEMORY: u64 = 900 << 20;

/// What the user and the controller decided for one host.
#[derive(Debug, Clone)]
pub struct Choices {
    /// The host's name in hosts.toml.
    pub host: String,
    /// How it is reached, for people: `root@203.0.113.7:22`.
    pub address: String,
    /// Names under the old system (`/dev/…`) of the disks that the payload may write, `ANEMOS_DISK` first.
    pub disks: Vec<String>,
    /// What the stage will need, whether or not it has it.
    pub uploads: Vec<Upload>,
    /// Which kernel boots.
    pub kernel: KernelSource,
    /// Release of the kernel in base.lock, if it names one.
    pub locked_kernel: Option<String>,
    /// SHA-256 of the uncompressed base image.
    pub base: Digest,
    /// Where the base will come from, for people: `the host's cache`, `built on the host from the mirror`, …
    pub base_source: String,
    /// The payload: its directory, for people.
    pub payload: String,
    /// What it leaves as it is on the first of `disks`.
    pub keeps: Vec<Keep>,
    /// How the agent leaves.
    pub finish: Finish,
    /// The command that must succeed on the new system.
    pub check: Option<String>,
}

/// Something that is sent unless the host has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Upload {
    /// What: `stage`, `agent`, `payload`, `base.lock`, `base`.
    pub what: String,
    /// Bytes as sent.
    pub bytes: u64,
    /// The host has it.
    pub cached: bool,
}

/// The plan for one host, ready to be shown.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PlanView {
    /// The host's name in hosts.toml.
    pub host: String,
    /// How it is reached.
    pub address: String,
    /// The host key it proved to have: algorithm and fingerprint, or empty.
    pub host_key: String,
    /// What it calls itself.
    pub hostname: String,
    /// What it runs now.
    pub os: String,
    /// `uname -m`.
    pub arch: String,
    /// `bios` or `uefi`.
    pub firmware: &'static str,
    /// Bytes of memory.
    pub memory_total: u64,
    /// Disks whose contents will be lost, but for what is kept.
    pub wipe: Vec<PlanDisk>,
    /// Disks that are set read-only.
    pub untouched: Vec<PlanDisk>,
    /// What must be on the host.
    pub uploads: Vec<Upload>,
    /// Bytes of that which it lacks.
    pub upload_bytes: u64,
    /// Release of the kernel that boots, or empty.
    pub kernel: String,
    /// `host` or `locked`: whose kernel that is.
    pub kernel_source: &'static str,
    /// SHA-256 of the uncompressed base image.
    #[serde(serialize_with = "digest_text")]
    pub base: Digest,
    /// Where the base will come from.
    pub base_source: String,
    /// The payload.
    pub payload: String,
    /// `reboot`, `kexec`, `poweroff` or `hold`.
    pub finish: &'static str,
    /// The command that must succeed on the new system.
    pub check: Option<String>,
    /// What to think about before saying yes.
    pub warnings: Vec<String>,
    /// Why this host can't be deployed; empty if it can.
    pub refusals: Vec<String>,
    /// In which order the run's hosts go, if it has several that can be deployed and this is one of them.
    pub order: Option<String>,
}

/// A disk in a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlanDisk {
    /// `/dev/…`.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// Vendor and model, or empty.
    pub model: String,
    /// Serial number, if it has one.
    pub serial: Option<String>,
    /// What is on it now: the disk itself if it has no partitions, else each partition.
    pub contents: Vec<PlanContent>,
}

/// What is on a disk or partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlanContent {
    /// `/dev/…`.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// File system or other signature, if known.
    pub content: Option<String>,
    /// Its label, if it has one.
    pub label: Option<String>,
    /// Where it, or something on top of it, is mounted.
    pub mounts: Vec<String>,
    /// Whether the payload says that it stays as it is.
    pub kept: bool,
}

fn digest_text<S: Serializer>(digest: &Digest, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(digest)
}

impl PlanView {
    /// The plan that follows from the host's facts and what was decided.
    pub fn new(facts: &HostFacts, choices: Choices) -> Self {
        let chosen = |disk: &&Disk| choices.disks.contains(&disk.id.name);
        let mut wipe: Vec<&Disk> = facts.disks.iter().filter(chosen).collect();
        wipe.sort_by_key(|disk| choices.disks.iter().position(|name| *name == disk.id.name));
        let locked = choices.kernel == KernelSource::Locked || facts.kernel_image.is_none();
        let kernel = if locked { choices.locked_kernel.unwrap_or_default() } else { facts.kernel_release.clone() };
        let mut warnings = system_warnings(facts, choices.kernel);
        let kept = Kept::find(wipe.first().copied(), &choices.keeps);
        warnings.extend(wipe.iter().flat_map(|disk| disk_warnings(disk, &kept)));
        warnings.extend(kept.made);
        let mut refusals = refusals(facts);
        refusals.extend(kept.refusals);
        let plan_disk = |disk: &Disk| {
            let mut shown = PlanDisk::from(disk);
            shown.contents.iter_mut().for_each(|content| content.kept = kept.names.contains(&content.name));
            shown
        };
        let mut seen = HashSet::new();
        warnings.retain(|warning| seen.insert(warning.clone()));
        Self {
            host: choices.host,
            address: choices.address,
            host_key: String::new(),
            hostname: facts.hostname.clone(),
            os: facts.os.clone(),
            arch: facts.arch.clone(),
            firmware: match facts.firmware {
                Firmware::Bios => "bios",
                Firmware::Uefi { .. } => "uefi",
            },
            memory_total: facts.memory_total,
            wipe: wipe.into_iter().map(plan_disk).collect(),
            untouched: facts.disks.iter().filter(|disk| !chosen(disk)).map(PlanDisk::from).collect(),
            upload_bytes: choices.uploads.iter().filter(|upload| !upload.cached).map(|upload| upload.bytes).sum(),
            uploads: choices.uploads,
            kernel,
            kernel_source: if locked { "locked" } else { "host" },
            base: choices.base,
            base_source: choices.base_source,
            payload: choices.payload,
            finish: match choices.finish {
                Finish::Reboot => "reboot",
                Finish::Kexec => "kexec",
                Finish::PowerOff => "poweroff",
                Finish::Hold => "hold",
            },
            check: choices.check,
            warnings,
            refusals,
            order: None,
        }
    }

    /// With the host key that the host proved to have.
    #[must_use]
    pub fn with_host_key(self, host_key: String) -> Self {
        Self { host_key, ..self }
    }

    /// With more reasons why this host can't be deployed.
    #[must_use]
    pub fn with_refusals(mut self, refusals: Vec<String>) -> Self {
        self.refusals.splice(..0, refusals);
        self
    }
}

/// Why no new kernel can be booted.
fn refusals(facts: &HostFacts) -> Vec<String> {
    let kexec = &facts.kexec;
    let mut refusals: Vec<String> = Vec::new();
    if kexec.disabled {
        refusals.push("kexec is switched off until the next boot (kernel.kexec_load_disabled = 1)".into());
    } else if !kexec.file_load && !kexec.load {
        refusals.push("the running kernel has no kexec".into());
    }
    if !facts.lost_ways.is_empty() {
        refusals.push(format!(
            "the host is reached through {}, and only network cards themselves are restored in RAM: move its address and \
             default route to the network card itself for the deployment",
            facts.lost_ways.join(" and ")
        ));
    }
    refusals
}

/// What may stand in the way of the boot.
fn system_warnings(facts: &HostFacts, kernel: KernelSource) -> Vec<String> {
    let mut warnings = Vec::new();
    if facts.memory_total < LOW_MEMORY {
        warnings
            .push(format!("only {} of memory: base, payload and what it unpacks must fit", bytes(facts.memory_total)));
    }
    if facts.firmware == (Firmware::Uefi { secure_boot: true }) {
        warnings.push(
            "Secure Boot is on: only a kernel signed for this machine will load, and so for the new system".into(),
        );
    }
    if !matches!(facts.kexec.lockdown.as_str(), "" | "none") {
        warnings.push(format!("kernel lockdown is `{}`: only a signed kernel will load", facts.kexec.lockdown));
    }
    if kernel == KernelSource::Host && facts.kernel_image.is_none() {
        warnings.push(format!(
            "no readable image of the running kernel {}: the locked kernel boots instead",
            facts.kernel_release
        ));
    }
    warnings
}

/// What stays on the disk that is overwritten.
#[derive(Default)]
struct Kept {
    /// Partitions, `/dev/…`.
    names: Vec<String>,
    /// What is not there, and will be.
    made: Vec<String>,
    refusals: Vec<String>,
}

impl Kept {
    fn find(disk: Option<&Disk>, keeps: &[Keep]) -> Self {
        let mut kept = Self::default();
        let Some(disk) = disk else { return kept };
        let on = &disk.id.name;
        for keep in keeps {
            let Keep { label, or_made } = keep;
            match &keep.on(disk).map(|part| part.name.clone()).collect::<Vec<_>>()[..] {
                [one] => kept.names.push(one.clone()),
                [] if *or_made => kept.made.push(format!("{on} has no partition labelled “{label}” to keep: it is made")),
                [] => kept.refusals.push(format!(
                    "{on} has no partition labelled “{label}”, which the IMGBUILD's `filesystems` says to keep: label it, or give a size \
                     with which it is made"
                )),
                several => kept.refusals.push(format!(
                    "{} are both labelled “{label}”, and the IMGBUILD's `filesystems` says to keep one: give the other another label",
                    several.join(" and ")
                )),
            }
        }
        kept
    }
}

/// What would be missed on a disk that will be wiped. Where a system keeps itself is not worth a warning.
fn disk_warnings(disk: &Disk, kept: &Kept) -> Vec<String> {
    let name = &disk.id.name;
    let mut warnings = Vec::new();
    let lost = disk.partitions.iter().filter(|part| !kept.names.contains(&part.name));
    let parts = lost.map(|part| (&part.name, &part.content, &part.mounts));
    for (part, content, mounts) in parts.chain([(name, &disk.content, &disk.mounts)]) {
        for mount in mounts.iter().filter(|mount| !is_system(mount)) {
            warnings.push(format!("{part} is mounted on {mount}: what is there will be lost"));
        }
        if let Some(content) = content
            && is_member(content)
        {
            warnings.push(format!("{part} is part of something larger ({content}), which may span other disks"));
        }
    }
    if disk.read_only {
        warnings.push(format!("{name} is read-only: the payload may not be able to write it"));
    }
    if disk.removable {
        warnings.push(format!("{name} is removable"));
    }
    warnings
}

fn is_system(mount: &str) -> bool {
    matches!(mount, "/" | "/boot" | "/boot/efi" | "/efi" | "/usr" | "/var" | "/tmp" | "/var/tmp" | "[SWAP]")
}

fn is_member(content: &str) -> bool {
    matches!(content, "LVM2_member" | "linux_raid_member" | "zfs_member" | "bcache" | "drbd" | "ceph_bluestore")
}

impl From<&Disk> for PlanDisk {
    fn from(disk: &Disk) -> Self {
        let whole = disk.partitions.is_empty() || !disk.mounts.is_empty() || disk.content.is_some();
        let contents = whole
            .then(|| PlanContent {
                name: disk.id.name.clone(),
                size: disk.id.size,
                content: disk.content.clone(),
                label: None,
                mounts: disk.mounts.clone(),
                kept: false,
            })
            .into_iter()
            .filter(|content| content.content.is_some() || !content.mounts.is_empty())
            .chain(disk.partitions.iter().map(PlanContent::from))
            .collect();
        Self {
            name: disk.id.name.clone(),
            size: disk.id.size,
            model: disk.model.clone(),
            serial: disk.id.serial.clone(),
            contents,
        }
    }
}

impl From<&Partition> for PlanContent {
    fn from(partition: &Partition) -> Self {
        Self {
            name: partition.name.clone(),
            size: partition.size,
            content: partition.content.clone(),
            label: partition.label.clone(),
            mounts: partition.mounts.clone(),
            kept: false,
        }
    }
}

/// Plans as text; lines that would be wider than `columns` go on below.
pub fn render(plans: &[PlanView], paint: Paint, columns: Option<usize>) -> String {
    let mut texts: Vec<String> = plans.iter().map(|plan| host_text(plan, paint, columns)).collect();
    if let Some(order) = order(plans) {
        let mut rows = Rows::new(format!("{}\n", paint.bold("all hosts")), paint, columns);
        rows.row("order", &order);
        texts.push(rows.text);
    }
    texts.join("\n")
}

/// The order of all, which each that goes has.
fn order(plans: &[PlanView]) -> Option<String> {
    plans.iter().find_map(|plan| plan.order.as_deref()).map(sanitise_str)
}

/// Columns of the names on the left.
const LABEL: usize = 10;

/// Least columns for what is on the right of them.
const VALUE: usize = 30;

/// Lines with a label in front of the first.
struct Rows {
    text: String,
    paint: Paint,
    columns: usize,
}

impl Rows {
    fn new(text: String, paint: Paint, columns: Option<usize>) -> Self {
        let columns = columns.map_or(usize::MAX, |columns| columns.saturating_sub(LABEL + 3).max(VALUE));
        Self { text, paint, columns }
    }

    fn row(&mut self, label: &str, value: &str) {
        self.styled(label, value, str::to_owned);
    }

    fn styled(&mut self, label: &str, value: &str, style: impl Fn(&str) -> String) {
        let indent = value.len() - value.trim_start().len();
        let mut label = label;
        for line in wrap(value, self.columns, indent + 2) {
            let line = format!("  {} {}", self.paint.dim(&fit(label, LABEL)), style(line.trim_end()));
            self.text.push_str(line.trim_end());
            self.text.push('\n');
            label = "";
        }
    }
}

fn host_text(plan: &PlanView, paint: Paint, columns: Option<usize>) -> String {
    let text = format!("{}  {}\n", paint.bold(&sanitise_str(&plan.host)), sanitise_str(&plan.address));
    let mut rows = Rows::new(text, paint, columns);
    if !plan.host_key.is_empty() {
        rows.row("host key", &sanitise_str(&plan.host_key));
    }
    let os = if plan.os.is_empty() { "an unknown system" } else { &plan.os };
    let called = if plan.hostname == plan.host { String::new() } else { format!("{}, ", sanitise_str(&plan.hostname)) };
    rows.row(
        "now",
        &format!(
            "{called}{}, {}, {}, {} of memory",
            sanitise_str(os),
            sanitise_str(&plan.arch),
            plan.firmware.to_uppercase(),
            bytes(plan.memory_total)
        ),
    );
    for disk in &plan.wipe {
        rows.styled("WIPED", &disk_text(disk), |line| paint.red(line));
        for (line, content) in contents_text(&disk.contents).iter().zip(&disk.contents) {
            rows.styled("", line, |line| if content.kept { paint.green(line) } else { line.to_owned() });
        }
    }
    if plan.wipe.is_empty() {
        rows.row("WIPED", "no disk");
    }
    for disk in &plan.untouched {
        rows.styled("read-only", &disk_text(disk), |line| paint.green(line));
    }
    rows.row("sent", &uploads_text(plan));
    rows.row("boots", &kernel_text(plan));
    let base = plan.base.to_string();
    rows.row("base", &format!("{}…, {}", &base[..12], sanitise_str(&plan.base_source)));
    rows.row("payload", &sanitise_str(&plan.payload));
    rows.row(
        "finish",
        match plan.finish {
            "reboot" => "reboot into the new system",
            "kexec" => "kexec into the new system",
            "poweroff" => "power off",
            _ => "stay in RAM until told otherwise",
        },
    );
    rows.row(
        "check",
        &plan.check.as_deref().map_or_else(|| "that it answers as itself".into(), |c| format!("`{}`", sanitise_str(c))),
    );
    for warning in &plan.warnings {
        rows.styled("", &format!("! {}", sanitise_str(warning)), |line| paint.yellow(line));
    }
    for refusal in &plan.refusals {
        let mut label = "REFUSED";
        for line in refusal.lines() {
            rows.styled(label, &sanitise_str(line), |line| paint.red(line));
            label = "";
        }
    }
    rows.text
}

fn kernel_text(plan: &PlanView) -> String {
    let release = sanitise_str(&plan.kernel);
    match (plan.kernel_source, release.as_str()) {
        ("host", _) => format!("Linux {release}, the host's own"),
        (_, "") => "Linux from base.lock".to_owned(),
        _ => format!("Linux {release} from base.lock"),
    }
}

fn disk_text(disk: &PlanDisk) -> String {
    let mut parts = vec![sanitise_str(&disk.name), bytes(disk.size)];
    if !disk.model.is_empty() {
        parts.push(sanitise_str(disk.model.trim()));
    }
    parts.extend(disk.serial.as_deref().map(|serial| format!("serial {}", sanitise_str(serial.trim()))));
    if disk.contents.is_empty() {
        parts.push("(empty)".to_owned());
    }
    parts.join("  ")
}

fn contents_text(contents: &[PlanContent]) -> Vec<String> {
    let cells: Vec<[String; 5]> = contents
        .iter()
        .map(|content| {
            let label = content.label.as_deref().filter(|label| !label.is_empty());
            let kind = content.content.as_deref().unwrap_or("unknown");
            [
                sanitise_str(&content.name),
                bytes(content.size),
                sanitise_str(&label.map_or_else(|| kind.to_owned(), |label| format!("{kind} “{label}”"))),
                if content.mounts.is_empty() {
                    String::new()
                } else {
                    format!("on {}", sanitise_str(&content.mounts.join(", ")))
                },
                if content.kept { "is kept".to_owned() } else { String::new() },
            ]
        })
        .collect();
    let columns: [usize; 5] = std::array::from_fn(|i| cells.iter().map(|row| width(&row[i])).max().unwrap_or(0));
    cells
        .iter()
        .map(|row| {
            let row: Vec<String> = row.iter().zip(columns).map(|(cell, columns)| fit(cell, columns)).collect();
            format!("  {}", row.join("  ").trim_end())
        })
        .collect()
}

fn uploads_text(plan: &PlanView) -> String {
    let list = |cached: bool| -> Vec<String> {
        let these = plan.uploads.iter().filter(|upload| upload.cached == cached);
        these.map(|upload| format!("{} {}", sanitise_str(&upload.what), bytes(upload.bytes))).collect()
    };
    let (sent, cached) = (list(false), list(true));
    let sent = if sent.is_empty() { String::new() } else { format!(": {}", sent.join(", ")) };
    let cached = if cached.is_empty() { String::new() } else { format!(" (already there: {})", cached.join(", ")) };
    format!("{}{sent}{cached}", bytes(plan.upload_bytes))
}

/// Shows which disks of which hosts will be wiped, and asks. Only a line that says `yes` is a yes.
pub fn confirm(
    plans: &[PlanView],
    input: &mut impl BufRead,
    output: &mut impl Write,
    paint: Paint,
) -> io::Result<bool> {
    let names: Vec<String> = plans.iter().map(|plan| sanitise_str(&plan.host)).collect();
    let columns = names.iter().map(|name| width(name)).max().unwrap_or(0);
    for (plan, name) in plans.iter().zip(&names) {
        let disks: Vec<String> =
            plan.wipe.iter().map(|d| format!("{} ({})", sanitise_str(&d.name), bytes(d.size))).collect();
        let disks = if disks.is_empty() { "no disk".to_owned() } else { paint.red(&disks.join(", ")) };
        writeln!(output, "  {}  {disks}", paint.bold(&fit(name, columns)))?;
    }
    if let Some(order) = order(plans) {
        writeln!(output, "  {order}")?;
    }
    let what = match plans {
        [PlanView { wipe, .. }] if wipe.len() == 1 => "Everything on that disk will be lost.".to_owned(),
        [_] => "Everything on these disks will be lost.".to_owned(),
        _ => format!("Everything on these disks of {} hosts will be lost.", plans.len()),
    };
    let keeps = plans.iter().flat_map(|plan| &plan.wipe).any(|disk| disk.contents.iter().any(|content| content.kept));
    let what = if keeps { what.replace(" will", ", but for what is kept, will") } else { what };
    write!(output, "{what} Type `yes` to go on: ")?;
    output.flush()?;
    let mut answer = String::new();
    input.read_line(&mut answer)?;
    Ok(answer.trim() == "yes")
}
