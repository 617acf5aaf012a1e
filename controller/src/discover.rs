//! Where names outside the mesh lead: ExternalServices that ask for `resolution: dns` are resolved here, and sent to
//! proxies as if their addresses had been written down.
//!
//! [`run`] stands between the catalog and the [`Hub`]: other documents pass as they are. Of an ExternalService of
//! several hosts each becomes a resource of its own, `NAME.HOST`, as each has its own addresses. A host that cannot be
//! resolved keeps its last addresses, and shows in the warnings; one that never could is passed on as `dns`. Addresses
//! of the mesh, or of the proxy's own host, are left out: whoever owns a name outside must not lead callers there.

mod table;

use std::{net::IpAddr, sync::Arc, time::Duration};

use futures_util::{Stream, StreamExt, future::BoxFuture};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};

use crate::{
    push::{Hub, Stopped},
    world::Change,
};
pub use table::Table;

/// How long a lookup may take.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);
/// How many lookups are under way at once.
const LOOKUPS: usize = 16;
/// How often the table is asked what is due, if nothing else happens.
const TICK: Duration = Duration::from_secs(1);

/// Finds the addresses of a host, or why there are none.
pub type Lookup = Arc<dyn Fn(String) -> BoxFuture<'static, Result<Vec<IpAddr>, String>> + Send + Sync>;

/// The lookup of the system: `/etc/hosts`, and the servers of `/etc/resolv.conf`. It tells nothing of how long its
/// answer is good for.
pub fn system_lookup() -> Lookup {
    Arc::new(|host| {
        Box::pin(async move {
            let found = tokio::net::lookup_host((host, 0))
                .await
                .map_err(|error| error.to_string())?;
            Ok(found.map(|address| address.ip()).collect())
        })
    })
}

/// Hands changes on to the hub, with the addresses of external services, until there are no more. What cannot be
/// resolved is in `warnings`.
///
/// # Errors
/// The hub was stopped.
pub async fn run(
    hub: Hub,
    mut published: impl Stream<Item = (u64, Vec<Change>)> + Unpin,
    lookup: Lookup,
    warnings: watch::Sender<Vec<String>>,
) -> Result<(), Stopped> {
    let mut table = Table::new(unix_milliseconds());
    let mut lookups: JoinSet<(String, Result<Vec<IpAddr>, String>)> = JoinSet::new();
    let start = Instant::now();
    let mut revision = 0;
    loop {
        let now = start.elapsed();
        let room = LOOKUPS.saturating_sub(lookups.len());
        for host in table.due(now, room) {
            let lookup = lookup.clone();
            lookups.spawn(async move {
                let found = timeout(LOOKUP_TIMEOUT, lookup(host.clone())).await;
                (
                    host,
                    found.unwrap_or_else(|_| Err("no answer within 5 s".to_owned())),
                )
            });
        }
        let changes = tokio::select! {
            next = published.next() => {
                let Some((at, changes)) = next else { return Ok(()) };
                revision = at;
                table.on_changes(changes, start.elapsed())
            }
            Some(Ok((host, found))) = lookups.join_next() => {
                let changes = table.on_resolved(&host, found, start.elapsed());
                warnings.send_if_modified(|warnings| {
                    let now = table.warnings();
                    std::mem::replace(warnings, now) != *warnings
                });
                if changes.is_empty() {
                    continue;
                }
                changes
            }
            () = sleep_until(Instant::now() + TICK) => continue,
        };
        hub.publish(revision, changes).await?;
    }
}

fn unix_milliseconds() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    u64::try_from(now.unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}
