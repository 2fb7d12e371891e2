//! A real OpenSSH server with a host key that nobody expects, where a machine should be, and a record of what it was
//! told.

use crate::command::{program, run};
use crate::{Context, Error, Result, evidence};
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

/// The server; its sessions end when it is dropped.
pub struct Impostor {
    address: SocketAddr,
    dir: PathBuf,
    sessions: Arc<Mutex<Option<Vec<Child>>>>,
}

impl Impostor {
    /// Starts one with its files in `dir`. It would let in whoever has the key whose public half `admits` is.
    pub fn start(dir: &Path, admits: &str) -> Result<Self> {
        fs::create_dir_all(dir).context(format!("cannot make {}", dir.display()))?;
        let dir = dir.canonicalize().context("the impostor's directory")?;
        let key = dir.join("host_key");
        run(program("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key))?;
        fs::write(dir.join("authorized_keys"), admits).context("cannot write authorized_keys")?;
        let config = format!(
            "HostKey {}\nAuthorizedKeysFile {}\nStrictModes no\nUsePAM no\nPermitRootLogin yes\n\
             PasswordAuthentication yes\nPidFile none\nLogLevel DEBUG1\n",
            key.display(),
            dir.join("authorized_keys").display()
        );
        fs::write(dir.join("sshd_config"), config).context("cannot write sshd_config")?;
        // Where Debian's sshd gives up its privileges; a machine whose own sshd never ran has none.
        fs::create_dir_all("/run/sshd").context("cannot make /run/sshd")?;
        let listener = TcpListener::bind(("127.0.0.1", 0)).context("cannot get a loopback port")?;
        let address = listener.local_addr().context("cannot read the impostor's address")?;
        let sessions = Arc::new(Mutex::new(Some(Vec::new())));
        let impostor = Self { address, dir: dir.clone(), sessions: Arc::clone(&sessions) };
        evidence::note("the impostor", impostor.log_file());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let mut sessions = sessions.lock().unwrap_or_else(PoisonError::into_inner);
                let Some(sessions) = sessions.as_mut() else { return };
                let Ok(copy) = stream.try_clone() else { continue };
                // -i: one connection, on standard input and output.
                let session = program("sshd")
                    .args(["-i", "-f"])
                    .arg(dir.join("sshd_config"))
                    .arg("-E")
                    .arg(dir.join("log"))
                    .stdin(Stdio::from(OwnedFd::from(stream)))
                    .stdout(Stdio::from(OwnedFd::from(copy)))
                    .stderr(Stdio::null())
                    .spawn();
                sessions.extend(session);
            }
        });
        Ok(impostor)
    }

    /// Where it listens: for [`crate::link::Target::Here`].
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections it got.
    pub fn connections(&self) -> usize {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map_or(0, Vec::len)
    }

    /// Everything that sshd noted at its debug level.
    pub fn log(&self) -> Result<String> {
        let path = self.log_file();
        if !path.exists() {
            return Ok(String::new());
        }
        fs::read_to_string(&path).context(format!("cannot read {}", path.display()))
    }

    /// Fails if anybody went as far as to offer a key or a password, or even a user's name.
    pub fn assert_told_nothing(&self) -> Result<()> {
        let log = self.log()?;
        match log.lines().find(|line| line.contains("userauth-request")) {
            Some(line) => Err(Error::new(format!("the impostor was told: {line}"))),
            None => Ok(()),
        }
    }

    fn log_file(&self) -> PathBuf {
        self.dir.join("log")
    }
}

impl Drop for Impostor {
    fn drop(&mut self) {
        let sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner).take();
        for mut session in sessions.into_iter().flatten() {
            let _ = session.kill();
            let _ = session.wait();
        }
        // Wakes the accepting thread, which then sees that it is over.
        let _ = std::net::TcpStream::connect(self.address);
    }
}
