//! Tries the matrix cell by cell, keeps what came of it, and writes the document.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use lab::{Context, Error, Lab, Result, checkout, evidence};

use super::{Cell, FAULTS, Fault, Phase, Try, attempt};

/// Where the document's table begins.
const START: &str = "<!-- table: made by `make faults` -->\n";
const END: &str = "<!-- end of table -->\n";

/// What came of a cell, by the name of its file: `FAULT.PHASE`.
struct Results {
    dir: PathBuf,
    commit: String,
}

impl Results {
    /// Of the commit that is checked out. What is not committed makes a name of its own.
    fn open(lab: &Lab) -> Result<Self> {
        let mut git = Command::new("git");
        git.arg("-C").arg(checkout()).args([
            "-c",
            "safe.directory=*",
            "describe",
            "--always",
            "--dirty",
            "--abbrev=12",
        ]);
        let output = git.output().context("cannot run git")?;
        let commit = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        if commit.is_empty() {
            lab::bail!("git names no commit: {}", String::from_utf8_lossy(&output.stderr));
        }
        let dir = lab.path("faults").join(&commit);
        fs::create_dir_all(&dir).context(dir.display())?;
        Ok(Self { dir, commit })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// What was kept, if it was tried: `passed 83 s`, or `failed: …`.
    fn get(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.path(name)).ok()
    }

    fn keep(&self, name: &str, text: &str) -> Result<()> {
        let new = self.path(&format!("{name}.new"));
        fs::write(&new, text).context(new.display())?;
        fs::rename(&new, self.path(name)).context(new.display())
    }
}

/// Tries the cells that are not tried yet on this commit, and writes the table. `part` is `n/m` for the n-th of m
/// parts, a part of the cells' names, or empty for all. Says whether none failed.
pub fn run(lab: &Lab, part: &str, jobs: usize) -> Result<bool> {
    let results = Results::open(lab)?;
    let mut todo: Vec<(String, &Fault, Phase, Try)> = Vec::new();
    for fault in FAULTS.iter().flat_map(|faults| faults.iter()) {
        for phase in Phase::ALL {
            if let Cell::Tried(cell) = (fault.cell)(phase) {
                todo.push((format!("{}.{phase}", fault.name), fault, phase, cell));
            }
        }
    }
    let all = todo.len();
    let chosen = choose(part)?;
    let mut number = 0;
    todo.retain(|(name, ..)| {
        number += 1;
        chosen(number - 1, name)
    });
    let in_part = todo.len();
    todo.retain(|(name, ..)| results.get(name).is_none_or(|text| !text.starts_with("passed")));
    eprintln!("{} cells, {in_part} in this part, {} of them to be tried on {}", all, todo.len(), results.commit);
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    // The cells' closures stay with their thread; each makes its own from the table.
    let names: Vec<(&str, &Fault, Phase)> =
        todo.iter().map(|(name, fault, phase, _)| (&**name, *fault, *phase)).collect();
    thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while let Some((name, fault, phase)) = names.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let Cell::Tried(cell) = (fault.cell)(*phase) else { continue };
                    if let Err(why) = attend(lab, &results, name, fault, *phase, &cell) {
                        eprintln!("{name}: {why}");
                        failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push((*name).to_owned());
                    }
                }
            });
        }
    });
    write_table(&results, &checkout().join("docs/FAULTS.md"))?;
    let failed = failed.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
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

fn attend(lab: &Lab, results: &Results, name: &str, fault: &Fault, phase: Phase, cell: &Try) -> Result<()> {
    evidence::forget();
    let begin = Instant::now();
    let tried = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| attempt(lab, fault, phase, cell)));
    let took = begin.elapsed().as_secs();
    let tried = tried.unwrap_or_else(|_| Err(Error::new("it panicked")));
    match tried {
        Ok(()) => {
            eprintln!("{name}: passed, {took} s");
            results.keep(name, &format!("passed {took} s"))
        }
        Err(why) => {
            results.keep(name, &format!("failed after {took} s: {why}\n\n{}", evidence::show(40)))?;
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
    for fault in FAULTS.iter().flat_map(|faults| faults.iter()) {
        let _ = write!(out, "\n| {} |", fault.what);
        for phase in Phase::ALL {
            let _ = match (fault.cell)(phase) {
                Cell::Tried(cell) => {
                    let mark = match results.get(&format!("{}.{phase}", fault.name)) {
                        Some(text) if text.starts_with("passed") => "",
                        Some(_) => " **✗**",
                        None => " ?",
                    };
                    write!(out, " {}{mark} |", cell.end.outcome)
                }
                Cell::Shown(scenario) => write!(out, " [{}] |", note(format!("shown by the scenario `{scenario}`"))),
                Cell::Never(why) => write!(out, " – [{}] |", note(format!("can't happen: {why}"))),
                Cell::Open(why) => write!(out, " **open** [{}] |", note(format!("not tried: {why}"))),
            };
        }
    }
    let _ = write!(out, "\n\nTried on commit {}.\n\n", results.commit);
    for (number, text) in notes.iter().enumerate() {
        let _ = writeln!(out, "{}. {text}", number + 1);
    }
    out.push('\n');
    out
}
