//! A hostile host: an SSH server on loopback that has root everywhere. It speaks the protocol as far as it must, as the
//! old system with its stage, as the RAM system with its agent, and as the new system, and says what it likes.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anemos_proto::Secret;
use anemos_proto::agent::{AgentReply, AgentRequest};
use anemos_proto::codec::{Compressor, FrameReader, encode_frame};
use anemos_proto::config::RunConfig;
use anemos_proto::hello::{Greeting, Hello, Role};
use anemos_proto::host::{Disk, DiskId, Firmware, HostFacts, Inside, KexecSupport};
use anemos_proto::net::NetworkState;
use anemos_proto::stage::{StageReply, StageRequest, Staged};
use russh::keys::ssh_key::private::Ed25519Keypair;
use russh::keys::{PrivateKey, PublicKey};
use russh::server::{Auth, ChannelOpenHandle, Config, Handler, Msg, PublicKeyOffer, Session, VerifiedPublicKey};
use russh::{Channel, ChannelId, ChannelMsg, ChannelReadHalf, ChannelWriteHalf};
use serde::de::DeserializeOwned;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

/// What a host tells of itself, if it wants to go on.
pub fn facts() -> HostFacts {
    let id =
        DiskId { name: "/dev/vda".into(), serial: Some("S".into()), wwid: None, path: String::new(), size: 1 << 34 };
    let disk = Disk {
        id,
        model: "disk".into(),
        removable: false,
        rotational: false,
        read_only: false,
        table: None,
        content: None,
        partitions: Vec::new(),
        mounts: Vec::new(),
        out_of_reach: None,
    };
    HostFacts {
        hostname: "host".into(),
        os: "Debian".into(),
        boot_id: "old".into(),
        arch: "x86_64".into(),
        kernel_release: "6.1".into(),
        kernel_image: Some("/boot/vmlinuz".into()),
        cmdline: String::new(),
        firmware: Firmware::Bios,
        memory_total: 4 << 30,
        memory_available: 3 << 30,
        disks: vec![disk],
        kexec: KexecSupport {
            file_load: true,
            load: true,
            disabled: false,
            lockdown: "none".into(),
            loads_left: None,
            appraised: false,
            refused: None,
        },
        network: NetworkState::default(),
        lost_ways: Vec::new(),
        ways: Vec::new(),
        instead: Vec::new(),
        kernel_lacks: Vec::new(),
        inside: Inside::Machine,
        memory_reserved: 0,
        snapshot: None,
        proxy: None,
        ssh_port: 22,
        host_keys: Vec::new(),
        mirrors: vec!["http://mirror.example/debian".into()],
        cached_blobs: Vec::new(),
        cached_bases: Vec::new(),
        watchdogs: Vec::new(),
    }
}

/// What of the host answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Boot {
    Old,
    Ram,
    New,
}

/// What somebody who controls a host does when it is its turn to say something. Each is given its wire.
pub trait Script: Send + Sync + 'static {
    /// The stage is to tell the facts. `false`: the conversation is over.
    fn probe(&self, wire: &mut Wire) -> impl Future<Output = bool> + Send {
        async {
            wire.say(&StageReply::Facts(Box::new(facts()))).await;
            true
        }
    }

    /// The stage is to prepare the boot.
    fn stage(&self, wire: &mut Wire) -> impl Future<Output = bool> + Send {
        async {
            wire.say(&StageReply::Need(Vec::new())).await;
            wire.say(&StageReply::Staged(Staged { initramfs_bytes: 1, downloaded_bytes: 1 })).await;
            true
        }
    }

    /// The agent was attached to.
    fn agent(&self, _wire: &mut Wire, _host: &Host) -> impl Future<Output = ()> + Send {
        async {}
    }

    /// A command was started in the new system.
    fn command(&self, _wire: &mut Wire, _command: &str) -> impl Future<Output = ()> + Send {
        async {}
    }
}

/// The host.
pub struct Host {
    pub address: SocketAddr,
    key: PrivateKey,
    /// That of its new system, if it has one of its own.
    new_key: Mutex<Option<PrivateKey>>,
    boot: Mutex<Boot>,
    run: Mutex<Option<RunConfig>>,
    /// The keys that it was shown, without comments.
    shown: Mutex<BTreeSet<String>>,
    /// Everything that it was told on channels.
    heard: Mutex<Vec<u8>>,
    /// Bytes that it has said on channels.
    said: AtomicU64,
    /// How often it was told to boot.
    boots: AtomicU64,
    /// Where a real agent listens, which answers in place of the played one.
    agent: Mutex<Option<SocketAddr>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn plain(key: &PublicKey) -> String {
    let line = key.to_openssh().unwrap();
    line.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

fn from_seed(seed: &Secret) -> PrivateKey {
    let seed: &[u8; 32] = seed.expose().try_into().unwrap();
    PrivateKey::from(Ed25519Keypair::from_seed(seed))
}

impl Host {
    /// Starts one; `number` makes its key. It serves for as long as the runtime.
    pub async fn start(number: u16, script: impl Script) -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = Arc::new(Self {
            address: listener.local_addr().unwrap(),
            key: from_seed(&Secret::new(number.to_le_bytes().repeat(16))),
            new_key: Mutex::default(),
            boot: Mutex::new(Boot::Old),
            run: Mutex::default(),
            shown: Mutex::default(),
            heard: Mutex::default(),
            said: AtomicU64::new(0),
            boots: AtomicU64::new(0),
            agent: Mutex::default(),
        });
        let (serving, script) = (Arc::clone(&host), Arc::new(script));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let host = Arc::clone(&serving);
                let agent = *lock(&host.agent);
                if let (Boot::Ram, Some(agent)) = (host.boot(), agent) {
                    tokio::spawn(async move {
                        // Either side may leave at any time.
                        if let Ok(mut other) = TcpStream::connect(agent).await {
                            let _ = tokio::io::copy_bidirectional(&mut stream, &mut other).await;
                        }
                    });
                    continue;
                }
                let key = match (host.boot(), &*lock(&host.run)) {
                    (Boot::Ram, Some(run)) => from_seed(&run.host_key),
                    (Boot::New, _) => lock(&host.new_key).clone().unwrap_or_else(|| host.key.clone()),
                    _ => host.key.clone(),
                };
                let config = Config {
                    keys: vec![key],
                    auth_rejection_time_initial: Some(std::time::Duration::ZERO),
                    nodelay: true,
                    ..Config::default()
                };
                let connection = Connection { host, script: Arc::clone(&script), channels: HashMap::new() };
                tokio::spawn(async move {
                    if let Ok(session) = russh::server::run_stream(Arc::new(config), stream, connection).await {
                        // However it ends.
                        let _ = session.await;
                    }
                });
            }
        });
        host
    }

    pub fn known_hosts_line(&self) -> String {
        format!("[127.0.0.1]:{} {}\n", self.address.port(), plain(self.key.public_key()))
    }

    /// The key of its new system.
    pub fn key_line(&self) -> String {
        lock(&self.new_key).as_ref().map_or_else(|| plain(self.key.public_key()), |key| plain(key.public_key()))
    }

    /// From now on its new systems have a key of their own, which the number makes.
    pub fn has_own_key(&self, number: u8) {
        *lock(&self.new_key) = Some(from_seed(&Secret::new(vec![number; 32])));
    }

    pub fn boot(&self) -> Boot {
        *lock(&self.boot)
    }

    pub fn turn_into(&self, boot: Boot) {
        *lock(&self.boot) = boot;
    }

    /// Has a real agent answer while the host is in RAM.
    pub fn stand_in(&self, agent: SocketAddr) {
        *lock(&self.agent) = Some(agent);
    }

    /// The configuration of the agent that it was sent.
    pub fn run(&self) -> Option<RunConfig> {
        lock(&self.run).clone()
    }

    pub fn shown(&self) -> BTreeSet<String> {
        lock(&self.shown).clone()
    }

    pub fn heard(&self) -> Vec<u8> {
        lock(&self.heard).clone()
    }

    pub fn said(&self) -> u64 {
        self.said.load(Ordering::Relaxed)
    }

    pub fn boots(&self) -> u64 {
        self.boots.load(Ordering::Relaxed)
    }

    async fn serve<S: Script>(self: Arc<Self>, channel: Channel<Msg>, what: What, script: Arc<S>) {
        let (half, write) = channel.split();
        let (sender, read) = mpsc::unbounded_channel();
        // Whoever floods does not listen, and a channel that nobody reads stalls its connection.
        tokio::spawn(Arc::clone(&self).listen(half, sender));
        let host = Arc::clone(&self);
        let mut wire = Wire { host, read, write, frames: FrameReader::new(), compressor: None, open: true, status: 0 };
        match what {
            What::Command(command) if command.contains("serve --dir") => self.talk_as_stage(&mut wire, &*script).await,
            What::Command(command) => script.command(&mut wire, &command).await,
            What::Subsystem => {
                wire.send(Hello::new(Role::Agent, "hostile").encode()).await;
                if wire.greet().await {
                    wire.compressor = Some(Compressor::new().unwrap());
                    script.agent(&mut wire, &self).await;
                }
            }
        }
        // Who is at the other end may have gone.
        let _ = wire.write.eof().await;
        let _ = wire.write.exit_status(wire.status).await;
        let _ = wire.write.close().await;
    }

    async fn listen(self: Arc<Self>, mut half: ChannelReadHalf, heard: mpsc::UnboundedSender<Vec<u8>>) {
        while let Some(message) = half.wait().await {
            match message {
                ChannelMsg::Data { data } => {
                    lock(&self.heard).extend_from_slice(&data);
                    // Nobody may want it.
                    let _ = heard.send(data.to_vec());
                }
                ChannelMsg::Eof | ChannelMsg::Close => return,
                _ => {}
            }
        }
    }

    async fn talk_as_stage(&self, wire: &mut Wire, script: &impl Script) {
        wire.send(b"anemos: have 12-34\n".to_vec()).await;
        wire.send(Hello::new(Role::Stage, "hostile").encode()).await;
        if !wire.greet().await {
            return;
        }
        while let Some(request) = wire.next::<StageRequest>().await {
            let goes_on = match request {
                StageRequest::Probe => script.probe(wire).await,
                StageRequest::Stage(plan) => {
                    *lock(&self.run) = Some(plan.run);
                    script.stage(wire).await
                }
                StageRequest::Boot => {
                    self.boots.fetch_add(1, Ordering::Relaxed);
                    self.turn_into(Boot::Ram);
                    wire.say(&StageReply::Booting).await;
                    false
                }
                StageRequest::Abort => {
                    wire.say(&StageReply::Aborted).await;
                    false
                }
                StageRequest::Blob { .. } => true,
            };
            if !goes_on {
                return;
            }
        }
    }
}

/// One channel.
pub struct Wire {
    host: Arc<Host>,
    read: mpsc::UnboundedReceiver<Vec<u8>>,
    write: ChannelWriteHalf<Msg>,
    frames: FrameReader,
    /// Of the agent's side.
    compressor: Option<Compressor>,
    pub open: bool,
    /// The exit status of what was started.
    pub status: u32,
}

impl Wire {
    /// Bytes that the host has said so far.
    pub fn said(&self) -> u64 {
        self.host.said()
    }

    /// What of the host answers.
    pub fn boot(&self) -> Boot {
        self.host.boot()
    }

    /// The host.
    pub fn host(&self) -> Arc<Host> {
        Arc::clone(&self.host)
    }

    /// The next bytes that come; `None` at their end.
    pub async fn bytes(&mut self) -> Option<Vec<u8>> {
        self.read.recv().await
    }

    /// Sends bytes to standard output as they are.
    pub async fn send(&mut self, bytes: Vec<u8>) {
        self.host.said.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        self.open &= self.write.data_bytes(bytes).await.is_ok();
    }

    /// Sends bytes to standard error.
    pub async fn complain(&mut self, bytes: Vec<u8>) {
        self.host.said.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        self.open &= self.write.extended_data_bytes(1, bytes).await.is_ok();
    }

    /// Sends frames.
    pub async fn frames(&mut self, frames: &[u8]) {
        match &mut self.compressor {
            None => self.send(frames.to_vec()).await,
            Some(compressor) => {
                let bytes = compressor.compress(frames).unwrap();
                // What counts is what comes of it.
                self.host.said.fetch_add(frames.len() as u64, Ordering::Relaxed);
                self.open &= self.write.data_bytes(bytes).await.is_ok();
            }
        }
    }

    pub async fn say(&mut self, value: &impl serde::Serialize) {
        self.frames(&encode_frame(value).unwrap()).await;
    }

    async fn greet(&mut self) -> bool {
        let mut greeting = Greeting::new(Role::Controller, "hostile");
        while let Some(bytes) = self.read.recv().await {
            if let Some(rest) = greeting.push(&bytes).unwrap() {
                self.frames.push(&rest);
                return true;
            }
        }
        false
    }

    /// The next request; `None` at the end.
    pub async fn next<T: DeserializeOwned>(&mut self) -> Option<T> {
        loop {
            if let Some(value) = self.frames.next_frame().unwrap() {
                return Some(value);
            }
            let bytes = self.read.recv().await?;
            self.frames.push(&bytes);
        }
    }

    /// Answers that somebody attaches, and waits until they do.
    pub async fn attached(&mut self, last: u64) -> bool {
        let state = anemos_proto::event::AgentState::Running;
        loop {
            match self.next().await {
                Some(AgentRequest::Attach { .. }) => break,
                Some(_) => {}
                None => return false,
            }
        }
        self.say(&AgentReply::Attached { boot_id: "ram".into(), state, last }).await;
        true
    }
}

enum What {
    Command(String),
    Subsystem,
}

struct Connection<S> {
    host: Arc<Host>,
    script: Arc<S>,
    channels: HashMap<ChannelId, Channel<Msg>>,
}

impl<S: Script> Connection<S> {
    fn start(&mut self, id: ChannelId, what: What, session: &mut Session) -> Result<(), russh::Error> {
        let Some(channel) = self.channels.remove(&id) else { return session.channel_failure(id) };
        session.channel_success(id)?;
        tokio::spawn(Arc::clone(&self.host).serve(channel, what, Arc::clone(&self.script)));
        Ok(())
    }
}

impl<S: Script> Handler for Connection<S> {
    type Error = russh::Error;

    async fn authentication_banner(&mut self) -> Result<Option<String>, Self::Error> {
        Ok(Some("b".repeat(30_000)))
    }

    async fn auth_publickey_offered(&mut self, _: &str, offer: PublicKeyOffer<'_>) -> Result<Auth, Self::Error> {
        lock(&self.host.shown).insert(plain(offer.public_key));
        Ok(Auth::Accept)
    }

    async fn auth_publickey(&mut self, _: &str, key: VerifiedPublicKey<'_>) -> Result<Auth, Self::Error> {
        lock(&self.host.shown).insert(plain(key.public_key));
        Ok(Auth::Accept)
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        self.channels.insert(channel.id(), channel);
        reply.accept().await;
        Ok(())
    }

    async fn exec_request(&mut self, id: ChannelId, command: &[u8], session: &mut Session) -> Result<(), Self::Error> {
        self.start(id, What::Command(String::from_utf8_lossy(command).into_owned()), session)
    }

    async fn subsystem_request(&mut self, id: ChannelId, _: &str, session: &mut Session) -> Result<(), Self::Error> {
        self.start(id, What::Subsystem, session)
    }
}
