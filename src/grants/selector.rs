//! Selectors of clients, in the syntax of a tailnet policy.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Autogroups that are valid as sources of connections. The others are destinations or SSH users.
const AUTOGROUPS: [&str; 11] = [
    "member",
    "members",
    "tagged",
    "shared",
    "owner",
    "admin",
    "it-admin",
    "network-admin",
    "billing-admin",
    "auditor",
    "danger-all",
];
/// Autogroups of all devices that belong to a user of the tailnet.
const MEMBERS: [&str; 2] = ["autogroup:member", "autogroup:members"];
/// Autogroup of all devices that have a tag.
const TAGGED: &str = "autogroup:tagged";
/// Autogroup of every device, including shared devices of other tailnets.
const DANGER_ALL: &str = "autogroup:danger-all";

const NO_PORT: &str = "clients have no port: write tag:office, not tag:office:22";

/// Entry of `clients`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selector {
    text: String,
    kind: Kind,
}

/// Properties of a device in a network map.
#[derive(Debug, Clone)]
pub struct Device<'a> {
    /// Tags of the device. A device without tags belongs to a user.
    pub tags: &'a [String],
    /// Login name of the user, if the control server has sent it.
    pub login: Option<&'a str>,
    /// Tailnet addresses of the device.
    pub addresses: Vec<IpAddr>,
}

/// Kind of a selector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// All devices of the tailnet.
    Everyone,
    /// Tag of devices: `tag:NAME`.
    Tag,
    /// Group of users: `group:NAME`.
    Group,
    /// Autogroup: `autogroup:NAME`.
    Autogroup,
    /// User: `NAME@DOMAIN`, or all users of a domain: `user:*@DOMAIN`.
    User,
    /// IP set: `ipset:NAME`.
    IpSet,
    /// IP address or network.
    Address(IpNet),
    /// Alias in `hosts` of the policy.
    Host,
}

/// Error of parsing a selector.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' names no clients: {fix}")]
pub struct SelectorError {
    text: String,
    fix: &'static str,
}

impl Selector {
    /// Parses a selector.
    ///
    /// # Errors
    /// The text is not valid as `src` of a grant. The message names the fix.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let kind = kind(text).map_err(|fix| SelectorError {
            text: text.to_owned(),
            fix,
        })?;
        let text = text.to_owned();
        Ok(Self { text, kind })
    }

    /// Returns the entry as written in the spec.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Returns the kind of the selector.
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// Returns whether it selects every device.
    pub fn is_everyone(&self) -> bool {
        match self.kind {
            Kind::Everyone => true,
            Kind::Address(net) => is_everyone(net),
            _ => false,
        }
    }

    /// Returns whether it is a tag.
    pub fn is_tag(&self) -> bool {
        self.kind == Kind::Tag
    }

    /// Returns whether the selected devices belong to users. Such devices have no tags.
    pub fn is_of_users(&self) -> bool {
        match self.kind {
            Kind::Group | Kind::User => true,
            Kind::Autogroup => self.text != TAGGED,
            _ => false,
        }
    }

    /// Returns whether tags of devices do not tell which devices are selected.
    pub fn is_opaque(&self) -> bool {
        matches!(self.kind, Kind::Host | Kind::Address(_) | Kind::IpSet) || self.text == TAGGED
    }

    /// Returns whether tags, user and addresses of a device are sufficient to decide if it is
    /// selected.
    pub fn is_resolvable(&self) -> bool {
        match self.kind {
            Kind::Everyone | Kind::Tag | Kind::User | Kind::Address(_) => true,
            Kind::Autogroup => MEMBERS.contains(&&*self.text) || self.text == TAGGED,
            Kind::Group | Kind::IpSet | Kind::Host => false,
        }
    }

    /// Returns whether a device is selected. It is false if the selector is not
    /// [resolvable](Self::is_resolvable).
    pub fn names(&self, device: &Device<'_>) -> bool {
        // A device with tags belongs to no user, also if a user has registered it.
        let owned = device.tags.is_empty();
        match self.kind {
            Kind::Everyone => true,
            Kind::Tag => device.tags.contains(&self.text),
            Kind::Autogroup if self.text == TAGGED => !owned,
            Kind::Autogroup => owned && MEMBERS.contains(&&*self.text),
            Kind::User => owned && device.login.is_some_and(|login| self.is_user(login)),
            Kind::Address(net) => device.addresses.iter().any(|ip| net.contains(ip)),
            Kind::Group | Kind::IpSet | Kind::Host => false,
        }
    }

    fn is_user(&self, login: &str) -> bool {
        match self.text.strip_prefix("user:*") {
            Some(domain) => {
                let from = login.len().saturating_sub(domain.len());
                login
                    .get(from..)
                    .is_some_and(|end| end.eq_ignore_ascii_case(domain))
            }
            None => login.eq_ignore_ascii_case(&self.text),
        }
    }

    /// Returns whether it is an address that no tailnet device has.
    pub(super) fn is_outside_tailnet(&self) -> bool {
        let Kind::Address(net) = self.kind else {
            return false;
        };
        !tailnet()
            .iter()
            .any(|t| t.contains(&net) || net.contains(t))
    }

    /// Returns whether a policy test may contain it. Tests allow no wildcards, networks, sets and
    /// autogroups.
    pub(super) fn is_testable(&self) -> bool {
        match self.kind {
            Kind::Tag | Kind::Group | Kind::Host => true,
            Kind::User => !self.text.starts_with("user:"),
            Kind::Address(net) => net.prefix_len() == net.max_prefix_len(),
            Kind::Everyone | Kind::Autogroup | Kind::IpSet => false,
        }
    }

    /// Returns the selector as the host of `HOST:PORT`.
    pub(super) fn test_host(&self) -> String {
        match self.kind {
            Kind::Address(IpNet::V6(net)) => format!("[{}]", net.addr()),
            Kind::Address(IpNet::V4(net)) => net.addr().to_string(),
            _ => self.text.clone(),
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Returns whether a network contains all tailnet addresses of its IP family.
pub fn is_everyone(net: IpNet) -> bool {
    tailnet().iter().any(|tailnet| net.contains(tailnet))
}

/// Returns whether a network is a part of the tailnet addresses.
pub fn is_tailnet(net: IpNet) -> bool {
    tailnet().iter().any(|tailnet| tailnet.contains(&net))
}

/// Returns the networks of tailnet addresses.
fn tailnet() -> [IpNet; 2] {
    // `tsaddr.CGNATRange` and `tsaddr.TailscaleULARange`.
    let v4 = Ipv4Net::new(Ipv4Addr::new(100, 64, 0, 0), 10);
    let v6 = Ipv6Net::new(Ipv6Addr::new(0xfd7a, 0x115c, 0xa1e0, 0, 0, 0, 0, 0), 48);
    [
        v4.expect("10 is a prefix length").into(),
        v6.expect("48 is a prefix length").into(),
    ]
}

fn kind(text: &str) -> Result<Kind, &'static str> {
    if text.is_empty() || text.contains(|c: char| c.is_whitespace() || c.is_control() || c == '"') {
        return Err("write one name without spaces and quotes, such as tag:office");
    }
    if text == "*" || text == DANGER_ALL {
        return Ok(Kind::Everyone);
    }
    if let Ok(net) = text.parse::<IpNet>() {
        return Ok(Kind::Address(net));
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(Kind::Address(address.into()));
    }
    if text.parse::<SocketAddr>().is_ok() {
        return Err(NO_PORT);
    }
    if let Some((prefix, name)) = text.split_once(':') {
        return prefixed(prefix, name);
    }
    if let Some((name, domain)) = text.split_once('@') {
        let whole = !name.is_empty() && !domain.is_empty() && !domain.contains('@');
        return whole
            .then_some(Kind::User)
            .ok_or("write a user as name@example.com");
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    match text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.chars().all(plain) {
        true => Ok(Kind::Host),
        false => Err("a host alias has letters, digits, dots and dashes only"),
    }
}

fn prefixed(prefix: &str, name: &str) -> Result<Kind, &'static str> {
    if name.is_empty() || name.contains(':') {
        return Err(NO_PORT);
    }
    match prefix {
        "tag" => {
            let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
            match name.starts_with(|c: char| c.is_ascii_alphabetic()) && name.chars().all(plain) {
                true => Ok(Kind::Tag),
                false => Err("a tag begins with a letter and has letters, digits and dashes only"),
            }
        }
        "group" => Ok(Kind::Group),
        "ipset" => Ok(Kind::IpSet),
        "user" if name.starts_with("*@") => Ok(Kind::User),
        "user" => Err("write a user as name@example.com, or all of a domain as user:*@example.com"),
        "autogroup" if AUTOGROUPS.contains(&name) => Ok(Kind::Autogroup),
        "autogroup" => Err(
            "this autogroup is a destination or does not exist: use autogroup:member or \
             autogroup:tagged",
        ),
        "svc" | "host" => {
            Err("only devices are clients: name a tag, or a host alias without prefix")
        }
        _ => Err(
            "use tag:, group:, autogroup:, ipset:, name@example.com, a host alias, or an \
             address or network of the tailnet",
        ),
    }
}
