//! From a description of what is wanted to jobs.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use anemos_proto::ids::{BlobRef, Digest, RunId};
use anemos_proto::stage::Proxy;

use super::describe::{Described, Secrets};
use super::error::RunError;
use super::wanted::Wanted;
use crate::config::Host;
use crate::engine::{Artifacts, Blob, Job, Passwords};
use crate::journal::HostEntry;
use crate::payload::Ram;
use crate::ssh::{self, Address, Credentials, HostKey, Passphrases, RunKey, UserCredentials};
use crate::ssh_config::{Agent, Effective};

/// A new name for a run.
pub(super) fn new_run_id() -> Result<RunId, RunError> {
    let stamp = anemos_base::Time::now().snapshot_id();
    let random = ssh::new_seed().map_err(RunError::internal)?;
    let [a, b, ..] = random.expose() else { return Err(RunError::internal("no random numbers")) };
    let text = format!("{}-{}-{a:02x}{b:02x}", &stamp[..8], &stamp[9..15]);
    text.parse().map_err(RunError::internal)
}

/// What all jobs of a run have in common.
#[derive(Clone)]
pub(super) struct Common {
    pub run: RunId,
    pub run_key: RunKey,
    pub artifacts: Arc<Artifacts>,
    pub asks: Arc<dyn Passphrases>,
    pub passwords: Arc<Passwords>,
    /// See [`credentials`].
    pub agent: Option<std::path::PathBuf>,
}

impl Common {
    /// The job for a host.
    pub fn job(
        &self,
        described: &Described,
        secrets: Secrets,
        blobs: &BTreeMap<Digest, Blob>,
    ) -> Result<Job, RunError> {
        let Described { ssh, trust, authorized_keys, payload, keeps, is_imgbuild, needs, base, .. } = described;
        let mut host = described.host.clone();
        let lacking =
            |id: BlobRef| RunError::bad_input(format!("host `{}`: the blob {} is missing", host.name, id.digest));
        let blob = |id: BlobRef| blobs.get(&id.digest).filter(|blob| blob.id == id).cloned().ok_or_else(|| lacking(id));
        let base = base.clone().with(blob)?;
        let payload = blob(*payload)?;
        if let Some(url) = &secrets.proxy {
            host.proxy = Proxy::At(String::from_utf8_lossy(url.expose()).into_owned());
        }
        let agent_seed = self.run_key.derived(&host.name).map_err(RunError::internal)?;
        let agent_key = RunKey::from_seed(&agent_seed).map_err(RunError::internal)?.public();
        let wanted = Some(Wanted::of(described).digest().to_string());
        let ram = Some(Ram {
            groups: base.groups.clone(),
            chosen: needs.with(host.needs.as_ref()).is_some(),
            of_host: host.needs.clone(),
            imgbuild: *is_imgbuild,
        });
        let entry = HostEntry { ram, wanted, ..entry(&host, ssh, agent_key) };
        Ok(Job {
            run: self.run.clone(),
            trust: trust.clone(),
            user: credentials(&entry, &self.asks, self.agent.as_deref()),
            passwords: Arc::clone(&self.passwords),
            entry,
            run_key: self.run_key.clone(),
            agent_seed,
            authorized_keys: authorized_keys.clone(),
            payload,
            keeps: keeps.clone(),
            is_unsigned: described.is_unsigned,
            secrets: secrets.files.into_iter().collect(),
            agent: if *is_imgbuild { &self.artifacts.agent_imgbuild } else { &self.artifacts.agent }.clone(),
            artifacts: Arc::clone(&self.artifacts),
            base,
            fallback_mirror: described.fallback_mirror.clone(),
            fallback_snapshot: described.fallback_snapshot.clone(),
            host,
        })
    }
}

fn entry(host: &Host, ssh: &Effective, agent_key: HostKey) -> HostEntry {
    let clocks = &host.deadlines;
    HostEntry {
        name: host.name.clone(),
        labels: host.labels.clone(),
        address: Address { host: ssh.host_name.clone(), port: ssh.port, way: ssh.way.clone() },
        new_address: host.new_address.clone().map(|host| Address { host, port: ssh.port, way: ssh.way.clone() }),
        algorithms: ssh.algorithms.clone(),
        user: ssh.user.clone(),
        new_user: host.new_user.clone(),
        becomes: host.becomes,
        agent: ssh.agent.clone(),
        identities_only: ssh.identities_only,
        identity_files: ssh.identity_files.clone(),
        identities_given: ssh.identities_given,
        certificate_files: ssh.certificate_files.clone(),
        agent_key,
        check: host.check.clone(),
        verify_key: host.verify_key,
        finish: host.finish,
        boot_s: clocks.boot.as_secs(),
        build_s: clocks.build.as_secs(),
        reboot_s: clocks.reboot.as_secs(),
        verify_s: clocks.verify.as_secs(),
        ack_s: clocks.ack.as_secs(),
        dead_man_s: clocks.dead_man.as_secs(),
        ram: None,
        wanted: None,
    }
}

/// The user's keys, as the journal has them. `agent` is the user's agent where ssh_config names none; without it, the
/// one that this process has.
pub(super) fn credentials(entry: &HostEntry, asks: &Arc<dyn Passphrases>, agent: Option<&Path>) -> Credentials {
    let given = agent.filter(|_| entry.agent == Agent::Environment);
    Credentials::User(Arc::new(UserCredentials {
        agent: given.map(Path::to_owned).or_else(|| entry.agent.socket()),
        identities_only: entry.identities_only,
        identity_files: entry.identity_files.clone(),
        named_first: entry.identities_given,
        certificate_files: entry.certificate_files.clone(),
        algorithms: entry.algorithms.clone(),
        asks: Arc::clone(asks),
    }))
}
