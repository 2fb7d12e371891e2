//! `base.toml`: what the lock is made from.

use serde::Deserialize;

use crate::{Error, Exclude};

/// What `base.toml` says.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BaseList {
    /// The name that errors give it.
    #[serde(skip)]
    file: String,
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
        let mut list: Self = toml::from_str(text).map_err(|error| wrong(error.to_string().trim_end().to_owned()))?;
        // These become arguments of apt's: nothing that it could take for an option or a pattern.
        let plain = |name: &str| {
            name.starts_with(|c: char| c.is_ascii_alphanumeric())
                && name.bytes().all(|c| c.is_ascii_alphanumeric() || b"+-.".contains(&c))
                && !name.ends_with(['+', '-'])
        };
        let names = list.install.iter().chain(&list.drop).chain(&list.kernel).chain([&list.suite, &list.arch]);
        if let Some(name) = names.into_iter().find(|name| !plain(name)) {
            return Err(wrong(format!("{name:?} is not a name of a package, suite or architecture")));
        }
        file.clone_into(&mut list.file);
        Ok(list)
    }

    /// Fails if there are any of these words, which have an effect on nothing: one that is misspelt is not told from
    /// one that has been left behind.
    pub(super) fn without_effect<'a>(
        &self,
        field: &str,
        why: &str,
        words: impl Iterator<Item = &'a str>,
    ) -> Result<(), Error> {
        let words: Vec<&str> = words.collect();
        if words.is_empty() {
            return Ok(());
        }
        let reason = format!("`{field}` names what {why}: {}", words.join(", "));
        Err(Error::Parse { file: self.file.clone(), reason })
    }
}
