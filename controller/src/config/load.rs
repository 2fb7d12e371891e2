//! hosts.toml and the files it names, on disk.

use std::path::{Path, PathBuf};
use std::{fmt, fs, io};

use super::files::gather;
use super::parse::{finish, read, take_paths};
use super::table::{PathKind, Reader};
use super::{AuthorizedKey, ConfigError, HostsFile};
use crate::known_hosts::PublicKey;

/// Reads a hosts.toml, and checks that the directories and files it names are there.
pub fn load(path: &Path) -> Result<HostsFile, LoadError> {
    let text = fs::read_to_string(path).map_err(|source| LoadError::Read { path: path.to_owned(), source })?;
    let home = std::env::var_os("HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
    let source = |path: &Path| fs::read_to_string(path);
    let (files, wrong) = gather(path, &text, home.as_deref(), &source);
    let (hosts, mut readers) = read((&files, wrong.is_empty()), home.as_deref(), &source);
    for reader in &mut readers {
        look(reader);
    }
    finish(path, hosts, readers, wrong).map_err(LoadError::Invalid)
}

/// Looks whether the files and directories that a file names are there.
fn look(reader: &mut Reader<'_>) {
    for used in take_paths(reader) {
        let shown = used.path.display();
        let wrong = match (fs::metadata(&used.path), used.kind) {
            (Ok(meta), PathKind::Directory) if !meta.is_dir() => format!("{shown} is not a directory"),
            (Ok(meta), PathKind::File) if !meta.is_file() => format!("{shown} is not a file"),
            (Ok(_), _) => continue,
            (Err(error), PathKind::Directory) if error.kind() == io::ErrorKind::NotFound => {
                format!("no directory {shown}")
            }
            (Err(error), PathKind::File) if error.kind() == io::ErrorKind::NotFound => format!("no file {shown}"),
            (Err(error), _) => format!("can't look at {shown}: {error}"),
        };
        reader.error(used.span, wrong);
    }
}

/// A hosts.toml that can't be used.
#[derive(Debug)]
pub enum LoadError {
    /// It can't be read.
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Its contents are wrong: every error in it.
    Invalid(Vec<ConfigError>),
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read { path, source } if source.kind() == io::ErrorKind::InvalidData => {
                write!(f, "{} is not UTF-8 text", path.display())
            }
            Self::Read { path, source } => write!(f, "can't read {}: {source}", path.display()),
            Self::Invalid(errors) => {
                for (i, error) in errors.iter().enumerate() {
                    write!(f, "{}{error}", if i == 0 { "" } else { "\n\n" })?;
                }
                Ok(())
            }
        }
    }
}

impl std::error::Error for LoadError {}

impl AuthorizedKey {
    /// The keys, each as an `authorized_keys` line without options.
    pub fn read(&self) -> Result<Vec<String>, ReadKeysError> {
        let path = match self {
            Self::Key(key) => return Ok(vec![key.to_string()]),
            Self::File(path) => path,
        };
        let text = fs::read_to_string(path).map_err(|source| ReadKeysError {
            path: path.clone(),
            line: None,
            why: source.to_string(),
        })?;
        let mut keys = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let key = PublicKey::parse(line).map_err(|why| ReadKeysError {
                path: path.clone(),
                line: Some(number + 1),
                why: why.to_string(),
            })?;
            keys.push(key.to_string());
        }
        if keys.is_empty() {
            return Err(ReadKeysError { path: path.clone(), line: None, why: "there is no key in it".into() });
        }
        Ok(keys)
    }
}

/// A `.pub` file that can't be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadKeysError {
    path: PathBuf,
    line: Option<usize>,
    why: String,
}

impl fmt::Display for ReadKeysError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        self.line.map_or(Ok(()), |line| write!(f, ":{line}"))?;
        write!(f, ": {}", self.why)
    }
}

impl std::error::Error for ReadKeysError {}
