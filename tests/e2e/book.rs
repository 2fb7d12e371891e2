//! Tables of which each cell is a promise: tries them cell by cell, keeps what came of each in a file of the checkout
//! and on which commit, goes on where it was interrupted, and writes a document from that.

use std::fmt::{self, Write as _};
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use rustix::fs::FlockOperation;

use lab::{Context, Error, Lab, Result, checkout, command, evidence};

/// What documents have before and after their table.
const START: &str = "<!-- table: made by `make ";
const END: &str = "<!-- end of table -->\n";

/// A table, and where what came of it is kept.
pub struct Table {
    /// Which of make's targets tries it, and where the logs of cells that failed are put in the lab.
    pub name: &'static str,
    /// What is in the rows.
    pub corner: &'static str,
    /// The document with the table, in the checkout.
    pub document: &'static str,
    /// What came of its cells, in the checkout.
    pub results: &'static str,
    /// Its cells that `make test` tries, by name.
    pub guards: &'static [&'static str],
    /// Its columns.
    pub columns: Vec<&'static str>,
    /// Its rows: what each is about, and its cells.
    pub rows: Vec<(&'static str, Vec<Cell>)>,
}

/// The cells of a table that `make test` tries.
pub fn guards(table: Table) -> Vec<Tried> {
    let wanted = table.guards;
    let cells = table.rows.into_iter().flat_map(|(_, cells)| cells);
    let tried = cells.filter_map(|cell| if let Cell::Tried(tried) = cell { Some(tried) } else { None });
    let guards: Vec<Tried> = tried.filter(|tried| wanted.contains(&tried.name.as_str())).collect();
    assert_eq!(guards.len(), wanted.len(), "a guard is a cell that is tried: {wanted:?}");
    guards
}

/// A cell of a table.
pub enum Cell {
    /// It is tried on a machine.
    Tried(Tried),
    /// The scenario of that name shows it.
    Shown(&'static str),
    /// It can't happen: why.
    Never(&'static str),
    /// It is not tried: why.
    Open(&'static str),
}

/// What is tried.
pub struct Tried {
    /// Its name in commands and files.
    pub name: String,
    /// What the table says of it.
    pub word: &'static str,
    /// What is promised, in a line.
    pub promise: String,
    /// Tries it.
    pub attempt: Box<Attempt>,
}

/// Holds what happens against the promise.
pub type Attempt = dyn Fn(&Lab) -> Result<()> + Send + Sync;

impl Table {
    fn tried(&self) -> Vec<&Tried> {
        let cells = self.rows.iter().flat_map(|(_, cells)| cells);
        let tried = cells.filter_map(|cell| if let Cell::Tried(tried) = cell { Some(tried) } else { None });
        tried.collect()
    }
}

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
    /// What was promised then.
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
    fn open(lab: &Lab, table: &Table) -> Result<Self> {
        let git = |arguments: &[&str]| -> Result<String> {
            let mut git = Command::new("git");
            git.arg("-C").arg(checkout()).args(["-c", "safe.directory=*"]).args(arguments);
            Ok(String::from_utf8_lossy(&command::run(&mut git)?).trim().to_owned())
        };
        let mut commit = git(&["rev-parse", "--short=12", "HEAD"])?;
        // What another table's run writes counts no more than what this one's does.
        let written = [":/!docs/FAULTS.md", ":/!docs/REACH.md", ":/!tests/e2e/*/results.txt"];
        if !git(&[&["status", "--porcelain", "--", ":/"], &written[..]].concat())?.is_empty() {
            commit.push_str("-dirty");
        }
        let evidence = lab.path(table.name);
        fs::create_dir_all(&evidence).context(evidence.display())?;
        Ok(Self { file: checkout().join(table.results), evidence, commit })
    }

    fn lines(&self) -> Result<Vec<Line>> {
        let text = fs::read_to_string(&self.file).context(self.file.display())?;
        let parsed =
            text.lines().map(|line| Line::parse(line).ok_or_else(|| Error::new(format!("not a result: {line}"))));
        parsed.collect()
    }

    /// What came of it last, if it was tried with this promise.
    fn last(&self, cell: &Tried) -> Result<Option<Line>> {
        Ok(self.lines()?.into_iter().find(|line| line.name == cell.name && line.promise == cell.promise))
    }

    /// Keeps what came of a cell in place of what came of it before.
    fn keep(&self, cell: &Tried, passed: bool, seconds: u64) -> Result<()> {
        // Another process, or another thread of this one, may be about to do the same.
        let lock = File::open(self.evidence.as_path()).context(self.evidence.display())?;
        rustix::fs::flock(&lock, FlockOperation::LockExclusive).context(self.evidence.display())?;
        let mut lines = self.lines()?;
        lines.retain(|line| line.name != cell.name);
        let (name, commit, promise) = (cell.name.clone(), self.commit.clone(), cell.promise.clone());
        lines.push(Line { name, commit, passed, seconds, promise });
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

/// Tries the cells that are not tried yet on this commit, and writes the table. `part` is `n/m` for the n-th of m
/// parts, parts of the cells' names with commas between them, [`UNTRIED`], or empty for all. Says whether none failed.
pub fn run(lab: &Lab, table: &Table, part: &str, jobs: usize) -> Result<bool> {
    let results = Results::open(lab, table)?;
    let tried = table.tried();
    let last = |cell: &Tried| results.last(cell).ok().flatten();
    let chosen = choose(part)?;
    let in_part = tried.iter().enumerate().filter(|(place, cell)| {
        if part == UNTRIED { last(cell).is_none_or(|last| !last.passed) } else { chosen(*place, &cell.name) }
    });
    let in_part: Vec<&Tried> = in_part.map(|(_, cell)| *cell).collect();
    let is_open = |cell: &&Tried| last(cell).is_none_or(|last| !last.passed || last.commit != results.commit);
    let todo: Vec<&Tried> = in_part.iter().copied().filter(is_open).collect();
    let (all, in_part, left) = (tried.len(), in_part.len(), todo.len());
    eprintln!("{all} cells, {in_part} in this part, {left} of them to be tried on {}", results.commit);
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while let Some(cell) = todo.get(next.fetch_add(1, Ordering::Relaxed)) {
                    // Another run on this checkout may have come to it first.
                    if !is_open(cell) {
                        continue;
                    }
                    if let Err(why) = attend(lab, &results, cell) {
                        eprintln!("{}: {why}", cell.name);
                        failed.lock().unwrap_or_else(PoisonError::into_inner).push(cell.name.as_str());
                    }
                }
            });
        }
    });
    write_document(table, &results)?;
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
        let wanted: Vec<String> = part.split(',').map(str::to_owned).collect();
        return Ok(Box::new(move |_, name| wanted.iter().any(|wanted| name.contains(wanted))));
    };
    match (n.parse::<usize>(), m.parse::<usize>()) {
        (Ok(n), Ok(m)) if (1..=m).contains(&n) => Ok(Box::new(move |place, _| place % m == n - 1)),
        _ => Err(Error::new(format!("PART={part} is no n/m with n from 1 to m"))),
    }
}

fn attend(lab: &Lab, results: &Results, cell: &Tried) -> Result<()> {
    evidence::forget();
    let begin = Instant::now();
    let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| (cell.attempt)(lab)));
    let took = begin.elapsed().as_secs();
    match ended.unwrap_or_else(|_| Err(Error::new("it panicked"))) {
        Ok(()) => {
            eprintln!("{}: passed, {took} s", cell.name);
            results.keep(cell, true, took)
        }
        Err(why) => {
            let logs = results.evidence.join(&cell.name);
            fs::write(&logs, format!("{why}\n\n{}", evidence::show(40))).context(logs.display())?;
            results.keep(cell, false, took)?;
            Err(why)
        }
    }
}

/// Writes the table between its markers.
fn write_document(table: &Table, results: &Results) -> Result<()> {
    let document = checkout().join(table.document);
    let text = fs::read_to_string(&document).context(document.display())?;
    let start = format!("{START}{}` -->\n", table.name);
    let lacks = |what| Error::new(format!("{} has no table's {what}", table.document));
    let (before, rest) = text.split_once(&start).ok_or_else(|| lacks("start"))?;
    let (_, after) = rest.split_once(END).ok_or_else(|| lacks("end"))?;
    let text = format!("{before}{start}{}{END}{after}", as_text(table, results)?);
    fs::write(&document, text).context(document.display())
}

fn as_text(table: &Table, results: &Results) -> Result<String> {
    let mut out = format!("\n| {} | {} |\n|---|", table.corner, table.columns.join(" | "));
    out.push_str(&"---|".repeat(table.columns.len()));
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
    for (what, cells) in &table.rows {
        let _ = write!(out, "\n| {what} |");
        for cell in cells {
            let _ = match cell {
                Cell::Tried(cell) => {
                    let mark = match results.last(cell)? {
                        Some(Line { commit, passed: true, .. }) => on(commit),
                        Some(Line { commit, passed: false, .. }) => format!(" **✗**{}", on(commit)),
                        None => " ?".into(),
                    };
                    write!(out, " {}{mark} |", cell.word)
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
