//! A note for the controller, to be read under the old system: a variable of the UEFI firmware, which outlives the RAM
//! system.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use anemos_proto::agent::NOTE;
use anemos_proto::ids::RunId;
use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};

/// Attributes of the variable (UEFI specification, `SetVariable`): non-volatile, accessible to boot services and at
/// runtime.
const ATTRIBUTES: [u8; 4] = [7, 0, 0, 0];

fn path() -> PathBuf {
    Path::new("/sys/firmware/efi/efivars").join(NOTE)
}

/// Notes that the machine leaves with nothing written, attempt `attempt` of the run being the newest.
pub fn write(run: &RunId, attempt: u32) {
    // A machine with a BIOS has no such variables.
    if !path().parent().is_some_and(Path::exists) {
        return;
    }
    let mut bytes = ATTRIBUTES.to_vec();
    bytes.extend(format!("{run} {attempt}").into_bytes());
    // efivarfs wants the whole variable, attributes first, in one write(2).
    let open = || fs::OpenOptions::new().write(true).create(true).truncate(false).open(path());
    if let Err(e) = release().and_then(|()| open()).and_then(|mut file| io::Write::write_all(&mut file, &bytes)) {
        crate::console::say(&format!("the firmware keeps no note of it that nothing was written: {e}"));
    }
}

/// Removes the note, if there is one.
pub fn remove() {
    let _ = release().and_then(|()| fs::remove_file(path()));
}

/// Clears the immutable flag, which efivarfs sets on every variable that the kernel doesn't know.
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
