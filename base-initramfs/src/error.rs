//! What can go wrong, each naming the file it happened to.

use std::fmt;
use std::time::Duration;

use crate::Sha256;
use crate::apt_sources::without_credentials;

/// An error of this crate. Its text is complete: it names the file, what failed and why.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The lock, or another file of ours, can't be understood.
    #[error("{file}: {reason}")]
    Parse {
        /// The file's name, as the caller gave it.
        file: String,
        /// Where in the file, and why.
        reason: String,
    },
    /// A payload needs a group that the lock doesn't have.
    #[error("base.lock has no group `{name}`; there are {}", .known.join(", "))]
    NoGroup {
        /// What was asked for.
        name: String,
        /// What there is.
        known: Vec<String>,
    },
    /// A package's bytes are not a Debian package, or hold something that must not be unpacked.
    #[error("{file}: {reason}")]
    Package {
        /// The package's path in the archive.
        file: String,
        /// Why.
        reason: String,
    },
    /// A file could be had from none of its addresses.
    #[error("{file}: {}", tried(.attempts))]
    Fetch {
        /// The file's path in the archive, or the address where there is only one.
        file: String,
        /// Each address that was tried, and why it didn't do.
        attempts: Vec<Attempt>,
    },
    /// Packages have left the mirrors, and nobody knows where else to look.
    #[error("{}", left(.file, .attempts, .packages, *.asked))]
    Left {
        /// The first one's path in the archive.
        file: String,
        /// Each address that was tried for it.
        attempts: Vec<Attempt>,
        /// The names of all that have left, as far as was found out.
        packages: Vec<String>,
        /// How many the mirrors were asked for to find that out.
        asked: usize,
    },
    /// The image is not the one that the lock pins.
    #[error("base image: {0}")]
    Image(ImageError),
    /// A command of the host's failed.
    #[error("{command}: {reason}")]
    Command {
        /// The command.
        command: String,
        /// Its last words, or why it could not be run.
        reason: String,
    },
    /// Somebody asked to stop.
    #[error("stopped on request")]
    Cancelled,
    /// The output could not be written, or an input not be read.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
}

/// How an image differs from its lock.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// Another hash.
    #[error("SHA-256 is {found}, but the lock pins {expected}{hint}")]
    Hash {
        /// What the lock says.
        expected: Sha256,
        /// What it is.
        found: Sha256,
        /// What may have caused it, when known.
        hint: &'static str,
    },
    /// Another size.
    #[error("is {found} bytes, but the lock says {expected}")]
    Size {
        /// What the lock says.
        expected: u64,
        /// What it is, or how many bytes had come when it was too many.
        found: u64,
    },
    /// The lock was written by a build of this library that adds other files.
    #[error(
        "the lock was made with skeleton {expected}, but this anemos has {found}; make the lock anew with \
         `anemos base lock`"
    )]
    Skeleton {
        /// What the lock says.
        expected: Sha256,
        /// What this library has.
        found: Sha256,
    },
    /// A file with images of other groups.
    #[error("has no image of {}", .groups.join(", "))]
    Lacks {
        /// The groups whose images are not in it.
        groups: Vec<String>,
    },
    /// It is of no group.
    #[error("SHA-256 is {found}, which is none that the lock pins")]
    Unknown {
        /// What it is.
        found: Sha256,
    },
    /// It stopped coming.
    #[error("{0}")]
    Download(Failure),
    /// The compressed stream is damaged.
    #[error("the compressed image is damaged: {0}")]
    Compression(String),
}

/// One address that was tried.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// The address.
    pub url: String,
    /// Why it didn't do.
    pub failure: Failure,
}

/// Why an address didn't do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The server, or the file system, doesn't have it.
    #[error("not found")]
    NotFound,
    /// The server is too busy, for now.
    #[error("the server answered {status}")]
    Busy {
        /// The HTTP status, 429 or 503.
        status: u16,
        /// How long it wants to be left alone, if it says.
        after: Option<Duration>,
    },
    /// The server said something else than yes.
    #[error("the server answered {0}")]
    Status(u16),
    /// The answer broke off before its end, or before its beginning: asked again, the server may give all of it.
    #[error("{0}")]
    Broken(String),
    /// All that the server has came, and is less than what is pinned.
    #[error("truncated: {received} of {expected} bytes")]
    Truncated {
        /// Bytes that came.
        received: u64,
        /// Bytes that should have come.
        expected: u64,
    },
    /// More bytes come than are pinned.
    #[error("too long: more than the {expected} bytes expected")]
    TooLong {
        /// Bytes that should have come.
        expected: u64,
    },
    /// All bytes came, but other ones.
    #[error("SHA-256 is {found}, but {expected} is pinned")]
    Hash {
        /// What is pinned.
        expected: Sha256,
        /// What came.
        found: Sha256,
    },
    /// A deadline passed.
    #[error("timeout: {0}")]
    Timeout(String),
    /// The name, or the connection, or the tool that makes it, failed.
    #[error("{0}")]
    Connection(String),
    /// Somebody asked to stop.
    #[error("stopped on request")]
    Cancelled,
}

fn tried(attempts: &[Attempt]) -> String {
    use fmt::Write as _;
    let mut text = String::from("no address had it");
    if attempts.is_empty() {
        text.push_str(": there was none to try");
    }
    for (index, Attempt { url, failure }) in attempts.iter().enumerate() {
        let url = without_credentials(url);
        let _ = write!(text, "{} {url}: {failure}", if index == 0 { ":" } else { ";" });
    }
    text
}

fn left(file: &str, attempts: &[Attempt], packages: &[String], asked: usize) -> String {
    /// How many names are said.
    const NAMED: usize = 6;
    let who = match packages {
        [] => "it has".into(),
        [one] => format!("{one} has"),
        all if all.len() == asked => {
            format!("none of the {asked} packages is there, so this may be no mirror, or they all have")
        }
        many => {
            let more = many.len().saturating_sub(NAMED);
            let named = many[..many.len() - more].join(", ");
            if more == 0 { format!("{named} have") } else { format!("{named} and {more} more have") }
        }
    };
    format!(
        "{file}: {}; {who} left the mirror, and no archive of past versions is known: no apt (of version 2.7 or \
         later), neither the host's nor the workstation's, and no base image in a cache names one. Name it with \
         `snapshot` in hosts.toml, or with `anemos base build --snapshot`",
        tried(attempts)
    )
}

impl Error {
    pub(crate) fn io(what: impl Into<String>, source: std::io::Error) -> Self {
        Self::Io { what: what.into(), source }
    }

    pub(crate) fn package(file: &str, reason: impl fmt::Display) -> Self {
        Self::Package { file: file.to_owned(), reason: reason.to_string() }
    }
}
