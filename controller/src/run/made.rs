//! Whether a host is what an earlier run made of it, by the journals on this machine.

use std::path::Path;

use anemos_proto::ids::RunId;

use super::begin::new_keys;
use super::find::read;
use crate::journal::{HostEntry, JournalError, RunStore};
use crate::report::Ending;

/// The run that made the system which a host runs now from what is wanted of it now, if one did: the last run that
/// changed the host deployed it from what has the same digest (see [`super::Wanted`]), and the host proves a key of the
/// system that came of it. What was changed on the host since then is not seen, and neither are contents of secrets.
///
/// `now` is the host as a run of that hosts.toml would have it. A run is about it if its host has that name in the same
/// hosts.toml, or is at the same address, whatever it is called: other hosts.toml may have a host of that name too.
pub fn made_so(
    store: &RunStore,
    now: &HostEntry,
    hosts_file: &Path,
    host_key: &str,
) -> Result<Option<RunId>, JournalError> {
    for run in store.runs()? {
        // What can't be read is told by `anemos runs`. As long as it may have changed the host, nothing is concluded.
        let Ok(file) = run.load() else { return Ok(None) };
        for entry in &file.hosts {
            let same_name = file.hosts_file == hosts_file && entry.name == now.name;
            if !same_name && !entry.is_at(std::slice::from_ref(&now.address)) {
                continue;
            }
            let Ok(journal) = read(&run, &entry.name) else { return Ok(None) };
            let booted = journal.boot_sent_ms.is_some();
            match journal.end().map(|end| end.outcome) {
                _ if journal.damaged.is_some() => return Ok(None),
                None if !booted => continue,
                Some(Ending::Untouched) => continue,
                Some(Ending::Deployed) => {}
                Some(Ending::Held) | None => return Ok(None),
            }
            let keys = new_keys(&run, &entry.name).unwrap_or_default();
            let answers = keys.iter().any(|key| key.to_string() == host_key);
            // Networks of their own may have the same addresses: that one is another machine.
            if !same_name && !answers && !keys.is_empty() {
                continue;
            }
            let is_it = answers && now.wanted.is_some() && entry.wanted == now.wanted;
            return Ok(is_it.then(|| run.id.clone()));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use anemos_proto::event::{Event, EventKind};

    use super::*;
    use crate::journal::samples::{ended, run_file, run_key};
    use crate::journal::{Appender, Keep, Record};
    use crate::report::{Speaker, Update};
    use crate::ssh::RunKey;

    const FILE: &str = "/x/hosts.toml";

    /// A host as hosts.toml has it now.
    fn host(name: &str, address: &str, wanted: &str) -> HostEntry {
        let mut entry = run_file("20260101-000000-0000", &[name]).hosts.remove(0);
        entry.address.host = address.into();
        HostEntry { wanted: Some(wanted.into()), ..entry }
    }

    /// Runs that one host is in.
    struct Runs {
        _dir: tempfile::TempDir,
        store: RunStore,
        key: RunKey,
    }

    impl Runs {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let store = RunStore::at(dir.path().join("runs"));
            Self { _dir: dir, store, key: run_key() }
        }

        fn begun(&self, id: &str, (file, entry): (&str, HostEntry), booted: bool, ending: Option<Ending>) {
            let name = entry.name.clone();
            let file = crate::journal::RunFile { hosts_file: file.into(), hosts: vec![entry], ..run_file(id, &[]) };
            let (run, _lock) = self.store.create(&file, &run_key()).unwrap();
            let (mut journal, _) = Appender::open(&run.journal(&name), Keep::All).unwrap();
            let keys = EventKind::HostKeys(vec![self.key.public().line().into()]);
            let event = Event { seq: 1, uptime_ms: 1, wall_ms: 1, kind: keys };
            journal.append(&Record::Told { wall_ms: 1, update: Update::Event(Speaker::Agent, event) }).unwrap();
            if booted {
                journal.append(&Record::BootSent { wall_ms: 1 }).unwrap();
            }
            if let Some(ending) = ending {
                journal.append(&ended(&name, ending)).unwrap();
            }
            journal.sync().unwrap();
        }

        /// The end of the name of the run that made the host so.
        fn made(&self, now: &HostEntry, key: &str) -> Option<String> {
            let run = made_so(&self.store, now, Path::new(FILE), key).unwrap();
            run.map(|run| run.as_str()[16..].to_owned())
        }
    }

    #[test]
    fn the_last_run_that_changed_the_host_counts() {
        let runs = Runs::new();
        let key = runs.key.public().to_string();
        let wanting = |wanted: &str| host("web1", "192.0.2.1", wanted);
        let begun = |id: &str, wanted: &str, booted: bool, ending: Option<Ending>| {
            runs.begun(id, (FILE, wanting(wanted)), booted, ending);
        };
        let made = |wanted: &str, key: &str| runs.made(&wanting(wanted), key);
        assert_eq!(made("11", &key), None, "no run has it");
        begun("20260101-000000-aaaa", "11", true, Some(Ending::Deployed));
        let first = Some("aaaa".to_owned());
        assert_eq!(made("11", &key), first);
        assert_eq!(made("22", &key), None, "something else is wanted");
        assert_eq!(made("11", "another key"), None, "another system answers");
        assert_eq!(runs.made(&host("web2", "192.0.2.2", "11"), &key), None);
        assert_eq!(runs.made(&HostEntry { wanted: None, ..wanting("11") }, &key), None);
        // Runs that changed nothing.
        begun("20260102-000000-bbbb", "22", false, Some(Ending::Untouched));
        begun("20260103-000000-cccc", "22", false, None);
        assert_eq!(made("11", &key), first);
        begun("20260104-000000-dddd", "11", true, Some(Ending::Held));
        assert_eq!(made("11", &key), None, "nobody knows what became of it");
        begun("20260105-000000-eeee", "22", true, Some(Ending::Deployed));
        assert_eq!(made("11", &key), None, "it was made from something else last");
        assert_eq!(made("22", &key).as_deref(), Some("eeee"));
    }

    #[test]
    fn a_name_alone_is_not_the_host() {
        let mut runs = Runs::new();
        let key = runs.key.public().to_string();
        let web1 = host("web1", "192.0.2.1", "11");
        runs.begun("20260101-000000-aaaa", (FILE, web1.clone()), true, Some(Ending::Deployed));
        // Another fleet has one of that name, elsewhere.
        let other = |address: &str, wanted: &str| ("/y/hosts.toml", host("web1", address, wanted));
        runs.begun("20260102-000000-bbbb", other("192.0.2.9", "22"), true, Some(Ending::Held));
        assert_eq!(runs.made(&web1, &key).as_deref(), Some("aaaa"));
        // Another machine has that address, in another network.
        runs.key = RunKey::from_seed(&anemos_proto::Secret::new(vec![4; 32])).unwrap();
        runs.begun("20260103-000000-cccc", other("192.0.2.1", "22"), true, Some(Ending::Deployed));
        runs.key = run_key();
        assert_eq!(runs.made(&web1, &key).as_deref(), Some("aaaa"));
        // The same machine under another name, and its host keys stayed.
        let renamed = ("/y/hosts.toml", host("www", "192.0.2.1", "22"));
        runs.begun("20260104-000000-dddd", renamed, true, Some(Ending::Deployed));
        assert_eq!(runs.made(&web1, &key), None);
        assert_eq!(runs.made(&host("web1", "192.0.2.1", "22"), &key).as_deref(), Some("dddd"));
        // The same hosts.toml has it at another address now.
        runs.begun("20260105-000000-eeee", (FILE, web1), true, Some(Ending::Deployed));
        assert_eq!(runs.made(&host("web1", "192.0.2.5", "11"), &key).as_deref(), Some("eeee"));
    }
}
