//! Firewall rules, applied: the output of `peerrelay firewall` runs in a network namespace whose
//! firewall refuses everything else, and packets are sent there. Needs root, `ip`, `nft`,
//! `iptables` and `bash`.
#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

#[path = "../common/fed.rs"]
mod fed;
mod tools;

use std::{
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

/// Firewall that refuses everything but the discovery of neighbours.
const NFT_REFUSES: &str = r#"nft -f - <<X
table inet filter {
  chain input {
    type filter hook input priority 0; policy drop;
    meta l4proto icmpv6 accept
  }
}
X"#;
const IPTABLES_REFUSES: &str = "iptables -P INPUT DROP; ip6tables -P INPUT DROP; \
                                ip6tables -A INPUT -p ipv6-icmp -j ACCEPT";
/// Counts packets that the firewall lets through. Dropped packets never arrive here.
const COUNT: &str = r#"nft -f - <<X
table inet seen {
  chain input {
    type filter hook input priority 100;
    meta nfproto ipv4 udp dport 40000 counter comment "v4"
    meta nfproto ipv6 udp dport 40000 counter comment "v6"
    udp dport != 40000 counter comment "other"
    meta l4proto tcp counter comment "tcp"
  }
}
X"#;

#[test]
fn nftables_output_lets_relay_packets_through_and_nothing_else() {
    opens("nftables", NFT_REFUSES);
}

#[test]
fn iptables_output_lets_relay_packets_through_and_nothing_else() {
    opens("iptables", IPTABLES_REFUSES);
}

/// Node that forwards from its node port to a pod, as kube-proxy does, and refuses everything else.
const FORWARDS: &str = r#"sysctl -qw net.ipv4.ip_forward=1
nft -f - <<X
table ip proxy {
  chain prerouting {
    type nat hook prerouting priority -100;
    udp dport 30400 dnat to 198.51.100.2:40000
    udp dport 30401 dnat to 198.51.100.2:40001
  }
}
table inet filter {
  chain input { type filter hook input priority 0; policy drop; }
  chain forward { type filter hook forward priority 0; policy drop; }
}
table inet seen {
  chain forward {
    type filter hook forward priority 100;
    udp dport 40000 counter comment "relay"
    udp dport 40001 counter comment "other"
  }
}
X"#;

#[test]
fn nftables_output_lets_node_ports_through_to_pods() {
    forwards("nftables");
}

#[test]
fn iptables_output_lets_node_ports_through_to_pods() {
    forwards("iptables");
}

/// Checks that a packet to the node port reaches the pod, and a packet to another node port does
/// not.
fn forwards(tool: &str) {
    if !can_run() {
        return;
    }
    let pair = Pair::new(&format!("f{tool}"));
    let Pair { host, .. } = &pair;
    // The pod answers nothing: that packets leave for it is enough.
    run(
        "bash",
        &format!(
            "ip -n {host} link add pod0 type veth peer name pod1
         ip -n {host} link set pod0 up; ip -n {host} link set pod1 up
         ip -n {host} addr add 198.51.100.1/24 dev pod0
         ip -n {host} neigh add 198.51.100.2 lladdr 02:00:00:00:00:02 dev pod0"
        ),
    );
    let forwards = match tool {
        "iptables" => {
            FORWARDS.replace(
                "chain forward { type filter hook forward priority 0; policy drop; }",
                "",
            ) + "\niptables -P FORWARD DROP"
        }
        _ => FORWARDS.to_owned(),
    };
    pair.host(&forwards);
    let send = || {
        let script = "echo relay > /dev/udp/192.0.2.1/30400; echo other > /dev/udp/192.0.2.1/30401
             sleep 0.2";
        run(&format!("ip netns exec {} bash", pair.client), script);
        ["relay", "other"].map(|sort| pair.count("forward", sort))
    };
    assert_eq!(send(), [0, 0], "nothing is open yet");
    pair.host(&printed_for(NODE_PORT, tool, &[]));
    assert_eq!(send(), [1, 0], "{tool}: the node port, another one");
}

/// Relays on the pod network behind a node port.
const NODE_PORT: &str = "
apiVersion: peerrelay.dev/v1alpha1
kind: PeerRelay
metadata: {name: edge, namespace: relays}
spec:
  tailnet: {authKey: {secretName: tailnet-auth}}
  regions:
  - {name: office, clients: ['tag:office'], exposure: {type: NodePort, nodePort: 30400}}
";

fn can_run() -> bool {
    let missing = missing();
    if let Some(missing) = &missing {
        skips::record_unless_ci(&format!("{missing}; `cargo dev test` as root runs it"));
    }
    missing.is_none()
}

fn opens(tool: &str, refuse: &str) {
    if !can_run() {
        return;
    }
    let pair = Pair::new(tool);
    pair.host(refuse);
    pair.host(COUNT);
    pair.send();
    assert_eq!(pair.seen(), [0, 0, 0, 0], "nothing is open yet");
    pair.host(&printed(tool, &[]));
    pair.send();
    assert_eq!(pair.seen(), [1, 1, 0, 0], "{tool}: v4, v6, other UDP, TCP");
}

/// Guides recommend tailnet addresses as the source, which lets in no client.
#[test]
fn tailnet_addresses_as_source_let_no_client_in() {
    if !can_run() {
        return;
    }
    let pair = Pair::new("source");
    pair.host(NFT_REFUSES);
    pair.host(COUNT);
    pair.host(&printed(
        "nftables",
        &["--source", "100.64.0.0/10,fd7a:115c:a1e0::/48"],
    ));
    pair.send();
    assert_eq!(pair.seen(), [0, 0, 0, 0]);
}

/// Returns the output of the program for the smallest example.
fn printed(tool: &str, more: &[&str]) -> String {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/examples/smallest.yaml");
    printed_for(&std::fs::read_to_string(example).unwrap(), tool, more)
}

/// Returns the output of the program for a manifest.
fn printed_for(manifest: &str, tool: &str, more: &[&str]) -> String {
    let mut program = Command::new(env!("CARGO_BIN_EXE_peerrelay"));
    program
        .args(["firewall", "-f", "-", "--for", tool])
        .args(more);
    let mut child = program
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(manifest.as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// Two network namespaces with a link. `host` has the firewall. Both are removed when this is
/// dropped.
struct Pair {
    host: String,
    client: String,
}

impl Pair {
    fn new(name: &str) -> Self {
        let own = |end: &str| format!("prf-{name}-{}-{end}", std::process::id());
        let pair = Self {
            host: own("host"),
            client: own("client"),
        };
        let Self { host, client } = &pair;
        run("bash", &format!(
            "ip netns add {host}; ip netns add {client}
             ip -n {host} link add eth0 type veth peer name eth0 netns {client}
             ip -n {host} addr add 192.0.2.1/24 dev eth0; ip -n {client} addr add 192.0.2.2/24 dev eth0
             ip -n {host} addr add 2001:db8::1/64 dev eth0 nodad
             ip -n {client} addr add 2001:db8::2/64 dev eth0 nodad
             ip -n {host} link set eth0 up; ip -n {client} link set eth0 up"
        ));
        pair
    }

    /// Runs a script on the host.
    fn host(&self, script: &str) -> String {
        run(&format!("ip netns exec {} bash", self.host), script)
    }

    /// Sends one packet of each kind: UDP to the port on IPv4 and on IPv6, UDP to another port,
    /// TCP.
    fn send(&self) {
        let script = "echo relay > /dev/udp/192.0.2.1/40000
             echo relay > /dev/udp/2001:db8::1/40000
             echo other > /dev/udp/192.0.2.1/40001
             echo other > /dev/udp/192.0.2.1/22
             timeout 0.3 bash -c ': > /dev/tcp/192.0.2.1/40000' 2>/dev/null || true
             sleep 0.2";
        run(&format!("ip netns exec {} bash", self.client), script);
    }

    /// Returns the number of packets that the firewall has let through, by kind.
    fn seen(&self) -> [u64; 4] {
        ["v4", "v6", "other", "tcp"].map(|sort| self.count("input", sort))
    }

    /// Returns the number of packets that a rule of the table `seen` has counted.
    fn count(&self, chain: &str, sort: &str) -> u64 {
        let table = self.host(&format!("nft -j list chain inet seen {chain}"));
        let table: serde_json::Value = serde_json::from_str(&table).unwrap();
        let entries = table["nftables"].as_array().unwrap().iter();
        let mut rules = entries.filter(|entry| entry["rule"]["comment"] == sort);
        let rule = rules.next().unwrap()["rule"]["expr"].as_array().unwrap();
        let counter = rule.iter().find_map(|expression| expression.get("counter"));
        counter.unwrap()["packets"].as_u64().unwrap()
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        for namespace in [&self.host, &self.client] {
            Command::new("ip")
                .args(["netns", "del", namespace])
                .status()
                .ok();
        }
    }
}

/// Runs a script that must succeed, and returns its output.
fn run(shell: &str, script: &str) -> String {
    let words: Vec<_> = shell.split(' ').collect();
    let mut child = Command::new(words[0])
        .args(&words[1..])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let script = format!("set -e\n{script}\n");
    child
        .stdin
        .take()
        .unwrap()
        .write_all(script.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

/// Returns the reason why this machine cannot run the tests.
fn missing() -> Option<String> {
    let owner =
        std::fs::metadata("/proc/self").map(|own| std::os::unix::fs::MetadataExt::uid(&own));
    if owner.unwrap_or(1) != 0 {
        return Some("network namespaces need root".into());
    }
    let paths = std::env::var("PATH").unwrap_or_default();
    let has = |program: &str| {
        paths
            .split(':')
            .any(|dir| Path::new(dir).join(program).exists())
    };
    let program = ["ip", "nft", "iptables", "ip6tables", "bash"]
        .into_iter()
        .find(|p| !has(p))?;
    Some(format!("there is no {program}"))
}
