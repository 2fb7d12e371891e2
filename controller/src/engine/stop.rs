//! How urgently a person wants to leave.

/// What was heard of a person who wants to leave.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stop {
    /// Nothing.
    #[default]
    No,
    /// Once: leave where that costs nothing.
    Leave,
    /// Again: leave at once.
    Now,
}

impl Stop {
    /// Whether anything was heard.
    pub fn asked(self) -> bool {
        self != Self::No
    }
}
