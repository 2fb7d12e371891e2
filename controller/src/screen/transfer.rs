//! How far a file is that is being copied: one line on the terminal, redrawn in place, and nothing anywhere else.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use super::is_quiet;
use super::text::{self, bytes, duration, sanitise_str};

/// Nothing is shown of what takes less.
const AFTER: Duration = Duration::from_millis(500);

/// Time between two drawings.
const EVERY: Duration = Duration::from_millis(200);

/// One file on its way.
#[derive(Debug)]
pub struct Transfer {
    name: String,
    total: Option<u64>,
    began: Instant,
    drawn: Option<Instant>,
    is_seen: bool,
}

impl Transfer {
    /// A file of this name and so many bytes, if that is known.
    pub fn new(name: &str, total: Option<u64>) -> Self {
        let is_seen = io::stderr().is_terminal() && !text::dumb() && !is_quiet();
        Self { name: sanitise_str(name), total, began: Instant::now(), drawn: None, is_seen }
    }

    /// So many bytes have been copied.
    pub fn at(&mut self, done: u64) {
        let now = Instant::now();
        let due = now.duration_since(self.began) > AFTER && self.drawn.is_none_or(|drawn| now - drawn > EVERY);
        if self.is_seen && due {
            self.drawn = Some(now);
            let line = line(&self.name, done, self.total, now.duration_since(self.began).as_secs_f64());
            // Whoever can't see it misses nothing else.
            let _ = write!(io::stderr().lock(), "\r\x1b[K{line}");
        }
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        if self.drawn.is_some() {
            let _ = write!(io::stderr().lock(), "\r\x1b[K");
        }
    }
}

fn line(name: &str, done: u64, total: Option<u64>, seconds: f64) -> String {
    let pace = done as f64 / seconds.max(0.001);
    let speed = bytes(pace as u64);
    match total.filter(|&total| total >= done && total > 0) {
        Some(total) => {
            let left = duration((total - done) as f64 / pace.max(1.0));
            let percent = u128::from(done) * 100 / u128::from(total);
            format!("{name}: {} of {} ({percent} %), {speed}/s, {left} left", bytes(done), bytes(total))
        }
        None => format!("{name}: {}, {speed}/s", bytes(done)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_far_and_how_long() {
        assert_eq!(
            line("disk.img", 10 << 20, Some(40 << 20), 5.0),
            "disk.img: 10.0 MiB of 40.0 MiB (25 %), 2.0 MiB/s, 15 s left"
        );
        assert_eq!(line("dmesg", 1 << 20, None, 1.0), "dmesg: 1.0 MiB, 1.0 MiB/s");
        // One that grew meanwhile.
        assert_eq!(line("log", 2 << 20, Some(1 << 20), 1.0), "log: 2.0 MiB, 2.0 MiB/s");
    }
}
