//! From hosts.toml to a description of what is wanted: everything that only the files and the configuration of whoever
//! wants it tell. A description is data: another process can be given it, and need not be able to read those files.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anemos_proto::Secret;
use anemos_proto::ids::{BlobRef, Digest};
use anemos_proto::stage::{BaseSource, Proxy};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::base::{self, Doing, Showing};
use super::error::RunError;
use crate::config::{self, Host, REVEALED};
use crate::embed;
use crate::engine::{BasePlan, Blob, Trust};
use crate::payload::{self, Files, Keep, Needs};
use crate::ssh::Address;
use crate::ssh_config::{self, Effective, Overrides};

/// What is wanted of hosts.
#[derive(Debug, Clone, Default)]
pub struct Description {
    /// The hosts, in the order of hosts.toml.
    pub hosts: Vec<Described>,
    /// What must be written nowhere, by host; none for a host that has nothing of the kind.
    pub secrets: BTreeMap<String, Secrets>,
    /// What the hosts name by its digest.
    pub blobs: BTreeMap<Digest, Blob>,
    /// What the user should know.
    pub notes: Vec<String>,
}

/// One host, without anything secret.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Described {
    /// What hosts.toml says. It names no proxy that a password is needed for: see [`Secrets::proxy`].
    pub host: Host,
    /// How to reach it.
    pub ssh: Effective,
    /// Whose host keys are trusted.
    pub trust: Trust,
    /// Who else may log into the RAM system and the new one.
    pub authorized_keys: Vec<String>,
    /// The payload.
    pub payload: BlobRef,
    /// What it leaves as it is.
    pub keeps: Vec<Keep>,
    /// Whether it is an IMGBUILD, which another agent builds than the one for scripts.
    pub is_imgbuild: bool,
    /// Whether what it makes is known not to start where Secure Boot is enforced.
    #[serde(default)]
    pub is_unsigned: bool,
    /// The groups of the base that it needs.
    #[serde(default)]
    pub needs: Needs,
    /// The base.
    pub base: BasePlan<BlobRef>,
    /// The package archive of whoever wants this.
    pub fallback_mirror: Option<String>,
    /// The archive of past versions that they know.
    pub fallback_snapshot: Option<String>,
}

/// What of a host must be written nowhere.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Secrets {
    /// For `$ANEMOS_SECRETS`, by their names there.
    pub files: BTreeMap<String, Secret>,
    /// The URL of the proxy, if a user and a password are in it.
    pub proxy: Option<Secret>,
}

impl Secrets {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty() && self.proxy.is_none()
    }

    /// Reads those of a host from the files that hosts.toml names. An error says which can't be read, and why.
    pub fn read(host: &Host) -> Result<Self, String> {
        let mut files = BTreeMap::new();
        for (name, path) in &host.secrets {
            files.insert(name.clone(), read_secret(name, path, host.reveal.as_deref())?);
        }
        let proxy = match &host.proxy {
            Proxy::At(url) if url.contains('@') => Some(Secret::new(url.clone().into_bytes())),
            _ => None,
        };
        Ok(Self { files, proxy })
    }
}

/// Reads a secret, or has the command open it that opens those of an IMGBUILD. An error says which, and why.
pub fn read_secret(name: &str, path: &Path, reveal: Option<&str>) -> Result<Secret, String> {
    let read = match reveal.filter(|_| name.starts_with(REVEALED)) {
        Some(command) => makeimg::secrets::reveal(path, command).map_err(|problem| problem.to_string()),
        None => std::fs::read(path).map_err(|error| format!("{}: {error}", path.display())),
    };
    read.map(Secret::new).map_err(|why| format!("secret `{name}`: {why}"))
}

/// How the host finds what a file hides that was opened here: by the SHA-256 of the file.
const REVEAL_THERE: &str = "exec cat \"$ANEMOS_SECRETS/revealed.$(sha256sum | cut -c 1-64)\"";

/// Names the secrets of an IMGBUILD that this machine opens among the others, and has the host take them from there.
fn with_revealed(host: &mut Host, is_imgbuild: bool) -> Result<(), String> {
    if host.reveal.is_none() {
        return Ok(());
    }
    if !is_imgbuild {
        return Err("`reveal` opens secrets of an IMGBUILD, and the payload has none: use `secrets`".into());
    }
    let all = |problems: Vec<makeimg::problem::Problem>| {
        problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    };
    for (path, _) in makeimg::secrets::files(&host.payload).map_err(all)? {
        let bytes = std::fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        host.secrets.insert(format!("{REVEALED}{}", Blob::new(bytes).id.digest), path);
    }
    host.vars.insert("REVEAL".into(), REVEAL_THERE.into());
    Ok(())
}

/// A lock's file, if not the one in here, where the images of it come from, and the groups that are needed of it.
type WantedBase = (Option<PathBuf>, config::BaseSource, Option<Vec<String>>);

/// A base, its blobs, and the archive of past versions that its lock names.
type Based = (BasePlan<BlobRef>, Vec<Blob>, Option<String>);

/// Finds out everything about these hosts that can be known without meeting them. `lock` is for those that name none.
/// Without `packs`, what they are to become is not looked at: their payloads are empty, and secrets they have none.
pub async fn describe(
    hosts: Vec<Host>,
    (lock, packs): (Option<&Path>, bool),
    show: &Showing,
) -> Result<Description, RunError> {
    let mut found = Description::default();
    let mut payloads: HashMap<PathBuf, Payload> = HashMap::new();
    let mut bases: Vec<(WantedBase, Based)> = Vec::new();
    let answers = told(ask_ssh(&hosts), || show(Doing::Asking(hosts.len()))).await?;
    let mut of_apt = anemos_base::mirrors_from_apt_sources(Path::new("/etc/apt")).into_iter();
    // A directory of this machine's is none of the host's.
    let fallback_mirror = of_apt.find(|mirror| !mirror.starts_with("file:"));
    let fallback_snapshot = tokio::task::spawn_blocking(base::known_snapshot).await.map_err(RunError::internal)?;
    for (mut host, mut ssh) in hosts.into_iter().zip(answers) {
        let name = host.name.clone();
        let named = |what: String| RunError::bad_input(format!("host `{name}`: {what}"));
        for note in std::mem::take(&mut ssh.notes) {
            if !found.notes.contains(&note) {
                found.notes.push(note);
            }
        }
        if !packs {
            host.secrets.clear();
        }
        let payload = if !packs {
            let nothing = Blob::new(Vec::new());
            let id = nothing.id;
            found.blobs.insert(id.digest, nothing);
            let (keeps, needs, files) = (Vec::new(), Needs::default(), Files::default());
            Payload { id, keeps, needs, is_imgbuild: false, is_unsigned: false, files }
        } else if let Some(known) = payloads.get(&host.payload) {
            known.clone()
        } else {
            let directory = host.payload.clone();
            let packing = tokio::task::spawn_blocking(move || payload::pack(&directory));
            let packed = told(packing, || show(Doing::Packing(&host.payload))).await.map_err(RunError::internal)?;
            let packed = packed.map_err(|e| named(e.to_string()))?;
            found.notes.extend(packed.warnings);
            let blob = Blob::new(packed.bytes);
            let new = Payload {
                id: blob.id,
                keeps: packed.keeps,
                needs: packed.needs,
                is_imgbuild: packed.is_imgbuild,
                is_unsigned: packed.is_unsigned,
                files: packed.files,
            };
            found.blobs.insert(blob.id.digest, blob);
            payloads.insert(host.payload.clone(), new.clone());
            new
        };
        let secret = host.secrets.values().chain(&host.identity_files);
        payload.files.keep_apart(&host.payload, secret).map_err(|e| named(e.to_string()))?;
        let lock_file = host.base.lock.clone().or_else(|| lock.map(Path::to_owned));
        let wanted = (lock_file, host.base.source.clone(), payload.needs.with(host.needs.as_ref()));
        let (base, blobs, snapshot_of_lock) = if let Some((_, base)) = bases.iter().find(|(key, _)| *key == wanted) {
            base.clone()
        } else {
            let base = based(&wanted, &host, show).await?;
            bases.push((wanted, base.clone()));
            base
        };
        found.blobs.extend(blobs.into_iter().map(|blob| (blob.id.digest, blob)));
        let mut authorized_keys = Vec::new();
        for key in &host.authorized_keys {
            authorized_keys.extend(key.read().map_err(|e| named(e.to_string()))?);
        }
        if packs {
            with_revealed(&mut host, payload.is_imgbuild).map_err(named)?;
        }
        let (described, secrets) = tokio::task::spawn_blocking(move || {
            let secrets = Secrets::read(&host);
            (host, secrets)
        })
        .await
        .map_err(RunError::internal)?;
        host = described;
        let secrets = secrets.map_err(named)?;
        if secrets.proxy.is_some() {
            host.proxy = Proxy::Own;
        }
        if !secrets.is_empty() {
            found.secrets.insert(host.name.clone(), secrets);
        }
        let trust = Trust::load(&ssh, host.accept_new);
        for file in &trust.unread {
            let note = format!("{file}; so no new host key is accepted");
            if !found.notes.contains(&note) {
                found.notes.push(note);
            }
        }
        for files in [&mut ssh.identity_files, &mut ssh.certificate_files] {
            *files = absolute(files);
        }
        found.hosts.push(Described {
            host,
            ssh,
            trust,
            authorized_keys,
            payload: payload.id,
            keeps: payload.keeps,
            is_imgbuild: payload.is_imgbuild,
            is_unsigned: payload.is_unsigned,
            needs: payload.needs,
            base,
            fallback_mirror: fallback_mirror.clone(),
            fallback_snapshot: snapshot_of_lock.or_else(|| fallback_snapshot.clone()),
        });
    }
    Ok(found)
}

/// What is known of a payload that several hosts may have. [`Described`] has the meanings.
#[derive(Clone)]
struct Payload {
    id: BlobRef,
    keeps: Vec<Keep>,
    needs: Needs,
    is_imgbuild: bool,
    is_unsigned: bool,
    files: Files,
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

/// Whoever uses them may do so from another directory.
fn absolute(files: &[PathBuf]) -> Vec<PathBuf> {
    files.iter().map(|path| std::path::absolute(path).unwrap_or_else(|_| path.clone())).collect()
}

/// Finds a host's base.
async fn based((file, source, needs): &WantedBase, host: &Host, show: &Showing) -> Result<Based, RunError> {
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
    let text = Blob::new(compressed);
    let base = BasePlan {
        lock: text.id,
        digest: Digest(*lock.digest().as_bytes()),
        groups: lock.groups.iter().map(|group| group.name.clone()).collect(),
        images: lock.groups.iter().map(|group| Digest(*group.image.as_bytes())).collect(),
        image_size: lock.image_size(),
        kernel,
        sources,
        upload: upload.as_ref().map(|blob| blob.id),
    };
    Ok((base, std::iter::once(text).chain(upload).collect(), lock.snapshot))
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

    /// The host's own shell finds by the file that hides it what was opened here.
    #[test]
    fn what_an_imgbuild_hides_is_opened_here_and_found_there() {
        let dir = tempfile::tempdir().unwrap();
        let payload = dir.path().join("payload");
        for (name, text) in [("secrets/etc/key.age", "uhfu\n"), ("luks/system", "zber\n"), ("files/motd", "hello\n")] {
            let path = payload.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let mut host = crate::run::samples::described("web1", "reveal = \"tr a-z n-za-m\"").host;
        host.payload = payload.clone();
        assert!(with_revealed(&mut host, false).unwrap_err().contains("secrets of an IMGBUILD"));
        with_revealed(&mut host, true).unwrap();
        let secrets = Secrets::read(&host).unwrap();
        assert_eq!(secrets.files.len(), 2, "{:?}", host.secrets);
        let there = dir.path().join("there");
        std::fs::create_dir(&there).unwrap();
        for (name, secret) in &secrets.files {
            std::fs::write(there.join(name), secret.expose()).unwrap();
        }
        for (name, hidden) in [("secrets/etc/key.age", "hush\n"), ("luks/system", "more\n")] {
            let mut shell = std::process::Command::new("sh");
            shell.args(["-c", &host.vars["REVEAL"]]).env("ANEMOS_SECRETS", &there);
            let output = shell.stdin(std::fs::File::open(payload.join(name)).unwrap()).output().unwrap();
            assert_eq!(String::from_utf8_lossy(&output.stdout), hidden);
        }
        host.reveal = Some("exit 3".into());
        assert!(Secrets::read(&host).unwrap_err().contains("can't be revealed"));
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
