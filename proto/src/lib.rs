//! The typed protocol of Anemos: what controller, stage and agent say to each other.
//!
//! This crate is pure: no I/O, no clock, no runtime. `docs/PROTOCOL.md` describes the wire, and a test holds that
//! document against these types. Enums only grow at the end and structs only change with [`VERSION`], because bincode
//! is positional.

pub mod agent;
pub mod codec;
pub mod config;
mod disk;
pub mod event;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod hello;
pub mod host;
pub mod ids;
pub mod memory;
pub mod net;
pub mod secret;
pub mod stage;
mod version;

pub use hello::{Greeting, Hello, Role};
pub use ids::{Digest, RunId};
pub use secret::Secret;
pub use version::{TYPES, VERSION};
