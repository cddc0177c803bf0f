//! The relay as a device of the tailnet: registration, network map, DERP.

mod control;
mod derp;
mod dial;
mod identity;
mod netmap;
mod wire;

use std::{
    convert::Infallible,
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use jiff::Timestamp;
use rand::Rng;
use tokio::{
    io::AsyncRead,
    sync::watch,
    time::{Instant, sleep},
};
use url::Url;

pub use self::{
    control::ControlError,
    dial::{DialError, Dialer},
    identity::{Identity, IdentityError},
};
use self::{
    control::{Control, MapStream},
    derp::Derp,
    netmap::Netmap,
    wire::{DerpMap, Hostinfo, MapResponse, NetInfo, Node, RegisterResponse},
};
use super::{
    sessions::Directory,
    shard::ShardHandle,
    state::{Problem, Reason, RelayState, TailnetIdentity},
};

/// How often a missing or refused auth key is looked for again.
const KEY_POLL: Duration = Duration::from_secs(2);
/// A refused auth key is tried again after this long, unchanged: it may have been allowed by now.
const KEY_RETRY: Duration = Duration::from_secs(60);
/// Longest wait before the time of the key's end is compared with the clock again.
const EXPIRY_CHECK: Duration = Duration::from_secs(60);
/// First and longest wait between attempts.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// Where the auth key comes from.
#[derive(Clone)]
pub enum AuthKey {
    /// There is none: the device must be known to control, or control must let everyone in.
    None,
    /// A file, read again while control refuses the key.
    File(PathBuf),
    /// The environment.
    Value(String),
}

impl AuthKey {
    fn read(&self) -> Option<String> {
        let text = match self {
            Self::None => return None,
            Self::File(path) => std::fs::read_to_string(path).ok()?,
            Self::Value(value) => value.clone(),
        };
        Some(text.trim().to_owned()).filter(|text| !text.is_empty())
    }

    fn missing(&self) -> Problem {
        let message = match self {
            Self::File(path) => format!(
                "auth key file {} is missing or empty: create it (in Kubernetes, the Secret that \
                 tailnet.authKey names, with the key 'authkey'); it is used as soon as it is there",
                path.display()
            ),
            _ => "no auth key: give one with --auth-key-file or PEERRELAY_AUTH_KEY".into(),
        };
        Problem::new(Reason::AuthKeyMissing, message)
    }
}

/// How to join.
#[derive(Clone)]
pub struct TailnetConfig {
    /// Control server.
    pub control_url: Url,
    /// What lets the device in.
    pub auth_key: AuthKey,
    /// Name of the device.
    pub hostname: String,
    /// Tags to ask for.
    pub tags: Vec<String>,
    /// Whether control forgets the device when it is offline.
    pub ephemeral: bool,
}

/// Keeps the device in the tailnet.
pub struct Tailnet {
    config: TailnetConfig,
    identity: Identity,
    dialer: Dialer,
    shard: ShardHandle,
    state: watch::Sender<RelayState>,
    netmap: Arc<RwLock<Netmap>>,
    derp_map: watch::Sender<Arc<DerpMap>>,
}

/// Why an attempt ended.
enum Failure {
    /// Control cannot be used; try again.
    Control(ControlError),
    /// Control refuses this device with this key.
    Refused {
        key: Option<String>,
        problem: Problem,
    },
}

impl From<ControlError> for Failure {
    fn from(error: ControlError) -> Self {
        Self::Control(error)
    }
}

impl Tailnet {
    /// A device that has not joined yet. What it learns goes to `state`.
    pub fn new(
        config: TailnetConfig,
        identity: Identity,
        dialer: Dialer,
        shard: ShardHandle,
        state: watch::Sender<RelayState>,
    ) -> Self {
        let (derp_map, _) = watch::channel(Arc::default());
        Self {
            config,
            identity,
            dialer,
            shard,
            state,
            netmap: Arc::default(),
            derp_map,
        }
    }

    /// Names of clients, for those who ask on the node itself.
    pub fn directory(&self) -> Directory {
        let netmap = self.netmap.clone();
        Arc::new(move || {
            netmap
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .names()
        })
    }

    /// Joins, and stays joined for as long as it is polled. What has been learnt outlives a lost
    /// connection: sessions flow and requests are answered by the last known policy.
    pub async fn run(self) {
        let (home, home_changes) = watch::channel(0);
        let derp = Derp {
            dialer: self.dialer.clone(),
            node: self.identity.node.clone(),
            netmap: self.netmap.clone(),
            map: self.derp_map.subscribe(),
            shard: self.shard.clone(),
            state: self.state.clone(),
            home,
        };
        tokio::join!(derp.run(), self.stay_joined(home_changes));
    }

    async fn stay_joined(&self, mut home: watch::Receiver<u32>) {
        let mut backoff = Backoff::default();
        loop {
            let Err(failure) = self.join(&mut home).await;
            if self.state.borrow().map_received {
                backoff.reset();
            }
            let problem = match &failure {
                Failure::Control(error) => control_problem(error, &self.config.control_url),
                Failure::Refused { problem, .. } => problem.clone(),
            };
            self.report(problem);
            match failure {
                Failure::Control(_) => sleep(backoff.next()).await,
                Failure::Refused { key, .. } => self.wait_for_other_key(key.as_deref()).await,
            }
        }
    }

    /// Connects, registers and follows the map until something breaks.
    async fn join(&self, home: &mut watch::Receiver<u32>) -> Result<Infallible, Failure> {
        let control =
            Control::connect(&self.dialer, &self.config.control_url, &self.identity).await?;
        self.register(&control).await?;
        let region = *home.borrow_and_update();
        control.update(&self.hostinfo(region)).await?;
        let maps = control.maps(&self.hostinfo(region)).await?;
        let failed = tokio::select! {
            failed = self.follow(maps) => failed,
            failed = self.tell(&control, home) => failed,
            never = self.watch_expiry() => match never {},
        };
        Err(failed)
    }

    async fn register(&self, control: &Control<'_>) -> Result<(), Failure> {
        let hostinfo = self.hostinfo(0);
        let register = |key| control.register(key, &hostinfo, self.config.ephemeral);
        // A known device needs no key, and a key that may be used once is gone by now.
        if self.identity.is_registered() && refusal(&register(None).await?).is_none() {
            return Ok(());
        }
        let key = self.config.auth_key.read();
        if key.is_none() && !matches!(self.config.auth_key, AuthKey::None) {
            return Err(Failure::Refused {
                key,
                problem: self.config.auth_key.missing(),
            });
        }
        let response = register(key.as_deref()).await?;
        match refusal(&response) {
            Some(problem) if key.is_none() && problem.reason == Reason::AuthKeyInvalid => {
                Err(Failure::Refused {
                    key,
                    problem: self.config.auth_key.missing(),
                })
            }
            Some(problem) => Err(Failure::Refused { key, problem }),
            None => {
                self.identity.mark_registered();
                tracing::info!(control = %self.config.control_url, "registered with control");
                Ok(())
            }
        }
    }

    /// Applies network maps until the stream ends.
    async fn follow<R: AsyncRead + Unpin>(&self, mut maps: MapStream<R>) -> Failure {
        loop {
            match maps.next().await {
                Ok(message) => self.learn(message),
                Err(error) => return error.into(),
            }
        }
    }

    /// Tells control whenever the home region changes.
    async fn tell(&self, control: &Control<'_>, home: &mut watch::Receiver<u32>) -> Failure {
        while home.changed().await.is_ok() {
            let region = *home.borrow_and_update();
            if let Err(error) = control.update(&self.hostinfo(region)).await {
                return error.into();
            }
        }
        std::future::pending().await
    }

    /// Says so when the node key expires: control sends no map at that moment.
    async fn watch_expiry(&self) -> Infallible {
        let mut state = self.state.subscribe();
        loop {
            let wait = {
                let device = &state.borrow_and_update().tailnet;
                let expiry = device.as_ref().and_then(|device| device.key_expiry);
                let left = expiry.map(|expiry| expiry.duration_since(Timestamp::now()));
                left.map(|left| Duration::try_from(left).unwrap_or_default())
            };
            if wait == Some(Duration::ZERO) {
                self.state.send_if_modified(|state| {
                    let is_news = state.map_received && state.control_problem.is_none();
                    if is_news {
                        state.control_problem = Some(expired());
                    }
                    is_news
                });
            }
            let wait = wait.filter(|wait| !wait.is_zero()).unwrap_or(EXPIRY_CHECK);
            tokio::select! {
                () = sleep(wait.min(EXPIRY_CHECK)) => {}
                _ = state.changed() => {}
            }
        }
    }

    fn learn(&self, message: MapResponse) {
        if message.keep_alive {
            return;
        }
        let mut netmap = self.netmap.write().unwrap_or_else(PoisonError::into_inner);
        netmap.apply(message);
        let derp = netmap.derp().clone();
        let stun_servers = derp.stun_servers();
        let disabled = netmap.relay_disabled();
        let grant = netmap.grant();
        let allowed = netmap.allowed();
        let tags = self.shard.limits_tags().then(|| netmap.tags());
        let own = netmap.own().cloned().unwrap_or_default();
        drop(netmap);

        self.derp_map.send_if_modified(|known| {
            *known != derp && {
                *known = derp;
                true
            }
        });
        self.shard.set_accepting(!disabled);
        if let Some(tags) = tags {
            self.shard.set_tags(tags);
        }
        if let Some(allowed) = allowed {
            self.shard.revoke(allowed);
        }
        let problem = device_problem(&own, disabled, Timestamp::now());
        let tailnet = TailnetIdentity {
            name: own.name.trim_end_matches('.').to_owned(),
            node_id: own.stable_id.clone(),
            addresses: own.ips().collect(),
            tags: own.tags,
            key_expiry: own.key_expiry,
        };
        self.state.send_if_modified(|state| {
            let before = state.clone();
            state.map_received = true;
            state.grant = Some(grant);
            state.tailnet = Some(tailnet);
            state.stun_servers = stun_servers;
            state.control_problem = problem;
            if !before.map_received {
                let granted_peers = state.grant.as_ref().map(|grant| grant.granted_peers);
                tracing::info!(granted_peers, "network map received");
            }
            *state != before
        });
    }

    fn hostinfo(&self, region: u32) -> Hostinfo {
        Hostinfo {
            ipn_version: env!("CARGO_PKG_VERSION"),
            os: std::env::consts::OS,
            app: concat!("peerrelay/", env!("CARGO_PKG_VERSION")),
            hostname: self.config.hostname.clone(),
            request_tags: self.config.tags.clone(),
            peer_relay: true,
            net_info: (region != 0).then_some(NetInfo {
                preferred_derp: region,
            }),
        }
    }

    fn report(&self, problem: Problem) {
        let changed = self.state.send_if_modified(|state| {
            let changed = state.control_problem.as_ref() != Some(&problem) || state.map_received;
            state.map_received = false;
            state.control_problem = Some(problem.clone());
            changed
        });
        if changed {
            let (reason, message) = (problem.reason.as_str(), problem.message);
            tracing::warn!(reason, message, "not connected to control");
        }
    }

    /// Until the key is another one than control refused, or a while has passed.
    async fn wait_for_other_key(&self, refused: Option<&str>) {
        let deadline = Instant::now() + KEY_RETRY;
        while Instant::now() < deadline {
            sleep(KEY_POLL).await;
            let key = self.config.auth_key.read();
            if key.is_some() && key.as_deref() != refused {
                return;
            }
        }
    }
}

/// What is wrong with a device that control knows, if anything.
fn device_problem(own: &Node, disabled: bool, now: Timestamp) -> Option<Problem> {
    if own.expired || own.key_expiry.is_some_and(|expiry| expiry <= now) {
        Some(expired())
    } else if !own.machine_authorized {
        Some(needs_approval())
    } else if disabled {
        let fix = "the policy sets the node attribute disable-relay-server on this device";
        Some(Problem::new(Reason::RelayDisabledByPolicy, fix))
    } else {
        None
    }
}

fn expired() -> Problem {
    let message = "the device's node key has expired: renew it or disable key expiry for this \
                   device in the admin console";
    Problem::new(Reason::KeyExpired, message)
}

/// What is wrong with a registration, if anything.
fn refusal(response: &RegisterResponse) -> Option<Problem> {
    let fix = "create a reusable, pre-approved auth key that may use the relay's tags, and put it \
               where the old one is";
    if !response.error.is_empty() {
        let message = format!("control refuses the auth key ({}): {fix}", response.error);
        return Some(Problem::new(Reason::AuthKeyInvalid, message));
    }
    if response.node_key_expired {
        let message =
            "the device's node key has expired: disable key expiry for it in the admin console";
        return Some(Problem::new(Reason::KeyExpired, message));
    }
    if !response.auth_url.is_empty() {
        let message = format!("control asks for a login, so the auth key was not accepted: {fix}");
        return Some(Problem::new(Reason::AuthKeyInvalid, message));
    }
    (!response.machine_authorized).then(needs_approval)
}

fn needs_approval() -> Problem {
    let message = "an administrator must approve this device in the admin console; pre-approved \
                   auth keys need no approval";
    Problem::new(Reason::RegistrationNeedsApproval, message)
}

fn control_problem(error: &ControlError, url: &Url) -> Problem {
    let reason = match error {
        ControlError::Dial(DialError::Untrusted { .. }) => Reason::ControlCertificateInvalid,
        _ => Reason::ControlUnreachable,
    };
    let cause = std::error::Error::source(error)
        .map(|s| format!(": {s}"))
        .unwrap_or_default();
    Problem::new(reason, format!("{error}{cause} (control server {url})"))
}

/// Exponential backoff with jitter.
#[derive(Debug)]
pub(crate) struct Backoff {
    wait: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { wait: BACKOFF.0 }
    }
}

impl Backoff {
    fn next(&mut self) -> Duration {
        let wait = self.wait.mul_f64(rand::rng().random_range(0.5..1.5));
        self.wait = (self.wait * 2).min(BACKOFF.1);
        wait
    }

    const fn reset(&mut self) {
        self.wait = BACKOFF.0;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use super::*;

    #[test]
    fn a_key_has_expired_when_control_says_so_or_its_time_is_over() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let reason = |expired, expiry: Option<&str>| {
            let own = Node {
                expired,
                machine_authorized: true,
                key_expiry: expiry.map(|at| at.parse().unwrap()),
                ..Node::default()
            };
            device_problem(&own, false, now).map(|problem| problem.reason)
        };
        assert_eq!(reason(false, None), None);
        assert_eq!(reason(false, Some("2026-01-01T00:00:01Z")), None);
        for (expired, expiry) in [
            (true, None),
            (true, Some("2027-01-01T00:00:00Z")),
            (false, Some("2026-01-01T00:00:00Z")),
            (false, Some("2025-12-31T00:00:00Z")),
        ] {
            let found = reason(expired, expiry);
            assert_eq!(found, Some(Reason::KeyExpired), "{expired}, {expiry:?}");
        }
    }
}
