//! One request to a metadata service: plain HTTP to a fixed address, without a proxy. Redirects are not
//! followed.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt},
    net::TcpStream,
    time::timeout,
};
use ts_http_util::{
    Client, EmptyBody, HOST, HeaderValue, Http1, Request, Response, ResponseExt, http1,
};

use super::{inquiry::Answer, machine::Cloud};

/// Longest time for a request, from connecting to the end of the answer.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Largest answer, in bytes.
const MAX_ANSWER_LEN: u64 = 64 << 10;
const PORT: u16 = 80;

/// IPv4 address of the service in all of these clouds. It is link-local, so nothing leaves the
/// host.
const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254));
/// IPv6 address of the service in AWS, when the instance asks for that
/// (docs.aws.amazon.com/AWSEC2/latest/UserGuide, "Configure the Instance Metadata Service").
const ADDRESS_AWS: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254));
/// IPv6 address of the service in Oracle Cloud (`IPV6_METADATA_ROOT` of cloud-init's
/// `DataSourceOracle`).
const ADDRESS_ORACLE: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe));

/// Error from asking a metadata service.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The connection to the service failed.
    #[error("it is not reached")]
    Connect(#[source] io::Error),
    /// Nothing in time.
    #[error("it did not answer within {} seconds", TIMEOUT.as_secs())]
    Silent,
    /// The connection broke, or was none of HTTP.
    #[error("it does not speak HTTP")]
    Protocol,
    /// More than such an answer has.
    #[error("its answer is longer than {} bytes", MAX_ANSWER_LEN)]
    TooLarge,
}

/// The addresses of the service of `cloud`, to be tried in this order.
pub(super) fn addresses(cloud: Cloud) -> &'static [IpAddr] {
    match cloud {
        Cloud::Aws => &[ADDRESS, ADDRESS_AWS],
        Cloud::Oracle => &[ADDRESS, ADDRESS_ORACLE],
        Cloud::Google | Cloud::Azure | Cloud::Hetzner | Cloud::DigitalOcean | Cloud::OpenStack => {
            &[ADDRESS]
        }
    }
}

/// Sends `request` to the service at `address`, on a connection of its own.
///
/// # Errors
/// There is no whole answer; each status is one, redirects too.
pub(super) async fn ask(address: IpAddr, request: Request<EmptyBody>) -> Result<Answer, Failure> {
    let exchange = exchange(SocketAddr::new(address, PORT), request);
    timeout(TIMEOUT, exchange)
        .await
        .map_err(|_| Failure::Silent)?
}

async fn exchange(address: SocketAddr, mut request: Request<EmptyBody>) -> Result<Answer, Failure> {
    let host = match address.ip() {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => format!("[{v6}]"),
    };
    let host = HeaderValue::try_from(host).expect("an address is a header value");
    request.headers_mut().insert(HOST, host);
    let stream = TcpStream::connect(address).await;
    let stream = stream.map_err(Failure::Connect)?;
    let http: Http1<EmptyBody> = http1::connect(stream)
        .await
        .map_err(|_| Failure::Protocol)?;
    let response = http.send(request).await.map_err(|_| Failure::Protocol)?;
    let (head, body) = response.into_parts();
    let body = read(Response::new(body).into_read()).await?;
    Ok(Answer::from_parts(head, body))
}

async fn read(body: impl AsyncRead + Unpin) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    // One byte more than allowed, which tells an answer that is too long from one that just fits.
    let mut most = body.take(MAX_ANSWER_LEN + 1);
    let read = most.read_to_end(&mut bytes).await;
    match read.map_err(|_| Failure::Protocol)? as u64 {
        len if len > MAX_ANSWER_LEN => Err(Failure::TooLarge),
        _ => Ok(bytes),
    }
}
