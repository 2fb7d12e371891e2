//! After the boot: what it means that somebody answers on a host, and what it means that nobody does in time. Pure, so
//! that tables can test it.
//!
//! A server proves that it holds a host key before anything about it is decided here. One whose key is unknown is a
//! stranger, and is shown nothing.

use std::time::Duration;

use anemos_proto::config::Finish;

use super::known::Known;
use super::look::Look;
use crate::report::Ending;

/// The same boot of the old system may answer for this long after the stage's last word: processes are ended and file
/// systems synced before the kexec. Longer means that it never fired.
pub const GRACE: Duration = Duration::from_secs(90);

/// The agent may answer for this long after its last word.
pub const LEAVING_GRACE: Duration = Duration::from_secs(60);

/// Where the host is thought to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Goal {
    /// Into RAM: the agent has not been met.
    Boot,
    /// The agent was met, and the link to it was lost.
    Run,
    /// The agent said its last word.
    Leave(LeaveTo),
}

/// Where the agent said it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeaveTo {
    /// Into the new system.
    New(Finish),
    /// Back to the old system, because …
    Old(String),
}

/// Who answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// The agent, by its host key.
    Agent,
    /// A system with a host key of the old or the new system, that let us in.
    System(Look),
    /// Such a system, that did not let us in.
    LockedOut(String),
    /// A server whose host key is none that we know.
    Stranger(String),
}

/// What follows from that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Wait and look again.
    Wait,
    /// Log into the agent.
    Attach,
    /// It is the new system, as far as can be told: check it.
    Verify,
    /// It is over.
    End(Ending, String),
}

impl Goal {
    /// Name of the deadline that ends the waiting.
    pub fn deadline_name(&self) -> &'static str {
        match self {
            Self::Boot => "boot",
            Self::Run => "build",
            Self::Leave(_) => "reboot",
        }
    }
}

/// Says what follows when somebody answers who has been waited for so long.
pub fn decide(goal: &Goal, known: &Known, seen: &Seen, waited: Duration) -> Next {
    match seen {
        Seen::Agent => match goal {
            Goal::Leave(_) if waited < LEAVING_GRACE => Next::Wait,
            // The agent didn't leave after all, and will say why.
            _ => Next::Attach,
        },
        Seen::System(look) => system(goal, known, look, waited),
        Seen::LockedOut(_) | Seen::Stranger(_) => Next::Wait,
    }
}

fn system(goal: &Goal, known: &Known, look: &Look, waited: Duration) -> Next {
    let is_old = !known.old_identity.is_empty() && look.identity == known.old_identity;
    let held = |reason: String| Next::End(Ending::Held, reason);
    if look.boot_id == known.old_boot_id {
        return match goal {
            Goal::Boot if known.untold => Next::End(
                Ending::Untouched,
                "the controller ended before it had told the host to boot; the old system still runs".into(),
            ),
            Goal::Boot if waited >= GRACE => Next::End(
                Ending::Untouched,
                format!(
                    "the boot into RAM never happened: the old system still runs {}s after it should have ended",
                    waited.as_secs()
                ),
            ),
            // The old system is still going down. The deadline ends the waiting for that.
            _ => Next::Wait,
        };
    }
    if known.ram_boot_id.as_deref() == Some(&look.boot_id) {
        return Next::Wait;
    }
    // The old system is back: untouched only if it is known that nothing was written.
    let back = |story: &str| match known.proof(look) {
        Ok(proof) => Next::End(Ending::Untouched, format!("{story}; {proof}")),
        Err(why) => held(format!("{story}; {why}. Look at it before you use it, or deploy it again")),
    };
    match goal {
        Goal::Boot if is_old => back(
            "the RAM system did not come up, and the machine went back to its old system; its console may tell why",
        ),
        Goal::Boot => held(format!("instead of the RAM system came up {}", unrecognised(known, look))),
        Goal::Leave(LeaveTo::Old(reason)) if is_old => back(reason),
        Goal::Leave(LeaveTo::Old(reason)) => {
            let came = unrecognised(known, look);
            held(format!("{reason}; the host should have gone back to its old system, and {came} came up"))
        }
        Goal::Run if !is_old && known.attempt == 0 && known.proof(look).is_ok() => held(format!(
            "the machine left RAM before a payload was started, and not for its old system, as far as can be told: \
             {} came up",
            unrecognised(known, look)
        )),
        Goal::Leave(LeaveTo::New(_)) | Goal::Run if !is_old => Next::Verify,
        // A payload that changed the old system in place looks the same as a firmware that still starts the old disk.
        Goal::Leave(LeaveTo::New(_)) | Goal::Run if known.written && known.succeeded => held(
            "the payload succeeded, but what came up has the old root file system and machine id: the firmware may \
             start another disk than the one that was written; check the boot order"
                .into(),
        ),
        Goal::Leave(LeaveTo::New(_)) if known.written => held(
            "the host was told to leave RAM though its payload had failed after writing to a disk, and the old system \
             came up: look at what was overwritten"
                .into(),
        ),
        Goal::Leave(LeaveTo::New(_)) => back("the host left RAM as told, and the old system came back"),
        Goal::Run if known.written => held(
            "the machine left RAM while the payload was running, after it had written to a disk; the old system still \
             boots"
                .into(),
        ),
        Goal::Run => back("the host went back to its old system on its own; `anemos logs` shows how far it came"),
    }
}

fn unrecognised(known: &Known, look: &Look) -> String {
    let name = name(look);
    if known.old_identity.is_empty() {
        format!("{name}, and nothing had told what the old system's root file system is")
    } else {
        format!("{name}, which is not the old system")
    }
}

fn name(look: &Look) -> &str {
    if look.os.is_empty() { "a system without a name" } else { &look.os }
}

/// How a host ends of which nobody answered as hoped until the deadline. `last`: who did answer last; `heard`: so long
/// ago the agent was heard of; `why`: why nobody answers.
pub fn too_late(
    goal: &Goal,
    known: &Known,
    (last, heard): (Option<&Seen>, Option<Duration>),
    why: &str,
    deadline: Duration,
) -> (Ending, String) {
    if let Some(Seen::System(look)) = last
        && *goal == Goal::Boot
        && look.boot_id == known.old_boot_id
    {
        return (Ending::Untouched, "the boot into RAM never happened: the old system still runs".into());
    }
    let waited = format!("deadline `{}` ({})", goal.deadline_name(), crate::config::format_duration(deadline));
    let missing = match goal {
        Goal::Boot => "the RAM system did not answer",
        Goal::Run => "the RAM system was not heard of again",
        Goal::Leave(LeaveTo::New(_)) => "the new system did not answer",
        Goal::Leave(LeaveTo::Old(_)) => "the old system did not come back",
    };
    let seen = match last {
        Some(Seen::Stranger(key)) => format!("a server with the unknown host key {key} answers"),
        Some(Seen::LockedOut(why)) => format!("a system with the right host key answers, but doesn't let us in: {why}"),
        Some(Seen::Agent) => "the agent still answers".into(),
        Some(Seen::System(look)) => format!("{} answers, with boot id {}", name(look), look.boot_id),
        None => why.to_owned(),
    };
    // What holds it is nothing that could be reached.
    let lost = match (goal, last, heard) {
        (Goal::Run, None, Some(heard)) => {
            let heard = crate::config::format_duration(Duration::from_secs(heard.as_secs()));
            let written =
                if known.written { ", and a disk had been written by then: its kernel may have died" } else { "" };
            format!("The host is not reachable; it was last heard of {heard} ago{written}. ")
        }
        _ => String::new(),
    };
    (
        Ending::Held,
        format!("{missing} within {waited}: {seen}. {lost}Look at its console; `anemos attach` looks for it again"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> Known {
        Known { old_boot_id: "old-boot".into(), old_identity: "old-root".into(), ..Known::default() }
    }

    fn look(boot_id: &str, identity: &str) -> Seen {
        Seen::System(Look {
            boot_id: boot_id.into(),
            identity: identity.into(),
            os: "Some OS".into(),
            note: String::new(),
        })
    }

    #[derive(Debug, PartialEq)]
    enum Short {
        Wait,
        Attach,
        Verify,
        Deployed,
        Untouched,
        Held,
    }

    fn short(next: &Next) -> Short {
        match next {
            Next::Wait => Short::Wait,
            Next::Attach => Short::Attach,
            Next::Verify => Short::Verify,
            Next::End(Ending::Deployed, _) => Short::Deployed,
            Next::End(Ending::Untouched, _) => Short::Untouched,
            Next::End(Ending::Held, _) => Short::Held,
        }
    }

    #[test]
    fn who_answers_and_what_follows() {
        let boot = || Goal::Boot;
        let run = || Goal::Run;
        let new = || Goal::Leave(LeaveTo::New(Finish::Reboot));
        let old = || Goal::Leave(LeaveTo::Old("nobody attached".into()));
        let begun = || Known { attempt: 1, ..known() };
        let clean = || Known { attempt: 1, nothing_written: true, ..known() };
        let wrote = || Known { attempt: 1, written: true, ..known() };
        let done = || Known { succeeded: true, ..wrote() };
        let ram = || Known { ram_boot_id: Some("ram-boot".into()), ..wrote() };
        let untold = || Known { untold: true, ..known() };
        let nameless = || Known { old_identity: String::new(), ..known() };
        let damaged = |known: Known| Known { damaged: Some("byte 7".into()), ..known };
        let visited = || Known { doubt: Some("shell"), ..known() };
        let table = [
            ("agent comes up", boot(), known(), Seen::Agent, 3, Short::Attach),
            ("agent is back", run(), known(), Seen::Agent, 3, Short::Attach),
            ("agent is going", new(), known(), Seen::Agent, 3, Short::Wait),
            ("agent did not go", new(), known(), Seen::Agent, 61, Short::Attach),
            ("old system going down", boot(), known(), look("old-boot", "old-root"), 10, Short::Wait),
            ("kexec never fired", boot(), known(), look("old-boot", "old-root"), 90, Short::Untouched),
            ("not told to boot", boot(), untold(), look("old-boot", "old-root"), 10, Short::Untouched),
            ("not told to boot, another system", boot(), untold(), look("b", "other"), 10, Short::Held),
            ("fell back", boot(), known(), look("b", "old-root"), 40, Short::Untouched),
            ("fell back, no identity", boot(), nameless(), look("b", "-"), 40, Short::Held),
            ("fell back, journal damaged", boot(), damaged(known()), look("b", "old-root"), 40, Short::Held),
            ("something else booted", boot(), known(), look("b", "other"), 40, Short::Held),
            ("stranger during boot", boot(), known(), Seen::Stranger("k".into()), 1000, Short::Wait),
            ("stranger after leaving", new(), known(), Seen::Stranger("k".into()), 1000, Short::Wait),
            ("locked out", new(), known(), Seen::LockedOut("no".into()), 10, Short::Wait),
            ("new system", new(), wrote(), look("b", "new-root"), 40, Short::Verify),
            ("old boot is no success", new(), wrote(), look("old-boot", "old-root"), 400, Short::Wait),
            ("RAM's boot is no success", new(), ram(), look("ram-boot", "x"), 400, Short::Wait),
            ("the old disk, though all went well", new(), done(), look("b", "old-root"), 40, Short::Held),
            ("left after a failure", new(), wrote(), look("b", "old-root"), 40, Short::Held),
            ("left after a failure, mended", new(), wrote(), look("b", "new-root"), 40, Short::Verify),
            ("left, nothing written", new(), clean(), look("b", "old-root"), 40, Short::Untouched),
            ("left, nothing said", new(), begun(), look("b", "old-root"), 40, Short::Held),
            ("left before a payload", new(), known(), look("b", "old-root"), 40, Short::Untouched),
            ("went back as told", old(), clean(), look("b", "old-root"), 40, Short::Untouched),
            ("went back before a payload", old(), known(), look("b", "old-root"), 40, Short::Untouched),
            ("a bare last word", old(), begun(), look("b", "old-root"), 40, Short::Held),
            ("went back as told, journal damaged", old(), damaged(clean()), look("b", "old-root"), 40, Short::Held),
            ("went back as told, no identity", old(), nameless(), look("b", "-"), 40, Short::Held),
            ("went elsewhere", old(), clean(), look("b", "other"), 40, Short::Held),
            ("finished alone", run(), begun(), look("b", "new-root"), 40, Short::Verify),
            ("another system before a payload", run(), known(), look("b", "new-root"), 40, Short::Held),
            ("a person's system", run(), visited(), look("b", "new-root"), 40, Short::Verify),
            ("went back alone before a payload", run(), known(), look("b", "old-root"), 40, Short::Untouched),
            ("went back alone after a shell", run(), visited(), look("b", "old-root"), 40, Short::Held),
            ("went back alone", run(), clean(), look("b", "old-root"), 40, Short::Untouched),
            ("died in the middle, nothing heard", run(), begun(), look("b", "old-root"), 40, Short::Held),
            ("reset in the middle", run(), wrote(), look("b", "old-root"), 40, Short::Held),
            ("finished alone, the old disk", run(), done(), look("b", "old-root"), 40, Short::Held),
        ];
        for (what, goal, known, seen, seconds, expected) in table {
            let next = decide(&goal, &known, &seen, Duration::from_secs(seconds));
            assert_eq!(short(&next), expected, "{what}: {next:?}");
        }
    }

    #[test]
    fn a_deadline_names_itself() {
        let minute = Duration::from_secs(60);
        let (ending, reason) = too_late(&Goal::Boot, &known(), (None, None), "no route to host", minute);
        assert_eq!(ending, Ending::Held);
        assert!(reason.contains("deadline `boot` (1m)") && reason.contains("no route to host"), "{reason}");
        let old = look("old-boot", "old-root");
        assert_eq!(too_late(&Goal::Boot, &known(), (Some(&old), None), "", minute).0, Ending::Untouched);
        let goal = Goal::Leave(LeaveTo::New(Finish::Reboot));
        let stranger = Seen::Stranger("ssh-ed25519 SHA256:x".into());
        let (ending, reason) = too_late(&goal, &known(), (Some(&stranger), None), "", minute);
        assert_eq!(ending, Ending::Held);
        assert!(reason.contains("SHA256:x") && reason.contains("deadline `reboot`"), "{reason}");
    }
}
