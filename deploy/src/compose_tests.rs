use std::io::{Cursor, Read};

use anemos_host::Root;

use super::*;
use crate::modules::index::Module;
use crate::modules::modinfo::tests::elf;

/// One of the base's images.
const BASE: &str = "anemos/base-00.cpio.zst";

/// Name, mode, links, data.
type File = (String, u32, u32, Vec<u8>);

/// Reads one archive with an implementation that isn't ours; and says where it ends.
fn read(bytes: &[u8]) -> (Vec<File>, usize) {
    let mut all = Vec::new();
    let mut input = Cursor::new(bytes);
    loop {
        let mut reader = cpio::newc::Reader::new(input).unwrap();
        if reader.entry().is_trailer() {
            return (all, reader.finish().unwrap().position() as usize);
        }
        let mut data = Vec::new();
        reader.read_to_end(&mut data).unwrap();
        let entry = reader.entry();
        all.push((entry.name().to_owned(), entry.mode(), entry.nlink(), data));
        input = reader.finish().unwrap();
    }
}

fn bytes_of(initramfs: &Initramfs) -> Vec<u8> {
    let mut bytes = vec![0; initramfs.len().unwrap() as usize];
    initramfs.file().read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

fn find<'a>(files: &'a [File], name: &str) -> &'a File {
    files.iter().find(|file| file.0 == name).unwrap_or_else(|| panic!("{name} is missing"))
}

/// The contents of the file at `path`, through links.
fn follow<'a>(files: &'a [File], path: &str) -> Option<&'a [u8]> {
    let mut path = path.to_owned();
    loop {
        let is_link = |file: &&File| file.1 & 0o170_000 == 0o120_000 && path.starts_with(&format!("{}/", file.0));
        match files.iter().find(is_link) {
            Some(link) => path = format!("{}{}", String::from_utf8_lossy(&link.3), &path[link.0.len()..]),
            None => return files.iter().find(|file| file.0 == path).map(|file| &file.3[..]),
        }
    }
}

/// Both want the network's firmware, which is taken once.
fn module(path: &str) -> Vec<u8> {
    match path {
        "kernel/net.ko" => elf(b"firmware=x/net.fw\0firmware=x/gone.fw\0"),
        _ => elf(b"firmware=x/net.fw\0firmware=x/a.fw\0"),
    }
}

fn compose(first: &[&str]) -> Initramfs {
    let mut initramfs = Initramfs::new().unwrap();
    // As when a first source fails: what it wrote is taken back.
    let opened = initramfs.open("anemos/base-07.cpio.zst").unwrap();
    let mut file = initramfs.file();
    file.write_all(&[7; 1000]).unwrap();
    initramfs.undo(&opened).unwrap();
    initramfs.opaque(BASE, |out| out.write_all(b"base image").doing(|| "writing".into())).unwrap();
    let mut index = Index::default();
    for name in ["a-b", "net"] {
        let module = Module { path: format!("kernel/{name}.ko"), needs: vec![] };
        index.modules.insert(name.replace('-', "_"), module);
    }
    let selection = Selection {
        modules: ["a_b", "net"].map(str::to_owned).into(),
        first: first.iter().map(|&name| name.into()).collect(),
        load: vec!["a_b".into()],
        parameters: [("net".to_owned(), "mode=1 x".to_owned())].into(),
    };
    let files = ModuleFiles {
        release: "6.1",
        index: &index,
        selection: &selection,
        also: &[("modules.builtin", b"kernel/x.ko\n".to_vec())],
        read: &|path| Ok(module(path)),
    };
    let dir = tempfile::tempdir().unwrap();
    let root = Root::new(dir.path());
    std::fs::create_dir_all(root.at("/lib/firmware/x")).unwrap();
    for name in ["net.fw", "a.fw", "unused.fw"] {
        std::fs::write(root.at(&format!("/lib/firmware/x/{name}")), name).unwrap();
    }
    let loaded = ["a_b", "net"].map(str::to_owned).into();
    initramfs.modules(&files, &mut Firmware::new(&root, "6.1", &loaded, u64::MAX)).unwrap();
    initramfs.run(&RunFiles { agent: b"agent", files: &[("run.bin", b"run"), ("kernel", b"image")] }).unwrap();
    assert_eq!(initramfs.len().unwrap() % 4, 0);
    initramfs
}

fn check_run(files: &[File]) {
    let (init, agent) = (find(files, "init"), find(files, "usr/bin/anemos-agent"));
    assert_eq!((init.1, init.2, agent.1, agent.2), (0o100_755, 2, 0o100_755, 2));
    assert!(init.3 == b"agent" || agent.3 == b"agent");
    assert_eq!(find(files, "anemos").1, 0o040_700);
    assert_eq!(find(files, "anemos/run.bin").1, 0o100_600);
    assert_eq!(find(files, "dev/console").1, 0o020_600);
}

#[test]
fn segments() {
    let initramfs = compose(&["net"]);
    let bytes = bytes_of(&initramfs);
    let mut rest = &bytes[..];
    let mut next = || {
        let (files, end) = read(rest);
        rest = &rest[end..];
        files
    };
    assert_eq!(BASE, format!("anemos/{}", base_name(0)));
    let base = next();
    assert_eq!(find(&base, BASE).3, b"base image");
    assert_eq!(find(&base, BASE).1, 0o100_600);
    let first = next();
    assert_eq!(find(&first, "usr/lib/modules/6.1/kernel/net.ko").3, module("kernel/net.ko"));
    assert_eq!(find(&first, "usr/lib/firmware/x/net.fw").3, b"net.fw");
    assert_eq!(find(&first, FIRST).3, b"/usr/lib/modules/6.1/kernel/net.ko mode=1 x\n");
    assert_eq!(find(&first, LOAD).3, b"/usr/lib/modules/6.1/kernel/a-b.ko\n");
    assert!(!first.iter().any(|file| file.0.contains("a-b")), "the kernel unpacks only what is needed first");
    let packed = next();
    let (later, _) = read(&zstd::stream::decode_all(&find(&packed, MODULES).3[..]).unwrap());
    assert_eq!(find(&later, "usr/lib/modules/6.1/kernel/a-b.ko").3, module("kernel/a-b.ko"));
    assert_eq!(find(&later, "usr/lib/firmware/x/a.fw").3, b"a.fw");
    // As the kernel looks for it, before the base is unpacked.
    let unpacked: Vec<File> = first.iter().chain(&later).cloned().collect();
    assert_eq!(follow(&unpacked, "lib/firmware/x/net.fw"), Some(&b"net.fw"[..]));
    assert_eq!(follow(&unpacked, "lib/firmware/x/a.fw"), Some(&b"a.fw"[..]));
    let firmware = first.iter().chain(&later).filter(|file| file.0.starts_with("usr/lib/firmware/x/")).count();
    assert_eq!(firmware, 2, "each that is wanted, once");
    assert_eq!(find(&later, "usr/lib/modules/6.1/modules.builtin").3, b"kernel/x.ko\n");
    assert_eq!(initramfs.later(), (module("kernel/a-b.ko").len() + b"a.fw".len() + b"kernel/x.ko\n".len()) as u64);
    check_run(&next());
    assert!(rest.is_empty());
}

/// No module that is loaded first has firmware, and one that is loaded later finds its own all the same.
#[test]
fn firmware_is_found_by_all_modules() {
    let bytes = bytes_of(&compose(&[]));
    let (mut unpacked, mut rest) = (Vec::new(), &bytes[..]);
    while !rest.is_empty() {
        let (files, end) = read(rest);
        if let Some(packed) = files.iter().find(|file| file.0 == MODULES) {
            unpacked.extend(read(&zstd::stream::decode_all(&packed.3[..]).unwrap()).0);
        }
        unpacked.extend(files);
        rest = &rest[end..];
    }
    for name in ["net.fw", "a.fw"] {
        assert_eq!(follow(&unpacked, &format!("lib/firmware/x/{name}")), Some(name.as_bytes()));
    }
}
