//! The plan: what will be lost, what stays, what is sent and what boots, before anything happens.

use std::io::{self, BufRead, Write};

use anemos_proto::config::Finish;
use anemos_proto::host::{Disk, Firmware, HostFacts, Partition};
use anemos_proto::stage::{BaseSource, KernelSource};
use serde::Serialize;

use super::text::{Paint, bytes, fit, sanitise_str, width};
use crate::plan::HostPlan;

/// Less usable memory than this is worth a warning: a machine sold as 1 GiB has more.
const LOW_MEMORY: u64 = 900 << 20;

/// Blobs that every deployment needs. One that is not to be sent is on the host already.
const BLOBS: [&str; 3] = ["agent", "base.lock", "payload"];

/// The plan for one host, ready to be shown. As JSON it is a line of type `plan`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PlanView {
    /// The host's name in hosts.toml.
    pub host: String,
    /// How it was reached.
    pub address: String,
    /// Fingerprint of its host key.
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
    /// Disks whose contents will be lost.
    pub wipe: Vec<PlanDisk>,
    /// Disks that are set read-only.
    pub read_only: Vec<PlanDisk>,
    /// What the host lacks.
    pub uploads: Vec<PlanUpload>,
    /// Bytes of that.
    pub upload_bytes: u64,
    /// What needs no sending because the host has it.
    pub cached: Vec<&'static str>,
    /// Release of the kernel that boots; `None` for the one in base.lock.
    pub kernel: Option<String>,
    /// SHA-256 of the uncompressed base image.
    pub base: String,
    /// Where the base will come from, the first that can serve it.
    pub base_sources: Vec<&'static str>,
    /// The payload's directory.
    pub payload: String,
    /// SHA-256 of the packed payload.
    pub payload_digest: String,
    /// Port of the agent's SSH server.
    pub agent_port: u16,
    /// `reboot`, `kexec`, `poweroff` or `hold`.
    pub finish: &'static str,
    /// The command that must succeed on the new system.
    pub check: Option<String>,
    /// What to think about before saying yes.
    pub warnings: Vec<String>,
    /// Why this host can't be deployed.
    pub refusals: Vec<String>,
}

/// Something to be sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlanUpload {
    /// What.
    pub what: &'static str,
    /// Bytes as sent.
    pub bytes: u64,
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
}

impl PlanView {
    /// How a plan is shown.
    pub fn new(plan: &HostPlan) -> Self {
        let facts = &plan.facts;
        let locked = plan.kernel == KernelSource::Locked || facts.kernel_image.is_none();
        let mut warnings = plan.warnings.clone();
        warnings.extend(system_warnings(facts, plan.kernel));
        warnings.extend(plan.disks.iter().flat_map(disk_warnings));
        let lacks = |what: &str| plan.uploads.iter().any(|upload| upload.what == what);
        let base_cached = facts.cached_bases.contains(&plan.base_image);
        let mut cached: Vec<&str> = BLOBS.into_iter().filter(|what| !lacks(what)).collect();
        cached.extend((plan.stage_uploaded == 0).then_some("stage"));
        cached.extend(base_cached.then_some("base"));
        Self {
            host: plan.host.clone(),
            address: plan.reached.clone(),
            host_key: plan.host_key.clone(),
            hostname: facts.hostname.clone(),
            os: facts.os.clone(),
            arch: facts.arch.clone(),
            firmware: match facts.firmware {
                Firmware::Bios => "bios",
                Firmware::Uefi { .. } => "uefi",
            },
            memory_total: facts.memory_total,
            wipe: plan.disks.iter().map(PlanDisk::from).collect(),
            read_only: plan.protected.iter().map(PlanDisk::from).collect(),
            uploads: plan.uploads.iter().map(|u| PlanUpload { what: u.what, bytes: u.bytes }).collect(),
            upload_bytes: plan.upload_bytes(),
            cached,
            kernel: (!locked).then(|| facts.kernel_release.clone()),
            base: plan.base_image.to_string(),
            base_sources: plan.base.iter().filter_map(|source| base_source(source, base_cached)).collect(),
            payload: plan.payload_dir.clone(),
            payload_digest: plan.payload.to_string(),
            agent_port: plan.agent_port,
            finish: match plan.finish {
                Finish::Reboot => "reboot",
                Finish::Kexec => "kexec",
                Finish::PowerOff => "poweroff",
                Finish::Hold => "hold",
            },
            check: None,
            warnings,
            refusals: plan.refusals.clone(),
        }
    }

    /// With the command that must succeed on the new system.
    #[must_use]
    pub fn with_check(self, check: Option<String>) -> Self {
        Self { check, ..self }
    }
}

/// A source of the base, if it can serve it at all.
fn base_source(source: &BaseSource, cached: bool) -> Option<&'static str> {
    match source {
        BaseSource::Cache => cached.then_some("cache"),
        BaseSource::Urls(_) => Some("urls"),
        BaseSource::Build => Some("build"),
        BaseSource::Upload(_) => Some("upload"),
    }
}

/// What stands in the way of the boot.
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
    if facts.kexec.disabled {
        warnings.push("kexec is switched off until the next boot (kernel.kexec_load_disabled = 1)".into());
    } else if !facts.kexec.file_load && !facts.kexec.load {
        warnings.push("the running kernel has no kexec".into());
    }
    if kernel == KernelSource::Host && facts.kernel_image.is_none() {
        warnings.push(format!(
            "no readable image of the running kernel {}: the locked kernel boots instead",
            facts.kernel_release
        ));
    }
    warnings
}

/// What would be missed on a disk that will be wiped. Where a system keeps itself is not worth a warning.
fn disk_warnings(disk: &Disk) -> Vec<String> {
    let name = &disk.id.name;
    let mut warnings = Vec::new();
    let parts = disk.partitions.iter().map(|part| (&part.name, &part.content, &part.mounts));
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
        }
    }
}

/// Plans as text.
pub fn render(plans: &[PlanView], paint: Paint) -> String {
    plans.iter().map(|plan| host_text(plan, paint)).collect::<Vec<_>>().join("\n")
}

/// Columns of the names on the left.
const LABEL: usize = 10;

fn host_text(plan: &PlanView, paint: Paint) -> String {
    let mut text = String::new();
    let mut row = |label: &str, value: &str| {
        text.push_str(format!("  {} {value}", paint.dim(&fit(label, LABEL))).trim_end());
        text.push('\n');
    };
    let os = if plan.os.is_empty() { "an unknown system" } else { &plan.os };
    let called = if plan.hostname == plan.host { String::new() } else { format!("{}, ", sanitise_str(&plan.hostname)) };
    row(
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
        row("WIPED", &paint.red(&disk_text(disk)));
        for line in contents_text(&disk.contents) {
            row("", &line);
        }
    }
    if plan.wipe.is_empty() {
        row("WIPED", "no disk");
    }
    for disk in &plan.read_only {
        row("read-only", &paint.green(&disk_text(disk)));
    }
    row("sent", &uploads_text(plan));
    row(
        "boots",
        &plan.kernel.as_ref().map_or_else(
            || "the kernel from base.lock".to_owned(),
            |kernel| format!("Linux {}, the host's own", sanitise_str(kernel)),
        ),
    );
    row("base", &format!("{}, {}", short(&plan.base), base_text(&plan.base_sources)));
    row("payload", &format!("{} ({})", sanitise_str(&plan.payload), short(&plan.payload_digest)));
    row(
        "finish",
        match plan.finish {
            "reboot" => "reboot into the new system",
            "kexec" => "kexec into the new system",
            "poweroff" => "power off",
            _ => "stay in RAM until told otherwise",
        },
    );
    row(
        "check",
        &plan.check.as_deref().map_or_else(|| "that it answers as itself".into(), |c| format!("`{}`", sanitise_str(c))),
    );
    for warning in &plan.warnings {
        row("", &paint.yellow(&format!("! {}", sanitise_str(warning))));
    }
    for refusal in &plan.refusals {
        row("REFUSED", &paint.red(&sanitise_str(refusal)));
    }
    let reached = format!("{}  {}", sanitise_str(&plan.address), sanitise_str(&plan.host_key));
    format!("{}  {}\n{text}", paint.bold(&sanitise_str(&plan.host)), reached.trim_end())
}

/// Enough of a digest to tell two apart.
fn short(digest: &str) -> &str {
    digest.get(..12).unwrap_or(digest)
}

fn base_text(sources: &[&str]) -> String {
    let sources: Vec<&str> = sources
        .iter()
        .map(|source| match *source {
            "cache" => "in the host's cache",
            "urls" => "downloaded by the host",
            "build" => "built on the host from packages",
            _ => "sent from here",
        })
        .collect();
    if sources.is_empty() { "from nowhere".to_owned() } else { sources.join(", else ") }
}

fn disk_text(disk: &PlanDisk) -> String {
    let mut text = format!("{}  {}", sanitise_str(&disk.name), bytes(disk.size));
    if !disk.model.is_empty() {
        text.push_str(&format!("  {}", sanitise_str(disk.model.trim())));
    }
    if let Some(serial) = &disk.serial {
        text.push_str(&format!("  serial {}", sanitise_str(serial.trim())));
    }
    if disk.contents.is_empty() {
        text.push_str("  (empty)");
    }
    text
}

fn contents_text(contents: &[PlanContent]) -> Vec<String> {
    let cells: Vec<[String; 4]> = contents
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
            ]
        })
        .collect();
    let columns: [usize; 4] = std::array::from_fn(|i| cells.iter().map(|row| width(&row[i])).max().unwrap_or(0));
    cells
        .iter()
        .map(|row| {
            let row: Vec<String> = row.iter().zip(columns).map(|(cell, columns)| fit(cell, columns)).collect();
            format!("  {}", row.join("  ").trim_end())
        })
        .collect()
}

fn uploads_text(plan: &PlanView) -> String {
    let sent: Vec<String> =
        plan.uploads.iter().map(|upload| format!("{} {}", upload.what, bytes(upload.bytes))).collect();
    let mut text = bytes(plan.upload_bytes);
    if !sent.is_empty() {
        text.push_str(&format!(": {}", sent.join(", ")));
    }
    if !plan.cached.is_empty() {
        text.push_str(&format!(" (already there: {})", plan.cached.join(", ")));
    }
    text
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
    let what = match plans {
        [_] => "Everything on that disk will be lost.".to_owned(),
        _ => format!("Everything on these disks of {} hosts will be lost.", plans.len()),
    };
    write!(output, "{what} Type `yes` to go on: ")?;
    output.flush()?;
    let mut answer = String::new();
    input.read_line(&mut answer)?;
    Ok(answer.trim() == "yes")
}
