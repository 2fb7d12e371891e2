//! The conversation with a daemon (`anemos serve`) over a Unix socket: messages, lines, the socket, and the client that
//! the commands use. docs/API.md describes it; a test holds the two against each other.

mod client;
mod lines;
mod message;
mod socket;

pub use client::{ApiError, Client};
pub use lines::Lines;
pub use message::{
    API, Fault, Finishing, Given, Reason, Request, Said, Shown, Submit, Wished, plan_sha256, read, reply, reply_line,
};
pub use socket::{Peer, Socket, default_dir, peer};
