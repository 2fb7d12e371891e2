//! Updates and security updates: signed indexes that expire within days, and the packages that these have newer than
//! the suite.

use super::fill::{self, Apt, Indexes, SUITE, Source};
use super::{Filled, sources};
use crate::command::run;
use crate::{Context, Lab, Result, bail};
use std::fs;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What is left of an index's time when another is fetched: as long as scenarios may take.
const MARGIN: Duration = Duration::from_secs(12 * 3600);

/// Beside the archive: for what it was filled and until when it is good, in seconds since 1970.
const STAMP: &str = "archive/updates-stamp";
/// Two kernels, the older first.
const KERNELS: &str = "archive/kernels";

/// Versions of two cloud kernels in the archive, the older first; an update from one to the other is a real one.
pub fn kernels(lab: &Lab) -> Result<(String, String)> {
    let text = fs::read_to_string(lab.path(KERNELS)).context("the archive's kernels")?;
    match text.split_once(' ') {
        Some((older, newer)) => Ok((older.to_owned(), newer.to_owned())),
        None => bail!("the archive has no two kernels, but {text:?}"),
    }
}

/// Whether what is there is what is wanted, and apt would still take it.
pub(super) fn are_fresh(lab: &Lab, wanted: &str) -> bool {
    let text = fs::read_to_string(lab.path(STAMP)).unwrap_or_default();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let until = text.strip_prefix(wanted).and_then(|until| until.trim().parse().ok());
    until.is_some_and(|until| Duration::from_secs(until) > now + MARGIN)
}

/// Fetches them. What is there already is not fetched again.
pub(super) fn fill(lab: &Lab) -> Result<Filled> {
    let root = lab.path("archive");
    let main = Source::debian(SUITE)?;
    let mut updates = vec![Source { suite: format!("{SUITE}-updates"), ..main.clone() }];
    match sources::security_mirror()? {
        Some(uri) => updates.push(Source { uri, suite: format!("{SUITE}-security"), place: "debian-security" }),
        None => eprintln!("lab: this machine's apt sources have no security updates, so the archive has none"),
    }
    let apt = Apt::new(lab, &format!("{SUITE}-updates"), &updates, Indexes::AsSent)?;
    apt.update()?;
    let mut until = u64::MAX;
    for source in &updates {
        apt.publish_indexes(&root, source)?;
        let release = root.join(source.place).join("dists").join(&source.suite).join("Release");
        let release = fs::read_to_string(&release).context("cannot read the release file")?;
        if let Some(date) = release.lines().find_map(|line| line.strip_prefix("Valid-Until:")) {
            let seconds = run(Command::new("date").args(["-u", "+%s", "-d", date.trim()]))?;
            until = until.min(String::from_utf8_lossy(&seconds).trim().parse().context("the release file's date")?);
        }
    }
    updates.insert(0, main);
    let apt = Apt::new(lab, &format!("{SUITE}-all"), &updates, Indexes::Plain)?;
    apt.update()?;
    let kernels = newest(&apt.names("linux-image-")?);
    let (kernels, packages): (Vec<&str>, Vec<String>) =
        (kernels.iter().map(|kernel| &**kernel).collect(), kernels.iter().map(|kernel| image(kernel)).collect());
    let packages: Vec<&str> = packages.iter().map(String::as_str).collect();
    let filled = apt.fetch_missing(&apt.describe_all(&packages)?, &root)?;
    fs::write(lab.path(KERNELS), kernels.join(" ")).context("cannot write the archive's kernels")?;
    fs::write(lab.path(STAMP), format!("{}{until}\n", fill::identity()?))
        .context("cannot write the archive's stamp")?;
    Ok(filled)
}

fn image(kernel: &str) -> String {
    format!("linux-image-{kernel}")
}

/// The two newest kernels of the `cloud` kind, the older first.
fn newest(names: &[String]) -> Vec<String> {
    let numbers = |version: &str| -> Vec<u64> {
        version.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
    };
    let version = |name: &String| {
        let version = name.strip_prefix("linux-image-")?;
        (version.starts_with(|c: char| c.is_ascii_digit()) && version.ends_with("-cloud-amd64"))
            .then(|| version.to_owned())
    };
    let mut versions: Vec<String> = names.iter().filter_map(version).collect();
    versions.sort_by_key(|version| numbers(version));
    versions.split_off(versions.len().saturating_sub(2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_kernels_are_found() {
        let names = [
            "6.12.117+deb13-cloud-amd64",
            "6.9.5-cloud-amd64",
            "cloud-amd64",
            "6.12.118+deb13-amd64",
            "6.12.118+deb13-cloud-amd64",
        ];
        let names = names.map(image);
        assert_eq!(newest(&names), ["6.12.117+deb13-cloud-amd64", "6.12.118+deb13-cloud-amd64"]);
    }
}
