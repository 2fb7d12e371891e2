//! The base's images on this machine: built if need be, kept, and sent to hosts that can't build them.

use std::fs::{self, File};
use std::io::BufWriter;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anemos_base::{Archive, Fetcher, Group, Left, Limits, Lock, Mirrors, Progress, Proxies};

use super::error::RunError;
use crate::engine::Blob;

/// What takes its time before any host is met.
#[derive(Debug, Clone, Copy)]
pub enum Doing<'a> {
    /// A package is built into an image.
    Building(&'a Progress<'a>),
    /// The image is built, or can't be.
    Built,
    /// ssh is asked how to reach so many hosts.
    Asking(usize),
    /// A payload is packed.
    Packing(&'a Path),
}

/// Is told what takes its time.
pub type Showing = Arc<dyn Fn(Doing<'_>) + Send + Sync>;

/// Where packages come from, as far as it was said; the rest is what this machine knows.
#[derive(Debug, Clone, Copy, Default)]
pub struct Places<'a> {
    /// The package archive.
    pub mirror: Option<&'a str>,
    /// The archive of security updates.
    pub security_mirror: Option<&'a str>,
    /// The archive of past versions.
    pub snapshot: Option<&'a str>,
}

/// Small on the wire, and still a matter of a minute.
const LEVEL: i32 = 15;

/// The package archives to build from: the one given, or those of this machine's apt.
pub fn mirrors(given: Option<&str>) -> Result<Vec<String>, RunError> {
    let mirrors = match given {
        Some(mirror) => vec![mirror.to_owned()],
        None => anemos_base::mirrors_from_apt_sources(Path::new("/etc/apt")),
    };
    if mirrors.is_empty() {
        return Err(RunError::bad_input(
            "this machine's apt knows no Debian archive: name one as `mirror` in hosts.toml, or with `anemos base \
             build --mirror URL`",
        ));
    }
    Ok(mirrors)
}

/// The archives of security updates that this machine's apt has.
pub fn own_security() -> Vec<String> {
    anemos_base::security_from_apt_sources(Path::new("/etc/apt"))
}

/// An archive of past versions, from whoever on this machine knows one: its apt, or the apt in a base image that was
/// built here.
pub fn known_snapshot() -> Option<String> {
    anemos_base::snapshot_of_apt().or_else(|| anemos_base::snapshot_of_images(&cache_directory().ok()?))
}

/// A fetcher that goes to archives as this machine does.
pub fn fetcher() -> Fetcher {
    let fetcher = Fetcher::new(Limits::default());
    fetcher.go_through(Proxies::of_machine(Path::new("/etc/environment")));
    fetcher
}

/// The packages of a lock, from these places.
fn archive<'a>(fetcher: &'a Fetcher, lock: &Lock, places: Places<'a>) -> Result<Archive<'a>, RunError> {
    let main = mirrors(places.mirror)?;
    let mirrors = match places.security_mirror {
        Some(security) => Mirrors { main, security: vec![security.to_owned()] },
        None => Mirrors::new(main, own_security()),
    };
    let told = places.snapshot.map(str::to_owned).or_else(|| lock.snapshot.clone());
    let snapshot = move || told.clone().or_else(known_snapshot);
    Ok(Archive::new(fetcher, lock, mirrors, snapshot))
}

/// The packages of a lock that have left the mirror. `looked` is told of how many this is known.
pub fn left(lock: &Lock, places: Places<'_>, looked: &mut dyn FnMut(usize)) -> Result<Vec<Left>, RunError> {
    let fetcher = fetcher();
    let archive = archive(&fetcher, lock, places)?;
    anemos_base::check(lock, &archive, looked)
        .map_err(|error| RunError::bad_input(format!("whether packages have left is not known: {error}")))
}

/// Builds the images, one after another, into a file, which is there only if all are whole.
pub fn build(lock: &Lock, output: &Path, places: Places<'_>, show: &Showing) -> Result<(), RunError> {
    let groups: Vec<&Group> = lock.groups.iter().collect();
    build_groups(lock, &groups, output, places, show)
}

/// Builds the image of each group that isn't there already into a file of its own in a directory. Gives the files.
pub fn build_each(lock: &Lock, directory: &Path, places: Places<'_>, show: &Showing) -> Result<Vec<PathBuf>, RunError> {
    let mut files = Vec::new();
    for group in &lock.groups {
        let file = directory.join(group.file_name());
        if !file.exists() {
            build_groups(lock, &[group], &file, places, show)?;
        }
        files.push(file);
    }
    Ok(files)
}

fn build_groups(
    lock: &Lock,
    groups: &[&Group],
    output: &Path,
    places: Places<'_>,
    show: &Showing,
) -> Result<(), RunError> {
    let io = |e: std::io::Error| RunError::bad_input(format!("{}: {e}", output.display()));
    let fetcher = fetcher();
    let archive = archive(&fetcher, lock, places)?;
    let mut partial = output.as_os_str().to_owned();
    partial.push(format!(".{}.partial", std::process::id()));
    let partial = PathBuf::from(partial);
    let mut file = BufWriter::new(File::create(&partial).map_err(io)?);
    let mut build =
        |group| anemos_base::build(lock, group, &archive, LEVEL, &mut file, &mut |p| show(Doing::Building(&p)));
    let built = groups.iter().try_for_each(|group| build(group).map(drop));
    show(Doing::Built);
    if let Err(error) = built {
        // What is left of it is of no use; that it stays is not the news.
        let _ = fs::remove_file(&partial);
        return Err(RunError::bad_input(error));
    }
    fs::rename(&partial, output).map_err(io)
}

/// Where images are kept on this machine.
fn cache_directory() -> Result<PathBuf, RunError> {
    let non_empty = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = non_empty("XDG_CACHE_HOME")
        .filter(|path| path.is_absolute())
        .or_else(|| non_empty("HOME").map(|home| home.join(".cache")))
        .ok_or_else(|| RunError::bad_input("neither XDG_CACHE_HOME nor HOME is set"))?;
    Ok(home.join("anemos"))
}

/// Where images are kept on this machine, made if need be.
pub fn cache() -> Result<PathBuf, RunError> {
    let cache = cache_directory()?;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&cache)
        .map_err(|e| RunError::bad_input(format!("{}: {e}", cache.display())))?;
    Ok(cache)
}

/// The images of a lock one after another, if all are in the cache.
pub fn cached_images(lock: &Lock) -> Result<Option<Blob>, RunError> {
    let cache = cache()?;
    let mut images = Vec::new();
    for group in &lock.groups {
        let path = cache.join(group.file_name());
        match fs::read(&path) {
            Ok(bytes) => images.extend(bytes),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(RunError::bad_input(format!("{}: {error}", path.display()))),
        }
    }
    Ok(Some(Blob::new(images)))
}

/// The same, built if need be.
pub async fn images(
    lock: &Lock,
    (mirror, snapshot): (Option<&str>, Option<&str>),
    show: &Showing,
) -> Result<Blob, RunError> {
    if let Some(blob) = cached_images(lock)? {
        return Ok(blob);
    }
    let (lock, mirror, snapshot) = (lock.clone(), mirror.map(str::to_owned), snapshot.map(str::to_owned));
    let show = Arc::clone(show);
    tokio::task::spawn_blocking(move || {
        let places = Places { mirror: mirror.as_deref(), snapshot: snapshot.as_deref(), ..Places::default() };
        build_each(&lock, &cache()?, places, &show)?;
        cached_images(&lock)?.ok_or_else(|| RunError::internal("an image that was just built is gone"))
    })
    .await
    .map_err(RunError::internal)?
}
