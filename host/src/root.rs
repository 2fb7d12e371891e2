//! Where a system's files are: `/`, a system that is mounted elsewhere, or a directory of fixtures in tests.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

/// The root of the file tree that facts are read from.
#[derive(Debug, Clone)]
pub struct Root(PathBuf);

impl Root {
    /// The tree under `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// The machine itself: `/`.
    pub fn host() -> Self {
        Self::new("/")
    }

    /// Whether this is the machine itself.
    pub fn is_real(&self) -> bool {
        self.0 == Path::new("/")
    }

    /// Where the absolute `path` is.
    pub fn at(&self, path: &str) -> PathBuf {
        self.0.join(path.trim_start_matches('/'))
    }

    /// The bytes of a file.
    pub fn read(&self, path: &str) -> io::Result<Vec<u8>> {
        std::fs::read(self.at(path))
    }

    /// The text of a file, trimmed; `None` if it can't be read. Bytes that are no UTF-8 are replaced.
    pub fn text(&self, path: &str) -> Option<String> {
        let bytes = self.read(path).ok()?;
        Some(String::from_utf8_lossy(&bytes).trim_end_matches(['\n', '\0', ' ']).trim_start().to_owned())
    }

    /// The whole number in a file.
    pub fn number(&self, path: &str) -> Option<u64> {
        self.text(path)?.parse().ok()
    }

    /// Whether a file says `1`.
    pub fn flag(&self, path: &str) -> bool {
        self.text(path).is_some_and(|text| text == "1")
    }

    /// The sorted names in a directory; none if it can't be read.
    pub fn names(&self, path: &str) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.at(path)) else { return Vec::new() };
        let mut names: Vec<_> = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        names
    }

    /// Where `path` leads on this machine, its links read as a process has them whose root directory this is: an
    /// absolute link begins here, and nothing is above. `None` if nothing is there.
    pub fn inside(&self, path: &str) -> Option<PathBuf> {
        let mut found = self.0.clone();
        let (mut depth, mut links) = (0, 0);
        let mut rest: Vec<OsString> = Vec::new();
        let add = |path: &Path, rest: &mut Vec<OsString>| {
            rest.extend(path.components().rev().map(|part| part.as_os_str().to_owned()));
        };
        add(Path::new(path), &mut rest);
        while let Some(part) = rest.pop() {
            match part.as_encoded_bytes() {
                b"/" => (0..std::mem::take(&mut depth)).for_each(|_| _ = found.pop()),
                b"." => {}
                b".." => {
                    if depth > 0 {
                        found.pop();
                        depth -= 1;
                    }
                }
                _ => {
                    found.push(part);
                    match std::fs::read_link(&found) {
                        // As many links as the kernel follows.
                        Ok(target) if links < 40 => {
                            found.pop();
                            links += 1;
                            add(&target, &mut rest);
                        }
                        // EINVAL: no link.
                        Err(error) if error.kind() == io::ErrorKind::InvalidInput => depth += 1,
                        _ => return None,
                    }
                }
            }
        }
        Some(found)
    }

    /// The path that `path` resolves to, as seen from this root.
    pub fn resolve(&self, path: &str) -> Option<String> {
        let root = std::fs::canonicalize(&self.0).ok()?;
        let full = std::fs::canonicalize(self.at(path)).ok()?;
        Some(format!("/{}", full.strip_prefix(root).ok()?.to_str()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_stay_inside() -> io::Result<()> {
        use std::os::unix::fs::symlink;
        let dir = tempfile::tempdir()?;
        let root = Root::new(dir.path());
        std::fs::create_dir_all(root.at("/nix/store/linux/lib"))?;
        std::fs::create_dir_all(root.at("/run"))?;
        std::fs::write(root.at("/nix/store/linux/bzImage"), "")?;
        for (target, link) in [
            ("/nix/store/linux", "/run/booted"),
            ("../../../../../../../../nix", "/run/nix"),
            ("/etc", "/run/etc"),
            ("loop", "/run/loop"),
            (".", "/run/here"),
        ] {
            symlink(target, root.at(link))?;
        }
        let inside = |path: &str| root.inside(path).map(|path| path.strip_prefix(dir.path()).unwrap().to_owned());
        for (path, found) in [
            ("/", Some("")),
            ("/nix/./store/linux/lib/..", Some("nix/store/linux")),
            ("/../..//nix", Some("nix")),
            ("/run/booted", Some("nix/store/linux")),
            ("/run/booted/bzImage", Some("nix/store/linux/bzImage")),
            ("/run/booted/../linux/lib", Some("nix/store/linux/lib")),
            ("/run/nix/store", Some("nix/store")),
            ("/run/here/here/booted", Some("nix/store/linux")),
            ("/run/etc", None),
            ("/run/loop", None),
            ("/run/booted/none", None),
        ] {
            assert_eq!(inside(path).as_deref(), found.map(Path::new), "{path}");
        }
        let real = Root::host();
        assert_eq!(real.inside("/proc/../etc/"), Some("/etc".into()));
        Ok(())
    }
}
