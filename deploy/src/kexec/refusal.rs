//! Why the running kernel does not load another.

use std::io;
use std::os::fd::AsFd;

use anemos_host::Root;
use anemos_proto::host::KexecSupport;

use crate::error::Result;
use crate::gate::Gate;
use crate::kernel;

/// Why the running kernel does not load its own image by itself, where it wants signatures. Known only by trying: which
/// keys it checks them by depends on how it was built and on the firmware.
///
/// Nothing is tried where each load counts, or where somebody has loaded a kernel already, in whose place ours would
/// be.
pub fn of_own_image(root: &Root, gate: &Gate, support: &KexecSupport, release: &str) -> Result<Option<String>> {
    let signed = support.appraised || support.is_locked_down();
    let may_try = support.file_load && !support.disabled && support.loads_left.is_none();
    if !root.is_real() || !signed || !may_try || anemos_host::kexec::is_loaded(root) {
        return Ok(None);
    }
    // That it can't be found is told elsewhere.
    let Ok(image) = kernel::find(root, release) else { return Ok(None) };
    let name = image.name.clone();
    let (_, file) = image.read()?;
    let tried = gate.try_out(|| anemos_host::kexec::file_load(file.as_fd(), None, c""))?;
    Ok(tried.err().and_then(|error| is_about_signatures(&error).then(|| format!("{name}: {}", explain(&error)))))
}

/// Whether the kernel refuses an image for what it is, whoever loads it and whenever: `kimage_file_prepare_segments` in
/// kernel/kexec_file.c, and IMA's EACCES (security/integrity/ima/ima_main.c).
fn is_about_signatures(error: &io::Error) -> bool {
    let code = error.raw_os_error().unwrap_or_default();
    [libc::EPERM, libc::EACCES, libc::EKEYREJECTED, libc::ENOKEY, libc::ENODATA, libc::EBADMSG].contains(&code)
}

/// What the kernel's refusal means.
pub fn explain(error: &io::Error) -> String {
    let meaning = match error.raw_os_error() {
        Some(libc::EPERM) => {
            "the kernel forbids it: lockdown (Secure Boot), kernel.kexec_load_disabled, or missing privileges (a \
             container?)"
        }
        Some(libc::ENOSYS) => "the running kernel was built without it",
        Some(libc::EACCES | libc::EKEYREJECTED | libc::ENOKEY | libc::ENODATA | libc::EBADMSG) => {
            "the image's signature is missing or not trusted by the running kernel"
        }
        Some(libc::ENOEXEC) => "the running kernel does not take this image",
        Some(libc::ENOMEM | libc::EADDRNOTAVAIL) => "there is not enough memory in one piece",
        Some(libc::EBUSY) => "another kexec is under way",
        Some(libc::ETXTBSY) => "the image is being written",
        _ => return error.to_string(),
    };
    format!("{meaning} ({error})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_explained() {
        for (code, expected) in [
            (libc::EPERM, "lockdown"),
            (libc::ENOSYS, "built without it"),
            (libc::EKEYREJECTED, "signature"),
            (libc::EIO, "Input/output error"),
        ] {
            let text = explain(&io::Error::from_raw_os_error(code));
            assert!(text.contains(expected), "{text}");
        }
    }
}
