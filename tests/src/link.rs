//! The line between the workstation and a machine: a TCP relay on a loopback port of its own that counts bytes, and can
//! be made slow, cut, or led to somebody else.

use crate::netns::Namespace;
use crate::{Context, Result};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Where connections are carried to.
#[derive(Debug, Clone)]
pub enum Target {
    /// An address of this machine.
    Here(SocketAddr),
    /// An address in a machine's own network.
    Inside(Arc<Namespace>, SocketAddr),
}

impl Target {
    fn connect(&self, limit: Duration) -> Result<TcpStream> {
        match self {
            Self::Here(address) => {
                TcpStream::connect_timeout(address, limit).context(format!("cannot connect to {address}"))
            }
            Self::Inside(namespace, address) => namespace.connect(*address, limit),
        }
    }
}

/// Bytes carried so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// From the one who connected to the target.
    pub sent: u64,
    /// From the target to the one who connected.
    pub received: u64,
    /// Connections accepted.
    pub connections: u64,
}

/// A relay; it stops when it is dropped.
#[derive(Debug)]
pub struct Link {
    shared: Arc<Shared>,
    address: SocketAddr,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    sent: AtomicU64,
    received: AtomicU64,
    connections: AtomicU64,
    closed: AtomicBool,
}

#[derive(Debug)]
struct State {
    target: Target,
    /// Bytes a second in each direction.
    rate: Option<u64>,
    paused: bool,
    refusing: bool,
    /// Connections by number, so that they can be cut.
    open: Vec<(u64, [TcpStream; 2])>,
}

impl Link {
    /// A relay from a free loopback port.
    pub fn new(target: Target) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).context("cannot get a loopback port")?;
        Self::on(listener, target)
    }

    /// A relay from a socket that listens already.
    pub fn on(listener: TcpListener, target: Target) -> Result<Self> {
        let address = listener.local_addr().context("cannot read the relay's address")?;
        let shared = Arc::new(Shared {
            state: Mutex::new(State { target, rate: None, paused: false, refusing: false, open: Vec::new() }),
            changed: Condvar::new(),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            closed: AtomicBool::new(false),
        });
        // Polled, so that dropping the relay ends the thread even where nothing can connect to it any more.
        listener.set_nonblocking(true).context("cannot configure the relay")?;
        let accepting = Arc::clone(&shared);
        thread::spawn(move || accept(&listener, &accepting));
        Ok(Self { shared, address })
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// What has been carried so far.
    pub fn counts(&self) -> Counts {
        Counts {
            sent: self.shared.sent.load(Ordering::Relaxed),
            received: self.shared.received.load(Ordering::Relaxed),
            connections: self.shared.connections.load(Ordering::Relaxed),
        }
    }

    /// Limits each direction of each connection to so many bytes a second; `None` lifts the limit.
    pub fn throttle(&self, rate: Option<u64>) {
        self.shared.update(|state| state.rate = rate);
    }

    /// Stops carrying bytes without closing anything, as a line that went dead.
    pub fn pause(&self) {
        self.shared.update(|state| state.paused = true);
    }

    /// Goes on after [`Link::pause`].
    pub fn resume(&self) {
        self.shared.update(|state| state.paused = false);
    }

    /// Closes every open connection.
    pub fn cut(&self) {
        self.shared.update(|state| {
            for (_, streams) in state.open.drain(..) {
                close(&streams);
            }
        });
    }

    /// Closes new connections at once, or (`false`) carries them again.
    pub fn refuse(&self, refuse: bool) {
        self.shared.update(|state| state.refusing = refuse);
    }

    /// Leads new connections elsewhere, to an impostor for instance.
    pub fn redirect(&self, target: Target) {
        self.shared.update(|state| state.target = target);
    }

    /// Where new connections are carried to now.
    pub fn target(&self) -> Target {
        self.shared.lock().target.clone()
    }

    /// Waits until somebody has sent at least this many bytes through, or the time is over.
    pub fn wait_sent(&self, bytes: u64, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        let mut state = self.shared.lock();
        while self.shared.sent.load(Ordering::Relaxed) < bytes {
            let Some(left) = end.checked_duration_since(Instant::now()) else { return false };
            state = self.shared.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::Relaxed);
        self.cut();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn update(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }

    /// Waits while the line is dead; then the rate that holds now.
    fn pass(&self) -> Option<u64> {
        let mut state = self.lock();
        while state.paused && !self.closed.load(Ordering::Relaxed) {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.rate
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    while !shared.closed.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((near, _)) => {
                let shared = Arc::clone(shared);
                thread::spawn(move || {
                    // A connection that fails is closed, which is what the one who connected sees.
                    let _ = carry(&near, &shared);
                });
            }
            Err(_) => thread::sleep(Duration::from_millis(5)),
        }
    }
}

fn carry(near: &TcpStream, shared: &Arc<Shared>) -> Result<()> {
    near.set_nonblocking(false).context("cannot configure a connection")?;
    let (target, refusing) = {
        let state = shared.lock();
        (state.target.clone(), state.refusing)
    };
    let number = shared.connections.fetch_add(1, Ordering::Relaxed);
    if refusing {
        return Ok(());
    }
    let far = target.connect(Duration::from_secs(10))?;
    for stream in [near, &far] {
        stream.set_nodelay(true).context("cannot configure a connection")?;
    }
    let copy = |stream: &TcpStream| stream.try_clone().context("cannot share a connection");
    let mine = [copy(near)?, copy(&far)?];
    shared.update(|state| state.open.push((number, mine)));
    let (up, down) = (copy(near)?, copy(&far)?);
    let sending = Arc::clone(shared);
    let upward = thread::spawn(move || pump(up, &far, &sending, &sending.sent));
    pump(down, near, shared, &shared.received);
    let _ = upward.join();
    shared.update(|state| {
        if let Some(at) = state.open.iter().position(|(open, _)| *open == number) {
            close(&state.open.swap_remove(at).1);
        }
    });
    Ok(())
}

fn close(streams: &[TcpStream; 2]) {
    for stream in streams {
        // Closed already is as good as closed now.
        let _ = stream.shutdown(Shutdown::Both);
    }
}

fn pump(mut from: TcpStream, mut to: &TcpStream, shared: &Shared, count: &AtomicU64) {
    let mut buffer = vec![0; 32 * 1024];
    loop {
        let rate = shared.pass();
        // Small pieces at a low rate, so that the rate is one at every moment and not on average only.
        let size =
            rate.map_or(buffer.len(), |rate| usize::try_from(rate / 20).unwrap_or(usize::MAX).clamp(1, buffer.len()));
        let Ok(read) = from.read(&mut buffer[..size]) else { break };
        if read == 0 {
            let _ = to.shutdown(Shutdown::Write);
            return;
        }
        shared.pass();
        if to.write_all(&buffer[..read]).is_err() {
            break;
        }
        count.fetch_add(read as u64, Ordering::Relaxed);
        shared.changed.notify_all();
        if let Some(rate) = rate {
            thread::sleep(Duration::from_secs_f64(read as f64 / rate as f64));
        }
    }
    // One side is gone in the middle of something: the other must learn of it, in both directions.
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
