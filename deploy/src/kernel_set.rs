//! A kernel with its modules: the host's own, or the one that the lock names.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::{BufReader, Read, Seek};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anemos_base::{Kernel, Packages, deb};
use anemos_host::Root;

use crate::error::{Doing, Fault, Result};
use crate::kernel;
use crate::modules::index::{Index, name_of};
use crate::modules::{self, select};

/// Files of depmod and of the kernel's build that go along unchanged, because modprobe reads them.
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
    /// Where the image is from, to be shown.
    pub name: String,
    /// The image.
    pub image: Vec<u8>,
    /// The image as an open file, for kexec_file_load(2).
    pub file: File,
    modules: Modules,
}

enum Modules {
    /// In a directory of the host's.
    Directory(Root, String),
    /// In packages, with their index, and the files that were taken from them so far, by path in the modules directory.
    Packages { archives: Vec<(String, File)>, index: Index, files: BTreeMap<String, Vec<u8>> },
    /// None: everything is built in.
    None,
}

impl KernelSet {
    /// The kernel that the host is running.
    pub fn of_host(root: &Root, release: &str) -> Result<Self> {
        kernel::check(root, release)?;
        let found = kernel::find(root, release)?;
        let name = found.name.clone();
        let (image, file) = found.read()?;
        let modules = match modules::directory(root, release) {
            Some(directory) => Modules::Directory(root.clone(), directory),
            None => Modules::None,
        };
        Ok(Self { release: release.to_owned(), name, image, file, modules })
    }

    /// The kernel of the lock, from its packages. Keeps the packages on disk in `dir`, since they are as large as a
    /// tenth of a small host's memory. Calls `tell` with what is being done.
    pub fn locked(locked: &Kernel, source: &dyn Packages, dir: &Path, mut tell: impl FnMut(&str)) -> Result<Self> {
        let release = &locked.release;
        let unpacking = || format!("unpacking the locked kernel {release}");
        let mut archives = Vec::new();
        for (number, package) in locked.packages.iter().enumerate() {
            tell(&format!("download {}", package.name));
            let path = dir.join(format!("kernel-{number}.deb"));
            let storing = || format!("storing {} in {}", package.name, dir.display());
            let open = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path);
            let file = open.doing(storing)?;
            // Removes the name at once, so that the file is gone when the stage ends, however it ends.
            std::fs::remove_file(&path).doing(storing)?;
            source.store(package, &file).doing(unpacking)?;
            archives.push((package.path.clone(), file));
        }
        tell("read its modules");
        let image_path = format!("boot/vmlinuz-{release}");
        let (mut image, mut index, mut files) = (Vec::new(), Index::default(), BTreeMap::new());
        let mut wanted = None;
        // The first round looks at modules that a server may need; further rounds look at those of the others that the
        // modules found so far depend on.
        loop {
            let mut found = false;
            for archive in &archives {
                each_file((&archive.0, &archive.1), release, &mut |mut file| {
                    match file.module {
                        Some(module) if is_module(module) => {
                            let look = match &wanted {
                                None => select::may_be_chosen(module),
                                Some(wanted) => BTreeSet::contains(wanted, &name_of(module)),
                            };
                            if look && let Some(info) = modules::info_of(module, file.read()?)? {
                                index.add(module, info);
                                found = true;
                            }
                        }
                        Some(kept) if KEPT.contains(&kept) => _ = files.insert(kept.to_owned(), file.read()?),
                        None if file.path == image_path => image = file.read()?,
                        _ => {}
                    }
                    Ok(())
                })
                .doing(unpacking)?;
            }
            wanted = Some(index.missing()).filter(|missing| found && !missing.is_empty());
            if wanted.is_none() {
                break;
            }
        }
        let found = kernel::version(&image).map_err(|why| Fault::new(unpacking(), why))?;
        if found != *release {
            return Err(Fault::new(unpacking(), format!("its packages hold kernel {found}")));
        }
        let file = kernel::in_memory(&image).doing(unpacking)?;
        Ok(Self {
            release: release.clone(),
            name: format!("the locked kernel {release}"),
            image,
            file,
            modules: Modules::Packages { archives, index, files },
        })
    }

    /// Whether it is the lock's, and so perhaps another than the host runs.
    pub fn is_locked(&self) -> bool {
        matches!(self.modules, Modules::Packages { .. })
    }

    /// The index of its modules.
    pub fn index(&self) -> Result<Index> {
        match &self.modules {
            Modules::Directory(root, directory) => modules::read_index(root, directory),
            Modules::None => Ok(Index::default()),
            Modules::Packages { index, .. } => Ok(index.clone()),
        }
    }

    /// Reads the files of the modules with these names from the packages, for [`module`](Self::module).
    pub fn take(&mut self, names: &BTreeSet<String>) -> Result<()> {
        let Modules::Packages { archives, files, .. } = &mut self.modules else { return Ok(()) };
        for archive in archives {
            each_file((&archive.0, &archive.1), &self.release, &mut |mut file| {
                if let Some(module) = file.module
                    && is_module(module)
                    && names.contains(&name_of(module))
                {
                    files.insert(module.to_owned(), file.read()?);
                }
                Ok(())
            })
            .doing(|| format!("unpacking modules of kernel {}", self.release))?;
        }
        Ok(())
    }

    /// The file of a module, by its path in the index.
    pub fn module(&self, path: &str) -> Result<Vec<u8>> {
        self.read(path).doing(|| format!("reading module {path} of kernel {}", self.release))
    }

    fn read(&self, path: &str) -> std::io::Result<Vec<u8>> {
        match &self.modules {
            Modules::Directory(root, directory) => modules::read(root, directory, path),
            Modules::Packages { files, .. } => {
                files.get(path).cloned().ok_or_else(|| std::io::ErrorKind::NotFound.into())
            }
            Modules::None => Err(std::io::ErrorKind::NotFound.into()),
        }
    }

    /// Files of the modules directory that go along as they are.
    pub fn further_files(&self) -> Vec<(&'static str, Vec<u8>)> {
        KEPT.iter().filter_map(|name| Some((*name, self.read(name).ok()?))).collect()
    }
}

/// Whether a file of the modules directory is a module.
fn is_module(path: &str) -> bool {
    path.rsplit('/').next().is_some_and(|file| file.contains(".ko"))
}

/// A file of a package.
struct PackageFile<'a> {
    path: &'a str,
    /// Its path in the modules directory, if it is there.
    module: Option<&'a str>,
    contents: &'a mut dyn Read,
}

impl PackageFile<'_> {
    fn read(&mut self) -> BaseResult<Vec<u8>> {
        let mut bytes = Vec::new();
        let read = self.contents.read_to_end(&mut bytes);
        read.map_err(|source| anemos_base::Error::Io { what: self.path.to_owned(), source })?;
        Ok(bytes)
    }
}

type BaseResult<T> = std::result::Result<T, anemos_base::Error>;

/// Gives each file of a package to `visit`.
fn each_file(
    (name, mut archive): (&str, &File),
    release: &str,
    visit: &mut dyn FnMut(PackageFile<'_>) -> BaseResult<()>,
) -> BaseResult<()> {
    let directories = [format!("usr/lib/modules/{release}/"), format!("lib/modules/{release}/")];
    archive.rewind().map_err(|source| anemos_base::Error::Io { what: name.to_owned(), source })?;
    deb::read(name, BufReader::new(archive), &mut |entry| {
        if entry.kind != deb::EntryKind::File {
            return Ok(());
        }
        let path = entry.path.trim_start_matches("./").trim_start_matches('/');
        let module = directories.iter().find_map(|directory| path.strip_prefix(directory.as_str()));
        visit(PackageFile { path, module, contents: entry.contents })
    })
}

#[cfg(test)]
#[path = "kernel_set_tests.rs"]
mod tests;
