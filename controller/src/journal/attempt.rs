//! The second file of a host, `<host>.attempt`: the newest payload attempt that the agent may have been let begin.
//!
//! A journal that lost its end reads as one that ended earlier, and of a host whose payload may have written nothing
//! must be concluded from that. So the number is written here, and synced, before the agent hears that it may start:
//! where this file knows of more than the journal does, the journal has lost something.
//!
//! The file is three lines of text, each ended by a newline: `anemos attempt 1` (the format), the number, and the
//! CRC-32 of the two lines before as eight hexadecimal digits. Zero stands for a host that was told to boot.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::JournalError;

/// What `<host>.attempt` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attempted {
    /// There is no such file: the host was never told to boot, or by an Anemos that kept none.
    Never,
    /// The newest attempt; 0 after the boot was sent.
    Number(u32),
    /// There is a file, and it can't be read, because …
    Unreadable(String),
}

/// The second file of the journal at `journal`.
pub fn path(journal: &Path) -> PathBuf {
    journal.with_extension("attempt")
}

fn render(number: u32) -> String {
    let lines = format!("anemos attempt 1\n{number}\n");
    let mut crc = flate2::Crc::new();
    crc.update(lines.as_bytes());
    format!("{lines}{:08x}\n", crc.sum())
}

/// Reads the second file of the journal at `journal`.
pub fn read(journal: &Path) -> Attempted {
    match fs::read(path(journal)) {
        Ok(bytes) => parse(&bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Attempted::Never,
        Err(error) => Attempted::Unreadable(error.to_string()),
    }
}

/// Only the very bytes that are written for a number are taken for it.
pub fn parse(bytes: &[u8]) -> Attempted {
    let number = std::str::from_utf8(bytes).ok().and_then(|text| text.lines().nth(1)?.parse().ok());
    match number {
        Some(number) if render(number).as_bytes() == bytes => Attempted::Number(number),
        _ => Attempted::Unreadable("its bytes are not what was written".into()),
    }
}

/// Writes the second file of the journal at `journal`. A crash at any point leaves the old file or the new one.
pub fn write(journal: &Path, number: u32) -> Result<(), JournalError> {
    let path = path(journal);
    let new = path.with_extension("attempt.new");
    let io = |doing: &'static str, path: &Path| {
        let path = path.to_owned();
        move |source| JournalError::io(doing, &path, source)
    };
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)
        .map_err(io("making", &new))?;
    file.write_all(render(number).as_bytes()).and_then(|()| file.sync_all()).map_err(io("writing", &new))?;
    fs::rename(&new, &path).map_err(io("putting in place", &path))?;
    let dir = path.parent().unwrap_or(Path::new("."));
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(io("syncing", dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let journal = dir.path().join("web1.example.journal");
        assert_eq!(read(&journal), Attempted::Never);
        for number in [0, 1, 2, u32::MAX] {
            write(&journal, number).unwrap();
            assert_eq!(read(&journal), Attempted::Number(number));
        }
        let names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["web1.example.attempt"]);
    }

    #[test]
    fn has_these_bytes() {
        assert_eq!(render(3), "anemos attempt 1\n3\naf16552a\n");
    }

    /// What a crash leaves of the writing is beside the old file, which still counts.
    #[test]
    fn a_crash_leaves_the_old_number() {
        let dir = tempfile::tempdir().unwrap();
        let journal = dir.path().join("web1.journal");
        write(&journal, 1).unwrap();
        for length in 0..render(2).len() {
            fs::write(dir.path().join("web1.attempt.new"), &render(2)[..length]).unwrap();
            assert_eq!(read(&journal), Attempted::Number(1));
        }
        write(&journal, 2).unwrap();
        assert_eq!(read(&journal), Attempted::Number(2));
    }

    /// Cut or flipped at any byte, it is no other number.
    #[test]
    fn damage_is_no_number() {
        let whole = render(12).into_bytes();
        for at in 0..whole.len() {
            assert!(matches!(parse(&whole[..at]), Attempted::Unreadable(_)), "cut at {at}");
            for flip in 1..=255 {
                let mut bytes = whole.clone();
                bytes[at] ^= flip;
                assert!(matches!(parse(&bytes), Attempted::Unreadable(_)), "{flip} at {at}");
            }
        }
    }
}
