//! System calls and library calls that have no safe wrapper elsewhere: the only unsafe code of the stage.

pub mod cpu;
pub mod kexec;
pub mod lzma;
pub mod map;
pub mod process;
pub mod signal;
