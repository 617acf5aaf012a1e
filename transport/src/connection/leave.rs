//! How a connection that is established comes to its end: it stops taking requests, and later it is cut.

use std::{rc::Rc, sync::Arc, time::Instant};

use quinn_proto::VarInt;
use rand::{Rng, SeedableRng, rngs::StdRng};
use rustls_pki_types::CertificateDer;
use tokio::sync::Notify;
use weft_tls::clock;

use super::{Connection, Ended, Inner, LATE_REQUESTS, Phase};
use crate::{
    config::Side,
    error::{DialFailure, Lost},
    h3::Code,
    term::{Leaf, Term},
    verify::{PeerIdentity, Refusal, Role, TrustBundle, peer_identity, verify_chain},
};

impl Connection {
    /// When it ends by its certificates; nothing before they are known.
    pub(crate) fn term(&self) -> Option<Term> {
        self.inner.borrow().term
    }

    /// Takes no new requests, says so (RFC 9114 section 5.2), and ends when those under way are done.
    pub(crate) fn go_away(self: &Rc<Self>, now: Instant) {
        self.stop(&mut self.inner.borrow_mut(), now);
        self.mark_dirty();
    }

    fn stop(&self, inner: &mut Inner, now: Instant) {
        match inner.phase {
            Phase::Open => {
                if let (Side::Listen, Some(id)) = (self.side, inner.goaway.announce()) {
                    inner.control.send_goaway(&mut inner.proto, id);
                    let wait = LATE_REQUESTS.max(inner.proto.rtt() * 3);
                    inner.exact_goaway = Some(now + wait);
                }
                inner.set_phase(Phase::Draining);
            }
            Phase::Handshaking | Phase::Confirming => inner.close(now, Code::H3_NO_ERROR, Lost::Local),
            Phase::Draining | Phase::Closed(_) => {}
        }
    }

    /// TLS is done: reads who the peer is, and how long this may last.
    ///
    /// # Errors
    /// The chain has no identity in it although the verifier has accepted it: something is badly wrong.
    pub(super) fn on_identified(&self, inner: &mut Inner, now: Instant) -> Result<(), Refusal> {
        let peer: PeerIdentity = peer_identity(&chain(inner))?;
        let mut rng = StdRng::seed_from_u64(inner.luck);
        let mut term = Term::new(inner.own, Leaf::from(&peer), clock::now(), now, &mut rng);
        if inner.renewed {
            term = term.stopping(term.after_renewal(now, &mut rng));
        }
        inner.term = Some(term);
        inner.peer = Some(peer);
        if let Some(bundle) = inner.trust.take() {
            self.judge(inner, &bundle, now);
        }
        Ok(())
    }

    /// The workload has another leaf than this connection was made with: a listener asks its peer to dial anew.
    pub(crate) fn on_renewed(self: &Rc<Self>, now: Instant, rng: &mut impl Rng) {
        let inner = &mut *self.inner.borrow_mut();
        inner.renewed = true;
        if let Some(term) = inner.term {
            inner.term = Some(term.stopping(term.after_renewal(now, rng)));
        }
        self.mark_dirty();
    }

    /// Believes these roots from now on, and no others.
    pub(crate) fn trust(self: &Rc<Self>, bundle: &Arc<TrustBundle>, now: Instant) {
        let inner = &mut *self.inner.borrow_mut();
        match inner.phase {
            // The handshake was begun with other roots.
            Phase::Handshaking => inner.trust = Some(bundle.clone()),
            Phase::Confirming | Phase::Open | Phase::Draining => self.judge(inner, bundle, now),
            Phase::Closed(_) => {}
        }
        self.mark_dirty();
    }

    fn judge(&self, inner: &mut Inner, bundle: &TrustBundle, now: Instant) {
        let role = match self.side {
            Side::Dial => Role::Server,
            Side::Listen => Role::Client,
        };
        let Err(refusal) = verify_chain(bundle, &chain(inner), clock::now(), role) else {
            return;
        };
        let peer = inner.peer.as_ref().map(|peer| peer.id.as_str());
        tracing::info!(remote = %inner.remote, peer, %refusal, "the peer's certificate is no longer trusted");
        match inner.phase {
            Phase::Open | Phase::Draining => {
                inner.term = inner.term.map(|term| term.distrusted(now));
                self.stop(inner, now);
            }
            Phase::Handshaking | Phase::Confirming => {
                inner.proto.close(now, VarInt::from_u32(0), bytes::Bytes::new());
                inner.end(Ended::Dial(DialFailure::PeerRefused(refusal)));
            }
            Phase::Closed(_) => {}
        }
    }

    /// Does what is due by its certificates. Returns whether something was.
    pub(super) fn on_term(&self, inner: &mut Inner, now: Instant) -> bool {
        if inner.next_term().is_none_or(|at| at > now) {
            return false;
        }
        match inner.term {
            Some(term) if term.end <= now => {
                inner.term = None;
                self.count_cut(inner, term.why);
                inner.close(now, Code::H3_NO_ERROR, term.why);
            }
            Some(_) | None => self.stop(inner, now),
        }
        true
    }

    /// The peer closed the connection: it was the first to see it end, perhaps.
    pub(super) fn lost_to_term(&self, inner: &Inner, lost: Lost, now: Instant) -> Lost {
        match (lost, inner.term) {
            (Lost::PeerClosed(Code::H3_NO_ERROR), Some(term)) if term.is_near(now) => {
                self.count_cut(inner, term.why);
                term.why
            }
            _ => lost,
        }
    }

    /// Everything under way is reset.
    fn count_cut(&self, inner: &Inner, why: Lost) {
        let streams = inner.streams.open_count();
        if streams == 0 {
            return;
        }
        let counter = match why {
            Lost::CertificateUntrusted => &self.stats.untrusted_streams,
            _ => &self.stats.expired_streams,
        };
        counter.add(streams as u64);
        let peer = inner.peer.as_ref().map(|peer| peer.id.as_str());
        tracing::info!(remote = %inner.remote, peer, streams, reason = why.reason(), "cut what was still under way");
    }

    /// Tells the owner of the pool when it stops taking requests.
    pub(crate) fn set_keeper(&self, keeper: Rc<Notify>) {
        self.inner.borrow_mut().keeper = Some(keeper);
    }
}

impl Inner {
    /// The next time for [`Connection::on_term`].
    pub(super) fn next_term(&self) -> Option<Instant> {
        let term = self.term?;
        match self.phase {
            Phase::Open => Some(term.stop.min(term.end)),
            Phase::Closed(_) => None,
            Phase::Handshaking | Phase::Confirming | Phase::Draining => Some(term.end),
        }
    }
}

/// What the peer showed.
fn chain(inner: &Inner) -> Vec<CertificateDer<'static>> {
    let shown = inner.proto.crypto_session().peer_identity();
    let shown = shown.and_then(|any| any.downcast::<Vec<_>>().ok());
    shown.map(|chain| *chain).unwrap_or_default()
}
