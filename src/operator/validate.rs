//! From a `PeerRelay` as written to one that every builder can rely on.

mod endpoints;

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Resource, ResourceExt};
use url::Url;

pub use self::endpoints::InvalidEndpoints;
use super::{
    build::monitoring::MonitoringKind,
    overrides::{self, OverrideError, Shape},
    plan::Plan,
    tailnet,
    withdrawal::Leaving,
};
use crate::{
    config::{data_path::DataPath, endpoints::EndpointsConfig, log_level::LogLevel},
    crd::{
        PeerRelay,
        exposure::Exposure,
        grants::{GrantsOutput, GrantsTests},
        limits::Limits,
        monitoring::Monitoring,
        peer_relay::Region,
        placement::Placement,
        template::Template,
    },
    grants::{Policy, RegionGrant, Selector, SelectorError},
    names,
};

/// A `PeerRelay` that can be built; the only input of builders.
#[derive(Debug, Clone)]
pub struct ValidSpec {
    /// Name.
    pub name: String,
    /// Namespace.
    pub namespace: String,
    /// Makes the garbage collector remove children with it.
    pub owner: OwnerReference,
    /// Whether relays run.
    pub enabled: bool,
    /// UDP port.
    pub port: u16,
    /// TCP port of metrics and probes on the node's loopback address.
    pub metrics_port: u16,
    /// Secret with the auth key.
    pub auth_key_secret: String,
    /// Control server, unless it is tailscale.com's.
    pub control_url: Option<Url>,
    /// Further certificate authorities, PEM.
    pub ca_bundle: Option<String>,
    /// Begins device names.
    pub hostname_prefix: String,
    /// Whether devices are ephemeral.
    pub ephemeral: bool,
    /// Relays in total at most.
    pub max_relays: Option<u16>,
    /// Most sessions of a relay.
    pub limits: Limits,
    /// What forwards packets.
    pub data_path: DataPath,
    /// How much they log.
    pub log_level: LogLevel,
    /// Regions, in their order.
    pub regions: Vec<ValidRegion>,
    /// What scrapes and judges the relays.
    pub monitoring: Monitoring,
    /// Kinds of prometheus-operator that the cluster knows; none until it is asked.
    pub monitoring_kinds: BTreeSet<MonitoringKind>,
    /// Where the policy is written.
    pub grants_output: GrantsOutput,
    /// How their pods are made.
    pub template: Template,
    /// Image of the relays.
    pub image: RelayImage,
    /// Further variables of the relays; none until the operator's defaults are filled in.
    pub environment: BTreeMap<String, String>,
    /// Relays that are about to be removed; none until the cluster is asked.
    pub leaving: Option<Leaving>,
    /// Relays that wait to be replaced, and for whom; none until the cluster is asked.
    pub held_back: Option<String>,
}

/// A region that can be built.
#[derive(Debug, Clone)]
pub struct ValidRegion {
    /// Name.
    pub name: String,
    /// Tag of its relays.
    pub tag: String,
    /// Name of all its objects.
    pub child: String,
    /// What the tailnet policy must say.
    pub grant: RegionGrant,
    /// Nodes.
    pub placement: Placement,
    /// How clients reach them.
    pub exposure: Exposure,
    /// What the cluster decides; empty until it is asked.
    pub plan: Plan,
    /// What its relays advertise.
    pub endpoints: EndpointsConfig,
}

impl ValidRegion {
    /// Names of the DaemonSets that run its relays.
    pub fn daemon_sets(&self) -> Vec<String> {
        match &self.plan.chosen {
            None => vec![self.child.clone()],
            Some(nodes) => nodes
                .iter()
                .map(|node| names::on_node(&self.child, node))
                .collect(),
        }
    }
}

/// The image that relays run.
#[derive(Debug, Clone)]
pub struct RelayImage {
    /// Reference.
    pub reference: String,
    /// `imagePullPolicy`.
    pub pull_policy: String,
}

/// What only looking at it can find; admission has refused the rest.
#[derive(Debug, thiserror::Error)]
pub enum InvalidRelay {
    /// Read from the API without identity; cannot happen.
    #[error("PeerRelay has no {0}")]
    Incomplete(&'static str),
    /// No name that every object of the PeerRelay could begin with.
    #[error(
        "metadata.name {0} cannot begin the names of Services, which are lower-case letters, \
         digits and dashes, begin with a letter and end with a letter or digit: create the \
         PeerRelay under another name of at most 40 characters, such as {1}, and delete this one"
    )]
    Name(String, String),
    /// No name that every object of the region could have.
    #[error(
        "name of region {0} cannot be a part of the names of Services, which are lower-case \
         letters, digits and dashes, begin with a letter and end with a letter or digit: rename \
         it, to at most 20 characters, and not to grants, metrics or dashboard"
    )]
    RegionName(String),
    /// Not a URL.
    #[error("tailnet.controlURL is not a URL: {0}; write it as https://control.example.net")]
    ControlUrl(url::ParseError),
    /// Not a patch, or one that would break relays.
    #[error(transparent)]
    Overrides(#[from] OverrideError),
    /// Names nobody.
    #[error("clients of region {region}: {source}")]
    Client {
        /// Name of the region.
        region: String,
        /// What is wrong with it.
        source: SelectorError,
    },
    /// Every device would be a relay.
    #[error(
        "tag of region {0} is '*': every device of the tailnet would become a relay that clients \
         try; name a tag that only relays have"
    )]
    EveryoneRelays(String),
    /// The relays' own tag is a client.
    #[error(
        "clients of region {0} has the relays' own tag: set selfRelay instead, if devices with \
         it relay for themselves"
    )]
    OwnTag(String),
    /// What a region's relays should advertise.
    #[error("region {region}: {source}")]
    Endpoints {
        /// Name of the region.
        region: String,
        /// What is wrong.
        source: InvalidEndpoints,
    },
}

impl ValidSpec {
    /// What the tailnet policy must say.
    pub fn policy(&self) -> Policy {
        Policy::new(self.regions.iter().map(|r| r.grant.clone()).collect())
    }
}

/// Checks `relay` and fills in what depends on its name.
///
/// # Errors
/// What the user must correct.
pub fn validate(relay: &PeerRelay, image: &RelayImage) -> Result<ValidSpec, InvalidRelay> {
    let name = relay.name_any();
    let joined = &relay.spec.tailnet;
    let control_url = joined.control_url.as_deref().map(Url::parse).transpose();
    let namespace = relay
        .namespace()
        .ok_or(InvalidRelay::Incomplete("namespace"))?;
    if !names::is_peer_relay_name(&name) {
        let other = names::suggestion(&name);
        return Err(InvalidRelay::Name(name, other));
    }
    let region = |region: &Region| {
        if !names::is_region_name(&region.name) {
            return Err(InvalidRelay::RegionName(region.name.clone()));
        }
        let endpoints = endpoints::validate(region).map_err(|source| {
            let region = region.name.clone();
            InvalidRelay::Endpoints { region, source }
        })?;
        Ok(ValidRegion {
            name: region.name.clone(),
            tag: region.tag(),
            child: names::child(&name, &region.name),
            grant: grant(region, &namespace, &name, relay.spec.grants.tests)?,
            placement: placement(region),
            exposure: region.exposure.clone().unwrap_or_default(),
            plan: Plan::default(),
            endpoints,
        })
    };
    let regions = relay.spec.regions.iter().map(region);
    let regions = regions.collect::<Result<Vec<_>, InvalidRelay>>()?;
    let template = relay.spec.template.clone().unwrap_or_default();
    if let Some(patch) = &template.pod_overrides {
        overrides::check(patch)?;
        for region in &regions {
            let shape = Shape {
                region: &region.name,
                on_host: region.exposure.on_host_network(),
            };
            overrides::check_shape(patch, shape)?;
        }
    }
    Ok(ValidSpec {
        owner: relay
            .controller_owner_ref(&())
            .ok_or(InvalidRelay::Incomplete("uid"))?,
        enabled: relay.spec.enabled,
        port: relay.spec.port,
        metrics_port: relay.spec.monitoring.port_beside(relay.spec.port),
        auth_key_secret: joined.auth_key.secret_name.clone(),
        control_url: control_url.map_err(InvalidRelay::ControlUrl)?,
        ca_bundle: joined.ca_bundle.clone(),
        hostname_prefix: joined
            .hostname_prefix
            .clone()
            .unwrap_or_else(|| name.clone()),
        ephemeral: joined.ephemeral,
        limits: relay.spec.limits.unwrap_or_default(),
        data_path: relay.spec.data_path,
        log_level: relay.spec.log_level,
        max_relays: tailnet::limit(relay),
        regions,
        template,
        monitoring: relay.spec.monitoring.clone(),
        monitoring_kinds: BTreeSet::new(),
        grants_output: relay.spec.grants.output,
        image: image.clone(),
        environment: BTreeMap::new(),
        leaving: None,
        held_back: None,
        namespace,
        name,
    })
}

/// Relays with Elastic IPs are in zones that have some, unless the user names others.
fn placement(region: &Region) -> Placement {
    let mut placement = region.placement.clone().unwrap_or_default();
    let exposure = region.exposure.as_ref();
    if let Some(balancer) = exposure.and_then(|e| e.load_balancer.as_ref())
        && placement.zones.is_empty()
    {
        let zones = balancer.elastic_ips.iter().map(|pool| pool.zone.clone());
        placement.zones = zones.collect();
    }
    placement
}

fn grant(
    region: &Region,
    namespace: &str,
    relay: &str,
    tests: GrantsTests,
) -> Result<RegionGrant, InvalidRelay> {
    let (name, tag) = (&region.name, region.tag());
    let client = |text: &String| {
        Selector::parse(text).map_err(|source| InvalidRelay::Client {
            region: name.clone(),
            source,
        })
    };
    if tag == "*" {
        return Err(InvalidRelay::EveryoneRelays(name.clone()));
    }
    if !region.self_relay && region.clients.contains(&tag) {
        return Err(InvalidRelay::OwnTag(name.clone()));
    }
    Ok(RegionGrant {
        origin: format!("region {name} of {namespace}/{relay}"),
        clients: region
            .clients
            .iter()
            .map(client)
            .collect::<Result<_, _>>()?,
        self_relay: region.self_relay,
        deny_tests: tests == GrantsTests::Deny,
        tag,
    })
}
