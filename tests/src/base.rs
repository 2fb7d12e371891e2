//! The base image, built once by `anemos base build`, for scenarios that are not about how a host comes by it.

use crate::anemos::Anemos;
use crate::archive::Server;
use crate::machine::{Machine, file_sha256};
use crate::{Context, Error, Lab, Result, bail, checkout};
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

const BUILD: Duration = Duration::from_secs(600);

/// The image that base.lock describes, made now if there is none.
pub fn ensure(lab: &Lab) -> Result<PathBuf> {
    let _lock = lab.lock("base")?;
    let image = lab.path("archive/base").join(name()?);
    if image.exists() {
        return Ok(image);
    }
    let dir = lab.path("archive/base");
    fs::create_dir_all(&dir).context(format!("cannot make {}", dir.display()))?;
    let server = Server::start(lab)?;
    let part = dir.join("part");
    let part_name = part.display().to_string();
    let anemos = Anemos::new(lab, "base")?;
    let built = anemos.run(["base", "build", "--mirror", &server.url(), "--output", &part_name], BUILD)?;
    if built.code() != 0 {
        bail!("the base image can't be built: {}", built.stderr);
    }
    let verified = anemos.run(["base", "verify", &part_name], BUILD)?;
    if verified.code() != 0 {
        bail!("the base image is not what its lock says: {}", verified.stderr);
    }
    fs::rename(&part, &image).context(format!("cannot make {}", image.display()))?;
    Ok(image)
}

/// The line of hosts.toml that has a host download the image from the archive's server.
pub fn from_url(lab: &Lab, machine: &Machine) -> Result<String> {
    ensure(lab)?;
    Ok(format!("base = {{ urls = [{:?}] }}\n", url(machine)?))
}

/// Puts the image in a workstation's cache, from where hosts get it that find it nowhere else. Gives its size.
pub fn on_workstation(lab: &Lab, anemos: &Anemos) -> Result<u64> {
    let lock = fs::read_to_string(checkout().join("base-initramfs/base.lock")).context("base.lock")?;
    let image = lock.lines().find_map(|line| line.strip_prefix("image = "));
    let image = image.ok_or_else(|| Error::new("base.lock pins no image"))?;
    let cached = anemos.write(&format!("home/.cache/anemos/base-{}.cpio.zst", image.trim_matches('"')), "")?;
    fs::copy(ensure(lab)?, &cached).context(format!("cannot fill {}", cached.display()))
}

/// The image's address as the guest sees it.
pub fn url(machine: &Machine) -> Result<String> {
    let archive = machine.archive_url();
    Ok(format!("{}/base/{}", archive.trim_end_matches("/debian"), name()?))
}

/// Another lock has another image.
fn name() -> Result<String> {
    Ok(format!("{}.cpio.zst", &file_sha256(&checkout().join("base-initramfs/base.lock"))?[..16]))
}
