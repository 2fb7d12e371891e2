//! The daemon's page, spoken to as a browser would, and as no browser would.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::daemon::{LONG, Workstation};

/// Where a daemon's page is, and what lets one in.
#[derive(Clone)]
pub struct Page {
    /// `127.0.0.1:PORT`.
    pub address: String,
    pub token: String,
}

/// An answer.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    /// By their names in lower case.
    pub headers: BTreeMap<String, String>,
    pub body: String,
}

impl Reply {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

impl Page {
    /// That of the daemon of this workstation.
    pub fn of(workstation: &Workstation) -> Self {
        let until = Instant::now() + LONG;
        let address = loop {
            let said = workstation.said();
            let found = said.lines().find_map(|line| line.strip_prefix("note: the page is "));
            if let Some((url, _)) = found.and_then(|found| found.split_once("/,")) {
                break url.split_once("://").unwrap().1.to_owned();
            }
            assert!(Instant::now() < until, "it has no page: {said}");
            std::thread::sleep(Duration::from_millis(20));
        };
        let token = fs::read_to_string(workstation.path("state/anemos/web-token")).unwrap();
        Self { address, token: token.trim().to_owned() }
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream
    }

    /// Sends a request as it is, and reads the answer to its end.
    pub fn raw(&self, request: &str) -> Reply {
        let mut stream = self.connect();
        stream.write_all(request.as_bytes()).unwrap();
        read(&mut BufReader::new(stream))
    }

    /// A request with these headers, and `Host`.
    pub fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Reply {
        self.raw(&self.request(method, path, headers, body))
    }

    fn request(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> String {
        let mut request = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
        if !headers.iter().any(|(name, _)| *name == "Host") {
            request.extend(["Host: ", &self.address, "\r\n"]);
        }
        request.extend(headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")));
        if !body.is_empty() {
            request.extend(["Content-Length: ", &body.len().to_string(), "\r\n"]);
        }
        request + "\r\n" + body
    }

    pub fn bearer(&self) -> String {
        format!("Bearer {}", self.token)
    }

    /// What is at a path, for whoever has the token.
    pub fn get(&self, path: &str) -> Reply {
        self.ask("GET", path, &[("Authorization", &self.bearer())], "")
    }

    pub fn post(&self, path: &str, body: &Value) -> Reply {
        let headers = [("Authorization", &*self.bearer()), ("Content-Type", "application/json")];
        self.ask("POST", path, &headers, &body.to_string())
    }

    /// Waits until what is at a path is as it should be.
    pub fn wait(&self, path: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        let until = Instant::now() + LONG;
        loop {
            let value = self.get(path).json();
            if is_it(&value) {
                return value;
            }
            assert!(Instant::now() < until, "{path} stays {value}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Listens to events, after the one with this id.
    pub fn events(&self, path: &str, after: Option<&str>) -> Events {
        let bearer = self.bearer();
        let mut headers = vec![("Authorization", bearer.as_str())];
        headers.extend(after.map(|id| ("Last-Event-ID", id)));
        let mut stream = self.connect();
        stream.write_all(self.request("GET", path, &headers, "").as_bytes()).unwrap();
        let mut from = BufReader::new(stream);
        let (status, headers) = head(&mut from);
        assert_eq!((status, headers["content-type"].as_str()), (200, "text/event-stream"));
        Events { from, text: String::new() }
    }
}

/// An event.
#[derive(Debug, Clone)]
pub struct Event {
    pub id: Option<String>,
    pub name: String,
    pub data: Value,
}

/// A stream of events.
pub struct Events {
    from: BufReader<TcpStream>,
    text: String,
}

impl Iterator for Events {
    type Item = Event;

    /// The next one; `None` at the end.
    fn next(&mut self) -> Option<Event> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
                let (id, name, data) = (field("id: "), field("event: "), field("data: "));
                self.text = rest.to_owned();
                let Some(name) = name else { continue };
                return Some(Event { id, name, data: serde_json::from_str(&data.unwrap()).unwrap() });
            }
            self.text += &chunk(&mut self.from)?;
        }
    }
}

fn line(from: &mut impl BufRead) -> String {
    let mut line = String::new();
    from.read_line(&mut line).unwrap();
    line.trim_end_matches(['\r', '\n']).to_owned()
}

fn head(from: &mut impl BufRead) -> (u16, BTreeMap<String, String>) {
    let first = line(from);
    let status = first.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.unwrap_or_else(|| panic!("no answer: {first:?}"));
    let mut headers = BTreeMap::new();
    loop {
        let line = line(from);
        let Some((name, value)) = line.split_once(": ") else { break };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    (status, headers)
}

/// The next piece of a body that comes in pieces; `None` at the end.
fn chunk(from: &mut impl BufRead) -> Option<String> {
    let size = usize::from_str_radix(&line(from), 16).ok().filter(|size| *size > 0)?;
    let mut bytes = vec![0; size];
    from.read_exact(&mut bytes).unwrap();
    line(from);
    Some(String::from_utf8(bytes).unwrap())
}

/// Reads an answer to its end.
pub fn read(from: &mut impl BufRead) -> Reply {
    let (status, headers) = head(from);
    let body = if headers.get("transfer-encoding").is_some_and(|how| how == "chunked") {
        std::iter::from_fn(|| chunk(from)).collect()
    } else {
        let size = headers.get("content-length").map_or(0, |size| size.parse().unwrap());
        let mut bytes = vec![0; size];
        from.read_exact(&mut bytes).unwrap();
        String::from_utf8(bytes).unwrap()
    };
    Reply { status, headers, body }
}
