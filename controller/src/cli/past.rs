//! `attach`, `status`, `logs` and `runs`: what looks at runs that were begun.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::deploy::AtEnd;
use super::which::OfRun;
use crate::select::Pattern;

/// A number of what was told of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct After {
    /// Of which one; `None`: of the only one.
    pub host: Option<String>,
    /// The number.
    pub number: u64,
}

impl std::str::FromStr for After {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (host, number) = match text.rsplit_once('=') {
            Some((host, number)) => (Some(host.to_owned()), number),
            None => (None, text),
        };
        let number = number.parse().map_err(|_| format!("`{number}` is no number; it is NUMBER or HOST=NUMBER"))?;
        Ok(Self { host, number })
    }
}

/// `attach`.
#[derive(Debug, Args)]
pub struct Attach {
    /// Whom.
    #[command(flatten)]
    pub of: OfRun,
    /// Every line that was printed so far, and not only the last 1000 of each host
    #[arg(long)]
    pub all: bool,
    /// Only what comes after this number, as `--json` has it, of the only host or of the one named
    #[arg(long, value_name = "[HOST=]NUMBER", conflicts_with = "all")]
    pub after: Vec<After>,
    /// One JSON object a line on standard output
    #[arg(long)]
    pub json: bool,
    /// What comes after.
    #[command(flatten)]
    pub at_end: AtEnd,
}

/// `report`.
#[derive(Debug, Args)]
pub struct Report {
    /// Of whom.
    #[command(flatten)]
    pub of: OfRun,
    /// Where to: JUnit's XML if the name ends in .xml, a page if in .html. May be given several times. What is there is
    /// left as it is unless it is such a report, or empty
    #[arg(long, short, value_name = "FILE", required = true)]
    pub output: Vec<PathBuf>,
}

/// `status`.
#[derive(Debug, Args)]
pub struct Status {
    /// Of whom; without anything, of all runs.
    #[command(flatten)]
    pub of: OfRun,
    /// One JSON object a line on standard output
    #[arg(long)]
    pub json: bool,
}

/// `logs`.
#[derive(Debug, Args)]
pub struct Logs {
    /// Whose.
    #[command(flatten)]
    pub of: OfRun,
    /// Go on with what is written from now, until the hosts are over
    #[arg(long, short)]
    pub follow: bool,
    /// Only what was written since: an age such as 10m, or a time such as 09:30, '2026-11-23 09:30' (local) or
    /// 2026-11-23T09:30:00Z
    #[arg(long, value_name = "TIME")]
    pub since: Option<Since>,
    /// Only the last N lines of each host
    #[arg(long, short = 'n', value_name = "N")]
    pub lines: Option<usize>,
    /// Every fact, as `up` shows them when piped
    #[arg(long, conflicts_with = "raw")]
    pub all: bool,
    /// The bytes as they came, with whatever a terminal would obey
    #[arg(long)]
    pub raw: bool,
}

/// A time in the past.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Since {
    /// So long ago.
    Ago(std::time::Duration),
    /// Then: milliseconds since the Unix epoch.
    At(u64),
}

impl Since {
    /// Milliseconds since the Unix epoch.
    pub fn wall_ms(self, now_ms: u64) -> u64 {
        match self {
            Self::Ago(ago) => now_ms.saturating_sub(u64::try_from(ago.as_millis()).unwrap_or(u64::MAX)),
            Self::At(wall_ms) => wall_ms,
        }
    }
}

impl std::str::FromStr for Since {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(ago) = age(text) {
            return Ok(Self::Ago(ago));
        }
        let here = jiff::tz::TimeZone::system();
        let today = || {
            let time: jiff::civil::Time = text.contains(':').then(|| text.parse().ok())??;
            Some(here.to_datetime(jiff::Timestamp::now()).date().to_datetime(time))
        };
        let at: Option<jiff::Timestamp> = text.parse().ok().or_else(|| {
            let at: jiff::civil::DateTime = text.parse().ok().or_else(today)?;
            here.to_timestamp(at).ok()
        });
        let ms = at.and_then(|at| u64::try_from(at.as_millisecond()).ok());
        ms.map(Self::At).ok_or_else(|| {
            "write an age such as 10m, or a time such as 09:30, '2026-11-23 09:30' or 2026-11-23T09:30:00Z".to_owned()
        })
    }
}

/// `runs`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Runs {
    /// Only runs that have such a host: names, patterns such as 'web*', groups and tags as @NAME. One that means no
    /// host of any run is an error
    #[arg(value_name = "HOST", value_delimiter = ',')]
    pub hosts: Vec<Pattern>,
    /// What to do with them; without it they are listed.
    #[command(subcommand)]
    pub what: Option<RunsCommand>,
    /// One JSON object a line on standard output
    #[arg(long)]
    pub json: bool,
}

/// What can be done with runs.
#[derive(Debug, Subcommand)]
pub enum RunsCommand {
    /// Say all that is known of a run: where it is, who decided and wished what, and how its hosts are
    #[command(after_help = "Examples:\n  anemos runs show\n  anemos runs show 0a1b")]
    Show {
        /// The run; its beginning or end is enough. Default: the newest
        run: Option<String>,
    },
    /// Delete runs that are over, with their journals
    ///
    /// A run stays that is followed now, of which a host is held or on its way or not known, or whose key is still
    /// there: without the key nobody gets into the RAM system any more.
    #[command(after_help = "Examples:\n  anemos runs prune --keep 20\n  anemos runs prune --older 30d --yes\n\n\
                            Exit status: 0 done, 2 bad input, 3 refused by you or for want of a terminal to ask on.")]
    Prune(Prune),
}

/// `runs prune`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("which").required(true).multiple(true).args(["keep", "older"]))]
pub struct Prune {
    /// All but the newest N runs
    #[arg(long, value_name = "N")]
    pub keep: Option<usize>,
    /// Only runs that began longer ago than this, such as 30d or 12h
    #[arg(long, value_name = "AGE", value_parser = age)]
    pub older: Option<std::time::Duration>,
    /// Also runs that are not over, of which a host is held or not known, or that can't be read. Nobody gets into their
    /// hosts' RAM systems any more, and nothing tells how they ended
    #[arg(long)]
    pub force: bool,
    /// Don't ask
    #[arg(long, short)]
    pub yes: bool,
}

/// Reads `30d`, `12h`, `90m` or `30s`.
fn age(text: &str) -> Result<std::time::Duration, String> {
    let bad = || "write a number and s, m, h, d or w, such as 30d".to_owned();
    let at = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
    let number: u64 = text[..at].parse().map_err(|_| bad())?;
    let unit = match &text[at..] {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 24 * 3600,
        "w" => 7 * 24 * 3600,
        _ => return Err(bad()),
    };
    number.checked_mul(unit).map(std::time::Duration::from_secs).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_in_the_past() {
        let at = |text: &str| text.parse::<Since>().map(|since| since.wall_ms(10_000_000));
        assert_eq!(at("10m"), Ok(10_000_000 - 600_000));
        assert_eq!(at("1970-01-01T00:00:01.5Z"), Ok(1500));
        assert_eq!(at("1970-01-01T01:00:01+01:00"), Ok(1000));
        // Whatever the zone of this machine is, noon comes twelve hours after midnight but on days of change.
        let (midnight, noon) = (at("2026-01-15").unwrap(), at("2026-01-15 12:00").unwrap());
        assert_eq!(noon - midnight, 12 * 3_600_000);
        assert_eq!(at("12:00").unwrap() - at("11:30").unwrap(), 1_800_000);
        for text in ["", "yesterday", "25:00", "2026-13-01", "10", "1960-01-01T00:00:00Z"] {
            assert!(text.parse::<Since>().is_err(), "{text}");
        }
    }

    #[test]
    fn ages() {
        let day = 24 * 3600;
        for (text, seconds) in [("30d", 30 * day), ("2w", 14 * day), ("12h", 12 * 3600), ("0s", 0)] {
            assert_eq!(age(text), Ok(std::time::Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "30", "d", "-1d", "1.5d", "30 days", "99999999999999999999d"] {
            assert!(age(text).is_err(), "{text}");
        }
    }
}
