//! The functions of an IMGBUILD: `setup` and `cleanup` on the building machine, `provision` in the image.

use std::path::Path;

use crate::chroot::{self, Chroot};
use crate::command::{Context, Ended, Tool};
use crate::imgbuild::Imgbuild;
use crate::problem::{Doing, Problem};
use crate::settings::VARIABLES;
use crate::shell;

/// Where an image has the functions while `provision` runs.
const IN_IMAGE: &str = "/run/makeimg/IMGBUILD";
/// Where it has the values of the variables then, which may be secrets.
const VALUES_IN_IMAGE: &str = "/run/makeimg/values";

const SCRIPT: &str = include_str!("function.sh");

/// Runs a function on the building machine, in the project's directory, with these variables and those of the caller's
/// environment that mean nothing to makeimg. `work` is a directory that nobody else can look into.
///
/// # Errors
/// It failed, or the build was cancelled.
pub fn here(
    context: &Context,
    imgbuild: &Imgbuild,
    function: &'static str,
    work: &Path,
    variables: &[(&str, &Path)],
) -> Result<(), Problem> {
    let [values, functions] = ["values", "functions"].map(|name| work.join(name));
    for (path, text) in [(&values, &imgbuild.values.script(false)), (&functions, &imgbuild.script.text)] {
        std::fs::write(path, text).doing(|| format!("writing {}", path.display()))?;
    }
    let dir = imgbuild.path.parent().unwrap_or_else(|| Path::new("/"));
    let mut tool = Tool::new(shell::SHELL).dir(dir).args(["-c", SCRIPT]).arg(&imgbuild.path);
    tool = VARIABLES.iter().fold(tool, |tool, name| tool.without(name));
    for (name, value) in variables {
        tool = tool.env(name, value);
    }
    let shown = [&*imgbuild.path, &functions];
    run(context, imgbuild, function, tool.arg(&values).arg(&functions).arg(function), shown)
}

/// Runs `provision` in the image.
///
/// # Errors
/// It failed, or the build was cancelled.
pub fn provision(context: &Context, imgbuild: &Imgbuild, chroot: &Chroot<'_>) -> Result<(), Problem> {
    let values = imgbuild.values.script(true);
    for (path, text) in [(VALUES_IN_IMAGE, &values), (IN_IMAGE, &imgbuild.script.text)] {
        let written = chroot.image().write(Path::new(path), text.as_bytes(), 0o600);
        written.doing(|| format!("writing {path} in the image"))?;
    }
    let tool = chroot.command(shell::SHELL).args(["-c", SCRIPT, IN_IMAGE, VALUES_IN_IMAGE, IN_IMAGE, "provision"]);
    let tool = chroot::with_proxies(chroot::environment(tool));
    run(context, imgbuild, "provision", tool, [Path::new(IN_IMAGE); 2])
}

/// Runs a shell that says one of `shown` for the functions' path: dash its own name, others that of the file.
fn run(
    context: &Context,
    imgbuild: &Imgbuild,
    function: &'static str,
    tool: Tool,
    shown: [&Path; 2],
) -> Result<(), Problem> {
    let mut place = None;
    let ended = tool.watch(context, |line| {
        let located = shown.iter().find_map(|shown| shell::located(shown, line));
        let located = located.and_then(|(number, what)| Some((imgbuild.script.place(number)?, what)));
        match located {
            Some(((file, number), what)) => {
                context.report.output(format!("{}:{number}: {what}", file.display()));
                place = Some((file, number, what));
            }
            None => context.report.output(line),
        }
    })?;
    let Err(Ended { status, last }) = ended else { return Ok(()) };
    let failed = format!("{function}() failed ({status})");
    // The shell names the line at which it failed in its last message.
    if let Some((file, line, what)) = place
        && last.last().is_some_and(|last| last.ends_with(&what))
    {
        return Err(Problem::new(file, Some(line), format!("{failed}: {what}")));
    }
    let said = last.last().map(|line| format!(": {line}")).unwrap_or_default();
    Err(Problem::new(&imgbuild.path, imgbuild.line_of(function), format!("{failed}{said}")))
}
