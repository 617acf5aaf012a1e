//! Between the certificate authority and those who tell proxies of it.

use std::sync::Arc;

use tokio::sync::watch;
use weft_proto::mesh::v1 as mesh;
use weft_tls::TrustBundle;

use crate::{
    ca::{self, Authority, HeldBy},
    fleet::Proxy,
    push::{self, Trust, TrustSink},
    trust::RootId,
};

/// What the push needs of the authority.
pub(super) fn of(authority: &Arc<Authority>) -> Trust {
    Trust {
        bundle: mapped(authority.bundle(), |bundle| Arc::new(to_push(bundle))),
        renew: mapped(authority.renewals(), hint),
        sink: Arc::new(Sink(authority.clone())),
    }
}

/// The roots of now, for verifying.
pub(super) fn verifier(authority: &Authority) -> watch::Receiver<Arc<TrustBundle>> {
    mapped(authority.bundle(), |bundle| bundle.trust.clone())
}

/// What is seen in one channel, as something else in another.
fn mapped<T, U>(mut from: watch::Receiver<T>, map: impl Fn(&T) -> U + Send + 'static) -> watch::Receiver<U>
where
    T: Send + Sync + 'static,
    U: Send + Sync + 'static,
{
    let first = map(&from.borrow_and_update());
    let (to, seen) = watch::channel(first);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                changed = from.changed() => if changed.is_err() {
                    return;
                },
                () = to.closed() => return,
            }
            let next = map(&from.borrow_and_update());
            to.send_replace(next);
        }
    });
    seen
}

fn to_push(bundle: &Arc<ca::Bundle>) -> push::Bundle {
    push::Bundle {
        version: bundle.version,
        trust_domain: bundle.trust_domain.to_string(),
        roots: bundle.roots_der.iter().map(|root| root.to_vec().into()).collect(),
    }
}

fn hint(hint: &ca::RenewHint) -> push::RenewHint {
    push::RenewHint {
        epoch: hint.epoch,
        within: hint.within,
        trust_version: hint.trust_version,
    }
}

struct Sink(Arc<Authority>);

impl TrustSink for Sink {
    fn on_ack(&self, proxy: &Proxy, trust_version: u64) {
        self.0.on_ack(&holder(proxy), &proxy.identity, trust_version);
    }

    fn on_certificate(&self, proxy: &Proxy, root: &[u8]) -> Option<push::RenewHint> {
        let root = RootId::from_slice(root)?;
        match self.0.on_certificate(&holder(proxy), &proxy.identity, root) {
            HeldBy::Old(old) => Some(hint(&old)),
            HeldBy::Signing | HeldBy::OldAsked => None,
        }
    }
}

fn holder(proxy: &Proxy) -> mesh::Holder {
    mesh::Holder {
        workload: proxy.key.name().to_owned(),
        instance: proxy.instance.clone(),
    }
}
