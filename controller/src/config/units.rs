//! Durations and sizes as people write them.

use std::time::Duration;

/// A duration longer than this is a mistake.
const LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);

/// Reads `90s`, `10m`, `2h`, `1d` or several together (`1h30m`).
///
/// The error says what is wrong in words that go after the text itself.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let bad = || "is not a duration: write a number and s, m, h or d, such as \"90s\", \"10m\" or \"1h30m\"".to_owned();
    let mut total: u64 = 0;
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(bad());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
        let number: u64 = rest[..digits].parse().map_err(|_| bad())?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
        let seconds = match &rest[..unit] {
            "s" => 1,
            "m" | "min" => 60,
            "h" => 3600,
            "d" => 24 * 3600,
            _ => return Err(bad()),
        };
        total = number.checked_mul(seconds).and_then(|part| total.checked_add(part)).ok_or_else(bad)?;
        rest = rest[unit..].trim_start();
    }
    match Duration::from_secs(total) {
        Duration::ZERO => Err("is no time at all: a deadline must be at least 1s".into()),
        long if long > LONGEST => Err("is longer than a week (7d)".into()),
        duration => Ok(duration),
    }
}

/// A duration as [`parse_duration`] reads it: `1h30m`.
pub fn format_duration(duration: Duration) -> String {
    let mut seconds = duration.as_secs();
    let mut parts = Vec::new();
    for (unit, length) in [("d", 24 * 3600), ("h", 3600), ("m", 60), ("s", 1)] {
        if seconds >= length {
            parts.push(format!("{}{unit}", seconds / length));
            seconds %= length;
        }
    }
    if parts.is_empty() { "0s".into() } else { parts.concat() }
}

/// Reads `500G`, `500GB` (decimal, as on a disk's label), `2TiB` (binary), `1.5T`, or plain bytes.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let bad = || "is not a size: write a number and a unit, such as \"500GB\" or \"2TiB\"".to_owned();
    let text = text.trim();
    let number_end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = (&text[..number_end], text[number_end..].trim_start());
    let unit: u64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" => 1000,
        "m" | "mb" => 1000_u64.pow(2),
        "g" | "gb" => 1000_u64.pow(3),
        "t" | "tb" => 1000_u64.pow(4),
        "p" | "pb" => 1000_u64.pow(5),
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "tib" => 1 << 40,
        "pib" => 1 << 50,
        _ => return Err(bad()),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || fraction.len() > 9 || fraction.contains('.') || number.ends_with('.') {
        return Err(bad());
    }
    let whole: u128 = whole.parse().map_err(|_| bad())?;
    let scale = 10_u128.pow(fraction.len() as u32);
    let fraction: u128 = if fraction.is_empty() { 0 } else { fraction.parse().map_err(|_| bad())? };
    let bytes = whole.checked_mul(scale).and_then(|n| (n + fraction).checked_mul(unit.into())).ok_or_else(bad)? / scale;
    match u64::try_from(bytes) {
        Ok(0) => Err("is no size at all".into()),
        Ok(bytes) => Ok(bytes),
        Err(_) => Err("is more bytes than a disk can have".into()),
    }
}

/// A size in decimal units, as on a disk's label: `480.1 GB`.
pub fn format_size(bytes: u64) -> String {
    let units = [
        ("PB", 1000_u64.pow(5)),
        ("TB", 1000_u64.pow(4)),
        ("GB", 1000_u64.pow(3)),
        ("MB", 1000_u64.pow(2)),
        ("kB", 1000),
    ];
    match units.into_iter().find(|(_, size)| bytes >= *size) {
        Some((unit, size)) => format!("{:.1} {unit}", bytes as f64 / size as f64),
        None => format!("{bytes} bytes"),
    }
}

/// Bytes with a binary unit: `812 B`, `1.4 KiB`, `23.0 MiB`, `931 GiB`.
pub fn format_bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1024.0;
    let mut unit = 0;
    // 1023.5 would be shown as 1024.
    while value >= 1023.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if value < 99.95 { format!("{value:.1} {}", UNITS[unit]) } else { format!("{value:.0} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn human_bytes() {
        let table: [(u64, &str); 9] = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1_250_000, "1.2 MiB"),
            (102_300, "99.9 KiB"),
            (102_400, "100 KiB"),
            (1_048_575, "1.0 MiB"),
            (1 << 40, "1.0 TiB"),
            (u64::MAX, "16.0 EiB"),
        ];
        for (count, shown) in table {
            assert_eq!(format_bytes(count), shown);
        }
    }

    #[test]
    fn durations() {
        for (text, seconds) in
            [("90s", 90), ("10m", 600), ("10min", 600), ("2h", 7200), ("1d", 86400), ("1h30m", 5400), ("1h 30m", 5400)]
        {
            assert_eq!(parse_duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in [
            "",
            "90",
            "m",
            "10x",
            "-5s",
            "1.5h",
            "5 minutes",
            "0s",
            "8d",
            "99999999999999999999s",
            "99999999999999999d",
            "10m5",
        ] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("500G", 500_000_000_000),
            ("500GB", 500_000_000_000),
            ("500 gb", 500_000_000_000),
            ("2TiB", 2 << 40),
            ("1.5TiB", 3 << 39),
            ("512", 512),
            ("0.5k", 500),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in
            ["", "G", "5X", ".5G", "5.G", "1.2.3G", "-1G", "0G", "99999999999999999999999999999999999999999P", "20000P"]
        {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_formatted_duration_reads_back(seconds in 1_u64..=7 * 86400) {
            let duration = Duration::from_secs(seconds);
            prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,12}") {
            let _ = parse_duration(&text);
            let _ = parse_size(&text);
        }
    }
}
