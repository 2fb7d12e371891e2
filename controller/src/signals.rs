//! The signals by which somebody wants a process to end.

use std::io;
use std::task::Poll;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Ctrl-C, SIGTERM, and SIGHUP unless whoever started this process has it ignore that, as nohup(1) does. That SIGINT is
/// ignored says nothing: a shell script has all that it starts in the background do so, and may send it all the same.
pub struct Leaving(Vec<(SignalKind, Signal)>);

impl Leaving {
    /// Takes them from here on.
    pub fn new() -> io::Result<Self> {
        Self::of(&[SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()])
    }

    /// Takes these from here on.
    pub fn of(kinds: &[SignalKind]) -> io::Result<Self> {
        // Without /proc, or in another form, nothing is known to be ignored.
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let hangup = SignalKind::hangup();
        let heard = kinds.iter().filter(|kind| **kind != hangup || !is_ignored(&status, hangup.as_raw_value()));
        heard.map(|kind| Ok((*kind, signal(*kind)?))).collect::<io::Result<_>>().map(Self)
    }

    /// The number of the next one. Safe to drop and call again.
    pub async fn next(&mut self) -> i32 {
        std::future::poll_fn(|context| {
            let mut signals = self.0.iter_mut();
            let came = signals.find_map(|(kind, signal)| signal.poll_recv(context).is_ready().then_some(*kind));
            came.map_or(Poll::Pending, |kind| Poll::Ready(kind.as_raw_value()))
        })
        .await
    }
}

/// Whether a process ignores a signal, by its proc_pid_status(5): `SigIgn` is a mask in hexadecimal, whose lowest bit
/// is signal 1.
fn is_ignored(status: &str, signal: i32) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    (1..=64).contains(&signal) && mask >> (signal - 1) & 1 == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ignored_is_in_the_mask() {
        let nohup = "Name:\tanemos\nSigBlk:\t0000000000004001\nSigIgn:\t0000000000001001\nSigCgt:\t0000000000000002\n";
        let ignored: Vec<i32> = (0..66).filter(|signal| is_ignored(nohup, *signal)).collect();
        assert_eq!(ignored, [libc::SIGHUP, libc::SIGPIPE]);
        for text in ["", "SigIgn:\tx\n", "SigBlk:\t0000000000000001\n"] {
            assert!(!is_ignored(text, libc::SIGHUP), "{text}");
        }
    }
}
