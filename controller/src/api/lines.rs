//! Lines over a stream, with what bounds them.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::time::timeout;

/// Longest line, in bytes: a submission of a thousand hosts fits.
pub(super) const LONGEST: usize = 16 << 20;

/// Whoever is silent for so long in the middle of a line or of a blob is not waited for.
const SILENCE: Duration = Duration::from_secs(10);

/// Reads lines, and bytes in between.
#[derive(Debug)]
pub struct Lines<R> {
    from: BufReader<R>,
    silence: Duration,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    /// From this stream.
    pub fn new(from: R) -> Self {
        Self { from: BufReader::new(from), silence: SILENCE }
    }

    /// The next line, with its newline; `None` at the end. The first byte of it may take for ever.
    pub async fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        if self.from.fill_buf().await?.is_empty() {
            return Ok(None);
        }
        let mut line = Vec::new();
        loop {
            let piece = timeout(self.silence, self.from.fill_buf()).await.map_err(|_| silent("a line"))??;
            let end = piece.iter().position(|byte| *byte == b'\n').map(|at| at + 1);
            let taken = end.unwrap_or(piece.len());
            if line.len() + taken > LONGEST {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("a line has more than {LONGEST} bytes"),
                ));
            }
            line.extend_from_slice(&piece[..taken]);
            self.from.consume(taken);
            if end.is_some() {
                return Ok(Some(line));
            }
            if taken == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// So many bytes.
    pub async fn bytes(&mut self, size: u64) -> io::Result<Vec<u8>> {
        let (mut bytes, mut piece) = (Vec::new(), vec![0; 1 << 16]);
        while (bytes.len() as u64) < size {
            let room = usize::try_from(size - bytes.len() as u64).unwrap_or(usize::MAX).min(piece.len());
            let read = timeout(self.silence, self.from.read(&mut piece[..room])).await;
            match read.map_err(|_| silent("a blob"))?? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => bytes.extend_from_slice(&piece[..count]),
            }
        }
        Ok(bytes)
    }
}

fn silent(what: &str) -> io::Error {
    let text = format!("nothing came for {}s in the middle of {what}", SILENCE.as_secs());
    io::Error::new(io::ErrorKind::TimedOut, text)
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[tokio::test]
    async fn lines_and_bytes_in_between() {
        let mut lines = Lines::new(&b"one\n12345two\nrest"[..]);
        assert_eq!(lines.next().await.unwrap().unwrap(), b"one\n");
        assert_eq!(lines.bytes(5).await.unwrap(), b"12345");
        assert_eq!(lines.next().await.unwrap().unwrap(), b"two\n");
        assert_eq!(lines.next().await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert!(Lines::new(&b""[..]).next().await.unwrap().is_none());
        assert_eq!(Lines::new(&b"12"[..]).bytes(3).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[tokio::test]
    async fn a_line_without_end_is_not_kept() {
        let long = vec![b'x'; LONGEST + 1];
        assert_eq!(Lines::new(&long[..]).next().await.unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[tokio::test]
    async fn who_stops_in_the_middle_is_not_waited_for() {
        let (mut client, server) = tokio::io::duplex(64);
        let silence = Duration::from_millis(20);
        let mut lines = Lines { silence, ..Lines::new(server) };
        // However long it takes to begin with.
        assert!(timeout(5 * silence, lines.next()).await.is_err());
        client.write_all(b"{").await.unwrap();
        assert_eq!(lines.next().await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        client.write_all(b"1").await.unwrap();
        assert_eq!(lines.bytes(2).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
