//! The agent's heartbeat: one byte a second through a pipe to init, from the agent's driver itself, so that a driver
//! that stands still is heard to be silent.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::RawFd;

/// One beat, and what the agent says with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beat {
    /// Nobody is there, and no disk was written: the dead-man's clock should run.
    Alone,
    /// Somebody is there, or the payload runs, and no disk was written.
    Busy,
    /// A disk was written, or may have been.
    Written,
    /// The agent is about to call reboot(2).
    Leaving,
}

impl Beat {
    const ALL: [Self; 4] = [Self::Alone, Self::Busy, Self::Written, Self::Leaving];

    fn byte(self) -> u8 {
        match self {
            Self::Alone => b'a',
            Self::Busy => b'b',
            Self::Written => b'w',
            Self::Leaving => b'l',
        }
    }

    /// Reads one byte of the pipe; `None` if no agent sends this byte.
    pub fn of(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|beat| beat.byte() == byte)
    }
}

/// The agent's end of the pipe.
#[derive(Debug, Default)]
pub struct Heart(Option<File>);

impl Heart {
    /// The pipe that init has left open as descriptor `number`.
    pub fn inherited(number: RawFd) -> io::Result<Self> {
        let pipe = crate::sys::inherited(number)?;
        // A full pipe must not stop the agent: init is not reading, and misses nothing but beats.
        rustix::io::ioctl_fionbio(&pipe, true)?;
        Ok(Self(Some(pipe.into())))
    }

    /// Sends one beat, if there is an init to hear it.
    pub fn beat(&mut self, beat: Beat) {
        if let Some(pipe) = &mut self.0 {
            let _ = pipe.write_all(&[beat.byte()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::IntoRawFd;

    use super::*;

    #[test]
    fn beats_are_heard_as_they_were_sent() -> io::Result<()> {
        let (mut reader, writer) = io::pipe()?;
        let mut heart = Heart::inherited(writer.into_raw_fd())?;
        for beat in Beat::ALL {
            heart.beat(beat);
        }
        drop(heart);
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes)?;
        let heard: Vec<Option<Beat>> = bytes.into_iter().map(Beat::of).collect();
        assert_eq!(heard, Beat::ALL.map(Some));
        assert_eq!(Beat::of(b'x'), None);
        assert!(Heart::inherited(-1).is_err());
        Ok(())
    }

    #[test]
    fn a_deaf_init_stops_no_agent() -> io::Result<()> {
        let (reader, writer) = io::pipe()?;
        let mut heart = Heart::inherited(writer.into_raw_fd())?;
        // More than any pipe holds unread.
        for _ in 0..(1 << 17) {
            heart.beat(Beat::Busy);
        }
        drop(reader);
        heart.beat(Beat::Busy);
        Ok(())
    }
}
