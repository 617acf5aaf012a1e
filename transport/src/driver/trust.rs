//! What changed credentials mean for the connections that are there.

use std::{rc::Rc, sync::Arc, time::Instant};

use quinn_proto::crypto::rustls::QuicServerConfig;

use super::Driver;
use crate::{
    connection::Connection,
    credentials::{Credentials, TrustBundle},
};

/// Chains that one turn verifies anew: each costs as much CPU as some ten requests.
const JUDGEMENTS_PER_TURN: usize = 8;

/// Connections whose peers are to be judged under another bundle.
pub(super) struct Unjudged {
    bundle: Arc<TrustBundle>,
    connections: Vec<Rc<Connection>>,
}

impl Driver {
    /// The listener has other credentials.
    pub(super) fn serve(&mut self, crypto: Arc<QuicServerConfig>, credentials: Credentials, now: Instant) {
        let Some(acceptor) = &mut self.acceptor else {
            return;
        };
        let (server, old) = acceptor.serve(crypto, credentials.clone());
        self.endpoint.set_server_config(Some(server));
        if !credentials.bundle().includes(old.bundle()) {
            self.trust(credentials.shared_bundle());
        }
        if credentials.svid().chain() != old.svid().chain() {
            for connection in self.connections.values() {
                connection.on_renewed(now, &mut self.rng);
            }
        }
    }

    /// Peers whose roots are not among these are no longer trusted.
    pub(super) fn trust(&mut self, bundle: Arc<TrustBundle>) {
        self.unjudged = Some(Unjudged {
            bundle,
            connections: self.connections.values().cloned().collect(),
        });
    }

    /// Judges a few of the connections that are there.
    pub(super) fn judge_some(&mut self, now: Instant) {
        let Some(unjudged) = &mut self.unjudged else {
            return;
        };
        let left = unjudged.connections.len().saturating_sub(JUDGEMENTS_PER_TURN);
        for connection in unjudged.connections.drain(left..) {
            connection.trust(&unjudged.bundle, now);
        }
        if left == 0 {
            self.unjudged = None;
        } else {
            // The rest has the next turn.
            self.mailbox.wake();
        }
    }
}
