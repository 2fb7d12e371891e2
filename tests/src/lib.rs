//! The lab: ordinary Debian machines in QEMU, a package archive on loopback, and ways to make both fail.
//!
//! Everything the lab makes is under one directory ([`Lab::dir`]): the key that opens its machines, host images, booted
//! snapshots, the package archive, and one directory for each machine that ran, with its serial log.
//! Guests talk to the lab and to nothing else.

pub mod accel;
pub mod anemos;
pub mod arch;
pub mod archive;
pub mod base;
pub mod bench;
pub mod command;
mod error;
pub mod evidence;
pub mod image;
pub mod impostor;
pub mod kin;
pub mod link;
pub mod machine;
pub mod netns;
pub mod proxy;
mod qemu;
pub mod snapshot;
pub mod ssh;
pub mod tools;
mod watch;

pub use error::{Context, Error, Result};
pub use image::System;
pub use machine::{Firmware, Machine, Net, Spec};

use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// The lab's directory, and what is found there.
#[derive(Debug, Clone)]
pub struct Lab {
    dir: PathBuf,
}

impl Lab {
    /// Opens the lab in `$ANEMOS_LAB`, or in `.lab` of the checkout, and makes its directory and key if they are
    /// missing.
    pub fn open() -> Result<Self> {
        let dir = match std::env::var_os("ANEMOS_LAB") {
            Some(dir) => PathBuf::from(dir),
            None => checkout().join(".lab"),
        };
        fs::create_dir_all(&dir).context(format!("cannot make {}", dir.display()))?;
        let dir = dir.canonicalize().context(format!("cannot resolve {}", dir.display()))?;
        let lab = Self { dir };
        let _lock = lab.lock("key")?;
        ssh::ensure_key(&lab.key())?;
        machine::remove_orphaned_disks(&lab.path("machines"));
        Ok(lab)
    }

    /// The lab's directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The private key that root's authorized_keys on the host images names.
    pub fn key(&self) -> PathBuf {
        self.dir.join("id_ed25519")
    }

    /// A path inside the lab.
    pub fn path(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.dir.join(relative)
    }

    /// Waits until nobody else in any process makes the thing called `name`; the file is the lock.
    pub fn lock(&self, name: &str) -> Result<File> {
        let path = self.dir.join(format!("{name}.lock"));
        let file = File::create(&path).context(format!("cannot open {}", path.display()))?;
        file.lock().context(format!("cannot lock {}", path.display()))?;
        Ok(file)
    }
}

/// The root of the checkout that this crate was built from.
pub fn checkout() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate is in a folder of the workspace").to_owned()
}
