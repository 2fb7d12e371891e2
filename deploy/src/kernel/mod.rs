//! Finds the image of the running kernel, and checks that it is of that kernel.

use std::fs::File;
use std::io::Read;

use anemos_host::Root;

use crate::error::{Doing, Fault, Result};

/// A kernel image that boots.
#[derive(Debug)]
pub struct Image {
    /// Path on the host.
    pub path: String,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// Most bytes that are read of a kernel image.
const LIMIT: u64 = 256 << 20;

/// Finds the image of `release`: the first file at the usual places whose header names that release.
pub fn find(root: &Root, release: &str) -> Result<Image> {
    let mut tried = Vec::new();
    for path in [
        format!("/boot/vmlinuz-{release}"),
        format!("/vmlinuz-{release}"),
        format!("/usr/lib/modules/{release}/vmlinuz"),
        format!("/lib/modules/{release}/vmlinuz"),
    ] {
        match read(root, &path)
            .map_err(|error| error.to_string())
            .and_then(|bytes| check(&bytes, release).map(|()| bytes))
        {
            Ok(bytes) => return Ok(Image { path, bytes }),
            Err(why) => tried.push(format!("{path}: {why}")),
        }
    }
    Err(Fault::new(format!("finding the image of kernel {release}"), tried.join("; "))
        .hint("install the distribution's kernel package again, or use kernel = \"locked\""))
}

fn read(root: &Root, path: &str) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(root.at(path))?.take(LIMIT).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Whether `image` is a bzImage of `release`.
fn check(image: &[u8], release: &str) -> std::result::Result<(), String> {
    let found = version(image)?;
    if found == release { Ok(()) } else { Err(format!("it is kernel {found}")) }
}

/// The release that a bzImage says it is.
pub fn version(image: &[u8]) -> std::result::Result<String, String> {
    let no_kernel = || "it is no x86 kernel image (bzImage)".to_owned();
    if image.get(0x202..0x206) != Some(b"HdrS") || image.get(0x1fe..0x200) != Some(&[0x55, 0xaa]) {
        return Err(no_kernel());
    }
    let offset =
        image.get(0x20e..0x210).map(|b| usize::from(u16::from_le_bytes([b[0], b[1]]))).ok_or_else(no_kernel)?;
    let text = image.get(offset + 0x200..).filter(|_| offset != 0).ok_or("its header has no version")?;
    let word = text.split(|&b| b == b' ' || b == 0).next().unwrap_or_default();
    match std::str::from_utf8(word) {
        Ok(word) if !word.is_empty() && word.len() < 128 => Ok(word.to_owned()),
        _ => Err("its header has no readable version".into()),
    }
}

/// Opens the image for the kernel to read.
pub fn open(root: &Root, path: &str) -> Result<File> {
    File::open(root.at(path)).doing(|| format!("opening {path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(version: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 0x1000];
        image[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x20e..0x210].copy_from_slice(&0x400_u16.to_le_bytes());
        image[0x600..0x600 + version.len()].copy_from_slice(version);
        image
    }

    #[test]
    fn versions() {
        // As in Debian 12's image.
        let debian = image(b"6.1.0-13-cloud-amd64 (debian-kernel@lists.debian.org) #1 SMP");
        assert_eq!(version(&debian).as_deref(), Ok("6.1.0-13-cloud-amd64"));
        assert!(check(&debian, "6.1.0-13-cloud-amd64").is_ok());
        assert_eq!(check(&debian, "6.1.0-12-cloud-amd64").unwrap_err(), "it is kernel 6.1.0-13-cloud-amd64");
        assert!(version(&image(b"")).is_err());
        assert!(version(b"\x7fELF").is_err());
    }

    #[test]
    fn an_image_elsewhere_is_found_and_a_wrong_one_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        std::fs::create_dir_all(root.at("/boot")).unwrap();
        std::fs::create_dir_all(root.at("/usr/lib/modules/1.2")).unwrap();
        std::fs::write(root.at("/boot/vmlinuz-1.2"), image(b"1.1 x")).unwrap();
        let error = find(&root, "1.2").unwrap_err().to_string();
        assert!(error.contains("/boot/vmlinuz-1.2: it is kernel 1.1"), "{error}");
        std::fs::write(root.at("/usr/lib/modules/1.2/vmlinuz"), image(b"1.2 x")).unwrap();
        assert_eq!(find(&root, "1.2").unwrap().path, "/usr/lib/modules/1.2/vmlinuz");
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..2048)) {
            _ = version(&bytes);
        }
    }
}
