//! What can go wrong with all of a network.

/// Why the network could not be read or restored at all.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The netlink socket failed.
    #[error("cannot {action} over netlink")]
    Socket {
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// The kernel refused a request.
    #[error("the kernel refused to {action}{}", reason(.message))]
    Refused {
        /// What was asked.
        action: String,
        /// The kernel's own words, or empty.
        message: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The kernel did not answer.
    #[error("the kernel did not answer a request to {action} within {seconds} s")]
    Silent {
        /// What was asked.
        action: String,
        /// How long it was given.
        seconds: u64,
    },
    /// A list changed each time while it was being read.
    #[error("the list of {0} kept changing while it was read; is something reconfiguring the network?")]
    Unsteady(&'static str),
}

impl Error {
    /// Whether the kernel refused for this reason.
    pub(crate) fn is(&self, errno: rustix::io::Errno) -> bool {
        matches!(self, Self::Refused { source, .. } if source.raw_os_error() == Some(errno.raw_os_error()))
    }

    /// The error with its causes, on one line.
    pub(crate) fn in_full(&self) -> String {
        let mut text = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(cause) = source {
            text = format!("{text}: {cause}");
            source = cause.source();
        }
        text
    }
}

fn reason(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(" ({message})") }
}
