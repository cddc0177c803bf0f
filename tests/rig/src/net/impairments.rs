//! Impairments of the paths of clients: translations that forget, loss, duplicates and other order.

use anyhow::{Context, Result};
use serde_json::Value;

use super::{CLIENTS, NODES, Network, ROUTER};
use crate::command::{program_in, run, run_with_input};

/// Table of the router's translations, and of those in the clients' own namespaces.
const TRANSLATIONS: &str = "translations";
/// Table of the router's rules for [`Impairment`].
const IMPAIRED: &str = "impaired";
/// Class of packets that are late, in the notation of `tc`. HTB reads it from the packet's priority.
const LATE: &str = "1:20";
/// Seconds after which the router forgets a UDP flow that is silent: as short as home routers have it, and
/// what Linux does.
const SHORT: [u32; 2] = [30, 30];
const USUAL: [u32; 2] = [30, 120];

/// Address translation between c1, c2 and everything else.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Nat {
    /// One router for both clients, with another random port for each destination, that forgets flows
    /// which are silent for 30 s.
    Symmetric,
    /// The same as the carrier's router, and a router of its own before each client.
    Carrier,
}

/// Impairment of UDP between clients and everything else, in percent of packets.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Impairment {
    /// Packets that are lost.
    pub lost: u8,
    /// IPv4 packets that arrive twice.
    pub duplicated: u8,
    /// Packets that arrive later than packets behind them.
    pub late: u8,
}

impl Network {
    /// Puts c1 and c2 behind address translation.
    pub fn translate(&self, nat: Nat) -> Result<()> {
        let links = "{ \"client-c1\", \"client-c2\" }";
        translate_in(ROUTER, &format!("iifname {links}"))?;
        set_timeouts(SHORT)?;
        for client in &CLIENTS[..2] {
            if nat == Nat::Carrier {
                translate_in(client.namespace, "oifname \"eth0\"")?;
            }
            self.forget(client.name)?;
        }
        Ok(())
    }

    /// Impairs all packets of clients from now on, as this says.
    pub fn impair(&self, impairment: &Impairment) -> Result<()> {
        let mut nft = program_in(ROUTER, "nft");
        run_with_input(nft.args(["-f", "-"]), rules(impairment).as_bytes())?;
        for client in &CLIENTS {
            // What is late waits for its turn at 4 Mbit/s, about 3 ms for each packet before it.
            let link = client.link();
            for words in [
                format!("qdisc replace dev {link} root handle 1: htb default 10"),
                format!("class replace dev {link} parent 1: classid 1:10 htb rate 10gbit"),
                format!("class replace dev {link} parent 1: classid {LATE} htb rate 4mbit"),
            ] {
                run(program_in(ROUTER, "tc").args(words.split(' ')))?;
            }
        }
        Ok(())
    }

    /// Number of packets that [`Network::impair`] has lost, delayed and duplicated.
    pub fn impaired_packets(&self) -> Result<[u64; 3]> {
        let count = |family, name| {
            let words = ["-j", "list", "counter", family, IMPAIRED, name];
            let text = run(program_in(ROUTER, "nft").args(words))?;
            let list: Value = serde_json::from_str(&text)?;
            let objects = list["nftables"].as_array().context("nft gave no list")?;
            let mut packets = objects
                .iter()
                .filter_map(|object| object["counter"]["packets"].as_u64());
            packets.next().context("nft gave no counter")
        };
        Ok([
            count("inet", "lost")?,
            count("inet", "late")?,
            count("ip", "duplicated")?,
        ])
    }

    /// Ends all translations of [`Network::translate`] and impairments.
    pub fn restore_paths(&self) -> Result<()> {
        // Each command fails where there is nothing to remove.
        let delete = |namespace, family, table| {
            run(program_in(namespace, "nft").args(["delete", "table", family, table])).ok();
        };
        delete(ROUTER, "inet", IMPAIRED);
        delete(ROUTER, "ip", IMPAIRED);
        delete(ROUTER, "inet", TRANSLATIONS);
        for client in &CLIENTS {
            delete(client.namespace, "inet", TRANSLATIONS);
            let words = ["qdisc", "delete", "dev", &client.link(), "root"];
            run(program_in(ROUTER, "tc").args(words)).ok();
        }
        set_timeouts(USUAL)?;
        CLIENTS[..2]
            .iter()
            .try_for_each(|client| self.forget(client.name))
    }
}

fn translate_in(namespace: &str, from: &str) -> Result<()> {
    let rules = format!(
        "table inet {TRANSLATIONS} {{}}\ndelete table inet {TRANSLATIONS}\ntable inet {TRANSLATIONS} {{\n \
         chain postrouting {{\n type nat hook postrouting priority srcnat - 1;\n {from} meta l4proto \
         udp masquerade fully-random\n }}\n}}\n"
    );
    let mut nft = program_in(namespace, "nft");
    run_with_input(nft.args(["-f", "-"]), rules.as_bytes()).map(drop)
}

/// Sets the times after which the router forgets flows: those without an answer, and others.
fn set_timeouts([unanswered, answered]: [u32; 2]) -> Result<()> {
    for (switch, seconds) in [
        ("nf_conntrack_udp_timeout", unanswered),
        ("nf_conntrack_udp_timeout_stream", answered),
    ] {
        let write = format!("echo {seconds} > /proc/sys/net/netfilter/{switch}");
        run(program_in(ROUTER, "sh").args(["-c", &write]))?;
    }
    Ok(())
}

/// Rules of the router, as input for nft.
fn rules(impairment: &Impairment) -> String {
    let Impairment {
        lost,
        duplicated,
        late,
    } = impairment;
    let mut forward = String::new();
    for side in ["iifname", "oifname"] {
        let udp = format!("{side} \"client-*\" meta l4proto udp numgen random mod 100");
        if *lost > 0 {
            forward += &format!("  {udp} < {lost} counter name lost drop\n");
        }
        if *late > 0 && side == "oifname" {
            forward += &format!("  {udp} < {late} counter name late meta priority set {LATE}\n");
        }
    }
    // A copy needs its next hop and device.
    let machines = NODES.iter().map(|node| (node, "br0".to_owned()));
    let clients = CLIENTS.iter().map(|client| (client, client.link()));
    let copies = machines.chain(clients).filter(|_| *duplicated > 0);
    let copies: String = copies
        .map(|(machine, device)| {
            let v4 = machine.v4;
            format!(
                "  ip daddr {v4} meta l4proto udp numgen random mod 100 < {duplicated} counter name \
                 duplicated dup to {v4} device \"{device}\"\n"
            )
        })
        .collect();
    format!(
        "table inet {IMPAIRED} {{}}\ndelete table inet {IMPAIRED}\n\
         table inet {IMPAIRED} {{\n counter lost {{ }}\n counter late {{ }}\n chain forward {{\n  \
         type filter hook forward priority filter - 1;\n{forward} }}\n}}\n\
         table ip {IMPAIRED} {{}}\ndelete table ip {IMPAIRED}\n\
         table ip {IMPAIRED} {{\n counter duplicated {{ }}\n chain prerouting {{\n  \
         type filter hook prerouting priority raw;\n{copies} }}\n}}\n"
    )
}
