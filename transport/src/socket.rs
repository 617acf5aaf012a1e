//! UDP sockets: batches in (recvmmsg, GRO), batches out (GSO), and the kernel's limits said aloud.

use std::{
    io::{self, IoSliceMut},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    task::{Context, Poll, ready},
};

use quinn_udp::{RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::unix::AsyncFd;

use crate::migrate::Route;

/// What the driver needs of a socket: a real one, or an in-memory one in virtual time.
pub(crate) trait DatagramSocket {
    fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>>;

    /// Sends now, or `WouldBlock`.
    fn try_send(&mut self, transmit: &Transmit<'_>) -> io::Result<()>;

    fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Datagrams that one send may carry.
    fn max_gso_segments(&self) -> usize;

    /// Whether datagrams above the path MTU are fragmented, so that path MTU discovery can't work.
    fn may_fragment(&self) -> bool;

    fn local_addr(&self) -> SocketAddr;

    /// The route to `remote`, if this host has one now.
    fn route(&self, remote: SocketAddr) -> Option<Route>;
}

/// A socket of the kernel.
pub(crate) struct KernelSocket {
    /// Watched for reading alone: the kernel tells of room for writing after each send, and each telling would wake
    /// the worker once more than there is something to do.
    readable: AsyncFd<UdpSocket>,
    /// Watched for writing while the socket is full.
    writable: Option<AsyncFd<OwnedFd>>,
    state: UdpSocketState,
    local: SocketAddr,
}

/// How to open a socket.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SocketOptions {
    pub(crate) buffer: usize,
    /// Several workers share the port.
    pub(crate) reuse_port: bool,
    /// What the kernel's packet filter knows our packets by (`SO_MARK`). Setting one takes CAP_NET_ADMIN.
    pub(crate) mark: Option<u32>,
}

impl KernelSocket {
    /// Binds `address`; an IPv6 wildcard takes IPv4 too.
    pub(crate) fn bind(address: SocketAddr, options: SocketOptions) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        if address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) {
            socket.set_only_v6(false)?;
        }
        if options.reuse_port {
            socket.set_reuse_port(true)?;
        }
        if let Some(mark) = options.mark {
            socket.set_mark(mark)?;
        }
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        Self::with_buffers(socket.into(), options.buffer)
    }

    /// A socket for dialling: both families where the host has both.
    pub(crate) fn dialling(options: SocketOptions) -> io::Result<Self> {
        let any = |ip: IpAddr| SocketAddr::new(ip, 0);
        Self::bind(any(Ipv6Addr::UNSPECIFIED.into()), options)
            .or_else(|_| Self::bind(any(Ipv4Addr::UNSPECIFIED.into()), options))
    }

    fn with_buffers(socket: UdpSocket, wanted: usize) -> io::Result<Self> {
        let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
        let reference = || UdpSockRef::from(&socket);
        state.set_recv_buffer_size(reference(), wanted)?;
        state.set_send_buffer_size(reference(), wanted)?;
        // Linux reports twice what was asked for, the rest being its own bookkeeping (socket(7)).
        warn_if_short(
            "receive",
            "net.core.rmem_max",
            state.recv_buffer_size(reference())? / 2,
            wanted,
        );
        warn_if_short(
            "send",
            "net.core.wmem_max",
            state.send_buffer_size(reference())? / 2,
            wanted,
        );
        let local = socket.local_addr()?;
        let readable = watch::readable(socket)?;
        Ok(Self {
            readable,
            writable: None,
            state,
            local,
        })
    }
}

#[expect(
    unsafe_code,
    reason = "tokio can't know that these types keep their descriptor open and do not change it"
)]
mod watch {
    use std::{io, net::UdpSocket, os::fd::OwnedFd};

    use tokio::io::{Interest, unix::AsyncFd};

    pub(super) fn readable(socket: UdpSocket) -> io::Result<AsyncFd<UdpSocket>> {
        // SAFETY: a `UdpSocket` owns its descriptor, which stays the same and open until it is dropped.
        unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }.map_err(Into::into)
    }

    pub(super) fn writable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
        // SAFETY: an `OwnedFd` owns its descriptor, which stays the same and open until it is dropped.
        unsafe { AsyncFd::register_with_interest(fd, Interest::WRITABLE) }.map_err(Into::into)
    }
}

fn warn_if_short(direction: &str, sysctl: &str, got: usize, wanted: usize) {
    if got < wanted {
        tracing::warn!(
            got,
            wanted,
            "the UDP {direction} buffer is smaller than Weft asked for, so bursts are lost under load; \
             run: sysctl -w {sysctl}={wanted}"
        );
    }
}

impl AsFd for KernelSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.readable.get_ref().as_fd()
    }
}

impl DatagramSocket for KernelSocket {
    fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.readable.poll_read_ready(cx))?;
            let socket = guard.get_inner();
            match self.state.recv(UdpSockRef::from(socket), buffers, meta) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => guard.clear_ready(),
                received => {
                    // Fewer than there was room for: the queue was empty, and what comes from now on is told of.
                    if received.as_ref().is_ok_and(|count| *count < buffers.len()) {
                        guard.clear_ready();
                    }
                    return Poll::Ready(received);
                }
            }
        }
    }

    fn try_send(&mut self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.state
            .try_send(UdpSockRef::from(self.readable.get_ref()), transmit)
    }

    fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.writable.is_none() {
            let fd = self.readable.get_ref().as_fd().try_clone_to_owned()?;
            self.writable = Some(watch::writable(fd)?);
        }
        let Some(writable) = &self.writable else {
            return Poll::Pending;
        };
        ready!(writable.poll_write_ready(cx))?.retain_ready();
        self.writable = None;
        Poll::Ready(Ok(()))
    }

    fn max_gso_segments(&self) -> usize {
        self.state.max_gso_segments()
    }

    fn may_fragment(&self) -> bool {
        self.state.may_fragment()
    }

    fn local_addr(&self) -> SocketAddr {
        self.local
    }

    fn route(&self, remote: SocketAddr) -> Option<Route> {
        route(remote)
    }
}

/// UDP payload over IPv6 on a link of 1,500 bytes: what is assumed where the kernel does not tell.
pub(crate) const ETHERNET_PAYLOAD: u16 = 1_452;

/// Asks the kernel for the route to `remote`: the source address, and the MTU less IP and UDP headers. A connected UDP
/// socket sends nothing; it only makes the kernel look the route up.
fn route(remote: SocketAddr) -> Option<Route> {
    let remote = canonical(remote);
    let socket = Socket::new(Domain::for_address(remote), Type::DGRAM, Some(Protocol::UDP)).ok()?;
    socket.connect(&remote.into()).ok()?;
    let source = socket.local_addr().ok()?.as_socket()?.ip();
    let payload = match remote.ip() {
        IpAddr::V4(_) => mtu_option::ipv4(&socket).map(|mtu| mtu.saturating_sub(20 + 8)),
        IpAddr::V6(_) => mtu_option::ipv6(&socket).map(|mtu| mtu.saturating_sub(40 + 8)),
    };
    let payload = payload.map_or(ETHERNET_PAYLOAD, |payload| {
        u16::try_from(payload).unwrap_or(u16::MAX)
    });
    Some(Route { source, payload })
}

/// An IPv4 address in its own form, also where a dual-stack socket shows it as IPv6.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// `remote` as a socket at `local` can send to it: an IPv6 socket reaches IPv4 by mapped addresses, an IPv4 socket
/// reaches nothing else.
pub(crate) fn reachable(local: SocketAddr, remote: SocketAddr) -> Option<SocketAddr> {
    match (local, remote.ip()) {
        (SocketAddr::V4(_), IpAddr::V6(ip)) => ip
            .to_ipv4_mapped()
            .map(|ip| SocketAddr::new(ip.into(), remote.port())),
        (SocketAddr::V6(_), IpAddr::V4(ip)) => {
            Some(SocketAddr::new(ip.to_ipv6_mapped().into(), remote.port()))
        }
        _ => Some(remote),
    }
}

#[expect(
    unsafe_code,
    reason = "no crate here wraps the IP_MTU and IPV6_MTU socket options"
)]
mod mtu_option {
    use std::os::fd::AsRawFd;

    use socket2::Socket;

    pub(super) fn ipv4(socket: &Socket) -> Option<u32> {
        get(socket, libc::IPPROTO_IP, libc::IP_MTU)
    }

    pub(super) fn ipv6(socket: &Socket) -> Option<u32> {
        get(socket, libc::IPPROTO_IPV6, libc::IPV6_MTU)
    }

    fn get(socket: &Socket, level: libc::c_int, option: libc::c_int) -> Option<u32> {
        let mut value: libc::c_int = 0;
        let mut length = size_of::<libc::c_int>() as libc::socklen_t;
        // SAFETY: `value` and `length` outlive the call and `length` is the size of `value`.
        let result = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                level,
                option,
                (&raw mut value).cast(),
                &raw mut length,
            )
        };
        (result == 0).then_some(value)?.try_into().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_route_takes_more_than_ethernet() {
        let route = route("127.0.0.1:9".parse().unwrap()).unwrap();
        assert!(route.payload > ETHERNET_PAYLOAD, "{route:?}");
        assert!(route.source.is_loopback(), "{route:?}");
    }
}
