use super::*;

const DEADLINES: Deadlines = Deadlines { dead_man_s: 100, payload_s: 1000, ack_s: 10, start_s: 500, hang_s: 60 };
/// When init goes back if the agent doesn't: `dead_man`, `ack`, and what leaving takes.
const OWN: u64 = 410;

/// A supervisor, its clock, and what its agent does.
struct Story {
    supervisor: Supervisor,
    now: u64,
    /// What the agent says every second while it is up; `None`: nothing.
    beat: Option<Beat>,
    up: bool,
    done: Vec<(u64, Action)>,
}

impl Story {
    fn new(beat: Beat) -> Self {
        Self { supervisor: Supervisor::new(Some(DEADLINES), 0), now: 0, beat: Some(beat), up: false, done: Vec::new() }
    }

    fn tell(&mut self, input: Input) -> &mut Self {
        for action in self.supervisor.handle(self.now, input) {
            self.up |= matches!(action, Action::Start(_));
            self.done.push((self.now / 1000, action));
        }
        self
    }

    /// Lets time pass as init does it: second by second.
    fn pass(&mut self, seconds: u64) -> &mut Self {
        for _ in 0..seconds {
            self.now += 1000;
            if let (Some(beat), true) = (self.beat, self.up) {
                self.tell(Input::Beat(beat));
            }
            self.tell(Input::Tick);
        }
        self
    }

    fn beats(&mut self, beat: impl Into<Option<Beat>>) -> &mut Self {
        self.beat = beat.into();
        self
    }

    fn breaks(&mut self) -> &mut Self {
        self.up = false;
        self.tell(Input::Ended("exit status: 101".into()))
    }

    fn went_back(&self) -> Option<(u64, &str)> {
        self.done.iter().find_map(|(at, action)| match action {
            Action::GoBack(why) => Some((*at, &**why)),
            _ => None,
        })
    }

    fn starts(&self) -> Vec<Option<&str>> {
        let mut starts = Vec::new();
        for (_, action) in &self.done {
            if let Action::Start(held) = action {
                starts.push(held.as_deref());
            }
        }
        starts
    }

    fn killed(&self) -> Vec<u64> {
        self.done.iter().filter(|(_, action)| *action == Action::Kill).map(|(at, _)| *at).collect()
    }
}

#[test]
fn a_silent_agent_is_killed_and_started_again_held() {
    let mut story = Story::new(Beat::Busy);
    story.pass(30).beats(None).pass(59);
    assert_eq!(story.killed(), [0; 0]);
    assert_eq!(story.supervisor.care(), Care::Guard { well: true });
    story.pass(2);
    assert_eq!(story.killed(), [90], "60 s after the last beat");
    assert_eq!(story.supervisor.care(), Care::Guard { well: false }, "should it not die, the watchdog strikes");
    story.breaks().pass(1);
    let reason = "the agent gave no sign of life within deadline `hang` (60 s), and was killed";
    assert_eq!(story.starts(), [None, Some(reason)]);
    assert_eq!(story.supervisor.care(), Care::Guard { well: true });
}

#[test]
fn an_agent_that_never_says_a_word_is_silent() {
    let mut story = Story::new(Beat::Busy);
    story.beats(None).pass(61);
    assert_eq!(story.killed(), [61], "it was started after a second");
}

#[test]
fn a_machine_that_stood_still_is_no_silent_agent() {
    let mut story = Story::new(Beat::Busy);
    story.pass(10);
    story.now += 3_600_000;
    story.tell(Input::Tick).pass(10);
    assert_eq!(story.killed(), [0; 0], "a paused machine");
    assert_eq!(story.went_back(), None, "nor is nobody there");
    story.beats(None).pass(61);
    assert_eq!(story.killed().len(), 1);
}

#[test]
fn an_agent_that_can_t_be_killed_is_left_by_the_machine() {
    let mut story = Story::new(Beat::Busy);
    story.pass(5).beats(None).pass(60 + 61);
    let (_, why) = story.went_back().unwrap();
    assert!(why.contains("can't be killed"), "{why}");
    assert_eq!(story.supervisor.care(), Care::LetGo);

    let mut written = Story::new(Beat::Written);
    written.pass(5).beats(None).pass(1000);
    assert_eq!(written.went_back(), None, "the machine stays for a person");
    let said = written.done.iter().filter(|(_, action)| matches!(action, Action::Say(_)));
    assert_eq!(said.count(), 1);
}

/// How the agent behaves, and when init goes back by itself.
#[test]
fn init_goes_back_where_the_agent_s_own_clock_does_not_strike() {
    let cases: [(&str, Beat, Option<u64>); 4] = [
        ("nobody is there, and it stays all the same", Beat::Alone, Some(OWN)),
        ("somebody is there, or the payload runs", Beat::Busy, None),
        ("a disk was written", Beat::Written, None),
        ("it leaves, and never gets away", Beat::Leaving, Some(OWN)),
    ];
    for (what, beat, end) in cases {
        let mut story = Story::new(beat);
        story.pass(5000);
        assert_eq!(story.went_back().map(|(at, _)| at), end, "{what}");
    }
    let mut visited = Story::new(Beat::Alone);
    visited.pass(300).beats(Beat::Busy).pass(50).beats(Beat::Alone).pass(OWN - 1);
    assert_eq!(visited.went_back(), None);
    visited.pass(1);
    let (_, why) = visited.went_back().unwrap();
    assert!(why.contains("deadline `dead_man` (100 s)"), "{why}");

    // A write counted by the kernel, of which the agent says nothing.
    let mut counted = Story::new(Beat::Alone);
    counted.pass(10).tell(Input::Written).pass(5000);
    assert_eq!(counted.went_back(), None);
}

#[test]
fn the_clock_runs_through_all_agents() {
    // Each lives too short for its own clock.
    let mut story = Story::new(Beat::Alone);
    for _ in 0..20 {
        story.pass(90).breaks();
    }
    let (at, why) = story.went_back().unwrap();
    assert!(at <= OWN && why == "the agent breaks again and again", "{at}: {why}");
}

/// How long each agent lives, whether somebody is there, and when init goes back. The patience is 100 s.
#[test]
fn an_agent_that_breaks_again_and_again_is_given_up() {
    let cases: [(&str, u64, Beat, bool); 5] = [
        ("at once", 0, Beat::Alone, true),
        ("after a while, with somebody there", 30, Beat::Busy, true),
        ("just within init's patience", 99, Beat::Busy, true),
        ("now and then, with long good times between", 150, Beat::Busy, false),
        ("a disk being written", 30, Beat::Written, false),
    ];
    for (what, life, beat, gives_up) in cases {
        let mut story = Story::new(beat);
        for _ in 0..50 {
            while !story.up && story.went_back().is_none() {
                story.pass(1);
            }
            story.pass(life).breaks();
            if story.went_back().is_some() {
                break;
            }
        }
        assert_eq!(story.went_back().is_some(), gives_up, "{what}");
        if let Some((at, _)) = story.went_back() {
            assert!((100..400).contains(&at), "{what}: {at}");
        }
    }
}

#[test]
fn the_first_failure_is_the_reason() {
    let mut story = Story::new(Beat::Written);
    story.pass(5).tell(Input::Ended("the first".into()));
    story.pass(2).tell(Input::Ended("the second".into()));
    story.pass(200).tell(Input::Ended("another, long after".into()));
    story.pass(2);
    let held: Vec<String> = story.starts().into_iter().flatten().map(str::to_owned).collect();
    assert_eq!(held, ["the first", "the first", "another, long after"]);
}

#[test]
fn pauses_grow_and_begin_anew() {
    let mut story = Story::new(Beat::Written);
    let mut pauses = Vec::new();
    for life in [0, 0, 0, 0, 0, 0, 200, 0] {
        while !story.up {
            story.pass(1);
        }
        story.pass(life).breaks();
        let down = story.now;
        while !story.up {
            story.pass(1);
        }
        pauses.push((story.now - down) / 1000);
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 1, 2]);
}

#[test]
fn a_write_found_at_the_last_moment_keeps_the_machine() {
    let mut story = Story::new(Beat::Alone);
    story.pass(OWN);
    assert!(story.went_back().is_some());
    assert_eq!(story.supervisor.care(), Care::LetGo);
    story.tell(Input::Written).breaks();
    assert_eq!(story.supervisor.care(), Care::Spare);
    story.pass(2);
    assert_eq!(story.starts().len(), 2, "the agent is started again, held");
}

#[test]
fn an_unreadable_run_has_deadlines_too() {
    let supervisor = Supervisor::new(None, 0);
    assert_eq!((supervisor.hang_s(), supervisor.is_written()), (120, false));
}
