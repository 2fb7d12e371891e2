//! The end-to-end tests: real machines, the real executable. `cargo test -p anemos-tests --test e2e [-- FILTER…]`.
//!
//! Each file here holds a group of scenarios and lists them in its `SCENARIOS`. A scenario ends passed, skipped with
//! its reason, or failed with the ends of all logs. `ANEMOS_E2E_JOBS` is how many run at a time. With `ANEMOS_FAULTS`
//! the fault matrix is tried instead, with `ANEMOS_REACH` the table of hosts and ways in; each says which part
//! ([`book`]).

#![allow(clippy::unnecessary_debug_formatting, reason = "it quotes a path as TOML does")]

mod arch;
mod base;
mod r#become;
mod book;
mod daemon;
mod deploy;
mod deployment;
mod disks;
mod faults;
mod identity;
mod kin;
mod lock;
mod machines;
mod makeimg;
mod payload;
mod reach;
mod runs;
mod safety;
mod tools;
mod ways;
mod writes;

use lab::{Lab, Result, evidence};
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use std::panic::AssertUnwindSafe;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

/// How a scenario that did not fail ended.
#[derive(Debug)]
pub enum Outcome {
    /// What it shows, holds.
    Passed,
    /// It can't be tried here, for this reason.
    Skipped(String),
}

/// One end-to-end test.
pub struct Scenario {
    /// `group::what_holds`.
    pub name: &'static str,
    /// What it does; an error or a panic is a failure.
    pub run: fn(&Lab) -> Result<Outcome>,
}

/// Scenarios that only `ANEMOS_E2E_LONG` runs, and why: they take long, and show little that nothing else does.
const LONG: &[(&str, &str)] = &[
    ("makeimg::debian_other_disks", "makeimg's own tests have other tables and file systems, which nothing boots"),
    ("makeimg::debian_deployed_again", "an emulated host builds this twice"),
    ("deploy::debian_bios", "makeimg::debian_deployed has a machine build a Debian itself"),
    ("deploy::debian_uefi", "makeimg::debian_deployed has a machine build a Debian itself"),
    ("writes::reset_after_the_verdict", "the fault matrix has its like, reset.unacknowledged"),
    ("writes::killed_before_the_release", "the fault matrix has its like, controller-killed.booting"),
];

/// Scenarios that take turns, for they take most of an hour together: of seven commits that follow each other, each
/// tries one of these lists. `ANEMOS_E2E_LONG` and a filter try all that they name.
const TURNS: [&[&str]; 7] = [
    &["makeimg::debian_deployed", "writes::went_back_alone"],
    &["makeimg::debian_boots", "safety::agent_that_breaks"],
    &[
        "base::left_the_mirror",
        "base::through_a_proxy",
        "disks::unplugged_while_staging",
        "payload::controller_killed",
        "payload::wishes_from_another_process",
        "safety::frozen_agent",
    ],
    &[
        "makeimg::debian_archives",
        "become::sudo_with_a_password",
        "ways::through_a_jump_host",
        "runs::plan_refusals_and_ctrl_c",
        "payload::loads_what_it_opens",
        "writes::memory_runs_out",
    ],
    &[
        "daemon::killed_during_the_build",
        "runs::a_host_that_changed_while_it_waited",
        "runs::two_hosts_one_fails",
        "safety::raw_access",
        "ways::through_a_bridge_on_a_bond",
        "ways::through_a_vlan_on_a_trunk",
    ],
    &["makeimg::arch_boots", "makeimg::debian_encrypted", "makeimg::kin_of_debian", "makeimg::same_by_both_tools"],
    &["makeimg::arch_deployed"],
];

/// Whose turn it is: by the number of commits in this checkout's history, or nobody's where there is none.
fn turn() -> Option<usize> {
    let mut git = std::process::Command::new("git");
    git.arg("-C").arg(lab::checkout()).args(["rev-list", "--count", "HEAD"]);
    let counted = git.output().ok().filter(|output| output.status.success())?;
    let commits: usize = String::from_utf8_lossy(&counted.stdout).trim().parse().ok()?;
    Some(commits % TURNS.len())
}

/// Why a scenario is not tried now, if it isn't.
fn put_off(name: &str, turn: Option<usize>) -> Option<String> {
    let all = std::env::var_os("ANEMOS_E2E_LONG").is_some();
    if let Some((_, why)) = LONG.iter().find(|(long, _)| *long == name).filter(|_| !all) {
        return Some(format!("it takes long, and {why}; ANEMOS_E2E_LONG=1 runs it"));
    }
    let other =
        TURNS.iter().position(|names| names.contains(&name)).filter(|its| turn.is_some_and(|turn| turn != *its));
    let why = "it takes turns with others, and it is theirs on this commit; ANEMOS_E2E_LONG=1 or its name runs it";
    other.filter(|_| !all).map(|_| why.to_owned())
}

/// Why scenarios failed, in few words: said once more at the very end, where logs are cut last.
static WHY: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    if arguments.test_threads.is_none() {
        let jobs = std::env::var("ANEMOS_E2E_JOBS").ok().and_then(|jobs| jobs.parse().ok());
        arguments.test_threads = Some(jobs.unwrap_or(2));
    }
    let lab = match Lab::open() {
        Ok(lab) => Arc::new(lab),
        Err(error) => {
            eprintln!("the lab can't be opened: {error}");
            return ExitCode::FAILURE;
        }
    };
    let tables = [("ANEMOS_FAULTS", faults::table as fn() -> book::Table), ("ANEMOS_REACH", reach::table)];
    for (variable, table) in tables {
        let Ok(part) = std::env::var(variable) else { continue };
        return match book::run(&lab, &table(), &part, arguments.test_threads.unwrap_or(2)) {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(error) => {
                eprintln!("{error}");
                ExitCode::FAILURE
            }
        };
    }
    // The longest come first, so that none of them runs alone at the end.
    let groups = [
        arch::SCENARIOS,
        kin::SCENARIOS,
        tools::SCENARIOS,
        makeimg::SCENARIOS,
        deploy::SCENARIOS,
        base::SCENARIOS,
        r#become::SCENARIOS,
        disks::SCENARIOS,
        identity::SCENARIOS,
        lock::SCENARIOS,
        machines::SCENARIOS,
        daemon::SCENARIOS,
        payload::SCENARIOS,
        runs::SCENARIOS,
        safety::SCENARIOS,
        ways::SCENARIOS,
        writes::SCENARIOS,
    ];
    let turn = turn().filter(|_| arguments.filter.is_none());
    let trials = groups.into_iter().flatten().map(|scenario| {
        let lab = Arc::clone(&lab);
        Trial::ignorable_test(scenario.name, move || match put_off(scenario.name, turn) {
            Some(why) => {
                eprintln!("{}: skipped: {why}", scenario.name);
                Ok(Completion::ignored_with(why))
            }
            None => attempt(&lab, scenario.name, |lab| (scenario.run)(lab)),
        })
    });
    let guards = tables.into_iter().flat_map(|(_, table)| {
        let table = table();
        let group = table.name;
        book::guards(table).into_iter().map(move |cell| (format!("{group}::{}", cell.name), cell))
    });
    let guards = guards.map(|(name, cell)| {
        let lab = Arc::clone(&lab);
        Trial::ignorable_test(name.clone(), move || {
            let tried = AssertUnwindSafe(|lab: &Lab| (cell.attempt)(lab).map(|()| Outcome::Passed));
            attempt(&lab, &name, |lab| tried(lab))
        })
    });
    let conclusion = libtest_mimic::run(&arguments, trials.chain(guards).collect());
    for why in &*WHY.lock().unwrap_or_else(PoisonError::into_inner) {
        eprintln!("{why}");
    }
    conclusion.exit_code()
}

fn attempt(
    lab: &Lab,
    name: &str,
    run: impl Fn(&Lab) -> Result<Outcome> + std::panic::RefUnwindSafe,
) -> std::result::Result<Completion, Failed> {
    evidence::forget();
    let begin = std::time::Instant::now();
    let ended = std::panic::catch_unwind(|| run(lab));
    eprintln!("{name}: {:.1} s", begin.elapsed().as_secs_f32());
    let message = match ended {
        Ok(Ok(Outcome::Passed)) => return Ok(Completion::Completed),
        Ok(Ok(Outcome::Skipped(reason))) => {
            eprintln!("{name}: skipped: {reason}");
            return Ok(Completion::ignored_with(reason));
        }
        Ok(Err(error)) => error.to_string(),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it panicked").to_owned()
        }
    };
    let all = format!("{name}: {message}\n{}", evidence::show(3));
    let brief = all.lines().map(|line| line.chars().take(300).chain(['\n']).collect::<String>()).collect();
    WHY.lock().unwrap_or_else(PoisonError::into_inner).push(brief);
    Err(Failed::from(format!("{message}\n{}", evidence::show(25))))
}
