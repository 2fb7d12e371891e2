//! Text for people: numbers and times made readable, columns that line up.

use std::ffi::OsString;
use std::sync::{Mutex, PoisonError};

use anemos_proto::event::Stream;
use clap::ValueEnum;
use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
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

/// The time zone of whoever reads. Each time says how far it is from UTC.
#[derive(Debug, Clone)]
pub struct Zone(TimeZone);

impl Zone {
    /// UTC.
    pub fn utc() -> Self {
        Self(TimeZone::UTC)
    }

    /// That of this machine, as `TZ` and /etc/localtime have it; UTC if neither says.
    pub fn local() -> Self {
        Self(TimeZone::system())
    }

    /// A host may say that it is any time.
    fn at(wall_ms: u64) -> Timestamp {
        let at = i64::try_from(wall_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
        at.unwrap_or(Timestamp::MAX)
    }

    /// `09:30:00Z` or `10:30:00+01:00`.
    pub fn clock(&self, wall_ms: u64) -> String {
        let at = Self::at(wall_ms);
        let east = self.0.to_offset(at).seconds();
        let (sign, minutes) = (if east < 0 { '-' } else { '+' }, east.unsigned_abs() / 60);
        let zone = if minutes == 0 { "Z".to_owned() } else { format!("{sign}{:02}:{:02}", minutes / 60, minutes % 60) };
        format!("{}{zone}", self.0.to_datetime(at).strftime("%H:%M:%S"))
    }

    /// RFC 3339: `2026-11-23T09:30:00Z` or `2026-11-23T10:30:00+01:00`.
    pub fn date_time(&self, wall_ms: u64) -> String {
        format!("{}T{}", self.day(wall_ms), self.clock(wall_ms))
    }

    /// The day that it is there.
    pub fn day(&self, wall_ms: u64) -> Date {
        self.0.to_datetime(Self::at(wall_ms)).date()
    }
}

fn time_of_day(wall_ms: u64) -> String {
    let seconds = wall_ms / 1000 % 86_400;
    format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
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

/// When there are colours.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Colors {
    /// On a terminal, unless NO_COLOR or CLICOLOR=0 is set; elsewhere if CLICOLOR_FORCE is
    #[default]
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

static COLORS: Mutex<Colors> = Mutex::new(Colors::Auto);

impl Colors {
    /// Has this process keep to it.
    pub fn keep_to(self) {
        *COLORS.lock().unwrap_or_else(PoisonError::into_inner) = self;
    }

    /// Whether there are any. The variables are those of no-color.org and bixense.com/clicolors, in the order that
    /// others give them.
    fn wanted(self, terminal: bool, variable: &dyn Fn(&str) -> Option<OsString>) -> bool {
        let set = |name| variable(name).filter(|value| !value.is_empty());
        match self {
            Self::Always => true,
            Self::Never => false,
            Self::Auto if set("NO_COLOR").is_some() => false,
            Self::Auto if set("CLICOLOR_FORCE").is_some_and(|value| value != "0") => true,
            Self::Auto => terminal && set("CLICOLOR").is_none_or(|value| value != "0"),
        }
    }
}

/// Whether colours are used, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Paint(pub bool);

impl Paint {
    /// Colours where the user wants them (see [`Colors`]): else where `terminal` says so.
    pub fn pick(terminal: bool) -> Self {
        let colors = *COLORS.lock().unwrap_or_else(PoisonError::into_inner);
        Self(colors.wanted(terminal && !dumb(), &|name| std::env::var_os(name)))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_wants_colours() {
        use Colors::{Always, Auto, Never};
        for (colors, terminal, variables, expected) in [
            (Auto, true, "", true),
            (Auto, false, "", false),
            (Auto, true, "NO_COLOR=1", false),
            (Auto, true, "NO_COLOR=", true),
            (Auto, true, "CLICOLOR=0", false),
            (Auto, true, "CLICOLOR=1", true),
            (Auto, false, "CLICOLOR=1", false),
            (Auto, false, "CLICOLOR_FORCE=1", true),
            (Auto, false, "CLICOLOR_FORCE=0", false),
            (Auto, true, "CLICOLOR_FORCE=1 NO_COLOR=1", false),
            (Auto, false, "CLICOLOR_FORCE=1 CLICOLOR=0", true),
            (Always, false, "NO_COLOR=1", true),
            (Never, true, "CLICOLOR_FORCE=1", false),
        ] {
            let set = |name: &str| -> Option<OsString> {
                let mut pairs = variables.split_whitespace().filter_map(|pair| pair.split_once('='));
                pairs.find(|(key, _)| *key == name).map(|(_, value)| value.into())
            };
            assert_eq!(colors.wanted(terminal, &set), expected, "{colors:?} {terminal} {variables}");
        }
    }

    #[test]
    fn times_say_how_far_they_are_from_utc() {
        let at = 1_795_426_200_000;
        assert_eq!(Zone::utc().date_time(at), "2026-11-23T09:30:00Z");
        let zone = |name: &str| Zone(TimeZone::posix(name).unwrap());
        assert_eq!(zone("IST-5:30").date_time(at), "2026-11-23T15:00:00+05:30");
        assert_eq!(zone("HST10").date_time(at), "2026-11-22T23:30:00-10:00");
        // Central Europe leaves summer at one o'clock UTC.
        let berlin = zone("CET-1CEST,M3.5.0,M10.5.0/3");
        let last = 1_792_889_999_000;
        assert_eq!(berlin.clock(last), "02:59:59+02:00");
        assert_eq!(berlin.clock(last + 1000), "02:00:00+01:00");
        // Whatever a host says, it is shown.
        assert!(Zone::utc().date_time(u64::MAX).starts_with("9999-"));
    }
}
