//! Templates: text in which variables of the IMGBUILD stand.
//!
//! `$NAME` and `${NAME}` are replaced, and `\$` is a dollar sign, as in a shell's here-document (POSIX, XCU 2.7.4).
//! A `$` before anything else stays as it is.

use std::collections::{BTreeMap, BTreeSet};

/// Ends the name of a template.
pub const ENDING: &str = ".makeimg.template";

/// A variable that a template asks for and nobody has set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// The line, from 1.
    pub line: u32,
    /// Its name.
    pub name: String,
}

enum Piece<'a> {
    Text(&'a [u8]),
    Variable { name: &'a str, line: u32 },
}

/// Splits a template. Bytes that are no UTF-8 are text like others.
fn pieces(template: &[u8]) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let (mut from, mut at, mut line) = (0, 0, 1);
    while at < template.len() {
        match template[at] {
            b'\n' => line += 1,
            b'\\' if template.get(at + 1) == Some(&b'$') => {
                pieces.push(Piece::Text(&template[from..at]));
                from = at + 1;
                at += 1;
            }
            b'$' => {
                let rest = &template[at + 1..];
                let braced = rest.first() == Some(&b'{');
                let name = name_at(&rest[usize::from(braced)..]);
                let closed = !braced || rest.get(1 + name.len()) == Some(&b'}');
                if !name.is_empty() && closed {
                    pieces.push(Piece::Text(&template[from..at]));
                    pieces.push(Piece::Variable { name, line });
                    at += 1 + name.len() + 2 * usize::from(braced);
                    from = at;
                    continue;
                }
            }
            _ => {}
        }
        at += 1;
    }
    pieces.push(Piece::Text(&template[from..]));
    pieces
}

/// The variable's name (POSIX, XBD 3.216) that bytes begin with, or nothing.
fn name_at(bytes: &[u8]) -> &str {
    let good =
        |(at, byte): &(usize, &u8)| **byte == b'_' || byte.is_ascii_alphabetic() || (*at > 0 && byte.is_ascii_digit());
    let end = bytes.iter().enumerate().take_while(good).count();
    std::str::from_utf8(&bytes[..end]).unwrap_or_default()
}

/// The names of the variables that a template asks for.
pub fn names(template: &[u8]) -> BTreeSet<String> {
    let name = |piece| match piece {
        Piece::Variable { name, .. } => Some(name.to_owned()),
        Piece::Text(_) => None,
    };
    pieces(template).into_iter().filter_map(name).collect()
}

/// Puts in the variables.
///
/// # Errors
/// Those that are missing, in the template's order.
pub fn render(template: &[u8], variables: &BTreeMap<String, String>) -> Result<Vec<u8>, Vec<Missing>> {
    let (mut text, mut missing) = (Vec::new(), Vec::new());
    for piece in pieces(template) {
        match piece {
            Piece::Text(bytes) => text.extend_from_slice(bytes),
            Piece::Variable { name, line } => match variables.get(name) {
                Some(value) => text.extend_from_slice(value.as_bytes()),
                None => missing.push(Missing { line, name: name.to_owned() }),
            },
        }
    }
    if missing.is_empty() { Ok(text) } else { Err(missing) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rendered(template: &str) -> Result<String, Vec<(u32, String)>> {
        let variables = [("NAME", "web"), ("empty", ""), ("_x1", "$NAME")];
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let text = render(template.as_bytes(), &variables);
        text.map(|text| String::from_utf8(text).unwrap())
            .map_err(|missing| missing.into_iter().map(|m| (m.line, m.name)).collect())
    }

    #[test]
    fn variables_are_put_in() {
        for (template, text) in [
            ("host $NAME;", "host web;"),
            ("${NAME}s$NAME", "websweb"),
            ("[$empty]", "[]"),
            ("$_x1", "$NAME"),
            (r"\$NAME and \\", r"$NAME and \\"),
            ("5$ or $5, $(date) ${NAME", "5$ or $5, $(date) ${NAME"),
            ("$$NAME", "$web"),
        ] {
            assert_eq!(rendered(template).as_deref(), Ok(text), "{template}");
        }
        assert_eq!(rendered("a\n$b\n$NAME ${c}\n"), Err(vec![(2, "b".into()), (3, "c".into())]));
        assert_eq!(names(b"$a ${b} $a \xff"), ["a", "b"].map(str::to_owned).into());
    }

    proptest! {
        #[test]
        fn what_has_no_dollar_stays(text in "[^$]*") {
            prop_assert_eq!(render(text.as_bytes(), &BTreeMap::new()).unwrap(), text.as_bytes());
        }

        #[test]
        fn all_asked_for_is_enough(
            bytes in proptest::collection::vec(
                prop_oneof![Just(b'$'), Just(b'{'), Just(b'}'), Just(b'\\'), any::<u8>()],
                0..60,
            ),
        ) {
            let variables = names(&bytes).into_iter().map(|name| (name, String::new())).collect();
            prop_assert!(render(&bytes, &variables).is_ok());
        }
    }
}
