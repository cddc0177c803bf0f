//! How clients reach the relays of a region.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How clients reach the relays of a region.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.type == 'NodePort' || !has(self.nodePort)").message("exposure.nodePort is for type NodePort: set exposure.type to NodePort, or remove nodePort"))]
#[x_kube(validation = Rule::new("self.type == 'LoadBalancer' || !has(self.loadBalancer)").message("exposure.loadBalancer is for type LoadBalancer: set exposure.type to LoadBalancer, or remove loadBalancer"))]
#[x_kube(validation = Rule::new("self.type != 'HostNetwork' || !has(self.hostNetwork) || self.hostNetwork").message("exposure.hostNetwork cannot be false for type HostNetwork: choose type NodePort for relays on the pod network, or remove hostNetwork"))]
#[x_kube(validation = Rule::new("!has(self.networkPolicy) || !self.networkPolicy || (has(self.hostNetwork) ? !self.hostNetwork : self.type != 'HostNetwork')").message("exposure.networkPolicy is for relays on the pod network, as NetworkPolicies do not apply to others: remove it, or set hostNetwork to false"))]
pub struct Exposure {
    /// `HostNetwork`: relays open the port on their nodes. `NodePort`: a Service leads from a port
    /// of each node to the relay on that node. `LoadBalancer`: each relay has a Service with an
    /// address of its own; 2 relays unless `placement.maxRelays` says otherwise.
    #[serde(default, rename = "type")]
    #[schemars(default)]
    pub kind: ExposureType,
    /// Port of the nodes, for type NodePort; the cluster chooses one when empty. It must be in the
    /// cluster's range, mostly 30000-32767.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub node_port: Option<u16>,
    /// The Services, for type LoadBalancer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_balancer: Option<LoadBalancer>,
    /// Whether relays use the network of their nodes; true for type HostNetwork, false for others.
    /// Relays that do not pass Pod Security `restricted`, keep nothing on their nodes, and are new
    /// ephemeral devices with each start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_network: Option<bool>,
    /// Whether relays on the pod network have a NetworkPolicy, also when this is empty: it lets in
    /// their UDP port, lets pods read their metrics and load balancers probe them, lets nothing else
    /// in, and everything out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_policy: Option<bool>,
}

labels::label_enum! {
    /// What leads to the relays.
    #[derive(
        Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, JsonSchema,
    )]
    pub enum ExposureType {
        /// The node's own network.
        #[default]
        HostNetwork,
        /// A port of each node.
        NodePort,
        /// An address for each relay.
        LoadBalancer,
    }
}

/// The Services of relays behind load balancers.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.shareAddress) && self.shareAddress || !has(self.basePort)").message("exposure.loadBalancer.basePort is for relays that share an address: set shareAddress, or remove basePort"))]
#[x_kube(validation = Rule::new("!has(self.ipFamilies) || self.ipFamilies.size() < 2 || self.ipFamilies[0] != self.ipFamilies[1]").message("exposure.loadBalancer.ipFamilies names a family twice: remove one"))]
#[x_kube(validation = Rule::new("!has(self.ipFamilies) || self.ipFamilies.size() < 2 || has(self.ipFamilyPolicy) && self.ipFamilyPolicy != 'SingleStack'").message("exposure.loadBalancer.ipFamilies has two families: set ipFamilyPolicy to PreferDualStack or RequireDualStack"))]
#[x_kube(validation = Rule::new("!has(self.elasticIPs) || self.elasticIPs.size() == 0 || !has(self.shareAddress) || !self.shareAddress").message("exposure.loadBalancer.elasticIPs gives each relay an address of its own: remove it, or shareAddress"))]
pub struct LoadBalancer {
    /// `loadBalancerClass` of the Services; the cluster's default when empty. A change replaces the
    /// Services, as Kubernetes does not change their class: relays get new addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub class: Option<String>,
    /// Annotations of the Services. They win over the operator's defaults, which ask AWS, Azure and
    /// Google Cloud for addresses that the internet reaches.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Networks whose packets are let in, where the load balancer can tell; all when empty. Relay
    /// packets come from the clients' own networks, not from 100.64.0.0/10.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 64),
        inner(length(max = 49), regex(pattern = "^[0-9a-fA-F.:]+/[0-9]{1,3}$"))
    )]
    pub source_ranges: Vec<String>,
    /// `ipFamilyPolicy` of the Services.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_family_policy: Option<IpFamilyPolicy>,
    /// `ipFamilies` of the Services. A change of the first one replaces the Services, as Kubernetes
    /// does not change it: relays get new addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 2))]
    pub ip_families: Vec<IpFamily>,
    /// Let the relays share one address, each with a port of its own, where the load balancer can
    /// (MetalLB, Cilium). Packets may then come through any node, and relays see that node's
    /// address for the client's.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub share_address: bool,
    /// First port of relays that share an address; `port` when empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65435))]
    pub base_port: Option<u16>,
    /// Elastic IPs of AWS by zone, for the AWS Load Balancer Controller: each relay gets one of its
    /// zone and keeps it. Relays are then in these zones, unless `placement.zones` says otherwise,
    /// and as many as there are addresses, unless `placement.maxRelays` does.
    #[serde(default, rename = "elasticIPs", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["zone".into()]))]
    pub elastic_ips: Vec<ElasticIps>,
}

/// Elastic IPs in one zone.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ElasticIps {
    /// The zone, as in the label `topology.kubernetes.io/zone` of its nodes.
    #[schemars(length(min = 1, max = 63))]
    pub zone: String,
    /// A public subnet there, in which the load balancers are: its id or name.
    #[schemars(length(min = 1, max = 255), regex(pattern = "^[^,\\s]+$"))]
    pub subnet: String,
    /// Allocations, one for each relay.
    #[schemars(
        length(min = 1, max = 32),
        inner(length(max = 64), regex(pattern = "^eipalloc-[0-9a-z]+$"))
    )]
    pub allocations: Vec<String>,
}

labels::label_enum! {
    /// How many IP versions a Service has.
    #[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
    pub enum IpFamilyPolicy {
        /// One.
        SingleStack,
        /// Two where the cluster has two.
        PreferDualStack,
        /// Two.
        RequireDualStack,
    }
}

labels::label_enum! {
    /// An IP version.
    #[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
    pub enum IpFamily {
        /// IPv4.
        IPv4,
        /// IPv6.
        IPv6,
    }
}

impl Exposure {
    /// Whether relays use the network of their nodes.
    pub fn on_host_network(&self) -> bool {
        self.host_network
            .unwrap_or(self.kind == ExposureType::HostNetwork)
    }
}
