//! The thread of a link: reads packets, asks the state, writes them when they are due.

use super::super::tun::Tun;
use super::state::{Counters, Direction, State, Verdict};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Longer than any IP packet that is not a jumbogram.
const PACKET_BUFFER: usize = 64 * 1024;

/// Packets of one direction read in a row, so that the other one has its turn and what is due leaves within a
/// fraction of a millisecond.
const BATCH: usize = 64;

/// What the thread shares with the link's owner. The lock is held for decisions, never for system calls.
#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
    /// After each packet.
    counted: Condvar,
    stop: EventFd,
}

impl Shared {
    pub(super) fn new(state: State) -> io::Result<Self> {
        Ok(Self {
            state: Mutex::new(state),
            counted: Condvar::new(),
            stop: EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?,
        })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the thread.
    pub(super) fn stop(&self) {
        // Fails only if it was stopped 2^64 times before.
        self.stop.write(1).ok();
    }

    /// The counters when they are as wanted, or at the time-out.
    pub(super) fn wait_for(
        &self,
        direction: Direction,
        timeout: Duration,
        is_reached: &impl Fn(&Counters) -> bool,
    ) -> Counters {
        let is_awaited = |state: &mut State| !is_reached(&state.counters(direction));
        let (state, _) = self
            .counted
            .wait_timeout_while(self.lock(), timeout, is_awaited)
            .unwrap_or_else(PoisonError::into_inner);
        state.counters(direction)
    }
}

/// The two devices and what is on its way between them.
pub(super) struct Wire {
    /// The left and the right host's; `None` when one has failed.
    devices: [Option<Tun>; 2],
    in_flight: [BinaryHeap<Reverse<InFlight>>; 2],
    sequence: u64,
    buffer: Box<[u8]>,
    started: Instant,
    shared: Arc<Shared>,
}

/// A packet that is not due yet. Packets due at the same time keep their order.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct InFlight {
    due: Duration,
    sequence: u64,
    packet: Vec<u8>,
}

/// What there is to do.
struct Readiness {
    is_stopped: bool,
    /// By the host that has sent.
    packets: [bool; 2],
}

impl Wire {
    pub(super) fn new(devices: [Tun; 2], shared: Arc<Shared>) -> Self {
        Self {
            devices: devices.map(Some),
            in_flight: Default::default(),
            sequence: 0,
            buffer: vec![0; PACKET_BUFFER].into(),
            started: Instant::now(),
            shared,
        }
    }

    /// Runs until stopped.
    pub(super) fn run(mut self) {
        loop {
            match self.wait() {
                Ok(ready) if ready.is_stopped => return,
                Ok(ready) => {
                    for direction in Direction::BOTH {
                        self.deliver_due(direction);
                        if ready.packets[direction.index()] {
                            self.read_batch(direction);
                        }
                    }
                }
                Err(Errno::EINTR) => {}
                // Out of memory: the link is dead, as the hosts will notice.
                Err(_) => return,
            }
        }
    }

    /// Waits until a host sends, a packet is due, or the link ends.
    fn wait(&self) -> nix::Result<Readiness> {
        let due = self
            .in_flight
            .iter()
            .filter_map(|heap| heap.peek())
            .map(|Reverse(first)| first.due)
            .min();
        let timeout = due.map(|due| due.saturating_sub(self.started.elapsed()).into());
        let stop = self.shared.stop.as_fd();
        // In the place of a device that is gone, the event that ends the wait anyway.
        let [left, right] = self
            .devices
            .each_ref()
            .map(|device| device.as_ref().map_or(stop, AsFd::as_fd));
        let mut fds = [left, right, stop].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        ppoll(&mut fds, timeout, None)?;
        let [left, right, stop] = fds.map(|fd| fd.any().unwrap_or(false));
        Ok(Readiness {
            is_stopped: stop,
            packets: [left, right],
        })
    }

    /// Reads what a host has sent.
    fn read_batch(&mut self, direction: Direction) {
        // Taken for the time of the loop, so that the packets in it can be worked on.
        let mut buffer = std::mem::take(&mut self.buffer);
        for _ in 0..BATCH {
            let Some(device) = &self.devices[direction.index()] else {
                break;
            };
            match device.read(&mut buffer) {
                Ok(length) => self.on_packet(direction, &mut buffer[..length]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The device is gone with its host.
                Err(_) => self.devices[direction.index()] = None,
            }
        }
        self.buffer = buffer;
        self.deliver_due(direction);
    }

    fn on_packet(&mut self, direction: Direction, packet: &mut [u8]) {
        let now = self.started.elapsed();
        let verdict = self.shared.lock().on_packet(direction, now, packet);
        self.shared.counted.notify_all();
        match verdict {
            Verdict::Drop => {}
            Verdict::Answer(answer) => self.write(direction.reversed(), &answer),
            Verdict::Deliver(delivery) => {
                if let Some(due) = delivery.duplicate_at {
                    self.put_in_flight(direction, due, packet);
                }
                if delivery.at <= now && self.in_flight[direction.index()].is_empty() {
                    self.write(direction, packet);
                } else {
                    self.put_in_flight(direction, delivery.at, packet);
                }
            }
        }
    }

    fn put_in_flight(&mut self, direction: Direction, due: Duration, packet: &[u8]) {
        self.sequence += 1;
        self.in_flight[direction.index()].push(Reverse(InFlight {
            due,
            sequence: self.sequence,
            packet: packet.to_vec(),
        }));
    }

    fn deliver_due(&mut self, direction: Direction) {
        let now = self.started.elapsed();
        while let Some(packet) = self.next_due(direction, now) {
            self.write(direction, &packet);
        }
    }

    fn next_due(&mut self, direction: Direction, now: Duration) -> Option<Vec<u8>> {
        let first = self.in_flight[direction.index()].peek_mut()?;
        (first.0.due <= now).then(|| PeekMut::pop(first).0.packet)
    }

    /// Lets a packet arrive at the end of its direction.
    fn write(&self, direction: Direction, packet: &[u8]) {
        let device = &self.devices[direction.reversed().index()];
        let is_taken = device.as_ref().is_some_and(|device| device.write(packet).is_ok());
        if !is_taken {
            self.shared.lock().on_refused(direction);
        }
    }
}
