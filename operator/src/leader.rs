//! Leader election over a Lease.
//!
//! `step` decides, purely, from what was seen of the Lease and how long it has not changed;
//! `Election` reads and writes; `Claim` tells, before an act that cannot be taken back, whether this
//! process still leads. The Lease is advisory: passes are idempotent and their writes carry
//! preconditions, which makes a short overlap harmless.
//!
//! Invariants:
//! 1. expiry is judged by how long this process has seen the record unchanged, on a monotonic
//!    clock, never by comparing its time with the local wall clock;
//! 2. every write replaces exactly the record that was read (resourceVersion);
//! 3. who could not renew within the deadline ends the process.

use std::time::Duration;

use anyhow::{Context as _, bail};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::Client;
use kube::api::{Api, PostParams};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How long a record counts without being renewed.
const LEASE_DURATION: Duration = Duration::from_secs(15);
/// How long the leader may fail to renew before it gives up.
const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// Time between two looks.
const RETRY_PERIOD: Duration = Duration::from_secs(2);

/// What is seen of the Lease.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    holder: Option<String>,
    duration: Duration,
    /// How long the record has not changed, by this process' clock.
    unchanged: Duration,
}

/// What to do.
#[derive(Debug, PartialEq, Eq)]
enum Move {
    /// Write the record anew: it is ours.
    Renew,
    /// Write the record with this process as its holder.
    Acquire,
    /// Look again later.
    Wait,
}

/// Decides what to do about the Lease; `None` when there is none yet.
fn step(seen: Option<&Seen>, me: &str) -> Move {
    let Some(seen) = seen else { return Move::Acquire };
    match seen.holder.as_deref() {
        Some(holder) if holder == me => Move::Renew,
        None | Some("") => Move::Acquire,
        Some(_) if seen.unchanged >= seen.duration => Move::Acquire,
        Some(_) => Move::Wait,
    }
}

/// What an act that cannot be taken back asks before it is done.
pub(crate) struct Claim {
    api: Api<Lease>,
    name: String,
    me: String,
}

impl Claim {
    /// Whether the Lease still names this process; read anew, for this process may have stood
    /// still for longer than the Lease lasts.
    pub(crate) async fn holds(&self) -> Result<bool, kube::Error> {
        let lease = self.api.get_opt(&self.name).await?;
        let holder = lease.and_then(|lease| lease.spec).and_then(|spec| spec.holder_identity);
        Ok(holder.as_deref() == Some(self.me.as_str()))
    }
}

/// The part of one process in the election.
pub(crate) struct Election {
    api: Api<Lease>,
    name: String,
    me: String,
    /// The record as it was seen last, and when it was first seen so.
    last: Option<(String, Instant)>,
}

impl Election {
    pub(crate) fn new(client: Client, namespace: &str, name: &str, me: String) -> Election {
        let api = Api::namespaced(client, namespace);
        Election { api, name: name.to_owned(), me, last: None }
    }

    /// What the work of this process asks before its acts.
    pub(crate) fn claim(&self) -> Claim {
        Claim { api: self.api.clone(), name: self.name.clone(), me: self.me.clone() }
    }

    /// Waits until this process leads. False: `stop` came first.
    pub(crate) async fn acquire(&mut self, stop: &CancellationToken) -> bool {
        loop {
            match tokio::time::timeout(RENEW_DEADLINE, self.attempt()).await {
                Ok(Ok(true)) => return true,
                Ok(Ok(false)) => {}
                Ok(Err(error)) => tracing::warn!(%error, "leader election"),
                Err(_) => tracing::warn!("leader election: the API server does not answer"),
            }
            tokio::select! {
                () = stop.cancelled() => return false,
                () = tokio::time::sleep(RETRY_PERIOD) => {}
            }
        }
    }

    /// Renews until `stop`. An error means that somebody else may lead now.
    pub(crate) async fn hold(&mut self, stop: &CancellationToken) -> anyhow::Result<()> {
        let mut renewed = Instant::now();
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(RETRY_PERIOD) => {}
            }
            let left = RENEW_DEADLINE.saturating_sub(renewed.elapsed());
            match tokio::time::timeout(left, self.attempt()).await {
                Ok(Ok(true)) => renewed = Instant::now(),
                Ok(Ok(false)) => bail!("lost the lease {}: another process holds it", self.name),
                Ok(Err(error)) => tracing::warn!(%error, "the lease could not be renewed"),
                Err(_) => {}
            }
            if renewed.elapsed() >= RENEW_DEADLINE {
                bail!("the lease {} could not be renewed in {RENEW_DEADLINE:?}", self.name);
            }
        }
    }

    /// Gives the Lease up, so that the next process need not wait for it to run out.
    pub(crate) async fn release(&mut self) -> anyhow::Result<()> {
        let released = tokio::time::timeout(RENEW_DEADLINE, self.clear_holder()).await;
        released.context("the API server does not answer")?
    }

    async fn clear_holder(&mut self) -> anyhow::Result<()> {
        let Some(mut lease) = self.api.get_opt(&self.name).await? else { return Ok(()) };
        let spec = lease.spec.get_or_insert_default();
        if spec.holder_identity.as_deref() == Some(&self.me) {
            spec.holder_identity = Some(String::new());
            self.api.replace(&self.name, &PostParams::default(), &lease).await?;
        }
        Ok(())
    }

    /// One look, and one write if it is our turn. True: this process leads.
    async fn attempt(&mut self) -> anyhow::Result<bool> {
        let found = self.api.get_opt(&self.name).await.context("reading the lease")?;
        let seen = found.as_ref().map(|lease| self.look(lease));
        let now = MicroTime(jiff::Timestamp::now());
        let turn = step(seen.as_ref(), &self.me);
        if turn == Move::Wait {
            return Ok(false);
        }
        let old = found.as_ref().and_then(|lease| lease.spec.clone()).unwrap_or_default();
        let acquired = turn == Move::Acquire;
        let transitions = old.lease_transitions.unwrap_or(0);
        let lease = Lease {
            metadata: found.as_ref().map_or_else(
                || ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() },
                |lease| lease.metadata.clone(),
            ),
            spec: Some(LeaseSpec {
                holder_identity: Some(self.me.clone()),
                lease_duration_seconds: i32::try_from(LEASE_DURATION.as_secs()).ok(),
                acquire_time: if acquired { Some(now.clone()) } else { old.acquire_time },
                renew_time: Some(now),
                lease_transitions: Some(transitions + i32::from(acquired && found.is_some())),
                ..LeaseSpec::default()
            }),
        };
        let params = PostParams::default();
        let written = match &found {
            Some(_) => self.api.replace(&self.name, &params, &lease).await,
            None => self.api.create(&params, &lease).await,
        };
        match written {
            Ok(_) => Ok(true),
            // Somebody was faster; the next look tells who.
            Err(kube::Error::Api(status)) if status.is_conflict() || status.is_already_exists() => {
                if acquired {
                    Ok(false)
                } else {
                    bail!("the lease changed while it was renewed")
                }
            }
            Err(error) => Err(error).context("writing the lease"),
        }
    }

    fn look(&mut self, lease: &Lease) -> Seen {
        let version = lease.metadata.resource_version.clone().unwrap_or_default();
        let since = match &self.last {
            Some((last, since)) if *last == version => *since,
            _ => {
                let now = Instant::now();
                self.last = Some((version, now));
                now
            }
        };
        let spec = lease.spec.clone().unwrap_or_default();
        let seconds = spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
        Seen {
            holder: spec.holder_identity,
            duration: seconds.map_or(LEASE_DURATION, Duration::from_secs),
            unchanged: since.elapsed(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(holder: &str, unchanged: u64) -> Seen {
        Seen {
            holder: Some(holder.to_owned()),
            duration: LEASE_DURATION,
            unchanged: Duration::from_secs(unchanged),
        }
    }

    /// A claim on a lease that the API server shows so.
    fn claim(code: u16, lease: &serde_json::Value) -> Claim {
        let body = lease.to_string();
        let service = tower::service_fn(move |_: http::Request<kube::client::Body>| {
            let body = kube::client::Body::from(body.clone().into_bytes());
            let response = http::Response::builder().status(code).body(body);
            std::future::ready(response.map_err(Box::<dyn std::error::Error + Send + Sync>::from))
        });
        let client = Client::new(service, "ns");
        Election::new(client, "ns", "lease", "me".to_owned()).claim()
    }

    #[tokio::test]
    async fn a_claim_holds_while_the_lease_names_this_process() {
        let held_by = |holder: &str| serde_json::json!({"spec": {"holderIdentity": holder}});
        assert!(claim(200, &held_by("me")).holds().await.unwrap());
        assert!(!claim(200, &held_by("other")).holds().await.unwrap());
        assert!(!claim(200, &held_by("")).holds().await.unwrap());
        let absent = serde_json::json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": "not found", "reason": "NotFound", "code": 404,
        });
        assert!(!claim(404, &absent).holds().await.unwrap());
        assert!(claim(500, &serde_json::json!({})).holds().await.is_err());
    }

    #[test]
    fn moves() {
        let nobody = Seen { holder: None, ..seen("", 0) };
        let cases = [
            (None, Move::Acquire),
            (Some(nobody), Move::Acquire),
            (Some(seen("", 0)), Move::Acquire),
            (Some(seen("me", 0)), Move::Renew),
            (Some(seen("me", 60)), Move::Renew),
            (Some(seen("other", 0)), Move::Wait),
            (Some(seen("other", 14)), Move::Wait),
            (Some(seen("other", 15)), Move::Acquire),
        ];
        for (seen, expected) in cases {
            assert_eq!(step(seen.as_ref(), "me"), expected, "{seen:?}");
        }
    }
}
