//! The commands that take up a run again: attach, retry, abort, finish.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::sync::Arc;

use super::at_end::Over;
use super::passphrase::OnTerminal;
use super::{CommandError, Status, Stopping, asked, at_end, handover, status_of};
use crate::cli;
use crate::engine::{Blob, Wish};
use crate::journal::{HostEntry, JournalError, RunDir};
use crate::payload::{self, Misfit, Packed};
use crate::report::feed;
use crate::run::{self, Asked, Found, Intent};
use crate::screen::{self, Mode, Screen};
use crate::ssh::{self, Passphrases};

pub(super) async fn attach(args: cli::Attach, stopping: Stopping) -> Result<Status, CommandError> {
    let found = asked(&args.of, false).find()?;
    let after = after(&args.after, &found.hosts, &found.run)?;
    at_end::check(&args.at_end)?;
    let lines = (!args.all && after.is_empty()).then_some(run::LINES);
    let mut over = None;
    let came_out = reenter(found, Intent { wish: None, lines, after }, args.json, stopping, &mut over).await;
    at_end::done(&args.at_end, over.as_ref(), came_out.as_ref().copied()).await;
    came_out
}

/// What of each host the user has got already.
fn after(given: &[cli::After], hosts: &[HostEntry], run: &RunDir) -> Result<HashMap<String, u64>, CommandError> {
    let mut after = HashMap::new();
    for cli::After { host, number } in given {
        let host = match (host, hosts) {
            (Some(host), _) if hosts.iter().any(|entry| entry.name == *host) => host.clone(),
            (Some(host), _) => return Err(CommandError::bad_input(format!("run {} has no host `{host}`", run.id))),
            (None, [only]) => only.name.clone(),
            (None, _) => {
                let why =
                    format!("run {} has several hosts, each with numbers of its own: --after HOST={number}", run.id);
                return Err(CommandError::bad_input(why));
            }
        };
        after.insert(host, *number);
    }
    Ok(after)
}

pub(super) async fn abort(args: cli::Pick, stopping: Stopping) -> Result<Status, CommandError> {
    wish(&args, Wish::Abort, stopping).await
}

pub(super) async fn retry(args: cli::Retry, stopping: Stopping) -> Result<Status, CommandError> {
    let Some(dir) = args.payload else { return wish(&args.pick, Wish::Retry(None), stopping).await };
    let packed = payload::pack(&dir).map_err(CommandError::bad_input)?;
    packed.warnings.iter().for_each(|warning| screen::warning(warning));
    let found = asked(&args.pick.of, true).find()?;
    let in_ram = run::some_in_ram(&found.run, &found.hosts)?;
    fits(&packed, found.hosts.iter().filter(|host| in_ram.contains(&host.name)))?
        .iter()
        .for_each(|warning| screen::warning(warning));
    wish_of(found, &args.pick, Wish::Retry(Some(Blob::new(packed.bytes))), stopping).await
}

/// Whether a payload can run in the RAM systems of these hosts, as far as that is known. Returns what the user should
/// think of; the error is for all hosts on which it can't.
fn fits<'a>(packed: &Packed, hosts: impl Iterator<Item = &'a HostEntry>) -> Result<Vec<String>, CommandError> {
    let (mut warnings, mut lacking) = (Vec::new(), Vec::new());
    for HostEntry { name, ram, .. } in hosts {
        match ram.as_ref().and_then(|ram| ram.misfit(&packed.needs, packed.is_imgbuild)) {
            None => {}
            Some(Misfit::Unknown(why)) => warnings.push(format!("{name}: {why}")),
            Some(Misfit::Lacks(why)) => lacking.push(format!("{name}: {why}")),
        }
    }
    if lacking.is_empty() {
        return Ok(warnings);
    }
    lacking.push(
        "nothing was done. What is in RAM can't be added to: give a payload that needs no more, or have the host \
         leave RAM (`anemos finish HOST`) and begin anew with `anemos up`, from the system that it has then or a \
         rescue system"
            .into(),
    );
    Err(CommandError::bad_input(lacking.join("\n")))
}

async fn wish(args: &cli::Pick, wish: Wish, stopping: Stopping) -> Result<Status, CommandError> {
    let found = asked(&args.of, true).find()?;
    wish_of(found, args, wish, stopping).await
}

async fn wish_of(found: Found, args: &cli::Pick, wish: Wish, stopping: Stopping) -> Result<Status, CommandError> {
    if !found.named && !args.all && found.hosts.len() > 1 {
        insisted(&wish, &found.run, &run::some_in_ram(&found.run, &found.hosts)?)?;
    }
    reenter(found, wished(wish), args.json, stopping, &mut None).await
}

/// Asks whether a wish is meant for all of a run's hosts.
fn insisted(wish: &Wish, run: &RunDir, hosts: &[String]) -> Result<(), CommandError> {
    let what = all_of(wish, run.id.as_str(), hosts);
    let refused = |message: String| Err(CommandError { status: Status::Refused, message });
    if !(std::io::stdin().is_terminal() && std::io::stderr().is_terminal()) {
        return refused(format!("this would {what}; name one host, or give --all for all of them"));
    }
    let (first, rest) = what.split_at(1);
    if screen::question(&format!("{}{rest}?", first.to_uppercase())) {
        Ok(())
    } else {
        refused("nothing was done".into())
    }
}

/// What a wish does to these hosts, in words.
fn all_of(wish: &Wish, run: &str, hosts: &[String]) -> String {
    let what = match wish {
        Wish::Abort => "end the payload",
        Wish::Retry(None) => "run the payload again",
        Wish::Retry(Some(_)) => "run another payload",
        Wish::Finish(_) => "leave RAM",
    };
    format!("{what} on {} of run {run}", hosts.join(", "))
}

fn wished(wish: Wish) -> Intent {
    Intent { wish: Some(wish), lines: Some(run::LINES), after: HashMap::new() }
}

pub(super) async fn finish(args: cli::FinishArgs, stopping: Stopping) -> Result<Status, CommandError> {
    let words = args.hosts.split(',').map(str::to_owned).collect();
    let found = Asked { words, run: args.run, in_ram: true, ..Asked::default() }.find()?;
    reenter(found, wished(Wish::Finish(args.how.into())), args.json, stopping, &mut None).await
}

/// Takes up hosts of a run, with what is wanted of them. `over` is what has become of them, also where this fails.
async fn reenter(
    found: Found,
    intent: Intent,
    json: bool,
    stopping: Stopping,
    over: &mut Option<Over>,
) -> Result<Status, CommandError> {
    let Found { run, file, hosts, .. } = found;
    let lock = match run.lock() {
        Ok(lock) if run::is_kept(&run) => {
            // It goes on with the daemon, and as it was: not with whoever looks on.
            drop(lock);
            if intent.wish.is_some() {
                let why = format!("run {} is the daemon's, and that is not running: start `anemos serve`", run.id);
                return Err(CommandError::bad_input(why));
            }
            None
        }
        Ok(lock) => Some(lock),
        Err(error @ JournalError::Locked { .. }) => {
            let asks = if intent.wish.is_some() { "asking it, and then " } else { "" };
            screen::note(&format!("{error}; {asks}showing what it writes down"));
            None
        }
        Err(error) => return Err(error.into()),
    };
    if intent.wish.is_some() {
        run::some_in_ram(&run, &hosts)?;
    }
    let names: Vec<String> = hosts.iter().map(|host| host.name.clone()).collect();
    let all = hosts.clone();
    let stop = stopping().map_err(CommandError::internal)?;
    let (reports, received) = feed();
    let (control, requests) = screen::control();
    let screen = Screen::new(Mode::pick(json), Some(run.id.as_str()), &names);
    let screen = tokio::spawn(screen::run_controlled(screen, received, requests));
    let asks: Arc<dyn Passphrases> = Arc::new(OnTerminal(control));
    ssh::ask_at_jump_hosts(&asks);
    let mut supplied = handover::supply(&run, &asks).await?;
    let following = run::follow(&run, hosts, lock, &intent, &asks, reports, &stop);
    let followed = handover::meanwhile(supplied.as_mut(), following).await;
    drop((supplied, asks));
    screen.await.map_err(CommandError::internal)?;
    // Also of those that could not be followed, and of all if somebody else's looking on was ended.
    *over = Some(Over::of(&run, &all));
    let followed = followed?;
    if followed.lock.is_some()
        && let Some(warning) = run::forget(&run, &file.hosts)
    {
        screen::warning(&warning);
    }
    if !followed.problems.is_empty() {
        return Err(CommandError { status: Status::NotAll, message: followed.problems.join("\n") });
    }
    Ok(status_of(&followed.ends, &[], stop.borrow().asked()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::RunStore;
    use crate::journal::samples::{run_file, run_key};
    use crate::payload::Ram;

    #[test]
    fn what_would_be_done_to_several_hosts_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let hosts = ["a".to_owned(), "b".to_owned()];
        let (run, _lock) = RunStore::at(dir.path().to_owned())
            .create(&run_file("20261123-093000-0a1b", &["a", "b"]), &run_key())
            .unwrap();
        if std::io::stdin().is_terminal() && std::io::stderr().is_terminal() {
            return eprintln!("skipped: there is a terminal to ask on");
        }
        let error = insisted(&Wish::Abort, &run, &hosts).unwrap_err();
        assert_eq!(error.status, Status::Refused);
        assert_eq!(
            error.message,
            "this would end the payload on a, b of run 20261123-093000-0a1b; name one host, or give --all for all of \
             them"
        );
    }

    #[test]
    fn a_payload_that_needs_what_is_not_in_ram_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("deploy");
        std::fs::write(&script, "#!/bin/sh\n").unwrap();
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::write(dir.path().join("needs"), "disk\nvolumes\n").unwrap();
        let packed = payload::pack(dir.path()).unwrap();
        let mut hosts = run_file("20261123-093000-0a1b", &["a", "b", "c"]).hosts;
        let ram = |groups: &[&str]| {
            let groups = groups.iter().map(|group| (*group).to_owned()).collect();
            Some(Ram { groups, chosen: true, of_host: None, imgbuild: false })
        };
        hosts[0].ram = ram(&["core", "disk"]);
        hosts[1].ram = ram(&["core", "disk", "volumes"]);
        let error = fits(&packed, hosts.iter()).unwrap_err();
        assert_eq!(error.status, Status::BadInput);
        let lines: Vec<&str> = error.message.lines().collect();
        assert_eq!(
            lines[0],
            "a: the payload needs groups of the base that are not in RAM: volumes (there are core, disk)"
        );
        assert!(lines.len() == 2 && lines[1].contains("nothing was done") && lines[1].contains("`anemos up`"));
        // Nothing is known of a run from before this was kept.
        assert_eq!(fits(&packed, hosts[1..].iter()).unwrap(), Vec::<String>::new());
        std::fs::remove_file(dir.path().join("needs")).unwrap();
        let silent = payload::pack(dir.path()).unwrap();
        let warnings = fits(&silent, hosts[..1].iter()).unwrap();
        assert_eq!(
            warnings,
            ["a: the payload doesn't say which groups of the base it needs, and only core, disk are in RAM"]
        );
    }
}
