//! The table of moves: a contact and an input, and what follows.

use super::*;

/// A story up to each contact.
fn knocking() -> Story {
    Story::booted()
}

fn pausing() -> Story {
    let mut story = Story::booted();
    story.tell(Input::Unreached("refused".into()));
    story
}

fn proving() -> Story {
    let mut story = Story::booted();
    story.tell(Input::Spoke);
    story
}

fn entering_agent() -> Story {
    let mut story = Story::booted();
    story.answers(agent_key());
    story
}

fn opening() -> Story {
    let mut story = entering_agent();
    story.tell(Input::Admitted);
    story
}

fn linked() -> Story {
    let mut story = opening();
    story.tell(Input::Opened);
    story
}

fn running() -> Story {
    Story::running()
}

/// The agent holds, and what it told last is being made safe.
fn parting() -> Story {
    let mut story = Story::running();
    story.journal = None;
    story.say(fact(3, EventKind::State(held())));
    story
}

/// The agent leaves, and what it told last is being made safe.
fn leaving() -> Story {
    let mut story = Story::running();
    story.journal = None;
    story.say(AgentReply::Leaving(Leaving::Finish(Finish::Reboot)));
    story
}

fn entering_system() -> Story {
    let mut story = Story::booted();
    story.now = seconds(10);
    story.answers(old_key());
    story
}

fn looking() -> Story {
    let mut story = entering_system();
    story.tell(Input::Admitted);
    story
}

/// The host has left for the new system, and a system with a known key is asked what it is.
fn looking_new() -> Story {
    let mut story = Story::running();
    story.say(AgentReply::Leaving(Leaving::Finish(Finish::Reboot)));
    story.answers(old_key()).tell(Input::Admitted);
    story
}

/// The same, with a check.
fn checking() -> Story {
    let mut story = looking_new();
    story.machine.setup.entry.check = Some("true".into());
    story.tell(Input::Looked(Ok(look("new-boot", "new-root"))));
    story
}

/// The new system may be opened by the run's key, for as long as it is checked.
fn looking_by_the_run_key() -> Story {
    let mut story = looking_new();
    story.machine.setup.entry.verify_key = true;
    story
}

/// The same, once it is in order.
fn withdrawing() -> Story {
    let mut story = looking_by_the_run_key();
    story.tell(Input::Looked(Ok(look("new-boot", "new-root"))));
    story
}

fn over() -> Story {
    let mut story = parting();
    story.tell(Input::NotSafe);
    story
}

fn detached() -> Story {
    let mut story = Story::running();
    story.tell(Input::Leave);
    story
}

/// A name, the story so far, what happens, the contact after it, and what is to be done.
type Row = (&'static str, fn() -> Story, Input, &'static str, &'static [&'static str]);

#[test]
fn what_follows_what() {
    let why = || "so it went".to_owned();
    let new = || Input::Looked(Ok(look("new-boot", "new-root")));
    let failed = |closed| Input::Checked { result: Err(why()), closed };
    let stranger = Input::Stranger { key: key(9), address: address() };
    let mark = |seq| Input::Safe(Mark { seq, attempt: None });
    let table: Vec<Row> = vec![
        ("somebody speaks", knocking, Input::Spoke, "proving", &["prove 2 keys in 5s"]),
        ("nobody speaks", knocking, Input::Unreached(why()), "pausing", &[]),
        ("the agent", proving, Input::Proved(agent_key()), "entering agent", &["log into agent"]),
        ("the old system goes down", proving, Input::Proved(old_key()), "pausing", &["hang up"]),
        ("a stranger", proving, stranger, "pausing", &["say error", "hang up"]),
        ("no handshake", proving, Input::Unreached(why()), "pausing", &["hang up"]),
        ("let in by the agent", entering_agent, Input::Admitted, "opening", &["open"]),
        ("locked out by the agent", entering_agent, Input::LockedOut(why()), "pausing", &["hang up"]),
        ("let in by a system", entering_system, Input::Admitted, "looking", &["look"]),
        ("locked out by a system", entering_system, Input::LockedOut(why()), "pausing", &["hang up"]),
        ("a system that says nothing", looking, Input::Looked(Err(why())), "pausing", &["hang up"]),
        ("another system than the RAM's", looking, new(), "over", &["hang up", "end held"]),
        ("the new system", looking_new, new(), "over", &["phase verify", "hang up", "end deployed"]),
        (
            "the check succeeds",
            checking,
            Input::Checked { result: Ok(()), closed: true },
            "over",
            &["hang up", "end deployed"],
        ),
        ("the check fails", checking, failed(false), "checking", &["say info"]),
        ("the check is cut off", checking, failed(true), "pausing", &["say info", "hang up"]),
        (
            "the new system, which the run's key opens",
            looking_by_the_run_key,
            new(),
            "withdrawing",
            &["phase verify", "verified Some OS", "withdraw in 30s"],
        ),
        ("the key is gone", withdrawing, Input::Withdrawn(Ok(())), "over", &["hang up", "end deployed"]),
        (
            "the key is there, or nobody knows",
            withdrawing,
            Input::Withdrawn(Err(why())),
            "over",
            &["say warning", "hang up", "end deployed"],
        ),
        ("the agent's hello", opening, Input::Opened, "talking", &["attach 0"]),
        ("no subsystem", opening, Input::Lost(why()), "pausing", &["hang up"]),
        ("a wrong hello", opening, Input::Broken(why()), "over", &["hang up", "end held"]),
        ("attached", linked, Input::Reply(attached(AgentState::Waiting, 0)), "talking", &["ram ram-boot"]),
        (
            "attached, held",
            linked,
            Input::Reply(attached(held(), 0)),
            "over",
            &["ram ram-boot", "safe 0", "ack 0", "hang up", "end held"],
        ),
        ("not attached", linked, Input::Reply(AgentReply::Refused(why())), "over", &["hang up", "end held"]),
        ("a line", running, Input::Reply(line(3)), "talking", &["fact 3"]),
        ("a line again", running, Input::Reply(line(2)), "talking", &[]),
        (
            "a gap of many",
            running,
            Input::Reply(fact(3, EventKind::Gap { first: 3, last: 99, bytes: 1 })),
            "talking",
            &["fact 3", "safe 99", "ack 99"],
        ),
        (
            "an attempt",
            running,
            Input::Reply(fact(3, EventKind::Attempt(2))),
            "talking",
            &["fact 3", "safe 3 attempt 2", "ack 3"],
        ),
        (
            "held",
            running,
            Input::Reply(fact(3, EventKind::State(held()))),
            "over",
            &["fact 3", "safe 3", "ack 3", "hang up", "end held"],
        ),
        ("not asked", running, Input::Reply(AgentReply::Accepted), "talking", &[]),
        ("refused, not asked", running, Input::Reply(AgentReply::Refused(why())), "talking", &["say warning"]),
        ("lost", running, Input::Lost(why()), "pausing", &["link lost", "safe 2", "hang up"]),
        ("not understood", running, Input::Broken(why()), "over", &["hang up", "end held"]),
        ("too late to be safe", pausing, mark(2), "pausing", &[]),
        ("an earlier fact is safe", parting, mark(2), "parting", &[]),
        ("the last fact is safe", parting, mark(3), "over", &["ack 3", "hang up", "end held"]),
        ("the last fact is not safe", parting, Input::NotSafe, "over", &["hang up", "end held"]),
        (
            "the last word is safe",
            leaving,
            mark(2),
            "pausing",
            &["ack 2", "hang up", "left Some(Reboot)", "safe 2", "phase reboot"],
        ),
        (
            "the last word is not safe",
            leaving,
            Input::NotSafe,
            "pausing",
            &["hang up", "left Some(Reboot)", "safe 2", "phase reboot"],
        ),
        ("the clock, too early", pausing, Input::Clock, "pausing", &[]),
        ("the user leaves", running, Input::Leave, "over", &["say info", "safe 2", "detach"]),
        ("the user wants to leave before the agent is met", knocking, Input::Leave, "knocking", &["say warning"]),
        ("the user leaves all the same", knocking, Input::LeaveNow, "over", &["say warning", "safe 0", "detach"]),
        ("a wish while nobody answers", knocking, Input::Wished(Wish::Abort), "knocking", &[]),
        ("a wish after the end", over, Input::Wished(Wish::Abort), "over", &["answer no"]),
        ("a wish after a detachment", detached, Input::Wished(Wish::Abort), "over", &[]),
        ("the user leaves after the end", over, Input::Leave, "over", &[]),
        ("an answer after the end", over, Input::Spoke, "over", &[]),
    ];
    for (what, so_far, input, contact, actions) in table {
        let mut story = so_far();
        story.wanted();
        story.tell(input);
        assert_eq!(story.wanted(), actions, "{what}");
        assert_eq!(story.contact(), contact, "{what}");
    }
}

#[test]
fn pauses_end() {
    for (story, pause, words) in
        [(pausing as fn() -> Story, SOON, ["knock briskly for 599s"]), (checking, PAUSE, ["check for 57s"])]
    {
        let mut story = story();
        if story.contact() == "checking" {
            story.tell(Input::Checked { result: Err("no".into()), closed: false });
        }
        story.wanted();
        story.pass(pause.saturating_sub(Duration::from_millis(1)));
        assert_eq!(story.wanted(), [""; 0]);
        story.pass(Duration::from_millis(1));
        assert_eq!(story.wanted(), words);
    }
}
