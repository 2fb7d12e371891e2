//! The machine's watchdogs, in init's hands (Documentation/watchdog/watchdog-api.rst): they reset a machine whose
//! kernel or init hangs, as long as no disk was written.
//!
//! Each watchdog is kept open by a thread of its own, because some drivers wait for their hardware in every call. What
//! is to be done is decided in [`Watchdogs`], without I/O; times are milliseconds of the same clock throughout.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// The name of a watchdog of the old kind, which is not in `/sys/class/watchdog` (IPMI's is one). Where that class has
/// watchdogs, it is another name of the first of them.
pub const OLD: &str = "watchdog";

/// What is wanted of all watchdogs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Care {
    /// No disk was written: a machine that hangs is to be reset. They are fed while all is well.
    Guard {
        /// Whether the agent is alive, or is being started.
        well: bool,
    },
    /// A disk was written: nothing may reset the machine any more. They are stopped, or fed whatever happens.
    Spare,
    /// The machine is about to reboot: they are fed no more.
    LetGo,
}

/// What the thread that has a watchdog open is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Begin to count anew.
    Feed,
    /// Stop counting.
    Stop,
}

/// What that thread answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Word {
    /// It is open, and counts.
    Taken {
        /// What it calls itself.
        identity: String,
        /// The seconds after which it resets the machine, if it says.
        timeout_s: Option<u32>,
    },
    /// It can't be opened, because …
    Refused(String),
    /// It counts no more.
    Stopped,
    /// It can't be stopped, because …
    Unstoppable(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Opening,
    Armed,
    Stopping,
    Unstoppable,
    Off,
}

#[derive(Debug)]
struct Watchdog {
    state: State,
    /// Milliseconds between two feedings: a third of its timeout.
    interval: u64,
    /// When it was fed last.
    fed: u64,
    /// What is known of it, in words.
    about: String,
}

/// All watchdogs that init has met.
#[derive(Debug, Default)]
pub struct Watchdogs {
    by_name: BTreeMap<String, Watchdog>,
    /// Which others there were when [`OLD`] was tried last. It is another name of one of them, until others come.
    tried_with: Option<Vec<String>>,
}

impl Watchdogs {
    /// Takes in the names of the watchdogs of `/sys/class/watchdog`, and whether there is a `/dev/watchdog`; returns
    /// those that are to be opened. Opening a watchdog starts it, so none is opened once a disk was written.
    pub fn found(&mut self, names: &[String], old: bool, care: Care) -> Vec<String> {
        if !matches!(care, Care::Guard { .. }) {
            return Vec::new();
        }
        let mut new: Vec<String> = names.iter().filter(|name| !self.by_name.contains_key(*name)).cloned().collect();
        // Once the others are open, this one is busy if it is one of them.
        let settled = new.is_empty() && self.by_name.values().all(|dog| dog.state != State::Opening);
        if old && settled && !self.by_name.contains_key(OLD) && self.tried_with.as_deref() != Some(names) {
            self.tried_with = Some(names.to_vec());
            new.push(OLD.into());
        }
        for name in &new {
            let dog = Watchdog { state: State::Opening, interval: 0, fed: 0, about: String::new() };
            self.by_name.insert(name.clone(), dog);
        }
        new
    }

    /// Takes in what the thread of a watchdog answers; returns what a person should hear of it.
    pub fn told(&mut self, now: u64, name: &str, word: Word) -> Option<String> {
        let dog = self.by_name.get_mut(name)?;
        match word {
            Word::Taken { identity, timeout_s } => {
                dog.state = State::Armed;
                dog.interval = timeout_s.map_or(0, |timeout| u64::from(timeout) * 1000 / 3);
                dog.fed = now;
                let identity = if identity.is_empty() { String::new() } else { format!("{identity}, ") };
                let timeout = timeout_s.map_or("timeout unknown".into(), |timeout| format!("{timeout} s"));
                dog.about = format!("{name} ({identity}{timeout})");
                None
            }
            Word::Refused(_) if name == OLD => {
                self.by_name.remove(name);
                None
            }
            Word::Refused(why) => {
                dog.state = State::Off;
                Some(format!("{name} can't be used: {why}"))
            }
            Word::Stopped => {
                dog.state = State::Off;
                None
            }
            Word::Unstoppable(why) => {
                dog.state = State::Unstoppable;
                Some(format!("{} can't be stopped ({why}): init goes on feeding it", dog.about))
            }
        }
    }

    /// What is to be ordered now.
    pub fn orders(&mut self, now: u64, care: Care) -> Vec<(String, Order)> {
        let mut orders = Vec::new();
        for (name, dog) in &mut self.by_name {
            let due = now >= dog.fed + dog.interval;
            let order = match (care, dog.state) {
                (Care::Guard { well: true }, State::Armed) | (Care::Spare, State::Unstoppable | State::Stopping)
                    if due =>
                {
                    Order::Feed
                }
                (Care::Spare, State::Armed) => Order::Stop,
                _ => continue,
            };
            match order {
                Order::Feed => dog.fed = now,
                Order::Stop => dog.state = State::Stopping,
            }
            orders.push((name.clone(), order));
        }
        orders
    }

    /// The watchdogs that guard the machine, in words.
    pub fn list(&self) -> Vec<String> {
        let armed = self.by_name.values().filter(|dog| !matches!(dog.state, State::Opening | State::Off));
        armed.map(|dog| dog.about.clone()).collect()
    }
}

/// Starts the thread that keeps a watchdog: opens it, asks for a timeout of `hang_s` seconds, and carries out orders.
/// Its answers go to `tell`.
pub fn keep(path: PathBuf, hang_s: u32, tell: impl Fn(Word) + Send + 'static) -> io::Result<SyncSender<Order>> {
    // One order of each kind may wait. If the driver doesn't come back, later orders would be of no use.
    let (sender, orders) = sync_channel(2);
    std::thread::Builder::new().name("watchdog".into()).spawn(move || attend(&path, hang_s, &orders, tell))?;
    Ok(sender)
}

fn attend(path: &Path, hang_s: u32, orders: &Receiver<Order>, tell: impl Fn(Word)) {
    let mut device = match OpenOptions::new().write(true).open(path) {
        Ok(device) => device,
        Err(e) => return tell(Word::Refused(e.to_string())),
    };
    let timeout_s = crate::sys::set_watchdog_timeout(&device, hang_s);
    // Some drivers begin to count with the first write only.
    feed(&mut device);
    tell(Word::Taken { identity: crate::sys::watchdog_identity(&device), timeout_s });
    for order in orders {
        match order {
            Order::Feed => feed(&mut device),
            Order::Stop => match crate::sys::stop_watchdog(&device) {
                Ok(()) => {
                    // The letter that announces to the driver that it is closed on purpose.
                    let _ = device.write_all(b"V");
                    return tell(Word::Stopped);
                }
                // Closing it would not stop it either: from then on nobody would feed it.
                Err(e) => tell(Word::Unstoppable(e.to_string())),
            },
        }
    }
    // Init is gone. Closing without the letter lets the watchdog count on.
}

fn feed(device: &mut File) {
    let _ = device.write_all(b"1");
}

#[cfg(test)]
mod tests;
