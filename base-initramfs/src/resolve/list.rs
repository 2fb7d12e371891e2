//! `base.toml`: what the lock is made from.

use serde::Deserialize;

use crate::{Error, Exclude};

/// What `base.toml` says.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BaseList {
    /// The distribution's code name.
    pub suite: String,
    /// Debian's name of the architecture.
    pub arch: String,
    /// Packages to have, together with what they depend on.
    pub install: Vec<String>,
    /// Dependencies to do without.
    #[serde(default)]
    pub drop: Vec<String>,
    /// The package that depends on the kernel to lock, if any.
    pub kernel: Option<String>,
    /// What to leave out of the image.
    #[serde(default)]
    pub exclude: Vec<Exclude>,
}

impl BaseList {
    /// Reads a list. `file` is the name that errors give, together with the line.
    pub fn parse(file: &str, text: &str) -> Result<Self, Error> {
        let wrong = |reason: String| Error::Parse { file: file.to_owned(), reason };
        let list: Self = toml::from_str(text).map_err(|error| wrong(error.to_string().trim_end().to_owned()))?;
        // These become arguments of apt's: nothing that it could take for an option or a pattern.
        let plain = |name: &str| {
            name.starts_with(|c: char| c.is_ascii_alphanumeric())
                && name.bytes().all(|c| c.is_ascii_alphanumeric() || b"+-.".contains(&c))
                && !name.ends_with(['+', '-'])
        };
        let names = list.install.iter().chain(&list.drop).chain(&list.kernel).chain([&list.suite, &list.arch]);
        let wrong_name = names.into_iter().find(|name| !plain(name)).cloned();
        match wrong_name {
            Some(name) => Err(wrong(format!("{name:?} is not a name of a package, suite or architecture"))),
            None => Ok(list),
        }
    }
}
