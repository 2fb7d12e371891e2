//! What holds whatever comes in whatever order.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;

/// What may happen next; what is to be made safe is answered apart from that.
#[derive(Debug, Clone)]
enum Step {
    Input(Input),
    /// The oldest of what is to be made safe is safe, or can't be made safe.
    Written(bool),
    /// The agent tells its next fact.
    Next(EventKind),
    Pass(u64),
}

fn state() -> impl Strategy<Value = AgentState> {
    select(vec![AgentState::Waiting, AgentState::Running, held(), AgentState::Succeeded])
}

fn kind() -> impl Strategy<Value = EventKind> {
    let failed = |written| EventKind::Outcome(Outcome::Failed { reason: "x".into(), written });
    let kinds = vec![
        EventKind::Attempt(1),
        EventKind::Attempt(2),
        EventKind::Outcome(Outcome::Succeeded),
        failed(false),
        failed(true),
        EventKind::NothingWritten { attempt: 1 },
        EventKind::NothingWritten { attempt: 2 },
        EventKind::Written(vec![("vda".into(), 8)]),
        EventKind::Shell,
        EventKind::HostKeys(vec![new_key().line().into()]),
    ];
    prop_oneof![select(kinds), state().prop_map(EventKind::State)]
}

fn reply() -> impl Strategy<Value = AgentReply> {
    let leaving = [Leaving::Finish(Finish::Reboot), Leaving::Finish(Finish::PowerOff), Leaving::OldSystem("x".into())];
    prop_oneof![
        3 => (state(), 0..4_u64).prop_map(|(state, last)| attached(state, last)),
        2 => Just(AgentReply::Accepted),
        1 => Just(AgentReply::Refused("no".into())),
        1 => select(leaving.to_vec()).prop_map(AgentReply::Leaving),
    ]
}

fn input() -> impl Strategy<Value = Input> {
    let wishes = [Wish::Abort, Wish::Retry(None), Wish::Retry(Some(Blob::new(vec![1]))), Wish::Finish(Finish::Reboot)];
    let looks = [("old-boot", "old-root"), ("new-boot", "old-root"), ("new-boot", "new-root"), (RAM, "x")];
    let why = || "why".to_owned();
    prop_oneof![
        6 => Just(Input::Spoke),
        4 => Just(Input::Proved(agent_key())),
        2 => Just(Input::Proved(old_key())),
        1 => Just(Input::Stranger { key: key(9), address: address() }),
        1 => Just(Input::Unreached(why())),
        6 => Just(Input::Admitted),
        1 => Just(Input::LockedOut(why())),
        4 => select(looks.to_vec()).prop_map(|(boot, root)| Input::Looked(Ok(look(boot, root)))),
        1 => Just(Input::Looked(Err(why()))),
        1 => any::<(bool, bool)>().prop_map(|(good, closed)| {
            Input::Checked { result: if good { Ok(()) } else { Err("no".into()) }, closed }
        }),
        2 => any::<bool>().prop_map(|gone| Input::Withdrawn(if gone { Ok(()) } else { Err("no".into()) })),
        6 => Just(Input::Opened),
        8 => reply().prop_map(Input::Reply),
        2 => Just(Input::Lost(why())),
        1 => Just(Input::Broken(why())),
        3 => select(wishes.to_vec()).prop_map(Input::Wished),
        1 => Just(Input::Clock),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        20 => input().prop_map(Step::Input),
        6 => prop::bool::weighted(0.9).prop_map(Step::Written),
        6 => kind().prop_map(Step::Next),
        6 => select(vec![1_u64, 3, 10, 100, 1000]).prop_map(Step::Pass),
        1 => select(vec![Input::Leave, Input::LeaveNow]).prop_map(Step::Input),
    ]
}

/// What the one who performs the actions knows of them.
#[derive(Default)]
struct Watcher {
    /// What is to be made safe, the oldest first.
    to_write: VecDeque<Mark>,
    /// Seq and attempt up to which all is safe.
    safe: u64,
    noted: u32,
    /// Attempts that were told, with their seqs.
    attempts: Vec<(u64, u32)>,
    wishes: usize,
    answers: usize,
    made: usize,
    old_boot: bool,
    over: bool,
    /// The user left at once.
    now: bool,
}

impl Watcher {
    fn input(&mut self, input: &Input) {
        match input {
            Input::Wished(_) => self.wishes += 1,
            Input::LeaveNow => self.now = true,
            Input::Looked(Ok(look)) => self.old_boot = look.boot_id == "old-boot",
            Input::Safe(mark) => {
                self.safe = self.safe.max(mark.seq);
                self.noted = self.noted.max(mark.attempt.unwrap_or_default());
            }
            _ => {}
        }
    }

    fn action(&mut self, action: &Action, known: &Known, seen: Option<&Seen>, alone: bool) {
        let answer = matches!(action, Action::Answer(Err(_)));
        assert!(!self.over || answer, "{action:?} after the end");
        match action {
            Action::MakeSafe(mark) => self.to_write.push_back(*mark),
            Action::Fact(Event { seq, kind: EventKind::Attempt(attempt), .. }) => self.attempts.push((*seq, *attempt)),
            Action::Send(AgentRequest::Ack { seq }) => {
                assert!(*seq <= self.safe, "fact {seq} was acknowledged, and only {} are safe", self.safe);
                for (at, attempt) in &self.attempts {
                    assert!(at > seq || *attempt <= self.noted, "attempt {attempt} may begin and is in no second file");
                }
            }
            Action::Send(AgentRequest::Abort | AgentRequest::Retry { .. } | AgentRequest::Finish(_)) => {
                self.made += 1;
                assert!(self.answers < self.wishes, "a wish was made that nobody has");
            }
            Action::Answer(_) => {
                self.answers += 1;
                assert!(self.answers <= self.wishes, "an answer to nobody");
            }
            Action::End { ending, .. } => {
                assert_eq!(self.answers, self.wishes, "all are answered");
                let proof = match seen {
                    Some(Seen::System(look)) => look.boot_id == "old-boot" || known.proof(look).is_ok(),
                    _ => false,
                };
                assert!(*ending != Ending::Untouched || proof, "untouched without proof: {known:?}");
                self.over = true;
            }
            Action::Detach => {
                assert!(self.now || alone, "whoever wanted to leave left a host that does not go on alone");
                self.over = true;
            }
            _ => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_comes(met in any::<bool>(), verify_key in any::<bool>(), steps in vec(step(), 0..80)) {
        let mut story = if met { Story::talking([EventKind::Attempt(1)]) } else { Story::booted() };
        story.journal = None;
        story.machine.setup.entry.verify_key = verify_key;
        let mut watcher = Watcher::default();
        if met {
            (watcher.safe, watcher.noted) = (1, 1);
        }
        for step in steps {
            let input = match step {
                Step::Input(input) => input,
                Step::Written(good) => match watcher.to_write.pop_front() {
                    Some(mark) if good => Input::Safe(mark),
                    Some(_) => Input::NotSafe,
                    None => continue,
                },
                Step::Next(kind) => Input::Reply(fact(story.machine.last + 1, kind)),
                Step::Pass(time) => {
                    story.now += seconds(time);
                    Input::Clock
                }
            };
            watcher.input(&input);
            for action in story.machine.step(story.now, input) {
                let machine = &story.machine;
                watcher.action(&action, &machine.known, machine.seen.as_ref(), machine.goes_on_alone());
            }
            let waits = story.machine.deadline().is_some();
            let idle = matches!(story.contact(), "pausing" | "talking");
            prop_assert!(!idle || waits, "nothing would wake the machine");
        }
    }
}
