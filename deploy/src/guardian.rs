//! A second, tiny process, which does what the stage can't do itself: it unloads the kernel if the stage is killed, and
//! resets the machine if the stage's last system call never ends.

use std::fs::OpenOptions;
use std::io::{self, PipeWriter, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use anemos_host::Root;

use crate::facts;
use crate::sys;

/// Time for the kernel to leave the old system. It has every driver shut its devices down first, and one that hangs
/// keeps it from ever leaving.
const LEAVING: Duration = Duration::from_secs(60);

/// What the stage tells its guardian, a byte each.
const LOADING: u8 = b'l';
const UNLOADED: u8 = b'u';
const LEAVES: u8 = b'x';

/// What the guardian has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Task {
    /// Nothing: the stage has ended in an orderly way.
    Nothing,
    /// Unload the kernel: the stage was killed when it had loaded one.
    Unload,
    /// Reset the machine unless it leaves by itself in time.
    Reset,
}

/// The stage's end of a pipe to its guardian, and the guardian's process. There is none in a test.
#[derive(Debug, Default)]
pub struct Guardian(Option<(PipeWriter, i32)>);

impl Guardian {
    /// Starts the guardian. Fails if another thread runs already. The guardian ignores what [`sys::signal::block`] and
    /// [`sys::signal::ignore_hangup`] have this process ignore.
    pub fn start(root: &Root) -> io::Result<Self> {
        let (stage, words) = io::pipe()?;
        if let Some(pid) = sys::process::fork()? {
            return Ok(Self(Some((words, pid))));
        }
        // The pipe would not end with the stage if the guardian had the stage's end of it too.
        drop(words);
        // A panic must not go on into the stage's own code.
        _ = catch_unwind(AssertUnwindSafe(|| guard(root, stage)));
        std::process::exit(0)
    }

    /// The stage loads a kernel now.
    pub fn loading(&self) {
        self.say(LOADING);
    }

    /// The stage has unloaded the kernel.
    pub fn unloaded(&self) {
        self.say(UNLOADED);
    }

    /// The stage leaves the old system now.
    pub fn leaves(&self) {
        self.say(LEAVES);
    }

    /// The guardian's process.
    pub fn pid(&self) -> Option<i32> {
        self.0.as_ref().map(|(_, pid)| *pid)
    }

    fn say(&self, word: u8) {
        let Some((words, _)) = &self.0 else { return };
        let mut words: &PipeWriter = words;
        // An error means that somebody killed the guardian. The stage does without.
        _ = words.write_all(&[word]);
    }
}

fn guard(root: &Root, stage: impl Read) {
    // Whoever ends the connection's session and control group must not end the guardian with the stage.
    _ = rustix::process::setsid();
    // In a container that may be the cgroup of the system around it.
    if facts::inside::container(root).is_none() {
        _ = std::fs::write(root.at("/sys/fs/cgroup/cgroup.procs"), std::process::id().to_string());
    }
    _ = std::fs::write("/proc/self/oom_score_adj", "-1000");
    _ = std::env::set_current_dir("/");
    // Opened now, since nothing can be opened once the file systems are gone.
    let trigger = OpenOptions::new().write(true).open(root.at("/proc/sysrq-trigger"));
    match listen(stage) {
        Task::Nothing => {}
        // An error is ignored: nobody is left who could be told.
        Task::Unload => _ = sys::kexec::unload(),
        Task::Reset => {
            std::thread::sleep(LEAVING);
            // `b` resets at once, without asking any driver (Documentation/admin-guide/sysrq.rst).
            _ = trigger.and_then(|mut trigger| trigger.write_all(b"b"));
        }
    }
}

/// Listens to the stage until it leaves or ends.
fn listen(mut stage: impl Read) -> Task {
    let mut task = Task::Nothing;
    let mut word = [0];
    while stage.read_exact(&mut word).is_ok() {
        task = match word[0] {
            LOADING => Task::Unload,
            LEAVES => return Task::Reset,
            _ => Task::Nothing,
        };
    }
    task
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_to_do() {
        for (said, task) in [
            (&[][..], Task::Nothing),
            (&[LOADING], Task::Unload),
            (&[LOADING, UNLOADED], Task::Nothing),
            (&[LOADING, UNLOADED, LOADING], Task::Unload),
            (&[LOADING, LEAVES], Task::Reset),
        ] {
            assert_eq!(listen(said), task, "{said:?}");
        }
    }

    #[test]
    fn the_end_of_the_stage_is_noticed() {
        let (stage, words) = io::pipe().unwrap();
        let listening = std::thread::spawn(|| listen(stage));
        let guardian = Guardian(Some((words, 1)));
        guardian.loading();
        drop(guardian);
        assert_eq!(listening.join().unwrap(), Task::Unload);
        // Nobody listens any more, which stops nobody.
        let (stage, words) = io::pipe().unwrap();
        drop(stage);
        Guardian(Some((words, 1))).loading();
    }
}
