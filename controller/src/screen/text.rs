//! Text for people: numbers and times made readable, columns that line up.

use anemos_proto::event::Stream;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

pub use crate::config::format_bytes as bytes;
pub use crate::text::{is_invisible, sanitise, sanitise_str};

/// See [`brief`].
const BRIEF: usize = 500;

/// A line of a host's log. What the kernel says is told from what the payload says.
pub fn log_line(stream: Stream, line: &[u8]) -> String {
    match stream {
        Stream::Kernel => format!("kernel: {}", sanitise(line)),
        Stream::Stdout | Stream::Stderr => sanitise(line),
    }
}

/// [`sanitise_str`] for what is kept to be looked at in a row: what no terminal is wide enough for is cut off.
pub fn brief(text: &str) -> String {
    clip(&sanitise_str(text), BRIEF)
}

/// Columns that `text` takes. `text` must hold no escape sequences.
pub fn width(text: &str) -> usize {
    text.width()
}

/// Breaks a text at blanks; all lines but the first are indented.
pub fn wrap(text: &str, columns: usize, indent: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_inclusive(' ') {
        let line = lines.last().map_or(0, |line| width(line));
        if line > indent && line + width(word.trim_end()) > columns {
            lines.push(" ".repeat(indent));
        }
        if let Some(line) = lines.last_mut() {
            line.push_str(word);
        }
    }
    lines
}

/// Exactly `columns` columns: padded on the right, or cut with an ellipsis.
pub fn fit(text: &str, columns: usize) -> String {
    let mut cut = clip(text, columns);
    let used = width(&cut);
    cut.extend(std::iter::repeat_n(' ', columns.saturating_sub(used)));
    cut
}

/// At most `columns` columns, cut with an ellipsis.
pub fn clip(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    let Some(room) = columns.checked_sub(1) else { return String::new() };
    let mut cut = String::new();
    let mut used = 0;
    for c in text.chars() {
        let wide = c.width().unwrap_or(0);
        if used + wide > room {
            break;
        }
        used += wide;
        cut.push(c);
    }
    cut.push('…');
    cut
}

/// `right` at the right end of `columns` columns.
pub fn right(text: &str, columns: usize) -> String {
    let mut padded = " ".repeat(columns.saturating_sub(width(text)));
    padded.push_str(text);
    padded
}

/// Seconds for people: `0.8 s`, `42 s`, `3m05s`, `2h07m`, `3d04h`.
pub fn duration(seconds: f64) -> String {
    let seconds = seconds.max(0.0);
    if seconds < 9.95 {
        return format!("{seconds:.1} s");
    }
    let whole = seconds.round() as u64;
    match whole {
        0..60 => format!("{whole} s"),
        60..3600 => format!("{}m{:02}s", whole / 60, whole % 60),
        3600..86_400 => format!("{}h{:02}m", whole / 3600, whole % 3600 / 60),
        _ => format!("{}d{:02}h", whole / 86_400, whole % 86_400 / 3600),
    }
}

/// `HH:MM:SSZ`: in UTC, as the `Z` says.
pub fn clock(wall_ms: u64) -> String {
    format!("{}Z", time_of_day(wall_ms))
}

fn time_of_day(wall_ms: u64) -> String {
    let seconds = wall_ms / 1000 % 86_400;
    format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

/// RFC 3339 in UTC: `2026-11-23T09:30:00Z`.
pub fn date_time(wall_ms: u64) -> String {
    format!("{}T{}", date(wall_ms), clock(wall_ms))
}

/// RFC 3339 in UTC with milliseconds: `2026-11-23T09:30:00.125Z`.
pub fn rfc3339(wall_ms: u64) -> String {
    format!("{}T{}.{:03}Z", date(wall_ms), time_of_day(wall_ms), wall_ms % 1000)
}

fn date(wall_ms: u64) -> String {
    let (year, month, day) = civil(wall_ms / 86_400_000);
    format!("{year:04}-{month:02}-{day:02}")
}

/// The Gregorian date of a day counted from 1970-01-01. Years start in March here, so that the leap day comes last.
fn civil(days: u64) -> (u64, u64, u64) {
    const ERA: u64 = 146_097; // days in 400 years
    let days = days + 719_468; // 0000-03-01 is day 0
    let of_era = days % ERA;
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (days / ERA * 400 + year_of_era + u64::from(month <= 2), month, day)
}

/// Milliseconds since the Unix epoch, now.
pub fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Standard base64 with padding.
pub fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0u32, |word, &b| word << 8 | u32::from(b)) << (8 * (3 - chunk.len()));
        for i in 0..4 {
            let digit = ALPHABET[(word >> (18 - 6 * i) & 63) as usize];
            text.push(if i <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

/// Whether colours are used, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Paint(pub bool);

impl Paint {
    /// Colours where `terminal` says so, unless NO_COLOR or TERM forbid it.
    pub fn pick(terminal: bool) -> Self {
        let forbidden = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self(terminal && !forbidden && !dumb())
    }

    fn wrap(self, code: &str, text: &str) -> String {
        if self.0 && !text.is_empty() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// For what matters.
    pub fn bold(self, text: &str) -> String {
        self.wrap("1", text)
    }

    /// For what is only there to be looked up.
    pub fn dim(self, text: &str) -> String {
        self.wrap("2", text)
    }

    /// For what failed or will be lost.
    pub fn red(self, text: &str) -> String {
        self.wrap("31", text)
    }

    /// For what went well or stays.
    pub fn green(self, text: &str) -> String {
        self.wrap("32", text)
    }

    /// For what needs a look.
    pub fn yellow(self, text: &str) -> String {
        self.wrap("33", text)
    }

    /// For what is going on.
    pub fn cyan(self, text: &str) -> String {
        self.wrap("36", text)
    }
}

/// Whether the terminal can't move its cursor.
pub fn dumb() -> bool {
    std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb")
}
