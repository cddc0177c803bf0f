//! Validation of a `PeerRelay`. The result is a specification that every later step can rely on.
//! Pure.

mod endpoints;
mod policy;
mod tailnet_access;

use std::collections::BTreeMap;

use kube::{Resource, ResourceExt};

pub use self::{
    endpoints::InvalidEndpoints,
    policy::{PolicyAccess, policy_access},
    tailnet_access::{
        AccountSource, ApiAccount, Credential, SecretNamespace, TailnetAccess, deletion_credential,
    },
};
use super::{
    defaults::{Defaults, RelayImage},
    objects::Owner,
    overrides::{self, OverrideError, Shape},
    referred_credential::{ReferenceError, Referred, control_server},
    tailnet,
};
use crate::{
    config::{data_path::DataPath, endpoints::EndpointsConfig, log_level::LogLevel},
    crd::{
        PeerRelay,
        exposure::{Exposure, ExposureType},
        grants::{GrantsOutput, GrantsTests},
        limits::Limits,
        monitoring::Monitoring,
        peer_relay::Region,
        placement::{MOST_CHOSEN, Placement},
        template::Template,
    },
    firewall,
    grants::{Policy, RegionGrant, Selector, SelectorError},
    names,
};

/// Relays of a region behind load balancers unless the PeerRelay names a number: each costs an
/// address.
const BALANCED_RELAYS: u16 = 2;

/// Reason of a PeerRelay whose specification has a fault.
pub const INVALID_SPEC: &str = "InvalidSpec";

/// The specification of a `PeerRelay` that can be planned and built, with the operator's defaults.
#[derive(Debug, Clone)]
pub struct ValidSpec {
    /// Identity of the PeerRelay.
    pub owner: Owner,
    /// True if relays run.
    pub enabled: bool,
    /// UDP port of the relays.
    pub port: u16,
    /// TCP port of metrics and probes.
    pub metrics_port: u16,
    /// Access to the tailnet.
    pub tailnet: TailnetAccess,
    /// Most relays of all regions together.
    pub max_relays: Option<u16>,
    /// Regions, in their order.
    pub regions: Vec<ValidRegion>,
    /// Settings that every relay of the PeerRelay has.
    pub settings: RelaySettings,
    /// Scraping, alerts and dashboards.
    pub monitoring: Monitoring,
    /// Place where the tailnet policy is written.
    pub grants_output: GrantsOutput,
    /// Access to the policy of the tailnet. `None` if the operator does not access it.
    pub policy_access: Option<PolicyAccess>,
    /// Form of the relays' pods.
    pub pods: PodSettings,
}

/// The settings that every relay of a PeerRelay has.
#[derive(Debug, Clone)]
pub struct RelaySettings {
    /// Limits of sessions and traffic.
    pub limits: Limits,
    /// Part of the system that forwards packets.
    pub data_path: DataPath,
    /// Level of the log.
    pub log_level: LogLevel,
}

/// The form of the relays' pods.
#[derive(Debug, Clone)]
pub struct PodSettings {
    /// Image of the relays.
    pub image: RelayImage,
    /// Changes of the pods.
    pub template: Template,
    /// Further environment variables of the relays.
    pub environment: BTreeMap<String, String>,
}

/// A region that can be planned and built.
#[derive(Debug, Clone)]
pub struct ValidRegion {
    /// Name of the region.
    pub name: String,
    /// Tag of its relays.
    pub tag: String,
    /// Name of all its objects.
    pub child: String,
    /// Rule that the tailnet policy must have.
    pub grant: RegionGrant,
    /// Rules for the nodes of its relays.
    pub placement: Placement,
    /// Most relays of the region, if its number is limited.
    pub max_relays: Option<u16>,
    /// Exposure of its relays to clients.
    pub exposure: Exposure,
    /// Endpoints of its relays that the PeerRelay sets.
    pub endpoints: EndpointsConfig,
}

/// Fault of a PeerRelay that admission cannot detect.
#[derive(Debug, thiserror::Error)]
pub enum InvalidRelay {
    /// The object has no identity, which the API server always gives it.
    #[error("PeerRelay has no {0}")]
    Incomplete(&'static str),
    /// The names of some objects cannot begin with the name of the PeerRelay.
    #[error(
        "metadata.name {0} cannot begin the names of Services, which are lower-case letters, \
         digits and dashes, begin with a letter and end with a letter or digit: create the \
         PeerRelay under another name of at most 40 characters, such as {1}, and delete this one"
    )]
    Name(String, String),
    /// The names of some objects cannot contain the name of the region.
    #[error(
        "name of region {0} cannot be a part of the names of Services, which are lower-case \
         letters, digits and dashes, begin with a letter and end with a letter or digit: rename \
         it, to at most 20 characters, and not to grants, metrics or dashboard"
    )]
    RegionName(String),
    /// The URL of the control server cannot be parsed.
    #[error("tailnet.controlURL is not a URL: {0}; write it as https://control.example.net")]
    ControlUrl(url::ParseError),
    /// The URL of the API cannot be parsed.
    #[error("tailnet.apiURL is not a URL: {0}; write it as https://api.example.net")]
    ApiUrl(url::ParseError),
    /// The operator has no credential for the policy.
    #[error(
        "grants.sync needs either grants.oauth, grants.workloadIdentity or grants.apiKey; set one, or set \
         grants.sync to Off"
    )]
    PolicyCredential,
    /// The relays have no credential, or several.
    #[error("tailnet must have either authKey, oauth, workloadIdentity or credentialsRef")]
    Credential,
    /// The TailnetCredential of the PeerRelay cannot be used.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// The patch of the pods has a fault, or would break relays.
    #[error(transparent)]
    Overrides(#[from] OverrideError),
    /// A client names no device.
    #[error("clients of region {region}: {source}")]
    Client {
        /// Name of the region.
        region: String,
        /// Fault of the client.
        source: SelectorError,
    },
    /// Every device of the tailnet would be a relay.
    #[error(
        "tag of region {0} is '*': every device of the tailnet would become a relay that clients \
         try; name a tag that only relays have"
    )]
    EveryoneRelays(String),
    /// The clients of a region have the tag of its relays.
    #[error(
        "clients of region {0} has the relays' own tag: set selfRelay instead, if devices with \
         it relay for themselves"
    )]
    OwnTag(String),
    /// No node can have a label of the node selector. The API server would refuse the DaemonSet, but
    /// only after all relays had been withdrawn, because no node matches.
    #[error(
        "placement.nodeSelector of region {region}: {label:?} is not a label of Kubernetes: a \
         value has at most 63 letters, digits, '-', '_' and '.', begins and ends with a letter or \
         digit, and may be empty; correct it"
    )]
    NodeLabel {
        /// Name of the region.
        region: String,
        /// The label as `KEY=VALUE`.
        label: String,
    },
    /// The endpoints of a region have a fault.
    #[error("region {region}: {source}")]
    Endpoints {
        /// Name of the region.
        region: String,
        /// Fault of the endpoints.
        source: InvalidEndpoints,
    },
}

impl InvalidRelay {
    /// The reason in conditions.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Reference(error) => error.reason(),
            _ => INVALID_SPEC,
        }
    }

    /// Returns whether an administrator of the cluster has withdrawn the access to the tailnet, so
    /// that the operator must forget it.
    pub const fn withdraws_access(&self) -> bool {
        matches!(self, Self::Reference(ReferenceError::NotAllowed { .. }))
    }
}

impl ValidSpec {
    /// Returns the UDP ports of each region's relays that do not depend on the cluster.
    pub fn firewall_ports(&self) -> impl Iterator<Item = (&str, firewall::Ports<'_>)> {
        self.regions.iter().map(|region| {
            let total = |most: u16| self.max_relays.map_or(most, |total| most.min(total));
            let ports = firewall::Ports {
                listens: self.port,
                relays: region.max_relays.map(total),
                exposure: &region.exposure,
                assigned: Vec::new(),
            };
            (&*region.name, ports)
        })
    }

    /// Returns whether the devices of a region leave the tailnet when they are offline. Devices
    /// that are not kept on their node would be left in the tailnet with each start.
    pub fn is_ephemeral(&self, region: &ValidRegion) -> bool {
        self.tailnet.ephemeral || !region.exposure.on_host_network()
    }

    /// The rules that the tailnet policy must have.
    pub fn policy(&self) -> Policy {
        Policy::new(self.regions.iter().map(|r| r.grant.clone()).collect())
    }
}

/// Validates `relay`, which refers to the TailnetCredential `referred`, and completes it with the
/// operator's `defaults`.
///
/// # Errors
/// The first fault that the user must correct.
pub fn validate(
    relay: &PeerRelay,
    referred: &Referred,
    defaults: &Defaults,
) -> Result<ValidSpec, InvalidRelay> {
    let owner = owner(relay)?;
    let spec = &relay.spec;
    let regions = spec
        .regions
        .iter()
        .map(|r| region(r, &owner, spec.grants.tests));
    let regions = regions.collect::<Result<Vec<_>, InvalidRelay>>()?;
    check_overrides(spec.template.as_ref(), &regions)?;
    let tailnet = tailnet_access::access(relay, referred)?;
    let server = control_server(&spec.tailnet, referred);
    Ok(ValidSpec {
        enabled: spec.enabled,
        port: spec.port,
        metrics_port: spec.monitoring.port_beside(spec.port),
        tailnet,
        max_relays: tailnet::limit(relay, server.as_ref()),
        regions,
        settings: RelaySettings {
            limits: spec.limits.unwrap_or_default(),
            data_path: spec.data_path,
            log_level: spec.log_level,
        },
        monitoring: defaults.monitoring.complete(spec.monitoring.clone()),
        grants_output: spec.grants.output,
        policy_access: policy::access(relay, referred)?,
        pods: PodSettings {
            image: defaults.image.clone(),
            template: defaults
                .template
                .complete(spec.template.clone().unwrap_or_default()),
            environment: defaults.template.environment.clone(),
        },
        owner,
    })
}

fn owner(relay: &PeerRelay) -> Result<Owner, InvalidRelay> {
    let name = relay.name_any();
    let namespace = relay
        .namespace()
        .ok_or(InvalidRelay::Incomplete("namespace"))?;
    if !names::is_peer_relay_name(&name) {
        let other = names::suggestion(&name);
        return Err(InvalidRelay::Name(name, other));
    }
    let reference = relay.controller_owner_ref(&());
    Ok(Owner {
        name,
        namespace,
        reference: reference.ok_or(InvalidRelay::Incomplete("uid"))?,
    })
}

fn region(region: &Region, owner: &Owner, tests: GrantsTests) -> Result<ValidRegion, InvalidRelay> {
    if !names::is_region_name(&region.name) {
        return Err(InvalidRelay::RegionName(region.name.clone()));
    }
    let endpoints = endpoints::validate(region).map_err(|source| {
        let region = region.name.clone();
        InvalidRelay::Endpoints { region, source }
    })?;
    let exposure = region.exposure.clone().unwrap_or_default();
    let placement = placement(region);
    check_node_selector(&region.name, &placement.node_selector)?;
    Ok(ValidRegion {
        name: region.name.clone(),
        tag: region.tag(),
        child: names::child(&owner.name, &region.name),
        grant: grant(region, &owner.namespace, &owner.name, tests)?,
        max_relays: max_relays(&placement, &exposure),
        placement,
        exposure,
        endpoints,
    })
}

/// Returns the maximum number of relays of a region: its own limit, or the number of its Elastic
/// IPs.
fn max_relays(placement: &Placement, exposure: &Exposure) -> Option<u16> {
    let balanced = exposure.kind == ExposureType::LoadBalancer;
    let pools = exposure.load_balancer.iter().flat_map(|b| &b.elastic_ips);
    let elastic_ips = pools.flat_map(|pool| &pool.allocations).count();
    let by_addresses = || match elastic_ips {
        0 => BALANCED_RELAYS,
        count => u16::try_from(count).unwrap_or(MOST_CHOSEN).min(MOST_CHOSEN),
    };
    placement.max_relays.or_else(|| balanced.then(by_addresses))
}

fn check_overrides(
    template: Option<&Template>,
    regions: &[ValidRegion],
) -> Result<(), OverrideError> {
    let Some(patch) = template.and_then(|template| template.pod_overrides.as_ref()) else {
        return Ok(());
    };
    overrides::check(patch)?;
    for region in regions {
        let shape = Shape {
            region: &region.name,
            on_host: region.exposure.on_host_network(),
        };
        overrides::check_shape(patch, shape)?;
    }
    Ok(())
}

fn check_node_selector(
    region: &str,
    selector: &BTreeMap<String, String>,
) -> Result<(), InvalidRelay> {
    let is_invalid = |(key, value): &(&String, &String)| !names::is_label(key, value);
    match selector.iter().find(is_invalid) {
        None => Ok(()),
        Some((key, value)) => Err(InvalidRelay::NodeLabel {
            region: region.to_owned(),
            label: format!("{key}={value}"),
        }),
    }
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
