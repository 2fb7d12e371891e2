//! `anemos base`: the lock, the image, and the cache that uploads are taken from.

use std::fs::{self, File};
use std::io::{BufReader, IsTerminal, Write};
use std::path::Path;
use std::sync::Arc;

use anemos_base::{BaseList, DEBIAN_KEYRING, Progress, Resolve, SNAPSHOT_ID, Time};

use super::{CommandError, Status, line};
use crate::cli::Base;
use crate::embed;
use crate::run::base::{self, Doing, Showing};
use crate::screen;

pub(super) async fn run(args: Base) -> Result<Status, CommandError> {
    tokio::task::spawn_blocking(move || match args {
        Base::Lock { list, output, mirror } => lock(&list, &output, mirror.as_deref()),
        Base::Build { lock, output, mirror, snapshot } => {
            if snapshot.as_ref().is_some_and(|url| !url.contains(SNAPSHOT_ID)) {
                return Err(CommandError::bad_input(format!("--snapshot must have {SNAPSHOT_ID} where the time goes")));
            }
            let (lock, _) = embed::lock(lock.as_deref()).map_err(CommandError::bad_input)?;
            let output = match output {
                Some(output) => output,
                None => base::cache_path(&lock)?,
            };
            base::build(&lock, &output, (mirror.as_deref(), snapshot.as_deref()), &showing())?;
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

/// [`show`], for whoever builds.
pub(super) fn showing() -> Showing {
    Arc::new(show)
}

/// Shows what takes its time: how far the building of an image is only on a terminal.
fn show(doing: Doing<'_>) {
    let on_terminal = |text: std::fmt::Arguments<'_>| {
        if std::io::stderr().is_terminal() {
            // Only for the eye.
            let _ = write!(std::io::stderr(), "\r\x1b[K{text}");
        }
    };
    match doing {
        Doing::Building(Progress { done, total, package, .. }) => on_terminal(format_args!("{done}/{total} {package}")),
        Doing::Built => on_terminal(format_args!("")),
        Doing::Asking(hosts) => screen::note(&format!("asking ssh how to reach {hosts} hosts")),
        Doing::Packing(payload) => screen::note(&format!("packing {}", payload.display())),
    }
}

fn lock(list: &Path, output: &Path, mirror: Option<&str>) -> Result<Status, CommandError> {
    let text = fs::read_to_string(list).map_err(|e| CommandError::bad_input(format!("{}: {e}", list.display())))?;
    let list = BaseList::parse(&list.display().to_string(), &text).map_err(CommandError::bad_input)?;
    let mirror = base::mirrors(mirror)?.remove(0);
    let how = Resolve { mirror, keyring: DEBIAN_KEYRING.into(), made: Time::now() };
    let made = anemos_base::resolve(&list, &how, &base::fetcher(), &mut |p| show(Doing::Building(&p)));
    show(Doing::Built);
    let made = made.map_err(CommandError::bad_input)?;
    fs::write(output, made.to_text()).map_err(|e| CommandError::bad_input(format!("{}: {e}", output.display())))?;
    line(format_args!("{}: {} packages, image {} bytes", output.display(), made.packages.len(), made.image_size));
    Ok(Status::Done)
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
