//! A cluster with one IP family refuses Services that need two.

use std::time::Duration;

use anyhow::{Result, ensure};
use rig::{
    deployment::{condition, message},
    signals,
};
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::{
    case::{REGIONS, Step, two_regions},
    names::relay_path,
    trial::Harness,
};

/// The longest time until a refusal is in the status.
const SOON: Duration = Duration::from_secs(5);

/// Shows that such a refusal is reported in the API server's words, holds up nothing else, and ends with
/// its cause.
pub async fn show(harness: &mut Harness) -> Result<String> {
    let name = harness.next_name();
    let mut spec = two_regions();
    let exposure =
        |policy: &str| json!({"type": "LoadBalancer", "loadBalancer": {"ipFamilyPolicy": policy}});
    spec["regions"][0]["exposure"] = exposure("RequireDualStack");
    let start = Instant::now();
    harness.step(&name, &Step::Apply(spec.clone())).await?;
    let service = format!("Service {name}-{}", REGIONS[0]);
    let words = [&*service, "not configured for dual-stack"];
    loop {
        signals::check()?;
        let relay = harness.control_plane.api.read(&relay_path(&name)).await?;
        let is = ["Ready", "Stalled"].map(|kind| condition(&relay, kind));
        let said = message(&relay, "Ready");
        let objects = harness.snapshot(&name).await?.objects;
        let other = format!("DaemonSet/NAME-{}", REGIONS[1]);
        let made = objects.keys().any(|key| key.starts_with(&other));
        let reported = is == ["False/ApplyRejected", "True/ApplyRejected"]
            && words.iter().all(|word| said.contains(word));
        if reported && made {
            break;
        }
        ensure!(
            start.elapsed() < SOON,
            "Ready and Stalled are {is:?}, the other region is made: {made}; it says: {said}"
        );
        sleep(Duration::from_millis(30)).await;
    }
    let took = start.elapsed().as_secs_f64();
    spec["regions"][0]["exposure"] = exposure("PreferDualStack");
    harness.step(&name, &Step::Apply(spec)).await?;
    harness.settle(&name).await?;
    let relay = harness.control_plane.api.read(&relay_path(&name)).await?;
    let stalled = condition(&relay, "Stalled");
    ensure!(stalled != "True/ApplyRejected", "Stalled is '{stalled}'");
    let objects = harness.snapshot(&name).await?.objects;
    let service = format!("Service/NAME-{}", REGIONS[0]);
    ensure!(
        objects.keys().any(|key| key.starts_with(&service)),
        "there is no Service: {:?}",
        objects.keys()
    );
    harness.step(&name, &Step::Delete).await?;
    Ok(format!("reported after {took:.1} s"))
}
