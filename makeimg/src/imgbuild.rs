//! A project's IMGBUILD: read, understood, and everything that is wrong with it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::arch;
use crate::problem::Problem;
use crate::script::{Script, defined};
use crate::settings::{self, FUNCTIONS, Format, Settings, Target, VARIABLES};
use crate::shell::{self, Values};
use crate::words::{Bootloader, Filesystem};

/// Name of the file.
pub const FILE: &str = "IMGBUILD";

/// An IMGBUILD that can be built.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Imgbuild {
    /// The file, absolute.
    pub path: PathBuf,
    /// What its variables mean.
    pub settings: Settings,
    /// Those of [`FUNCTIONS`] that it defines.
    pub functions: BTreeSet<String>,
    /// Their definitions.
    pub script: Script,
    /// What its top level, which runs once, leaves to them.
    pub values: Values,
}

/// What reading an IMGBUILD leads to.
#[derive(Debug)]
pub struct Reading {
    /// The IMGBUILD, or all that keeps it from being built.
    pub result: Result<Imgbuild, Vec<Problem>>,
    /// Every variable as the IMGBUILD leaves it, also those of the environment.
    pub variables: BTreeMap<String, String>,
    /// Warnings: what is allowed, but probably not meant.
    pub warnings: Vec<Problem>,
}

/// Reads the IMGBUILD of a project's directory. This runs its top level; see [`shell::evaluate`].
pub fn read(project: &Path) -> Reading {
    read_for(project, None)
}

/// The same, with another `format` instead of its own.
pub fn read_for(project: &Path, other_format: Option<&str>) -> Reading {
    let failed = |problem| Reading { result: Err(vec![problem]), variables: BTreeMap::new(), warnings: Vec::new() };
    // Where the IMGBUILD is a link, the project is still where that is.
    let found = project.canonicalize().map(|dir| dir.join(FILE));
    let (path, text) = match found.and_then(|path| std::fs::read(&path).map(|text| (path, text))) {
        Ok((path, bytes)) => (path, String::from_utf8_lossy(&bytes).into_owned()),
        Err(e) => {
            let problem = Problem::new(&project.join(FILE), None, format!("can't be read: {e}"));
            let hint = "makeimg is run in the directory of an IMGBUILD, or given it";
            return failed(if e.kind() == ErrorKind::NotFound { problem.hint(hint) } else { problem });
        }
    };
    if let Some(line) = text.split('\n').position(|line| line.ends_with('\r')) {
        let problem = Problem::new(&path, Some(line as u32 + 1), "ends with a carriage return");
        return failed(problem.hint("save it with Unix line ends"));
    }
    let mut told = match shell::evaluate(&path, VARIABLES, FUNCTIONS) {
        Ok(told) => told,
        Err(problem) => return failed(problem),
    };
    if let Some(format) = other_format {
        told.variables.insert("format".into(), format.into());
        told.values.set.insert("format".into(), format.into());
    }
    let understood = |wrong: settings::Wrong| match wrong.variable {
        "format" if other_format.is_some() => {
            Problem { hint: wrong.hint, ..Problem::build(format!("--format: {}", wrong.what)) }
        }
        _ => problem(&path, &text, wrong),
    };
    let project = path.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy();
    let result = Settings::from_variables(&told.variables, &project)
        .map_err(|wrong| wrong.into_iter().map(understood).collect::<Vec<_>>());
    let script = match Script::of(&path, &text) {
        Ok(script) => script,
        Err(problem) => return failed(problem),
    };
    if let Some(function) = told.functions.iter().find(|function| !script.defines(function)) {
        let what = format!("`{function}()` is defined by a command that can't be run again where it is called");
        return failed(
            Problem::new(&path, None, what)
                .hint("define it in the IMGBUILD, or in a file that it reads with `. ./FILE`"),
        );
    }
    let mut warnings = slips(&path, &text, told.variables.keys().map(String::as_str));
    if let Ok(settings) = &result {
        warnings.extend(settings.doubts(&told.variables).into_iter().map(|doubt| problem(&path, &text, doubt)));
    }
    let (functions, values) = (told.functions, told.values);
    let result = result.map(|settings| Imgbuild { path: path.clone(), settings, functions, script, values });
    Reading { result, variables: told.variables, warnings }
}

fn problem(path: &Path, text: &str, wrong: settings::Wrong) -> Problem {
    let line = assignment(text, wrong.variable).map(|line| line + wrong.line as u32);
    Problem {
        path: Some(path.to_owned()),
        line,
        what: format!("{}: {}", wrong.variable, wrong.what),
        hint: wrong.hint,
        step: None,
    }
}

/// Names that the author of an IMGBUILD uses and that differ little from a name that has a meaning. Names that begin
/// with `_` are private, as in a PKGBUILD (PKGBUILD(5)).
pub(crate) fn slips<'a>(path: &Path, text: &str, names: impl Iterator<Item = &'a str>) -> Vec<Problem> {
    if !cfg!(feature = "hints") {
        return Vec::new();
    }
    let variables = names.filter_map(|name| {
        // A variable that the IMGBUILD does not assign is the shell's own or the environment's.
        let line = assignment(text, name)?;
        let private = name.starts_with('_') || VARIABLES.contains(&name);
        let meant = (!private).then(|| settings::nearest(name, VARIABLES))??;
        Some((line, format!("`{name}` means nothing to makeimg"), meant.to_owned()))
    });
    let functions = defined(text).filter_map(|(line, name)| {
        let private = name.starts_with('_') || FUNCTIONS.contains(&name);
        let meant = (!private).then(|| settings::nearest(name, FUNCTIONS))??;
        Some((line, format!("nothing calls `{name}()`"), format!("{meant}()")))
    });
    let mut found: Vec<_> = variables.chain(functions).collect();
    found.sort();
    let warn = |(line, what, meant)| Problem::new(path, Some(line), what).hint(format!("did you mean `{meant}`?"));
    found.into_iter().map(warn).collect()
}

/// The line, from 1, of the last assignment to a variable that stands at a line's beginning.
pub(crate) fn assignment(text: &str, name: &str) -> Option<u32> {
    let assigns = |line: &str| {
        let line = line.trim_start();
        let line = ["export ", "readonly "].iter().find_map(|word| line.strip_prefix(word)).unwrap_or(line);
        line.strip_prefix(name).is_some_and(|rest| rest.starts_with('='))
    };
    let last = text.lines().enumerate().filter(|(_, line)| assigns(line)).last();
    last.map(|(at, _)| at as u32 + 1)
}

impl Imgbuild {
    /// Why it can't be built on a machine's own disk, in place of a file.
    pub fn machine_problem(&self) -> Option<Problem> {
        let (variable, what, hint) = if self.settings.format == Format::Custom {
            (
                "format",
                "with `custom`, setup() makes the layout of the disk; on a machine's own disk makeimg makes it, and \
                 would wipe what setup() made",
                "say `raw` and `filesystems`, or partition and install by a script in place of an IMGBUILD",
            )
        } else if let Some((variable, kind)) = self.not_in_base() {
            let what = format!(
                "a machine does not make {} on its own disk: its RAM system has no {}",
                kind.word(),
                kind.mkfs()
            );
            let text = std::fs::read(&self.path).unwrap_or_default();
            let line = assignment(&String::from_utf8_lossy(&text), variable);
            let hint = "ext2, ext3, ext4, xfs, btrfs and vfat are what it makes";
            return Some(Problem::new(&self.path, line, format!("{variable}: {what}")).hint(hint));
        } else if self.settings.target == Target::Alpine {
            (
                "target",
                "a machine does not build `alpine` on its own disk: nothing in its RAM system is apk, and no way to \
                 bring it there has been tried with Alpine's own packages",
                "build an image of it elsewhere, or install it by a script in place of an IMGBUILD",
            )
        } else if self.settings.target == Target::Arch {
            return arch::problem(self.path.parent()?, true);
        } else {
            return None;
        };
        let text = std::fs::read(&self.path).unwrap_or_default();
        let line = assignment(&String::from_utf8_lossy(&text), variable);
        Some(Problem::new(&self.path, line, format!("{variable}: {what}")).hint(hint))
    }

    /// A file system that a machine can't make on its own disk, and the variable that asks for it.
    fn not_in_base(&self) -> Option<(&'static str, Filesystem)> {
        let of_format = match self.settings.format {
            Format::Raw { filesystem, .. } => Some(("format", filesystem)),
            _ => None,
        };
        let of_lines = self.settings.filesystems.iter().filter_map(|volume| Some(("filesystems", volume.filesystem?)));
        of_format.into_iter().chain(of_lines).find(|(_, kind)| !kind.is_in_base())
    }

    /// Whether the boot loader that it gets is one that firmware does not start while Secure Boot is enforced. `false`
    /// also where its author brings one.
    pub fn is_unsigned(&self) -> bool {
        self.settings.bootloader != Some(Bootloader::None) && !self.settings.has_shim()
    }

    /// The line, from 1, on which a function is defined.
    pub fn line_of(&self, function: &str) -> Option<u32> {
        let text = std::fs::read(&self.path).ok()?;
        defined(&String::from_utf8_lossy(&text)).find(|(_, name)| *name == function).map(|(line, _)| line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str) -> (Reading, String) {
        let dir = tempfile::tempdir().unwrap();
        let project = dir.path().canonicalize().unwrap().join("web");
        std::fs::create_dir(&project).unwrap();
        std::fs::write(project.join(FILE), text).unwrap();
        let reading = read(&project);
        let prefix = format!("{}/", project.display());
        let problems = reading.result.as_ref().err().into_iter().flatten().chain(&reading.warnings);
        let said = problems.map(|problem| problem.to_string().replace(&prefix, "")).collect::<Vec<_>>().join("\n");
        (reading, said)
    }

    #[test]
    fn a_good_one() {
        let text = "# A web server.\nimgname=web\ntarget=debian\ndebian_suite=trixie\nformat='raw 4G gpt'\n\
                    mirror_hint=mine\npackages='\n  nginx\n  curl\n'\n\nprovision() {\n  systemctl enable nginx\n}\n";
        let (reading, said) = read_text(text);
        assert_eq!(said, "");
        let imgbuild = reading.result.unwrap();
        assert_eq!(imgbuild.settings.packages, ["nginx", "curl"]);
        assert_eq!(imgbuild.functions.iter().collect::<Vec<_>>(), ["provision"]);
    }

    #[test]
    fn everything_wrong_has_its_line() {
        let (_, said) = read_text("target=debain\n\nformat='raw 8G gtp'\npackages='\nvim\ncurl wget\n'\n");
        assert_eq!(
            said,
            "IMGBUILD:1: target: \"debain\" is no target; did you mean \"debian\"?\n\
             IMGBUILD:3: format: \"gtp\" is no partition table; did you mean \"gpt\"?\n\
             IMGBUILD:6: packages: \"curl wget\" is no package's name; each package has a line of its own"
        );
        let (_, said) = read_text("imgname=x\n");
        assert_eq!(said, "IMGBUILD: target: `target` is not set; there are arch, alpine, debian");
        let (_, said) = read_text("target=debian\nprovision() {\n");
        assert!(said.starts_with("IMGBUILD:") && said.contains("yntax error"), "{said}");
    }

    #[test]
    fn carriage_returns() {
        let (_, said) = read_text("# a\rb\ntarget=debian\r\nformat=dir\r\n");
        assert_eq!(said, "IMGBUILD:2: ends with a carriage return; save it with Unix line ends");
    }

    #[test]
    fn the_project_is_where_a_link_to_an_imgbuild_is() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["web", "shared"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        let text = "target=debian\ncmdline=${PWD##*/}\n";
        std::fs::write(dir.path().join("shared/web.imgbuild"), text).unwrap();
        std::os::unix::fs::symlink("../shared/web.imgbuild", dir.path().join("web").join(FILE)).unwrap();
        let imgbuild = read(&dir.path().join("web")).result.unwrap();
        assert_eq!((&*imgbuild.settings.imgname, &*imgbuild.settings.cmdline), ("web", "web"));
        assert!(imgbuild.path.ends_with("web/IMGBUILD"), "functions run there");
    }

    #[test]
    fn slips_are_told_and_private_names_are_not() {
        let (reading, said) = read_text(
            "target=debian\npakages=vim\nFormat=dir\nversion=1\n_packages=x\nTMPDIR=/tmp\nprovison() {\n:\n}\n\
             helper() { :; }\n",
        );
        assert!(reading.result.is_ok());
        assert_eq!(
            said,
            "IMGBUILD:2: `pakages` means nothing to makeimg; did you mean `packages`?\n\
             IMGBUILD:3: `Format` means nothing to makeimg; did you mean `format`?\n\
             IMGBUILD:7: nothing calls `provison()`; did you mean `provision()`?"
        );
    }

    #[test]
    fn hostconf_depends_on_the_target() {
        for (text, told) in [
            (
                "target=alpine\nhostconf='\n keyring\n repositorys\n'\n",
                "4: hostconf: \"repositorys\" means nothing with target=alpine; did you mean \"repositories\"?",
            ),
            (
                "target=arch\nhostconf='keyring\n mirrorlist\n keys'\n",
                "4: hostconf: \"keys\" means nothing with target=arch; there are keyring, mirrorlist",
            ),
            (
                "hostconf=keyring\ntarget=debian\n",
                "1: hostconf: \"keyring\" means nothing with target=debian; nothing does there",
            ),
        ] {
            let (reading, said) = read_text(text);
            assert!(reading.result.is_ok());
            assert_eq!(said, format!("IMGBUILD:{told}"));
        }
    }

    #[test]
    fn there_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let problems = read(dir.path()).result.unwrap_err();
        assert!(problems[0].to_string().contains("makeimg is run in the directory of an IMGBUILD"), "{}", problems[0]);
    }
}
