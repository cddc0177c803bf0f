//! Reads of objects through the API server.

use std::{collections::BTreeSet, fmt::Debug};

use kube::{
    Api, Client, Resource,
    api::{ApiResource, DynamicObject, ListParams},
    core::NamespaceResourceScope,
};
use serde::de::DeserializeOwned;

use crate::check::facts::{Known, Unread};

/// Reader of the objects of a cluster, or of one namespace.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a> {
    /// Client of the cluster.
    pub(super) client: &'a Client,
    /// Namespace of PeerRelays, or nothing for all.
    pub(super) namespace: Option<&'a str>,
}

impl Reader<'_> {
    /// Lists objects in the namespaces that are checked.
    pub(super) async fn within<K>(&self, labels: &str) -> Known<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
        K: Clone + Debug + DeserializeOwned,
    {
        let api = match self.namespace {
            Some(namespace) => Api::<K>::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        };
        list(&api, labels, &resource::<K>(), self.namespace).await
    }

    /// Lists objects in all namespaces.
    pub(super) async fn everywhere<K>(&self, labels: &str) -> Known<K>
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
    {
        let api = Api::<K>::all(self.client.clone());
        list(&api, labels, &resource::<K>(), None).await
    }

    /// Lists objects of a kind that this program does not define.
    pub(super) async fn dynamic(
        &self,
        kind: &ApiResource,
        labels: &str,
        namespace: Option<&str>,
    ) -> Known<DynamicObject> {
        let api = match namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, kind),
            None => Api::all_with(self.client.clone(), kind),
        };
        let resource = format!("{}.{}", kind.plural, kind.group);
        list(&api, labels, &resource, namespace).await
    }

    /// Reads objects by their names. Those that do not exist are left out.
    pub(super) async fn named<K>(&self, names: BTreeSet<String>) -> Known<K>
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
    {
        let api = Api::<K>::all(self.client.clone());
        let mut found = Vec::new();
        for name in names {
            let read = api.get_opt(&name).await;
            found.extend(read.map_err(|error| unread(&error, &resource::<K>(), None))?);
        }
        Ok(found)
    }
}

async fn list<K>(api: &Api<K>, labels: &str, resource: &str, namespace: Option<&str>) -> Known<K>
where
    K: Clone + Debug + DeserializeOwned,
{
    let params = ListParams::default().labels(labels);
    let listed = api.list(&params).await;
    let listed = listed.map_err(|error| unread(&error, resource, namespace))?;
    Ok(listed.items)
}

fn unread(error: &kube::Error, resource: &str, namespace: Option<&str>) -> Unread {
    let resource = resource.to_owned();
    match error {
        kube::Error::Api(status) if status.code == 404 => Unread::NoSuchKind,
        kube::Error::Api(status) if status.code == 403 => Unread::Forbidden {
            resource,
            namespace: namespace.map(str::to_owned),
        },
        other => Unread::Failed {
            resource,
            error: other.to_string(),
        },
    }
}

/// Returns the plural of a kind with its group, as kubectl accepts it.
fn resource<K: Resource<DynamicType = ()>>() -> String {
    let (plural, group) = (K::plural(&()), K::group(&()));
    match group.is_empty() {
        true => plural.into_owned(),
        false => format!("{plural}.{group}"),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;

    use super::*;
    use crate::crd::PeerRelay;

    #[test]
    fn kinds_have_the_names_that_kubectl_accepts() {
        assert_eq!(resource::<Pod>(), "pods");
        assert_eq!(resource::<PeerRelay>(), "peerrelays.peerrelay.dev");
    }
}
