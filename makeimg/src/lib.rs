//! Builds system images from an IMGBUILD, a POSIX shell script that says what is in them. docs/IMGBUILD.md is the format's
//! manual.

pub mod imgbuild;
pub mod problem;
pub mod settings;
pub mod shell;
