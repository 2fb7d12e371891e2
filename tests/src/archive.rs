//! A Debian archive on loopback: upstream's own signed indexes, the packages that the tests and examples need at upstream's
//! own paths, and a server that can misbehave on request.

mod fault;
mod fill;
mod http;
mod serve;
pub mod sources;
mod updates;

pub use fault::Fault;
pub use fill::{Filled, fill, fill_if_missing, unpack};
pub use serve::{Request, Server};
pub use updates::kernels;
