//! The relays of a region: one pod per node, on the node's own network or on that of pods.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        apps::v1::{DaemonSet, DaemonSetSpec, DaemonSetUpdateStrategy, RollingUpdateDaemonSet},
        core::v1::{
            Affinity, Capabilities, ConfigMapVolumeSource, Container, ContainerPort,
            EmptyDirVolumeSource, EnvVar, EnvVarSource, HTTPGetAction, HTTPHeader,
            HostPathVolumeSource, NodeAffinity, NodeSelector, NodeSelectorRequirement,
            NodeSelectorTerm, ObjectFieldSelector, PodSecurityContext, PodSpec, PodTemplateSpec,
            Probe, ResourceRequirements, SeccompProfile, SecretVolumeSource, SecurityContext,
            Volume, VolumeMount,
        },
    },
    apimachinery::pkg::{
        api::resource::Quantity,
        apis::meta::v1::{LabelSelector, ObjectMeta},
        util::intstr::IntOrString,
    },
};

use super::{config_map, data_path, metadata, template};
use crate::{
    config::{CONFIG_KEY, DEFAULT_STATE_DIR, POD_SESSION_DIR},
    crd::placement::Placement,
    names,
    operator::{
        plan::{Region, requirements},
        validate::{Credential, ValidSpec},
    },
};

/// Longer than a relay drains.
const GRACE_SECONDS: i64 = 30;
/// Time in which the operator can detect that a replaced relay is ready, and pause the roll-out
/// until another relay reaches it.
const MIN_READY_SECONDS: i32 = 10;

/// One DaemonSet for all nodes that fit, or one for each node that was chosen.
pub(super) fn build(
    relay: &ValidSpec,
    region: Region<'_>,
    config_checksum: &str,
) -> Vec<DaemonSet> {
    let everywhere = || {
        let mut set = daemon_set(relay, region, config_checksum);
        pod_of(&mut set).node_selector =
            some(region.placement.node_selector.clone(), BTreeMap::is_empty);
        pod_of(&mut set).affinity = Some(affinity(&region.placement));
        set.spec.get_or_insert_default().min_ready_seconds = Some(MIN_READY_SECONDS);
        template::apply(&relay.pods.template, &mut set);
        set
    };
    let only_on = |node: &String| {
        let mut set = daemon_set(relay, region, config_checksum);
        pin(&mut set, &region.child, node);
        template::apply(&relay.pods.template, &mut set);
        set
    };
    let mut sets = match &region.plan.nodes.chosen {
        None => vec![everywhere()],
        Some(nodes) => nodes.iter().map(only_on).collect(),
    };
    if !relay.enabled {
        sets.iter_mut().for_each(switch_off);
    }
    sets
}

/// Makes a DaemonSet run no pod. The DaemonSet stays, and preserves which nodes were chosen.
fn switch_off(set: &mut DaemonSet) {
    let nowhere = (names::OFF_LABEL.to_owned(), "true".to_owned());
    let selector = &mut pod_of(set).node_selector;
    selector.get_or_insert_default().extend([nowhere]);
}

fn daemon_set(relay: &ValidSpec, region: Region<'_>, config_checksum: &str) -> DaemonSet {
    let annotations = [(
        names::CONFIG_ANNOTATION.to_owned(),
        config_checksum.to_owned(),
    )];
    let one_at_a_time = RollingUpdateDaemonSet {
        max_unavailable: Some(IntOrString::Int(1)),
        // A surge pod would need the same host ports, and stay pending for as long as the old one runs.
        max_surge: None,
    };
    DaemonSet {
        metadata: metadata(relay, region),
        spec: Some(DaemonSetSpec {
            selector: LabelSelector {
                match_labels: Some(names::selector(&relay.owner.name, &region.name)),
                match_expressions: None,
            },
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta {
                    labels: Some(names::region_labels(&relay.owner.name, &region.name)),
                    annotations: Some(BTreeMap::from(annotations)),
                    ..ObjectMeta::default()
                }),
                spec: Some(pod(relay, region)),
            },
            update_strategy: Some(DaemonSetUpdateStrategy {
                type_: Some("RollingUpdate".to_owned()),
                rolling_update: Some(one_at_a_time),
            }),
            ..DaemonSetSpec::default()
        }),
        status: None,
    }
}

/// The pod of a DaemonSet of this module.
fn pod_of(set: &mut DaemonSet) -> &mut PodSpec {
    let spec = set.spec.get_or_insert_default();
    spec.template.spec.get_or_insert_default()
}

/// Makes `set` that of the relay on one node.
fn pin(set: &mut DaemonSet, child: &str, node: &str) {
    let name = names::on_node(child, node);
    let label = (names::RELAY_LABEL.to_owned(), name.clone());
    let spec = set.spec.get_or_insert_default();
    let template = spec.template.metadata.get_or_insert_default();
    for labels in [
        &mut spec.selector.match_labels,
        &mut template.labels,
        &mut set.metadata.labels,
    ] {
        labels.get_or_insert_default().extend([label.clone()]);
    }
    let by_name = NodeSelectorRequirement {
        key: "metadata.name".to_owned(),
        operator: "In".to_owned(),
        values: Some(vec![node.to_owned()]),
    };
    let term = NodeSelectorTerm {
        match_fields: Some(vec![by_name]),
        match_expressions: None,
    };
    pod_of(set).affinity = Some(required(vec![term]));
    let note = (names::NODE_ANNOTATION.to_owned(), node.to_owned());
    set.metadata.annotations = Some(BTreeMap::from([note]));
    set.metadata.name = Some(name);
}

/// Returns the node affinity of a placement. Each of its terms also requires a node on which relays
/// can run, in one of the zones.
fn affinity(placement: &Placement) -> Affinity {
    let mut wanted = requirements();
    if !placement.zones.is_empty() {
        wanted.push(NodeSelectorRequirement {
            key: names::ZONE_LABEL.to_owned(),
            operator: "In".to_owned(),
            values: Some(placement.zones.clone()),
        });
    }
    let mut terms = placement.required().map_or_else(
        || vec![NodeSelectorTerm::default()],
        |selector| selector.node_selector_terms.clone(),
    );
    // A term without requirements matches no node, and added requirements must not change this.
    let fits_nothing = |term: &NodeSelectorTerm| {
        let expressions = term.match_expressions.iter().flatten().next();
        let fields = term.match_fields.iter().flatten().next();
        placement.required().is_some() && expressions.is_none() && fields.is_none()
    };
    for term in terms.iter_mut().filter(|term| !fits_nothing(term)) {
        let expressions = term.match_expressions.get_or_insert_default();
        expressions.extend(wanted.clone());
    }
    required(terms)
}

fn required(node_selector_terms: Vec<NodeSelectorTerm>) -> Affinity {
    let selector = NodeSelector {
        node_selector_terms,
    };
    Affinity {
        node_affinity: Some(NodeAffinity {
            required_during_scheduling_ignored_during_execution: Some(selector),
            ..NodeAffinity::default()
        }),
        ..Affinity::default()
    }
}

fn pod(relay: &ValidSpec, region: Region<'_>) -> PodSpec {
    let placement = &region.placement;
    let on_host = region.exposure.on_host_network();
    let mut pod = PodSpec {
        // Without a Service, the relay must be reachable at the node's own addresses.
        host_network: on_host.then_some(true),
        // On the host network, `ClusterFirst` means the resolver of the node, which does not know
        // Services.
        dns_policy: on_host.then(|| "ClusterFirstWithHostNet".to_owned()),
        service_account_name: Some(region.child.clone()),
        // With links, a Service called `peerrelay` would set PEERRELAY_PORT, which the relay reads as its
        // port.
        enable_service_links: Some(false),
        termination_grace_period_seconds: Some(GRACE_SECONDS),
        security_context: Some(PodSecurityContext {
            // Only this group can read the auth key.
            fs_group: Some(names::RELAY_USER.into()),
            seccomp_profile: Some(SeccompProfile {
                type_: "RuntimeDefault".to_owned(),
                localhost_profile: None,
            }),
            ..PodSecurityContext::default()
        }),
        init_containers: on_host.then(|| vec![prepare_state(relay, region)]),
        containers: vec![container(relay, region)],
        volumes: Some(volumes(relay, region)),
        tolerations: some(placement.tolerations.clone(), Vec::is_empty),
        ..PodSpec::default()
    };
    data_path::permit(relay, region, &mut pod);
    pod
}

/// The node makes the state directory for root; this gives it to the relay's user and closes it.
fn prepare_state(relay: &ValidSpec, region: Region<'_>) -> Container {
    let owner = data_path::user(relay, region).to_string();
    let arguments = [
        "prepare-state",
        "--dir",
        DEFAULT_STATE_DIR,
        "--dir",
        POD_SESSION_DIR,
        "--owner",
        &owner,
    ];
    let mut security = locked_down();
    security.run_as_user = Some(0);
    security.run_as_group = Some(0);
    security.capabilities = Some(Capabilities {
        // FOWNER lets it set the mode of a directory that an earlier pod has given to the relay's user.
        add: Some(vec!["CHOWN".to_owned(), "FOWNER".to_owned()]),
        drop: Some(vec!["ALL".to_owned()]),
    });
    Container {
        name: "prepare-state".to_owned(),
        args: Some(arguments.map(str::to_owned).into()),
        volume_mounts: Some(vec![
            mount("state", DEFAULT_STATE_DIR, false),
            mount("sessions", POD_SESSION_DIR, false),
        ]),
        security_context: Some(security),
        ..image(relay)
    }
}

fn container(relay: &ValidSpec, region: Region<'_>) -> Container {
    let on_host = region.exposure.on_host_network();
    let config = format!("{}/{CONFIG_KEY}", config_map::DIR);
    let mut security = locked_down();
    security.run_as_non_root = Some(true);
    security.run_as_user = Some(names::RELAY_USER.into());
    security.run_as_group = Some(names::RELAY_USER.into());
    security.capabilities = Some(Capabilities {
        add: None,
        drop: Some(vec!["ALL".to_owned()]),
    });
    Container {
        name: "relay".to_owned(),
        args: Some(vec!["relay".to_owned(), "--config".to_owned(), config]),
        env: Some(environment(relay)),
        ports: Some(vec![
            port("relay", "UDP", relay.port, on_host),
            port("metrics", "TCP", relay.metrics_port, on_host),
        ]),
        liveness_probe: Some(Probe {
            period_seconds: Some(10),
            failure_threshold: Some(6),
            ..probe(relay, region, "/healthz")
        }),
        readiness_probe: Some(Probe {
            period_seconds: Some(2),
            ..probe(relay, region, "/readyz")
        }),
        volume_mounts: Some(volume_mounts(relay, on_host)),
        security_context: Some(security),
        ..image(relay)
    }
}

fn environment(relay: &ValidSpec) -> Vec<EnvVar> {
    let fields = [
        field("NODE_NAME", "spec.nodeName"),
        field("POD_NAME", "metadata.name"),
        field("POD_UID", "metadata.uid"),
        field("HOST_IP", "status.hostIP"),
    ];
    let extra = relay.pods.environment.iter().map(|(name, value)| EnvVar {
        name: name.clone(),
        value: Some(value.clone()),
        value_from: None,
    });
    fields.into_iter().chain(extra).collect()
}

fn volume_mounts(relay: &ValidSpec, on_host: bool) -> Vec<VolumeMount> {
    let mut mounts = vec![
        mount("state", DEFAULT_STATE_DIR, false),
        mount("config", config_map::DIR, true),
    ];
    if matches!(relay.tailnet.credential, Credential::AuthKey { .. }) {
        mounts.push(mount("auth", config_map::AUTH_DIR, true));
    }
    if on_host {
        mounts.push(mount("sessions", POD_SESSION_DIR, false));
    }
    mounts
}

fn image(relay: &ValidSpec) -> Container {
    let quantity = |text: &str| Quantity(text.to_owned());
    Container {
        image: Some(relay.pods.image.reference.clone()),
        image_pull_policy: Some(relay.pods.image.pull_policy.clone()),
        resources: Some(ResourceRequirements {
            requests: Some(BTreeMap::from([
                ("cpu".to_owned(), quantity("50m")),
                ("memory".to_owned(), quantity("32Mi")),
            ])),
            // There is no CPU limit, because throttling would delay every session.
            limits: Some(BTreeMap::from([("memory".to_owned(), quantity("256Mi"))])),
            claims: None,
        }),
        ..Container::default()
    }
}

fn volumes(relay: &ValidSpec, region: Region<'_>) -> Vec<Volume> {
    let config = ConfigMapVolumeSource {
        name: region.child.clone(),
        default_mode: Some(0o444),
        ..ConfigMapVolumeSource::default()
    };
    let mut volumes = vec![
        state_volume(relay, region),
        Volume {
            config_map: Some(config),
            ..named("config")
        },
    ];
    if let Credential::AuthKey { secret, .. } = &relay.tailnet.credential {
        // The Secret is optional, so that relays start without it, report that it is missing, and
        // continue when it exists.
        let auth = SecretVolumeSource {
            secret_name: Some(secret.clone()),
            optional: Some(true),
            default_mode: Some(0o440),
            ..SecretVolumeSource::default()
        };
        volumes.push(Volume {
            secret: Some(auth),
            ..named("auth")
        });
    }
    if region.exposure.on_host_network() {
        // Sessions continue in the next pod on the node, but not after a reboot.
        volumes.push(Volume {
            host_path: Some(HostPathVolumeSource {
                path: format!(
                    "{POD_SESSION_DIR}/{}/{}",
                    relay.owner.namespace, region.child
                ),
                type_: Some("DirectoryOrCreate".to_owned()),
            }),
            ..named("sessions")
        });
    }
    volumes
}

fn named(name: &str) -> Volume {
    Volume {
        name: name.to_owned(),
        ..Volume::default()
    }
}

/// The volume with the identity of a relay.
fn state_volume(relay: &ValidSpec, region: Region<'_>) -> Volume {
    match region.exposure.on_host_network() {
        true => Volume {
            host_path: Some(HostPathVolumeSource {
                path: format!(
                    "{DEFAULT_STATE_DIR}/{}/{}",
                    relay.owner.namespace, region.child
                ),
                type_: Some("DirectoryOrCreate".to_owned()),
            }),
            ..named("state")
        },
        // The volume is in memory, so that a device that ends with its pod leaves no keys on a
        // disk.
        false => Volume {
            empty_dir: Some(EmptyDirVolumeSource {
                medium: Some("Memory".to_owned()),
                size_limit: Some(Quantity("16Mi".to_owned())),
            }),
            ..named("state")
        },
    }
}

fn locked_down() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        read_only_root_filesystem: Some(true),
        ..SecurityContext::default()
    }
}

/// A port of the relay. On the host network the scheduler thereby keeps two relays with one port
/// apart.
fn port(name: &str, protocol: &str, number: u16, on_host: bool) -> ContainerPort {
    ContainerPort {
        name: Some(name.to_owned()),
        container_port: number.into(),
        host_port: on_host.then(|| number.into()),
        protocol: Some(protocol.to_owned()),
        host_ip: None,
    }
}

fn probe(relay: &ValidSpec, region: Region<'_>, path: &str) -> Probe {
    let on_host = region.exposure.on_host_network();
    // On the host network, another relay may have the port.
    let identity = HTTPHeader {
        name: names::IDENTITY_HEADER.to_owned(),
        value: names::identity(&relay.owner.namespace, &relay.owner.name, &region.name),
    };
    Probe {
        http_get: Some(HTTPGetAction {
            // Only on the host network, where the relay listens on loopback: since Kubernetes 1.34, the Pod
            // Security standards do not let probes name a host, and they do not let pods use that network.
            host: on_host.then(|| "127.0.0.1".to_owned()),
            http_headers: on_host.then(|| vec![identity]),
            path: Some(path.to_owned()),
            port: IntOrString::Int(relay.metrics_port.into()),
            ..HTTPGetAction::default()
        }),
        timeout_seconds: Some(3),
        ..Probe::default()
    }
}

fn mount(name: &str, path: &str, read_only: bool) -> VolumeMount {
    VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only: read_only.then_some(true),
        ..VolumeMount::default()
    }
}

fn field(name: &str, path: &str) -> EnvVar {
    EnvVar {
        name: name.to_owned(),
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector {
                field_path: path.to_owned(),
                api_version: None,
            }),
            ..EnvVarSource::default()
        }),
        value: None,
    }
}

/// The API server drops empty lists and maps, so they are never sent.
fn some<T>(value: T, is_empty: impl Fn(&T) -> bool) -> Option<T> {
    (!is_empty(&value)).then_some(value)
}
