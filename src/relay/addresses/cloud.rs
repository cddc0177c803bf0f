//! The addresses under which a cloud forwards to this machine, from the cloud's metadata service.
//!
//! Machines in no known cloud send nothing. The service is trusted for addresses alone: what else
//! it says goes nowhere, and of addresses only those of the internet count.

mod inquiry;
mod machine;
mod scope;
mod service;

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{sync::watch, time::sleep};

use self::{
    inquiry::{Inquiry, Unusable},
    machine::{Cloud, Dmi},
    service::Failure,
};
use super::Found;
use crate::{
    backoff::Backoff,
    config::endpoints::Discover,
    relay::{reload::DynamicConfig, watch_ext::SendIfChanged},
};

/// Time between two inquiries, in seconds.
const INTERVAL: std::ops::Range<f64> = 270.0..330.0;
/// Waits after failures. [`pause`] waits no longer than [`INTERVAL`], whatever the longest wait here is.
const BACKOFF: Backoff =
    Backoff::new(Duration::from_secs(2), Duration::from_secs(512)).with_jitter(0.75..=1.25);

/// Directory in which the kernel shows the strings of the firmware. What names the cloud is for
/// every process to read, in containers too.
pub(super) const FIRMWARE: &str = "/sys/class/dmi/id";

/// Error from an inquiry.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Failure(#[from] Failure),
    #[error(transparent)]
    Unusable(#[from] Unusable),
}

/// Asks again and again while the configuration wants it, and keeps the last good answer in
/// `found`. `firmware` is [`FIRMWARE`], except in tests.
pub(super) async fn follow(
    firmware: PathBuf,
    mut dynamic_config: watch::Receiver<DynamicConfig>,
    found: watch::Sender<Found>,
) {
    let cloud = cloud(&firmware);
    let mut failures = 0;
    loop {
        let wanted = wants(&dynamic_config.borrow_and_update());
        let again = match cloud.filter(|_| wanted) {
            Some(cloud) => {
                let answer = inquire(cloud).await;
                failures = if answer.is_ok() { 0 } else { failures + 1 };
                take(cloud, answer, failures, &found);
                Some(pause(failures))
            }
            None => None,
        };
        let again = async {
            match again {
                Some(again) => sleep(again).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = again => {}
            changed = dynamic_config.wait_for(|config| wants(config) != wanted) => if changed.is_err() { return },
        }
    }
}

fn wants(dynamic_config: &DynamicConfig) -> bool {
    dynamic_config
        .endpoints
        .sources()
        .contains(&Discover::CloudMetadata)
}

fn cloud(firmware: &Path) -> Option<Cloud> {
    let cloud = Dmi::read(firmware).cloud();
    match cloud {
        Some(cloud) => tracing::debug!(%cloud, "this machine is in a cloud"),
        None => tracing::debug!("this machine names no cloud: no metadata service is asked"),
    }
    cloud
}

/// Time until the next inquiry, after so many failures in a row.
fn pause(failures: u32) -> Duration {
    let usual = Duration::from_secs_f64(rand::random_range(INTERVAL));
    match failures {
        0 => usual,
        _ => usual.min(BACKOFF.after(failures)),
    }
}

/// Asks all questions of the first address of the service that answers all of them.
async fn inquire(cloud: Cloud) -> Result<Vec<IpAddr>, Error> {
    let mut first = None;
    for address in service::addresses(cloud) {
        match inquire_at(*address, cloud).await {
            Ok(ips) => return Ok(ips),
            Err(error) => {
                first.get_or_insert(error);
            }
        }
    }
    Err(first.expect("every service has an address"))
}

async fn inquire_at(address: IpAddr, cloud: Cloud) -> Result<Vec<IpAddr>, Error> {
    let mut inquiry = Inquiry::new(cloud);
    while let Some(request) = inquiry.request() {
        inquiry.take(&service::ask(address, request).await?)?;
    }
    Ok(inquiry.finish())
}

/// Puts a good answer into `found`. Of failures in a row only the first is logged as a warning.
fn take(
    cloud: Cloud,
    answer: Result<Vec<IpAddr>, Error>,
    failures: u32,
    found: &watch::Sender<Found>,
) {
    match answer {
        Ok(ips) => {
            if found.send_field_if_changed(|found| &mut found.cloud, ips.clone()) {
                tracing::info!(%cloud, count = ips.len(), "public addresses from cloud metadata");
                tracing::debug!(?ips, "public addresses from cloud metadata");
            }
        }
        Err(error) => {
            let error = format!("{:#}", anyhow::Error::from(error));
            let (kept, hint) = (found.borrow().cloud.len(), hint(cloud));
            match failures {
                1 => tracing::warn!(
                    %cloud, error, kept,
                    "failed to ask the cloud's metadata service for public addresses: {hint}"
                ),
                _ => tracing::debug!(%cloud, error, failures, "failed again to ask for addresses"),
            }
        }
    }
}

/// Advice for a cloud whose service does not answer.
fn hint(cloud: Cloud) -> &'static str {
    match cloud {
        // IMDSv2 answers by default with an IP hop limit of 1, which ends at the node. A pod is one hop
        // further.
        Cloud::Aws => {
            "enable it for this instance, with a hop limit of 2 if this is a pod on the pod \
             network, or leave CloudMetadata out of endpoints.discover"
        }
        _ => "let this relay reach it, or leave CloudMetadata out of endpoints.discover",
    }
}

#[cfg(test)]
mod tests;
