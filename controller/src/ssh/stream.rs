//! The bytes between us and a host's SSH server: a TCP connection, or a program that leads there.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tokio::time::Instant;

use super::through::{Life, Through};
use super::trunk::Trunks;
use super::{Address, ConnectError, Fault, Origin, Way};
use crate::patience::{until, within};

/// Room for more comes from TCP as soon as there is some, and through a jump host in pieces of 96 KiB. So what a slow
/// link takes must be waited for longer there.
const IN_PIECES: u32 = 4;

/// How the version begins that our agent tells.
const AGENT: &[u8] = b"SSH-2.0-anemos_";

/// Who is at the other end, as it says without proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Speaks {
    /// An SSH server.
    Ssh,
    /// An agent of ours, in RAM.
    AsAgent,
}

/// To a host, by one way or the other.
#[derive(Debug)]
pub(super) enum Stream {
    Tcp(TcpStream),
    Through(Box<Through>),
}

impl Stream {
    /// Leads to the host's SSH server, which has begun to speak. Where a jump host takes no key of the user's, a person
    /// is asked what it wants, and `deadline` moves by the time that this takes.
    pub(super) async fn reach(
        address: &Address,
        deadline: &mut Instant,
        trunks: Option<&Arc<Trunks>>,
    ) -> Result<(Self, Speaks), ConnectError> {
        let (Way::Jump(hops), Some(trunks)) = (&address.way, trunks) else {
            return Self::listened(address, deadline, (&["ssh"], None)).await;
        };
        let refused = |said: String| {
            let fault = Some(Fault::of(&said)).filter(|fault| *fault != Fault::Unknown).unwrap_or(Fault::Refused);
            ConnectError::Way { address: address.clone(), fault, said }
        };
        let began = Instant::now();
        let mut turn = trunks.turn(hops).await;
        *deadline += began.elapsed();
        let (mut asked, mut again, mut last) = (false, false, None);
        loop {
            if turn.wants_person() && trunks.shared(hops).is_none() {
                let began = Instant::now();
                match (trunks.open(hops).await, last.take()) {
                    (Some(Ok(())), _) => asked = true,
                    (Some(Err(said)), _) => return Err(refused(said)),
                    (None, Some(error)) => return Err(error),
                    (None, None) => {}
                }
                *deadline += began.elapsed();
            }
            let shared = trunks.shared(hops);
            let came = Self::listened(address, deadline, (&trunks.ssh(), shared.as_deref())).await;
            turn.came(came.as_ref().err());
            match came {
                // Nobody was asked yet, or the connection that is shared has ended just now.
                Err(error @ ConnectError::Way { fault: Fault::Refused, .. }) if !asked && !again => {
                    (last, again) = (Some(error), true);
                }
                came => return came,
            }
        }
    }

    /// Begins to lead to the host, and waits until the other side speaks.
    async fn listened(
        address: &Address,
        deadline: &mut Instant,
        ssh: (&[&str], Option<&Path>),
    ) -> Result<(Self, Speaks), ConnectError> {
        let mut stream = Self::open(address, deadline, ssh).await?;
        let speaks = stream.listen(address, deadline).await?;
        Ok((stream, speaks))
    }

    /// Begins to lead to the host. Only a TCP connection shows by itself that the host is there.
    async fn open(
        address: &Address,
        deadline: &mut Instant,
        (ssh, shared): (&[&str], Option<&Path>),
    ) -> Result<Self, ConnectError> {
        let shell = std::env::var("SHELL").ok().filter(|shell| !shell.is_empty());
        let shell = shell.as_deref().unwrap_or("/bin/sh");
        let Some(words) = address.way.command(address, ssh, shared, shell) else {
            return Ok(Self::Tcp(tcp(address, deadline).await?));
        };
        match until(deadline, Through::start(&words)).await {
            Ok(Ok(through)) => Ok(Self::Through(Box::new(through))),
            Ok(Err(error)) => {
                let said = format!("{} can't be run: {error}", words[0]);
                Err(ConnectError::Way { address: address.clone(), fault: Fault::Unknown, said })
            }
            Err(_) => Err(ConnectError::Timeout { address: address.clone(), doing: "waiting for its turn" }),
        }
    }

    /// Waits until the other side speaks, and returns who says to be there. Nothing is said to it, and what it says is
    /// not taken.
    async fn listen(&mut self, address: &Address, deadline: &mut Instant) -> Result<Speaks, ConnectError> {
        let refused = |why: String| ConnectError::Handshake { address: address.clone(), why };
        let waited = ConnectError::Timeout { address: address.clone(), doing: "waiting for its SSH server to speak" };
        let mut room = [0; 1024];
        let said = match self {
            Self::Tcp(stream) => match until(deadline, stream.peek(&mut room)).await {
                Ok(Ok(0)) => return Err(refused("it closed the connection at once".into())),
                Ok(Ok(length)) => &room[..length],
                Ok(Err(source)) => return Err(ConnectError::Tcp { address: address.clone(), source }),
                Err(_) => return Err(waited),
            },
            Self::Through(through) => {
                let life = through.life();
                match until(deadline, through.peek()).await {
                    Ok(Ok([])) => return Err(ended(address, life.last_words().await)),
                    Ok(Err(error)) => return Err(ended(address, error.to_string())),
                    Ok(Ok(said)) => said,
                    Err(_) => {
                        let said = life.said();
                        let told = Fault::of(&said) != Fault::Unknown;
                        return Err(if told { ended(address, said) } else { waited });
                    }
                }
            }
        };
        // OpenSSH sends another line instead of its version when too many clients have not logged in yet.
        if speaks_ssh(said) {
            let is_agent = said.split(|&byte| byte == b'\n').any(|line| line.starts_with(AGENT));
            return Ok(if is_agent { Speaks::AsAgent } else { Speaks::Ssh });
        }
        Err(refused(format!("it said {:?}", String::from_utf8_lossy(said).trim_end())))
    }

    /// A link on which nothing is taken for that long is dead. While bytes wait to be sent, nobody asks whether the
    /// other side is alive.
    pub(super) fn give_up_after(&mut self, stalled: Duration) {
        match self {
            Self::Tcp(stream) => {
                // A small request such as an acknowledgement must not wait until more is to be sent. An error costs
                // only speed.
                let _ = stream.set_nodelay(true);
                let stalled = u32::try_from(stalled.as_millis()).unwrap_or(u32::MAX);
                // Without it, TCP itself gives up after a quarter of an hour.
                let _ = rustix::net::sockopt::set_tcp_user_timeout(&*stream, stalled);
            }
            Self::Through(through) => through.give_up_after(stalled * IN_PIECES),
        }
    }

    /// What becomes of the program, if there is one.
    pub(super) fn life(&self) -> Option<Life> {
        match self {
            Self::Tcp(_) => None,
            Self::Through(through) => Some(through.life()),
        }
    }
}

/// The program has ended, or says that it leads nowhere.
fn ended(address: &Address, said: String) -> ConnectError {
    ConnectError::Way { address: address.clone(), fault: Fault::of(&said), said }
}

/// Whether a server's first bytes are, or may yet become, its version. Other lines may come before it (RFC 4253, 4.2).
fn speaks_ssh(said: &[u8]) -> bool {
    said.split(|&byte| byte == b'\n').any(|line| !line.is_empty() && b"SSH-".starts_with(&line[..line.len().min(4)]))
}

/// The first of the host's addresses that takes a connection.
async fn tcp(address: &Address, deadline: &mut Instant) -> Result<TcpStream, ConnectError> {
    let timeout = |doing| ConnectError::Timeout { address: address.clone(), doing };
    let resolve_error = |source| ConnectError::Resolve { address: address.host.clone(), source };
    let found = until(deadline, lookup_host((address.host.as_str(), address.port)))
        .await
        .map_err(|_| timeout("resolving its name"))?
        .map_err(resolve_error)?;
    let origin = address.way.origin();
    let candidates: Vec<_> = found.filter(|to| origin.is_none_or(|origin| origin.takes(to))).collect();
    let mut last = io::Error::new(
        io::ErrorKind::NotFound,
        match origin {
            Some(Origin { family: Some(_), .. }) => "the name has no address of the AddressFamily in ssh_config",
            _ => "the name has no addresses",
        },
    );
    for (tried, candidate) in candidates.iter().enumerate() {
        // One address that swallows packets must not use up the time of the others.
        let left = deadline.saturating_duration_since(Instant::now()) / (candidates.len() - tried) as u32;
        match within(left, tcp_to(*candidate, origin)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => last = error,
            Err(_) => last = io::ErrorKind::TimedOut.into(),
        }
    }
    if last.kind() == io::ErrorKind::TimedOut {
        return Err(timeout("connecting"));
    }
    Err(ConnectError::Tcp { address: address.clone(), source: last })
}

async fn tcp_to(to: SocketAddr, origin: Option<&Origin>) -> io::Result<TcpStream> {
    let Some(origin) = origin else { return TcpStream::connect(to).await };
    let named = |option: &str, value: &str, error: &io::Error| {
        io::Error::new(error.kind(), format!("ssh_config has {option} {value}: {error}"))
    };
    let socket = if to.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    if let Some(interface) = &origin.interface {
        socket.bind_device(Some(interface.as_bytes())).map_err(|e| named("BindInterface", interface, &e))?;
    }
    if let Some(address) = &origin.address {
        let bind = async {
            let none = io::Error::new(io::ErrorKind::AddrNotAvailable, "it is of the other version of IP");
            let own = lookup_host((address.as_str(), 0)).await?.find(|own| own.is_ipv4() == to.is_ipv4());
            socket.bind(own.ok_or(none)?)
        };
        bind.await.map_err(|e| named("BindAddress", address, &e))?;
    }
    socket.connect(to).await
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Through(through) => Pin::new(through).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Through(through) => Pin::new(through).poll_write(cx, buf),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Through(through) => Pin::new(through).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Through(through) => Pin::new(through).poll_shutdown(cx),
        }
    }
}
