//! The network: one namespace for each machine that the rig imitates, and a router between them.

mod filter;
mod impairments;
mod links;
mod machine;

use std::{
    fs,
    net::Ipv6Addr,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::{
    command::{program, program_in, run, run_with_input},
    state::{self, State},
};
pub use filter::Family;
use filter::Filter;
pub use impairments::{Impairment, Nat};
pub use links::UPLINK_V4;
use machine::Gateway;
pub use machine::{CLIENTS, CONTROL, Machine, NODES, ROUTER, ROUTER_V4, machines, namespaces};

/// The namespaces and the filter of the router.
#[derive(Clone, Debug)]
pub struct Network {
    filter_file: PathBuf,
}

impl Network {
    /// Uses the network that [`Network::create`] made.
    pub fn open(state: &State) -> Self {
        Self {
            filter_file: state.path("filter.json"),
        }
    }

    /// Makes namespaces, links, addresses and routes, and blocks the clients from each other.
    pub fn create(state: &State) -> Result<Self> {
        let network = Self::open(state);
        for namespace in namespaces() {
            run(program("ip").args(["netns", "add", namespace]))?;
        }
        ip(ROUTER, &router_setup())?;
        set(ROUTER, &["ipv4/ip_forward", "ipv6/conf/all/forwarding"])?;
        for machine in machines() {
            ip(ROUTER, &router_link(&machine))?;
            ip(machine.namespace, &machine_setup(&machine))?;
        }
        for node in NODES {
            set(
                node.namespace,
                &["ipv4/ip_forward", "ipv6/conf/all/forwarding"],
            )?;
        }
        network.apply(&Filter::default())?;
        Ok(network)
    }

    /// Says whether there are namespaces of a rig, no matter whose.
    pub fn exists() -> bool {
        namespaces().any(|namespace| Path::new("/run/netns").join(namespace).exists())
    }

    /// Removes all namespaces of the rig that exist, and with them their links.
    pub fn remove() -> Result<()> {
        for namespace in namespaces() {
            if Path::new("/run/netns").join(namespace).exists() {
                run(program("ip").args(["netns", "delete", namespace]))?;
            }
        }
        Ok(())
    }

    /// Drops, or lets pass, what clients send to each other directly.
    pub fn block_clients(&self, block: bool) -> Result<()> {
        self.change(|filter| filter.clients_reach_each_other = !block)
    }

    /// Blocks one address family of a client, except TCP to the control server and DERP.
    pub fn cut(&self, client: &str, family: Family) -> Result<()> {
        self.change(|filter| {
            filter.cuts.insert((client.into(), family));
        })
    }

    /// Allows both address families again after [`Network::cut`].
    pub fn mend(&self, client: &str) -> Result<()> {
        self.change(|filter| filter.cuts.retain(|(cut, _)| cut != client))
    }

    /// Puts a client behind an address translation whose UDP ports differ with each call.
    ///
    /// All others receive its packets as if the client had moved.
    pub fn renumber(&self, client: &str) -> Result<()> {
        self.change(|filter| {
            let moves = filter.renumbered.entry(client.into()).or_default();
            *moves = moves.wrapping_add(1);
        })?;
        self.forget(client)
    }

    /// Shows a client with its own address and ports again.
    pub fn restore_numbers(&self, client: &str) -> Result<()> {
        self.change(|filter| {
            filter.renumbered.remove(client);
        })?;
        self.forget(client)
    }

    fn change(&self, edit: impl FnOnce(&mut Filter)) -> Result<()> {
        let saved = fs::read(&self.filter_file).context("failed to read the router's filter")?;
        let mut filter: Filter = serde_json::from_slice(&saved)?;
        edit(&mut filter);
        self.apply(&filter)
    }

    fn apply(&self, filter: &Filter) -> Result<()> {
        let mut nft = program_in(ROUTER, "nft");
        run_with_input(nft.args(["-f", "-"]), filter.to_string().as_bytes())?;
        state::write_private(&self.filter_file, serde_json::to_vec(filter)?)
    }

    /// Ends the translations in use, which new rules would not change.
    fn forget(&self, client: &str) -> Result<()> {
        for machine in CLIENTS.iter().filter(|machine| machine.name == client) {
            for (family, source) in [
                ("ipv4", machine.v4.to_string()),
                ("ipv6", machine.v6.to_string()),
            ] {
                let mut delete = program_in(ROUTER, "conntrack");
                // conntrack fails when there is no translation.
                run(delete.args(["-D", "-f", family, "-s", &source])).ok();
            }
        }
        Ok(())
    }
}

fn router_setup() -> String {
    format!(
        "link set lo up\n\
         link add br0 type bridge\n\
         addr add {ROUTER_V4}/24 dev br0\n\
         addr add fd00:89::1/64 dev br0 nodad\n\
         link set br0 up\n"
    )
}

/// The router's end of a machine's link; the other end goes to the machine.
fn router_link(machine: &Machine) -> String {
    let (link, namespace) = (machine.link(), machine.namespace);
    let add = format!("link add {link} type veth peer name eth0 netns {namespace}\n");
    match machine.gateway {
        Gateway::Bridge => {
            let [pods_v4, pods_v6] = machine.pod_networks();
            format!(
                "{add}link set {link} master br0 up\n\
                 route add {pods_v4} via {} dev br0\n\
                 route add {pods_v6} via {} dev br0\n",
                machine.v4, machine.v6
            )
        }
        Gateway::Link(v4, v6) => format!(
            "{add}addr add {v4}/24 dev {link}\n\
             addr add {v6}/64 dev {link} nodad\n\
             link set {link} up\n"
        ),
    }
}

fn machine_setup(machine: &Machine) -> String {
    let (v4, v6) = match machine.gateway {
        Gateway::Bridge => (ROUTER_V4, Ipv6Addr::new(0xfd00, 0x89, 0, 0, 0, 0, 0, 1)),
        Gateway::Link(v4, v6) => (v4, v6),
    };
    let mut commands = format!(
        "link set lo up\n\
         addr add {}/24 dev eth0\n\
         addr add {}/64 dev eth0 nodad\n\
         link set eth0 up\n\
         route add default via {v4}\n\
         route add default via {v6}\n",
        machine.v4, machine.v6
    );
    if machine.gateway == Gateway::Bridge {
        for other in NODES.iter().filter(|node| *node != machine) {
            let [pods_v4, pods_v6] = other.pod_networks();
            commands += &format!("route add {pods_v4} via {}\n", other.v4);
            commands += &format!("route add {pods_v6} via {}\n", other.v6);
        }
        commands += &inner_networks(machine);
    }
    commands
}

/// Interfaces that nodes in the field have besides their uplink: an overlay between nodes, a bridge of
/// virtual machines with the same address on each node, and a tunnel with an address of the tailnet. No
/// client reaches their addresses.
fn inner_networks(machine: &Machine) -> String {
    let [_, _, _, last] = machine.v4.octets();
    format!(
        "link add vxlan.calico type vxlan id 4096 dstport 4789 local {v4}\n\
         addr add 10.245.0.{last}/32 dev vxlan.calico\n\
         addr add fd00:245::{last}/128 dev vxlan.calico nodad\n\
         link set vxlan.calico up\n\
         link add virbr0 type bridge\n\
         addr add 192.168.122.1/24 dev virbr0\n\
         link set virbr0 up\n\
         tuntap add dev tunnel0 mode tun\n\
         addr add 100.101.0.{last}/32 dev tunnel0\n\
         link set tunnel0 up\n",
        v4 = machine.v4,
    )
}

fn ip(namespace: &str, commands: &str) -> Result<()> {
    let mut ip = program("ip");
    ip.args(["-n", namespace, "-batch", "-"]);
    run_with_input(&mut ip, commands.as_bytes())?;
    Ok(())
}

/// Sets switches of /proc/sys/net, which belong to the namespace of who writes.
fn set(namespace: &str, switches: &[&str]) -> Result<()> {
    for switch in switches {
        let mut sh = program_in(namespace, "sh");
        run(sh.arg("-c").arg(format!("echo 1 > /proc/sys/net/{switch}")))?;
    }
    Ok(())
}
