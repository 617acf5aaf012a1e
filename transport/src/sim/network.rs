//! The network between simulated hosts: it loses, delays, reorders, duplicates and corrupts as a seed says, and its
//! hosts move.

use std::{
    cell::RefCell,
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    future::Future,
    io::{self, IoSliceMut},
    net::{IpAddr, SocketAddr},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use quinn_udp::{RecvMeta, Transmit};
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::time::{Instant, Sleep};

use super::nat::Nat;
use crate::{config::MAX_UDP_SEND, migrate::Route, socket::DatagramSocket};

/// What Linux takes in one send (UDP_MAX_SEGMENTS before 6.9).
const MAX_GSO_SEGMENTS: usize = 64;

/// What a network does to a datagram, in each direction alike.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    /// One way.
    pub latency: Duration,
    /// Up to this much more, evenly; more than the gap between two datagrams reorders them.
    pub jitter: Duration,
    /// Share of datagrams lost, 0 to 1.
    pub loss: f64,
    /// Share delivered twice.
    pub duplicate: f64,
    /// Share with one bit changed.
    pub corrupt: f64,
    /// Larger UDP payloads are lost without a word.
    pub mtu: usize,
}

impl Default for Link {
    fn default() -> Self {
        Self {
            latency: Duration::from_micros(100),
            jitter: Duration::ZERO,
            loss: 0.0,
            duplicate: 0.0,
            corrupt: 0.0,
            mtu: 1_452,
        }
    }
}

/// The network.
#[derive(Clone)]
pub struct Network {
    shared: Rc<RefCell<Shared>>,
}

/// What a network swallows without a word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cut {
    /// Nothing.
    #[default]
    Nothing,
    /// Everything.
    Everything,
    /// What is sent to this address.
    Towards(IpAddr),
    /// What is sent from this address and port.
    From(SocketAddr),
}

struct Shared {
    rng: StdRng,
    link: Link,
    cut: Cut,
    /// By the address that the host was made with.
    inboxes: BTreeMap<SocketAddr, Inbox>,
    /// Where a host is now that has moved from the address that it was made with; nowhere, it has no address.
    moved: BTreeMap<IpAddr, Option<IpAddr>>,
    nat: Option<Nat>,
    /// UDP payload sent, by the addresses of both ends on the wire.
    sent: BTreeMap<(IpAddr, IpAddr), u64>,
    sequence: u64,
    counts: Counts,
}

/// What the network has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Datagrams delivered.
    pub delivered: u64,
    /// Datagrams lost: by chance, by size, to nobody, or while the network was cut.
    pub lost: u64,
    /// Bytes delivered.
    pub bytes: u64,
    /// The largest datagram delivered.
    pub largest_datagram: usize,
    /// The largest send, several datagrams of it or one.
    pub largest_send: usize,
    /// Sends refused as Linux refuses them: too many bytes or datagrams in one.
    pub refused: u64,
}

#[derive(Default)]
struct Inbox {
    datagrams: BinaryHeap<Reverse<Datagram>>,
    waker: Option<Waker>,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Datagram {
    at: Instant,
    sequence: u64,
    from: SocketAddr,
    payload: Vec<u8>,
}

impl Network {
    /// A network whose chances follow `seed`.
    pub fn new(seed: u64, link: Link) -> Self {
        let shared = Shared {
            rng: StdRng::seed_from_u64(seed),
            link,
            cut: Cut::Nothing,
            inboxes: BTreeMap::new(),
            moved: BTreeMap::new(),
            nat: None,
            sent: BTreeMap::new(),
            sequence: 0,
            counts: Counts::default(),
        };
        Self {
            shared: Rc::new(RefCell::new(shared)),
        }
    }

    /// Changes what happens to datagrams sent from now on.
    pub fn set_link(&self, link: Link) {
        self.shared.borrow_mut().link = link;
    }

    /// Cuts the network, or mends it.
    pub fn set_cut(&self, cut: bool) {
        self.cut(if cut { Cut::Everything } else { Cut::Nothing });
    }

    /// Cuts a part of the network, and mends the rest.
    pub fn cut(&self, cut: Cut) {
        self.shared.borrow_mut().cut = cut;
    }

    /// Gives the host that was made with `address` another address, or none. What is sent to its old one is lost.
    /// The host is not told: call [`Pool::on_network_change`](crate::Pool::on_network_change).
    pub fn move_host(&self, address: IpAddr, to: Option<IpAddr>) {
        self.shared.borrow_mut().moved.insert(address, to);
    }

    /// Puts the host that was made with `address` behind a translator with an outer address, or lets the translator
    /// there is forget what it knew: its peers see other ports from now on.
    pub fn rebind_nat(&self, address: IpAddr, outer: IpAddr) {
        let shared = &mut *self.shared.borrow_mut();
        shared.nat = Some(Nat::after(shared.nat.as_ref(), address, outer));
    }

    /// What it has done.
    pub fn counts(&self) -> Counts {
        self.shared.borrow().counts
    }

    /// Bytes of UDP payload sent from one address to another, delivered or not.
    pub fn sent(&self, from: IpAddr, to: IpAddr) -> u64 {
        self.shared.borrow().sent.get(&(from, to)).copied().unwrap_or(0)
    }

    /// A socket of the host that was made with the address.
    pub(super) fn socket(&self, address: SocketAddr) -> Socket {
        self.shared.borrow_mut().inboxes.insert(address, Inbox::default());
        Socket {
            network: self.clone(),
            address,
            sleep: Box::pin(tokio::time::sleep(Duration::ZERO)),
        }
    }
}

impl Shared {
    /// Sends from the socket `from`, named as it was made, to an address as it is now.
    fn send(&mut self, from: SocketAddr, to: SocketAddr, payload: &[u8]) {
        let source = self.place(from.ip()).map(|ip| SocketAddr::new(ip, from.port()));
        let source = source.map(|source| match &mut self.nat {
            Some(nat) => nat.translate(from.ip(), source),
            None => source,
        });
        if let Some(source) = source {
            *self.sent.entry((source.ip(), to.ip())).or_default() += payload.len() as u64;
        }
        let by_chance = payload.len() > self.link.mtu || self.rng.random_bool(self.link.loss);
        let delivery = source
            .filter(|source| !by_chance && !self.cut.swallows(*source, to))
            .and_then(|source| Some((source, self.inbox_of(to)?)));
        let Some((from, to)) = delivery else {
            self.counts.lost += 1;
            return;
        };
        let copies = if self.rng.random_bool(self.link.duplicate) {
            2
        } else {
            1
        };
        for _ in 0..copies {
            self.deliver(from, to, payload.to_vec());
        }
    }

    /// Where the host is that was made with `address`.
    fn place(&self, address: IpAddr) -> Option<IpAddr> {
        self.moved.get(&address).copied().unwrap_or(Some(address))
    }

    /// The inbox at an address as it is now.
    fn inbox_of(&self, address: SocketAddr) -> Option<SocketAddr> {
        let address = match &self.nat {
            Some(nat) => nat.inner_of(address)?,
            None => address,
        };
        let mut inboxes = self.inboxes.keys();
        inboxes
            .find(|inbox| inbox.port() == address.port() && self.place(inbox.ip()) == Some(address.ip()))
            .copied()
    }

    fn deliver(&mut self, from: SocketAddr, to: SocketAddr, mut payload: Vec<u8>) {
        if self.rng.random_bool(self.link.corrupt) {
            let bit = self.rng.random_range(0..payload.len() * 8);
            if let Some(byte) = payload.get_mut(bit / 8) {
                *byte ^= 1 << (bit % 8);
            }
        }
        self.counts.delivered += 1;
        self.counts.bytes += payload.len() as u64;
        self.counts.largest_datagram = self.counts.largest_datagram.max(payload.len());
        let delay = self.link.latency + self.link.jitter.mul_f64(self.rng.random_range(0.0..1.0));
        self.sequence += 1;
        let datagram = Datagram {
            at: Instant::now() + delay,
            sequence: self.sequence,
            from,
            payload,
        };
        if let Some(inbox) = self.inboxes.get_mut(&to) {
            inbox.datagrams.push(Reverse(datagram));
            if let Some(waker) = inbox.waker.take() {
                waker.wake();
            }
        }
    }
}

impl Cut {
    fn swallows(self, from: SocketAddr, to: SocketAddr) -> bool {
        match self {
            Self::Nothing => false,
            Self::Everything => true,
            Self::Towards(ip) => to.ip() == ip,
            Self::From(address) => from == address,
        }
    }
}

/// A socket on a [`Network`].
pub(super) struct Socket {
    network: Network,
    address: SocketAddr,
    sleep: Pin<Box<Sleep>>,
}

impl DatagramSocket for Socket {
    fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let shared = &mut *self.network.shared.borrow_mut();
        let Some(inbox) = shared.inboxes.get_mut(&self.address) else {
            return Poll::Pending;
        };
        let now = Instant::now();
        let mut count = 0;
        for (buffer, meta) in buffers.iter_mut().zip(meta) {
            let due = inbox
                .datagrams
                .peek()
                .is_some_and(|Reverse(datagram)| datagram.at <= now);
            let Some(Reverse(datagram)) = due.then(|| inbox.datagrams.pop()).flatten() else {
                break;
            };
            let length = datagram.payload.len().min(buffer.len());
            buffer[..length].copy_from_slice(&datagram.payload[..length]);
            *meta = RecvMeta {
                addr: datagram.from,
                len: length,
                stride: length,
                ..RecvMeta::default()
            };
            count += 1;
        }
        if count > 0 {
            return Poll::Ready(Ok(count));
        }
        inbox.waker = Some(cx.waker().clone());
        if let Some(Reverse(next)) = inbox.datagrams.peek() {
            self.sleep.as_mut().reset(next.at);
            if self.sleep.as_mut().poll(cx).is_ready() {
                cx.waker().wake_by_ref();
            }
        }
        Poll::Pending
    }

    fn try_send(&mut self, transmit: &Transmit<'_>) -> io::Result<()> {
        let shared = &mut *self.network.shared.borrow_mut();
        let size = transmit.segment_size.unwrap_or(transmit.contents.len()).max(1);
        if transmit.contents.len() > MAX_UDP_SEND || transmit.contents.len().div_ceil(size) > MAX_GSO_SEGMENTS
        {
            shared.counts.refused += 1;
            return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
        }
        shared.counts.largest_send = shared.counts.largest_send.max(transmit.contents.len());
        for payload in transmit.contents.chunks(size) {
            shared.send(self.address, transmit.destination, payload);
        }
        Ok(())
    }

    fn poll_writable(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn max_gso_segments(&self) -> usize {
        MAX_GSO_SEGMENTS
    }

    fn may_fragment(&self) -> bool {
        false
    }

    fn local_addr(&self) -> SocketAddr {
        self.address
    }

    fn route(&self, _: SocketAddr) -> Option<Route> {
        let source = self.network.shared.borrow().place(self.address.ip())?;
        Some(Route {
            source,
            payload: u16::MAX,
        })
    }
}
