//! The SSH server. The only module that knows russh, and it knows nothing of the agent: its callbacks answer the
//! library and nothing else, and each channel has a task that turns what the library says into [`Input`]. Whoever
//! receives [`Opened`] decides what serves the channel.

mod auth;
mod channel;
mod door;

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use russh::keys::PrivateKey;
use russh::server::{Auth, ChannelOpenHandle, Config, Handler, Msg, PublicKeyOffer, Session, VerifiedPublicKey};
use russh::{Channel, ChannelId, MethodKind, MethodSet, Pty, SshId};
use tokio::net::TcpListener;
use tokio::sync::watch;

pub use auth::Keys;
pub use channel::{ChannelIn, ChannelOut, Input, Opened, Program, Request, Service, Size};
use door::Door;

/// Time from the connection to a successful login.
const LOGIN_DEADLINE: Duration = Duration::from_secs(30);

/// The server, listening.
pub struct Server {
    service: Service,
    closing: watch::Receiver<bool>,
    config: Arc<Config>,
    keys: Arc<Keys>,
    door: Arc<Door>,
}

impl Server {
    /// A server with the host key made from this Ed25519 seed, for clients with one of `keys`. It ends once `closing`
    /// says true.
    pub fn new(seed: &[u8], keys: Keys, service: Service, closing: watch::Receiver<bool>) -> Result<Self, String> {
        let seed: &[u8; 32] =
            seed.try_into().map_err(|_| format!("the host key's seed has {} bytes instead of 32", seed.len()))?;
        let key = PrivateKey::from(russh::keys::ssh_key::private::Ed25519Keypair::from_seed(seed));
        let config = Config {
            server_id: SshId::Standard(Cow::Borrowed(concat!("SSH-2.0-anemos_", env!("CARGO_PKG_VERSION")))),
            methods: MethodSet::from(&[MethodKind::PublicKey][..]),
            // There is no password to guess, so failed logins need no long delay.
            auth_rejection_time: Duration::from_millis(200),
            auth_rejection_time_initial: Some(Duration::ZERO),
            max_auth_attempts: 6,
            keys: vec![key],
            // A peer that lost its link sends nothing, not even an end: four unanswered keepalives end its connection.
            keepalive_interval: Some(Duration::from_secs(15)),
            keepalive_max: 4,
            inactivity_timeout: Some(Duration::from_secs(90)),
            nodelay: true,
            ..Config::default()
        };
        Ok(Self { service, closing, config: Arc::new(config), keys: Arc::new(keys), door: Arc::new(Door::default()) })
    }

    /// Listens on `listen`, else on `port` of all addresses, also those that are added later.
    pub async fn bind(listen: Option<SocketAddr>, port: u16) -> std::io::Result<TcpListener> {
        if let Some(address) = listen {
            return TcpListener::bind(address).await;
        }
        match TcpListener::bind(SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, port))).await {
            Ok(listener) => Ok(listener),
            // The kernel has no IPv6.
            Err(_) => TcpListener::bind(SocketAddr::from((std::net::Ipv4Addr::UNSPECIFIED, port))).await,
        }
    }

    /// Serves until it is told to close; returns when all connections are closed, or after a deadline.
    pub async fn run(self, listener: TcpListener) {
        let mut closing = self.closing.clone();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = closing.wait_for(|closing| *closing) => break,
            };
            match accepted {
                Ok((stream, peer)) => self.accept(stream, peer),
                // No descriptors or memory are left: waits for other connections to end.
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
        drop(listener);
        self.door.wait_empty(Duration::from_secs(6)).await;
    }

    fn accept(&self, stream: tokio::net::TcpStream, peer: SocketAddr) {
        let Some(guest) = self.door.enter(&stream, peer.ip()) else { return };
        let _ = stream.set_nodelay(true);
        let guest = Arc::new(guest);
        let connection = Connection { service: self.service.clone(), keys: self.keys.clone(), guest: guest.clone() };
        let config = self.config.clone();
        let mut closing = self.closing.clone();
        tokio::spawn(async move {
            let starting = tokio::time::timeout(LOGIN_DEADLINE, russh::server::run_stream(config, stream, connection));
            let Ok(Ok(mut session)) = starting.await else { return };
            let login = async {
                if tokio::time::timeout(LOGIN_DEADLINE, guest.known()).await.is_err() {
                    guest.throw_out();
                }
                std::future::pending::<()>().await;
            };
            let handle = session.handle();
            let goodbye = async {
                let _ = closing.wait_for(|closing| *closing).await;
                // Gives attached controllers time to be sent the last words; all other clients only see the connection
                // end.
                tokio::time::sleep(Duration::from_millis(300)).await;
                guest.idle(Duration::from_secs(4)).await;
                let reason = "the agent is leaving".to_owned();
                let sent = handle.disconnect(russh::Disconnect::ByApplication, reason, String::new());
                let _ = tokio::time::timeout(Duration::from_secs(1), sent).await;
                std::future::pending::<()>().await;
            };
            tokio::select! {
                _ = &mut session => {}
                () = login => {}
                () = goodbye => {}
            }
        });
    }
}

/// One connection, as russh's handler.
struct Connection {
    service: Service,
    keys: Arc<Keys>,
    guest: Arc<door::Guest>,
}

impl Handler for Connection {
    type Error = russh::Error;

    async fn auth_publickey_offered(&mut self, _user: &str, offer: PublicKeyOffer<'_>) -> Result<Auth, Self::Error> {
        Ok(self.keys.judge(offer.public_key, offer.algorithm))
    }

    async fn auth_publickey(&mut self, _user: &str, key: VerifiedPublicKey<'_>) -> Result<Auth, Self::Error> {
        Ok(self.keys.judge(key.public_key, key.algorithm))
    }

    async fn auth_succeeded(&mut self, _session: &mut Session) -> Result<(), Self::Error> {
        self.guest.welcome();
        Ok(())
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        match self.guest.open_channel() {
            Some(pass) => {
                reply.accept().await;
                tokio::spawn(channel::read(channel, session.handle(), pass, self.service.clone()));
            }
            None => reply.reject(russh::ChannelOpenFailure::ResourceShortage).await,
        }
        Ok(())
    }

    async fn pty_request(
        &mut self,
        channel: ChannelId,
        _term: &str,
        _columns: u32,
        _rows: u32,
        _width: u32,
        _height: u32,
        _modes: &[(Pty, u32)],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        session.channel_success(channel)
    }

    async fn env_request(
        &mut self,
        channel: ChannelId,
        _name: &str,
        _value: &str,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        session.channel_success(channel)
    }

    async fn shell_request(&mut self, channel: ChannelId, session: &mut Session) -> Result<(), Self::Error> {
        session.channel_success(channel)
    }

    async fn exec_request(
        &mut self,
        channel: ChannelId,
        _command: &[u8],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        session.channel_success(channel)
    }

    async fn subsystem_request(
        &mut self,
        channel: ChannelId,
        name: &str,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        if name == self.service.subsystem { session.channel_success(channel) } else { session.channel_failure(channel) }
    }
}
