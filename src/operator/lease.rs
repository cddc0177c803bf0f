//! Leader election with a `coordination.k8s.io` Lease: only one of several replicas acts.

use std::time::Duration;

use futures::{StreamExt, stream::FuturesUnordered};
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, OwnerReference},
    jiff::Timestamp,
};
use kube::{
    Api, Client, ResourceExt,
    api::{ObjectMeta, PostParams},
};
use tokio::time::{Instant, interval, sleep, sleep_until, timeout, timeout_at};

use super::{fence::Fence, readiness::Readiness};

/// Times of an election, with the names that Kubernetes' own components use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// Time without a renewal after which another replica takes over.
    pub duration: Duration,
    /// Time without a renewal after which the leader stops acting. It renews after half of this
    /// time.
    pub deadline: Duration,
    /// Interval in which other replicas read the lease, and in which the leader starts a further
    /// attempt to renew while it has no response.
    pub retry: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Self {
            duration: Duration::from_secs(15),
            deadline: Duration::from_secs(10),
            retry: Duration::from_secs(2),
        }
    }
}

/// Times that cannot elect one leader.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum InvalidTimes {
    /// Another replica would lead before the leader stops.
    #[error(
        "the lease's duration must be longer than the deadline to renew it: raise --lease-duration, or lower --renew-deadline"
    )]
    Deadline,
    /// A leader would have a single attempt.
    #[error(
        "the deadline to renew the lease must be at least twice the time between two attempts: raise --renew-deadline, or lower --retry-period"
    )]
    Retry,
    /// Leases count in seconds.
    #[error("the lease's duration must be whole seconds")]
    Fraction,
}

impl Times {
    /// Checks that at most one replica acts, and that a slow response does not end the leadership.
    ///
    /// # Errors
    /// The times do not fit together.
    pub fn checked(self) -> Result<Self, InvalidTimes> {
        if self.duration <= self.deadline {
            Err(InvalidTimes::Deadline)
        } else if self.deadline < self.retry * 2 || self.retry.is_zero() {
            Err(InvalidTimes::Retry)
        } else if self.duration.subsec_nanos() != 0 {
            Err(InvalidTimes::Fraction)
        } else {
            Ok(self)
        }
    }
}

/// The claim of a replica to a lease.
#[derive(Debug, Clone)]
pub struct Claim {
    /// Name of the lease.
    pub name: String,
    /// Name of the replica.
    pub identity: String,
    /// Times of the election.
    pub times: Times,
    /// Owner of the lease. The lease is deleted with it.
    pub owner: Option<OwnerReference>,
}

/// A claim to leadership.
pub struct Leadership {
    api: Api<Lease>,
    claim: Claim,
    fence: Fence,
    readiness: Readiness,
}

/// The lease was lost; this process must stop acting at once.
#[derive(Debug, thiserror::Error)]
#[error("lost the lease {0}: another replica leads, or the API server cannot be reached")]
pub struct Lost(String);

/// Last lease that another replica wrote, with the time at which this replica first read it.
struct ObservedLease {
    resource_version: Option<String>,
    since: Instant,
}

impl ObservedLease {
    fn nothing() -> Self {
        Self {
            resource_version: None,
            since: Instant::now(),
        }
    }
}

/// The next step towards a lease.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Create,
    Take,
    Renew,
    Wait,
}

impl Leadership {
    /// Creates a claim to a lease of `namespace`. It keeps `fence` open while this process leads,
    /// and updates `readiness` while it waits.
    pub fn new(
        client: Client,
        namespace: &str,
        claim: Claim,
        fence: Fence,
        readiness: Readiness,
    ) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            claim,
            fence,
            readiness,
        }
    }

    /// Waits until this process leads.
    pub async fn acquire(&self) {
        let mut observed = ObservedLease::nothing();
        loop {
            // A connection may hang for ever.
            match timeout(self.claim.times.deadline, self.attempt(&mut observed)).await {
                Ok(Ok(Some(_))) => return,
                Ok(Ok(None)) => self.readiness.stands_by(self.claim.times.duration),
                Ok(Err(error)) => {
                    tracing::warn!(%error, lease = self.claim.name, "lease not acquired");
                }
                Err(_) => tracing::warn!(lease = self.claim.name, "lease not acquired: no answer"),
            }
            sleep(self.claim.times.retry).await;
        }
    }

    /// Renews the lease until this is no longer possible.
    pub async fn hold(&self) -> Result<std::convert::Infallible, Lost> {
        let mut renewed = Instant::now();
        loop {
            let Times { deadline, .. } = self.claim.times;
            sleep_until(renewed + deadline / 2).await;
            renewed = timeout_at(renewed + deadline, self.renew())
                .await
                .map_err(|_| Lost(self.claim.name.clone()))?;
        }
    }

    /// Renews the lease, and returns the time from which it counts.
    ///
    /// A slow API server cannot be distinguished from a connection that hangs. A running attempt is
    /// therefore not canceled; further attempts start beside it, each with its own connection, and
    /// the first success counts. If two attempts read the same lease, the API server refuses one of
    /// them. That conflict does not mean that there is another leader.
    async fn renew(&self) -> Instant {
        let attempt = async || self.attempt(&mut ObservedLease::nothing()).await;
        let mut attempts = FuturesUnordered::new();
        let mut next = interval(self.claim.times.retry);
        loop {
            tokio::select! {
                _ = next.tick() => attempts.push(attempt()),
                Some(ended) = attempts.next() => match ended {
                    Ok(Some(asked)) => return asked,
                    Ok(None) => {}
                    Err(error) => tracing::warn!(%error, lease = self.claim.name, "lease not renewed yet"),
                },
            }
        }
    }

    /// Releases the lease, so that another replica does not wait until it expires.
    pub async fn release(&self) {
        let Ok(Some(mut lease)) = self.api.get_opt(&self.claim.name).await else {
            return;
        };
        let spec = lease.spec.get_or_insert_default();
        if spec.holder_identity.as_ref() == Some(&self.claim.identity) {
            spec.holder_identity = None;
            spec.renew_time = Some(MicroTime(Timestamp::now()));
            if let Err(error) = self
                .api
                .replace(&self.claim.name, &PostParams::default(), &lease)
                .await
            {
                tracing::warn!(%error, "lease not released; it runs out by itself");
            }
        }
    }

    /// Tries to acquire or renew the lease. Returns the time from which this process leads, if it
    /// does. A conflict means that another write was faster.
    async fn attempt(&self, observed: &mut ObservedLease) -> Result<Option<Instant>, kube::Error> {
        // Other replicas count from the time at which they read the lease, which is later.
        let asked = Instant::now();
        let lease = self.api.get_opt(&self.claim.name).await?;
        let params = PostParams::default();
        let written = match step(lease.as_ref(), &self.claim, observed) {
            Step::Wait => return Ok(None),
            Step::Create => self.api.create(&params, &self.lease(None)).await,
            Step::Take | Step::Renew => {
                self.api
                    .replace(&self.claim.name, &params, &self.lease(lease.as_ref()))
                    .await
            }
        };
        match written {
            Ok(_) => {
                self.fence.extend(asked + self.claim.times.deadline);
                Ok(Some(asked))
            }
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn lease(&self, old: Option<&Lease>) -> Lease {
        let now = Some(MicroTime(Timestamp::now()));
        let old_spec = old.and_then(|lease| lease.spec.clone()).unwrap_or_default();
        let mine = old_spec.holder_identity.as_ref() == Some(&self.claim.identity);
        let transitions = old_spec.lease_transitions.unwrap_or(0) + i32::from(!mine);
        Lease {
            metadata: ObjectMeta {
                name: Some(self.claim.name.clone()),
                // With the version that was read, the API server refuses the write (409) if another
                // replica was faster.
                resource_version: old.and_then(ResourceExt::resource_version),
                // A lease without an owner would remain after the operator is uninstalled.
                owner_references: self.claim.owner.clone().map(|owner| vec![owner]),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(self.claim.identity.clone()),
                lease_duration_seconds: Some(self.claim.times.duration.as_secs() as i32),
                acquire_time: if mine {
                    old_spec.acquire_time
                } else {
                    now.clone()
                },
                renew_time: now,
                lease_transitions: Some(transitions),
                ..LeaseSpec::default()
            }),
        }
    }
}

/// Decides by the time for which this replica has observed the lease unchanged. Clocks of other
/// hosts are not trusted.
fn step(lease: Option<&Lease>, claim: &Claim, observed: &mut ObservedLease) -> Step {
    let Some(lease) = lease else {
        return Step::Create;
    };
    let version = lease.resource_version();
    if observed.resource_version != version {
        *observed = ObservedLease {
            resource_version: version,
            since: Instant::now(),
        };
    }
    let spec = lease.spec.clone().unwrap_or_default();
    let duration = spec
        .lease_duration_seconds
        .and_then(|s| u64::try_from(s).ok());
    let duration = duration.map_or(claim.times.duration, Duration::from_secs);
    match spec.holder_identity.as_deref() {
        None | Some("") => Step::Take,
        Some(holder) if holder == claim.identity => Step::Renew,
        Some(_) if observed.since.elapsed() > duration => Step::Take,
        Some(_) => Step::Wait,
    }
}

#[cfg(test)]
mod tests;
