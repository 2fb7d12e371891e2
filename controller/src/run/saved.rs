//! A plan in a file: what was shown to somebody, so that it is what is done later, or nothing. Nothing secret is in it.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

use super::wanted::Wanted;
use crate::embed::BUILD;
use crate::engine::{Limits, now_ms};
use crate::paths::directory_of;
use crate::plan::{Approval, Plan};

/// The file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedPlan {
    /// [`SavedPlan::FORMAT`], by which such a file is known.
    anemos_plan: u32,
    /// The build that made it: another one has another stage and agent, and judges otherwise.
    build: String,
    /// When it was made: milliseconds since the Unix epoch.
    pub made_ms: u64,
    /// The hosts.toml that it came from, absolute.
    pub hosts_file: PathBuf,
    /// The base.lock that was named on the command line, absolute.
    pub lock: Option<PathBuf>,
    /// In which order the hosts go, and how many may fail.
    pub limits: Limits,
    /// The hosts, in the order of hosts.toml; at least one.
    pub hosts: Vec<SavedHost>,
}

/// A host of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedHost {
    /// What was shown.
    pub plan: Plan,
    /// What it follows from.
    wanted: Wanted,
}

/// Why a plan can't be read from a file, or written into one.
#[derive(Debug, thiserror::Error)]
#[error("{}: {why}", path.display())]
pub struct SavedError {
    /// The file.
    path: PathBuf,
    /// Why not, and what to do.
    why: String,
}

/// What `plan -o` was made with.
pub struct Terms<'a> {
    /// See [`SavedPlan::hosts_file`]; made absolute.
    pub hosts_file: &'a Path,
    /// See [`SavedPlan::lock`]; made absolute.
    pub lock: Option<&'a Path>,
    /// See [`SavedPlan::limits`].
    pub limits: Limits,
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

impl SavedPlan {
    /// Version of the file's form.
    const FORMAT: u32 = 1;

    /// These plans, for hosts of which this is wanted. The error says which host has no plan that could be carried
    /// out: a file without it would pass for all that was asked for.
    pub fn of(wanted: &[(String, Wanted)], plans: &[Arc<Plan>], terms: &Terms<'_>) -> Result<Self, String> {
        let mut hosts = Vec::new();
        for (name, wanted) in wanted {
            let plan = plans.iter().find(|plan| plan.host == *name);
            let plan = plan.ok_or_else(|| format!("{name} could not be looked at"))?;
            if let Some(why) = plan.refused() {
                return Err(format!("{name}: {why}"));
            }
            hosts.push(SavedHost { plan: (**plan).clone(), wanted: wanted.clone() });
        }
        Ok(Self {
            anemos_plan: Self::FORMAT,
            build: BUILD.into(),
            made_ms: now_ms(),
            hosts_file: absolute(terms.hosts_file),
            lock: terms.lock.map(absolute),
            limits: terms.limits,
            hosts,
        })
    }

    /// Whether a file can be written there: it is not there yet, or is an earlier plan, and its directory takes files.
    /// Another file is left alone.
    pub fn may_be_written(path: &Path) -> Result<(), SavedError> {
        Self::beside(path).map(drop)
    }

    /// A new file in the directory of this one, which may be put in its place.
    fn beside(path: &Path) -> Result<NamedTempFile, SavedError> {
        let fault = |why: &str| SavedError { path: path.to_owned(), why: why.into() };
        let io = |error: std::io::Error| fault(&error.to_string());
        match std::fs::metadata(path) {
            // A pipe to another program would be read for ever, since it is this process that may write to it.
            Ok(metadata) if !metadata.is_file() => {
                return Err(fault("there is what is no regular file; a plan goes into one that anemos makes itself"));
            }
            Ok(_) if format_of(&std::fs::read(path).map_err(io)?).is_none() => {
                return Err(fault("there is a file that is no plan; it is left as it is, so name another one"));
            }
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(io(error)),
        }
        let dir = directory_of(path);
        tempfile::Builder::new()
            .prefix(".anemos-plan")
            .tempfile_in(dir)
            .map_err(|error| fault(&format!("no file can be made in {}: {}", dir.display(), error.kind())))
    }

    /// Writes it: all of it, or the file stays as it was.
    pub fn write(&self, path: &Path) -> Result<(), SavedError> {
        let fault = |why: String| SavedError { path: path.to_owned(), why };
        let mut file = Self::beside(path)?;
        let mut json = serde_json::to_vec_pretty(self).map_err(|error| fault(error.to_string()))?;
        json.push(b'\n');
        let io = |error: std::io::Error| fault(error.to_string());
        file.write_all(&json).and_then(|()| file.as_file().sync_all()).map_err(io)?;
        file.persist(path).map_err(|error| io(error.error))?;
        Ok(())
    }

    /// Reads one that this build can carry out.
    pub fn read(path: &Path) -> Result<Self, SavedError> {
        let fault = |why: String| SavedError { path: path.to_owned(), why };
        let bytes = std::fs::read(path).map_err(|error| fault(error.to_string()))?;
        let again = "make it again with `anemos plan -o`";
        match format_of(&bytes) {
            None => return Err(fault("it is no plan that `anemos plan -o` wrote, or not all of one".into())),
            Some(format) if format != u64::from(Self::FORMAT) => {
                let why = format!("its form is number {format}, and this anemos reads {}; {again}", Self::FORMAT);
                return Err(fault(why));
            }
            Some(_) => {}
        }
        let saved: Self =
            serde_json::from_slice(&bytes).map_err(|error| fault(format!("it is damaged: {error}; {again}")))?;
        if saved.build != BUILD {
            let why = format!("anemos {} made it, and this is {BUILD}, which may do otherwise; {again}", saved.build);
            return Err(fault(why));
        }
        let names: BTreeSet<&str> = saved.hosts.iter().map(|host| host.plan.host.as_str()).collect();
        if names.is_empty() || names.len() != saved.hosts.len() {
            return Err(fault(format!("it is damaged: it has no hosts, or one of them twice; {again}")));
        }
        Ok(saved)
    }

    /// The host of that name.
    pub fn host(&self, name: &str) -> Option<&SavedHost> {
        self.hosts.iter().find(|host| host.plan.host == name)
    }

    /// What is wanted otherwise now, a line each.
    pub fn wanted_otherwise(&self, now: &[(String, Wanted)]) -> Vec<String> {
        let otherwise = |(name, wanted): &(String, Wanted)| {
            let saved = self.host(name)?;
            line(name, &saved.wanted.differences(wanted))
        };
        now.iter().filter_map(otherwise).collect()
    }

    /// What of the hosts is otherwise now, a line each. Hosts that could not be looked at are not judged: nothing is
    /// done to them.
    pub fn met_otherwise(&self, plans: &[Arc<Plan>]) -> Vec<String> {
        let otherwise = |plan: &Arc<Plan>| {
            let Some(saved) = self.host(&plan.host) else {
                return line(&plan.host, &["it is not in the plan".into()]);
            };
            let approval = match Approval::of(&Arc::new(saved.plan.clone())) {
                Ok(approval) => approval,
                // Nobody but an editor can have put it there.
                Err(why) => return line(&plan.host, &[why]),
            };
            // The payload is the same by its digest, wherever its directory is now.
            let now = Plan { payload: saved.plan.payload.clone(), ..(**plan).clone() };
            line(&plan.host, &approval.differences(&now))
        };
        plans.iter().filter_map(otherwise).collect()
    }
}

fn line(host: &str, differences: &[String]) -> Option<String> {
    (!differences.is_empty()).then(|| format!("{host}: {}", differences.join("; ")))
}

/// The number of the file's form, if it is a plan.
fn format_of(bytes: &[u8]) -> Option<u64> {
    #[derive(Deserialize)]
    struct Head {
        anemos_plan: u64,
    }
    serde_json::from_slice(bytes).ok().map(|head: Head| head.anemos_plan)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::plan;
    use crate::run::samples::described;

    fn wanted(more: &str) -> Vec<(String, Wanted)> {
        vec![("web1".into(), Wanted::of(&described("web1", more)))]
    }

    fn saved() -> SavedPlan {
        let limits = Limits { parallel: 2, canary: false, max_failures: 1 };
        let terms = Terms { hosts_file: Path::new("hosts.toml"), lock: None, limits };
        SavedPlan::of(&wanted(""), &[Arc::new(plan())], &terms).unwrap()
    }

    #[test]
    fn a_plan_is_read_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("web.plan");
        let saved = saved();
        assert!(saved.hosts_file.is_absolute());
        saved.write(&path).unwrap();
        assert_eq!(SavedPlan::read(&path).unwrap(), saved);
        // An earlier plan may be written over.
        let later = SavedPlan { made_ms: 1, ..saved };
        later.write(&path).unwrap();
        assert_eq!(SavedPlan::read(&path).unwrap(), later);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn a_bad_file_is_told_and_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("web.plan");
        let text = serde_json::to_string(&saved()).unwrap();
        let other = SavedPlan { build: "0.0".into(), ..saved() };
        let twice = SavedPlan { hosts: [saved().hosts, saved().hosts].concat(), ..saved() };
        let json = |saved: &SavedPlan| serde_json::to_string(saved).unwrap();
        for (text, says) in [
            ("[hosts.web1]\n".to_owned(), "it is no plan that"),
            (String::new(), "it is no plan that"),
            (text[..text.len() / 2].to_owned(), "it is no plan that"),
            ("{}".into(), "it is no plan that"),
            ("{\"anemos_plan\":2,\"hosts\":7}".into(), "its form is number 2, and this anemos reads 1; make it again"),
            (text.replace("\"made_ms\":", "\"made\":"), "it is damaged: missing field `made_ms`"),
            (json(&other), "anemos 0.0 made it, and this is"),
            (json(&twice), "it has no hosts, or one of them twice"),
            (json(&SavedPlan { hosts: Vec::new(), ..saved() }), "it has no hosts, or one"),
        ] {
            std::fs::write(&path, &text).unwrap();
            let error = SavedPlan::read(&path).unwrap_err().to_string();
            assert!(error.contains("web.plan: ") && error.contains(says), "{error}");
        }
        std::fs::write(&path, "[hosts.web1]\n").unwrap();
        let error = saved().write(&path).unwrap_err().to_string();
        assert!(error.contains("there is a file that is no plan"), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "[hosts.web1]\n");
        SavedPlan::read(&dir.path().join("none")).unwrap_err();
    }

    /// What can't be written is known before anybody is met, and nothing is waited for to know it.
    #[test]
    fn a_plan_goes_into_a_regular_file_of_a_directory_that_is_there() {
        use rustix::fs::{CWD, FileType, Mode, mknodat};
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        mknodat(CWD, at("pipe"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        std::os::unix::fs::symlink("pipe", at("link")).unwrap();
        let said = |path: PathBuf| {
            let (sender, receiver) = std::sync::mpsc::channel();
            std::thread::spawn(move || sender.send(SavedPlan::may_be_written(&path)));
            let said = receiver.recv_timeout(std::time::Duration::from_secs(30)).expect("it waits for nobody");
            said.map_err(|error| error.to_string())
        };
        for (path, says) in [
            (at("pipe"), "there is what is no regular file"),
            (at("link"), "there is what is no regular file"),
            ("/dev/null".into(), "there is what is no regular file"),
            (dir.path().to_owned(), "there is what is no regular file"),
            (at("none/web.plan"), "/none: entity not found"),
            (at("pipe/web.plan"), "ot a directory"),
        ] {
            let error = said(path.clone()).unwrap_err();
            assert!(error.contains(says), "{}: {error}", path.display());
        }
        assert_eq!(said(at("web.plan")), Ok(()));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2, "nothing is left of looking");
    }

    #[test]
    fn what_is_otherwise_is_told() {
        let saved = saved();
        assert!(saved.wanted_otherwise(&wanted("user = \"ann\"")).is_empty());
        let told = saved.wanted_otherwise(&wanted("vars = { A = 1 }"));
        assert_eq!(told, ["web1: `vars.A` was not given and is `1`"]);
        let met = |plan: Plan| saved.met_otherwise(&[Arc::new(plan)]);
        assert!(met(plan()).is_empty());
        assert!(met(Plan { payload: "elsewhere".into(), memory_total: 1, ..plan() }).is_empty());
        let told = met(Plan { host_key: "another".into(), ..plan() });
        assert!(told.len() == 1 && told[0].starts_with("web1: its host key was `"), "{told:?}");
        let told = met(Plan { refusals: vec!["no kexec".into()], ..plan() });
        assert_eq!(told, ["web1: it can't be deployed now: no kexec"]);
        let told = met(Plan { host: "web2".into(), ..plan() });
        assert_eq!(told, ["web2: it is not in the plan"]);
        // Whoever edits the file can't have a plan carried out that was refused.
        let mut edited = saved.clone();
        edited.hosts[0].plan.refusals = vec!["no kexec".into()];
        assert_eq!(edited.met_otherwise(&[Arc::new(plan())]).len(), 1);
    }

    #[test]
    fn a_plan_that_can_not_be_carried_out_is_not_saved() {
        let terms = Terms {
            hosts_file: Path::new("hosts.toml"),
            lock: None,
            limits: Limits { parallel: 1, canary: true, max_failures: 0 },
        };
        let refused = Arc::new(Plan { refusals: vec!["no kexec".into()], ..plan() });
        let error = SavedPlan::of(&wanted(""), &[refused], &terms).unwrap_err();
        assert!(error.starts_with("web1: ") && error.contains("no kexec"), "{error}");
        assert_eq!(SavedPlan::of(&wanted(""), &[], &terms).unwrap_err(), "web1 could not be looked at");
    }
}
