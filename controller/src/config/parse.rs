//! Text to hosts: reads the tree, puts `[defaults]` under each host, and makes the checks that need the whole file.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use anemos_proto::config::Finish;
use toml::de::DeTable;

use super::error::ConfigError;
use super::layer::{self, Layer};
use super::table::{Entry, PathUse, Reader, entries};
use super::{Deadlines, Host, HostsFile};
use crate::select::Pattern;

/// Reads the text of a hosts.toml.
///
/// `file` is where it came from: its directory is where relative paths start. `home` is what `~/` means. Nothing is
/// read but the text. All errors are reported, in the order of the file; a text that is not TOML has only those errors,
/// as what comes after them can't be trusted (a duplicate key is no such error).
#[cfg(any(test, fuzzing))]
pub fn parse(text: &str, file: &Path, home: Option<&Path>) -> Result<HostsFile, Vec<ConfigError>> {
    let (hosts, reader) = read(text, file, home);
    finish(hosts, reader)
}

/// The only host of a text that nobody wrote into a file, whose paths are not looked at. The error is the first thing
/// that is wrong.
pub fn one(text: &str) -> Result<Host, String> {
    let (hosts, reader) = read(text, Path::new(""), None);
    let mut hosts = finish(hosts, reader)
        .map_err(|errors| errors.into_iter().map(|error| error.message).next().unwrap_or_default())?
        .hosts;
    match (hosts.pop(), hosts.is_empty()) {
        (Some(host), true) => Ok(host),
        _ => Err("it is not one host".into()),
    }
}

/// As [`parse`], but leaves the errors and the paths in the reader for more checks.
pub(super) fn read<'a>(text: &'a str, file: &'a Path, home: Option<&'a Path>) -> (Vec<Host>, Reader<'a>) {
    let mut reader = Reader { file, text, home, errors: Vec::new(), paths: Vec::new() };
    let (root, syntax_errors) = DeTable::parse_recoverable(text);
    let mut trusted = true;
    for error in syntax_errors {
        let span = error.span().unwrap_or(0..0);
        let is_duplicate = error.message() == "duplicate key";
        trusted &= is_duplicate;
        let message = match text.get(span.clone()) {
            Some(key) if is_duplicate => format!("`{key}` is given twice"),
            _ => error.message().to_owned(),
        };
        reader.error(span, message);
    }
    let hosts = if trusted { read_root(&mut reader, &entries(root.get_ref())) } else { Vec::new() };
    (hosts, reader)
}

/// The hosts, or the errors in the order of the file.
pub(super) fn finish(hosts: Vec<Host>, reader: Reader<'_>) -> Result<HostsFile, Vec<ConfigError>> {
    let Reader { mut errors, file, .. } = reader;
    if errors.is_empty() {
        return Ok(HostsFile { path: file.to_owned(), hosts });
    }
    errors.sort_by_key(|error| (error.line, error.column));
    errors.dedup();
    Err(errors)
}

fn read_root(reader: &mut Reader<'_>, root: &[Entry<'_, '_>]) -> Vec<Host> {
    let mut defaults = Layer::default();
    let mut tables = Vec::new();
    let mut groups = Vec::new();
    let mut hosts_span = None;
    for (key, value) in root {
        match key.get_ref().as_ref() {
            "defaults" => {
                if let Some(entries) = reader.table("defaults", value, "a table") {
                    defaults = layer::read(reader, "[defaults]", &entries, true);
                }
            }
            "hosts" => {
                hosts_span = Some(key.span());
                tables = reader.table("hosts", value, "a table of hosts: [hosts.NAME]").unwrap_or_default();
            }
            name if layer::KEYS.contains(&name) => reader.advise(
                key.span(),
                format!("`{name}` is outside of any table"),
                "put it under [defaults], or under the [hosts.NAME] it is for",
            ),
            "groups" => groups = reader.table("groups", value, "a table of groups").unwrap_or_default(),
            _ => reader.unknown_key(key, "hosts.toml", &["defaults", "groups", "hosts"]),
        }
    }
    if tables.is_empty() && reader.errors.is_empty() {
        reader.error(hosts_span.unwrap_or(0..0), "no hosts: write a table [hosts.NAME] for each");
    }
    let mut hosts = Vec::new();
    let mut reached = BTreeMap::new();
    for (key, value) in tables {
        let name = key.get_ref().as_ref();
        if let Some(why) = layer::bad_name(name) {
            reader.error(key.span(), format!("host name `{name}` {why}"));
        }
        let place = format!("[hosts.{name}]");
        let Some(entries) = reader.table(&format!("hosts.{name}"), value, "a table") else { continue };
        let layer = layer::read(reader, &place, &entries, false);
        if let Some(host) = merge(reader, name, &key.span(), &defaults, layer) {
            // Networks behind different jump hosts may well use the same addresses.
            let at = (host.address.to_lowercase(), host.port, host.proxy_jump.clone());
            if let Some(other) = reached.insert(at, host.name.clone()) {
                reader.error(
                    key.span(),
                    format!(
                        "hosts `{other}` and `{name}` are the same machine: both are at {}",
                        describe_address(&host)
                    ),
                );
            }
            hosts.push(host);
        }
    }
    // Where a host is missing, its groups would seem to name nothing.
    if reader.errors.is_empty() {
        label(reader, &groups, &mut hosts);
    }
    hosts
}

/// Gives each host the groups that it is in, which become labels like its tags. A group may name groups that stand
/// before it.
fn label(reader: &mut Reader<'_>, groups: &[Entry<'_, '_>], hosts: &mut [Host]) {
    let tags: Vec<String> = hosts.iter().flat_map(|host| host.labels.clone()).collect();
    for (key, value) in groups {
        let name = key.get_ref().as_ref();
        if let Some(why) = layer::bad_name(name) {
            reader.error(key.span(), format!("group name `{name}` {why}"));
        }
        if tags.iter().any(|tag| tag == name) {
            reader.error(key.span(), format!("`{name}` is a tag as well: `@{name}` must mean one thing"));
        }
        let full = format!("groups.{name}");
        let Some(list) = reader.list(&full, value, "a list of hosts, such as [\"web*\", \"db1\"]") else { continue };
        let mut members = vec![false; hosts.len()];
        for value in list {
            let wanted = "the name of a host, a pattern, or @GROUP";
            let Some(text) = reader.string(&full, value, wanted) else { continue };
            let pattern: Pattern = match text.parse() {
                Ok(pattern) => pattern,
                Err(why) => {
                    reader.error(value.span(), why);
                    continue;
                }
            };
            if let Err(none) = pattern.must_match(hosts) {
                let message = format!("`{full}`: there is {}", none.missing());
                match none.advice() {
                    Some(advice) => reader.advise(value.span(), message, advice),
                    None => reader.error(value.span(), message),
                }
            }
            members.iter_mut().zip(&*hosts).for_each(|(member, host)| *member |= pattern.matches(host));
        }
        for (host, _) in hosts.iter_mut().zip(members).filter(|(_, member)| *member) {
            host.labels.push(name.to_owned());
        }
    }
    for host in hosts {
        host.labels.sort();
        host.labels.dedup();
    }
}

fn describe_address(host: &Host) -> String {
    host.port.map_or_else(|| host.address.clone(), |port| format!("{} port {port}", host.address))
}

/// Puts `layer` over `defaults`. `None` where something that must be said is missing or wrong.
fn merge(reader: &mut Reader<'_>, name: &str, span: &Range<usize>, defaults: &Layer, layer: Layer) -> Option<Host> {
    let present = |key: &str| defaults.present.contains(key) || layer.present.contains(key);
    if !present("payload") {
        reader.advise(
            span.clone(),
            format!("host `{name}` has no `payload`"),
            "add payload = \"DIRECTORY\", here or under [defaults]",
        );
    }
    if !present("disk") {
        reader.advise(
            span.clone(),
            format!("host `{name}` has no `disk`: what may be overwritten must be said"),
            "add disk = \"/dev/…\" or disk = { serial = \"…\" }",
        );
    }
    let mut vars = defaults.vars.clone();
    vars.extend(layer.vars);
    let mut secrets = defaults.secrets.clone();
    secrets.extend(layer.secrets);
    let mut deadlines = Deadlines::default();
    for (clock, duration) in defaults.deadlines.iter().chain(&layer.deadlines) {
        if let Some(value) = deadlines.get_mut(clock) {
            *value = *duration;
        }
    }
    let payload = layer.payload.as_ref().or(defaults.payload.as_ref());
    if let Some(payload) = payload {
        keep_apart(reader, payload, secrets.values().chain(layer.identity_files.iter().flatten()));
    }
    let defaults = defaults.clone();
    Some(Host {
        name: name.to_owned(),
        labels: layer.tags.or(defaults.tags).unwrap_or_default(),
        address: layer.address.unwrap_or_else(|| name.to_owned()),
        port: layer.port.or(defaults.port),
        user: layer.user.or(defaults.user),
        proxy_jump: layer.proxy_jump.or(defaults.proxy_jump),
        new_address: layer.new_address,
        new_user: layer.new_user.or(defaults.new_user),
        becomes: layer.becomes.or(defaults.becomes),
        identity_files: layer.identity_files.or(defaults.identity_files).unwrap_or_default(),
        known_hosts: layer.known_hosts.or(defaults.known_hosts),
        accept_new: layer.accept_new.or(defaults.accept_new).unwrap_or(false),
        payload: layer.payload.or(defaults.payload)?,
        disk: layer.disk.or(defaults.disk)?,
        disks: layer.disks.or(defaults.disks).unwrap_or_default(),
        vars,
        secrets,
        mirror: layer.mirror.or(defaults.mirror),
        snapshot: layer.snapshot.or(defaults.snapshot),
        proxy: layer.proxy.or(defaults.proxy).unwrap_or_default(),
        base: layer.base.or(defaults.base).unwrap_or_default(),
        needs: layer.needs.or(defaults.needs),
        kernel: layer.kernel.or(defaults.kernel).unwrap_or_default(),
        deadlines,
        finish: layer.finish.or(defaults.finish).unwrap_or(Finish::Reboot),
        authorized_keys: layer.authorized_keys.or(defaults.authorized_keys).unwrap_or_default(),
        check: layer.check.or(defaults.check),
        ssh_port_ram: layer.ssh_port_ram.or(defaults.ssh_port_ram),
        raw_access: layer.raw_access.or(defaults.raw_access).unwrap_or(false),
        verify_key: layer.verify_key.or(defaults.verify_key).unwrap_or(false),
    })
}

/// A secret in the payload's directory would be packed with it, and payloads are not handled as secrets.
fn keep_apart<'p>(reader: &mut Reader<'_>, payload: &Path, secrets: impl Iterator<Item = &'p PathBuf>) {
    for secret in secrets.filter(|secret| *secret != payload && secret.starts_with(payload)) {
        let named = reader.paths.iter().rfind(|used| used.path == **secret).map_or(0..0, |used| used.span.clone());
        reader.error(
            named,
            format!(
                "{} is secret, but inside the payload: it would be sent with it; move it elsewhere",
                secret.display()
            ),
        );
    }
}

/// Takes out the paths that hosts.toml names, so that the caller can check them on the disk.
pub(super) fn take_paths(reader: &mut Reader<'_>) -> Vec<PathUse> {
    std::mem::take(&mut reader.paths)
}
