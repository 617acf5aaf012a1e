//! Connections to the application.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt::IpBindAddressNoPort};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpStream;

use super::error::AppError;
use super::io::LocalStream;
use crate::capture::{OutgoingGuard, OutgoingSockets};

/// Where connections to an application on IPv4 loopback come from, so that what trusts 127.0.0.1 does not trust the
/// mesh. IPv6 has no second loopback address: one must be configured.
pub(crate) const LOOPBACK_SOURCE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 6));

/// Opens connections to the application.
#[derive(Debug, Clone)]
pub(crate) struct Connector {
    source: Option<IpAddr>,
    timeout: Duration,
    outgoing: OutgoingSockets,
    mark: Option<u32>,
}

impl Connector {
    /// From `source`, if it is of the application's family; else from [`LOOPBACK_SOURCE`] to an application on IPv4
    /// loopback. `timeout` is for one connection.
    pub(crate) fn new(source: Option<IpAddr>, timeout: Duration, outgoing: OutgoingSockets) -> Self {
        Self {
            source,
            timeout,
            outgoing,
            mark: None,
        }
    }

    /// Its connections carry this mark (`SO_MARK`), for the kernel's rules to let them pass; takes CAP_NET_ADMIN.
    pub(crate) fn marked(self, mark: Option<u32>) -> Self {
        Self { mark, ..self }
    }

    /// Connects to the application.
    ///
    /// # Errors
    /// If there is no connection within the timeout. Nothing was sent then.
    pub(crate) async fn connect(&self, address: SocketAddr) -> Result<LocalStream, AppError> {
        let begun = self.begin(address).map_err(AppError::connect)?;
        match tokio::time::timeout(self.timeout, establish(begun)).await {
            Ok(result) => result.map_err(AppError::connect),
            Err(_elapsed) => Err(AppError::connect(io::ErrorKind::TimedOut.into())),
        }
    }

    /// Begins to connect, and registers the socket at once: were the kernel to redirect the connection to ourselves,
    /// it could be accepted before we hear that it is established.
    fn begin(&self, address: SocketAddr) -> io::Result<(TcpStream, OutgoingGuard)> {
        let socket = Socket::new(
            Domain::for_address(address),
            Type::STREAM.nonblocking(),
            Some(Protocol::TCP),
        )?;
        if let Some(mark) = self.mark {
            socket.set_mark(mark)?;
        }
        if let Some(source) = self.source_for(address.ip()) {
            // The port is chosen at connect(), for this destination alone: without this, all connections of the host
            // from that source would share one range of ports.
            setsockopt(&socket, IpBindAddressNoPort, &true)?;
            socket.bind(&SocketAddr::new(source, 0).into())?;
        }
        match socket.connect(&address.into()) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
            _ => {}
        }
        let stream = TcpStream::from_std(socket.into())?;
        let guard = self.outgoing.register(stream.local_addr()?);
        Ok((stream, guard))
    }

    fn source_for(&self, destination: IpAddr) -> Option<IpAddr> {
        match self.source {
            Some(source) if source.is_ipv4() == destination.is_ipv4() => Some(source),
            _ if destination.is_ipv4() && destination.is_loopback() => Some(LOOPBACK_SOURCE),
            _ => None,
        }
    }
}

async fn establish((stream, guard): (TcpStream, OutgoingGuard)) -> io::Result<LocalStream> {
    stream.writable().await?;
    match stream.take_error()? {
        Some(error) => Err(error),
        None => Ok(LocalStream::outgoing(stream, guard)),
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;
    use crate::local::error::{AppErrorKind, Processed};

    fn connector(source: Option<&str>) -> Connector {
        let source = source.map(|source| source.parse().unwrap());
        Connector::new(source, Duration::from_secs(5), OutgoingSockets::default())
    }

    #[tokio::test]
    async fn the_application_sees_a_source_of_its_own() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        for (source, expected) in [
            (None, "127.0.0.6"),
            (Some("127.0.0.9"), "127.0.0.9"),
            (Some("::1"), "127.0.0.6"),
        ] {
            let stream = connector(source).connect(address).await.unwrap();
            let (_accepted, peer) = listener.accept().await.unwrap();
            assert_eq!(peer.ip().to_string(), expected);
            assert!(stream.tcp().nodelay().unwrap());
        }
    }

    #[tokio::test]
    async fn a_connection_is_registered_before_it_can_be_accepted_and_until_it_closes() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let connector = connector(None);
        let begun = connector.begin(listener.local_addr().unwrap()).unwrap();
        let (_accepted, peer) = listener.accept().await.unwrap();
        assert!(
            connector.outgoing.contains(peer),
            "before we know that it is established"
        );
        let stream = establish(begun).await.unwrap();
        assert!(connector.outgoing.contains(peer));
        drop(stream);
        assert!(!connector.outgoing.contains(peer));
    }

    #[tokio::test]
    async fn a_refusal_says_that_nothing_was_processed() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let error = connector(None).connect(address).await.unwrap_err();
        assert_eq!(
            (error.kind, error.processed),
            (AppErrorKind::Refused, Processed::No)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn an_application_that_takes_no_connection_times_out() {
        // A listener whose backlog is full answers no more SYNs.
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket
            .bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())
            .unwrap();
        socket.listen(0).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        let _filler = std::net::TcpStream::connect(address).unwrap();
        let error = connector(None).connect(address).await.unwrap_err();
        assert_eq!(
            (error.kind, error.processed),
            (AppErrorKind::ConnectTimeout, Processed::No)
        );
    }
}
