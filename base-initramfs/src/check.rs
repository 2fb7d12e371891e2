//! Which packages of a lock have left the mirrors. Nothing is downloaded.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::channel;

use crate::archive::{Archive, Left};
use crate::{Error, Lock};

/// Asks for each package of the image and of the kernel whether a mirror has it, and gives those that have left all of
/// them, in the order of the lock. `looked` is told how many of them are done.
///
/// Fails at the first package of which that can't be told.
pub fn check(lock: &Lock, archive: &Archive<'_>, looked: &mut dyn FnMut(usize)) -> Result<Vec<Left>, Error> {
    /// Asked for at a time.
    const WORKERS: usize = 4;
    let packages: Vec<_> = lock.all_packages().collect();
    let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        // Made in here, so that a worker sees it closed if this ends early.
        let (sender, receiver) = channel();
        for _ in 0..WORKERS {
            let (sender, packages, next, stop) = (sender.clone(), &packages, &next, &stop);
            scope.spawn(move || {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(package) = packages.get(at) else { break };
                    if sender.send((at, archive.left(package, stop))).is_err() {
                        break;
                    }
                }
            });
        }
        drop(sender);
        let mut all = Vec::new();
        for (done, (at, left)) in receiver.iter().enumerate() {
            looked(done + 1);
            match left {
                Ok(left) => all.extend(left.map(|left| (at, left))),
                Err(error) => {
                    stop.store(true, Ordering::Relaxed);
                    return Err(error);
                }
            }
        }
        all.sort_by_key(|(at, _)| *at);
        Ok(all.into_iter().map(|(_, left)| left).collect())
    })
}
