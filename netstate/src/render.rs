//! Configuration files for a new system.
