//! What the fuzzer calls: everything here that reads bytes of somebody else's, with what must hold for all of them.

use std::fmt::Debug;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::agent::{AgentReply, AgentRequest};
use crate::codec::{Decompressor, FrameReader, MAX_FRAME, from_bytes, to_bytes};
use crate::config::{HostConfig, RunConfig};
use crate::host::DiskId;
use crate::stage::{StageReply, StageRequest};
use crate::{Digest, Greeting, Hello, Role, RunId};

/// What is done with an input.
pub type Target = fn(&[u8]);

/// Targets by name.
pub const TARGETS: &[(&str, Target)] = &[("frames", frames), ("hello", hello), ("stream", stream), ("ids", ids)];

/// Frames as each side reads them, and the files that have no frame. The first byte says of which type.
///
/// What is read is written as what is read again.
fn frames(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else { return };
    match kind % 6 {
        0 => messages::<StageRequest>(rest),
        1 => messages::<StageReply>(rest),
        2 => messages::<AgentRequest>(rest),
        3 => messages::<AgentReply>(rest),
        4 => file::<RunConfig>(rest),
        _ => file::<HostConfig>(rest),
    }
}

fn messages<T: Serialize + DeserializeOwned + PartialEq + Debug>(data: &[u8]) {
    let read = |pieces: &mut dyn Iterator<Item = &[u8]>| {
        let (mut reader, mut found) = (FrameReader::new(), Vec::new());
        for piece in pieces {
            reader.push(piece);
            loop {
                match reader.next_frame::<T>() {
                    Ok(Some(message)) => found.push(message),
                    Ok(None) => break,
                    Err(error) => return (found, Some(error.to_string())),
                }
            }
        }
        (found, None)
    };
    let whole = read(&mut std::iter::once(data));
    assert_eq!(whole, read(&mut data.chunks(7)), "it depends on how the bytes arrive");
    whole.0.iter().for_each(same_again);
}

fn file<T: Serialize + DeserializeOwned + PartialEq + Debug>(data: &[u8]) {
    if let Ok(value) = from_bytes::<T>(data) {
        same_again(&value);
    }
}

fn same_again<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: &T) {
    let bytes = to_bytes(value).expect("what was read can be written");
    assert_eq!(from_bytes::<T>(&bytes).as_ref().ok(), Some(value));
}

/// The first words of each side, however they arrive. With an odd first byte a good hello comes before the others.
fn hello(data: &[u8]) {
    let data = &match data.split_first() {
        Some((first, rest)) if first % 2 == 1 => [&Hello::new(Role::Agent, "0.1.0").encode(), rest].concat(),
        _ => data.to_vec(),
    }[..];
    for role in [Role::Controller, Role::Stage, Role::Agent] {
        let read = |pieces: &mut dyn Iterator<Item = &[u8]>| {
            let (mut greeting, mut rest) = (Greeting::new(role, "0.1.0"), None::<Vec<u8>>);
            for piece in pieces {
                match &mut rest {
                    Some(rest) => rest.extend_from_slice(piece),
                    None => rest = greeting.push(piece).map_err(|error| std::mem::discriminant(&error))?,
                }
            }
            Ok::<_, std::mem::Discriminant<crate::hello::HelloError>>(rest)
        };
        let whole = read(&mut std::iter::once(data));
        assert_eq!(whole, read(&mut data.chunks(1)), "it depends on how the bytes arrive");
        if let Ok(Some(rest)) = whole {
            assert!(data.ends_with(&rest));
        }
    }
}

/// The agent's side of a conversation: one zstd stream of frames.
fn stream(data: &[u8]) {
    let mut decompressor = Decompressor::new().expect("zstd starts");
    let mut frames = FrameReader::new();
    let mut left = 4 * MAX_FRAME;
    for piece in data.chunks(1000) {
        let read = decompressor.decompress(piece, |plain| {
            // The caller may say that it is enough.
            left = left.checked_sub(plain.len()).ok_or(crate::codec::CodecError::TooLong(plain.len()))?;
            frames.push(plain);
            while frames.next_frame::<AgentReply>()?.is_some() {}
            assert!(frames.pending() < 4 + MAX_FRAME, "more than a frame waits");
            Ok(())
        });
        if read.is_err() {
            return;
        }
    }
}

/// Names that come as text. What is read is written as it was read.
fn ids(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(digest) = text.parse::<Digest>() {
        assert_eq!(digest.to_string(), text.to_ascii_lowercase());
    }
    if let Ok(run) = text.parse::<RunId>() {
        assert_eq!(run.as_str(), text);
        assert!(!text.contains(['/', '\0']), "it is a name of a file");
    }
    let disk = DiskId { name: String::new(), serial: None, wwid: None, path: text.to_owned(), size: 0 };
    if let Some(place) = disk.place() {
        // The place of a place is itself: nothing in it changes between boots.
        assert_eq!(DiskId { path: format!("/sys/devices/{place}"), ..disk }.place(), Some(place));
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
}
