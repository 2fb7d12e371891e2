//! Encrypted file systems: where the project keeps their passphrases, and what must hold for a system that can open
//! them. docs/IMGBUILD.md is the manual.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::chroot::{Chroot, environment};
use crate::command::Context;
use crate::imgbuild::{Imgbuild, assignment};
use crate::inputs;
use crate::inside::Inside;
use crate::problem::Problem;
use crate::settings::Target;
use crate::volumes::{self, Luks, Volume, encrypted};
use crate::words::Bootloader;

/// The directory of a project that has a file for each passphrase.
pub(crate) const DIR: &str = "luks";

/// Debian's package of what opens them in an initramfs.
pub(crate) const PACKAGE: &str = "cryptsetup-initramfs";

/// A passphrase, which no `Debug` shows.
#[derive(Clone)]
pub struct Key(Vec<u8>);

impl fmt::Debug for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Key")
    }
}

impl Key {
    /// A file's last line end is its editor's.
    fn new(mut bytes: Vec<u8>, is_typed: bool) -> Result<Self, &'static str> {
        if bytes.last() == Some(&b'\n') {
            bytes.pop();
        }
        if bytes.is_empty() {
            return Err("it is empty");
        }
        if is_typed && bytes.iter().any(u8::is_ascii_control) {
            return Err("nobody can type it: it has several lines or characters that are none");
        }
        Ok(Self(bytes))
    }

    /// For a program's standard input.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// The file with a passphrase, which may be encrypted.
fn file(project: &Path, luks: &Luks) -> Option<PathBuf> {
    let dir = project.join(DIR);
    let names = inputs::ENCRYPTED.iter().map(|ending| format!("{}{ending}", luks.name));
    std::iter::once(luks.name.clone()).chain(names).map(|name| dir.join(name)).find(|path| path.is_file())
}

/// What keeps the system that an IMGBUILD describes from being encrypted, or from being opened when it starts.
pub fn problems(imgbuild: &Imgbuild) -> Vec<Problem> {
    let (settings, project) = (&imgbuild.settings, imgbuild.path.parent().unwrap_or_else(|| Path::new("/")));
    let volumes = &settings.filesystems;
    if encrypted(volumes).next().is_none() {
        return Vec::new();
    }
    let text = std::fs::read(&imgbuild.path).unwrap_or_default();
    let line = assignment(&String::from_utf8_lossy(&text), "filesystems");
    let problem =
        |what: String, hint: &str| Problem::new(&imgbuild.path, line, format!("filesystems: {what}")).hint(hint);
    let mut problems = Vec::new();
    if !matches!(settings.target, Target::Debian { .. }) {
        problems.push(problem("`luks=` is for target=debian only".into(), "what opens it at boot is Debian's"));
    } else if !settings.has_package(PACKAGE) {
        let what = format!("`luks=` takes {PACKAGE}, which opens it when the system starts");
        problems.push(problem(what, &format!("add {PACKAGE} to packages")));
    }
    let boot = volumes.iter().position(|volume| volume.path() == Some("/boot")).unwrap_or(0);
    if settings.bootloader != Some(Bootloader::None) && volumes[volumes::holder(volumes, boot)].luks.is_some() {
        let what =
            "/boot would be encrypted, where GRUB can't start from: it knows no Argon2, and asks before its menu";
        problems.push(problem(what.into(), "give /boot a line of its own without `luks=`, such as `/boot 1G ext4`"));
    }
    for luks in encrypted(volumes).filter(|luks| file(project, luks).is_none()) {
        let what = format!("luks={}: the project has no file {DIR}/{} with the passphrase", luks.name, luks.name);
        let hint = format!("make it, or {DIR}/{}.age and the like, which --reveal opens", luks.name);
        problems.push(problem(what, &hint));
    }
    problems
}

/// Reads the passphrases of all encrypted volumes, in their order. `reveal` is the command that opens secrets.
///
/// # Errors
/// One can't be revealed, or is none.
pub fn keys(
    context: &Context,
    project: &Path,
    volumes: &[Volume],
    reveal: Option<&str>,
) -> Result<Vec<(String, Key)>, Problem> {
    let key = |luks: &Luks| {
        let path = file(project, luks).unwrap_or_else(|| project.join(DIR).join(&luks.name));
        let bytes = inputs::reveal(context, &path, reveal)?;
        let key = Key::new(bytes, !luks.in_initramfs).map_err(|what| Problem::new(&path, None, what))?;
        Ok((luks.name.clone(), key))
    };
    encrypted(volumes).map(key).collect()
}

/// Has initramfs-tools put /etc/cryptsetup-keys.d into the initramfs, which only root can read then (cryptsetup's
/// README.initramfs, initramfs.conf(5)).
pub(crate) fn take_keys(image: &Inside) -> io::Result<()> {
    let conf = Path::new("etc/cryptsetup-initramfs/conf-hook");
    let mut text = if image.exists("etc/cryptsetup-initramfs/conf-hook") { image.read(conf)? } else { Vec::new() };
    text.extend_from_slice(
        b"\n# By makeimg, for `key=initramfs` of the IMGBUILD.\nKEYFILE_PATTERN=/etc/cryptsetup-keys.d/*.key\n",
    );
    image.write(conf, &text[..], 0o644)?;
    image.write(Path::new("etc/initramfs-tools/conf.d/makeimg-luks"), &b"UMASK=0077\n"[..], 0o644)
}

/// Makes the initramfs anew: when packages made it, there was no crypttab(5).
pub(crate) fn initramfs(context: &Context, chroot: &Chroot<'_>) -> Result<(), Problem> {
    if !chroot.image().exists("usr/share/initramfs-tools/hooks/cryptroot") {
        let what = format!("the image has no /usr/share/initramfs-tools/hooks/cryptroot, which {PACKAGE} brings");
        return Err(Problem::build(what).hint("initramfs-tools must make the initramfs of an encrypted system"));
    }
    environment(chroot.command("update-initramfs").args(["-u", "-k", "all"])).run(context)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::imgbuild;

    #[test]
    fn passphrases() {
        let key = |text: &str, is_typed| Key::new(text.into(), is_typed).map(|key| key.0);
        assert_eq!(key("hush hush\n", true), Ok("hush hush".into()));
        assert_eq!(key("hush\n\n", false), Ok("hush\n".into()));
        for (text, is_typed) in [("", false), ("\n", true), ("a\nb\n", true), ("a\r\n", true)] {
            assert!(key(text, is_typed).is_err(), "{text:?}");
        }
        assert_eq!(format!("{:?}", Key::new("hush".into(), true)), "Ok(Key)");
    }

    #[test]
    fn what_can_not_be_opened_is_told_before_anything_is_built() {
        let dir = tempfile::tempdir().unwrap();
        let said = |more: &str, lines: &str| {
            let text = format!("target=debian\n{more}\nfilesystems='\n{lines}\n'\n");
            std::fs::write(dir.path().join("IMGBUILD"), text).unwrap();
            let imgbuild = imgbuild::read(dir.path()).result.unwrap();
            problems(&imgbuild).iter().map(|problem| problem.what.clone()).collect::<Vec<_>>()
        };
        std::fs::create_dir(dir.path().join(DIR)).unwrap();
        std::fs::write(dir.path().join("luks/system.age"), "").unwrap();
        let package = "packages=cryptsetup-initramfs/trixie";
        assert_eq!(said(package, "/ luks=system\n/boot 1G"), [""; 0]);
        assert_eq!(said(&format!("{package}\nbootloader=none"), "/ luks=system"), [""; 0]);
        for (more, lines, what) in [
            ("", "/ luks=system\n/boot 1G", "filesystems: `luks=` takes cryptsetup-initramfs, which opens it when"),
            (package, "/ luks=system", "filesystems: /boot would be encrypted, where GRUB can't start from:"),
            (package, "/boot 1G luks=system", "filesystems: /boot would be encrypted, where GRUB can't start from:"),
            (
                package,
                "/srv 1G luks=srv",
                "filesystems: luks=srv: the project has no file luks/srv with the passphrase",
            ),
            ("target=alpine", "/srv 1G luks=system", "filesystems: `luks=` is for target=debian only"),
        ] {
            let said = said(more, lines);
            assert!(said.len() == 1 && said[0].starts_with(what), "{lines}: {said:?}");
        }
    }
}
