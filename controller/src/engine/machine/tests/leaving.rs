//! Leaving: when whoever wants to leave is let go.

use super::*;

/// What was said last.
fn said(story: &Story) -> (Level, &str) {
    let mut said = story.done.iter().rev().filter_map(|action| match action {
        Action::Say(level, text) => Some((*level, text.as_str())),
        _ => None,
    });
    said.next().unwrap()
}

#[test]
fn who_leaves_before_the_agent_is_met_stays_until_the_payload_has_begun() {
    let mut story = Story::booted();
    story.tell(Input::Leave).tell(Input::Leave);
    assert_eq!((story.contact(), said(&story).0), ("knocking", Level::Warning));
    assert!(said(&story).1.contains("as soon as the payload has begun"), "{:?}", said(&story));
    story.link();
    story.say(attached(AgentState::Starting, 0)).say(fact(1, EventKind::State(AgentState::Waiting)));
    story.say(fact(2, EventKind::Attempt(1)));
    // The agent begins it when it hears this, and says so.
    assert_eq!((story.contact(), story.acks()), ("talking", vec![2]));
    assert!(!story.done.contains(&Action::Detach));
    story.say(fact(3, EventKind::State(AgentState::Running)));
    assert_eq!(story.done.last(), Some(&Action::Detach));
    assert!(said(&story).1.starts_with("detached; the host goes on alone"), "{:?}", said(&story));
}

#[test]
fn who_leaves_at_once_is_told_when_the_host_goes_back() {
    let mut story = Story::booted();
    story.tell(Input::Leave).tell(Input::LeaveNow);
    let (level, text) = said(&story);
    assert_eq!((story.contact(), level), ("over", Level::Warning));
    let expected = "unless `anemos attach 20261123-093000-0a1b` comes within deadline `dead_man` (15m), the host goes \
                    back to its old system by itself";
    assert!(text.ends_with(expected), "{text}");
}

#[test]
fn the_host_may_end_while_somebody_waits_to_leave() {
    // The boot never happened.
    let mut story = Story::booted();
    story.tell(Input::Leave);
    story.now = seconds(100);
    story.system(old_key(), look("old-boot", "old-root"));
    assert_eq!(story.end().map(|(ending, _)| ending), Some(Ending::Untouched));
    // The agent can't begin a payload, and goes back or is held.
    let mut back = Story::booted();
    back.tell(Input::Leave).link();
    back.say(attached(AgentState::Starting, 0)).say(AgentReply::Leaving(Leaving::OldSystem("no base".into())));
    assert_eq!(back.done.last(), Some(&Action::Detach));
    let mut stuck = Story::booted();
    stuck.tell(Input::Leave).link();
    stuck.say(attached(held(), 0));
    assert_eq!(stuck.end().map(|(ending, _)| ending), Some(Ending::Held));
}

#[test]
fn a_retry_is_waited_for_as_a_first_attempt_is() {
    let mut story = Story::booted();
    story.wish(Wish::Retry(None)).link();
    story.say(attached(held(), 0)).say(AgentReply::Accepted).tell(Input::Leave);
    assert_eq!(story.contact(), "talking");
    story.say(fact(1, EventKind::Attempt(2)));
    assert!(!story.done.contains(&Action::Detach));
    story.say(fact(2, EventKind::State(AgentState::Running)));
    assert_eq!(story.done.last(), Some(&Action::Detach));

    // One that was written already does not go back.
    let mut written = Story::running();
    written.say(fact(3, EventKind::Written(vec![("vda".into(), 8)]))).say(fact(4, EventKind::Attempt(2)));
    written.tell(Input::LeaveNow);
    assert!(said(&written).1.contains("the agent waits for `anemos attach"), "{:?}", said(&written));
}

#[test]
fn a_journal_tells_whether_the_payload_has_begun() {
    let told = |seq, kind| Record::Told {
        wall_ms: 1000,
        update: Update::Event(Speaker::Agent, Event { seq, uptime_ms: 0, wall_ms: 0, kind }),
    };
    let sent = || vec![Record::BootSent { wall_ms: 0 }];
    let met = || [sent(), vec![Record::Ram { boot_id: RAM.into() }, told(1, EventKind::Attempt(1))]].concat();
    let begun = || [met(), vec![told(2, EventKind::State(AgentState::Running))]].concat();
    for (records, goes) in [(sent(), false), (met(), false), (begun(), true)] {
        let mut story = Story::again(records, 2000);
        story.tell(Input::Leave);
        assert_eq!(story.contact() == "over", goes);
    }
}
