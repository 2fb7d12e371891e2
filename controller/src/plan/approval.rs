//! What was approved, and whether a host still is what was approved.

use std::sync::Arc;

use anemos_proto::config::Finish;
use anemos_proto::host::DiskId;
use anemos_proto::stage::KernelSource;

use super::judge::is_system;
use super::memory::LITTLE;
use super::{FirmwareKind, Plan, PlanContent, PlanDisk};
use crate::config::Become;

/// Somebody's word that a plan may be carried out. Only a plan without refusals gives one, and it holds for that plan
/// alone: it has the plan with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Approval(Arc<Plan>);

impl Approval {
    /// Approves a plan. The error is why the plan can't be approved: see [`Plan::refused`].
    pub fn of(plan: &Arc<Plan>) -> Result<Self, String> {
        match plan.refused() {
            None => Ok(Self(Arc::clone(plan))),
            Some(why) => Err(why),
        }
    }

    /// What was approved.
    pub fn plan(&self) -> &Plan {
        &self.0
    }

    /// Whether this lets `plan` be carried out. The error says why not.
    pub fn covers(&self, plan: &Plan) -> Result<(), String> {
        if let Some(why) = plan.refused() {
            return Err(why);
        }
        let differences = self.differences(plan);
        if differences.is_empty() {
            return Ok(());
        }
        Err(format!("it is not what was approved: {}", differences.join("; ")))
    }

    /// What of the plan that was approved is otherwise in the plan for the same host now: what was, and what is. Empty
    /// if the approval holds for that plan too.
    ///
    /// Some of a plan may change without anybody being asked again: what the host has in its cache, and so what is sent
    /// and where the base comes from; how much memory it has; the disks that are set read-only; where a system mounts
    /// its own directories.
    pub fn differences(&self, now: &Plan) -> Vec<String> {
        // Every field is named, so that a new one has to find its place here.
        let Plan {
            host,
            address,
            becomes,
            host_key,
            hostname,
            os,
            system,
            arch,
            firmware,
            memory_total: _,
            through,
            wipe,
            untouched: _,
            uploads: _,
            upload_bytes: _,
            kernel,
            kernel_source,
            hang_covered,
            base,
            groups: _,
            base_source: _,
            proxy,
            payload,
            finish,
            check,
            verify_key,
            warnings,
            refusals,
        } = &*self.0;
        let mut found = Vec::new();
        let mut text = |what: &str, before: &str, now: &str| {
            if before != now {
                found.push(format!("{what} was {} and is {}", quoted(before), quoted(now)));
            }
        };
        text("the host", host, &now.host);
        text("its address", address, &now.address);
        let by = |becomes: Option<Become>| becomes.map_or("login", Become::name);
        text("the way to root", by(*becomes), by(now.becomes));
        text("its host key", host_key, &now.host_key);
        text("its name", hostname, &now.hostname);
        text("its system", os, &now.os);
        text("its root file system", system, &now.system);
        text("its machine", arch, &now.arch);
        text("its firmware", firmware_text(*firmware), firmware_text(now.firmware));
        let card = |through: &Option<String>| through.clone().unwrap_or_else(|| "a card".into());
        text("the way in", &card(through), &card(&now.through));
        text("the kernel that boots", kernel, &now.kernel);
        text("the kernel's source", kernel_text(*kernel_source), kernel_text(now.kernel_source));
        text("the base", &base.to_string(), &now.base.to_string());
        let direct = |proxy: &Option<String>| proxy.clone().unwrap_or_else(|| "none".into());
        text("the proxy to archives", &direct(proxy), &direct(&now.proxy));
        text("the payload", payload, &now.payload);
        text("the finish", finish_text(*finish), finish_text(now.finish));
        text("the check", check.as_deref().unwrap_or_default(), now.check.as_deref().unwrap_or_default());
        if *verify_key != now.verify_key {
            found.push("whether the run's own key opens the new system is not as it was".into());
        }
        if *hang_covered && !now.hang_covered {
            found.push("a watchdog was to reset it should the new kernel hang, and none is".into());
        }
        wiped(wipe, &now.wipe, &mut found);
        let new = now.warnings.iter().filter(|warning| !warnings.contains(warning) && !warning.starts_with(LITTLE));
        found.extend(new.map(|warning| format!("there was no warning that {warning}")));
        let new = now.refusals.iter().filter(|refusal| !refusals.contains(refusal));
        found.extend(new.filter_map(|why| why.lines().next()).map(|why| format!("it can't be deployed now: {why}")));
        found
    }
}

/// What is otherwise on the disks that are wiped.
fn wiped(before: &[PlanDisk], now: &[PlanDisk], found: &mut Vec<String>) {
    if before.len() != now.len() {
        found.push(format!("{} disks were to be wiped and {} would be", before.len(), now.len()));
    }
    for (before, now) in before.iter().zip(now) {
        if before.id != now.id {
            found.push(format!("the disk that is wiped was {} and is {}", disk_text(&before.id), disk_text(&now.id)));
            // What is on another disk is another thing.
            continue;
        }
        if before.model != now.model {
            let name = &now.id.name;
            found.push(format!("the model of {name} was {} and is {}", quoted(&before.model), quoted(&now.model)));
        }
        contents(&before.contents, &now.contents, found);
    }
}

/// What is otherwise on one disk.
fn contents(before: &[PlanContent], now: &[PlanContent], found: &mut Vec<String>) {
    for old in before {
        let (name, old_text) = (&old.name, content_text(old));
        match now.iter().find(|new| new.name == *name).map(content_text) {
            None => found.push(format!("{name} was {old_text} and is gone")),
            Some(new_text) if new_text != old_text => found.push(format!("{name} was {old_text} and is {new_text}")),
            Some(_) => {}
        }
    }
    for new in now.iter().filter(|new| !before.iter().any(|old| old.name == new.name)) {
        found.push(format!("{} was not there and is {}", new.name, content_text(new)));
    }
}

/// All that a plan says of what is on a partition, but for mounts of the system itself: these come and go by
/// themselves.
fn content_text(content: &PlanContent) -> String {
    let PlanContent { name: _, size, content, label, mounts, kept } = content;
    let kind = content.as_deref().unwrap_or("unknown");
    let label = label.as_ref().filter(|label| !label.is_empty()).map_or(String::new(), |label| format!(" “{label}”"));
    let mounts: Vec<&str> = mounts.iter().filter(|mount| !is_system(mount)).map(String::as_str).collect();
    let mounts = if mounts.is_empty() { String::new() } else { format!(", on {}", mounts.join(", ")) };
    let kept = if *kept { ", kept" } else { "" };
    format!("{kind}{label} ({size} bytes{mounts}{kept})")
}

/// All that identifies a disk.
fn disk_text(id: &DiskId) -> String {
    let DiskId { name, serial, wwid, path, size } = id;
    let named = |what: &str, id: &Option<String>| id.as_ref().map_or(String::new(), |id| format!(", {what} {id}"));
    format!("{name} ({size} bytes{}{}, at {path})", named("serial", serial), named("wwid", wwid))
}

fn quoted(text: &str) -> String {
    if text.is_empty() { "unknown".into() } else { format!("`{text}`") }
}

fn firmware_text(firmware: FirmwareKind) -> &'static str {
    match firmware {
        FirmwareKind::Bios => "BIOS",
        FirmwareKind::Uefi => "UEFI",
    }
}

fn kernel_text(source: KernelSource) -> &'static str {
    match source {
        KernelSource::Host => "the host",
        KernelSource::Locked => "base.lock",
    }
}

fn finish_text(finish: Finish) -> &'static str {
    match finish {
        Finish::Reboot => "reboot",
        Finish::Kexec => "kexec",
        Finish::PowerOff => "poweroff",
        Finish::Hold => "hold",
    }
}
