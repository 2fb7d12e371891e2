//! `anemos base`: the lock, the image, and the cache that uploads are taken from.

use std::fs::{self, File};
use std::io::{BufReader, IsTerminal, Write};
use std::path::Path;
use std::sync::Arc;

use anemos_base::{BaseList, DEBIAN_KEYRING, Left, Lock, Progress, Resolve, SNAPSHOT_ID, Security, Sources};

use super::{CommandError, Status, line};
use crate::cli::{Base, BasePlaces, LockPlaces};
use crate::embed;
use crate::paths::directory_of;
use crate::run::base::{self, Doing, Places, Showing};
use crate::screen;

pub(super) async fn run(args: Base) -> Result<Status, CommandError> {
    tokio::task::spawn_blocking(move || match args {
        Base::Lock { list, output, places } => {
            if places.snapshot.as_ref().is_some_and(|url| !anemos_base::is_template(url)) {
                return Err(CommandError::bad_input(format!(
                    "--snapshot must be an address of http or https without a password, with {SNAPSHOT_ID} where the \
                     time goes"
                )));
            }
            lock(&list, &output, places)
        }
        Base::Build { lock, needs, output, places } => {
            let places = of_a_time(&places)?;
            let lock = embed::lock(lock.as_deref()).map_err(CommandError::bad_input)?;
            // All groups where none is named: whoever serves them doesn't know who needs which.
            let lock =
                if needs.is_empty() { lock } else { lock.narrowed(Some(&needs)).map_err(CommandError::bad_input)? };
            let files = match output {
                Some(output) if !output.is_dir() => {
                    has_directory(&output)?;
                    base::build(&lock, &output, places, &showing())?;
                    vec![output]
                }
                Some(directory) => base::build_each(&lock, &directory, places, &showing())?,
                None => base::build_each(&lock, &base::cache()?, places, &showing())?,
            };
            for file in files {
                line(file.display());
            }
            Ok(Status::Done)
        }
        Base::Check { lock, places } => {
            let places = of_a_time(&places)?;
            let lock = embed::lock(lock.as_deref()).map_err(CommandError::bad_input)?;
            check(&lock, places)
        }
        Base::Verify { image, lock } => {
            let lock = embed::lock(lock.as_deref()).map_err(CommandError::bad_input)?;
            verify(&lock, &image)
        }
    })
    .await
    .map_err(CommandError::internal)?
}

/// Refuses a file whose directory is not there, before what takes long is done for it.
fn has_directory(file: &Path) -> Result<(), CommandError> {
    let dir = directory_of(file);
    if dir.is_dir() {
        return Ok(());
    }
    Err(CommandError::bad_input(format!("{}: there is no directory {}", file.display(), dir.display())))
}

/// [`show`], for whoever builds.
pub(super) fn showing() -> Showing {
    Arc::new(show)
}

/// Shows on a terminal how far something is; nothing ends it.
fn on_terminal(text: std::fmt::Arguments<'_>) {
    if std::io::stderr().is_terminal() && !screen::is_quiet() {
        // Only for the eye.
        let _ = write!(std::io::stderr(), "\r\x1b[K{text}");
    }
}

/// Shows what takes its time: how far the building of an image is only on a terminal.
fn show(doing: Doing<'_>) {
    match doing {
        Doing::Building(Progress { done, total, package, .. }) => on_terminal(format_args!("{done}/{total} {package}")),
        Doing::Built => on_terminal(format_args!("")),
        Doing::Asking(hosts) => screen::note(&format!("asking ssh how to reach {hosts} hosts")),
        Doing::Packing(payload) => screen::note(&format!("packing {}", payload.display())),
    }
}

/// What was said of the places, if the archive of past versions can be one.
fn of_a_time(said: &BasePlaces) -> Result<Places<'_>, CommandError> {
    let BasePlaces { mirror, security_mirror, snapshot } = said;
    if snapshot.as_ref().is_some_and(|url| !url.contains(SNAPSHOT_ID)) {
        return Err(CommandError::bad_input(format!("--snapshot must have {SNAPSHOT_ID} where the time goes")));
    }
    Ok(Places { mirror: mirror.as_deref(), security_mirror: security_mirror.as_deref(), snapshot: snapshot.as_deref() })
}

/// Says which groups' images a file has. One that is of no group is an error, as is a file without any.
fn verify(lock: &Lock, image: &Path) -> Result<Status, CommandError> {
    let wrong = |why: String| CommandError::bad_input(format!("{}: {why}", image.display()));
    let file = File::open(image).map_err(|e| wrong(e.to_string()))?;
    let found = anemos_base::images_in(lock, BufReader::new(file)).map_err(|e| wrong(e.to_string()))?;
    for group in found {
        line(format_args!(
            "{} has the image of the group {}: SHA-256 {}, {} bytes",
            image.display(),
            group.name,
            group.image,
            group.image_size
        ));
    }
    Ok(Status::Done)
}

fn check(lock: &Lock, places: Places<'_>) -> Result<Status, CommandError> {
    let total = lock.all_packages().count();
    let all_left = base::left(lock, places, &mut |done| on_terminal(format_args!("{done}/{total}")));
    on_terminal(format_args!(""));
    let all_left = all_left?;
    for Left { name, version, still } in &all_left {
        match still {
            Ok(url) => line(format_args!("{name} {version} has left the mirror; it is at {url}")),
            Err(why) => line(format_args!("{name} {version} has left the mirror; {why}")),
        }
    }
    match all_left.len() {
        0 => {
            line(format_args!("all {total} packages are at the mirror"));
            return Ok(Status::Done);
        }
        left if left == total => line(format_args!("none of the {total} packages is there: this may be no mirror")),
        left => line(format_args!("{left} of {total} packages have left the mirror")),
    }
    Ok(Status::Left)
}

/// In place of an address: the lock is meant to have no security updates.
const NONE: &str = "none";

fn lock(list: &Path, output: &Path, places: LockPlaces) -> Result<Status, CommandError> {
    let LockPlaces { mirror, security_mirror, snapshot } = places;
    let text = fs::read_to_string(list).map_err(|e| CommandError::bad_input(format!("{}: {e}", list.display())))?;
    has_directory(output)?;
    let list = BaseList::parse(&list.display().to_string(), &text).map_err(CommandError::bad_input)?;
    let mirror = base::mirrors(mirror.as_deref())?.remove(0);
    let (fetcher, own) = (base::fetcher(), base::own_security());
    let security = match security_mirror.as_deref() {
        Some(NONE) => Security::Without,
        Some(named) => Security::At(named),
        None => Security::Find(&own),
    };
    let sources = Sources::find(&list.suite, &mirror, security, &fetcher).map_err(CommandError::bad_input)?;
    if sources.security.is_none() && security_mirror.is_none() {
        screen::note(&format!(
            "the lock has no security updates: neither beside the mirror nor in this machine's apt sources is a \
             {}-security; name its archive with --security-mirror, or say `{NONE}`",
            list.suite
        ));
    }
    let how = Resolve { sources, keyring: DEBIAN_KEYRING.into(), snapshot };
    let made = anemos_base::resolve(&list, &how, &fetcher, &mut |p| show(Doing::Building(&p)));
    show(Doing::Built);
    let made = made.map_err(CommandError::bad_input)?;
    fs::write(output, made.to_text()).map_err(|e| CommandError::bad_input(format!("{}: {e}", output.display())))?;
    for group in &made.groups {
        line(format_args!(
            "{}: {} packages, {} bytes to download, image {} bytes",
            group.name,
            group.packages.len(),
            group.download_size(),
            group.image_size
        ));
    }
    let (packages, size) = (made.packages().count(), made.image_size());
    line(format_args!("{}: {packages} packages, images {size} bytes", output.display()));
    Ok(Status::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_snapshot_archive_is_of_a_time() {
        let snapshot = Some("http://127.0.0.1:1/debian/".into());
        let places = BasePlaces { mirror: None, security_mirror: None, snapshot };
        let build = Base::Build { lock: None, needs: Vec::new(), output: Some("/nonexistent/image".into()), places };
        let error = run(build).await.map(|_| ()).unwrap_err();
        assert!(error.message.starts_with("--snapshot must have @SNAPSHOTID@"), "{}", error.message);
    }

    #[tokio::test]
    async fn a_lock_names_no_password() {
        let snapshot = Some("https://me:secret@past.example/@SNAPSHOTID@/".into());
        let places = LockPlaces { mirror: None, security_mirror: None, snapshot };
        let error = run(Base::Lock { list: "/nonexistent".into(), output: "/nonexistent".into(), places }).await;
        let message = error.map(|_| ()).unwrap_err().message;
        assert!(message.contains("without a password") && !message.contains("secret"), "{message}");
    }

    #[tokio::test]
    async fn a_lock_is_checked_against_a_mirror() {
        let dir = tempfile::tempdir().unwrap();
        let (lock, mirror) = (dir.path().join("my.lock"), dir.path().join("mirror"));
        let hash = "0".repeat(64);
        let package = |name: &str| {
            let path = format!("path = \"pool/{name}.deb\", size = 1, sha256 = \"{hash}\"");
            format!("packages = [{{ name = \"{name}\", version = \"1\", {path} }}]\n")
        };
        let (image, kernel) = (package("a"), package("linux"));
        let text = format!(
            "format = 1\narch = \"amd64\"\nsuite = \"trixie\"\nmade = \"2026-01-02T03:04:05Z\"\n\
             image = \"{hash}\"\nimage_size = 1\nskeleton = \"{hash}\"\n{image}[kernel]\nrelease = \"6\"\n{kernel}"
        );
        fs::write(&lock, text).unwrap();
        fs::create_dir_all(mirror.join("pool")).unwrap();
        let check = |mirror: String| {
            let snapshot = Some(format!("{}/past/@SNAPSHOTID@/", dir.path().display()));
            let places = BasePlaces { mirror: Some(mirror), security_mirror: None, snapshot };
            run(Base::Check { lock: Some(lock.clone()), places })
        };
        let here = format!("file://{}", mirror.display());
        for (name, status, code) in [("", Status::Left, 1), ("linux", Status::Left, 1), ("a", Status::Done, 0)] {
            fs::write(mirror.join(format!("pool/{name}.deb")), "x").unwrap();
            let found = check(here.clone()).await.unwrap();
            assert_eq!((found, found.code()), (status, code), "{name}");
        }
        // One that can't be asked is not one that packages have left.
        let error = check("http://127.0.0.1:1/debian".to_owned()).await.map(|_| ()).unwrap_err();
        assert_eq!(error.status, Status::BadInput);
        assert!(error.message.starts_with("whether packages have left is not known: pool/"), "{}", error.message);
    }
}
