//! A kernel with its modules: the host's own, or the one that the lock names.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use anemos_base::{Kernel, Packages, deb};
use rustix::fs::MemfdFlags;

use crate::error::{Doing, Fault, Result};
use crate::kernel;
use crate::modules::index::Index;
use crate::modules::{self};
use crate::root::Root;

/// depmod's and the build's files that modprobe wants as they are.
const KEPT: &[&str] = &[
    "modules.builtin",
    "modules.builtin.bin",
    "modules.builtin.alias.bin",
    "modules.builtin.modinfo",
    "modules.order",
];

/// A kernel that can be booted.
pub struct KernelSet {
    /// Its release.
    pub release: String,
    /// Where the image is from, for people.
    pub name: String,
    /// The image.
    pub image: Vec<u8>,
    /// The image, for the kernel to read.
    pub file: File,
    /// Whether it unpacks initramfs segments in zstd.
    pub zstd: bool,
    modules: Modules,
}

enum Modules {
    /// In a directory of the host's.
    Directory(PathBuf),
    /// From packages, by path in the modules directory.
    Files(BTreeMap<String, Vec<u8>>),
    /// None: everything is built in.
    None,
}

impl KernelSet {
    /// The kernel that the host is running.
    pub fn of_host(root: &Root, release: &str) -> Result<Self> {
        let image = kernel::find(root, release)?;
        let file = kernel::open(root, &image.path)?;
        let directory = ["/usr/lib/modules", "/lib/modules"]
            .into_iter()
            .map(|parent| root.at(&format!("{parent}/{release}")))
            .find(|directory| directory.join("modules.dep").exists());
        let config = root
            .text(&format!("/boot/config-{release}"))
            .or_else(|| root.text(&format!("/usr/lib/modules/{release}/config")))
            .unwrap_or_default();
        let modules = match directory {
            Some(directory) => Modules::Directory(directory),
            None if root.text("/proc/modules").is_none_or(|text| text.is_empty()) => Modules::None,
            None => {
                return Err(Fault::new(
                    format!("finding the modules of kernel {release}"),
                    format!("there is no /lib/modules/{release}/modules.dep"),
                )
                .hint(
                    "install the kernel's package again, restart into the installed kernel, or use kernel = \"locked\"",
                ));
            }
        };
        Ok(Self {
            release: release.to_owned(),
            name: image.path,
            image: image.bytes,
            file,
            zstd: kernel::unpacks_zstd(&config),
            modules,
        })
    }

    /// The kernel of the lock, from its packages; `tell` is called with each package's name.
    pub fn locked(locked: &Kernel, source: &dyn Packages, mut tell: impl FnMut(&str)) -> Result<Self> {
        let release = &locked.release;
        let unpacking = || format!("unpacking the locked kernel {release}");
        let (image_path, config_path) = (format!("boot/vmlinuz-{release}"), format!("boot/config-{release}"));
        let module_dirs = [format!("usr/lib/modules/{release}/"), format!("lib/modules/{release}/")];
        let (mut image, mut config, mut files) = (Vec::new(), Vec::new(), BTreeMap::new());
        for package in &locked.packages {
            tell(&package.name);
            let bytes = source.get(package, &AtomicBool::new(false)).doing(unpacking)?;
            deb::read(&package.path, &bytes[..], &mut |entry| {
                let path = entry.path.trim_start_matches("./").trim_start_matches('/');
                let module = module_dirs.iter().find_map(|dir| path.strip_prefix(dir.as_str()));
                let mut read = |into: &mut Vec<u8>| {
                    entry
                        .contents
                        .read_to_end(into)
                        .map(|_| ())
                        .map_err(|source| anemos_base::Error::Io { what: format!("{}: {path}", package.path), source })
                };
                if path == image_path {
                    read(&mut image)?;
                } else if path == config_path {
                    read(&mut config)?;
                } else if let (Some(module), deb::EntryKind::File) = (module, &entry.kind) {
                    let mut bytes = Vec::new();
                    read(&mut bytes)?;
                    files.insert(module.to_owned(), bytes);
                }
                Ok(())
            })
            .doing(unpacking)?;
        }
        let found = kernel::version(&image).map_err(|why| Fault::new(unpacking(), why))?;
        if found != *release {
            return Err(Fault::new(unpacking(), format!("its packages hold kernel {found}")));
        }
        let file: File = rustix::fs::memfd_create("anemos-kernel", MemfdFlags::CLOEXEC).doing(unpacking)?.into();
        (&file).write_all(&image).doing(unpacking)?;
        Ok(Self {
            release: release.clone(),
            name: format!("the locked kernel {release}"),
            zstd: kernel::unpacks_zstd(&String::from_utf8_lossy(&config)),
            image,
            file,
            modules: Modules::Files(files),
        })
    }

    /// What is known of its modules.
    pub fn index(&self) -> Result<Index> {
        match &self.modules {
            Modules::Directory(directory) => modules::read_index(directory),
            Modules::None => Ok(Index::default()),
            Modules::Files(files) => {
                let is_module = |path: &str| path.rsplit('/').next().is_some_and(|file| file.contains(".ko"));
                let modules = files.iter().filter(|(path, _)| is_module(path));
                let unpacked: Result<Vec<_>> =
                    modules.map(|(path, bytes)| Ok((path.as_str(), modules::unpack(path, bytes.clone())?))).collect();
                Ok(modules::index_of(unpacked?.into_iter()))
            }
        }
    }

    /// The file of a module, by its path in the index.
    pub fn module(&self, path: &str) -> Result<Vec<u8>> {
        self.read(path).doing(|| format!("reading module {path} of kernel {}", self.release))
    }

    fn read(&self, path: &str) -> std::io::Result<Vec<u8>> {
        match &self.modules {
            Modules::Directory(directory) => std::fs::read(directory.join(path)),
            Modules::Files(files) => files.get(path).cloned().ok_or_else(|| std::io::ErrorKind::NotFound.into()),
            Modules::None => Err(std::io::ErrorKind::NotFound.into()),
        }
    }

    /// Files of the modules directory that go along as they are.
    pub fn further_files(&self) -> Vec<(&'static str, Vec<u8>)> {
        KEPT.iter().filter_map(|name| Some((*name, self.read(name).ok()?))).collect()
    }
}
