//! Tries of one request beside each other, at different endpoints.

use std::{sync::Arc, time::Instant};

use weft_proto::model::policy::Hedging;
use weft_transport::{
    RequestStream,
    h3::{RequestHead, ResponseHead},
};

use super::{
    attempt::{Patience, attempt},
    way::Way,
};
use crate::{
    hedge::{self, Try},
    respond::Failure,
    retry::{Outcome, Tried},
    snapshot::{Endpoint, InFlight, Reach},
    upload::{Upload, Whole},
    worker::Worker,
};

/// What came of a try.
pub(crate) struct Sent {
    pub(crate) endpoint: Arc<Endpoint>,
    pub(crate) in_flight: InFlight,
    pub(crate) result: Result<(RequestStream, ResponseHead), Failure>,
}

/// Sends the request to the first endpoint, and while that takes long to others beside it. All of its content is in
/// `content`. The first answer that is not worth another try wins.
pub(crate) async fn race(
    worker: &Worker,
    way: &Way,
    (hedging, content): (Hedging, Whole),
    (endpoint, in_flight): (Arc<Endpoint>, InFlight),
    head: &RequestHead,
    tried: &mut Tried,
) -> Sent {
    let begin = |endpoint: Arc<Endpoint>, in_flight, patience| -> Try<'_, Sent> {
        let mut head = head.clone();
        way.prepare(&mut head, &endpoint, Instant::now());
        Box::pin(one(worker, endpoint, in_flight, head, content.upload(), patience))
    };
    let mut last = endpoint.clone();
    let patience = way.patience(&head.method, tried, true, Instant::now());
    let first = begin(endpoint, in_flight, patience);
    let next = || {
        let now = Instant::now();
        if !way.retry().withdraw(&way.backend.policy.facts.budget, now) {
            return None;
        }
        // The one under way may have been acted on.
        tried.add(&last, Outcome::Lost);
        let picked = way.pick(worker, tried, now).ok()?;
        last = picked.endpoint.clone();
        let in_flight = picked.begin(now);
        let patience = way.patience(&head.method, tried, true, now);
        Some(begin(last.clone(), in_flight, patience))
    };
    hedge::race(hedging, first, next, |sent| way.is_good(sent)).await
}

async fn one(
    worker: &Worker,
    endpoint: Arc<Endpoint>,
    in_flight: InFlight,
    head: RequestHead,
    mut upload: Upload,
    patience: Patience,
) -> Sent {
    let result = match &endpoint.reach {
        Reach::Mesh(peer) => attempt(worker, peer, &head, &mut upload, &mut None, patience).await,
        Reach::Plain(_) => Err(Failure::Unsupported(
            "a try beside another at an endpoint without a sidecar",
        )),
    };
    Sent {
        endpoint,
        in_flight,
        result,
    }
}
