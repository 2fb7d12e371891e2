//! What lets a browser in.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use data_encoding::BASE64URL_NOPAD;
use ring::rand::{SecureRandom, SystemRandom};

use crate::engine::sha256;

/// Random bytes of a token.
const BYTES: usize = 32;

/// Least characters of one that somebody wrote by hand.
const LEAST: usize = 32;

/// A secret that both sides know.
#[derive(Clone)]
pub(super) struct Token(String);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token")
    }
}

impl Token {
    /// The token in a file, which is made if it is not there. One that others could read is refused.
    pub(super) fn kept_in(path: &Path) -> io::Result<Self> {
        match fs::read_to_string(path) {
            Ok(text) => {
                let metadata = fs::metadata(path)?;
                if metadata.uid() != rustix::process::geteuid().as_raw() || metadata.mode() & 0o077 != 0 {
                    let why = "it is another user's, or others may read it; delete it, and a new one is made";
                    return Err(io::Error::new(ErrorKind::PermissionDenied, why));
                }
                let text = text.trim();
                if text.len() < LEAST || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
                    let why = format!("it must have {LEAST} printable characters or more; delete it for a new one");
                    return Err(io::Error::new(ErrorKind::InvalidData, why));
                }
                Ok(Self(text.into()))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let token = Self::new()?;
                if let Some(dir) = path.parent() {
                    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
                }
                let new = path.with_extension("new");
                // What is left of one that was not written to its end.
                let _ = fs::remove_file(&new);
                let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
                file.write_all(format!("{}\n", token.0).as_bytes())?;
                file.sync_all()?;
                fs::rename(&new, path)?;
                Ok(token)
            }
            Err(error) => Err(error),
        }
    }

    fn new() -> io::Result<Self> {
        let mut bytes = [0; BYTES];
        SystemRandom::new().fill(&mut bytes).map_err(|_| io::Error::other("no randomness"))?;
        Ok(Self(BASE64URL_NOPAD.encode(&bytes)))
    }

    /// For whoever may know it.
    pub(super) fn text(&self) -> &str {
        &self.0
    }

    /// Whether this is it. How long that takes says nothing about it.
    pub(super) fn is(&self, said: &str) -> bool {
        sha256(said.as_bytes()) == sha256(self.0.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_token_is_made_once_and_is_only_its_owners() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("anemos/token");
        let token = Token::kept_in(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(token.text().len(), 43);
        assert!(Token::kept_in(&path).unwrap().is(token.text()));
        assert!(!token.is("") && !token.is(&token.text()[1..]) && !token.is(&format!("{} ", token.text())));
        assert!(!Token::kept_in(&dir.path().join("another")).unwrap().is(token.text()));
        assert!(!format!("{token:?}").contains(token.text()));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(Token::kept_in(&path).unwrap_err().kind(), ErrorKind::PermissionDenied);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        for short in ["", "hunter2", &format!("{} x", "y".repeat(40))] {
            fs::write(&path, short).unwrap();
            assert_eq!(Token::kept_in(&path).unwrap_err().kind(), ErrorKind::InvalidData);
        }
    }
}
