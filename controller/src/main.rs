//! The controller: everything behind the `anemos` command.

mod cli;
mod commands;
mod config;
mod embed;
mod engine;
mod journal;
mod known_hosts;
mod payload;
mod plan;
mod report;
mod run;
mod screen;
mod ssh;
mod ssh_config;

use std::process::ExitCode;

use clap::Parser;
use tokio::sync::watch as signal;

use self::cli::Cli;
use self::commands::Status;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_env("ANEMOS_LOG").unwrap_or_else(|_| "off".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(screen::Diagnostics).init();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("anemos: the runtime can't be started: {error}");
            return ExitCode::from(Status::Internal.code());
        }
    };
    let status = runtime.block_on(commands::run(cli, stopping)).unwrap_or_else(|error| {
        eprintln!("anemos: {error}");
        error.status
    });
    // A thread that waits for the keyboard would otherwise keep the process.
    runtime.shutdown_background();
    ExitCode::from(status.code())
}

/// Turns true at the first Ctrl-C (or SIGTERM); the second ends the process.
fn stopping() -> std::io::Result<signal::Receiver<bool>> {
    use tokio::signal::unix::{SignalKind, signal as unix};
    let (sender, receiver) = signal::channel(false);
    let mut interrupt = unix(SignalKind::interrupt())?;
    let mut terminate = unix(SignalKind::terminate())?;
    tokio::spawn(async move {
        let mut times = 0;
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            times += 1;
            if times > 1 {
                std::process::exit(Status::Interrupted.code().into());
            }
            // Nobody listening means that there is nothing left to stop.
            let _ = sender.send(true);
        }
    });
    Ok(receiver)
}
