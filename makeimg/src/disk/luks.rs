//! LUKS2 on partitions, by cryptsetup(8), which is told passphrases on its standard input.
//!
//! A machine's own disk is written through dm-crypt, so that nothing of it was ever there in the clear. An image is
//! encrypted when all is in it, by cryptsetup itself: that takes no device mapper, which kernels of containers and
//! small virtual machines lack.

use std::fmt::Write as _;
use std::fs;

#[cfg(feature = "images")]
use super::geometry::REDUCE;
use super::layout::Role;
use super::making::Disk;
use crate::command::{Context, Tool};
use crate::luks::Key;
use crate::problem::{Doing, Problem};
use crate::volumes::{self, Luks};

/// Argon2id as RFC 9106, 4, recommends where memory is scarce (64 MiB, 4 lanes): how much memory the building machine
/// has says nothing of the one that starts, and cryptsetup would take a GiB. It wants four passes at least.
const KDF: [&str; 8] =
    ["--pbkdf", "argon2id", "--pbkdf-memory", "65536", "--pbkdf-parallel", "4", "--pbkdf-force-iterations", "4"];

/// Encrypts with these words of cryptsetup's.
fn cryptsetup(words: &[&str], key: &Key) -> Tool {
    // Nobody answers what it would ask of a udev.
    let tool = Tool::new("cryptsetup").args(words).args(["--batch-mode", "--key-file", "-"]);
    tool.env("DM_DISABLE_UDEV", "1").input(key.bytes())
}

impl Disk {
    /// How a partition is encrypted, if it is.
    pub(super) fn luks(&self, role: Role) -> Option<&Luks> {
        let Role::Volume(index) = role else { return None };
        self.wanted.volumes[index].luks.as_ref()
    }

    fn key(&self, luks: &Luks) -> Result<&Key, Problem> {
        let found = self.wanted.keys.iter().find(|(name, _)| *name == luks.name);
        found.map(|(_, key)| key).ok_or_else(|| Problem::build(format!("luks={}: there is no passphrase", luks.name)))
    }

    /// The UUID of an encrypted partition, which is known before that is made.
    pub(super) fn luks_uuid(&self, luks: &Luks) -> Result<String, Problem> {
        if let Some(seed) = &self.wanted.seed {
            return Ok(seed.uuid(&format!("luks {}", luks.name)));
        }
        let file = "/proc/sys/kernel/random/uuid";
        fs::read_to_string(file).map(|uuid| uuid.trim().to_owned()).doing(|| format!("reading {file}"))
    }

    /// Encrypts a device that has nothing yet, and opens it. Returns the device that is in it.
    pub(super) fn open_luks(
        &self,
        context: &Context,
        luks: &Luks,
        (label, uuid): (&str, &str),
        device: &str,
    ) -> Result<String, Problem> {
        let (key, name) = (self.key(luks)?, &luks.name);
        // Where the kernel has them built in, or can't say, opening it tells.
        let _ = Tool::new("modprobe").args(["-a", "-q", "dm_mod", "dm_crypt"]).try_output(context);
        let format = ["luksFormat", "--type", "luks2", "--label", label, "--uuid", uuid];
        cryptsetup(&format, key).args(KDF).arg(device).run(context)?;
        let opened = format!("/dev/mapper/{name}");
        // An earlier attempt may have left it open.
        if fs::exists(&opened).unwrap_or(false) {
            Tool::new("cryptsetup").args(["close", name]).env("DM_DISABLE_UDEV", "1").run(context)?;
        }
        cryptsetup(&["open", "--type", "luks2"], key).args([device, name]).run(context)?;
        Ok(opened)
    }

    /// Encrypts partitions of an image in place. Their file systems leave [`REDUCE`] bytes.
    #[cfg(feature = "images")]
    pub(super) fn encrypt(&self, context: &Context, uuids: &[(Role, String)]) -> Result<(), Problem> {
        for part in &self.parts {
            let Some(luks) = self.luks(part.role) else { continue };
            let Role::Volume(index) = part.role else { continue };
            let volume = &self.wanted.volumes[index];
            context.report.step(format!("encrypt {}", volume.name()));
            let uuid = uuids.iter().find(|(role, _)| *role == part.role).map_or("", |(_, uuid)| uuid);
            let device = self.attach(context, part, 0)?;
            let words = ["reencrypt", "--encrypt", "--type", "luks2", "--label", &volume.label, "--uuid", uuid];
            let tool =
                cryptsetup(&words, self.key(luks)?).args(["--reduce-device-size", &format!("{}M", REDUCE >> 20)]);
            tool.args(KDF).arg(&device).run(context)?;
            Tool::new("losetup").args(["--detach", &device]).run(context)?;
        }
        Ok(())
    }

    /// What crypttab(5) says of it. All is opened in the initramfs, since what opens it later is in packages that not
    /// every release has.
    pub fn crypttab(&self) -> String {
        let mut text = String::new();
        for index in 0..self.wanted.volumes.len() {
            let role = Role::Volume(index);
            let uuid = self.made(role).and_then(|made| made.luks.as_ref());
            let (Some(luks), Some(uuid)) = (self.luks(role), uuid) else { continue };
            let key = if luks.in_initramfs { key_file(luks) } else { "none".into() };
            let _ = writeln!(text, "{} UUID={uuid} {key} luks,initramfs", luks.name);
        }
        text
    }

    /// Files with passphrases that the initramfs is to have, as paths and what is in them.
    pub fn key_files(&self) -> impl Iterator<Item = (String, &[u8])> {
        let in_initramfs = volumes::encrypted(&self.wanted.volumes).filter(|luks| luks.in_initramfs);
        in_initramfs.filter_map(|luks| Some((key_file(luks), self.key(luks).ok()?.bytes())))
    }
}

/// Where the system itself has a passphrase (crypttab(5)).
fn key_file(luks: &Luks) -> String {
    format!("/etc/cryptsetup-keys.d/{}.key", luks.name)
}
