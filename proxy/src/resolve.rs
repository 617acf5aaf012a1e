//! Where a name or an address leads: by the snapshot and, where that does not know it, by asking.
//!
//! What is known costs a look into the snapshot and no more. The rest is in futures of their own, so that a request
//! for a known name carries nothing of it.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use rand::seq::IndexedRandom;
use rustc_hash::FxHashMap;
use tokio::time::{Instant, timeout};

use crate::{
    demand::{Demand, Subject},
    snapshot::{self, NoRoute, Snapshot, Upstream},
    worker::Worker,
};

/// How long an answer of the DNS is used. The system's resolver does not tell how long it may be.
const DNS_AGE: Duration = Duration::from_secs(30);
/// How long the DNS may take.
const DNS_TIMEOUT: Duration = Duration::from_secs(3);
/// Hosts whose addresses are remembered; more are those of a mesh that changes all the time.
const MAX_HOSTS: usize = 1_024;

/// What the DNS said of hosts outside, by host.
#[derive(Debug, Default)]
pub(crate) struct Resolved(FxHashMap<Box<str>, (Instant, Vec<IpAddr>)>);

/// Where an address leads.
///
/// # Errors
/// Nowhere, and why.
pub(crate) async fn by_address(worker: &Worker, destination: SocketAddr) -> Result<Upstream, NoRoute> {
    match (worker.snapshot().by_address(destination), &worker.demand) {
        (Err(NoRoute::UnknownInMesh), Some(demand)) => {
            let subject = Subject::Address(destination.ip().to_canonical());
            let asked = Box::pin(demand.ask(subject)).await?;
            asked.by_address(destination)
        }
        (known, _) => known,
    }
}

/// Where a host leads, as [`Snapshot::by_host`] takes it.
///
/// # Errors
/// Nowhere, and why.
pub(crate) async fn by_host(worker: &Worker, host: &str, port: Option<u16>) -> Result<Upstream, NoRoute> {
    let snapshot = worker.snapshot();
    let known = match (snapshot.by_host(host, port), &worker.demand) {
        (Err(no_route), Some(demand)) if is_to_be_asked(no_route) => {
            Box::pin(ask(demand, &snapshot, host, port)).await
        }
        (known, _) => known,
    };
    match known {
        Err(NoRoute::Unresolved) => Box::pin(outside(worker, host, port)).await,
        known => known,
    }
}

/// Where a host leads, for who is no worker and does not go there: a host outside whose addresses the DNS knows is
/// [`NoRoute::Unresolved`].
///
/// # Errors
/// Nowhere, and why.
pub(crate) async fn look_up(
    snapshot: &Snapshot,
    demand: Option<&Demand>,
    host: &str,
    port: Option<u16>,
) -> Result<Upstream, NoRoute> {
    match (snapshot.by_host(host, port), demand) {
        (Err(no_route), Some(demand)) if is_to_be_asked(no_route) => ask(demand, snapshot, host, port).await,
        (known, _) => known,
    }
}

/// Whether the controller may know more.
fn is_to_be_asked(no_route: NoRoute) -> bool {
    matches!(no_route, NoRoute::UnknownName | NoRoute::UnknownInMesh)
}

async fn ask(
    demand: &Demand,
    snapshot: &Snapshot,
    host: &str,
    port: Option<u16>,
) -> Result<Upstream, NoRoute> {
    let subject = match snapshot::address(host) {
        Some(ip) => Subject::Address(ip.to_canonical()),
        None => Subject::name(snapshot.full_name(host)).ok_or(NoRoute::UnknownName)?,
    };
    demand.ask(subject).await?.by_host(host, port)
}

/// A host outside the mesh whose addresses the DNS knows. One that leads into the mesh, or to this host, is not outside.
async fn outside(worker: &Worker, host: &str, port: Option<u16>) -> Result<Upstream, NoRoute> {
    let snapshot = worker
        .demand
        .as_ref()
        .map_or_else(|| worker.snapshot(), |demand| demand.latest());
    let (_, port) = snapshot.external(host, port)?;
    let addresses = addresses(worker, host).await;
    let outside: Vec<IpAddr> = addresses
        .into_iter()
        .map(|address| address.to_canonical())
        .filter(|address| is_outside(&snapshot, *address))
        .collect();
    let address = outside.choose(&mut *worker.rng()).ok_or(NoRoute::Unresolved)?;
    Ok(Upstream::External(SocketAddr::new(*address, port)))
}

fn is_outside(snapshot: &Arc<Snapshot>, address: IpAddr) -> bool {
    let is_link_local = match address {
        IpAddr::V4(address) => address.is_link_local() || address.is_broadcast(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    !(snapshot.config.contains(address)
        || address.is_loopback()
        || address.is_unspecified()
        || address.is_multicast()
        || is_link_local)
}

async fn addresses(worker: &Worker, host: &str) -> Vec<IpAddr> {
    let now = Instant::now();
    if let Some((at, addresses)) = worker.outside_hosts.borrow().0.get(host)
        && now.duration_since(*at) < DNS_AGE
    {
        return addresses.clone();
    }
    let found: Vec<IpAddr> = match timeout(DNS_TIMEOUT, tokio::net::lookup_host((host, 0))).await {
        Ok(Ok(found)) => found.map(|address| address.ip()).collect(),
        Ok(Err(error)) => {
            tracing::debug!(%error, "a host outside the mesh does not resolve");
            Vec::new()
        }
        Err(_) => Vec::new(),
    };
    let mut hosts = worker.outside_hosts.borrow_mut();
    if found.is_empty() {
        // The last good addresses are better than none.
        return hosts
            .0
            .get(host)
            .map(|(_, addresses)| addresses.clone())
            .unwrap_or_default();
    }
    if hosts.0.len() >= MAX_HOSTS {
        hosts.0.clear();
    }
    hosts.0.insert(host.into(), (now, found.clone()));
    found
}
