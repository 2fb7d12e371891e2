//! Where runs are on the disk.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use anemos_proto::ids::RunId;
use rustix::fs::{FlockOperation, flock};

use super::{JournalError, RunFile};
use crate::ssh::RunKey;

/// All runs.
#[derive(Debug, Clone)]
pub struct RunStore {
    dir: PathBuf,
}

/// One run.
#[derive(Debug, Clone)]
pub struct RunDir {
    dir: PathBuf,
    /// Its name.
    pub id: RunId,
}

/// Held by the process that writes a run's journals.
#[derive(Debug)]
pub struct Lock(#[allow(dead_code, reason = "the lock lasts as long as the file is open")] File);

impl RunStore {
    /// The user's runs.
    pub fn open() -> Result<Self, JournalError> {
        let non_empty = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let state = non_empty("XDG_STATE_HOME")
            .filter(|path| path.is_absolute())
            .or_else(|| non_empty("HOME").map(|home| home.join(".local/state")))
            .ok_or(JournalError::NoHome)?;
        let store = Self::at(state.join("anemos/runs"));
        [&state.join("anemos"), &store.dir].into_iter().try_for_each(|dir| ours(dir))?;
        Ok(store)
    }

    /// Runs in a directory of one's own.
    pub fn at(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// What else is kept of the user lies beside the runs.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.dir.with_file_name(name)
    }

    /// Makes the directory of a new run and locks it. If that fails, nothing of the run is left.
    pub fn create(&self, file: &RunFile, key: &RunKey) -> Result<(RunDir, Lock), JournalError> {
        let run = RunDir { dir: self.dir.join(file.run.as_str()), id: file.run.clone() };
        // Before anything is made, because this is what can be wrong with what the user gave.
        let json = serde_json::to_vec_pretty(file)
            .map_err(|e| JournalError::Unwritable { run: file.run.to_string(), why: e.to_string() })?;
        let key = key.to_openssh().map_err(|e| JournalError::Damaged { path: run.key_path(), what: e.to_string() })?;
        make_dirs(&self.dir)?;
        make_dir(&run.dir)?;
        let filled = run.fill(key.as_bytes(), &json);
        if filled.is_err() {
            // The error says what is wrong; that this fails too says no more.
            let _ = fs::remove_dir_all(&run.dir);
        }
        Ok((run, filled?))
    }

    /// Deletes what is left of runs whose deletion was interrupted.
    pub fn sweep(&self) -> Result<(), JournalError> {
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let id = name.to_str().and_then(|name| name.strip_prefix('.')?.strip_suffix(".gone"));
            if id.is_some_and(|id| RunId::from_str(id).is_ok()) {
                fs::remove_dir_all(entry.path()).map_err(|e| JournalError::io("deleting", &entry.path(), e))?;
            }
        }
        Ok(())
    }

    /// All runs, the newest first, whether they can be read or not.
    pub fn runs(&self) -> Result<Vec<RunDir>, JournalError> {
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(JournalError::io("reading", &self.dir, error)),
        };
        let mut runs: Vec<RunDir> = entries
            .flatten()
            .filter_map(|entry| {
                let id = RunId::from_str(entry.file_name().to_str()?).ok()?;
                Some(RunDir { dir: entry.path(), id })
            })
            .collect();
        runs.sort_by(|a, b| b.id.cmp(&a.id));
        Ok(runs)
    }

    /// The run of that name (its beginning or end is enough if only one has it), or the newest.
    pub fn find(&self, name: Option<&str>) -> Result<RunDir, JournalError> {
        let runs = self.runs()?;
        let Some(name) = name else {
            // One that died while it was made is not what anybody means.
            let mut begun = runs.into_iter().filter(|run| run.dir.join("run.json").exists());
            return begun.next().ok_or_else(|| JournalError::NoRuns(self.dir.clone()));
        };
        let mut matching = runs.into_iter().filter(|run| {
            let id = run.id.as_str();
            id == name || (name.len() >= 4 && (id.starts_with(name) || id.ends_with(name)))
        });
        match (matching.next(), matching.next()) {
            (Some(run), None) => Ok(run),
            (Some(one), Some(another)) => {
                let runs = [one, another].into_iter().chain(matching).map(|run| run.id.to_string()).collect();
                Err(JournalError::Ambiguous { name: name.into(), runs })
            }
            (None, _) => Err(JournalError::NoRun(name.into())),
        }
    }
}

impl RunDir {
    /// Of a run of which nothing is kept: no file can be in it.
    pub fn nowhere(id: &RunId) -> Self {
        Self { dir: Path::new("/dev/null").join(id.as_str()), id: id.clone() }
    }

    /// Puts key and `run.json` into the new directory, and makes sure that all of it is on the disk: names after the
    /// files that they name, `run.json` last, without which there is no run.
    fn fill(&self, key: &[u8], json: &[u8]) -> Result<Lock, JournalError> {
        let keys = self.dir.join("keys");
        make_dir(&keys)?;
        let lock = self.lock()?;
        write_new(&self.key_path(), key)?;
        sync_dir(&keys)?;
        write_new(&self.dir.join("run.json"), json)?;
        sync_dir(&self.dir)?;
        sync_dir(self.dir.parent().unwrap_or(Path::new(".")))?;
        Ok(lock)
    }

    /// Bytes of its files.
    pub fn size(&self) -> u64 {
        let bytes = |dir: &Path| -> u64 {
            let entries = fs::read_dir(dir).into_iter().flatten().flatten();
            entries.filter_map(|entry| entry.metadata().ok()).filter(fs::Metadata::is_file).map(|file| file.len()).sum()
        };
        bytes(&self.dir) + bytes(&self.dir.join("keys")) + bytes(&self.order_path())
    }

    /// Deletes the run with all that is known of it. Whoever reads it meanwhile sees all of it or that it is gone.
    pub fn delete(self, lock: Lock) -> Result<(), JournalError> {
        let io = |doing: &'static str, path: &Path| {
            let path = path.to_owned();
            move |e| JournalError::io(doing, &path, e)
        };
        let gone = self.dir.with_file_name(format!(".{}.gone", self.id));
        fs::rename(&self.dir, &gone).map_err(io("deleting", &self.dir))?;
        drop(lock);
        fs::remove_dir_all(&gone).map_err(io("deleting", &gone))?;
        sync_dir(self.dir.parent().unwrap_or(Path::new(".")))
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// Its `run.json`.
    pub fn load(&self) -> Result<RunFile, JournalError> {
        let path = self.dir.join("run.json");
        let text = fs::read(&path).map_err(|e| JournalError::io("reading", &path, e))?;
        let damaged = |e: serde_json::Error| JournalError::Damaged { path: path.clone(), what: e.to_string() };
        let value: serde_json::Value = serde_json::from_slice(&text).map_err(damaged)?;
        let format = value.get("format").and_then(serde_json::Value::as_u64).unwrap_or(0);
        if format != u64::from(RunFile::FORMAT) {
            return Err(JournalError::Version { path, found: format as u32 });
        }
        serde_json::from_value(value).map_err(damaged)
    }

    /// The journal of a host.
    pub fn journal(&self, host: &str) -> PathBuf {
        // Host names are checked by the reader of hosts.toml, but a journal must not land elsewhere whatever they are.
        let name: String = host.chars().map(|c| if c == '/' || c == '\0' { '_' } else { c }).collect();
        self.dir.join(format!("{name}.journal"))
    }

    /// Where a daemon that has the run keeps what is to be done: see [`RunDir::keep_order`].
    pub fn order_path(&self) -> PathBuf {
        self.dir.join("order")
    }

    /// Writes down what is to be done, all of it or nothing, and makes sure that it is on the disk.
    pub fn keep_order<'a>(&self, files: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Result<(), JournalError> {
        let new = self.dir.join("order.new");
        make_dir(&new)?;
        for (name, bytes) in files {
            write_new(&new.join(name), bytes)?;
        }
        sync_dir(&new)?;
        let order = self.order_path();
        fs::rename(&new, &order).map_err(|e| JournalError::io("making", &order, e))?;
        sync_dir(&self.dir)
    }

    /// Deletes that: no daemon has the run any more.
    pub fn forget_order(&self) -> Result<(), JournalError> {
        let (order, gone) = (self.order_path(), self.dir.join("order.gone"));
        match fs::rename(&order, &gone) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(JournalError::io("deleting", &order, error)),
        }
        fs::remove_dir_all(&gone).map_err(|e| JournalError::io("deleting", &gone, e))?;
        sync_dir(&self.dir)
    }

    /// Writes a known_hosts file for a host, anew. Returns where it is.
    pub fn keep_known_hosts(&self, host: &str, lines: &str) -> Result<PathBuf, JournalError> {
        let path = self.journal(host).with_extension("known_hosts");
        let new = self.journal(host).with_extension("known_hosts.new");
        fs::write(&new, lines)
            .and_then(|()| fs::rename(&new, &path))
            .map_err(|e| JournalError::io("writing", &path, e))?;
        Ok(path)
    }

    fn key_path(&self) -> PathBuf {
        self.dir.join("keys/run")
    }

    /// The run's client key, or `None` if the run is over and it was deleted.
    pub fn key(&self) -> Result<Option<RunKey>, JournalError> {
        let path = self.key_path();
        match fs::read_to_string(&path) {
            Ok(text) => {
                RunKey::from_openssh(&text).map(Some).map_err(|e| JournalError::Damaged { path, what: e.to_string() })
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(JournalError::io("reading", &path, error)),
        }
    }

    /// Deletes the run's private key: nothing of it is in RAM any more.
    pub fn forget_key(&self) -> Result<(), JournalError> {
        let path = self.key_path();
        match fs::remove_file(&path) {
            Ok(()) => sync_dir(path.parent().unwrap_or(Path::new("."))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(JournalError::io("deleting", &path, error)),
        }
    }

    /// Takes the right to write, or says who has it.
    pub fn lock(&self) -> Result<Lock, JournalError> {
        // Whoever only asks whether the run is followed holds the lock for an instant.
        for _ in 0..10 {
            match self.try_lock() {
                Err(JournalError::Locked { .. }) => std::thread::sleep(Duration::from_millis(20)),
                done => return done,
            }
        }
        self.try_lock()
    }

    /// The process that writes now.
    pub fn follower(&self) -> Option<String> {
        match self.try_lock() {
            Err(JournalError::Locked { pid, .. }) => Some(pid),
            _ => None,
        }
    }

    fn try_lock(&self) -> Result<Lock, JournalError> {
        let path = self.dir.join("lock");
        let io = |doing| {
            let path = path.clone();
            move |e: std::io::Error| JournalError::io(doing, &path, e)
        };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(io("opening"))?;
        if let Err(error) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
            if error != rustix::io::Errno::WOULDBLOCK {
                return Err(io("locking")(error.into()));
            }
            let mut pid = String::new();
            // Only for people: whoever holds the lock may not have written its number yet.
            let _ = file.read_to_string(&mut pid);
            let pid = if pid.trim().is_empty() { "unknown".into() } else { pid.trim().to_owned() };
            return Err(JournalError::Locked { run: self.id.to_string(), pid });
        }
        file.set_len(0).map_err(io("writing"))?;
        write!(file, "{}", std::process::id()).map_err(io("writing"))?;
        Ok(Lock(file))
    }
}

/// Refuses a directory that another user can write to, if it is there. root may be led to another user's on purpose,
/// as by sudo, but also not to one that anybody can write to.
fn ours(path: &Path) -> Result<(), JournalError> {
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(JournalError::io("looking at", path, error)),
    };
    match others_write(metadata.uid(), metadata.mode(), rustix::process::geteuid().as_raw()) {
        Some(why) => Err(JournalError::NotOurs { path: path.into(), why }),
        None => Ok(()),
    }
}

/// Why users other than `us` and root can write to a directory with this owner and mode, if they can.
fn others_write(owner: u32, mode: u32, us: u32) -> Option<String> {
    if us != 0 && ![us, 0].contains(&owner) {
        Some(format!("belongs to user {owner}"))
    } else {
        (mode & 0o022 != 0).then(|| format!("has mode {:o}", mode & 0o7777))
    }
}

fn make_dir(path: &Path) -> Result<(), JournalError> {
    DirBuilder::new().mode(0o700).create(path).map_err(|e| JournalError::io("making", path, e))
}

/// Makes a directory and those above it that are missing, each known to the one above before the next is made.
fn make_dirs(path: &Path) -> Result<(), JournalError> {
    if path.is_dir() {
        return Ok(());
    }
    let above = path.parent().filter(|above| !above.as_os_str().is_empty());
    above.map_or(Ok(()), make_dirs)?;
    match make_dir(path) {
        // Somebody else was quicker.
        Err(JournalError::Io { source, .. }) if source.kind() == ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }?;
    sync_dir(above.unwrap_or(Path::new(".")))
}

fn sync_dir(dir: &Path) -> Result<(), JournalError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(|e| JournalError::io("syncing", dir, e))
}

fn write_new(path: &Path, bytes: &[u8]) -> Result<(), JournalError> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .map_err(|e| JournalError::io("writing", path, e))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_place_where_others_can_write_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let refused = |mode| {
            fs::set_permissions(dir.path(), fs::Permissions::from_mode(mode)).unwrap();
            ours(dir.path()).err().map(|error| error.to_string())
        };
        assert_eq!((refused(0o700), refused(0o755)), (None, None));
        for (mode, shown) in [(0o777, "has mode 777"), (0o1777, "has mode 1777"), (0o720, "has mode 720")] {
            let error = refused(mode).unwrap();
            assert!(error.contains(shown), "{error}");
        }
        ours(&dir.path().join("not-there")).unwrap();
        for (owner, us, fine) in [(7, 7, true), (0, 7, true), (8, 7, false), (8, 0, true)] {
            assert_eq!(others_write(owner, 0o40_755, us).is_none(), fine, "{owner} {us}");
        }
    }
}
