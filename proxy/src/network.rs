//! What becomes of this host's addresses and routes.
//!
//! The kernel says that something changed (rtnetlink); what it is now is asked for anew, by whoever wants to know:
//! the pool of each worker asks for the routes to its peers, and moves the connections whose way has changed.

use std::time::Duration;

use futures_util::{FutureExt, Stream, StreamExt};
use rtnetlink::{MulticastGroup, new_multicast_connection};
use tokio::sync::watch;

/// What may change where packets go, or where they come from.
const GROUPS: [MulticastGroup; 5] = [
    MulticastGroup::Link,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
];

/// Changes that come sooner after another are taken together: a router's table may change thousands of times a second,
/// and each time is a question to the kernel for every peer.
const PAUSE: Duration = Duration::from_millis(50);

/// Tells that addresses or routes may have changed.
pub(crate) type Network = watch::Receiver<()>;

/// Begins to watch, on a task of the current runtime. Without a way to watch, nothing is ever told.
pub(crate) fn watch() -> Network {
    let (publish, network) = watch::channel(());
    match new_multicast_connection(&GROUPS) {
        Ok((connection, _, changes)) => {
            tokio::spawn(connection);
            tokio::spawn(follow(changes, publish));
        }
        Err(error) => tracing::warn!(
            %error,
            "changes of this host's addresses can't be seen (rtnetlink): connections follow them only once they are silent"
        ),
    }
    network
}

async fn follow<T>(mut changes: impl Stream<Item = T> + Unpin, publish: watch::Sender<()>) {
    while changes.next().await.is_some() {
        while changes.next().now_or_never().flatten().is_some() {}
        publish.send_replace(());
        tokio::time::sleep(PAUSE).await;
    }
    tracing::error!("changes of this host's addresses can't be seen any more: rtnetlink ended");
}
