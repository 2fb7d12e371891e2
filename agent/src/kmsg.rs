//! What the kernel warns of, into the log.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::time::Duration;

use anemos_proto::event::{EventKind, Level, Stream};
use tokio::io::Interest;

use crate::app::App;

/// `KERN_WARNING`: what is less grave stays in the kernel's own buffer.
const WARNING: u32 = 4;
/// Longest record that the kernel hands out.
const RECORD: usize = 8192;
/// Lines that may come at once; then one for each [`PAUSE`].
const BURST: u32 = 200;
const PAUSE: Duration = Duration::from_millis(100);

/// Logs warnings and worse: all since the boot, or from now on.
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
    let mut buffer = vec![0; RECORD];
    let mut budget = BURST;
    loop {
        let read = |mut file: &File| file.read(&mut buffer);
        let record = match file.async_io(Interest::READABLE, read).await {
            Ok(n) => warning(&buffer[..n]),
            // More came than the kernel's buffer holds, while nobody read.
            Err(e) if e.raw_os_error() == Some(libc::EPIPE) => {
                app.log.note(Level::Info, "some of the kernel's messages are left out: there were too many");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            Err(e) => return Err(e),
        };
        let Some(line) = record else { continue };
        app.log.append(EventKind::Log { stream: Stream::Kernel, line: line.to_vec() });
        budget = budget.saturating_sub(1);
        if budget == 0 {
            // Whoever floods the kernel's buffer loses there, and not in the log.
            tokio::time::sleep(PAUSE).await;
            budget = 1;
        }
    }
}

/// The text of a record `PRIORITY,SEQ,TIME,FLAGS;TEXT\n PROPERTIES`, if the kernel itself says it and it is grave.
fn warning(record: &[u8]) -> Option<&[u8]> {
    let semicolon = record.iter().position(|&b| b == b';')?;
    let priority = std::str::from_utf8(record[..semicolon].split(|&b| b == b',').next()?).ok()?;
    let priority: u32 = priority.parse().ok()?;
    // Above the three bits of the level is the facility: 0 is the kernel, anything else somebody who wrote to it.
    if priority > WARNING {
        return None;
    }
    let text = &record[semicolon + 1..];
    text.split(|&b| b == b'\n').next().filter(|line| !line.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_kernel_s_own_warnings_count() {
        let cases: [(&[u8], Option<&[u8]>); 6] = [
            (
                b"4,741,30012,-;blk_update_request: I/O error\n SUBSYSTEM=block\n",
                Some(b"blk_update_request: I/O error"),
            ),
            (b"0,2,0,-,caller=T1;panic; really\n", Some(b"panic; really")),
            (b"6,742,30013,-;eth0: link up\n", None),
            (b"12,743,30014,-;somebody's warning\n", None),
            (b"4,744,30015,-;\n", None),
            (b"nonsense", None),
        ];
        for (record, expected) in cases {
            assert_eq!(warning(record), expected, "{}", String::from_utf8_lossy(record));
        }
    }
}
