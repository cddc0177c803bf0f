//! Configuration files of a node.

use std::path::Path;

use serde_json::{Value, json};

use super::Node;
use crate::{
    cluster::{cgroup, image},
    packages::CNI_PLUGINS,
};

/// The configuration of containerd, with nothing outside of `dir`.
pub(super) fn containerd(dir: &Path) -> String {
    let dir = dir.display();
    let pause = image::PAUSE;
    format!(
        r#"version = 2
root = "{dir}/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.internal.v1.opt"]

[grpc]
address = "{dir}/containerd.sock"

[ttrpc]
address = "{dir}/containerd.sock.ttrpc"

[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{pause}"
# Without CAP_SYS_RESOURCE a score below containerd's own is refused.
restrict_oom_score_adj = true

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{CNI_PLUGINS}"
conf_dir = "{dir}/cni-conf"
"#
    )
}

/// The network of the node's pods: a bridge, IPv4 and IPv6, host ports.
pub(super) fn cni(node: &Node) -> String {
    let ranges = node
        .machine
        .pod_networks()
        .map(|subnet| json!([{ "subnet": subnet }]));
    let list = json!({
        "cniVersion": "1.0.0",
        "name": "pods",
        "plugins": [
            {
                "type": "bridge",
                "bridge": "cni0",
                "isGateway": true,
                "hairpinMode": true,
                "ipam": {
                    "type": "host-local",
                    "ranges": ranges,
                    "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ],
    });
    list.to_string()
}

pub(super) fn kubelet(node: &Node) -> Value {
    let (dir, pki, name) = (&node.dir, &node.pki, node.machine.name);
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": pki.ca()},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": pki.path(format!("{name}-kubelet.crt")),
        "tlsPrivateKeyFile": pki.path(format!("{name}-kubelet.key")),
        "containerRuntimeEndpoint": format!("unix://{}/containerd.sock", dir.display()),
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": format!("/{}", cgroup::name(node.machine.namespace)),
        "failCgroupV1": false,
        "enforceNodeAllocatable": [],
        "failSwapOn": false,
        "localStorageCapacityIsolation": false,
        "oomScoreAdj": 0,
        "podLogsDir": dir.join("pods"),
        "volumePluginDir": dir.join("plugins"),
        // There is no cluster DNS, and the host's servers cannot be reached from here.
        "resolvConf": "",
        // How full the disk is says nothing about the rig, and images cannot be pulled again.
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {"memory.available": "50Mi"},
        // With so few pods, a slow retry would be most of a test's time.
        "syncFrequency": "10s",
        "nodeStatusUpdateFrequency": "5s",
    })
}
