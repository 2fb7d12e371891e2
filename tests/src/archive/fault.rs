//! Ways for a mirror to fail.

/// What happens to an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The file is not there.
    NotFound,
    /// Another status, without a body.
    Status(u16),
    /// The connection is closed after so many bytes of a body that was announced in full.
    Truncate(u64),
    /// One byte of the file is another.
    FlipByte(u64),
    /// After so many bytes of the body nothing more comes, and the connection stays open.
    Stall(u64),
    /// So many bytes a second.
    Throttle(u64),
    /// The answer is that the file is below `/moved/`, once for each of these statuses; there it is in the end.
    Redirect(Vec<u16>),
    /// The answer is that the file is where it was asked for.
    Circle,
    /// The answer is that the file is at this address.
    Lead(&'static str),
    /// Another file in its place.
    Replace(Vec<u8>),
}
