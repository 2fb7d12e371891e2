//! The files of a project that hide something, opened where a person sits.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::inputs;
use crate::luks;
use crate::problem::Problem;

/// The directory of a project whose files go into the image.
pub const DIR: &str = "secrets";

/// The files of a project that `--reveal` opens, in the order of their names, each with where it goes in the image;
/// passphrases go nowhere.
///
/// # Errors
/// Everything that can't be one.
pub fn files(project: &Path) -> Result<Vec<(PathBuf, Option<PathBuf>)>, Vec<Problem>> {
    let mut files = Vec::new();
    for (dir, is_for_image) in [(luks::DIR, false), (DIR, true)] {
        let dir = project.join(dir);
        if !dir.is_dir() {
            continue;
        }
        let found = inputs::scan(&dir, true)?.into_iter().filter(|input| input.kind == inputs::Kind::Secret);
        files.extend(found.map(|input| (input.source, is_for_image.then_some(input.path))));
    }
    Ok(files)
}

/// What a file hides, by a shell command. The command is in the foreground, so that it can ask whoever is at the
/// terminal for a passphrase.
///
/// # Errors
/// It can't be read, or the command fails.
pub fn reveal(path: &Path, command: &str) -> Result<Vec<u8>, Problem> {
    let failed = |why: String| Problem::new(path, None, format!("can't be revealed: {why}"));
    let hidden = std::fs::read(path).map_err(|error| failed(error.to_string()))?;
    let mut child = Command::new("sh")
        .args(["-c", command])
        .env("MAKEIMG_SECRET", path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| failed(format!("sh: {error}")))?;
    if let Some(mut stdin) = child.stdin.take() {
        // Whoever does not read it knows the secret by its name.
        std::thread::spawn(move || drop(stdin.write_all(&hidden)));
    }
    let output = child.wait_with_output().map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it says nothing");
    Err(failed(format!("{} ({})", said.trim(), output.status)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_hidden_is_found_and_opened() {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in [("secrets/etc/key.age", "uhfu\n"), ("luks/system", "zber\n"), ("files/etc/motd", "")] {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let files = files(dir.path()).unwrap();
        let [system, key] = ["luks/system", "secrets/etc/key.age"].map(|name| dir.path().join(name));
        assert_eq!(files, [(system.clone(), None), (key.clone(), Some("etc/key".into()))]);
        assert_eq!(reveal(&key, "tr a-z n-za-m").unwrap(), b"hush\n");
        assert_eq!(reveal(&system, "basename \"$MAKEIMG_SECRET\"").unwrap(), b"system\n");
        let problem = reveal(&key, "echo no such key >&2; exit 3").unwrap_err().to_string();
        assert!(problem.contains("etc/key.age: can't be revealed: no such key (exit status: 3)"), "{problem}");
    }
}
