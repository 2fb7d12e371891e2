//! What a person wants of a host in RAM. It may be asked at any time while the host is followed.

use std::collections::VecDeque;
use std::fmt;

use anemos_proto::config::Finish;
use tokio::sync::{mpsc, oneshot, watch as signal};

use super::Blob;
use super::reporter::Reporter;
use super::stop::Stop;
use crate::report::{Update, What};

/// What a person wants of the agent.
#[derive(Clone, PartialEq, Eq)]
pub enum Wish {
    /// Run the payload again; `Some`: another payload, packed as a zstd-compressed tar archive.
    Retry(Option<Blob>),
    /// End the payload.
    Abort,
    /// Leave RAM.
    Finish(Finish),
}

/// A payload is named and not printed.
impl fmt::Debug for Wish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Retry(payload) => f.debug_tuple("Retry").field(&payload.as_ref().map(|blob| blob.id)).finish(),
            Self::Abort => f.write_str("Abort"),
            Self::Finish(finish) => f.debug_tuple("Finish").field(finish).finish(),
        }
    }
}

impl Wish {
    /// The same without the bytes, for journal and screens.
    pub fn what(&self) -> What {
        match self {
            Self::Retry(payload) => What::Retry { payload: payload.as_ref().map(|blob| blob.id.digest) },
            Self::Abort => What::Abort,
            Self::Finish(finish) => What::Finish(*finish),
        }
    }
}

/// A wish, and who gets its answer.
///
/// The answer is `Ok` when the agent has accepted the wish, and `Err` with the reason when the agent has refused it,
/// when the host has left RAM, or when the following has ended. A wish that the agent was asked, and that came about
/// before the agent answered, counts as accepted. While the agent can't be reached the wish waits; the asker decides
/// how long it waits for the answer. The answer never comes where the user detaches before there is one.
#[derive(Debug)]
pub struct Asked {
    /// What is wanted.
    pub wish: Wish,
    /// Who wants it.
    pub asker: Asker,
}

/// Where an answer goes.
#[derive(Debug)]
pub struct Asker {
    /// The wish's number in the host's journal, if that has it.
    pub number: Option<u64>,
    /// Takes the answer: `Err` is why not.
    pub answer: oneshot::Sender<Result<(), String>>,
}

impl Asker {
    /// Tells everybody, and then whoever asked.
    pub fn answered(self, reporter: &Reporter, answer: Result<(), String>) {
        if let Some(wish) = self.number {
            reporter.tell(Update::Answered { wish, refused: answer.clone().err() });
        }
        // Whoever asked may have gone.
        let _ = self.answer.send(answer);
    }
}

/// The wishes for one host, in the order in which they came.
#[derive(Debug)]
pub struct Wishes {
    waiting: VecDeque<Asked>,
    incoming: mpsc::UnboundedReceiver<Asked>,
}

impl Wishes {
    /// Takes them from here.
    pub fn new(incoming: mpsc::UnboundedReceiver<Asked>) -> Self {
        Self { waiting: VecDeque::new(), incoming }
    }

    /// The next one; never, if nobody can make one any more. Nothing is lost if it is not waited for to the end.
    pub async fn next(&mut self) -> Asked {
        match self.waiting.pop_front() {
            Some(asked) => asked,
            None => match self.incoming.recv().await {
                Some(asked) => asked,
                None => std::future::pending().await,
            },
        }
    }

    /// Answers all that have come, and takes no more.
    pub fn close(mut self, reporter: &Reporter, why: &str) {
        self.incoming.close();
        while let Some(asked) = self.waiting.pop_front().or_else(|| self.incoming.try_recv().ok()) {
            asked.asker.answered(reporter, Err(why.into()));
        }
    }

    /// Waits for a host to be booted, or not. To abort it until then is to stop it; it halts then, as it does when the
    /// user leaves. Nothing else can be wished of it.
    pub(super) async fn until_booted<B, E>(
        &mut self,
        mut boot: impl Future<Output = Result<B, E>> + Unpin,
        halt: &signal::Sender<bool>,
        mut stop: signal::Receiver<Stop>,
        reporter: &Reporter,
    ) -> Result<B, E> {
        let mut aborts = Vec::new();
        loop {
            tokio::select! {
                biased;
                booted = &mut boot => {
                    match &booted {
                        // It was too late to stop it, but the payload can be ended.
                        Ok(_) => self.waiting.extend(aborts),
                        Err(_) => aborts.into_iter().for_each(|asked| asked.asker.answered(reporter, Ok(()))),
                    }
                    return booted;
                }
                _ = stop.wait_for(|stop| stop.asked()), if !*halt.borrow() => {
                    halt.send_replace(true);
                }
                asked = self.next() => match asked.wish {
                    Wish::Abort => {
                        aborts.push(asked);
                        halt.send_replace(true);
                    }
                    Wish::Retry(_) | Wish::Finish(_) => {
                        asked.asker.answered(reporter, Err("the host is not in RAM yet".into()));
                    }
                },
            }
        }
    }
}
