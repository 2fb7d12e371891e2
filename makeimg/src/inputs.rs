//! What goes into an image from the project's directories: files, symbolic links, patches, templates, secrets.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::command::{Context, Tool};
use crate::inside::Inside;
use crate::problem::{Doing, Problem};
use crate::template;

/// Ends the name of a patch, after the name of what it changes.
pub const PATCH: &str = ".makeimg.patch";

/// Endings of encrypted files' names. The files in the image have names without them.
pub(crate) const ENCRYPTED: [&str; 4] = [".age", ".gpg", ".pgp", ".asc"];

/// How an input gets into the image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// A directory, which is made if there is none.
    Directory,
    /// Copied.
    File,
    /// Made, with this target.
    Link(PathBuf),
    /// Variables are put in.
    Template,
    /// Changes a file that is there by then.
    Patch,
    /// What comes out of the command that reveals secrets.
    Secret,
}

/// One thing for the image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Input {
    /// Where it is on the building machine.
    pub source: PathBuf,
    /// Where it goes, relative to the image's root.
    pub path: PathBuf,
    /// How.
    pub kind: Kind,
    /// Permissions of what is made.
    pub mode: u32,
}

/// Lists an input directory, patches last, otherwise by name. `secret`: its files are secrets.
///
/// # Errors
/// Everything in it that can't go into an image.
pub fn scan(dir: &Path, secret: bool) -> Result<Vec<Input>, Vec<Problem>> {
    let mut found = Found { top: dir, secret, inputs: Vec::new(), problems: Vec::new() };
    found.dir(Path::new(""));
    let Found { mut inputs, mut problems, .. } = found;
    let mut taken = BTreeMap::new();
    for input in inputs.iter().filter(|input| input.kind != Kind::Patch) {
        if let Some(other) = taken.insert(&input.path, &input.source) {
            let what = format!("it and {} are both for /{}", other.display(), input.path.display());
            problems.push(Problem::new(&input.source, None, what));
        }
    }
    inputs.sort_by_key(|input| input.kind == Kind::Patch);
    if problems.is_empty() { Ok(inputs) } else { Err(problems) }
}

struct Found<'a> {
    top: &'a Path,
    secret: bool,
    inputs: Vec<Input>,
    problems: Vec<Problem>,
}

impl Found<'_> {
    fn dir(&mut self, below: &Path) {
        let dir = self.top.join(below);
        let names = fs::read_dir(&dir).and_then(|entries| {
            let mut names = entries.map(|entry| Ok(entry?.file_name())).collect::<std::io::Result<Vec<_>>>()?;
            names.sort();
            Ok(names)
        });
        let names = match names {
            Ok(names) => names,
            Err(e) => return self.problems.push(Problem::new(&dir, None, format!("can't be read: {e}"))),
        };
        for name in names {
            let path = below.join(&name);
            let source = self.top.join(&path);
            match self.input(&source, &path) {
                Ok(input) => {
                    let is_dir = input.kind == Kind::Directory;
                    self.inputs.push(input);
                    if is_dir {
                        self.dir(&path);
                    }
                }
                Err(what) => self.problems.push(Problem::new(&source, None, what)),
            }
        }
    }

    fn input(&self, source: &Path, path: &Path) -> Result<Input, String> {
        let unreadable = |e: std::io::Error| format!("can't be read: {e}");
        let found = fs::symlink_metadata(source).map_err(unreadable)?;
        let name = path.file_name().and_then(|name| name.to_str()).ok_or("its name is not UTF-8")?;
        let mode = found.permissions().mode() & 0o7777;
        let input = |path: &Path, kind, mode| Input { source: source.to_owned(), path: path.to_owned(), kind, mode };
        if found.is_dir() {
            return Ok(input(path, Kind::Directory, mode));
        }
        if found.is_symlink() {
            if self.secret {
                return Err("a secret can't be a symbolic link".into());
            }
            let target = fs::read_link(source).map_err(unreadable)?;
            if leads_out(path, &target) {
                return Err(format!("the symbolic link leads out of the image, to {}", target.display()));
            }
            return Ok(input(path, Kind::Link(target), mode));
        }
        if !found.is_file() {
            return Err("it is no file, directory or symbolic link".into());
        }
        let without = |ending: &str| name.strip_suffix(ending).filter(|rest| !rest.is_empty());
        if self.secret {
            let shown = ENCRYPTED.iter().find_map(|ending| without(ending)).unwrap_or(name);
            // What git or an umask made of it must not decide who reads it.
            let mode = if mode & 0o100 == 0 { 0o600 } else { 0o700 };
            return Ok(input(&path.with_file_name(shown), Kind::Secret, mode));
        }
        if let Some(rest) = without(PATCH) {
            return Ok(input(&path.with_file_name(rest), Kind::Patch, mode));
        }
        if let Some(rest) = without(template::ENDING) {
            return Ok(input(&path.with_file_name(rest), Kind::Template, mode));
        }
        Ok(input(path, Kind::File, mode))
    }
}

/// Whether a relative link climbs above the image's root.
fn leads_out(link: &Path, target: &Path) -> bool {
    let mut depth = if target.is_absolute() { 0 } else { link.components().count() - 1 };
    for part in target.components() {
        match part {
            // At an image's root, `..` is the root, but whoever wrote more of them meant something else.
            Component::ParentDir if depth == 0 => return true,
            Component::ParentDir => depth -= 1,
            Component::Normal(_) => depth += 1,
            _ => {}
        }
    }
    false
}

/// The names that templates ask for.
///
/// # Errors
/// A template can't be read.
pub fn asked_for(inputs: &[Input]) -> Result<BTreeSet<String>, Problem> {
    let mut names = BTreeSet::new();
    for input in inputs.iter().filter(|input| input.kind == Kind::Template) {
        names.extend(template::names(&read(&input.source)?));
    }
    Ok(names)
}

/// Puts in all variables of all templates, and shows what is missing.
///
/// # Errors
/// What is missing, with its place.
pub fn check_templates(inputs: &[Input], variables: &BTreeMap<String, String>) -> Result<(), Vec<Problem>> {
    let mut problems = Vec::new();
    for input in inputs.iter().filter(|input| input.kind == Kind::Template) {
        match read(&input.source) {
            Ok(text) => problems.extend(rendered(input, &text, variables).err().into_iter().flatten()),
            Err(problem) => problems.push(problem),
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

fn rendered(input: &Input, text: &[u8], variables: &BTreeMap<String, String>) -> Result<Vec<u8>, Vec<Problem>> {
    template::render(text, variables).map_err(|missing| {
        let problem = |missing: template::Missing| {
            Problem::new(&input.source, Some(missing.line), format!("`{}` is not set", missing.name))
                .hint(format!("set it in the IMGBUILD, or write \\${} if that is meant literally", missing.name))
        };
        missing.into_iter().map(problem).collect()
    })
}

/// What inputs need to get into the image.
pub struct Putting<'a> {
    /// For the tools.
    pub context: &'a Context,
    /// The image.
    pub image: &'a Inside,
    /// For templates.
    pub variables: &'a BTreeMap<String, String>,
    /// The shell command that turns an encrypted file (its input) into what it hides (its output).
    pub reveal: Option<&'a str>,
    /// A directory that only root can look into, for what patches need.
    pub work: &'a Path,
}

impl Putting<'_> {
    /// Puts an input into the image.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn put(&self, input: &Input) -> Result<(), Problem> {
        let image = self.image;
        let made = match &input.kind {
            Kind::Directory => self.directory(input),
            Kind::File => fs::File::open(&input.source).and_then(|from| {
                let each = || self.context.cancel.check().map_err(std::io::Error::other);
                image.copy(&input.path, &from, input.mode, each)
            }),
            Kind::Link(target) => image.link(&input.path, target),
            Kind::Template => {
                let text = read(&input.source)?;
                let text = rendered(input, &text, self.variables).map_err(|mut problems| problems.remove(0))?;
                image.write(&input.path, &text[..], input.mode)
            }
            Kind::Secret => {
                let bytes = reveal(self.context, &input.source, self.reveal)?;
                image.write(&input.path, &bytes[..], input.mode)
            }
            Kind::Patch => return self.patch(input),
        };
        made.map_err(|e| Problem::new(&input.source, None, format!("/{} can't be made: {e}", input.path.display())))
    }

    fn directory(&self, input: &Input) -> std::io::Result<()> {
        if self.image.look(&input.path)?.is_some() {
            // With the owner and mode that the image has given it.
            return self.image.dir(&input.path).map(drop);
        }
        self.image.dir(&input.path)?;
        self.image.give(&input.path, input.mode, 0, 0)
    }

    fn patch(&self, input: &Input) -> Result<(), Problem> {
        let shown = input.path.display();
        let old = self.image.read(&input.path).map_err(|e| {
            Problem::new(&input.source, None, format!("there is no /{shown} in the image to be patched ({e})"))
        })?;
        let name = |end: &str| self.work.join(format!("patch.{end}"));
        let (before, after, rejected) = (name("old"), name("new"), name("rej"));
        for file in [&before, &after, &rejected] {
            let _ = fs::remove_file(file);
        }
        fs::write(&before, old).doing(|| format!("writing {}", before.display()))?;
        // No fuzz, and nothing applied backwards because it seems to be there already.
        let tool = Tool::new("patch").args(["--fuzz=0", "--forward", "--batch", "--binary", "--no-backup-if-mismatch"]);
        let tool = tool.arg("-o").arg(&after).arg("-r").arg(&rejected).arg("-i").arg(&input.source).arg(&before);
        let mut failed = None;
        let ended = tool.env("LC_ALL", "C").watch(self.context, |line| {
            // `Hunk #2 FAILED at 12.`
            if let Some((number, _)) = line.strip_prefix("Hunk #").and_then(|rest| rest.split_once(" FAILED")) {
                failed = failed.or(number.parse::<usize>().ok());
            }
        })?;
        if let Err(ended) = ended {
            let text = String::from_utf8_lossy(&read(&input.source)?).into_owned();
            let hunks: Vec<(usize, &str)> =
                text.lines().enumerate().filter(|(_, line)| line.starts_with("@@")).collect();
            let hunk = failed.and_then(|number| hunks.get(number.checked_sub(1)?).copied());
            let Some((at, head)) = hunk else {
                let what = format!("it does not apply to /{shown}: {}", ended.last.join(" | "));
                return Err(Problem::new(&input.source, None, what));
            };
            let body = text.lines().skip(at + 1).take_while(|line| line.starts_with([' ', '-', '+', '\\']));
            let hunk: Vec<&str> = std::iter::once(head).chain(body).collect();
            let what = format!("this hunk does not apply to /{shown}:\n    {}", hunk.join("\n    "));
            return Err(Problem::new(&input.source, Some(at as u32 + 1), what));
        }
        let new = fs::File::open(&after).doing(|| format!("reading {}", after.display()))?;
        let made = self.image.rewrite(&input.path, new);
        made.map_err(|e| Problem::new(&input.source, None, format!("/{shown} can't be changed: {e}")))
    }
}

/// What a secret's file hides, or what is in it where no `command` reveals it.
///
/// # Errors
/// It can't be read, or the command fails.
pub fn reveal(context: &Context, source: &Path, command: Option<&str>) -> Result<Vec<u8>, Problem> {
    let bytes = read(source)?;
    let Some(command) = command else { return Ok(bytes) };
    let tool = Tool::new("sh").args(["-c", command]).env("MAKEIMG_SECRET", source).input(bytes);
    tool.output(context).map_err(|problem| Problem::new(source, None, format!("can't be revealed: {}", problem.what)))
}

fn read(path: &Path) -> Result<Vec<u8>, Problem> {
    let mut bytes = Vec::new();
    let read = fs::File::open(path).and_then(|mut file| file.read_to_end(&mut bytes));
    read.map_err(|e| Problem::new(path, None, format!("can't be read: {e}")))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::sync::Arc;

    use super::*;
    use crate::command::Cancel;
    use crate::report::Report;

    struct Project(tempfile::TempDir);

    impl Project {
        fn new(files: &[(&str, &str)]) -> Self {
            let project = Self(tempfile::tempdir().unwrap());
            for (name, text) in files {
                let path = project.path(name);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
            fs::create_dir_all(project.path("image")).unwrap();
            fs::create_dir_all(project.path("work")).unwrap();
            project
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn put(&self, dir: &str, reveal: Option<&str>) -> Result<(), Problem> {
            let context = Context { report: Arc::new(Report::new(|_| {})), cancel: Cancel::default() };
            let image = Inside::open(&self.path("image")).unwrap();
            let variables = [("domain".to_owned(), "example.org".to_owned())].into();
            let work = self.path("work");
            let putting = Putting { context: &context, image: &image, variables: &variables, reveal, work: &work };
            let inputs = scan(&self.path(dir), dir == "secrets").unwrap();
            inputs.iter().try_for_each(|input| putting.put(input))
        }

        fn image(&self, name: &str) -> (String, u32) {
            let path = self.path("image").join(name);
            (fs::read_to_string(&path).unwrap(), fs::metadata(path).unwrap().permissions().mode() & 0o7777)
        }

        fn short(&self, problem: &Problem) -> String {
            problem.to_string().replace(&format!("{}/", self.0.path().display()), "")
        }
    }

    const PATCHED: &str = "--- a\n+++ b\n@@ -1,3 +1,3 @@\n one\n-two\n+zwei\n three\n";

    #[test]
    fn all_kinds_arrive() {
        if !crate::common::is_root() {
            return;
        }
        let project = Project::new(&[
            ("files/etc/motd", "hello\n"),
            ("files/etc/web.conf.makeimg.template", "name ${domain} \\$host\n"),
            ("files/usr/bin/tool", "#!/bin/sh\n"),
            ("files/etc/a.conf.makeimg.patch", PATCHED),
            ("secrets/etc/ssl/key.pem.age", "uryyb\n"),
            ("image/etc/a.conf", "zero\none\ntwo\nthree\n"),
        ]);
        fs::set_permissions(project.path("files/usr/bin/tool"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::set_permissions(project.path("image/etc/a.conf"), fs::Permissions::from_mode(0o640)).unwrap();
        fs::set_permissions(project.path("image/etc"), fs::Permissions::from_mode(0o711)).unwrap();
        symlink("../usr/bin/tool", project.path("files/etc/link")).unwrap();
        project.put("files", None).unwrap();
        project.put("secrets", Some("tr a-z n-za-m")).unwrap();
        assert_eq!(project.image("etc/motd").0, "hello\n");
        assert_eq!(project.image("etc/web.conf").0, "name example.org $host\n");
        assert_eq!(project.image("usr/bin/tool"), ("#!/bin/sh\n".into(), 0o755));
        assert_eq!(project.image("etc/a.conf"), ("zero\none\nzwei\nthree\n".into(), 0o640));
        assert_eq!(project.image("etc/ssl/key.pem"), ("hello\n".into(), 0o600));
        assert_eq!(fs::read_link(project.path("image/etc/link")).unwrap(), Path::new("../usr/bin/tool"));
        let etc = fs::metadata(project.path("image/etc")).unwrap().permissions().mode();
        assert_eq!(etc & 0o7777, 0o711, "directories of the image's stay as they are");
    }

    #[test]
    fn patches_that_do_not_apply_show_their_hunk() {
        let project = Project::new(&[("files/a.makeimg.patch", PATCHED), ("image/a", "one\nTWO\nthree\n")]);
        let problem = project.put("files", None).unwrap_err();
        assert_eq!(
            project.short(&problem),
            "files/a.makeimg.patch:3: this hunk does not apply to /a:\n    @@ -1,3 +1,3 @@\n     one\n    -two\n    \
             +zwei\n     three"
        );
        assert_eq!(project.image("a").0, "one\nTWO\nthree\n");
        fs::write(project.path("image/a"), "one\nzwei\nthree\n").unwrap();
        assert!(project.put("files", None).is_err(), "what is patched already is not patched back");
        fs::write(project.path("image/a"), "one\ntwo\nTHREE\n").unwrap();
        assert!(project.put("files", None).is_err(), "no fuzz");
        fs::remove_file(project.path("image/a")).unwrap();
        let said = project.short(&project.put("files", None).unwrap_err());
        assert!(said.starts_with("files/a.makeimg.patch: there is no /a in the image to be patched"), "{said}");
        fs::write(project.path("files/a.makeimg.patch"), "nonsense\n").unwrap();
        fs::write(project.path("image/a"), "x\n").unwrap();
        let said = project.short(&project.put("files", None).unwrap_err());
        assert!(said.contains("does not apply to /a") && said.contains("garbage"), "{said}");
    }

    #[test]
    fn what_can_not_go_in_is_told_at_once() {
        let project = Project::new(&[("files/a/b", ""), ("files/a/b.makeimg.template", "")]);
        symlink("../../../etc/shadow", project.path("files/a/out")).unwrap();
        symlink("../..", project.path("files/a/also")).unwrap();
        symlink("../fine/..", project.path("files/a/fine")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            project.path("files/pipe"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR,
            0,
        )
        .unwrap();
        let problems = scan(&project.path("files"), false).unwrap_err();
        let said: Vec<String> = problems.iter().map(|problem| project.short(problem)).collect();
        assert_eq!(said.len(), 4, "{said:?}");
        assert!(said[0].starts_with("files/a/also: the symbolic link leads out of the image"), "{said:?}");
        assert!(said[1].starts_with("files/a/out:") && said[2].starts_with("files/pipe: it is no file"), "{said:?}");
        assert!(
            said[3].contains("files/a/b.makeimg.template: it and") && said[3].contains("both for /a/b"),
            "{said:?}"
        );
    }

    #[test]
    fn templates_are_checked_before_anything_is_built() {
        let project = Project::new(&[("files/a.makeimg.template", "x\n$nobody ${domain}\n")]);
        let inputs = scan(&project.path("files"), false).unwrap();
        assert_eq!(asked_for(&inputs).unwrap(), ["domain", "nobody"].map(str::to_owned).into());
        let variables = [("domain".to_owned(), String::new())].into();
        let problems = check_templates(&inputs, &variables).unwrap_err();
        let said = project.short(&problems[0]);
        assert!(said.starts_with("files/a.makeimg.template:2: `nobody` is not set; set it in the IMGBUILD"), "{said}");
    }

    #[test]
    fn secrets_that_can_not_be_revealed() {
        let project = Project::new(&[("secrets/key.gpg", "hush")]);
        let problem = project.put("secrets", Some("echo no such key >&2; exit 3")).unwrap_err();
        let said = project.short(&problem);
        assert!(said.contains("secrets/key.gpg: can't be revealed") && said.contains("no such key"), "{said}");
        assert!(!said.contains("hush") && !project.path("image/key").exists());
    }
}
