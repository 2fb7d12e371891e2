//! The base's images, built once by `anemos base build`, for scenarios that are not about how a host comes by it.

use crate::anemos::Anemos;
use crate::archive::Server;
use crate::machine::{Machine, file_sha256};
use crate::{Context, Lab, Result, bail, checkout};
use serde::Deserialize;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

const BUILD: Duration = Duration::from_secs(600);

/// The directory with the images that base.lock describes, made now if there is none.
pub fn ensure(lab: &Lab) -> Result<PathBuf> {
    let _lock = lab.lock("base")?;
    let images = lab.path("archive/base").join(name()?);
    if images.exists() {
        return Ok(images);
    }
    let part = lab.path("archive/base/part");
    if part.exists() {
        fs::remove_dir_all(&part).context(format!("cannot remove {}", part.display()))?;
    }
    fs::create_dir_all(&part).context(format!("cannot make {}", part.display()))?;
    let server = Server::start(lab)?;
    let part_name = part.display().to_string();
    let anemos = Anemos::new(lab, "base")?;
    let built = anemos.run(["base", "build", "--mirror", &server.url(), "--output", &part_name], BUILD)?;
    if built.code() != 0 {
        bail!("the base's images can't be built: {}", built.stderr);
    }
    for image in built.stdout.lines() {
        let verified = anemos.run(["base", "verify", image], BUILD)?;
        if verified.code() != 0 {
            bail!("{image} is not what its lock says: {}", verified.stderr);
        }
    }
    fs::rename(&part, &images).context(format!("cannot make {}", images.display()))?;
    Ok(images)
}

/// The line of hosts.toml that has a host download the images from the archive's server.
pub fn from_url(lab: &Lab, machine: &Machine) -> Result<String> {
    ensure(lab)?;
    Ok(format!("base = {{ urls = [{:?}] }}\n", url(machine)?))
}

/// Puts the images into a workstation's cache, from where hosts get them that find them nowhere else. Gives the size of
/// those that a payload gets which doesn't say what it needs.
pub fn on_workstation(lab: &Lab, anemos: &Anemos) -> Result<u64> {
    let images = ensure(lab)?;
    let mut size = 0;
    for group in groups()? {
        let name = format!("base-{}.cpio.zst", group.image);
        let cached = anemos.write(&format!("home/.cache/anemos/{name}"), "")?;
        let copied = fs::copy(images.join(&name), &cached).context(format!("cannot fill {}", cached.display()))?;
        size += if group.on_demand { 0 } else { copied };
    }
    Ok(size)
}

/// A group of base.lock.
#[derive(Debug, Deserialize)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// SHA-256 of its image.
    pub image: String,
    /// Whether only payloads get it that name it.
    #[serde(default)]
    pub on_demand: bool,
    /// What it consists of.
    pub packages: Vec<Package>,
}

/// A package of base.lock.
#[derive(Debug, Deserialize)]
pub struct Package {
    /// Where it is in the archive.
    pub path: String,
}

/// The groups of the lock that ships.
pub fn groups() -> Result<Vec<Group>> {
    #[derive(Deserialize)]
    struct Lock {
        groups: Vec<Group>,
    }
    let path = checkout().join("base-initramfs/base.lock");
    let text = fs::read_to_string(&path).context(format!("cannot read {}", path.display()))?;
    let lock: Lock = toml::from_str(&text).context(format!("cannot understand {}", path.display()))?;
    Ok(lock.groups)
}

/// The address of the directory of images, as the guest sees it.
pub fn url(machine: &Machine) -> Result<String> {
    let archive = machine.archive_url();
    Ok(format!("{}/base/{}/", archive.trim_end_matches("/debian"), name()?))
}

/// Another lock has other images.
fn name() -> Result<String> {
    Ok(file_sha256(&checkout().join("base-initramfs/base.lock"))?[..16].to_owned())
}
