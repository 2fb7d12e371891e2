use super::*;

const DEADLINES: Deadlines = Deadlines { dead_man_s: 100, payload_s: 1000, ack_s: 10, start_s: 500, hang_s: 60 };

/// A machine, its clock, and all that it wanted done.
struct Story {
    machine: Machine,
    now: u64,
    done: Vec<Action>,
    /// What looking for writes comes to; `None`: it takes its time.
    verdict: Option<Result<(), String>>,
}

impl Story {
    fn new(finish: Finish) -> Self {
        Self { machine: Machine::new(DEADLINES, finish, 0), now: 0, done: Vec::new(), verdict: Some(Ok(())) }
    }

    /// Feeds an input; what is wanted done is answered as the driver answers it.
    fn tell(&mut self, input: Input) -> &mut Self {
        let refused = self.try_tell(input).err();
        assert_eq!(refused, None);
        self
    }

    fn try_tell(&mut self, input: Input) -> Result<(), String> {
        let actions = self.machine.handle(self.now, input)?;
        let follows = |action: &Action| match action {
            Action::Announce(_) => Some(Input::Recorded(50)),
            Action::Conclude(_) => Some(Input::Recorded(77)),
            Action::Judge => self.verdict.clone().map(Input::Judged),
            _ => None,
        };
        let inputs: Vec<Input> = actions.iter().filter_map(follows).collect();
        self.done.extend(actions);
        for input in inputs {
            self.tell(input);
        }
        Ok(())
    }

    /// Lets time pass; the machine is woken at its own deadlines.
    fn pass(&mut self, seconds: u64) -> &mut Self {
        let end = self.now + seconds * 1000;
        while let Some(at) = self.machine.deadline().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.tell(Input::Tick);
        }
        self.now = end;
        self
    }

    fn attach(&mut self) -> &mut Self {
        self.tell(Input::Attached)
    }

    fn detach(&mut self) -> &mut Self {
        self.tell(Input::Detached)
    }

    fn running() -> Self {
        let mut story = Self::new(Finish::Reboot);
        story.tell(Input::Ready).attach().tell(Input::Acked(50));
        assert!(story.done.contains(&Action::Start(1)));
        story
    }

    fn said_nothing_written(&self) -> bool {
        self.done.iter().any(|action| matches!(action, Action::Record(EventKind::NothingWritten { .. })))
    }

    fn left(&self) -> Option<&Leaving> {
        self.done.iter().find_map(|action| match action {
            Action::Leave(leaving) => Some(leaving),
            _ => None,
        })
    }

    fn is_held(&self) -> bool {
        matches!(self.machine.state(), AgentState::Held(_))
    }

    fn returned(&self) -> bool {
        matches!(self.left(), Some(Leaving::OldSystem(_)))
    }
}

fn failed() -> Input {
    Input::Ended(Err("exit 1".into()))
}

#[test]
fn the_payload_waits_for_readiness_and_for_somebody() {
    let mut story = Story::new(Finish::Reboot);
    story.tell(Input::Ready);
    assert_eq!(story.machine.state(), AgentState::Waiting);
    story.attach();
    assert!(story.done.contains(&Action::Announce(1)));
    story.tell(Input::Acked(49));
    assert_eq!(story.machine.state(), AgentState::Waiting, "the announcement itself must be safe");
    story.tell(Input::Acked(50));
    assert_eq!(story.machine.state(), AgentState::Running);

    let mut early = Story::new(Finish::Reboot);
    early.attach().detach();
    assert_eq!(early.machine.state(), AgentState::Starting);
    early.tell(Input::Ready);
    assert!(early.done.contains(&Action::Announce(1)), "an attach before the base is ready counts");
    assert!(!early.done.contains(&Action::Start(1)), "but starts nothing");
}

#[test]
fn an_attempt_that_nobody_acknowledges_is_never_started() {
    let mut lost = Story::new(Finish::Reboot);
    lost.tell(Input::Ready).attach().detach().pass(99);
    assert!(lost.left().is_none());
    lost.pass(2);
    assert!(lost.returned() && lost.said_nothing_written());

    let mut mute = Story::new(Finish::Reboot);
    mute.tell(Input::Ready).attach().pass(101);
    assert!(matches!(mute.machine.state(), AgentState::Returning(why) if why.contains("deadline `dead_man`")));
    assert!(mute.left().is_none(), "whoever is there may hear of it");
    mute.tell(Input::Acked(77));
    assert!(mute.returned());

    // The same for a retry, which has a written disk to hold for.
    let mut again = Story::running();
    again.tell(Input::Written).tell(failed()).tell(Input::Retry).pass(101);
    assert!(again.is_held() && !again.done.contains(&Action::Start(2)));
    again.tell(Input::Retry).tell(Input::Acked(50));
    assert!(again.done.contains(&Action::Start(3)), "numbers are never used again");
}

#[test]
fn that_nothing_was_written_is_said_only_once_it_is_certain() {
    let mut story = Story::running();
    story.verdict = None;
    story.tell(failed());
    assert!(story.machine.is_closing() && story.machine.state() == AgentState::Running);
    assert!(!story.said_nothing_written() && story.left().is_none());
    story.tell(Input::Judged(Ok(())));
    let verdict = story.done.iter().position(|a| *a == Action::Record(EventKind::NothingWritten { attempt: 1 }));
    let end = story.done.iter().position(|action| matches!(action, Action::Conclude(_)));
    assert!(verdict.is_some() && verdict < end, "whoever acknowledges the end has the verdict");

    // What was on its way to the disk has arrived meanwhile.
    let mut late = Story::running();
    late.verdict = None;
    late.tell(failed()).tell(Input::Written).tell(Input::Judged(Ok(())));
    assert!(late.is_held() && !late.said_nothing_written() && !late.machine.is_closing());

    // Whoever went back unheard has something to leave a note of.
    let mut heard = Story::running();
    heard.tell(failed());
    assert_eq!(heard.machine.unheard(), Some(1));
    heard.tell(Input::Acked(77));
    assert_eq!((heard.returned(), heard.machine.unheard()), (true, None));
    let mut unheard = Story::running();
    unheard.detach().tell(failed()).pass(11);
    assert_eq!((unheard.returned(), unheard.machine.unheard()), (true, Some(1)));

    // Told to hold instead, and written by a person since: there is nothing left to note.
    let mut kept = Story::running();
    kept.tell(failed()).tell(Input::Finish(Finish::Hold)).tell(Input::Written).tell(Input::Finish(Finish::Reboot));
    assert_eq!((kept.left().is_some(), kept.machine.unheard()), (true, None));

    let mut unsure = Story::running();
    unsure.verdict = Some(Err("a process can't be killed".into()));
    unsure.tell(failed()).tell(Input::Acked(77));
    assert!(unsure.returned() && !unsure.said_nothing_written(), "it goes back, and claims nothing");

    // Also where a person, or a payload that succeeded without writing, has the host leave.
    let mut told = Story::new(Finish::Reboot);
    told.tell(Input::Ready).tell(Input::Finish(Finish::Reboot));
    assert_eq!(told.left(), Some(&Leaving::Finish(Finish::Reboot)));
    assert!(told.done.contains(&Action::Record(EventKind::NothingWritten { attempt: 0 })));
    let mut idle = Story::running();
    idle.tell(Input::Ended(Ok(()))).tell(Input::Sealed).tell(Input::Acked(77));
    assert!(idle.left().is_some() && idle.said_nothing_written());
    let mut wrote = Story::running();
    wrote.tell(Input::Written).tell(Input::Ended(Ok(()))).tell(Input::Sealed).tell(Input::Acked(77));
    assert!(wrote.left().is_some() && !wrote.said_nothing_written());
}

#[test]
fn success_leaves_once_acknowledged_or_when_nobody_is_there_to_do_so() {
    let mut story = Story::running();
    story.tell(Input::Written).tell(Input::Ended(Ok(()))).tell(Input::Sealed);
    assert_eq!(story.machine.state(), AgentState::Succeeded);
    story.tell(Input::Acked(76));
    assert_eq!(story.left(), None, "an earlier fact is not the terminal one");
    story.tell(Input::Acked(77));
    assert_eq!(story.left(), Some(&Leaving::Finish(Finish::Reboot)));

    let mut alone = Story::running();
    alone.detach().pass(500).tell(Input::Ended(Ok(()))).tell(Input::Sealed).pass(9);
    assert_eq!(alone.left(), None);
    alone.pass(2);
    assert_eq!(alone.left(), Some(&Leaving::Finish(Finish::Reboot)));

    let mut mute = Story::running();
    mute.tell(Input::Ended(Ok(()))).tell(Input::Sealed).pass(99);
    assert_eq!(mute.left(), None);
    mute.pass(2);
    assert!(mute.left().is_some(), "not even an attached controller can keep the host for ever");
}

#[test]
fn holding_is_a_way_to_finish() {
    let mut story = Story::new(Finish::Hold);
    story.tell(Input::Ready).attach().tell(Input::Acked(50));
    story.tell(Input::Written).tell(Input::Ended(Ok(()))).tell(Input::Sealed);
    story.tell(Input::Acked(77)).detach().pass(10_000);
    assert!(story.is_held() && story.left().is_none());
    story.tell(Input::Finish(Finish::Kexec));
    assert_eq!(story.left(), Some(&Leaving::Finish(Finish::Kexec)));
}

#[test]
fn what_was_written_decides_where_a_failure_ends() {
    let mut clean = Story::running();
    clean.tell(failed());
    assert!(matches!(clean.machine.state(), AgentState::Returning(_)));
    assert!(clean.left().is_none(), "the reason is to be heard first");
    clean.tell(Input::Acked(77));
    assert!(clean.returned());

    let mut dirty = Story::running();
    dirty.tell(Input::Written).tell(failed()).tell(Input::Acked(77)).detach().pass(100_000);
    assert!(dirty.is_held() && dirty.left().is_none());

    // A person's shell writes while the agent is about to return.
    let mut late = Story::running();
    late.tell(failed()).tell(Input::Written).tell(Input::Acked(77));
    assert!(late.is_held() && late.left().is_none());
}

#[test]
fn the_dead_man_s_clock_runs_only_while_nobody_is_there_and_nothing_is_written() {
    let mut never = Story::new(Finish::Reboot);
    never.pass(99);
    assert!(never.left().is_none());
    never.pass(2);
    assert!(never.returned());

    let mut visited = Story::new(Finish::Reboot);
    visited.tell(Input::Ready).tell(Input::PersonCame).pass(10_000);
    assert!(visited.left().is_none(), "somebody is in a shell");
    visited.tell(Input::PersonWent).pass(99);
    assert!(visited.left().is_none());
    visited.pass(2);
    assert!(visited.returned());

    let mut running = Story::running();
    running.detach().pass(900);
    assert!(running.left().is_none(), "the host goes on alone");

    let mut broken = Story::running();
    broken.tell(Input::Broken("x".into())).pass(10_000);
    assert!(broken.is_held(), "somebody is there");
    broken.detach().pass(99);
    assert!(broken.is_held());
    broken.pass(2);
    assert!(broken.returned());

    let mut written = Story::running();
    written.tell(Input::Written).tell(Input::Broken("x".into())).detach().pass(10_000);
    assert!(written.is_held() && written.left().is_none());
}

#[test]
fn init_hears_whether_anybody_is_there_and_what_was_written() {
    let mut story = Story::new(Finish::Reboot);
    assert_eq!(story.machine.beat(), Beat::Alone);
    assert_eq!(story.attach().machine.beat(), Beat::Busy);
    assert_eq!(story.detach().tell(Input::PersonCame).machine.beat(), Beat::Busy);
    assert_eq!(story.tell(Input::PersonWent).machine.beat(), Beat::Alone);
    let mut running = Story::running();
    assert_eq!(running.detach().machine.beat(), Beat::Busy, "the host goes on alone");
    running.verdict = None;
    assert_eq!(running.tell(failed()).machine.beat(), Beat::Alone, "it should go back, and may hang");
    assert_eq!(running.tell(Input::Judged(Ok(()))).machine.beat(), Beat::Alone);
    assert_eq!(running.attach().tell(Input::Written).machine.beat(), Beat::Written, "whoever is there");
}

#[test]
fn a_payload_without_end_is_ended() {
    let mut story = Story::running();
    story.pass(1001);
    let stops =
        story.done.iter().filter(|action| matches!(action, Action::Stop(why) if why.contains("deadline `build`")));
    assert_eq!(stops.count(), 1);
    story.tell(failed());
    assert!(matches!(story.machine.state(), AgentState::Returning(_)));
}

#[test]
fn abort_and_retry_and_finish_only_where_they_make_sense() {
    let mut running = Story::running();
    assert!(running.try_tell(Input::Finish(Finish::Reboot)).unwrap_err().contains("abort it first"));
    assert!(running.try_tell(Input::Retry).is_err());
    running.tell(Input::Abort);
    assert!(running.done.iter().any(|action| matches!(action, Action::Stop(_))));

    let mut held = Story::running();
    held.tell(Input::Written).tell(failed());
    assert!(held.try_tell(Input::Abort).unwrap_err().contains("written"));
    held.tell(Input::Retry).tell(Input::Acked(50));
    assert!(held.done.contains(&Action::Start(2)));
    held.tell(Input::Acked(77));
    assert!(held.left().is_none(), "the terminal event of the first attempt means nothing now");

    let mut waiting = Story::new(Finish::Reboot);
    waiting.tell(Input::Ready).tell(Input::Abort).tell(Input::Acked(77));
    assert!(waiting.returned());

    let machine = Machine::new(DEADLINES, Finish::Reboot, 0).held("broke".into(), false, 0);
    assert!(machine.check_retry().unwrap_err().contains("never became ready"));
}

#[test]
fn getting_ready_can_fail() {
    let mut story = Story::new(Finish::Reboot);
    story.tell(Input::NotReady("too little memory".into()));
    let failure = Outcome::Failed { reason: "too little memory".into(), written: false };
    assert!(story.done.contains(&Action::Conclude(failure)));
    story.pass(11);
    assert!(story.returned());
}

/// What it is, what happens, and after how many seconds starting ends.
type Start = (&'static str, fn(&mut Story), u64);

/// Each way of not becoming ready within the deadline `start`, with who is there and what was written.
#[test]
fn starting_has_an_end_whoever_is_there() {
    let cases: [Start; 4] = [
        (
            "a controller watches",
            |story| {
                story.attach();
            },
            500,
        ),
        (
            "a person is in a shell",
            |story| {
                story.tell(Input::PersonCame);
            },
            500,
        ),
        (
            "somebody comes again and again",
            |story| {
                story.attach().detach().pass(90).attach().detach();
            },
            190,
        ),
        ("nobody is there, and the dead-man's clock is faster", |_| {}, 100),
    ];
    for (what, happens, end) in cases {
        let mut story = Story::new(Finish::Reboot);
        happens(&mut story);
        story.pass((end - 1) - story.now / 1000);
        assert_eq!(story.machine.state(), AgentState::Starting, "{what}");
        story.pass(2);
        let AgentState::Returning(why) = story.machine.state() else { panic!("{what}: {:?}", story.machine.state()) };
        let clock = if end == 500 { "deadline `start` (500 s)" } else { "deadline `dead_man` (100 s)" };
        assert!(why.contains(clock), "{what}: {why}");
        assert_eq!(
            story.left().is_some(),
            end != 500 || story.machine.attached == 0,
            "{what}: who is there hears of it"
        );
    }
    let mut written = Story::new(Finish::Reboot);
    written.attach().tell(Input::Written).pass(501);
    assert!(written.is_held() && written.left().is_none());
    let mut late = Story::new(Finish::Reboot);
    late.attach().pass(501).tell(Input::Ready).tell(Input::Acked(77));
    assert!(late.returned() && !late.done.iter().any(|action| matches!(action, Action::Announce(_))), "too late");
    let mut ready = Story::new(Finish::Reboot);
    ready.attach().pass(499).tell(Input::Ready).tell(Input::Acked(50)).pass(500);
    assert_eq!(ready.machine.state(), AgentState::Running);
}

#[test]
fn states_are_told_before_the_terminal_event_and_once() {
    let mut story = Story::running();
    story.tell(failed());
    let state = |action: &Action| matches!(action, Action::Record(EventKind::State(AgentState::Returning(_))));
    let told: Vec<usize> = (0..story.done.len()).filter(|&i| state(&story.done[i])).collect();
    let end = story.done.iter().position(|action| matches!(action, Action::Conclude(_))).unwrap();
    assert_eq!(told.len(), 1);
    assert!(told[0] < end);
}

#[test]
fn that_it_holds_is_told_last() {
    let mut story = Story::running();
    story.tell(Input::Written).tell(failed());
    let held = |action: &Action| matches!(action, Action::Record(EventKind::State(AgentState::Held(_))));
    assert!(story.done.iter().any(|action| matches!(action, Action::Conclude(_))));
    assert!(story.done.last().is_some_and(held), "{:?}", story.done);
}
