//! Requests to a metadata service, and how their answers are read. No clock, no socket: requests
//! come out, answers go in.
//!
//! Only addresses are asked for, never what a user gave the machine: that may be secret, and long.

use std::{collections::VecDeque, net::IpAddr};

use http::header;
use serde::Deserialize;
use ts_http_util::{EmptyBody, HeaderName, HeaderValue, Method, Request, Response, StatusCode};

use super::{machine::Cloud, scope::is_global};

/// Lifetime of a token of AWS: longer than an inquiry takes.
const TOKEN_SECONDS: &str = "120";
/// Most bytes of a session token. They are 56 bytes.
const LONGEST_TOKEN: usize = 1024;
/// Most network interfaces of a machine at AWS that are asked about.
const MOST_INTERFACES: usize = 16;

const AWS_TOKEN: HeaderName = HeaderName::from_static("x-aws-ec2-metadata-token");
const AWS_TOKEN_TTL: HeaderName = HeaderName::from_static("x-aws-ec2-metadata-token-ttl-seconds");
const AWS_INTERFACES: &str = "/latest/meta-data/network/interfaces/macs/";
const FLAVOR: HeaderName = HeaderName::from_static("metadata-flavor");
const FLAVOR_GOOGLE: HeaderValue = HeaderValue::from_static("Google");

/// An answer, whole.
pub(super) type Answer = Response<Vec<u8>>;

/// Error in an answer of a metadata service.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unusable {
    /// The service does not answer this.
    #[error("it answered with status {0}")]
    Status(u16),
    /// It is none of Google's, which sign each answer.
    #[error("it is not Google's: its answers lack the header Metadata-Flavor")]
    Flavor,
    /// The answer is not of the documented form.
    #[error("its answer is not in the documented form")]
    Form,
}

/// All questions to the service of one cloud, one after the other.
pub(super) struct Inquiry {
    cloud: Cloud,
    left: VecDeque<Question>,
    /// A secret; marked as one, so that nothing shows it.
    token: Option<HeaderValue>,
    found: Vec<IpAddr>,
}

enum Question {
    /// The token that AWS wants with all others: IMDSv2.
    Token,
    /// The network interfaces at AWS.
    Interfaces,
    /// A list of addresses.
    Addresses { path: String, read: Read },
}

/// Takes the addresses out of a body, unread; nothing when it is of another form.
type Read = fn(&[u8]) -> Option<Vec<String>>;

impl Inquiry {
    /// The questions for `cloud`:
    ///
    /// - AWS: a token first, then the primary address and those of each interface
    ///   (docs.aws.amazon.com/AWSEC2/latest/UserGuide, "Instance metadata categories").
    /// - Google: all interfaces as JSON (cloud.google.com/compute/docs/metadata).
    /// - Azure: the interfaces know addresses of the basic kind only, the load balancer's metadata
    ///   those of the standard kind, also where there is no load balancer
    ///   (learn.microsoft.com/azure: "Instance Metadata Service", "Retrieve load balancer metadata").
    /// - Oracle: the interfaces, of which only IPv6 addresses are public
    ///   (docs.oracle.com/iaas, "Getting Instance Metadata"; cloud-init's `test_oracle.py`).
    /// - Hetzner: IPv4 (docs.hetzner.cloud, "Server metadata").
    /// - DigitalOcean: the public interface, and reserved addresses
    ///   (docs.digitalocean.com/reference/api/metadata).
    /// - OpenStack: the floating IPv4 address, in the EC2-compatible part
    ///   (docs.openstack.org/nova, "Metadata service").
    pub(super) fn new(cloud: Cloud) -> Self {
        let addresses = |path: &str, read| Question::Addresses {
            path: path.to_owned(),
            read,
        };
        let left = match cloud {
            Cloud::Aws => vec![
                Question::Token,
                addresses("/latest/meta-data/public-ipv4", lines),
                Question::Interfaces,
            ],
            Cloud::Google => vec![addresses(
                "/computeMetadata/v1/instance/network-interfaces/?recursive=true",
                google,
            )],
            Cloud::Azure => vec![
                addresses("/metadata/instance/network?api-version=2021-02-01", azure),
                addresses(
                    "/metadata/loadbalancer?api-version=2020-10-01",
                    azure_load_balancer,
                ),
            ],
            Cloud::Oracle => vec![addresses("/opc/v2/vnics/", oracle)],
            Cloud::Hetzner => vec![addresses("/hetzner/v1/metadata/public-ipv4", lines)],
            Cloud::DigitalOcean => vec![
                addresses("/metadata/v1/interfaces/public/0/ipv4/address", lines),
                addresses("/metadata/v1/interfaces/public/0/ipv6/address", lines),
                addresses("/metadata/v1/reserved_ip/ipv4/ip_address", lines),
                addresses("/metadata/v1/reserved_ip/ipv6/ip_address", lines),
            ],
            Cloud::OpenStack => vec![addresses("/latest/meta-data/public-ipv4", lines)],
        };
        Self {
            cloud,
            left: left.into(),
            token: None,
            found: Vec::new(),
        }
    }

    /// The next request, until [`Inquiry::take`] has its answer; `None` when all are answered. The
    /// header `Host` is the sender's to add.
    pub(super) fn request(&self) -> Option<Request<EmptyBody>> {
        let (method, path) = match self.left.front()? {
            Question::Token => (Method::PUT, "/latest/api/token"),
            Question::Interfaces => (Method::GET, AWS_INTERFACES),
            Question::Addresses { path, .. } => (Method::GET, &**path),
        };
        let value = HeaderValue::from_static;
        let header = match (self.cloud, &self.token) {
            (Cloud::Aws, None) => Some((AWS_TOKEN_TTL, value(TOKEN_SECONDS))),
            (Cloud::Aws, Some(token)) => Some((AWS_TOKEN, token.clone())),
            (Cloud::Google, _) => Some((FLAVOR, FLAVOR_GOOGLE)),
            (Cloud::Azure, _) => Some((HeaderName::from_static("metadata"), value("true"))),
            (Cloud::Oracle, _) => Some((header::AUTHORIZATION, value("Bearer Oracle"))),
            (Cloud::Hetzner | Cloud::DigitalOcean | Cloud::OpenStack, _) => None,
        };
        let mut request = Request::new(EmptyBody::new());
        *request.method_mut() = method;
        *request.uri_mut() = path.parse().expect("paths are valid");
        request.headers_mut().extend(header);
        Some(request)
    }

    /// Takes the answer to the request. What the service does not have (404) is no address.
    ///
    /// # Errors
    /// The answer is of no use, and so is the inquiry.
    pub(super) fn take(&mut self, answer: &Answer) -> Result<(), Unusable> {
        let Some(question) = self.left.pop_front() else {
            return Ok(());
        };
        // On other networks, anything may answer at this address; Google's documentation asks for this
        // check.
        if self.cloud == Cloud::Google && answer.headers().get(FLAVOR) != Some(&FLAVOR_GOOGLE) {
            return Err(Unusable::Flavor);
        }
        let body = answer.body();
        match (answer.status(), question) {
            (StatusCode::OK, Question::Token) => self.token = Some(token(body)?),
            (StatusCode::OK, Question::Interfaces) => self.left.extend(interfaces(body)?),
            (StatusCode::OK, Question::Addresses { read, .. }) => {
                for text in read(body).ok_or(Unusable::Form)? {
                    self.record(&text)?;
                }
            }
            (StatusCode::NOT_FOUND, Question::Addresses { .. }) => {}
            (status, _) => return Err(Unusable::Status(status.as_u16())),
        }
        Ok(())
    }

    /// Addresses of the internet among what was answered, without duplicates.
    pub(super) fn finish(self) -> Vec<IpAddr> {
        self.found
    }

    fn record(&mut self, text: &str) -> Result<(), Unusable> {
        // Services say that there is none by an empty text.
        if text.is_empty() {
            return Ok(());
        }
        let ip: IpAddr = text.parse().map_err(|_| Unusable::Form)?;
        if is_global(ip) && !self.found.contains(&ip) {
            self.found.push(ip);
        }
        Ok(())
    }
}

fn token(body: &[u8]) -> Result<HeaderValue, Unusable> {
    let token = body.trim_ascii();
    if token.is_empty() || token.len() > LONGEST_TOKEN {
        return Err(Unusable::Form);
    }
    let mut token = HeaderValue::from_bytes(token).map_err(|_| Unusable::Form)?;
    token.set_sensitive(true);
    Ok(token)
}

/// Questions about each interface, by its MAC address: `02:29:96:8f:6a:2d/`.
fn interfaces(body: &[u8]) -> Result<Vec<Question>, Unusable> {
    let mut questions = Vec::new();
    let texts = lines(body).ok_or(Unusable::Form)?;
    for text in texts.iter().take(MOST_INTERFACES) {
        let mac = text.strip_suffix('/').unwrap_or(text);
        // It becomes a part of the paths of further requests, and must be nothing else.
        if !is_mac(mac) {
            return Err(Unusable::Form);
        }
        for what in ["public-ipv4s", "ipv6s"] {
            questions.push(Question::Addresses {
                path: format!("{AWS_INTERFACES}{mac}/{what}"),
                read: lines,
            });
        }
    }
    Ok(questions)
}

fn is_mac(text: &str) -> bool {
    let pair = |pair: &str| pair.len() == 2 && pair.bytes().all(|byte| byte.is_ascii_hexdigit());
    text.split(':').count() == 6 && text.split(':').all(pair)
}

/// One on each line.
fn lines(body: &[u8]) -> Option<Vec<String>> {
    let text = std::str::from_utf8(body).ok()?;
    Some(text.lines().map(|line| line.trim().to_owned()).collect())
}

fn google(body: &[u8]) -> Option<Vec<String>> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Interface {
        #[serde(default)]
        access_configs: Vec<AccessConfig>,
        #[serde(default)]
        ipv6s: Vec<String>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct AccessConfig {
        #[serde(default)]
        external_ip: String,
    }
    let interfaces: Vec<Interface> = serde_json::from_slice(body).ok()?;
    let all = interfaces.into_iter().flat_map(|interface| {
        let v4 = interface.access_configs.into_iter();
        v4.map(|config| config.external_ip).chain(interface.ipv6s)
    });
    Some(all.collect())
}

fn azure(body: &[u8]) -> Option<Vec<String>> {
    #[derive(Deserialize)]
    struct Network {
        interface: Vec<Interface>,
    }
    #[derive(Deserialize)]
    struct Interface {
        #[serde(default)]
        ipv4: Addresses,
    }
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    struct Addresses {
        ip_address: Vec<Address>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Address {
        #[serde(default)]
        public_ip_address: String,
    }
    let network: Network = serde_json::from_slice(body).ok()?;
    let interfaces = network.interface.into_iter();
    let all = interfaces.flat_map(|interface| interface.ipv4.ip_address);
    Some(all.map(|address| address.public_ip_address).collect())
}

/// The machine's own addresses. Those in the rules are the load balancer's.
fn azure_load_balancer(body: &[u8]) -> Option<Vec<String>> {
    #[derive(Deserialize)]
    struct Metadata {
        loadbalancer: LoadBalancer,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct LoadBalancer {
        #[serde(default)]
        public_ip_addresses: Vec<Address>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Address {
        #[serde(default)]
        frontend_ip_address: String,
    }
    let metadata: Metadata = serde_json::from_slice(body).ok()?;
    let addresses = metadata.loadbalancer.public_ip_addresses.into_iter();
    Some(addresses.map(|a| a.frontend_ip_address).collect())
}

fn oracle(body: &[u8]) -> Option<Vec<String>> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Vnic {
        #[serde(default)]
        ipv6_addresses: Vec<String>,
    }
    let vnics: Vec<Vnic> = serde_json::from_slice(body).ok()?;
    let all = vnics.into_iter().flat_map(|vnic| vnic.ipv6_addresses);
    Some(all.collect())
}

#[cfg(test)]
mod tests;
