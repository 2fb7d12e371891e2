//! Kernel modules for the initramfs: chosen on the host, uncompressed. The index for modprobe is made in RAM, by
//! depmod.

pub mod firmware;
pub mod index;
pub mod modinfo;
pub mod modprobe;
pub mod select;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::{self, Read};
use std::path::Path;

use anemos_host::Root;

use index::Index;
use modinfo::ModInfo;
use modprobe::Modprobe;
use select::{Hardware, Place};

use crate::error::{Doing, Fault, Result};

/// Most bytes that a module may have when it is unpacked.
const LIMIT: u64 = 256 << 20;

/// The most memory that unpacking xz may take. Modules need 3 MiB, and what is packed at xz's highest level 65 MiB.
const XZ_MEMORY: u64 = 128 << 20;

/// Where the modules of a kernel may be: merged /usr or not, then NixOS and Guix.
pub fn directories(release: &str) -> [String; 4] {
    ["/usr/lib", "/lib", "/run/booted-system/kernel-modules/lib", "/run/booted-system/kernel/lib"]
        .map(|parent| format!("{parent}/modules/{release}"))
}

/// The directory that has the modules of `release`, with depmod's index of them.
pub fn directory(root: &Root, release: &str) -> Option<String> {
    directories(release).into_iter().find(|dir| root.inside(&format!("{dir}/modules.dep")).is_some())
}

/// Reads a file of the modules directory `dir`.
pub fn read(root: &Root, dir: &str, file: &str) -> io::Result<Vec<u8>> {
    std::fs::read(root.inside(&format!("{dir}/{file}")).ok_or(io::ErrorKind::NotFound)?)
}

/// Reads depmod's files in the modules directory `dir`.
pub fn read_index(root: &Root, dir: &str) -> Result<Index> {
    let read = |name: &str| read(root, dir, name).doing(|| format!("reading {dir}/{name}"));
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

/// The machine's modules and devices, and the places of its network devices with these names.
pub fn hardware<'a>(root: &Root, network: impl Iterator<Item = &'a str>) -> Hardware {
    let (mut modaliases, mut bound) = (BTreeSet::new(), BTreeSet::new());
    find_devices(&root.at("/sys/devices"), 0, &mut modaliases, &mut bound);
    let watchdogs = devices(root, "/sys/class/watchdog");
    Hardware {
        loaded: loaded(root),
        modaliases,
        bound,
        data: data(root),
        network: network.flat_map(|name| places(root, name)).collect(),
        kinds: BTreeSet::new(),
        has_watchdog: watchdogs.iter().any(|path| !path.contains("/virtual/")),
        watchdogs: watchdogs.iter().flat_map(|path| drivers(root, path)).collect(),
        modprobe: Modprobe::read(root),
    }
}

/// Names of loaded modules that drive a disk, a network device, or a device above one, and that the modules directory
/// `dir` doesn't have: as after an update that took them away, or where depmod can't read them.
pub fn missing(root: &Root, dir: &str) -> Vec<String> {
    let dep = read(root, dir, "modules.dep").unwrap_or_default();
    let index = Index::parse(&String::from_utf8_lossy(&dep), "", "");
    let is_there = |name: &str| {
        index.modules.get(name).is_some_and(|module| root.inside(&format!("{dir}/{}", module.path)).is_some())
    };
    data(root).intersection(&loaded(root)).filter(|name| !is_there(name)).cloned().collect()
}

/// Names of the loaded modules.
fn loaded(root: &Root) -> BTreeSet<String> {
    let modules = root.text("/proc/modules").unwrap_or_default();
    modules.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

/// Names of the modules that drive what keeps data or carries it, and the devices above that.
fn data(root: &Root) -> BTreeSet<String> {
    DATA.iter().flat_map(|class| devices(root, class)).flat_map(|path| drivers(root, &path)).collect()
}

/// Directories with the devices that keep data or carry it.
const DATA: [&str; 4] = ["/sys/block", "/sys/class/net", "/sys/class/scsi_host", "/sys/class/nvme"];

/// Paths below `/sys/devices` of the devices in a directory of links.
fn devices(root: &Root, directory: &str) -> Vec<String> {
    let names = root.names(directory).into_iter();
    let paths = names.filter_map(|name| root.resolve(&format!("{directory}/{name}")));
    paths.filter(|path| path.starts_with("/sys/devices/")).collect()
}

/// The path of a device and those of all devices above it, from the root down.
fn ancestors(device: &str) -> impl Iterator<Item = &str> {
    let ends = device.match_indices('/').map(|(at, _)| at).chain([device.len()]);
    ends.filter(|end| *end > "/sys/devices".len()).map(move |end| &device[..end])
}

/// Names of the modules that drive a device and those above it, from the root down.
fn drivers(root: &Root, device: &str) -> Vec<String> {
    ancestors(device).filter_map(|path| driver(&root.at(path))).collect()
}

/// Name of the module that drives the device in the directory `dir`, if one does.
pub fn driver(dir: &Path) -> Option<String> {
    let module = std::fs::read_link(dir.join("driver/module")).ok()?;
    Some(module.file_name()?.to_str()?.replace('-', "_"))
}

/// The places in the tree of devices that the network device `name` needs, in the order in which their drivers should
/// load: the buses above it from the root down, the devices below it (such as a PHY), and the device itself.
fn places(root: &Root, name: &str) -> Vec<Place> {
    let link = format!("/sys/class/net/{name}/device");
    let Some(device) = root.resolve(&link).filter(|path| path.starts_with("/sys/devices/")) else { return Vec::new() };
    let place = |path: &str| Place {
        modalias: root.text(&format!("{path}/modalias")).filter(|text| !text.is_empty()),
        module: driver(&root.at(path)),
    };
    let mut places: Vec<_> = ancestors(&device).map(place).collect();
    let own = places.pop();
    let (mut below, mut bound) = (BTreeSet::new(), BTreeSet::new());
    find_devices(&root.at(&device), 0, &mut below, &mut bound);
    places.extend(below.into_iter().map(|modalias| Place { modalias: Some(modalias), module: None }));
    places.extend(own);
    places.retain(|place| place.modalias.is_some() || place.module.is_some());
    places
}

/// Adds the modaliases of the devices below `dir`, and the modules that drive them.
fn find_devices(dir: &Path, depth: usize, modaliases: &mut BTreeSet<String>, bound: &mut BTreeSet<String>) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    bound.extend(driver(dir));
    for entry in entries.flatten() {
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() && depth < 40 {
            find_devices(&entry.path(), depth + 1, modaliases, bound);
        } else if kind.is_file() && entry.file_name() == "modalias" {
            let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
            let text = text.trim();
            if !text.is_empty() {
                modaliases.insert(text.to_owned());
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
pub fn decompress(extension: &str, packed: &[u8], limit: u64) -> Option<io::Result<Vec<u8>>> {
    let mut out = Vec::new();
    let unpacked = match extension {
        "xz" => match liblzma::stream::Stream::new_stream_decoder(XZ_MEMORY, 0) {
            Ok(stream) => liblzma::read::XzDecoder::new_stream(packed, stream).take(limit).read_to_end(&mut out),
            Err(error) => Err(io::Error::other(error)),
        },
        "zst" => zstd::stream::read::Decoder::new(packed).and_then(|d| d.take(limit).read_to_end(&mut out)),
        "gz" => flate2::read::GzDecoder::new(packed).take(limit).read_to_end(&mut out),
        _ => return None,
    };
    Some(unpacked.map(|_| out))
}

/// The path of a module once it is uncompressed.
pub fn plain_path(path: &str) -> &str {
    path.rfind(".ko").map_or(path, |at| &path[..at + 3])
}

/// A list of modules for the agent, in loading order: absolute paths, each followed by a space and the module's
/// parameters if it has any.
pub fn render_load(index: &Index, names: &[String], parameters: &BTreeMap<String, String>, release: &str) -> String {
    let mut out = String::new();
    for name in names {
        let Some(module) = index.modules.get(name) else { continue };
        _ = write!(out, "/usr/lib/modules/{release}/{}", plain_path(&module.path));
        if let Some(parameters) = parameters.get(name) {
            _ = write!(out, " {parameters}");
        }
        out.push('\n');
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
        // The size of the dictionary, which is what memory is taken for, and the checksum of the header that it is in.
        let mut huge = xz.clone();
        huge[16] = 40;
        let end = 12 + (usize::from(huge[12]) + 1) * 4;
        let mut crc = flate2::Crc::new();
        crc.update(&huge[12..end - 4]);
        huge[end - 4..end].copy_from_slice(&crc.sum().to_le_bytes());
        for (name, bytes) in [("a.ko", plain.clone()), ("a.ko.xz", xz), ("a.ko.gz", gz), ("a.ko.zst", zst)] {
            assert_eq!(unpack(name, bytes).unwrap(), plain, "{name}");
        }
        assert!(unpack("a.ko.lz4", plain.clone()).unwrap_err().to_string().contains("not known"));
        assert!(unpack("a.ko.xz", plain).unwrap_err().to_string().contains("a.ko.xz"));
        assert!(unpack("a.ko.xz", huge).is_err(), "a dictionary of 4 GiB");
    }

    #[test]
    fn the_list_has_paths_of_uncompressed_modules() {
        let mut index = Index::default();
        for name in ["a", "d"] {
            index.modules.insert(name.into(), index::Module { path: format!("kernel/{name}.ko.xz"), needs: vec![] });
        }
        let parameters = BTreeMap::from([("d".to_owned(), "x=1 y=\"a b\"".to_owned())]);
        assert_eq!(
            render_load(&index, &["d".into(), "a".into(), "gone".into()], &parameters, "6.1"),
            "/usr/lib/modules/6.1/kernel/d.ko x=1 y=\"a b\"\n/usr/lib/modules/6.1/kernel/a.ko\n"
        );
    }

    #[test]
    fn the_way_to_a_network_device() -> io::Result<()> {
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

    /// A disk at a SATA controller, a display, and a watchdog that is a part of a bridge.
    #[test]
    fn what_drives_what() -> io::Result<()> {
        use std::os::unix::fs::symlink;
        let dir = tempfile::tempdir()?;
        let root = Root::new(dir.path());
        let pci = "/sys/devices/pci0000:00";
        let (disk, watchdog) =
            (format!("{pci}/0000:00:1f.2/ata1/host0/0:0:0:0"), format!("{pci}/0000:00:1f.0/iTCO_wdt"));
        for (path, module) in [
            (format!("{pci}/0000:00:1f.2"), "ahci"),
            (disk.clone(), "sd_mod"),
            (format!("{pci}/0000:00:02.0"), "nvidia-drm"),
            (format!("{pci}/0000:00:1f.0"), "lpc_ich"),
            (watchdog.clone(), "iTCO_wdt"),
        ] {
            let driver = root.at(&format!("/sys/bus/x/drivers/{module}"));
            std::fs::create_dir_all(&driver)?;
            symlink(format!("../../../../module/{module}"), driver.join("module"))?;
            std::fs::create_dir_all(root.at(&path))?;
            symlink(driver, root.at(&path).join("driver"))?;
        }
        for (link, device) in [
            ("/sys/block/sda", format!("{disk}/block/sda")),
            ("/sys/class/watchdog/watchdog0", format!("{watchdog}/watchdog/watchdog0")),
        ] {
            std::fs::create_dir_all(root.at(&device))?;
            std::fs::create_dir_all(root.at(link).parent().unwrap())?;
            symlink(root.at(&device), root.at(link))?;
        }
        std::fs::create_dir_all(root.at("/proc"))?;
        std::fs::write(root.at("/proc/modules"), "nvidia_drm 1 0 - Live 0x0\nahci 1 1 - Live 0x0\n")?;
        let found = hardware(&root, std::iter::empty());
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<BTreeSet<_>>();
        assert_eq!(found.bound, names(&["ahci", "sd_mod", "nvidia_drm", "lpc_ich", "iTCO_wdt"]));
        assert_eq!(found.data, names(&["ahci", "sd_mod"]));
        assert_eq!(found.loaded, names(&["ahci", "nvidia_drm"]));
        assert_eq!((found.has_watchdog, found.watchdogs), (true, vec!["lpc_ich".to_owned(), "iTCO_wdt".to_owned()]));

        // The kernel has sd_mod built in, and nothing needs the display. What is listed must also be there.
        let modules = "/usr/lib/modules/6.1";
        let file = root.at(modules).join("kernel/ahci.ko.xz");
        std::fs::create_dir_all(file.parent().unwrap())?;
        assert_eq!(missing(&root, modules), ["ahci"]);
        std::fs::write(root.at(modules).join("modules.dep"), "kernel/ahci.ko.xz:\n")?;
        assert_eq!(missing(&root, modules), ["ahci"]);
        std::fs::write(file, "")?;
        assert_eq!(missing(&root, modules), Vec::<String>::new());
        Ok(())
    }
}
