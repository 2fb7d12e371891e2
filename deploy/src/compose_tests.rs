use std::io::{Cursor, Read};

use super::*;
use crate::modules::index::Module;

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

fn compose(zstd: bool) -> Vec<u8> {
    let mut initramfs = Initramfs::new().unwrap();
    // As when a first source fails: what it wrote is taken back.
    initramfs
        .base(|out| {
            let start = out.stream_position().unwrap();
            out.write_all(&[7; 1000]).unwrap();
            out.set_len(start).unwrap();
            out.seek(SeekFrom::Start(start)).unwrap();
            out.write_all(b"base image").doing(|| "writing".into())
        })
        .unwrap();
    let mut index = Index::default();
    index.modules.insert("a_b".into(), Module { path: "kernel/fs/a-b.ko".into(), needs: vec![] });
    let selection = Selection { modules: ["a_b".to_owned()].into(), load: vec!["a_b".into()] };
    let also = [("modules.builtin", b"kernel/x.ko\n".to_vec())];
    initramfs.modules("6.1", &index, &selection, zstd, &also, |path| Ok(format!("ELF {path}").into_bytes())).unwrap();
    initramfs.run(&RunFiles { agent: b"agent", files: &[("run.bin", b"run"), ("kernel", b"image")] }).unwrap();
    assert_eq!(initramfs.len().unwrap() % 4, 0);
    bytes_of(&initramfs)
}

fn check_modules(files: &[File]) {
    assert_eq!(find(files, "usr/lib/modules/6.1/kernel/fs/a-b.ko").3, b"ELF kernel/fs/a-b.ko");
    assert_eq!(find(files, "usr/lib/modules/6.1/modules.dep").3, b"kernel/fs/a-b.ko:\n");
    assert_eq!(find(files, "usr/lib/modules/6.1/modules.builtin").3, b"kernel/x.ko\n");
    assert_eq!(find(files, "anemos/modules.load").3, b"/usr/lib/modules/6.1/kernel/fs/a-b.ko\n");
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
fn three_segments() {
    let bytes = compose(false);
    let (base, end) = read(&bytes);
    assert_eq!(find(&base, BASE).3, b"base image");
    assert_eq!(find(&base, BASE).1, 0o100_600);
    let (modules, next) = read(&bytes[end..]);
    check_modules(&modules);
    let (run, last) = read(&bytes[end + next..]);
    check_run(&run);
    assert_eq!(end + next + last, bytes.len());
}

#[test]
fn compressed_modules_lie_between_plain_segments() {
    let bytes = compose(true);
    let (_, end) = read(&bytes);
    // The kernel asks where the first frame ends, and skips zeros behind it.
    let frame = zstd::zstd_safe::find_frame_compressed_size(&bytes[end..]).unwrap();
    check_modules(&read(&zstd::stream::decode_all(&bytes[end..end + frame]).unwrap()).0);
    let gap = bytes[end + frame..].iter().position(|&b| b != 0).unwrap();
    assert!(gap < 4 && (end + frame + gap).is_multiple_of(4));
    check_run(&read(&bytes[end + frame + gap..]).0);
}
