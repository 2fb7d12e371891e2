//! An IMGBUILD is a POSIX shell script, so a real `/bin/sh` reads it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::problem::Problem;

/// The shell.
pub const SHELL: &str = "/bin/sh";

/// What a shell knows after it has read an IMGBUILD.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Evaluated {
    /// Those of the wanted variables that are set. Empty is set, too.
    pub variables: BTreeMap<String, String>,
    /// Those of the wanted functions that are defined.
    pub functions: BTreeSet<String>,
    /// Every variable that has a name, the shell's own and inherited ones among them.
    pub names: BTreeSet<String>,
    /// What the script printed while it was read.
    pub printed: String,
}

/// Runs an IMGBUILD in a shell, and reads the named variables and functions. The working directory is the IMGBUILD's
/// (if that is a link, the link's), and standard input is empty. The script gets the caller's environment but for the
/// variables in `hidden`.
///
/// The script is checked as a whole before its first command runs, and runs under `set -e`.
///
/// # Errors
/// It is no script, a command of it failed, or it ended the shell.
pub fn evaluate(path: &Path, hidden: &[&str], variables: &[&str], functions: &[&str]) -> Result<Evaluated, Problem> {
    // `.` searches PATH for a name without a slash.
    let path = &std::path::absolute(path).map_err(|e| Problem::new(path, None, format!("can't be read: {e}")))?;
    let checked = run(path, sh(path).arg("-n").arg(path))?;
    if !checked.status.success() {
        return Err(complaint(path, &checked, "is no shell script"));
    }
    let mut command = sh(path);
    command.args(["-c", include_str!("read.sh")]).arg(path);
    for name in hidden {
        command.env_remove(name);
    }
    command.env("MAKEIMG_VARIABLES", variables.join(" ")).env("MAKEIMG_FUNCTIONS", functions.join(" "));
    let output = run(path, &mut command)?;
    let printed = String::from_utf8_lossy(&output.stderr).into_owned();
    match parse(&output.stdout) {
        Ok(Some(told)) => Ok(Evaluated { printed, ..told }),
        Ok(None) if output.status.success() => Err(Problem::new(path, None, "it ends the shell with `exit`")),
        Ok(None) => Err(complaint(path, &output, "failed while it was read")),
        Err(name) => Err(Problem::new(path, None, format!("`{name}` is not UTF-8"))),
    }
}

fn sh(path: &Path) -> Command {
    let mut command = Command::new(SHELL);
    // The shell's messages are parsed, so they must not be translated.
    command.env("LC_ALL", "C").stdin(Stdio::null());
    if let Some(dir) = path.parent() {
        command.current_dir(dir);
    }
    command
}

fn run(path: &Path, command: &mut Command) -> Result<Output, Problem> {
    command
        .output()
        .map_err(|e| Problem::new(path, None, format!("can't be read, since {SHELL} can't be started: {e}")))
}

/// What the shell said about the script, with the line if it named one.
fn complaint(path: &Path, output: &Output, failed: &str) -> Problem {
    let said = String::from_utf8_lossy(&output.stderr);
    let last = said.lines().rev().find_map(|line| located(path, line));
    if let Some((line, what)) = last {
        return Problem::new(path, Some(line), what);
    }
    let end = said.lines().last().map(|line| format!(": {line}")).unwrap_or_default();
    Problem::new(path, None, format!("{failed} ({}){end}", output.status))
}

/// `PATH: 12: what` (dash), `PATH: line 12: what` (bash, BusyBox).
pub(crate) fn located(path: &Path, line: &str) -> Option<(u32, String)> {
    let rest = line.strip_prefix(&*path.to_string_lossy())?.strip_prefix(": ")?;
    let rest = rest.strip_prefix("line ").unwrap_or(rest);
    let (number, what) = rest.split_once(": ")?;
    Some((number.parse().ok()?, what.to_owned()))
}

/// Parses records that end with a NUL: `Vname=value`, `Fname`, and `S`, which the output of `set` follows. Returns
/// `None` if `S` is missing, because the shell ended early. The error is the name of a variable whose value is no
/// UTF-8.
pub(crate) fn parse(mut bytes: &[u8]) -> Result<Option<Evaluated>, String> {
    let mut told = Evaluated::default();
    while let Some(end) = bytes.iter().position(|&byte| byte == 0) {
        let (record, rest) = (&bytes[..end], &bytes[end + 1..]);
        bytes = rest;
        match record.split_first() {
            Some((b'V', assignment)) => {
                let equals = assignment.iter().position(|&byte| byte == b'=').unwrap_or(assignment.len());
                let name = String::from_utf8_lossy(&assignment[..equals]).into_owned();
                let value = assignment.get(equals + 1..).unwrap_or_default().to_vec();
                let value = String::from_utf8(value).map_err(|_| name.clone())?;
                told.variables.insert(name, value);
            }
            Some((b'F', name)) => drop(told.functions.insert(String::from_utf8_lossy(name).into_owned())),
            Some((b'S', [])) => {
                told.names = names(&String::from_utf8_lossy(bytes));
                return Ok(Some(told));
            }
            _ => return Ok(None),
        }
    }
    Ok(None)
}

/// The names in what `set` prints: assignments, quoted so that a shell can read them again (POSIX, XCU `set`).
fn names(set: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut rest = set;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !(c == '_' || c.is_ascii_alphanumeric())).unwrap_or(rest.len());
        let (name, after) = rest.split_at(end);
        if let Some(value) = after.strip_prefix('=') {
            found.insert(name.to_owned());
            rest = after_word(value);
        }
        // The rest of the line: nothing, or something that is no assignment.
        rest = rest.split_once('\n').map_or("", |(_, next)| next);
    }
    found
}

/// What follows a quoted word.
fn after_word(text: &str) -> &str {
    let mut quote = None;
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match (quote, c) {
            (None, '\n') => return &text[at..],
            (None, '\'' | '"') => quote = Some(c),
            (None | Some('"'), '\\') => drop(chars.next()),
            (Some(open), _) if open == c => quote = None,
            _ => {}
        }
    }
    ""
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use proptest::prelude::*;

    use super::*;

    fn script(text: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap().join("IMGBUILD");
        fs::write(&path, text).unwrap();
        (dir, path)
    }

    fn read(text: &str) -> Result<Evaluated, Problem> {
        evaluate(&script(text).1, &["packages"], &["packages", "format", "target"], &["setup", "provision"])
    }

    #[test]
    fn variables_as_they_are() {
        let told =
            read("packages='\na\n\"b\" $c\n'\nformat=\nprovision() { :; }\nmine=1\nset -eu\necho words\n").unwrap();
        assert_eq!(told.variables["packages"], "\na\n\"b\" $c\n");
        assert_eq!(told.variables["format"], "", "empty is set");
        assert!(!told.variables.contains_key("target"), "not set");
        assert_eq!(told.functions, BTreeSet::from(["provision".to_owned()]));
        assert!(told.names.contains("mine") && told.names.contains("packages"), "{:?}", told.names);
        assert!(told.printed.ends_with("words\n"));
    }

    #[test]
    fn lists_may_be_split_otherwise_and_programs_are_no_functions() {
        let told = read("IFS=,\nformat=a,b\nPATH=/\n").unwrap();
        assert_eq!(told.variables["format"], "a,b");
        let (_dir, path) = script(":\n");
        assert!(evaluate(&path, &[], &[], &["ls", "sh"]).unwrap().functions.is_empty());
    }

    #[test]
    fn what_fails_is_said_with_its_line() {
        let problem = read("target=debian\nif then\n").unwrap_err();
        assert_eq!(problem.line, Some(2), "{problem}");
        let problem = read("target=debian\n\nnosuchcommand here\n").unwrap_err();
        assert_eq!(problem.line, Some(3), "{problem}");
        assert!(problem.to_string().contains("nosuchcommand"), "{problem}");
        let problem = read("target=debian\nfalse\n").unwrap_err();
        assert!(problem.to_string().contains("failed while it was read (exit status: 1)"), "{problem}");
        let problem = read("exit 0\n").unwrap_err();
        assert!(problem.to_string().contains("exit"), "{problem}");
        let problem = read("format=$(printf '\\377')\n").unwrap_err();
        assert!(problem.to_string().contains("`format` is not UTF-8"), "{problem}");
    }

    #[test]
    fn nothing_runs_before_all_of_it_is_a_script() {
        let (dir, path) = script("touch ran\nif then\n");
        evaluate(&path, &[], &[], &[]).unwrap_err();
        assert!(!dir.path().join("ran").exists());
    }

    #[test]
    fn names_of_several_shells() {
        let dash = "IFS=' \t\n'\na='it'\"'\"'s\nb=no'\nc='1'\n";
        let bash = "IFS=$' \\t\\n'\na='it'\\''s\nb=no'\nc=1\n";
        for text in [dash, bash] {
            assert_eq!(names(text), ["IFS", "a", "c"].map(str::to_owned).into(), "{text}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn any_value_comes_back(value in "[^\0]{0,40}") {
            let quoted = value.replace('\'', "'\\''");
            let told = read(&format!("packages='{quoted}'\nformat=x\n")).unwrap();
            prop_assert_eq!(&told.variables["packages"], &value);
            prop_assert!(!told.names.contains("b") && told.names.contains("format"));
        }

        #[test]
        fn any_text_has_names(text in any::<String>()) {
            names(&text);
            let _ = parse(text.as_bytes());
        }
    }
}
