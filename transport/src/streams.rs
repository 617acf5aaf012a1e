//! The request streams of one connection: who waits for which, how many may be open, and which hold the
//! others up.
//!
//! All streams of a connection share its receive window. A stream that nobody reads keeps its part of it, and
//! enough of them would stop every other stream. So unread streams are looked at every [`SCAN_INTERVAL`]: when
//! they may fill half the window, new requests go to another connection; at three quarters, the longest unread
//! one is reset.

use std::{
    task::{Context, Waker},
    time::{Duration, Instant},
};

use quinn_proto::{Dir, StreamId, VarInt};
use rustc_hash::FxHashMap;

use crate::{
    config::{Config, Side, StreamLimits},
    error::ErrorKind,
    h3::Code,
};

/// How often unread streams are looked at; one counts when it was not read between two looks.
const SCAN_INTERVAL: Duration = Duration::from_millis(100);

/// The streams of one connection.
pub(crate) struct Streams {
    slots: FxHashMap<StreamId, Slot>,
    /// Tasks that wait for the peer to allow another stream.
    room: Vec<Waker>,
    limits: StreamLimits,
    /// What the peer may have open now; grows.
    allowed: u32,
    tunnels: usize,
    total: u64,
    stream_window: u64,
    connection_window: u64,
    /// Streams with something to read that nobody has read yet.
    unread: usize,
    next_scan: Option<Instant>,
    /// Scans so far: a clock that costs nothing to read.
    scans: u64,
    /// Bytes that stalled streams may hold, at the last scan.
    stalled: u64,
    /// Index after the last stream of the peer's.
    next_remote: u64,
}

#[derive(Default)]
struct Slot {
    read: Option<Waker>,
    write: Option<Waker>,
    /// The count of scans when the owner last read, if there is something left to read.
    unread_since: Option<u64>,
    /// Why the connection ended this stream, whatever QUIC says of it.
    verdict: Option<ErrorKind>,
    /// Halves that their owners hold.
    halves: u8,
}

impl Streams {
    pub(crate) fn new(side: Side, config: &Config) -> Self {
        Self {
            slots: FxHashMap::default(),
            room: Vec::new(),
            limits: config.streams,
            allowed: match side {
                Side::Dial => 0,
                Side::Listen => config.streams.initial,
            },
            tunnels: 0,
            total: 0,
            stream_window: config.stream_window.into(),
            connection_window: config.connection_window.into(),
            unread: 0,
            next_scan: None,
            scans: 0,
            stalled: 0,
            next_remote: 0,
        }
    }

    /// Streams open now.
    pub(crate) fn open_count(&self) -> usize {
        self.slots.len()
    }

    /// Streams since the connection began.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// The id of the first request stream that the peer has not opened: all below were taken.
    pub(crate) fn next_remote(&self) -> u64 {
        // Client-initiated bidirectional streams are 0, 4, 8, ... (RFC 9000 section 2.1).
        self.next_remote * 4
    }

    /// Do unread streams hold so much of the window that new requests should go elsewhere?
    pub(crate) fn is_crowded(&self) -> bool {
        self.stalled * 2 >= self.connection_window
    }

    pub(crate) fn insert_local(&mut self, id: StreamId) {
        self.total += 1;
        self.slots.insert(
            id,
            Slot {
                halves: 2,
                ..Slot::default()
            },
        );
    }

    pub(crate) fn insert_remote(&mut self, id: StreamId, proto: &mut quinn_proto::Connection) {
        self.insert_local(id);
        self.next_remote = id.index() + 1;
        // Each allowed stream costs memory at once, so the limit follows the use.
        let used = proto.streams().remote_open_streams(Dir::Bi);
        if used * 2 >= u64::from(self.allowed) && self.allowed < self.limits.max {
            self.allowed = self.allowed.saturating_mul(2).min(self.limits.max);
            proto.set_max_concurrent_streams(Dir::Bi, VarInt::from_u32(self.allowed));
        }
    }

    /// Takes on a tunnel, which may stay open for days. A quarter of the streams is kept for requests.
    pub(crate) fn admit_tunnel(&mut self) -> bool {
        let admitted = self.tunnels < (self.limits.max as usize / 4).saturating_mul(3);
        if admitted {
            self.tunnels += 1;
        }
        admitted
    }

    pub(crate) fn release_tunnel(&mut self) {
        self.tunnels = self.tunnels.saturating_sub(1);
    }

    /// The owner of one half let it go. Returns whether it was the last.
    pub(crate) fn release(&mut self, id: StreamId) -> bool {
        let Some(slot) = self.slots.get_mut(&id) else {
            return false;
        };
        slot.halves = slot.halves.saturating_sub(1);
        if slot.halves > 0 {
            return false;
        }
        if slot.unread_since.is_some() {
            self.unread = self.unread.saturating_sub(1);
        }
        self.slots.remove(&id);
        true
    }

    pub(crate) fn on_readable(&mut self, id: StreamId, now: Instant) {
        let Some(slot) = self.slots.get_mut(&id) else {
            return;
        };
        if slot.unread_since.is_none() {
            slot.unread_since = Some(self.scans);
            self.unread += 1;
            self.next_scan.get_or_insert(now + SCAN_INTERVAL);
        }
        if let Some(waker) = slot.read.take() {
            waker.wake();
        }
    }

    pub(crate) fn on_writable(&mut self, id: StreamId) {
        if let Some(waker) = self.slots.get_mut(&id).and_then(|slot| slot.write.take()) {
            waker.wake();
        }
    }

    pub(crate) fn on_available(&mut self) {
        for waker in self.room.drain(..) {
            waker.wake();
        }
    }

    pub(crate) fn wait_for_room(&mut self, cx: &mut Context<'_>) {
        self.room.push(cx.waker().clone());
    }

    /// Everything there was has been read; wake `cx` when there is more.
    pub(crate) fn wait_readable(&mut self, id: StreamId, cx: &mut Context<'_>) {
        let Some(slot) = self.slots.get_mut(&id) else {
            return;
        };
        if slot.unread_since.take().is_some() {
            self.unread = self.unread.saturating_sub(1);
        }
        replace(&mut slot.read, cx);
    }

    /// Some of what there is has been read: its owner is alive.
    pub(crate) fn on_read(&mut self, id: StreamId) {
        if let Some(since) = self
            .slots
            .get_mut(&id)
            .and_then(|slot| slot.unread_since.as_mut())
        {
            *since = self.scans;
        }
    }

    pub(crate) fn wait_writable(&mut self, id: StreamId, cx: &mut Context<'_>) {
        if let Some(slot) = self.slots.get_mut(&id) {
            replace(&mut slot.write, cx);
        }
    }

    /// Why the connection ended this stream, if it did.
    pub(crate) fn verdict(&self, id: StreamId) -> Option<&ErrorKind> {
        self.slots.get(&id)?.verdict.as_ref()
    }

    pub(crate) fn wake_all(&mut self) {
        for slot in self.slots.values_mut() {
            slot.wake();
        }
        self.on_available();
    }

    /// A GOAWAY said that streams from `first` on were not processed.
    pub(crate) fn fail_from(&mut self, first: u64, proto: &mut quinn_proto::Connection) {
        for (id, slot) in self.slots.iter_mut().filter(|(id, _)| u64::from(**id) >= first) {
            slot.verdict.get_or_insert(ErrorKind::GoAway);
            slot.wake();
            abort(proto, *id, Code::H3_REQUEST_CANCELLED);
        }
    }

    pub(crate) fn next_scan(&self) -> Option<Instant> {
        self.next_scan
    }

    pub(crate) fn scan_due(&self, now: Instant) -> bool {
        self.next_scan.is_some_and(|at| at <= now)
    }

    /// Finds what unread streams hold of the window, and resets the longest unread ones if it is too much.
    /// Returns how many were reset.
    pub(crate) fn scan(&mut self, proto: &mut quinn_proto::Connection, now: Instant) -> u64 {
        self.next_scan = (self.unread > 0).then(|| now + SCAN_INTERVAL);
        self.scans += 1;
        // The first scan after the last read may have come at once; the second is an interval later.
        let settled = self.scans.saturating_sub(2);
        let mut stalled: Vec<(u64, StreamId)> = self
            .slots
            .iter()
            .filter(|(_, slot)| slot.verdict.is_none())
            .filter_map(|(id, slot)| Some((slot.unread_since?, *id)))
            .filter(|(since, _)| *since <= settled)
            .collect();
        // How much one holds can't be asked; a window each is the most it can be.
        let held = |count: usize| count as u64 * self.stream_window;
        self.stalled = held(stalled.len());
        let allowed = self.connection_window / 4 * 3;
        if self.stalled < allowed {
            return 0;
        }
        stalled.sort_unstable_by_key(|(since, _)| *since);
        let excess = (self.stalled - allowed)
            .div_ceil(self.stream_window.max(1))
            .max(1);
        let mut reset = 0;
        for (_, id) in stalled
            .into_iter()
            .take(usize::try_from(excess).unwrap_or(usize::MAX))
        {
            if let Some(slot) = self.slots.get_mut(&id) {
                slot.verdict = Some(ErrorKind::Stalled);
                slot.wake();
                abort(proto, id, Code::H3_EXCESSIVE_LOAD);
                reset += 1;
            }
        }
        reset
    }
}

impl Slot {
    fn wake(&mut self) {
        for waker in [self.read.take(), self.write.take()].into_iter().flatten() {
            waker.wake();
        }
    }
}

fn replace(place: &mut Option<Waker>, cx: &Context<'_>) {
    match place {
        Some(waker) => waker.clone_from(cx.waker()),
        None => *place = Some(cx.waker().clone()),
    }
}

/// Stops both directions of a stream.
fn abort(proto: &mut quinn_proto::Connection, id: StreamId, code: Code) {
    let code = VarInt::from_u64(code.value()).unwrap_or(VarInt::MAX);
    let _ = proto.recv_stream(id).stop(code);
    let _ = proto.send_stream(id).reset(code);
}
