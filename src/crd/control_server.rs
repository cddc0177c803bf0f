//! Control server that a PeerRelay names.

use url::Url;

/// Number of relays that every plan of tailscale.com allows.
const HOSTED_ALLOWANCE: u16 = 2;
/// Hosts of the control server of tailscale.com.
const HOSTED: [&str; 2] = ["controlplane.tailscale.com", "login.tailscale.com"];

/// Control server, independent of the form of its URL.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum ControlServer {
    /// Control server of tailscale.com.
    Hosted,
    /// Other control server, identified by its origin.
    Own(String),
}

impl ControlServer {
    /// The control server with a URL. It is the one of tailscale.com if there is no URL.
    pub fn of(url: Option<&str>) -> Self {
        let Some(text) = url else {
            return Self::Hosted;
        };
        let Ok(url) = Url::parse(text) else {
            // An invalid URL is reported as an invalid spec. It equals only itself.
            return Self::Own(text.to_owned());
        };
        let host = url.host_str().unwrap_or_default().trim_end_matches('.');
        match HOSTED.contains(&host) {
            true => Self::Hosted,
            false => Self::Own(url.origin().ascii_serialization()),
        }
    }

    /// Returns the number of relays that it allows on every plan. Servers other than that of
    /// tailscale.com document none.
    pub fn allowance(&self) -> Option<u16> {
        (*self == Self::Hosted).then_some(HOSTED_ALLOWANCE)
    }
}
