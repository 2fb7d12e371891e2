//! A Linux host's network: [`capture`] reads it over netlink, [`apply`] restores it in another kernel on the same
//! hardware, [`render`] writes it down as configuration for a new system.
//!
//! Within a captured network, links have ids. In another kernel a card is found by its hardware address, because names
//! depend on who gives them: what udev calls `enp1s0` is `eth0` without udev.
//!
//! What is not restored is never silently lost: [`Restored::problems`] says so. VLANs, bonds and bridges are captured
//! with their kind and what they stand on, and reported; [`lost_ways`] tells beforehand if the host is reached through
//! one. Policy routing (tables other than main) is left out.

mod apply;
mod capture;
mod links;
mod reach;
pub mod render;
mod resolv;
mod socket;
mod wire;

pub use apply::{Deadlines, Restored, apply, is_needed};
pub use capture::capture;
pub use reach::lost_ways;
pub use resolv::{Resolver, lost_servers, parse_resolv_conf, write_resolv_conf};

/// Why the network could not be read or restored at all.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The netlink socket failed.
    #[error("cannot {action} over netlink")]
    Socket {
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// The kernel refused a request.
    #[error("the kernel refused to {action}{}", reason(.message))]
    Refused {
        /// What was asked.
        action: String,
        /// The kernel's own words, or empty.
        message: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The kernel did not answer.
    #[error("the kernel did not answer a request to {action} within {seconds} s")]
    Silent {
        /// What was asked.
        action: String,
        /// How long it was given.
        seconds: u64,
    },
    /// A list changed each time while it was being read.
    #[error("the list of {0} kept changing while it was read; is something reconfiguring the network?")]
    Unsteady(&'static str),
}

fn reason(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(" ({message})") }
}
