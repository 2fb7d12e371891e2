//! What is said, as JSON. Pure.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anemos_proto::Secret;
use anemos_proto::config::Finish;
use anemos_proto::ids::Digest;
use serde::{Deserialize, Serialize};

use crate::engine::{Limits, sha256};
use crate::plan::Plan;
use crate::run::{Answer, Described, Secrets};

/// Version of the conversation. It changes when a message or a field changes its meaning or goes away.
pub const API: u32 = 1;

/// What a client asks for.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Request {
    /// The first message.
    Hello {
        /// [`API`].
        api: u32,
    },
    /// So many bytes follow the line.
    Blob {
        /// Their SHA-256.
        sha256: Digest64,
        /// How many.
        size: u64,
    },
    /// Have these hosts looked at, and wait for a decision.
    Submit(Box<Submit>),
    /// Wait until all hosts have their plans.
    Plan {
        /// The run.
        run: String,
    },
    /// Decide about the plans.
    Decide {
        /// The run.
        run: String,
        /// Whether the hosts whose plans allow it are deployed.
        approve: bool,
        /// What was looked at: [`Shown::sha256`] of each of these hosts.
        #[serde(default)]
        plans: BTreeMap<String, String>,
    },
    /// Tell what happens to a run's hosts.
    Subscribe {
        /// The run.
        run: String,
        /// Of each host only what comes after this number.
        #[serde(default)]
        after: BTreeMap<String, u64>,
    },
    /// Have hosts of a run do something.
    Wish {
        /// The run.
        run: String,
        /// Which hosts.
        hosts: Vec<String>,
        /// What.
        wish: Wished,
        /// Of `finish`: how.
        #[serde(default)]
        finish: Option<Finishing>,
        /// Of `retry`: another payload, sent before as a blob.
        #[serde(default)]
        payload: Option<Digest64>,
    },
    /// Leave a run's hosts where that costs nothing, as Ctrl-C does, and have nothing to do with it any more.
    Stop {
        /// The run.
        run: String,
    },
    /// The lines that a host has printed.
    Logs {
        /// The run.
        run: String,
        /// The host.
        host: String,
    },
    /// Runs and their hosts.
    List {
        /// Only this one.
        #[serde(default)]
        run: Option<String>,
    },
    /// Which hosts want secrets that were in the memory of a process before.
    Wanting {
        /// The run.
        run: String,
    },
    /// Gives them.
    Give {
        /// The run.
        run: String,
        /// By host.
        secrets: BTreeMap<String, Given>,
    },
    /// Have passphrases and passwords that a run wants asked for in this conversation, as long as it lasts.
    Attend {
        /// The run.
        run: String,
    },
    /// Answers a question.
    Answer {
        /// Its number.
        question: u64,
        /// What was typed, in base64; without it nobody answers.
        #[serde(default, with = "base64_option")]
        base64: Option<Secret>,
    },
}

/// See [`Request::Submit`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Submit {
    /// As `anemos` of the same build describes them.
    pub hosts: Vec<Described>,
    /// By host.
    #[serde(default)]
    pub secrets: BTreeMap<String, Given>,
    /// The hosts.toml that they come from.
    pub hosts_file: PathBuf,
    /// How the run is gone about.
    pub limits: Limits,
    /// Socket of the user's SSH agent.
    #[serde(default)]
    pub agent: Option<PathBuf>,
    /// Passphrases and passwords may be asked for.
    #[serde(default)]
    pub answers: bool,
}

/// Secrets of a host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Given {
    /// In base64, by their names.
    #[serde(default, with = "base64_map")]
    pub files: BTreeMap<String, Secret>,
    /// The URL of a proxy with a password in it, in base64.
    #[serde(default, with = "base64_option")]
    pub proxy: Option<Secret>,
}

impl From<Secrets> for Given {
    fn from(Secrets { files, proxy }: Secrets) -> Self {
        Self { files, proxy }
    }
}

impl From<Given> for Secrets {
    fn from(Given { files, proxy }: Given) -> Self {
        Self { files, proxy }
    }
}

/// What can be wished.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "each is the command of its name")]
pub enum Wished {
    Retry,
    Abort,
    Finish,
}

/// A way out of RAM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "each is the word of `anemos finish`")]
pub enum Finishing {
    Reboot,
    Kexec,
    PowerOff,
    Hold,
}

impl From<Finishing> for Finish {
    fn from(finishing: Finishing) -> Self {
        match finishing {
            Finishing::Reboot => Self::Reboot,
            Finishing::Kexec => Self::Kexec,
            Finishing::PowerOff => Self::PowerOff,
            Finishing::Hold => Self::Hold,
        }
    }
}

/// A SHA-256 in hexadecimal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Digest64(pub Digest);

impl From<Digest64> for String {
    fn from(digest: Digest64) -> Self {
        digest.0.to_string()
    }
}

impl TryFrom<String> for Digest64 {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse().map(Self).map_err(|_| format!("`{text}` is no SHA-256 in hexadecimal"))
    }
}

/// What the daemon says.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Said {
    /// To `hello`.
    Welcome {
        /// [`API`].
        api: u32,
        /// What its build is called.
        build: String,
        /// Its process.
        process: u32,
    },
    /// It is done.
    Done {},
    /// The run has begun.
    Submitted {
        /// Its name.
        run: String,
        /// Its hosts.
        hosts: Vec<String>,
    },
    /// The plans of all hosts that could be looked at.
    Plans {
        /// In the order of hosts.toml.
        plans: Vec<Shown>,
        /// In which order the hosts go.
        order: Option<String>,
    },
    /// What became of a wish.
    Answers {
        /// For each host.
        answers: Vec<Answer>,
    },
    /// Hosts that want secrets.
    Wanting {
        /// The files that hosts.toml named, by host and name.
        hosts: BTreeMap<String, BTreeMap<String, PathBuf>>,
        /// The commands by which those of an IMGBUILD are opened, by host.
        #[serde(default)]
        reveals: BTreeMap<String, String>,
    },
    /// A line of docs/JSON.md. Others follow.
    Line {
        /// It.
        line: serde_json::Value,
    },
    /// No line follows.
    End {},
    /// Something has to be typed.
    Question {
        /// Its number.
        question: u64,
        /// What a person is shown. A host may have written part of it.
        prompt: String,
    },
    /// It can't be done, and nothing was.
    Error(Fault),
}

/// A plan, and what it is called when it is decided about.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Shown {
    /// It, as in docs/JSON.md.
    pub plan: Box<Plan>,
    /// SHA-256 of it.
    pub sha256: String,
}

/// Why something can't be done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// Whose doing it is.
    pub reason: Reason,
    /// For people.
    pub message: String,
}

/// Whose doing it is that something can't be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reason {
    /// What was said can't be understood, or not be done as it was said.
    Input,
    /// It can't be done now.
    State,
    /// Something that should not happen.
    Internal,
}

impl Fault {
    /// What was said is wrong.
    pub fn input(message: impl Into<String>) -> Self {
        Self { reason: Reason::Input, message: message.into() }
    }

    /// It is too early, or too late.
    pub fn state(message: impl Into<String>) -> Self {
        Self { reason: Reason::State, message: message.into() }
    }

    /// Something that should not happen.
    pub fn internal(message: impl Into<String>) -> Self {
        Self { reason: Reason::Internal, message: message.into() }
    }
}

/// Reads a request and its number. An error has the number, if there is one.
pub fn read(line: &[u8]) -> Result<(u64, Request), (Option<u64>, Fault)> {
    // What is wrong is said without the text around it: that may be a secret.
    let wrong = |error: &serde_json::Error| format!("line {} column {}", error.line(), error.column());
    let value: serde_json::Value =
        serde_json::from_slice(line).map_err(|e| (None, Fault::input(format!("this is no JSON: {}", wrong(&e)))))?;
    let number = value["number"].as_u64();
    let Some(number) = number else {
        return Err((None, Fault::input("a request has a `number`, which its answers have as `re`")));
    };
    let named = value["type"].as_str().map(str::to_owned);
    serde_json::from_value(value).map(|request| (number, request)).map_err(|_| {
        let what = named.map_or_else(|| "a request has a `type`".into(), |name| format!("this is no request `{name}`"));
        (Some(number), Fault::input(format!("{what} of version {API}; docs/API.md has what it consists of")))
    })
}

/// An answer as a line, without its newline.
pub fn reply(re: Option<u64>, said: &Said) -> String {
    #[derive(Serialize)]
    struct Reply<'a> {
        re: Option<u64>,
        #[serde(flatten)]
        said: &'a Said,
    }
    // Only paths that are no text can't be written.
    serde_json::to_string(&Reply { re, said }).unwrap_or_else(|error| {
        let said = Said::Error(Fault::internal(error.to_string()));
        serde_json::to_string(&Reply { re, said: &said }).unwrap_or_default()
    })
}

/// [`Said::Line`] with a line that is JSON already.
pub fn reply_line(re: u64, line: &str) -> String {
    format!(r#"{{"re":{re},"type":"line","line":{line}}}"#)
}

/// What a plan is called when it is decided about.
pub fn plan_sha256(plan: &Plan) -> String {
    // A plan is text and numbers.
    sha256(serde_json::to_string(plan).unwrap_or_default().as_bytes()).to_string()
}

mod base64_option {
    use anemos_proto::Secret;
    use data_encoding::BASE64;
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[allow(clippy::ref_option, reason = "serde calls it so")]
    pub(super) fn serialize<S: Serializer>(secret: &Option<Secret>, serializer: S) -> Result<S::Ok, S::Error> {
        secret.as_ref().map(|secret| BASE64.encode(secret.expose())).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Secret>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        text.map(|text| decode(&text).ok_or_else(|| D::Error::custom("no base64"))).transpose()
    }

    pub(super) fn decode(text: &str) -> Option<Secret> {
        BASE64.decode(text.as_bytes()).ok().map(Secret::new)
    }
}

mod base64_map {
    use std::collections::BTreeMap;

    use anemos_proto::Secret;
    use data_encoding::BASE64;
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    use super::base64_option::decode;

    pub(super) fn serialize<S: Serializer>(
        secrets: &BTreeMap<String, Secret>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_map(secrets.iter().map(|(name, secret)| (name, BASE64.encode(secret.expose()))))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BTreeMap<String, Secret>, D::Error> {
        let texts = BTreeMap::<String, String>::deserialize(deserializer)?;
        let secret = |(name, text): (String, String)| {
            decode(&text).map(|secret| (name, secret)).ok_or_else(|| D::Error::custom("no base64"))
        };
        texts.into_iter().map(secret).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_said_without_what_was_said() {
        let answer = br#"{"number":7,"type":"answer","question":1,"base64":"aHVudGVyMg=="}"#;
        let (number, request) = read(answer).unwrap();
        assert_eq!(number, 7);
        let Request::Answer { question: 1, base64: Some(secret) } = &request else { panic!("{request:?}") };
        assert_eq!(secret.expose(), b"hunter2");
        assert!(!format!("{request:?}").contains("hunter2"));
        for (line, number, part) in [
            (&b"hunter2"[..], None, "no JSON"),
            (br#"{"type":"list"}"#, None, "`number`"),
            (br#"{"number":-1,"type":"list"}"#, None, "`number`"),
            (br#"{"number":1}"#, Some(1), "a `type`"),
            (br#"{"number":1,"type":"wipe"}"#, Some(1), "no request `wipe`"),
            (br#"{"number":1,"type":"answer","question":1,"base64":"hunter2"}"#, Some(1), "no request `answer`"),
            (br#"{"number":1,"type":"plan"}"#, Some(1), "no request `plan`"),
        ] {
            let (re, fault) = read(line).unwrap_err();
            assert_eq!((re, fault.reason), (number, Reason::Input), "{fault:?}");
            assert!(fault.message.contains(part) && !fault.message.contains("hunter2"), "{fault:?}");
        }
    }

    #[test]
    fn a_request_is_read_as_it_was_written() {
        let given = Given { files: BTreeMap::from([("token".into(), Secret::new(vec![0, 255]))]), proxy: None };
        let request = Request::Give { run: "r".into(), secrets: BTreeMap::from([("a".into(), given)]) };
        let mut value = serde_json::to_value(&request).unwrap();
        value["number"] = 1.into();
        assert_eq!(value["secrets"]["a"]["files"]["token"], "AP8=");
        let (_, again) = read(value.to_string().as_bytes()).unwrap();
        assert_eq!(format!("{again:?}"), format!("{request:?}"));
        let line = reply_line(3, r#"{"type":"link"}"#);
        let reply: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert!(reply["re"] == 3 && reply["type"] == "line" && reply["line"]["type"] == "link");
    }
}
