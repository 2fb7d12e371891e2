//! The controller: everything behind the `anemos` command. The library is there for it, and for the fuzzer (`fuzz`).

mod api;
mod arena;
mod cli;
mod commands;
mod config;
mod embed;
mod engine;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod journal;
mod known_hosts;
mod leader;
mod paths;
mod patience;
mod payload;
mod plan;
mod report;
mod run;
mod screen;
mod select;
mod serve;
mod signals;
mod ssh;
mod ssh_config;
mod text;
mod web;

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use tokio::sync::watch;
use tokio::time::timeout;
use tracing_subscriber::EnvFilter;

use self::cli::Cli;
use self::commands::Status;
use self::engine::Stop;
use self::signals::Leaving;

/// What the executable does.
pub fn main() -> ExitCode {
    if let Some(answer) = ssh::handed_on(std::env::args_os()) {
        // ssh takes it for no answer.
        let written = answer.and_then(|answer| std::io::stdout().write_all(&answer));
        return if written.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    arena::share();
    let cli = Cli::parse();
    cli.wishes().keep_to();
    cli.color.keep_to();
    let said = std::env::var("ANEMOS_LOG").ok().filter(|said| !said.is_empty());
    let filter = said.and_then(|said| said.parse().ok()).unwrap_or_else(|| EnvFilter::new(cli.diagnostics()));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(screen::Diagnostics).init();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("anemos: the runtime can't be started: {error}");
            return ExitCode::from(Status::Internal.code());
        }
    };
    let status = runtime.block_on(commands::run(cli, stopping)).unwrap_or_else(|error| {
        screen::error(&error.to_string());
        error.status
    });
    screen::ring();
    // A thread that waits for the keyboard would otherwise keep the process.
    runtime.shutdown_background();
    ExitCode::from(status.code())
}

/// After the second signal the process ends so soon, whatever is being done.
const AT_ONCE: Duration = Duration::from_secs(2);

/// Tells of Ctrl-C, which SIGTERM and SIGHUP count as. After the second the hosts have a moment to say how they are
/// left; the third ends the process.
fn stopping() -> std::io::Result<watch::Receiver<Stop>> {
    let (sender, receiver) = watch::channel(Stop::No);
    let mut leaving = Leaving::new()?;
    tokio::spawn(async move {
        leaving.next().await;
        // Nobody listening means that there is nothing left to stop.
        let _ = sender.send(Stop::Leave);
        leaving.next().await;
        let _ = sender.send(Stop::Now);
        let _ = timeout(AT_ONCE, leaving.next()).await;
        std::process::exit(Status::Interrupted.code().into());
    });
    Ok(receiver)
}
