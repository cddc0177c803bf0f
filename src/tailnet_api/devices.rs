//! Devices of the tailnet.

use http::Method;
use serde::Deserialize;
use url::form_urlencoded::Serializer;

use super::{
    Call, TailnetApi,
    error::{ApiError, Scope},
    path,
};

/// A device, as the API shows it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Device {
    /// Stable ID, which the device knows as its own too.
    pub node_id: String,
    /// Name with the domain of the tailnet.
    pub name: String,
    /// Tailnet addresses.
    pub addresses: Vec<String>,
    /// Tags of the device. It belongs to a user if it has none.
    pub tags: Vec<String>,
    /// False while an administrator must approve the device.
    pub authorized: bool,
}

impl TailnetApi {
    /// Lists the devices with a tag.
    ///
    /// # Errors
    /// The API refuses or cannot be reached.
    pub async fn devices_with_tag(&self, tag: &str) -> Result<Vec<Device>, ApiError> {
        #[derive(Deserialize)]
        struct List {
            devices: Vec<Device>,
        }

        let operation = "list the devices of the tailnet";
        let query = Serializer::new(String::new())
            .append_pair("tags", tag)
            .finish();
        let list = format!("{}?{query}", path(&["tailnet", "-", "devices"]));
        let call = Call::new(operation, Method::GET, list, Scope::DevicesRead);
        let list: List = self.call(call).await?.json(operation)?;
        // Not every server of this API has filters.
        let has_tag = |device: &Device| device.tags.iter().any(|own| own == tag);
        Ok(list.devices.into_iter().filter(has_tag).collect())
    }

    /// Finds the device with a stable ID.
    ///
    /// # Errors
    /// The API refuses or cannot be reached.
    pub async fn device(&self, node_id: &str) -> Result<Option<Device>, ApiError> {
        let operation = "find a device of the tailnet";
        let device = path(&["device", node_id]);
        let call = Call::new(operation, Method::GET, device, Scope::DevicesRead);
        let answer = self.call_if_found(call).await?;
        answer.map(|answer| answer.json(operation)).transpose()
    }

    /// Removes the device with a stable ID from the tailnet. Returns false if it is gone already.
    ///
    /// # Errors
    /// The API refuses or cannot be reached.
    pub async fn delete_device(&self, node_id: &str) -> Result<bool, ApiError> {
        let device = path(&["device", node_id]);
        let call = Call::new("delete a device", Method::DELETE, device, Scope::Devices);
        // 404 is not a documented answer to this request, but it is the answer for a device that is gone.
        Ok(self.call_if_found(call).await?.is_some())
    }
}
