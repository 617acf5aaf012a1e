//! One dial: on a task of its own, since a request that gives up must not end the dial that others wait for.

use std::{
    future::poll_fn,
    rc::{Rc, Weak},
    sync::{Arc, OnceLock},
    time::Duration,
};

use tokio::sync::oneshot;
use weft_tls::clock;

use super::Inner;
use crate::{
    connection::Connection,
    credentials::{Credentials, quic_client},
    driver::Command,
    error::DialFailure,
    peer::PeerKey,
    verify::Refusal,
};

type Dialled = Result<Rc<Connection>, DialFailure>;
type Refused = Arc<OnceLock<Refusal>>;

/// Starts it. The peer's [`Dial`](crate::peer::Dial) must say that it is under way.
pub(super) fn dial(pool: &Rc<Inner>, key: &PeerKey) {
    let task = tokio::task::spawn_local(dial_task(Rc::downgrade(pool), key.clone()));
    if let Some(peer) = pool.peers.borrow_mut().get_mut(key) {
        peer.dialling = Some(task.abort_handle());
    }
}

async fn dial_task(pool: Weak<Inner>, key: PeerKey) {
    loop {
        let Some((started, credentials, limit)) = pool.upgrade().map(|inner| {
            let credentials = inner.credentials.borrow().clone();
            let started = inner.start_dial(&key, &credentials);
            (started, credentials, inner.config.dial_timeout)
        }) else {
            return;
        };
        let result = match started {
            Ok((connection, refused)) => establish(connection, &refused, limit).await,
            Err(failure) => Err(failure),
        };
        if matches!(result, Err(DialFailure::Moved)) {
            // The peer is not to blame: from the new address at once.
            continue;
        }
        if let Some(inner) = pool.upgrade() {
            inner.on_dialled(&key, &credentials, result);
        }
        return;
    }
}

/// Waits until the peer has confirmed the handshake: not before has it accepted our certificate.
async fn establish(connection: oneshot::Receiver<Dialled>, refused: &Refused, limit: Duration) -> Dialled {
    let connection = connection.await.map_err(|_| DialFailure::Local)??;
    let established = poll_fn(|cx| connection.poll_established(cx));
    match tokio::time::timeout(limit, established).await {
        Ok(Ok(())) => Ok(connection),
        Ok(Err(failure)) => Err(refused
            .get()
            .map_or(failure, |refusal| DialFailure::PeerRefused(*refusal))),
        Err(_) => {
            connection.abandon(tokio::time::Instant::now().into_std(), DialFailure::Timeout);
            Err(DialFailure::Timeout)
        }
    }
}

impl Inner {
    fn start_dial(
        &self,
        key: &PeerKey,
        credentials: &Credentials,
    ) -> Result<(oneshot::Receiver<Dialled>, Refused), DialFailure> {
        if credentials.svid().not_after() < clock::now() {
            return Err(DialFailure::OwnExpired);
        }
        let tls = quic_client(credentials, &key.identity).map_err(|error| {
            tracing::warn!(peer = ?key, %error, "can't dial with the credentials of this workload");
            DialFailure::Local
        })?;
        let (reply, connection) = oneshot::channel();
        self.mailbox.command(Command::Dial {
            remote: key.address,
            crypto: tls.config,
            own: credentials.svid().into(),
            reply,
        });
        Ok((connection, tls.refusal))
    }

    fn on_dialled(&self, key: &PeerKey, credentials: &Credentials, result: Dialled) {
        let now = tokio::time::Instant::now().into_std();
        let rng = &mut *self.rng.borrow_mut();
        let mut peers = self.peers.borrow_mut();
        let Some(peer) = peers.get_mut(key) else { return };
        peer.dialling = None;
        match result {
            Ok(connection) => {
                connection.set_keeper(self.news.clone());
                peer.on_dialled(connection, credentials, &self.credentials.borrow(), now, rng);
            }
            Err(failure) => {
                self.stats.handshake_failed(failure.into());
                let (reason, error) = (failure.reason(), &failure);
                if peer.on_dial_failed(failure, now, rng) {
                    tracing::warn!(peer = ?key, reason, %error, "dial failed");
                } else {
                    tracing::info!(peer = ?key, reason, %error, "can't replace a connection yet");
                }
            }
        }
        for waker in peer.waiting.drain(..) {
            waker.wake();
        }
        self.news.notify_one();
    }
}
