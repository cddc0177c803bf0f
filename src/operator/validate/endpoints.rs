//! `regions[].endpoints` as a relay reads it.

use std::collections::BTreeMap;

use ipnet::IpNet;

use crate::{
    config::{
        endpoints::{EndpointError, EndpointsConfig, NodeEndpoints, StaticEndpoint},
        interface_pattern::{InterfacePattern, PatternError},
    },
    crd::{endpoints::Endpoints, exposure::ExposureType, peer_relay::Region},
};

/// A fault in a region's endpoints.
#[derive(Debug, thiserror::Error)]
pub enum InvalidEndpoints {
    /// A text is no endpoint.
    #[error("endpoints.{field}: {source}")]
    Static {
        /// Field in which it stands.
        field: String,
        /// Fault of the endpoint.
        source: EndpointError,
    },
    /// A text is no network.
    #[error("endpoints.{field}: '{text}' is no network: write 10.0.0.0/8 or 2001:db8::/32")]
    Network {
        /// Field in which it stands.
        field: &'static str,
        /// Text of the field.
        text: String,
    },
    /// A text is no pattern of interface names.
    #[error("endpoints.{field}: {source}")]
    Interface {
        /// Field in which it stands.
        field: &'static str,
        /// Fault of the pattern.
        source: PatternError,
    },
}

/// The endpoints that the relays of `region` advertise, as far as its specification names them.
///
/// # Errors
/// The first text that is no endpoint, no network or no pattern of interface names.
pub(super) fn validate(region: &Region) -> Result<EndpointsConfig, InvalidEndpoints> {
    let mut endpoints = match &region.endpoints {
        Some(endpoints) => parse(endpoints)?,
        None => EndpointsConfig::default(),
    };
    // Addresses of pods, and of nodes that a Service stands in front of, mean nothing to clients.
    let kind = region.exposure.as_ref().map(|exposure| exposure.kind);
    if kind.unwrap_or_default() != ExposureType::HostNetwork {
        endpoints.discover.get_or_insert_default();
    }
    Ok(endpoints)
}

fn parse(endpoints: &Endpoints) -> Result<EndpointsConfig, InvalidEndpoints> {
    let node = |(name, list): (&String, &crate::crd::endpoints::NodeList)| {
        let fixed = statics(&list.0, || format!("perNode.{name}"))?;
        let endpoints = NodeEndpoints {
            fixed,
            ..NodeEndpoints::default()
        };
        Ok((name.clone(), endpoints))
    };
    let nodes: Result<BTreeMap<_, _>, _> = endpoints.per_node.iter().map(node).collect();
    Ok(EndpointsConfig {
        fixed: statics(&endpoints.fixed, || "static".to_owned())?,
        nodes: nodes?,
        discover: endpoints.discover.clone(),
        include: networks(&endpoints.include, "include")?,
        exclude: networks(&endpoints.exclude, "exclude")?,
        include_interfaces: interfaces(&endpoints.include_interfaces, "includeInterfaces")?,
        exclude_interfaces: interfaces(&endpoints.exclude_interfaces, "excludeInterfaces")?,
        advertise: Some(endpoints.advertise),
        max: Some(endpoints.max),
    })
}

fn statics(
    texts: &[String],
    field: impl Fn() -> String,
) -> Result<Vec<StaticEndpoint>, InvalidEndpoints> {
    let parse = |text: &String| {
        text.parse().map_err(|source| InvalidEndpoints::Static {
            field: field(),
            source,
        })
    };
    texts.iter().map(parse).collect()
}

fn networks(texts: &[String], field: &'static str) -> Result<Vec<IpNet>, InvalidEndpoints> {
    let parse = |text: &String| {
        text.parse().map_err(|_| InvalidEndpoints::Network {
            field,
            text: text.clone(),
        })
    };
    texts.iter().map(parse).collect()
}

fn interfaces(
    texts: &[String],
    field: &'static str,
) -> Result<Vec<InterfacePattern>, InvalidEndpoints> {
    let parse = |text: &String| {
        text.parse()
            .map_err(|source| InvalidEndpoints::Interface { field, source })
    };
    texts.iter().map(parse).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use serde_json::{Value, json};

    use super::*;

    fn endpoints(value: Value) -> Result<EndpointsConfig, InvalidEndpoints> {
        let region = json!({"name": "office", "clients": ["tag:office"], "endpoints": value});
        validate(&serde_json::from_value(region).unwrap())
    }

    #[test]
    fn every_field_reaches_the_relay() {
        let config = endpoints(json!({
            "static": ["203.0.113.10:40000"],
            "perNode": {"n1": ["relay.example.net:7"]},
            "discover": ["Interface"],
            "include": ["10.0.0.0/8"],
            "exclude": ["2001:db8::/32"],
            "includeInterfaces": ["en*"],
            "excludeInterfaces": ["enp9*"],
            "advertise": "StaticOnly",
            "max": 3,
        }))
        .unwrap();
        let yaml = serde_yaml::to_string(&config).unwrap();
        assert_eq!(
            serde_yaml::from_str::<EndpointsConfig>(&yaml).unwrap(),
            config
        );
        assert_eq!(
            config.nodes["n1"].fixed[0].to_string(),
            "relay.example.net:7"
        );
        assert!(config.admits_interface("enp1s0") && !config.admits_interface("enp9s0"));
        assert_eq!(config.most(), 3);
        assert!(config.sources().is_empty());
    }

    #[test]
    fn what_admission_cannot_see_is_refused_with_its_place() {
        let error = |value| endpoints(value).unwrap_err().to_string();
        let said = error(json!({"perNode": {"n1": ["999.0.0.1:7"]}}));
        assert!(
            said.starts_with("endpoints.perNode.n1: '999.0.0.1:7'"),
            "{said}"
        );
        let said = error(json!({"static": ["224.0.0.1:7"]}));
        assert!(said.contains("cannot be reached by clients"), "{said}");
        let said = error(json!({"include": ["10.0.0.0"]}));
        assert!(said.starts_with("endpoints.include: '10.0.0.0'"), "{said}");
        let said = error(json!({"excludeInterfaces": ["eth0:1"]}));
        assert!(
            said.starts_with("endpoints.excludeInterfaces: 'eth0:1'"),
            "{said}"
        );
    }
}
