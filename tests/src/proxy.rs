//! A real HTTP proxy on loopback: tinyproxy.

use crate::command::under_us;
use crate::{Context, Result, bail, link};
use std::fs;
use std::net::TcpStream;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The proxy, until it is dropped.
#[derive(Debug)]
pub struct Proxy {
    process: Child,
    port: u16,
    /// Its files, among them one with the password.
    _dir: TempDir,
}

impl Proxy {
    /// Starts one that lets only this user with this password through.
    pub fn start(user: &str, password: &str) -> Result<Self> {
        let dir = tempfile::tempdir().context("a directory for tinyproxy")?;
        let port = link::free_port()?;
        let (settings, log) = (dir.path().join("tinyproxy.conf"), dir.path().join("tinyproxy.log"));
        let text = format!(
            "Port {port}\nListen 127.0.0.1\nAllow 127.0.0.1\nTimeout 60\nMaxClients 20\nLogFile \"{}\"\n\
             BasicAuth {user} {password}\n",
            log.display()
        );
        fs::write(&settings, text).context(settings.display())?;
        let mut command = under_us("tinyproxy");
        command.args(["-d", "-c"]).arg(&settings);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut proxy = Self { process: command.spawn().context("cannot run tinyproxy")?, port, _dir: dir };
        let end = Instant::now() + Duration::from_secs(30);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let ended = proxy.process.try_wait().context("waiting for tinyproxy")?;
            if ended.is_some() || Instant::now() >= end {
                let said = fs::read_to_string(&log).unwrap_or_default();
                bail!("tinyproxy does not answer ({ended:?}): {said}");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(proxy)
    }

    /// Its loopback port, which [`crate::Spec::archive`] takes: a machine then sees the proxy in the archive's place.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
