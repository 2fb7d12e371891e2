//! Points in time as the lock writes them: whole seconds, UTC.

use std::fmt;
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Deserializer, de};

/// A point in time in whole seconds; reads and prints as RFC 3339 in UTC, `2026-01-02T03:04:05Z`.
///
/// It is never before 1970 nor after 2106, so that it fits newc's 32-bit modification time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(u32);

impl Time {
    /// Seconds since 1970.
    pub const fn from_unix(seconds: u32) -> Self {
        Self(seconds)
    }

    /// Seconds since 1970.
    pub const fn unix(self) -> u32 {
        self.0
    }

    /// Now; a clock outside the range counts as its nearest end.
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(u32::try_from(since.as_secs()).unwrap_or(u32::MAX))
    }

    /// Reads a date as HTTP has it (RFC 9110 5.6.7, with its obsolete forms), and Debian's Release files.
    pub(crate) fn of_date(text: &str) -> Option<Self> {
        let words: Vec<&str> = text.split([' ', ',', '-']).filter(|word| !word.is_empty()).collect();
        let ([_, day, month, year, clock, "GMT" | "UTC" | "+0000"] | [_, month, day, clock, year]) = words[..] else {
            return None;
        };
        let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
        let month = months.iter().position(|name| *name == month)? + 1;
        let century = match year.len() {
            2 if year < "70" => "20",
            2 => "19",
            _ => "",
        };
        format!("{century}{year}-{month:02}-{day:0>2}T{clock}Z").parse().ok()
    }

    /// So many seconds later.
    pub(crate) const fn after(self, seconds: u32) -> Self {
        Self(self.0.saturating_add(seconds))
    }

    /// How snapshot archives name this point in time: `20260102T030405Z`.
    pub fn snapshot_id(self) -> String {
        self.to_string().replace(['-', ':'], "")
    }

    fn fields(self) -> (i64, i64, i64, u32, u32, u32) {
        let (year, month, day) = civil_from_days(i64::from(self.0 / 86_400));
        let second = self.0 % 86_400;
        (year, month, day, second / 3600, second / 60 % 60, second % 60)
    }
}

/// Days since 1970 to a date of the Gregorian calendar. Years are counted from March, which puts the leap day last.
const fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + if month <= 2 { 1 } else { 0 };
    (year, month, day_of_year - (153 * shifted + 2) / 5 + 1)
}

const fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let shifted = if month > 2 { month - 3 } else { month + 9 };
    let (era, year_of_era) = (year / 400, year % 400);
    let day_of_year = (153 * shifted + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day, hour, minute, second) = self.fields();
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
    }
}

impl FromStr for Time {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("not a time in UTC like 2026-01-02T03:04:05Z: {text:?}");
        let bytes = text.as_bytes();
        let shape = b"0000-00-00T00:00:00Z";
        let fits = |(&c, &s): (&u8, &u8)| if s == b'0' { c.is_ascii_digit() } else { c == s };
        if bytes.len() != shape.len() || !bytes.iter().zip(shape).all(fits) {
            return Err(wrong());
        }
        let number = |from: usize, to: usize| bytes[from..to].iter().fold(0, |n, c| n * 10 + i64::from(c - b'0'));
        let days = days_from_civil(number(0, 4), number(5, 7), number(8, 10));
        let seconds = days * 86_400 + number(11, 13) * 3600 + number(14, 16) * 60 + number(17, 19);
        let time = Self(u32::try_from(seconds).map_err(|_| wrong())?);
        // Printing it again refuses the 31st of February and the 25th hour without a table of either.
        if time.to_string() == text { Ok(time) } else { Err(wrong()) }
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_times() {
        for (unix, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (4_294_967_295, "2106-02-07T06:28:15Z"),
        ] {
            assert_eq!(Time::from_unix(unix).to_string(), text);
            assert_eq!(text.parse(), Ok(Time::from_unix(unix)));
        }
        assert_eq!(Time::from_unix(1_709_251_199).snapshot_id(), "20240229T235959Z");
    }

    #[test]
    fn dates_of_http_and_of_archives() {
        for text in [
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
            " Sun, 06 Nov 1994 08:49:37 UTC",
            "Sun,  6 Nov 1994 08:49:37 +0000",
        ] {
            assert_eq!(Time::of_date(text).map(Time::unix), Some(784_111_777), "{text}");
        }
        for text in ["", "120", "Sun, 06 Nov 1994 08:49:37 CET", "Sun, 31 Feb 1994 08:49:37 GMT", "Sun, 6 x 4 5 GMT"] {
            assert_eq!(Time::of_date(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_no_time() {
        for text in
            ["", "2026-02-30T00:00:00Z", "2026-01-01T24:00:00Z", "1969-12-31T23:59:59Z", "2026-01-01T00:00:00+1"]
        {
            assert!(text.parse::<Time>().is_err(), "{text}");
        }
    }
}
