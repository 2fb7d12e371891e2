//! One thing wrong in hosts.toml, shown where it is.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Columns of the source line shown; lines with a key in them are long.
const SHOWN: usize = 100;

/// Something wrong in hosts.toml: where, what, and what to do.
///
/// Its `Display` is several lines, the last of which has a caret under the place and the advice beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The file, as it was named.
    pub file: PathBuf,
    /// Line, from 1.
    pub line: usize,
    /// Column, from 1, in characters.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// What to do about it, if there is something to say.
    pub help: Option<String>,
    source_line: String,
    width: usize,
}

impl ConfigError {
    /// An error at bytes `span` of `text`.
    pub(super) fn at(file: &Path, text: &str, span: Range<usize>, message: String, help: Option<String>) -> Self {
        let start = floor_boundary(text, span.start);
        let line_start = text[..start].rfind('\n').map_or(0, |at| at + 1);
        let line_end = text[start..].find('\n').map_or(text.len(), |at| start + at);
        let end = floor_boundary(text, span.end.clamp(start, line_end));
        Self {
            file: file.to_owned(),
            line: text[..start].matches('\n').count() + 1,
            column: text[line_start..start].chars().count() + 1,
            message,
            help,
            source_line: text[line_start..line_end].trim_end_matches('\r').to_owned(),
            width: text[start..end].trim_end().chars().count().max(1),
        }
    }

    /// The same without the source line.
    pub(super) fn without_source(self) -> Self {
        Self { source_line: String::new(), ..self }
    }
}

fn floor_boundary(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0)
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}", self.file.display(), self.line, self.column, self.message)?;
        if self.source_line.is_empty() {
            return self.help.as_ref().map_or(Ok(()), |help| write!(f, "; {help}"));
        }
        writeln!(f)?;
        let before = self.column - 1;
        // A long line is shown from a little before the place.
        let skip = if before + self.width < SHOWN { 0 } else { before.saturating_sub(20) };
        let rest = self.source_line.chars().skip(skip);
        // The line may hold anything: a terminal must not obey it, and a tab would put the caret elsewhere.
        let shown: String = rest
            .take(SHOWN)
            .map(|c| {
                if c == '\t' {
                    ' '
                } else if c.is_control() {
                    '\u{fffd}'
                } else {
                    c
                }
            })
            .collect();
        let number = self.line.to_string();
        let gutter = " ".repeat(number.len());
        let ellipsis = if skip > 0 { "…" } else { "" };
        writeln!(f, "{gutter} |")?;
        writeln!(f, "{number} | {ellipsis}{shown}")?;
        let indent = " ".repeat(before - skip + ellipsis.chars().count());
        write!(f, "{gutter} | {indent}{}", "^".repeat(self.width.min(SHOWN - (before - skip).min(SHOWN - 1))))?;
        self.help.as_ref().map_or(Ok(()), |help| write!(f, " {help}"))
    }
}

impl std::error::Error for ConfigError {}
