//! Permissions of a relay for the kernel data path: two capabilities, and on the host network the
//! directory in which the program outlives the pod.

use k8s_openapi::api::core::v1::{
    Capabilities, HostPathVolumeSource, PodSpec, Volume, VolumeMount,
};

use crate::{
    config::data_path::DataPath,
    names,
    operator::{plan::Region, validate::ValidSpec},
};

/// Path of the BPF file system on nodes.
const BPF: &str = "/sys/fs/bpf";

/// Returns whether relays of this region may load the program. On the pod network this must be set
/// explicitly: there, `Auto` means pods that comply with the Pod Security standard `restricted`.
pub(super) fn in_kernel(relay: &ValidSpec, region: Region<'_>) -> bool {
    match relay.settings.data_path {
        DataPath::Auto => region.exposure.on_host_network(),
        DataPath::Kernel => true,
        DataPath::Socket => false,
    }
}

/// User of the relay's container, and owner of its state.
pub(super) fn user(relay: &ValidSpec, region: Region<'_>) -> u32 {
    match in_kernel(relay, region) {
        true => 0,
        false => names::RELAY_USER,
    }
}

/// Gives the relay's container the permissions that the program needs. Only root gets effective
/// capabilities, because Kubernetes cannot set ambient ones (docs/decisions/0008).
pub(super) fn permit(relay: &ValidSpec, region: Region<'_>, pod: &mut PodSpec) {
    if !in_kernel(relay, region) {
        return;
    }
    for container in &mut pod.containers {
        let security = container.security_context.get_or_insert_default();
        security.run_as_non_root = None;
        security.run_as_user = Some(0);
        security.run_as_group = Some(0);
        security.capabilities = Some(Capabilities {
            add: Some(vec!["BPF".to_owned(), "NET_ADMIN".to_owned()]),
            drop: Some(vec!["ALL".to_owned()]),
        });
        if region.exposure.on_host_network() {
            let mounts = container.volume_mounts.get_or_insert_default();
            mounts.push(VolumeMount {
                name: "bpf".to_owned(),
                mount_path: BPF.to_owned(),
                ..VolumeMount::default()
            });
        }
    }
    if region.exposure.on_host_network() {
        pod.volumes.get_or_insert_default().push(Volume {
            name: "bpf".to_owned(),
            host_path: Some(HostPathVolumeSource {
                path: BPF.to_owned(),
                type_: None,
            }),
            ..Volume::default()
        });
    }
}
