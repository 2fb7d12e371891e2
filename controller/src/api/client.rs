//! A client of the daemon.

use std::io;
use std::path::Path;
use std::sync::Arc;

use tokio::io::AsyncWriteExt;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use super::lines::Lines;
use super::message::{API, Digest64, Fault, Request, Said};
use super::socket;
use crate::engine::Blob;
use crate::ssh::Passphrases;

/// Why the daemon did not do something.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// Nobody listens.
    #[error("no daemon listens in {place}: {why}; start one with `anemos serve`")]
    Nobody {
        /// Where.
        place: String,
        /// Why not.
        why: String,
    },
    /// The connection ended.
    #[error("the connection to the daemon was lost: {0}")]
    Lost(String),
    /// It would not.
    #[error("{}", .0.message)]
    Refused(Fault),
    /// It said something else.
    #[error("the daemon answered what nobody had asked for; it may be of another version than this anemos")]
    Strange,
}

/// A conversation with a daemon. Requests are made one after the other.
#[derive(Debug)]
pub struct Client {
    lines: Lines<OwnedReadHalf>,
    write: OwnedWriteHalf,
    number: u64,
    /// Is asked what has to be typed.
    asks: Arc<dyn Passphrases>,
}

impl Client {
    /// Reaches the daemon that listens in this directory.
    pub async fn connect(dir: &Path, asks: &Arc<dyn Passphrases>) -> Result<Self, ApiError> {
        let nobody = |error: io::Error| ApiError::Nobody { place: dir.display().to_string(), why: error.to_string() };
        let (read, write) = socket::connect(dir).await.map_err(nobody)?.into_split();
        let mut client = Self { lines: Lines::new(read), write, number: 0, asks: Arc::clone(asks) };
        match client.call(&Request::Hello { api: API }).await? {
            Said::Welcome { .. } => Ok(client),
            _ => Err(ApiError::Strange),
        }
    }

    /// Sends a blob.
    pub async fn blob(&mut self, blob: &Blob) -> Result<(), ApiError> {
        let re = self.send(&Request::Blob { sha256: Digest64(blob.id.digest), size: blob.id.size }).await?;
        self.write.write_all(&blob.bytes).await.map_err(lost)?;
        self.answer_to(re).await.map(|_| ())
    }

    /// Asks for something, and waits for the answer; answers questions meanwhile.
    pub async fn call(&mut self, request: &Request) -> Result<Said, ApiError> {
        match self.send(request).await {
            Ok(re) => self.answer_to(re).await,
            // Whoever hung up may have said why before.
            Err(lost) => match self.answer_to(0).await {
                Err(why @ ApiError::Refused(_)) => Err(why),
                _ => Err(lost),
            },
        }
    }

    /// Answers questions until the daemon is gone.
    pub async fn answer_questions(&mut self) -> ApiError {
        match self.answer_to(u64::MAX).await {
            Ok(_) => ApiError::Strange,
            Err(error) => error,
        }
    }

    async fn send(&mut self, request: &Request) -> Result<u64, ApiError> {
        self.number += 1;
        let mut value = serde_json::to_value(request).map_err(|error| {
            // Only a path that is no text can't be written.
            ApiError::Refused(Fault::input(format!("this can't be handed to the daemon: {error}")))
        })?;
        value["number"] = self.number.into();
        let line = value.to_string() + "\n";
        self.write.write_all(line.as_bytes()).await.map_err(lost)?;
        Ok(self.number)
    }

    async fn answer_to(&mut self, wanted: u64) -> Result<Said, ApiError> {
        loop {
            let line = self.lines.next().await.map_err(lost)?;
            let line = line.ok_or_else(|| ApiError::Lost("it has ended".into()))?;
            let mut value: serde_json::Value = serde_json::from_slice(&line).map_err(|_| ApiError::Strange)?;
            let re = value["re"].take();
            match serde_json::from_value(value).map_err(|_| ApiError::Strange)? {
                Said::Question { question, prompt } => {
                    let typed = Arc::clone(&self.asks).ask(prompt).await.ok();
                    self.send(&Request::Answer { question, base64: typed }).await?;
                }
                // About the conversation itself.
                Said::Error(fault) if re.is_null() || re == wanted => return Err(ApiError::Refused(fault)),
                said if re == wanted => return Ok(said),
                // To an answer of ours, which may have come too late.
                _ => {}
            }
        }
    }
}

#[allow(clippy::needless_pass_by_value, reason = "so that it can be given to map_err")]
fn lost(error: io::Error) -> ApiError {
    ApiError::Lost(error.to_string())
}
