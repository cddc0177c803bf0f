//! The machines that the rig imitates, and their addresses.

use std::{
    iter,
    net::{Ipv4Addr, Ipv6Addr},
};

/// The namespace of router and Kubernetes control plane.
pub const ROUTER: &str = "prr-cp";
/// The router's address towards the nodes, which is also the API server's.
pub const ROUTER_V4: Ipv4Addr = Ipv4Addr::new(10, 89, 0, 1);

/// A machine behind the router.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Machine {
    /// The name in commands and logs.
    pub name: &'static str,
    /// The network namespace.
    pub namespace: &'static str,
    /// The IPv4 address below the tailnet.
    pub v4: Ipv4Addr,
    /// The IPv6 address below the tailnet.
    pub v6: Ipv6Addr,
    pub(super) gateway: Gateway,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Gateway {
    /// On the bridge of the nodes.
    Bridge,
    /// On a link of its own.
    Link(Ipv4Addr, Ipv6Addr),
}

/// The tailnet's control server, with DERP and STUN.
pub const CONTROL: Machine = Machine {
    name: "control",
    namespace: "prr-ctl",
    v4: Ipv4Addr::new(10, 90, 0, 1),
    v6: Ipv6Addr::new(0xfd00, 0x90, 0, 0, 0, 0, 0, 1),
    gateway: Gateway::Link(
        Ipv4Addr::new(10, 90, 0, 254),
        Ipv6Addr::new(0xfd00, 0x90, 0, 0, 0, 0, 0, 0xfe),
    ),
};

/// The nodes of the cluster.
pub const NODES: [Machine; 2] = [node("n1", "prr-n1", 1), node("n2", "prr-n2", 2)];

/// The clients of the tailnet.
pub const CLIENTS: [Machine; 3] = [
    client("c1", "prr-c1", 1),
    client("c2", "prr-c2", 2),
    client("c3", "prr-c3", 3),
];

impl Machine {
    /// The name of its link at the router.
    pub(super) fn link(&self) -> String {
        if CLIENTS.contains(self) {
            return format!("client-{}", self.name);
        }
        self.name.into()
    }

    /// The IPv4 and IPv6 networks of the pods of a node, by the last part of its address.
    pub fn pod_networks(&self) -> [String; 2] {
        let index = self.v4.octets()[3] - 10;
        [
            format!("10.244.{index}.0/24"),
            format!("fd00:244:{index}::/64"),
        ]
    }
}

/// All machines behind the router.
pub fn machines() -> impl Iterator<Item = Machine> {
    iter::once(CONTROL).chain(NODES).chain(CLIENTS)
}

/// All namespaces of the rig.
pub fn namespaces() -> impl Iterator<Item = &'static str> {
    iter::once(ROUTER).chain(machines().map(|machine| machine.namespace))
}

const fn node(name: &'static str, namespace: &'static str, index: u8) -> Machine {
    Machine {
        name,
        namespace,
        v4: Ipv4Addr::new(10, 89, 0, 10 + index),
        v6: Ipv6Addr::new(0xfd00, 0x89, 0, 0, 0, 0, 0, 0x10 + index as u16),
        gateway: Gateway::Bridge,
    }
}

const fn client(name: &'static str, namespace: &'static str, index: u8) -> Machine {
    Machine {
        name,
        namespace,
        v4: Ipv4Addr::new(10, 91, index, 2),
        v6: Ipv6Addr::new(0xfd00, 0x91, index as u16, 0, 0, 0, 0, 2),
        gateway: Gateway::Link(
            Ipv4Addr::new(10, 91, index, 1),
            Ipv6Addr::new(0xfd00, 0x91, index as u16, 0, 0, 0, 0, 1),
        ),
    }
}
