//! A repository for pacman, made of Debian's files: what it has is no Arch, but pacman installs it, and it boots. Its
//! packages are signed, by a key that comes with its package of keys.

use crate::archive;
use crate::command::run;
use crate::image;
use crate::machine::file_sha256;
use crate::{Context, Lab, Result, bail, checkout};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the system consists of that is packed.
const PACKAGES: &str = "systemd-sysv,udev,openssh-server,initramfs-tools,grub-pc-bin,grub-efi-amd64-bin,grub2-common,\
                        iproute2,kmod,procps,zstd,dosfstools,e2fsprogs,pacman-package-manager,gpg,gpg-agent,tzdata";

/// Makes the repository, unless it is there.
///
/// It is beside the archive, and [`archive::Server`] serves it as `/arch/…`. It has two states: below `older`, and
/// below `newer`, which has a newer kernel and GRUB. Returns the directory of the keyring that a project needs.
pub fn repository(lab: &Lab) -> Result<PathBuf> {
    archive::fill_if_missing(lab)?;
    let (older, newer) = archive::kernels(lab)?;
    let place = lab.path("archive/arch");
    let script = checkout().join("tests/src/arch/pack.sh");
    let wanted = format!("{PACKAGES} {older} {newer} {}\n", file_sha256(&script)?);
    let _lock = lab.lock("arch")?;
    if fs::read_to_string(place.join("stamp")).is_ok_and(|stamp| stamp == wanted) {
        return Ok(place.join("keys"));
    }
    let work = lab.path("arch.new");
    for dir in [&work, &place] {
        if dir.exists() {
            fs::remove_dir_all(dir).context(format!("cannot remove {}", dir.display()))?;
        }
    }
    fs::create_dir_all(&work).context(format!("cannot make {}", work.display()))?;
    image::minimal("trixie", PACKAGES, &work.join("tree"), &work.join("bootstrap.log"))?;
    archive::unpack(lab, "trixie", &["makepkg"], &work.join("makepkg"))?;
    for kernel in [&older, &newer] {
        let package = find(&lab.path("archive"), &format!("linux-image-{kernel}_"))?;
        run(Command::new("dpkg-deb").arg("-x").arg(package).arg(work.join(format!("kernel-{kernel}"))))?;
    }
    // What gpg starts ends with it.
    let mut pack = Command::new("unshare");
    pack.args(["--pid", "--fork", "--kill-child", "bash"]).arg(script);
    run(pack.arg(work.join("tree")).arg(&work).arg(&place).args([&older, &newer]))?;
    fs::write(place.join("stamp"), wanted).context("cannot write the repository's stamp")?;
    fs::remove_dir_all(&work).context(format!("cannot remove {}", work.display()))?;
    Ok(place.join("keys"))
}

/// The package in the archives whose file's name begins so.
fn find(dir: &Path, begin: &str) -> Result<PathBuf> {
    let found = run(Command::new("find").arg(dir).args(["-name", &format!("{begin}*.deb"), "-print", "-quit"]))?;
    match String::from_utf8_lossy(&found).trim() {
        "" => bail!("the archive has no {begin}…"),
        path => Ok(path.into()),
    }
}
