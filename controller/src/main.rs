//! The `anemos` command.

use std::process::ExitCode;

use anemos::cli::Cli;
use anemos::commands::{self, Status};
use clap::Parser;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_env("ANEMOS_LOG").unwrap_or_else(|_| "off".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(anemos::screen::Diagnostics).init();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("anemos: the runtime can't be started: {error}");
            return ExitCode::from(Status::Internal as u8);
        }
    };
    let status = runtime.block_on(commands::run(cli)).unwrap_or_else(|error| {
        eprintln!("anemos: {error}");
        error.status
    });
    // A thread that waits for the keyboard would otherwise keep the process.
    runtime.shutdown_background();
    ExitCode::from(status as u8)
}
