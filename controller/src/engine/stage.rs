//! The conversation with the stage, under the old system.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use anemos_proto::codec::{self, FrameReader};
use anemos_proto::hello::{Greeting, Hello, HelloError, Role};
use anemos_proto::host::HostFacts;
use anemos_proto::ids::{BLOB_CHUNK, Digest};
use anemos_proto::stage::{Failure, StagePlan, StageReply, StageRequest, Staged};
use tokio::sync::watch;
use tokio::task::coop::consume_budget;
use tokio::time::{Instant, timeout_at};

use super::limits;
use super::look::exit_text;
use super::packing::StageBinary;
use super::reporter::Reporter;
use super::root::{self, Questions, Reply, Way};
use super::said::Said;
use super::script;
use super::terminal::{self, Refused};
use crate::config::Become;
use crate::patience::within;
use crate::report::{Phase, Speaker, Update};
use crate::ssh::{Exec, Output, Session, Writer};

/// Bytes of noise that a login shell may print before our script speaks.
const NOISE: usize = 64 * 1024;

/// How long a host may say nothing until our script, or root's, speaks. sudo and PAM take their time.
const SPEAK: Duration = Duration::from_secs(60);

/// How long the stage may take to undo everything.
const UNDO: Duration = Duration::from_secs(20);

/// The host must take each piece of what it is sent within this time, whatever deadline `stage` is.
const STALL: Duration = Duration::from_secs(60);

/// What went wrong in the conversation. In each case the stage has undone everything or is doing it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StageError {
    /// The stage says why.
    Failed(Failure),
    /// The bootstrap script says why.
    Bootstrap(String),
    /// The connection ended.
    Lost(String),
    /// What came was not the protocol.
    Protocol(String),
    /// The user becomes root by this with a password only.
    Password(Become, String),
    /// The password was another one.
    WrongPassword(Become),
    /// Too slow; the name of the deadline.
    Deadline(&'static str),
    /// The user stopped it.
    Stopped,
}

impl From<Refused> for StageError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::WrongPassword(by) => Self::WrongPassword(by),
            Refused::Because(why) => Self::Bootstrap(why),
            Refused::Lost(why) => Self::Lost(why),
        }
    }
}

/// A running stage.
pub struct Stage {
    exec: Exec,
    frames: FrameReader,
    said: Said,
    /// How the user who logged in became root; `None`: it is root.
    pub becomes: Option<Become>,
    /// What the root file system of the old system is.
    pub identity: String,
    /// Bytes that the stage was sent as, or would be if it were not in the host's cache.
    pub size: u64,
    /// The stage was in the host's cache.
    pub cached: bool,
    uploading: bool,
}

impl Stage {
    /// Starts the stage as root, sending it if the host doesn't have it, and shakes hands.
    pub async fn start(session: &Session, binary: &StageBinary, build: &str, way: &Way) -> Result<Self, StageError> {
        let exec = terminal::start(session, &script::bootstrap(binary), way).await?;
        let mut stage = Self {
            exec,
            frames: FrameReader::new(),
            said: Said::default(),
            becomes: None,
            identity: String::new(),
            size: 0,
            cached: false,
            uploading: false,
        };
        let mut buffer = Vec::new();
        let needed = stage.read_answer(&mut buffer, Questions::new(way)).await?;
        stage.cached = needed.is_none();
        let packed = match needed {
            // What it would be matters little where it is not sent: the most usual.
            None => binary.packed.first(),
            Some(how) => {
                let packed = binary.packed.iter().find(|(packing, _)| packing.name == how);
                Some(packed.ok_or_else(|| StageError::Protocol(format!("the host wants the stage as `{how}`")))?)
            }
        };
        let bytes = packed.map_or(&[][..], |(_, bytes)| bytes);
        stage.size = bytes.len() as u64;
        if !stage.cached {
            for chunk in bytes.chunks(BLOB_CHUNK) {
                let sent = stage.exec.writer().send(chunk.to_vec()).await;
                if sent.is_err() {
                    break;
                }
            }
        }
        stage.greet(buffer, build).await?;
        let hello = Hello::new(Role::Controller, build).encode();
        stage.exec.writer().send(hello).await.map_err(|_| StageError::Lost("the stage has ended".into()))?;
        Ok(stage)
    }

    /// Reads the stage's hello, which begins with `bytes`, and keeps what follows it.
    async fn greet(&mut self, mut bytes: Vec<u8>, build: &str) -> Result<(), StageError> {
        let mut greeting = Greeting::new(Role::Stage, build);
        loop {
            match greeting.push(&bytes) {
                Ok(Some(rest)) => {
                    self.frames.push(&rest);
                    return Ok(());
                }
                Ok(None) => {}
                Err(error) => {
                    // After its answer the script only speaks again if something is wrong.
                    let said = match error {
                        HelloError::NotAnemos(_) => self.rest_of_output(greeting.seen().to_vec()).await,
                        _ => String::new(),
                    };
                    return Err(match script_error(&said) {
                        Some(why) => StageError::Bootstrap(why.into()),
                        None => StageError::Protocol(error.to_string()),
                    });
                }
            }
            bytes = self.next_output().await.ok_or_else(|| self.lost(greeting.seen()))?;
        }
    }

    /// Reads up to the script's `need` or `have`, and leaves what follows in `buffer`. Returns how the stage is to be
    /// packed, unless the host has it.
    async fn read_answer(
        &mut self,
        buffer: &mut Vec<u8>,
        mut questions: Questions,
    ) -> Result<Option<String>, StageError> {
        loop {
            while let Some(end) = buffer.iter().position(|&b| b == b'\n') {
                let line: Vec<u8> = buffer.drain(..=end).collect();
                let line = String::from_utf8_lossy(&line).into_owned();
                let Some(said) = script::marked(&line) else {
                    self.said.out(line.as_bytes());
                    continue;
                };
                match said.split_once(' ').unwrap_or((said, "")) {
                    ("need", rest) => {
                        let (how, identity) = rest.split_once(' ').unwrap_or((rest, ""));
                        self.identity = identity.into();
                        return Ok(Some(how.into()));
                    }
                    ("have", identity) => {
                        self.identity = identity.into();
                        return Ok(None);
                    }
                    ("by", how) => self.becomes = Become::named(how),
                    ("password", rest) => {
                        let (how, why) = rest.split_once(' ').unwrap_or((rest, ""));
                        let how =
                            Become::named(how).ok_or_else(|| StageError::Protocol(format!("it can't `{how}`")))?;
                        return Err(StageError::Password(how, why.trim().into()));
                    }
                    ("error", why) => return Err(StageError::Bootstrap(why.into())),
                    _ => {}
                }
            }
            if buffer.len() > NOISE {
                let why = "the login shell prints without end; its start-up files must be quiet for commands";
                return Err(StageError::Protocol(why.into()));
            }
            let quiet = questions.quiet();
            match within(quiet.unwrap_or(SPEAK), self.exec.next()).await {
                Ok(Some(Output::Stdout(bytes))) => buffer.extend_from_slice(&bytes),
                Ok(Some(Output::Stderr(bytes))) => {
                    self.said.err(&bytes);
                    questions.push(&bytes);
                }
                Ok(None) => return Err(self.turned_away(buffer, &questions)),
                Err(_) if quiet.is_some() => self.reply_to(questions.reply()).await?,
                Err(_) => {
                    self.said.out(buffer);
                    let said = self.said.text().map_or(String::new(), |said| format!("; it said: {said}"));
                    let why = format!("it did not answer our script within {}s{said}", SPEAK.as_secs());
                    return Err(StageError::Protocol(why));
                }
            }
        }
    }

    /// Answers a question that stands between us and root.
    async fn reply_to(&mut self, reply: Reply) -> Result<(), StageError> {
        let by = self.becomes.unwrap_or(Become::Sudo);
        let error = match reply {
            Reply::Nothing => return Ok(()),
            Reply::Line(line) => {
                return self.exec.writer().send(line).await.map_err(|error| StageError::Lost(error.to_string()));
            }
            Reply::Wrong => StageError::WrongPassword(by),
            Reply::Unknown(question) => {
                StageError::Bootstrap(format!("{by} asks for more than a password: `{question}`"))
            }
        };
        // Whoever asks learns that nobody answers. It may have ended by itself.
        let _ = self.exec.writer().end().await;
        Err(error)
    }

    /// Why the script ended before it, or root's, has spoken.
    fn turned_away(&mut self, stdout: &[u8], questions: &Questions) -> StageError {
        let wrong = questions.answered() && self.said.text().is_some_and(|said| root::says_wrong(&said));
        match self.becomes {
            Some(by) if wrong => StageError::WrongPassword(by),
            _ => self.lost(stdout),
        }
    }

    /// The next bytes of standard output, or `None` at its end. Safe to drop and call again.
    async fn next_output(&mut self) -> Option<Vec<u8>> {
        loop {
            match self.exec.next().await? {
                Output::Stdout(bytes) => return Some(bytes),
                Output::Stderr(bytes) => self.said.err(&bytes),
            }
        }
    }

    async fn rest_of_output(&mut self, mut buffer: Vec<u8>) -> String {
        let deadline = Instant::now() + Duration::from_secs(2);
        while let Ok(Some(output)) = timeout_at(deadline, self.exec.next()).await {
            if let Output::Stdout(bytes) = output {
                buffer.extend_from_slice(&bytes);
            }
            if buffer.len() > NOISE {
                break;
            }
        }
        String::from_utf8_lossy(&buffer).into_owned()
    }

    fn lost(&mut self, stdout: &[u8]) -> StageError {
        let said = String::from_utf8_lossy(stdout);
        if let Some(why) = script_error(&said) {
            return StageError::Bootstrap(why.into());
        }
        // What comes after our script's answer is the stage's, and no text.
        if self.identity.is_empty() {
            self.said.out(stdout);
        }
        let how = exit_text(&self.exec.exit());
        StageError::Lost(match self.said.text() {
            None => format!("the stage ended: {how}"),
            Some(said) => format!("the stage ended: {how}; it said: {said}"),
        })
    }

    async fn send(&self, request: &StageRequest) -> Result<(), StageError> {
        send(self.exec.writer(), request).await
    }

    /// The next reply. Safe to drop and call again.
    async fn reply(&mut self) -> Result<StageReply, StageError> {
        // A stage that says much at once must not keep everything else waiting.
        consume_budget().await;
        loop {
            if let Some(reply) = self.frames.next_frame().map_err(|e| StageError::Protocol(e.to_string()))? {
                tracing::trace!(?reply, "the stage says");
                return Ok(reply);
            }
            let bytes = self.next_output().await.ok_or_else(|| self.lost(&[]))?;
            self.frames.push(&bytes);
        }
    }

    /// Asks for the facts.
    pub async fn probe(&mut self, reporter: &Reporter) -> Result<Box<HostFacts>, StageError> {
        self.send(&StageRequest::Probe).await?;
        loop {
            match self.reply().await? {
                StageReply::Facts(facts) => return Ok(facts),
                other => pass_on(other, reporter)?,
            }
        }
    }

    /// Ends when the stage does, or says something though nothing was asked.
    pub async fn ended(&mut self) -> StageError {
        match self.reply().await {
            Err(error) => error,
            Ok(StageReply::Failed(failure)) => StageError::Failed(limits::failure(failure)),
            Ok(_) => StageError::Protocol("the stage spoke though nothing was asked".into()),
        }
    }

    /// Has the boot prepared: sends what the host lacks, passes on what it reports.
    pub async fn stage(
        &mut self,
        plan: StagePlan,
        blobs: &BTreeMap<Digest, Arc<[u8]>>,
        reporter: &Reporter,
    ) -> Result<Staged, StageError> {
        reporter.phase(Phase::Upload);
        self.send(&StageRequest::Stage(Box::new(plan))).await?;
        let (sent_tx, mut sent) = watch::channel((0, 0));
        let sent_tx = Arc::new(sent_tx);
        let mut uploads = tokio::task::JoinSet::new();
        let mut asked = BTreeSet::new();
        loop {
            tokio::select! {
                reply = self.reply() => match reply? {
                    StageReply::Need(digests) => {
                        let mut wanted = Vec::new();
                        for digest in digests {
                            let bytes = blobs.get(&digest).ok_or_else(|| {
                                StageError::Protocol(format!("the stage asked for {digest}, which is not in the plan"))
                            })?;
                            if !asked.insert(digest) {
                                return Err(StageError::Protocol(format!("the stage asked for {digest} twice")));
                            }
                            wanted.push((digest, Arc::clone(bytes)));
                        }
                        let more: u64 = wanted.iter().map(|(_, bytes)| bytes.len() as u64).sum();
                        sent_tx.send_modify(|(_, total)| *total += more);
                        if wanted.is_empty() {
                            if uploads.is_empty() && reporter.now() == Some(Phase::Upload) {
                                reporter.phase(Phase::Stage);
                            }
                        } else {
                            self.uploading = true;
                            let writer = self.exec.writer().clone();
                            uploads.spawn(upload(writer, wanted, Arc::clone(&sent_tx), STALL));
                        }
                    }
                    StageReply::Staged(staged) => {
                        reporter.phase(Phase::Stage);
                        return Ok(staged);
                    }
                    other => pass_on(other, reporter)?,
                },
                _ = sent.changed() => {
                    let (sent, total) = *sent.borrow_and_update();
                    reporter.tell(Update::Uploaded { sent, total });
                }
                Some(uploaded) = uploads.join_next() => {
                    // A lost connection also ends the stage's replies, and those say more.
                    if let Ok(Err(stalled @ StageError::Protocol(_))) = uploaded {
                        return Err(stalled);
                    }
                    if uploads.is_empty() {
                        self.uploading = false;
                        reporter.phase(Phase::Stage);
                    }
                }
            }
        }
    }

    /// Tells it to boot, and waits for its last word. On an error the host may or may not be booting.
    pub async fn boot(mut self, reporter: &Reporter) -> Result<Instant, StageError> {
        self.send(&StageRequest::Boot).await?;
        loop {
            match self.reply().await? {
                StageReply::Booting => break,
                other => pass_on(other, reporter)?,
            }
        }
        let last_word = Instant::now();
        // The stage goes on as soon as it sees our side closed.
        let _ = self.exec.writer().end().await;
        Ok(last_word)
    }

    /// Has everything undone.
    pub async fn abort(mut self) -> Result<(), StageError> {
        let undo = async {
            if self.uploading {
                // A blob may have been cut off in the middle, so a request would not be understood; the end is.
                self.exec.writer().end().await.map_err(|_| StageError::Lost("the stage has ended".into()))?;
            } else {
                self.send(&StageRequest::Abort).await?;
            }
            loop {
                match self.reply().await {
                    Ok(StageReply::Aborted) => return Ok(()),
                    Ok(StageReply::Failed(failure)) => return Err(StageError::Failed(limits::failure(failure))),
                    Ok(_) => {}
                    Err(error) => return Err(error),
                }
            }
        };
        timeout_at(Instant::now() + UNDO, undo).await.unwrap_or(Err(StageError::Deadline("abort (20s)")))
    }
}

/// Why the script gave up, if `output` has its words for that.
pub fn script_error(output: &str) -> Option<&str> {
    output.lines().filter_map(script::marked).find_map(|line| line.strip_prefix("error "))
}

async fn send(writer: &Writer, request: &StageRequest) -> Result<(), StageError> {
    let frame = codec::encode_frame(request).map_err(|e| StageError::Protocol(e.to_string()))?;
    writer.send(frame).await.map_err(|_| StageError::Lost("the stage has ended".into()))
}

async fn upload(
    writer: Writer,
    wanted: Vec<(Digest, Arc<[u8]>)>,
    sent: Arc<watch::Sender<(u64, u64)>>,
    stall: Duration,
) -> Result<(), StageError> {
    for (digest, bytes) in wanted {
        // Small enough that a slow link's progress can be seen.
        for chunk in bytes.chunks(BLOB_CHUNK / 8) {
            let request = StageRequest::Blob { digest, data: chunk.to_vec() };
            let late = |_| StageError::Protocol(format!("the host took nothing for {}s", stall.as_secs()));
            within(stall, send(&writer, &request)).await.map_err(late)??;
            sent.send_modify(|(sent, _)| *sent += chunk.len() as u64);
        }
    }
    Ok(())
}

/// Replies that may come at any time.
fn pass_on(reply: StageReply, reporter: &Reporter) -> Result<(), StageError> {
    match reply {
        StageReply::Event(event) => {
            reporter.tell(Update::Event(Speaker::Stage, limits::event(event)));
            if let Some(why) = reporter.flooded() {
                return Err(StageError::Protocol(why));
            }
        }
        StageReply::Progress(progress) => {
            reporter.tell(Update::Progress(Speaker::Stage, limits::progress(progress)));
        }
        StageReply::Failed(failure) => return Err(StageError::Failed(limits::failure(failure))),
        StageReply::Aborted => return Err(StageError::Lost("the stage gave up".into())),
        StageReply::Facts(_) | StageReply::Need(_) | StageReply::Staged(_) | StageReply::Booting => {
            return Err(StageError::Protocol("the stage answered what was not asked".into()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ssh::Tuning;
    use crate::ssh::tests::Server;

    #[tokio::test(flavor = "multi_thread")]
    async fn an_upload_that_nobody_takes_ends() {
        let server = Server::start(&["ed25519"], "");
        let (session, _) = server.session(&server.user(&["user"]), &Tuning::default()).await.unwrap();
        let exec = session.exec("exec sleep 600").await.unwrap();
        let wanted = vec![(Digest([0; 32]), vec![7; 16 << 20].into())];
        let upload = upload(exec.writer().clone(), wanted, Arc::default(), Duration::from_secs(1));
        let stalled = within(Duration::from_secs(60), upload).await.expect("it ends");
        assert_eq!(stalled, Err(StageError::Protocol("the host took nothing for 1s".into())));
    }
}
