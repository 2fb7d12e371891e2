//! What a host may say at most. What is more is cut off where it comes in, so that whoever holds on to something a host
//! said can count how much that is.

use std::cmp::Reverse;

use anemos_proto::agent::{AgentReply, Leaving};
use anemos_proto::event::{AgentState, Event, EventKind, MAX_LINE, Outcome, Progress, StepOutcome};
use anemos_proto::stage::Failure;

/// Bytes of a text: a reason, a note.
const TEXT: usize = 16 << 10;

/// Bytes of a name.
const NAME: usize = 1 << 10;

/// Things in a list.
pub(super) const LIST: usize = 64;

/// Cuts a text, with a mark. What was cut off takes no memory.
fn cut(text: &mut String, most: usize) {
    if text.len() > most {
        let at = (0..=most).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(at);
        text.push('…');
        text.shrink_to_fit();
    }
}

/// Cuts what is too long in a fact.
pub(super) fn event(mut event: Event) -> Event {
    match &mut event.kind {
        EventKind::Log { line, .. } => {
            if line.len() > MAX_LINE {
                line.truncate(MAX_LINE);
                line.extend("…".as_bytes());
                line.shrink_to_fit();
            }
        }
        EventKind::StepStarted { name, .. } => cut(name, NAME),
        EventKind::StepFinished { outcome: StepOutcome::Skipped(text) | StepOutcome::Failed(text), .. }
        | EventKind::Note { text, .. }
        | EventKind::State(AgentState::Held(text) | AgentState::Returning(text))
        | EventKind::Outcome(Outcome::Failed { reason: text, .. }) => cut(text, TEXT),
        EventKind::Written(disks) => {
            if disks.len() > LIST {
                // That something was written must not be what is cut off.
                disks.sort_by_key(|(_, sectors)| Reverse(*sectors));
                disks.truncate(LIST);
                disks.shrink_to_fit();
            }
            for (name, _) in disks {
                cut(name, NAME);
            }
        }
        EventKind::HostKeys(keys) => {
            keys.truncate(LIST);
            keys.shrink_to_fit();
            for key in keys {
                cut(key, TEXT);
            }
        }
        EventKind::StepFinished { outcome: StepOutcome::Done, .. }
        | EventKind::State(AgentState::Starting | AgentState::Waiting | AgentState::Running | AgentState::Succeeded)
        | EventKind::Outcome(Outcome::Succeeded)
        | EventKind::Gap { .. }
        | EventKind::Attempt(_)
        | EventKind::Seeded(_)
        | EventKind::NothingWritten { .. }
        | EventKind::Shell => {}
    }
    event
}

/// Cuts what is too long in progress.
pub(super) fn progress(mut progress: Progress) -> Progress {
    if let Some(what) = &mut progress.what {
        cut(what, NAME);
    }
    progress
}

/// Cuts what is too long in why the stage could not do something.
pub(super) fn failure(mut failure: Failure) -> Failure {
    for text in [&mut failure.what, &mut failure.why, &mut failure.hint] {
        cut(text, TEXT);
    }
    failure
}

/// Cuts what is too long in what the agent says.
pub(super) fn reply(reply: AgentReply) -> AgentReply {
    match reply {
        AgentReply::Event(fact) => AgentReply::Event(event(fact)),
        AgentReply::Progress(done) => AgentReply::Progress(progress(done)),
        AgentReply::Attached { mut boot_id, mut state, last } => {
            cut(&mut boot_id, NAME);
            if let AgentState::Held(why) | AgentState::Returning(why) = &mut state {
                cut(why, TEXT);
            }
            AgentReply::Attached { boot_id, state, last }
        }
        AgentReply::Refused(mut why) => {
            cut(&mut why, TEXT);
            AgentReply::Refused(why)
        }
        AgentReply::Leaving(Leaving::OldSystem(mut why)) => {
            cut(&mut why, TEXT);
            AgentReply::Leaving(Leaving::OldSystem(why))
        }
        AgentReply::Accepted | AgentReply::Leaving(Leaving::Finish(_)) => reply,
    }
}

#[cfg(test)]
mod tests {
    use anemos_proto::event::Stream;

    use super::*;

    fn kept(kind: EventKind) -> EventKind {
        event(Event { seq: 1, uptime_ms: 1, wall_ms: 1, kind }).kind
    }

    #[test]
    fn what_is_too_long_is_cut_and_what_is_not_is_left() {
        let log = |length| EventKind::Log { stream: Stream::Stdout, line: vec![b'x'; length] };
        assert_eq!(kept(log(MAX_LINE)), log(MAX_LINE));
        let EventKind::Log { line, .. } = kept(log(1 << 20)) else { panic!("another kind") };
        assert!(line.ends_with("x…".as_bytes()) && line.capacity() < 2 * MAX_LINE, "{}", line.len());

        let held = |why: String| AgentReply::Attached { boot_id: "b".into(), state: AgentState::Held(why), last: 1 };
        assert_eq!(reply(held("why".into())), held("why".into()));
        // A letter of three bytes is not cut in two.
        let long = "€".repeat(100_000);
        assert_eq!(reply(held(long)), held(format!("{}…", "€".repeat(TEXT / 3))));
    }

    #[test]
    fn a_write_is_not_cut_off() {
        let mut disks: Vec<_> = (0..1000).map(|n| (format!("sd{n}"), 0)).collect();
        disks[999].1 = 8;
        let EventKind::Written(disks) = kept(EventKind::Written(disks)) else { panic!("another kind") };
        assert_eq!((disks.len(), &disks[0]), (LIST, &("sd999".to_owned(), 8)));
    }
}
