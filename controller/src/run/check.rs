//! Looks at everything that hosts name on this machine, as the preparation of a run would, without a network.

use std::collections::BTreeSet;
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
    let (mut payloads, mut locks) = (BTreeSet::new(), BTreeSet::new());
    for host in hosts {
        if payloads.insert(&host.payload) {
            match payload::pack(&host.payload) {
                Ok(packed) => {
                    checked.notes.extend(packed.warnings);
                    checked.payloads.push((host.payload.clone(), packed.bytes.len() as u64));
                }
                Err(error) => checked.problems.push(error.to_string()),
            }
        }
        let lock = host.base.lock.as_deref().or(lock);
        if locks.insert(lock)
            && let Err(why) = embed::lock(lock)
        {
            checked.problems.push(why.to_string());
        }
        let named = |what: String| format!("host `{}`: {what}", host.name);
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
