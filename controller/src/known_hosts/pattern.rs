//! The first field of a known_hosts line: which names it is for.

use data_encoding::BASE64;
use ring::hmac;

/// Bytes of an HMAC-SHA1, and of the salt that OpenSSH uses.
const SHA1_LEN: usize = 20;

/// The names that a line is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Names {
    /// One name, hashed: `|1|SALT|HASH`.
    Hashed { salt: Vec<u8>, hash: Vec<u8> },
    /// Patterns, lower-case.
    Patterns(Vec<Pattern>),
}

/// One of the names between commas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pattern {
    negated: bool,
    glob: String,
}

impl Names {
    /// Reads the field.
    pub(super) fn parse(field: &str) -> Result<Self, String> {
        let Some(hashed) = field.strip_prefix('|') else {
            let patterns = field.split(',').map(|pattern| match pattern.strip_prefix('!') {
                Some(rest) => Pattern { negated: true, glob: rest.to_lowercase() },
                None => Pattern { negated: false, glob: pattern.to_lowercase() },
            });
            return Ok(Self::Patterns(patterns.collect()));
        };
        let decode = |text: &str| BASE64.decode(text.as_bytes()).ok().filter(|bytes| bytes.len() == SHA1_LEN);
        match hashed.split('|').collect::<Vec<_>>()[..] {
            ["1", salt, hash] => match (decode(salt), decode(hash)) {
                (Some(salt), Some(hash)) => Ok(Self::Hashed { salt, hash }),
                _ => Err("the hashed name is damaged".into()),
            },
            _ => Err("the name is hashed in a way that is not known".into()),
        }
    }

    /// Whether `name`, lower-case and with its port if that belongs, is one of them.
    pub(super) fn matches(&self, name: &str) -> bool {
        match self {
            Self::Hashed { salt, hash } => hmac::verify(&key(salt), name.as_bytes(), hash).is_ok(),
            // A negated pattern that matches rules the line out, wherever in the list it is.
            Self::Patterns(patterns) => {
                let mut matching = patterns.iter().filter(|pattern| glob(&pattern.glob, name)).peekable();
                matching.peek().is_some() && matching.all(|pattern| !pattern.negated)
            }
        }
    }
}

fn key(salt: &[u8]) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, salt)
}

/// `name` as `|1|SALT|HASH`.
pub(super) fn hash(name: &str, salt: &[u8; SHA1_LEN]) -> String {
    format!("|1|{}|{}", BASE64.encode(salt), BASE64.encode(hmac::sign(&key(salt), name.as_bytes()).as_ref()))
}

/// `*` is any text, `?` any one character, everything else itself.
///
/// On a mismatch only the last `*` is tried again, one character further: so a hostile pattern costs at most
/// pattern × name steps.
fn glob(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    let mut star = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(&c) if c == b'?' || c == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match star {
                Some((star_p, star_t)) => {
                    star = Some((star_p, star_t + 1));
                    p = star_p + 1;
                    t = star_t + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&c| c == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn globs() {
        for (pattern, text, expected) in [
            ("web", "web", true),
            ("web", "web1", false),
            ("web?", "web1", true),
            ("web?", "web", false),
            ("*", "", true),
            ("*", "anything", true),
            ("*.example.org", "a.b.example.org", true),
            ("*.example.org", "example.org", false),
            ("a*b*c", "aXXbYYbc", true),
            ("a*b*c", "aXXbYYb", false),
            ("192.168.?.*", "192.168.1.77", true),
            ("", "", true),
            ("", "a", false),
        ] {
            assert_eq!(glob(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn a_negation_wins_wherever_it_stands() {
        for field in ["*.example.org,!bad.example.org", "!bad.example.org,*.example.org"] {
            let names = Names::parse(field).unwrap();
            assert!(names.matches("good.example.org"));
            assert!(!names.matches("bad.example.org"));
        }
        assert!(!Names::parse("!bad.example.org").unwrap().matches("good.example.org"));
    }

    proptest! {
        #[test]
        fn what_is_hashed_matches_itself_only(name in "[a-z0-9.]{1,20}", other in "[a-z0-9.]{1,20}", salt: [u8; 20]) {
            let names = Names::parse(&hash(&name, &salt)).unwrap();
            prop_assert!(names.matches(&name));
            prop_assert_eq!(names.matches(&other), name == other);
        }

        #[test]
        fn a_glob_of_a_text_matches_it(text in "[a-z.]{0,12}", at in 0_usize..12) {
            let at = at.min(text.len());
            let globbed = format!("{}*{}", &text[..at], &text[(at + 1).min(text.len())..]);
            prop_assert!(glob(&globbed, &text));
        }
    }
}
