//! The controller: everything behind the `anemos` command.

pub mod config;
pub mod known_hosts;
pub mod payload;
pub mod report;
pub mod screen;
pub mod ssh;
pub mod ssh_config;
pub mod engine;
pub mod journal;
