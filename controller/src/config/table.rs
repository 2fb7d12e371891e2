//! Reads values of the expected kind out of a TOML tree, and notes every error on the way.

use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::ConfigError;

/// A value with its place.
pub(super) type Value<'t> = Spanned<DeValue<'t>>;

/// What a path in hosts.toml must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PathKind {
    /// A directory.
    Directory,
    /// A file.
    File,
}

/// A path that hosts.toml names, for [`super::load()`] to look at.
#[derive(Debug)]
pub(super) struct PathUse {
    /// Where it is named.
    pub(super) span: Range<usize>,
    /// What it must be.
    pub(super) kind: PathKind,
    /// Resolved.
    pub(super) path: PathBuf,
}

/// Collects errors and paths while values are read.
pub(super) struct Reader<'a> {
    pub(super) file: &'a Path,
    pub(super) text: &'a str,
    pub(super) home: Option<&'a Path>,
    /// Reads files that this one names.
    pub(super) source: &'a (dyn Fn(&Path) -> std::io::Result<String> + 'a),
    pub(super) errors: Vec<ConfigError>,
    pub(super) paths: Vec<PathUse>,
}

impl Reader<'_> {
    /// Notes an error.
    pub(super) fn error(&mut self, span: Range<usize>, message: impl Into<String>) {
        self.errors.push(ConfigError::at(self.file, self.text, span, message.into(), None));
    }

    /// Where something is, for people: `hosts.toml:7`.
    pub(super) fn place(&self, span: &Range<usize>) -> String {
        let error = ConfigError::at(self.file, self.text, span.clone(), String::new(), None);
        format!("{}:{}", error.file.display(), error.line)
    }

    /// Notes an error with advice beside the caret.
    pub(super) fn advise(&mut self, span: Range<usize>, message: impl Into<String>, help: impl Into<String>) {
        self.errors.push(ConfigError::at(self.file, self.text, span, message.into(), Some(help.into())));
    }

    /// Notes an error without showing the text, which must not end up in a log.
    pub(super) fn error_unquoted(&mut self, span: Range<usize>, message: impl Into<String>) {
        self.errors.push(ConfigError::at(self.file, self.text, span, message.into(), None).without_source());
    }

    /// Notes that `key` is none of `known`, and suggests the nearest.
    pub(super) fn unknown_key(&mut self, key: &Spanned<impl AsRef<str>>, place: &str, known: &[&str]) {
        let name = key.get_ref().as_ref();
        let help = match nearest(name, known) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("known here: {}", known.join(", ")),
        };
        self.advise(key.span(), format!("unknown key `{name}` in {place}"), help);
    }

    /// Notes that a value is of the wrong kind.
    pub(super) fn wrong_type(&mut self, name: &str, value: &Value<'_>, wanted: &str) {
        self.error(value.span(), format!("`{name}` must be {wanted}, not {}", kind(value)));
    }

    /// A string that isn't empty and has no control characters.
    pub(super) fn string(&mut self, name: &str, value: &Value<'_>, wanted: &str) -> Option<String> {
        let DeValue::String(text) = value.get_ref() else {
            self.wrong_type(name, value, wanted);
            return None;
        };
        if text.trim().is_empty() {
            self.error(value.span(), format!("`{name}` is empty"));
            return None;
        }
        if text.chars().any(|c| c.is_control() && c != '\n' && c != '\t') {
            self.error(value.span(), format!("`{name}` has a control character in it"));
            return None;
        }
        Some(text.clone().into_owned())
    }

    /// A string that `check` accepts; its error says what is wrong in words that go after the text.
    pub(super) fn checked<T>(
        &mut self,
        name: &str,
        value: &Value<'_>,
        wanted: &str,
        check: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let text = self.string(name, value, wanted)?;
        match check(&text) {
            Ok(checked) => Some(checked),
            Err(why) => {
                self.error(value.span(), format!("`{name}`: `{text}` {why}"));
                None
            }
        }
    }

    /// One of a few words.
    pub(super) fn word<T: Copy>(&mut self, name: &str, value: &Value<'_>, words: &[(&str, T)]) -> Option<T> {
        let all = words.iter().map(|(word, _)| format!("\"{word}\"")).collect::<Vec<_>>().join(", ");
        let text = self.string(name, value, &format!("one of {all}"))?;
        let found = words.iter().find(|(word, _)| *word == text).map(|(_, meaning)| *meaning);
        if found.is_none() {
            let names: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            let message = format!("`{name}` must be one of {all}, not \"{text}\"");
            match nearest(&text, &names) {
                Some(near) => self.advise(value.span(), message, format!("did you mean \"{near}\"?")),
                None => self.error(value.span(), message),
            }
        }
        found
    }

    /// `true` or `false`.
    pub(super) fn boolean(&mut self, name: &str, value: &Value<'_>) -> Option<bool> {
        if let DeValue::Boolean(boolean) = value.get_ref() {
            return Some(*boolean);
        }
        self.wrong_type(name, value, "true or false");
        None
    }

    /// A TCP port.
    pub(super) fn port(&mut self, name: &str, value: &Value<'_>) -> Option<u16> {
        let wanted = "a port number (1 to 65535)";
        let DeValue::Integer(integer) = value.get_ref() else {
            self.wrong_type(name, value, wanted);
            return None;
        };
        let port = u16::from_str_radix(integer.as_str(), integer.radix()).ok().filter(|port| *port != 0);
        if port.is_none() {
            self.error(value.span(), format!("`{name}` must be {wanted}, not {integer}"));
        }
        port
    }

    /// The elements of a list.
    pub(super) fn list<'v, 't>(
        &mut self,
        name: &str,
        value: &'v Value<'t>,
        wanted: &str,
    ) -> Option<Vec<&'v Value<'t>>> {
        if let DeValue::Array(list) = value.get_ref() {
            return Some(list.iter().collect());
        }
        self.wrong_type(name, value, wanted);
        None
    }

    /// The entries of a table, in the order of the file.
    pub(super) fn table<'v, 't>(
        &mut self,
        name: &str,
        value: &'v Value<'t>,
        wanted: &str,
    ) -> Option<Vec<Entry<'v, 't>>> {
        if let DeValue::Table(table) = value.get_ref() {
            return Some(entries(table));
        }
        self.wrong_type(name, value, wanted);
        None
    }

    /// A path: absolute, `~/…`, or relative to the file's directory.
    pub(super) fn path(&mut self, name: &str, value: &Value<'_>, kind: PathKind) -> Option<PathBuf> {
        let wanted = match kind {
            PathKind::Directory => "the path of a directory",
            PathKind::File => "the path of a file",
        };
        let text = self.string(name, value, wanted)?;
        let path = self.resolve(name, value, &text)?;
        self.paths.push(PathUse { span: value.span(), kind, path: path.clone() });
        Some(path)
    }

    fn resolve(&mut self, name: &str, value: &Value<'_>, text: &str) -> Option<PathBuf> {
        let joined = match (text.strip_prefix("~/"), self.home) {
            (Some(rest), Some(home)) => home.join(rest),
            (Some(_), None) => {
                self.error(value.span(), format!("`{name}`: `~` means nothing here, as $HOME is not set"));
                return None;
            }
            (None, _) if text.starts_with('~') => {
                self.error(value.span(), format!("`{name}`: only `~/…` is understood, not `{text}`"));
                return None;
            }
            (None, _) => super::dir_of(self.file).join(text),
        };
        // Drops the `.` in `./payload`, which would be in every message.
        Some(joined.components().collect())
    }
}

/// A key and its value.
pub(super) type Entry<'v, 't> = (&'v Spanned<std::borrow::Cow<'t, str>>, &'v Value<'t>);

/// The entries of a table, in the order of the file.
pub(super) fn entries<'v, 't>(table: &'v DeTable<'t>) -> Vec<Entry<'v, 't>> {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    entries
}

fn kind(value: &Value<'_>) -> &'static str {
    match value.get_ref() {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// What people coming from other tools write for our words.
const OTHER_WORDS: &[(&str, &str)] = &[
    ("hostname", "address"),
    ("host", "address"),
    ("host", "hosts"),
    ("ip", "address"),
    ("username", "user"),
    ("ssh_user", "user"),
    ("proxyjump", "proxy_jump"),
    ("jump", "proxy_jump"),
    ("jump_host", "proxy_jump"),
    ("bastion", "proxy_jump"),
    ("sudo", "become"),
    ("become_method", "become"),
    ("ssh_key", "identity_file"),
    ("key", "identity_file"),
    ("ssh_port", "port"),
    ("timeouts", "deadlines"),
    ("timeout", "deadlines"),
    ("env", "vars"),
    ("variables", "vars"),
    ("default", "defaults"),
    ("drive", "disk"),
    ("device", "disk"),
    ("shutdown", "poweroff"),
];

/// The one of `known` that is meant by `name`, if one is near enough.
pub(super) fn nearest<'k>(name: &str, known: &[&'k str]) -> Option<&'k str> {
    let folded = name.to_lowercase().replace('-', "_");
    if let Some((_, ours)) = OTHER_WORDS.iter().find(|(theirs, ours)| *theirs == folded && known.contains(ours)) {
        return known.iter().find(|known| *known == ours).copied();
    }
    let distance = |known: &str| strsim::damerau_levenshtein(&folded, &known.to_lowercase().replace('-', "_"));
    let allowed = (folded.chars().count() / 3).clamp(1, 3);
    known
        .iter()
        .map(|known| (distance(known), *known))
        .filter(|(d, _)| *d <= allowed)
        .min_by_key(|(d, _)| *d)
        .map(|(_, k)| k)
}
