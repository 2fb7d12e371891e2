//! Finds runs, and what their journals say.

use crate::journal::{self, Digested, HostEntry, JournalError, Keep, RunDir, RunFile, RunStore};
use crate::report::Ending;
use crate::select::{Pattern, Selection};
use crate::ssh::Address;

use super::error::RunError;

/// Which hosts of which run somebody means.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// The first may be a run, if `run` names none; the others are hosts, as [`Selection`] has them.
    pub words: Vec<String>,
    /// The run; its beginning or end is enough.
    pub run: Option<String>,
    /// Of these hosts only …
    pub limit: Vec<Pattern>,
    /// … and not …
    pub exclude: Vec<Pattern>,
    /// Only a run is meant of which a host can be in RAM: one that has its key.
    pub in_ram: bool,
}

/// Hosts of a run.
pub struct Found {
    /// The run.
    pub run: RunDir,
    /// Its `run.json`.
    pub file: RunFile,
    /// Those of its hosts that are meant, in its order; at least one, unless it has none.
    pub hosts: Vec<HostEntry>,
    /// Hosts were named, and not only what narrows them down.
    pub named: bool,
}

impl Asked {
    /// Finds them: in the run that is named, else in the newest that has such hosts.
    pub fn find(&self) -> Result<Found, RunError> {
        self.find_in(&RunStore::open()?)
    }

    fn find_in(&self, store: &RunStore) -> Result<Found, RunError> {
        if self.run.is_some() {
            return self.of(store.find(self.run.as_deref())?, &self.words);
        }
        let Some(first) = self.words.first() else { return self.of(store.find(None)?, &[]) };
        let newest = self.newest(store)?;
        let more = "write more of the run, or --run RUN and the host";
        match (store.find(Some(first)), newest) {
            (Err(JournalError::NoRun(_)), Some(found)) => Ok(found),
            (Err(JournalError::NoRun(_)), None) => Err(RunError::bad_input(self.nowhere(store, first))),
            // A part of a run's name may be the name of a host as well; a whole one is meant as what it is.
            (Ok(run), Some(other)) if run.id.as_str() != first => Err(RunError::bad_input(format!(
                "`{first}` may be run {} or host `{first}` of run {}; {more}",
                run.id, other.run.id
            ))),
            (Err(error @ JournalError::Ambiguous { .. }), Some(other)) => {
                Err(RunError::bad_input(format!("{error}, or --run {} for host `{first}` of that", other.run.id)))
            }
            (run, _) => self.of(run?, &self.words[1..]),
        }
    }

    /// What is meant of a run, where these words are its hosts.
    fn of(&self, run: RunDir, words: &[String]) -> Result<Found, RunError> {
        let file = run.load()?;
        let hosts = self.selection(words)?.pick(&file.hosts, &format!("run {}", run.id));
        let hosts = hosts.map_err(RunError::bad_input)?.into_iter().cloned().collect();
        Ok(Found { run, file, hosts, named: !words.is_empty() })
    }

    fn selection(&self, words: &[String]) -> Result<Selection, RunError> {
        let hosts = words.iter().map(|word| word.parse()).collect::<Result<_, _>>().map_err(RunError::bad_input)?;
        Ok(Selection { hosts, limit: self.limit.clone(), exclude: self.exclude.clone() })
    }

    /// What is meant of the newest run that has such hosts, if all words are hosts.
    fn newest(&self, store: &RunStore) -> Result<Option<Found>, RunError> {
        if self.selection(&self.words).is_err() {
            return Ok(None);
        }
        // A key that can't be read is there all the same; whoever needs it says what is wrong with it.
        let fits = |run: &RunDir| !self.in_ram || !matches!(run.key(), Ok(None));
        Ok(store.runs()?.into_iter().filter(fits).find_map(|run| self.of(run, &self.words).ok()))
    }

    /// Why nothing was found, where the first word is no run.
    fn nowhere(&self, store: &RunStore, first: &str) -> String {
        let hosts = self.words.join(", ");
        let which = if self.in_ram { " in RAM" } else { "" };
        let list = "`anemos status` lists runs";
        if let Err(why) = self.selection(&self.words) {
            return format!("there is no run `{first}`, and {why}; {list}");
        }
        let newest = store.find(None).and_then(|run| Ok((run.load()?, run)));
        let has = newest.map(|(file, run)| {
            let names: Vec<&str> = file.hosts.iter().map(|host| host.name.as_str()).take(8).collect();
            format!(" (the newest, {}, has {})", run.id, names.join(", "))
        });
        // That there is no run at all, or that the newest can't be read, is what `status` says.
        let has = has.unwrap_or_default();
        format!("there is no run `{first}`, and no run has `{hosts}`{which}{has}; {list}")
    }
}

/// The journal of a host, without what was told; one that was never begun is empty.
pub fn read(run: &RunDir, host: &str) -> Result<Digested, JournalError> {
    journal::digest(&run.journal(host), Keep::Nothing)
}

/// Why a host can't be in RAM any more.
pub(super) fn not_in_ram(digested: &Digested) -> Option<String> {
    match digested.end() {
        Some(summary) if summary.outcome != Ending::Held => {
            Some(format!("the host is {} already: {}", summary.outcome, summary.reason))
        }
        _ if digested.left.is_some() => {
            Some("the host has left RAM already; `anemos attach` looks where it is now".into())
        }
        _ => None,
    }
}

/// A run that told a host to boot, or may have.
pub struct Booted {
    /// The run.
    pub run: RunDir,
    /// The host in it.
    pub entry: HostEntry,
    /// The host may be in RAM still.
    pub in_ram: bool,
}

/// What [`last_booted`] found.
pub enum Last {
    /// No run told such a host to boot.
    None,
    /// The last run that did.
    Of(Booted),
    /// Only runs did whose host of that name was elsewhere. This is the last of them.
    Elsewhere(Booted),
}

/// The last run that told the host of this name at one of these addresses to boot. Runs that can't be read are passed
/// over.
pub fn last_booted(store: &RunStore, host: &str, addresses: &[Address]) -> Result<Last, JournalError> {
    let mut elsewhere = Last::None;
    for run in store.runs()? {
        let Ok(file) = run.load() else { continue };
        let Some(entry) = file.hosts.into_iter().find(|entry| entry.name == host) else { continue };
        let is_it = entry.is_at(addresses);
        if !is_it && !matches!(elsewhere, Last::None) {
            continue;
        }
        let Ok(journal) = read(&run, host) else { continue };
        if journal.boot_sent_ms.is_none() && journal.damaged.is_none() {
            continue;
        }
        let in_ram = not_in_ram(&journal).is_none() && !matches!(run.key(), Ok(None));
        let booted = Booted { run, entry, in_ram };
        if is_it {
            return Ok(Last::Of(booted));
        }
        elsewhere = Last::Elsewhere(booted);
    }
    Ok(elsewhere)
}

/// Those of the hosts that can be in RAM, or an error with the reasons if there are none.
pub fn some_in_ram(run: &RunDir, hosts: &[HostEntry]) -> Result<Vec<String>, RunError> {
    let (mut in_ram, mut reasons) = (Vec::new(), Vec::new());
    for host in hosts {
        match read(run, &host.name).map(|journal| not_in_ram(&journal)) {
            Ok(None) => in_ram.push(host.name.clone()),
            Ok(Some(why)) => reasons.push(format!("{}: {why}", host.name)),
            Err(error) => reasons.push(format!("{}: {error}", host.name)),
        }
    }
    if in_ram.is_empty() { Err(RunError::bad_input(reasons.join("\n"))) } else { Ok(in_ram) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::samples::{run_file, run_key};
    use crate::journal::{Appender, Record};
    use crate::ssh::{Hop, Way};

    fn asked(words: &str, run: Option<&str>, in_ram: bool) -> Asked {
        let words = words.split_whitespace().map(str::to_owned).collect();
        Asked { words, run: run.map(str::to_owned), in_ram, ..Asked::default() }
    }

    fn found(store: &RunStore, asked: &Asked) -> String {
        match asked.find_in(store) {
            Ok(Found { run, hosts, .. }) => {
                let names: Vec<&str> = hosts.iter().map(|host| host.name.as_str()).collect();
                format!("{} {}", run.id, names.join(" "))
            }
            Err(error) => error.message,
        }
    }

    #[test]
    fn a_name_that_may_be_a_run_s_or_a_host_s_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let store = RunStore::at(dir.path().join("runs"));
        for (id, host) in [
            ("20261123-093000-db01", "web1"),
            ("20261123-093000-0a1b", "db01"),
            ("20261124-093000-cafe", "a"),
            ("20261125-093000-cafe", "cafe"),
        ] {
            drop(store.create(&run_file(id, &[host]), &run_key()).unwrap());
        }
        let picked = |name: &str| found(&store, &asked(name, None, true));
        assert_eq!(picked("web1"), "20261123-093000-db01 web1");
        assert_eq!(picked("0a1b"), "20261123-093000-0a1b db01");
        assert_eq!(picked("20261123-093000-db01"), "20261123-093000-db01 web1");
        assert_eq!(
            picked("db01"),
            "`db01` may be run 20261123-093000-db01 or host `db01` of run 20261123-093000-0a1b; write more of the run, \
             or --run RUN and the host"
        );
        assert_eq!(found(&store, &asked("db01", Some("0a1b"), true)), "20261123-093000-0a1b db01");
        let several = picked("cafe");
        assert!(several.contains("20261124-093000-cafe") && several.contains("--run 20261125"), "{several}");
        assert_eq!(
            picked("none"),
            "there is no run `none`, and no run has `none` in RAM (the newest, 20261125-093000-cafe, has cafe); \
             `anemos status` lists runs"
        );
    }

    #[test]
    fn hosts_are_found_in_the_newest_run_that_has_them() {
        let dir = tempfile::tempdir().unwrap();
        let store = RunStore::at(dir.path().join("runs"));
        for (id, hosts, over) in [
            ("20261121-093000-aaaa", &["web1", "web2", "db1"][..], false),
            ("20261122-093000-bbbb", &["web1", "web2"], false),
            ("20261123-093000-cccc", &["web1"], true),
        ] {
            let mut file = run_file(id, hosts);
            file.hosts[0].labels = vec!["first".into()];
            let (run, _lock) = store.create(&file, &run_key()).unwrap();
            if over {
                run.forget_key().unwrap();
            }
        }
        for (words, run, in_ram, expected) in [
            ("", None, false, "20261123-093000-cccc web1"),
            ("web1", None, false, "20261123-093000-cccc web1"),
            // Whoever wishes something of a host means a run of which it can be in RAM.
            ("web1", None, true, "20261122-093000-bbbb web1"),
            ("web*", None, true, "20261122-093000-bbbb web1 web2"),
            ("web2 db1", None, false, "20261121-093000-aaaa web2 db1"),
            ("@first", Some("aaaa"), false, "20261121-093000-aaaa web1"),
            // As `logs RUN HOST` always was.
            ("aaaa db1", None, false, "20261121-093000-aaaa db1"),
            ("bbbb", None, false, "20261122-093000-bbbb web1 web2"),
            ("bbbb db1", None, false, "run 20261122-093000-bbbb has no host `db1`; it has web1, web2"),
            ("db*", Some("cccc"), false, "run 20261123-093000-cccc has no host like `db*`; it has web1"),
        ] {
            assert_eq!(found(&store, &asked(words, run, in_ram)), expected, "{words} {run:?} {in_ram}");
        }
        let less = Asked { exclude: vec!["web1".parse().unwrap()], ..asked("web*", None, false) };
        assert_eq!(found(&store, &less), "20261122-093000-bbbb web2");
    }
    #[test]
    fn a_run_of_another_machine_of_that_name_is_not_the_last_of_this_one() {
        let dir = tempfile::tempdir().unwrap();
        let store = RunStore::at(dir.path().join("runs"));
        let jump = Way::Jump(vec![Hop { user: None, host: "j".into(), port: None }]);
        let at = |host: &str, port, way: &Way| Address { host: host.into(), port, way: way.clone() };
        let direct = |host| at(host, 22, &Way::Direct);
        let begun = |id: &str, address: Address, new_address: Option<Address>, booted: bool| {
            let mut file = run_file(id, &["web1"]);
            (file.hosts[0].address, file.hosts[0].new_address) = (address, new_address);
            let (run, _lock) = store.create(&file, &run_key()).unwrap();
            if booted {
                let (mut journal, _) = Appender::open(&run.journal("web1"), Keep::All).unwrap();
                journal.append(&Record::BootSent { wall_ms: 1 }).unwrap();
                journal.sync().unwrap();
            }
        };
        begun("20260101-000000-aaaa", direct("192.0.2.1"), None, true);
        begun("20260102-000000-bbbb", direct("192.0.2.1"), Some(direct("web1.new")), true);
        begun("20260103-000000-cccc", at("192.0.2.1", 2222, &Way::Direct), None, true);
        begun("20260104-000000-dddd", at("192.0.2.1", 22, &jump), None, true);
        begun("20260105-000000-eeee", direct("192.0.2.9"), None, true);
        begun("20260106-000000-ffff", direct("192.0.2.1"), None, false);
        let found = |host: &str, addresses: &[Address]| match last_booted(&store, host, addresses).unwrap() {
            Last::None => "none".to_owned(),
            Last::Of(booted) => format!("{} {}", &booted.run.id.as_str()[16..], booted.in_ram),
            Last::Elsewhere(booted) => format!("elsewhere {}", &booted.run.id.as_str()[16..]),
        };
        for (addresses, expected) in [
            (&[direct("192.0.2.1")][..], "bbbb true"),
            (&[direct("192.0.2.77"), direct("web1.new")], "bbbb true"),
            (&[at("192.0.2.1", 2222, &Way::Direct)], "cccc true"),
            (&[at("192.0.2.1", 22, &jump)], "dddd true"),
            (&[direct("192.0.2.9")], "eeee true"),
            // The newest says the most of where it may have gone.
            (&[direct("192.0.2.77")], "elsewhere eeee"),
            (&[], "elsewhere eeee"),
        ] {
            assert_eq!(found("web1", addresses), expected, "{addresses:?}");
        }
        assert_eq!(found("web2", &[direct("192.0.2.1")]), "none");
    }
}
