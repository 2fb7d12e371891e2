//! A base in groups: locks of several, their images, and files with several images.

mod common;

use std::io::{self, Write};

use anemos_base::{
    Error, Fetcher, Group, ImageError, Limits, Lock, Places, Sha256, copy_images, fetch_images, images_in, verify,
};
use common::{Item, Reply, Server, Shelf, deb_of, file, image_of, locked_groups};

fn groups() -> (Lock, Shelf) {
    let core = [("a", deb_of(&[Item::Dir("./usr/bin"), file("./usr/bin/sh", "sh")]))];
    let more = [("b", deb_of(&[Item::Dir("./usr/bin"), file("./usr/bin/mawk", "awk")]))];
    let trust = [(
        "c",
        deb_of(&[file("./usr/share/ca-certificates/x.crt", "one\n"), file("./usr/share/ca-certificates/y.crt", "two")]),
    )];
    let (mut lock, shelf) = locked_groups(&[("core", &core), ("more", &more), ("trust", &trust)]).unwrap();
    lock.groups[2].requires = vec!["more".to_owned()];
    lock.groups[2].on_demand = true;
    (lock, shelf)
}

fn names(lock: &Lock) -> Vec<&str> {
    lock.groups.iter().map(|group| &*group.name).collect()
}

/// The paths in a cpio archive, and what is there.
fn paths(mut image: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut paths = Vec::new();
    loop {
        let mut reader = cpio::newc::Reader::new(image).unwrap();
        if reader.entry().is_trailer() {
            return paths;
        }
        let mut bytes = Vec::new();
        io::copy(&mut reader, &mut bytes).unwrap();
        paths.push((reader.entry().name().to_owned(), bytes));
        image = reader.finish().unwrap();
    }
}

#[test]
fn a_lock_is_written_as_it_is_read_in_any_order() {
    let (lock, _) = groups();
    let text = lock.to_text();
    assert!(text.contains("\nformat = 3\n") && text.contains("[[groups]]\nname = \"trust\"\nrequires = [\"more\"]\n"));
    assert_eq!(Lock::parse("x", &text).unwrap(), lock);
    let mut shuffled = lock.clone();
    shuffled.groups.reverse();
    assert_eq!(shuffled.to_text(), text);
    assert_eq!(shuffled.digest(), lock.digest());
    assert_eq!(lock.download_size(), lock.groups.iter().map(Group::download_size).sum::<u64>());
}

#[test]
fn a_payload_gets_what_it_needs() {
    let (lock, _) = groups();
    let narrowed = |needs: &[&str]| {
        let needs: Vec<String> = needs.iter().map(|name| (*name).to_owned()).collect();
        lock.narrowed(Some(&needs))
    };
    assert_eq!(names(&lock.narrowed(None).unwrap()), ["core", "more"], "what is on demand is not for everybody");
    for (needs, expected) in [
        (&[][..], &["core"][..]),
        (&["core"], &["core"]),
        (&["more", "more"], &["core", "more"]),
        (&["trust"], &["core", "more", "trust"]),
    ] {
        let lock = narrowed(needs).unwrap();
        assert_eq!(names(&lock), expected);
        assert_eq!(Lock::parse("x", &lock.to_text()).unwrap(), lock);
    }
    assert_ne!(narrowed(&["more"]).unwrap().digest(), narrowed(&["trust"]).unwrap().digest());
    let error = narrowed(&["more", "gurb"]).unwrap_err().to_string();
    assert_eq!(error, "base.lock has no group `gurb`; there are core, more, trust");
    // One without groups has all that there is.
    let whole = narrowed(&[]).unwrap();
    assert!(whole.to_text().contains("\nformat = 1\n"));
    assert_eq!(whole.narrowed(Some(&["gurb".to_owned()])).unwrap(), whole);
}

#[test]
fn errors_in_groups_say_what() {
    let good = groups().0.to_text();
    for (from, to, expected) in [
        ("name = \"more\"", "name = \"core\"", "group `core` is named twice"),
        ("name = \"core\"", "name = \"kernel\"", "there is no group `core`"),
        ("requires = [\"more\"]", "requires = [\"less\"]", "group `trust` requires `less`, which is none"),
        ("name = \"more\"", "name = \"More\"", "a group's name, of a-z"),
        ("name = \"b\"", "name = \"a\"", "package `a` is named twice"),
        ("format = 3", "format = 2", "format 2 has no `groups`"),
        ("skeleton = ", "image_size = 1\nskeleton = ", "in its groups"),
        ("[[groups]]", "[[grops]]", "grops"),
    ] {
        let bad = good.replacen(from, to, 1);
        assert_ne!(bad, good, "{from}");
        let error = Lock::parse("my.lock", &bad).unwrap_err().to_string();
        assert!(error.starts_with("my.lock: ") && error.contains(expected), "{from} -> {to}: {error}");
    }
}

/// The skeleton is in the group that everybody has; what follows from packages is with them.
#[test]
fn each_image_has_what_its_packages_bring() {
    let (lock, shelf) = groups();
    let images: Vec<_> = (0..3).map(|group| paths(&image_of(&lock, group, &shelf).unwrap().1)).collect();
    let names = |image: &[(String, Vec<u8>)]| image.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    for path in ["bin", "dev/console", "etc/passwd", "tmp", "usr/bin/sh"] {
        assert!(names(&images[0]).iter().any(|name| name == path), "{path}");
    }
    assert!(!names(&images[0]).iter().any(|name| name == "usr/bin/awk"));
    assert_eq!(names(&images[1]), ["usr", "usr/bin", "usr/bin/awk", "usr/bin/mawk", "usr/bin/nawk"]);
    let bundle = images[2].iter().find(|(name, _)| name == "etc/ssl/certs/ca-certificates.crt");
    assert_eq!(bundle.unwrap().1, b"one\ntwo\n");
}

/// Images in memory, as the stage has them in the initramfs.
#[derive(Default)]
struct Kept {
    place: Vec<u8>,
    kept: Vec<(String, Vec<u8>)>,
}

impl Places for Kept {
    fn begin(&mut self) -> io::Result<Box<dyn Write + '_>> {
        self.place.clear();
        Ok(Box::new(&mut self.place))
    }

    fn keep(&mut self, group: &Group) -> io::Result<()> {
        self.kept.push((group.name.clone(), self.place.clone()));
        Ok(())
    }
}

#[test]
fn images_that_follow_one_another() {
    let (lock, shelf) = groups();
    let packed: Vec<Vec<u8>> =
        (0..3).map(|group| zstd::encode_all(&image_of(&lock, group, &shelf).unwrap().1[..], 3).unwrap()).collect();
    let strange = zstd::encode_all(&b"something else"[..], 3).unwrap();
    let all = [&packed[1], &strange, &packed[2], &packed[0]].map(|image| &image[..]).concat();
    let wanted = || vec![&lock.groups[0], &lock.groups[1]];

    let (mut missing, mut kept) = (wanted(), Kept::default());
    copy_images(&mut missing, &all[..], &mut kept).unwrap();
    assert!(missing.is_empty());
    assert_eq!(kept.kept, [("more".to_owned(), packed[1].clone()), ("core".to_owned(), packed[0].clone())]);
    for (name, image) in &kept.kept {
        let group = lock.groups.iter().find(|group| group.name == *name).unwrap();
        verify(group, &image[..]).unwrap();
    }

    // What came before an end that is too early, or damage, is had; the rest is missing.
    let damaged = [&packed[1][..], b"no image"].concat();
    for (file, expected) in [(&packed[1][..], "base image: has no image of core"), (&damaged, "damaged")] {
        let (mut missing, mut kept) = (wanted(), Kept::default());
        let error = copy_images(&mut missing, file, &mut kept).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        assert_eq!((missing.len(), &*missing[0].name, kept.kept.len()), (1, "core", 1));
    }

    let names = |file: &[u8]| -> Result<Vec<String>, Error> {
        Ok(images_in(&lock, file)?.into_iter().map(|group| group.name.clone()).collect())
    };
    assert_eq!(names(&[&packed[2][..], &packed[0]].concat()).unwrap(), ["trust", "core"]);
    let unknown = ImageError::Unknown { found: Sha256::of(b"something else") };
    assert!(matches!(names(&all).unwrap_err(), Error::Image(found) if found == unknown));
    assert!(names(b"").is_err());

    // One address has some of them, and the next the others.
    let server = Server::start();
    server.set("some", Reply::Bytes(packed[1].clone()));
    server.set("others", Reply::Bytes([&strange[..], &packed[0]].concat()));
    let urls = ["some", "others"].map(|path| format!("{}/{path}", server.url));
    let (mut missing, mut kept) = (wanted(), Kept::default());
    fetch_images(&Fetcher::new(Limits::default()), &mut missing, &urls, &mut kept).unwrap();
    assert_eq!(kept.kept.iter().map(|(name, _)| &**name).collect::<Vec<_>>(), ["more", "core"]);
}

/// What `examples/hello` needs of the lock that ships is small enough for a small host behind a slow link.
#[test]
fn the_smallest_example_needs_little() {
    const MIB: u64 = 1 << 20;
    let lock = Lock::parse("base.lock", include_str!("../base.lock")).unwrap();
    let needs = include_str!("../../examples/hello/payload/needs");
    let words = needs.lines().map(|line| line.split('#').next().unwrap().trim().to_owned());
    let needs: Vec<String> = words.filter(|word| !word.is_empty()).collect();
    let hello = lock.narrowed(Some(&needs)).unwrap();
    let (download, unpacked) = (hello.download_size(), hello.image_size());
    assert!(download <= 25 * MIB, "{download} bytes to download");
    assert!(unpacked <= 60 * MIB, "{unpacked} bytes unpacked");
    let usual = lock.narrowed(None).unwrap();
    assert!(usual.image_size() > 2 * unpacked, "a payload that names nothing gets nearly all");
}
