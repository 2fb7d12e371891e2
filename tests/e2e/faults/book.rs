//! Tries the matrix cell by cell, keeps what came of it, and writes the document.

use std::fmt::{self, Write as _};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use rustix::fs::FlockOperation;

use lab::{Context, Error, Lab, Result, checkout, command, evidence};

use super::{Cell, End, Fault, Phase, Try, all, attempt};

/// Where the document's table begins.
const START: &str = "<!-- table: made by `make faults` -->\n";
const END: &str = "<!-- end of table -->\n";

/// What each run writes, in the checkout.
const DOCUMENT: &str = "docs/FAULTS.md";
const RESULTS: &str = "tests/e2e/faults/results.txt";

/// The part of the cells that did not end as promised yet on any commit.
const UNTRIED: &str = "untried";

/// What came of the cells when each was tried last: a file of the checkout with a [`Line`] for each, so that a run goes
/// on where an earlier one ended, on another machine and on a later commit too.
struct Results {
    file: PathBuf,
    /// Where the ends of all logs of a cell that failed are kept.
    evidence: PathBuf,
    /// The commit that is checked out. What is not committed makes a name of its own, but for what each run writes.
    commit: String,
}

/// What came of a cell: `NAME COMMIT passed SECONDS PROMISE`, or `failed`.
struct Line {
    name: String,
    commit: String,
    passed: bool,
    seconds: u64,
    /// What was promised then, as [`promised`] says it.
    promise: String,
}

impl Line {
    fn parse(text: &str) -> Option<Self> {
        let mut words = text.splitn(5, ' ');
        let mut next = || words.next().map(str::to_owned);
        Some(Self {
            name: next()?,
            commit: next()?,
            passed: next()? == "passed",
            seconds: next()?.parse().ok()?,
            promise: next()?,
        })
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = if self.passed { "passed" } else { "failed" };
        write!(f, "{} {} {word} {} {}", self.name, self.commit, self.seconds, self.promise)
    }
}

impl Results {
    fn open(lab: &Lab) -> Result<Self> {
        let git = |arguments: &[&str]| -> Result<String> {
            let mut git = Command::new("git");
            git.arg("-C").arg(checkout()).args(["-c", "safe.directory=*"]).args(arguments);
            Ok(String::from_utf8_lossy(&command::run(&mut git)?).trim().to_owned())
        };
        let mut commit = git(&["rev-parse", "--short=12", "HEAD"])?;
        let (document, file) = (format!(":/!{DOCUMENT}"), format!(":/!{RESULTS}"));
        if !git(&["status", "--porcelain", "--", ":/", &document, &file])?.is_empty() {
            commit.push_str("-dirty");
        }
        let evidence = lab.path("faults");
        fs::create_dir_all(&evidence).context(evidence.display())?;
        Ok(Self { file: checkout().join(RESULTS), evidence, commit })
    }

    fn lines(&self) -> Result<Vec<Line>> {
        let text = fs::read_to_string(&self.file).context(self.file.display())?;
        let parsed =
            text.lines().map(|line| Line::parse(line).ok_or_else(|| Error::new(format!("not a result: {line}"))));
        parsed.collect()
    }

    /// What came of it last, if it was tried with this promise.
    fn last(&self, name: &str, end: &End) -> Result<Option<Line>> {
        let promise = promised(end);
        Ok(self.lines()?.into_iter().find(|line| line.name == name && line.promise == promise))
    }

    /// Keeps what came of a cell in place of what came of it before.
    fn keep(&self, name: &str, end: &End, passed: bool, seconds: u64) -> Result<()> {
        // Another process, or another thread of this one, may be about to do the same.
        let lock = File::open(self.evidence.as_path()).context(self.evidence.display())?;
        rustix::fs::flock(&lock, FlockOperation::LockExclusive).context(self.evidence.display())?;
        let mut lines = self.lines()?;
        lines.retain(|line| line.name != name);
        let (name, commit) = (name.to_owned(), self.commit.clone());
        lines.push(Line { name, commit, passed, seconds, promise: promised(end) });
        lines.sort_by(|a, b| a.name.cmp(&b.name));
        let mut text = String::new();
        for line in &lines {
            let _ = writeln!(text, "{line}");
        }
        let new = self.file.with_extension("new");
        fs::write(&new, text).context(new.display())?;
        fs::rename(&new, &self.file).context(new.display())
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
        Cell::Tried(cell) => results.last(&fault.in_phase(*phase), &cell.end).ok().flatten(),
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
    let is_open =
        |cell: &&&(&Fault, Phase)| last(cell).is_none_or(|last| !last.passed || last.commit != results.commit);
    let todo: Vec<&(&Fault, Phase)> = in_part.iter().filter(is_open).copied().collect();
    let (all, in_part, left) = (tried.len(), in_part.len(), todo.len());
    eprintln!("{all} cells, {in_part} in this part, {left} of them to be tried on {}", results.commit);
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
    write_table(&results, &checkout().join(DOCUMENT))?;
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
            results.keep(name, &cell.end, true, took)
        }
        Err(why) => {
            let logs = results.evidence.join(name);
            fs::write(&logs, format!("{why}\n\n{}", evidence::show(40))).context(logs.display())?;
            results.keep(name, &cell.end, false, took)?;
            Err(why)
        }
    }
}

/// Writes the table between its markers.
fn write_table(results: &Results, document: &Path) -> Result<()> {
    let text = fs::read_to_string(document).context(document.display())?;
    let (before, rest) = text.split_once(START).ok_or_else(|| Error::new("docs/FAULTS.md has no table's start"))?;
    let (_, after) = rest.split_once(END).ok_or_else(|| Error::new("docs/FAULTS.md has no table's end"))?;
    fs::write(document, format!("{before}{START}{}{END}{after}", table(results)?)).context(document.display())
}

fn table(results: &Results) -> Result<String> {
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
    // Commits are numbered as they come.
    let mut commits: Vec<String> = Vec::new();
    let mut on = |commit: String| {
        let known = commits.iter().position(|known| *known == commit);
        let place = known.unwrap_or_else(|| {
            commits.push(commit);
            commits.len() - 1
        });
        format!(" <sup>{}</sup>", place + 1)
    };
    for fault in all() {
        let _ = write!(out, "\n| {} |", fault.what);
        for phase in Phase::ALL {
            let _ = match (fault.cell)(phase) {
                Cell::Tried(cell) => {
                    let mark = match results.last(&fault.in_phase(phase), &cell.end)? {
                        Some(Line { commit, passed: true, .. }) => on(commit),
                        Some(Line { commit, passed: false, .. }) => format!(" **✗**{}", on(commit)),
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
    out.push_str("\n\nTried on commits");
    for (place, commit) in commits.iter().enumerate() {
        let _ = write!(out, " <sup>{}</sup>&nbsp;{commit}", place + 1);
    }
    out.push_str(".\n\n");
    for (number, text) in notes.iter().enumerate() {
        let _ = writeln!(out, "{}. {text}", number + 1);
    }
    out.push('\n');
    Ok(out)
}
