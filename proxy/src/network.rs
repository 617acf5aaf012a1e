//! What becomes of this host's addresses and routes.
//!
//! The kernel says that something changed (rtnetlink); what it is now is asked for anew, by whoever wants to know:
//! the pool of each worker asks for the routes to its peers, and moves the connections whose way has changed.

use std::{io, net::IpAddr, sync::Arc, time::Duration};

use futures_util::{FutureExt, StreamExt};
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

/// Changes that come sooner after another are taken together: a router's table may change thousands of times a second.
const PAUSE: Duration = Duration::from_millis(50);

/// The addresses of this host, as they were last seen. Published again whenever addresses or routes may have changed.
pub(crate) type Network = watch::Receiver<Arc<[IpAddr]>>;

/// Begins to watch, on a task of the current runtime. Without a way to watch, addresses stay what they are now.
pub(crate) fn watch() -> Network {
    let (publish, network) = watch::channel(addresses());
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

async fn follow<T>(
    mut changes: impl futures_util::Stream<Item = T> + Unpin,
    publish: watch::Sender<Arc<[IpAddr]>>,
) {
    while changes.next().await.is_some() {
        while changes.next().now_or_never().flatten().is_some() {}
        publish.send_replace(addresses());
        tokio::time::sleep(PAUSE).await;
    }
    let error = io::Error::from(io::ErrorKind::UnexpectedEof);
    tracing::error!(%error, "changes of this host's addresses can't be seen any more (rtnetlink)");
}

/// Addresses that reach this host, which a listener on a wildcard address answers to.
fn addresses() -> Arc<[IpAddr]> {
    let interfaces = nix::ifaddrs::getifaddrs().into_iter().flatten();
    let ip = |address: nix::sys::socket::SockaddrStorage| {
        let v4 = address.as_sockaddr_in().map(|address| address.ip().into());
        v4.or_else(|| address.as_sockaddr_in6().map(|address| address.ip().into()))
    };
    interfaces
        .filter_map(|interface| interface.address.and_then(ip))
        .collect()
}
