//! The controller: everything behind the `anemos` command.

pub mod report;
