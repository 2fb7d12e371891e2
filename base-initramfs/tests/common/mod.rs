//! Packages made on the spot, and a web server that can misbehave.
#![allow(dead_code, missing_docs, reason = "two tests have this module, and neither uses all of it")]

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use anemos_base::{Error, Exclude, Group, Image, Lock, Package, Packages, Sha256, Time, build};

/// One entry of a package to be made.
#[derive(Clone, Debug)]
pub enum Item {
    Dir(&'static str),
    File(&'static str, Vec<u8>),
    Hard(&'static str, &'static str),
    Soft(&'static str, &'static str),
}

pub fn file(path: &'static str, text: &str) -> Item {
    Item::File(path, text.as_bytes().to_vec())
}

/// Writes the name into the header as it is: the tar crate would refuse the names that tests need.
fn raw_header(path: &str, kind: tar::EntryType, size: usize) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(if kind == tar::EntryType::Directory { 0o755 } else { 0o644 });
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(12345);
    header.set_size(size as u64);
    header
}

pub fn tar_of(items: &[Item]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for item in items {
        let (mut header, contents, target) = match item {
            Item::Dir(path) => (raw_header(path, tar::EntryType::Directory, 0), &[][..], ""),
            Item::File(path, bytes) => (raw_header(path, tar::EntryType::Regular, bytes.len()), &bytes[..], ""),
            Item::Hard(path, target) => (raw_header(path, tar::EntryType::Link, 0), &[][..], *target),
            Item::Soft(path, target) => (raw_header(path, tar::EntryType::Symlink, 0), &[][..], *target),
        };
        header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
        header.set_cksum();
        builder.append(&header, contents).unwrap();
    }
    builder.into_inner().unwrap()
}

pub fn ar_of(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut ar = b"!<arch>\n".to_vec();
    for (name, bytes) in members {
        ar.extend_from_slice(
            format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n", 0, 0, 0, 100_644, bytes.len()).as_bytes(),
        );
        ar.extend_from_slice(bytes);
        if bytes.len() % 2 == 1 {
            ar.push(b'\n');
        }
    }
    ar
}

pub fn deb_of(items: &[Item]) -> Vec<u8> {
    let data = zstd::encode_all(&tar_of(items)[..], 1).unwrap();
    ar_of(&[("debian-binary", b"2.0\n"), ("control.tar.zst", b"x"), ("data.tar.zst", &data)])
}

/// Packages in memory.
#[derive(Default)]
pub struct Shelf(pub HashMap<String, Vec<u8>>);

impl Packages for Shelf {
    fn get(&self, package: &Package, _stop: &AtomicBool) -> Result<Vec<u8>, Error> {
        Ok(self.0[&package.path].clone())
    }

    fn store(&self, package: &Package, mut into: &File) -> Result<(), Error> {
        let what = || package.path.clone();
        into.write_all(&self.0[&package.path]).map_err(|source| Error::Io { what: what(), source })
    }
}

/// A lock for these packages, its image's hash found by building it once.
pub fn locked(debs: &[(&str, Vec<u8>)]) -> Result<(Lock, Shelf), Error> {
    locked_groups(&[("core", debs)])
}

/// A package's name, and the package.
pub type NamedDeb<'a> = (&'a str, Vec<u8>);

/// A lock for the packages of several groups.
pub fn locked_groups(groups: &[(&str, &[NamedDeb<'_>])]) -> Result<(Lock, Shelf), Error> {
    let mut shelf = Shelf::default();
    let mut lock = Lock {
        arch: "amd64".to_owned(),
        suite: "trixie".to_owned(),
        made: Time::from_unix(1_800_000_000),
        snapshot: None,
        skeleton: anemos_base::skeleton_hash(),
        exclude: vec![Exclude::new("usr/share/doc/**").unwrap()],
        groups: Vec::new(),
        kernel: None,
    };
    for (name, debs) in groups {
        let mut packages = Vec::new();
        for (name, bytes) in *debs {
            let path = format!("pool/main/{name}_1_all.deb");
            packages.push(Package {
                name: (*name).to_owned(),
                version: "1".to_owned(),
                path: path.clone(),
                security: false,
                size: bytes.len() as u64,
                sha256: Sha256::of(bytes),
            });
            shelf.0.insert(path, bytes.clone());
        }
        let mut group = Group {
            name: (*name).to_owned(),
            requires: Vec::new(),
            on_demand: false,
            image: Sha256::from_bytes([0; 32]),
            image_size: 64 << 20,
            packages,
        };
        let mut image = Vec::new();
        match build(&lock, &group, &shelf, 1, &mut image, &mut |_| {}) {
            Err(Error::Image(anemos_base::ImageError::Hash { found, .. })) => group.image = found,
            Err(other) => return Err(other),
            Ok(_) => unreachable!("no image hashes to zero"),
        }
        group.image_size = zstd::decode_all(&image[..]).unwrap().len() as u64;
        lock.groups.push(group);
    }
    Ok((lock, shelf))
}

/// The image of the lock's first group, uncompressed.
pub fn image(lock: &Lock, packages: &dyn Packages) -> Result<(Image, Vec<u8>), Error> {
    image_of(lock, 0, packages)
}

/// The image of one of the lock's groups, uncompressed.
pub fn image_of(lock: &Lock, group: usize, packages: &dyn Packages) -> Result<(Image, Vec<u8>), Error> {
    let mut image = Vec::new();
    let built = build(lock, &lock.groups[group], packages, 3, &mut image, &mut |_| {})?;
    Ok((built, zstd::decode_all(&image[..]).unwrap()))
}

/// What a path is answered with.
#[derive(Clone)]
pub enum Reply {
    Bytes(Vec<u8>),
    /// Promises all of it, sends only so much, and hangs up.
    Cut(Vec<u8>, usize),
    /// Sends so much and then nothing, until the client goes.
    Stall(Vec<u8>, usize),
    Status(u16),
    /// A status and further headers, each with its end of line.
    With(u16, &'static str),
    /// So many times a status with `Retry-After`, if any, and then the bytes.
    Busy(usize, u16, Option<u64>, Vec<u8>),
    Elsewhere(String),
    /// To GET. HEAD is not allowed.
    NoHead(Vec<u8>),
    /// Hangs up without an answer.
    Nothing,
    /// So many times another reply, and then the bytes.
    First(usize, Box<Reply>, Vec<u8>),
}

/// A web server on a free loopback port, that ends with the process.
pub struct Server {
    pub url: String,
    pub asked: Arc<Mutex<Vec<String>>>,
    replies: Arc<Mutex<HashMap<String, Reply>>>,
}

impl Server {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (replies, asked) = (Arc::<Mutex<HashMap<String, Reply>>>::default(), Arc::<Mutex<Vec<String>>>::default());
        let server = Self { url, asked: Arc::clone(&asked), replies: Arc::clone(&replies) };
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (replies, asked) = (Arc::clone(&replies), Arc::clone(&asked));
                std::thread::spawn(move || answer(stream, &replies, &asked));
            }
        });
        server
    }

    pub fn set(&self, path: &str, reply: Reply) {
        self.set_at(&format!("/{path}"), reply);
    }

    /// For what is asked for with these very words, as a proxy is for a whole address.
    pub fn set_at(&self, asked: &str, reply: Reply) {
        self.replies.lock().unwrap().insert(asked.to_owned(), reply);
    }
}

fn answer(mut stream: TcpStream, replies: &Mutex<HashMap<String, Reply>>, asked: &Mutex<Vec<String>>) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut request = String::new();
    reader.read_line(&mut request).ok()?;
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header).ok()? <= 2 {
            break;
        }
    }
    let only_head = request.starts_with("HEAD ");
    let path = request.split_whitespace().nth(1)?.to_owned();
    asked.lock().unwrap().push(path.clone());
    let reply = match replies.lock().unwrap().get_mut(&path) {
        None => Reply::Status(404),
        Some(Reply::Busy(0, _, _, bytes) | Reply::First(0, _, bytes)) => Reply::Bytes(bytes.clone()),
        Some(Reply::First(times, reply, _)) => {
            *times -= 1;
            Reply::clone(reply)
        }
        Some(reply) => {
            let now = reply.clone();
            if let Reply::Busy(times, ..) = reply {
                *times -= 1;
            }
            now
        }
    };
    let head = |status: u16, length: usize, more: &str| {
        format!("HTTP/1.1 {status} X\r\nContent-Length: {length}\r\nConnection: close\r\n{more}\r\n")
    };
    match reply {
        Reply::NoHead(_) if only_head => stream.write_all(head(405, 0, "").as_bytes()).ok()?,
        Reply::Bytes(bytes) if only_head => stream.write_all(head(200, bytes.len(), "").as_bytes()).ok()?,
        Reply::Bytes(bytes) | Reply::NoHead(bytes) => {
            stream.write_all(head(200, bytes.len(), "").as_bytes()).ok()?;
            stream.write_all(&bytes).ok()?;
        }
        Reply::Cut(bytes, at) => {
            stream.write_all(head(200, bytes.len(), "").as_bytes()).ok()?;
            stream.write_all(&bytes[..at]).ok()?;
        }
        Reply::Stall(bytes, at) => {
            stream.write_all(head(200, bytes.len(), "").as_bytes()).ok()?;
            stream.write_all(&bytes[..at]).ok()?;
            // Ends when the client hangs up.
            let _ = reader.read_line(&mut String::new());
        }
        Reply::Busy(_, status, after, _) => {
            let after = after.map_or_else(String::new, |seconds| format!("Retry-After: {seconds}\r\n"));
            stream.write_all(head(status, 0, &after).as_bytes()).ok()?;
        }
        Reply::Nothing | Reply::First(..) => {}
        Reply::With(status, headers) => stream.write_all(head(status, 0, headers).as_bytes()).ok()?,
        Reply::Status(status) => stream.write_all(head(status, 0, "").as_bytes()).ok()?,
        Reply::Elsewhere(to) => stream.write_all(head(302, 0, &format!("Location: {to}\r\n")).as_bytes()).ok()?,
    }
    Some(())
}
