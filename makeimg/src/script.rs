//! The functions of an IMGBUILD without its top level, which has run once and does not run again.
//!
//! A shell has no word for writing a function down, so the text is divided into whole commands, and the shell itself
//! says where each of them ends (`sh -n`). Commands that define functions stay, on the lines where they are; all others
//! become blank lines.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use crate::problem::Problem;
use crate::shell::SHELL;

/// How deep files may read others.
const DEEPEST: usize = 8;

/// A shell script that defines functions.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Script {
    /// The script.
    pub text: String,
    /// Where its lines come from, in order.
    places: Vec<Place>,
}

/// From here on, lines of a script are those of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Place {
    /// In the script, from 1.
    first: u32,
    file: PathBuf,
    /// The same line in the file.
    line: u32,
}

impl Script {
    /// The functions that a file defines, and those of the files that it reads with `. ./FILE`.
    ///
    /// # Errors
    /// The shell can't be started, or a file can't be read.
    pub fn of(path: &Path, text: &str) -> Result<Self, Problem> {
        let mut script = Self::default();
        script.add(path, text, 0)?;
        Ok(script)
    }

    /// Whether a function is defined.
    pub fn defines(&self, function: &str) -> bool {
        // A file whose name was not known until the top level ran may define it.
        let reads = |line: &str| line.trim_start().starts_with(". ");
        defined(&self.text).any(|(_, name)| name == function) || self.text.lines().any(reads)
    }

    /// File and line, from 1, of a line of the script.
    pub fn place(&self, line: u32) -> Option<(&Path, u32)> {
        let place = self.places.iter().rfind(|place| place.first <= line)?;
        Some((&place.file, place.line + (line - place.first)))
    }

    fn begin(&mut self, file: &Path, line: usize) {
        let first = self.text.lines().count() as u32 + 1;
        self.places.push(Place { first, file: file.to_owned(), line: line as u32 });
    }

    fn add(&mut self, path: &Path, text: &str, depth: usize) -> Result<(), Problem> {
        let lines: Vec<&str> = text.lines().collect();
        self.begin(path, 1);
        let mut at = 0;
        while at < lines.len() {
            let end = command(path, &lines, at)?;
            let chunk = lines[at..end].join("\n");
            let file = included(&chunk).map(|name| path.parent().unwrap_or(Path::new("/")).join(name));
            if let Some(file) = file.filter(|_| depth < DEEPEST) {
                let bytes = std::fs::read(&file).map_err(|e| {
                    Problem::new(path, Some(at as u32 + 1), format!("{} can't be read: {e}", file.display()))
                })?;
                self.add(&file, &String::from_utf8_lossy(&bytes), depth + 1)?;
                self.begin(path, end + 1);
            } else if is_definition(&chunk) {
                self.text.push_str(&chunk);
                self.text.push('\n');
            } else {
                self.text.push_str(&"\n".repeat(end - at));
            }
            at = end;
        }
        Ok(())
    }
}

/// Functions that are defined at a line's beginning, with their lines from 1.
pub(crate) fn defined(text: &str) -> impl Iterator<Item = (u32, &str)> {
    text.lines().enumerate().filter_map(|(at, line)| {
        let (name, rest) = line.split_once('(')?;
        let name = name.trim();
        let is_name = !name.is_empty() && name.chars().all(|c| c == '_' || c.is_ascii_alphanumeric());
        (is_name && rest.trim_start().starts_with(')')).then_some((at as u32 + 1, name))
    })
}

/// Whether a command is or has a definition of a function, or reads a file that may have some. What looks like one may
/// also be text: a value, or a here-document.
fn is_definition(chunk: &str) -> bool {
    let chunk = chunk.trim_start();
    let first = chunk.lines().next().unwrap_or_default();
    let word = chunk.split_whitespace().next().unwrap_or_default();
    let is_compound = ["if", "case", "for", "while", "until", "{"].contains(&word);
    word == "." || defined(first).next().is_some() || is_compound && defined(chunk).next().is_some()
}

/// Where the command that begins on a line ends: the first line, from 0, that is not of it.
fn command(path: &Path, lines: &[&str], from: usize) -> Result<usize, Problem> {
    if is_simple(lines[from]) {
        return Ok(from + 1);
    }
    let is_function = defined(lines[from]).next().is_some();
    let mut chunk = String::new();
    for (at, line) in lines.iter().enumerate().skip(from) {
        chunk.push_str(line);
        chunk.push('\n');
        // A function's body is a compound command, which ends with one of these.
        let may_end = !is_function || ["}", ")", "fi", "done", "esac"].iter().any(|word| line.contains(word));
        let continued = line.len() - line.trim_end_matches('\\').len();
        if may_end && continued.is_multiple_of(2) && is_whole(path, &chunk)? {
            return Ok(at + 1);
        }
    }
    Ok(lines.len())
}

/// A line that is a command by itself, or none, so that the shell need not be asked.
fn is_simple(line: &str) -> bool {
    let line = line.trim();
    let word = line.split_whitespace().next().unwrap_or_default();
    line.starts_with('#')
        || line.chars().all(|c| c.is_ascii_alphanumeric() || " _=./:,@%+-".contains(c))
            && !["if", "for", "while", "until", "case", "then", "do"].contains(&word)
}

fn is_whole(path: &Path, chunk: &str) -> Result<bool, Problem> {
    // The text of a here-document that has not ended takes any line; a command that has ended does not take this one.
    Ok(is_script(path, chunk)? && (!chunk.contains("<<") || !is_script(path, &format!("{chunk})\n"))?))
}

fn is_script(path: &Path, text: &str) -> Result<bool, Problem> {
    let failed = |e| Problem::new(path, None, format!("can't be read, since {SHELL} can't be asked: {e}"));
    let mut shell = Command::new(SHELL);
    shell.arg("-n").stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = shell.spawn().map_err(failed)?;
    let mut stdin = child.stdin.take();
    // A shell that has found an error reads no further.
    let written = stdin.as_mut().map(|stdin| stdin.write_all(text.as_bytes()));
    drop((stdin, written));
    Ok(child.wait().map_err(failed)?.success())
}

/// The file that a command reads, if it does nothing else and names it literally.
fn included(chunk: &str) -> Option<&str> {
    let name = chunk.trim().strip_prefix(". ")?.trim();
    let bare = ['\'', '"'].iter().find_map(|quote| name.strip_prefix(*quote)?.strip_suffix(*quote)).unwrap_or(name);
    let literal = bare.chars().all(|c| c.is_ascii_alphanumeric() || "_./+@-".contains(c));
    // Without a slash, it is looked for in PATH.
    (literal && bare.contains('/')).then_some(bare)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(text: &str) -> Script {
        Script::of(Path::new("/nowhere/IMGBUILD"), text).unwrap()
    }

    #[test]
    fn only_definitions_stay_and_where_they_were() {
        let text = "target=debian\nstamp=$(date +%s)\npackages='\nvim\nfoo() {\n'\ncat <<END >/dev/null\nbar() {\nEND\n\
                    provision() {\n    echo \"}\" '\n}' # }\n    cat <<END\n}\nEND\n}\n: a &&\n    : b\n\
                    helper () (\n    echo \\\n)\n)\nif [ \"$x\" ]; then\n    cleanup() { :; }\nfi\nlast=1\n";
        let text = text.replace("    echo \\\n)\n)", "    echo \\\n    x\n)");
        let script = script(&text);
        let kept: Vec<(usize, &str)> =
            script.text.lines().enumerate().filter(|(_, line)| !line.is_empty()).map(|(at, l)| (at + 1, l)).collect();
        let lines: Vec<&str> = text.lines().collect();
        assert!(kept.iter().all(|(at, line)| lines[at - 1] == *line), "{kept:?}");
        let first = |word: &str| lines.iter().position(|line| line.starts_with(word)).unwrap() + 1;
        let numbers: Vec<usize> = kept.iter().map(|(at, _)| *at).collect();
        let expected = (first("provision")..first(": a")).chain(first("helper")..first("last")).collect::<Vec<_>>();
        assert_eq!(numbers, expected);
        assert!(script.defines("provision") && script.defines("cleanup") && !script.defines("foo"));
        assert_eq!(script.place(3), Some((Path::new("/nowhere/IMGBUILD"), 3)));
    }

    #[test]
    fn files_that_are_read_are_in_it() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("common.sh"), "x=1\nhelp() {\n    false\n}\n").unwrap();
        let path = dir.path().join("IMGBUILD");
        let script = Script::of(&path, "a=b\n. ./common.sh\nprovision() {\n    help\n}\n").unwrap();
        assert_eq!(script.text, "\n\nhelp() {\n    false\n}\nprovision() {\n    help\n}\n");
        assert_eq!(script.place(4), Some((&*dir.path().join("./common.sh"), 3)));
        assert_eq!(script.place(6), Some((&*path, 3)));
        let problem = Script::of(&path, ". ./none.sh\n").unwrap_err();
        assert!(problem.to_string().contains("IMGBUILD:1: ") && problem.to_string().contains("none.sh can't be read"));
    }
}
