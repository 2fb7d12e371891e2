//! Text that crosses a border: remote bytes made harmless, and words for a shell. Pure.

use unicode_width::UnicodeWidthChar;

const TAB: usize = 8;

/// Makes one line of remote text safe to show on a terminal.
///
/// Escape sequences go, control and invisible formatting characters go, tabs become spaces, and a carriage return
/// starts the line afresh, so that of a tool's progress bar only the last state remains. Invalid UTF-8 becomes U+FFFD.
pub fn sanitise(bytes: &[u8]) -> String {
    sanitise_str(&String::from_utf8_lossy(bytes))
}

/// [`sanitise`] for what is text already.
pub fn sanitise_str(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    let mut columns = 0;
    // A return overwrites only if something follows: `\r\n` ends a line, it does not empty it.
    let mut returned = false;
    // From here on no control string ends. Looking for an end again at each introducer would take forever.
    let mut endless = false;
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let after = &rest[c.len_utf8()..];
        rest = match c {
            '\x1b' => skip_escape(after, &mut endless),
            '\u{9b}' => skip_csi(after),
            '\u{90}' | '\u{98}' | '\u{9d}'..='\u{9f}' => skip_string(after, &mut endless),
            _ => after,
        };
        let shown = match c {
            '\r' => {
                returned = true;
                continue;
            }
            '\x08' => {
                columns -= line.pop().and_then(UnicodeWidthChar::width).unwrap_or(0);
                continue;
            }
            '\n' | '\x0b' | '\x0c' | '\u{85}' | '\u{2028}' | '\u{2029}' => ' ',
            '\t' => '\t',
            c if c.is_control() || is_invisible(c) => continue,
            c => c,
        };
        if std::mem::take(&mut returned) {
            line.clear();
            columns = 0;
        }
        if shown == '\t' {
            let spaces = TAB - columns % TAB;
            line.extend(std::iter::repeat_n(' ', spaces));
            columns += spaces;
        } else {
            line.push(shown);
            columns += shown.width().unwrap_or(0);
        }
    }
    line
}

/// What reorders, hides, joins or widens text without being seen itself.
pub fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}'
        | '\u{e0100}'..='\u{e01ef}')
}

/// What follows an escape sequence, given what follows its ESC.
fn skip_escape<'a>(rest: &'a str, endless: &mut bool) -> &'a str {
    let mut chars = rest.chars();
    match chars.next() {
        Some('[') => skip_csi(chars.as_str()),
        Some(']' | 'P' | 'X' | '^' | '_') => skip_string(chars.as_str(), endless),
        // nF: intermediates and one final character, such as `ESC ( B`.
        Some(' '..='/') => {
            let rest = chars.as_str().trim_start_matches(|c| matches!(c, ' '..='/'));
            rest.strip_prefix(|c| matches!(c, '0'..='~')).unwrap_or(rest)
        }
        Some('0'..='~') => chars.as_str(),
        _ => rest,
    }
}

/// What follows a control sequence: parameters, intermediates, one final character. A broken one ends where it breaks.
fn skip_csi(rest: &str) -> &str {
    let rest = rest.trim_start_matches(|c| matches!(c, '0'..='?'));
    let rest = rest.trim_start_matches(|c| matches!(c, ' '..='/'));
    rest.strip_prefix(|c| matches!(c, '@'..='~')).unwrap_or(rest)
}

/// What follows a control string (OSC, DCS, …). One that does not end on this line hides nothing but its introducer.
fn skip_string<'a>(rest: &'a str, endless: &mut bool) -> &'a str {
    if *endless {
        return rest;
    }
    let end = rest.char_indices().find_map(|(i, c)| match c {
        '\x07' | '\u{9c}' => Some(i + c.len_utf8()),
        '\x1b' if rest[i + 1..].starts_with('\\') => Some(i + 2),
        _ => None,
    });
    *endless = end.is_none();
    &rest[end.unwrap_or(0)..]
}

/// One word of a shell's, for a command that is run or that the user may copy.
pub fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=.,:/@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) { word.into() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

/// Adds to what was said before, of which only the last so many bytes are kept.
pub fn keep_last(kept: &mut Vec<u8>, bytes: &[u8], most: usize) {
    kept.extend_from_slice(bytes);
    kept.drain(..kept.len().saturating_sub(most));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_reads_one_word() {
        for (word, expected) in [
            ("/a/b-c.d", "/a/b-c.d"),
            ("[::1]:2222", "'[::1]:2222'"),
            ("/it's here", r"'/it'\''s here'"),
            ("$(x) `y` \\ !", r"'$(x) `y` \ !'"),
            ("", "''"),
        ] {
            assert_eq!(quoted(word), expected);
            let output =
                std::process::Command::new("/bin/sh").args(["-c", &format!("printf %s {}", quoted(word))]).output();
            assert_eq!(String::from_utf8(output.unwrap().stdout).unwrap(), word);
        }
    }

    #[test]
    fn the_end_is_kept() {
        let mut kept = Vec::new();
        for (bytes, expected) in [("abc", "abc"), ("de", "bcde"), ("", "bcde"), ("fghijk", "hijk")] {
            keep_last(&mut kept, bytes.as_bytes(), 4);
            assert_eq!(kept, expected.as_bytes());
        }
    }
}
