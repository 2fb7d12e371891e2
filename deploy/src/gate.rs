//! Keeps a kernel from being loaded once the stage is given up.

use std::sync::{Mutex, PoisonError, TryLockError};

use crate::error::{Doing, Fault, Result};
use crate::guardian::Guardian;
use crate::sys;

/// Guards the loading of the new kernel.
#[derive(Debug, Default)]
pub struct Gate {
    state: Mutex<State>,
    guardian: Guardian,
}

#[derive(Debug, Default)]
struct State {
    closed: bool,
    loaded: bool,
}

impl Gate {
    /// An open gate. `guardian` unloads the kernel should this process be killed.
    pub fn new(guardian: Guardian) -> Self {
        Self { guardian, ..Self::default() }
    }

    /// Who unloads the kernel should this process be killed.
    pub fn guardian(&self) -> &Guardian {
        &self.guardian
    }

    /// Loads by `load`, unless the gate is closed already.
    pub fn load<T>(&self, load: impl FnOnce() -> Result<T>) -> Result<T> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.closed {
            return Err(Fault::new("loading the kernel", "the staging was given up"));
        }
        self.guardian.loading();
        let loaded = load()?;
        state.loaded = true;
        Ok(loaded)
    }

    /// Loads by `load` and unloads again at once, unless the gate is closed already. Returns what `load` says.
    pub fn try_out(&self, load: impl FnOnce() -> std::io::Result<()>) -> Result<std::io::Result<()>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.closed {
            return Err(Fault::new("trying whether the kernel can be loaded", "the staging was given up"));
        }
        self.guardian.loading();
        let tried = load();
        state.loaded = tried.is_ok();
        let unloading = || "unloading the kernel that was loaded to see whether it can be".to_owned();
        self.unload(&mut state).doing(unloading)?;
        Ok(tried)
    }

    /// Closes the gate and unloads what was loaded. Waits first if a loading is under way.
    pub fn close(&self) -> std::io::Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.closed = true;
        self.unload(&mut state)
    }

    /// As [`close`](Self::close), but called from a panic. If the panic came in the middle of a loading, nothing is
    /// done.
    pub fn abandon(&self) {
        let state = match self.state.try_lock() {
            Ok(state) => Some(state),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        };
        if let Some(mut state) = state {
            state.closed = true;
            // An error is ignored: whoever could be told of it is told of the panic.
            _ = self.unload(&mut state);
        }
    }

    fn unload(&self, state: &mut State) -> std::io::Result<()> {
        if std::mem::take(&mut state.loaded) {
            sys::kexec::unload()?;
        }
        self.guardian.unloaded();
        Ok(())
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
    fn what_is_not_loaded_is_not_unloaded_after_a_try() {
        let gate = Gate::default();
        let refused = || Err(std::io::Error::from_raw_os_error(libc::EPERM));
        let tried = gate.try_out(refused).unwrap().unwrap_err();
        assert_eq!(tried.raw_os_error(), Some(libc::EPERM));
        gate.close().unwrap();
        assert!(gate.try_out(refused).unwrap_err().why().contains("given up"));
    }

    #[test]
    fn a_failed_load_leaves_nothing_to_unload() {
        let gate = Gate::default();
        gate.load::<()>(|| Err(Fault::new("x", "y"))).unwrap_err();
        // Succeeds because nothing is unloaded: kexec's unloading would fail here, without privileges or support.
        gate.close().unwrap();
    }
}
