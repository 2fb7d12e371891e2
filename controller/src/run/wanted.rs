//! What a description says of what a host is to become, in a form that can be kept, compared and read: two that are
//! equal ask for the same system. How the host is reached, and where files are on this machine, is not in it.

use std::collections::BTreeMap;
use std::fmt::Write;

use anemos_proto::ids::Digest;
use anemos_proto::stage::Proxy;
use serde::{Deserialize, Serialize};

use super::describe::{Described, Description};
use crate::config::{Host, Kernel, format_duration};
use crate::engine::{BasePlan, Blob};
use crate::report::finish_name;

/// More characters of a value than these are not shown in a difference.
const SHOWN: usize = 80;

/// What is wanted of a host: names of settings, as hosts.toml has them, with their values as text.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// What the new system is made from.
    made_from: BTreeMap<String, String>,
    /// How that is gone about.
    by: BTreeMap<String, String>,
}

impl Wanted {
    /// What is wanted of a host that is described so. Of secrets it has only the names: a digest of a short one would
    /// give it away.
    pub fn of(described: &Described) -> Self {
        // Every field is named, so that a new one has to find its place here.
        let Described {
            host,
            ssh: _,
            trust: _,
            authorized_keys,
            payload,
            // These follow from the payload.
            keeps: _,
            is_imgbuild: _,
            is_unsigned: _,
            needs: _,
            base,
            fallback_mirror,
            fallback_snapshot,
        } = described;
        let Host {
            name: _,
            labels: _,
            address: _,
            new_address,
            port: _,
            user: _,
            new_user,
            proxy_jump: _,
            becomes: _,
            identity_files: _,
            known_hosts: _,
            accept_new: _,
            payload: _,
            disk,
            disks,
            vars,
            secrets,
            reveal: _,
            mirror,
            snapshot,
            proxy,
            base: _,
            needs: _,
            kernel,
            deadlines,
            finish,
            authorized_keys: _,
            check,
            ssh_port_ram,
            raw_access,
            verify_key,
        } = host;
        // The base's images are the same wherever they come from.
        let BasePlan { lock: _, digest, groups: _, images: _, image_size: _, kernel: locked, sources: _, upload: _ } =
            base;
        let mut wanted = Self::default();
        let mut made_from = |name: &str, value: Option<String>| {
            wanted.made_from.extend(value.map(|value| (name.to_owned(), value)));
        };
        made_from("payload", Some(payload.digest.to_string()));
        made_from("base", Some(digest.to_string()));
        made_from(
            "kernel",
            match kernel {
                Kernel::Host => None,
                Kernel::Locked => Some(locked.clone().unwrap_or_else(|| "of base.lock".into())),
            },
        );
        let disks: Vec<String> = std::iter::once(disk).chain(disks).map(ToString::to_string).collect();
        made_from("disk", Some(disks.join(", ")));
        for (name, value) in vars {
            made_from(&format!("vars.{name}"), Some(value.clone()));
        }
        for name in secrets.keys() {
            made_from(&format!("secrets.{name}"), Some("given".into()));
        }
        made_from("authorized_keys", (!authorized_keys.is_empty()).then(|| authorized_keys.join(", ")));
        made_from("mirror", mirror.clone().or_else(|| fallback_mirror.clone()));
        made_from("snapshot", snapshot.clone().or_else(|| fallback_snapshot.clone()));
        let mut by = |name: &str, value: Option<String>| {
            wanted.by.extend(value.map(|value| (name.to_owned(), value)));
        };
        by(
            "proxy",
            match proxy {
                Proxy::Own => None,
                Proxy::Direct => Some("none".into()),
                Proxy::At(url) => Some(url.clone()),
            },
        );
        by("finish", Some(finish_name(*finish).into()));
        by("check", check.clone());
        by("new_address", new_address.clone());
        by("new_user", new_user.clone());
        by("ssh_port_ram", ssh_port_ram.map(|port| port.to_string()));
        by("raw_access", raw_access.then(|| "true".into()));
        by("verify_key", verify_key.then(|| "true".into()));
        for (name, duration) in deadlines.named() {
            by(&format!("deadlines.{name}"), Some(format_duration(duration)));
        }
        wanted
    }

    /// What is wanted of each host, by its name, in their order.
    pub fn all(description: &Description) -> Vec<(String, Self)> {
        description.hosts.iter().map(|described| (described.host.name.clone(), Self::of(described))).collect()
    }

    /// Names what the new system is made from: two hosts, or one host at two times, with the same digest are to become
    /// the same, whatever their secrets are.
    pub fn digest(&self) -> Digest {
        let mut text = String::new();
        for (name, value) in &self.made_from {
            // Writing to a String can't fail. The lengths keep two lists from having the same text.
            let _ = writeln!(text, "{} {name} {} {value}", name.len(), value.len());
        }
        Blob::new(text.into_bytes()).id.digest
    }

    /// What is otherwise in `now`: what was, and what is.
    pub fn differences(&self, now: &Self) -> Vec<String> {
        [(&self.made_from, &now.made_from), (&self.by, &now.by)]
            .into_iter()
            .flat_map(|(was, is)| compared(was, is))
            .collect()
    }
}

fn compared(was: &BTreeMap<String, String>, is: &BTreeMap<String, String>) -> Vec<String> {
    let mut found = Vec::new();
    for (name, value) in was {
        match is.get(name) {
            None => found.push(format!("`{name}` was {} and is not given", shown(value))),
            Some(new) if new != value => found.push(format!("`{name}` was {} and is {}", shown(value), shown(new))),
            Some(_) => {}
        }
    }
    let new = is.iter().filter(|(name, _)| !was.contains_key(*name));
    found.extend(new.map(|(name, value)| format!("`{name}` was not given and is {}", shown(value))));
    found
}

fn shown(value: &str) -> String {
    match value.char_indices().nth(SHOWN) {
        Some((at, _)) => format!("`{}…`", &value[..at]),
        None => format!("`{value}`"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::samples::described;

    #[test]
    fn only_what_the_system_is_made_from_makes_another_one() {
        let one = described("web1", "");
        let wanted = Wanted::of(&one);
        for (more, digest_stays, says) in [
            ("vars = { A = \"2\" }", false, "`vars.A` was not given and is `2`"),
            ("secrets = { token = \"hosts.toml\" }", false, "`secrets.token` was not given and is `given`"),
            ("mirror = \"http://mirror.example/debian\"", false, "`mirror` was not given and is"),
            ("finish = \"hold\"", true, "`finish` was `reboot` and is `hold`"),
            ("deadlines = { build = \"3h\" }", true, "`deadlines.build` was `2h` and is `3h`"),
            ("raw_access = true", true, "`raw_access` was not given and is `true`"),
            ("verify_key = true", true, "`verify_key` was not given and is `true`"),
        ] {
            let other = Wanted::of(&described("web1", more));
            let differences = wanted.differences(&other);
            assert!(differences.len() == 1 && differences[0].starts_with(says), "{more}: {differences:?}");
            assert_eq!(wanted.digest() == other.digest(), digest_stays, "{more}");
            assert!(other.differences(&other).is_empty());
        }
        // Who reaches it, and how, is another matter.
        let same = Wanted::of(&described("web2", "user = \"ann\"\nport = 2222\ntags = [\"x\"]\naccept_new = true"));
        assert_eq!(wanted, same);
        let mut other = one;
        other.payload = Blob::new(b"another".to_vec()).id;
        let differences = wanted.differences(&Wanted::of(&other));
        assert!(differences.len() == 1 && differences[0].starts_with("`payload` was `"), "{differences:?}");
    }

    #[test]
    fn a_value_that_is_gone_is_told_and_a_long_one_is_cut() {
        let long = Wanted::of(&described("web1", &format!("vars = {{ LONG = \"{}\" }}", "ä".repeat(500))));
        let differences = long.differences(&Wanted::of(&described("web1", "")));
        assert_eq!(differences, [format!("`vars.LONG` was `{}…` and is not given", "ä".repeat(SHOWN))]);
    }
}
