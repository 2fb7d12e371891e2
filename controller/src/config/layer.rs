//! One table of settings, `[defaults]` or `[hosts.NAME]`, before they are merged.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anemos_proto::config::Finish;
use anemos_proto::stage::Proxy;
use toml::de::DeValue;

use super::disk::DiskSelector;
use super::files;
use super::table::{Entry, PathKind, Reader, Value, nearest};
use super::units::{parse_duration, parse_size};
use super::{AuthorizedKey, Base, BaseSource, Become, Deadlines, Kernel, REVEALED};
use crate::known_hosts::PublicKey;
use crate::payload;
use crate::ssh::Way;

/// Every key of `[hosts.NAME]`.
pub(super) const KEYS: &[&str] = &[
    "tags",
    "address",
    "port",
    "user",
    "proxy_jump",
    "new_address",
    "new_user",
    "become",
    "identity_file",
    "known_hosts",
    "accept_new",
    "payload",
    "disk",
    "disks",
    "vars",
    "var_files",
    "secrets",
    "reveal",
    "mirror",
    "snapshot",
    "proxy",
    "base",
    "needs",
    "kernel",
    "deadlines",
    "finish",
    "authorized_keys",
    "check",
    "ssh_port_ram",
    "raw_access",
    "verify_key",
];

/// The settings that one table makes.
#[derive(Debug, Clone, Default)]
pub(super) struct Layer {
    pub(super) tags: Option<Vec<String>>,
    pub(super) address: Option<String>,
    pub(super) port: Option<u16>,
    pub(super) user: Option<String>,
    pub(super) proxy_jump: Option<String>,
    pub(super) new_address: Option<String>,
    pub(super) new_user: Option<String>,
    pub(super) becomes: Option<Become>,
    pub(super) identity_files: Option<Vec<PathBuf>>,
    pub(super) known_hosts: Option<PathBuf>,
    pub(super) accept_new: Option<bool>,
    pub(super) payload: Option<PathBuf>,
    pub(super) disk: Option<DiskSelector>,
    pub(super) disks: Option<Vec<DiskSelector>>,
    pub(super) vars: BTreeMap<String, String>,
    pub(super) secrets: BTreeMap<String, PathBuf>,
    pub(super) reveal: Option<String>,
    pub(super) mirror: Option<String>,
    pub(super) snapshot: Option<String>,
    pub(super) proxy: Option<Proxy>,
    pub(super) base: Option<Base>,
    pub(super) needs: Option<Vec<String>>,
    pub(super) kernel: Option<Kernel>,
    pub(super) deadlines: BTreeMap<String, Duration>,
    pub(super) finish: Option<Finish>,
    pub(super) authorized_keys: Option<Vec<AuthorizedKey>>,
    pub(super) check: Option<String>,
    pub(super) ssh_port_ram: Option<u16>,
    pub(super) raw_access: Option<bool>,
    pub(super) verify_key: Option<bool>,
    /// Keys that the table has. One with a wrong value is among them, so that it is not reported as missing too.
    pub(super) present: BTreeSet<String>,
}

/// Reads one table. `place` is its name in errors, such as `[hosts.web1]`.
pub(super) fn read(reader: &mut Reader<'_>, place: &str, entries: &[Entry<'_, '_>], is_defaults: bool) -> Layer {
    let mut layer = Layer::default();
    let mut of_files = BTreeMap::new();
    for (key, value) in entries {
        let name = key.get_ref().as_ref();
        layer.present.insert(name.to_owned());
        match name {
            "tags" => layer.tags = tags(reader, value),
            "address" if is_defaults => {
                reader.error(key.span(), "`address` belongs to one host: it can't be in [defaults]");
            }
            "address" => layer.address = reader.checked(name, value, "a host name or an IP address", address),
            "new_address" if is_defaults => {
                reader.error(key.span(), "`new_address` belongs to one host: it can't be in [defaults]");
            }
            "new_address" => layer.new_address = reader.checked(name, value, "a host name or an IP address", address),
            "port" => layer.port = reader.port(name, value),
            "new_user" => layer.new_user = reader.checked(name, value, "a user's name", user),
            "user" => layer.user = reader.checked(name, value, "a user's name", user),
            "proxy_jump" => layer.proxy_jump = reader.checked(name, value, "jump hosts, as ProxyJump has them", jumps),
            "become" => layer.becomes = reader.word(name, value, &Become::ALL.map(|way| (way.name(), way))),
            "identity_file" => layer.identity_files = paths(reader, name, value),
            // The file need not exist yet: `accept_new` creates it.
            "known_hosts" => {
                layer.known_hosts = reader.path(name, value, PathKind::File);
                reader.paths.pop_if(|used| used.span == value.span());
            }
            "accept_new" => layer.accept_new = reader.boolean(name, value),
            "payload" => layer.payload = reader.path(name, value, PathKind::Directory),
            "disk" => layer.disk = disk(reader, name, value),
            "disks" => {
                let list = reader.list(name, value, "a list of disks");
                layer.disks = list.map(|list| list.into_iter().filter_map(|value| disk(reader, name, value)).collect());
            }
            "vars" => layer.vars = vars(reader, value),
            "var_files" => of_files = var_files(reader, value),
            "secrets" => layer.secrets = secrets(reader, value),
            "reveal" => layer.reveal = reader.string(name, value, "a shell command"),
            "mirror" => layer.mirror = reader.checked(name, value, "a URL", url),
            "snapshot" => layer.snapshot = reader.checked(name, value, "a URL", snapshot),
            "proxy" => layer.proxy = reader.checked(name, value, "a URL, or \"none\"", proxy),
            "base" => layer.base = base(reader, value),
            "needs" => {
                let list = reader.list(name, value, "a list of groups of the base");
                let mut group = |value| reader.checked(name, value, "a group of the base", payload::group);
                layer.needs = list.map(|list| list.into_iter().filter_map(&mut group).collect());
            }
            "kernel" => {
                layer.kernel = reader.word(name, value, &[("host", Kernel::Host), ("locked", Kernel::Locked)]);
            }
            "deadlines" => layer.deadlines = deadlines(reader, value),
            "finish" => {
                let words = [
                    ("reboot", Finish::Reboot),
                    ("kexec", Finish::Kexec),
                    ("poweroff", Finish::PowerOff),
                    ("hold", Finish::Hold),
                ];
                layer.finish = reader.word(name, value, &words);
            }
            "authorized_keys" => layer.authorized_keys = authorized_keys(reader, value),
            "check" => layer.check = reader.string(name, value, "a shell command"),
            "ssh_port_ram" => layer.ssh_port_ram = reader.port(name, value),
            "raw_access" => layer.raw_access = reader.boolean(name, value),
            "verify_key" => layer.verify_key = reader.boolean(name, value),
            _ => {
                reader.unknown_key(key, place, KEYS);
                // An unknown key most likely is the nearest known one, misspelt: that one is not reported as missing
                // too.
                layer.present.extend(nearest(name, KEYS).map(str::to_owned));
            }
        }
    }
    of_files.append(&mut layer.vars);
    Layer { vars: of_files, ..layer }
}

impl Layer {
    /// This one, over another: what this one says counts, and of `vars`, `secrets` and `deadlines` so each key.
    pub(super) fn over(self, below: &Self) -> Self {
        let Self {
            tags,
            address,
            port,
            user,
            proxy_jump,
            new_address,
            new_user,
            becomes,
            identity_files,
            known_hosts,
            accept_new,
            payload,
            disk,
            disks,
            vars,
            secrets,
            reveal,
            mirror,
            snapshot,
            proxy,
            base,
            needs,
            kernel,
            deadlines,
            finish,
            authorized_keys,
            check,
            ssh_port_ram,
            raw_access,
            verify_key,
            present,
        } = below.clone();
        let mut over = self;
        under(&mut over.tags, tags);
        under(&mut over.address, address);
        under(&mut over.port, port);
        under(&mut over.user, user);
        under(&mut over.proxy_jump, proxy_jump);
        under(&mut over.new_address, new_address);
        under(&mut over.new_user, new_user);
        under(&mut over.becomes, becomes);
        under(&mut over.identity_files, identity_files);
        under(&mut over.known_hosts, known_hosts);
        under(&mut over.accept_new, accept_new);
        under(&mut over.payload, payload);
        under(&mut over.disk, disk);
        under(&mut over.disks, disks);
        all_under(&mut over.vars, vars);
        all_under(&mut over.secrets, secrets);
        under(&mut over.reveal, reveal);
        under(&mut over.mirror, mirror);
        under(&mut over.snapshot, snapshot);
        under(&mut over.proxy, proxy);
        under(&mut over.base, base);
        under(&mut over.needs, needs);
        under(&mut over.kernel, kernel);
        all_under(&mut over.deadlines, deadlines);
        under(&mut over.finish, finish);
        under(&mut over.authorized_keys, authorized_keys);
        under(&mut over.check, check);
        under(&mut over.ssh_port_ram, ssh_port_ram);
        under(&mut over.raw_access, raw_access);
        under(&mut over.verify_key, verify_key);
        over.present.extend(present);
        over
    }
}

fn under<T>(over: &mut Option<T>, below: Option<T>) {
    if over.is_none() {
        *over = below;
    }
}

fn all_under<K: Ord, V>(over: &mut BTreeMap<K, V>, below: BTreeMap<K, V>) {
    for (key, value) in below {
        over.entry(key).or_insert(value);
    }
}

/// The variables of all of these files. A name that two of them give is an error: which one counts would hang on their
/// order.
fn var_files(reader: &mut Reader<'_>, value: &Value<'_>) -> BTreeMap<String, String> {
    let mut found: BTreeMap<String, (String, PathBuf)> = BTreeMap::new();
    for value in reader.list("var_files", value, "a list of files").unwrap_or_default() {
        let Some(path) = reader.path("var_files", value, PathKind::File) else { continue };
        let text = match (reader.source)(&path) {
            Ok(text) => text,
            Err(error) => {
                // Said once.
                reader.paths.pop_if(|used| used.span == value.span());
                reader.error(value.span(), files::unread(&path, &error));
                continue;
            }
        };
        let vars = files::variables(reader, &path, &text, |inner, entries| {
            let vars = variables(inner, "", entries);
            for (key, _) in entries {
                if let Some((_, other)) = found.get(&key.get_ref().to_ascii_uppercase()) {
                    let name = key.get_ref();
                    inner.error(key.span(), format!("`{name}` is given in {} too", other.display()));
                }
            }
            vars
        });
        for (name, value) in vars {
            found.entry(name).or_insert((value, path.clone()));
        }
    }
    found.into_iter().map(|(name, (value, _))| (name, value)).collect()
}

/// What is wrong with the name of a host, a group or a tag, in words that follow it. Names of hosts go into file names,
/// the payload's environment and messages, and all of these are words of a command line.
pub(super) fn bad_name(name: &str) -> Option<&'static str> {
    if name.is_empty() {
        Some("is empty")
    } else if name.len() > 64 {
        Some("is longer than 64 characters")
    } else if name.starts_with(['.', '-']) {
        Some("must begin with a letter, a digit or `_`")
    } else if !name_like(name) {
        Some("may have only letters, digits, `.`, `_` and `-`")
    } else {
        None
    }
}

fn tags(reader: &mut Reader<'_>, value: &Value<'_>) -> Option<Vec<String>> {
    let mut tags = Vec::new();
    for value in reader.list("tags", value, "a list of words")? {
        let checked = |text: &str| bad_name(text).map_or_else(|| Ok(text.to_owned()), |why| Err(why.to_owned()));
        tags.extend(reader.checked("tags", value, "a word", checked));
    }
    Some(tags)
}

fn address(text: &str) -> Result<String, String> {
    if text.parse::<std::net::IpAddr>().is_ok() {
        return Ok(text.to_owned());
    }
    if let Some((host, port)) = text.rsplit_once(':')
        && port.parse::<u16>().is_ok()
    {
        return Err(format!(
            "has a port in it: write address = \"{}\" and port = {port}",
            host.trim_matches(['[', ']'])
        ));
    }
    if let Some((user, host)) = text.split_once('@') {
        return Err(format!("has a user in it: write address = \"{host}\" and user = \"{user}\""));
    }
    // A zone (`fe80::1%eth0`) is part of an address that std doesn't parse.
    let zoned =
        text.split_once('%').is_some_and(|(ip, zone)| ip.parse::<std::net::Ipv6Addr>().is_ok() && name_like(zone));
    if zoned || (name_like(text) && !text.starts_with(['-', '.'])) {
        Ok(text.to_owned())
    } else {
        Err("is not a host name or an IP address".into())
    }
}

fn name_like(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
}

fn user(text: &str) -> Result<String, String> {
    if name_like(text) && !text.starts_with('-') { Ok(text.to_owned()) } else { Err("is not a user's name".into()) }
}

/// As `ssh -J` takes them, or `none`.
fn jumps(text: &str) -> Result<String, String> {
    let odd = |c: char| !c.is_ascii_alphanumeric() && !".-_@:[],/".contains(c);
    if text != "none" && text.contains(odd) {
        return Err("is not [USER@]HOST[:PORT], or several of these with commas between".into());
    }
    Way::through(text).map_err(|why| format!("has a part that can't be read: {why}"))?;
    Ok(text.to_owned())
}

fn url(text: &str) -> Result<String, String> {
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    let Some(rest) = rest else {
        return Err("is not a URL that can be fetched: it must begin with http:// or https://".into());
    };
    let host = rest.split('/').next().unwrap_or_default();
    if host.is_empty() || text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err("is not a URL".into());
    }
    if host.contains('@') {
        return Err("has a user or password in it, which would end up in logs".into());
    }
    Ok(text.to_owned())
}

fn snapshot(text: &str) -> Result<String, String> {
    if !text.contains("@SNAPSHOTID@") {
        return Err("must have @SNAPSHOTID@ where the time goes".into());
    }
    url(text)
}

fn proxy(text: &str) -> Result<Proxy, String> {
    if text == "none" { Ok(Proxy::Direct) } else { url(text).map(Proxy::At) }
}

fn paths(reader: &mut Reader<'_>, name: &str, value: &Value<'_>) -> Option<Vec<PathBuf>> {
    let values = match value.get_ref() {
        DeValue::Array(list) => list.iter().collect(),
        _ => vec![value],
    };
    if values.is_empty() {
        reader.error(value.span(), format!("`{name}` is an empty list"));
        return None;
    }
    Some(values.into_iter().filter_map(|value| reader.path(name, value, PathKind::File)).collect())
}

fn disk(reader: &mut Reader<'_>, name: &str, value: &Value<'_>) -> Option<DiskSelector> {
    const PROPERTIES: &[&str] = &["serial", "model", "wwid", "min_size", "max_size"];
    let wanted = "a path (\"/dev/…\") or a table ({ serial = \"…\" })";
    if matches!(value.get_ref(), DeValue::String(_)) {
        return reader.checked(name, value, wanted, disk_path);
    }
    let (mut serial, mut model, mut wwid, mut min_size, mut max_size) = (None, None, None, None, None);
    let entries = reader.table(name, value, wanted)?;
    let errors = reader.errors.len();
    for (key, value) in &entries {
        let property = key.get_ref().as_ref();
        let full = format!("{name}.{property}");
        match property {
            "serial" => serial = reader.string(&full, value, "a string"),
            "model" => model = reader.string(&full, value, "a string"),
            "wwid" => wwid = reader.string(&full, value, "a string"),
            "min_size" => min_size = reader.checked(&full, value, "a size, such as \"500GB\"", parse_size),
            "max_size" => max_size = reader.checked(&full, value, "a size, such as \"500GB\"", parse_size),
            _ => reader.unknown_key(key, &format!("`{name}`"), PROPERTIES),
        }
    }
    if reader.errors.len() > errors {
        return None;
    }
    if entries.is_empty() {
        reader.error(
            value.span(),
            format!("`{name}` says nothing about the disk: give one of {}", PROPERTIES.join(", ")),
        );
        return None;
    }
    if let (Some(min), Some(max)) = (min_size, max_size)
        && min > max
    {
        reader.error(value.span(), format!("`{name}`: min_size is more than max_size, so no disk can match"));
        return None;
    }
    Some(DiskSelector::Match { serial, model, wwid, min_size, max_size })
}

fn disk_path(text: &str) -> Result<DiskSelector, String> {
    let Some(name) = text.strip_prefix("/dev/") else {
        return Err("is not the path of a disk: it must begin with /dev/".into());
    };
    if name.starts_with("disk/") {
        return Err(
            "is a link that udev makes: name the disk itself, or by { serial = \"…\" } or { wwid = \"…\" }".into()
        );
    }
    if name.is_empty()
        || name.split('/').any(|part| matches!(part, "" | "." | ".."))
        || text.contains(char::is_whitespace)
    {
        return Err("is not the path of a disk".into());
    }
    Ok(DiskSelector::Path(text.to_owned()))
}

fn vars(reader: &mut Reader<'_>, value: &Value<'_>) -> BTreeMap<String, String> {
    let entries = reader.table("vars", value, "a table").unwrap_or_default();
    variables(reader, "vars.", &entries)
}

/// Variables by their names. `place` comes before these in errors.
fn variables(reader: &mut Reader<'_>, place: &str, entries: &[Entry<'_, '_>]) -> BTreeMap<String, String> {
    let mut vars = BTreeMap::new();
    for (key, value) in entries {
        let name = key.get_ref().as_ref();
        let full = format!("{place}{name}");
        let good_start = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        if !good_start || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            reader.error(
                key.span(),
                format!("`{full}`: a variable's name is letters, digits and `_`, and doesn't begin with a digit"),
            );
            continue;
        }
        let text = match value.get_ref() {
            DeValue::String(text) if text.contains('\0') => {
                reader.error(value.span(), format!("`{full}` has a NUL in it"));
                continue;
            }
            DeValue::String(text) => text.clone().into_owned(),
            // The payload gets the number in decimal: it could not read TOML's other notations (0x10, 1_000).
            DeValue::Integer(integer) => {
                let Ok(number) = i64::from_str_radix(integer.as_str(), integer.radix()) else {
                    let message = format!("`{full}`: {integer} is too large a number; write it as a string");
                    reader.error(value.span(), message);
                    continue;
                };
                number.to_string()
            }
            DeValue::Boolean(boolean) => boolean.to_string(),
            _ => {
                reader.wrong_type(&full, value, "a string, an integer or a boolean");
                continue;
            }
        };
        // Environment variables are written in upper case, so `greeting` and `GREETING` in hosts.toml are one name.
        if vars.insert(name.to_ascii_uppercase(), text).is_some() {
            let upper = name.to_ascii_uppercase();
            reader.error(key.span(), format!("`{full}` is given twice: each is ANEMOS_VAR_{upper} to the payload"));
        }
    }
    vars
}

fn secrets(reader: &mut Reader<'_>, value: &Value<'_>) -> BTreeMap<String, PathBuf> {
    let mut secrets = BTreeMap::new();
    for (key, value) in reader.table("secrets", value, "a table of files").unwrap_or_default() {
        let name = key.get_ref().as_ref();
        let full = format!("secrets.{name}");
        if !name_like(name) || name.starts_with(['.', '-']) || name.starts_with(REVEALED) {
            reader.error(
                key.span(),
                format!("`{full}`: a secret's name is a file name of letters, digits, `.`, `_` and `-`"),
            );
            continue;
        }
        if let Some(path) = reader.path(&full, value, PathKind::File) {
            secrets.insert(name.to_owned(), path);
        }
    }
    secrets
}

const SOURCES: &[(&str, Source)] = &[("auto", Source::Auto), ("build", Source::Build), ("upload", Source::Upload)];

#[derive(Clone, Copy)]
enum Source {
    Auto,
    Build,
    Upload,
}

impl From<Source> for BaseSource {
    fn from(source: Source) -> Self {
        match source {
            Source::Auto => Self::Auto,
            Source::Build => Self::Build,
            Source::Upload => Self::Upload,
        }
    }
}

fn base(reader: &mut Reader<'_>, value: &Value<'_>) -> Option<Base> {
    if matches!(value.get_ref(), DeValue::String(_)) {
        return reader.word("base", value, SOURCES).map(|source| Base { source: source.into(), lock: None });
    }
    let mut base = Base::default();
    let (mut source_given, mut urls_given) = (false, None);
    let wanted = "\"auto\", \"build\", \"upload\" or a table ({ urls = [\"…\"] })";
    for (key, value) in reader.table("base", value, wanted)? {
        match key.get_ref().as_ref() {
            "source" => {
                source_given = true;
                base.source = reader.word("base.source", value, SOURCES)?.into();
            }
            "urls" => {
                urls_given = Some(key.span());
                let list = reader.list("base.urls", value, "a list of URLs")?;
                if list.is_empty() {
                    reader.error(value.span(), "`base.urls` is an empty list");
                }
                let urls =
                    list.into_iter().filter_map(|value| reader.checked("base.urls", value, "a URL", url)).collect();
                base.source = BaseSource::Urls(urls);
            }
            "lock" => base.lock = reader.path("base.lock", value, PathKind::File),
            _ => reader.unknown_key(key, "`base`", &["source", "urls", "lock"]),
        }
    }
    if let Some(span) = urls_given.filter(|_| source_given) {
        reader.error(span, "`base.urls` is a source of its own: leave out `base.source`");
        return None;
    }
    Some(base)
}

fn deadlines(reader: &mut Reader<'_>, value: &Value<'_>) -> BTreeMap<String, Duration> {
    let mut deadlines = BTreeMap::new();
    for (key, value) in reader.table("deadlines", value, "a table of durations").unwrap_or_default() {
        let name = key.get_ref().as_ref();
        if !Deadlines::NAMES.contains(&name) {
            reader.unknown_key(key, "`deadlines`", &Deadlines::NAMES);
            continue;
        }
        let full = format!("deadlines.{name}");
        if let DeValue::Integer(integer) = value.get_ref() {
            reader.advise(
                value.span(),
                format!("`{full}` must be a duration, not a bare number"),
                format!("\"{integer}s\"?"),
            );
            continue;
        }
        if let Some(duration) = reader.checked(&full, value, "a duration, such as \"10m\"", parse_duration) {
            deadlines.insert(name.to_owned(), duration);
        }
    }
    deadlines
}

fn authorized_keys(reader: &mut Reader<'_>, value: &Value<'_>) -> Option<Vec<AuthorizedKey>> {
    let name = "authorized_keys";
    let list = reader.list(name, value, "a list of public keys, or of paths of .pub files")?;
    let mut keys = Vec::new();
    for value in list {
        let Some(text) = reader.string(name, value, "a public key or the path of a .pub file") else { continue };
        if text.contains("PRIVATE KEY") {
            reader.error_unquoted(value.span(), "`authorized_keys` has a private key in it: put the public one there");
        } else if Path::new(&text).extension().is_some_and(|extension| extension == "pub") && !text.contains('\n') {
            keys.extend(reader.path(name, value, PathKind::File).map(AuthorizedKey::File));
        } else {
            match PublicKey::parse(&text) {
                Ok(key) => keys.push(AuthorizedKey::Key(key)),
                Err(why) => reader
                    .error(value.span(), format!("`{name}`: neither the path of a .pub file nor a public key: {why}")),
            }
        }
    }
    Some(keys)
}
