//! TCP and TLS connections to servers of a tailnet: control, DERP and the API. They trust the public
//! roots, those of the system and those of a file, and use the HTTP proxy of the environment.

mod certificate;
mod proxy;
#[cfg(test)]
mod tests;

use std::{
    convert::Infallible,
    error::Error,
    future::ready,
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use http::Uri;
use hyper_util::{
    client::legacy::connect::{HttpConnector, dns::Name},
    rt::TokioIo,
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{
        CertificateDer, InvalidDnsNameError, ServerName,
        pem::{self, PemObject},
    },
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, lookup_host},
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tower::{Service, service_fn};
use url::Url;

pub use self::certificate::ExpectedCertificate;
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
// Linux sends no keepalive probe while sent bytes are unacknowledged, and retransmits for about 15 minutes
// (`tcp_retries2`). It also ends an idle connection by this time in place of the number of probes
// (`tcp_keepalive_timer`), so it equals idle time and probes together.
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
    #[error(
        "failed to read certificate authorities from {path}: give a PEM file, with blocks that \
         begin with -----BEGIN CERTIFICATE-----"
    )]
    CaFile {
        /// File with certificate authorities.
        path: PathBuf,
        /// Error of the PEM reader.
        #[source]
        source: pem::Error,
    },
    /// The text with certificate authorities cannot be used.
    #[error("failed to read certificate authorities: they must be PEM (tailnet.caBundle)")]
    CaBundle(#[source] pem::Error),
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
    roots: Arc<RootCertStore>,
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
            if own.is_empty() {
                return Err(fail(pem::Error::NoItemsFound));
            }
        }
        Self::trusting(own)
    }

    /// Makes a dialer that trusts the public roots, those of the system and those in `authorities`.
    ///
    /// # Errors
    /// `authorities` is not PEM with certificates, or `HTTPS_PROXY` is no proxy.
    pub fn with_authorities(authorities: Option<&str>) -> Result<Self, DialError> {
        let text = authorities.unwrap_or_default().as_bytes();
        let own = CertificateDer::pem_slice_iter(text).collect::<Result<Vec<_>, _>>();
        let own = own.map_err(DialError::CaBundle)?;
        if authorities.is_some() && own.is_empty() {
            return Err(DialError::CaBundle(pem::Error::NoItemsFound));
        }
        Self::trusting(own)
    }

    fn trusting(own: Vec<CertificateDer<'_>>) -> Result<Self, DialError> {
        let mut roots = RootCertStore {
            roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
        };
        // Certificates of the system that cannot be parsed are left out: the public roots suffice.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        roots.add_parsable_certificates(own);
        let roots = Arc::new(roots);
        Ok(Self {
            tls: tls_config(&ExpectedCertificate::OfHost, &roots)?,
            roots,
            proxy: Proxy::from_environment()?.map(Arc::new),
        })
    }

    /// Opens a connection to the server of an `http` or `https` URL. Only `https` uses the proxy.
    pub(crate) async fn open(&self, url: &Url) -> Result<BoxStream, DialError> {
        let host = url.host_str().unwrap_or_default();
        let port = url.port_or_known_default().unwrap_or(443);
        match url.scheme() {
            "http" => Ok(Box::new(self.tcp(host, port).await?)),
            _ => {
                self.tls(host, &ExpectedCertificate::OfHost, &[], port)
                    .await
            }
        }
    }

    /// Opens a TCP connection to `host`, without the proxy.
    async fn tcp(&self, host: &str, port: u16) -> Result<TcpStream, DialError> {
        let stream = timed(connect(host, &[], port)).await;
        stream.map_err(|source| DialError::Tcp {
            host: host.into(),
            port,
            source,
        })
    }

    /// Opens a TLS connection to `host`, at one of `addresses` if there are any. It must show the
    /// certificate `expected`.
    pub(crate) async fn tls(
        &self,
        host: &str,
        expected: &ExpectedCertificate,
        addresses: &[SocketAddr],
        port: u16,
    ) -> Result<BoxStream, DialError> {
        // The host of a URL has the brackets of an IPv6 address, and a TLS server name must not have them.
        let host = host.trim_matches(['[', ']']);
        let name = server_name(host)?;
        let config = match expected {
            ExpectedCertificate::OfHost => self.tls.clone(),
            other => tls_config(other, &self.roots)?,
        };
        let stream = self.direct_or_proxied(host, addresses, port).await?;
        let stream = timed(TlsConnector::from(config).connect(name, stream)).await;
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
        let proxy = self.proxy.as_ref().filter(|proxy| proxy.is_for(host, port));
        let stream = match proxy {
            Some(proxy) => timed(proxy.open(host, port)).await,
            None => timed(connect(host, addresses, port)).await,
        };
        stream.map_err(|source| DialError::Tcp {
            host: host.into(),
            port,
            source,
        })
    }
}

fn tls_config(
    expected: &ExpectedCertificate,
    roots: &Arc<RootCertStore>,
) -> Result<Arc<ClientConfig>, DialError> {
    let mut config = expected.config(roots)?;
    // Control and DERP replace HTTP by `Upgrade`, which HTTP/2 does not have (RFC 9113, section 8.6).
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn server_name(host: &str) -> Result<ServerName<'static>, DialError> {
    ServerName::try_from(host.to_owned()).map_err(|source| DialError::ServerName {
        host: host.into(),
        source,
    })
}

/// Connects to the first of `addresses` that answers, or of those that `host` has. An IP version that
/// does not answer delays the connection by a fraction of a second (Happy Eyeballs, RFC 8305).
async fn connect(host: &str, addresses: &[SocketAddr], port: u16) -> io::Result<TcpStream> {
    let mut addresses = addresses.to_vec();
    if addresses.is_empty() {
        addresses.extend(lookup_host((host.trim_matches(['[', ']']), port)).await?);
    }
    let resolved = move |_: Name| ready(Ok::<_, Infallible>(addresses.clone().into_iter()));
    let mut connector = HttpConnector::new_with_resolver(service_fn(resolved));
    // Each address gets its part of this time.
    connector.set_connect_timeout(Some(DIAL_TIMEOUT));
    connector.set_nodelay(true);
    // A dead connection is noticed even if there is nothing to send.
    connector.set_keepalive(Some(KEEPALIVE_IDLE));
    connector.set_keepalive_interval(Some(KEEPALIVE_INTERVAL));
    connector.set_keepalive_retries(Some(KEEPALIVE_RETRIES));
    #[cfg(target_os = "linux")]
    connector.set_tcp_user_timeout(Some(UNACKNOWLEDGED));
    // The name is never resolved; a port that the URI names applies to all addresses.
    let uri = Uri::try_from(format!("http://resolved:{port}")).map_err(io::Error::other)?;
    let stream = connector.call(uri).await.map_err(system_error)?;
    Ok(TokioIo::into_inner(stream))
}

/// Returns the error of the system in an error of the connector, which does not print it.
fn system_error(error: impl Error + Send + Sync + 'static) -> io::Error {
    let system = error.source().and_then(|source| source.downcast_ref());
    match system {
        Some(system) => io::Error::new(io::Error::kind(system), system.to_string()),
        None => io::Error::other(error),
    }
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
