//! Kernel modules for the initramfs: chosen on the host, uncompressed. The index for modprobe is made in RAM, by
//! depmod.

pub mod firmware;
pub mod index;
pub mod modinfo;
pub mod select;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Read;
use std::path::Path;

use anemos_host::Root;

use index::Index;
use modinfo::ModInfo;
use select::{Hardware, Place};

use crate::error::{Doing, Fault, Result};

/// Most bytes that a module may have when it is unpacked.
const LIMIT: u64 = 256 << 20;

/// Reads depmod's files in the modules directory `dir`.
pub fn read_index(dir: &Path) -> Result<Index> {
    let read = |name: &str| {
        let path = dir.join(name);
        std::fs::read(&path).doing(|| format!("reading {}", path.display()))
    };
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let dep = text(read("modules.dep")?);
    // Kernels with few modules may lack these.
    let alias = read("modules.alias").map(text).unwrap_or_default();
    let softdep = read("modules.softdep").map(text).unwrap_or_default();
    Ok(Index::parse(&dep, &alias, &softdep))
}

/// What a module says about itself; `None` if it is none.
pub fn info_of(path: &str, packed: Vec<u8>) -> std::result::Result<Option<ModInfo>, anemos_base::Error> {
    let wrong = |fault: Fault| anemos_base::Error::Package { file: path.to_owned(), reason: fault.to_string() };
    Ok(modinfo::parse(&unpack(path, packed).map_err(wrong)?))
}

/// The machine's loaded modules and modaliases, and the places of its network devices with these names.
pub fn hardware<'a>(root: &Root, network: impl Iterator<Item = &'a str>) -> Hardware {
    let modules = root.text("/proc/modules").unwrap_or_default();
    let loaded = modules.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect();
    let mut modaliases = BTreeSet::new();
    find_modaliases(&root.at("/sys/devices"), 0, &mut modaliases);
    Hardware { loaded, modaliases, network: network.flat_map(|name| places(root, name)).collect() }
}

/// The places in the tree of devices that the network device `name` needs, in the order in which their drivers should
/// load: the buses above it from the root down, the devices below it (such as a PHY), and the device itself.
fn places(root: &Root, name: &str) -> Vec<Place> {
    let link = format!("/sys/class/net/{name}/device");
    let Some(device) = root.resolve(&link).filter(|path| path.starts_with("/sys/devices/")) else { return Vec::new() };
    let place = |path: &str| Place {
        modalias: root.text(&format!("{path}/modalias")).filter(|text| !text.is_empty()),
        module: root
            .resolve(&format!("{path}/driver/module"))
            .and_then(|path| path.rsplit('/').next().map(|name| name.replace('-', "_"))),
    };
    let slashes = device.match_indices('/').map(|(at, _)| at).filter(|at| *at > "/sys/devices".len());
    let mut places: Vec<_> = slashes.map(|at| place(&device[..at])).collect();
    let mut below = BTreeSet::new();
    find_modaliases(&root.at(&device), 0, &mut below);
    places.extend(below.into_iter().map(|modalias| Place { modalias: Some(modalias), module: None }));
    places.push(place(&device));
    places.retain(|place| place.modalias.is_some() || place.module.is_some());
    places
}

fn find_modaliases(dir: &Path, depth: usize, found: &mut BTreeSet<String>) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() && depth < 40 {
            find_modaliases(&entry.path(), depth + 1, found);
        } else if kind.is_file() && entry.file_name() == "modalias" {
            let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
            let text = text.trim();
            if !text.is_empty() {
                found.insert(text.to_owned());
            }
        }
    }
}

/// Unpacks a module by its file name (`.ko`, `.ko.xz`, `.ko.zst`, `.ko.gz`).
pub fn unpack(path: &str, bytes: Vec<u8>) -> Result<Vec<u8>> {
    let unpacking = || format!("unpacking module {path}");
    match path.rsplit('.').next().unwrap_or_default() {
        "ko" => Ok(bytes),
        extension => decompress(extension, &bytes, LIMIT)
            .ok_or_else(|| Fault::new(unpacking(), "its compression is not known"))?
            .doing(unpacking),
    }
}

/// Decompresses the first `limit` bytes, by the file name's extension; `None` if it names no known compression.
fn decompress(extension: &str, packed: &[u8], limit: u64) -> Option<std::io::Result<Vec<u8>>> {
    let mut out = Vec::new();
    let unpacked = match extension {
        "xz" => liblzma::read::XzDecoder::new(packed).take(limit).read_to_end(&mut out),
        "zst" => zstd::stream::read::Decoder::new(packed).and_then(|d| d.take(limit).read_to_end(&mut out)),
        "gz" => flate2::read::GzDecoder::new(packed).take(limit).read_to_end(&mut out),
        _ => return None,
    };
    Some(unpacked.map(|_| out))
}

/// The path of a module once it is uncompressed.
pub fn plain_path(path: &str) -> &str {
    path.find(".ko").map_or(path, |at| &path[..at + 3])
}

/// A list of modules for the agent: absolute paths in loading order.
pub fn render_load(index: &Index, names: &[String], release: &str) -> String {
    let mut out = String::new();
    for module in names.iter().filter_map(|name| index.modules.get(name)) {
        _ = writeln!(out, "/usr/lib/modules/{release}/{}", plain_path(&module.path));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unpacking() {
        let plain = b"\x7fELF something".repeat(50);
        let mut xz = Vec::new();
        liblzma::read::XzEncoder::new(&plain[..], 6).read_to_end(&mut xz).unwrap();
        let mut gz = Vec::new();
        flate2::read::GzEncoder::new(&plain[..], flate2::Compression::best()).read_to_end(&mut gz).unwrap();
        let zst = zstd::stream::encode_all(&plain[..], 3).unwrap();
        for (name, bytes) in [("a.ko", plain.clone()), ("a.ko.xz", xz), ("a.ko.gz", gz), ("a.ko.zst", zst)] {
            assert_eq!(unpack(name, bytes).unwrap(), plain, "{name}");
        }
        assert!(unpack("a.ko.lz4", plain.clone()).unwrap_err().to_string().contains("not known"));
        assert!(unpack("a.ko.xz", plain).unwrap_err().to_string().contains("a.ko.xz"));
    }

    #[test]
    fn the_list_has_paths_of_uncompressed_modules() {
        let mut index = Index::default();
        for name in ["a", "d"] {
            index.modules.insert(name.into(), index::Module { path: format!("kernel/{name}.ko.xz"), needs: vec![] });
        }
        assert_eq!(
            render_load(&index, &["d".into(), "a".into(), "gone".into()], "6.1"),
            "/usr/lib/modules/6.1/kernel/d.ko\n/usr/lib/modules/6.1/kernel/a.ko\n"
        );
    }

    #[test]
    fn the_way_to_a_network_device() -> std::io::Result<()> {
        use std::os::unix::fs::symlink;
        let dir = tempfile::tempdir()?;
        let root = Root::new(dir.path());
        // A virtio card, and a card with a PHY of its own.
        let card = "/sys/devices/pci0000:00/0000:00:03.0/virtio0";
        let phy = "/sys/devices/pci0000:00/0000:00:04.0/mdio_bus/tg3-400/400:01";
        for (path, modalias, driver) in [
            ("/sys/devices/pci0000:00/0000:00:03.0", "pci:v00001AF4d00001000", Some("virtio_pci")),
            (card, "virtio:d00000001v00001AF4", Some("virtio-net")),
            ("/sys/devices/pci0000:00/0000:00:04.0", "pci:v000014E4d00001657", Some("tg3")),
            (phy, "mdio:01100", None),
        ] {
            std::fs::create_dir_all(root.at(path))?;
            std::fs::write(root.at(&format!("{path}/modalias")), format!("{modalias}\n"))?;
            if let Some(driver) = driver {
                let module = root.at(&format!("/sys/module/{driver}"));
                std::fs::create_dir_all(&module)?;
                std::fs::create_dir_all(root.at(&format!("{path}/driver")))?;
                symlink(module, root.at(&format!("{path}/driver/module")))?;
            }
        }
        for (name, device) in [("ens3", card), ("eno1", "/sys/devices/pci0000:00/0000:00:04.0")] {
            std::fs::create_dir_all(root.at(&format!("/sys/class/net/{name}")))?;
            symlink(root.at(device), root.at(&format!("/sys/class/net/{name}/device")))?;
        }
        let found = |name: &str| -> Vec<(Option<String>, Option<String>)> {
            places(&root, name).into_iter().map(|place| (place.modalias, place.module)).collect()
        };
        let pair = |modalias: &str, module: &str| {
            (Some(modalias.to_owned()), Some(module.to_owned()).filter(|module| !module.is_empty()))
        };
        assert_eq!(
            found("ens3"),
            [
                pair("pci:v00001AF4d00001000", "virtio_pci"),
                pair("virtio:d00000001v00001AF4", ""),
                pair("virtio:d00000001v00001AF4", "virtio_net"),
            ]
        );
        let phy_first = found("eno1");
        assert_eq!(phy_first[0].0.as_deref(), Some("mdio:01100"));
        assert_eq!(phy_first.last().unwrap().1.as_deref(), Some("tg3"));
        assert_eq!(found("lo"), []);
        Ok(())
    }
}
