//! The real OpenSSH client, with the lab's key and nothing of the user's own configuration.

use crate::command::{self, run};
use crate::{Context, Result, bail};
use std::fs;
use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Makes the lab's key pair where there is none.
pub fn ensure_key(path: &Path) -> Result<()> {
    if path.exists() {
        return Ok(());
    }
    run(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", "anemos-lab", "-f"]).arg(path))?;
    Ok(())
}

/// An `ssh` command to root on a loopback port, with host keys pinned by a known_hosts file.
pub fn client(port: u16, key: &Path, known_hosts: &Path) -> Command {
    let mut command = Command::new("ssh");
    command.args(["-F", "none", "-T", "-p"]).arg(port.to_string()).arg("-i").arg(key);
    for option in [
        "BatchMode=yes",
        "IdentitiesOnly=yes",
        "StrictHostKeyChecking=yes",
        "GlobalKnownHostsFile=/dev/null",
        "UpdateHostKeys=no",
        "LogLevel=ERROR",
        "ConnectTimeout=30",
        "ServerAliveInterval=10",
        "ServerAliveCountMax=6",
    ] {
        command.args(["-o", option]);
    }
    command.arg("-o").arg(format!("UserKnownHostsFile={}", known_hosts.display()));
    command.arg("root@127.0.0.1");
    command
}

/// known_hosts lines for public keys (`ssh-ed25519 AAAA… comment`, one a line) at a loopback port.
pub fn known_hosts_lines(port: u16, public_keys: &str) -> String {
    let mut lines = String::new();
    for key in public_keys.lines().filter(|line| !line.trim().is_empty()) {
        let mut fields = key.split_whitespace();
        if let (Some(kind), Some(blob)) = (fields.next(), fields.next()) {
            lines.extend(["[127.0.0.1]:", &port.to_string(), " ", kind, " ", blob, "\n"]);
        }
    }
    lines
}

/// Runs a command and ends it at the deadline.
pub fn output_within(command: &mut Command, limit: Duration) -> Result<Output> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start ssh")?;
    let mut stdout = child.stdout.take().expect("stdout was piped");
    let mut stderr = child.stderr.take().expect("stderr was piped");
    let out = std::thread::spawn(move || read_all(&mut stdout));
    let err = std::thread::spawn(move || read_all(&mut stderr));
    let end = Instant::now() + limit;
    let status = loop {
        if let Some(status) = child.try_wait().context("cannot wait for ssh")? {
            break status;
        }
        if Instant::now() >= end {
            let _ = child.kill();
            let _ = child.wait();
            bail!("the command did not end within {} s", limit.as_secs());
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let stdout = out.join().unwrap_or_default();
    let stderr = err.join().unwrap_or_default();
    Ok(Output { status, stdout, stderr })
}

fn read_all(from: &mut impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    // What was read before an error is still worth showing.
    let _ = from.read_to_end(&mut bytes);
    bytes
}

/// The identification line an SSH server sends first, if one answers in time.
pub fn banner(address: SocketAddr, limit: Duration) -> Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, limit).context("cannot connect")?;
    stream.set_read_timeout(Some(limit)).context("cannot set a time limit")?;
    let mut line = Vec::new();
    let mut byte = [0];
    while line.len() < 255 {
        if stream.read(&mut byte).context("no banner")? == 0 {
            bail!("the connection was closed before a banner came");
        }
        if byte[0] == b'\n' {
            break;
        }
        line.push(byte[0]);
    }
    let text = String::from_utf8_lossy(&line).trim_end().to_owned();
    if !text.starts_with("SSH-") {
        bail!("not an SSH server: {text:?}");
    }
    Ok(text)
}

/// The public keys of an OpenSSH server's host key directory.
pub fn read_host_keys(dir: &Path) -> Result<String> {
    let mut keys = String::new();
    for kind in ["ed25519", "ecdsa", "rsa"] {
        let file = dir.join(format!("ssh_host_{kind}_key.pub"));
        keys.push_str(&fs::read_to_string(&file).context(format!("cannot read {}", file.display()))?);
    }
    Ok(keys)
}

/// Turns a finished command into its standard output, or an error with what it said.
pub fn success(what: &str, output: &Output) -> Result<String> {
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(stdout);
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    bail!("{what}: {}\n{}\n{}", output.status, command::tail(&stdout, 10), command::tail(&stderr, 20));
}
