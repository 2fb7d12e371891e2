//! One deployment, from the first connection to the verified new system.
//!
//! [`drive`] runs it for one host. What may happen before the boot is a straight line, each step of which ends well or
//! leaves the host untouched; what may happen after it is decided in [`machine`] and done in
//! [`after`].

mod after;
mod agent;
mod before;
mod check;
mod error;
mod fleet;
mod known;
mod limits;
pub mod look;
mod machine;
mod packing;
mod password;
mod reporter;
mod root;
mod said;
mod script;
pub mod stage;
mod stop;
mod terminal;
mod trust;
mod unbooted;
mod verdict;
mod wish;
mod withdraw;

#[cfg(test)]
mod root_tests;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use anemos_proto::Secret;
use anemos_proto::config::Finish;
use anemos_proto::ids::{BlobRef, Digest, RunId};
use anemos_proto::stage::BaseSource;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch as signal};

pub use after::{End, Follow, follow_again};
pub use fleet::{Fleet, How, Limits, Seat, Stood};
pub use packing::{PACKINGS, StageBinary};
pub use password::Passwords;
pub use reporter::{Reporter, now_ms};
pub use stop::Stop;
pub use trust::Trust;
pub use unbooted::unbooted;
pub use wish::{Asked, Asker, Wish, Wishes};

use crate::config;
use crate::journal::HostEntry;
use crate::payload::Keep;
use crate::plan::{Approval, Plan};
use crate::report::Ending;
use crate::ssh::{Credentials, RunKey};

/// Bytes that are named by their SHA-256.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    /// The name.
    pub id: BlobRef,
    /// The bytes.
    pub bytes: Arc<[u8]>,
}

impl Blob {
    /// Names the bytes.
    pub fn new(bytes: impl Into<Arc<[u8]>>) -> Self {
        let bytes = bytes.into();
        Self { id: BlobRef { digest: sha256(&bytes), size: bytes.len() as u64 }, bytes }
    }
}

/// SHA-256.
pub fn sha256(bytes: &[u8]) -> Digest {
    let mut digest = [0; 32];
    digest.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, bytes).as_ref());
    Digest(digest)
}

/// What is the same for all hosts of one architecture.
#[derive(Debug, Clone)]
pub struct Artifacts {
    /// The stage.
    pub stage: StageBinary,
    /// The agent for payloads that are a script, as a patch to the stage.
    pub agent: Blob,
    /// The one for payloads that are an IMGBUILD, which has makeimg in it.
    pub agent_imgbuild: Blob,
    /// Our build id.
    pub build: String,
}

/// The base that a host gets. `B` is [`Blob`], or a [`BlobRef`] where its bytes are elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BasePlan<B = Blob> {
    /// base.lock with the groups that the payload needs, zstd.
    pub lock: B,
    /// What they are: [`anemos_base::Lock::digest`].
    pub digest: Digest,
    /// The groups' names.
    pub groups: Vec<String>,
    /// SHA-256 of each group's image, uncompressed.
    pub images: Vec<Digest>,
    /// Bytes of all images, uncompressed.
    pub image_size: u64,
    /// Release of the kernel that the lock names, if it names one.
    pub kernel: Option<String>,
    /// Where it may come from, in this order.
    pub sources: Vec<BaseSource>,
    /// The images one after another, each as zstd, if they are among `sources`.
    pub upload: Option<B>,
}

impl BasePlan<BlobRef> {
    /// The same with its bytes, or the error of `bytes` about those that it can't find.
    pub fn with<E>(self, bytes: impl Fn(BlobRef) -> Result<Blob, E>) -> Result<BasePlan, E> {
        let Self { lock, digest, groups, images, image_size, kernel, sources, upload } = self;
        let (lock, upload) = (bytes(lock)?, upload.map(bytes).transpose()?);
        Ok(BasePlan { lock, digest, groups, images, image_size, kernel, sources, upload })
    }
}

/// Everything about one deployment that is known before the host is met.
#[derive(Debug, Clone)]
pub struct Job {
    /// The run.
    pub run: RunId,
    /// What hosts.toml says.
    pub host: config::Host,
    /// How to reach it, as the journal has it.
    pub entry: HostEntry,
    /// Whose host keys are trusted.
    pub trust: Trust,
    /// The user's keys.
    pub user: Credentials,
    /// The passwords with which users become root, of all hosts.
    pub passwords: Arc<Passwords>,
    /// The run's key.
    pub run_key: RunKey,
    /// Seed of the agent's host key.
    pub agent_seed: Secret,
    /// Who else may log into the RAM system and the new one.
    pub authorized_keys: Vec<String>,
    /// The payload.
    pub payload: Blob,
    /// What it leaves as it is.
    pub keeps: Vec<Keep>,
    /// Whether what it makes is known not to start where Secure Boot is enforced.
    pub is_unsigned: bool,
    /// For `$ANEMOS_SECRETS`.
    pub secrets: Vec<(String, Secret)>,
    /// Stage and agents.
    pub artifacts: Arc<Artifacts>,
    /// The agent that the payload needs.
    pub agent: Blob,
    /// The base.
    pub base: BasePlan,
    /// The workstation's own package archive.
    pub fallback_mirror: Option<String>,
    /// The archive of past versions that the workstation knows.
    pub fallback_snapshot: Option<String>,
}

/// What the user decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Nothing yet.
    Pending,
    /// Do it. What is done is what was approved, and only if that is this host's plan.
    Go(Approval),
    /// Don't, because …
    Refuse(String),
    /// Don't: only the plan was asked for.
    OnlyPlan,
}

/// Where a deployment waits for the user.
#[derive(Debug)]
pub struct Gate {
    /// Takes the plan. Dropped without one if the host can't be deployed.
    pub plan: oneshot::Sender<Arc<Plan>>,
    /// The decision.
    pub decision: signal::Receiver<Decision>,
    /// The host's place among the others, which says when it may go on.
    pub seat: Seat,
    /// Probes at once.
    pub probes: Arc<tokio::sync::Semaphore>,
}

/// Deploys one host, and hears what is wished of it meanwhile. `None`: only the plan was asked for.
pub async fn drive(
    job: &Job,
    reporter: &Reporter,
    gate: Gate,
    wishes: mpsc::UnboundedReceiver<Asked>,
    stop: signal::Receiver<Stop>,
) -> Option<End> {
    let Gate { plan, decision, mut seat, probes } = gate;
    let over = |reason: String| End::Over(Box::new(reporter.end(Ending::Untouched, reason)));
    let (halt, halted) = signal::channel(false);
    let boot = Box::pin(before::boot(job, reporter, (plan, decision), &mut seat, &probes, halted));
    let mut wishes = Wishes::new(wishes);
    let booted = wishes.until_booted(boot, &halt, stop.clone(), reporter).await;
    let end = match booted {
        Ok(booted) => {
            let follow = Follow {
                run: job.run.clone(),
                entry: &job.entry,
                old: booted.old,
                run_key: job.run_key.clone(),
                user: job.user.clone(),
                passwords: Arc::clone(&job.passwords),
                reporter,
                wishes,
                stop,
                build: &job.artifacts.build,
            };
            after::follow_boot(follow, booted.last_word).await
        }
        Err(not_booted) => {
            wishes.close(reporter, "it was not booted into RAM");
            match not_booted {
                before::NotBooted::OnlyPlan => return None,
                before::NotBooted::Decided(reason) => over(reason),
                before::NotBooted::Trouble(trouble) => over(trouble.reason()),
            }
        }
    };
    seat.ended(became(&end, job.host.finish, reporter.succeeded()));
    Some(end)
}

/// What a host's end says about the payload that the others are to get.
pub fn became(end: &End, finish: Finish, succeeded: bool) -> How {
    let as_told = succeeded && matches!(finish, Finish::Hold | Finish::PowerOff);
    match end {
        End::Over(summary) => match summary.outcome {
            Ending::Deployed => How::Proved,
            Ending::Held if as_told => How::Proved,
            // What follows tells what to do about that host.
            outcome => How::Failed(format!(
                "ended {outcome}: {}",
                summary.reason.split([';', '\n']).next().unwrap_or_default()
            )),
        },
        End::Detached => How::Left,
    }
}
