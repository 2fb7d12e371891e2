//! Keeps a kernel from being loaded once the stage is given up.

use std::sync::{Mutex, PoisonError, TryLockError};

use crate::error::{Fault, Result};
use crate::sys;

/// Guards the loading of the new kernel.
#[derive(Debug, Default)]
pub struct Gate(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    closed: bool,
    loaded: bool,
}

impl Gate {
    /// Loads by `load`, unless the gate is closed already.
    pub fn load<T>(&self, load: impl FnOnce() -> Result<T>) -> Result<T> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.closed {
            return Err(Fault::new("loading the kernel", "the staging was given up"));
        }
        let loaded = load()?;
        state.loaded = true;
        Ok(loaded)
    }

    /// Closes the gate and unloads what was loaded. Waits first if a loading is under way.
    pub fn close(&self) -> std::io::Result<()> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.closed = true;
        if std::mem::take(&mut state.loaded) { sys::kexec::unload() } else { Ok(()) }
    }

    /// As [`close`](Self::close), but called from a panic. If the panic came in the middle of a loading, nothing is
    /// done.
    pub fn abandon(&self) {
        let state = match self.0.try_lock() {
            Ok(state) => Some(state),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        };
        if let Some(mut state) = state {
            state.closed = true;
            if std::mem::take(&mut state.loaded) {
                // An error is ignored: whoever could be told of it is told of the panic.
                _ = sys::kexec::unload();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_loads_after_closing() {
        let gate = Gate::default();
        gate.close().unwrap();
        assert!(gate.load(|| Ok(())).unwrap_err().why().contains("given up"));
    }

    #[test]
    fn a_failed_load_leaves_nothing_to_unload() {
        let gate = Gate::default();
        gate.load::<()>(|| Err(Fault::new("x", "y"))).unwrap_err();
        // Succeeds because nothing is unloaded: kexec's unloading would fail here, without privileges or support.
        gate.close().unwrap();
    }
}
