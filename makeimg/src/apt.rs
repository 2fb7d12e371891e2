//! What a project says to apt: `apt/` in its directory, with sources, keys, pins, preseeding and packages. All of it is
//! in the image before the project's packages are installed, by the image's own apt.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::chroot::{Chroot, environment};
use crate::command::Context;
use crate::problem::{Doing, Problem};

/// Name of the directory.
pub const DIR: &str = "apt";
/// Answers to questions of packages, as debconf-set-selections(1) reads them.
const PRESEED: &str = "preseed";
/// What GRUB's packages would ask (their templates). makeimg's own script installs GRUB, on a disk whose name nobody
/// knows yet; the second kind of firmware finds it without variables that belong to one machine.
const GRUB: [(&str, &str); 2] = [
    ("grub-pc", "grub-pc grub-pc/install_devices_empty boolean true\n"),
    (
        "grub-efi-amd64",
        "grub-efi-amd64 grub2/force_efi_extra_removable boolean true\n\
         grub-efi-amd64 grub2/update_nvram boolean false\n",
    ),
];
/// Endings of names, and where such a file goes: sources.list(5), apt_preferences(5), apt.conf(5), apt-secure(8).
const PLACES: [(&str, &str); 5] = [
    (".sources", "etc/apt/sources.list.d"),
    (".pref", "etc/apt/preferences.d"),
    (".conf", "etc/apt/apt.conf.d"),
    (".gpg", "etc/apt/keyrings"),
    (".asc", "etc/apt/keyrings"),
];
/// Where packages of the project are while they are installed.
const IN_IMAGE: &str = "run/makeimg";

/// What an image's apt is given besides names of packages.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Apt {
    /// Files for the image: where each is, and where it goes.
    files: Vec<(PathBuf, String)>,
    preseed: Option<PathBuf>,
    /// Answers that the author does not give, before the author's.
    answers: String,
    /// Packages of the project, by the words of `packages`.
    local: Vec<(String, PathBuf)>,
    /// Architectures besides the image's.
    architectures: BTreeSet<String>,
}

/// The architecture of an apt package name such as `libc6:arm64` or `libc6:arm64=2.41`.
fn architecture(package: &str) -> Option<&str> {
    let name = package.split(['=', '/']).next()?;
    let architecture = name.split_once(':')?.1;
    let ours = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    (![ours, "any", "all", "native"].contains(&architecture)).then_some(architecture)
}

/// Whether a word of `packages` is a file of the project.
fn is_local(package: &str) -> bool {
    package.strip_prefix("./").and_then(|path| path.strip_suffix(".deb")).is_some()
}

impl Apt {
    /// What a project and its packages say.
    pub fn of(project: &Path, packages: &[String]) -> Self {
        let mut apt = Self::default();
        let dir = project.join(DIR);
        let mut names: Vec<_> = fs::read_dir(&dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        names.sort();
        for path in names {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name == PRESEED {
                apt.preseed = Some(path);
            } else if let Some((_, place)) = PLACES.iter().find(|(ending, _)| name.ends_with(ending)) {
                apt.files.push((path, format!("{place}/{name}")));
            }
        }
        let asks = |package: &str| packages.iter().any(|word| word == package);
        apt.answers = GRUB.iter().filter(|(package, _)| asks(package)).map(|(_, lines)| *lines).collect();
        let local = packages.iter().filter(|package| is_local(package));
        apt.local = local.map(|package| (package.clone(), project.join(package))).collect();
        apt.architectures = packages.iter().filter_map(|package| architecture(package)).map(str::to_owned).collect();
        apt
    }

    /// What of it can't be used.
    pub fn problems(project: &Path, packages: &[String]) -> Vec<Problem> {
        let mut problems = Vec::new();
        for entry in fs::read_dir(project.join(DIR)).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name != PRESEED && !PLACES.iter().any(|(ending, _)| name.ends_with(ending)) {
                let endings: Vec<&str> = PLACES.iter().map(|(ending, _)| *ending).collect();
                let hint = format!("names there are `{PRESEED}`, or end with {}", endings.join(", "));
                problems.push(Problem::new(&entry.path(), None, "means nothing to makeimg").hint(hint));
            }
        }
        for (word, path) in Self::of(project, packages).local {
            if !path.is_file() {
                problems.push(Problem::new(&path, None, format!("packages: {word}: there is no such file")));
            }
        }
        problems
    }

    /// All that it depends on: what it says, and the files that it names.
    ///
    /// # Errors
    /// A file can't be read.
    pub fn contents(&self) -> Result<Vec<Vec<u8>>, Problem> {
        let files = self.files.iter().map(|(path, _)| path).chain(&self.preseed);
        let files = files.chain(self.local.iter().map(|(_, path)| path));
        let read = |path: &PathBuf| fs::read(path).doing(|| format!("reading {}", path.display()));
        let said = Ok(format!("{self:?}").into_bytes());
        std::iter::once(said).chain(files.map(read)).collect()
    }

    /// Whether only the image's own apt can do it, when the base is there.
    pub fn is_for_the_image(&self) -> bool {
        *self != Self::default()
    }

    /// Whether any of the sources is reached by TLS, which takes certificates in the image.
    pub fn by_tls(&self) -> bool {
        let is_source = |path: &&(PathBuf, String)| path.1.ends_with(".sources");
        self.files
            .iter()
            .filter(is_source)
            .any(|(path, _)| fs::read_to_string(path).is_ok_and(|text| text.contains("https:")))
    }

    /// Puts it into the image. Returns the words for apt-get(8) in place of those of `packages`.
    ///
    /// # Errors
    /// A file can't be copied, or is not as the image's tools read it.
    pub fn prepare(&self, context: &Context, chroot: &Chroot<'_>, packages: &[String]) -> Result<Vec<String>, Problem> {
        let image = chroot.image();
        let put = |from: &Path, to: &str| {
            let put = fs::File::open(from).and_then(|file| image.write(Path::new(to), file, 0o644));
            put.doing(|| format!("copying {} into the image", from.display()))
        };
        for (from, to) in &self.files {
            put(from, to)?;
        }
        for architecture in &self.architectures {
            environment(chroot.command("dpkg").args(["--add-architecture", architecture])).run(context)?;
        }
        let mut answers = self.answers.clone().into_bytes();
        if let Some(path) = &self.preseed {
            answers.extend(fs::read(path).doing(|| format!("reading {}", path.display()))?);
        }
        if !answers.is_empty() {
            let tool = environment(chroot.command("debconf-set-selections")).input(answers);
            tool.run(context).map_err(|problem| Problem { path: self.preseed.clone(), ..problem })?;
        }
        let mut words = packages.to_vec();
        for (index, (word, path)) in self.local.iter().enumerate() {
            // Two may have one name, in different directories.
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let to = format!("{IN_IMAGE}/{index}/{name}");
            put(path, &to)?;
            words.iter_mut().filter(|other| *other == word).for_each(|other| *other = format!("/{to}"));
        }
        Ok(words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn architectures_of_package_names() {
        let ours = if cfg!(target_arch = "x86_64") { "curl:amd64" } else { "curl:arm64" };
        for (package, expected) in [
            ("libc6:riscv64", Some("riscv64")),
            ("libc6:riscv64=2.41-1", Some("riscv64")),
            ("libc6=1:2.41", None),
            ("libc6/trixie-backports", None),
            ("python3:any", None),
            (ours, None),
        ] {
            assert_eq!(architecture(package), expected, "{package}");
        }
    }
}
