//! Time.

use rustix::time::{ClockId, clock_gettime};

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
