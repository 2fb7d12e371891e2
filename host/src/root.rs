//! Where a system's files are: `/`, a system that is mounted elsewhere, or a directory of fixtures in tests.

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

    /// The path that `path` resolves to, as seen from this root.
    pub fn resolve(&self, path: &str) -> Option<String> {
        let root = std::fs::canonicalize(&self.0).ok()?;
        let full = std::fs::canonicalize(self.at(path)).ok()?;
        Some(format!("/{}", full.strip_prefix(root).ok()?.to_str()?))
    }
}
