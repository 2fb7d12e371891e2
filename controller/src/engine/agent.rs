//! The link to the agent in RAM: hellos, and then frames both ways. What is said on it, the [`super::machine`] decides.

use std::time::Duration;

use anemos_proto::agent::{AgentReply, AgentRequest, SUBSYSTEM};
use anemos_proto::codec::{self, Decompressor, FrameReader};
use anemos_proto::hello::{Greeting, Hello, Role};
use anemos_proto::ids::BLOB_CHUNK;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::task::coop::consume_budget;
use tokio::time::timeout;

use super::{Blob, limits};
use crate::patience::within;
use crate::ssh::{Exec, Output, Session, Writer};

/// How long the agent may take to start its subsystem and say hello.
const HELLO: Duration = Duration::from_secs(60);

/// The agent must take each piece of what it is sent within this time.
const STALL: Duration = Duration::from_secs(60);

/// Bytes of a payload sent at once: few enough for [`STALL`] on any link that deserves the name.
const PIECE: usize = BLOB_CHUNK / 8;

/// How long what was said last may take to go out when a link is ended.
const FLUSH: Duration = Duration::from_secs(5);

/// Why there is no link, or none any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parting {
    /// The link was lost, because …
    Lost(String),
    /// The agent can't be talked to, and trying again won't help, because …
    Broken(String),
}

/// A link to the agent.
pub struct Link {
    exec: Exec,
    /// What came and is not decompressed yet, from `used` on.
    compressed: Vec<u8>,
    used: usize,
    decompressor: Decompressor,
    frames: FrameReader,
}

impl Link {
    /// Starts the subsystem and shakes hands.
    pub async fn open(session: &Session, build: &str) -> Result<Self, Parting> {
        let late = |_| Parting::Lost(format!("the agent did not say hello within {}s", HELLO.as_secs()));
        within(HELLO, Self::shake_hands(session, build)).await.map_err(late)?
    }

    async fn shake_hands(session: &Session, build: &str) -> Result<Self, Parting> {
        let exec = session.subsystem(SUBSYSTEM).await.map_err(|e| Parting::Lost(e.to_string()))?;
        let broken = |e: &dyn std::error::Error| Parting::Broken(e.to_string());
        let decompressor = Decompressor::new().map_err(|e| broken(&e))?;
        let (compressed, frames) = (Vec::new(), FrameReader::new());
        let mut link = Self { exec, compressed, used: 0, decompressor, frames };
        let gone = |_| Parting::Lost("the agent closed the channel".into());
        link.exec.writer().send(Hello::new(Role::Controller, build).encode()).await.map_err(gone)?;
        let mut greeting = Greeting::new(Role::Agent, build);
        loop {
            match link.exec.next().await {
                Some(Output::Stdout(bytes)) => {
                    if let Some(rest) = greeting.push(&bytes).map_err(|e| broken(&e))? {
                        link.compressed = rest;
                        return Ok(link);
                    }
                }
                Some(Output::Stderr(_)) => {}
                None => return Err(Parting::Lost("the agent closed the channel".into())),
            }
        }
    }

    /// Decompresses a little of what came. `false`: there is nothing left of it.
    fn decompress(&mut self) -> Result<bool, Parting> {
        let mut rest = &self.compressed[self.used..];
        let block = self.decompressor.next_block(&mut rest).map_err(|e| Parting::Broken(e.to_string()))?;
        self.used = self.compressed.len() - rest.len();
        let Some(block) = block else { return Ok(false) };
        self.frames.push(&block);
        Ok(true)
    }

    /// What is to go out on it, once.
    pub fn outgoing(&self) -> Outgoing {
        Outgoing::new(self.exec.writer().clone(), STALL)
    }

    /// The next reply. Safe to drop and call again.
    pub async fn reply(&mut self) -> Result<AgentReply, Parting> {
        // An agent that says much in few bytes must not keep everything else waiting.
        consume_budget().await;
        loop {
            match self.frames.next_frame() {
                Ok(Some(reply)) => return Ok(limits::reply(reply)),
                Ok(None) if self.decompress()? => continue,
                Ok(None) => {}
                Err(error) => return Err(Parting::Broken(error.to_string())),
            }
            match self.exec.next().await {
                Some(Output::Stdout(bytes)) => (self.compressed, self.used) = (bytes, 0),
                Some(Output::Stderr(_)) => {}
                None => return Err(Parting::Lost("the connection to the agent ended".into())),
            }
        }
    }
}

/// What goes out on a link, in order. Whoever says it does not wait until the agent takes it.
pub struct Outgoing {
    queue: mpsc::UnboundedSender<Said>,
    sending: JoinSet<Sent>,
}

/// How sending ended.
enum Sent {
    /// Everything is sent, or the link is gone: its replies end too, and say why.
    Ended,
    /// The link is there, and the agent has taken nothing for so long.
    Stalled(Duration),
}

/// One thing that goes out.
enum Said {
    /// A request, as a frame.
    Frame(Vec<u8>),
    /// A payload, in as many requests as it takes.
    Payload(Blob),
}

impl Outgoing {
    /// The agent must take each piece within `stall`.
    fn new(writer: Writer, stall: Duration) -> Self {
        let (queue, said) = mpsc::unbounded_channel();
        let mut sending = JoinSet::new();
        sending.spawn(send_all(writer, said, stall));
        Self { queue, sending }
    }

    /// Sends a request.
    pub fn request(&self, request: &AgentRequest) -> Result<(), Parting> {
        let frame = codec::encode_frame(request).map_err(|e| Parting::Broken(e.to_string()))?;
        // The link may be gone; then its replies have ended.
        let _ = self.queue.send(Said::Frame(frame));
        Ok(())
    }

    /// Sends a payload.
    pub fn payload(&self, payload: Blob) {
        let _ = self.queue.send(Said::Payload(payload));
    }

    /// Ends, with the reason, when the agent takes nothing any more. Safe to drop and call again.
    pub async fn stalled(&mut self) -> Parting {
        match self.sending.join_next().await {
            Some(Ok(Sent::Stalled(stall))) => Parting::Lost(format!("the agent took nothing for {}s", stall.as_secs())),
            Some(_) | None => std::future::pending().await,
        }
    }

    /// Waits until everything is sent, but not for long.
    pub async fn flush(self) {
        let Self { queue, mut sending } = self;
        drop(queue);
        let _ = timeout(FLUSH, sending.join_next()).await;
    }
}

async fn send_all(writer: Writer, mut queue: mpsc::UnboundedReceiver<Said>, stall: Duration) -> Sent {
    while let Some(said) = queue.recv().await {
        let sent = match said {
            Said::Frame(frame) => send(&writer, frame, stall).await,
            Said::Payload(payload) => send_payload(&writer, &payload, stall).await,
        };
        if let Err(end) = sent {
            return end;
        }
    }
    Sent::Ended
}

async fn send_payload(writer: &Writer, Blob { id, bytes }: &Blob, stall: Duration) -> Result<(), Sent> {
    for piece in bytes.chunks(PIECE) {
        let request = AgentRequest::Blob { digest: id.digest, data: piece.to_vec() };
        // A piece is far below the limit of a frame.
        send(writer, codec::encode_frame(&request).map_err(|_| Sent::Ended)?, stall).await?;
    }
    Ok(())
}

async fn send(writer: &Writer, frame: Vec<u8>, stall: Duration) -> Result<(), Sent> {
    match within(stall, writer.send(frame)).await {
        Ok(sent) => sent.map_err(|_| Sent::Ended),
        Err(_) => Err(Sent::Stalled(stall)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ssh::Tuning;
    use crate::ssh::tests::Server;

    /// The link is alive, and who is at its other end reads nothing.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_payload_that_nobody_takes_is_not_sent_for_ever() {
        let server = Server::start(&["ed25519"], "");
        let (session, _) = server.session(&server.user(&["user"]), &Tuning::default()).await.unwrap();
        let exec = session.exec("exec sleep 600").await.unwrap();
        let mut outgoing = Outgoing::new(exec.writer().clone(), Duration::from_secs(1));
        outgoing.payload(Blob::new(vec![7; 16 << 20]));
        let stalled = timeout(Duration::from_secs(60), outgoing.stalled()).await;
        assert_eq!(stalled, Ok(Parting::Lost("the agent took nothing for 1s".into())));
        assert!(!session.is_closed());
    }
}
