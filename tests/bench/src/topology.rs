//! The network of a measurement: two clients, and between them one path for each implementation.
//!
//! ```text
//!            prb-a                    prb-<implementation>                   prb-b
//!  10.77.2n.2, fd77:2n::2 === 10.77.2n.1      10.77.2n+1.1 === 10.77.2n+1.2, fd77:2n+1::2
//! ```
//!
//! Every implementation has links and a namespace of its own, so that none is in another's way and
//! rounds can alternate. The direct path is one link from `prb-a` to `prb-b`.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
};

use anyhow::Result;
use rig::command::{program, program_in, run, run_with_input};

use super::implementation::Implementation;

/// The namespace of the sending client.
pub const A: &str = "prb-a";
/// The namespace of the receiving client.
pub const B: &str = "prb-b";
const PREFIX: &str = "prb-";

/// The IP version of a path.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Family {
    /// The path uses IPv4 addresses.
    V4,
    /// The path uses IPv6 addresses.
    V6,
}

/// A client's side of a path.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Side {
    /// The side in the namespace `prb-a`.
    A,
    /// The side in the namespace `prb-b`.
    B,
}

impl Side {
    /// The namespace of the side.
    pub const fn namespace(self) -> &'static str {
        match self {
            Self::A => A,
            Self::B => B,
        }
    }
}

/// The addresses of one implementation's path.
#[derive(Clone, Copy, Debug)]
pub struct Link(Implementation);

impl Link {
    /// The path of an implementation.
    pub const fn of(implementation: Implementation) -> Self {
        Self(implementation)
    }

    /// The name of the client's device on either side.
    pub const fn device(self) -> &'static str {
        self.0.name()
    }

    /// The namespace of what is measured.
    pub fn namespace(self) -> String {
        format!("{PREFIX}{}", self.0.name())
    }

    /// The client's address.
    pub fn client(self, side: Side, family: Family) -> IpAddr {
        self.address(side, family, 2)
    }

    /// The address of what is measured, towards that client.
    pub fn relay(self, side: Side, family: Family) -> IpAddr {
        self.address(side, family, 1)
    }

    fn address(self, side: Side, family: Family, host: u8) -> IpAddr {
        let index = self.0 as u8;
        // The direct path is one link: its two ends are the clients.
        let (net, host) = match (self.0, side) {
            (Implementation::Direct, Side::A) => (2 * index, 2),
            (Implementation::Direct, Side::B) => (2 * index, 1),
            (_, Side::A) => (2 * index, host),
            (_, Side::B) => (2 * index + 1, host),
        };
        match family {
            Family::V4 => Ipv4Addr::new(10, 77, net, host).into(),
            Family::V6 => Ipv6Addr::new(0xfd77, net.into(), 0, 0, 0, 0, 0, host.into()).into(),
        }
    }
}

/// The namespaces; they go with this.
#[derive(Debug)]
pub struct Topology(());

impl Topology {
    /// Makes the path of every implementation, after removing what an earlier run left.
    pub fn create(implementations: &[Implementation]) -> Result<Self> {
        remove()?;
        let topology = Self(());
        for namespace in [A, B] {
            run(program("ip").args(["netns", "add", namespace]))?;
            ip(namespace, "link set lo up\n")?;
        }
        for implementation in implementations {
            add_path(*implementation)?;
        }
        Ok(topology)
    }
}

impl Drop for Topology {
    fn drop(&mut self) {
        // Interrupted or not: nothing may stay.
        rig::signals::acknowledge();
        if let Err(error) = remove() {
            eprintln!("failed to remove the namespaces {PREFIX}*: {error:#}");
        }
    }
}

fn remove() -> Result<()> {
    let Ok(entries) = fs::read_dir("/run/netns") else {
        return Ok(());
    };
    for entry in entries {
        let name = entry?.file_name();
        if name.to_string_lossy().starts_with(PREFIX) {
            run(program("ip").args(["netns", "delete"]).arg(name))?;
        }
    }
    Ok(())
}

fn add_path(implementation: Implementation) -> Result<()> {
    let link = Link::of(implementation);
    let device = link.device();
    if implementation == Implementation::Direct {
        ip(
            A,
            &format!("link add {device} type veth peer name {device} netns {B}\n"),
        )?;
        return [Side::A, Side::B].into_iter().try_for_each(|side| {
            let commands = interface(device, |family| link.client(side, family));
            ip(side.namespace(), &commands)
        });
    }
    let namespace = link.namespace();
    run(program("ip").args(["netns", "add", &namespace]))?;
    ip(&namespace, "link set lo up\n")?;
    for (side, name) in [(Side::A, "a"), (Side::B, "b")] {
        let client = side.namespace();
        ip(
            client,
            &format!("link add {device} type veth peer name {name} netns {namespace}\n"),
        )?;
        ip(
            client,
            &interface(device, |family| link.client(side, family)),
        )?;
        ip(
            &namespace,
            &interface(name, |family| link.relay(side, family)),
        )?;
    }
    match implementation {
        Implementation::Route => route(link),
        Implementation::Dnat => translate(link),
        _ => Ok(()),
    }
}

/// Routes between the clients through the namespace of a link.
fn route(link: Link) -> Result<()> {
    set_forwarding(&link.namespace())?;
    for (side, other) in [(Side::A, Side::B), (Side::B, Side::A)] {
        let route = |family| {
            format!(
                "route add {} via {}\n",
                link.client(other, family),
                link.relay(side, family)
            )
        };
        ip(side.namespace(), &(route(Family::V4) + &route(Family::V6)))?;
    }
    Ok(())
}

/// Translates addresses in the namespace of a link, so that client A reaches client B there.
fn translate(link: Link) -> Result<()> {
    let namespace = link.namespace();
    set_forwarding(&namespace)?;
    let rules = format!(
        "table inet bench {{\n\
         chain in {{ type nat hook prerouting priority dstnat;\n\
         iifname \"a\" meta nfproto ipv4 meta l4proto udp dnat ip to {}\n\
         iifname \"a\" meta nfproto ipv6 meta l4proto udp dnat ip6 to {}\n}}\n\
         chain out {{ type nat hook postrouting priority srcnat;\n\
         oifname \"b\" meta l4proto udp masquerade\n}}\n}}\n",
        link.client(Side::B, Family::V4),
        link.client(Side::B, Family::V6),
    );
    nft(&namespace, &rules)
}

/// Gives a client's device on side A many more addresses, and names them.
pub fn add_sources(link: Link) -> Result<Vec<IpAddr>> {
    let IpAddr::V4(own) = link.client(Side::A, Family::V4) else {
        unreachable!("of that family");
    };
    let [a, b, net, own] = own.octets();
    let sources: Vec<_> = (own + 1..=250)
        .map(|host| IpAddr::from([a, b, net, host]))
        .collect();
    let add = |source: &IpAddr| format!("addr add {source}/24 dev {}\n", link.device());
    ip(A, &sources.iter().map(add).collect::<String>())?;
    Ok(sources)
}

/// Drops all UDP where it arrives at the receiving client: counted by its device, and no cost of a
/// receiver's socket. It goes with this.
#[derive(Debug)]
pub struct Sink(());

impl Sink {
    /// Starts to drop what arrives at the receiving client of these implementations.
    pub fn open(implementations: &[Implementation]) -> Result<Self> {
        let quoted = |i: &Implementation| format!("\"{i}\"");
        let devices: Vec<_> = implementations.iter().map(quoted).collect();
        let rules = format!(
            "table netdev sink {{\nchain in {{\ntype filter hook ingress devices = {{ {} }} \
             priority 0;\nmeta l4proto udp drop\n}}\n}}\n",
            devices.join(", ")
        );
        nft(B, &rules)?;
        Ok(Self(()))
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        // Fails when the namespace is gone already.
        nft(B, "delete table netdev sink\n").ok();
    }
}

/// Offload settings of a link, as they decide what is measured; `None` without ethtool.
pub fn offloads(implementation: Implementation) -> Option<String> {
    const NAMES: [(&str, &str); 4] = [
        ("tx-checksumming", "tx checksum"),
        ("tx-udp-segmentation", "tx UDP segmentation"),
        ("generic-receive-offload", "GRO"),
        ("rx-udp-gro-forwarding", "UDP GRO forwarding"),
    ];
    let mut ethtool = program_in(A, "ethtool");
    let text = run(ethtool.args(["-k", implementation.name()])).ok()?;
    let settings = NAMES.iter().filter_map(|(name, shown)| {
        let line = text.lines().find(|line| line.trim().starts_with(name))?;
        let state = line.split(':').nth(1)?.split_whitespace().next()?;
        Some(format!("{shown} {state}"))
    });
    Some(settings.collect::<Vec<_>>().join(", "))
}

fn interface(name: &str, address: impl Fn(Family) -> IpAddr) -> String {
    format!(
        "addr add {}/24 dev {name}\naddr add {}/64 dev {name} nodad\nlink set dev {name} up\n",
        address(Family::V4),
        address(Family::V6)
    )
}

fn set_forwarding(namespace: &str) -> Result<()> {
    for switch in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
        let mut sh = program_in(namespace, "sh");
        run(sh.arg("-c").arg(format!("echo 1 > /proc/sys/net/{switch}")))?;
    }
    Ok(())
}

fn ip(namespace: &str, commands: &str) -> Result<()> {
    let mut ip = program("ip");
    ip.args(["-n", namespace, "-batch", "-"]);
    run_with_input(&mut ip, commands.as_bytes())?;
    Ok(())
}

fn nft(namespace: &str, rules: &str) -> Result<()> {
    run_with_input(
        program_in(namespace, "nft").args(["-f", "-"]),
        rules.as_bytes(),
    )?;
    Ok(())
}

/// Says whether a namespace of a measurement exists.
pub fn exists() -> bool {
    Path::new("/run/netns").join(A).exists()
}
