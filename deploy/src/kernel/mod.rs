//! The image of the running kernel: where it is, whether it is of that kernel, and whether that kernel can run the
//! system in RAM.

mod image;
mod needs;

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use anemos_host::Root;
use rustix::fs::MemfdFlags;

use crate::error::{Doing, Fault, Result};

#[cfg(any(test, fuzzing))]
pub use image::in_uki;
pub use image::version;
#[cfg(any(test, fuzzing))]
pub use needs::not_in;
pub use needs::{check, lacks};

/// Most bytes of a kernel.
const LIMIT: u64 = 256 << 20;

/// What is shorter is not looked at where any file may be the kernel, nor is what comes after so many names, or in
/// directories so deep: in `/boot/efi/MACHINE-ID/RELEASE` there is one.
const LEAST: u64 = 256 << 10;
const NAMES: u32 = 4096;
const DEPTH: u32 = 4;

/// How many images of other kernels an error names.
const NAMED: usize = 6;

/// Where any file may be the kernel: partitions for boot loaders, which have it by the name that a distribution, a boot
/// loader or kernel-install(8) gives it, often in a unified kernel image; and what ostree copies to them. Then the
/// media of systems that run in memory: Debian's live-boot, archiso, casper.
const DIRECTORIES: [&str; 6] = [
    "/boot",
    "/efi",
    "/usr/lib/ostree-boot",
    "/run/live/medium/live",
    "/run/archiso/bootmnt/arch/boot",
    "/cdrom/casper",
];

/// Alpine's diskless mode mounts what it was started from below this, by the name of the device.
const MEDIA: &str = "/media";

/// The image of the running kernel.
#[derive(Debug)]
pub struct Image {
    /// Where it is, for people.
    pub name: String,
    file: File,
    /// Offset and length of the kernel, if the file has more than that.
    part: Option<(u64, u64)>,
}

impl Image {
    /// Its bytes, and a file of nothing else, for the kernel to read.
    pub fn read(self) -> Result<(Vec<u8>, File)> {
        let reading = || format!("reading {}", self.name);
        let Some((start, size)) = self.part else {
            let mut bytes = Vec::new();
            (&self.file).take(LIMIT).read_to_end(&mut bytes).doing(reading)?;
            return Ok((bytes, self.file));
        };
        let mut bytes = vec![0; size as usize];
        self.file.read_exact_at(&mut bytes, start).doing(reading)?;
        let file = in_memory(&bytes).doing(reading)?;
        Ok((bytes, file))
    }
}

/// A file in memory with the bytes of a kernel.
pub fn in_memory(image: &[u8]) -> io::Result<File> {
    let file: File = rustix::fs::memfd_create("anemos-kernel", MemfdFlags::CLOEXEC)?.into();
    (&file).write_all(image)?;
    Ok(file)
}

/// Finds the image of `release`: the first file whose header names that release, at the usual places, else anywhere on
/// the partitions that boot loaders read.
pub fn find(root: &Root, release: &str) -> Result<Image> {
    let mut search = Search { root, release, left: NAMES, seen: Vec::new(), others: Vec::new() };
    let usual = [
        format!("/boot/vmlinuz-{release}"),
        format!("/vmlinuz-{release}"),
        format!("/usr/lib/modules/{release}/vmlinuz"),
        format!("/lib/modules/{release}/vmlinuz"),
        // NixOS and Guix.
        "/run/booted-system/kernel".into(),
        "/run/booted-system/kernel/bzImage".into(),
    ];
    let found = usual.iter().find_map(|path| search.file(path, 0));
    let media = root.names(MEDIA).into_iter().map(|name| format!("{MEDIA}/{name}/boot"));
    let directories: Vec<String> = DIRECTORIES.iter().map(|&path| path.to_owned()).chain(media).collect();
    let found = found.or_else(|| directories.iter().find_map(|path| search.directory(path, DEPTH)));
    found.ok_or_else(|| {
        let mut others = search.others;
        let more = others.len().saturating_sub(NAMED);
        others.truncate(NAMED);
        if more > 0 {
            others.push(format!("{more} more"));
        }
        let there = |path: &&str| root.inside(path).is_some_and(|place| place.is_dir());
        let usual = DIRECTORIES[..3].iter().copied();
        let more = directories[3..].iter().map(String::as_str).filter(there);
        let looked = format!("/usr/lib/modules/{release}, /run/booted-system, {}", {
            usual.chain(more).collect::<Vec<_>>().join(", ")
        });
        let why = if others.is_empty() {
            format!("there is no kernel image in {looked}")
        } else {
            format!("none in {looked} is of that kernel: {}", others.join("; "))
        };
        Fault::new(format!("finding the image of kernel {release}"), why).hint(
            "mount /boot or the EFI partition if they are not, install the distribution's kernel package again, \
             restart into the kernel that is installed, or use kernel = \"locked\"",
        )
    })
}

/// A search for the image of a kernel.
struct Search<'a> {
    root: &'a Root,
    release: &'a str,
    /// How many names may still be looked at.
    left: u32,
    /// Files that were looked at. There are few as large as a kernel.
    seen: Vec<PathBuf>,
    /// What was found instead, in words.
    others: Vec<String>,
}

impl Search<'_> {
    /// Looks into the files below a directory.
    fn directory(&mut self, path: &str, depth: u32) -> Option<Image> {
        let directory = self.root.inside(path)?;
        for name in Root::new(&directory).names("/") {
            self.left = self.left.checked_sub(1)?;
            let path = format!("{path}/{name}");
            // A link to a directory may lead round in a circle.
            let is_directory = directory.join(name).symlink_metadata().is_ok_and(|data| data.is_dir());
            let found = if !is_directory {
                self.file(&path, LEAST)
            } else if depth > 0 {
                self.directory(&path, depth - 1)
            } else {
                None
            };
            if found.is_some() {
                return found;
            }
        }
        None
    }

    /// Looks into a file, or into what a link leads to, if it has so many bytes.
    fn file(&mut self, path: &str, least: u64) -> Option<Image> {
        let place = self.root.inside(path)?;
        // To open what is neither file nor directory may take for ever.
        let length = place.metadata().ok().filter(|data| data.is_file() && data.len() >= least)?.len();
        if self.seen.contains(&place) {
            return None;
        }
        self.seen.push(place.clone());
        let kernels = File::open(place).and_then(|file| Ok((kernels(&file, length)?, file)));
        let (kernels, file) = match kernels {
            Ok(found) => found,
            Err(error) => {
                self.others.push(format!("{path}: {error}"));
                return None;
            }
        };
        if kernels.is_empty() && least == 0 {
            self.others.push(format!("{path}: it is no x86 kernel image (bzImage)"));
        }
        for (release, part) in kernels {
            if release == self.release {
                let name = if part.is_some() { format!("{path} (its kernel)") } else { path.to_owned() };
                return Some(Image { name, file, part });
            }
            self.others.push(format!("{path}: it is kernel {release}"));
        }
        None
    }
}

/// The release of a kernel, and offset and length of it, if it is not all of its file.
type Kernel = (String, Option<(u64, u64)>);

/// The kernels in a file of so many bytes.
fn kernels(file: &File, length: u64) -> io::Result<Vec<Kernel>> {
    let head = |start: u64, size: u64| -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; size.min(image::HEAD as u64) as usize];
        file.read_exact_at(&mut bytes, start)?;
        Ok(bytes)
    };
    let first = head(0, length)?;
    if let Ok(release) = image::version(&first) {
        return Ok(if length <= LIMIT { vec![(release, None)] } else { Vec::new() });
    }
    let mut found = Vec::new();
    for (start, size) in image::in_uki(&first) {
        if size <= LIMIT
            && start + size <= length
            && let Ok(release) = image::version(&head(start, size)?)
        {
            found.push((release, Some((start, size))));
        }
    }
    Ok(found)
}

#[cfg(test)]
pub(crate) mod tests;
