//! Receives whoever has opened a channel: people get a program, controllers the protocol.

use std::sync::Arc;

use tokio::sync::mpsc;

use crate::app::App;
use crate::ssh::{Opened, Request};
use crate::{attach, shell};

/// Serves each channel in a task of its own, until the SSH server has ended.
pub async fn run(app: Arc<App>, mut channels: mpsc::UnboundedReceiver<Opened>) {
    while let Some(Opened { request, input, out }) = channels.recv().await {
        let app = app.clone();
        match request {
            Request::Program(program) => drop(tokio::spawn(async move { shell::run(&app, program, input, out).await })),
            Request::Subsystem => drop(tokio::spawn(attach::run(app, input, out))),
        }
    }
}
