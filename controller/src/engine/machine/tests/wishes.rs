//! Wishes: when the agent is asked, and what the asker is told.

use super::*;

fn payload() -> Blob {
    Blob::new(vec![7; 5])
}

fn refused() -> AgentReply {
    AgentReply::Refused("no".into())
}

/// The agent waits for a person who has a wish.
fn held_with(wish: Wish) -> Story {
    let mut story = Story::booted();
    story.wish(wish).link();
    story.say(attached(held(), 0));
    story
}

#[test]
fn a_wish_waits_until_the_agent_is_there() {
    let mut story = Story::booted();
    story.wish(Wish::Abort).link();
    assert_eq!(story.asked(), []);
    story.say(attached(AgentState::Running, 0));
    assert_eq!(story.asked(), [AgentRequest::Abort]);
    assert_eq!(story.answered(), []);
    story.say(AgentReply::Accepted);
    assert_eq!(story.answered(), [Ok(())]);
}

#[test]
fn a_wish_comes_while_the_host_is_followed() {
    let mut story = Story::running();
    story.wish(Wish::Abort).say(line(3)).say(AgentReply::Accepted);
    assert_eq!((story.asked(), story.answered()), (vec![AgentRequest::Abort], vec![Ok(())]));
    assert_eq!(story.contact(), "talking");
}

#[test]
fn one_wish_at_a_time_is_with_the_agent() {
    let mut story = Story::running();
    story.wish(Wish::Finish(Finish::Reboot)).wish(Wish::Abort).wish(Wish::Retry(None));
    assert_eq!(story.asked(), [AgentRequest::Finish(Finish::Reboot)]);
    story.say(refused());
    assert_eq!(story.asked()[1..], [AgentRequest::Abort]);
    story.say(AgentReply::Accepted);
    assert_eq!(story.asked()[2..], [AgentRequest::Retry { payload: None }]);
    assert_eq!(story.answered(), [Err("no".into()), Ok(())]);
}

#[test]
fn a_refused_wish_ends_nothing() {
    let mut story = Story::running();
    story.wish(Wish::Retry(None)).say(refused()).say(line(3));
    assert_eq!((story.contact(), story.answered()), ("talking", vec![Err("no".into())]));

    // That the agent is held is no news while somebody wishes something, and is news after the last refusal.
    let mut held = held_with(Wish::Abort);
    held.wish(Wish::Finish(Finish::Kexec)).say(refused());
    assert_eq!(held.end(), None);
    held.say(refused());
    assert_eq!(held.end().unwrap().0, Ending::Held);
    assert_eq!(held.answered().len(), 2);
}

#[test]
fn what_the_agent_was_doing_is_not_known_after_it_accepted() {
    let mut retried = held_with(Wish::Retry(None));
    retried.say(AgentReply::Accepted);
    assert_eq!(retried.end(), None, "it will not be held for long");
    retried.say(fact(1, EventKind::State(held())));
    assert_eq!(retried.end().unwrap().0, Ending::Held);
    // Told to hold, a held agent says nothing new.
    let mut hold = held_with(Wish::Finish(Finish::Hold));
    hold.say(AgentReply::Accepted);
    assert_eq!((hold.end().unwrap().0, hold.answered()), (Ending::Held, vec![Ok(())]));
}

#[test]
fn only_an_unanswered_wish_is_made_again() {
    let mut story = Story::running();
    story.wish(Wish::Abort).tell(Input::Lost("cut".into()));
    assert_eq!(story.answered(), []);
    story.link().say(attached(AgentState::Running, 2));
    assert_eq!(story.asked(), [AgentRequest::Abort, AgentRequest::Abort]);
    story.say(AgentReply::Accepted).tell(Input::Lost("cut".into()));
    story.link().say(attached(AgentState::Running, 2));
    assert_eq!((story.asked().len(), story.answered()), (2, vec![Ok(())]));
}

#[test]
fn a_new_payload_is_sent_once_the_agent_wants_it() {
    let retry = AgentRequest::Retry { payload: Some(payload().id) };
    let mut story = held_with(Wish::Retry(Some(payload())));
    assert_eq!(story.asked(), std::slice::from_ref(&retry));
    assert!(!story.done.contains(&Action::SendPayload(payload())));
    story.say(AgentReply::Accepted).wish(Wish::Abort);
    assert!(story.done.contains(&Action::SendPayload(payload())));
    assert_eq!(story.answered(), [Ok(())]);
    // The agent is held until the payload is there, which is no news, and the next wish waits for that too.
    assert_eq!((story.end(), story.asked().len()), (None, 1));
    story.say(fact(1, EventKind::State(AgentState::Waiting))).say(AgentReply::Progress(Progress {
        step: 1,
        done: 1,
        total: None,
        unit: Unit::Items,
        what: None,
    }));
    story.say(fact(2, EventKind::Attempt(2)));
    assert_eq!(*story.acks().last().unwrap(), 2);
    assert_eq!(story.asked(), [retry, AgentRequest::Abort]);

    let mut refusing = held_with(Wish::Retry(Some(payload())));
    refusing.say(refused());
    assert!(!refusing.done.contains(&Action::SendPayload(payload())));
    assert_eq!((refusing.end().unwrap().0, refusing.answered()), (Ending::Held, vec![Err("no".into())]));
}

#[test]
fn a_payload_that_does_not_arrive() {
    // Each further piece is refused too. On a new link nothing of that is left.
    let mut damaged = held_with(Wish::Retry(Some(payload())));
    damaged.say(AgentReply::Accepted).wish(Wish::Finish(Finish::Reboot)).say(refused());
    assert!(damaged.wanted().ends_with(&["say error".into(), "hang up".into()]));
    damaged.say(refused()).link();
    damaged.say(attached(held(), 0));
    assert_eq!(damaged.asked(), [AgentRequest::Finish(Finish::Reboot)]);

    let mut lost = held_with(Wish::Retry(Some(payload())));
    lost.say(AgentReply::Accepted).tell(Input::Lost("cut".into())).link();
    lost.say(attached(held(), 0));
    assert_eq!((lost.end().unwrap().0, lost.answered()), (Ending::Held, vec![Ok(())]));
    assert!(lost.wanted().contains(&"say warning".to_owned()));
}

#[test]
fn a_host_that_has_left_ram_has_no_wish_granted() {
    let leaves = |leaving: Leaving, wish: Wish| {
        let mut story = Story::running();
        story.wish(wish).wish(Wish::Retry(None)).say(AgentReply::Leaving(leaving));
        let answered = story.answered();
        assert!(answered[1].as_ref().unwrap_err().contains("left RAM already"));
        story.wish(Wish::Abort);
        assert!(story.answered()[2].is_err() && story.end().is_none());
        answered[0].is_ok()
    };
    let new = || Leaving::Finish(Finish::Reboot);
    let old = || Leaving::OldSystem("aborted".into());
    // The last word may be said before the answer, and is one.
    assert!(leaves(new(), Wish::Finish(Finish::Reboot)) && leaves(old(), Wish::Abort));
    assert!(!leaves(old(), Wish::Finish(Finish::Reboot)) && !leaves(new(), Wish::Abort));
    assert!(!leaves(new(), Wish::Finish(Finish::Kexec)) && !leaves(old(), Wish::Retry(None)));

    // A host that is only thought to have left may still be asked, if it answers.
    let mut thought = Story::running();
    thought.say(fact(3, EventKind::Outcome(Outcome::Succeeded))).tell(Input::Lost("cut".into()));
    thought.wish(Wish::Finish(Finish::Hold)).pass(seconds(60)).link();
    thought.say(attached(AgentState::Succeeded, 3));
    assert_eq!(thought.asked(), [AgentRequest::Finish(Finish::Hold)]);
}

#[test]
fn the_end_answers_everybody() {
    let mut story = Story::running();
    story.say(fact(3, EventKind::NothingWritten { attempt: 1 }));
    story.wish(Wish::Abort).wish(Wish::Finish(Finish::Reboot)).tell(Input::Lost("cut".into()));
    story.system(old_key(), look("another-boot", "old-root"));
    assert_eq!(story.end().unwrap().0, Ending::Untouched);
    let answered = story.answered();
    assert_eq!(answered[0], Ok(()), "it was asked, and came true");
    assert!(answered[1].as_ref().unwrap_err().starts_with("the host is untouched already: "), "{answered:?}");
    let words = story.wanted();
    assert!(words.ends_with(&["answer yes".into(), "answer no".into(), "end untouched".into()]), "{words:?}");
}

#[test]
fn whoever_is_turned_away_from_gets_no_answer() {
    let mut story = Story::booted();
    story.wish(Wish::Abort).tell(Input::LeaveNow).wish(Wish::Abort);
    assert_eq!(story.answered(), []);
}
