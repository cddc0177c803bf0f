//! Streams of map messages, as control servers may send them.
//!
//! A message names a peer in one of `PeersChanged`, `PeersRemoved` and `PeersChangedPatch`, as
//! tailcfg asks of servers: `controlclient` turns some changes into patches, so what it makes of a
//! peer in two of them depends on what it knew before. For the same reason each peer keeps a home
//! region, and only peers that are online are sent whole: a disco key of one that is offline may be
//! passed over for one that was learned from the peer itself, which a relay cannot.

use rand::{Rng as _, SeedableRng, rngs::StdRng, seq::IndexedRandom as _};

use super::{super::filter::CAP_RELAY, *};

const STEPS: usize = 40;
const PEERS: std::ops::RangeInclusive<u8> = 2..=7;
const START: i64 = 1_767_139_200;
const NEVER: &str = "0001-01-01T00:00:00Z";
/// Attribute that some rules name as their source.
const ATTRIBUTE: &str = "example.com/cap/x";

/// A generator of one stream.
pub(super) struct Stream {
    dice: StdRng,
    now: Timestamp,
    /// No map has come since the stream began.
    awaits_first: bool,
    steps: Vec<Step>,
}

impl Stream {
    /// Streams of one seed have nothing in common.
    pub(super) fn new(seed: u64, number: u64) -> Self {
        Self {
            dice: StdRng::seed_from_u64(seed.wrapping_mul(1 << 32).wrapping_add(number)),
            now: Timestamp::from_second(START).unwrap(),
            awaits_first: true,
            steps: Vec::new(),
        }
    }

    pub(super) fn steps(mut self) -> Vec<Step> {
        while self.steps.len() < STEPS {
            let event = self.event();
            let now = self.now;
            self.steps.push(Step { now, event });
        }
        self.steps
    }

    fn event(&mut self) -> Event {
        match self.dice.random_range(0..100) {
            0..6 => {
                self.awaits_first = true;
                Event::Restart
            }
            6..14 => {
                let seconds = self.dice.random_range(1..150);
                self.now += Duration::from_secs(seconds);
                Event::TimePasses
            }
            14..20 => {
                let mut message = json!({"KeepAlive": true});
                self.add_time(&mut message);
                Event::Message(message)
            }
            20..24 => match self.steps.last() {
                Some(Step {
                    event: Event::Message(message),
                    ..
                }) => Event::Message(message.clone()),
                _ => Event::TimePasses,
            },
            _ => Event::Message(self.map()),
        }
    }

    fn map(&mut self) -> Value {
        let mut message = json!({});
        let first = self.awaits_first;
        let with_node = if first { 96 } else { 12 };
        if self.percent(with_node) {
            message["Node"] = self.own();
            self.awaits_first = false;
        }
        if self.percent(if first { 85 } else { 10 }) {
            let peers: Vec<_> = PEERS.filter(|_| self.percent(80)).collect();
            message["Peers"] = peers.into_iter().map(|id| self.peer(id)).collect();
        } else if self.percent(10) {
            message["Peers"] = [json!(null), json!([])][self.below(2)].clone();
        }
        if self.percent(if first { 10 } else { 60 }) {
            self.add_changes(&mut message);
        }
        if self.percent(if first { 70 } else { 15 }) {
            message["PacketFilter"] = self.rules();
        }
        if self.percent(if first { 40 } else { 25 }) {
            message["PacketFilters"] = self.named_filters();
        }
        if self.percent(10) {
            self.add_time(&mut message);
        }
        if self.percent(10) {
            message["Domain"] = json!("example.com");
            message["DERPMap"] = json!({"Regions": {"1": {"RegionID": 1}}});
        }
        message
    }

    fn add_changes(&mut self, message: &mut Value) {
        let mut lists: [Vec<Value>; 3] = Default::default();
        for id in PEERS {
            match self.dice.random_range(0..8) {
                0 => lists[0].push(self.peer(id)),
                1 => lists[1].push(json!(id)),
                2 | 3 => lists[2].push(self.patch(id)),
                _ => {}
            }
        }
        let names = ["PeersChanged", "PeersRemoved", "PeersChangedPatch"];
        for (name, list) in names.into_iter().zip(lists) {
            if !list.is_empty() || self.percent(10) {
                message[name] = list.into();
            }
        }
        for name in ["PeerSeenChange", "OnlineChange"] {
            if self.percent(15) {
                let id = self.dice.random_range(PEERS).to_string();
                message[name] = json!({id: self.percent(50)});
            }
        }
    }

    fn own(&mut self) -> Value {
        let mut own = json!({
            "ID": 1,
            "Key": key("nodekey", 1),
            "Addresses": self.addresses(1),
            "MachineAuthorized": true,
        });
        match self.below(12) {
            0 => own["CapMap"] = json!({ATTR_DISABLED: null}),
            1 => own["Capabilities"] = json!([ATTR_DISABLED]),
            2 => own["CapMap"] = json!({ATTRIBUTE: [1]}),
            _ => {}
        }
        own
    }

    fn peer(&mut self, id: u8) -> Value {
        let mut peer = json!({
            "ID": id,
            "StableID": format!("n{id}"),
            "Key": self.key("nodekey", id),
            "DiscoKey": self.key("discokey", id),
            "Addresses": self.addresses(id),
            "Online": true,
        });
        let home = self.dice.random_range(1..5);
        if self.percent(80) {
            peer["HomeDERP"] = json!(home);
        } else {
            peer["DERP"] = json!(format!("127.3.3.40:{home}"));
        }
        if self.percent(40) {
            peer["KeyExpiry"] = self.expiry();
        }
        for (name, percent) in [("Expired", 5), ("UnsignedPeerAPIOnly", 5)] {
            if self.percent(percent) {
                peer[name] = json!(true);
            }
        }
        if self.percent(30) {
            peer["Tags"] = json!(["tag:office"]);
        }
        if self.percent(30) {
            peer["CapMap"] = json!({ATTRIBUTE: null});
        }
        peer
    }

    fn patch(&mut self, id: u8) -> Value {
        let mut patch = json!({"NodeID": id});
        let mut add = |this: &mut Self, name: &str, value: Value| {
            if this.percent(35) {
                patch[name] = value;
            }
        };
        let (node, disco) = (self.key("nodekey", id), self.key("discokey", id));
        let (expiry, region) = (self.expiry(), self.dice.random_range(0..5));
        add(self, "Key", node);
        add(self, "DiscoKey", disco);
        add(self, "KeyExpiry", expiry);
        add(self, "DERPRegion", json!(region));
        add(self, "CapMap", json!({ATTRIBUTE: null}));
        add(self, "Endpoints", json!(["192.0.2.1:1"]));
        add(self, "Online", json!(true));
        add(self, "KeySignature", json!("AAAA"));
        patch
    }

    /// Keys that no other peer has, among them the one it has now.
    fn key(&mut self, prefix: &str, id: u8) -> Value {
        key(prefix, id + 16 * self.dice.random_range(0..3))
    }

    fn addresses(&mut self, id: u8) -> Value {
        let (v4, v6) = (
            format!("100.64.0.{id}/32"),
            format!("fd7a:115c:a1e0::{id}/128"),
        );
        match self.below(10) {
            0 => json!([v6, v4]),
            1 => json!([v4]),
            2 => json!([v6]),
            3 => json!(["192.0.2.0/24", v6, v4]),
            4 if id != 1 => json!([v4, format!("100.64.1.{id}/32")]),
            5 if id != 1 => json!(null),
            _ => json!([v4, v6]),
        }
    }

    fn expiry(&mut self) -> Value {
        let offset = match self.below(5) {
            0 => return json!(NEVER),
            1 => self.dice.random_range(-100_000..0),
            2 | 3 => self.dice.random_range(0..300),
            _ => 100_000,
        };
        let at = Timestamp::from_second(self.now.as_second() + offset).unwrap();
        json!(at.to_string())
    }

    fn add_time(&mut self, message: &mut Value) {
        let offsets = [0, 30, -30, 60, 61, -60, -61, 3_600, -3_600];
        let now = self.now.as_second();
        message["ControlTime"] = match self.below(24) {
            0 => json!(NEVER),
            1 => json!("2020-01-01T00:00:00Z"),
            2..12 => return,
            _ => {
                let at = now + offsets.choose(&mut self.dice).unwrap();
                json!(Timestamp::from_second(at).unwrap().to_string())
            }
        };
    }

    fn named_filters(&mut self) -> Value {
        let mut named = json!({});
        for name in ["relays", "more", "base"] {
            match self.below(5) {
                0 => named[name] = json!(null),
                1 | 2 => named[name] = self.rules(),
                _ => {}
            }
        }
        if self.percent(15) {
            named["*"] = [json!(null), json!(null), json!([])][self.below(3)].clone();
        }
        named
    }

    fn rules(&mut self) -> Value {
        let count = self.below(4);
        let rules: Vec<_> = (0..count).map(|_| self.rule()).collect();
        rules.into()
    }

    fn rule(&mut self) -> Value {
        let sources = [
            "*",
            "100.64.0.0/29",
            "100.64.0.2-100.64.0.4",
            "100.64.0.4-100.64.0.2",
            "100.64.0.3/29",
            "100.64.0.5",
            "100.64.1.0/24",
            "fd7a:115c:a1e0::/48",
            "fd7a:115c:a1e0::2",
            "fd7a:115c:a1e0::3-fd7a:115c:a1e0::6",
            "100.64.0.2-fd7a:115c:a1e0::6",
            "cap:example.com/cap/x",
            "nonsense",
        ];
        let destinations = [
            "100.64.0.1/32",
            "fd7a:115c:a1e0::1/128",
            "0.0.0.0/0",
            "::/0",
            "100.64.0.9/32",
            "100.64.0.9/28",
        ];
        let mut grant = json!({"Dsts": self.some(&destinations)});
        match self.below(6) {
            0 => grant["CapMap"] = json!({"tailscale.com/cap/relay-target": null}),
            1 => grant["Caps"] = json!(["example.com/cap/y", CAP_RELAY]),
            2 => grant["CapMap"] = json!({CAP_RELAY: [{}], "example.com/cap/y": null}),
            _ => grant["CapMap"] = json!({CAP_RELAY: null}),
        }
        let mut rule = json!({"SrcIPs": self.some(&sources)});
        if self.percent(90) {
            rule["CapGrant"] = json!([grant]);
        } else {
            rule["DstPorts"] = json!([{"IP": "*", "Ports": {"First": 0, "Last": 65535}}]);
        }
        rule
    }

    fn some(&mut self, texts: &[&str]) -> Value {
        let count = self.dice.random_range(0..4);
        let some = texts.choose_multiple(&mut self.dice, count);
        some.copied().collect()
    }

    fn percent(&mut self, percent: u32) -> bool {
        self.dice.random_range(0..100) < percent
    }

    fn below(&mut self, end: usize) -> usize {
        self.dice.random_range(0..end)
    }
}

fn key(prefix: &str, byte: u8) -> Value {
    json!(format!("{prefix}:{}", hex([byte; 32])))
}
