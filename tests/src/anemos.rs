//! The runner of `anemos`.
