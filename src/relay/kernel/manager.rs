//! The thread that keeps the program's maps and attachments current.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, SocketAddr},
    os::fd::AsFd,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use relay_proto::Vni;
use tokio::sync::watch;

use super::{
    OpenSession, PathState, Request, Unavailable, UnavailableReason,
    abi::{self, AddressKey, Config},
    egress::{self, Egress},
    entry::{Leg, SessionEntry, Usage},
    program::{Maps, Program},
    reattach::ReattachBackoff,
    route_cache::RouteCache,
    self_test, sys,
};
use crate::relay::{
    netlink::{self, Changes, Device, Netlink},
    socket::{Interest, Waker, wait},
    watch_ext::SendIfChanged,
};

/// How often the program's time is renewed.
const RENEW: Duration = Duration::from_secs(30);
/// How long the program forwards when nobody renews it: at least as long as a session lives when
/// its clients are silent, however long ago it was renewed.
const WATCHDOG: Duration = Duration::from_secs(5 * 60).saturating_add(RENEW);
/// How often it is looked whether the program is still attached.
const WATCH: Duration = Duration::from_secs(1);
/// Changes of the network come in bursts.
const SETTLE: Duration = Duration::from_millis(100);
/// Keys of local addresses; 0 is none.
const LOCALS: std::ops::Range<u32> = 1..1024;
/// Stands for a local address that has no key: nothing is ever sent from it.
const KEYLESS: u32 = u16::MAX as u32;

/// How datagrams get to a client.
#[derive(Debug, Clone, Copy, Default)]
struct NextHop {
    ifindex: u32,
    mtu: u16,
    gateway: Option<IpAddr>,
}

/// State of the thread.
pub(super) struct Manager {
    program: Program,
    maps: Maps,
    inbox: mpsc::Receiver<Request>,
    waker: Waker,
    state: watch::Sender<PathState>,
    netlink: Netlink,
    changes: Changes,
    devices: BTreeMap<u32, Device>,
    routes: RouteCache,
    locals: BTreeMap<AddressKey, u32>,
    /// Open sessions through local addresses that have no key, or not yet: news of an address may
    /// come after those of a session.
    keyless: BTreeMap<Vni, OpenSession>,
    config: Config,
    tested: Option<Result<(), Unavailable>>,
    keys_given: BTreeMap<AddressKey, u32>,
    reattach: ReattachBackoff,
    /// When a device may be attached again that has been lost.
    again: Option<Instant>,
    /// Attachments that somebody else has taken away, for metrics.
    detached: Arc<AtomicU64>,
}

impl Manager {
    pub(super) fn new(
        program: Program,
        maps: Maps,
        inbox: mpsc::Receiver<Request>,
        waker: Waker,
        state: watch::Sender<PathState>,
        detached: Arc<AtomicU64>,
        config: Config,
    ) -> io::Result<Self> {
        let locals: BTreeMap<_, _> = maps.locals.iter().filter_map(Result::ok).collect();
        let keys_given = locals.clone();
        // Of an earlier process: it goes on until this one has its port.
        let left = maps.config.get(&0, 0).map_err(io::Error::other)?;
        let left = Config::decode(&left);
        let config = Config {
            valid_until: left.valid_until,
            port: left.port,
            ..config
        };
        let mut manager = Self {
            program,
            maps,
            inbox,
            waker,
            state,
            netlink: Netlink::new()?,
            changes: Changes::of(netlink::EVERYTHING)?,
            devices: BTreeMap::new(),
            routes: RouteCache::default(),
            locals,
            keyless: BTreeMap::new(),
            config,
            tested: None,
            keys_given,
            reattach: ReattachBackoff::default(),
            again: None,
            detached,
        };
        manager.refresh_addresses()?;
        Ok(manager)
    }

    /// Runs until it is told to stop, or nobody is left to tell it.
    pub(super) fn run(mut self) {
        let mut renew = Instant::now();
        let mut watch_at = renew + WATCH;
        let mut settled = None;
        loop {
            self.waker.clear();
            loop {
                match self.inbox.try_recv() {
                    Ok(Request::Stop { leave, done }) => {
                        match leave {
                            Some(time) => {
                                self.renew(time);
                                self.program.leave();
                            }
                            None => self.program.remove(),
                        }
                        drop(self);
                        done.send(()).ok();
                        return;
                    }
                    Ok(request) => self.handle(request),
                    Err(mpsc::TryRecvError::Empty) => break,
                    Err(mpsc::TryRecvError::Disconnected) => return,
                }
            }
            let now = Instant::now();
            if settled.is_some_and(|at| at <= now) {
                settled = None;
                self.changes.clear();
                self.follow();
            }
            if renew <= now {
                renew = now + RENEW;
                self.renew(WATCHDOG);
            }
            if watch_at <= now {
                watch_at = now + WATCH;
                self.watch(now);
            }
            let next = renew.min(watch_at);
            let next = settled.map_or(next, |at: Instant| at.min(next));
            let fds = [
                (self.waker.as_fd(), Interest::Read),
                (self.changes.as_fd(), Interest::Read),
            ];
            // While changes settle, more of them are no news.
            let fds = if settled.is_some() {
                &fds[..1]
            } else {
                &fds[..]
            };
            match wait(fds, Some(next.saturating_duration_since(now))) {
                Ok([_, changed, ..]) => {
                    if changed && settled.is_none() {
                        settled = Some(Instant::now() + SETTLE);
                    }
                }
                Err(error) => {
                    self.give_up(Unavailable::failed(format!("failed to wait: {error}")));
                    return;
                }
            }
        }
    }

    fn handle(&mut self, request: Request) {
        match request {
            Request::Place(open) => self.place(&open),
            Request::Remove(vni) => {
                self.maps.entries.remove(vni.number());
                self.keyless.remove(&vni);
            }
            Request::Retain(open) => self.retain(open),
            Request::Port(port) => {
                self.config.port = port.unwrap_or(0);
                self.attach();
            }
            Request::Stop { .. } => unreachable!("handled by the caller"),
        }
    }

    /// Enters a session, or what has changed of it; what is counted already stays counted, and an
    /// entry that is right stays untouched.
    fn place(&mut self, open: &OpenSession) {
        let key = |ip: IpAddr| self.locals.get(&abi::address_key(ip)).copied();
        let keys = open
            .locals
            .map(|ip| ip.map_or(0, |ip| key(ip).unwrap_or(KEYLESS)));
        if keys.contains(&KEYLESS) {
            self.keyless.insert(open.vni, *open);
        } else {
            self.keyless.remove(&open.vni);
        }
        let session = self.session(open.legs, keys.map(|key| key as u16));
        let present = self.maps.entries.get(open.vni.number());
        if present.is_none_or(|present| present.legs != session.legs) {
            self.replace(open.vni.number(), session);
        }
    }

    fn replace(&mut self, vni: u32, session: SessionEntry) {
        let usage = self.maps.entries.take(vni).map(|old| old.usage);
        let usage = usage.unwrap_or_default();
        let entered = self
            .maps
            .entries
            .insert(vni, &SessionEntry { usage, ..session });
        if let Err(error) = entered {
            tracing::debug!(%error, vni, "no room in the kernel; the sockets forward");
        }
    }

    /// Makes `open` the only sessions.
    fn retain(&mut self, open: Vec<OpenSession>) {
        let open: BTreeMap<u32, OpenSession> = open
            .into_iter()
            .map(|open| (open.vni.number(), open))
            .collect();
        self.keyless.clear();
        for vni in self.maps.entries.vnis() {
            if !open.contains_key(&vni) {
                self.maps.entries.remove(vni);
            }
        }
        for open in open.values() {
            self.place(open);
        }
    }

    /// An entry: forwarded by the program when both legs are of one family and a way leads to each.
    fn session(&mut self, legs: [SocketAddr; 2], locals: [u16; 2]) -> SessionEntry {
        let next_hops = [0, 1].map(|at| self.next_hop(locals[at], legs[at].ip()));
        let forwards =
            legs[0].is_ipv4() == legs[1].is_ipv4() && next_hops.iter().all(Option::is_some);
        let legs = [0, 1].map(|at| {
            let next_hop = next_hops[at].filter(|_| forwards);
            self.leg(legs[at], locals[at], next_hop.unwrap_or_default())
        });
        let usage = Usage::default();
        SessionEntry { legs, usage }
    }

    fn leg(&mut self, address: SocketAddr, local: u16, next_hop: NextHop) -> Leg {
        let egress = Egress {
            ifindex: next_hop.ifindex,
            local,
            gateway: next_hop.gateway,
        };
        let (mtu, egress) = match self.maps.egresses.key(egress) {
            Some(key) => (next_hop.mtu, key),
            None => (0, egress::NONE),
        };
        Leg {
            address,
            mtu,
            egress,
        }
    }

    /// The way to an address, from the local one with this key; `None` when it is this host's own,
    /// nothing leads there, or this host does not have the local one.
    fn next_hop(&mut self, local: u16, to: IpAddr) -> Option<NextHop> {
        let from = match local {
            0 => None,
            key => Some(self.local(key)?),
        };
        let route = self.routes.find(&mut self.netlink, from, to)?;
        let device = self
            .devices
            .get(&route.ifindex)
            .filter(|device| !device.loopback)?;
        let mtu = route.mtu.map_or(device.mtu, |mtu| mtu.min(device.mtu));
        Some(NextHop {
            ifindex: route.ifindex,
            mtu: u16::try_from(mtu).unwrap_or(u16::MAX),
            gateway: route.gateway,
        })
    }

    /// The local address with this key, while this host has it.
    fn local(&self, key: u16) -> Option<IpAddr> {
        let address = self.maps.addresses.get(&key.into(), 0).ok()?;
        (address != [0; 16]).then(|| IpAddr::from(address).to_canonical())
    }

    /// Follows a change of the network.
    fn follow(&mut self) {
        if let Err(error) = self.refresh_addresses() {
            tracing::warn!(%error, "failed to look at the network again");
            return;
        }
        self.routes.clear();
        self.attach();
        self.reroute();
        for open in std::mem::take(&mut self.keyless).into_values() {
            self.place(&open);
        }
    }

    /// Enters the ways anew, in all sessions where they have changed.
    fn reroute(&mut self) {
        let mut used = BTreeSet::new();
        for vni in self.maps.entries.vnis() {
            let Some(old) = self.maps.entries.get(vni) else {
                continue;
            };
            let egresses = old.legs.map(|leg| self.maps.egresses.get(leg.egress));
            let locals = egresses.map(|egress| egress.unwrap_or_default().local);
            let new = self.session(old.legs.map(|leg| leg.address), locals);
            used.extend(new.legs.map(|leg| leg.egress));
            if old.legs != new.legs {
                self.replace(vni, new);
            }
        }
        self.maps.egresses.keep(&used);
    }

    /// Learns devices and addresses.
    fn refresh_addresses(&mut self) -> io::Result<()> {
        self.devices = self.netlink.devices()?;
        let addresses = self.devices.values().flat_map(|device| &device.addresses);
        let wanted: BTreeSet<AddressKey> = addresses
            .filter(|ip| is_served(ip))
            .map(|ip| abi::address_key(*ip))
            .collect();
        for (gone, key) in self
            .locals
            .extract_if(.., |address, _| !wanted.contains(address))
        {
            self.maps.locals.remove(&gone).ok();
            self.maps.addresses.set(key, [0; 16], 0).ok();
        }
        for new in wanted {
            if !self.locals.contains_key(&new) {
                self.add_local(new);
            }
        }
        Ok(())
    }

    /// An address that comes back has the key that it had: sessions name it.
    fn add_local(&mut self, address: AddressKey) {
        if self.keys_given.len() == LOCALS.len() {
            self.keys_given
                .retain(|address, _| self.locals.contains_key(address));
        }
        let given: BTreeSet<u32> = self.keys_given.values().copied().collect();
        let previous = self.keys_given.get(&address).copied();
        let Some(key) = previous.or_else(|| LOCALS.into_iter().find(|key| !given.contains(key)))
        else {
            return tracing::debug!("no room for a local address; the sockets serve it");
        };
        let written = self.maps.addresses.set(key, address, 0);
        match written.and_then(|()| self.maps.locals.insert(address, key, 0)) {
            Ok(()) => {
                self.locals.insert(address, key);
                self.keys_given.insert(address, key);
            }
            Err(error) => tracing::debug!(%error, "no room for a local address"),
        }
    }

    /// Attaches to the devices that carry the port, once the program has shown that it works.
    fn attach(&mut self) {
        if self.config.port == 0 {
            self.renew(WATCHDOG);
            return self.publish(PathState::default());
        }
        self.renew(WATCHDOG);
        if self.tested.is_none() {
            let tested = self.test();
            self.tested = Some(tested);
        }
        if let Some(Err(error)) = self.tested.clone() {
            return self.give_up(error);
        }
        let carries = |device: &Device| {
            device.ethernet
                && device.up
                && !device.loopback
                && device.addresses.iter().any(is_served)
        };
        let now = Instant::now();
        self.reattach
            .retain(|index| self.devices.contains_key(&index));
        self.again = self.reattach.due(now);
        let devices = self.devices.iter().filter(|(_, device)| carries(device));
        let (devices, waiting): (Vec<_>, Vec<_>) =
            devices.partition(|(index, _)| self.reattach.allows(**index, now));
        let waiting = waiting.first().map(|(_, device)| device.name.clone());
        let devices = devices
            .into_iter()
            .map(|(index, device)| (*index, device.name.clone()));
        let problems = self.program.attach(&devices.collect());
        let attached = self.program.attached();
        self.publish(PathState(match problems.first() {
            _ if attached > 0 => Ok(attached),
            Some(problem) => Err(Unavailable::failed(problem)),
            None if waiting.is_some() => Err(Unavailable::new(
                UnavailableReason::Detached,
                format!(
                    "another process has detached the relay's program from {} again and again: find \
                     it with `bpftool net`; attaching is retried",
                    waiting.unwrap_or_default()
                ),
            )),
            None => Err(Unavailable::new(
                UnavailableReason::NoDevice,
                "no Ethernet device of this host has an address",
            )),
        }));
        if attached > 0 {
            for problem in problems {
                tracing::warn!(problem, "a device is served by the sockets only");
            }
        }
    }

    /// Attaches again where somebody else has detached the program; until then the sockets forward.
    /// Also looks whether ways have changed without a word.
    fn watch(&mut self, now: Instant) {
        let lost = self.program.lost(&mut self.netlink);
        for index in &lost {
            self.program.forget(*index);
            let wait = self.reattach.lose(*index, now);
            let device = self.devices.get(index).map(|device| &device.name);
            tracing::warn!(
                ?device,
                again_in = ?wait,
                "another process has detached the relay's program; the sockets forward until it is \
                 attached again"
            );
        }
        if !lost.is_empty() || self.again.is_some_and(|at| at <= now) {
            self.attach();
        }
        let count = lost.len() as u64;
        self.detached.fetch_add(count, Ordering::Relaxed);
        if self.routes.check(&mut self.netlink, now) {
            let begin = Instant::now();
            self.reroute();
            self.routes.record_reroute(begin.elapsed(), Instant::now());
        }
    }

    fn test(&mut self) -> Result<(), Unavailable> {
        let program = self.program.fd().map_err(Unavailable::failed)?;
        self_test::run(&program, &mut self.maps, self.config.port).map_err(|error| {
            Unavailable::new(
                UnavailableReason::SelfTestFailed,
                format!("the program forwards wrongly on this kernel: {error}"),
            )
        })
    }

    /// Writes the configuration; from now on the program has this much time.
    fn renew(&mut self, time: Duration) {
        let time = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.config.valid_until = sys::monotonic_ns().saturating_add(time);
        if let Err(error) = self.maps.config.set(0, self.config.encode(), 0) {
            tracing::error!(%error, "failed to renew the program's time");
        }
    }

    /// Leaves everything to the sockets.
    fn give_up(&mut self, error: Unavailable) {
        self.config.port = 0;
        self.renew(WATCHDOG);
        self.program.remove();
        self.publish(PathState(Err(error)));
    }

    fn publish(&self, state: PathState) {
        self.state.send_if_changed(state);
    }
}

/// Addresses at which clients can reach a relay.
fn is_served(ip: &IpAddr) -> bool {
    let link_local = match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !(ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() || link_local)
}
