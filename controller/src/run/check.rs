//! Looks at everything that hosts name on this machine, as the preparation of a run would, without a network.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::config::Host;
use crate::{embed, payload};

/// What was seen.
#[derive(Debug, Default)]
pub struct Checked {
    /// What is wrong, in the order of the hosts: nothing if a run can be prepared.
    pub problems: Vec<String>,
    /// What the user should know.
    pub notes: Vec<String>,
    /// The payloads, and how many bytes each is when packed.
    pub payloads: Vec<(PathBuf, u64)>,
}

/// Looks. `lock` is a base.lock for hosts that name none.
pub fn check(hosts: &[Host], lock: Option<&Path>) -> Checked {
    let mut checked = Checked::default();
    let (mut payloads, mut locks) = (BTreeMap::new(), BTreeMap::new());
    for host in hosts {
        let packed = payloads.entry(&host.payload).or_insert_with(|| match payload::pack(&host.payload) {
            Ok(packed) => {
                checked.notes.extend(packed.warnings);
                checked.payloads.push((host.payload.clone(), packed.bytes.len() as u64));
                Some((packed.needs, packed.files))
            }
            Err(error) => {
                checked.problems.push(error.to_string());
                None
            }
        });
        let file = host.base.lock.as_deref().or(lock);
        let lock = locks.entry(file).or_insert_with(|| {
            let read = embed::lock(file);
            read.map_err(|why| checked.problems.push(why.to_string())).ok()
        });
        let named = |what: String| format!("host `{}`: {what}", host.name);
        if let Some((_, files)) = packed {
            let secret = host.secrets.values().chain(&host.identity_files);
            checked
                .problems
                .extend(files.keep_apart(&host.payload, secret).err().map(|error| named(error.to_string())));
        }
        if let (Some((needs, _)), Some(lock)) = (packed, lock)
            && let Err(error) = lock.narrowed(needs.with(host.needs.as_ref()).as_deref())
        {
            checked.problems.push(named(format!("what its payload needs: {error}")));
        }
        for key in &host.authorized_keys {
            checked.problems.extend(key.read().err().map(|error| named(error.to_string())));
        }
        for (name, path) in &host.secrets {
            let unread = fs::read(path).err();
            let why = unread.map(|error| named(format!("secret `{name}`: {}: {error}", path.display())));
            checked.problems.extend(why);
        }
    }
    checked
}
