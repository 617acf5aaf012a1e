//! What happens on a connection, as QUIC tells it.

use std::{rc::Rc, time::Instant};

use quinn_proto::{ConnectionError, Dir, Event, StreamEvent, StreamId};

use super::{
    Connection, Ended, Inner, LINGER, Phase,
    ended::{dial_failure, is_refusal, lost},
    reject,
};
use crate::{
    budget::Overload,
    config::Side,
    error::Lost,
    h3::{Code, goaway::Admission},
    stats::Gauge,
    streams::Released,
};

impl Connection {
    pub(super) fn on_event(&self, inner: &mut Inner, event: Event, now: Instant) {
        match event {
            Event::Stream(event) => self.on_stream_event(inner, event, now),
            Event::Connected => self.on_connected(inner, now),
            Event::ConnectionLost { reason } => self.on_lost(inner, &reason, now),
            // Datagrams are not negotiated.
            Event::HandshakeDataReady | Event::DatagramReceived | Event::DatagramsUnblocked => {}
        }
    }

    fn on_connected(&self, inner: &mut Inner, now: Instant) {
        if self.on_identified(inner, now).is_err() {
            let code = Code::H3_INTERNAL_ERROR;
            return inner.close(now, code, Lost::Violation(code));
        }
        if matches!(inner.phase, Phase::Closed(_)) {
            return;
        }
        // Reserved values that vary from connection to connection, and repeat in a test that repeats.
        let seed = (self.handle.0 as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        inner.control.open(&mut inner.proto, seed);
        match self.side {
            Side::Dial => inner.set_phase(Phase::Confirming),
            Side::Listen => self.on_confirmed(inner),
        }
    }

    pub(super) fn on_confirmed(&self, inner: &mut Inner) {
        self.stats.handshakes.add(1);
        self.established().increment();
        inner.established = true;
        inner.set_phase(Phase::Open);
    }

    pub(super) fn established(&self) -> &Gauge {
        match self.side {
            Side::Dial => &self.stats.connections_outbound,
            Side::Listen => &self.stats.connections_inbound,
        }
    }

    fn on_lost(&self, inner: &mut Inner, reason: &ConnectionError, now: Instant) {
        let ended = match inner.phase {
            Phase::Handshaking | Phase::Confirming => {
                let failure = dial_failure(reason);
                // The pool counts its dials, with a better reason; our own refusals were counted as they happened.
                if self.side == Side::Listen && !is_refusal(reason) {
                    self.stats.handshake_failed(failure.into());
                }
                Ended::Dial(failure)
            }
            Phase::Open | Phase::Draining => Ended::Lost(self.lost_to_term(inner, lost(reason), now)),
            Phase::Closed(ended) => ended,
        };
        tracing::debug!(remote = %inner.proto.remote_address(), %reason, "connection lost");
        inner.end(ended);
    }

    fn on_stream_event(&self, inner: &mut Inner, event: StreamEvent, now: Instant) {
        match event {
            StreamEvent::Opened { dir: Dir::Bi } => self.accept_requests(inner, now),
            StreamEvent::Opened { dir: Dir::Uni } => {
                while let Some(id) = inner.proto.streams().accept(Dir::Uni) {
                    inner.control.on_open(id);
                    self.read_control(inner, id, now);
                }
            }
            StreamEvent::Readable { id } if id.dir() == Dir::Uni => self.read_control(inner, id, now),
            StreamEvent::Readable { id } => inner.streams.on_readable(id, now),
            // Only our control stream; nobody may stop it (RFC 9114 section 6.2.1).
            StreamEvent::Stopped { id, .. } if id.dir() == Dir::Uni => {
                let code = Code::H3_CLOSED_CRITICAL_STREAM;
                self.stats.violations.add(1);
                inner.close(now, code, Lost::Violation(code));
            }
            StreamEvent::Writable { id } if id.dir() == Dir::Uni => inner.control.flush(&mut inner.proto),
            StreamEvent::Writable { id } => inner.streams.on_writable(id),
            StreamEvent::Stopped { id, .. } => inner.streams.on_stopped(id, now),
            StreamEvent::Available { dir: Dir::Bi } => inner.streams.on_available(),
            StreamEvent::Finished { .. } | StreamEvent::Available { dir: Dir::Uni } => {}
        }
    }

    fn accept_requests(&self, inner: &mut Inner, now: Instant) {
        while let Some(id) = inner.proto.streams().accept(Dir::Bi) {
            let alive = matches!(inner.phase, Phase::Open | Phase::Draining);
            if alive && inner.goaway.on_request(id.into()) == Admission::Accept {
                inner.streams.insert_remote(id, &mut inner.proto, now);
                inner.idle_since = None;
                inner.accepted.push_back(id);
            } else {
                reject(&mut inner.proto, id);
            }
        }
    }

    fn read_control(&self, inner: &mut Inner, id: StreamId, now: Instant) {
        let goaway = match inner.control.read(&mut inner.proto, id) {
            Ok(goaway) => goaway,
            Err(error) => {
                tracing::debug!(remote = %inner.proto.remote_address(), %error, "peer broke HTTP/3");
                self.stats.violations.add(1);
                return inner.close(now, error.code(), Lost::Violation(error.code()));
            }
        };
        if let Some(first_unprocessed) = goaway {
            inner.streams.fail_from(first_unprocessed, &mut inner.proto);
        }
        let chatter = inner.control.take_chatter();
        if let Err(overload) = inner.budget.on_chatter(chatter, now) {
            self.on_overload(inner, overload, now);
        }
    }

    /// Both halves of a stream were let go.
    pub(crate) fn on_released(self: &Rc<Self>, inner: &mut Inner, released: Released) {
        // Without a clock read for each request that ends as it should.
        let now = || tokio::time::Instant::now().into_std();
        match released {
            Released::Own => {}
            Released::Served => inner.budget.on_served(),
            Released::Aborted(age) => {
                let now = now();
                if let Err(overload) = inner.budget.on_aborted(age, now) {
                    self.on_overload(inner, overload, now);
                    self.mark_dirty();
                }
            }
        }
        if inner.streams.open_count() == 0 {
            inner.idle_since = Some(now());
            // A draining connection may be waiting for this.
            self.mark_dirty();
        }
    }

    /// The peer wastes our work (RFC 9114 section 10.5).
    pub(super) fn on_overload(&self, inner: &mut Inner, overload: Overload, now: Instant) {
        if matches!(inner.phase, Phase::Closed(_)) {
            return;
        }
        self.stats.overloaded(overload);
        let peer = inner.peer.as_ref().map(|peer| peer.id.as_str());
        tracing::info!(remote = %inner.remote, peer, reason = overload.label(), "closed the connection of a peer that floods");
        let code = Code::H3_EXCESSIVE_LOAD;
        inner.close(now, code, Lost::Violation(code));
    }

    /// The last request of a draining connection is done, and what we sent was received.
    pub(super) fn end_if_drained_out(&self, inner: &mut Inner, now: Instant) {
        // The control stream of ours never ends and always counts as one.
        let done = matches!(inner.phase, Phase::Draining)
            && inner.exact_goaway.is_none()
            && inner.streams.open_count() == 0
            && inner.accepted.is_empty()
            && inner.proto.streams().send_streams() <= 1;
        match self.side {
            _ if !done => inner.linger = None,
            Side::Dial => inner.close(now, Code::H3_NO_ERROR, Lost::Local),
            Side::Listen => {
                inner.linger.get_or_insert(now + LINGER);
            }
        }
    }
}
