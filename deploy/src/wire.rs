//! Frames on the standard streams, each side in a thread of its own, so that neither a silent nor a slow controller
//! can stop the stage from seeing a deadline.

use std::io::{Read, Write};
use std::sync::mpsc::{self, Sender, SyncSender};
use std::time::Duration;

use anemos_proto::codec::{self, FrameReader};
use anemos_proto::hello::{Greeting, Hello, Role};
use anemos_proto::stage::{StageReply, StageRequest};

/// What came from the controller.
#[derive(Debug)]
pub enum Input {
    /// A request.
    Request(Box<StageRequest>),
    /// The controller has closed its side.
    Closed,
    /// What came is not the protocol, because …
    Broken(String),
}

enum Outgoing {
    Bytes(Vec<u8>),
    Flush(SyncSender<()>),
}

/// Sends replies to the controller, in order. Sending never blocks.
#[derive(Clone)]
pub struct Output(Sender<Outgoing>);

impl Output {
    /// Starts writing to `sink`, hello first.
    pub fn start(mut sink: impl Write + Send + 'static, build: &str) -> std::io::Result<Self> {
        let (sender, receiver) = mpsc::channel();
        let hello = Hello::new(Role::Stage, build).encode();
        std::thread::Builder::new().name("output".into()).spawn(move || {
            // Errors are ignored: the reading thread sees it when the controller is gone, and nobody is left to be told
            // here.
            let mut alive = sink.write_all(&hello).and_then(|()| sink.flush()).is_ok();
            while let Ok(next) = receiver.recv() {
                match next {
                    Outgoing::Bytes(bytes) => {
                        alive = alive && sink.write_all(&bytes).and_then(|()| sink.flush()).is_ok();
                    }
                    Outgoing::Flush(done) => _ = done.send(()),
                }
            }
        })?;
        Ok(Self(sender))
    }

    /// Sends a reply.
    pub fn send(&self, reply: &StageReply) {
        match codec::encode_frame(reply) {
            Ok(frame) => _ = self.0.send(Outgoing::Bytes(frame)),
            Err(error) => eprintln!("anemos-stage: a reply can't be encoded: {error}"),
        }
    }

    /// Waits until everything sent so far is written, at most `limit`.
    pub fn flush(&self, limit: Duration) {
        let (done, wait) = mpsc::sync_channel(1);
        if self.0.send(Outgoing::Flush(done)).is_ok() {
            // The caller goes on whether or not the bytes were written in time.
            _ = wait.recv_timeout(limit);
        }
    }
}

/// Reads the controller's hello and then requests from `source`, and hands each request to `deliver`, which says
/// whether to go on; ends with [`Input::Closed`] or [`Input::Broken`]. `build` is what this side calls itself.
pub fn read(source: impl Read, build: &str, mut deliver: impl FnMut(Input) -> bool) {
    if let Some(last) = read_requests(source, build, &mut deliver) {
        deliver(last);
    }
}

fn read_requests(mut source: impl Read, build: &str, deliver: &mut impl FnMut(Input) -> bool) -> Option<Input> {
    let broken = |why: &dyn std::fmt::Display| Some(Input::Broken(why.to_string()));
    let mut buffer = vec![0; 64 * 1024];
    let mut greeting = Greeting::new(Role::Controller, build);
    let mut greeted = false;
    let mut frames = FrameReader::new();
    loop {
        let got = match source.read(&mut buffer) {
            Ok(0) if frames.pending() == 0 && (greeted || greeting.seen().is_empty()) => return Some(Input::Closed),
            Ok(0) => return broken(&"it ended in the middle of a message"),
            Ok(got) => &buffer[..got],
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return broken(&error),
        };
        if greeted {
            frames.push(got);
        } else {
            match greeting.push(got) {
                Ok(None) => continue,
                Ok(Some(rest)) => {
                    greeted = true;
                    frames.push(&rest);
                }
                Err(error) => return broken(&error),
            }
        }
        loop {
            match frames.next_frame() {
                Ok(Some(request)) => {
                    if !deliver(Input::Request(Box::new(request))) {
                        return None;
                    }
                }
                Ok(None) => break,
                Err(error) => return broken(&error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A source that gives one piece for each read.
    struct Pieces(Vec<Vec<u8>>);

    impl Read for Pieces {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            if self.0.is_empty() {
                return Ok(0);
            }
            let piece = self.0.remove(0);
            buffer[..piece.len()].copy_from_slice(&piece);
            Ok(piece.len())
        }
    }

    fn inputs(pieces: Vec<Vec<u8>>) -> Vec<String> {
        let mut inputs = Vec::new();
        read(Pieces(pieces), "test", |input| {
            inputs.push(match input {
                Input::Request(request) => format!("{request:?}"),
                Input::Closed => "closed".into(),
                Input::Broken(why) => format!("broken: {why}"),
            });
            true
        });
        inputs
    }

    #[test]
    fn requests_come_in_any_pieces() {
        let mut bytes = Hello::new(Role::Controller, "test").encode();
        bytes.extend(codec::encode_frame(&StageRequest::Probe).unwrap());
        bytes.extend(codec::encode_frame(&StageRequest::Abort).unwrap());
        for size in [1, 3, 7, bytes.len()] {
            let pieces = bytes.chunks(size).map(<[u8]>::to_vec).collect();
            assert_eq!(inputs(pieces), ["Probe", "Abort", "closed"]);
        }
    }

    #[test]
    fn what_is_no_controller_is_refused() {
        assert_eq!(inputs(vec![]), ["closed"]);
        assert!(inputs(vec![b"GET / HTTP/1.0\r\n".to_vec()])[0].contains("did not speak"));
        assert!(inputs(vec![Hello::new(Role::Agent, "x").encode()])[0].contains("Agent"));
        let cut = Hello::new(Role::Controller, "x").encode()[..5].to_vec();
        assert!(inputs(vec![cut])[0].contains("middle"));
        let mut garbage = Hello::new(Role::Controller, "x").encode();
        garbage.extend([0xff; 8]);
        assert!(inputs(vec![garbage])[0].contains("longer than the limit"));
    }
}
