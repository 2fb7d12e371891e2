//! The daemon: it has the runs that were handed to it, whoever looks on, and goes on with them after it was started
//! again. It ends as it would if it were killed, since it has to go on from that anyway.

mod asker;
mod latest;
mod rights;
mod runs;
mod talk;
mod tally;
mod watch;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

pub use self::rights::{Right, Rights, Who};
pub use self::runs::{Runs, State};
pub use self::tally::Tally;
pub use self::watch::Watch;
use crate::api::Socket;
use crate::journal::RunStore;
use crate::screen;
use crate::ssh::{self, Passphrases};

/// Conversations at once.
const CONVERSATIONS: usize = 64;

/// Time between two attempts at taking a conversation.
const BUSY: Duration = Duration::from_millis(100);

/// A daemon that has its place: no other one of this user listens.
#[derive(Debug)]
pub struct Daemon {
    socket: Socket,
    dir: PathBuf,
    runs: Arc<Runs>,
}

impl Daemon {
    /// Listens in a directory, for whom `rights` name. An error says why it can't.
    pub fn bind(store: RunStore, dir: &Path, rights: Rights) -> Result<Self, String> {
        let named = |error: &dyn std::fmt::Display| format!("can't listen in {}: {error}", dir.display());
        let socket = Socket::bind(dir, rights.are_shared()).map_err(|error| named(&error))?;
        Ok(Self { socket, dir: dir.into(), runs: Runs::new(store, rights) })
    }

    /// Its runs.
    pub fn runs(&self) -> Arc<Runs> {
        Arc::clone(&self.runs)
    }

    /// Goes on with the runs of the store that a daemon had, and serves for as long as it is waited for. An error says
    /// why it can't.
    pub async fn serve(self) -> Result<(), String> {
        let Self { socket, dir, runs } = self;
        let anybody: Arc<dyn Passphrases> = Arc::clone(&runs.anybody) as _;
        ssh::ask_at_jump_hosts(&anybody);
        runs.resume().map_err(|error| error.to_string())?;
        screen::note(&format!("listening in {}", dir.display()));
        let places = Arc::new(Semaphore::new(CONVERSATIONS));
        loop {
            // The semaphore is never closed.
            let place = Arc::clone(&places).acquire_owned().await;
            match socket.listener.accept().await {
                Ok((stream, _)) => {
                    let runs = Arc::clone(&runs);
                    tokio::spawn(async move {
                        talk::talk(runs, stream).await;
                        drop(place);
                    });
                }
                // This process has no file to spare, as a rule; nothing says when it has.
                Err(_) => tokio::time::sleep(BUSY).await,
            }
        }
    }
}
