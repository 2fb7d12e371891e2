//! Text to hosts: reads the tree, puts `[defaults]` under each host, and makes the checks that need the whole file.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use anemos_proto::config::Finish;
use toml::de::DeTable;

use super::error::ConfigError;
use super::files::{INCLUDE, Source, Text, gather, straight};
use super::layer::{self, Layer};
use super::table::{Entry, PathUse, Reader, entries};
use super::{Deadlines, Host, HostsFile};
use crate::select::Pattern;

/// Reads the text of a hosts.toml.
///
/// `file` is where it came from: its directory is where relative paths start. `home` is what `~/` means. Nothing is
/// read but the text, and what `source` gives of files that it names. All errors are reported, file by file, in the
/// order of each; a text that is not TOML has only those errors, as what comes after them can't be trusted (a duplicate
/// key is no such error).
#[cfg(any(test, fuzzing))]
pub fn parse(text: &str, file: &Path, home: Option<&Path>, source: &Source<'_>) -> Result<HostsFile, Vec<ConfigError>> {
    let (files, wrong) = gather(file, text, home, source);
    let (hosts, readers) = read((&files, wrong.is_empty()), home, source);
    finish(file, hosts, readers, wrong)
}

/// The only host of a text that nobody wrote into a file, whose paths are not looked at. The error is the first thing
/// that is wrong.
pub fn one(text: &str) -> Result<Host, String> {
    let (file, nothing) = (Path::new(""), |_: &Path| Err(std::io::ErrorKind::NotFound.into()));
    let (files, wrong) = gather(file, text, None, &nothing);
    let (hosts, readers) = read((&files, wrong.is_empty()), None, &nothing);
    let mut hosts = finish(file, hosts, readers, wrong)
        .map_err(|errors| errors.into_iter().map(|error| error.message).next().unwrap_or_default())?
        .hosts;
    match (hosts.pop(), hosts.is_empty()) {
        (Some(host), true) => Ok(host),
        _ => Err("it is not one host".into()),
    }
}

/// As [`parse`], but leaves the errors and the paths in the readers, one for each file, for more checks. `whole`: none
/// of the files that are included lacks.
pub(super) fn read<'a>(
    (files, whole): (&'a [Text], bool),
    home: Option<&'a Path>,
    source: &'a Source<'a>,
) -> (Vec<Host>, Vec<Reader<'a>>) {
    let mut readers: Vec<Reader<'a>> = files
        .iter()
        .map(|Text { path, text, .. }| Reader { file: path, text, home, source, errors: Vec::new(), paths: Vec::new() })
        .collect();
    let parsed: Vec<_> = files.iter().map(|file| DeTable::parse_recoverable(&file.text)).collect();
    let mut trusted = true;
    let mut roots = Vec::new();
    for (reader, (root, syntax_errors)) in readers.iter_mut().zip(&parsed) {
        for error in syntax_errors {
            let span = error.span().unwrap_or(0..0);
            let is_duplicate = error.message() == "duplicate key";
            trusted &= is_duplicate;
            let message = match reader.text.get(span.clone()) {
                Some(key) if is_duplicate => format!("`{key}` is given twice"),
                _ => error.message().to_owned(),
            };
            reader.error(span, message);
        }
        roots.push(entries(root.get_ref()));
    }
    let hosts = if trusted { read_roots(&mut readers, (files, whole), &roots) } else { Vec::new() };
    (hosts, readers)
}

/// The hosts, or the errors, file by file and in the order of each. `wrong` is what is wrong besides.
pub(super) fn finish(
    file: &Path,
    hosts: Vec<Host>,
    readers: Vec<Reader<'_>>,
    wrong: Vec<ConfigError>,
) -> Result<HostsFile, Vec<ConfigError>> {
    let order: Vec<PathBuf> = readers.iter().map(|reader| reader.file.to_owned()).collect();
    let mut errors: Vec<ConfigError> = readers.into_iter().flat_map(|reader| reader.errors).chain(wrong).collect();
    if errors.is_empty() {
        return Ok(HostsFile { path: file.to_owned(), hosts });
    }
    let place = |path: &PathBuf| order.iter().position(|file| file == path).unwrap_or(usize::MAX);
    errors.sort_by_key(|error| (place(&error.file), error.file.clone(), error.line, error.column));
    errors.dedup();
    Err(errors)
}

/// The tables of one file.
#[derive(Default)]
struct Tables<'v, 't> {
    defaults: Layer,
    hosts: Vec<Entry<'v, 't>>,
    groups: Vec<Entry<'v, 't>>,
    hosts_span: Option<Range<usize>>,
}

fn read_roots<'v, 't>(
    readers: &mut [Reader<'_>],
    (files, whole): (&[Text], bool),
    roots: &[Vec<Entry<'v, 't>>],
) -> Vec<Host> {
    let mut tables: Vec<Tables<'v, 't>> = Vec::new();
    for ((reader, root), file) in readers.iter_mut().zip(roots).zip(files) {
        let mut own = read_root(reader, root);
        // A file stands before those that it includes.
        if let Some(above) = file.named_by {
            own.defaults = own.defaults.over(&tables[above].defaults);
        }
        tables.push(own);
    }
    let none = tables.iter().all(|tables| tables.hosts.is_empty());
    if whole && none && readers.iter().all(|reader| reader.errors.is_empty()) {
        let span = tables[0].hosts_span.clone();
        readers[0].error(span.unwrap_or(0..0), "no hosts: write a table [hosts.NAME] for each");
    }
    let mut hosts: Vec<Host> = Vec::new();
    let mut reached: BTreeMap<_, String> = BTreeMap::new();
    let mut names: BTreeMap<String, (usize, Range<usize>)> = BTreeMap::new();
    let order = in_order(files);
    for &at in &order {
        for (key, value) in &tables[at].hosts {
            let name = key.get_ref().as_ref();
            if let Some((other, span)) = names.get(name).cloned() {
                let there = readers[other].place(&span);
                readers[at].error(key.span(), format!("host `{name}` is given twice: at {there} too"));
                continue;
            }
            names.insert(name.to_owned(), (at, key.span()));
            let reader = &mut readers[at];
            if let Some(why) = layer::bad_name(name) {
                reader.error(key.span(), format!("host name `{name}` {why}"));
            }
            let place = format!("[hosts.{name}]");
            let Some(entries) = reader.table(&format!("hosts.{name}"), value, "a table") else { continue };
            let layer = layer::read(reader, &place, &entries, false);
            if let Some(host) = merge(reader, name, &key.span(), &tables[at].defaults, layer) {
                // Networks behind different jump hosts may well use the same addresses.
                let way = (host.address.to_lowercase(), host.port, host.proxy_jump.clone());
                if let Some(other) = reached.insert(way, host.name.clone()) {
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
    }
    // Where a host is missing, its groups would seem to name nothing.
    if whole && readers.iter().all(|reader| reader.errors.is_empty()) {
        let tags: Vec<String> = hosts.iter().flat_map(|host| host.labels.clone()).collect();
        let mut known: BTreeMap<String, String> = BTreeMap::new();
        for &at in &order {
            label(&mut readers[at], &tables[at].groups, &tags, &mut known, &mut hosts);
        }
        for host in &mut hosts {
            host.labels.sort();
            host.labels.dedup();
        }
    }
    hosts
}

/// The places of the files in the order in which their hosts go: those that a file includes come before its own.
fn in_order(files: &[Text]) -> Vec<usize> {
    fn add(files: &[Text], at: usize, order: &mut Vec<usize>) {
        for (below, _) in files.iter().enumerate().filter(|(_, file)| file.named_by == Some(at)) {
            add(files, below, order);
        }
        order.push(at);
    }
    let mut order = Vec::new();
    add(files, 0, &mut order);
    order
}

fn read_root<'v, 't>(reader: &mut Reader<'_>, root: &[Entry<'v, 't>]) -> Tables<'v, 't> {
    let mut tables = Tables::default();
    for &(key, value) in root {
        match key.get_ref().as_ref() {
            // The files are read already.
            INCLUDE => {}
            "defaults" => {
                if let Some(entries) = reader.table("defaults", value, "a table") {
                    tables.defaults = layer::read(reader, "[defaults]", &entries, true);
                }
            }
            "hosts" => {
                tables.hosts_span = Some(key.span());
                tables.hosts = reader.table("hosts", value, "a table of hosts: [hosts.NAME]").unwrap_or_default();
            }
            name if layer::KEYS.contains(&name) => reader.advise(
                key.span(),
                format!("`{name}` is outside of any table"),
                "put it under [defaults], or under the [hosts.NAME] it is for",
            ),
            "groups" => tables.groups = reader.table("groups", value, "a table of groups").unwrap_or_default(),
            _ => reader.unknown_key(key, "hosts.toml", &["defaults", "groups", "hosts", INCLUDE]),
        }
    }
    tables
}

/// Gives each host the groups that it is in, which become labels like its tags. A group may name groups that stand
/// before it, of which `known` says where.
fn label(
    reader: &mut Reader<'_>,
    groups: &[Entry<'_, '_>],
    tags: &[String],
    known: &mut BTreeMap<String, String>,
    hosts: &mut [Host],
) {
    for (key, value) in groups {
        let name = key.get_ref().as_ref();
        if let Some(why) = layer::bad_name(name) {
            reader.error(key.span(), format!("group name `{name}` {why}"));
        }
        if tags.iter().any(|tag| tag == name) {
            reader.error(key.span(), format!("`{name}` is a tag as well: `@{name}` must mean one thing"));
        }
        if let Some(other) = known.insert(name.to_owned(), reader.place(&key.span())) {
            reader.error(key.span(), format!("group `{name}` is given twice: at {other} too"));
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
    let own_keys = layer.identity_files.clone();
    let layer = layer.over(defaults);
    if let Some(payload) = &layer.payload {
        keep_apart(reader, span, payload, layer.secrets.values().chain(own_keys.iter().flatten()));
    }
    if layer.reveal.is_some() && layer.vars.contains_key("REVEAL") {
        reader.error(
            span.clone(),
            format!(
                "host `{name}` has `reveal`, by which this machine opens secrets, and `vars.reveal`, by which the host \
                 does"
            ),
        );
    }
    let mut deadlines = Deadlines::default();
    for (clock, duration) in &layer.deadlines {
        if let Some(value) = deadlines.get_mut(clock) {
            *value = *duration;
        }
    }
    Some(Host {
        name: name.to_owned(),
        labels: layer.tags.unwrap_or_default(),
        address: layer.address.unwrap_or_else(|| name.to_owned()),
        port: layer.port,
        user: layer.user,
        proxy_jump: layer.proxy_jump,
        new_address: layer.new_address,
        new_user: layer.new_user,
        becomes: layer.becomes,
        identity_files: layer.identity_files.unwrap_or_default(),
        known_hosts: layer.known_hosts,
        accept_new: layer.accept_new.unwrap_or(false),
        payload: layer.payload?,
        disk: layer.disk?,
        disks: layer.disks.unwrap_or_default(),
        vars: layer.vars,
        secrets: layer.secrets,
        reveal: layer.reveal,
        mirror: layer.mirror,
        snapshot: layer.snapshot,
        proxy: layer.proxy.unwrap_or_default(),
        base: layer.base.unwrap_or_default(),
        needs: layer.needs,
        kernel: layer.kernel.unwrap_or_default(),
        deadlines,
        finish: layer.finish.unwrap_or(Finish::Reboot),
        authorized_keys: layer.authorized_keys.unwrap_or_default(),
        check: layer.check,
        ssh_port_ram: layer.ssh_port_ram,
        raw_access: layer.raw_access.unwrap_or(false),
        verify_key: layer.verify_key.unwrap_or(false),
    })
}

/// A secret in the payload's directory would be packed with it, and payloads are not handled as secrets. `span` is the
/// host's name, for what another file names. What only the disk can tell, links, is looked at when it is packed.
fn keep_apart<'p>(
    reader: &mut Reader<'_>,
    span: &Range<usize>,
    payload: &Path,
    secrets: impl Iterator<Item = &'p PathBuf>,
) {
    let whole = |path: &Path| straight(&std::path::absolute(path).unwrap_or_else(|_| path.to_owned()));
    let payload = whole(payload);
    let inside =
        |secret: &&PathBuf| Some(whole(secret)).is_some_and(|path| path != payload && path.starts_with(&payload));
    for secret in secrets.filter(inside) {
        let named = reader.paths.iter().rfind(|used| used.path == **secret);
        let named = named.map_or_else(|| span.clone(), |used| used.span.clone());
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
