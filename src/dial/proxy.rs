//! The HTTP proxy of the environment, and the hosts that are reached without it.

use std::{env, io, net::IpAddr};

use base64::{Engine, engine::general_purpose::STANDARD};
use ipnet::IpNet;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use url::Url;

/// Longest answer of a proxy, in bytes.
const LONGEST_ANSWER: usize = 8 * 1024;

/// A proxy that opens TCP connections for others (`CONNECT`), with the hosts it is not used for.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Proxy {
    host: String,
    port: u16,
    /// The credentials of the URL, encoded for `Proxy-Authorization`.
    authorization: Option<String>,
    except: Vec<Exception>,
}

/// Hosts that are reached without the proxy.
#[derive(Clone, PartialEq, Eq)]
struct Exception {
    hosts: Hosts,
    /// The only port of the hosts to which the exception applies. `None` if it applies to all.
    port: Option<u16>,
}

#[derive(Clone, PartialEq, Eq)]
enum Hosts {
    Everything,
    Network(IpNet),
    /// All names below this one.
    Below(String),
    /// This name and all names below it.
    Domain(String),
}

/// The reason for which a proxy cannot be used. The URL is not repeated, as it may have a password.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0} is not the URL of an HTTP proxy: write it as http://proxy.example.net:3128")]
pub struct InvalidProxy(&'static str);

impl Proxy {
    /// Reads the proxy of `HTTPS_PROXY`, or else of `ALL_PROXY`, with the exceptions of `NO_PROXY`. Each may
    /// be in lower case.
    ///
    /// # Errors
    /// The variable is no such URL.
    pub(crate) fn from_environment() -> Result<Option<Self>, InvalidProxy> {
        Self::from_variables(|name| env::var(name).ok())
    }

    fn from_variables(
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Self>, InvalidProxy> {
        let given = |name: &'static str| {
            let found = variable(name).or_else(|| variable(&name.to_lowercase()));
            found.filter(|value| !value.trim().is_empty())
        };
        let except = given("NO_PROXY").unwrap_or_default();
        for name in ["HTTPS_PROXY", "ALL_PROXY"] {
            if let Some(url) = given(name) {
                let proxy = Self::parse(url.trim(), &except);
                return proxy.map(Some).ok_or(InvalidProxy(name));
            }
        }
        Ok(None)
    }

    /// Returns the proxy with this URL, or `None` if it is no URL of an HTTP proxy.
    fn parse(url: &str, except: &str) -> Option<Self> {
        let whole = match url.contains("://") {
            true => url.to_owned(),
            // A proxy is often written without a scheme, which curl and Go read as `http` too.
            false => format!("http://{url}"),
        };
        let url = Url::parse(&whole).ok()?;
        if url.scheme() != "http" || url.path() != "/" || url.query().is_some() {
            return None;
        }
        let credentials = format!(
            "{}:{}",
            decoded(url.username()),
            decoded(url.password().unwrap_or_default())
        );
        Some(Self {
            host: url.host_str()?.trim_matches(['[', ']']).to_owned(),
            port: url.port_or_known_default()?,
            authorization: (credentials != ":").then(|| STANDARD.encode(credentials)),
            except: except.split(',').filter_map(Exception::parse).collect(),
        })
    }

    /// Returns whether connections to this port of `host` go through the proxy. Those to the own host
    /// never do.
    pub(crate) fn is_for(&self, host: &str, port: u16) -> bool {
        let host = host.trim_matches(['[', ']']).to_ascii_lowercase();
        let address: Option<IpAddr> = host.parse().ok();
        // As in Go (golang.org/x/net/http/httpproxy), so that the same variables mean the same to
        // Tailscale's programs.
        let own = host == "localhost" || address.is_some_and(|address| address.is_loopback());
        !own && !self
            .except
            .iter()
            .any(|except| except.covers(&host, address, port))
    }

    /// Opens a connection to `host` through the proxy.
    ///
    /// # Errors
    /// The proxy cannot be reached or refuses.
    pub(crate) async fn open(&self, host: &str, port: u16) -> io::Result<TcpStream> {
        let mut stream = super::connect(&self.host, &[], self.port).await?;
        let target = match host.parse::<IpAddr>() {
            Ok(IpAddr::V6(address)) => format!("[{address}]:{port}"),
            _ => format!("{host}:{port}"),
        };
        let mut request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n");
        if let Some(credentials) = &self.authorization {
            request += &format!("Proxy-Authorization: Basic {credentials}\r\n");
        }
        request += "\r\n";
        stream.write_all(request.as_bytes()).await?;
        let answer = answer(&mut stream).await?;
        let status = answer.lines().next().unwrap_or_default();
        match status.split(' ').nth(1) {
            // Each status of success opens the tunnel, not only 200 (RFC 9110, section 9.3.6).
            Some(code) if code.len() == 3 && code.starts_with('2') => Ok(stream),
            _ => {
                // The text comes from the network, and becomes a part of logs and of the status.
                let said: String = status
                    .chars()
                    .filter(|c| !c.is_control())
                    .take(100)
                    .collect();
                Err(io::Error::other(format!("the proxy refused: {said}")))
            }
        }
    }
}

/// Reads the head of the answer. It reads single bytes, as the bytes after the head belong to the
/// connection.
async fn answer(stream: &mut TcpStream) -> io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() == LONGEST_ANSWER {
            return Err(io::Error::other("the proxy's answer does not end"));
        }
        head.push(stream.read_u8().await?);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

impl Exception {
    /// Returns an exception of `NO_PROXY`, or `None` if the text is none.
    fn parse(text: &str) -> Option<Self> {
        let text = text.trim().to_ascii_lowercase();
        let everywhere = |hosts| Self { hosts, port: None };
        // An IPv6 address has colons of its own, so a port after it needs brackets.
        if let Some(hosts) = Hosts::numeric(&text) {
            return Some(everywhere(hosts));
        }
        match text.rsplit_once(':') {
            None => Hosts::parse(&text).map(everywhere),
            Some((host, "")) => Hosts::parse(host).map(everywhere),
            Some((host, port)) => Some(Self {
                hosts: Hosts::parse(host)?,
                port: Some(port.parse().ok()?),
            }),
        }
    }

    fn covers(&self, host: &str, address: Option<IpAddr>, port: u16) -> bool {
        self.port.is_none_or(|only| only == port) && self.hosts.contain(host, address)
    }
}

impl Hosts {
    fn parse(text: &str) -> Option<Self> {
        if text == "*" {
            return Some(Self::Everything);
        }
        if let Some(hosts) = Self::numeric(text) {
            return Some(hosts);
        }
        let name = text.strip_prefix('*').unwrap_or(text);
        let (below, name) = match name.strip_prefix('.') {
            Some(name) => (true, name),
            None => (false, name),
        };
        match name {
            "" => None,
            name if below => Some(Self::Below(name.to_owned())),
            name => Some(Self::Domain(name.to_owned())),
        }
    }

    /// Returns the hosts of an address, with or without brackets, or of a network.
    fn numeric(text: &str) -> Option<Self> {
        let address = text.trim_matches(['[', ']']).parse::<IpAddr>();
        let network = address.map(IpNet::from).or_else(|_| text.parse());
        network.ok().map(Self::Network)
    }

    fn contain(&self, host: &str, address: Option<IpAddr>) -> bool {
        let below = |name: &str| host.strip_suffix(name)?.strip_suffix('.');
        match self {
            Self::Everything => true,
            Self::Network(network) => address.is_some_and(|address| network.contains(&address)),
            Self::Below(name) => below(name).is_some(),
            Self::Domain(name) => host == name || below(name).is_some(),
        }
    }
}

/// Decodes percent-encoded text of a URL.
fn decoded(text: &str) -> String {
    // A plus sign means a space in forms, but not in the user part of a URL.
    let pairs = url::form_urlencoded::parse(text.replace('+', "%2B").as_bytes())
        .map(|(key, _)| key.into_owned())
        .next();
    pairs.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn hosts_of_no_proxy_are_reached_directly() {
        let except = "example.com, .internal,*.corp.test,10.0.0.0/8,2001:db8::1,relay.test:8443,\
                      192.0.2.9:80,[2001:db8::9]:80,open.test:,odd.test:x,:7,.";
        let proxy = Proxy::parse("http://proxy.test:3128", except).unwrap();
        for (host, port) in [
            ("controlplane.tailscale.com", 443),
            ("notexample.com", 443),
            ("internal", 443),
            ("corp.test", 443),
            ("192.0.2.1", 443),
            ("[2001:db8::2]", 443),
            ("relay.test", 443),
            ("a.relay.test", 443),
            ("192.0.2.9", 443),
            ("[2001:db8::9]", 443),
            ("odd.test", 443),
        ] {
            assert!(proxy.is_for(host, port), "{host}:{port}");
        }
        for (host, port) in [
            ("example.com", 443),
            ("a.Example.com", 443),
            ("b.internal", 443),
            ("c.corp.test", 443),
            ("10.9.9.9", 443),
            ("[2001:db8::1]", 443),
            ("relay.test", 8443),
            ("a.relay.test", 8443),
            ("192.0.2.9", 80),
            ("[2001:db8::9]", 80),
            ("open.test", 443),
            ("localhost", 443),
            ("127.0.0.1", 443),
            ("::1", 443),
        ] {
            assert!(!proxy.is_for(host, port), "{host}:{port}");
        }
        let none = Proxy::parse("proxy.test:3128", "*").unwrap();
        assert!(!none.is_for("controlplane.tailscale.com", 443));
    }

    #[test]
    fn the_proxy_for_tls_is_used_before_the_one_for_everything() {
        let host = |variables: &[(&str, &str)]| {
            let read = |name: &str| {
                let found = variables.iter().find(|(set, _)| *set == name);
                found.map(|(_, value)| (*value).to_owned())
            };
            let proxy = Proxy::from_variables(read).unwrap();
            proxy.map(|proxy| (proxy.host.clone(), proxy.is_for("inner.test", 443)))
        };
        assert_eq!(host(&[]), None);
        assert_eq!(host(&[("HTTP_PROXY", "http://plain")]), None);
        assert_eq!(host(&[("HTTPS_PROXY", " ")]), None);
        let all = ("ALL_PROXY", "http://all");
        assert_eq!(host(&[all]), Some(("all".into(), true)));
        let tls = ("https_proxy", "http://tls");
        let except = ("no_proxy", "inner.test");
        assert_eq!(host(&[all, tls, except]), Some(("tls".into(), false)));
    }

    #[test]
    fn what_is_no_http_proxy_is_refused_without_its_password() {
        for wrong in [
            "socks5://u:secret@p:1",
            "http://p/path",
            "http://",
            "http://p:0x",
            "https://p",
        ] {
            for variable in ["HTTPS_PROXY", "all_proxy"] {
                let read = |name: &str| (name == variable).then(|| wrong.to_owned());
                let error = Proxy::from_variables(read).err().unwrap().to_string();
                assert!(!error.contains("secret"), "{error}");
                assert!(error.starts_with(&variable.to_uppercase()), "{error}");
            }
        }
        let open = Proxy::parse("http://p:8080", "").unwrap();
        assert_eq!(
            (&*open.host, open.port, open.authorization),
            ("p", 8080, None)
        );
        let closed = Proxy::parse("http://Aladdin:open%20sesame@p", "").unwrap();
        // The example of RFC 7617.
        assert_eq!(
            closed.authorization.unwrap(),
            "QWxhZGRpbjpvcGVuIHNlc2FtZQ=="
        );
        assert_eq!(closed.port, 80);
    }

    #[tokio::test]
    async fn a_proxy_is_asked_to_connect_and_its_refusal_is_told() {
        for (answer, wanted) in [
            ("HTTP/1.1 200 Connection established\r\n\r\nhello", None),
            (
                "HTTP/1.1 407 Proxy Authentication Required\r\n\r\n",
                Some("407 Proxy"),
            ),
            ("nonsense\r\n\r\n", Some("refused: nonsense")),
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("http://user:pass@{}", listener.local_addr().unwrap());
            let proxy = Proxy::parse(&url, "").unwrap();
            let served = tokio::spawn(async move {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.unwrap());
                }
                stream.write_all(answer.as_bytes()).await.unwrap();
                String::from_utf8(head).unwrap()
            });
            let opened = proxy.open("control.test", 443).await;
            let asked = served.await.unwrap();
            assert!(
                asked.starts_with("CONNECT control.test:443 HTTP/1.1\r\n"),
                "{asked}"
            );
            assert!(
                asked.contains("Proxy-Authorization: Basic dXNlcjpwYXNz\r\n"),
                "{asked}"
            );
            match wanted {
                None => {
                    let mut hello = [0; 5];
                    opened.unwrap().read_exact(&mut hello).await.unwrap();
                    assert_eq!(
                        &hello, b"hello",
                        "what follows the answer is the connection's"
                    );
                }
                Some(words) => {
                    let error = opened.err().unwrap().to_string();
                    assert!(error.contains(words), "{error}");
                }
            }
        }
    }
}
