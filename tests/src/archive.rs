//! The package archive.
pub mod sources;
