//! Firmware: files that drivers have the kernel load into their devices. Without it many network cards don't work after
//! the kexec.

use std::collections::BTreeSet;
use std::io::Read;

use anemos_host::Root;

use super::{decompress, modinfo};

/// Most bytes of unpacked firmware that are taken in all.
const LIMIT: u64 = 64 << 20;

/// The host's firmware files for the drivers that are loaded now. Files for all drivers would be hundreds of megabytes.
pub struct Firmware<'a> {
    root: &'a Root,
    /// Where the kernel looks, in this order.
    directories: Vec<String>,
    loaded: &'a BTreeSet<String>,
    /// Bytes that may still be taken.
    left: u64,
    seen: BTreeSet<String>,
    missing: usize,
    too_much: Vec<String>,
}

impl<'a> Firmware<'a> {
    /// For the kernel `release`, with these modules loaded on a host with so many bytes of memory.
    pub fn new(root: &'a Root, release: &str, loaded: &'a BTreeSet<String>, memory: u64) -> Self {
        // The kernel knows no /usr, and finds firmware that is packaged there where /lib is a link.
        let usual = ["/lib/firmware/updates", "/lib/firmware", "/usr/lib/firmware"];
        let usual = usual.iter().flat_map(|dir| [format!("{dir}/{release}"), (*dir).to_owned()]);
        // A directory that the administrator chose comes first (Documentation/driver-api/firmware/fw_search_path.rst).
        let chosen = root.text("/sys/module/firmware_class/parameters/path").filter(|path| path.starts_with('/'));
        let directories = chosen.into_iter().chain(usual).collect();
        let left = LIMIT.min(memory / 16);
        Self { root, directories, loaded, left, seen: BTreeSet::new(), missing: 0, too_much: Vec::new() }
    }

    /// Firmware that the uncompressed module `name` wants and no module before it did: paths in the new system, and
    /// contents.
    pub fn of(&mut self, name: &str, module: &[u8]) -> Vec<(String, Vec<u8>)> {
        if !self.loaded.contains(name) {
            return Vec::new();
        }
        let wanted = modinfo::parse(module).map(|info| info.firmware).unwrap_or_default();
        wanted.into_iter().filter_map(|path| self.take(&path)).collect()
    }

    fn take(&mut self, path: &str) -> Option<(String, Vec<u8>)> {
        // Some drivers name patterns. They are left out, since only the driver knows which of the matching files it
        // will load.
        let plain = path.split('/').all(|part| !matches!(part, "" | "." | "..")) && !path.contains(['*', '?', '[']);
        if !plain || !self.seen.insert(path.to_owned()) {
            return None;
        }
        let Some(bytes) = self.find(path) else {
            self.missing += 1;
            return None;
        };
        if bytes.len() as u64 > self.left {
            self.too_much.push(path.to_owned());
            return None;
        }
        self.left -= bytes.len() as u64;
        Some((format!("usr/lib/firmware/{path}"), bytes))
    }

    /// The contents of a firmware file. If they are longer than may still be taken, only a beginning that is too long
    /// as well.
    fn find(&self, path: &str) -> Option<Vec<u8>> {
        // The kernel looks for a file in all directories before it looks for a compressed one.
        let endings = ["", ".zst", ".xz"];
        let places = endings
            .into_iter()
            .flat_map(|end| self.directories.iter().map(move |dir| (format!("{dir}/{path}{end}"), end)));
        places.into_iter().find_map(|(place, ending)| {
            let file = std::fs::File::open(self.root.inside(&place)?).ok()?;
            let mut packed = Vec::new();
            file.take(self.left + 1).read_to_end(&mut packed).ok()?;
            if ending.is_empty() || packed.len() as u64 > self.left {
                Some(packed)
            } else {
                decompress(&ending[1..], &packed, self.left + 1)?.ok()
            }
        })
    }

    /// Number of files that the loaded drivers name and the host doesn't have. There are often some, since drivers also
    /// name files for devices that the host doesn't have.
    pub fn missing(&self) -> usize {
        self.missing
    }

    /// Files that were left out because they would have been too much.
    pub fn too_much(&self) -> &[String] {
        &self.too_much
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::tests::{xz, zst};
    use crate::modules::modinfo::tests::elf;

    fn host(files: &[(&str, &[u8])]) -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        for (path, bytes) in files {
            let path = dir.path().join("lib/firmware").join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
        let root = Root::new(dir.path());
        (dir, root)
    }

    fn names(loaded: &[&str]) -> BTreeSet<String> {
        loaded.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn of_loaded_drivers() {
        let (xz, zst) = (xz(b"packed"), zst(b"packed too"));
        let (_dir, root) = host(&[
            ("bnx2x/e2.fw", b"plain"),
            ("qed/a.bin.xz", &xz),
            ("qed/b.bin.zst", &zst),
            ("bnx2/new.fw", b"old"),
            ("updates/6.1/bnx2/new.fw", b"new"),
            ("damaged.fw.xz", b"no xz"),
        ]);
        let loaded = names(&["bnx2x", "qed"]);
        let mut firmware = Firmware::new(&root, "6.1", &loaded, u64::MAX);
        let bnx2x = elf(b"firmware=bnx2x/e2.fw\0firmware=bnx2x/e1.fw\0firmware=bnx2/new.fw\0firmware=damaged.fw\0");
        let file = |path: &str, bytes: &[u8]| (format!("usr/lib/firmware/{path}"), bytes.to_vec());
        assert_eq!(firmware.of("bnx2x", &bnx2x), [file("bnx2x/e2.fw", b"plain"), file("bnx2/new.fw", b"new")]);
        let qed = elf(b"firmware=qed/a.bin\0firmware=qed/b.bin\0firmware=bnx2/new.fw\0firmware=../../etc/shadow\0");
        assert_eq!(firmware.of("qed", &qed), [file("qed/a.bin", b"packed"), file("qed/b.bin", b"packed too")]);
        assert_eq!(firmware.of("ast", &bnx2x), []);
        assert_eq!((firmware.missing(), firmware.too_much().len()), (2, 0));
    }

    /// As NixOS has it: the parameter names a link of a link, and each file is one.
    #[test]
    fn a_chosen_directory_comes_first() {
        use std::os::unix::fs::symlink;
        let (dir, root) = host(&[("a.fw", b"usual"), ("b.fw", b"usual"), ("c.fw", b"plain")]);
        for (path, bytes) in [
            ("sys/module/firmware_class/parameters/path", &b"/run/current-system/firmware\n"[..]),
            ("nix/store/x3-linux-firmware/lib/firmware/a.fw.zst", &zst(b"chosen")),
            ("nix/store/x2-firmware/lib/firmware/c.fw.xz", &xz(b"packed")),
        ] {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
        std::fs::remove_file(root.at("/lib/firmware/a.fw")).unwrap();
        for (target, link) in [
            ("/nix/store/x1-nixos-system", "/run/current-system"),
            ("/nix/store/x2-firmware/lib/firmware", "/nix/store/x1-nixos-system/firmware"),
            ("/nix/store/x3-linux-firmware/lib/firmware/a.fw.zst", "/nix/store/x2-firmware/lib/firmware/a.fw.zst"),
        ] {
            std::fs::create_dir_all(root.at(link).parent().unwrap()).unwrap();
            symlink(target, root.at(link)).unwrap();
        }
        let loaded = names(&["x"]);
        let module = elf(b"firmware=a.fw\0firmware=b.fw\0firmware=c.fw\0");
        let taken = Firmware::new(&root, "6.1", &loaded, u64::MAX).of("x", &module);
        let file = |path: &str, bytes: &[u8]| (format!("usr/lib/firmware/{path}"), bytes.to_vec());
        // As in the kernel, one that is not packed comes before one that is, wherever they are.
        assert_eq!(taken, [file("a.fw", b"chosen"), file("b.fw", b"usual"), file("c.fw", b"plain")]);
    }

    #[test]
    fn below_usr_and_by_links() {
        use std::os::unix::fs::symlink;
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        std::fs::create_dir_all(root.at("/usr/lib/firmware/intel/ice")).unwrap();
        std::fs::write(root.at("/usr/lib/firmware/intel/ice/ice-1.3.36.0.pkg.zst"), zst(b"package")).unwrap();
        symlink("ice-1.3.36.0.pkg.zst", root.at("/usr/lib/firmware/intel/ice/ice.pkg.zst")).unwrap();
        let loaded = names(&["ice"]);
        for merged in [false, true] {
            if merged {
                symlink("usr/lib", root.at("/lib")).unwrap();
            }
            let taken = Firmware::new(&root, "6.1", &loaded, u64::MAX).of("ice", &elf(b"firmware=intel/ice/ice.pkg\0"));
            assert_eq!(taken, [("usr/lib/firmware/intel/ice/ice.pkg".to_owned(), b"package".to_vec())]);
        }
    }

    #[test]
    fn not_too_much() {
        let zeros = zstd::stream::encode_all(&[0; 10_000][..], 3).unwrap();
        let (_dir, root) = host(&[("large.zst", &zeros), ("larger", &[1; 200]), ("a", &[2; 60]), ("b", &[3; 60])]);
        let loaded = names(&["x"]);
        let mut firmware = Firmware::new(&root, "6.1", &loaded, 100 * 16);
        let taken = firmware.of("x", &elf(b"firmware=large\0firmware=larger\0firmware=a\0firmware=b\0"));
        assert_eq!(taken.iter().map(|(path, _)| &**path).collect::<Vec<_>>(), ["usr/lib/firmware/a"]);
        assert_eq!(firmware.too_much(), ["large", "larger", "b"]);
    }
}
