//! Waits: when nobody is waited for any longer, and what is said then.

use super::*;

#[test]
fn a_host_that_dies_after_a_write_is_not_called_reachable() {
    let dead = |written: bool| {
        let mut story = Story::running();
        if written {
            story.say(fact(3, EventKind::Written(vec![("vda".into(), 8)])));
        }
        story.pass(seconds(20)).tell(Input::Lost("the other side stopped answering".into()));
        story.pass(PAUSE);
        story.now += seconds(3000 + 30 + 300);
        story.tell(Input::Unreached("no route to host".into()));
        let (ending, reason) = story.end().unwrap();
        (ending, reason.to_owned())
    };
    let (ending, reason) = dead(true);
    assert_eq!(ending, Ending::Held);
    let words = "The host is not reachable; it was last heard of 55m53s ago, and a disk had been written by then";
    assert!(reason.contains(words) && reason.contains("deadline `build`"), "{reason}");
    let (_, reason) = dead(false);
    assert!(reason.contains("not reachable") && !reason.contains("written"), "{reason}");

    // A journal says when, too.
    let told = |wall_ms, seq, kind| Record::Told {
        wall_ms,
        update: Update::Event(Speaker::Agent, Event { seq, uptime_ms: 0, wall_ms: 0, kind }),
    };
    let records = vec![
        Record::BootSent { wall_ms: 0 },
        Record::Ram { boot_id: RAM.into() },
        told(1000, 1, EventKind::Attempt(1)),
        told(2000, 2, EventKind::Written(vec![("vda".into(), 8)])),
    ];
    let mut story = Story::again(records, 3_602_000);
    story.now += LEAST;
    story.tell(Input::Unreached("no route to host".into()));
    assert!(story.end().unwrap().1.contains("last heard of 1h1m ago, and a disk"), "{:?}", story.end());
}

#[test]
fn an_agent_that_only_says_hello_is_waited_for_no_longer_than_one_that_is_silent() {
    let mut story = Story::booted();
    while story.end().is_none() {
        assert!(story.now < seconds(700), "it is waited for for ever");
        story.link().pass(ANSWER);
        story.pass(PAUSE);
    }
    let (ending, reason) = story.end().unwrap();
    assert!(ending == Ending::Held && reason.contains("within deadline `boot` (10m)"), "{reason}");

    // That it was met once doesn't help it.
    let mut known = Story::running();
    known.tell(Input::Lost("cut".into()));
    let until = known.machine.wait.until;
    known.link().pass(ANSWER);
    assert_eq!((known.contact(), known.machine.wait.until), ("pausing", until));
}

#[test]
fn an_agent_that_always_leaves_and_never_goes_is_waited_for_once() {
    let mut story = Story::running();
    while story.end().is_none() {
        assert!(story.now < seconds(400), "it is waited for for ever");
        story.say(AgentReply::Leaving(Leaving::Finish(Finish::Reboot))).pass(seconds(61));
        story.tell(Input::Unreached("refused".into())).link().say(attached(AgentState::Succeeded, 2));
    }
    let (ending, reason) = story.end().unwrap();
    assert!(ending == Ending::Held && reason.contains("deadline `reboot` (5m)"), "{reason}");

    // A wish that was granted is a reason to wait anew.
    let mut wished = Story::running();
    let leaving = || AgentReply::Leaving(Leaving::Finish(Finish::Reboot));
    wished.say(leaving()).pass(seconds(61));
    wished.tell(Input::Unreached("refused".into())).link().say(attached(AgentState::Succeeded, 2));
    wished.wish(Wish::Finish(Finish::Reboot)).say(AgentReply::Accepted).say(leaving());
    assert_eq!(wished.machine.wait.until, wished.now + seconds(300));
}

#[test]
fn an_agent_that_says_nothing_has_failed() {
    let mut story = Story::running();
    let silence = 3000 + 10 * 30 + 60;
    story.pass(seconds(silence - 1));
    assert_eq!(story.end(), None);
    story.say(AgentReply::Progress(Progress { step: 1, done: 1, total: None, unit: Unit::Items, what: None }));
    story.pass(seconds(silence - 1));
    assert_eq!(story.end(), None, "any word counts");
    story.pass(seconds(1));
    let (ending, reason) = story.end().unwrap();
    assert!(ending == Ending::Held && reason.contains("it has said nothing for"), "{reason}");
}

#[test]
fn a_link_that_is_lost() {
    // Before anything was heard of the agent.
    let mut early = Story::booted();
    early.link().tell(Input::Lost("cut".into()));
    assert!(early.machine.goal == Goal::Boot && !early.wanted().contains(&"link lost".to_owned()));

    // The waiting begins anew with each link on which the agent was heard of, and with no other.
    let mut story = Story::running();
    story.now = seconds(100);
    story.tell(Input::Lost("cut".into()));
    let until = seconds(100 + 3000 + 30 + 300);
    assert!(story.machine.goal == Goal::Run && story.machine.wait.until == until);
    story.link().tell(Input::Lost("cut again".into()));
    assert_eq!(story.machine.wait.until, until);
    assert_eq!(story.wanted().iter().filter(|word| *word == "link lost").count(), 2, "each loss is told once");
    story.link().say(attached(AgentState::Running, 2)).tell(Input::Lost("cut".into()));
    assert!(story.machine.wait.until > until);

    // After the payload's success its last word may have been lost with the link.
    let mut done = Story::running();
    done.say(fact(3, EventKind::Outcome(Outcome::Succeeded))).tell(Input::Lost("cut".into()));
    assert_eq!(done.machine.goal, Goal::Leave(LeaveTo::New(Finish::Reboot)));
    done.system(old_key(), look("new-boot", "new-root"));
    assert_eq!(done.end(), Some((Ending::Deployed, "Some OS")));

    // After its last word nothing new is known.
    let mut gone = Story::running();
    gone.say(AgentReply::Leaving(Leaving::OldSystem("told to".into()))).pass(seconds(60));
    gone.tell(Input::Unreached("refused".into())).link();
    gone.say(attached(AgentState::Running, 2)).tell(Input::Lost("cut".into()));
    assert_eq!(gone.machine.goal, Goal::Leave(LeaveTo::Old("told to".into())));
}
