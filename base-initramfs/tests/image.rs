//! Images from packages made on the spot: what goes in, what is refused, and that the bytes never differ.

mod common;

use std::io::{Read, Write};
use std::process::{Command, Stdio};

use anemos_base::{Device, Error, Lock, Segment, Tree, deb, verify};
use common::{Item, ar_of, deb_of, file, image, locked, tar_of};
use cpio::newc::Reader;
use proptest::prelude::*;

struct Found {
    name: String,
    mode: u32,
    ino: u32,
    nlink: u32,
    mtime: u32,
    bytes: Vec<u8>,
}

fn entries(mut archive: &[u8]) -> Vec<Found> {
    let mut found = Vec::new();
    loop {
        let mut reader = Reader::new(archive).unwrap();
        if reader.entry().is_trailer() {
            return found;
        }
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).unwrap();
        let entry = reader.entry();
        let (name, mode) = (entry.name().to_owned(), entry.mode());
        let (ino, nlink, mtime) = (entry.ino(), entry.nlink(), entry.mtime());
        found.push(Found { name, mode, ino, nlink, mtime, bytes });
        archive = reader.finish().unwrap();
    }
}

fn debs() -> Vec<(&'static str, Vec<u8>)> {
    let long: Vec<u8> = (0..100_000_u32).flat_map(|n| (n % 251).to_le_bytes()).collect();
    vec![
        (
            "alpha",
            deb_of(&[
                Item::Dir("./"),
                Item::Dir("./bin/"),
                file("./bin/tool", "#!/bin/sh\n"),
                Item::Hard("./usr/bin/alias", "./bin/tool"),
                Item::Soft("./usr/lib/link.so", "link.so.1"),
                file("./usr/share/doc/alpha/copyright", "left out"),
            ]),
        ),
        ("beta", deb_of(&[Item::Dir("./usr/bin/"), Item::File("./usr/lib/data", long)])),
        (
            "gamma",
            deb_of(&[
                file("./usr/share/ca-certificates/m/b.crt", "B"),
                file("./usr/share/ca-certificates/m/a.crt", "A\n"),
            ]),
        ),
    ]
}

#[test]
fn what_is_in_an_image() {
    let (lock, shelf) = locked(&debs()).unwrap();
    let (_, bytes) = image(&lock, &shelf).unwrap();
    let entries = entries(&bytes);
    let names: Vec<&str> = entries.iter().map(|entry| entry.name.as_str()).collect();
    let mut sorted = names.clone();
    sorted.sort_unstable();
    sorted.dedup();
    assert_eq!(names, sorted, "sorted, and none twice");
    assert!(entries.iter().all(|entry| entry.mtime == 1_800_000_000));
    let get = |name: &str| entries.iter().find(|entry| entry.name == name).unwrap();
    // Merged: what came as bin/tool is in usr/bin, and bin is a link.
    assert_eq!((get("bin").mode, get("bin").bytes.as_slice()), (0o120_777, &b"usr/bin"[..]));
    assert!(!names.contains(&"bin/tool"));
    // Hard links: the first in order has the contents.
    let (first, second) = (get("usr/bin/alias"), get("usr/bin/tool"));
    assert_eq!((first.ino, first.nlink, first.bytes.as_slice()), (second.ino, 2, &b"#!/bin/sh\n"[..]));
    assert_eq!((second.nlink, second.bytes.len()), (2, 0));
    assert_eq!(entries.iter().filter(|entry| entry.ino == first.ino).count(), 2);
    assert_eq!(get("usr/lib/link.so").bytes, b"link.so.1");
    assert_eq!(get("usr/lib/data").bytes.len(), 400_000);
    assert!(!names.iter().any(|name| name.starts_with("usr/share/doc/alpha/")));
    assert_eq!(get("etc/ssl/certs/ca-certificates.crt").bytes, b"A\nB\n");
    assert_eq!(get("tmp").mode, 0o041_777);
    assert_eq!(get("dev/console").mode, 0o020_600);
    assert!(String::from_utf8_lossy(&get("etc/passwd").bytes).contains("\nsshd:x:101:"));
    assert_eq!(get("etc/shadow").mode, 0o100_640);
}

#[test]
fn any_order_gives_the_same_bytes() {
    let (lock, shelf) = locked(&debs()).unwrap();
    let (_, expected) = image(&lock, &shelf).unwrap();
    for order in [[1, 0, 2], [2, 1, 0], [0, 2, 1]] {
        let mut shuffled = lock.clone();
        shuffled.groups[0].packages = order.iter().map(|index| lock.groups[0].packages[*index].clone()).collect();
        assert_eq!(shuffled.to_text(), lock.to_text());
        assert_eq!(image(&shuffled, &shelf).unwrap().1, expected);
    }
}

/// The reference: cpio itself lists what we wrote.
#[test]
fn cpio_agrees() {
    let (lock, shelf) = locked(&debs()).unwrap();
    let (_, bytes) = image(&lock, &shelf).unwrap();
    let mut cpio = match Command::new("cpio")
        .args(["--list", "--quiet"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
    {
        Ok(child) => child,
        Err(error) => panic!("this test compares with the program cpio, please install it: {error}"),
    };
    let mut stdin = cpio.stdin.take().unwrap();
    let writer = {
        let bytes = bytes.clone();
        std::thread::spawn(move || stdin.write_all(&bytes))
    };
    let output = cpio.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert!(output.status.success());
    let expected: Vec<String> = entries(&bytes).into_iter().map(|entry| entry.name).collect();
    assert_eq!(String::from_utf8(output.stdout).unwrap().lines().collect::<Vec<_>>(), expected);
}

#[test]
fn what_is_refused() {
    for (items, reason) in [
        (vec![file("./../etc/passwd", "x")], "not a plain path"),
        (vec![file("/etc/passwd", "x")], "absolute"),
        (vec![file("./usr/./x", "x")], "not a plain path"),
        (vec![file("./usr//x", "x")], "not a plain path"),
        (vec![Item::Soft("./usr/out", "/etc"), file("./usr/out/passwd", "x")], "leads through usr/out"),
        (vec![Item::Hard("./usr/x", "../../etc/shadow")], "not a plain path"),
        (vec![Item::Hard("./usr/x", "./usr/none")], "no file before it"),
        (vec![file("./bin", "x")], "neither a directory"),
        (vec![file("./usr/f", "x"), file("./usr/f/g", "y")], "leads through usr/f"),
        (vec![file("./usr/f/g", "y"), file("./usr/f", "x")], "leads through usr/f"),
        (vec![file("./usr/f", "x"), file("./usr/f", "y")], "differs"),
        (vec![Item::Soft("./usr/f", "")], "has no target"),
    ] {
        let error =
            locked(&[("bad", deb_of(&items))]).err().unwrap_or_else(|| panic!("{items:?} was let in")).to_string();
        assert!(error.starts_with("pool/main/bad_1_all.deb: ") && error.contains(reason), "{items:?}: {error}");
    }
}

#[test]
fn clashes_between_packages() {
    let same = [("a", deb_of(&[file("./usr/x", "1")])), ("b", deb_of(&[file("./usr/x", "1")]))];
    assert!(locked(&same).is_ok());
    let other = [("a", deb_of(&[file("./usr/x", "1")])), ("b", deb_of(&[file("./usr/x", "2")]))];
    let error = locked(&other).err().unwrap().to_string();
    assert_eq!(error, "pool/main/b_1_all.deb: usr/x is also in pool/main/a_1_all.deb, and differs");
}

#[test]
fn every_compression_of_a_package() {
    let tar = tar_of(&[file("./usr/x", "hello")]);
    let gz = {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&tar).unwrap();
        encoder.finish().unwrap()
    };
    let xz = {
        let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 6);
        encoder.write_all(&tar).unwrap();
        encoder.finish().unwrap()
    };
    let zst = zstd::encode_all(&tar[..], 3).unwrap();
    for (member, bytes) in [("data.tar", &tar), ("data.tar.gz", &gz), ("data.tar.xz", &xz), ("data.tar.zst", &zst)] {
        let package = ar_of(&[("debian-binary", b"2.0\n"), (member, bytes)]);
        let mut seen = Vec::new();
        deb::read("x.deb", &package[..], &mut |entry| {
            let mut text = String::new();
            entry.contents.read_to_string(&mut text).unwrap();
            seen.push((entry.path, text));
            Ok(())
        })
        .unwrap();
        assert_eq!(seen, [("./usr/x".to_owned(), "hello".to_owned())], "{member}");
        // Cut anywhere, it is an error that names the file, never a shorter file.
        for at in [0, 7, 30, 68, 75, 130, package.len() - bytes.len() / 2] {
            let mut whole = false;
            let result = deb::read("x.deb", &package[..at], &mut |entry| {
                let mut text = String::new();
                whole |= entry.contents.read_to_string(&mut text).is_ok() && text == "hello";
                Ok(())
            });
            assert!(whole || result.unwrap_err().to_string().starts_with("x.deb: "), "{member} cut at {at}");
        }
    }
    let unknown = ar_of(&[("debian-binary", b"2.0\n"), ("data.tar.br", b"x")]);
    assert!(deb::read("x.deb", &unknown[..], &mut |_| Ok(())).unwrap_err().to_string().contains(".br"));
}

#[test]
fn another_skeleton_is_told_from_wrong_packages() {
    let (mut lock, shelf) = locked(&debs()).unwrap();
    lock.skeleton = anemos_base::Sha256::of(b"another");
    let error = image(&lock, &shelf).unwrap_err().to_string();
    assert!(error.contains("base lock") && error.contains("skeleton"), "{error}");
}

#[test]
fn damaged_images() {
    let (lock, shelf) = locked(&debs()).unwrap();
    let (_, plain) = image(&lock, &shelf).unwrap();
    let compressed = zstd::encode_all(&plain[..], 3).unwrap();
    assert_eq!(verify(&lock.groups[0], &compressed[..]).unwrap().size, plain.len() as u64);
    // Any level will do: only the uncompressed bytes are pinned.
    verify(&lock.groups[0], &zstd::encode_all(&plain[..], 9).unwrap()[..]).unwrap();
    assert!(verify(&lock.groups[0], &compressed[..compressed.len() - 1]).is_err());
    let mut flipped = plain.clone();
    flipped[1000] ^= 1;
    let error = verify(&lock.groups[0], &zstd::encode_all(&flipped[..], 3).unwrap()[..]).unwrap_err().to_string();
    assert!(error.starts_with("base image: SHA-256 is "), "{error}");
    let mut longer = plain.clone();
    longer.extend_from_slice(&[0; 4096]);
    assert!(matches!(verify(&lock.groups[0], &zstd::encode_all(&longer[..], 3).unwrap()[..]), Err(Error::Image(_))));
}

/// The bytes of a small segment, written out by hand after the kernel's buffer-format document.
#[test]
fn golden_segment() {
    let mut segment = Segment::new(Vec::new(), 1);
    segment.file("a/b", 0o644, b"hi").unwrap();
    segment.symlink("c", "a/b").unwrap();
    segment.device("n", 0o666, Device::Char, 1, 3).unwrap();
    let bytes = segment.finish().unwrap();
    let header = |ino: u32, mode: u32, nlink: u32, mtime: u32, size: u32, rdev: (u32, u32), name: u32| {
        format!(
            "070701{ino:08x}{mode:08x}{:08x}{:08x}{nlink:08x}{mtime:08x}{size:08x}{:08x}{:08x}{:08x}{:08x}{name:08x}\
             {:08x}",
            0, 0, 0, 0, rdev.0, rdev.1, 0
        )
    };
    let expected = [
        header(1, 0o040_755, 2, 1, 0, (0, 0), 2),
        "a\0".to_owned(),
        header(2, 0o100_644, 1, 1, 2, (0, 0), 4),
        "a/b\0\0\0hi\0\0".to_owned(),
        header(3, 0o120_777, 1, 1, 3, (0, 0), 2),
        "c\0a/b\0".to_owned(),
        header(4, 0o020_666, 1, 1, 0, (1, 3), 2),
        "n\0".to_owned(),
        header(0, 0, 1, 0, 0, (0, 0), 11),
        "TRAILER!!!\0\0\0\0".to_owned(),
    ]
    .concat();
    assert_eq!(String::from_utf8_lossy(&bytes), expected);
}

#[test]
fn segments_refuse() {
    let mut segment = Segment::new(Vec::new(), 0);
    for path in ["bin/x", "lib/modules", "/etc/x", "a/../b", "", "TRAILER!!!", "a//b"] {
        assert!(segment.file(path, 0o644, b"").is_err(), "{path:?}");
    }
    assert!(segment.file_from("short", 0o644, 10, &mut &b"123"[..]).is_err());
    let mut links = Segment::new(Vec::new(), 0);
    links.linked_files(&["init", "usr/bin/init"], 0o755, b"x").unwrap();
    let bytes = links.finish().unwrap();
    let found = entries(&bytes);
    let (first, last) = (&found[found.len() - 2], &found[found.len() - 1]);
    assert_eq!((first.ino, first.nlink, first.bytes.len(), last.bytes.len()), (last.ino, 2, 1, 0));
}

/// The lock that ships: it parses, and is written as it is read.
#[test]
fn the_shipped_lock() {
    let text = include_str!("../base.lock");
    let lock = Lock::parse("base.lock", text).unwrap();
    assert_eq!(lock.to_text(), text);
    assert_eq!(lock.skeleton, anemos_base::skeleton_hash(), "run `anemos base lock` after changing the skeleton");
    assert!(lock.narrowed(None).unwrap().image_size() < 230 << 20);
    assert!(!text.contains("://"), "a lock names no mirror");
    assert!(lock.packages().all(|package| !package.name.starts_with("python")));
    anemos_base::BaseList::parse("base.toml", include_str!("../base.toml")).unwrap();
}

/// Only a lock that needs it is written in the newer format.
#[test]
fn the_archive_of_a_package_is_in_the_lock() {
    let mut lock = locked(&debs()).unwrap().0;
    assert!(lock.to_text().contains("\nformat = 1\n"));
    lock.groups[0].packages[1].security = true;
    let text = lock.to_text();
    assert!(text.contains("\nformat = 2\n"), "{text}");
    assert_eq!(text.matches("security = true").count(), 1, "{text}");
    assert_eq!(Lock::parse("x", &text).unwrap(), lock);
}

#[test]
fn a_lock_may_name_a_snapshot_archive() {
    let mut lock = locked(&debs()).unwrap().0;
    assert!(!lock.to_text().contains("snapshot"));
    lock.snapshot = Some("https://past.example/debian/@SNAPSHOTID@/".to_owned());
    let text = lock.to_text();
    assert!(text.contains("\nformat = 2\n"), "{text}");
    assert_eq!(Lock::parse("x", &text).unwrap(), lock);
    for other in ["https://past.example/debian/", "/srv/@SNAPSHOTID@/", "https://me:secret@past.example/@SNAPSHOTID@/"]
    {
        let wrong = text.replace("https://past.example/debian/@SNAPSHOTID@/", other);
        let error = Lock::parse("my.lock", &wrong).unwrap_err().to_string();
        assert!(error.contains("line 9") && error.contains("without a password"), "{error}");
    }
}

#[test]
fn errors_in_a_lock_say_where() {
    let good = locked(&debs()).unwrap().0.to_text();
    for (from, to, expected) in [
        ("format = 1", "format = 4", "line 3: format is 4, but this anemos reads formats 1 to 3"),
        ("size = ", "security = 1, size = ", "security"),
        ("suite = ", "siute = ", "siute"),
        ("pool/main/beta", "../main/beta", "line 19"),
        ("pool/main/beta", "pool/../beta", "pool/../beta"),
        ("name = \"beta\"", "name = \"alpha\"", "line 19: package `alpha` is named twice"),
        ("image = \"", "image = \"zz", "64 lower-case"),
        ("usr/share/doc/**", "/usr/share/doc", "leading slash"),
        ("size = ", "size = -", "size"),
        ("made = \"2", "made = \"x", "not a time"),
    ] {
        let bad = good.replacen(from, to, 1);
        assert_ne!(bad, good, "{from}");
        let error = Lock::parse("my.lock", &bad).unwrap_err().to_string();
        assert!(error.starts_with("my.lock: ") && error.contains(expected), "{from} -> {to}: {error}");
    }
}

proptest! {
    #[test]
    fn any_bytes_as_a_package(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        let _ = deb::read("x.deb", &bytes[..], &mut |_| Ok(()));
        let mut ar = b"!<arch>\n".to_vec();
        ar.extend_from_slice(&bytes);
        let _ = deb::read("x.deb", &ar[..], &mut |_| Ok(()));
        let framed = ar_of(&[("debian-binary", b"2.0\n"), ("data.tar", &bytes)]);
        let mut tree = Tree::new(&[], 1 << 20).unwrap();
        let _ = deb::read("x.deb", &framed[..], &mut |entry| tree.add(&"x.deb".into(), entry));
    }

    #[test]
    fn a_package_with_one_byte_changed(at in 0_usize..3000, value: u8) {
        let data = tar_of(&[file("./usr/x", "hello"), Item::Hard("./usr/y", "./usr/x")]);
        let mut package = ar_of(&[("debian-binary", b"2.0\n"), ("data.tar", &data)]);
        let at = at % package.len();
        package[at] = value;
        let mut tree = Tree::new(&[], 1 << 20).unwrap();
        let _ = deb::read("x.deb", &package[..], &mut |entry| tree.add(&"x.deb".into(), entry));
    }

    #[test]
    fn any_text_as_a_lock(text in "\\PC{0,300}") {
        let _ = Lock::parse("x", &text);
    }

    #[test]
    fn a_lock_with_one_byte_changed(at: u16, value in 0_u8..128) {
        let mut text = locked(&[("a", deb_of(&[file("./usr/x", "1")]))]).unwrap().0.to_text().into_bytes();
        let at = usize::from(at) % text.len();
        text[at] = value;
        if let Ok(lock) = Lock::parse("x", &String::from_utf8(text).unwrap()) {
            // What is accepted survives being written.
            assert_eq!(Lock::parse("x", &lock.to_text()).unwrap(), lock);
        }
    }

    #[test]
    fn any_bytes_as_an_image(bytes in proptest::collection::vec(any::<u8>(), 0..500)) {
        let (lock, _) = locked(&[("a", deb_of(&[file("./usr/x", "1")]))]).unwrap();
        assert!(verify(&lock.groups[0], &bytes[..]).is_err());
    }
}
