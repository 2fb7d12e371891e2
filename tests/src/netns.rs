//! A network namespace without a name: it lasts as long as something refers to it.

use crate::command::{program, run};
use crate::{Context, Error, Result};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};
use std::fs::File;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::thread;
use std::time::Duration;

/// A network of its own, on this machine.
#[derive(Debug)]
pub struct Namespace {
    file: File,
}

impl Namespace {
    /// Makes an empty network. Needs root.
    pub fn new() -> Result<Self> {
        let made = thread::spawn(|| -> Result<File> {
            #[allow(deprecated, reason = "its replacement is unsafe for flags that are not used here")]
            rustix::thread::unshare(UnshareFlags::NEWNET).context("cannot make a network namespace (are you root?)")?;
            File::open("/proc/thread-self/ns/net").context("cannot open the network namespace")
        });
        let file = made.join().map_err(|_| Error::new("the thread that makes a network namespace died"))??;
        Ok(Self { file })
    }

    /// Moves the calling thread into the namespace, for good. Sockets and children made by it from then on live there.
    pub fn enter(&self) -> Result<()> {
        move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network))
            .context("cannot enter the machine's network namespace")
    }

    /// Runs something inside, from a thread made for it.
    pub fn run<T: Send>(&self, inside: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        thread::scope(|scope| {
            let worker = scope.spawn(|| {
                self.enter()?;
                inside()
            });
            worker.join().map_err(|_| Error::new("a thread inside a network namespace died"))?
        })
    }

    /// Runs `ip` with these words inside.
    pub fn ip(&self, words: &str) -> Result<()> {
        self.run(|| run(program("ip").args(words.split(' '))).map(drop))
    }

    /// Listens at an address inside.
    pub fn listen(&self, address: SocketAddr) -> Result<TcpListener> {
        self.run(|| TcpListener::bind(address).context(format!("cannot listen on {address}")))
    }

    /// Connects to an address inside.
    pub fn connect(&self, address: SocketAddr, limit: Duration) -> Result<TcpStream> {
        self.run(|| TcpStream::connect_timeout(&address, limit).context(format!("cannot connect to {address}")))
    }
}
