//! The relay as a device of the tailnet: registration, network map, DERP.

mod control;
mod derp;
mod dial;
mod identity;
mod netmap;
mod problem;
mod proxy;
mod registration;
mod state;
mod wire;

use std::{
    convert::Infallible,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use jiff::Timestamp;
use tokio::{
    io::AsyncRead,
    sync::{Notify, watch},
    time::{Instant, sleep, timeout},
};
use url::Url;

pub use self::{
    control::ControlError,
    dial::{DialError, Dialer},
    identity::{Identity, IdentityError},
    state::{ControlState, DerpState, TailnetIdentity, TailnetSenders},
};
use self::{
    control::{Control, MapStream},
    derp::Derp,
    netmap::{DeviceMissing, Netmap},
    problem::{control_problem, device_problem},
    registration::Registration,
    wire::{DerpMap, Hostinfo, MapResponse, NetInfo},
};
use super::{
    clients::Clients, grant::GrantView, problem::Problem, reload::DynamicConfig,
    sessions::Directory, socket_path::SocketPathHandle, watch_ext::SendIfChanged,
};
use crate::{backoff::Backoff, crd::relay_reason::RelayReason, names};

/// How often a missing or refused auth key is looked for again.
const KEY_POLL: Duration = Duration::from_secs(2);
/// A refused auth key is tried again after this long, unchanged: it may have been allowed by now.
const KEY_RETRY: Duration = Duration::from_secs(60);
/// Longest wait before the clock is looked at again for keys that expire: it may be set.
const EXPIRY_CHECK: Duration = Duration::from_secs(60);
/// Longest time without a word to control; its keep-alives come about as often.
const PRESENCE: Duration = Duration::from_secs(60);
/// Waits between attempts to reach the control server, and to reach a DERP region.
const BACKOFF: Backoff =
    Backoff::new(Duration::from_millis(500), Duration::from_secs(30)).with_jitter(0.5..=1.5);

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
        Problem::new(RelayReason::AuthKeyMissing, message)
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
    socket_path: SocketPathHandle,
    senders: TailnetSenders,
    netmap: Arc<RwLock<Netmap>>,
    derp_map: watch::Sender<Arc<DerpMap>>,
    registration: Mutex<Registration>,
    /// A network map has come.
    learned: Notify,
    clients: Clients,
    dynamic_config: watch::Receiver<DynamicConfig>,
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
    /// The device lacks its tags, and there is an auth key that may bring them.
    OtherKey,
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
        socket_path: SocketPathHandle,
        senders: TailnetSenders,
        dynamic_config: watch::Receiver<DynamicConfig>,
    ) -> Self {
        let (derp_map, _) = watch::channel(Arc::default());
        let registration = Mutex::new(Registration::resumed(&identity));
        Self {
            config,
            identity,
            dialer,
            socket_path,
            senders,
            netmap: Arc::default(),
            derp_map,
            registration,
            learned: Notify::new(),
            clients: Clients::default(),
            dynamic_config,
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
    pub async fn run(self) -> Result<Infallible, Infallible> {
        let (home, home_changes) = watch::channel(0);
        let derp = Derp {
            dialer: self.dialer.clone(),
            node: self.identity.node.clone(),
            netmap: self.netmap.clone(),
            map: self.derp_map.subscribe(),
            socket_path: self.socket_path.clone(),
            clients: self.clients.clone(),
            state: self.senders.derp.clone(),
            home,
        };
        let (_, _, never, _) = tokio::join!(
            derp.run(),
            self.stay_joined(home_changes),
            self.judge_in_time(),
            self.follow_clients(),
        );
        Ok(never)
    }

    async fn stay_joined(&self, mut home: watch::Receiver<u32>) {
        let mut waits = BACKOFF.waits();
        loop {
            let Err(failure) = self.join(&mut home).await;
            if self.senders.control.borrow().map_received {
                waits.reset();
            }
            match failure {
                Failure::Control(error) => {
                    self.report(control_problem(&error, &self.config.control_url));
                    sleep(waits.wait()).await;
                }
                Failure::Refused { key, problem } => {
                    self.report(problem);
                    self.wait_for_other_key(key.as_deref()).await;
                }
                Failure::OtherKey => {
                    tracing::info!("registering again, with an auth key that may bring the tags");
                }
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
            failed = self.send_updates(&control, home) => failed,
            () = self.key_that_may_bring_tags() => Failure::OtherKey,
        };
        Err(failed)
    }

    /// Applies network maps until the stream ends.
    async fn follow<R: AsyncRead + Unpin>(&self, mut maps: MapStream<R>) -> Failure {
        let netmap = self.netmap.write();
        netmap
            .unwrap_or_else(PoisonError::into_inner)
            .begin_stream();
        loop {
            let learned = match maps.next().await {
                Ok(message) => self.learn(message),
                Err(error) => return error.into(),
            };
            if let Err(error) = learned {
                tracing::error!(%error, "network map is of no use");
                let what = "send network maps";
                let url = self.config.control_url.clone();
                return ControlError::Protocol { what, url }.into();
            }
        }
    }

    /// Tells control whenever the home region changes, and in any case now and then: Headscale keeps
    /// the stream of a device open that it has deleted, but refuses what the device tells.
    async fn send_updates(
        &self,
        control: &Control<'_>,
        home: &mut watch::Receiver<u32>,
    ) -> Failure {
        loop {
            if let Ok(Err(_)) = timeout(PRESENCE, home.changed()).await {
                return std::future::pending().await;
            }
            let region = *home.borrow_and_update();
            if let Err(error) = control.update(&self.hostinfo(region)).await {
                return error.into();
            }
        }
    }

    /// Judges anew whenever a node key expires: control sends no map at that moment, and its
    /// connection may be lost.
    async fn judge_in_time(&self) -> Infallible {
        loop {
            let next = {
                let netmap = self.netmap.read().unwrap_or_else(PoisonError::into_inner);
                netmap.next_expiry(Timestamp::now())
            };
            let wait = next.map_or(EXPIRY_CHECK, |next| next.min(EXPIRY_CHECK));
            tokio::select! {
                () = sleep(wait) => {}
                () = self.learned.notified() => continue,
            }
            if next.is_some() {
                let netmap = self.netmap.read().unwrap_or_else(PoisonError::into_inner);
                self.judge(&netmap, Timestamp::now(), false);
            }
        }
    }

    /// Keeps the entries of `clients` at what the configuration says.
    async fn follow_clients(&self) -> Infallible {
        let mut dynamic_config = self.dynamic_config.clone();
        let mut previous = Vec::new();
        loop {
            let clients = dynamic_config.borrow_and_update().clients.clone();
            if clients != previous {
                let now = Timestamp::now();
                self.clients.set(&clients, now);
                let netmap = self.netmap.read().unwrap_or_else(PoisonError::into_inner);
                self.judge(&netmap, now, false);
                previous = clients;
            }
            tokio::select! {
                changed = dynamic_config.changed() => if changed.is_err() {
                    return std::future::pending().await;
                },
                () = self.clients.recorded() => self.refresh_request_times(),
            }
        }
    }

    /// Publishes the times of the clients' last requests.
    fn refresh_request_times(&self) {
        self.senders.control.send_modify(|state| {
            if let Some(grant) = &mut state.grant {
                self.clients.refresh(&mut grant.clients);
            }
        });
    }

    /// Takes in a message of the map stream.
    fn learn(&self, message: MapResponse) -> Result<(), DeviceMissing> {
        let now = Timestamp::now();
        let mut netmap = self.netmap.write().unwrap_or_else(PoisonError::into_inner);
        if netmap.apply(message, now)? {
            self.judge(&netmap, now, true);
            self.learned.notify_one();
        }
        Ok(())
    }

    /// Lets the network map have its effect. It stays locked meanwhile: who is looked up in it is
    /// who may ask the data path. `received` says that it has just come.
    fn judge(&self, netmap: &Netmap, now: Timestamp, received: bool) {
        let Some(own) = netmap.own() else {
            return;
        };
        let derp = netmap.derp().clone();
        self.senders
            .stun_servers
            .send_if_changed(derp.stun_servers());
        self.derp_map.send_if_changed(derp);
        let disabled = netmap.relay_disabled();
        self.socket_path.set_accepting(!disabled);
        if self.socket_path.limits_tags() {
            self.socket_path.set_tags(netmap.tags());
        }
        if let Some(allowed) = netmap.allowed(now) {
            self.socket_path.revoke(allowed);
        }
        let grant = GrantView {
            clients: netmap.clients(&self.clients, now),
            tagged_others: netmap.tagged_others(&self.config.tags),
            ..netmap.grant(now)
        };
        let expired = netmap.own_expired(now);
        let problem = device_problem(own, expired, disabled, &self.config.tags);
        let device = TailnetIdentity {
            taken_name: names::is_taken(&self.config.hostname, &own.name)
                .then(|| self.config.hostname.clone()),
            name: own.name.trim_end_matches('.').to_owned(),
            node_id: own.stable_id.clone(),
            addresses: own.ips().collect(),
            tags: own.tags.clone(),
            key_expiry: own.key_expiry,
        };
        let previous = self.senders.control.borrow().clone();
        if received && !previous.map_received {
            tracing::info!(granted_peers = grant.granted_peers, "network map received");
        }
        let map_received = previous.map_received || received;
        self.senders.control.send_if_changed(ControlState {
            map_received,
            // Without a map stream, the problem is that of the connection.
            problem: match map_received {
                true => problem,
                false => previous.problem,
            },
            device: Some(device),
            grant: Some(grant),
        });
    }

    fn hostinfo(&self, region: u32) -> Hostinfo {
        Hostinfo {
            ipn_version: env!("CARGO_PKG_VERSION"),
            os: std::env::consts::OS,
            app: concat!("peerrelay/", env!("CARGO_PKG_VERSION")),
            hostname: self.config.hostname.clone(),
            request_tags: self.requested_tags(),
            peer_relay: true,
            net_info: (region != 0).then_some(NetInfo {
                preferred_derp: region,
            }),
        }
    }

    fn report(&self, problem: Problem) {
        let next = ControlState {
            map_received: false,
            problem: Some(problem.clone()),
            ..self.senders.control.borrow().clone()
        };
        if self.senders.control.send_if_changed(next) {
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
