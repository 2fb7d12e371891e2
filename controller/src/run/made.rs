//! Whether a host is what an earlier run made of it, by the journals on this machine.

use anemos_proto::ids::RunId;

use super::begin::new_keys;
use super::find::read;
use crate::journal::{JournalError, RunStore};
use crate::report::Ending;

/// The run that made the system which this host runs now from what is wanted of it now, if one did: the last run that
/// changed the host deployed it from what has this digest (see [`super::Wanted`]), and the host proves a key of the
/// system that came of it. What was changed on the host since then is not seen, and neither are contents of secrets.
pub fn made_so(store: &RunStore, host: &str, wanted: &str, host_key: &str) -> Result<Option<RunId>, JournalError> {
    for run in store.runs()? {
        // What can't be read is told by `anemos runs`. As long as it may have changed the host, nothing is concluded.
        let Ok(file) = run.load() else { return Ok(None) };
        let Some(entry) = file.hosts.iter().find(|entry| entry.name == host) else { continue };
        let Ok(journal) = read(&run, host) else { return Ok(None) };
        let booted = journal.boot_sent_ms.is_some();
        match journal.end().map(|end| end.outcome) {
            _ if journal.damaged.is_some() => return Ok(None),
            None if !booted => continue,
            Some(Ending::Untouched) => continue,
            Some(Ending::Deployed) => {}
            Some(Ending::Held) | None => return Ok(None),
        }
        let keys = new_keys(&run, host).unwrap_or_default();
        let is_it = entry.wanted.as_deref() == Some(wanted) && keys.iter().any(|key| key.to_string() == host_key);
        return Ok(is_it.then(|| run.id.clone()));
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

    #[test]
    fn the_last_run_that_changed_the_host_counts() {
        let dir = tempfile::tempdir().unwrap();
        let store = RunStore::at(dir.path().join("runs"));
        let (key, wanted) = (run_key().public(), "11");
        let begun = |id: &str, wanted: &str, booted: bool, ending: Option<Ending>| {
            let mut file = run_file(id, &["web1"]);
            file.hosts[0].wanted = Some(wanted.to_owned());
            let (run, _lock) = store.create(&file, &run_key()).unwrap();
            let (mut journal, _) = Appender::open(&run.journal("web1"), Keep::All).unwrap();
            let keys = EventKind::HostKeys(vec![key.line().into()]);
            let event = Event { seq: 1, uptime_ms: 1, wall_ms: 1, kind: keys };
            journal.append(&Record::Told { wall_ms: 1, update: Update::Event(Speaker::Agent, event) }).unwrap();
            if booted {
                journal.append(&Record::BootSent { wall_ms: 1 }).unwrap();
            }
            if let Some(ending) = ending {
                journal.append(&ended("web1", ending)).unwrap();
            }
            journal.sync().unwrap();
        };
        let made = |digest: &str, key: &str| made_so(&store, "web1", digest, key).unwrap().map(|run| run.to_string());
        let key_text = key.to_string();
        assert_eq!(made(wanted, &key_text), None, "no run has it");
        begun("20260101-000000-aaaa", wanted, true, Some(Ending::Deployed));
        let first = Some("20260101-000000-aaaa".to_owned());
        assert_eq!(made(wanted, &key_text), first);
        assert_eq!(made("22", &key_text), None, "something else is wanted");
        assert_eq!(made(wanted, "another key"), None, "another system answers");
        assert_eq!(made_so(&store, "web2", wanted, &key_text).unwrap(), None);
        // Runs that changed nothing.
        begun("20260102-000000-aaaa", "22", false, Some(Ending::Untouched));
        begun("20260103-000000-aaaa", "22", false, None);
        assert_eq!(made(wanted, &key_text), first);
        begun("20260104-000000-aaaa", wanted, true, Some(Ending::Held));
        assert_eq!(made(wanted, &key_text), None, "nobody knows what became of it");
        begun("20260105-000000-aaaa", "22", true, Some(Ending::Deployed));
        assert_eq!(made(wanted, &key_text), None, "it was made from something else last");
        assert_eq!(made("22", &key_text).as_deref(), Some("20260105-000000-aaaa"));
    }
}
