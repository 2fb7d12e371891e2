//! Builds system images from an IMGBUILD, a POSIX shell script that says what is in them. docs/IMGBUILD.md is the
//! format's manual.

pub mod alpine;
pub mod apt;
pub mod arch;
pub mod build;
#[cfg(feature = "images")]
pub mod cache;
pub mod chroot;
pub mod command;
#[cfg(test)]
#[path = "../tests/common/mod.rs"]
mod common;
pub mod debian;
pub mod declare;
pub mod disk;
pub mod functions;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod imgbuild;
pub mod inputs;
pub mod inside;
#[cfg(feature = "images")]
pub mod look;
pub mod luks;
#[cfg(feature = "images")]
pub mod manifest;
pub mod output;
pub mod problem;
pub mod progress;
pub mod project;
pub mod report;
pub mod script;
#[cfg(feature = "hints")]
pub mod secrets;
pub mod settings;
pub mod shell;
pub mod sources;
pub mod supervise;
pub mod template;
pub mod volumes;
pub mod words;
