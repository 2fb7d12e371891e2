//! Tries the matrix cell by cell, keeps what came of it, and writes the document.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use lab::{Context, Error, Lab, Result, checkout, command, evidence};

use super::{Cell, End, Fault, Phase, Try, all, attempt};

/// Where the document's table begins.
const START: &str = "<!-- table: made by `make faults` -->\n";
const END: &str = "<!-- end of table -->\n";

/// The part of the cells that did not end as promised yet on any commit.
const UNTRIED: &str = "untried";

/// What came of cells, by commit and by the name of the cell: files `FAULT.PHASE`, each with one [`Tried`] in it.
struct Results {
    /// The commits that cells were tried on, the one that is checked out first, then its ancestors from the newest.
    commits: Vec<String>,
    dir: PathBuf,
}

/// What came of a cell on a commit.
struct Tried {
    /// The commit's place in [`Results::commits`].
    commit: usize,
    passed: bool,
}

impl Results {
    /// Of the commit that is checked out, and of its ancestors. What is not committed makes a name of its own, but for
    /// the document, which each run writes.
    fn open(lab: &Lab) -> Result<Self> {
        let git = |arguments: &[&str]| -> Result<String> {
            let mut git = Command::new("git");
            git.arg("-C").arg(checkout()).args(["-c", "safe.directory=*"]).args(arguments);
            Ok(String::from_utf8_lossy(&command::run(&mut git)?).trim().to_owned())
        };
        let mut present = git(&["rev-parse", "--short=12", "HEAD"])?;
        if !git(&["status", "--porcelain", "--", ":/", ":/!docs/FAULTS.md"])?.is_empty() {
            present.push_str("-dirty");
        }
        let dir = lab.path("faults");
        fs::create_dir_all(dir.join(&present)).context(dir.display())?;
        let ancestors = git(&["rev-list", "--abbrev-commit", "--abbrev=12", "HEAD"])?;
        let older = ancestors.lines().filter(|commit| *commit != present && dir.join(commit).is_dir());
        let commits = std::iter::once(present.as_str()).chain(older).map(String::from).collect();
        Ok(Self { commits, dir })
    }

    fn path(&self, commit: usize, name: &str) -> PathBuf {
        self.dir.join(&self.commits[commit]).join(name)
    }

    /// What came of it last, if it was tried with this promise.
    fn last(&self, name: &str, end: &End) -> Option<Tried> {
        (0..self.commits.len()).find_map(|commit| {
            let text = fs::read_to_string(self.path(commit, name)).ok()?;
            let (word, rest) = text.split_once(' ')?;
            let promise = rest.lines().next()?;
            (promise == promised(end)).then_some(Tried { commit, passed: word == "passed" })
        })
    }

    fn keep(&self, name: &str, end: &End, word: &str, more: &str) -> Result<()> {
        let (new, path) = (self.path(0, &format!("{name}.new")), self.path(0, name));
        fs::write(&new, format!("{word} {}\n{more}\n", promised(end))).context(new.display())?;
        fs::rename(&new, path).context(new.display())
    }
}

/// What is promised, in a line.
fn promised(end: &End) -> String {
    format!("{} on {:?}: {:?}", end.outcome, end.system, end.reason)
}

/// Tries the cells that are not tried yet on this commit, and writes the table. `part` is `n/m` for the n-th of m
/// parts, a part of the cells' names, [`UNTRIED`], or empty for all. Says whether none failed.
pub fn run(lab: &Lab, part: &str, jobs: usize) -> Result<bool> {
    let results = Results::open(lab)?;
    let pairs = all().flat_map(|fault| Phase::ALL.map(|phase| (fault, phase)));
    let tried = pairs.filter(|(fault, phase)| matches!((fault.cell)(*phase), Cell::Tried(_)));
    let tried: Vec<(&Fault, Phase)> = tried.collect();
    let last = |(fault, phase): &(&Fault, Phase)| match (fault.cell)(*phase) {
        Cell::Tried(cell) => results.last(&fault.in_phase(*phase), &cell.end),
        _ => None,
    };
    let chosen = choose(part)?;
    let in_part = tried.iter().enumerate().filter(|(place, cell)| {
        if part == UNTRIED {
            last(cell).is_none_or(|last| !last.passed)
        } else {
            chosen(*place, &cell.0.in_phase(cell.1))
        }
    });
    let in_part: Vec<&(&Fault, Phase)> = in_part.map(|(_, cell)| cell).collect();
    let is_open = |cell: &&&(&Fault, Phase)| !matches!(last(cell), Some(Tried { commit: 0, passed: true }));
    let todo: Vec<&(&Fault, Phase)> = in_part.iter().filter(is_open).copied().collect();
    let (all, in_part, left) = (tried.len(), in_part.len(), todo.len());
    eprintln!("{all} cells, {in_part} in this part, {left} of them to be tried on {}", results.commits[0]);
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while let Some(cell) = todo.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let (fault, phase) = cell;
                    // Another run on this checkout may have come to it first.
                    if !is_open(&cell) {
                        continue;
                    }
                    let Cell::Tried(cell) = (fault.cell)(*phase) else { continue };
                    if let Err(why) = attend(lab, &results, fault, *phase, &cell) {
                        let name = fault.in_phase(*phase);
                        eprintln!("{name}: {why}");
                        failed.lock().unwrap_or_else(PoisonError::into_inner).push(name);
                    }
                }
            });
        }
    });
    write_table(&results, &checkout().join("docs/FAULTS.md"))?;
    let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    if !failed.is_empty() {
        eprintln!("not as promised: {}", failed.join(", "));
    }
    Ok(failed.is_empty())
}

/// Whether the cell at that place with that name is in a part.
type Choice = Box<dyn Fn(usize, &str) -> bool>;

/// Which cells are in a part: by their place in the table, or by name.
fn choose(part: &str) -> Result<Choice> {
    let Some((n, m)) = part.split_once('/') else {
        let wanted = part.to_owned();
        return Ok(Box::new(move |_, name| name.contains(&wanted)));
    };
    match (n.parse::<usize>(), m.parse::<usize>()) {
        (Ok(n), Ok(m)) if (1..=m).contains(&n) => Ok(Box::new(move |place, _| place % m == n - 1)),
        _ => Err(Error::new(format!("PART={part} is no n/m with n from 1 to m"))),
    }
}

fn attend(lab: &Lab, results: &Results, fault: &Fault, phase: Phase, cell: &Try) -> Result<()> {
    let name = &fault.in_phase(phase);
    evidence::forget();
    let begin = Instant::now();
    let tried = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| attempt(lab, fault, phase, cell)));
    let took = begin.elapsed().as_secs();
    let tried = tried.unwrap_or_else(|_| Err(Error::new("it panicked")));
    match tried {
        Ok(()) => {
            eprintln!("{name}: passed, {took} s");
            results.keep(name, &cell.end, "passed", &format!("{took} s"))
        }
        Err(why) => {
            results.keep(name, &cell.end, "failed", &format!("{took} s: {why}\n\n{}", evidence::show(40)))?;
            Err(why)
        }
    }
}

/// Writes the table between its markers.
fn write_table(results: &Results, document: &Path) -> Result<()> {
    let text = fs::read_to_string(document).context(document.display())?;
    let (before, rest) = text.split_once(START).ok_or_else(|| Error::new("docs/FAULTS.md has no table's start"))?;
    let (_, after) = rest.split_once(END).ok_or_else(|| Error::new("docs/FAULTS.md has no table's end"))?;
    fs::write(document, format!("{before}{START}{}{END}{after}", table(results))).context(document.display())
}

fn table(results: &Results) -> String {
    let mut out = String::from("\n| fault |");
    for phase in Phase::ALL {
        let _ = write!(out, " {phase} |");
    }
    out.push_str("\n|---|");
    out.push_str(&"---|".repeat(Phase::ALL.len()));
    let mut notes: Vec<String> = Vec::new();
    let mut note = |text: String| {
        let at = notes.iter().position(|known| *known == text).unwrap_or_else(|| {
            notes.push(text);
            notes.len() - 1
        });
        at + 1
    };
    // Older commits are numbered as they come.
    let mut older: Vec<usize> = Vec::new();
    let mut on = |commit: usize| {
        let known = older.iter().position(|known| *known == commit);
        let place = known.unwrap_or_else(|| {
            older.push(commit);
            older.len() - 1
        });
        if commit == 0 { String::new() } else { format!(" <sup>{place}</sup>") }
    };
    on(0);
    for fault in all() {
        let _ = write!(out, "\n| {} |", fault.what);
        for phase in Phase::ALL {
            let _ = match (fault.cell)(phase) {
                Cell::Tried(cell) => {
                    let mark = match results.last(&fault.in_phase(phase), &cell.end) {
                        Some(Tried { commit, passed: true }) => on(commit),
                        Some(Tried { commit, passed: false }) => format!(" **✗**{}", on(commit)),
                        None => " ?".into(),
                    };
                    write!(out, " {}{mark} |", cell.end.outcome)
                }
                Cell::Shown(scenario) => write!(out, " [{}] |", note(format!("shown by the scenario `{scenario}`"))),
                Cell::Never(why) => write!(out, " – [{}] |", note(format!("can't happen: {why}"))),
                Cell::Open(why) => write!(out, " **open** [{}] |", note(format!("not tried: {why}"))),
            };
        }
    }
    let _ = write!(out, "\n\nTried on commit {}", results.commits[0]);
    for (place, commit) in older.iter().enumerate().skip(1) {
        let _ = write!(out, ", those with <sup>{place}</sup> on {}", results.commits[*commit]);
    }
    out.push_str(".\n\n");
    for (number, text) in notes.iter().enumerate() {
        let _ = writeln!(out, "{}. {text}", number + 1);
    }
    out.push('\n');
    out
}
