//! Rust's text as tokens: enough to find paths, modules and `use` declarations, and nothing more.

/// The code of a file: names, `::`, and single other characters. Comments, attributes, lifetimes and literals are left
/// out, and so is every item that is only compiled for tests.
pub fn tokens(text: &str) -> Vec<String> {
    without_attributes(&all_tokens(text))
}

/// Every token; a literal is one token that begins with a quote or a digit.
pub fn all_tokens(text: &str) -> Vec<String> {
    let chars: Vec<char> = text.chars().collect();
    let mut tokens = Vec::new();
    let mut at = 0;
    while at < chars.len() {
        let rest = &chars[at..];
        let next = rest.get(1).copied().unwrap_or(' ');
        let length = match rest[0] {
            '/' if next == '/' => rest.iter().position(|&c| c == '\n').unwrap_or(rest.len()),
            '/' if next == '*' => block_comment(rest),
            '"' => quoted(rest, '"'),
            '\'' if next == '\\' || rest.get(2) == Some(&'\'') => quoted(rest, '\''),
            '\'' => 1 + name(&rest[1..]),
            ':' if next == ':' => 2,
            first if first.is_alphanumeric() || first == '_' => literal(rest).unwrap_or_else(|| name(rest)),
            _ => 1,
        };
        let token: String = rest[..length].iter().collect();
        if !(token.starts_with(char::is_whitespace) || token.starts_with("//") || token.starts_with("/*")) {
            tokens.push(token);
        }
        at += length;
    }
    tokens
}

/// How long the name at the beginning is.
fn name(chars: &[char]) -> usize {
    chars.iter().position(|&c| !(c.is_alphanumeric() || c == '_')).unwrap_or(chars.len())
}

/// How long the string or character at the beginning is, which ends with `end`.
fn quoted(chars: &[char], end: char) -> usize {
    let mut at = 1;
    while at < chars.len() && chars[at] != end {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    (at + 1).min(chars.len())
}

/// How long the literal with a prefix (`r#"…"#`, `b'…'`, `c"…"`) at the beginning is, if there is one. A raw name
/// (`r#type`) is none.
fn literal(chars: &[char]) -> Option<usize> {
    let prefix = name(chars);
    let raw = match chars[..prefix].iter().collect::<String>().as_str() {
        "r" | "br" | "cr" => true,
        "b" | "c" => false,
        _ => return None,
    };
    let hashes = chars[prefix..].iter().take_while(|&&c| raw && c == '#').count();
    let open = prefix + hashes;
    match chars.get(open) {
        Some('"') if raw => {
            let closing: String = format!("\"{}", "#".repeat(hashes));
            let body: String = chars[open + 1..].iter().collect();
            let end = body.find(&closing).unwrap_or(body.len());
            Some((open + 1 + body[..end].chars().count() + closing.len()).min(chars.len()))
        }
        Some(&quote @ ('"' | '\'')) => Some(prefix + quoted(&chars[prefix..], quote)),
        _ => None,
    }
}

/// How long the comment at the beginning is; comments nest.
fn block_comment(chars: &[char]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < chars.len() {
        match (chars[at], chars.get(at + 1)) {
            ('/', Some('*')) => (depth, at) = (depth + 1, at + 2),
            ('*', Some('/')) => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    chars.len()
}

/// Leaves out attributes, and with `#[cfg(test)]` what it stands before.
fn without_attributes(tokens: &[String]) -> Vec<String> {
    let mut left = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let inner = usize::from(tokens[at] == "#" && tokens.get(at + 1).is_some_and(|token| token == "!"));
        if tokens[at] != "#" || tokens.get(at + 1 + inner).is_none_or(|token| token != "[") {
            left.push(tokens[at].clone());
            at += 1;
            continue;
        }
        let start = at + 1 + inner;
        at = start + bracketed(&tokens[start..]);
        let attribute = tokens[start..at].concat();
        assert!(!attribute.starts_with("[path="), "a module's file is found by its name: {attribute}");
        if attribute == "[cfg(test)]" {
            at += item(&tokens[at..]);
        }
    }
    left
}

/// How many tokens the brackets at the beginning and what they hold are.
pub fn bracketed(tokens: &[String]) -> usize {
    let mut depth = 0;
    for (at, token) in tokens.iter().enumerate() {
        match token.as_str() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at + 1;
        }
    }
    tokens.len()
}

/// How many tokens the item at the beginning is: to its `;`, or the end of its braces.
fn item(tokens: &[String]) -> usize {
    let mut at = 0;
    while at < tokens.len() {
        match tokens[at].as_str() {
            ";" => return at + 1,
            "{" => return at + bracketed(&tokens[at..]),
            "(" | "[" => at += bracketed(&tokens[at..]),
            _ => at += 1,
        }
    }
    at
}
