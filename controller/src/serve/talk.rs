//! One conversation: requests come as lines, and each is answered by a task of its own.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use anemos_proto::ids::Digest;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::asker::{Attached, Listener, Questions};
use super::rights::{Right, Who};
use super::runs::{Runs, agent};
use super::watch::Watch;
use crate::api::{self, API, Fault, Given, Lines, Request, Said, Shown, Submit, plan_sha256, reply, reply_line};
use crate::embed::BUILD;
use crate::engine::{Blob, Wish, now_ms};
use crate::journal::{Follower, Keep, RunDir, glance};
use crate::report::{Report, is_line};
use crate::run::{Description, Secrets, Terms};
use crate::screen::json::report_line;
use crate::screen::status::{StatusRow, status_json};

/// Whoever says nothing to begin with is not waited for longer.
const HELLO: Duration = Duration::from_secs(10);

/// Whoever takes nothing for so long is hung up on.
const TAKING: Duration = Duration::from_secs(600);

/// Requests of one conversation at once.
const AT_ONCE: usize = 32;

/// Answers that wait to be written.
const WAITING: usize = 64;

/// Bytes of blobs in one conversation: what is packed is held in memory.
const BLOBS: u64 = 1 << 30;

/// Hosts of a run.
const HOSTS: usize = 10_000;

/// Time between two looks at a journal.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What the requests of a conversation have in common.
#[derive(Clone)]
struct Talk {
    runs: Arc<Runs>,
    /// Who is at the other end.
    who: Who,
    /// How the journals call them.
    author: String,
    replies: mpsc::Sender<String>,
    questions: Questions,
}

/// Talks until the other side leaves, or says something that can't be a conversation.
pub(super) async fn talk(runs: Arc<Runs>, stream: UnixStream) {
    let peer = api::peer(&stream).and_then(|peer| Ok((runs.rights.of_peer(&peer)?, peer.author)));
    let (read, write) = stream.into_split();
    let (replies, queue) = mpsc::channel(WAITING);
    let (end, ended) = oneshot::channel();
    let writing = tokio::spawn(write_down(queue, ended, write));
    let fault = match peer {
        Ok((who, author)) => {
            let talk = Talk { runs, who, author, replies: replies.clone(), questions: Questions::default() };
            talk.listen(Lines::new(read)).await.err()
        }
        Err(why) => Some(Fault::state(why)),
    };
    if let Some(fault) = fault {
        let _ = replies.send(reply(None, &Said::Error(fault))).await;
    }
    // Runs that nobody has decided about, and hosts that ask for something, hear by the queue's end that nobody is
    // there any more. Whatever is in it is still written.
    drop((replies, end));
    let _ = writing.await;
}

async fn write_down(mut queue: mpsc::Receiver<String>, mut ended: oneshot::Receiver<()>, mut write: OwnedWriteHalf) {
    loop {
        let line = tokio::select! {
            line = queue.recv() => line,
            _ = &mut ended, if !queue.is_closed() => {
                queue.close();
                continue;
            }
        };
        let Some(mut line) = line else { return };
        line.push('\n');
        if !matches!(timeout(TAKING, write.write_all(line.as_bytes())).await, Ok(Ok(()))) {
            return;
        }
    }
}

#[allow(clippy::needless_pass_by_value, reason = "so that it can be given to map_err")]
fn unreadable(error: io::Error) -> Fault {
    Fault::input(format!("the conversation can't go on: {error}"))
}

impl Talk {
    async fn listen(&self, mut lines: Lines<OwnedReadHalf>) -> Result<(), Fault> {
        let first = timeout(HELLO, lines.next()).await.map_err(|_| Fault::input("no hello came"))?;
        let Some(first) = first.map_err(unreadable)? else { return Ok(()) };
        match api::read(&first) {
            Ok((re, Request::Hello { api: API })) => {
                let said = Said::Welcome { api: API, build: BUILD.into(), process: std::process::id() };
                self.say(re, &said).await;
            }
            Ok((_, Request::Hello { api })) => {
                return Err(Fault::input(format!(
                    "this daemon speaks version {API} of its API, and you version {api}: use an anemos of its version, \
                     or start it again with yours"
                )));
            }
            Ok(_) => return Err(Fault::input("the first message has to be `hello`")),
            Err((_, fault)) => return Err(fault),
        }
        let mut blobs: BTreeMap<Digest, Blob> = BTreeMap::new();
        // They end with the conversation.
        let mut tasks = JoinSet::new();
        while let Some(line) = lines.next().await.map_err(unreadable)? {
            while tasks.try_join_next().is_some() {}
            let (re, request) = match api::read(&line) {
                Ok(read) => read,
                Err((re, fault)) => {
                    self.answer(re, Err(fault)).await;
                    continue;
                }
            };
            match request {
                Request::Blob { sha256, size } => {
                    let held: u64 = blobs.values().map(|blob| blob.id.size).sum();
                    if size > BLOBS - held.min(BLOBS) {
                        // Its bytes are on their way: there is no way to go on after them.
                        return Err(Fault::input(format!("blobs of more than {BLOBS} bytes are too large")));
                    }
                    let blob = Blob::new(lines.bytes(size).await.map_err(unreadable)?);
                    let is_it = blob.id.digest == sha256.0;
                    if is_it {
                        blobs.insert(sha256.0, blob);
                    }
                    let wrong = || Fault::input("these bytes don't have that SHA-256");
                    self.answer(Some(re), is_it.then_some(Said::Done {}).ok_or_else(wrong)).await;
                }
                Request::Answer { question, base64 } => {
                    let answered = self.questions.answer(question, base64);
                    let late = || Fault::state("nothing waits for that answer");
                    self.answer(Some(re), answered.then_some(Said::Done {}).ok_or_else(late)).await;
                }
                _ if tasks.len() >= AT_ONCE => {
                    let fault = Fault::state(format!("{AT_ONCE} requests of this conversation are being answered"));
                    self.answer(Some(re), Err(fault)).await;
                }
                request => {
                    let blobs = match request {
                        Request::Submit(_) => std::mem::take(&mut blobs),
                        Request::Wish { payload: Some(id), .. } => {
                            blobs.get(&id.0).map(|blob| (id.0, blob.clone())).into_iter().collect()
                        }
                        _ => BTreeMap::new(),
                    };
                    let talk = self.clone();
                    tasks.spawn(async move {
                        let said = talk.respond(re, request, blobs).await;
                        talk.answer(Some(re), said).await;
                    });
                }
            }
        }
        Ok(())
    }

    async fn say(&self, re: u64, said: &Said) {
        // Whoever asked may have gone.
        let _ = self.replies.send(reply(Some(re), said)).await;
    }

    async fn answer(&self, re: Option<u64>, said: Result<Said, Fault>) {
        let _ = self.replies.send(reply(re, &said.unwrap_or_else(Said::Error))).await;
    }

    fn listener(&self, re: u64) -> Listener {
        Listener { re, replies: self.replies.clone(), questions: self.questions.clone() }
    }

    async fn respond(&self, re: u64, request: Request, blobs: BTreeMap<Digest, Blob>) -> Result<Said, Fault> {
        match request {
            Request::Hello { .. } => Err(Fault::input("that was said already")),
            // Both are answered where they are read.
            Request::Blob { .. } | Request::Answer { .. } => Err(Fault::internal("this is answered elsewhere")),
            Request::Submit(submit) => self.submit(re, *submit, blobs),
            Request::Plan { run } => {
                let plans = self.get(Right::See, &run)?.met().await?;
                let shown = |plan: &Arc<_>| Shown { sha256: plan_sha256(plan), plan: Box::new((**plan).clone()) };
                Ok(Said::Plans { plans: plans.plans.iter().map(shown).collect(), order: plans.order.clone() })
            }
            Request::Decide { run, approve, plans } => {
                self.get(Right::Decide, &run)?.decide(approve, &plans, &self.author).await?;
                Ok(Said::Done {})
            }
            Request::Subscribe { run, after } => self.subscribe(re, &self.seen(&run)?, &after).await,
            Request::Wish { run, hosts, wish, finish, payload } => {
                let owned = self.get(Right::Decide, &run)?;
                let payload = match payload {
                    // It becomes what the host is.
                    Some(_) => {
                        self.get(Right::Deploy, &run)?;
                        payload
                    }
                    None => None,
                };
                let payload = match payload {
                    None => None,
                    Some(id) => Some(
                        blobs
                            .get(&id.0)
                            .cloned()
                            .ok_or_else(|| Fault::input(format!("the payload {} was not sent before", id.0)))?,
                    ),
                };
                let wish = match (wish, payload, finish) {
                    (api::Wished::Retry, payload, None) => Wish::Retry(payload),
                    (api::Wished::Abort, None, None) => Wish::Abort,
                    (api::Wished::Finish, None, Some(finish)) => Wish::Finish(finish.into()),
                    _ => return Err(Fault::input("only `finish` has a `finish`, and only `retry` a `payload`")),
                };
                Ok(Said::Answers { answers: owned.wish(&hosts, &wish, &self.author).await? })
            }
            Request::Stop { run } => {
                self.get(Right::Decide, &run)?.stop();
                Ok(Said::Done {})
            }
            Request::Logs { run, host } => self.logs(re, &self.seen(&run)?, &host),
            Request::List { run } => self.list(re, run.as_deref()).await,
            Request::Attend { run } => {
                self.listen_for(re, &self.get(Right::Deploy, &run)?.asks);
                Ok(Said::Done {})
            }
            Request::Wanting { run } => {
                let wanting = &self.get(Right::Deploy, &run)?.wanting;
                Ok(Said::Wanting { hosts: wanting.hosts(), reveals: wanting.reveals() })
            }
            Request::Give { run, secrets } => {
                let wanting = &self.get(Right::Deploy, &run)?.wanting;
                for (host, given) in secrets {
                    wanting.give(&host, given.into()).map_err(Fault::input)?;
                }
                Ok(Said::Done {})
            }
        }
    }

    fn get(&self, right: Right, run: &str) -> Result<Arc<super::runs::Owned>, Fault> {
        self.runs.get_for(&self.who, right, run)
    }

    fn seen(&self, run: &str) -> Result<RunDir, Fault> {
        self.runs.find_for(&self.who, Right::See, run)
    }

    fn listen_for(&self, re: u64, asks: &Attached) {
        asks.add(self.listener(re));
        // Who else may be there is not asked for what opens the owner's jump hosts.
        if self.who.is_owner() {
            self.runs.anybody.add(self.listener(re));
        }
    }

    fn submit(&self, re: u64, submit: Submit, blobs: BTreeMap<Digest, Blob>) -> Result<Said, Fault> {
        let Submit { mut hosts, secrets, hosts_file, limits, agent: socket, answers } = submit;
        let names: Vec<String> = hosts.iter().map(|described| described.host.name.clone()).collect();
        are_names(&names).map_err(Fault::input)?;
        self.who.may_submit(&hosts)?;
        self.who.names_no_place(&mut hosts);
        // The path is the client's, and leads to whatever the daemon's user can reach.
        let socket = socket.filter(|_| self.who.is_owner());
        if limits.parallel == 0 {
            return Err(Fault::input("`parallel` is 0: no host could ever go"));
        }
        if let Some(host) = secrets.keys().find(|host| !names.contains(host)) {
            return Err(Fault::input(format!("there are secrets of `{host}`, which is none of the hosts")));
        }
        let secrets: BTreeMap<String, Secrets> =
            secrets.into_iter().map(|(host, given): (String, Given)| (host, given.into())).collect();
        for described in &hosts {
            let name = &described.host.name;
            let given = secrets.get(name);
            let lacks = |secret: &&String| !given.is_some_and(|given| given.files.contains_key(*secret));
            if let Some(secret) = described.host.secrets.keys().find(lacks) {
                return Err(Fault::input(format!("host `{name}`: its secret `{secret}` is missing")));
            }
        }
        let description = Description { hosts, secrets, blobs, notes: Vec::new() };
        let terms = Terms { hosts_file, limits, only_plan: false, daemon: true, agent: agent(socket) };
        let asks = Arc::new(Attached::default());
        if answers {
            self.listen_for(re, &asks);
        }
        let author = (self.replies.clone(), self.author.clone());
        let owned = self.runs.begin(description, terms, asks, author)?;
        Ok(Said::Submitted { run: owned.dir.id.to_string(), hosts: names })
    }

    async fn subscribe(&self, re: u64, run: &RunDir, after: &BTreeMap<String, u64>) -> Result<Said, Fault> {
        let mut watch = Watch::new(run, None, after, |_| Keep::All)?;
        let mut looks = tokio::time::interval(LOOK_EVERY);
        loop {
            looks.tick().await;
            // Before the look: nobody writes after that, so it sees the last word.
            let is_followed = self.runs.has(&run.id) || run.follower().is_some();
            tokio::task::block_in_place(|| {
                watch.poll(&mut |_, report, _| {
                    // Whoever reads slowly is waited for here, and what is not read yet is in the journal.
                    let _ = self.replies.blocking_send(reply_line(re, &report_line(&report)));
                })
            })?;
            if watch.is_over() || !is_followed || self.replies.is_closed() {
                return Ok(Said::End {});
            }
        }
    }

    fn logs(&self, re: u64, run: &RunDir, host: &str) -> Result<Said, Fault> {
        let file = run.load().map_err(|error| Fault::internal(error.to_string()))?;
        if !file.hosts.iter().any(|entry| entry.name == host) {
            return Err(Fault::input(format!("run {} has no host `{host}`", run.id)));
        }
        let read = tokio::task::block_in_place(|| {
            Follower::new(&run.journal(host), Keep::All)?.poll(&mut |told, _| {
                if is_line(&told.update) {
                    let (number, wall_ms, update) = (Some(told.number), told.wall_ms, told.update);
                    let line = report_line(&Report { host: host.into(), number, wall_ms, update });
                    let _ = self.replies.blocking_send(reply_line(re, &line));
                }
            })
        });
        read.map(|()| Said::End {}).map_err(|error| Fault::internal(error.to_string()))
    }

    async fn list(&self, re: u64, run: Option<&str>) -> Result<Said, Fault> {
        let runs = if let Some(run) = run {
            vec![self.seen(run)?]
        } else {
            let all = self.runs.store.runs().map_err(|error| Fault::internal(error.to_string()))?;
            tokio::task::block_in_place(|| all.into_iter().filter(|run| self.who.sees(run)).collect())
        };
        for run in runs {
            let rows = tokio::task::block_in_place(|| match run.load() {
                Ok(file) => file.hosts.iter().map(|host| row(&run, &host.name)).collect(),
                Err(error) => vec![StatusRow::unreadable("", error.to_string())],
            });
            for row in rows {
                let _ = self.replies.send(reply_line(re, &status_json(run.id.as_str(), &row))).await;
            }
        }
        Ok(Said::End {})
    }
}

fn row(run: &RunDir, host: &str) -> StatusRow {
    match glance(&run.journal(host)) {
        Ok(journal) => StatusRow::of(host, &journal, now_ms()),
        Err(error) => StatusRow::unreadable(host, error.to_string()),
    }
}

/// Whether hosts can be called so: their names are names of files.
fn are_names(names: &[String]) -> Result<(), String> {
    if names.is_empty() || names.len() > HOSTS {
        return Err(format!("{} hosts are none, or too many", names.len()));
    }
    let mut seen = std::collections::BTreeSet::new();
    for name in names {
        let is_file = !name.is_empty() && name.len() <= 200 && !name.starts_with(['.', '-']);
        if !is_file || name.contains(|c: char| c == '/' || c.is_whitespace() || c.is_control()) {
            return Err("a host's name can't be the name of a file".into());
        }
        if !seen.insert(name) {
            return Err(format!("`{name}` is the name of two hosts"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_hosts_are_names_of_files() {
        let judged = |names: &[&str]| are_names(&names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>());
        judged(&["web1", "db.example.org"]).unwrap();
        for names in [&[][..], &[""], &["../x"], &[".x"], &["-x"], &["a b"], &["a", "a"], &["a\0"], &[&"x".repeat(201)]]
        {
            judged(names).unwrap_err();
        }
    }
}
