//! One line of a known_hosts file.

use super::key::{KeyError, PublicKey};
use super::pattern::Names;

/// What a line says of its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Marker {
    /// The hosts have it.
    None,
    /// `@cert-authority`: it signs the hosts' certificates.
    CertAuthority,
    /// `@revoked`: never accept it.
    Revoked,
}

/// A line that was understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) marker: Marker,
    pub(super) names: Names,
    pub(super) key: PublicKey,
}

/// Reads a line: `[@marker] names algorithm base64 [comment]`. `None` for blank lines and comments.
pub(super) fn parse(line: &str) -> Result<Option<Entry>, String> {
    let line = line.trim_matches([' ', '\t', '\r']);
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    let (first, rest) = field(line);
    let (marker, names, rest) = if first.starts_with('@') {
        let marker = match first {
            "@cert-authority" => Marker::CertAuthority,
            "@revoked" => Marker::Revoked,
            _ => return Err("it begins with a marker that is not known".into()),
        };
        let (names, rest) = field(rest);
        (marker, names, rest)
    } else {
        (Marker::None, first, rest)
    };
    if rest.is_empty() {
        return Err("there is no key on it".into());
    }
    let names = Names::parse(names)?;
    let key = PublicKey::parse(rest).map_err(|error| match error {
        KeyError::Algorithm(name) if name.bytes().all(|b| b.is_ascii_digit()) => {
            "it has a key of SSH protocol 1, which nothing uses any more".into()
        }
        KeyError::Algorithm(name) => format!("`{name}` is not a kind of key that is known"),
        other => other.to_string(),
    })?;
    Ok(Some(Entry { marker, names, key }))
}

fn field(text: &str) -> (&str, &str) {
    let end = text.find([' ', '\t']).unwrap_or(text.len());
    (&text[..end], text[end..].trim_start_matches([' ', '\t']))
}
