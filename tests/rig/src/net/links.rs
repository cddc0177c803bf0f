//! Links that differ from the usual: narrow ones, and a node's second uplink.

use anyhow::{Context, Result};
use serde_json::Value;

use super::{CLIENTS, Machine, NODES, Network, ROUTER, ip};
use crate::command::{program_in, run, run_with_input};

/// Longest packet of a link, in bytes, unless a scenario sets another one.
const USUAL_MTU: u16 = 1_500;
/// The node with a second uplink, and the link's end at the router.
const NODE: Machine = NODES[0];
const UPLINK: &str = "uplink-n1";
/// The name of the link's end at the node.
const DEVICE: &str = "eth1";
/// Address of the node on its second uplink.
pub const UPLINK_V4: &str = "10.92.0.11";
const GATEWAY: &str = "10.92.0.1";

impl Network {
    /// Lets packets of at most `mtu` bytes pass between a client and the router.
    pub fn narrow(&self, client: &Machine, mtu: u16) -> Result<()> {
        ip(ROUTER, &format!("link set {} mtu {mtu}\n", client.link()))?;
        ip(client.namespace, &format!("link set eth0 mtu {mtu}\n"))
    }

    /// Gives the first node a second uplink, as a second provider would: packets with its address leave
    /// by it or not at all, and the router counts and drops packets on the wrong uplink.
    pub fn add_uplink(&self) -> Result<()> {
        let node = NODE.namespace;
        ip(
            ROUTER,
            &format!(
                "link add {UPLINK} type veth peer name {DEVICE} netns {node}\n\
                 addr add {GATEWAY}/24 dev {UPLINK}\n\
                 link set {UPLINK} up\n"
            ),
        )?;
        ip(
            node,
            &format!(
                "addr add {UPLINK_V4}/24 dev {DEVICE}\n\
                 link set {DEVICE} up\n\
                 rule add from {UPLINK_V4} table 92\n\
                 route add default via {GATEWAY} table 92\n\
                 route add unreachable default metric 9 table 92\n"
            ),
        )?;
        let rules = format!(
            "table ip uplink {{\n counter wrong {{ }}\n chain forward {{\n type filter hook forward \
             priority -1;\n iifname != \"{UPLINK}\" ip saddr {UPLINK_V4} counter name wrong drop\n \
             iifname \"{UPLINK}\" ip saddr != {UPLINK_V4} counter name wrong drop\n }}\n}}\n"
        );
        let mut nft = program_in(ROUTER, "nft");
        run_with_input(nft.args(["-f", "-"]), rules.as_bytes()).map(drop)
    }

    /// Takes the node's end of that uplink down, or brings it up with the route it had.
    pub fn set_uplink(&self, up: bool) -> Result<()> {
        let commands = match up {
            true => format!("link set {DEVICE} up\nroute replace default via {GATEWAY} table 92\n"),
            false => format!("link set {DEVICE} down\n"),
        };
        ip(NODE.namespace, &commands)
    }

    /// Number of packets that came by the wrong one of the two uplinks.
    pub fn strays(&self) -> Result<u64> {
        let mut nft = program_in(ROUTER, "nft");
        let text = run(nft.args(["-j", "list", "counter", "ip", "uplink", "wrong"]))?;
        let list: Value = serde_json::from_str(&text)?;
        let objects = list["nftables"].as_array().context("nft gave no list")?;
        let packets = objects
            .iter()
            .find_map(|o| o["counter"]["packets"].as_u64());
        packets.context("nft gave no counter")
    }

    /// Makes every link the usual one again, and takes the second uplink away.
    pub fn restore_links(&self) -> Result<()> {
        for client in &CLIENTS {
            self.narrow(client, USUAL_MTU)?;
        }
        // Each command fails where there is nothing to remove.
        for (namespace, words) in [
            (ROUTER, &["ip", "link", "delete", UPLINK][..]),
            (ROUTER, &["nft", "delete", "table", "ip", "uplink"]),
            (NODE.namespace, &["ip", "rule", "delete", "table", "92"]),
            (NODE.namespace, &["ip", "route", "flush", "table", "92"]),
        ] {
            run(program_in(namespace, words[0]).args(&words[1..])).ok();
        }
        Ok(())
    }
}
