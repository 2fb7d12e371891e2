use super::*;
use crate::journal::samples::{ended, run_file, run_key};
use crate::journal::{Appender, Keep, Lock};

struct Runs {
    _dir: tempfile::TempDir,
    store: RunStore,
}

impl Runs {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = RunStore::at(dir.path().join("runs"));
        Self { _dir: dir, store }
    }

    /// A run with one host, and how that ended.
    fn run(&self, id: &str, outcome: Option<Ending>) -> (RunDir, Lock) {
        let (run, lock) = self.store.create(&run_file(id, &["web1"]), &run_key()).unwrap();
        let (mut journal, _) = Appender::open(&run.journal("web1"), Keep::All).unwrap();
        if let Some(outcome) = outcome {
            journal.append(&ended("web1", outcome)).unwrap();
            if outcome != Ending::Held {
                run.forget_key().unwrap();
            }
        }
        (run, lock)
    }

    fn names(&self) -> Vec<String> {
        self.store.runs().unwrap().iter().map(|run| run.id.to_string()).collect()
    }
}

fn all(force: bool) -> cli::Prune {
    cli::Prune { keep: Some(0), older: None, force, yes: true }
}

#[test]
fn only_runs_that_are_over_are_deleted() {
    let runs = Runs::new();
    for (id, outcome) in [
        ("20260101-000000-aaaa", Some(Ending::Deployed)),
        ("20260102-000000-aaaa", Some(Ending::Untouched)),
        ("20260103-000000-aaaa", Some(Ending::Held)),
        ("20260104-000000-aaaa", None),
    ] {
        runs.run(id, outcome);
    }
    let (keyed, _) = runs.run("20260105-000000-aaaa", Some(Ending::Deployed));
    std::fs::write(keyed.path().join("keys/run"), "a key").unwrap();
    let (damaged, _) = runs.run("20260106-000000-aaaa", Some(Ending::Deployed));
    let journal = damaged.journal("web1");
    let mut bytes = std::fs::read(&journal).unwrap();
    bytes[20] ^= 1;
    std::fs::write(&journal, bytes).unwrap();
    let (unreadable, _) = runs.run("20260107-000000-aaaa", Some(Ending::Deployed));
    std::fs::write(unreadable.path().join("run.json"), "").unwrap();
    let (_followed, lock) = runs.run("20260108-000000-aaaa", Some(Ending::Deployed));

    assert_eq!(prune(&runs.store, &all(false)).unwrap(), Status::Done);
    let left = [8, 7, 6, 5, 4, 3].map(|day| format!("2026010{day}-000000-aaaa"));
    assert_eq!(runs.names(), left);
    // Insisted on, all go but the one that is followed.
    assert_eq!(prune(&runs.store, &all(true)).unwrap(), Status::Done);
    assert_eq!(runs.names(), left[..1]);
    drop(lock);
    assert_eq!(prune(&runs.store, &all(false)).unwrap(), Status::Done);
    assert_eq!(runs.names(), [""; 0]);
}

#[test]
fn the_newest_and_the_young_stay() {
    let runs = Runs::new();
    for day in 1..=9 {
        runs.run(&format!("2026110{day}-120000-aaaa"), Some(Ending::Deployed));
    }
    // Noon of the ninth.
    let now = 1_793_491_200_000 + 8 * 86_400_000 + 43_200_000;
    let picked = |keep, older: Option<u64>| -> Vec<String> {
        let days = older.map(|hours| Duration::from_secs(3600 * hours));
        pick(runs.store.runs().unwrap(), keep, days, now).iter().map(|run| run.id.as_str()[6..8].to_owned()).collect()
    };
    assert_eq!(picked(Some(7), None), ["02", "01"]);
    assert_eq!(picked(None, Some(7 * 24)), ["01"]);
    assert_eq!(picked(None, Some(7 * 24 - 1)), ["02", "01"]);
    assert_eq!(picked(Some(8), Some(24)), ["01"]);
    assert_eq!(picked(Some(100), None), [""; 0]);
}

#[test]
fn what_a_deletion_left_is_swept() {
    let runs = Runs::new();
    let (run, _) = runs.run("20260101-000000-aaaa", Some(Ending::Held));
    let gone = run.path().with_file_name(".20260101-000000-aaaa.gone");
    std::fs::rename(run.path(), &gone).unwrap();
    assert_eq!(runs.names(), [""; 0]);
    prune(&runs.store, &all(false)).unwrap();
    assert!(!gone.exists());
}

#[test]
fn one_that_cannot_be_read_is_a_row_that_says_so() {
    let runs = Runs::new();
    runs.run("20260101-000000-aaaa", Some(Ending::Deployed));
    let (unreadable, _) = runs.run("20260102-000000-aaaa", Some(Ending::Deployed));
    std::fs::write(unreadable.path().join("run.json"), "").unwrap();
    let (making, _lock) = runs.run("20260103-000000-aaaa", None);
    std::fs::remove_file(making.path().join("run.json")).unwrap();
    let rows: Vec<RunRow> = runs.store.runs().unwrap().iter().filter_map(run_row).collect();
    let table = status::runs(&rows, Paint(false));
    assert!(table.contains("20260101-000000-aaaa") && table.contains("1 deployed"), "{table}");
    let row = table.lines().find(|line| line.starts_with("20260102-000000-aaaa ")).unwrap();
    assert!(row.contains(" unreadable "), "{table}");
    assert!(table.contains("\n20260102-000000-aaaa can't be read: "), "{table}");
    assert!(!table.contains("20260103"), "it is being made: {table}");
}

#[test]
fn a_word_that_means_no_host_of_any_run_is_an_error() {
    let runs = Runs::new();
    let listed = |words: &[&str]| {
        let words: Vec<Pattern> = words.iter().map(|word| word.parse().unwrap()).collect();
        list(&runs.store, &words, true).map_err(|error| {
            assert_eq!(error.status, Status::BadInput);
            error.message
        })
    };
    assert_eq!(listed(&[]), Ok(Status::Done));
    assert_eq!(listed(&["web1"]).unwrap_err(), "the journal has no host `web1`");
    let _run = runs.run("20261123-093000-2bf4", Some(Ending::Deployed));
    assert_eq!(listed(&["web*"]), Ok(Status::Done));
    assert_eq!(listed(&["web2"]).unwrap_err(), "the journal has no host `web2`; did you mean `web1`?");
    assert_eq!(
        listed(&["web*", "mail", "@db"]).unwrap_err(),
        "the journal has no host `mail`; it has web1\nthe journal has no group or tag `@db`"
    );
    assert_eq!(
        listed(&["2bf4"]).unwrap_err(),
        "the journal has no host `2bf4`; `anemos runs show 20261123-093000-2bf4` is about the run of that name"
    );
    // One that can't be read may have it.
    let (damaged, lock) = runs.run("20261124-093000-0a1b", None);
    drop(lock);
    std::fs::write(damaged.path().join("run.json"), "{").unwrap();
    assert_eq!(listed(&["mail"]), Ok(Status::Done));
}
