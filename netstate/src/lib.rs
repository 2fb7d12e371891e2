//! A Linux host's network: [`capture`] reads it over netlink, [`apply`] restores it in another kernel on the same
//! hardware, [`render`] writes it down as configuration for a new system.
//!
//! Within a captured network, links have ids. In another kernel a card is found by its hardware address, because names
//! depend on who gives them: what udev calls `enp1s0` is `eth0` without udev.
//!
//! VLANs, bonds, bridges, VRFs and the like are made again, bottom up, of what they were made of. [`restorable`] leaves
//! out what the host is not reached through, such as the bridges of its guests and containers.
//!
//! What is not restored is never silently lost: [`Restored::problems`] says so, and [`lost_ways`] tells beforehand if
//! the host is reached through what can't be made again.

mod apply;
mod capture;
mod error;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod kinds;
mod leases;
mod links;
mod made;
mod ports;
mod reach;
pub mod render;
mod resolv;
mod routing;
mod rules;
mod socket;
mod vlans;
mod wire;

pub use apply::{Deadlines, Restored, apply, is_needed};
pub use capture::capture;
pub use error::Error;
pub use reach::{Reached, instead, lost_ways, reached, restorable, ways};
pub use resolv::{Resolver, lost_servers, parse_resolv_conf, write_resolv_conf};
