use super::*;
use std::io::Write;
use std::os::unix::fs::MetadataExt;

/// Path, mode, inode, links, content.
type Item<'a> = (&'a str, u32, u32, u32, &'a [u8]);

fn image(items: &[Item]) -> Vec<u8> {
    let mut image = Vec::new();
    for (name, mode, inode, links, content) in items {
        let entry = cpio::newc::Builder::new(name).mode(*mode).ino(*inode).nlink(*links).mtime(1_000_000);
        let mut writer = entry.write(image, content.len() as u32);
        writer.write_all(content).unwrap();
        image = writer.finish().unwrap();
    }
    cpio::newc::trailer(image).unwrap()
}

fn unpack(items: &[Item], root: &Path) -> io::Result<Digest> {
    cpio(&image(items)[..], root, &["anemos", "init"], |_| {})
}

#[test]
fn all_kinds_of_files_arrive_as_they_were() -> io::Result<()> {
    if crate::skip::without_root("only root may give files to others") {
        return Ok(());
    }
    let root = tempfile::tempdir()?;
    let items: [Item; 8] = [
        ("usr", 0o040_755, 1, 2, b""),
        ("usr/bin", 0o040_711, 2, 2, b""),
        ("bin", 0o120_777, 3, 1, b"usr/bin"),
        ("bin/su", 0o104_755, 4, 1, b"setuid"),
        ("usr/bin/one", 0o100_644, 5, 2, b""),
        ("usr/bin/two", 0o100_644, 5, 2, b"linked"),
        ("usr/pipe", 0o010_600, 6, 1, b""),
        ("new/parents/file", 0o100_600, 7, 1, b"x"),
    ];
    let bytes = image(&items);
    let mut seen = 0;
    let digest = cpio(&bytes[..], root.path(), &[], |done| seen = done)?;
    assert_eq!(digest, Hashing::new(&bytes[..]).finish()?);
    assert_eq!(seen, bytes.len() as u64);
    let at = |name: &str| root.path().join(name);
    assert_eq!(fs::read(at("usr/bin/su"))?, b"setuid");
    assert_eq!(fs::metadata(at("usr/bin/su"))?.mode() & 0o7777, 0o4755);
    assert_eq!(fs::read_link(at("bin"))?, Path::new("usr/bin"));
    assert_eq!(fs::metadata(at("usr/bin"))?.mode() & 0o7777, 0o711);
    assert_eq!(fs::metadata(at("usr/bin"))?.mtime(), 1_000_000, "not when its files came");
    assert_eq!(fs::read(at("usr/bin/one"))?, b"linked");
    assert_eq!(fs::metadata(at("usr/bin/one"))?.ino(), fs::metadata(at("usr/bin/two"))?.ino());
    assert!(at("usr/pipe").exists() && !at("usr/pipe").is_file());
    // What is there is merged with, not an error.
    cpio(&bytes[..], root.path(), &[], |_| {})?;
    Ok(())
}

#[test]
fn nothing_is_written_outside_or_over_what_is_spared() -> io::Result<()> {
    if crate::skip::without_root("only root may give files to others") {
        return Ok(());
    }
    let outside = tempfile::tempdir()?;
    let target = outside.path().to_str().unwrap().to_owned();
    for (what, items) in [
        ("dots", vec![("../evil", 0o100_644, 1, 1, &b"x"[..])]),
        ("dots within", vec![("a/../../evil", 0o100_644, 1, 1, b"x")]),
    ] {
        let root = tempfile::tempdir()?;
        let error = unpack(&items, root.path()).unwrap_err().to_string();
        assert!(error.contains("leads out"), "{what}: {error}");
    }
    // Through symlinks, absolute and relative ones: they are taken as if the root were /.
    let root = tempfile::tempdir()?;
    let up = format!("../../../../..{target}");
    let items: [Item; 2] = [("out", 0o120_777, 1, 1, target.as_bytes()), ("out/evil", 0o100_644, 2, 1, b"x")];
    unpack(&items, root.path())?;
    let items: [Item; 2] = [("up", 0o120_777, 1, 1, up.as_bytes()), ("up/evil", 0o100_644, 2, 1, b"x")];
    assert!(unpack(&items, root.path()).is_err());
    // A symlink in the place of a file is replaced, not followed.
    fs::write(outside.path().join("precious"), "old")?;
    symlink(outside.path().join("precious"), root.path().join("file"))?;
    unpack(&[("file", 0o100_644, 1, 1, b"new")], root.path())?;
    assert_eq!(fs::read_to_string(outside.path().join("precious"))?, "old");
    assert_eq!(fs::read_dir(outside.path())?.count(), 1);

    fs::create_dir(root.path().join("anemos"))?;
    fs::write(root.path().join("init"), "agent")?;
    let items: [Item; 3] =
        [("anemos", 0o040_777, 1, 1, b""), ("anemos/run.bin", 0o100_644, 2, 1, b"x"), ("init", 0o100_644, 3, 1, b"x")];
    unpack(&items, root.path())?;
    assert_eq!(fs::read_to_string(root.path().join("init"))?, "agent");
    assert_eq!(fs::read_dir(root.path().join("anemos"))?.count(), 0);
    Ok(())
}

/// What was unpacked before may have been a symlink, or become one.
#[test]
fn no_symlink_of_the_archive_is_followed_out_of_it() -> io::Result<()> {
    if crate::skip::without_root("only root may give files to others") {
        return Ok(());
    }
    let outside = tempfile::tempdir()?;
    let precious = outside.path().join("precious");
    fs::write(&precious, "old")?;
    let mode = |path: &Path| fs::metadata(path).map(|found| found.mode() & 0o7777);
    let before = mode(outside.path())?;
    let (directory, file) = (outside.path().to_str().unwrap(), precious.to_str().unwrap());

    let root = tempfile::tempdir()?;
    let items: [Item; 2] = [("out", 0o120_777, 1, 1, directory.as_bytes()), ("out", 0o040_777, 2, 1, b"")];
    unpack(&items, root.path())?;
    assert_eq!(mode(outside.path())?, before, "a directory in its place");
    assert!(is_plain_dir(&root.path().join("out")));

    let items: [Item; 3] = [
        ("one", 0o100_644, 1, 2, b""),
        ("one", 0o120_777, 2, 1, file.as_bytes()),
        ("two", 0o100_600, 1, 2, b"written"),
    ];
    unpack(&items, root.path())?;
    assert_eq!(fs::read_to_string(&precious)?, "old", "a hard link of what was a file");
    assert_eq!(fs::read_to_string(root.path().join("two"))?, "written");

    fs::create_dir(root.path().join("anemos"))?;
    let items: [Item; 2] = [("way", 0o120_777, 1, 1, b"anemos"), ("way/in/run.bin", 0o100_644, 2, 1, b"x")];
    assert!(unpack(&items, root.path()).unwrap_err().to_string().contains("leads into anemos"));
    assert_eq!(fs::read_dir(root.path().join("anemos"))?.count(), 0, "what is spared");
    Ok(())
}

#[test]
fn damage_is_an_error_wherever_it_is() -> io::Result<()> {
    let bytes = image(&[("a", 0o040_755, 1, 1, b""), ("a/file", 0o100_644, 2, 1, b"content")]);
    for length in 0..bytes.len() - 4 {
        let root = tempfile::tempdir()?;
        assert!(cpio(&bytes[..length], root.path(), &[], |_| {}).is_err(), "cut at {length}");
    }
    Ok(())
}

fn archive(items: &[(&str, tar::EntryType, &str)], path: &Path) -> Digest {
    let mut tar = tar::Builder::new(zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap());
    for (name, kind, content) in items {
        let mut header = tar::Header::new_ustar();
        // As a hostile writer would: the crate's own setter refuses such names.
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(*kind);
        header.set_mode(0o755);
        let link = *kind == tar::EntryType::Symlink || *kind == tar::EntryType::Link;
        if link {
            header.set_link_name(content).unwrap();
        }
        let data = if link { &b""[..] } else { content.as_bytes() };
        header.set_size(data.len() as u64);
        header.set_cksum();
        tar.append(&header, data).unwrap();
    }
    fs::write(path, tar.into_inner().unwrap().finish().unwrap()).unwrap();
    digest_of(path).unwrap()
}

#[test]
fn payloads_stay_where_they_belong() -> io::Result<()> {
    let dir = tempfile::tempdir()?;
    let (file, to) = (dir.path().join("payload.tar.zst"), dir.path().join("inner/payload"));
    let digest = archive(&[("deploy", tar::EntryType::Regular, "#!/bin/sh\n")], &file);
    payload(&file, digest, &to)?;
    assert_eq!(fs::metadata(to.join("deploy"))?.mode() & 0o777, 0o755);
    assert!(payload(&file, Digest([0; 32]), &to).unwrap_err().to_string().contains("expected 0000"));

    let regular = tar::EntryType::Regular;
    let hostile: [&[(&str, tar::EntryType, &str)]; 3] = [
        &[("../evil", regular, "x")],
        &[("out", tar::EntryType::Symlink, "../.."), ("out/evil", regular, "x")],
        &[("a/../../evil", regular, "x")],
    ];
    for items in hostile {
        let digest = archive(items, &file);
        assert!(payload(&file, digest, &to).is_err(), "{items:?}");
        assert!(!dir.path().join("inner/evil").exists() && !dir.path().join("evil").exists());
    }
    // A retry finds nothing of the attempt before, in the directory that was there.
    let directory = fs::metadata(&to)?.ino();
    fs::create_dir(to.join("deep"))?;
    fs::write(to.join("deep/file"), "x")?;
    symlink(dir.path(), to.join("link"))?;
    let digest = archive(&[("other", regular, "x")], &file);
    payload(&file, digest, &to)?;
    let found: Vec<_> =
        fs::read_dir(&to)?.map(|entry| entry.map(|entry| entry.file_name())).collect::<io::Result<_>>()?;
    assert_eq!(found, ["other"]);
    assert_eq!(fs::metadata(&to)?.ino(), directory);
    assert!(file.exists(), "what the link leads to stays");
    Ok(())
}
