//! The first words of each side, in a form that never changes, so that unequal versions can say so.

use crate::VERSION;

/// The first four bytes of every hello.
pub const MAGIC: [u8; 4] = *b"ANMS";

/// Longest build id, in bytes.
pub const MAX_BUILD: usize = 64;

/// Who is speaking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The `anemos` command.
    Controller,
    /// The staging binary, under the old system.
    Stage,
    /// The agent, in RAM.
    Agent,
}

/// What opens each side of a conversation.
///
/// On the wire: magic (4 bytes), version (`u16`, big endian), role (1 byte: 0 controller, 1 stage, 2 agent), length of
/// the build id (1 byte), build id (UTF-8). No frame around it, no bincode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// [`VERSION`] of the speaker.
    pub version: u16,
    /// Who speaks.
    pub role: Role,
    /// The speaker's build, for people.
    pub build: String,
}

/// Why a hello was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HelloError {
    /// The other side is no Anemos: something else wrote first (a login banner, an error message).
    #[error("the other side did not speak the Anemos protocol; its first bytes were {0:?}")]
    NotAnemos(String),
    /// A role byte that this version doesn't know, or a build id that isn't text.
    #[error("the hello is malformed")]
    Malformed,
    /// The versions differ.
    #[error(
        "protocol version {theirs} (build {build}) on the other side, {VERSION} here: run the `anemos` that started the \
         deployment"
    )]
    Version {
        /// Their version.
        theirs: u16,
        /// Their build.
        build: String,
    },
    /// Somebody else than expected.
    #[error("expected to reach the {expected:?}, reached the {found:?}")]
    Role {
        /// Who should have answered.
        expected: Role,
        /// Who did.
        found: Role,
    },
}

impl Hello {
    /// A hello of this build in `role`.
    pub fn new(role: Role, build: &str) -> Self {
        let end = (0..=build.len().min(MAX_BUILD)).rev().find(|&i| build.is_char_boundary(i)).unwrap_or(0);
        Self { version: VERSION, role, build: build[..end].into() }
    }

    /// The bytes on the wire.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(self.version.to_be_bytes());
        bytes.push(match self.role {
            Role::Controller => 0,
            Role::Stage => 1,
            Role::Agent => 2,
        });
        bytes.push(self.build.len() as u8);
        bytes.extend(self.build.as_bytes());
        bytes
    }

    /// Reads a hello from the start of `bytes`; returns it and its length, or `None` while more bytes are needed.
    pub fn decode(bytes: &[u8]) -> Result<Option<(Self, usize)>, HelloError> {
        let seen = bytes.len().min(MAGIC.len());
        if bytes[..seen] != MAGIC[..seen] {
            let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(120)]).into_owned();
            return Err(HelloError::NotAnemos(shown));
        }
        let [_, _, _, _, v0, v1, role, len, rest @ ..] = bytes else { return Ok(None) };
        let Some(build) = rest.get(..usize::from(*len)) else { return Ok(None) };
        let role = match role {
            0 => Role::Controller,
            1 => Role::Stage,
            2 => Role::Agent,
            _ => return Err(HelloError::Malformed),
        };
        let build = std::str::from_utf8(build).map_err(|_| HelloError::Malformed)?.to_owned();
        let used = 8 + build.len();
        Ok(Some((Self { version: u16::from_be_bytes([*v0, *v1]), role, build }, used)))
    }

    /// Checks that the other side is `expected` and speaks this version.
    pub fn check(&self, expected: Role) -> Result<(), HelloError> {
        if self.version != VERSION {
            return Err(HelloError::Version { theirs: self.version, build: self.build.clone() });
        }
        if self.role != expected {
            return Err(HelloError::Role { expected, found: self.role });
        }
        Ok(())
    }
}
