//! Looks at every packet on an interface for bytes that must not be there.

use super::Host;
use crate::error::{Doing, Error, Result};
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, recvmsg,
    setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;
use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Room for the packets of a test's whole traffic.
const SOCKET_BUFFER: usize = 64 * 1024 * 1024;

/// Larger than any packet, offloaded ones included.
const PACKET_BUFFER: usize = 512 * 1024;

/// How long a read waits before it looks whether it should end.
const TURN: Duration = Duration::from_millis(20);

/// How long packets are still read after [`Sniffer::finish`] on a link that never falls silent.
const LAST_PACKETS: Duration = Duration::from_secs(2);

/// A running search.
#[derive(Debug)]
pub struct Sniffer {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Seen>,
}

/// What a [`Sniffer`] has seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// Packets on the interface, of both directions.
    pub packets: u64,
    /// Their bytes, link headers included.
    pub bytes: u64,
    /// The longest of them, link header included.
    pub longest: usize,
    /// Packets that contain the bytes searched for.
    pub matches: u64,
    /// The first of these.
    pub first_match: Option<Vec<u8>>,
    /// Packets that came too fast to be searched: a proof needs 0.
    pub missed: u32,
}

impl Sniffer {
    /// Searches for `needle` in every packet that crosses `interface` of `host` from now on, in both directions.
    ///
    /// Packets are searched one by one: a needle cut by the end of a segment is not found, so send it many times.
    ///
    /// # Errors
    /// That there is no such interface, or packet sockets are not allowed.
    pub fn start(host: &Host, interface: &str, needle: &[u8]) -> Result<Self> {
        let (socket, index) = host.run(|| open(interface))??;
        let stop = Arc::new(AtomicBool::new(false));
        let search = Search {
            socket,
            index,
            needle: needle.to_vec(),
            stop: Arc::clone(&stop),
        };
        Ok(Self {
            stop,
            thread: std::thread::spawn(move || search.run()),
        })
    }

    /// Ends the search, once the packets that have crossed by now are searched.
    ///
    /// # Errors
    /// That the search panicked.
    pub fn finish(self) -> Result<Seen> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread
            .join()
            .map_err(|_| Error::Protocol("the sniffer panicked".to_owned()))
    }
}

fn open(interface: &str) -> Result<(OwnedFd, usize)> {
    let index = if_nametoindex(interface).doing(|| format!("find interface {interface}"))?;
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll)
        .doing(|| "open a packet socket".to_owned())?;
    // Root of a mere user namespace may not exceed the machine's limit.
    if setsockopt(&socket, sockopt::RcvBufForce, &SOCKET_BUFFER).is_err() {
        setsockopt(&socket, sockopt::RcvBuf, &SOCKET_BUFFER).doing(|| "size the packet socket".to_owned())?;
    }
    setsockopt(&socket, sockopt::RxqOvfl, &1).doing(|| "count missed packets".to_owned())?;
    let turn = TimeVal::new(0, i64::from(TURN.subsec_micros()));
    setsockopt(&socket, sockopt::ReceiveTimeout, &turn).doing(|| "set a read timeout".to_owned())?;
    Ok((socket, usize::try_from(index).unwrap_or_default()))
}

struct Search {
    socket: OwnedFd,
    index: usize,
    needle: Vec<u8>,
    stop: Arc<AtomicBool>,
}

impl Search {
    fn run(self) -> Seen {
        let (mut seen, mut buffer) = (Seen::default(), vec![0; PACKET_BUFFER]);
        let mut stopped_at = None;
        loop {
            if stopped_at.is_none() && self.stop.load(Ordering::Relaxed) {
                stopped_at = Some(Instant::now());
            }
            match self.receive(&mut buffer, &mut seen) {
                Ok(length) => self.search(buffer.get(..length).unwrap_or_default(), &mut seen),
                // Nothing for a whole turn, so nothing is left.
                Err(Errno::EAGAIN) if stopped_at.is_some() => return seen,
                Err(_) => {}
            }
            if stopped_at.is_some_and(|at: Instant| at.elapsed() > LAST_PACKETS) {
                return seen;
            }
        }
    }

    /// Reads a packet; one of another interface (the loopback) has length 0.
    fn receive(&self, buffer: &mut [u8], seen: &mut Seen) -> nix::Result<usize> {
        let mut control = nix::cmsg_space!(u32);
        let mut parts = [IoSliceMut::new(buffer)];
        let flags = MsgFlags::empty();
        let message = recvmsg::<LinkAddr>(self.socket.as_raw_fd(), &mut parts, Some(&mut control), flags)?;
        for control in message.cmsgs()? {
            if let ControlMessageOwned::RxqOvfl(missed) = control {
                seen.missed = missed;
            }
        }
        let is_ours = message
            .address
            .is_some_and(|address| address.ifindex() == self.index);
        Ok(if is_ours { message.bytes } else { 0 })
    }

    fn search(&self, packet: &[u8], seen: &mut Seen) {
        if packet.is_empty() {
            return;
        }
        seen.packets += 1;
        seen.bytes += packet.len() as u64;
        seen.longest = seen.longest.max(packet.len());
        if packet
            .windows(self.needle.len().max(1))
            .any(|window| window == self.needle)
        {
            seen.matches += 1;
            seen.first_match.get_or_insert_with(|| packet.to_vec());
        }
    }
}
