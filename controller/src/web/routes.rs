//! What is asked, and who answers it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_DISPOSITION, HeaderValue};
use hyper::{Method, Request, StatusCode};
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::block_in_place;
use tokio::time::timeout;

use super::answer::{Answer, Said, answer, fault, json_answer, refusal};
use super::assets::asset;
use super::events::{Wanted, tell};
use super::glances::{Glances, brief, full, hosts, state};
use super::guard::Guard;
use super::{clean, metrics};
use crate::api::{Fault, Finishing, Shown, Wished, plan_sha256};
use crate::engine::Wish;
use crate::journal::{Follower, Keep, RunDir};
use crate::report::{Update, is_line};
use crate::run::inbox::person;
use crate::screen::text::log_line;
use crate::serve::{Right, Runs, Who};

/// Most bytes of what is asked for.
const BODY: usize = 64 << 10;

/// It must be there after this time.
const BODY_WITHIN: Duration = Duration::from_secs(10);

/// Streams of events, and logs on their way, at once.
const STREAMS: usize = 32;

/// What has to be typed before disks are overwritten: the word that a terminal asks for.
const TYPED: &str = "yes";

/// Bytes of a log that are sent at once, about.
const PIECE: usize = 32 << 10;

/// All that answers need.
pub(super) struct Page {
    runs: Arc<Runs>,
    guard: Guard,
    glances: Glances,
    streams: Arc<Semaphore>,
}

/// Says that hosts are to be deployed, or not.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Decide {
    approve: bool,
    /// [`TYPED`], if they are.
    #[serde(default)]
    typed: String,
    /// As in the API: the SHA-256 of each plan that was looked at.
    #[serde(default)]
    plans: BTreeMap<String, String>,
}

/// Has a host do something.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wishes {
    host: String,
    wish: Wished,
    #[serde(default)]
    finish: Option<Finishing>,
}

impl Page {
    pub(super) fn new(runs: Arc<Runs>, guard: Guard) -> Self {
        Self { runs, guard, glances: Glances::default(), streams: Arc::new(Semaphore::new(STREAMS)) }
    }

    /// Answers a request.
    pub(super) async fn answer(&self, request: Request<Incoming>, from: IpAddr) -> Answer {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        if let Err((status, why)) = self.guard.is_meant(request.headers()) {
            return refusal(status, "input", why);
        }
        if !path.starts_with("/api/") && path != "/metrics" {
            return match (&method, asset(&path)) {
                (&Method::GET | &Method::HEAD, Some(asset)) => asset,
                (_, Some(_)) => refusal(StatusCode::METHOD_NOT_ALLOWED, "input", "this can only be got"),
                (_, None) => refusal(StatusCode::NOT_FOUND, "input", "there is nothing here"),
            };
        }
        let who = match self.guard.who(&self.runs.rights, &method, request.headers()) {
            Ok(who) => who,
            Err((status, why)) => return refusal(status, "input", why),
        };
        let pieces: Option<Vec<String>> = path
            .split('/')
            .skip(1)
            .map(|piece| percent_decode_str(piece).decode_utf8().ok().map(std::borrow::Cow::into_owned))
            .collect();
        let Some(pieces) = pieces else {
            return refusal(StatusCode::BAD_REQUEST, "input", "the path is no UTF-8");
        };
        let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
        let answered = match method {
            Method::GET => self.get(&pieces, &request, &who),
            Method::POST => self.post(&pieces, request, &who, from).await,
            _ => return refusal(StatusCode::METHOD_NOT_ALLOWED, "input", "this can be got, or posted to"),
        };
        match answered {
            Ok(Some(answer)) => answer,
            Ok(None) => refusal(StatusCode::NOT_FOUND, "input", "there is nothing here"),
            Err(why) => fault(&why),
        }
    }

    fn get(&self, path: &[&str], request: &Request<Incoming>, who: &Who) -> Result<Option<Answer>, Fault> {
        Ok(Some(match *path {
            // They are about all hosts.
            ["metrics"] if !who.is_owner() => {
                return Err(Fault::input("metrics are told to the daemon's own token only"));
            }
            ["metrics"] => {
                let all = block_in_place(|| {
                    let owned = self.runs.owned();
                    let seen = owned.iter().map(|owned| self.glances.run(owned.dir.clone()));
                    let going: Vec<_> = seen.map(|seen| (state(&self.runs, &seen.dir), seen)).collect();
                    let going: Vec<_> = going.into_iter().map(|(state, seen)| (seen, state)).collect();
                    metrics::render(&going, &self.runs.tally())
                });
                answer(StatusCode::OK, metrics::KIND, Said::Whole(Some(all.into())))
            }
            ["api", "runs"] => {
                let value = block_in_place(|| {
                    let (all, more) = self.glances.runs(&self.runs, who)?;
                    let all: Vec<_> = all.iter().map(|seen| brief(&self.runs, seen)).collect();
                    Ok::<_, String>(json!({ "runs": all, "more": more }))
                });
                json_answer(&value.map_err(Fault::internal)?)
            }
            ["api", "hosts"] => {
                let all = block_in_place(|| self.glances.runs(&self.runs, who));
                json_answer(&json!({ "hosts": hosts(&all.map_err(Fault::internal)?.0) }))
            }
            ["api", "runs", run] => {
                let dir = self.seen(who, run)?;
                json_answer(&block_in_place(|| full(&self.runs, &self.glances.run(dir))))
            }
            ["api", "runs", run, "plan"] => self.plans(who, run)?,
            ["api", "runs", run, "events"] => self.events(self.seen(who, run)?, None, request)?,
            ["api", "runs", run, "hosts", host, "events"] => self.events(self.seen(who, run)?, Some(host), request)?,
            ["api", "runs", run, "hosts", host, "log"] => self.log(self.seen(who, run)?, host)?,
            _ => return Ok(None),
        }))
    }

    async fn post(
        &self,
        path: &[&str],
        request: Request<Incoming>,
        who: &Who,
        from: IpAddr,
    ) -> Result<Option<Answer>, Fault> {
        // Nobody but the daemon's own user has the token without a name.
        let ours = || person(rustix::process::geteuid().as_raw(), None);
        let author = || format!("{}, by the page from {from}", who.name().map_or_else(ours, str::to_owned));
        Ok(Some(match *path {
            ["api", "runs", run, "decide"] => {
                let Decide { approve, typed, plans } = body(request).await?;
                if approve && typed.trim() != TYPED {
                    return Err(Fault::input(format!("nothing is overwritten before `{TYPED}` was typed")));
                }
                self.runs.get_for(who, Right::Decide, run)?.decide(approve, &plans, &author()).await?;
                json_answer(&json!({}))
            }
            ["api", "runs", run, "wish"] => {
                let Wishes { host, wish, finish } = body(request).await?;
                let wish = match (wish, finish) {
                    (Wished::Retry, None) => Wish::Retry(None),
                    (Wished::Abort, None) => Wish::Abort,
                    (Wished::Finish, Some(finish)) => Wish::Finish(finish.into()),
                    _ => return Err(Fault::input("`finish`, and nothing else, has a `finish`")),
                };
                let answers = self.runs.get_for(who, Right::Decide, run)?.wish(&[host], &wish, &author()).await?;
                json_answer(&clean::value(json!({ "answers": answers })))
            }
            _ => return Ok(None),
        }))
    }

    /// The run of that name, if they may see it.
    fn seen(&self, who: &Who, run: &str) -> Result<RunDir, Fault> {
        self.runs.find_for(who, Right::See, run)
    }

    /// The plans of a run that are to be decided about.
    fn plans(&self, who: &Who, run: &str) -> Result<Answer, Fault> {
        let owned = self.runs.get_for(who, Right::See, run)?;
        let plans = owned.plans().ok_or_else(|| Fault::state("the hosts are still being looked at"))?;
        let shown: Vec<_> = plans
            .plans
            .iter()
            .map(|plan| {
                let able = plan.refused().is_none();
                let shown = Shown { sha256: plan_sha256(plan), plan: Box::new((**plan).clone()) };
                json!({ "able": able, "sha256": shown.sha256, "plan": shown.plan })
            })
            .collect();
        Ok(json_answer(&clean::value(json!({ "plans": shown, "order": plans.order }))))
    }

    fn place(&self) -> Result<tokio::sync::OwnedSemaphorePermit, Fault> {
        let place = Arc::clone(&self.streams).try_acquire_owned();
        place.map_err(|_| Fault::state(format!("{STREAMS} pages look on already; close one of them")))
    }

    fn events(&self, run: RunDir, host: Option<&str>, request: &Request<Incoming>) -> Result<Answer, Fault> {
        let after = request.headers().get("last-event-id").map(|id| id.to_str().map(str::to_owned));
        let after = after.transpose().map_err(|_| Fault::input("Last-Event-ID is no text"))?;
        let wanted = Wanted { run, host: host.map(str::to_owned), after };
        let pieces = tell(Arc::clone(&self.runs), wanted, self.place()?)?;
        Ok(answer(StatusCode::OK, "text/event-stream", Said::Pieces(pieces)))
    }

    /// All lines that a host has printed.
    fn log(&self, run: RunDir, host: &str) -> Result<Answer, Fault> {
        let file = run.load().map_err(|error| Fault::internal(error.to_string()))?;
        if !file.hosts.iter().any(|entry| entry.name == host) {
            return Err(Fault::input(format!("run {} has no host `{host}`", run.id)));
        }
        let place = self.place()?;
        let (sender, pieces) = mpsc::channel(2);
        let host = host.to_owned();
        tokio::task::spawn_blocking(move || {
            write_log(&run, &host, &sender);
            drop(place);
        });
        let mut answer = answer(StatusCode::OK, "text/plain; charset=utf-8", Said::Pieces(pieces));
        answer.headers_mut().insert(CONTENT_DISPOSITION, HeaderValue::from_static("attachment"));
        Ok(answer)
    }
}

/// Sends the lines that a host has printed, for as long as somebody takes them.
fn write_log(run: &RunDir, host: &str, sender: &mpsc::Sender<Bytes>) {
    let mut piece = String::new();
    let send = |piece: &mut String, least: usize| {
        if piece.len() > least {
            // Whoever took it has gone.
            let _ = sender.blocking_send(std::mem::take(piece).into());
        }
    };
    let read = Follower::new(&run.journal(host), Keep::All).and_then(|mut journal| {
        journal.poll(&mut |told, _| {
            if is_line(&told.update)
                && let Update::Event(_, event) = &told.update
                && let anemos_proto::event::EventKind::Log { stream, line } = &event.kind
                && !sender.is_closed()
            {
                piece += &log_line(*stream, line);
                piece.push('\n');
                send(&mut piece, PIECE);
            }
        })
    });
    if let Err(error) = read {
        piece.extend(["anemos: the rest can't be read: ", &clean::text(&error.to_string()), "\n"]);
    }
    send(&mut piece, 0);
}

/// What was sent with a request.
async fn body<T: DeserializeOwned>(request: Request<Incoming>) -> Result<T, Fault> {
    let read = timeout(BODY_WITHIN, Limited::new(request.into_body(), BODY).collect()).await;
    let late = |_| Fault::input(format!("what is to be done did not come within {}s", BODY_WITHIN.as_secs()));
    let bytes = read.map_err(late)?.map_err(|error| Fault::input(format!("it can't be read: {error}")))?.to_bytes();
    serde_json::from_slice(&bytes).map_err(|error| Fault::input(format!("this can't be understood: {error}")))
}
