//! A hand on a machine's processors: as much of GDB's remote protocol as it takes, spoken with QEMU's stub.
//!
//! The protocol is in GDB's manual, appendix "GDB Remote Serial Protocol". A packet is `$DATA#SUM`, the sum of the
//! data's bytes modulo 256 in two hexadecimal digits, and is acknowledged with `+`.

use super::hex;
use crate::{Context, Error, Result, bail};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// Far longer than any answer takes, and still an end.
const LIMIT: Duration = Duration::from_secs(60);

/// Registers by their numbers in QEMU's description of the processor (`i386-64bit.xml`).
const RIP: u8 = 16;
const CS: u8 = 18;

/// A debugger. The machine stands still from its connection on, until [`Debugger::leave`] or [`Debugger::go_on_with`].
#[derive(Debug)]
pub struct Debugger {
    stream: UnixStream,
}

impl Debugger {
    pub(super) fn connect(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket).context(format!("cannot connect to {}", socket.display()))?;
        Self::over(stream)
    }

    fn over(stream: UnixStream) -> Result<Self> {
        stream.set_read_timeout(Some(LIMIT)).context("cannot configure the debugger")?;
        let mut debugger = Self { stream };
        // QEMU lets nobody ask for a single register who has not read what they are.
        debugger.ask("qXfer:features:read:target.xml:0,7ff")?;
        Ok(debugger)
    }

    /// Where the first processor is, if that is in the kernel.
    pub fn kernel_address(&mut self) -> Result<u64> {
        let ring = self.register(CS)? & 3;
        let address = self.register(RIP)?;
        if ring != 0 || address >> 63 == 0 {
            bail!("the processor is not in the kernel, but at {address:#x} in ring {ring}");
        }
        Ok(address)
    }

    /// Has the first processor go on somewhere else.
    pub fn jump(&mut self, address: u64) -> Result<()> {
        let value = hex(&address.to_le_bytes());
        self.expect_ok(&format!("P{RIP:x}={value}"))
    }

    /// Writes to memory, also where the guest may not.
    pub fn write(&mut self, address: u64, bytes: &[u8]) -> Result<()> {
        self.expect_ok(&format!("M{address:x},{:x}:{}", bytes.len(), hex(bytes)))
    }

    /// Lets the machine go on.
    pub fn leave(mut self) -> Result<()> {
        self.expect_ok("D")
    }

    /// Lets only this processor go on, from 1. The others do so when the machine is reset.
    pub fn go_on_with(&mut self, processor: u32) -> Result<()> {
        // It is answered when the machine stops next.
        self.send(&format!("vCont;c:{processor:x}"))
    }

    fn register(&mut self, number: u8) -> Result<u64> {
        let answer = self.ask(&format!("p{number:x}"))?;
        let digit = |at: usize| answer.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
        let bytes: Vec<u8> = (0..answer.len().min(16)).step_by(2).map_while(digit).collect();
        if bytes.is_empty() || bytes.len() * 2 != answer.len() {
            bail!("QEMU's debugger says {answer:?} of register {number}");
        }
        Ok(bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    }

    fn expect_ok(&mut self, command: &str) -> Result<()> {
        match self.ask(command)?.as_str() {
            "OK" => Ok(()),
            answer => Err(Error::new(format!("QEMU's debugger answers {command} with {answer:?}"))),
        }
    }

    fn ask(&mut self, command: &str) -> Result<String> {
        self.send(command)?;
        loop {
            let answer = self.receive().context(format!("QEMU's debugger does not answer {command}"))?;
            // That the machine has stopped is told at any time.
            if !answer.starts_with('T') {
                return Ok(answer);
            }
        }
    }

    fn send(&mut self, command: &str) -> Result<()> {
        let packet = format!("${command}#{:02x}", sum(command.as_bytes()));
        self.stream.write_all(packet.as_bytes()).context(format!("cannot tell QEMU's debugger {command}"))
    }

    fn receive(&mut self) -> Result<String> {
        while self.byte()? != b'$' {}
        let mut data = Vec::new();
        loop {
            match self.byte()? {
                b'#' => break,
                byte => data.push(byte),
            }
        }
        let given = [self.byte()?, self.byte()?];
        if format!("{:02x}", sum(&data)).as_bytes() != given {
            bail!("an answer with a wrong sum");
        }
        self.stream.write_all(b"+").context("cannot acknowledge an answer")?;
        Ok(String::from_utf8_lossy(&data).into_owned())
    }

    fn byte(&mut self) -> Result<u8> {
        let mut byte = [0];
        self.stream.read_exact(&mut byte).context("reading an answer")?;
        Ok(byte[0])
    }
}

fn sum(data: &[u8]) -> u8 {
    data.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    /// A stub that expects these packets and gives these answers.
    fn stub(mut far: UnixStream, talk: &'static [(&'static str, &'static str)]) -> thread::JoinHandle<()> {
        thread::spawn(move || {
            for (expected, answers) in talk {
                let mut packet = vec![0; expected.len()];
                far.read_exact(&mut packet).unwrap();
                assert_eq!(String::from_utf8_lossy(&packet), *expected);
                far.write_all(answers.as_bytes()).unwrap();
            }
        })
    }

    #[test]
    fn registers_memory_and_the_end() {
        let (near, far) = UnixStream::pair().unwrap();
        // Before the first answer comes that the machine has stopped; acknowledgements stand before commands.
        let talk = &[
            ("$qXfer:features:read:target.xml:0,7ff#4e", "$T02thread:01;#04+$l<target/>#9c"),
            ("++$p12#d3", "+$10000000#81"),
            ("+$p10#d1", "+$efbeaddeffffffff#50"),
            ("+$Mffffffffdeadbeef,2:0f0b#5d", "+$OK#9a"),
            ("+$P10=0000000000000000#ee", "+$OK#9a"),
            ("+$vCont;c:1#13", "+"),
            ("$D#44", "+$E22#a9"),
            ("+", ""),
        ];
        let far = stub(far, talk);
        let mut debugger = Debugger::over(near).unwrap();
        let address = debugger.kernel_address().unwrap();
        assert_eq!(address, 0xffff_ffff_dead_beef);
        debugger.write(address, &[0x0f, 0x0b]).unwrap();
        debugger.jump(0).unwrap();
        debugger.go_on_with(1).unwrap();
        assert!(debugger.leave().unwrap_err().to_string().contains("E22"));
        far.join().unwrap();
    }
}
