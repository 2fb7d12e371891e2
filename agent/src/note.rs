//! A word for whoever comes after the machine has left RAM: a variable of the UEFI firmware.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use anemos_proto::agent::NOTE;
use anemos_proto::ids::RunId;
use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};

/// Non-volatile, for the boot and for the running system (UEFI specification, `SetVariable`).
const ATTRIBUTES: [u8; 4] = [7, 0, 0, 0];

fn path() -> PathBuf {
    Path::new("/sys/firmware/efi/efivars").join(NOTE)
}

/// Notes that the machine leaves with nothing written, attempt `attempt` of the run being the newest.
pub fn write(run: &RunId, attempt: u32) {
    // Machines with a BIOS have no place for it.
    if !path().parent().is_some_and(Path::exists) {
        return;
    }
    let mut bytes = ATTRIBUTES.to_vec();
    bytes.extend(format!("{run} {attempt}").into_bytes());
    // The kernel takes a variable whole, in one write.
    let open = || fs::OpenOptions::new().write(true).create(true).truncate(false).open(path());
    if let Err(e) = release().and_then(|()| open()).and_then(|mut file| io::Write::write_all(&mut file, &bytes)) {
        crate::console::say(&format!("the firmware keeps no note of it that nothing was written: {e}"));
    }
}

/// Removes the note, if there is one.
pub fn remove() {
    let _ = release().and_then(|()| fs::remove_file(path()));
}

/// The kernel makes variables that it doesn't know immutable.
fn release() -> io::Result<()> {
    match File::open(path()) {
        Ok(file) => {
            let flags = ioctl_getflags(&file)?;
            Ok(ioctl_setflags(&file, flags - IFlags::IMMUTABLE)?)
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
    }
}
