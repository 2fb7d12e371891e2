//! What is known about a host after the boot, and whether it proves that the disks are as they were. Pure.

use anemos_proto::event::{EventKind, Outcome};

use super::look::Look;

/// What is known about the host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Known {
    /// The run.
    pub run: String,
    /// Boot id of the old system before the boot.
    pub old_boot_id: String,
    /// The old root file system; empty if it could not be told.
    pub old_identity: String,
    /// The boot was prepared, and the host was not told to begin it.
    pub untold: bool,
    /// Boot id of the RAM system, once met.
    pub ram_boot_id: Option<String>,
    /// Newest attempt at a payload that the agent announced; 0 if none. What was not announced, and acknowledged from
    /// here, was not started.
    pub attempt: u32,
    /// The agent reported that a disk was written.
    pub written: bool,
    /// The agent made sure that nothing was written, and nothing has been started since.
    pub nothing_written: bool,
    /// The agent reported that the payload failed, and had not made sure.
    pub unsure: bool,
    /// What else may have written since that was last said, or since the boot.
    pub doubt: Option<&'static str>,
    /// Why what is known may not be all that was: the journal is damaged, how.
    pub damaged: Option<String>,
    /// The agent reported that the payload succeeded.
    pub succeeded: bool,
    /// Public host keys of the new system, once the agent has reported them.
    pub new_keys: Vec<String>,
}

impl Known {
    /// Takes in a fact of the agent's.
    pub fn learn(&mut self, fact: &EventKind) {
        match fact {
            EventKind::Written(disks) => self.written |= disks.iter().any(|(_, sectors)| *sectors > 0),
            EventKind::HostKeys(keys) => self.new_keys.clone_from(keys),
            EventKind::Attempt(attempt) => {
                // An agent that counts down makes nothing undone that it announced.
                self.attempt = self.attempt.max(*attempt);
                (self.succeeded, self.nothing_written, self.unsure) = (false, false, false);
            }
            EventKind::Outcome(Outcome::Succeeded) => self.succeeded = true,
            EventKind::Outcome(Outcome::Failed { written, .. }) => {
                self.written |= written;
                self.unsure = !self.nothing_written;
            }
            EventKind::NothingWritten { attempt } => {
                // What is said of an earlier attempt says nothing about this one.
                if *attempt >= self.attempt {
                    (self.nothing_written, self.doubt, self.unsure) = (true, None, false);
                }
            }
            EventKind::Shell => {
                (self.nothing_written, self.doubt) = (false, Some("somebody had a shell in RAM"));
            }
            EventKind::Gap { .. } => {
                (self.nothing_written, self.doubt) = (false, Some("the agent had to drop some of its log"));
            }
            EventKind::StepStarted { .. }
            | EventKind::StepFinished { .. }
            | EventKind::Log { .. }
            | EventKind::Note { .. }
            | EventKind::State(_)
            | EventKind::Seeded(_) => {}
        }
    }

    /// Whether a RAM system of this run noted in the firmware that it left with nothing written, in the newest attempt.
    fn is_noted(&self, look: &Look) -> bool {
        let noted = look.note.strip_prefix(&self.run).and_then(|rest| rest.strip_prefix(' ')?.parse::<u32>().ok());
        !self.run.is_empty() && noted.is_some_and(|attempt| attempt >= self.attempt)
    }

    /// Whether the disks are as they were: proof of it, or why that is not known. That no write was heard of is no
    /// proof: a machine that dies says nothing.
    pub(super) fn proof(&self, look: &Look) -> Result<&'static str, String> {
        if self.is_noted(look) && !self.written {
            return Ok("nothing had been written to a disk, as the RAM system noted in the firmware");
        }
        let unknown = |why: &str| Err(format!("whether a disk was written is not known: {why}"));
        match (&self.damaged, self.doubt) {
            (Some(damage), _) => unknown(damage),
            _ if self.written => Err("a disk had been written".into()),
            _ if self.nothing_written => Ok("nothing had been written to a disk"),
            (_, Some(doubt)) => unknown(doubt),
            _ if self.attempt == 0 => Ok("no payload had been started"),
            _ if self.unsure => unknown("the agent could not make sure of it, for the reason that its log has"),
            _ => unknown(&format!(
                "attempt {} at the payload was under way when the agent was last heard of",
                self.attempt
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> Known {
        Known { old_boot_id: "old-boot".into(), old_identity: "old-root".into(), ..Known::default() }
    }

    #[test]
    fn what_is_known_of_writes() {
        let attempt = EventKind::Attempt;
        let clean = |attempt| EventKind::NothingWritten { attempt };
        let wrote = || EventKind::Written(vec![("vda".into(), 8)]);
        let failed = |written| EventKind::Outcome(Outcome::Failed { reason: "x".into(), written });
        let gap = || EventKind::Gap { first: 1, last: 2, bytes: 3 };
        let table = [
            ("nothing began", vec![], true),
            ("begun", vec![attempt(1)], false),
            ("failed before any attempt", vec![failed(false)], true),
            ("failed without a verdict", vec![attempt(1), failed(false)], false),
            ("verdict", vec![attempt(1), clean(1), failed(false)], true),
            ("verdict before any attempt", vec![clean(0)], true),
            ("begun again", vec![attempt(1), clean(1), attempt(2)], false),
            ("an old verdict", vec![attempt(2), clean(1)], false),
            ("counted down", vec![attempt(2), attempt(1), clean(1)], false),
            ("a shell after it", vec![attempt(1), clean(1), EventKind::Shell], false),
            ("a shell before it", vec![attempt(1), EventKind::Shell, clean(1)], true),
            ("only a shell", vec![EventKind::Shell], false),
            ("facts are missing", vec![gap()], false),
            ("facts are missing, then a verdict", vec![gap(), clean(3)], true),
            ("written", vec![attempt(1), wrote()], false),
            ("written before what can't be a verdict", vec![attempt(1), wrote(), clean(1)], false),
            ("written, by the outcome", vec![attempt(1), failed(true)], false),
        ];
        for (what, facts, proved) in table {
            let mut known = known();
            for fact in &facts {
                known.learn(fact);
            }
            let proof = known.proof(&Look::default());
            assert_eq!(proof.is_ok(), proved, "{what}: {proof:?}");
        }
    }

    #[test]
    fn what_an_agent_could_not_make_sure_of_is_not_said_to_be_under_way() {
        let mut known = known();
        known.learn(&EventKind::Attempt(1));
        assert!(known.proof(&Look::default()).unwrap_err().contains("attempt 1 at the payload was under way"));
        known.learn(&EventKind::Outcome(Outcome::Failed { reason: "x".into(), written: false }));
        assert!(known.proof(&Look::default()).unwrap_err().contains("the agent could not make sure of it"));
        known.learn(&EventKind::Attempt(2));
        assert!(known.proof(&Look::default()).unwrap_err().contains("attempt 2 at the payload was under way"));
    }

    #[test]
    fn a_note_in_the_firmware_counts_for_its_run_and_attempt() {
        let noted = |note: &str| Look { note: note.into(), ..Look::default() };
        let known = Known { run: "run-a".into(), attempt: 2, ..known() };
        assert!(known.proof(&noted("run-a 2")).is_ok() && known.proof(&noted("run-a 3")).is_ok());
        for other in ["run-a 1", "run-b 2", "run-a", "run-a x", "run-a2 2", " 2", ""] {
            assert!(known.proof(&noted(other)).is_err(), "{other}");
        }
        let damaged = Known { damaged: Some("byte 7".into()), ..known.clone() };
        assert!(damaged.proof(&noted("run-a 2")).is_ok(), "it stands by itself");
        assert!(Known { written: true, ..known }.proof(&noted("run-a 2")).is_err());
        let nameless = Known { attempt: 2, ..Known::default() };
        assert!(nameless.proof(&noted(" 2")).is_err());
    }
}
