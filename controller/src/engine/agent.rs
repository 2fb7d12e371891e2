//! The conversation with the agent, in RAM.

use std::time::Duration;

use anemos_proto::agent::{AgentReply, AgentRequest, Leaving, SUBSYSTEM};
use anemos_proto::codec::{self, Decompressor, FrameReader};
use anemos_proto::config::Finish;
use anemos_proto::event::{AgentState, EventKind};
use anemos_proto::hello::{Greeting, Hello, Role};
use anemos_proto::ids::{BLOB_CHUNK, BlobRef};
use tokio::time::{Instant, sleep_until};

use super::known::Known;
use super::reporter::Reporter;
use crate::journal::{Record, last_seq};
use crate::report::{Phase, Speaker, Update};
use crate::ssh::{Exec, Output, Session, Writer};

/// Facts are acknowledged after so many, or after [`ACK_AFTER`].
const ACK_EVERY: u64 = 64;

/// See [`ACK_EVERY`].
const ACK_AFTER: Duration = Duration::from_secs(2);

/// How long the agent may take to say hello.
const HELLO: Duration = Duration::from_secs(30);

/// What a person wants of the agent.
#[derive(Debug, Clone)]
pub enum Wish {
    /// Only follow.
    Follow,
    /// Run the payload again; `Some`: another one, as packed.
    Retry(Option<(BlobRef, std::sync::Arc<[u8]>)>),
    /// End the payload.
    Abort,
    /// Leave RAM.
    Finish(Finish),
}

/// How a conversation ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parting {
    /// The link was lost, because …
    Lost(String),
    /// The agent leaves.
    Leaving(Leaving),
    /// The agent waits for a person, because …
    Held(String),
    /// The agent won't do what was wished, because …
    Refused(String),
    /// It can't be talked to, and trying again won't help.
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

    /// The next reply. Safe to drop and call again.
    async fn reply(&mut self) -> Result<AgentReply, Parting> {
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

async fn send(writer: &Writer, request: &AgentRequest) -> Result<(), Parting> {
    let frame = codec::encode_frame(request).map_err(|e| Parting::Broken(e.to_string()))?;
    writer.send(frame).await.map_err(|_| Parting::Lost("the connection to the agent ended".into()))
}

/// One attachment: what was seen, and what has been acknowledged.
pub struct Attachment<'a> {
    /// To tell everything to.
    pub reporter: &'a Reporter,
    /// What is learned about the host.
    pub known: &'a mut Known,
    /// Seq of the newest fact in the journal.
    pub last: &'a mut u64,
    /// When the stage said its last word, until the first event has come.
    pub last_word: &'a mut Option<Instant>,
    /// The attempt that the journal's second file is known to name.
    pub noted: u32,
    /// Without a word for so long, the agent itself has failed: by then its own clock should have ended the payload.
    pub silence: Duration,
}

impl Attachment<'_> {
    /// Attaches, makes the wish, and follows until the end of the conversation.
    pub async fn follow(mut self, mut link: Link, wish: &mut Wish) -> Parting {
        match self.talk(&mut link, wish).await {
            Ok(never) => match never {},
            Err(parting) => {
                // What came before the link was lost is kept, though the agent will not hear of it now.
                if self.is_safe() && !matches!(parting, Parting::Lost(_) | Parting::Broken(_)) {
                    let _ = send(link.exec.writer(), &AgentRequest::Ack { seq: *self.last }).await;
                }
                parting
            }
        }
    }

    async fn talk(&mut self, link: &mut Link, wish: &mut Wish) -> Result<std::convert::Infallible, Parting> {
        let writer = link.exec.writer().clone();
        send(&writer, &AgentRequest::Attach { after: *self.last }).await?;
        // What the journal has of an earlier link may not have been acknowledged on that.
        let mut acked = 0;
        let mut ack_due: Option<Instant> = None;
        // Until the agent has answered a wish, that it is held is no news.
        let mut wished = !matches!(wish, Wish::Follow);
        let mut replay_until = u64::MAX;
        let mut state: Option<AgentState> = None;
        let mut heard = Instant::now();
        loop {
            let reply = tokio::select! {
                reply = link.reply() => Some(reply?),
                () = sleep_until(ack_due.unwrap_or_else(Instant::now)), if ack_due.is_some() => None,
                () = sleep_until(heard + self.silence) => {
                    let silence = crate::config::format_duration(self.silence);
                    return Err(Parting::Broken(format!(
                        "it has said nothing for {silence}, though its deadline `build` has passed since"
                    )));
                }
            };
            if reply.is_some() {
                heard = Instant::now();
            }
            let mut ack_now = reply.is_none();
            match reply {
                None => {}
                Some(AgentReply::Attached { boot_id, state: now, last }) => {
                    if self.known.ram_boot_id.as_ref().is_some_and(|known| *known != boot_id) {
                        return Err(Parting::Broken("the RAM system was booted anew: its boot id changed".into()));
                    }
                    self.known.ram_boot_id = Some(boot_id.clone());
                    self.reporter.record(&Record::Ram { boot_id });
                    replay_until = last;
                    state = Some(now);
                    ack_now = true;
                    make(&writer, wish).await?;
                }
                Some(AgentReply::Event(event)) => {
                    if event.seq <= *self.last {
                        continue;
                    }
                    *self.last = last_seq(&event);
                    self.learn(&event.kind);
                    match &event.kind {
                        // `Attached` carried the state after the replay; older ones must not overwrite it.
                        EventKind::State(now) if event.seq > replay_until => state = Some(now.clone()),
                        // The agent waits for these.
                        EventKind::Attempt(_) | EventKind::Outcome(_) => ack_now = true,
                        _ => {}
                    }
                    self.reporter.tell(Update::Event(Speaker::Agent, event));
                    ack_due.get_or_insert_with(|| Instant::now() + ACK_AFTER);
                    ack_now |= *self.last - acked >= ACK_EVERY;
                }
                Some(AgentReply::Progress(progress)) => self.reporter.tell(Update::Progress(Speaker::Agent, progress)),
                Some(AgentReply::Accepted) => {
                    // The agent sends no `State` event where the state does not change.
                    if !matches!(wish, Wish::Finish(Finish::Hold)) {
                        state = None;
                    }
                    // Once is enough: after a lost link it must not be asked for again.
                    *wish = Wish::Follow;
                    wished = false;
                }
                Some(AgentReply::Refused(why)) => {
                    *wish = Wish::Follow;
                    return Err(Parting::Refused(why));
                }
                Some(AgentReply::Leaving(leaving)) => return Err(Parting::Leaving(leaving)),
            }
            if ack_now && *self.last > acked {
                ack_due = None;
                // Without a journal there is nothing to acknowledge: the agent keeps its facts.
                if self.is_safe() {
                    send(&writer, &AgentRequest::Ack { seq: *self.last }).await?;
                    acked = *self.last;
                }
            }
            if let Some(AgentState::Held(reason)) = &state
                && !wished
                && *self.last >= replay_until
            {
                return Err(Parting::Held(reason.clone()));
            }
        }
    }

    fn learn(&mut self, kind: &EventKind) {
        if let Some(last_word) = self.last_word.take() {
            self.reporter.first_event(last_word.elapsed().as_secs_f64());
        }
        if self.reporter.now() != Some(Phase::Build) {
            self.reporter.phase(Phase::Build);
        }
        self.known.learn(kind);
    }

    /// Makes what was told safe. Only then may it be acknowledged: that lets a payload start, and the host leave.
    fn is_safe(&mut self) -> bool {
        if self.known.attempt == self.noted {
            return self.reporter.sync();
        }
        let safe = self.reporter.attempt(self.known.attempt);
        if safe {
            self.noted = self.known.attempt;
        }
        safe
    }
}

/// Says what a person wants.
async fn make(writer: &Writer, wish: &Wish) -> Result<(), Parting> {
    match wish {
        Wish::Follow => Ok(()),
        Wish::Abort => send(writer, &AgentRequest::Abort).await,
        Wish::Finish(finish) => send(writer, &AgentRequest::Finish(*finish)).await,
        Wish::Retry(None) => send(writer, &AgentRequest::Retry { payload: None }).await,
        Wish::Retry(Some((blob, bytes))) => {
            send(writer, &AgentRequest::Retry { payload: Some(*blob) }).await?;
            for chunk in bytes.chunks(BLOB_CHUNK) {
                let request = AgentRequest::Blob { digest: blob.digest, data: chunk.to_vec() };
                send(writer, &request).await?;
            }
            Ok(())
        }
    }
}
