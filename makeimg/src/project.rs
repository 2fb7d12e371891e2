//! From a project's directory to what is to be built: everything is read and checked before anything is done.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::apt::Apt;
use crate::build::Job;
use crate::imgbuild::{self, FILE};
use crate::inputs::{self, Input};
use crate::luks;
use crate::output;
use crate::problem::{Doing, Problem};
use crate::settings;

/// What somebody asks for.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// Where the IMGBUILD is.
    pub project: PathBuf,
    /// What comes out, instead of what the IMGBUILD says, in the same words.
    pub format: Option<String>,
    /// Input directories, in order; the project's `files` if there are none.
    pub dirs: Vec<PathBuf>,
    /// The command that reveals secrets.
    pub reveal: Option<String>,
    /// A package archive's URL.
    pub mirror: Option<String>,
    /// The URL of the archive that has Debian's security updates, or `none`, in place of what the IMGBUILD says.
    pub security: Option<String>,
    /// The URL of an archive that may have Debian's security updates, for when neither of the above names one.
    pub known_security: Option<String>,
    /// Where the result goes.
    pub output_dir: PathBuf,
}

/// What reading a project leads to.
#[derive(Debug)]
pub struct Read {
    /// What is to be built, or everything that keeps it from being built.
    pub job: Result<Job, Vec<Problem>>,
    /// Warnings: what is allowed, but probably not meant.
    pub warnings: Vec<Problem>,
}

/// Reads a project.
pub fn read(request: &Request) -> Read {
    let reading = imgbuild::read_for(&request.project, request.format.as_deref());
    let warnings = reading.warnings;
    let mut problems = Vec::new();
    let (inputs, mut wrong) = scan(request);
    problems.append(&mut wrong);
    let imgbuild = match reading.result {
        Ok(imgbuild) => imgbuild,
        Err(mut wrong) => {
            wrong.append(&mut problems);
            return Read { job: Err(wrong), warnings };
        }
    };
    let mut variables = BTreeMap::new();
    match template_variables(&reading.variables, &inputs) {
        Ok(values) => variables = values,
        Err(problem) => problems.push(problem),
    }
    problems.extend(inputs::check_templates(&inputs, &variables).err().into_iter().flatten());
    let output_dir =
        match request.output_dir.canonicalize().doing(|| format!("finding {}", request.output_dir.display())) {
            Ok(dir) => dir,
            Err(problem) => {
                problems.push(problem);
                PathBuf::new()
            }
        };
    if let Some(project) = imgbuild.path.parent() {
        problems.extend(Apt::problems(project, &imgbuild.settings.packages));
        problems.extend(luks::problems(&imgbuild));
        let keyring = imgbuild.settings.debian_keyring.as_ref().map(|name| project.join(name));
        if let Some(keyring) = keyring.filter(|path| !path.is_file()) {
            problems.push(Problem::new(&keyring, None, "debian_keyring: there is no such file"));
        }
    }
    let urls =
        [(&request.mirror, settings::is_archive as fn(&str) -> bool), (&request.security, settings::is_security)];
    for (value, is_good) in urls {
        if let Some(value) = value.as_ref().filter(|value| !is_good(value)) {
            problems.push(
                Problem::build(format!("{value:?} is no archive's URL")).hint("such as https://example.org/debian"),
            );
        }
    }
    if !problems.is_empty() {
        return Read { job: Err(problems), warnings };
    }
    let work = output::work_dir(&output_dir, &imgbuild.settings.imgname);
    let Request { reveal, mirror, security, known_security, .. } = request.clone();
    let (cache, keep_failed) = (None, false);
    let job = Job {
        imgbuild,
        inputs,
        variables,
        reveal,
        mirror,
        security,
        known_security,
        output_dir,
        work,
        cache,
        keep_failed,
    };
    Read { job: Ok(job), warnings }
}

fn scan(request: &Request) -> (Vec<Input>, Vec<Problem>) {
    let (mut inputs, mut problems) = (Vec::new(), Vec::new());
    let default = request.project.join("files");
    let dirs = if request.dirs.is_empty() && default.exists() { vec![default] } else { request.dirs.clone() };
    let secrets = request.project.join("secrets");
    let secrets = secrets.exists().then_some((secrets, true));
    for (dir, secret) in dirs.into_iter().map(|dir| (dir, false)).chain(secrets) {
        let listed = match dir.canonicalize() {
            Ok(dir) => inputs::scan(&dir, secret),
            Err(e) => Err(vec![Problem::new(&dir, None, format!("can't be read: {e}"))]),
        };
        match listed {
            Ok(mut found) => inputs.append(&mut found),
            Err(mut wrong) => problems.append(&mut wrong),
        }
    }
    (inputs, problems)
}

/// The values of what templates ask for, as the IMGBUILD leaves them.
fn template_variables(all: &BTreeMap<String, String>, inputs: &[Input]) -> Result<BTreeMap<String, String>, Problem> {
    let names = inputs::asked_for(inputs)?;
    Ok(names.into_iter().filter_map(|name| Some((name.clone(), all.get(&name)?.clone()))).collect())
}

/// Whether a directory is a project's.
pub fn is_project(dir: &Path) -> bool {
    dir.join(FILE).exists()
}
