//! Tries of one request beside each other, at different endpoints.

use std::{sync::Arc, time::Instant};

use weft_proto::model::policy::Hedging;
use weft_transport::{
    RequestStream,
    h3::{RequestHead, ResponseHead},
};

use super::{
    attempt::{Patience, attempt, refusal},
    way::Way,
};
use crate::{
    hedge::{self, Try},
    respond::Failure,
    retry::{Outcome, Tried},
    snapshot::{Endpoint, InFlight},
    telemetry::Record,
    upload::{Upload, Whole},
    worker::Worker,
};

/// What came of a try.
pub(crate) struct Sent {
    pub(crate) endpoint: Arc<Endpoint>,
    pub(crate) in_flight: InFlight,
    pub(crate) result: Result<(RequestStream, ResponseHead), Failure>,
}

impl Sent {
    pub(crate) fn new(
        endpoint: Arc<Endpoint>,
        in_flight: InFlight,
        result: Result<(RequestStream, ResponseHead), Failure>,
    ) -> Self {
        Self {
            endpoint,
            in_flight,
            result,
        }
    }

    /// How it ended, as far as it matters for another one.
    pub(crate) fn outcome(&self) -> Outcome {
        match &self.result {
            Ok((_, answer)) => Outcome::of_answer(answer),
            Err(failure) => Outcome::from(failure),
        }
    }

    /// It is followed by another one: it goes on nowhere, and takes up no room there.
    pub(crate) fn take_back(self, record: &mut Record) {
        match self.result {
            Ok((_, answer)) => match refusal(&answer) {
                Some(reason) => record.on_retry(Failure::Unprocessed(reason)),
                None => record.on_retry_of_answer(answer.status),
            },
            Err(failure) => record.on_retry(failure),
        }
    }
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
    let result = attempt(worker, &endpoint, &head, &mut upload, &mut None, patience).await;
    Sent::new(endpoint, in_flight, result)
}
