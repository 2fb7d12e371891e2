//! Remembering a host key.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use ring::rand::{SecureRandom, SystemRandom};

use super::key::PublicKey;
use super::{filed_under, pattern};
use crate::paths::directory_of;

/// A key that could not be remembered.
#[derive(Debug, thiserror::Error)]
#[error("can't add a host key to {}: {why}", file.display())]
pub struct AppendError {
    file: PathBuf,
    why: io::Error,
}

/// Adds a line for `host` to a known_hosts file, which is made (0600, its directory 0700) if need be.
///
/// `hash`: write the name as `HashKnownHosts yes` does. The line goes out in one write and is on the disk when this
/// returns. After a crash in the middle there may be a part of the line, which matches nothing, and which the next line
/// does not continue. Whatever else the file has stays as it is, and links to it stay links.
pub fn add_line(file: &Path, host: &str, port: u16, key: &PublicKey, hash: bool) -> Result<(), AppendError> {
    append(file, host, port, key, hash).map_err(|why| AppendError { file: file.to_owned(), why })
}

fn append(path: &Path, host: &str, port: u16, key: &PublicKey, hash: bool) -> io::Result<()> {
    let name = filed_under(host, port);
    // Such a name would be another name, or another line, when it is read back.
    if name.is_empty()
        || name.contains(|c: char| c.is_whitespace() || c.is_control() || ",*?|#@".contains(c))
        || name.starts_with('!')
    {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("`{}` can't be written as a name", name.escape_debug()),
        ));
    }
    let name = if hash {
        let mut salt = [0; 20];
        SystemRandom::new().fill(&mut salt).map_err(|_| io::Error::other("no randomness"))?;
        pattern::hash(&name, &salt)
    } else {
        name
    };
    let dir = directory_of(path);
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let mut file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)?;
    let start = if ends_open(&mut file)? { "\n" } else { "" };
    file.write_all(format!("{start}{name} {key}\n").as_bytes())?;
    file.sync_all()?;
    File::open(dir)?.sync_all()
}

/// Whether the last line lacks its end.
fn ends_open(file: &mut File) -> io::Result<bool> {
    if file.seek(SeekFrom::End(0))? == 0 {
        return Ok(false);
    }
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    Ok(last != *b"\n")
}
