//! `anemos up` and `anemos plan`.

use std::io::IsTerminal;
use std::sync::Arc;

use tokio::sync::{mpsc, watch as signal};

use super::passphrase::OnTerminal;
use super::{CommandError, Status, Stopping, base, status_of};
use crate::cli::{PlanArgs, Up};
use crate::config::{self, Host};
use crate::engine::{Limits, Stop};
use crate::plan::Plan;
use crate::run::{Order, Prepared};
use crate::screen::plan::confirm;
use crate::screen::text::Paint;
use crate::screen::{self, Mode, Screen};
use crate::ssh::Passphrases;

/// How the question is settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ask {
    Yes,
    Terminal,
    OnlyPlan,
}

pub(super) async fn up(args: Up, stopping: Stopping) -> Result<Status, CommandError> {
    let ask = if args.yes { Ask::Yes } else { Ask::Terminal };
    let finish = args.finish.map(Into::into);
    deploy(args.which, ask, finish, stopping).await
}

pub(super) async fn plan(args: PlanArgs, stopping: Stopping) -> Result<Status, CommandError> {
    deploy(args, Ask::OnlyPlan, None, stopping).await
}

async fn deploy(
    args: PlanArgs,
    ask: Ask,
    finish: Option<config::Finish>,
    stopping: Stopping,
) -> Result<Status, CommandError> {
    let hosts = chosen(&args, finish)?;
    if ask == Ask::Terminal && !(std::io::stdin().is_terminal() && std::io::stderr().is_terminal()) {
        return Err(CommandError {
            status: Status::Refused,
            message: "there is no terminal to ask on what may be overwritten; look with `anemos plan`, then give --yes"
                .into(),
        });
    }
    let (control, requests) = screen::control();
    let asks: Arc<dyn Passphrases> = Arc::new(OnTerminal(control.clone()));
    let limits =
        Limits { parallel: args.parallel as usize, canary: !args.no_canary, max_failures: args.max_failures as usize };
    let (hosts_file, lock) = (args.hosts_file, args.lock);
    let order = Order { hosts, hosts_file, lock, limits, only_plan: ask == Ask::OnlyPlan };
    let run = Prepared::new(order, &asks, &base::showing()).await?;
    run.notes.iter().for_each(|note| screen::note(note));

    let stop = stopping().map_err(CommandError::internal)?;
    let (reports, received) = mpsc::unbounded_channel();
    let screen = Screen::new(Mode::pick(args.json), run.run(), &run.names());
    let screen = tokio::spawn(screen::run_controlled(screen, received, requests));
    let met = run.meet(reports, &stop).await?;
    let order = met.order();
    let plans = met.plans();
    if !plans.is_empty() {
        control.plans(plans, order.clone()).await;
    }
    let able = met.able();
    let go = match ask {
        _ if able.is_empty() => false,
        Ask::OnlyPlan => false,
        Ask::Yes => true,
        Ask::Terminal => {
            let paused = control.pause().await;
            let answer = question(able, order, stop.clone()).await;
            drop(paused);
            answer
        }
    };
    let ended = met.decide(go).await;
    drop((control, asks));
    screen.await.map_err(CommandError::internal)?;
    if let Some(warning) = &ended.warning {
        screen::warning(warning);
    }
    if !ended.problems.is_empty() {
        return Err(CommandError::internal(ended.problems.join("\n")));
    }
    let stopped = stop.borrow().asked();
    Ok(status_of(&ended.ends, &ended.refused, stopped))
}

/// The hosts that are meant, as the command line changes them.
fn chosen(args: &PlanArgs, finish: Option<config::Finish>) -> Result<Vec<Host>, CommandError> {
    let file = config::load(&args.hosts_file).map_err(CommandError::bad_input)?;
    let hosts = file.pick(&args.hosts).map_err(CommandError::bad_input)?.into_iter().cloned();
    let changed = hosts.map(|mut host| {
        host.accept_new |= args.accept_new;
        host.finish = finish.unwrap_or(host.finish);
        host
    });
    Ok(changed.collect())
}

/// Asks on the terminal. Ctrl-C is a no.
async fn question(plans: Vec<Arc<Plan>>, order: Option<String>, mut stop: signal::Receiver<Stop>) -> bool {
    let answer = tokio::task::spawn_blocking(move || {
        let paint = Paint::pick(std::io::stderr().is_terminal());
        let mut input = std::io::stdin().lock();
        confirm(&plans, order.as_deref(), &mut input, &mut std::io::stderr(), paint).unwrap_or(false)
    });
    tokio::select! {
        answer = answer => answer.unwrap_or(false),
        _ = stop.wait_for(|stop| stop.asked()) => false,
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use crate::cli::Cli;
    use crate::commands::{Status, run};

    /// What is wrong with the command line is said before what is missing around it, such as a terminal.
    #[tokio::test]
    async fn a_file_that_is_not_there_is_the_first_complaint() {
        for arguments in [&["up", "nosuch.toml"][..], &["up", "nosuch.toml", "web1"], &["plan", "nosuch.toml"]] {
            let cli = Cli::parse_from(["anemos"].iter().chain(arguments));
            let error = run(cli, || unreachable!("nothing is waited for")).await.unwrap_err();
            assert_eq!(error.status, Status::BadInput, "{error}");
            assert!(error.message.contains("nosuch.toml: No such file or directory"), "{error}");
        }
    }
}
