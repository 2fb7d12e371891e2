//! Stories: what happens to a host, and what the machine wants done about it.

mod leaving;
mod moves;
mod properties;
mod waits;
mod wishes;

use anemos_proto::Secret;
use anemos_proto::agent::Leaving;
use anemos_proto::event::{AgentState, EventKind, Outcome, Progress, Unit};

use super::*;
use crate::journal::Record;
use crate::ssh::RunKey;

/// The boot id of the RAM system.
const RAM: &str = "ram-boot";

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn key(number: u8) -> HostKey {
    RunKey::from_seed(&Secret::new(vec![number; 32])).unwrap().public()
}

fn agent_key() -> HostKey {
    key(1)
}

fn old_key() -> HostKey {
    key(2)
}

fn new_key() -> HostKey {
    key(3)
}

fn address() -> Address {
    Address { host: "192.0.2.1".into(), port: 22, way: crate::ssh::Way::Direct }
}

fn setup() -> Setup {
    let entry = HostEntry {
        name: "web1".into(),
        labels: Vec::new(),
        address: address(),
        new_address: None,
        algorithms: crate::ssh::Algorithms::default(),
        user: "root".into(),
        new_user: None,
        becomes: None,
        agent: crate::ssh_config::Agent::Disabled,
        identities_only: true,
        identity_files: Vec::new(),
        identities_given: false,
        certificate_files: Vec::new(),
        agent_key: agent_key(),
        check: None,
        finish: Finish::Reboot,
        boot_s: 600,
        build_s: 3000,
        reboot_s: 300,
        verify_s: 60,
        ack_s: 30,
        verify_key: false,
        dead_man_s: 900,
        ram: None,
        wanted: None,
    };
    let old = OldSystem {
        boot_id: "old-boot".into(),
        proved: old_key(),
        host_keys: vec![old_key()],
        identity: "old-root".into(),
        agent_port: 22,
        downloaded: 0,
        initramfs: 0,
    };
    Setup { run: "20261123-093000-0a1b".parse().unwrap(), entry, old, typing: Duration::ZERO }
}

fn look(boot_id: &str, identity: &str) -> Look {
    Look { boot_id: boot_id.into(), identity: identity.into(), os: "Some OS".into(), note: String::new() }
}

fn held() -> AgentState {
    AgentState::Held("exit 1".into())
}

fn attached(state: AgentState, last: u64) -> AgentReply {
    AgentReply::Attached { boot_id: RAM.into(), state, last }
}

fn fact(seq: u64, kind: EventKind) -> AgentReply {
    AgentReply::Event(Event { seq, uptime_ms: 0, wall_ms: 0, kind })
}

fn line(seq: u64) -> AgentReply {
    fact(seq, EventKind::Log { stream: anemos_proto::event::Stream::Stdout, line: b"x".to_vec() })
}

/// A machine, its clock, and all that it wanted done.
struct Story {
    machine: Machine,
    now: Duration,
    done: Vec<Action>,
    /// Whether the journal can be written; `None`: writing it takes its time.
    journal: Option<bool>,
}

impl Story {
    fn of(setup: Setup) -> Self {
        let (machine, done) = Machine::booted(setup, Duration::ZERO);
        Self { machine, now: Duration::ZERO, done, journal: Some(true) }
    }

    /// The stage has said its last word.
    fn booted() -> Self {
        Self::of(setup())
    }

    /// The journal of an earlier process is all that is known.
    fn again(records: Vec<Record>, wall_ms: u64) -> Self {
        let (machine, done) = Machine::again(setup(), &Digested::of(records), wall_ms);
        Self { machine, now: Duration::ZERO, done, journal: Some(true) }
    }

    /// The agent was met and has done this, then the link is up.
    fn talking(facts: impl IntoIterator<Item = EventKind>) -> Self {
        let mut story = Self::booted();
        story.link();
        story.say(attached(AgentState::Waiting, 0));
        for (seq, kind) in (1..).zip(facts) {
            story.say(fact(seq, kind));
        }
        story
    }

    /// The payload of attempt 1 runs.
    fn running() -> Self {
        Self::talking([EventKind::Attempt(1), EventKind::State(AgentState::Running)])
    }

    /// Feeds an input; what is to be made safe is answered as the shell answers it.
    fn tell(&mut self, input: Input) -> &mut Self {
        let actions = self.machine.step(self.now, input);
        let answer = |action: &Action| match (action, self.journal) {
            (Action::MakeSafe(mark), Some(true)) => Some(Input::Safe(*mark)),
            (Action::MakeSafe(_), Some(false)) => Some(Input::NotSafe),
            _ => None,
        };
        let inputs: Vec<Input> = actions.iter().filter_map(answer).collect();
        self.done.extend(actions);
        for input in inputs {
            self.tell(input);
        }
        self
    }

    fn say(&mut self, reply: AgentReply) -> &mut Self {
        self.tell(Input::Reply(reply))
    }

    /// Lets time pass; the machine is woken at its own deadlines.
    fn pass(&mut self, time: Duration) -> &mut Self {
        let end = self.now + time;
        while let Some(at) = self.machine.deadline().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.tell(Input::Clock);
        }
        self.now = end;
        self
    }

    /// Whoever is knocked at next answers, and proves to hold the key.
    fn answers(&mut self, key: HostKey) -> &mut Self {
        if matches!(self.machine.contact, Contact::Pausing(_)) {
            self.pass(PAUSE);
        }
        self.tell(Input::Spoke).tell(Input::Proved(key))
    }

    /// The agent answers, and the link is up.
    fn link(&mut self) -> &mut Self {
        self.answers(agent_key()).tell(Input::Admitted).tell(Input::Opened)
    }

    /// A system answers, and says what it is.
    fn system(&mut self, key: HostKey, look: Look) -> &mut Self {
        self.answers(key).tell(Input::Admitted).tell(Input::Looked(Ok(look)))
    }

    fn wish(&mut self, wish: Wish) -> &mut Self {
        self.tell(Input::Wished(wish))
    }

    /// What was wanted since this was called last, in words.
    fn wanted(&mut self) -> Vec<String> {
        self.done.drain(..).map(|action| word(&action)).collect()
    }

    fn acks(&self) -> Vec<u64> {
        let ack = |action: &Action| match action {
            Action::Send(AgentRequest::Ack { seq }) => Some(*seq),
            _ => None,
        };
        self.done.iter().filter_map(ack).collect()
    }

    fn answered(&self) -> Vec<Result<(), String>> {
        let answer = |action: &Action| match action {
            Action::Answer(answer) => Some(answer.clone()),
            _ => None,
        };
        self.done.iter().filter_map(answer).collect()
    }

    /// What the agent was asked, but for acknowledgements.
    fn asked(&self) -> Vec<AgentRequest> {
        let asked = |action: &Action| match action {
            Action::Send(AgentRequest::Ack { .. } | AgentRequest::Attach { .. }) => None,
            Action::Send(request) => Some(request.clone()),
            _ => None,
        };
        self.done.iter().filter_map(asked).collect()
    }

    fn end(&self) -> Option<(Ending, &str)> {
        self.done.iter().find_map(|action| match action {
            Action::End { ending, reason, .. } => Some((*ending, reason.as_str())),
            _ => None,
        })
    }

    fn contact(&self) -> &'static str {
        match &self.machine.contact {
            Contact::Pausing(_) => "pausing",
            Contact::Knocking => "knocking",
            Contact::Proving => "proving",
            Contact::Entering(Whom::Agent) => "entering agent",
            Contact::Entering(Whom::System(_)) => "entering system",
            Contact::Looking(_) => "looking",
            Contact::Checking(_) => "checking",
            Contact::Withdrawing(..) => "withdrawing",
            Contact::Opening => "opening",
            Contact::Talking(_) => "talking",
            Contact::Parting(_) => "parting",
            Contact::Over(_) => "over",
        }
    }
}

/// An action, short enough for a table.
fn word(action: &Action) -> String {
    match action {
        Action::Knock { calm, patience, .. } => {
            format!("knock {} for {}s", if *calm { "calmly" } else { "briskly" }, patience.as_secs())
        }
        Action::Prove { keys, patience } => format!("prove {} keys in {}s", keys.len(), patience.as_secs()),
        Action::LogIn { whom: Whom::Agent, .. } => "log into agent".into(),
        Action::LogIn { .. } => "log into system".into(),
        Action::Look { .. } => "look".into(),
        Action::Check { patience, .. } => format!("check for {}s", patience.as_secs()),
        Action::Verified(os) => format!("verified {os}"),
        Action::Withdraw { patience } => format!("withdraw in {}s", patience.as_secs()),
        Action::Open => "open".into(),
        Action::Send(AgentRequest::Ack { seq }) => format!("ack {seq}"),
        Action::Send(AgentRequest::Attach { after, .. }) => format!("attach {after}"),
        Action::Send(request) => format!("send {request:?}"),
        Action::SendPayload(payload) => format!("send payload of {}", payload.id.size),
        Action::HangUp => "hang up".into(),
        Action::MakeSafe(Mark { seq, attempt: None }) => format!("safe {seq}"),
        Action::MakeSafe(Mark { seq, attempt: Some(attempt) }) => format!("safe {seq} attempt {attempt}"),
        Action::Fact(event) => format!("fact {}", event.seq),
        Action::Progress(_) => "progress".into(),
        Action::Say(level, _) => format!("say {level:?}").to_lowercase(),
        Action::LinkLost(_) => "link lost".into(),
        Action::LinkBack => "link back".into(),
        Action::Phase(phase) => format!("phase {phase}"),
        Action::FirstEvent(after) => format!("first event {}s", after.as_secs()),
        Action::Ram(boot_id) => format!("ram {boot_id}"),
        Action::Left { finish, .. } => format!("left {finish:?}"),
        Action::Answer(Ok(())) => "answer yes".into(),
        Action::Answer(Err(_)) => "answer no".into(),
        Action::End { ending, .. } => format!("end {ending}"),
        Action::Detach => "detach".into(),
    }
}

#[test]
fn a_deployment_from_boot_to_check() {
    let mut setup = setup();
    setup.entry.check = Some("true".into());
    let mut story = Story::of(setup);
    story.now = seconds(12);
    story.link();
    assert_eq!(
        story.wanted(),
        ["phase boot", "knock briskly for 600s", "prove 2 keys in 12s", "log into agent", "open", "attach 0"]
    );
    story.say(attached(AgentState::Waiting, 0));
    assert_eq!(story.wanted(), ["ram ram-boot"]);
    story.say(fact(1, EventKind::Attempt(1)));
    assert_eq!(story.wanted(), ["first event 12s", "phase build", "fact 1", "safe 1 attempt 1", "ack 1"]);
    story.say(fact(2, EventKind::State(AgentState::Running)));
    story.say(fact(3, EventKind::HostKeys(vec![new_key().line().into()])));
    story.say(AgentReply::Progress(Progress { step: 1, done: 1, total: None, unit: Unit::Items, what: None }));
    story.say(fact(4, EventKind::Outcome(Outcome::Succeeded)));
    assert_eq!(story.wanted(), ["fact 2", "fact 3", "progress", "fact 4", "safe 4", "ack 4"]);
    story.say(AgentReply::Leaving(Leaving::Finish(Finish::Reboot)));
    let left = "left Some(Reboot)";
    assert_eq!(story.wanted(), ["safe 4", "ack 4", "hang up", left, "safe 4", "phase reboot"]);
    story.system(new_key(), look("new-boot", "new-root"));
    let begun = ["knock calmly for 297s", "prove 3 keys in 5s", "log into system", "look"];
    assert_eq!(story.wanted(), [&begun[..], &["phase verify", "say warning", "check for 60s"]].concat());
    story.tell(Input::Checked { result: Err("exit status 1; ".into()), closed: false });
    story.pass(PAUSE);
    assert_eq!(story.wanted(), ["say info", "check for 57s"]);
    story.tell(Input::Checked { result: Ok(()), closed: false });
    assert_eq!(story.end(), Some((Ending::Deployed, "Some OS")));
    assert!(matches!(story.done.last(), Some(Action::End { succeeded: true, .. })));
}

#[test]
fn nothing_is_acknowledged_before_it_is_safe() {
    let mut story = Story::running();
    assert_eq!(story.acks(), [1], "an attempt at once");
    story.journal = None;
    story.say(fact(3, EventKind::Outcome(Outcome::Succeeded)));
    assert_eq!(story.acks(), [1]);
    story.tell(Input::Safe(Mark { seq: 3, attempt: None }));
    assert_eq!(story.acks(), [1, 3]);

    let mut broken = Story::booted();
    broken.journal = Some(false);
    broken.link().say(attached(AgentState::Waiting, 0)).say(fact(1, EventKind::Attempt(1)));
    broken.say(AgentReply::Leaving(Leaving::OldSystem("nobody acknowledged".into())));
    assert_eq!(broken.acks(), [0; 0]);
    assert_eq!(broken.contact(), "pausing", "it is followed all the same");
}

#[test]
fn an_attempt_is_acknowledged_only_once_the_second_file_names_it() {
    let mut story = Story::talking([]);
    story.journal = None;
    story.say(fact(1, EventKind::Attempt(1)));
    assert!(story.done.contains(&Action::MakeSafe(Mark { seq: 1, attempt: Some(1) })));
    story.tell(Input::Safe(Mark { seq: 1, attempt: None }));
    assert_eq!(story.acks(), [0; 0]);
    story.tell(Input::Safe(Mark { seq: 1, attempt: Some(1) }));
    assert_eq!(story.acks(), [1]);
    story.journal = Some(true);
    story.say(fact(2, EventKind::Outcome(Outcome::Succeeded)));
    assert!(story.done.contains(&Action::MakeSafe(Mark { seq: 2, attempt: None })), "once is enough");
}

#[test]
fn facts_are_acknowledged_after_64_or_2_seconds() {
    let mut story = Story::running();
    for seq in 3..=65 {
        story.say(line(seq));
    }
    assert_eq!(story.acks(), [1, 65]);
    story.pass(Duration::from_millis(1900)).say(line(66)).pass(Duration::from_millis(1999));
    assert_eq!(story.acks(), [1, 65]);
    story.pass(Duration::from_millis(1));
    assert_eq!(story.acks(), [1, 65, 66]);
    story.pass(seconds(100));
    assert_eq!(story.acks().len(), 3, "there is nothing new");
    story.say(line(66)).say(line(5)).pass(seconds(5));
    assert_eq!(story.wanted().iter().filter(|word| *word == "fact 66").count(), 1, "each fact once");
}

#[test]
fn what_an_earlier_link_told_is_acknowledged_on_the_next() {
    let mut story = Story::running();
    story.say(line(3)).tell(Input::Lost("cut".into()));
    assert_eq!(story.acks(), [1], "what was told last was not");
    story.link().say(attached(AgentState::Running, 3));
    assert_eq!(story.acks(), [1, 3]);
    let words = story.wanted();
    assert!(words.ends_with(&["open", "link back", "attach 3", "ram ram-boot", "safe 3", "ack 3"].map(String::from)));
}

#[test]
fn that_the_agent_holds_is_news_only_after_the_replay() {
    let mut story = Story::booted();
    story.link().say(attached(held(), 3));
    story.say(fact(1, EventKind::Attempt(1)));
    // An older state of the replay says nothing about now.
    story.say(fact(2, EventKind::State(AgentState::Running)));
    assert_eq!(story.end(), None);
    story.say(fact(3, EventKind::Written(vec![("vda".into(), 8)])));
    let (ending, reason) = story.end().unwrap();
    assert_eq!(ending, Ending::Held);
    assert!(reason.starts_with("exit 1; ") && reason.contains("`anemos retry web1`"), "{reason}");
    assert_eq!(*story.acks().last().unwrap(), 3, "all of it was heard");

    let mut succeeded = Story::talking([EventKind::Attempt(1), EventKind::Outcome(Outcome::Succeeded)]);
    succeeded.say(fact(3, EventKind::State(held())));
    assert!(succeeded.end().unwrap().1.contains("goes on to the new system"));
}

#[test]
fn untouched_only_with_proof() {
    let failed = || EventKind::Outcome(Outcome::Failed { reason: "exit 1".into(), written: false });
    let clean = || EventKind::NothingWritten { attempt: 1 };
    for (facts, expected) in [(vec![clean(), failed()], Ending::Untouched), (vec![failed()], Ending::Held)] {
        let mut story = Story::talking(std::iter::once(EventKind::Attempt(1)).chain(facts));
        story.say(AgentReply::Leaving(Leaving::OldSystem("exit 1".into())));
        story.system(old_key(), look("another-boot", "old-root"));
        assert_eq!(story.end().unwrap().0, expected, "{:?}", story.end());
    }
}

#[test]
fn whoever_was_powered_off_is_not_looked_for() {
    for (facts, word) in [(vec![EventKind::Outcome(Outcome::Succeeded)], "succeeded"), (vec![], "without a new system")]
    {
        let mut story = Story::talking(facts);
        story.say(AgentReply::Leaving(Leaving::Finish(Finish::PowerOff)));
        let (ending, reason) = story.end().unwrap();
        assert!(ending == Ending::Held && reason.contains(word), "{reason}");
        assert!(story.wanted().contains(&"left Some(PowerOff)".to_owned()));
    }
}

#[test]
fn an_agent_of_another_boot_is_not_the_one() {
    let mut story = Story::running();
    story.tell(Input::Lost("cut".into())).link();
    story.say(AgentReply::Attached { boot_id: "another".into(), state: AgentState::Running, last: 2 });
    assert!(story.end().unwrap().1.contains("its boot id changed"));

    let mut behind = Story::running();
    behind.tell(Input::Lost("cut".into())).link();
    behind.say(AgentReply::Refused("fact 2 is asked for, and this boot has had only 1".into()));
    assert!(behind.end().unwrap().1.starts_with("the agent can't be talked to: fact 2"));
}

#[test]
fn a_stranger_is_told_of_once_and_shown_nothing() {
    let mut story = Story::booted();
    let stranger = || Input::Stranger { key: key(9), address: address() };
    story.tell(Input::Spoke).tell(stranger()).pass(PAUSE);
    story.tell(Input::Spoke).tell(stranger());
    let words = story.wanted();
    assert_eq!(words.iter().filter(|word| *word == "say error").count(), 1, "{words:?}");
    assert!(!words.iter().any(|word| word.starts_with("log")), "{words:?}");
    let mut late = Story::booted();
    late.now = seconds(599);
    late.tell(Input::Spoke).tell(stranger()).pass(seconds(1));
    let (ending, reason) = late.end().unwrap();
    assert!(
        ending == Ending::Held && reason.contains("unknown host key") && reason.contains("`boot` (10m)"),
        "{reason}"
    );
}

#[test]
fn an_old_system_that_goes_down_is_not_logged_into() {
    let mut story = Story::booted();
    story.answers(old_key());
    assert_eq!(story.contact(), "pausing");
    story.pass(seconds(8)).answers(old_key());
    assert_eq!(story.contact(), "entering system");
    story.tell(Input::Admitted).tell(Input::Looked(Ok(look("old-boot", "old-root"))));
    assert_eq!(story.end(), None);
    story.now = seconds(90);
    story.system(old_key(), look("old-boot", "old-root"));
    assert_eq!(story.end().unwrap().0, Ending::Untouched);
}

#[test]
fn a_check_that_fails() {
    let mut setup = setup();
    setup.entry.check = Some("false".into());
    let verified = |setup: &Setup| {
        let mut story = Story::of(setup.clone());
        story.link().say(attached(AgentState::Running, 0)).say(fact(1, EventKind::Attempt(1)));
        story.say(AgentReply::Leaving(Leaving::Finish(Finish::Reboot)));
        story.system(old_key(), look("new-boot", "new-root"));
        assert_eq!(story.contact(), "checking");
        story
    };
    let failed = |closed| Input::Checked { result: Err("exit status 1; ".into()), closed };
    let mut story = verified(&setup);
    for _ in 0..19 {
        story.tell(failed(false)).pass(PAUSE);
    }
    assert_eq!((story.contact(), story.end()), ("checking", None));
    story.now += seconds(3);
    story.tell(failed(false));
    let (ending, reason) = story.end().unwrap();
    assert!(ending == Ending::Held && reason.contains("deadline `verify` (1m): exit status 1"), "{reason}");
    assert_eq!(story.wanted().iter().filter(|word| *word == "say info").count(), 1, "told once");

    // A connection that is lost is looked for again, with the same deadline for the check.
    let mut lost = verified(&setup);
    lost.tell(failed(true)).pass(seconds(50));
    lost.system(old_key(), look("new-boot", "new-root"));
    assert_eq!(lost.wanted().last().unwrap(), "check for 10s");
}

#[test]
fn a_system_with_another_key_than_was_reported_is_held() {
    let mut story = Story::talking([EventKind::Attempt(1), EventKind::HostKeys(vec![new_key().line().into()])]);
    story.say(AgentReply::Leaving(Leaving::Finish(Finish::Reboot)));
    story.system(old_key(), look("new-boot", "new-root"));
    let (ending, reason) = story.end().unwrap();
    assert!(ending == Ending::Held && reason.contains("check which disk the firmware starts"), "{reason}");
}

#[test]
fn a_journal_is_taken_up_where_it_ends() {
    let told = |wall_ms, seq, kind| Record::Told {
        wall_ms,
        update: Update::Event(Speaker::Agent, Event { seq, uptime_ms: 0, wall_ms: 0, kind }),
    };
    let sent = Record::BootSent { wall_ms: 1000 };
    let ram = Record::Ram { boot_id: RAM.into() };
    let attempt = told(13_000, 7, EventKind::Attempt(1));
    let left = Record::Left { wall_ms: 20_000, finish: None, reason: "told to".into() };

    let mut story = Story::again(vec![sent.clone()], 61_000);
    assert_eq!(story.wanted(), ["phase boot", "knock briskly for 540s"]);
    let mut journal = Digested::of(vec![sent.clone()]);
    journal.untold = true;
    let (machine, done) = Machine::again(setup(), &journal, 10_000);
    let mut story = Story { machine, now: Duration::ZERO, done, journal: Some(true) };
    story.system(old_key(), look("old-boot", "old-root"));
    assert_eq!(story.end().unwrap().0, Ending::Untouched, "it was not told to boot");
    let mut story = Story::again(vec![sent.clone(), ram.clone(), attempt.clone()], 61_000);
    assert_eq!(story.wanted(), ["first event 12s", "knock briskly for 3270s"]);
    story.link();
    assert_eq!(story.wanted().last().unwrap(), "attach 7");
    story.say(attached(AgentState::Running, 7));
    assert_eq!(story.wanted(), ["ram ram-boot", "safe 7 attempt 1", "ack 7"]);
    let mut story = Story::again(vec![sent, ram, attempt, left], 500_000);
    assert_eq!(story.wanted(), ["first event 12s", "phase reboot", "knock calmly for 60s"], "whoever comes late");
}

/// A check that fails to the end leaves no key behind; and whoever goes on after a process that may have shut the door
/// needs not be let in.
#[test]
fn the_door_is_shut_after_the_check() {
    let mut setup = setup();
    (setup.entry.verify_key, setup.entry.check) = (true, Some("false".into()));
    let mut story = Story::of(setup);
    story.link();
    story.say(attached(AgentState::Waiting, 0));
    for (seq, kind) in (1..).zip([EventKind::Attempt(1), EventKind::HostKeys(vec![new_key().line().into()])]) {
        story.say(fact(seq, kind));
    }
    story.say(fact(3, EventKind::Outcome(Outcome::Succeeded)));
    story.say(AgentReply::Leaving(Leaving::Finish(Finish::Reboot)));
    story.system(new_key(), look("new-boot", "new-root"));
    story.pass(seconds(61));
    story.wanted();
    story.tell(Input::Checked { result: Err("exit status 1".into()), closed: false });
    assert_eq!(story.wanted(), ["say info", "withdraw in 30s"]);
    story.tell(Input::Withdrawn(Ok(())));
    assert_eq!(story.end().map(|(ending, _)| ending), Some(Ending::Held));

    let left = Record::Left { wall_ms: 20_000, finish: Some(Finish::Reboot), reason: String::new() };
    let verified = Record::Verified { os: "Some OS".into() };
    for (records, over) in [(vec![left.clone()], false), (vec![left, verified], true)] {
        let mut story = Story::again(records, 30_000);
        story.answers(old_key()).tell(Input::LockedOut("no".into()));
        assert_eq!(story.end(), over.then_some((Ending::Deployed, "Some OS")));
    }
}

#[test]
fn deadlines_end_the_waiting() {
    let mut story = Story::booted();
    story.now = seconds(600);
    story.tell(Input::Unreached("no route to host".into()));
    let (ending, reason) = story.end().unwrap();
    assert!(ending == Ending::Held && reason.contains("no route to host"), "{reason}");
    // A pause ends with the deadline at the latest.
    let mut story = Story::booted();
    story.now = seconds(598);
    story.answers(agent_key()).tell(Input::LockedOut("no".into())).pass(seconds(2));
    assert!(story.end().unwrap().1.contains("the agent still answers"));
}
