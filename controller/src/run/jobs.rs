//! From hosts.toml to jobs: everything that can be found out without meeting a host.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anemos_proto::Secret;
use anemos_proto::ids::{Digest, RunId};
use anemos_proto::stage::BaseSource;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::base::{self, Doing, Showing};
use super::error::RunError;
use crate::config::{self, Host};
use crate::embed;
use crate::engine::{Artifacts, BasePlan, Blob, Job, Passwords, Trust};
use crate::journal::HostEntry;
use crate::payload::{self, Keep, Needs};
use crate::ssh::{self, Address, Credentials, Passphrases, RunKey, UserCredentials};
use crate::ssh_config::{self, Effective, Overrides};

/// What was prepared, and what the user should know of it.
pub(super) struct Jobs {
    pub jobs: Vec<Job>,
    pub notes: Vec<String>,
}

/// A new name for a run.
pub(super) fn new_run_id() -> Result<RunId, RunError> {
    let stamp = anemos_base::Time::now().snapshot_id();
    let random = ssh::new_seed().map_err(RunError::internal)?;
    let [a, b, ..] = random.expose() else { return Err(RunError::internal("no random numbers")) };
    let text = format!("{}-{}-{a:02x}{b:02x}", &stamp[..8], &stamp[9..15]);
    text.parse().map_err(RunError::internal)
}

/// A lock's file, if not the one in here, where the images of it come from, and the groups that are needed of it.
type WantedBase = (Option<PathBuf>, config::BaseSource, Option<Vec<String>>);

/// Prepares a job for each host. `lock` is a base.lock for hosts that name none; `packs`: with their payloads.
pub(super) async fn prepare(
    hosts: Vec<Host>,
    run: &RunId,
    run_key: &RunKey,
    artifacts: &Arc<Artifacts>,
    (lock, packs): (Option<&Path>, bool),
    (asks, show): (&Arc<dyn Passphrases>, &Showing),
) -> Result<Jobs, RunError> {
    let mut notes = Vec::new();
    let mut payloads: HashMap<PathBuf, (Blob, Vec<Keep>, Needs)> = HashMap::new();
    let mut bases: Vec<(WantedBase, (BasePlan, Option<String>))> = Vec::new();
    let mut jobs: Vec<Job> = Vec::new();
    let answers = told(ask_ssh(&hosts), || show(Doing::Asking(hosts.len()))).await?;
    let may_want = hosts.iter().filter(|host| host.becomes.is_some());
    let passwords = Passwords::new(asks, may_want.map(|host| host.name.clone()));
    let mut of_apt = anemos_base::mirrors_from_apt_sources(Path::new("/etc/apt")).into_iter();
    // A directory of this machine's is none of the host's.
    let fallback_mirror = of_apt.find(|mirror| !mirror.starts_with("file:"));
    let fallback_snapshot = tokio::task::spawn_blocking(base::known_snapshot).await.map_err(RunError::internal)?;
    for (host, ssh) in hosts.into_iter().zip(answers) {
        let named = |what: String| RunError::bad_input(format!("host `{}`: {what}", host.name));
        for note in &ssh.notes {
            if !notes.contains(note) {
                notes.push(note.clone());
            }
        }
        let (payload, keeps, needs) = if !packs {
            (Blob::new(Vec::new()), Vec::new(), Needs::default())
        } else if let Some(known) = payloads.get(&host.payload) {
            known.clone()
        } else {
            let directory = host.payload.clone();
            let packing = tokio::task::spawn_blocking(move || payload::pack(&directory));
            let packed = told(packing, || show(Doing::Packing(&host.payload))).await.map_err(RunError::internal)?;
            let packed = packed.map_err(|e| named(e.to_string()))?;
            notes.extend(packed.warnings);
            let new = (Blob::new(packed.bytes), packed.keeps, packed.needs);
            payloads.insert(host.payload.clone(), new.clone());
            new
        };
        let lock_file = host.base.lock.clone().or_else(|| lock.map(Path::to_owned));
        let wanted = (lock_file, host.base.source.clone(), needs.with(host.needs.as_ref()));
        let (base, snapshot_of_lock) = if let Some((_, plan)) = bases.iter().find(|(key, _)| *key == wanted) {
            plan.clone()
        } else {
            let plan = base_plan(&wanted, &host, show).await?;
            bases.push((wanted, plan.clone()));
            plan
        };
        let mut authorized_keys = Vec::new();
        for key in &host.authorized_keys {
            authorized_keys.extend(key.read().map_err(|e| named(e.to_string()))?);
        }
        let mut secrets = Vec::new();
        for (name, path) in &host.secrets {
            let bytes = std::fs::read(path).map_err(|e| named(format!("secret `{name}`: {}: {e}", path.display())))?;
            secrets.push((name.clone(), Secret::new(bytes)));
        }
        let agent_seed = ssh::new_seed().map_err(RunError::internal)?;
        let agent_key = RunKey::from_seed(&agent_seed).map_err(RunError::internal)?.public();
        let entry = entry(&host, &ssh, agent_key);
        let trust = Trust::load(&ssh, host.accept_new);
        for file in &trust.unread {
            let note = format!("{file}; so no new host key is accepted");
            if !notes.contains(&note) {
                notes.push(note);
            }
        }
        jobs.push(Job {
            run: run.clone(),
            trust,
            user: credentials(&entry, asks),
            passwords: Arc::clone(&passwords),
            entry,
            run_key: run_key.clone(),
            agent_seed,
            authorized_keys,
            payload,
            keeps,
            secrets,
            artifacts: Arc::clone(artifacts),
            base,
            fallback_mirror: fallback_mirror.clone(),
            fallback_snapshot: snapshot_of_lock.or_else(|| fallback_snapshot.clone()),
            host,
        });
    }
    Ok(Jobs { jobs, notes })
}

/// What takes longer than this is told of.
const LONG: Duration = Duration::from_secs(1);

/// Waits for something, and tells of it if that takes long.
async fn told<T>(work: impl Future<Output = T>, tell: impl FnOnce()) -> T {
    let mut work = std::pin::pin!(work);
    if let Ok(done) = timeout(LONG, &mut work).await {
        return done;
    }
    tell();
    work.await
}

/// So many `ssh -G` at once.
const ASKING: usize = 16;

/// Asks ssh how to reach each host, in their order.
async fn ask_ssh(hosts: &[Host]) -> Result<Vec<Effective>, RunError> {
    let places = Arc::new(Semaphore::new(ASKING));
    let mut asking = JoinSet::new();
    for (number, host) in hosts.iter().enumerate() {
        let (name, alias, overrides) = (host.name.clone(), host.address.clone(), Overrides::from(host));
        let places = Arc::clone(&places);
        asking.spawn(async move {
            // The semaphore is never closed.
            let _place = places.acquire().await;
            let answer = ssh_config::effective(&alias, &overrides).await.and_then(|answer| match &answer.unsupported {
                Some(why) => Err(why.clone()),
                None => Ok(answer),
            });
            (number, answer.map_err(|why| format!("host `{name}`: {why}")))
        });
    }
    let mut answers = asking.join_all().await;
    answers.sort_by_key(|(number, _)| *number);
    // The first error in the order of hosts.toml, so that the same mistake is always the same message.
    let answers: Vec<Effective> =
        answers.into_iter().map(|(_, answer)| answer).collect::<Result<_, _>>().map_err(RunError::bad_input)?;
    match same_place(hosts.iter().map(|host| host.name.as_str()).zip(&answers)) {
        Some(why) => Err(RunError::bad_input(why)),
        None => Ok(answers),
    }
}

/// Why two hosts are the same machine, if ssh would reach both at one place by one way: networks behind different jump
/// hosts may well use the same addresses.
fn same_place<'a>(hosts: impl Iterator<Item = (&'a str, &'a Effective)>) -> Option<String> {
    let mut reached = HashMap::new();
    for (name, ssh) in hosts {
        if let Some(other) = reached.insert((ssh.host_name.to_lowercase(), ssh.port, &ssh.way), name) {
            let place = Address { host: ssh.host_name.clone(), port: ssh.port, way: ssh.way.clone() };
            return Some(format!("hosts `{other}` and `{name}` are the same machine: ssh reaches both at {place}"));
        }
    }
    None
}

fn entry(host: &Host, ssh: &Effective, agent_key: ssh::HostKey) -> HostEntry {
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
        identity_files: absolute(&ssh.identity_files),
        identities_given: ssh.identities_given,
        certificate_files: absolute(&ssh.certificate_files),
        agent_key,
        check: host.check.clone(),
        finish: host.finish,
        boot_s: clocks.boot.as_secs(),
        build_s: clocks.build.as_secs(),
        reboot_s: clocks.reboot.as_secs(),
        verify_s: clocks.verify.as_secs(),
        ack_s: clocks.ack.as_secs(),
        dead_man_s: clocks.dead_man.as_secs(),
    }
}

/// `attach` may be called from another directory.
fn absolute(files: &[PathBuf]) -> Vec<PathBuf> {
    files.iter().map(|path| std::path::absolute(path).unwrap_or_else(|_| path.clone())).collect()
}

/// The user's keys, as the journal has them, and the agent as this process has it.
pub(super) fn credentials(entry: &HostEntry, asks: &Arc<dyn Passphrases>) -> Credentials {
    Credentials::User(Arc::new(UserCredentials {
        agent: entry.agent.socket(),
        identities_only: entry.identities_only,
        identity_files: entry.identity_files.clone(),
        named_first: entry.identities_given,
        certificate_files: entry.certificate_files.clone(),
        algorithms: entry.algorithms.clone(),
        asks: Arc::clone(asks),
    }))
}

/// The plan for a host's base, and the archive of past versions that its lock names.
async fn base_plan(
    (file, source, needs): &WantedBase,
    host: &Host,
    show: &Showing,
) -> Result<(BasePlan, Option<String>), RunError> {
    let lock = embed::lock(file.as_deref()).map_err(RunError::bad_input)?;
    let lock = lock
        .narrowed(needs.as_deref())
        .map_err(|error| RunError::bad_input(format!("host `{}`: what its payload needs: {error}", host.name)))?;
    let compressed = zstd::bulk::compress(lock.to_text().as_bytes(), 19).map_err(RunError::internal)?;
    let mut sources = vec![BaseSource::Cache];
    let mut upload = None;
    match source {
        config::BaseSource::Build => sources.push(BaseSource::Build),
        config::BaseSource::Urls(urls) => sources.push(BaseSource::Urls(urls.clone())),
        config::BaseSource::Upload => {
            upload = Some(base::images(&lock, (host.mirror.as_deref(), host.snapshot.as_deref()), show).await?);
        }
        config::BaseSource::Auto => {
            sources.push(BaseSource::Build);
            // For hosts without a way out; only if it is at hand, because building it takes minutes.
            upload = base::cached_images(&lock)?;
        }
    }
    if let Some(blob) = &upload {
        sources.push(BaseSource::Upload(blob.id));
    }
    let kernel = lock.kernel.as_ref().map(|kernel| kernel.release.clone());
    let plan = BasePlan {
        lock: Blob::new(compressed),
        digest: Digest(*lock.digest().as_bytes()),
        groups: lock.groups.iter().map(|group| group.name.clone()).collect(),
        images: lock.groups.iter().map(|group| Digest(*group.image.as_bytes())).collect(),
        image_size: lock.image_size(),
        kernel,
        sources,
        upload,
    };
    Ok((plan, lock.snapshot))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ssh_config::{Local, resolve};

    #[tokio::test]
    async fn what_takes_long_is_told_of() {
        told(std::future::ready(()), || panic!("it did not take long")).await;
        let (tell, is_told) = tokio::sync::oneshot::channel();
        told(is_told, || tell.send(()).unwrap()).await.unwrap();
    }

    #[test]
    fn one_machine_under_two_names_is_found() {
        let at = |alias: &str, answer: &str| resolve(alias, answer, None, &Overrides::default(), &Local::default());
        let hosts = [
            ("a", at("a", "hostname web.example.org\nport 22\n")),
            ("b", at("b", "hostname web.example.org\nport 2222\n")),
            ("c", at("WEB.example.org", "")),
            ("d", at("d", "hostname web.example.org\nproxyjump one\n")),
            ("e", at("e", "hostname web.example.org\nproxyjump two\n")),
            ("f", at("f", "hostname web.example.org\nproxyjump two\n")),
        ];
        let same = |hosts: &[(&'static str, Effective)]| same_place(hosts.iter().map(|(name, ssh)| (*name, ssh)));
        assert_eq!(same(&hosts[..2]), None, "other ports may lead to other machines");
        assert_eq!(same(&hosts[2..5]), None, "other ways may lead to other machines");
        assert_eq!(
            same(&hosts[4..]).as_deref(),
            Some("hosts `e` and `f` are the same machine: ssh reaches both at web.example.org port 22 through two")
        );
        assert_eq!(
            same(&hosts).as_deref(),
            Some("hosts `a` and `c` are the same machine: ssh reaches both at WEB.example.org port 22")
        );
    }
}
