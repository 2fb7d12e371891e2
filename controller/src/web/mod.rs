//! The page: what the daemon has, over HTTP, for a browser. docs/WEB.md describes it.
//!
//! It stands on the daemon's runs as the conversations over the socket do, and can do no more than they can.

mod answer;
mod assets;
mod clean;
mod events;
mod glances;
mod guard;
mod metrics;
mod routes;
mod tls;
mod token;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_io_timeout::TimeoutStream;
use tokio_rustls::TlsAcceptor;

use self::guard::Guard;
use self::routes::Page;
use self::token::Token;
use crate::screen;
use crate::serve::Runs;

/// Where it listens if nobody says where: the digits are those of ANEMO on a telephone.
pub const DEFAULT: &str = "127.0.0.1:26366";

/// Connections at once. A browser makes up to six.
const CONNECTIONS: usize = 128;

/// Time between two attempts at taking a connection.
const BUSY: Duration = Duration::from_millis(100);

/// A request's header, and a handshake of TLS, must be there after this time; a connection without a request ends.
const HEADER: Duration = Duration::from_secs(10);

/// Whoever takes nothing for so long is hung up on.
const TAKING: Duration = Duration::from_secs(30);

/// Longest header, in bytes.
const HEADER_BYTES: usize = 16 << 10;

/// How it is to be served.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where it listens.
    pub address: SocketAddr,
    /// Certificates and private key, as PEM files, if it is served by TLS.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// What has the token; it is made if it is not there.
    pub token: PathBuf,
}

/// A page that has its place.
pub struct Web {
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    token: Token,
    /// As it was asked for, with the port that it got.
    address: SocketAddr,
    token_file: PathBuf,
}

impl Web {
    /// Listens. An error says why it can't, or must not.
    pub async fn bind(settings: Settings) -> Result<Self, String> {
        let Settings { address, tls, token: token_file } = settings;
        if tls.is_none() && !address.ip().is_loopback() {
            return Err(format!(
                "{address} can be reached from other machines, and what is said there could be read and changed on the \
                 way: give a certificate with --web-cert and --web-key, or listen on 127.0.0.1 and come in by `ssh -L`"
            ));
        }
        let tls = tls.map(|(certificates, key)| tls::acceptor(&certificates, &key)).transpose()?;
        let token =
            Token::kept_in(&token_file).map_err(|error| format!("the token in {}: {error}", token_file.display()))?;
        let named = |error: io::Error| {
            let other = "; another address can be given: `--web 127.0.0.1:PORT`";
            let hint = if error.kind() == io::ErrorKind::AddrInUse { other } else { "" };
            format!("the page can't listen on {address}: {error}{hint}")
        };
        let listener = TcpListener::bind(address).await.map_err(named)?;
        let address = listener.local_addr().map_err(named)?;
        Ok(Self { listener, tls, token, address, token_file })
    }

    /// Serves for as long as it is waited for.
    pub async fn serve(self, runs: Arc<Runs>) {
        let Self { listener, tls, token, address, token_file } = self;
        let scheme = if tls.is_some() { "https" } else { "http" };
        // Elsewhere than on a terminal, others may read what is written: logs of a systemd journal, for one.
        if screen::is_for_eyes() {
            screen::note(&format!("the page is {scheme}://{address}/#token={}", token.text()));
        } else {
            screen::note(&format!("the page is {scheme}://{address}/, and {} has its token", token_file.display()));
        }
        let page = Arc::new(Page::new(runs, Guard { token, scheme }));
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            // The semaphore is never closed.
            let place = Arc::clone(&places).acquire_owned().await;
            match listener.accept().await {
                Ok((stream, from)) => {
                    let (page, tls) = (Arc::clone(&page), tls.clone());
                    tokio::spawn(async move {
                        connection(page, tls, stream, from).await;
                        drop(place);
                    });
                }
                // This process has no file to spare, as a rule; nothing says when it has.
                Err(_) => tokio::time::sleep(BUSY).await,
            }
        }
    }
}

async fn connection(page: Arc<Page>, tls: Option<TlsAcceptor>, stream: TcpStream, from: SocketAddr) {
    // Answers are small, and whoever types waits for them.
    let _ = stream.set_nodelay(true);
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(TAKING));
    let stream = Box::pin(stream);
    match tls {
        None => talk(page, stream, from).await,
        Some(tls) => {
            // Whoever does not get through a handshake is no browser that trusts the certificate.
            if let Ok(Ok(stream)) = timeout(HEADER, tls.accept(stream)).await {
                talk(page, stream, from).await;
            }
        }
    }
}

async fn talk(page: Arc<Page>, stream: impl AsyncRead + AsyncWrite + Unpin + 'static, from: SocketAddr) {
    let service = service_fn(move |request| {
        let page = Arc::clone(&page);
        async move { Ok::<_, std::convert::Infallible>(page.answer(request, from.ip()).await) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEADER).max_buf_size(HEADER_BYTES);
    // Who leaves in the middle of something is no error of the daemon's.
    let _ = http.serve_connection(TokioIo::new(stream), service).await;
}
