//! As much of HTTP/1.1 as package clients speak.

use std::io::{self, BufRead, Write};

/// A request's line and the headers that matter here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    pub method: String,
    pub target: String,
    /// First byte, and last byte if it was given.
    pub range: Option<(u64, Option<u64>)>,
    pub keep_alive: bool,
}

/// Reads a request; `None` at the connection's end.
pub fn read_head(from: &mut impl BufRead) -> io::Result<Option<Head>> {
    let mut line = String::new();
    if from.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace();
    let (Some(method), Some(target), Some(version)) = (words.next(), words.next(), words.next()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not a request"));
    };
    let mut head =
        Head { method: method.to_owned(), target: target.to_owned(), range: None, keep_alive: version == "HTTP/1.1" };
    loop {
        let mut line = String::new();
        if from.read_line(&mut line)? == 0 || line.trim().is_empty() {
            return Ok(Some(head));
        }
        let Some((name, value)) = line.split_once(':') else { continue };
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            "range" => head.range = parse_range(value),
            "connection" => head.keep_alive = !value.eq_ignore_ascii_case("close"),
            _ => {}
        }
    }
}

fn parse_range(value: &str) -> Option<(u64, Option<u64>)> {
    let (first, last) = value.strip_prefix("bytes=")?.split_once('-')?;
    let last = if last.is_empty() { None } else { Some(last.parse().ok()?) };
    Some((first.parse().ok()?, last))
}

/// Writes a status line and headers.
pub fn write_head(to: &mut impl Write, status: u16, headers: &[(&str, String)]) -> io::Result<()> {
    let reason = match status {
        200 => "OK",
        206 => "Partial Content",
        404 => "Not Found",
        405 => "Method Not Allowed",
        416 => "Range Not Satisfiable",
        _ => "As Asked",
    };
    let mut text = format!("HTTP/1.1 {status} {reason}\r\n");
    for (name, value) in headers {
        text.extend([name, ": ", value, "\r\n"]);
    }
    text.push_str("\r\n");
    to.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_one_request_after_another() {
        let mut bytes = &b"GET /a HTTP/1.1\r\nHost: x\r\nRange: bytes=5-\r\n\r\nHEAD /b HTTP/1.0\r\n\r\n"[..];
        let first = read_head(&mut bytes).unwrap().unwrap();
        assert_eq!((first.target.as_str(), first.range, first.keep_alive), ("/a", Some((5, None)), true));
        let second = read_head(&mut bytes).unwrap().unwrap();
        assert_eq!((second.method.as_str(), second.keep_alive), ("HEAD", false));
        assert!(read_head(&mut bytes).unwrap().is_none());
    }
}
