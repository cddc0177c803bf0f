//! The Services that lead clients to relays.

use k8s_openapi::{
    api::core::v1::{Service, ServicePort, ServiceSpec},
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::{load_balancer, metadata};
use crate::{
    crd::exposure::ExposureType,
    names,
    operator::{plan::Region, validate::ValidSpec},
};

/// Services of a region.
pub(super) fn build(relay: &ValidSpec, region: Region<'_>) -> Vec<Service> {
    match region.exposure.kind {
        ExposureType::HostNetwork => Vec::new(),
        ExposureType::NodePort => vec![node_port(relay, region)],
        // A load balancer costs money by the hour, so it is removed with its relay. A node port
        // costs nothing.
        ExposureType::LoadBalancer if !relay.enabled => Vec::new(),
        ExposureType::LoadBalancer => load_balancer::build(relay, region),
    }
}

fn node_port(relay: &ValidSpec, region: Region<'_>) -> Service {
    let port = ServicePort {
        name: Some("relay".to_owned()),
        protocol: Some("UDP".to_owned()),
        port: relay.port.into(),
        target_port: Some(IntOrString::Int(relay.port.into())),
        node_port: region.exposure.node_port.map(Into::into),
        app_protocol: None,
    };
    Service {
        metadata: metadata(relay, region),
        spec: Some(ServiceSpec {
            type_: Some("NodePort".to_owned()),
            // The relay must receive packets with the addresses of clients, and a node must lead to
            // its own relay.
            external_traffic_policy: Some("Local".to_owned()),
            ip_family_policy: Some("PreferDualStack".to_owned()),
            // A relay without the control server, or one that drains, still forwards its open
            // sessions.
            publish_not_ready_addresses: Some(true),
            selector: Some(names::selector(&relay.owner.name, &region.name)),
            ports: Some(vec![port]),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}
