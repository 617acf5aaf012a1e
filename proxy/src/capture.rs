//! Where an accepted connection wanted to go, and whether it may be served at all.
//!
//! A connection reaches the outbound port in one of two ways: the kernel redirected it there (its original
//! destination is then kept by connection tracking), or the application was told about the port. The two are told
//! apart by the original destination: absent, or equal to the address that the connection was accepted on, it means
//! that nothing was redirected.
//!
//! Two kinds of connection are refused, because serving them would only bring them back: those on their way to a
//! listener of this proxy, and those that this proxy opened itself ([`OutgoingSockets`]).

mod cgroup;
pub(crate) mod command;
mod host;
mod loopback;
mod nft;
pub(crate) mod rules;
pub(crate) mod watch;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustc_hash::FxHashSet;
use socket2::SockRef;

/// Where an application's connection was going.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Destination {
    /// The kernel redirected a connection to this address.
    Original(SocketAddr),
    /// The application connected to our port itself: the destination is in what it says (Host, CONNECT), or in the
    /// configuration of a bind.
    Explicit,
}

/// Why a connection is not served. The variants are label values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// Its destination is one of our own listeners.
    #[error("the destination is a listener of this proxy")]
    OwnListener,
    /// It was opened by this proxy.
    #[error("the connection was opened by this proxy")]
    OwnSocket,
}

impl Refusal {
    /// The reason as it stands in logs and labels.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::OwnListener => "own_listener",
            Self::OwnSocket => "own_socket",
        }
    }
}

/// The addresses that this proxy listens on.
#[derive(Debug, Clone)]
pub(crate) struct OwnListeners {
    listeners: Vec<SocketAddr>,
    host: HostAddresses,
}

/// Tells the addresses of the host's interfaces, as they are now: they come and go.
pub(crate) type HostAddresses = fn() -> Vec<IpAddr>;

/// The [`HostAddresses`] of the calling thread's network.
pub(crate) fn host_addresses() -> Vec<IpAddr> {
    let interfaces = nix::ifaddrs::getifaddrs().into_iter().flatten();
    let ip = |address: nix::sys::socket::SockaddrStorage| {
        let v4 = address.as_sockaddr_in().map(|address| address.ip().into());
        v4.or_else(|| address.as_sockaddr_in6().map(|address| address.ip().into()))
    };
    interfaces
        .filter_map(|interface| interface.address.and_then(ip))
        .collect()
}

impl OwnListeners {
    /// `listeners` as they were bound; `host` has the addresses that a listener on the unspecified address answers
    /// to (loopback need not be listed). It is asked only for a destination with the port of such a listener.
    pub(crate) fn new(listeners: impl IntoIterator<Item = SocketAddr>, host: HostAddresses) -> Self {
        Self {
            listeners: listeners.into_iter().map(canonical).collect(),
            host,
        }
    }

    /// Whether a connection to `address` would arrive at one of the listeners.
    pub(crate) fn contains(&self, address: SocketAddr) -> bool {
        let address = canonical(address);
        self.listeners.iter().any(|listener| {
            listener.port() == address.port()
                && (listener.ip() == address.ip()
                    || listener.ip().is_unspecified() && self.is_host(address.ip()))
        })
    }

    fn is_host(&self, ip: IpAddr) -> bool {
        // Connecting to the unspecified address reaches the host itself.
        ip.is_loopback()
            || ip.is_unspecified()
            || (self.host)().into_iter().any(|host| host.to_canonical() == ip)
    }
}

/// The local addresses of the connections that this proxy has open towards applications and external hosts.
///
/// One table for the process: a connection that the kernel redirects back may be accepted by another worker. It is
/// touched once when a connection opens, once when it closes and once for each accepted connection, never for a
/// request, so an uncontended mutex (about 20 ns) is all it needs.
#[derive(Debug, Default, Clone)]
pub(crate) struct OutgoingSockets(Arc<Mutex<FxHashSet<SocketAddr>>>);

/// Keeps an address registered in [`OutgoingSockets`] until it is dropped.
#[derive(Debug)]
pub(crate) struct OutgoingGuard {
    sockets: OutgoingSockets,
    address: SocketAddr,
}

impl OutgoingSockets {
    /// Registers a socket by its local address. Call it when the address is known and, if that can be, before the
    /// connection is established.
    pub(crate) fn register(&self, local: SocketAddr) -> OutgoingGuard {
        let address = canonical(local);
        self.lock().insert(address);
        OutgoingGuard {
            sockets: self.clone(),
            address,
        }
    }

    /// Whether `peer`, the source of an accepted connection, is a socket of ours.
    pub(crate) fn contains(&self, peer: SocketAddr) -> bool {
        self.lock().contains(&canonical(peer))
    }

    fn lock(&self) -> MutexGuard<'_, FxHashSet<SocketAddr>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for OutgoingGuard {
    fn drop(&mut self) {
        self.sockets.lock().remove(&self.address);
    }
}

/// What is known of an accepted connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Accepted {
    /// Its source.
    pub(crate) peer: SocketAddr,
    /// The address that it was accepted on.
    pub(crate) local: SocketAddr,
    /// The address of the listener, as it was bound.
    pub(crate) listener: SocketAddr,
    /// What the kernel keeps as its original destination, if it keeps one.
    pub(crate) original: Option<SocketAddr>,
}

impl Accepted {
    /// Reads the addresses of an accepted connection.
    ///
    /// # Errors
    /// If the connection is already gone.
    pub(crate) fn read(stream: &tokio::net::TcpStream, listener: SocketAddr) -> io::Result<Self> {
        Ok(Self {
            peer: stream.peer_addr()?,
            local: stream.local_addr()?,
            listener,
            original: original_destination(stream),
        })
    }
}

/// Decides where an accepted connection goes.
///
/// # Errors
/// If serving it would make a loop.
pub(crate) fn destination(
    accepted: &Accepted,
    listeners: &OwnListeners,
    outgoing: &OutgoingSockets,
) -> Result<Destination, Refusal> {
    if outgoing.contains(accepted.peer) {
        return Err(Refusal::OwnSocket);
    }
    match redirected(accepted) {
        None => Ok(Destination::Explicit),
        Some(original) if listeners.contains(original) => Err(Refusal::OwnListener),
        Some(original) => Ok(Destination::Original(original)),
    }
}

/// The address that the connection was redirected from.
fn redirected(accepted: &Accepted) -> Option<SocketAddr> {
    let local = canonical(accepted.local);
    match accepted.original.map(canonical) {
        Some(original) if original != local => Some(original),
        // TPROXY leaves the original destination as the local address of the accepted socket, which then is not on
        // the listener's port; connection tracking knows nothing of it, or repeats it.
        _ if local.port() != accepted.listener.port() => Some(local),
        _ => None,
    }
}

/// The original destination as connection tracking has it (`SO_ORIGINAL_DST`, `IP6T_SO_ORIGINAL_DST`). A kernel
/// without connection tracking, or a connection that it does not know, has none.
fn original_destination(stream: &tokio::net::TcpStream) -> Option<SocketAddr> {
    let socket = SockRef::from(stream);
    let is_v4 = stream.local_addr().ok()?.ip().to_canonical().is_ipv4();
    let original = if is_v4 {
        socket.original_dst_v4()
    } else {
        socket.original_dst_v6()
    };
    original.ok()?.as_socket().map(canonical)
}

/// An IPv4 address in its own form, also where a dual-stack socket shows it as IPv6.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn accepted(local: &str, original: Option<&str>) -> Accepted {
        Accepted {
            peer: address("10.0.0.9:40000"),
            local: address(local),
            listener: address("127.0.0.1:15001"),
            original: original.map(address),
        }
    }

    fn decide(accepted: &Accepted) -> Result<Destination, Refusal> {
        let listeners = OwnListeners::new(
            ["127.0.0.1:15001", "[::1]:15001", "[::]:15008", "127.0.0.1:15000"].map(address),
            || vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
        );
        destination(accepted, &listeners, &OutgoingSockets::default())
    }

    #[test]
    fn an_original_destination_of_its_own_means_not_redirected() {
        assert_eq!(
            decide(&accepted("127.0.0.1:15001", None)),
            Ok(Destination::Explicit)
        );
        assert_eq!(
            decide(&accepted("127.0.0.1:15001", Some("127.0.0.1:15001"))),
            Ok(Destination::Explicit)
        );
        assert_eq!(
            decide(&accepted("[::ffff:127.0.0.1]:15001", Some("127.0.0.1:15001"))),
            Ok(Destination::Explicit)
        );
    }

    #[test]
    fn a_redirected_connection_has_its_original_destination() {
        assert_eq!(
            decide(&accepted("127.0.0.1:15001", Some("10.96.0.1:80"))),
            Ok(Destination::Original(address("10.96.0.1:80")))
        );
        assert_eq!(
            decide(&accepted("[::1]:15001", Some("[fd00:96::1]:80"))),
            Ok(Destination::Original(address("[fd00:96::1]:80")))
        );
        // TPROXY: the socket itself has the original destination.
        for original in [None, Some("10.96.0.1:80")] {
            assert_eq!(
                decide(&accepted("10.96.0.1:80", original)),
                Ok(Destination::Original(address("10.96.0.1:80")))
            );
        }
    }

    #[test]
    fn our_own_listeners_are_refused_in_every_spelling() {
        let own = [
            "127.0.0.1:15000",
            "[::ffff:127.0.0.1]:15000",
            "127.0.0.1:15008",
            "127.3.2.1:15008",
            "0.0.0.0:15008",
            "10.0.0.1:15008",
            "[::ffff:10.0.0.1]:15008",
            "[fd00::1]:15008",
            "[::1]:15008",
            "[::]:15008",
        ];
        for original in own {
            assert_eq!(
                decide(&accepted("127.0.0.1:15001", Some(original))),
                Err(Refusal::OwnListener),
                "{original}"
            );
        }
        // The same port elsewhere is another proxy's.
        assert!(decide(&accepted("127.0.0.1:15001", Some("10.0.0.2:15008"))).is_ok());
        assert!(decide(&accepted("127.0.0.1:15001", Some("10.0.0.1:15000"))).is_ok());
    }

    #[test]
    fn our_own_outgoing_socket_is_refused_while_it_is_open() {
        let outgoing = OutgoingSockets::default();
        let listeners = OwnListeners::new([], Vec::new);
        let mut connection = accepted("127.0.0.1:15001", Some("10.96.0.1:80"));
        connection.peer = address("[::ffff:127.0.0.6]:40000");

        let guard = outgoing.register(address("127.0.0.6:40000"));
        assert_eq!(
            destination(&connection, &listeners, &outgoing),
            Err(Refusal::OwnSocket)
        );
        // Another application may use the same port from another address.
        connection.peer = address("127.0.0.7:40000");
        assert!(destination(&connection, &listeners, &outgoing).is_ok());

        drop(guard);
        connection.peer = address("127.0.0.6:40000");
        assert!(destination(&connection, &listeners, &outgoing).is_ok());
    }

    #[tokio::test]
    async fn a_plain_connection_is_explicit() {
        for listen in ["127.0.0.1:0", "[::1]:0", "[::]:0"] {
            let Ok(listener) = tokio::net::TcpListener::bind(listen).await else {
                continue;
            };
            let bound = listener.local_addr().unwrap();
            let target = match bound.ip().is_unspecified() {
                true => SocketAddr::new("127.0.0.1".parse().unwrap(), bound.port()),
                false => bound,
            };
            let client = tokio::net::TcpStream::connect(target).await.unwrap();
            let (stream, _) = listener.accept().await.unwrap();
            let accepted = Accepted::read(&stream, bound).unwrap();
            assert_eq!(canonical(accepted.peer), client.local_addr().unwrap());
            assert_eq!(
                destination(
                    &accepted,
                    &OwnListeners::new([bound], Vec::new),
                    &OutgoingSockets::default()
                ),
                Ok(Destination::Explicit)
            );
        }
    }

    proptest! {
        #[test]
        fn a_listener_is_never_a_destination(ip: std::net::Ipv4Addr, port: u16, mapped: bool) {
            let own = SocketAddr::new(ip.into(), port);
            let ip = if mapped { ip.to_ipv6_mapped().into() } else { IpAddr::from(ip) };
            let connection = Accepted {
                peer: address("10.0.0.9:40000"),
                local: address("127.0.0.1:15001"),
                listener: address("127.0.0.1:15001"),
                original: Some(SocketAddr::new(ip, port)),
            };
            let decision =
                destination(&connection, &OwnListeners::new([own], Vec::new), &OutgoingSockets::default());
            if own != address("127.0.0.1:15001") {
                prop_assert_eq!(decision, Err(Refusal::OwnListener));
            }
        }
    }
}
