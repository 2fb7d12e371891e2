//! What the fuzzer calls: everything here that reads bytes of somebody else's, with what must hold for all of them.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use anemos_proto::agent::AgentRequest;
use anemos_proto::codec::{FrameReader, MAX_FRAME};
use anemos_proto::event::MAX_LINE;

use crate::helper::Call;
use crate::kmsg::{self, Record};
use crate::lines::Lines;
use crate::log::chunk::{self, Keep};
use crate::{console, finish, modules, payload, raw, ssh, unpack, writes};

/// What is done with an input.
pub type Target = fn(&[u8]);

/// Targets by name.
pub const TARGETS: &[(&str, Target)] = &[
    ("output", output),
    ("agent-log", agent_log),
    ("agent-requests", agent_requests),
    ("agent-texts", agent_texts),
    ("authorized-keys", authorized_keys),
];

/// Targets that touch files.
pub const FILES: &[(&str, Target)] = &[("unpack-cpio", unpack_cpio), ("unpack-payload", unpack_payload)];

/// What a payload prints, what the kernel says, and what a payload tells the agent. No line is longer than lines are,
/// and nothing is lost.
fn output(data: &[u8]) {
    let split = |cut: usize| {
        let (mut lines, mut found) = (Lines::default(), Vec::new());
        for piece in data.chunks(cut) {
            lines.push(piece, |line| found.push(line));
        }
        found.extend(lines.finish());
        found
    };
    let lines = split(MAX_LINE);
    assert_eq!(lines, split(3), "it depends on how the bytes arrive");
    assert!(lines.iter().all(|line| line.len() <= MAX_LINE && !line.contains(&b'\n')));
    let bytes: usize = lines.iter().map(Vec::len).sum();
    assert_eq!(bytes, data.iter().filter(|byte| **byte != b'\n').count());
    if let Some(record) = Record::parse(data) {
        assert!(kmsg::unescape(record.text).len() <= record.text.len());
    }
    if let Ok(call) = Call::from_line(&String::from_utf8_lossy(data)) {
        let line = call.line();
        assert_eq!(line.find('\n'), Some(line.len() - 1), "{line:?}");
        let again = Call::from_line(&line).map(|call| call.line());
        assert_eq!(again.as_ref(), Ok(&line));
    }
}

/// What an agent finds of the log of the one before it, and what is left of it when it is thinned.
fn agent_log(data: &[u8]) {
    let events = chunk::parse_tail(data);
    if let Ok(all) = chunk::parse(data) {
        assert_eq!(all, events);
    }
    assert_eq!(chunk::parse(&chunk::frames(&events)).ok().as_ref(), Some(&events));
    for keep in [Keep::All, Keep::Structure, Keep::Essence] {
        let thin = chunk::thin(events.clone(), keep);
        assert!(thin.len() <= events.len() && thin.is_empty() == events.is_empty());
    }
}

/// What a controller asks.
fn agent_requests(data: &[u8]) {
    let mut frames = FrameReader::new();
    for piece in data.chunks(1000) {
        frames.push(piece);
        while let Ok(Some(request)) = frames.next_frame::<AgentRequest>() {
            if let AgentRequest::Blob { data, .. } = request {
                assert!(data.len() <= MAX_FRAME);
            }
        }
        if frames.pending() >= 4 + MAX_FRAME {
            return;
        }
    }
}

/// Files of `/proc`, of a new system, and of the agent's own.
fn agent_texts(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    assert!(console::local_v4(&text).iter().all(|ip| !ip.is_loopback()));
    console::local_v6(&text);
    assert!(raw::of_kinds(&text, &text).iter().all(|numbers| numbers.first <= numbers.last));
    let counts = writes::parse(&text);
    assert_eq!(writes::written(&counts, &counts), []);
    assert_eq!(writes::uncounted(&counts, &counts), Vec::<String>::new());
    writes::written(&writes::parse(""), &counts);
    if let Some(entry) = finish::grub_entry(&text) {
        assert!(!entry.kernel.contains(char::is_whitespace));
    }
    assert!(payload::console_words(&text).split_whitespace().all(|word| word.starts_with("console=")));
    for line in text.lines() {
        if let Some((name, ..)) = modules::static_node(line) {
            assert!(Path::new(name).components().all(|part| matches!(part, Component::Normal(_))), "{name}");
        }
    }
}

/// Lines of `authorized_keys`. One with options lets nobody in.
fn authorized_keys(data: &[u8]) {
    let lines: Vec<String> = String::from_utf8_lossy(data).lines().map(str::to_owned).collect();
    let (_, problems) = ssh::Keys::parse(&lines);
    assert!(problems.len() <= lines.len());
    let restricted: Vec<String> = lines.iter().map(|line| format!("restrict {line}")).collect();
    assert!(ssh::Keys::parse(&restricted).0.is_empty(), "{lines:?}");
}

/// A base image, unpacked.
fn unpack_cpio(data: &[u8]) {
    let room = Room::new();
    let root = room.0.join("root");
    let whole = unpack::cpio(data, &root, &["spared"], |_| {});
    room.check();
    if let Ok(digest) = whole {
        assert_eq!(digest, anemos_host::sha256::digest(data));
    }
}

/// A payload: a tar archive. It is packed here, since no input would have a checksum that is right.
fn unpack_payload(data: &[u8]) {
    let room = Room::new();
    let pack = || -> io::Result<PathBuf> {
        let path = room.0.join("payload.tar.zst");
        let mut packed = zstd::stream::write::Encoder::new(fs::File::create(&path)?, 1)?;
        packed.write_all(&with_checksums(data))?;
        packed.finish()?;
        Ok(path)
    };
    let path = pack().expect("there is room in the directory for temporary files");
    let digest = unpack::digest_of(&path).expect("it was just written");
    // Whether it is refused is of no matter here.
    let _ = unpack::payload(&path, digest, &room.0.join("root/payload"));
    room.check();
}

/// The blocks of a tar archive, each with the checksum that it would have as a header.
fn with_checksums(data: &[u8]) -> Vec<u8> {
    let mut archive = data.to_vec();
    archive.resize(data.len().next_multiple_of(512) + 1024, 0);
    for block in archive.chunks_exact_mut(512).filter(|block| block.get(257..262) == Some(b"ustar")) {
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    archive
}

/// A directory with one to unpack into, and what must stay as it is.
struct Room(PathBuf);

const KEPT: [&str; 2] = ["outside", "root/spared"];

impl Room {
    fn new() -> Self {
        let room = Self(std::env::temp_dir().join(format!("anemos-fuzz-{}", std::process::id())));
        let _ = fs::remove_dir_all(&room.0);
        let make = || -> io::Result<()> {
            for kept in KEPT {
                fs::create_dir_all(room.0.join(kept))?;
                fs::write(room.0.join(kept).join("file"), "kept")?;
            }
            fs::create_dir(room.0.join("root/payload"))?;
            // An archive reaches what is outside by this name or by dots.
            let link = room.0.join("root/link");
            std::os::unix::fs::symlink("../outside", link)
        };
        make().expect("the directory for temporary files can be written");
        room
    }

    fn check(&self) {
        for kept in KEPT {
            let dir = self.0.join(kept);
            let mode = |path: &Path| fs::symlink_metadata(path).map(|found| (found.mode() & 0o7777, found.uid())).ok();
            assert_eq!(mode(&dir), mode(&self.0.join("outside")), "{kept} was changed");
            assert_eq!(mode(&dir).map(|(mode, _)| mode & 0o2), Some(0), "{kept} was changed");
            assert_eq!(fs::read(dir.join("file")).ok().as_deref(), Some(&b"kept"[..]), "{kept} was changed");
            assert_eq!(fs::read_dir(&dir).map(Iterator::count).ok(), Some(1), "{kept} was changed");
        }
        let around = fs::read_dir(&self.0).map(Iterator::count).unwrap_or_default();
        let archive = self.0.join("payload.tar.zst").exists();
        assert_eq!(around, 2 + usize::from(archive), "something was made beside the root");
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
#[path = "../../fuzz/seeds.rs"]
mod seeds;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_and_what_is_near_them() {
        seeds::run(TARGETS, 256);
    }

    #[test]
    fn seeds_that_are_unpacked() {
        if crate::skip::without_root("only root may give files to others") {
            return;
        }
        seeds::run(FILES, 64);
    }
}
