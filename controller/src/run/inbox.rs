//! Wishes for the hosts of a run from other processes: a Unix socket in the run's directory, which whoever has the
//! run's lock listens on.
//!
//! A conversation: whoever asks sends one line of JSON, a [`Request`], and after it the bytes of the payload if the
//! wish has one. Then come, each as a line of JSON, an [`Answer`] for each host, and the end. All of it is between
//! processes of one machine, and of one user or root: the directory is 0700, and the kernel says who is at the other
//! end.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anemos_proto::config::Finish;
use anemos_proto::ids::{BlobRef, Digest};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout, timeout_at};

use super::plea::{Answer, Plea};
use crate::engine::{Blob, Wish};
use crate::journal::RunDir;

/// Version of the conversation.
const FORMAT: u32 = 1;

/// Longest line, in bytes.
const LINE: u64 = 64 << 10;

/// Largest payload, in bytes: what is packed is held in memory here and in the agent.
const PAYLOAD: u64 = 1 << 30;

/// Whoever is silent for so long in the middle of a request is not waited for.
const SILENCE: Duration = Duration::from_secs(10);

/// Time between two attempts at taking a conversation.
const BUSY: Duration = Duration::from_millis(100);

/// Whoever asked knows after this time that nobody answers.
const ANSWERS: Duration = Duration::from_secs(5);

/// What somebody asks for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Request {
    format: u32,
    /// See [`crate::report::Wished`].
    id: String,
    /// Which hosts.
    hosts: Vec<String>,
    wish: Words,
}

/// A wish in a request.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Words {
    Retry { payload: Option<(Digest, u64)> },
    Abort,
    Finish(Finish),
}

/// Why there is no answer.
#[derive(Debug)]
pub enum Unheard {
    /// Nobody listens, or no longer.
    Gone(String),
    /// Whoever listens would not, or not in time.
    Refused(String),
}

impl Request {
    /// Asks for this, for these hosts. The payload's bytes are sent after it.
    pub fn new(id: &str, hosts: Vec<String>, wish: &Wish) -> Self {
        let wish = match wish {
            Wish::Retry(payload) => {
                Words::Retry { payload: payload.as_ref().map(|Blob { id, .. }| (id.digest, id.size)) }
            }
            Wish::Abort => Words::Abort,
            Wish::Finish(finish) => Words::Finish(*finish),
        };
        Self { format: FORMAT, id: id.into(), hosts, wish }
    }
}

/// Where the hosts of a run take wishes, by their names.
pub type Pleas = Arc<HashMap<String, mpsc::UnboundedSender<Plea>>>;

/// A name for a socket in a directory that is short enough for the kernel (108 bytes, unix(7)) however long the
/// directory's is. Good for as long as the file is open.
pub fn short(dir: &Path, name: &str) -> io::Result<(File, PathBuf)> {
    let dir = File::open(dir)?;
    let path = PathBuf::from(format!("/proc/self/fd/{}/{name}", dir.as_raw_fd()));
    Ok((dir, path))
}

/// Takes wishes for as long as it lives.
#[derive(Debug)]
pub struct Inbox {
    path: PathBuf,
    task: tokio::task::JoinHandle<()>,
}

impl Inbox {
    /// Listens. Only whoever has the run's lock may. A run that takes no wishes goes on all the same.
    pub fn open(run: &RunDir, hosts: Pleas) -> Option<Self> {
        let warn =
            |error: &_| tracing::warn!(run = run.id.as_str(), %error, "no wishes are taken from other processes");
        Self::listen(run, hosts).inspect_err(warn).ok()
    }

    fn listen(run: &RunDir, hosts: Pleas) -> io::Result<Self> {
        let path = run.path().join("inbox");
        match fs::remove_file(&path) {
            // Whoever listened before has died.
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let (_dir, name) = short(run.path(), "inbox")?;
        let listener = UnixListener::bind(name)?;
        let task = tokio::spawn(async move {
            // The conversations end with whoever listens.
            let mut conversations = tokio::task::JoinSet::new();
            loop {
                tokio::select! {
                    accepted = listener.accept() => match accepted {
                        Ok((stream, _)) => _ = conversations.spawn(serve(stream, Arc::clone(&hosts))),
                        // This process has no file to spare, as a rule; nothing says when it has.
                        Err(_) => tokio::time::sleep(BUSY).await,
                    },
                    Some(_) = conversations.join_next() => {}
                }
            }
        });
        Ok(Self { path, task })
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        self.task.abort();
        // A socket that nobody listens on does no harm.
        let _ = fs::remove_file(&self.path);
    }
}

/// Answers one request.
async fn serve(stream: UnixStream, hosts: Pleas) {
    let author = author(&stream);
    let (read, mut write) = stream.into_split();
    let answers = match request(BufReader::new(read)).await {
        // A host that is gone gives none, and neither does this side then: whoever asked makes it by themselves.
        Ok((request, wish)) => plead_all(&hosts, &request.hosts, &request.id, &author, &wish).await.map(Ok),
        Err(why) => Some(Err(why)),
    };
    let Some(answers) = answers else { return };
    let mut text = String::new();
    let mut line = |value: Result<String, serde_json::Error>| text += &(value.unwrap_or_default() + "\n");
    match answers {
        Ok(answers) => answers.iter().for_each(|answer| line(serde_json::to_string(&answer))),
        Err(why) => line(serde_json::to_string(&serde_json::json!({ "error": why }))),
    }
    // Whoever asked may have gone.
    let _ = write.write_all(text.as_bytes()).await;
}

/// Hands a wish to these hosts. `None` if one is not followed any more.
pub async fn plead_all(
    hosts: &HashMap<String, mpsc::UnboundedSender<Plea>>,
    names: &[String],
    id: &str,
    author: &str,
    wish: &Wish,
) -> Option<Vec<Answer>> {
    let pleas: Vec<_> = names.iter().map(|host| plead(hosts, host, id, author, wish)).collect();
    let mut answers = Vec::new();
    for plea in pleas {
        answers.push(plea.await);
    }
    answers.into_iter().collect()
}

/// Hands a wish to a host. The answer is `None` if nobody follows it any more.
fn plead(
    hosts: &HashMap<String, mpsc::UnboundedSender<Plea>>,
    host: &str,
    id: &str,
    author: &str,
    wish: &Wish,
) -> impl Future<Output = Option<Answer>> + use<> {
    let (answer, answered) = oneshot::channel();
    let plea = Plea { id: id.into(), author: author.into(), number: None, wish: wish.clone(), answer };
    let known = hosts.get(host).map(|host| host.send(plea).is_ok());
    let host = host.to_owned();
    async move {
        match known {
            None => {
                let refused = Some("it is not followed together with the others of its run".into());
                Some(Answer { host, number: None, refused, made: false })
            }
            Some(_) => answered.await.ok(),
        }
    }
}

/// Reads a request and what comes after it.
async fn request(mut from: BufReader<tokio::net::unix::OwnedReadHalf>) -> Result<(Request, Wish), String> {
    let line = timeout(SILENCE, line(&mut from)).await.map_err(|_| "no request came".to_owned())?;
    let line = line.map_err(|error| format!("the request can't be read: {error}"))?;
    let format: serde_json::Value = serde_json::from_str(&line).map_err(|error| format!("no request: {error}"))?;
    if format["format"] != FORMAT {
        return Err("the anemos that follows the run is of another version than this one".into());
    }
    let request: Request = serde_json::from_value(format).map_err(|error| format!("no request: {error}"))?;
    let wish = match request.wish {
        Words::Abort => Wish::Abort,
        Words::Finish(finish) => Wish::Finish(finish),
        Words::Retry { payload: None } => Wish::Retry(None),
        Words::Retry { payload: Some((digest, size)) } => {
            Wish::Retry(Some(payload(&mut from, BlobRef { digest, size }).await?))
        }
    };
    Ok((request, wish))
}

async fn line(from: &mut (impl tokio::io::AsyncBufRead + Unpin)) -> io::Result<String> {
    let mut line = String::new();
    from.take(LINE).read_line(&mut line).await?;
    if line.ends_with('\n') { Ok(line) } else { Err(ErrorKind::UnexpectedEof.into()) }
}

async fn payload(from: &mut (impl tokio::io::AsyncRead + Unpin), wanted: BlobRef) -> Result<Blob, String> {
    let size = wanted.size;
    if size > PAYLOAD {
        return Err(format!("a payload of {size} bytes is too large"));
    }
    let mut bytes = Vec::new();
    let mut piece = vec![0; 1 << 16];
    while (bytes.len() as u64) < size {
        let read = timeout(SILENCE, from.read(&mut piece)).await.map_err(|_| "the payload did not come".to_owned())?;
        match read {
            Ok(0) => return Err("the payload ended early".into()),
            Ok(count) => bytes.extend_from_slice(&piece[..count]),
            Err(error) => return Err(format!("the payload can't be read: {error}")),
        }
    }
    let blob = Blob::new(bytes);
    if blob.id == wanted { Ok(blob) } else { Err("the payload is not the one that was announced".into()) }
}

/// Who is at the other end, as the kernel knows it.
pub fn author(stream: &UnixStream) -> String {
    match stream.peer_cred() {
        Ok(peer) => person(peer.uid(), peer.pid().and_then(|pid| u32::try_from(pid).ok())),
        Err(_) => "somebody".into(),
    }
}

/// This process, as an author.
pub fn ourselves() -> String {
    person(rustix::process::geteuid().as_raw(), Some(std::process::id()))
}

/// Somebody, as an author: a user of this machine and their process.
pub fn person(uid: u32, pid: Option<u32>) -> String {
    let name = user_name(&fs::read_to_string("/etc/passwd").unwrap_or_default(), uid);
    let name = name.unwrap_or_else(|| format!("user {uid}"));
    pid.map_or_else(|| name.clone(), |pid| format!("{name} (process {pid})"))
}

/// The name of a user in passwd(5). Who is in a directory service stays a number.
pub fn user_name(passwd: &str, uid: u32) -> Option<String> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

/// Asks whoever follows the run.
pub async fn ask(run: &RunDir, request: &Request, wish: &Wish) -> Result<Vec<Answer>, Unheard> {
    let gone = |error: io::Error| Unheard::Gone(error.to_string());
    let (dir, name) = short(run.path(), "inbox").map_err(gone)?;
    let mut stream = UnixStream::connect(name).await.map_err(gone)?;
    drop(dir);
    let mut text = serde_json::to_string(request).map_err(|error| Unheard::Refused(error.to_string()))?;
    text.push('\n');
    let sent = async {
        stream.write_all(text.as_bytes()).await?;
        if let Wish::Retry(Some(payload)) = wish {
            stream.write_all(&payload.bytes).await?;
        }
        io::Result::Ok(())
    };
    // Also a process that takes nothing more is silent.
    let until = Instant::now() + ANSWERS;
    let silent = |_| Unheard::Refused(format!("it did not answer within {}s", ANSWERS.as_secs()));
    let sent = timeout_at(until, sent).await.map_err(silent)?;
    let mut said = String::new();
    // Whoever does not want to read all may have said why.
    let read = timeout_at(until, stream.take(LINE * 16).read_to_string(&mut said)).await;
    read.map_err(silent)?.map_err(gone)?;
    let answers: Vec<Answer> = match said.lines().map(serde_json::from_str).collect() {
        Ok(answers) => answers,
        Err(error) => {
            let why: Option<serde_json::Value> = serde_json::from_str(&said).ok();
            let why = why.as_ref().and_then(|why| why["error"].as_str());
            return Err(Unheard::Refused(
                why.map_or_else(|| format!("what it says is no answer: {error}"), str::to_owned),
            ));
        }
    };
    if answers.is_empty() {
        return Err(sent.err().map_or_else(|| Unheard::Gone("it ended before it answered".into()), gone));
    }
    Ok(answers)
}
