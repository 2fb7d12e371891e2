//! The file tree that packages and fix-ups make together, before it is written as an image.
//!
//! Paths have no leading slash and no `.` or `..`. `bin`, `sbin`, `lib` and `lib64` are symbolic links to their
//! namesakes in `usr`, and whatever arrives by these old paths is put there.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::sync::Arc;

use crate::deb::{Entry, EntryKind};
use crate::store::{ContentId, Store};
use crate::{Error, Exclude};

/// Top-level names that are symbolic links into `usr`.
pub(crate) const MERGED: [&str; 4] = ["bin", "lib", "lib64", "sbin"];

/// One name in the tree.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) kind: Kind,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Which package it came from, for errors.
    owner: Arc<str>,
}

/// What a name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Directory,
    File(ContentId),
    Symlink(String),
    CharDevice(u32, u32),
    BlockDevice(u32, u32),
    Fifo,
}

/// A file tree in memory.
pub struct Tree {
    nodes: BTreeMap<String, Node>,
    store: Store,
    /// What is left out, and whether there was anything of it.
    exclude: Vec<(Exclude, bool)>,
    /// Bytes of contents that may still be added.
    room: u64,
}

impl Tree {
    /// An empty tree that leaves out what `exclude` says, and refuses to hold more than `limit` bytes of contents.
    pub fn new(exclude: &[Exclude], limit: u64) -> Result<Self, Error> {
        let exclude = exclude.iter().map(|exclude| (exclude.clone(), false)).collect();
        Ok(Self { nodes: BTreeMap::new(), store: Store::new()?, exclude, room: limit })
    }

    /// Adds an entry of the package `owner`.
    ///
    /// Two packages may both have a directory (the first one decides its owner and mode), or the very same file; any
    /// other clash is an error, and so is every path that leads out of the tree or through a symbolic link.
    pub fn add(&mut self, owner: &Arc<str>, entry: Entry<'_>) -> Result<(), Error> {
        let wrong = |reason: String| Error::package(owner, reason);
        let Some(path) = normal(&entry.path).map_err(wrong)? else { return Ok(()) };
        if MERGED.contains(&path.as_str()) {
            return match entry.kind {
                EntryKind::Directory | EntryKind::Symlink(_) => Ok(()),
                _ => Err(wrong(format!("{path} is neither a directory nor a symbolic link"))),
            };
        }
        let path = merged(path);
        let mut left_out = false;
        for (exclude, was_there) in &mut self.exclude {
            if exclude.matches(&path) {
                (*was_there, left_out) = (true, true);
            }
        }
        if left_out {
            return Ok(());
        }
        let (mut mode, mut uid, mut gid) = (entry.mode, entry.uid, entry.gid);
        let kind = match entry.kind {
            EntryKind::Directory => Kind::Directory,
            EntryKind::Symlink(target) => {
                if target.is_empty() || target.contains('\0') {
                    return Err(wrong(format!("{path}: a symbolic link to nowhere")));
                }
                mode = 0o777;
                Kind::Symlink(target)
            }
            EntryKind::CharDevice(major, minor) => Kind::CharDevice(major, minor),
            EntryKind::BlockDevice(major, minor) => Kind::BlockDevice(major, minor),
            EntryKind::Fifo => Kind::Fifo,
            EntryKind::HardLink(target) => {
                let target = normal(&target).map_err(wrong)?.map(merged).unwrap_or_default();
                match self.nodes.get(&target) {
                    Some(node) if matches!(node.kind, Kind::File(_)) && node.owner == *owner => {
                        (mode, uid, gid) = (node.mode, node.uid, node.gid);
                        node.kind.clone()
                    }
                    _ => return Err(wrong(format!("{path} is a hard link to {target}, which is no file before it"))),
                }
            }
            EntryKind::File => {
                // Room is checked by what comes, not by what is declared: nothing is allocated for a promise.
                let mut bytes = Vec::new();
                let limit = entry.size.min(self.room.saturating_add(1));
                entry
                    .contents
                    .take(limit)
                    .read_to_end(&mut bytes)
                    .map_err(|error| wrong(format!("data.tar: {path}: {error}")))?;
                if bytes.len() as u64 > self.room {
                    return Err(wrong(format!("{path}: unpacks to more than the image can hold")));
                }
                if (bytes.len() as u64) < entry.size {
                    return Err(wrong(format!("data.tar: {path}: truncated")));
                }
                if self.same_file(&path, &bytes, mode, uid, gid)? {
                    return Ok(());
                }
                self.room -= bytes.len() as u64;
                Kind::File(self.store.add(&bytes)?)
            }
        };
        self.check_parents(&path).map_err(wrong)?;
        let node = Node { kind, mode, uid, gid, owner: owner.clone() };
        match self.nodes.get(&path) {
            None => {
                self.nodes.insert(path, node);
                Ok(())
            }
            Some(old) if old.kind == Kind::Directory && node.kind == Kind::Directory => Ok(()),
            Some(old) if old.kind == node.kind && (old.mode, old.uid, old.gid) == (mode, uid, gid) => Ok(()),
            Some(old) => Err(wrong(format!("{path} is also in {}, and differs", old.owner))),
        }
    }

    fn same_file(&self, path: &str, bytes: &[u8], mode: u32, uid: u32, gid: u32) -> Result<bool, Error> {
        match self.nodes.get(path) {
            Some(Node { kind: Kind::File(id), mode: m, uid: u, gid: g, .. }) if (*m, *u, *g) == (mode, uid, gid) => {
                Ok(self.store.get(*id)? == bytes)
            }
            _ => Ok(false),
        }
    }

    fn check_parents(&self, path: &str) -> Result<(), String> {
        for parent in parents(path) {
            match self.nodes.get(parent) {
                None | Some(Node { kind: Kind::Directory, .. }) => {}
                Some(node) => {
                    return Err(format!("{path} leads through {parent}, which is not a directory in {}", node.owner));
                }
            }
        }
        Ok(())
    }

    /// Patterns of what is left out that there was something of.
    pub(crate) fn matched(&self) -> impl Iterator<Item = &Exclude> {
        self.exclude.iter().filter(|(_, was_there)| *was_there).map(|(exclude, _)| exclude)
    }

    /// Makes the tree whole: the directories that no package brought, and no name below something that is none.
    pub(crate) fn close(&mut self) -> Result<(), Error> {
        let mut missing = Vec::new();
        for (path, node) in &self.nodes {
            self.check_parents(path).map_err(|reason| Error::package(&node.owner, reason))?;
            missing.extend(parents(path).filter(|parent| !self.nodes.contains_key(*parent)).map(str::to_owned));
        }
        for path in missing {
            self.put_directory(&path, 0o755);
        }
        Ok(())
    }

    /// Names and nodes, sorted by name: a directory comes before what is in it.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = (&str, &Node)> {
        self.nodes.iter().map(|(path, node)| (path.as_str(), node))
    }

    pub(crate) fn node(&self, path: &str) -> Option<&Node> {
        self.nodes.get(path)
    }

    pub(crate) const fn store(&self) -> &Store {
        &self.store
    }

    /// Paths directly or deeper below a directory.
    pub(crate) fn below(&self, directory: &str) -> impl Iterator<Item = &str> {
        let prefix = format!("{directory}/");
        let end = format!("{directory}0"); // '0' follows '/'
        self.nodes.range(prefix..end).map(|(path, _)| path.as_str())
    }

    /// A file's contents.
    pub(crate) fn read(&self, path: &str) -> Result<Option<Vec<u8>>, Error> {
        match self.nodes.get(path).map(|node| &node.kind) {
            Some(Kind::File(id)) => self.store.get(*id).map(Some),
            _ => Ok(None),
        }
    }

    /// Sets a name, whatever it was before.
    pub(crate) fn put(&mut self, path: &str, kind: Kind, mode: u32, owner: (u32, u32)) {
        let node = Node { kind, mode, uid: owner.0, gid: owner.1, owner: "the skeleton".into() };
        self.nodes.insert(path.to_owned(), node);
    }

    pub(crate) fn put_file(&mut self, path: &str, mode: u32, bytes: &[u8]) -> Result<(), Error> {
        let id = self.store.add(bytes)?;
        self.put(path, Kind::File(id), mode, (0, 0));
        Ok(())
    }

    pub(crate) fn set_owner(&mut self, path: &str, owner: (u32, u32)) {
        if let Some(node) = self.nodes.get_mut(path) {
            (node.uid, node.gid) = owner;
        }
    }

    pub(crate) fn remove(&mut self, path: &str) {
        self.nodes.remove(path);
    }

    pub(crate) fn put_symlink(&mut self, path: &str, target: &str) {
        self.put(path, Kind::Symlink(target.to_owned()), 0o777, (0, 0));
    }

    pub(crate) fn put_directory(&mut self, path: &str, mode: u32) {
        self.put(path, Kind::Directory, mode, (0, 0));
    }

    /// Bytes of all contents, hard links counted once.
    pub fn contents_size(&self) -> u64 {
        let mut ids: Vec<ContentId> = self
            .nodes
            .values()
            .filter_map(|node| if let Kind::File(id) = node.kind { Some(id) } else { None })
            .collect();
        ids.sort_unstable();
        ids.dedup();
        ids.iter().map(|id| self.store.size(*id)).sum()
    }
}

/// A path without `./` in front and `/` behind; nothing for the root itself.
pub(crate) fn normal(path: &str) -> Result<Option<String>, String> {
    if path.starts_with('/') {
        return Err(format!("{path:?} is an absolute path"));
    }
    let mut parts = Vec::new();
    for part in path.trim_end_matches('/').split('/') {
        match part {
            "." if parts.is_empty() => {}
            "" | "." | ".." => return Err(format!("{path:?} is not a plain path below the root")),
            part if part.contains('\0') => return Err(format!("{path:?} holds a zero byte")),
            part => parts.push(part),
        }
    }
    Ok(if parts.is_empty() { None } else { Some(parts.join("/")) })
}

/// Where a path is once `/usr` is merged.
fn merged(path: String) -> String {
    match path.split_once('/') {
        Some((top, _)) if MERGED.contains(&top) => format!("usr/{path}"),
        _ => path,
    }
}

/// The directories that a path is in, outermost first.
pub(crate) fn parents(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').map(move |(at, _)| &path[..at])
}
