//! The link to the agent in RAM: hellos, and then frames both ways. What is said on it, the [`super::machine`] decides.

use std::time::Duration;

use anemos_proto::agent::{AgentReply, AgentRequest, SUBSYSTEM};
use anemos_proto::codec::{self, Decompressor, FrameReader};
use anemos_proto::hello::{Greeting, Hello, Role};
use anemos_proto::ids::BLOB_CHUNK;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::Blob;
use crate::ssh::{Exec, Output, Session, Writer};

/// How long the agent may take to say hello.
const HELLO: Duration = Duration::from_secs(30);

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
    decompressor: Decompressor,
    frames: FrameReader,
}

impl Link {
    /// Starts the subsystem and shakes hands.
    pub async fn open(session: &Session, build: &str) -> Result<Self, Parting> {
        let exec = session.subsystem(SUBSYSTEM).await.map_err(|e| Parting::Lost(e.to_string()))?;
        let broken = |e: &dyn std::error::Error| Parting::Broken(e.to_string());
        let decompressor = Decompressor::new().map_err(|e| broken(&e))?;
        let mut link = Self { exec, decompressor, frames: FrameReader::new() };
        let gone = |_| Parting::Lost("the agent closed the channel".into());
        link.exec.writer().send(Hello::new(Role::Controller, build).encode()).await.map_err(gone)?;
        let mut greeting = Greeting::new(Role::Agent, build);
        let deadline = Instant::now() + HELLO;
        loop {
            match tokio::time::timeout_at(deadline, link.exec.next()).await {
                Ok(Some(Output::Stdout(bytes))) => {
                    if let Some(rest) = greeting.push(&bytes).map_err(|e| broken(&e))? {
                        link.take(&rest)?;
                        return Ok(link);
                    }
                }
                Ok(Some(Output::Stderr(_))) => {}
                Ok(None) => return Err(Parting::Lost("the agent closed the channel".into())),
                Err(_) => return Err(Parting::Lost("the agent did not say hello within 30s".into())),
            }
        }
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), Parting> {
        let Self { decompressor, frames, .. } = self;
        decompressor
            .decompress(bytes, |plain| {
                frames.push(plain);
                Ok(())
            })
            .map_err(|e| Parting::Broken(e.to_string()))
    }

    /// What is to go out on it, once.
    pub fn outgoing(&self) -> Outgoing {
        Outgoing::new(self.exec.writer().clone())
    }

    /// The next reply. Safe to drop and call again.
    pub async fn reply(&mut self) -> Result<AgentReply, Parting> {
        loop {
            match self.frames.next_frame() {
                Ok(Some(reply)) => return Ok(reply),
                Ok(None) => {}
                Err(error) => return Err(Parting::Broken(error.to_string())),
            }
            match self.exec.next().await {
                Some(Output::Stdout(bytes)) => self.take(&bytes)?,
                Some(Output::Stderr(_)) => {}
                None => return Err(Parting::Lost("the connection to the agent ended".into())),
            }
        }
    }
}

/// What goes out on a link, in order. Whoever says it does not wait until the agent takes it.
pub struct Outgoing {
    queue: mpsc::UnboundedSender<Said>,
    sending: JoinSet<()>,
}

/// One thing that goes out.
enum Said {
    /// A request, as a frame.
    Frame(Vec<u8>),
    /// A payload, in as many requests as it takes.
    Payload(Blob),
}

impl Outgoing {
    fn new(writer: Writer) -> Self {
        let (queue, said) = mpsc::unbounded_channel();
        let mut sending = JoinSet::new();
        // Where sending fails, the agent's replies end too, and those say why.
        sending.spawn(async move { drop(send_all(&writer, said).await) });
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

    /// Waits until everything is sent, but not for long.
    pub async fn flush(self) {
        let Self { queue, mut sending } = self;
        drop(queue);
        let _ = timeout(FLUSH, sending.join_next()).await;
    }
}

async fn send_all(writer: &Writer, mut queue: mpsc::UnboundedReceiver<Said>) -> Result<(), String> {
    while let Some(said) = queue.recv().await {
        match said {
            Said::Frame(frame) => writer.send(frame).await.map_err(|e| e.to_string())?,
            Said::Payload(Blob { id, bytes }) => {
                for chunk in bytes.chunks(BLOB_CHUNK) {
                    let request = AgentRequest::Blob { digest: id.digest, data: chunk.to_vec() };
                    let frame = codec::encode_frame(&request).map_err(|e| e.to_string())?;
                    writer.send(frame).await.map_err(|e| e.to_string())?;
                }
            }
        }
    }
    Ok(())
}
