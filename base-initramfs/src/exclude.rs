//! Patterns for paths that the image does without.

use std::fmt;

use serde::{Deserialize, Deserializer, de};

/// A pattern over paths as they are in the image, without a leading slash: `usr/share/doc/**`.
///
/// `*` stands for any characters within one part of the path, `**` (as the last part) for everything below.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exclude(String);

impl Exclude {
    /// A pattern from its text.
    pub fn new(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split('/').collect();
        let last = parts.len() - 1;
        for (index, part) in parts.iter().enumerate() {
            if part.is_empty() || *part == "." || *part == ".." {
                return Err(format!("expected a path without a leading slash, `.` or `..` and found {text:?}"));
            }
            if part.contains("**") && (*part != "**" || index != last || index == 0) {
                return Err(format!("`**` must be the last part of a longer path, in {text:?}"));
            }
        }
        Ok(Self(text.to_owned()))
    }

    /// The pattern's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it covers this path of the image.
    pub fn matches(&self, path: &str) -> bool {
        let mut parts = path.split('/');
        for pattern in self.0.split('/') {
            if pattern == "**" {
                return parts.next().is_some();
            }
            match parts.next() {
                Some(part) if part_matches(pattern.as_bytes(), part.as_bytes()) => {}
                _ => return false,
            }
        }
        parts.next().is_none()
    }
}

/// Each `*` takes as little as it can, and more only when the rest doesn't fit: linear in practice, never exponential,
/// because only the last `*` seen is ever reconsidered.
fn part_matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star = None;
    while t < text.len() {
        if p < pattern.len() && pattern[p] == b'*' {
            star = Some((p, t));
            p += 1;
        } else if p < pattern.len() && pattern[p] == text[t] {
            p += 1;
            t += 1;
        } else if let Some((star_p, star_t)) = star {
            star = Some((star_p, star_t + 1));
            p = star_p + 1;
            t = star_t + 1;
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|&c| c == b'*')
}

impl fmt::Display for Exclude {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Exclude {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(&String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matching() {
        for (pattern, path, expected) in [
            ("usr/share/doc/**", "usr/share/doc/apt/copyright", true),
            ("usr/share/doc/**", "usr/share/doc", false),
            ("usr/share/doc/**", "usr/share/docs/a", false),
            ("usr/sbin/xfs_scrub*", "usr/sbin/xfs_scrub_all", true),
            ("usr/sbin/xfs_scrub*", "usr/sbin/xfs_scrub", true),
            ("usr/sbin/xfs_scrub*", "usr/sbin/xfs_scrub/x", false),
            ("usr/*/perl/*.pod", "usr/share/perl/a.b.pod", true),
            ("usr/*/perl/*.pod", "usr/share/perl/a.pod.gz", false),
            ("a/*b*b", "a/xbxb", true),
            ("a/*b*b", "a/xbxbx", false),
        ] {
            assert_eq!(Exclude::new(pattern).unwrap().matches(path), expected, "{pattern} {path}");
        }
    }

    #[test]
    fn refused() {
        for pattern in ["", "/usr", "usr/../x", "usr/**/x", "**", "usr/a**", "usr//x", "usr/"] {
            assert!(Exclude::new(pattern).is_err(), "{pattern}");
        }
    }
}
