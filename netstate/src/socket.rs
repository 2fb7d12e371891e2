//! One netlink socket: requests with their answers, and notifications.

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::error::Error;
use crate::wire::{self, Message, Received};

/// How long the kernel has for an answer. It usually takes microseconds, but a driver that probes may hold the lock.
const PATIENCE: Duration = Duration::from_secs(20);

/// A dump's answers come in datagrams of at most 32 KiB.
const BUFFER: usize = 64 * 1024;

const NLMSGERR_ATTR_MSG: u16 = 1;

pub struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    pub fn open(groups: u32) -> Result<Self, Error> {
        let open = || -> io::Result<Socket> {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind(&SocketAddr::new(0, groups))?;
            // Errors then have the kernel's own words and not only EINVAL. Old kernels can't, so failure is ignored.
            let _ = socket.set_ext_ack(true);
            let _ = socket.set_cap_ack(true);
            Ok(socket)
        };
        let socket = open().map_err(|source| Error::Socket { action: "open a socket", source })?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Asks for a change and waits for the kernel's word on it.
    pub fn request(&mut self, action: &str, message: Message) -> Result<(), Error> {
        self.exchange(action, message, |_| {}).map(drop)
    }

    /// Asks for one thing: `each` sees the fixed part and attributes of the answers.
    pub fn get<T>(
        &mut self,
        action: &str,
        message: Message,
        mut each: impl FnMut(&[u8]) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        let mut found = None;
        self.exchange(action, message, |answer| found = each(answer.payload))?;
        Ok(found)
    }

    /// Reads a whole list. `each` sees a message's fixed part and attributes.
    pub fn dump<T>(
        &mut self,
        what: &'static str,
        kind: u16,
        body: &[u8],
        mut each: impl FnMut(&[u8]) -> Option<T>,
    ) -> Result<Vec<T>, Error> {
        for _ in 0..10 {
            let mut all = Vec::new();
            let message = Message::new(kind, wire::DUMP, body);
            let steady = self.exchange(&format!("list {what}"), message, |answer| all.extend(each(answer.payload)))?;
            if steady {
                return Ok(all);
            }
        }
        Err(Error::Unsteady(what))
    }

    /// Sends, and reads until the end of the answer. Returns false if the list changed while it was read.
    fn exchange(&mut self, action: &str, message: Message, mut each: impl FnMut(Received<'_>)) -> Result<bool, Error> {
        self.sequence += 1;
        self.socket
            .send(&message.finish(self.sequence), 0)
            .map_err(|source| Error::Socket { action: "send a request", source })?;
        let deadline = Instant::now() + PATIENCE;
        let mut steady = true;
        loop {
            let Some(datagram) = self.receive(deadline)? else {
                return Err(Error::Silent { action: action.to_owned(), seconds: PATIENCE.as_secs() });
            };
            for answer in wire::messages(&datagram).filter(|m| m.sequence == self.sequence) {
                steady &= answer.flags & wire::DUMP_INTERRUPTED == 0;
                match answer.kind {
                    // Both end with an error number, which for a success is 0.
                    wire::NLMSG_ERROR | wire::NLMSG_DONE => {
                        return outcome(action, answer).map(|()| steady);
                    }
                    _ => each(answer),
                }
            }
        }
    }

    /// The next datagram, or `None` at the deadline.
    pub fn receive(&self, deadline: Instant) -> Result<Option<Vec<u8>>, Error> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
            let mut fds = [PollFd::from_borrowed_fd(self.socket.as_fd(), PollFlags::IN)];
            match poll(&mut fds, Some(&timeout)) {
                Ok(0) => return Ok(None),
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(errno) => return Err(Error::Socket { action: "wait for an answer", source: errno.into() }),
            }
            let mut datagram = Vec::with_capacity(BUFFER);
            match self.socket.recv(&mut datagram, 0) {
                Ok(_) => return Ok(Some(datagram)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Notifications were lost. An empty one makes the caller look at the whole list again.
                Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NOBUFS.raw_os_error()) => {
                    return Ok(Some(Vec::new()));
                }
                Err(source) => return Err(Error::Socket { action: "receive", source }),
            }
        }
    }
}

pub fn outcome(action: &str, answer: Received<'_>) -> Result<(), Error> {
    let number = wire::get_u32(answer.payload, 0).map_or(0, u32::cast_signed);
    if number == 0 {
        return Ok(());
    }
    // After the number comes the header of the request, and then, if the kernel has something to say, attributes.
    let said = (answer.flags & wire::ERROR_HAS_ATTRIBUTES != 0)
        .then(|| {
            wire::attributes(answer.payload.get(20..).unwrap_or_default()).find(|(kind, _)| *kind == NLMSGERR_ATTR_MSG)
        })
        .flatten()
        .map(|(_, text)| String::from_utf8_lossy(text).trim_end_matches(['\0', '.']).to_owned());
    Err(Error::Refused {
        action: action.to_owned(),
        message: said.unwrap_or_default(),
        source: io::Error::from_raw_os_error(number.wrapping_neg()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes() {
        let answer = |number: i32| {
            let bytes = number.to_ne_bytes();
            outcome("ask", Received { kind: wire::NLMSG_ERROR, flags: 0, sequence: 1, payload: &bytes })
        };
        assert!(answer(0).is_ok());
        for number in [-17, i32::MIN, i32::MAX] {
            assert!(matches!(answer(number), Err(Error::Refused { .. })), "{number}");
        }
    }
}
