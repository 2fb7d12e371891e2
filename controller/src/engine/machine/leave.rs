//! The user wants to leave: at once where the host goes on alone, else once it does.

use std::time::Duration;

use anemos_proto::event::{AgentState, Level};

use super::{Action, Contact, Machine};
use crate::config::format_duration;
use crate::engine::verdict::Goal;

impl Machine {
    /// Whether nobody needs to be attached for the host to go on.
    pub(super) fn goes_on_alone(&self) -> bool {
        self.begun || matches!(self.goal, Goal::Leave(_))
    }

    pub(super) fn leave(&mut self, out: &mut Vec<Action>) {
        if !std::mem::replace(&mut self.leaving, true) && !self.goes_on_alone() {
            let text = "leaving as soon as the payload has begun: the agent begins it only once somebody has \
                        attached. Ctrl-C again leaves at once";
            out.push(Action::Say(Level::Warning, text.into()));
        }
    }

    pub(super) fn detach(&mut self, out: &mut Vec<Action>) {
        let run = &self.setup.run;
        let (level, text) = if self.goes_on_alone() {
            (Level::Info, format!("detached; the host goes on alone. `anemos attach {run}` follows it again"))
        } else if self.known.written {
            let text =
                format!("detached before the payload was begun again: the agent waits for `anemos attach {run}`");
            (Level::Warning, text)
        } else {
            let dead_man = format_duration(Duration::from_secs(self.setup.entry.dead_man_s));
            let text = format!(
                "detached before the payload has begun: unless `anemos attach {run}` comes within deadline `dead_man` \
                 ({dead_man}), the host goes back to its old system by itself"
            );
            (Level::Warning, text)
        };
        out.push(Action::Say(level, text));
        self.make_safe(None, out);
        out.push(Action::Detach);
        self.contact = Contact::Over(None);
    }
}

/// Whether an agent in this state has begun its newest attempt at the payload.
pub(super) fn is_past_beginning(state: &AgentState) -> bool {
    match state {
        AgentState::Running | AgentState::Succeeded | AgentState::Returning(_) => true,
        AgentState::Starting | AgentState::Waiting | AgentState::Held(_) => false,
    }
}
