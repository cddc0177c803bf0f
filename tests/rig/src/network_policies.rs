//! NetworkPolicies, enforced: the network plugins of the nodes let everything pass.
//!
//! Each new connection from or to a pod goes to a program of the node, which looks it up in the
//! policies and lets it pass or drops it.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::{
    Rig,
    cluster::Node,
    command::{program_in, run, run_with_input},
    process::Spec,
    progress::Progress,
    tools::Tools,
};

const PROGRAM: &str = "network-policies";
/// Number of the queue from which the program takes packets.
const QUEUE: &str = "100";
const READY: Duration = Duration::from_secs(20);
/// The programs for the rules of each IP version.
const TABLES: [&str; 2] = ["iptables", "ip6tables"];

/// The programs that enforce the policies, one on each node, until this is dropped.
#[derive(Debug)]
pub struct NetworkPolicies<'a> {
    rig: &'a Rig,
}

impl<'a> NetworkPolicies<'a> {
    /// Builds the program, and waits until it decides on each node.
    pub fn enforce(rig: &'a Rig) -> Result<Self> {
        Tools::build_only(PROGRAM, &Progress::stderr())?;
        let this = Self { rig };
        for node in &rig.nodes {
            let program = rig.tools().program(PROGRAM);
            let spec = Spec::new(node.part(PROGRAM), node.machine.namespace, &program)
                .arg(format!("--node-name={}", node.machine.name))
                .arg(format!("--kubeconfig={}", rig.kubeconfig().display()))
                // Each connection, and what was decided.
                .arg("-v=2");
            rig.processes()?.start(&spec)?.wait_until(READY, || {
                let mut cat = program_in(node.machine.namespace, "cat");
                let queues = run(cat.arg("/proc/net/netfilter/nfnetlink_queue"))?;
                let mut queues = queues.lines().filter_map(|l| l.split_whitespace().next());
                ensure!(queues.any(|queue| queue == QUEUE), "it takes no packets");
                Ok(())
            })?;
            divert(node)?;
        }
        Ok(this)
    }

    /// The ends of the logs of its parts.
    pub fn log(&self) -> String {
        let Ok(processes) = self.rig.processes() else {
            return String::new();
        };
        let nodes = self.rig.nodes.iter();
        let records = nodes.filter_map(|node| processes.find(&node.part(PROGRAM)));
        let tails: Vec<_> = records.map(|record| record.log_tail()).collect();
        tails.join("\n")
    }
}

impl Drop for NetworkPolicies<'_> {
    /// Removes the rules first: without the programs they would block everything.
    fn drop(&mut self) {
        for node in &self.rig.nodes {
            for table in TABLES {
                for words in [
                    ["-D", "POSTROUTING", "-j", "POLICIES"].as_slice(),
                    &["-F", "POLICIES"],
                    &["-X", "POLICIES"],
                ] {
                    let mut remove = program_in(node.machine.namespace, table);
                    run(remove.args(["-t", "mangle"]).args(words)).ok();
                }
            }
            if let Ok(processes) = self.rig.processes() {
                processes.stop(&node.part(PROGRAM)).ok();
            }
        }
    }
}

/// Sends each new connection of pods to the queue: after destination addresses of Services are translated,
/// and before source addresses are.
///
/// The program makes such rules of its own where the kernel has `nft_queue`; the rig's may not. As
/// there, what root of the node sends is let through: probes of the kubelet.
fn divert(node: &Node) -> Result<()> {
    let pods = node.machine.pod_networks();
    for (table, pods) in TABLES.into_iter().zip(pods) {
        let neighbours = match table {
            "ip6tables" => "-A POLICIES -p ipv6-icmp -j RETURN\n",
            _ => "",
        };
        let rules = format!(
            "*mangle\n\
             :POLICIES - [0:0]\n\
             {neighbours}\
             -A POLICIES -m owner --uid-owner 0 -j RETURN\n\
             -A POLICIES -m conntrack --ctstate ESTABLISHED,RELATED -j RETURN\n\
             -A POLICIES -s {pods} -j NFQUEUE --queue-num {QUEUE}\n\
             -A POLICIES -d {pods} -j NFQUEUE --queue-num {QUEUE}\n\
             -A POSTROUTING -j POLICIES\n\
             COMMIT\n"
        );
        let mut restore = program_in(node.machine.namespace, format!("{table}-restore"));
        run_with_input(restore.arg("--noflush"), rules.as_bytes())?;
    }
    Ok(())
}
