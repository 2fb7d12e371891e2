//! Time, and whether this system's clock can be believed.

use std::io;

use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};

const MINUTE: u64 = 60_000;

/// How far this clock may be behind the old system's: clocks of the hardware are read to the second, and drift.
const BEHIND: u64 = 5 * MINUTE;
/// How far this clock may be ahead: that much time may have passed between the staging and the kexec.
const AHEAD: u64 = 50 * MINUTE;
/// 2024-01-01, in milliseconds since the Unix epoch. A clock that is earlier was never set.
const NEVER_SET: u64 = 1_704_067_200_000;

/// Milliseconds since the kernel booted.
pub fn uptime_ms() -> u64 {
    millis(ClockId::Boottime)
}

/// Milliseconds since the Unix epoch.
pub fn wall_ms() -> u64 {
    millis(ClockId::Realtime)
}

fn millis(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    u64::try_from(time.tv_sec).unwrap_or(0) * 1000 + u64::try_from(time.tv_nsec).unwrap_or(0) / 1_000_000
}

/// Sets this system's clock if [`judge`] doesn't believe it. `staged` is the old system's clock at the staging. Returns
/// what was done, in words, if the clock was wrong.
pub fn mend(staged: u64) -> Option<Result<String, String>> {
    let (wall, uptime) = (wall_ms(), uptime_ms());
    let right = judge(wall, uptime, staged)?;
    let how = if wall < right { "behind" } else { "ahead of" };
    let text = format!("the machine's clock is {} {how} that of the old system", span(wall.abs_diff(right)));
    Some(match set(right) {
        Ok(()) => Ok(format!("{text}, which counts: the clock was set")),
        Err(e) => Err(format!("{text}, and could not be set: {e}")),
    })
}

fn set(wall: u64) -> io::Result<()> {
    let time = Timespec {
        tv_sec: i64::try_from(wall / 1000).map_err(io::Error::other)?,
        tv_nsec: i64::try_from(wall % 1000 * 1_000_000).map_err(io::Error::other)?,
    };
    Ok(clock_settime(ClockId::Realtime, time)?)
}

/// The time that `wall`, this system's clock, should show, if it is wrong. All are milliseconds: `staged` the old
/// system's clock at the staging, and `uptime` how long ago this kernel booted.
///
/// The kernel takes its clock from the machine's, which is wrong where it keeps local time or its battery is empty; the
/// old system's clock was set over the network, as a rule. The true time is `staged + uptime` and what passed between
/// staging and kexec, which nobody counted: seconds as a rule. So a clock that is up to 5 minutes behind the sum or 50
/// minutes ahead of it is believed. What is an hour ahead, or several within 10 minutes, is local time, and is no more
/// believed than any other difference; there the sum itself counts. A host that waited for more than 50 minutes with
/// its kernel loaded gets a clock that is late by what it waited.
fn judge(wall: u64, uptime: u64, staged: u64) -> Option<u64> {
    let sum = staged.checked_add(uptime)?;
    let believed = sum.saturating_sub(BEHIND)..sum.saturating_add(AHEAD);
    (staged >= NEVER_SET && !believed.contains(&wall)).then_some(sum)
}

/// A span of time in words, in its largest unit.
fn span(ms: u64) -> String {
    match ms / MINUTE {
        minutes @ 0..120 => format!("{minutes} min"),
        minutes @ 120..2880 => format!("{:.1} h", minutes as f64 / 60.0),
        minutes => format!("{} days", minutes / 1440),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_clock_that_can_t_be_right_is_set() {
        const HOUR: u64 = 60 * MINUTE;
        const DAY: u64 = 24 * HOUR;
        let staged = 1_790_000_000_000;
        let uptime = 20_000;
        let sum = staged + uptime;
        let cases = [
            ("exact", sum, false),
            ("seconds passed between staging and kexec", sum + 8_000, false),
            ("the clock is read to the second", sum - 900, false),
            ("it drifts", sum - 4 * MINUTE, false),
            ("it is late", sum - 6 * MINUTE, true),
            ("a person thought for long before the kexec", sum + 45 * MINUTE, false),
            ("local time, UTC+1", sum + HOUR, true),
            ("local time, UTC+1, minus drift", sum + HOUR - 9 * MINUTE, true),
            ("local time, UTC+1, and a minute until the kexec", sum + HOUR + MINUTE, true),
            ("local time, UTC+5:30", sum + 5 * HOUR + 30 * MINUTE, true),
            ("local time, UTC+14", sum + 14 * HOUR, true),
            ("local time, UTC-3", sum - 3 * HOUR, true),
            ("an empty battery", 0, true),
            ("an empty battery, at the firmware's own date", staged - 9 * 365 * DAY, true),
            ("ten years ahead", sum + 3653 * DAY, true),
        ];
        for (what, wall, wrong) in cases {
            assert_eq!(judge(wall, uptime, staged), wrong.then_some(sum), "{what}");
        }
    }

    #[test]
    fn an_old_system_without_a_clock_sets_none() {
        for staged in [0, 4 * 86_400_000, NEVER_SET - 1] {
            assert_eq!(judge(1_790_000_000_000, 20_000, staged), None, "{staged}");
        }
        assert_eq!(judge(0, u64::MAX, NEVER_SET), None, "no sum is better than a wrong one");
    }

    #[test]
    fn spans_are_told_in_their_largest_unit() {
        for (ms, text) in [(6 * MINUTE, "6 min"), (330 * MINUTE, "5.5 h"), (3653 * 1440 * MINUTE, "3653 days")] {
            assert_eq!(span(ms), text);
        }
    }
}
