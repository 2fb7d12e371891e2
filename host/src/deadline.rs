//! Work that may never end.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// Does something that failing hardware may keep from ever ending, in a thread of its own. `None` if it did not end
/// within `limit`, or no thread could be started; the thread is left behind then.
pub fn within<T: Send + 'static>(limit: Duration, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (done, waiting) = mpsc::channel();
    thread::Builder::new().spawn(move || done.send(work())).ok()?;
    waiting.recv_timeout(limit).ok()
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn waiting_has_an_end() {
        let start = Instant::now();
        assert_eq!(within(Duration::from_millis(20), || thread::sleep(Duration::from_secs(5))), None);
        assert!(start.elapsed() < Duration::from_secs(4));
        assert_eq!(within(Duration::from_secs(60), || 7), Some(7));
    }
}
