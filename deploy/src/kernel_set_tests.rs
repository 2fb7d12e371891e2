use std::sync::atomic::AtomicBool;

use anemos_base::{Package, Sha256};

use super::*;
use crate::modules::modinfo::tests::elf;

/// One package, as its bytes.
struct Shelf(Vec<u8>);

impl Packages for Shelf {
    fn get(&self, _package: &Package, _stop: &AtomicBool) -> BaseResult<Vec<u8>> {
        panic!("a kernel is too large to be held");
    }

    fn store(&self, _package: &Package, mut into: &File) -> BaseResult<()> {
        into.write_all(&self.0).map_err(|source| anemos_base::Error::Io { what: "store".into(), source })
    }
}

fn deb(files: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        tar.append_data(&mut header, format!("./{path}"), &bytes[..]).unwrap();
    }
    let mut ar = b"!<arch>\n".to_vec();
    for (name, data) in [("debian-binary", b"2.0\n".to_vec()), ("data.tar", tar.into_inner().unwrap())] {
        ar.extend(format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n", 0, 0, 0, 644, data.len()).into_bytes());
        ar.extend(&data);
        ar.resize(ar.len().next_multiple_of(2), b'\n');
    }
    ar
}

fn image(release: &str) -> Vec<u8> {
    let mut image = vec![0; 0x1000];
    image[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    image[0x202..0x206].copy_from_slice(b"HdrS");
    image[0x20e..0x210].copy_from_slice(&0x400_u16.to_le_bytes());
    image[0x600..0x600 + release.len()].copy_from_slice(release.as_bytes());
    image
}

fn locked(dir: &Path, holds: &str) -> Result<KernelSet> {
    let modules = "usr/lib/modules/6.12-x";
    let files = [
        ("boot/vmlinuz-6.12-x".to_owned(), image(holds)),
        (format!("{modules}/modules.builtin"), b"kernel/lib/x.ko\n".to_vec()),
        // The console of many servers, and what it needs, which is of a kind that is never asked for.
        (format!("{modules}/kernel/drivers/gpu/drm/ast/ast.ko"), elf(b"alias=pci:v00001A03d*\0depends=drm\0")),
        (format!("{modules}/kernel/drivers/gpu/drm/drm.ko"), elf(b"depends=\0")),
        (format!("{modules}/kernel/drivers/gpu/drm/amd/amdgpu.ko"), elf(b"depends=drm\0")),
        (format!("{modules}/kernel/drivers/net/tg3.ko"), elf(b"depends=not-here\0")),
        ("usr/share/doc/x.ko".to_owned(), b"no module".to_vec()),
    ];
    let files: Vec<_> = files.iter().map(|(path, bytes)| (path.as_str(), bytes.clone())).collect();
    let package = Package {
        name: "linux-image".into(),
        version: "1".into(),
        path: "pool/linux-image_1_amd64.deb".into(),
        size: 0,
        sha256: Sha256::of(b""),
    };
    let kernel = Kernel { release: "6.12-x".into(), packages: vec![package] };
    KernelSet::locked(&kernel, &Shelf(deb(&files)), dir, |_| {})
}

#[test]
fn modules_come_from_the_package_as_they_are_wanted() {
    let dir = tempfile::tempdir().unwrap();
    let mut kernel = locked(dir.path(), "6.12-x").unwrap();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "the package has no name any more");
    let index = kernel.index().unwrap();
    assert_eq!(index.modules.keys().collect::<Vec<_>>(), ["ast", "drm", "tg3"]);
    let path = "kernel/drivers/gpu/drm/ast/ast.ko";
    assert!(kernel.module(path).is_err(), "nothing is held that nobody wants");
    kernel.take(&["ast", "drm"].map(str::to_owned).into()).unwrap();
    assert!(kernel.module(path).unwrap().starts_with(b"\x7fELF"));
    assert_eq!(kernel.further_files(), [("modules.builtin", b"kernel/lib/x.ko\n".to_vec())]);
}

#[test]
fn another_kernel_in_the_package_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let error = locked(dir.path(), "6.11-x").err().unwrap().to_string();
    assert!(error.contains("6.12-x") && error.contains("hold kernel 6.11-x"), "{error}");
}
