use std::io::Write;
use std::os::unix::fs::symlink;
use std::sync::atomic::AtomicBool;

use anemos_base::{Package, Sha256};

use super::*;
use crate::kernel::tests::{bzimage, gz, xz, zst};
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

fn locked(dir: &Path, holds: &str) -> Result<KernelSet> {
    let modules = "usr/lib/modules/6.12-x";
    let files = [
        ("boot/vmlinuz-6.12-x".to_owned(), bzimage(holds.as_bytes())),
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
        security: false,
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

/// Modules of a kernel, each packed otherwise.
fn modules(root: &Root, dir: &str) -> Vec<(&'static str, Vec<u8>)> {
    let plain = |name: &str| elf(format!("name={name}\0depends=\0padding={}\0", "x".repeat(2000)).as_bytes());
    let modules = [
        ("kernel/net/a.ko", plain("a")),
        ("kernel/net/b.ko.gz", gz(&plain("b"))),
        ("kernel/net/c.ko.xz", xz(&plain("c"))),
        ("kernel/net/d.ko.zst", zst(&plain("d"))),
    ];
    for (path, bytes) in &modules {
        let file = root.at(&format!("{dir}/{path}"));
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, bytes).unwrap();
    }
    let index = modules.each_ref().map(|(path, _)| *path).join(":\n") + ":\n";
    std::fs::write(root.at(&format!("{dir}/modules.dep")), index).unwrap();
    ["a", "b", "c", "d"].into_iter().map(|name| (name, plain(name))).collect()
}

/// Links, each with what it names before it.
type Links = [(&'static str, &'static str)];

#[test]
fn modules_wherever_distributions_keep_them_however_they_are_packed() {
    let store = "/nix/store/x1-kernel-modules";
    let cases: [(&str, &str, &Links); 4] = [
        ("merged /usr", "/usr/lib/modules/6.1", &[("usr/lib", "/lib")]),
        ("/usr is not merged", "/lib/modules/6.1", &[]),
        (
            "NixOS",
            "/nix/store/x2-linux-modules/lib/modules/6.1",
            &[
                ("/nix/store/x0-system", "/run/booted-system"),
                (store, "/nix/store/x0-system/kernel-modules"),
                ("/nix/store/x2-linux-modules/lib", "/nix/store/x1-kernel-modules/lib"),
                ("/nix/store/x0-system", "/run/current-system"),
            ],
        ),
        (
            "Guix",
            "/gnu/store/x2-linux-libre/lib/modules/6.1",
            &[("/gnu/store/x0", "/run/booted-system"), ("/gnu/store/x2-linux-libre", "/gnu/store/x0/kernel")],
        ),
    ];
    for (system, dir, links) in cases {
        let place = tempfile::tempdir().unwrap();
        let root = Root::new(place.path());
        let plain = modules(&root, dir);
        for (target, link) in links {
            std::fs::create_dir_all(root.at(link).parent().unwrap()).unwrap();
            symlink(target, root.at(link)).unwrap();
        }
        for (path, bytes) in
            [("/boot/vmlinuz-6.1", bzimage(b"6.1 x")), ("/proc/modules", b"a 1 0 - Live 0x0\n".to_vec())]
        {
            std::fs::create_dir_all(root.at(path).parent().unwrap()).unwrap();
            std::fs::write(root.at(path), bytes).unwrap();
        }
        let kernel = KernelSet::of_host(&root, "6.1").unwrap_or_else(|error| panic!("{system}: {error}"));
        let index = kernel.index().unwrap();
        for (name, plain) in plain {
            let path = &index.modules[name].path;
            let unpacked = modules::unpack(path, kernel.module(path).unwrap()).unwrap();
            assert!(unpacked == plain, "{system}: {path}");
        }
    }
}

#[test]
fn a_kernel_that_can_not_run_the_agent_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::new(dir.path());
    std::fs::create_dir_all(root.at("/boot")).unwrap();
    std::fs::write(root.at("/boot/vmlinuz-4.14.1"), bzimage(b"4.14.1 x")).unwrap();
    let error = KernelSet::of_host(&root, "4.14.1").err().unwrap().to_string();
    assert!(error.contains("the host's kernel 4.14.1 lacks the device filters of Linux 4.15"), "{error}");
    std::fs::rename(root.at("/boot/vmlinuz-4.14.1"), root.at("/boot/vmlinuz-4.15.1")).unwrap();
    std::fs::write(root.at("/boot/vmlinuz-4.15.1"), bzimage(b"4.15.1 x")).unwrap();
    let kernel = KernelSet::of_host(&root, "4.15.1").unwrap();
    assert_eq!((&*kernel.name, kernel.index().unwrap()), ("/boot/vmlinuz-4.15.1", Index::default()));
}
