//! The request streams of one connection: who waits for which, how many may be open, and which hold the
//! others up.
//!
//! All streams of a connection share its receive window. A stream that nobody reads keeps its part of it, and
//! enough of them would stop every other stream. So what unread streams may hold is bounded from above: when
//! that is half the window, new requests go to another connection. Streams that were not read for [`STALLED_SCANS`]
//! looks, [`SCAN_INTERVAL`] apart, are stalled; when those may hold three quarters, the longest unread ones are reset.
//!
//! quinn-proto does not tell how much of a stream is unread. It is at most the stream's window, and at most what
//! came in on the whole connection since everything of the stream had been read.

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

/// How often unread streams are looked at.
const SCAN_INTERVAL: Duration = Duration::from_millis(100);
/// A reader that takes nothing for a second is not slow but stalled. Less would cut those that wait for a disk or for
/// a collector of garbage; more would keep the others of a full connection waiting.
const STALLED_SCANS: u64 = 10;

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
    /// Bytes of datagrams that came in.
    arrived: u64,
    /// The value of `arrived` when events were last handed out: what came before is read, or known to be unread.
    announced: u64,
    /// The value of `arrived` when `crowded` was last looked at.
    looked: u64,
    /// Unread streams may hold half the window.
    crowded: bool,
}

#[derive(Default)]
struct Slot {
    read: Option<Waker>,
    write: Option<Waker>,
    /// Present while there is something to read.
    unread: Option<Unread>,
    /// Why the connection ended this stream, whatever QUIC says of it.
    verdict: Option<ErrorKind>,
    /// How an unfinished sending half is reset, instead of as its owner says.
    abort_code: Option<Code>,
    /// `None` for streams of our own.
    asked: Option<Asked>,
    /// The peer took it back, or broke a rule in it.
    aborted: bool,
    /// Halves that their owners hold.
    halves: u8,
}

/// The times of a request of the peer, by when its packets were taken in: a flood must not look older for the work
/// that it makes.
#[derive(Clone, Copy)]
struct Asked {
    opened: Instant,
    /// The last that the peer said on it, until it asked us to stop.
    heard: Instant,
    stopped: bool,
}

/// A stream of which nobody holds a half any more.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Released {
    /// One that we opened.
    Own,
    /// A request of the peer that came to its end, whoever brought it about.
    Served,
    /// A request that the peer took back, or in which it broke a rule, when it was so old.
    Aborted(Duration),
}

#[derive(Clone, Copy)]
struct Unread {
    /// The count of scans when the owner last read.
    since: u64,
    /// A value of [`Streams::arrived`] at which nothing was unread.
    mark: u64,
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
            arrived: 0,
            announced: 0,
            looked: 0,
            crowded: false,
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

    /// Do unread streams hold so much of the window that new requests should go elsewhere?
    pub(crate) fn is_crowded(&self) -> bool {
        self.crowded
    }

    pub(crate) fn insert_local(&mut self, id: StreamId) {
        self.insert(id, None);
    }

    fn insert(&mut self, id: StreamId, asked: Option<Asked>) {
        self.total += 1;
        self.slots.insert(
            id,
            Slot {
                asked,
                halves: 2,
                ..Slot::default()
            },
        );
    }

    pub(crate) fn insert_remote(&mut self, id: StreamId, proto: &mut quinn_proto::Connection, now: Instant) {
        let asked = Asked {
            opened: now,
            heard: now,
            stopped: false,
        };
        self.insert(id, Some(asked));
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

    /// The owner of one half let it go. Tells how the stream ended if it was the last.
    pub(crate) fn release(&mut self, id: StreamId) -> Option<Released> {
        let slot = self.slots.get_mut(&id)?;
        slot.halves = slot.halves.saturating_sub(1);
        if slot.halves > 0 {
            return None;
        }
        self.on_all_read(id);
        let slot = self.slots.remove(&id)?;
        Some(match slot.asked {
            None => Released::Own,
            Some(asked) if slot.aborted => {
                Released::Aborted(asked.heard.saturating_duration_since(asked.opened))
            }
            Some(_) => Released::Served,
        })
    }

    /// The peer reset the stream, asked us to stop sending on it, or broke a rule in it.
    pub(crate) fn on_aborted(&mut self, id: StreamId) {
        if let Some(slot) = self.slots.get_mut(&id) {
            slot.aborted = true;
        }
    }

    /// A datagram of `length` bytes came in.
    pub(crate) fn on_datagram(&mut self, length: usize) {
        self.arrived += length as u64;
    }

    /// The events of all datagrams so far were handed out.
    pub(crate) fn on_announced(&mut self) {
        self.announced = self.arrived;
        // Looking costs a pass over the streams: only when they can fill half the window, and now and then.
        let may_be = self.unread as u64 * self.stream_window * 2 >= self.connection_window;
        if may_be && self.arrived - self.looked >= self.connection_window / 16 {
            self.look();
        }
    }

    fn look(&mut self) {
        self.looked = self.arrived;
        self.crowded = self.held(self.slots.values()) * 2 >= self.connection_window;
    }

    /// The most that these streams can hold unread.
    fn held<'a>(&self, slots: impl Iterator<Item = &'a Slot>) -> u64 {
        let (mut sum, mut oldest) = (0u64, self.arrived);
        for unread in slots.filter_map(|slot| slot.unread) {
            sum += self.stream_window.min(self.arrived - unread.mark);
            oldest = oldest.min(unread.mark);
        }
        sum.min(self.arrived - oldest)
    }

    pub(crate) fn on_readable(&mut self, id: StreamId, now: Instant) {
        let Some(slot) = self.slots.get_mut(&id) else {
            return;
        };
        slot.hear(now);
        if slot.unread.is_none() && slot.verdict.is_none() {
            slot.unread = Some(Unread {
                since: self.scans,
                mark: self.announced,
            });
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

    /// The peer asks us to stop sending.
    pub(crate) fn on_stopped(&mut self, id: StreamId, now: Instant) {
        if let Some(slot) = self.slots.get_mut(&id) {
            slot.hear(now);
            if let Some(asked) = &mut slot.asked {
                asked.stopped = true;
            }
        }
        self.on_writable(id);
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
        self.on_all_read(id);
        if let Some(slot) = self.slots.get_mut(&id) {
            replace(&mut slot.read, cx);
        }
    }

    /// Nothing of the stream is unread: its owner has read it all, or wants no more of it.
    pub(crate) fn on_all_read(&mut self, id: StreamId) {
        let Some(slot) = self.slots.get_mut(&id) else {
            return;
        };
        if slot.unread.take().is_some() {
            self.unread = self.unread.saturating_sub(1);
            self.crowded &= self.unread > 0;
        }
    }

    /// Some of what there is has been read: its owner is alive.
    pub(crate) fn on_read(&mut self, id: StreamId) {
        if let Some(unread) = self.slots.get_mut(&id).and_then(|slot| slot.unread.as_mut()) {
            unread.since = self.scans;
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

    /// The peer broke a rule on this stream: from now on `code` is how its sending half is reset.
    pub(crate) fn set_abort_code(&mut self, id: StreamId, code: Code) {
        if let Some(slot) = self.slots.get_mut(&id) {
            slot.abort_code = Some(code);
        }
    }

    pub(crate) fn abort_code(&self, id: StreamId) -> Option<Code> {
        self.slots.get(&id)?.abort_code
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
        self.scans += 1;
        self.look();
        let reset = self.reset_stalled(proto);
        self.next_scan = (self.unread > 0).then(|| now + SCAN_INTERVAL);
        reset
    }

    fn reset_stalled(&mut self, proto: &mut quinn_proto::Connection) -> u64 {
        // The first scan after the last read may have come at once.
        let settled = self.scans.saturating_sub(STALLED_SCANS + 1);
        let is_stalled = |slot: &Slot| slot.unread.is_some_and(|unread| unread.since <= settled);
        let held = self.held(self.slots.values().filter(|slot| is_stalled(slot)));
        let allowed = self.connection_window / 4 * 3;
        if held < allowed {
            return 0;
        }
        let mut stalled: Vec<(u64, StreamId)> = self
            .slots
            .iter()
            .filter(|(_, slot)| is_stalled(slot))
            .filter_map(|(id, slot)| Some((slot.unread?.since, *id)))
            .collect();
        stalled.sort_unstable();
        let excess = (held - allowed).div_ceil(self.stream_window.max(1)).max(1);
        stalled.truncate(usize::try_from(excess).unwrap_or(usize::MAX));
        for (_, id) in &stalled {
            self.on_all_read(*id);
            if let Some(slot) = self.slots.get_mut(id) {
                slot.verdict = Some(ErrorKind::Stalled);
                slot.wake();
                abort(proto, *id, Code::H3_EXCESSIVE_LOAD);
            }
        }
        stalled.len() as u64
    }
}

impl Slot {
    fn hear(&mut self, now: Instant) {
        if let Some(asked) = self.asked.as_mut().filter(|asked| !asked.stopped) {
            asked.heard = now;
        }
    }

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
