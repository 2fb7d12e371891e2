//! A shell in an image's tree, as `provision` would find it: that of a build that failed and was kept, or of any result
//! that is a directory.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use crate::chroot::{Chroot, environment, with_proxies};
use crate::command::{self, Tool};
use crate::inside::Inside;
use crate::problem::{Doing, Problem};

/// Where the tree of a build that failed is kept.
pub fn failed(output_dir: &Path, imgname: &str) -> PathBuf {
    output_dir.join(format!("{imgname}.failed"))
}

/// Runs a command in a tree, or a shell, with this process's terminal. `program` must call [`enter`] if its first
/// argument is `enter`. Returns its status.
///
/// # Errors
/// It can't be started.
pub fn shell(program: &Path, tree: &Path, words: &[String]) -> Result<ExitCode, Problem> {
    // What is mounted for it is seen by nobody else, and gone with it.
    let mut unshare = Command::new(command::find("unshare").unwrap_or_else(|| "unshare".into()));
    unshare.args(["--mount", "--propagation", "private", "--"]).arg(program).arg("enter").arg(tree).args(words);
    let status = unshare.status().doing(|| "starting unshare".into())?;
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    Ok(code.and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
}

/// The part of [`shell`] that runs in the namespace.
///
/// # Errors
/// The tree can't be prepared, or the shell can't be started.
pub fn enter(tree: &Path, words: &[String]) -> Result<ExitCode, Problem> {
    let image = Inside::open(tree).doing(|| format!("opening {}", tree.display()))?;
    let chroot = Chroot::new(&image)?;
    let shells = ["bin/bash", "bin/sh"];
    let shell = shells.iter().find(|shell| image.exists(shell)).map(|shell| format!("/{shell}"));
    let (first, rest) = match words.split_first() {
        Some((first, rest)) => (first.clone(), rest),
        None => (shell.ok_or_else(|| Problem::build(format!("{} has no shell", tree.display())))?, words),
    };
    let terminal = std::env::var("TERM").unwrap_or_else(|_| "linux".into());
    let tool: Tool = with_proxies(environment(chroot.command(&first))).args(rest).env("TERM", terminal);
    let status = tool.on_terminal()?;
    drop(chroot);
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
}
