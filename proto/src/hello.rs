//! The first words of each side. They begin in a form that never changes, so that unequal versions can say so.

use crate::version::{TYPES, VERSION};

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
/// the build id (1 byte), build id (UTF-8), types (`u64`, big endian). No frame around it, no bincode. All versions
/// have everything up to the build id; what follows that belongs to the version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// [`VERSION`] of the speaker.
    pub version: u16,
    /// Who speaks.
    pub role: Role,
    /// The speaker's build, for people: it is shown in errors and never compared.
    pub build: String,
    /// [`TYPES`] of the speaker.
    pub types: u64,
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
    #[error("protocol version {theirs} (build {build}) on the other side, {VERSION} (build {ours}) here: {hint}")]
    Version {
        /// Their version.
        theirs: u16,
        /// Their build.
        build: String,
        /// Our build.
        ours: String,
        /// What to do.
        hint: &'static str,
    },
    /// The versions are equal and the types are not: one of the two was built from sources between two versions.
    #[error(
        "build {build} on the other side and build {ours} here both say protocol version {VERSION}, but their messages \
         differ: {hint}"
    )]
    Types {
        /// Their build.
        build: String,
        /// Our build.
        ours: String,
        /// What to do.
        hint: &'static str,
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
    /// A hello of this build in `role`. A build id longer than [`MAX_BUILD`] is cut.
    pub fn new(role: Role, build: &str) -> Self {
        let end = (0..=build.len().min(MAX_BUILD)).rev().find(|&i| build.is_char_boundary(i)).unwrap_or(0);
        Self { version: VERSION, role, build: build[..end].into(), types: TYPES }
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
        bytes.extend(self.types.to_be_bytes());
        bytes
    }
}

/// Takes bytes as they come until the other side's hello is whole, and checks it.
#[derive(Debug)]
pub struct Greeting<'a> {
    expected: Role,
    ours: &'a str,
    seen: Vec<u8>,
}

impl<'a> Greeting<'a> {
    /// Waits for the hello of `expected`; `build` is the build id of this side, for the error.
    pub fn new(expected: Role, build: &'a str) -> Self {
        Self { expected, ours: build, seen: Vec::new() }
    }

    /// Takes more bytes. Returns `None` while the hello is not whole. Once it is whole and suits this side, returns the
    /// bytes that came after it.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Option<Vec<u8>>, HelloError> {
        self.seen.extend_from_slice(bytes);
        Ok(self.check()?.map(|used| self.seen.split_off(used)))
    }

    /// All bytes so far.
    pub fn seen(&self) -> &[u8] {
        &self.seen
    }

    /// The length of the hello, or `None` while more bytes are needed.
    fn check(&self) -> Result<Option<usize>, HelloError> {
        let bytes = &self.seen[..];
        let start = bytes.len().min(MAGIC.len());
        if bytes[..start] != MAGIC[..start] {
            let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(120)]).into_owned();
            return Err(HelloError::NotAnemos(shown));
        }
        let [_, _, _, _, v0, v1, role, len, rest @ ..] = bytes else { return Ok(None) };
        let Some((build, rest)) = rest.split_at_checked(usize::from(*len)) else { return Ok(None) };
        let build = || std::str::from_utf8(build).map(str::to_owned).map_err(|_| HelloError::Malformed);
        let ours = || self.ours.to_owned();
        let hint = match self.expected {
            Role::Stage => "this `anemos` carries a stage that is not of its own build; `make build` makes both",
            Role::Controller | Role::Agent => "run the `anemos` that started the deployment",
        };
        let version = u16::from_be_bytes([*v0, *v1]);
        if version != VERSION {
            return Err(HelloError::Version { theirs: version, build: build()?, ours: ours(), hint });
        }
        let Some(types) = rest.first_chunk() else { return Ok(None) };
        let found = match role {
            0 => Role::Controller,
            1 => Role::Stage,
            2 => Role::Agent,
            _ => return Err(HelloError::Malformed),
        };
        let build = build()?;
        if found != self.expected {
            return Err(HelloError::Role { expected: self.expected, found });
        }
        if u64::from_be_bytes(*types) != TYPES {
            return Err(HelloError::Types { build, ours: ours(), hint });
        }
        Ok(Some(bytes.len() - rest.len() + types.len()))
    }
}
