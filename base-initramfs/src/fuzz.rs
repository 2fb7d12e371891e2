//! What the fuzzer calls: everything here that reads bytes of somebody else's, with what must hold for all of them.

use std::io::Read as _;

use crate::lock::is_word;
use crate::resolve::BaseList;
use crate::tree::{Kind, Tree};
use crate::{
    CORE, Exclude, Group, HashingWriter, Lock, Sha256, Time, apt_sources, deb, fetch, newc, resolve, snapshot,
};

/// What is done with an input.
pub type Target = fn(&[u8]);

/// Targets by name.
pub const TARGETS: &[(&str, Target)] =
    &[("deb", deb), ("lock", lock), ("apt", apt), ("base-image", base_image), ("snapshot", in_image)];

/// Most bytes of files that a package may unpack to here.
const ROOM: u64 = 8 << 20;

/// A Debian package (ar, a compression, tar), unpacked and written as an initramfs is.
///
/// The image has plain paths only, none of them below a thing that is no directory, and no more than there was room
/// for.
fn deb(data: &[u8]) {
    let exclude = [Exclude::new("usr/share/doc/**").expect("it is a pattern")];
    let mut tree = Tree::new(&exclude, ROOM).expect("zstd starts");
    let whole = deb::read("fuzz.deb", data, &mut |entry| tree.add(&"fuzz.deb".into(), entry));
    assert!(tree.contents_size() <= ROOM);
    if whole.and_then(|()| tree.close()).is_err() {
        return;
    }
    let image = newc::write_tree(&tree, 1, Vec::new());
    // A name that ends a cpio archive can't be in one.
    let Ok(image) = image else {
        assert!(tree.node("TRAILER!!!").is_some());
        return;
    };
    let mut rest = &image[..];
    let mut directories = vec![String::new()];
    for (path, node) in tree.nodes() {
        let mut reader = cpio::newc::Reader::new(rest).expect("what was written can be read");
        let entry = reader.entry();
        assert_eq!(entry.name(), path);
        assert_eq!(entry.uid(), node.uid);
        assert!(path.split('/').all(|part| !matches!(part, "" | "." | "..")), "{path}");
        let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
        assert!(directories.iter().any(|directory| directory == parent), "{path} is in no directory");
        assert!(!path.starts_with("usr/share/doc/"), "{path} is left out");
        if node.kind == Kind::Directory {
            directories.push(path.to_owned());
        }
        let mut contents = Vec::new();
        reader.read_to_end(&mut contents).expect("what was written can be read");
        if entry_is_first(&node.kind, &contents) {
            assert_eq!(Some(contents), tree.read(path).expect("it is in memory"), "{path}");
        }
        rest = reader.finish().expect("what was written can be read");
    }
}

/// Whether the contents of a file come with this name of it.
fn entry_is_first(kind: &Kind, contents: &[u8]) -> bool {
    matches!(kind, Kind::File(_)) && !contents.is_empty()
}

/// `base.lock` and `base.toml`. What is read is written as what is read again, and no address in it leads elsewhere.
fn lock(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(lock) = Lock::parse("fuzz", text) {
        lock.download_size();
        lock.image_size();
        assert!(lock.narrowed(None).expect("what a group requires is there").groups.len() <= lock.groups.len());
        for package in lock.all_packages() {
            assert!(!package.path.split('/').any(|part| matches!(part, "" | "." | "..")), "{}", package.path);
        }
        let mut lock = lock;
        if let Some(kernel) = &mut lock.kernel {
            kernel.packages.sort_by(|a, b| a.name.cmp(&b.name));
        }
        let written = lock.to_text();
        assert_eq!(Lock::parse("fuzz", &written).as_ref().ok(), Some(&lock), "{written}");
    }
    if let Ok(list) = BaseList::parse("fuzz", text) {
        for name in list.groups.iter().flat_map(|group| group.install.iter().chain(&group.drop)).chain(&list.drop) {
            assert!(!name.starts_with('-') && !name.ends_with('-'), "apt takes {name:?} for an option");
        }
    }
    if let Ok(sha256) = text.parse::<Sha256>() {
        assert_eq!(sha256.to_string(), text);
    }
    if let Ok(time) = text.parse::<Time>() {
        assert_eq!(time.to_string(), text);
    }
}

/// What apt has: its sources, what it would fetch; and where a mirror sends us.
///
/// No address that is found has a password in it, or leads to a file that is no archive; what would be fetched has a
/// name and a version that a lock may have.
fn apt(data: &[u8]) {
    // A list of mirrors is a file of this machine, which an input may not choose.
    let text = String::from_utf8_lossy(data).replace("mirror+file", "mirror-file");
    let fits: [apt_sources::Fits; 2] = [apt_sources::is_main, apt_sources::is_security];
    for fits in fits {
        for found in apt_sources::one_line(&text, fits).into_iter().chain(apt_sources::deb822(&text, fits)) {
            let (scheme, rest) = found.split_once("://").expect("it is an address");
            assert!(matches!(scheme, "http" | "https" | "file"), "{found}");
            let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
            assert!(!authority.contains('@'), "{found}");
            assert!(!found.contains(char::is_whitespace), "{found}");
        }
    }
    for line in text.lines() {
        if let Some(offer) = resolve::offer(line) {
            assert!(is_word(&offer.name) && is_word(&offer.version), "{} {}", offer.name, offer.version);
        }
    }
    for location in text.lines() {
        let joined = fetch::joined("http://archive.example/debian/pool/a", location);
        assert!(joined.contains("://"), "{joined}");
    }
}

/// A base image as it comes from a mirror or a cache: it is read to no more than the size that the lock says, and only
/// the bytes of the lock are taken for good.
fn base_image(data: &[u8]) {
    const SIZE: u64 = 1 << 20;
    let group = Group {
        name: CORE.into(),
        requires: Vec::new(),
        on_demand: false,
        image: Sha256::of(b"an image"),
        image_size: SIZE,
        packages: Vec::new(),
    };
    let mut copy = HashingWriter::new(Vec::new());
    let image = crate::copy_verified(&group, data, &mut copy);
    assert!(copy.into_parts().1.length() <= data.len() as u64);
    if let Ok(image) = image {
        assert_eq!(image.sha256, group.image);
    }
}

/// A base image in which an address is looked for.
fn in_image(data: &[u8]) {
    if let Some(address) = snapshot::in_image(data) {
        assert!(address.is_ascii() && !address.contains(char::is_whitespace), "{address}");
    }
}

#[cfg(test)]
#[path = "../../fuzz/seeds.rs"]
mod seeds;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_and_what_is_near_them() {
        seeds::run(TARGETS, 256);
    }
}
