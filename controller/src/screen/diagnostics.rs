//! Where `ANEMOS_LOG` writes: standard error. While there is a live screen, that one writes the lines, since they would
//! tear its rows.

use std::io::{self, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tracing_subscriber::fmt::MakeWriter;

/// Bytes that wait for the next drawing.
const HELD_MOST: usize = 1 << 20;

/// What was written since the last drawing; `None` without a live screen.
static HELD: Mutex<Option<Vec<u8>>> = Mutex::new(None);

fn held() -> MutexGuard<'static, Option<Vec<u8>>> {
    HELD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// For tracing's subscriber.
#[derive(Debug, Clone, Copy)]
pub struct Diagnostics;

impl MakeWriter<'_> for Diagnostics {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        *self
    }
}

impl Write for Diagnostics {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut *held() {
            // Whoever traces every frame of a host that floods loses some of it.
            Some(text) if text.len() > HELD_MOST => {}
            Some(text) => text.extend_from_slice(bytes),
            None => io::stderr().write_all(bytes)?,
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// While it lives, diagnostics wait to be taken.
#[derive(Debug)]
pub(super) struct Holding(());

impl Holding {
    pub(super) fn new() -> Self {
        held().get_or_insert_default();
        Self(())
    }

    /// The whole lines that came since the last time.
    #[allow(clippy::unused_self, reason = "only who holds them may take them")]
    pub(super) fn take(&self) -> Vec<String> {
        let mut held = held();
        let Some(text) = &mut *held else { return Vec::new() };
        let end = text.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        let whole: Vec<u8> = text.drain(..end).collect();
        String::from_utf8_lossy(&whole).lines().map(str::to_owned).collect()
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        if let Some(rest) = held().take() {
            // A terminal that has gone needs no diagnostics.
            let _ = io::stderr().write_all(&rest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_lines_wait_for_the_screen() {
        let holding = Holding::new();
        Diagnostics.write_all(b"one\ntwo\nthr").unwrap();
        assert_eq!(holding.take(), ["one", "two"]);
        Diagnostics.write_all(b"ee\n").unwrap();
        assert_eq!(holding.take(), ["three"]);
        assert!(holding.take().is_empty());
        drop(holding);
        assert!(held().is_none());
    }
}
