//! The relay as a device of the tailnet: registration, network map, DERP.

mod address_set;
mod auth_key;
mod control;
mod derp;
mod identity;
mod json;
mod map_reader;
mod netmap;
mod peers;
mod policy;
mod problem;
mod registration;
#[cfg(test)]
mod replay;
mod state;
mod tag_numbers;
mod wire;
mod wrapped_key;

use std::{
    convert::Infallible,
    ops::RangeInclusive,
    panic::resume_unwind,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::AsyncRead,
    sync::{Notify, watch},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use url::Url;

pub use self::{
    auth_key::{AuthKey, KeyRequest},
    control::ControlError,
    identity::{Identity, IdentityError},
    state::{ControlState, DerpState, TailnetIdentity, TailnetSenders},
};
use self::{
    control::Control,
    derp::{Derp, Timing},
    map_reader::MapStream,
    netmap::SharedNetmap,
    problem::control_problem,
    registration::Registration,
    tag_numbers::TagNumbers,
    wire::{DerpMap, Hostinfo, NetInfo},
};
use super::{
    clients::Clients, problem::Problem, reload::DynamicConfig, sessions::Directory,
    socket_path::SocketPathHandle, watch_ext::SendIfChanged,
};
use crate::{backoff::Backoff, dial::Dialer};

/// Longest time between two updates that the relay sends to control; the keep-alives of control come about
/// as often.
const PRESENCE: Duration = Duration::from_secs(60);
/// Waits between attempts to reach the control server, and to reach a DERP region.
const BACKOFF: Backoff =
    Backoff::new(Duration::from_millis(500), Duration::from_secs(30)).with_jitter(0.5..=1.5);

/// Age at which the end of a map stream is no failure: proxies end streams that are older. Of one that ends
/// earlier again and again, attempts become rarer.
const SETTLED: Duration = Duration::from_secs(10);

/// Factors of the wait that the control server asks for. None is below 1: an earlier attempt would be refused
/// again.
const ASKED_JITTER: RangeInclusive<f64> = 1.0..=1.2;

/// Settings with which the relay joins the tailnet.
#[derive(Clone)]
pub struct TailnetConfig {
    /// URL of the control server.
    pub control_url: Url,
    /// Key that lets the device in.
    pub auth_key: AuthKey,
    /// Name of the device.
    pub hostname: String,
    /// Tags that the device asks for.
    pub tags: Vec<String>,
    /// Control forgets the device when it is offline.
    pub ephemeral: bool,
}

/// The device in the tailnet: joins it, and stays in it.
pub struct Tailnet {
    config: TailnetConfig,
    identity: Identity,
    dialer: Dialer,
    socket_path: SocketPathHandle,
    senders: TailnetSenders,
    netmap: SharedNetmap,
    derp_map: watch::Sender<Arc<DerpMap>>,
    registration: Mutex<Registration>,
    /// Notified when the next expiry of a key may be another one.
    expiries_changed: Notify,
    /// Notified when the reported numbers of peers may be others.
    counts_changed: Notify,
    tag_numbers: Mutex<TagNumbers>,
    clients: Clients,
    dynamic_config: watch::Receiver<DynamicConfig>,
}

/// Error that ends an attempt to join, or a connection to control.
enum Failure {
    /// The control server cannot be used; the attempt is repeated.
    Control(ControlError),
    /// The control server refuses this device with this key.
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
    /// A device that has not joined yet. It writes what it learns into `state`.
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
            netmap: SharedNetmap::default(),
            derp_map,
            registration,
            expiries_changed: Notify::new(),
            counts_changed: Notify::new(),
            tag_numbers: Mutex::default(),
            clients: Clients::default(),
            dynamic_config,
        }
    }

    /// Names of clients, for commands on the node itself.
    pub fn directory(&self) -> Directory {
        let netmap = self.netmap.clone();
        Arc::new(move |clients| netmap.names(clients))
    }

    /// Joins, and stays joined for as long as it is polled. What has been learnt outlives a lost
    /// connection: sessions flow and requests are answered by the last known policy.
    pub async fn run(self) -> Result<Infallible, Infallible> {
        let derp = self.derp();
        let home_changes = derp.home.subscribe();
        // A task of its own: requests do not wait while a large map is worked on.
        let mut tasks = JoinSet::new();
        tasks.spawn(derp.run());
        let derp = async {
            match tasks.join_next().await {
                Some(Err(error)) if error.is_panic() => resume_unwind(error.into_panic()),
                _ => std::future::pending::<()>().await,
            }
        };
        let (_, _, never, _, _) = tokio::join!(
            derp,
            self.stay_joined(home_changes),
            self.follow_expiries(),
            self.follow_clients(),
            self.follow_counts(),
        );
        Ok(never)
    }

    /// The part that answers requests.
    fn derp(&self) -> Derp {
        Derp {
            dialer: self.dialer.clone(),
            node: self.identity.node.clone(),
            netmap: self.netmap.clone(),
            map: self.derp_map.subscribe(),
            socket_path: self.socket_path.clone(),
            clients: self.clients.clone(),
            state: self.senders.derp.clone(),
            home: watch::Sender::new(0),
            timing: Timing::default(),
            health: Arc::default(),
        }
    }

    async fn stay_joined(&self, mut home: watch::Receiver<u32>) {
        let mut waits = BACKOFF.waits();
        loop {
            let mut joined_at = None;
            let Err(failure) = self.join(&mut home, &mut joined_at).await;
            let joined_for = joined_at.map(|at: Instant| at.elapsed());
            if joined_for.is_some_and(|time| time >= SETTLED) {
                waits.reset();
            }
            match failure {
                Failure::Control(error) => {
                    // That a stream ends is no problem yet: the next attempt shows whether control can be
                    // reached.
                    if joined_for.is_none() {
                        self.report(control_problem(&error, &self.config.control_url));
                    }
                    sleep(pause(waits.wait(), error.retry_after())).await;
                }
                Failure::Refused { key, problem } => {
                    self.report(problem);
                    let read = || self.auth_key();
                    auth_key::wait_for_other(key.as_deref(), read).await;
                }
                Failure::OtherKey => {
                    tracing::info!("registering again, with an auth key that may bring the tags");
                }
            }
        }
    }

    /// Connects, registers and follows the map until something breaks. `joined_at` becomes the time of the
    /// first map.
    async fn join(
        &self,
        home: &mut watch::Receiver<u32>,
        joined_at: &mut Option<Instant>,
    ) -> Result<Infallible, Failure> {
        let control =
            Control::connect(&self.dialer, &self.config.control_url, &self.identity).await?;
        self.register(&control).await?;
        let region = *home.borrow_and_update();
        control.update(&self.hostinfo(region)).await?;
        let maps = control.maps(&self.hostinfo(region)).await?;
        let failed = tokio::select! {
            failed = self.follow(maps, joined_at) => failed,
            failed = self.send_updates(&control, home) => failed,
            () = self.key_that_may_bring_tags() => Failure::OtherKey,
        };
        Err(failed)
    }

    /// Applies network maps until the stream ends.
    async fn follow<R: AsyncRead + Unpin>(
        &self,
        mut maps: MapStream<R>,
        joined_at: &mut Option<Instant>,
    ) -> Failure {
        self.netmap.begin_stream();
        loop {
            let learned = match maps.next().await {
                Ok(message) => self.learn(message),
                Err(error) => {
                    tracing::info!(%error, "the stream of network maps ends");
                    return ControlError::from(error).into();
                }
            };
            if let Err(error) = learned {
                tracing::error!(%error, "network map is of no use");
                let what = "send network maps";
                let url = self.config.control_url.clone();
                return ControlError::Protocol { what, url }.into();
            }
            joined_at.get_or_insert_with(Instant::now);
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

    fn hostinfo(&self, region: u32) -> Hostinfo {
        Hostinfo {
            ipn_version: env!("CARGO_PKG_VERSION"),
            os: std::env::consts::OS,
            app: concat!("peerrelay/", env!("CARGO_PKG_VERSION")),
            hostname: self.config.hostname.clone(),
            request_tags: self.requested_tags(),
            // The admin console shows it. Clients find relays by the policy alone.
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
            let reason = problem.reason.as_str();
            tracing::warn!(reason, problem = %problem.message, "not connected to control");
        }
    }
}

/// Returns the wait before the next attempt: that of the backoff, or a longer one that the control server
/// asks for.
fn pause(backoff: Duration, asked: Option<Duration>) -> Duration {
    let asked = asked.unwrap_or_default();
    backoff.max(asked.mul_f64(rand::random_range(ASKED_JITTER)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn next_attempt_is_not_earlier_than_the_control_server_asks() {
        let second = Duration::from_secs(1);
        for _ in 0..100 {
            let wait = pause(second, Some(90 * second));
            assert!(wait >= 90 * second && wait <= 108 * second, "{wait:?}");
            assert_eq!(pause(200 * second, Some(90 * second)), 200 * second);
            assert_eq!(pause(second, None), second);
        }
    }
}
