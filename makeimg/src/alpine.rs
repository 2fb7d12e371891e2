//! Alpine Linux, by apk(8).

use std::fs;
use std::path::{Path, PathBuf};

use crate::command::{Context, Tool};
use crate::inside::Inside;
use crate::problem::{Doing, Problem};
use crate::progress;

/// What is there without being named.
const BASE: &str = "alpine-base";

/// What the image may take from the building machine.
pub const HOSTCONF: [&str; 2] = ["keys", "repositories"];

/// Fills an empty directory. The project's `repositories` and `keys` say where packages come from and who signs them;
/// what is not there, and named in `hostconf`, is the building machine's. The image has them too.
///
/// # Errors
/// There is no list of repositories, or what the tool said.
pub fn bootstrap(
    context: &Context,
    project: &Path,
    hostconf: &[String],
    packages: &[String],
    root: &Path,
) -> Result<(), Problem> {
    let find = |name: &str| -> Option<PathBuf> {
        let theirs = hostconf.iter().any(|wanted| wanted == name).then(|| Path::new("/etc/apk").join(name));
        [Some(project.join(name)), theirs].into_iter().flatten().find(|path| path.exists())
    };
    let repositories = find("repositories").ok_or_else(|| {
        Problem::new(&project.join("repositories"), None, "can't be read: there is no such file")
            .hint("list the repositories' URLs there, one a line, or say hostconf=repositories on Alpine itself")
    })?;
    let image = Inside::open(root).doing(|| format!("opening {}", root.display()))?;
    let copy = |from: &Path, to: &str| {
        let put = fs::File::open(from).and_then(|file| image.write(Path::new(to), file, 0o644));
        put.doing(|| format!("copying {} into the image", from.display()))
    };
    copy(&repositories, "etc/apk/repositories")?;
    if let Some(keys) = find("keys") {
        let doing = || format!("reading {}", keys.display());
        for entry in fs::read_dir(&keys).doing(doing)? {
            let entry = entry.doing(doing)?;
            copy(&entry.path(), &format!("etc/apk/keys/{}", entry.file_name().to_string_lossy()))?;
        }
    }
    // apk finds both in the root that it is given.
    let tool = Tool::new("apk").arg("--root").arg(root).args(["--initdb", "--no-cache", "--no-progress", "add", BASE]);
    let tool = tool.args(packages.iter().filter(|name| *name != BASE));
    progress::watch(context, "apk", tool, progress::counted, &["ERROR: "])
}
