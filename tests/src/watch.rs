//! What a machine says on its serial line while it runs, and the lines after which waiting is pointless.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

const FATAL: &[&str] = &["Kernel panic - not syncing", "watchdog: BUG: soft lockup"];

/// Reads a growing serial log line by line.
pub struct Serial {
    path: PathBuf,
    offset: u64,
    line: Vec<u8>,
}

impl Serial {
    /// From the log's first byte.
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), offset: 0, line: Vec::new() }
    }

    /// The first fatal line among those that were written since the last call.
    pub fn fatal(&mut self) -> Option<String> {
        let mut file = File::open(&self.path).ok()?;
        file.seek(SeekFrom::Start(self.offset)).ok()?;
        let mut new = Vec::new();
        self.offset += file.read_to_end(&mut new).ok()? as u64;
        let mut found = None;
        for byte in new {
            if byte != b'\n' {
                self.line.push(byte);
                continue;
            }
            let line = String::from_utf8_lossy(&self.line).trim().to_owned();
            self.line.clear();
            if found.is_none() && FATAL.iter().any(|fatal| line.contains(fatal)) {
                found = Some(line);
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn finds_a_panic_that_arrives_in_pieces() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let mut serial = Serial::new(file.path());
        file.write_all(b"booting\n[ 1.0] Kernel panic - not").unwrap();
        assert_eq!(serial.fatal(), None);
        file.write_all(b" syncing: VFS\r\nmore\n").unwrap();
        assert_eq!(serial.fatal().as_deref(), Some("[ 1.0] Kernel panic - not syncing: VFS"));
        assert_eq!(serial.fatal(), None);
    }
}
