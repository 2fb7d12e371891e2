//! The subsystem `anemos`: one controller, attached or about to be.

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anemos_host::sha256::Hasher;
use anemos_proto::agent::{AgentReply, AgentRequest};
use anemos_proto::codec::{Compressor, FrameReader, encode_frame};
use anemos_proto::event::AgentState;
use anemos_proto::hello::{Greeting, Hello, Role};
use anemos_proto::ids::{BLOB_CHUNK, BlobRef, Digest};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::app::{App, BUILD};
use crate::log::Cursor;
use crate::machine;
use crate::ssh::{ChannelIn, ChannelOut, Input};

/// Time for the controller to say hello.
const HELLO_DEADLINE: Duration = Duration::from_secs(30);
/// Least time between two batches. The first fact leaves at once; those that follow are collected for so long, so that
/// they compress together.
const PACE: Duration = Duration::from_millis(50);
/// Least time between two messages about progress.
const PROGRESS_PACE: Duration = Duration::from_millis(200);
/// About how many bytes of frames a batch has at most.
const BATCH: usize = 64 * 1024;
/// Time for the last words to be sent once the controller asks nothing more.
const GOODBYE_DEADLINE: Duration = Duration::from_secs(4);
/// Answers that may wait for a controller that asks but reads no answers.
const MAX_ANSWERS: usize = 256;

/// What the listening task orders from the sending task.
enum Order {
    Reply(AgentReply),
    /// Send this reply, and then every fact after `after`.
    Follow {
        after: u64,
        reply: AgentReply,
    },
}

/// Serves the subsystem on one channel.
pub async fn run(app: Arc<App>, mut input: ChannelIn, out: ChannelOut) {
    let mut frames = FrameReader::new();
    let hello = async {
        out.data(Hello::new(Role::Agent, BUILD).encode()).await.map_err(|e| e.to_string())?;
        greet(&mut input, &mut frames).await
    };
    let greeted = tokio::time::timeout(HELLO_DEADLINE, hello).await;
    let problem = match greeted {
        Ok(Ok(())) => None,
        Ok(Err(problem)) => Some(problem),
        Err(_) => Some(format!("no hello within {} s", HELLO_DEADLINE.as_secs())),
    };
    if let Some(problem) = problem {
        out.fail(1, &format!("anemos-agent: {problem}")).await;
        out.close().await;
        return;
    }
    let (orders, receiver) = mpsc::channel(MAX_ANSWERS);
    let mut sending = tokio::spawn(send(app.clone(), receiver, out));
    let mut listener = Listener { app, orders, attachment: None, upload: None };
    tokio::select! {
        () = listener.listen(&mut input, &mut frames) => {
            // Dropping the listener drops its end of the orders, and the sender ends when it has served the last of
            // them.
            drop(listener);
            let _ = tokio::time::timeout(GOODBYE_DEADLINE, &mut sending).await;
        }
        _ = &mut sending => {}
    }
    sending.abort();
}

async fn greet(input: &mut ChannelIn, frames: &mut FrameReader) -> Result<(), String> {
    let mut greeting = Greeting::new(Role::Controller, crate::app::BUILD);
    loop {
        match input.next().await {
            Some(Input::Data(bytes, _)) => {
                if let Some(rest) = greeting.push(&bytes).map_err(|e| e.to_string())? {
                    frames.push(&rest);
                    return Ok(());
                }
            }
            Some(Input::Eof) | None => return Err("the connection ended before the hello".into()),
            Some(_) => {}
        }
    }
}

/// Tells the machine that a controller is attached, and when dropped that the controller is gone.
struct Attachment {
    app: Arc<App>,
}

impl Attachment {
    fn new(app: Arc<App>) -> Self {
        app.tell(machine::Input::Attached);
        app.met.send_replace(true);
        Self { app }
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        self.app.tell(machine::Input::Detached);
    }
}

/// Reads the controller's requests.
struct Listener {
    app: Arc<App>,
    orders: mpsc::Sender<Order>,
    attachment: Option<Attachment>,
    upload: Option<Upload>,
}

impl Listener {
    async fn listen(&mut self, input: &mut ChannelIn, frames: &mut FrameReader) {
        loop {
            loop {
                match frames.next_frame::<AgentRequest>() {
                    Ok(Some(request)) => {
                        if !self.serve(request).await {
                            return;
                        }
                    }
                    Ok(None) => break,
                    Err(e) => {
                        self.reply(AgentReply::Refused(format!("this can't be understood: {e}"))).await;
                        return;
                    }
                }
            }
            match input.next().await {
                Some(Input::Data(bytes, _permit)) => frames.push(&bytes),
                Some(Input::Eof) | None => return,
                Some(_) => {}
            }
        }
    }

    async fn reply(&self, reply: AgentReply) -> bool {
        self.orders.send(Order::Reply(reply)).await.is_ok()
    }

    /// Serves one request; false when the connection is gone.
    async fn serve(&mut self, request: AgentRequest) -> bool {
        let answer = match request {
            AgentRequest::Attach { after } => return self.attach(after).await,
            AgentRequest::Ack { seq } => {
                self.app.tell(machine::Input::Acked(seq));
                return true;
            }
            AgentRequest::Blob { digest, data } => match self.blob(digest, &data).await {
                Ok(()) => return true,
                Err(reason) => {
                    self.upload = None;
                    Err(reason)
                }
            },
            AgentRequest::Abort => self.app.ask(machine::Input::Abort).await,
            AgentRequest::Retry { payload: None } => self.app.ask(machine::Input::Retry).await,
            AgentRequest::Retry { payload: Some(blob) } => {
                if matches!(*self.app.state.borrow(), AgentState::Held(_)) {
                    Upload::new(&self.app, blob).map(|upload| self.upload = Some(upload))
                } else {
                    Err("a payload can be run again only when the agent is held".into())
                }
            }
            AgentRequest::Finish(finish) => self.app.ask(machine::Input::Finish(finish)).await,
        };
        self.reply(answer.map_or_else(AgentReply::Refused, |()| AgentReply::Accepted)).await
    }

    async fn attach(&mut self, after: u64) -> bool {
        let last = self.app.log.last();
        if after > last {
            let reason = format!("fact {after} is asked for, and this boot has had only {last}: another boot is meant");
            return self.reply(AgentReply::Refused(reason)).await;
        }
        let state = self.app.state.borrow().clone();
        let reply = AgentReply::Attached { boot_id: self.app.boot_id.clone(), state, last };
        let sent = self.orders.send(Order::Follow { after, reply }).await.is_ok();
        self.attachment = None;
        self.attachment = Some(Attachment::new(self.app.clone()));
        sent
    }

    async fn blob(&mut self, digest: Digest, data: &[u8]) -> Result<(), String> {
        let upload = self.upload.as_mut().filter(|upload| upload.blob.digest == digest);
        let upload = upload.ok_or("no retry has announced this payload")?;
        if !upload.take(data)? {
            return Ok(());
        }
        let Some(upload) = self.upload.take() else { return Ok(()) };
        upload.finish(&self.app)?;
        self.app.ask(machine::Input::Retry).await
    }
}

/// A payload that is being received.
struct Upload {
    blob: BlobRef,
    path: PathBuf,
    file: File,
    hash: Hasher,
    count: u64,
}

impl Upload {
    fn new(app: &App, blob: BlobRef) -> Result<Self, String> {
        let free = crate::memory::available();
        if blob.size > free / 2 {
            return Err(format!("the payload has {} bytes, and only {free} bytes of memory are free", blob.size));
        }
        let path = app.paths.run.join("upload");
        let file = File::create(&path).map_err(|e| format!("can't store the payload in {}: {e}", path.display()))?;
        Ok(Self { blob, path, file, hash: Hasher::new(), count: 0 })
    }

    /// Stores the next piece; true when the payload is whole.
    fn take(&mut self, data: &[u8]) -> Result<bool, String> {
        self.count += data.len() as u64;
        if data.len() > BLOB_CHUNK || data.is_empty() || self.count > self.blob.size {
            return Err(format!("the payload's pieces don't make up the {} bytes announced", self.blob.size));
        }
        self.hash.update(data);
        self.file.write_all(data).map_err(|e| format!("can't store the payload in {}: {e}", self.path.display()))?;
        Ok(self.count == self.blob.size)
    }

    fn finish(mut self, app: &App) -> Result<(), String> {
        if std::mem::replace(&mut self.hash, Hasher::new()).finish() != self.blob.digest {
            return Err(format!("the payload that came is not {}: send it again", self.blob.digest));
        }
        let to = app.paths.new_payload_archive();
        std::fs::rename(&self.path, &to).map_err(|e| format!("can't store the payload in {}: {e}", to.display()))?;
        app.set_payload(self.blob.digest);
        Ok(())
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        // Of a payload that didn't come whole nothing may be left that takes the place of the next.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Sends facts, progress and answers as fast as the controller reads them.
async fn send(app: Arc<App>, mut orders: mpsc::Receiver<Order>, out: ChannelOut) {
    let problem = Sender { app: &app, out: &out, cursor: None, batch: Vec::new() }.run(&mut orders).await.err();
    if let Some(problem) = problem.filter(|e| e.kind() != io::ErrorKind::BrokenPipe) {
        out.fail(1, &format!("anemos-agent: {problem}")).await;
    }
    out.close().await;
}

struct Sender<'a> {
    app: &'a App,
    out: &'a ChannelOut,
    cursor: Option<Cursor>,
    batch: Vec<u8>,
}

impl Sender<'_> {
    async fn run(&mut self, orders: &mut mpsc::Receiver<Order>) -> io::Result<()> {
        let mut compressor = Compressor::new().map_err(io::Error::other)?;
        let mut log = self.app.log.watch();
        let mut leaving = self.app.leaving.subscribe();
        let mut next_batch = Instant::now();
        let mut next_progress = Instant::now();
        let mut last_word = None;
        loop {
            log.mark_unchanged();
            let mut over = false;
            loop {
                match orders.try_recv() {
                    Ok(order) => self.obey(order)?,
                    Err(mpsc::error::TryRecvError::Empty) => break,
                    Err(mpsc::error::TryRecvError::Disconnected) => {
                        over = true;
                        break;
                    }
                }
            }
            let more = self.collect_facts()?;
            if Instant::now() >= next_progress && self.collect_progress()? {
                next_progress = Instant::now() + PROGRESS_PACE;
            }
            if !more && let Some(word) = &last_word {
                self.add(word)?;
                over = true;
            }
            if !self.batch.is_empty() {
                let bytes = compressor.compress(&self.batch).map_err(io::Error::other)?;
                self.batch.clear();
                self.out.data(bytes).await?;
                next_batch = Instant::now() + PACE;
            }
            if over {
                return Ok(());
            }
            if more {
                tokio::task::yield_now().await;
                continue;
            }
            if last_word.is_some() {
                continue;
            }
            let changed = async {
                let _ = log.changed().await;
                tokio::time::sleep_until(next_batch).await;
            };
            tokio::select! {
                () = changed, if self.cursor.is_some() => {}
                // Wakes to send progress that came too soon after the last.
                () = tokio::time::sleep_until(next_progress), if next_progress > Instant::now() => {}
                order = orders.recv() => match order {
                    Some(order) => self.obey(order)?,
                    None => return Ok(()),
                },
                left = leaving.wait_for(Option::is_some) => {
                    last_word = left.ok().and_then(|l| l.clone()).map(AgentReply::Leaving);
                }
            }
        }
    }

    fn add(&mut self, reply: &AgentReply) -> io::Result<()> {
        self.batch.extend(encode_frame(reply).map_err(io::Error::other)?);
        Ok(())
    }

    fn obey(&mut self, order: Order) -> io::Result<()> {
        match order {
            Order::Reply(reply) => self.add(&reply),
            Order::Follow { after, reply } => {
                self.cursor = Some(Cursor { after, progress: 0 });
                self.add(&reply)
            }
        }
    }

    /// Adds facts to the batch; true if the batch is full before the facts are at an end.
    fn collect_facts(&mut self) -> io::Result<bool> {
        let Some(mut cursor) = self.cursor else { return Ok(false) };
        while self.batch.len() < BATCH {
            // Behind a flood the end must not come so late that the agent has left before it is acknowledged.
            let late = self.app.is_late();
            let log = &self.app.log;
            let events = if late { log.read_without_lines(&mut cursor)? } else { log.read(&mut cursor)? };
            if events.is_empty() {
                self.cursor = Some(cursor);
                return Ok(false);
            }
            for event in events {
                self.add(&AgentReply::Event(event))?;
            }
            // Others have their turn before the next is read: what is left of it may be little, and fill no batch.
            if late {
                break;
            }
        }
        self.cursor = Some(cursor);
        Ok(true)
    }

    fn collect_progress(&mut self) -> io::Result<bool> {
        let Some(mut cursor) = self.cursor else { return Ok(false) };
        let progress = self.app.log.read_progress(&mut cursor);
        self.cursor = Some(cursor);
        let any = !progress.is_empty();
        for one in progress {
            self.add(&AgentReply::Progress(one))?;
        }
        Ok(any)
    }
}
