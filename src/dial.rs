//! TCP and TLS connections to servers of a tailnet: control, DERP and the API. They trust the public
//! roots, those of the system and those of a file, and use the HTTP proxy of the environment.

mod proxy;

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, InvalidDnsNameError, ServerName, pem::PemObject},
};
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use url::Url;

pub use self::proxy::InvalidProxy;
use self::proxy::Proxy;

/// Longest time for a TCP connection and a TLS handshake together.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);

/// Silence after which TCP sends its first keepalive probe, the time between two probes, and the
/// number of probes without an answer that end the connection.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(15);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_RETRIES: u32 = 3;
/// Time after which sent bytes without an acknowledgement end the connection.
#[cfg(target_os = "linux")]
const UNACKNOWLEDGED: Duration = Duration::from_secs(30);

/// A byte stream, encrypted or not.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A [`Stream`] of any kind.
pub(crate) type BoxStream = Box<dyn Stream>;

/// Error from opening a connection.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The file with certificate authorities cannot be used.
    #[error("failed to read certificate authorities from {path}: it must be a PEM file")]
    CaFile {
        /// File with certificate authorities.
        path: PathBuf,
        /// Error of the PEM reader.
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    /// The text with certificate authorities cannot be used.
    #[error("failed to read certificate authorities: they must be PEM (tailnet.caBundle)")]
    CaBundle(#[source] rustls::pki_types::pem::Error),
    /// The proxy of the environment cannot be used.
    #[error(transparent)]
    Proxy(#[from] InvalidProxy),
    /// The name could not be resolved, or TCP could not connect.
    #[error("failed to connect to {host}:{port}")]
    Tcp {
        /// Host that was dialed.
        host: String,
        /// TCP port that was dialed.
        port: u16,
        /// Error of the system.
        #[source]
        source: io::Error,
    },
    /// The certificate is not trusted.
    #[error(
        "failed to trust the certificate of {host}: if a private authority signed it, name that \
         authority with --ca-file (tailnet.caBundle in a PeerRelay)"
    )]
    Untrusted {
        /// Host that was dialed.
        host: String,
        /// Error of the TLS handshake.
        #[source]
        source: io::Error,
    },
    /// The host is neither a DNS name nor an address.
    #[error("failed to use {host} as a TLS server name")]
    ServerName {
        /// Host that was dialed.
        host: String,
        /// Error of the parser of names.
        #[source]
        source: InvalidDnsNameError,
    },
}

/// Opens connections, those with TLS through the proxy that the environment names.
#[derive(Clone)]
pub struct Dialer {
    tls: Arc<ClientConfig>,
    proxy: Option<Arc<Proxy>>,
}

impl Dialer {
    /// Makes a dialer that trusts the public roots, those of the system and those in `ca_file`.
    ///
    /// # Errors
    /// `ca_file` cannot be read or is no PEM file, or `HTTPS_PROXY` is no proxy.
    pub fn new(ca_file: Option<&Path>) -> Result<Self, DialError> {
        let mut own = Vec::new();
        if let Some(path) = ca_file {
            let fail = |source| DialError::CaFile {
                path: path.to_owned(),
                source,
            };
            let certificates = CertificateDer::pem_file_iter(path).map_err(fail)?;
            own = certificates.collect::<Result<_, _>>().map_err(fail)?;
        }
        Self::trusting(own)
    }

    /// Makes a dialer that trusts the public roots, those of the system and those in `pem`.
    ///
    /// # Errors
    /// `pem` is not PEM, or `HTTPS_PROXY` is no proxy.
    pub fn with_authorities(pem: Option<&str>) -> Result<Self, DialError> {
        let pem = pem.unwrap_or_default().as_bytes();
        let own = CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>();
        Self::trusting(own.map_err(DialError::CaBundle)?)
    }

    fn trusting(own: Vec<CertificateDer<'_>>) -> Result<Self, DialError> {
        let mut roots = RootCertStore {
            roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
        };
        // Certificates of the system that cannot be parsed are left out: the public roots suffice.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        roots.add_parsable_certificates(own);
        let mut tls = ClientConfig::builder()
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self {
            tls: Arc::new(tls),
            proxy: Proxy::from_environment()?.map(Arc::new),
        })
    }

    /// Opens a connection to the server of an `http` or `https` URL. Only `https` uses the proxy.
    pub(crate) async fn open(&self, url: &Url) -> Result<BoxStream, DialError> {
        let host = url.host_str().unwrap_or_default();
        let port = url.port_or_known_default().unwrap_or(443);
        match url.scheme() {
            "http" => Ok(Box::new(self.tcp(host, port).await?)),
            _ => self.tls(host, &[], port).await,
        }
    }

    /// Opens a TCP connection to `host`.
    async fn tcp(&self, host: &str, port: u16) -> Result<TcpStream, DialError> {
        let connect = async {
            let stream = TcpStream::connect((host.trim_matches(['[', ']']), port)).await?;
            configure(&stream)?;
            Ok(stream)
        };
        timed(connect).await.map_err(|source| DialError::Tcp {
            host: host.into(),
            port,
            source,
        })
    }

    /// Opens a TLS connection to `host`, at one of `addresses` if there are any.
    pub(crate) async fn tls(
        &self,
        host: &str,
        addresses: &[SocketAddr],
        port: u16,
    ) -> Result<BoxStream, DialError> {
        let host = host.trim_matches(['[', ']']);
        let name =
            ServerName::try_from(host.to_owned()).map_err(|source| DialError::ServerName {
                host: host.into(),
                source,
            })?;
        let stream = self.direct_or_proxied(host, addresses, port).await?;
        let stream = timed(TlsConnector::from(self.tls.clone()).connect(name, stream)).await;
        match stream {
            Ok(stream) => Ok(Box::new(stream)),
            Err(source) if is_certificate_error(&source) => Err(DialError::Untrusted {
                host: host.into(),
                source,
            }),
            Err(source) => Err(DialError::Tcp {
                host: host.into(),
                port,
                source,
            }),
        }
    }

    /// Opens a TCP connection to `host`: through the proxy if it is for this host, at one of
    /// `addresses`, or at the addresses of the name. The proxy resolves the name itself, as it may
    /// be the only one that can.
    pub(crate) async fn direct_or_proxied(
        &self,
        host: &str,
        addresses: &[SocketAddr],
        port: u16,
    ) -> Result<TcpStream, DialError> {
        let proxy = self.proxy.as_ref().filter(|proxy| proxy.is_for(host));
        let stream = match (proxy, addresses) {
            (Some(proxy), _) => {
                timed(async {
                    let stream = proxy.open(host, port).await?;
                    configure(&stream)?;
                    Ok(stream)
                })
                .await
            }
            (None, []) => return self.tcp(host, port).await,
            (None, addresses) => timed(connect(addresses)).await,
        };
        stream.map_err(|source| DialError::Tcp {
            host: host.into(),
            port,
            source,
        })
    }
}

async fn connect(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(addresses).await?;
    configure(&stream)?;
    Ok(stream)
}

/// Sets options with which a dead connection is noticed even if there is nothing to send.
fn configure(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_RETRIES);
    let socket = SockRef::from(stream);
    socket.set_tcp_keepalive(&keepalive)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED))?;
    Ok(())
}

async fn timed<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(DIAL_TIMEOUT, work)
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

fn is_certificate_error(error: &io::Error) -> bool {
    let inner = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(inner, Some(rustls::Error::InvalidCertificate(_)))
}
