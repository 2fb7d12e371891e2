//! `anemos up` and `anemos plan`.

use std::io::{BufRead, IsTerminal, Write};
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::watch as signal;

use super::passphrase::OnTerminal;
use super::{CommandError, Status, Stopping, base, hosts_file, status_of};
use crate::cli::{PlanArgs, Up};
use crate::config::{self, Host};
use crate::engine::{Limits, Stop};
use crate::plan::Plan;
use crate::report::feed;
use crate::run::{Order, Prepared};
use crate::screen::plan::{confirm, render};
use crate::screen::text::Paint;
use crate::screen::{self, Mode, Screen};
use crate::ssh::{self, Passphrases};

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
    let (hosts_file, hosts) = chosen(&args, finish)?;
    if ask == Ask::Terminal && !(std::io::stdin().is_terminal() && std::io::stderr().is_terminal()) {
        return Err(CommandError {
            status: Status::Refused,
            message: "there is no terminal to ask on what may be overwritten; look with `anemos plan`, then give --yes"
                .into(),
        });
    }
    let (control, requests) = screen::control();
    let asks: Arc<dyn Passphrases> = Arc::new(OnTerminal(control.clone()));
    ssh::ask_at_jump_hosts(&asks);
    let limits =
        Limits { parallel: args.parallel as usize, canary: !args.no_canary, max_failures: args.max_failures as usize };
    let order = Order { hosts, hosts_file, lock: args.lock, limits, only_plan: ask == Ask::OnlyPlan };
    let run = Prepared::new(order, &asks, &base::showing()).await?;
    run.notes.iter().for_each(|note| screen::note(note));

    let stop = stopping().map_err(CommandError::internal)?;
    let (reports, received) = feed();
    let mode = Mode::pick(args.json);
    let screen = Screen::new(mode, run.run(), &run.names());
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
            screen::ring();
            // Where standard output leads elsewhere, the plan has gone there.
            let unseen = if screen::is_seen_on_stderr(mode) { Vec::new() } else { met.plans() };
            let answer = question(unseen, able, order, stop.clone()).await;
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

/// The hosts.toml, and those of its hosts that are meant, as the command line changes them.
fn chosen(args: &PlanArgs, finish: Option<config::Finish>) -> Result<(PathBuf, Vec<Host>), CommandError> {
    let (file, hosts) = hosts_file::of(&args.of)?;
    let changed = hosts.into_iter().map(|mut host| {
        host.accept_new |= args.accept_new;
        host.finish = finish.unwrap_or(host.finish);
        host
    });
    Ok((file.path, changed.collect()))
}

/// Asks on the terminal, after it has shown the plans that were not seen there. Ctrl-C is a no.
async fn question(
    unseen: Vec<Arc<Plan>>,
    able: Vec<Arc<Plan>>,
    order: Option<String>,
    mut stop: signal::Receiver<Stop>,
) -> bool {
    let answer = tokio::task::spawn_blocking(move || {
        let paint = Paint::pick(std::io::stderr().is_terminal());
        let (mut input, mut output) = (std::io::stdin().lock(), std::io::stderr());
        ask(&unseen, &able, order.as_deref(), (&mut input, &mut output, paint)).unwrap_or(false)
    });
    tokio::select! {
        answer = answer => answer.unwrap_or(false),
        _ = stop.wait_for(|stop| stop.asked()) => false,
    }
}

fn ask(
    unseen: &[Arc<Plan>],
    able: &[Arc<Plan>],
    order: Option<&str>,
    (input, output, paint): (&mut impl BufRead, &mut impl Write, Paint),
) -> std::io::Result<bool> {
    if !unseen.is_empty() {
        writeln!(output, "{}", render(unseen, order, paint, None).trim_end())?;
    }
    confirm(able, order, input, output, paint)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::Cli;
    use crate::commands::run;
    use crate::plan::tests::plan as sample;

    #[test]
    fn the_question_stands_below_the_plan_that_it_is_about() {
        let able = [Arc::new(sample())];
        let asked = |unseen: &[Arc<Plan>], answer: &str| {
            let mut output = Vec::new();
            let yes = ask(unseen, &able, None, (&mut answer.as_bytes(), &mut output, Paint(false))).unwrap();
            (yes, String::from_utf8(output).unwrap())
        };
        let plan = render(&able, None, Paint(false), None);
        let (yes, text) = asked(&able, "yes\n");
        assert!(yes && text.starts_with(plan.trim_end()) && text.ends_with("Type `yes` to go on: "), "{text}");
        let (no, text) = asked(&[], "no\n");
        assert!(!no && !text.contains(plan.lines().nth(1).unwrap()), "{text}");
        // In a test, standard output is captured, or a file, or a terminal with the rest.
        assert!(!screen::is_seen_on_stderr(Mode::Json) && screen::is_seen_on_stderr(Mode::Live));
    }

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
