//! `anemos up` and `anemos plan`.

use std::io::{BufRead, IsTerminal, Write};
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::watch as signal;

use super::at_end::Over;
use super::hosts_file::{self, Chosen};
use super::passphrase::OnTerminal;
use super::saved::{self, Output};
use super::{CommandError, Status, Stopping, at_end, base, line, status_of};
use crate::cli::{AtEnd, Doctor, PlanArgs, PlanCommand, Up};
use crate::config::{self, Host};
use crate::engine::{Limits, Stop};
use crate::plan::Plan;
use crate::report::feed;
use crate::run::{Order, Prepared, Renewed, SavedPlan, SavedTerms};
use crate::screen::plan::{checked, confirm, render};
use crate::screen::text::Paint;
use crate::screen::{self, Control, Mode, Screen};
use crate::ssh::{self, Passphrases};

/// How the question is settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ask {
    Yes,
    Terminal,
    OnlyPlan,
    /// Not even what is to become of the hosts matters.
    OnlyLook,
}

/// What is gone about, and how.
struct Going {
    args: PlanArgs,
    chosen: Chosen,
    ask: Ask,
    remember: Remember,
    /// What was shown before, and is done only if it still is so.
    saved: Option<SavedPlan>,
    /// Where the plan goes.
    output: Option<PathBuf>,
    /// Whether anything would be changed is what the exit status says.
    detailed: bool,
    /// Hosts that would not be changed are left out of the plan.
    only_changed: bool,
    at_end: AtEnd,
}

impl Going {
    fn new(args: PlanArgs, chosen: Chosen, ask: Ask) -> Self {
        let (remember, at_end) = (Remember::Ask, AtEnd::default());
        let (detailed, only_changed) = (false, false);
        Self { args, chosen, ask, remember, saved: None, output: None, detailed, only_changed, at_end }
    }
}

pub(super) async fn up(args: Up, stopping: Stopping) -> Result<Status, CommandError> {
    let remember = Remember::of(&args);
    let Approved { ask, chosen, saved } = Approved::of(&args).await?;
    go(Going { remember, saved, at_end: args.at_end, ..Going::new(args.which, chosen, ask) }, stopping).await
}

/// What `up` is about, and whether that was approved before.
pub(super) struct Approved {
    pub ask: Ask,
    pub chosen: Chosen,
    pub saved: Option<SavedPlan>,
}

impl Approved {
    /// Reads it. What is wanted at the end is done if what was approved is not to be had any more.
    pub(super) async fn of(args: &Up) -> Result<Self, CommandError> {
        at_end::check(&args.at_end)?;
        let read = Self::read(args);
        if let Err(error) = &read
            && error.status == Status::Refused
        {
            at_end::done(&args.at_end, Some(&Over::default()), Err(error)).await;
        }
        read
    }

    fn read(args: &Up) -> Result<Self, CommandError> {
        let Some(file) = &args.plan else {
            let ask = if args.yes { Ask::Yes } else { Ask::Terminal };
            let chosen = chosen(&args.which, args.finish.map(Into::into))?;
            return Ok(Self { ask, chosen, saved: None });
        };
        let saved = SavedPlan::read(file)?;
        let chosen = changed(saved::of(&saved, &args.which.of)?, &args.which, None);
        Ok(Self { ask: Ask::Yes, chosen, saved: Some(saved) })
    }
}

pub(super) async fn plan(args: PlanCommand, stopping: Stopping) -> Result<Status, CommandError> {
    let PlanCommand { which: args, output, detailed_exitcode: detailed, only_changed } = args;
    let chosen = chosen(&args, None)?;
    let output = saved::output(output)?;
    go(Going { output, detailed, only_changed, ..Going::new(args, chosen, Ask::OnlyPlan) }, stopping).await
}

pub(super) async fn doctor(args: Doctor, stopping: Stopping) -> Result<Status, CommandError> {
    let Doctor { plan: args, ssh } = args;
    let chosen = match ssh {
        None => chosen(&args, None)?,
        Some(place) => (PathBuf::new(), vec![unlisted(&place, args.accept_new).map_err(CommandError::bad_input)?]),
    };
    go(Going::new(args, chosen, Ask::OnlyLook), stopping).await
}

/// What known_hosts gets of hosts whose new systems have other host keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Remember {
    Yes,
    Ask,
}

impl Remember {
    pub(super) fn of(args: &Up) -> Self {
        if args.update_known_hosts { Self::Yes } else { Self::Ask }
    }
}

/// Has known_hosts say what was proved, if the user wants that.
pub(super) fn renew(renewed: &Renewed, ask: Ask, remember: Remember) {
    let Renewed { host, trust, keys } = renewed;
    let keys_shown: Vec<String> = keys.iter().map(ToString::to_string).collect();
    let what = format!("the new system of {host} has other host keys than known_hosts: {}", keys_shown.join(", "));
    let go = match (remember, ask) {
        (Remember::Yes, _) => true,
        (Remember::Ask, Ask::Terminal) => screen::question(&format!("{what}. Put them in place of the old ones?")),
        (Remember::Ask, _) => false,
    };
    if !go {
        let advice = "the next ssh will say that they changed; --update-known-hosts has them put there";
        return screen::note(&format!("{what}; {advice}"));
    }
    match trust.replace(keys) {
        Ok(done) => screen::note(&done),
        Err(why) => screen::warning(&format!("known_hosts is not as {host} is now: {why}")),
    }
}

/// A host that no hosts.toml has, as hosts.toml would have it: any of its disks may be meant.
pub(super) fn unlisted(place: &str, accept_new: bool) -> Result<Host, String> {
    let (user, place) = place.rsplit_once('@').map_or((None, place), |(user, place)| (Some(user), place));
    let bracketed = place.strip_prefix('[').and_then(|place| place.split_once(']'));
    let (address, port) = match (bracketed, place.rsplit_once(':')) {
        (Some((address, rest)), _) => (address, rest.strip_prefix(':')),
        (None, Some((address, port))) if !address.contains(':') => (address, Some(port)),
        (None, _) => (place, None),
    };
    let mut text = format!("[hosts.host]\naddress = {address:?}\npayload = \".\"\ndisk = {{ min_size = \"1\" }}\n");
    text.extend(user.map(|user| format!("user = {user:?}\n")));
    let port: Option<u16> = port.map(str::parse).transpose().map_err(|_| format!("--ssh {place}: that is no port"))?;
    text.extend(port.map(|port| format!("port = {port}\n")));
    text.extend([format!("accept_new = {accept_new}\n")]);
    config::one(&text).map_err(|why| format!("--ssh {place}: {why}"))
}

/// Looks at a host as `anemos doctor --ssh` does, and shows what it sees.
pub(super) async fn look(host: Host, stopping: Stopping) -> Result<(Status, Vec<Arc<Plan>>), CommandError> {
    let args = PlanArgs { accept_new: host.accept_new, ..PlanArgs::for_one() };
    gone(Going::new(args, (PathBuf::new(), vec![host]), Ask::OnlyLook), stopping).await
}

async fn go(going: Going, stopping: Stopping) -> Result<Status, CommandError> {
    gone(going, stopping).await.map(|(status, _)| status)
}

/// Goes about it, and does what is wanted at the end, whatever that is. Returns the plans too, of hosts that could be
/// looked at.
async fn gone(going: Going, stopping: Stopping) -> Result<(Status, Vec<Arc<Plan>>), CommandError> {
    let (at_end, mut over) = (going.at_end.clone(), None);
    let came_out = through(going, stopping, &mut over).await;
    at_end::done(&at_end, over.as_ref(), came_out.as_ref().map(|(status, _)| *status)).await;
    came_out
}

/// Goes about it. `over` is what has become of the hosts, also where this fails.
async fn through(
    going: Going,
    stopping: Stopping,
    over: &mut Option<Over>,
) -> Result<(Status, Vec<Arc<Plan>>), CommandError> {
    let Going { args, chosen: (hosts_file, hosts), ask, remember, saved, output, detailed, only_changed, at_end: _ } =
        going;
    let looks = ask == Ask::OnlyLook;
    can_ask(ask)?;
    let (control, requests) = screen::control();
    let asks: Arc<dyn Passphrases> = Arc::new(OnTerminal(control.clone()));
    ssh::ask_at_jump_hosts(&asks);
    let limits = saved.as_ref().map_or_else(|| limits(&args), |saved| saved.limits);
    let lock = args.lock.or_else(|| saved.as_ref().and_then(|saved| saved.lock.clone()));
    let only_plan = looks || ask == Ask::OnlyPlan;
    let unlisted = looks && hosts_file.as_os_str().is_empty();
    let order =
        Order { hosts, hosts_file: hosts_file.clone(), lock: lock.clone(), limits, no_payload: looks, only_plan };
    let run = Prepared::new(order, &asks, &base::showing()).await?;
    run.notes.iter().for_each(|note| screen::note(note));
    let wanted = run.wanted.clone();
    let file = run.file().clone();
    *over = Some(Over::default());
    if let Some(saved) = &saved {
        saved::check(&saved.wanted_otherwise(&wanted))?;
    }

    let stop = stopping().map_err(CommandError::internal)?;
    let (reports, received) = feed();
    let mode = Mode::pick(args.json);
    let id = run.run().map(str::to_owned);
    let screen = Screen::new(mode, run.run(), &run.names());
    let screen = tokio::spawn(screen::run_controlled(screen, received, requests));
    let met = run.meet(reports, &stop).await?;
    let order = met.order();
    let plans = met.plans();
    // What can't be read of the journals is told once the hosts are let go of.
    let changes = if detailed || only_changed { saved::changes(&file, &plans, only_changed) } else { Ok(Vec::new()) };
    let (seen, order) = match &changes {
        Ok(changes) if only_changed => saved::seen(changes, &plans, &limits),
        _ => (plans.clone(), order),
    };
    if !seen.is_empty() && (!looks || args.json) {
        control.plans(seen, order.clone()).await;
    }
    let able = met.able();
    let otherwise = saved.as_ref().map(|saved| saved.met_otherwise(&plans)).unwrap_or_default();
    let go = otherwise.is_empty()
        && ask_on(ask, Shown { mode, plans: &plans, able: &able, order }, &control, stop.clone()).await;
    let ended = met.decide(go).await;
    *over = Some(Over { run: id, ends: ended.ends.clone() });
    drop((control, asks));
    screen.await.map_err(CommandError::internal)?;
    if looks && !args.json {
        line(checked(&plans, unlisted, Paint::pick(std::io::stdout().is_terminal()), None).trim_end());
    }
    if let Some(warning) = &ended.warning {
        screen::warning(warning);
    }
    ended.renewed.iter().for_each(|renewed| renew(renewed, ask, remember));
    if !ended.problems.is_empty() {
        return Err(CommandError::internal(ended.problems.join("\n")));
    }
    saved::check(&otherwise)?;
    let changes = changes?;
    for change in &changes {
        change.say(args.json);
    }
    let stopped = stop.borrow().asked();
    if let Some(path) = output.as_deref().filter(|_| !stopped) {
        let terms = SavedTerms { hosts_file: &hosts_file, lock: lock.as_deref(), limits };
        saved::write(&Output { path, terms }, wanted, &plans, &changes)?;
    }
    let refused = if unlisted { Vec::new() } else { ended.refused };
    let disk_only = |plan: &Arc<Plan>| plan.wipe.is_empty() && plan.refusals.len() == 1;
    if unlisted && !plans.iter().all(|plan| plan.refusals.is_empty() || disk_only(plan)) {
        return Ok((Status::Refused, plans));
    }
    let status = match status_of(&ended.ends, &refused, stopped) {
        Status::Done if detailed && changes.iter().any(|change| change.made_by.is_none()) => Status::Change,
        status => status,
    };
    Ok((status, plans))
}

/// What was shown, in a way that standard error may have seen.
pub(super) struct Shown<'a> {
    pub mode: Mode,
    pub plans: &'a [Arc<Plan>],
    pub able: &'a [Arc<Plan>],
    pub order: Option<String>,
}

/// Settles the question whether these are deployed.
pub(super) async fn ask_on(ask: Ask, shown: Shown<'_>, control: &Control, stop: signal::Receiver<Stop>) -> bool {
    let Shown { mode, plans, able, order } = shown;
    match ask {
        _ if able.is_empty() => false,
        Ask::OnlyPlan | Ask::OnlyLook => false,
        Ask::Yes => true,
        Ask::Terminal => {
            let paused = control.pause().await;
            screen::ring();
            // Where standard output leads elsewhere, the plan has gone there.
            let unseen = if screen::is_seen_on_stderr(mode) { Vec::new() } else { plans.to_vec() };
            let answer = question(unseen, able.to_vec(), order, stop).await;
            drop(paused);
            answer
        }
    }
}

/// Whether the question can be settled so.
pub(super) fn can_ask(ask: Ask) -> Result<(), CommandError> {
    if ask == Ask::Terminal && !(std::io::stdin().is_terminal() && std::io::stderr().is_terminal()) {
        return Err(CommandError {
            status: Status::Refused,
            message: "there is no terminal to ask on what may be overwritten; look with `anemos plan`, then give --yes"
                .into(),
        });
    }
    Ok(())
}

/// How the run is gone about.
pub(super) fn limits(args: &PlanArgs) -> Limits {
    Limits { parallel: args.parallel as usize, canary: !args.no_canary, max_failures: args.max_failures as usize }
}

/// The hosts.toml, and those of its hosts that are meant, as the command line changes them.
pub(super) fn chosen(args: &PlanArgs, finish: Option<config::Finish>) -> Result<Chosen, CommandError> {
    let (file, hosts) = hosts_file::of(&args.of)?;
    Ok(changed((file.path, hosts), args, finish))
}

fn changed((file, hosts): Chosen, args: &PlanArgs, finish: Option<config::Finish>) -> Chosen {
    let changed = hosts.into_iter().map(|mut host| {
        host.accept_new |= args.accept_new;
        host.finish = finish.unwrap_or(host.finish);
        host
    });
    (file, changed.collect())
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

    #[test]
    fn a_host_that_no_file_has() {
        for (place, address, user, port) in [
            ("web1", "web1", None, None),
            ("root@203.0.113.7", "203.0.113.7", Some("root"), None),
            ("web1:2222", "web1", None, Some(2222)),
            ("me@[2001:db8::7]:2222", "2001:db8::7", Some("me"), Some(2222)),
            ("[2001:db8::7]", "2001:db8::7", None, None),
            ("2001:db8::7", "2001:db8::7", None, None),
        ] {
            let host = unlisted(place, true).unwrap();
            assert_eq!((host.address.as_str(), host.user.as_deref(), host.port), (address, user, port), "{place}");
            assert!(host.accept_new && host.secrets.is_empty());
        }
        for place in ["", "a b", "web1:0", "web1:x", "me\"\n@web1", "web1:22\npayload = \"x\""] {
            assert!(unlisted(place, false).is_err(), "{place}");
        }
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
