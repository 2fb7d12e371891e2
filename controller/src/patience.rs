//! Waiting until a deadline, without holding against anybody the time in which this process did not run: it may be
//! stopped (`SIGSTOP`, a debugger, a cgroup that is frozen), or its machine may. Whoever was waited for could not be
//! heard then.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

/// Between two looks at the clock.
const LOOK: Duration = Duration::from_secs(1);

/// A look that is so much too late comes after a time in which this process was stopped. Less is a busy machine.
const STOPPED: Duration = Duration::from_secs(3);

/// The deadline came first.
#[derive(Debug)]
pub struct TooLate;

/// What `work` comes to, if it does by the deadline, which is moved by the time in which this process was stopped: for
/// those who have more to do by then.
pub async fn until<T>(deadline: &mut Instant, work: impl Future<Output = T>) -> Result<T, TooLate> {
    // On the heap: a future that is pinned in another takes its room twice.
    let mut work = Box::pin(work);
    loop {
        let look = (*deadline).min(Instant::now() + LOOK);
        if let Ok(done) = timeout_at(look, &mut work).await {
            return Ok(done);
        }
        *deadline += lost(look.elapsed());
        if Instant::now() >= *deadline {
            return Err(TooLate);
        }
    }
}

/// The same for a time that begins now.
pub async fn within<T>(patience: Duration, work: impl Future<Output = T>) -> Result<T, TooLate> {
    until(&mut (Instant::now() + patience), work).await
}

/// The time in which this process was stopped, if it looks so much too late.
fn lost(late: Duration) -> Duration {
    if late >= STOPPED { late } else { Duration::ZERO }
}

/// A clock that stands still while this process is stopped, for whoever looks at it often enough.
#[derive(Debug)]
pub struct Clock {
    began: Instant,
    stopped: Duration,
    looked: Instant,
}

impl Clock {
    /// One that shows the time since `began`.
    pub fn new(began: Instant) -> Self {
        Self { began, stopped: Duration::ZERO, looked: Instant::now() }
    }

    /// When it has to be looked at again.
    pub fn next_look(&self) -> Instant {
        self.looked + LOOK
    }

    /// What it shows now.
    pub fn look(&mut self) -> Duration {
        let now = Instant::now();
        self.stopped += lost(now.saturating_duration_since(self.next_look()));
        self.looked = now;
        now.saturating_duration_since(self.began).saturating_sub(self.stopped)
    }

    /// The moment at which it will show that.
    pub fn moment(&self, shown: Duration) -> Instant {
        self.began + self.stopped + shown
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    /// Stops everything in this runtime, as if this process were stopped.
    fn stop(time: Duration) {
        std::thread::sleep(time);
    }

    #[tokio::test]
    async fn a_deadline_is_one() {
        let began = Instant::now();
        assert!(within(LOOK * 3 / 2, pending::<()>()).await.is_err());
        assert!(began.elapsed() >= LOOK * 3 / 2);
        // What is there is taken, however late it is.
        let mut deadline = began;
        assert!(until(&mut deadline, ready(())).await.is_ok());
        assert!(until(&mut deadline, pending::<()>()).await.is_err());
        assert_eq!(deadline, began);
    }

    #[tokio::test]
    async fn who_was_stopped_waits_as_long_all_the_same() {
        let (began, patience, stopped) = (Instant::now(), 2 * LOOK, STOPPED + 2 * LOOK);
        let mut deadline = began + patience;
        let (late, ()) = tokio::join!(until(&mut deadline, pending::<()>()), async { stop(stopped) });
        assert!(late.is_err());
        assert!(deadline + LOOK >= began + patience + stopped, "what follows has as long as well");
        // Where it was stopped between two looks is not known.
        assert!(began.elapsed() + LOOK >= patience + stopped, "{:?}", began.elapsed());
    }

    #[tokio::test]
    async fn the_clock_stands_still() {
        let mut clock = Clock::new(Instant::now());
        stop(STOPPED + 2 * LOOK);
        let shown = clock.look();
        assert!(shown < 2 * LOOK, "{shown:?}");
        // And goes on.
        let left = clock.moment(10 * LOOK) - Instant::now();
        assert!((8 * LOOK..=10 * LOOK).contains(&left), "{left:?}");
        tokio::time::sleep_until(clock.next_look()).await;
        assert!(clock.look() >= shown + LOOK);
    }
}
