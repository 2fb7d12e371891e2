//! The functions of an IMGBUILD: `setup` and `cleanup` on the building machine, `provision` in the image.

use std::path::Path;

use crate::chroot::{self, Chroot};
use crate::command::{Context, Ended, Tool};
use crate::imgbuild::Imgbuild;
use crate::problem::{Doing, Problem};
use crate::settings::VARIABLES;
use crate::shell;

/// Where an image has the IMGBUILD while `provision` runs.
const IN_IMAGE: &str = "/run/makeimg/IMGBUILD";

const SCRIPT: &str = include_str!("function.sh");

/// Runs a function on the building machine, in the project's directory, with these variables and those of the caller's
/// environment that mean nothing to makeimg.
///
/// # Errors
/// It failed, or the build was cancelled.
pub fn here(
    context: &Context,
    imgbuild: &Imgbuild,
    function: &'static str,
    variables: &[(&str, &Path)],
) -> Result<(), Problem> {
    let dir = imgbuild.path.parent().unwrap_or_else(|| Path::new("/"));
    let mut tool = Tool::new(shell::SHELL).dir(dir).args(["-c", SCRIPT]).arg(&imgbuild.path);
    tool = VARIABLES.iter().fold(tool, |tool, name| tool.without(name));
    for (name, value) in variables {
        tool = tool.env(name, value);
    }
    run(context, imgbuild, function, tool, &imgbuild.path.to_string_lossy())
}

/// Runs `provision` in the image. The IMGBUILD is read anew there, so what stands outside of functions runs there too.
///
/// # Errors
/// It failed, or the build was cancelled.
pub fn provision(context: &Context, imgbuild: &Imgbuild, chroot: &Chroot<'_>) -> Result<(), Problem> {
    let text = std::fs::read(&imgbuild.path).doing(|| format!("reading {}", imgbuild.path.display()))?;
    let inside = chroot.image();
    inside.write(Path::new(IN_IMAGE), &text[..], 0o644).doing(|| format!("writing {IN_IMAGE} in the image"))?;
    let tool = chroot.command(shell::SHELL).args(["-c", SCRIPT, IN_IMAGE]);
    run(context, imgbuild, "provision", chroot::with_proxies(chroot::environment(tool)), IN_IMAGE)
}

/// Runs a shell that says `shown` for the IMGBUILD's path.
fn run(context: &Context, imgbuild: &Imgbuild, function: &'static str, tool: Tool, shown: &str) -> Result<(), Problem> {
    let format = imgbuild.other_format.as_deref().unwrap_or_default();
    let tool = tool.env("MAKEIMG_FUNCTION", function).env("MAKEIMG_FORMAT", format);
    let mut place = None;
    let ended = tool.watch(context, |line| {
        let located = shell::located(Path::new(shown), line);
        match located {
            Some((number, what)) => {
                context.report.output(format!("{}:{number}: {what}", imgbuild.path.display()));
                place = Some((number, what));
            }
            None => context.report.output(line),
        }
    })?;
    let Err(Ended { status, last }) = ended else { return Ok(()) };
    let failed = format!("{function}() failed ({status})");
    // The shell names the line at which it failed in its last message.
    if let Some((line, what)) = place
        && last.last().is_some_and(|last| last.ends_with(&what))
    {
        return Err(Problem::new(&imgbuild.path, Some(line), format!("{failed}: {what}")));
    }
    let said = last.last().map(|line| format!(": {line}")).unwrap_or_default();
    Err(Problem::new(&imgbuild.path, imgbuild.line_of(function), format!("{failed}{said}")))
}
