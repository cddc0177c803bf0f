//! `PeerRelay` objects of Tailscale's operator: replicas behind one load balancer each.

use std::collections::BTreeMap;

use super::{
    Options, Others,
    draft::{Draft, Region, Spec, Tailnet},
    elastic_ips::{self, ElasticIp},
    endpoints,
    fields::Fields,
    metadata,
    note::Notes,
    proxy_class, tags, tailnet,
};
use crate::{
    crd::{
        control_server::ControlServer,
        exposure::{Exposure, ExposureType, IpFamily, IpFamilyPolicy, LoadBalancer},
        placement::MOST_CHOSEN,
    },
    names,
};

/// UDP port of Tailscale's relays unless the object names one.
const DEFAULT_PORT: u16 = 41_641;
/// Beginnings of annotations that Tailscale's operator sets itself, and whose values it ignores.
const FIXED_ANNOTATIONS: [&str; 4] = [
    "service.beta.kubernetes.io/aws-load-balancer-type",
    "service.beta.kubernetes.io/aws-load-balancer-nlb-target-type",
    "service.beta.kubernetes.io/aws-load-balancer-scheme",
    "service.beta.kubernetes.io/azure-load-balancer-internal",
];
/// Beginning of annotations about probes, which have other values for this operator's relays.
const PROBE_ANNOTATIONS: &str = "service.beta.kubernetes.io/aws-load-balancer-healthcheck-";
/// Words in the keys of annotations that give a Service a certain address.
const ADDRESS_WORDS: [&str; 5] = [
    "loadbalancerips",
    "load-balancer-ip",
    "lb-ipam",
    "eip-allocations",
    "private-ipv4-addresses",
];

/// Converts one object. Objects that it names are added to `named`.
pub(super) fn convert(
    mut fields: Fields,
    others: &Others<'_>,
    options: &Options,
    notes: &mut Notes,
    named: &mut Vec<usize>,
) -> Draft {
    for name in ["apiVersion", "kind", "status"] {
        fields.take(name);
    }
    let metadata = metadata::convert(fields.object("metadata", notes), options, notes);
    let mut spec = fields.object("spec", notes);
    fields.finish(notes);

    let class = spec.typed("proxyClass", notes);
    let class = proxy_class::find(class, spec.place("proxyClass"), others, notes, named);
    let tailnet = access(&mut spec, others, options, notes, named);
    let mut region = Region {
        name: tags::region(&metadata.name),
        clients: tailnet::clients(options, spec.place(""), notes),
        placement: class.placement,
        ..Region::default()
    };
    let tags: Vec<String> = spec.typed("tags", notes).unwrap_or_default();
    region.tag = tags::choose(&tags, &region.name, &spec.place("tags"), notes);
    let replicas = replicas(&mut spec, notes);
    region.placement.max_relays = (replicas > 0).then_some(replicas);
    let static_endpoints: Vec<String> = spec.typed("staticEndpoints", notes).unwrap_or_default();
    region.endpoints = endpoints::convert(&static_endpoints, &spec.place("staticEndpoints"), notes);
    let (port, mut balancer) = service(spec.object("service", notes), notes);
    let zone = region.placement.node_selector.get(names::ZONE_LABEL);
    aws(
        &mut spec,
        zone.map(String::as_str),
        &mut balancer,
        options,
        notes,
    );
    region.exposure = Some(Exposure {
        kind: ExposureType::LoadBalancer,
        load_balancer: (balancer != LoadBalancer::default()).then_some(balancer),
        ..Exposure::default()
    });
    behaviour(&spec, notes);
    spec.finish(notes);
    Draft::new(
        metadata,
        Spec {
            enabled: (replicas == 0).then_some(false),
            port,
            max_relays: more_than_allowed(replicas, &tailnet),
            tailnet,
            regions: vec![region],
            monitoring: class.monitoring,
            template: class.template,
        },
    )
}

/// Returns the number of replicas if the control server does not allow so many without a setting.
fn more_than_allowed(replicas: u16, tailnet: &Tailnet) -> Option<u16> {
    let server = ControlServer::of(tailnet.control_url.as_deref());
    let allowance = server.allowance()?;
    (replicas > allowance).then_some(replicas)
}

fn access(
    spec: &mut Fields,
    others: &Others<'_>,
    options: &Options,
    notes: &mut Notes,
    named: &mut Vec<usize>,
) -> Tailnet {
    let name = spec.typed("tailnet", notes);
    let place = spec.place("tailnet");
    let mut access = tailnet::of_object(name, place, others, options, notes, named);
    let prefix = spec.typed("hostnamePrefix", notes);
    let place = spec.place("hostnamePrefix");
    access.hostname_prefix = tailnet::hostname_prefix(prefix, place, notes);
    access
}

fn replicas(spec: &mut Fields, notes: &mut Notes) -> u16 {
    let given: i64 = spec.typed("replicas", notes).unwrap_or(1);
    let place = spec.place("replicas");
    let most = i64::from(MOST_CHOSEN);
    if given > most {
        notes.lost(
            place.clone(),
            "the operator chooses nodes for at most 100 relays of a region: remove \
             placement.maxRelays for a relay on each node that matches",
        );
    }
    if given <= 0 {
        let reason = "no relays run (enabled: false): placement.maxRelays is at least 1";
        notes.changed(place, reason);
    } else if given > 1 {
        notes.changed(
            place,
            "placement.maxRelays is the maximum: a node runs at most one relay of a region, so as \
             many nodes must match",
        );
    }
    u16::try_from(given.clamp(0, most)).unwrap_or_default()
}

/// Converts the Service, to the port and the settings of the load balancers.
fn service(mut fields: Fields, notes: &mut Notes) -> (u16, LoadBalancer) {
    let port = fields.typed("port", notes).filter(|port| *port > 0);
    let mut annotations: BTreeMap<String, String> =
        fields.typed("annotations", notes).unwrap_or_default();
    without_fixed(&mut annotations, &fields, notes);
    let families: Vec<String> = fields.typed("ipFamilies", notes).unwrap_or_default();
    let policy: Option<String> = fields.typed("ipFamilyPolicy", notes);
    let ip_families = ip_families(&families, &fields, notes);
    let mut ip_family_policy = policy.and_then(|text| match &*text {
        "SingleStack" => Some(IpFamilyPolicy::SingleStack),
        "PreferDualStack" => Some(IpFamilyPolicy::PreferDualStack),
        "RequireDualStack" => Some(IpFamilyPolicy::RequireDualStack),
        _ => {
            notes.lost(
                fields.place("ipFamilyPolicy"),
                "the value is none of SingleStack, PreferDualStack and RequireDualStack: correct it",
            );
            None
        }
    });
    let is_single = matches!(ip_family_policy, None | Some(IpFamilyPolicy::SingleStack));
    if ip_families.len() == 2 && is_single {
        notes.changed(
            fields.place("ipFamilies"),
            "two families need ipFamilyPolicy RequireDualStack, which is set: Kubernetes implies it",
        );
        ip_family_policy = Some(IpFamilyPolicy::RequireDualStack);
    }
    fields.finish(notes);
    let balancer = LoadBalancer {
        annotations,
        ip_family_policy,
        ip_families,
        ..LoadBalancer::default()
    };
    (port.unwrap_or(DEFAULT_PORT), balancer)
}

/// Removes annotations whose values Tailscale's operator ignores, and notes those that need care.
fn without_fixed(annotations: &mut BTreeMap<String, String>, fields: &Fields, notes: &mut Notes) {
    let place = |key: &str| fields.place(&format!("annotations.{key}"));
    let reserved =
        |key: &str| FIXED_ANNOTATIONS.contains(&key) || key.starts_with(PROBE_ANNOTATIONS);
    for key in annotations.keys() {
        if reserved(key) {
            notes.changed(
                place(key),
                "both operators set this annotation themselves, and it is not copied: set it in \
                 exposure.loadBalancer.annotations if your value must win",
            );
        } else if key == names::CLASS_ANNOTATION {
            notes.lost(place(key), "the annotation belongs to this operator");
        } else if ADDRESS_WORDS
            .iter()
            .any(|word| key.to_lowercase().contains(word))
        {
            notes.required(
                place(key),
                "the annotation chooses addresses, and an address belongs to one Service at a \
                 time: name other addresses for the time in which both relays run, or remove the \
                 old relays first",
            );
        }
    }
    annotations.retain(|key, _| !reserved(key) && key != names::CLASS_ANNOTATION);
}

fn ip_families(given: &[String], fields: &Fields, notes: &mut Notes) -> Vec<IpFamily> {
    let mut families = Vec::new();
    for text in given {
        let family = match &**text {
            "IPv4" => Some(IpFamily::IPv4),
            "IPv6" => Some(IpFamily::IPv6),
            _ => None,
        };
        match family.filter(|family| !families.contains(family)) {
            Some(family) => families.push(family),
            None => notes.lost(
                fields.place("ipFamilies"),
                "an entry is neither IPv4 nor IPv6, or repeats another: correct it",
            ),
        }
    }
    families
}

fn aws(
    spec: &mut Fields,
    zone: Option<&str>,
    balancer: &mut LoadBalancer,
    options: &Options,
    notes: &mut Notes,
) {
    let mut aws = spec.object("aws", notes);
    let ips: Vec<ElasticIp> = aws.typed("elasticIPs", notes).unwrap_or_default();
    let place = aws.place("elasticIPs");
    if !ips.is_empty() {
        notes.required(
            place.clone(),
            "an Elastic IP belongs to one load balancer at a time: allocate others for the time \
             in which both relays run, or remove the old relays first",
        );
    }
    balancer.elastic_ips = elastic_ips::convert(&ips, zone, &place, options, notes);
    aws.finish(notes);
}

/// Notes differences that every converted object has.
fn behaviour(spec: &Fields, notes: &mut Notes) {
    notes.changed(
        spec.place(""),
        "each relay has a new Service and a new address: open firewalls for the new addresses",
    );
    notes.changed(
        spec.place(""),
        "relays behind a load balancer keep no keys: each start registers a new ephemeral device. \
         With exposure.hostNetwork: true, devices stay, and the kernel forwards packets",
    );
}
