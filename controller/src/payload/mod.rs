//! Packs a payload directory into the tar.zst that is sent, the same bytes for the same contents on any machine.
//!
//! Names are sorted as bytes; times, owners and groups are zero; modes become 0755 (directories, and files that their
//! owner may execute) or 0644, as umasks differ between checkouts; symbolic links are kept as they are. Compression is
//! at a fixed level on one thread. `.git` is left out wherever it is, as no two of them are the same; nothing else is.

mod needs;
mod ram;
#[cfg(test)]
mod tests;

pub use needs::{Needs, group};
pub use ram::{Misfit, Ram};

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use anemos_proto::ids::Digest;
use ring::digest;
use serde::{Deserialize, Serialize};
use zstd::stream::raw::CParameter;

use crate::text::quoted;

/// The most that a payload may be when unpacked: it lives in the host's memory.
pub const MAX_SIZE: u64 = 256 << 20;

/// A packed payload larger than this gets a warning: it crosses the user's own link.
pub const WARN_SIZE: u64 = 5 << 20;

/// The highest level of zstd that still packs some MB/s.
const ZSTD_LEVEL: i32 = 19;

/// The file that makes a directory a payload.
const SCRIPT: &str = "deploy";

/// A payload, ready to be sent.
#[derive(Clone)]
pub struct Packed {
    /// The tar.zst.
    pub bytes: Vec<u8>,
    /// SHA-256 of `bytes`: the payload's name.
    pub digest: Digest,
    /// Bytes of the files in it.
    pub unpacked: u64,
    /// Files, links and directories in it.
    pub entries: usize,
    /// What the user should know.
    pub warnings: Vec<String>,
    /// Partitions of `ANEMOS_DISK` that it leaves as they are.
    pub keeps: Vec<Keep>,
    /// The groups of the base that it needs.
    pub needs: Needs,
    /// Whether it is an IMGBUILD, and not a script.
    pub is_imgbuild: bool,
    /// Whether what it makes is known not to start where Secure Boot is enforced.
    pub is_unsigned: bool,
    /// The files that are in it.
    pub files: Files,
}

/// Files of this machine, known as the file system knows them: by their device and their number on it.
#[derive(Debug, Clone, Default)]
pub struct Files(Arc<HashSet<(u64, u64)>>);

impl Files {
    /// Makes sure that none of `secrets` is one of these, by whatever names and links: what is in a payload is not
    /// handled as a secret. `payload` is for the error. What is not there is in nothing.
    pub fn keep_apart<'a>(
        &self,
        payload: &Path,
        mut secrets: impl Iterator<Item = &'a PathBuf>,
    ) -> Result<(), PayloadError> {
        let is_in = |path: &&PathBuf| fs::metadata(path).is_ok_and(|meta| self.0.contains(&(meta.dev(), meta.ino())));
        match secrets.find(is_in) {
            Some(secret) => Err(PayloadError::Secret { dir: payload.to_owned(), secret: secret.clone() }),
            None => Ok(()),
        }
    }
}

/// A partition that is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keep {
    /// Its file system's label.
    pub label: String,
    /// Whether it is made where there is none.
    pub or_made: bool,
}

impl std::fmt::Debug for Packed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Packed")
            .field("digest", &self.digest)
            .field("bytes", &self.bytes.len())
            .field("unpacked", &self.unpacked)
            .field("entries", &self.entries)
            .finish_non_exhaustive()
    }
}

/// A payload directory that can't be packed.
#[derive(Debug, thiserror::Error)]
pub enum PayloadError {
    /// The directory itself.
    #[error("payload {} is not a directory", .0.display())]
    NotADirectory(PathBuf),
    /// No script.
    #[error(
        "payload {} has no file `deploy` and no IMGBUILD: put the script that builds the new system there, or the \
         description of it",
        .0.display()
    )]
    NoScript(PathBuf),
    /// What makeimg could not build.
    #[error("{}", .0.join("\n"))]
    ImgBuild(Vec<String>),
    /// The script is no file.
    #[error("{} is not a file: it must be the script that builds the new system", .0.display())]
    ScriptNotAFile(PathBuf),
    /// The script lacks its x bit.
    #[error("{} is not executable: chmod +x {}", .0.display(), quoted(&.0.display().to_string()))]
    NotExecutable(PathBuf),
    /// The script lacks its interpreter.
    #[error(
        "{} is neither a script with a first line such as #!/bin/sh nor a program: the kernel would not run it",
        .0.display()
    )]
    NoInterpreter(PathBuf),
    /// The script has DOS line ends.
    #[error(
        "{} ends its first line with a carriage return: the host would look for an interpreter of that name; save it \
         with Unix line ends",
        .0.display()
    )]
    DosLines(PathBuf),
    /// A socket, a device or a pipe.
    #[error("{} is a {what}: a payload has only files, directories and symbolic links", path.display())]
    Special {
        /// What can't be packed.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// A link to what would not be there.
    #[error(
        "{} is a link to {}, outside of the payload: it would lead nowhere on the host; copy what it means into the \
         payload",
        path.display(),
        target.display()
    )]
    Escapes {
        /// The link.
        path: PathBuf,
        /// Where it leads.
        target: PathBuf,
    },
    /// A file that hosts.toml names as a secret, or as a key.
    #[error(
        "{} is secret, but a file of the payload {}: it would be sent with it; move it elsewhere",
        secret.display(),
        dir.display()
    )]
    Secret {
        /// The payload.
        dir: PathBuf,
        /// The secret, by its name in hosts.toml.
        secret: PathBuf,
    },
    /// Too much.
    #[error(
        "payload {} is larger than {} MiB, and it must fit into the host's memory: let `deploy` download the large \
         parts; the largest here is {} ({} MiB)",
        dir.display(),
        MAX_SIZE >> 20,
        largest.display(),
        largest_size >> 20
    )]
    TooLarge {
        /// The payload.
        dir: PathBuf,
        /// Its largest file.
        largest: PathBuf,
        /// The size of that.
        largest_size: u64,
    },
    /// It was written to meanwhile.
    #[error("{} changed while it was packed: try again", .0.display())]
    Changed(PathBuf),
    /// What it needs can't be understood.
    #[error("{}:{line}: `{text}` {why}", path.display())]
    Needs {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is there.
        text: String,
        /// What is wrong with it.
        why: String,
    },
    /// It can't be read.
    #[error("can't read {}: {why}", path.display())]
    Read {
        /// What can't be read.
        path: PathBuf,
        /// Why.
        why: io::Error,
    },
    /// It can't be compressed.
    #[error("can't pack the payload: {0}")]
    Pack(io::Error),
}

/// Packs the payload in `dir`.
pub fn pack(dir: &Path) -> Result<Packed, PayloadError> {
    if !fs::metadata(dir).is_ok_and(|meta| meta.is_dir()) {
        return Err(PayloadError::NotADirectory(dir.to_owned()));
    }
    let Checked { keeps, mut warnings, implied, is_imgbuild, is_unsigned } = check_script(dir)?;
    let needs = Needs { named: needs::of_file(dir)?, implied };
    let mut entries = Vec::new();
    let mut files = HashSet::new();
    walk(dir, Path::new(""), &mut entries, &mut files)?;
    entries.sort_by(|a, b| a.name.as_os_str().as_bytes().cmp(b.name.as_os_str().as_bytes()));
    let unpacked = check_size(dir, &entries)?;

    let bytes = compress(dir, &entries)?;
    let hash = digest::digest(&digest::SHA256, &bytes);
    let mut digest = [0; 32];
    digest.copy_from_slice(hash.as_ref());
    if bytes.len() as u64 > WARN_SIZE {
        warnings.push(format!(
            "payload {} is {} MiB when packed, all of which goes over this machine's link to each host",
            dir.display(),
            bytes.len() >> 20
        ));
    }
    let (digest, entries) = (Digest(digest), entries.len());
    Ok(Packed {
        bytes,
        digest,
        unpacked,
        entries,
        warnings,
        keeps,
        needs,
        is_imgbuild,
        is_unsigned,
        files: Files(files.into()),
    })
}

/// Something in the payload, by its name below it.
struct Entry {
    name: PathBuf,
    kind: Kind,
}

enum Kind {
    Directory,
    File { size: u64, executable: bool },
    Link { target: PathBuf },
}

fn reading<T>(path: &Path, result: io::Result<T>) -> Result<T, PayloadError> {
    result.map_err(|why| PayloadError::Read { path: path.to_owned(), why })
}

/// What is known of a payload without packing it.
#[derive(Default)]
struct Checked {
    keeps: Vec<Keep>,
    warnings: Vec<String>,
    /// What an IMGBUILD needs.
    implied: Option<Vec<String>>,
    is_imgbuild: bool,
    is_unsigned: bool,
}

/// What an IMGBUILD keeps and needs, and what the user should know of it.
fn check_script(dir: &Path) -> Result<Checked, PayloadError> {
    let path = dir.join(SCRIPT);
    let meta = match fs::metadata(&path) {
        Ok(meta) => meta,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if makeimg::project::is_project(dir) {
                return check_imgbuild(dir);
            }
            return Err(PayloadError::NoScript(dir.to_owned()));
        }
        Err(why) => return Err(PayloadError::Read { path, why }),
    };
    if !meta.is_file() {
        return Err(PayloadError::ScriptNotAFile(path));
    }
    if meta.permissions().mode() & 0o100 == 0 {
        return Err(PayloadError::NotExecutable(path));
    }
    // The kernel reads no more than this of a script's first line.
    let mut start = Vec::new();
    reading(&path, File::open(&path).and_then(|file| file.take(256).read_to_end(&mut start)))?;
    let first_line = start.split(|&b| b == b'\n').next().unwrap_or_default();
    match first_line {
        [b'#', b'!', .., b'\r'] => Err(PayloadError::DosLines(path)),
        [b'#', b'!', ..] | [0x7f, b'E', b'L', b'F', ..] => Ok(Checked::default()),
        _ => Err(PayloadError::NoInterpreter(path)),
    }
}

/// What can be known of an IMGBUILD here. Its templates may ask for variables that only the host has.
fn check_imgbuild(dir: &Path) -> Result<Checked, PayloadError> {
    let read = makeimg::imgbuild::read(dir);
    let warnings = read.warnings.iter().map(ToString::to_string).collect();
    let (imgbuild, mut problems) =
        read.result.map_or_else(|problems| (None, problems), |found| (Some(found), Vec::new()));
    for (name, secret) in [("files", false), ("secrets", true)] {
        let inputs = dir.join(name);
        if inputs.is_dir() {
            problems.extend(makeimg::inputs::scan(&inputs, secret).err().into_iter().flatten());
        }
    }
    problems.extend(imgbuild.as_ref().and_then(makeimg::imgbuild::Imgbuild::machine_problem));
    problems.extend(imgbuild.iter().flat_map(makeimg::luks::problems));
    if !problems.is_empty() {
        return Err(PayloadError::ImgBuild(problems.iter().map(ToString::to_string).collect()));
    }
    let implied = imgbuild.as_ref().and_then(needs::of_imgbuild);
    let is_unsigned = imgbuild.as_ref().is_some_and(makeimg::imgbuild::Imgbuild::is_unsigned);
    let volumes = imgbuild.into_iter().flat_map(|imgbuild| imgbuild.settings.filesystems);
    let kept = volumes.filter(|volume| volume.keep);
    let keeps = kept.map(|volume| Keep { label: volume.label, or_made: volume.size.is_some() });
    Ok(Checked { keeps: keeps.collect(), warnings, implied, is_imgbuild: true, is_unsigned })
}

fn walk(
    root: &Path,
    below: &Path,
    entries: &mut Vec<Entry>,
    files: &mut HashSet<(u64, u64)>,
) -> Result<(), PayloadError> {
    let dir = root.join(below);
    for child in reading(&dir, fs::read_dir(&dir))? {
        let file_name = reading(&dir, child)?.file_name();
        if file_name == OsStr::new(".git") {
            continue;
        }
        let name = below.join(file_name);
        let path = root.join(&name);
        let meta = reading(&path, fs::symlink_metadata(&path))?;
        let kind = meta.file_type();
        let special = |what| Err(PayloadError::Special { path: path.clone(), what });
        if kind.is_dir() {
            entries.push(Entry { name: name.clone(), kind: Kind::Directory });
            walk(root, &name, entries, files)?;
        } else if kind.is_file() {
            let kind = Kind::File { size: meta.len(), executable: meta.permissions().mode() & 0o100 != 0 };
            entries.push(Entry { name, kind });
            files.insert((meta.dev(), meta.ino()));
        } else if kind.is_symlink() {
            let target = reading(&path, fs::read_link(&path))?;
            if escapes(below, &target) {
                return Err(PayloadError::Escapes { path, target });
            }
            entries.push(Entry { name, kind: Kind::Link { target } });
        } else if kind.is_socket() {
            return special("socket");
        } else if kind.is_fifo() {
            return special("named pipe");
        } else {
            return special("device");
        }
    }
    Ok(())
}

/// Whether a link in directory `below` of the payload climbs out of it.
///
/// An absolute target doesn't count: it is for the system that the link ends up in (`/usr/share/zoneinfo/…`).
fn escapes(below: &Path, target: &Path) -> bool {
    if target.is_absolute() {
        return false;
    }
    let mut depth = below.components().count();
    for component in target.components() {
        match component {
            Component::ParentDir if depth == 0 => return true,
            Component::ParentDir => depth -= 1,
            Component::Normal(_) => depth += 1,
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    false
}

fn check_size(dir: &Path, entries: &[Entry]) -> Result<u64, PayloadError> {
    let sizes = entries.iter().filter_map(|entry| match entry.kind {
        Kind::File { size, .. } => Some((size, &entry.name)),
        _ => None,
    });
    let total = sizes.clone().fold(0_u64, |total, (size, _)| total.saturating_add(size));
    match sizes.max_by_key(|(size, _)| *size) {
        Some((largest_size, largest)) if total > MAX_SIZE => {
            Err(PayloadError::TooLarge { dir: dir.to_owned(), largest: largest.clone(), largest_size })
        }
        _ => Ok(total),
    }
}

fn compress(dir: &Path, entries: &[Entry]) -> Result<Vec<u8>, PayloadError> {
    let mut encoder = zstd::Encoder::new(Vec::new(), ZSTD_LEVEL).map_err(PayloadError::Pack)?;
    encoder.include_checksum(true).map_err(PayloadError::Pack)?;
    let window = window_log(entries);
    // As zstd chooses them itself where it knows the length.
    for parameter in [
        CParameter::WindowLog(window),
        CParameter::HashLog((window + 1).min(22)),
        CParameter::ChainLog((window + 1).min(24)),
    ] {
        encoder.set_parameter(parameter).map_err(PayloadError::Pack)?;
    }
    let mut tar = tar::Builder::new(encoder);
    for entry in entries {
        append(&mut tar, dir, entry)?;
    }
    tar.into_inner().and_then(zstd::Encoder::finish).map_err(PayloadError::Pack)
}

/// log2 of a window that holds all of a payload, or of what the level takes. At this level zstd needs 90 MB for a
/// stream of unknown length, and most payloads have a few kilobytes.
fn window_log(entries: &[Entry]) -> u32 {
    let size = |entry: &Entry| match entry.kind {
        // A header, and the end of the last block.
        Kind::File { size, .. } => size + 1024,
        Kind::Directory | Kind::Link { .. } => 512,
    };
    let all = entries.iter().map(size).sum::<u64>() + 1024;
    all.next_power_of_two().ilog2().clamp(17, 23)
}

fn append(tar: &mut tar::Builder<impl Write>, dir: &Path, entry: &Entry) -> Result<(), PayloadError> {
    let mut header = tar::Header::new_gnu();
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    match &entry.kind {
        Kind::Directory => {
            header.set_entry_type(tar::EntryType::Directory);
            header.set_mode(0o755);
            header.set_size(0);
            tar.append_data(&mut header, &entry.name, io::empty()).map_err(PayloadError::Pack)
        }
        Kind::Link { target } => {
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_mode(0o777);
            header.set_size(0);
            tar.append_link(&mut header, &entry.name, target).map_err(PayloadError::Pack)
        }
        Kind::File { size, executable } => {
            let path = dir.join(&entry.name);
            // A link or a pipe may have taken the file's place since: the link is not followed, and the pipe not waited
            // for.
            let open = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(&path);
            let mut contents = Vec::new();
            let read = reading(&path, open.and_then(|file| file.take(size + 1).read_to_end(&mut contents)))?;
            if read as u64 != *size {
                return Err(PayloadError::Changed(path));
            }
            header.set_entry_type(tar::EntryType::Regular);
            header.set_mode(if *executable { 0o755 } else { 0o644 });
            header.set_size(*size);
            tar.append_data(&mut header, &entry.name, &contents[..]).map_err(PayloadError::Pack)
        }
    }
}
