//! The controller: everything behind the `anemos` command.

pub mod cli;
pub mod commands;
pub mod config;
pub mod embed;
pub mod engine;
pub mod journal;
pub mod known_hosts;
pub mod payload;
pub mod report;
pub mod screen;
pub mod ssh;
pub mod ssh_config;
