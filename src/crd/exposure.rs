//! Exposure: the way on which clients reach the relays of a region.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Exposure of the relays of a region to their clients.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.type == 'NodePort' || !has(self.nodePort)").message("exposure.nodePort is for type NodePort: set exposure.type to NodePort, or remove nodePort"))]
#[x_kube(validation = Rule::new("self.type == 'LoadBalancer' || !has(self.loadBalancer)").message("exposure.loadBalancer is for type LoadBalancer: set exposure.type to LoadBalancer, or remove loadBalancer"))]
#[x_kube(validation = Rule::new("self.type != 'HostNetwork' || !has(self.hostNetwork) || self.hostNetwork").message("exposure.hostNetwork cannot be false for type HostNetwork: choose type NodePort for relays on the pod network, or remove hostNetwork"))]
#[x_kube(validation = Rule::new("!has(self.networkPolicy) || !self.networkPolicy || (has(self.hostNetwork) ? !self.hostNetwork : self.type != 'HostNetwork')").message("exposure.networkPolicy is for relays on the pod network, as NetworkPolicies do not apply to others: remove it, or set hostNetwork to false"))]
pub struct Exposure {
    /// Type of the exposure. `HostNetwork`: each relay opens the port on its node. `NodePort`: a
    /// Service forwards a port of each node to the relay on that node. `LoadBalancer`: each relay
    /// has a Service with its own address. The default number of relays is then 2, unless
    /// `placement.maxRelays` is set.
    #[serde(default, rename = "type")]
    #[schemars(default)]
    pub kind: ExposureType,
    /// Port on the nodes for type NodePort. It must be in the cluster's node port range, usually
    /// 30000-32767. If empty, the cluster chooses one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub node_port: Option<u16>,
    /// Settings of the Services for type LoadBalancer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_balancer: Option<LoadBalancer>,
    /// Use the network of the node. The default is true for type HostNetwork and false for the
    /// others. Relays on the pod network pass Pod Security `restricted`. They store nothing on
    /// their nodes, and each start registers a new ephemeral device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_network: Option<bool>,
    /// Create a NetworkPolicy for relays on the pod network. The default is true. The policy allows
    /// incoming packets to the relays' UDP port, metrics requests from pods and probes from load
    /// balancers. It denies all other incoming traffic and allows all outgoing traffic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_policy: Option<bool>,
}

labels::label_enum! {
    /// Type of an exposure.
    #[derive(
        Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, JsonSchema,
    )]
    pub enum ExposureType {
        /// The relay opens its port on the network of the node.
        #[default]
        HostNetwork,
        /// A Service forwards a port of each node.
        NodePort,
        /// Each relay has a Service with its own address.
        LoadBalancer,
    }
}

/// Settings of the Services for relays behind load balancers.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.shareAddress) && self.shareAddress || !has(self.basePort)").message("exposure.loadBalancer.basePort is for relays that share an address: set shareAddress, or remove basePort"))]
#[x_kube(validation = Rule::new("!has(self.ipFamilies) || self.ipFamilies.size() < 2 || self.ipFamilies[0] != self.ipFamilies[1]").message("exposure.loadBalancer.ipFamilies names a family twice: remove one"))]
#[x_kube(validation = Rule::new("!has(self.ipFamilies) || self.ipFamilies.size() < 2 || has(self.ipFamilyPolicy) && self.ipFamilyPolicy != 'SingleStack'").message("exposure.loadBalancer.ipFamilies has two families: set ipFamilyPolicy to PreferDualStack or RequireDualStack"))]
#[x_kube(validation = Rule::new("!has(self.elasticIPs) || self.elasticIPs.size() == 0 || !has(self.shareAddress) || !self.shareAddress").message("exposure.loadBalancer.elasticIPs gives each relay an address of its own: remove it, or shareAddress"))]
pub struct LoadBalancer {
    /// `loadBalancerClass` of the Services. If empty, the cluster's default is used. Kubernetes
    /// does not allow a change of the class. A change therefore replaces the Services, and relays
    /// get new addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub class: Option<String>,
    /// Annotations of the Services. They take precedence over the operator's defaults, which
    /// request public addresses on AWS, Azure and Google Cloud.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Networks from which the load balancer accepts packets, if it supports source ranges. If
    /// empty, it accepts packets from everywhere. Relay packets come from the networks of the
    /// clients, not from 100.64.0.0/10.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 64),
        inner(length(max = 49), regex(pattern = "^[0-9a-fA-F.:]+/[0-9]{1,3}$"))
    )]
    pub source_ranges: Vec<String>,
    /// `ipFamilyPolicy` of the Services: the number of IP families.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_family_policy: Option<IpFamilyPolicy>,
    /// `ipFamilies` of the Services. Kubernetes does not allow a change of the first family. Such a
    /// change therefore replaces the Services, and relays get new addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 2))]
    pub ip_families: Vec<IpFamily>,
    /// Give all relays of the region one address, with a different port for each relay. The load
    /// balancer must support this (MetalLB and Cilium do). Packets may then pass through another
    /// node, and relays see the address of that node instead of the client's.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub share_address: bool,
    /// First port of relays that share an address. If empty, `port` is used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    // The last of `MOST_CHOSEN` relays must still have a port.
    #[schemars(range(min = 1, max = 65435))]
    pub base_port: Option<u16>,
    /// Elastic IPs of AWS by zone, for the AWS Load Balancer Controller. Each relay gets an address
    /// of its zone and keeps it. Relays then run in these zones only, unless `placement.zones` is
    /// set. Their number is the number of addresses, unless `placement.maxRelays` is set.
    #[serde(default, rename = "elasticIPs", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["zone".into()]))]
    pub elastic_ips: Vec<ElasticIps>,
}

/// Elastic IPs of one zone.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ElasticIps {
    /// Name of the zone, as in the node label `topology.kubernetes.io/zone`.
    #[schemars(length(min = 1, max = 63))]
    pub zone: String,
    /// Public subnet of the zone for the load balancers, as an ID or a name.
    #[schemars(length(min = 1, max = 255), regex(pattern = "^[^,\\s]+$"))]
    pub subnet: String,
    /// Allocation IDs of the Elastic IPs, one for each relay.
    #[schemars(
        length(min = 1, max = 32),
        inner(length(max = 64), regex(pattern = "^eipalloc-[0-9a-z]+$"))
    )]
    pub allocations: Vec<String>,
}

labels::label_enum! {
    /// Number of IP families of a Service.
    #[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
    pub enum IpFamilyPolicy {
        /// The Service has one IP family.
        SingleStack,
        /// The Service has two IP families if the cluster has two.
        PreferDualStack,
        /// The Service has two IP families, or is refused.
        RequireDualStack,
    }
}

labels::label_enum! {
    /// IP family of a Service.
    #[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
    pub enum IpFamily {
        /// Internet Protocol version 4.
        IPv4,
        /// Internet Protocol version 6.
        IPv6,
    }
}

impl Exposure {
    /// Returns whether relays use the network of their nodes.
    pub fn on_host_network(&self) -> bool {
        self.host_network
            .unwrap_or(self.kind == ExposureType::HostNetwork)
    }
}
