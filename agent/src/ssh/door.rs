//! Limits connections, those that have not logged in yet more than others.

use std::collections::BTreeMap;
use std::net::{IpAddr, Shutdown};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

/// Connections that have not logged in yet.
const MAX_STRANGERS: usize = 32;
/// Connections that have not logged in yet from one address (IPv6: from one /64).
const MAX_STRANGERS_OF_ONE: usize = 6;
/// Connections in all.
const MAX_GUESTS: usize = 128;
/// Channels of one connection.
const MAX_CHANNELS: u32 = 32;

/// Counts the open connections.
pub struct Door {
    inner: Mutex<Inner>,
    count: watch::Sender<usize>,
}

#[derive(Default)]
struct Inner {
    next: u64,
    /// By order of arrival.
    guests: BTreeMap<u64, Entry>,
}

struct Entry {
    origin: u128,
    stranger: bool,
    socket: std::net::TcpStream,
}

impl Default for Door {
    fn default() -> Self {
        Self { inner: Mutex::default(), count: watch::Sender::new(0) }
    }
}

impl Door {
    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a connection in, or refuses it. If there are too many strangers already, ends the oldest of their
    /// connections: an honest client logs in within moments, so one that has waited longest is hardly honest.
    pub fn enter(self: &Arc<Self>, stream: &tokio::net::TcpStream, peer: IpAddr) -> Option<Guest> {
        // A second descriptor of the socket ends the connection even while russh is busy with the first.
        let socket = std::net::TcpStream::from(stream.as_fd().try_clone_to_owned().ok()?);
        let origin = origin(peer);
        let mut inner = self.lock();
        if inner.guests.len() >= MAX_GUESTS {
            return None;
        }
        let strangers: Vec<u64> = inner.guests.iter().filter(|(_, e)| e.stranger).map(|(id, _)| *id).collect();
        if strangers.iter().filter(|id| inner.guests[id].origin == origin).count() >= MAX_STRANGERS_OF_ONE {
            return None;
        }
        if strangers.len() >= MAX_STRANGERS {
            let _ = inner.guests[&strangers[0]].socket.shutdown(Shutdown::Both);
        }
        let id = inner.next;
        inner.next += 1;
        inner.guests.insert(id, Entry { origin, stranger: true, socket });
        self.count.send_replace(inner.guests.len());
        drop(inner);
        Some(Guest { door: self.clone(), id, known: watch::Sender::new(false), channels: Arc::default() })
    }

    /// Waits until no connection is open, or `deadline` has passed.
    pub async fn wait_empty(&self, deadline: Duration) {
        let mut count = self.count.subscribe();
        let _ = tokio::time::timeout(deadline, count.wait_for(|count| *count == 0)).await;
    }
}

/// The address that is counted: an IPv6 address without its lower 64 bits, because one host often has a whole /64.
fn origin(peer: IpAddr) -> u128 {
    match peer.to_canonical() {
        IpAddr::V4(v4) => v4.to_bits().into(),
        IpAddr::V6(v6) => v6.to_bits() >> 64 << 64,
    }
}

/// An open connection.
pub struct Guest {
    door: Arc<Door>,
    id: u64,
    known: watch::Sender<bool>,
    channels: Arc<Channels>,
}

#[derive(Default)]
struct Channels {
    count: AtomicU32,
    changed: tokio::sync::Notify,
}

impl Guest {
    /// Notes that the client has logged in.
    pub fn welcome(&self) {
        if let Some(entry) = self.door.lock().guests.get_mut(&self.id) {
            entry.stranger = false;
        }
        self.known.send_replace(true);
    }

    /// Waits for the login.
    pub async fn known(&self) {
        let _ = self.known.subscribe().wait_for(|known| *known).await;
    }

    /// Ends the connection.
    pub fn throw_out(&self) {
        if let Some(entry) = self.door.lock().guests.get(&self.id) {
            let _ = entry.socket.shutdown(Shutdown::Both);
        }
    }

    /// Counts one more channel; `None` if the connection has too many.
    pub fn open_channel(&self) -> Option<Pass> {
        let more = self.channels.count.fetch_add(1, Ordering::Relaxed) + 1;
        let pass = Pass(self.channels.clone());
        (more <= MAX_CHANNELS).then_some(pass)
    }

    /// Waits until no channel is open, or `deadline` has passed.
    pub async fn idle(&self, deadline: Duration) {
        let empty = async {
            loop {
                let changed = self.channels.changed.notified();
                if self.channels.count.load(Ordering::Relaxed) == 0 {
                    return;
                }
                changed.await;
            }
        };
        let _ = tokio::time::timeout(deadline, empty).await;
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut inner = self.door.lock();
        inner.guests.remove(&self.id);
        self.door.count.send_replace(inner.guests.len());
    }
}

/// Counts a channel as open until it is dropped.
pub struct Pass(Arc<Channels>);

impl Drop for Pass {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, Ordering::Relaxed);
        self.0.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::{TcpListener, TcpStream};

    #[tokio::test]
    async fn strangers_of_one_address_are_few_and_friends_don_t_count() -> std::io::Result<()> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let stream = TcpStream::connect(listener.local_addr()?).await?;
        let door = Arc::new(Door::default());
        let peer: IpAddr = "2001:db8::1".parse().unwrap();
        let neighbour: IpAddr = "2001:db8::2".parse().unwrap();
        let mut guests: Vec<Guest> = (0..MAX_STRANGERS_OF_ONE).filter_map(|_| door.enter(&stream, peer)).collect();
        assert_eq!(guests.len(), MAX_STRANGERS_OF_ONE);
        assert!(door.enter(&stream, neighbour).is_none(), "same /64");
        assert!(door.enter(&stream, "192.0.2.1".parse().unwrap()).is_some());
        guests[0].welcome();
        guests.extend(door.enter(&stream, neighbour));
        assert_eq!(guests.len(), MAX_STRANGERS_OF_ONE + 1);
        drop(guests);
        door.wait_empty(Duration::from_secs(5)).await;
        assert_eq!(*door.count.borrow(), 0);
        Ok(())
    }
}
