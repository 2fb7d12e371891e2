//! The line between the workstation and a machine: a TCP relay on a loopback port of its own that counts bytes, and can
//! be made slow or one-way, cut, or led to somebody else.

use crate::netns::Namespace;
use crate::{Context, Result};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// A loopback port that nobody listens on now, for a program that takes none of its own choice.
pub fn free_port() -> Result<u16> {
    let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    Ok(free.context("a free port")?.port())
}

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

/// A direction of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From the one who connected to the target.
    Up,
    /// From the target to the one who connected.
    Down,
}

/// Bytes on their way, and when they were sent.
type Piece = (Instant, Vec<u8>);

/// Most pieces that are on their way in one direction.
const PIECES: usize = 64;

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
    /// How much later than it was sent each byte arrives, in each direction.
    delay: Duration,
    /// The directions that carry nothing: up, down.
    paused: [bool; 2],
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
            state: Mutex::new(State {
                target,
                rate: None,
                delay: Duration::ZERO,
                paused: [false; 2],
                refusing: false,
                open: Vec::new(),
            }),
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

    /// Has each byte arrive so much later, as over a satellite.
    pub fn delay(&self, delay: Duration) {
        self.shared.update(|state| state.delay = delay);
    }

    /// Stops carrying bytes without closing anything, as a line that went dead.
    pub fn pause(&self) {
        self.shared.update(|state| state.paused = [true; 2]);
    }

    /// Stops carrying bytes in one direction only.
    pub fn pause_one(&self, way: Way) {
        self.shared.update(|state| state.paused[way as usize] = true);
    }

    /// Goes on after [`Link::pause`] or [`Link::pause_one`].
    pub fn resume(&self) {
        self.shared.update(|state| state.paused = [false; 2]);
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

    /// Waits while the line is dead in that direction; then the rate and the delay that hold now.
    fn pass(&self, way: Way) -> (Option<u64>, Duration) {
        let mut state = self.lock();
        while state.paused[way as usize] && !self.closed.load(Ordering::Relaxed) {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        (state.rate, state.delay)
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
    thread::scope(|scope| {
        scope.spawn(|| pump(near, &far, shared, Way::Up));
        pump(&far, near, shared, Way::Down);
    });
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

/// Carries bytes in one direction until one end is closed.
fn pump(from: &TcpStream, to: &TcpStream, shared: &Shared, way: Way) {
    let (pieces, coming) = mpsc::sync_channel(PIECES);
    let whole = thread::scope(|scope| {
        let delivering = scope.spawn(move || {
            let delivered = deliver(coming, to, shared, way);
            if !delivered {
                // The one who reads must not wait for more.
                let _ = from.shutdown(Shutdown::Both);
            }
            delivered
        });
        let whole = take(from, &pieces, shared, way);
        drop(pieces);
        delivering.join().unwrap_or(false) && whole
    });
    if whole {
        let _ = to.shutdown(Shutdown::Write);
    } else {
        // One side is gone in the middle of something: the other must learn of it, in both directions.
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
    }
}

/// Reads what is sent, at the rate that holds; whether it came to its end.
fn take(mut from: &TcpStream, pieces: &SyncSender<Piece>, shared: &Shared, way: Way) -> bool {
    let mut buffer = vec![0; 32 * 1024];
    loop {
        let (rate, _) = shared.pass(way);
        // Small pieces at a low rate, so that the rate is one at every moment and not on average only.
        let size =
            rate.map_or(buffer.len(), |rate| usize::try_from(rate / 20).unwrap_or(usize::MAX).clamp(1, buffer.len()));
        let Ok(read) = from.read(&mut buffer[..size]) else { return false };
        if read == 0 {
            return true;
        }
        if pieces.send((Instant::now(), buffer[..read].to_vec())).is_err() {
            return false;
        }
        if let Some(rate) = rate {
            thread::sleep(Duration::from_secs_f64(read as f64 / rate as f64));
        }
    }
}

/// Writes each piece when it is to arrive; whether all were written.
fn deliver(coming: Receiver<Piece>, mut to: &TcpStream, shared: &Shared, way: Way) -> bool {
    let count = match way {
        Way::Up => &shared.sent,
        Way::Down => &shared.received,
    };
    for (sent, bytes) in coming {
        let (_, delay) = shared.pass(way);
        thread::sleep((sent + delay).saturating_duration_since(Instant::now()));
        if to.write_all(&bytes).is_err() {
            return false;
        }
        count.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        shared.changed.notify_all();
    }
    true
}
