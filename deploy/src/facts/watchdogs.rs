//! Watchdog timers: which there are, which of them count, and who feeds them.

use std::collections::{BTreeMap, BTreeSet};

use anemos_host::Root;
use anemos_proto::host::Watchdog;

use crate::modules;
use crate::modules::index::name_of;

/// The watchdogs of the kernel's watchdog core (Documentation/ABI/testing/sysfs-class-watchdog). Where the kernel was
/// built without CONFIG_WATCHDOG_SYSFS, they are there, but none of the files that are described.
const CLASS: &str = "/sys/class/watchdog";

/// The device of a driver that knows no watchdog core, such as that of BMCs. The watchdog core makes one of this name
/// too, as a second name of its first watchdog.
const MISC: &str = "/sys/class/misc/watchdog";

/// Every watchdog. `release` is the running kernel's.
pub fn watchdogs(root: &Root, release: &str) -> Vec<Watchdog> {
    let names = root.names(CLASS);
    let path = |path: &str| root.resolve(path).unwrap_or_default();
    let (first, misc) = (path(&format!("{CLASS}/watchdog0")), path(MISC));
    if names.is_empty() && misc.is_empty() {
        return Vec::new();
    }
    let drivers = loaded_drivers(root, release);
    let is_virtual = |path: &str| path.contains("/virtual/");
    // The first watchdog's second name is made below the same device.
    let has_own = first.is_empty() || drivers.contains(Watchdog::IPMI) && is_virtual(&misc) && !is_virtual(&first);
    let holders = holders(root);
    let mut found: Vec<Watchdog> = names.iter().map(|name| of_core(root, name, &drivers)).collect();
    if !misc.is_empty() && has_own {
        found.push(of_misc(root, &drivers));
    }
    for watchdog in &mut found {
        let second = (watchdog.name == "watchdog0" && !has_own).then(|| holders.get("watchdog")).flatten();
        watchdog.holder = holders.get(&watchdog.name).or(second).cloned();
        let state = root.text(&format!("{CLASS}/{}/state", watchdog.name));
        watchdog.active = state.map_or(watchdog.holder.is_some(), |state| state == "active");
    }
    found
}

fn of_core(root: &Root, name: &str, drivers: &BTreeSet<String>) -> Watchdog {
    let sys = format!("{CLASS}/{name}");
    let text = |file: &str| root.text(&format!("{sys}/{file}"));
    let module = modules::driver(&root.at(&format!("{sys}/device"))).or_else(|| {
        // A driver that doesn't say which device its watchdog is of. The kernel may contain it as well.
        match &drivers.iter().collect::<Vec<_>>()[..] {
            [one] if !root.at(&format!("{sys}/device/driver")).exists() => Some((*one).clone()),
            _ => None,
        }
    });
    let module = module.filter(|module| drivers.contains(module)).unwrap_or_default();
    Watchdog {
        name: name.to_owned(),
        identity: text("identity").unwrap_or_else(|| module.clone()),
        active: false,
        timeout_s: text("timeout").and_then(|text| text.parse().ok()),
        nowayout: text("nowayout").or_else(|| parameter(root, &module, "nowayout")).is_some_and(|text| is_yes(&text)),
        module,
        holder: None,
    }
}

fn of_misc(root: &Root, drivers: &BTreeSet<String>) -> Watchdog {
    let module =
        if drivers.contains(Watchdog::IPMI) { Some(Watchdog::IPMI) } else { drivers.first().map(String::as_str) };
    let module = module.unwrap_or_default().to_owned();
    Watchdog {
        name: "watchdog".into(),
        identity: module.clone(),
        active: false,
        timeout_s: parameter(root, &module, "timeout").and_then(|text| text.parse().ok()),
        nowayout: parameter(root, &module, "nowayout").is_some_and(|text| is_yes(&text)),
        module,
        holder: None,
    }
}

/// A parameter of a loaded module.
fn parameter(root: &Root, module: &str, name: &str) -> Option<String> {
    root.text(&format!("/sys/module/{module}/parameters/{name}"))
}

fn is_yes(text: &str) -> bool {
    matches!(text, "1" | "Y")
}

/// Names of the loaded modules that are drivers of watchdogs.
fn loaded_drivers(root: &Root, release: &str) -> BTreeSet<String> {
    let index = modules::directory(root, release).and_then(|dir| modules::read(root, &dir, "modules.dep").ok());
    let index = String::from_utf8_lossy(index.as_deref().unwrap_or_default());
    let paths = index.lines().filter_map(|line| line.split(':').next());
    let known: BTreeSet<String> = paths.filter(|path| path.contains("/watchdog/")).map(name_of).collect();
    let is_one = |name: &&str| known.contains(*name) || *name == Watchdog::IPMI;
    let modules = root.text("/proc/modules").unwrap_or_default();
    modules.lines().filter_map(|line| line.split(' ').next()).filter(is_one).map(str::to_owned).collect()
}

/// Who holds which watchdog open, as `systemd (1)`, by the watchdog's name in `/dev`.
fn holders(root: &Root) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for pid in root.names("/proc").into_iter().filter(|name| name.bytes().all(|byte| byte.is_ascii_digit())) {
        for fd in root.names(&format!("/proc/{pid}/fd")) {
            let Ok(path) = std::fs::read_link(root.at(&format!("/proc/{pid}/fd/{fd}"))) else { continue };
            let Some(name) = path.to_str().and_then(|path| path.strip_prefix("/dev/")) else { continue };
            if name.strip_prefix("watchdog").is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit())) {
                let comm = root.text(&format!("/proc/{pid}/comm")).unwrap_or_default();
                found.insert(name.to_owned(), format!("{comm} ({pid})"));
            }
        }
    }
    found
}

/// The watchdogs among `all` that count, that nobody could feed in RAM, and that can't be stopped before the boot: the
/// driver's module is not among those that are loaded `first` there, and either nothing stops the watchdog, or PID 1
/// doesn't let go of it.
pub fn unfed<'a>(all: &'a [Watchdog], first: &[String]) -> Vec<&'a Watchdog> {
    let is_lost = |watchdog: &&Watchdog| {
        let fed = watchdog.module.is_empty() || first.contains(&watchdog.module);
        watchdog.active && !fed && !watchdog.can_be_stopped()
    };
    all.iter().filter(is_lost).collect()
}

#[cfg(test)]
#[path = "watchdogs_tests.rs"]
mod tests;
