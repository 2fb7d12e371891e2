//! An IMGBUILD is a POSIX shell script, so a real `/bin/sh` reads it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde::{Deserialize, Serialize};

use crate::problem::Problem;

/// The shell.
pub const SHELL: &str = "/bin/sh";

/// What a shell knows after it has read an IMGBUILD.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Evaluated {
    /// Every variable that has a name, the shell's own and inherited ones among them. Empty is set, too.
    pub variables: BTreeMap<String, String>,
    /// Those of the wanted functions that are defined.
    pub functions: BTreeSet<String>,
    /// What the script has changed.
    pub values: Values,
    /// What the script printed while it was read.
    pub printed: String,
}

/// What the top level of an IMGBUILD leaves to its functions.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Values {
    /// Variables that it has set.
    pub set: BTreeMap<String, String>,
    /// Variables that it has taken away.
    pub unset: BTreeSet<String>,
    /// Those of the variables that programs see.
    pub exported: BTreeSet<String>,
    /// The shell's options, as in `$-`.
    pub options: String,
    /// As umask(1) prints it.
    pub umask: String,
}

/// Variables that shells change by themselves, in POSIX, dash, BusyBox and bash.
const SHELLS_OWN: [&str; 14] = [
    "_",
    "LINENO",
    "OPTIND",
    "PWD",
    "OLDPWD",
    "PPID",
    "RANDOM",
    "SRANDOM",
    "SECONDS",
    "EPOCHSECONDS",
    "EPOCHREALTIME",
    "FUNCNAME",
    "PIPESTATUS",
    "SHLVL",
];

/// Options of a shell that mean the same for a function as for what stands outside: -C, -f, -u, -x (POSIX, XCU `set`).
const OPTIONS: &str = "Cfux";

impl Values {
    /// As a script that sets them. `inside`: for an image, which has programs of its own.
    pub fn script(&self, inside: bool) -> String {
        let is_meant = |name: &&String| !inside || *name != "PATH";
        let mut text = String::new();
        for name in self.unset.iter().filter(is_meant) {
            let _ = writeln!(text, "unset {name}");
        }
        for (name, value) in self.set.iter().filter(|(name, _)| is_meant(name)) {
            let _ = writeln!(text, "{name}='{}'", value.replace('\'', "'\\''"));
        }
        for name in self.exported.iter().filter(is_meant) {
            let _ = writeln!(text, "export {name}");
        }
        if !self.umask.is_empty() {
            let _ = writeln!(text, "umask {}", self.umask);
        }
        if !self.options.is_empty() {
            let _ = writeln!(text, "set -{}", self.options);
        }
        text
    }
}

/// Runs an IMGBUILD in a shell, and reads its variables and the named functions. The working directory is the
/// IMGBUILD's (if that is a link, the link's), and standard input is empty. The script gets the caller's environment
/// but for the variables in `hidden`.
///
/// The script is checked as a whole before its first command runs, and runs under `set -e`.
///
/// # Errors
/// It is no script, a command of it failed, or it ended the shell.
pub fn evaluate(path: &Path, hidden: &[&str], functions: &[&str]) -> Result<Evaluated, Problem> {
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
    command.env("MAKEIMG_FUNCTIONS", functions.join(" "));
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

/// Parses records that end with a NUL: `Bname=value`, a variable that there was before; `Vname=value`, one that there
/// is in the end; `Ename`, one that programs see; `Fname`, a function; `O`, the shell's options; `U`, the umask; and
/// `S`, the end. Returns `None` if that is missing, because the shell ended early. The error is the name of a variable
/// that the script has given a value that is no UTF-8.
pub(crate) fn parse(mut bytes: &[u8]) -> Result<Option<Evaluated>, String> {
    let mut told = Evaluated::default();
    let mut before: BTreeMap<&[u8], &[u8]> = BTreeMap::new();
    let mut exported = BTreeSet::new();
    while let Some(end) = bytes.iter().position(|&byte| byte == 0) {
        let (record, rest) = (&bytes[..end], &bytes[end + 1..]);
        bytes = rest;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match record.split_first() {
            Some((kind @ (b'B' | b'V'), assignment)) => {
                let equals = assignment.iter().position(|&byte| byte == b'=').unwrap_or(assignment.len());
                let (name, value) = (&assignment[..equals], assignment.get(equals + 1..).unwrap_or_default());
                if *kind == b'B' {
                    before.insert(name, value);
                    continue;
                }
                let is_old = before.get(name) == Some(&value);
                let name = text(name);
                match String::from_utf8(value.to_vec()) {
                    Ok(value) => {
                        if !is_old && is_handed_over(&name) {
                            told.values.set.insert(name.clone(), value.clone());
                        }
                        told.variables.insert(name, value);
                    }
                    // What the caller's environment has is not the author's business.
                    Err(_) if is_old => {}
                    Err(_) => return Err(name),
                }
            }
            Some((b'E', name)) => drop(exported.insert(text(name))),
            Some((b'F', name)) => drop(told.functions.insert(text(name))),
            Some((b'O', options)) => {
                told.values.options = text(options).chars().filter(|c| OPTIONS.contains(*c)).collect();
            }
            Some((b'U', umask)) if !umask.is_empty() && umask.iter().all(u8::is_ascii_digit) => {
                told.values.umask = text(umask);
            }
            Some((b'S', [])) => {
                told.values.exported = exported.into_iter().filter(|n| told.values.set.contains_key(n)).collect();
                let gone = before.keys().map(|name| text(name)).filter(|name| !told.variables.contains_key(name));
                told.values.unset = gone.filter(|name| is_handed_over(name)).collect();
                return Ok(Some(told));
            }
            _ => return Ok(None),
        }
    }
    Ok(None)
}

fn is_handed_over(name: &str) -> bool {
    let is_name = name.starts_with(|c: char| c == '_' || c.is_ascii_alphabetic())
        && name.chars().all(|c| c == '_' || c.is_ascii_alphanumeric());
    is_name && !SHELLS_OWN.contains(&name) && !["BASH", "MAKEIMG_"].iter().any(|head| name.starts_with(head))
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
        evaluate(&script(text).1, &["packages", "format", "target"], &["setup", "provision"])
    }

    #[test]
    fn variables_as_they_are() {
        let told =
            read("packages='\na\n\"b\" $c\n'\nformat=\nprovision() { :; }\nmine=1\nset -eu\necho words\n").unwrap();
        assert_eq!(told.variables["packages"], "\na\n\"b\" $c\n");
        assert_eq!(told.variables["format"], "", "empty is set");
        assert!(!told.variables.contains_key("target"), "not set");
        assert_eq!(told.functions, BTreeSet::from(["provision".to_owned()]));
        let set: Vec<&str> = told.values.set.keys().map(String::as_str).collect();
        assert_eq!(set, ["format", "mine", "packages"], "what the shell and the caller have is not the script's");
        assert_eq!(told.values.options, "u");
        assert!(told.printed.ends_with("words\n"));
    }

    #[test]
    fn lists_may_be_split_otherwise_and_programs_are_no_functions() {
        let told = read("IFS=,\nformat=a,b\nPATH=/\n").unwrap();
        assert_eq!(told.variables["format"], "a,b");
        let (_dir, path) = script(":\n");
        assert!(evaluate(&path, &[], &["ls", "sh"]).unwrap().functions.is_empty());
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
        evaluate(&path, &[], &[]).unwrap_err();
        assert!(!dir.path().join("ran").exists());
    }

    #[test]
    fn what_is_handed_over_is_the_same_again() {
        let told = read(
            "packages='it'\\''s\n a=b \n'\nexport shown=1\nhidden=2\numask 077\nset -f\nunset HOME\nPATH=/opt:$PATH\n\
             readonly format=dir\ncd /\n",
        )
        .unwrap();
        let values = &told.values;
        assert_eq!(values.exported.iter().collect::<Vec<_>>(), ["PATH", "shown"]);
        assert!(!values.script(true).contains("PATH=") && values.script(false).contains("PATH='/opt:"));
        let show = "printf '%s|' \"$packages\" \"$format\" \"$(umask)\" \"${HOME-none}\" * \
                    \"$(env | grep -c ^shown=)\" \
                    \"$(env | grep -c ^hidden=)\"";
        let output = Command::new(SHELL).args(["-euc", &format!("{}{show}", values.script(true))]).output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        assert_eq!(said, "it's\n a=b \n|dir|0077|none|*|1|0|", "{}", String::from_utf8_lossy(&output.stderr));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn any_value_comes_back(value in "[^\0]{0,40}") {
            let quoted = value.replace('\'', "'\\''");
            let told = read(&format!("packages='{quoted}'\nformat=x\n")).unwrap();
            prop_assert_eq!(&told.variables["packages"], &value);
            prop_assert!(!told.variables.contains_key("b") && told.variables.contains_key("format"));
        }

        #[test]
        fn any_text_is_parsed(text in any::<String>()) {
            let _ = parse(text.as_bytes());
        }
    }
}
