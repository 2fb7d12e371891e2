//! `anemos base`: the lock, the image, and the cache that uploads are taken from.

use std::fs::{self, File};
use std::io::{BufReader, BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};

use anemos_base::{Archive, BaseList, DEBIAN_KEYRING, Fetcher, Limits, Lock, Progress, Resolve, SNAPSHOT_ID, Time};

use super::{CommandError, Status, line};
use crate::cli::Base;
use crate::embed;
use crate::engine::Blob;

/// Small on the wire, and still a matter of a minute.
const LEVEL: i32 = 15;

pub(super) async fn run(args: Base) -> Result<Status, CommandError> {
    tokio::task::spawn_blocking(move || match args {
        Base::Lock { list, output, mirror } => lock(&list, &output, mirror.as_deref()),
        Base::Build { lock, output, mirror, snapshot } => {
            if snapshot.as_ref().is_some_and(|url| !url.contains(SNAPSHOT_ID)) {
                return Err(CommandError::bad_input(format!("--snapshot must have {SNAPSHOT_ID} where the time goes")));
            }
            let (lock, _) = embed::lock(lock.as_deref()).map_err(CommandError::bad_input)?;
            let output = output.map_or_else(|| cache_path(&lock), Ok)?;
            build(&lock, &output, mirror.as_deref(), snapshot.as_deref())?;
            line(output.display());
            Ok(Status::Done)
        }
        Base::Verify { image, lock } => {
            let (lock, _) = embed::lock(lock.as_deref()).map_err(CommandError::bad_input)?;
            let file = File::open(&image).map_err(|e| CommandError::bad_input(format!("{}: {e}", image.display())))?;
            let found = anemos_base::verify(&lock, BufReader::new(file))
                .map_err(|e| CommandError::bad_input(format!("{}: {e}", image.display())))?;
            line(format_args!(
                "{} is the image of the lock: SHA-256 {}, {} bytes",
                image.display(),
                found.sha256,
                found.size
            ));
            Ok(Status::Done)
        }
    })
    .await
    .map_err(CommandError::internal)?
}

fn mirrors(given: Option<&str>) -> Result<Vec<String>, CommandError> {
    let mirrors = match given {
        Some(mirror) => vec![mirror.to_owned()],
        None => anemos_base::mirrors_from_apt_sources(Path::new("/etc/apt")),
    };
    if mirrors.is_empty() {
        return Err(CommandError::bad_input("this machine has no apt sources; name a package archive with --mirror"));
    }
    Ok(mirrors)
}

/// An archive of past versions, from whoever on this machine knows one: its apt, or the apt in a base image that was
/// built here.
pub(super) fn known_snapshot() -> Option<String> {
    anemos_base::snapshot_of_apt().or_else(|| anemos_base::snapshot_of_images(&cache_directory().ok()?))
}

fn show(progress: &Progress<'_>) {
    if std::io::stderr().is_terminal() {
        // Only for the eye.
        let _ = write!(std::io::stderr(), "\r\x1b[K{}/{} {}", progress.done, progress.total, progress.package);
    }
}

fn shown() {
    if std::io::stderr().is_terminal() {
        let _ = write!(std::io::stderr(), "\r\x1b[K");
    }
}

fn lock(list: &Path, output: &Path, mirror: Option<&str>) -> Result<Status, CommandError> {
    let text = fs::read_to_string(list).map_err(|e| CommandError::bad_input(format!("{}: {e}", list.display())))?;
    let list = BaseList::parse(&list.display().to_string(), &text).map_err(CommandError::bad_input)?;
    let mirror = mirrors(mirror)?.remove(0);
    let how = Resolve { mirror, keyring: DEBIAN_KEYRING.into(), made: Time::now() };
    let made = anemos_base::resolve(&list, &how, &Fetcher::new(Limits::default()), &mut |p| show(&p));
    shown();
    let made = made.map_err(CommandError::bad_input)?;
    fs::write(output, made.to_text()).map_err(|e| CommandError::bad_input(format!("{}: {e}", output.display())))?;
    line(format_args!("{}: {} packages, image {} bytes", output.display(), made.packages.len(), made.image_size));
    Ok(Status::Done)
}

/// Builds the image into a file, which is there only if it is whole.
fn build(lock: &Lock, output: &Path, mirror: Option<&str>, snapshot: Option<&str>) -> Result<(), CommandError> {
    let io = |e: std::io::Error| CommandError::bad_input(format!("{}: {e}", output.display()));
    let fetcher = Fetcher::new(Limits::default());
    let snapshot = || snapshot.map(str::to_owned).or_else(known_snapshot);
    let archive = Archive::new(&fetcher, lock, mirrors(mirror)?, snapshot);
    let mut partial = output.as_os_str().to_owned();
    partial.push(format!(".{}.partial", std::process::id()));
    let partial = PathBuf::from(partial);
    let file = File::create(&partial).map_err(io)?;
    let built = anemos_base::build(lock, &archive, LEVEL, BufWriter::new(file), &mut |p| show(&p));
    shown();
    if let Err(error) = built {
        // What is left of it is of no use; that it stays is not the news.
        let _ = fs::remove_file(&partial);
        return Err(CommandError::bad_input(error));
    }
    fs::rename(&partial, output).map_err(io)
}

/// Where images are kept on this machine.
fn cache_directory() -> Result<PathBuf, CommandError> {
    let non_empty = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = non_empty("XDG_CACHE_HOME")
        .filter(|path| path.is_absolute())
        .or_else(|| non_empty("HOME").map(|home| home.join(".cache")))
        .ok_or_else(|| CommandError::bad_input("neither XDG_CACHE_HOME nor HOME is set"))?;
    Ok(home.join("anemos"))
}

/// Where the image of a lock is kept on this machine.
fn cache_path(lock: &Lock) -> Result<PathBuf, CommandError> {
    let cache = cache_directory()?;
    fs::create_dir_all(&cache).map_err(|e| CommandError::bad_input(format!("{}: {e}", cache.display())))?;
    Ok(cache.join(format!("base-{}.cpio.zst", lock.image)))
}

/// The image, if it is in the cache.
pub(super) fn cached_image(lock: &Lock) -> Result<Option<Blob>, CommandError> {
    let path = cache_path(lock)?;
    match fs::read(&path) {
        Ok(bytes) => Ok(Some(Blob::new(bytes))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(CommandError::bad_input(format!("{}: {error}", path.display()))),
    }
}

/// The image, built if need be.
pub(super) async fn image(lock: &Lock, mirror: Option<&str>, snapshot: Option<&str>) -> Result<Blob, CommandError> {
    if let Some(blob) = cached_image(lock)? {
        return Ok(blob);
    }
    let (lock, mirror, snapshot) = (lock.clone(), mirror.map(str::to_owned), snapshot.map(str::to_owned));
    tokio::task::spawn_blocking(move || {
        build(&lock, &cache_path(&lock)?, mirror.as_deref(), snapshot.as_deref())?;
        cached_image(&lock)?.ok_or_else(|| CommandError::internal("the image that was just built is gone"))
    })
    .await
    .map_err(CommandError::internal)?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_snapshot_archive_is_of_a_time() {
        let snapshot = Some("http://127.0.0.1:1/debian/".into());
        let build = Base::Build { lock: None, output: Some("/nonexistent/image".into()), mirror: None, snapshot };
        let error = run(build).await.map(|_| ()).unwrap_err();
        assert!(error.message.starts_with("--snapshot must have @SNAPSHOTID@"), "{}", error.message);
    }
}
