//! Copies the kernel's warnings into the log.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::time::Duration;

use anemos_proto::event::{EventKind, Level, Stream};
use tokio::io::Interest;
use tokio::time::Instant;

use crate::app::App;

/// `KERN_ERR` and `KERN_WARNING`. Less severe messages stay in the kernel's own buffer.
const ERROR: u32 = 3;
const WARNING: u32 = 4;
/// Longest record that the kernel hands out.
const RECORD: usize = 8192;
/// Records that are logged without a pause; after these one for each [`PAUSE`].
const BURST: u32 = 200;
const PAUSE: Duration = Duration::from_millis(100);
/// Least time between two notes that messages are left out.
const COMPLAINT: Duration = Duration::from_secs(60);

/// Logs warnings and worse from now on. Of what came earlier since the boot only errors are logged, because kernels
/// warn of quirks of the hardware at every boot.
pub async fn follow(app: Arc<App>, since_boot: bool) {
    if let Err(e) = try_follow(&app, since_boot).await {
        app.log.note(Level::Info, format!("the kernel's messages can't be read: {e}"));
    }
}

async fn try_follow(app: &App, since_boot: bool) -> io::Result<()> {
    let mut file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open("/dev/kmsg")?;
    if !since_boot {
        file.seek(SeekFrom::End(0))?;
    }
    let file = crate::sys::watch(file)?;
    let begin = crate::clock::uptime_ms();
    let mut buffer = vec![0; RECORD];
    let (mut budget, mut complained) = (BURST, None::<Instant>);
    loop {
        let read = |mut file: &File| file.read(&mut buffer);
        let record = match file.async_io(Interest::READABLE, read).await {
            Ok(n) => Record::parse(&buffer[..n]).filter(|record| record.matters(begin)),
            // EPIPE: the kernel has overwritten records that nobody had read yet.
            Err(e) if e.raw_os_error() == Some(libc::EPIPE) => {
                if complained.is_none_or(|at| at.elapsed() > COMPLAINT) {
                    app.log.note(Level::Info, "some of the kernel's messages are left out: there are too many");
                    complained = Some(Instant::now());
                }
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            Err(e) => return Err(e),
        };
        let Some(record) = record else { continue };
        for line in unescape(record.text).split(|&b| b == b'\n').filter(|line| !line.is_empty()) {
            app.log.append(EventKind::Log { stream: Stream::Kernel, line: line.to_vec() });
        }
        budget = budget.saturating_sub(1);
        if budget == 0 {
            // A flood then overruns the kernel's buffer and not the log.
            tokio::time::sleep(PAUSE).await;
            budget = 1;
        }
    }
}

/// The kernel writes bytes that can't be printed, and backslashes, as `\xNN` (Documentation/ABI/testing/dev-kmsg).
pub fn unescape(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, after)) = rest.split_first() {
        let escaped = rest.strip_prefix(b"\\x").and_then(|hex| hex.split_first_chunk::<2>());
        let byte = escaped.and_then(|(hex, after)| {
            let hex = std::str::from_utf8(hex).ok().filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()))?;
            Some((u8::from_str_radix(hex, 16).ok()?, after))
        });
        let (byte, after) = byte.unwrap_or((first, after));
        out.push(byte);
        rest = after;
    }
    out
}

/// A record of the kernel's own: `PRIORITY,SEQ,TIME,FLAGS;TEXT\n PROPERTIES`.
#[derive(Debug, PartialEq, Eq)]
pub struct Record<'a> {
    level: u32,
    /// Milliseconds since the boot.
    time: u64,
    pub text: &'a [u8],
}

impl<'a> Record<'a> {
    pub fn parse(record: &'a [u8]) -> Option<Self> {
        let semicolon = record.iter().position(|&b| b == b';')?;
        let mut fields = std::str::from_utf8(&record[..semicolon]).ok()?.split(',');
        let level = fields.next()?.parse().ok()?;
        let time: u64 = fields.nth(1)?.parse().ok()?;
        let text = record[semicolon + 1..].split(|&b| b == b'\n').next().filter(|line| !line.is_empty())?;
        Some(Self { level, time: time / 1000, text })
    }

    fn matters(&self, begin: u64) -> bool {
        // The bits above the three of the level name the facility: 0 is the kernel, any other a process that wrote to
        // /dev/kmsg. With such a facility the whole number is above every level.
        self.level <= if self.time < begin { ERROR } else { WARNING }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_undone() {
        let cases: [(&[u8], &[u8]); 6] = [
            (b"plain", b"plain"),
            (br"two\x0alines", b"two\nlines"),
            (br"C:\x5cx41", br"C:\x41"),
            (br"\xe4\xC3", b"\xe4\xc3"),
            (br"\x", br"\x"),
            (br"\x+1 \xg0 \", br"\x+1 \xg0 \"),
        ];
        for (text, expected) in cases {
            assert_eq!(unescape(text), expected, "{}", String::from_utf8_lossy(text));
        }
    }

    #[test]
    fn only_what_the_kernel_says_and_is_grave_counts() {
        let cases: [(&[u8], Option<&str>); 8] = [
            (
                b"4,741,30012000,-;blk_update_request: I/O error\n SUBSYSTEM=block\n",
                Some("blk_update_request: I/O error"),
            ),
            (b"0,742,30013000,-,caller=T1;panic; really\n", Some("panic; really")),
            (b"3,2,12000,-;nvme0: not ready\n", Some("nvme0: not ready")),
            (b"4,3,13000,-;mtrr: your CPUs had inconsistent settings\n", None),
            (b"6,743,30014000,-;eth0: link up\n", None),
            (b"12,744,30015000,-;somebody's warning\n", None),
            (b"4,745,30016000,-;\n", None),
            (b"nonsense", None),
        ];
        for (bytes, expected) in cases {
            let found = Record::parse(bytes).filter(|record| record.matters(20_000));
            let found = found.map(|record| String::from_utf8_lossy(record.text).into_owned());
            assert_eq!(found.as_deref(), expected, "{}", String::from_utf8_lossy(bytes));
        }
    }
}
