//! The wire: golden bytes, round trips, and what arbitrary bytes may not do.

use std::fmt::{Debug, Write as _};

use anemos_proto::agent::{AgentReply, AgentRequest};
use anemos_proto::codec::{
    CodecError, Compressor, Decompressor, FrameReader, MAX_FRAME, encode_frame, from_bytes, to_bytes,
};
use anemos_proto::config::{HostConfig, RunConfig};
use anemos_proto::hello::{HelloError, MAX_BUILD};
use anemos_proto::stage::{StageReply, StageRequest};
use anemos_proto::{Greeting, Hello, Role, TYPES, VERSION};
use proptest::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;

mod samples;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

fn render<T: Serialize + Debug>(out: &mut String, title: &str, values: &[T]) {
    for (number, value) in values.iter().enumerate() {
        writeln!(out, "{title} {number} {}", hex(&encode_frame(value).unwrap())).unwrap();
    }
}

/// Frames written by this version must never change: another build of the same version has to read them.
/// `UPDATE_GOLDEN=1` rewrites the file, together with a new protocol version.
#[test]
fn golden_bytes() {
    let mut now = String::new();
    writeln!(now, "version {VERSION}").unwrap();
    for role in [Role::Controller, Role::Stage, Role::Agent] {
        // Not the true types, which are not known until the document has been rewritten too.
        let hello = Hello { types: 0x0102_0304_0506_0708, ..Hello::new(role, "0.1.0") };
        writeln!(now, "hello {role:?} {}", hex(&hello.encode())).unwrap();
    }
    render(&mut now, "stage-request", &samples::stage_requests());
    render(&mut now, "stage-reply", &samples::stage_replies());
    render(&mut now, "agent-request", &samples::agent_requests());
    render(&mut now, "agent-reply", &samples::agent_replies());
    render(&mut now, "run-config", &[samples::run_config()]);
    render(&mut now, "host-config", &[samples::host_config()]);
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden.txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(path, &now).unwrap();
    }
    let golden = std::fs::read_to_string(path).unwrap();
    for (line, (now, golden)) in now.lines().zip(golden.lines()).enumerate() {
        assert_eq!(now, golden, "golden.txt line {}", line + 1);
    }
    assert_eq!(now.lines().count(), golden.lines().count());
}

fn round_trip<T: Serialize + DeserializeOwned + PartialEq + Debug>(values: &[T]) {
    let mut stream = Vec::new();
    for value in values {
        stream.extend(encode_frame(value).unwrap());
    }
    // Byte by byte: a frame may be cut anywhere.
    let mut reader = FrameReader::new();
    let mut read = Vec::new();
    for byte in stream {
        reader.push(&[byte]);
        while let Some(value) = reader.next_frame::<T>().unwrap() {
            read.push(value);
        }
    }
    assert_eq!(reader.pending(), 0);
    assert_eq!(read, values);
}

#[test]
fn every_message_survives_the_wire() {
    round_trip(&samples::stage_requests());
    round_trip(&samples::stage_replies());
    round_trip(&samples::agent_requests());
    round_trip(&samples::agent_replies());
}

#[test]
fn the_agents_stream_is_readable_after_every_flush() {
    let mut compressor = Compressor::new().unwrap();
    let mut decompressor = Decompressor::new().unwrap();
    let mut reader = FrameReader::new();
    for reply in samples::agent_replies() {
        let wire = compressor.compress(&encode_frame(&reply).unwrap()).unwrap();
        decompressor
            .decompress(&wire, |bytes| {
                reader.push(bytes);
                Ok(())
            })
            .unwrap();
        assert_eq!(reader.next_frame::<AgentReply>().unwrap().as_ref(), Some(&reply));
    }
}

/// Few bytes may become many: whoever takes them has no more than a block at a time.
#[test]
fn what_few_bytes_become_comes_in_blocks() {
    let wire = Compressor::new().unwrap().compress(&vec![0; 64 << 20]).unwrap();
    assert!(wire.len() < 64 << 10, "{}", wire.len());
    let (mut decompressor, mut rest, mut blocks) = (Decompressor::new().unwrap(), &wire[..], Vec::new());
    while let Some(block) = decompressor.next_block(&mut rest).unwrap() {
        blocks.push(block.len());
    }
    assert_eq!(blocks.iter().sum::<usize>(), 64 << 20);
    assert!(blocks.iter().all(|block| *block <= 128 << 10), "{blocks:?}");
    assert!(rest.is_empty() && decompressor.next_block(&mut rest).unwrap().is_none());
}

/// A list of empty texts takes many times its bytes.
#[test]
fn a_frame_of_many_small_things_is_refused() {
    let keys = |count| {
        let kind = anemos_proto::event::EventKind::HostKeys(vec![String::new(); count]);
        let event = anemos_proto::event::Event { seq: 1, uptime_ms: 1, wall_ms: 1, kind };
        let mut reader = FrameReader::new();
        reader.push(&encode_frame(&AgentReply::Event(event)).unwrap());
        reader.next_frame::<AgentReply>()
    };
    assert!(keys(100_000).unwrap().is_some());
    assert!(matches!(keys(900_000), Err(CodecError::Malformed(_))));
}

#[test]
fn large_batches_survive_compression() {
    let data: Vec<u8> = (0..3_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let wire = Compressor::new().unwrap().compress(&data).unwrap();
    let mut back = Vec::new();
    let mut decompressor = Decompressor::new().unwrap();
    for part in wire.chunks(777) {
        decompressor
            .decompress(part, |bytes| {
                back.extend_from_slice(bytes);
                Ok(())
            })
            .unwrap();
    }
    assert_eq!(back, data);
}

#[test]
fn a_long_frame_is_refused_by_its_length() {
    let mut reader = FrameReader::new();
    reader.push(&u32::try_from(MAX_FRAME + 1).unwrap().to_be_bytes());
    assert!(matches!(reader.next_frame::<StageReply>(), Err(CodecError::TooLong(_))));
    let long = AgentRequest::Blob { digest: samples::digest(1), data: vec![0; MAX_FRAME] };
    assert!(matches!(encode_frame(&long), Err(CodecError::TooLong(_))));
}

#[test]
fn a_frame_must_be_filled() {
    let mut body = to_bytes(&AgentRequest::Abort).unwrap();
    body.push(0);
    assert!(matches!(from_bytes::<AgentRequest>(&body), Err(CodecError::Malformed(_))));
}

/// A length in a value that the frame can't hold must not be believed.
#[test]
fn claimed_lengths_are_not_allocated() {
    // Variant 1 is `Need`, then a vector length of 2^40 as a bincode varint (253: u64 follows).
    let mut body = vec![1, 253];
    body.extend((1_u64 << 40).to_le_bytes());
    assert!(from_bytes::<StageReply>(&body).is_err());
}

#[test]
fn hellos() {
    let hello = Hello::new(Role::Agent, "0.1.0");
    let mut bytes = hello.encode();
    let length = bytes.len();
    bytes.extend(b"and more");
    for size in [1, 5, length, bytes.len()] {
        let mut greeting = Greeting::new(Role::Agent, "here");
        let mut rest = None;
        for piece in bytes.chunks(size) {
            match &mut rest {
                None => rest = greeting.push(piece).unwrap(),
                Some(rest) => rest.extend_from_slice(piece),
            }
        }
        assert_eq!(rest.as_deref(), Some(&b"and more"[..]), "in pieces of {size}");
    }
    let refused = |expected, bytes: &[u8]| Greeting::new(expected, "there").push(bytes).unwrap_err();
    assert!(matches!(refused(Role::Stage, &hello.encode()), HelloError::Role { .. }));
    let other = Hello { version: VERSION + 1, ..hello.clone() }.encode();
    // The hello of another version may be shorter after the build id.
    let error = refused(Role::Agent, &other[..length - 8]).to_string();
    for said in ["build 0.1.0", "build there", "run the `anemos` that started the deployment"] {
        assert!(error.contains(said), "{error}");
    }
    let other = Hello { types: !TYPES, ..Hello::new(Role::Stage, "0.1.0") };
    let error = refused(Role::Stage, &other.encode()).to_string();
    for said in ["build 0.1.0", "build there", "`make build` makes both"] {
        assert!(error.contains(said), "{error}");
    }
    let mut unknown = hello.encode();
    unknown[6] = 3;
    assert_eq!(refused(Role::Agent, &unknown), HelloError::Malformed);
    let banner = refused(Role::Agent, b"Welcome to host\n").to_string();
    assert!(banner.contains("Welcome to host"), "{banner}");
    assert_eq!(Hello::new(Role::Stage, &"ü".repeat(60)).build.len(), MAX_BUILD);
}

#[test]
fn secrets_do_not_show() {
    let shown = format!("{:?} {:?}", samples::run_config(), samples::host_config());
    assert!(!shown.contains("115, 51"), "{shown}");
    assert!(shown.contains("Secret(6 bytes)"), "{shown}");
}

fn any_bytes_are_harmless<T: DeserializeOwned + Serialize>(bytes: &[u8]) {
    // What decodes must encode again: no value is half there.
    if let Ok(value) = from_bytes::<T>(bytes) {
        assert!(to_bytes(&value).is_ok());
    }
}

/// Flips, cuts and splices of real messages reach further into the decoder than noise does.
fn damaged() -> impl Strategy<Value = Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> = Vec::new();
    seeds.extend(samples::stage_requests().iter().map(|v| to_bytes(v).unwrap()));
    seeds.extend(samples::stage_replies().iter().map(|v| to_bytes(v).unwrap()));
    seeds.extend(samples::agent_requests().iter().map(|v| to_bytes(v).unwrap()));
    seeds.extend(samples::agent_replies().iter().map(|v| to_bytes(v).unwrap()));
    (proptest::sample::select(seeds), proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6))
        .prop_map(|(mut bytes, edits)| {
            for (index, value) in edits {
                let at = index.index(bytes.len());
                bytes[at] = value;
            }
            bytes
        })
}

proptest! {
    #[test]
    fn any_bytes_never_panic(bytes in prop_oneof![proptest::collection::vec(any::<u8>(), 0..600), damaged()]) {
        any_bytes_are_harmless::<StageRequest>(&bytes);
        any_bytes_are_harmless::<StageReply>(&bytes);
        any_bytes_are_harmless::<AgentRequest>(&bytes);
        any_bytes_are_harmless::<AgentReply>(&bytes);
        any_bytes_are_harmless::<RunConfig>(&bytes);
        any_bytes_are_harmless::<HostConfig>(&bytes);
        let _ = Greeting::new(Role::Agent, "").push(&bytes);
        let mut reader = FrameReader::new();
        reader.push(&bytes);
        while let Ok(Some(_)) = reader.next_frame::<AgentReply>() {}
        let mut out = 0;
        let _ = Decompressor::new().unwrap().decompress(&bytes, |block| {
            out += block.len();
            if out > MAX_FRAME { Err(CodecError::TooLong(out)) } else { Ok(()) }
        });
    }

    #[test]
    fn logs_round_trip(lines in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..20)) {
        let replies: Vec<AgentReply> = lines
            .into_iter()
            .enumerate()
            .map(|(n, line)| AgentReply::Event(anemos_proto::event::Event {
                seq: n as u64,
                uptime_ms: n as u64 * 1000,
                wall_ms: u64::MAX - n as u64,
                kind: anemos_proto::event::EventKind::Log { stream: anemos_proto::event::Stream::Stdout, line },
            }))
            .collect();
        round_trip(&replies);
    }
}
