//! Faults made on purpose, for tests in staging.

use std::{borrow::Cow, time::Duration};

use http::HeaderMap;
use rand::Rng;
use weft_proto::model::{
    FieldMatch, Share,
    policy::{Abort, Fault},
};

/// What is done to one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Injected {
    /// A wait before it is sent, or answered.
    pub(crate) delay: Option<Duration>,
    /// The answer, in place of the application's.
    pub(crate) abort: Option<Abort>,
}

/// The first fault whose headers match, by chance and in its shares; delay and abort each for itself.
pub(crate) fn inject(faults: &[Fault], headers: &HeaderMap, rng: &mut impl Rng) -> Injected {
    let Some(fault) = of_request(faults, headers) else {
        return Injected::default();
    };
    Injected {
        delay: fault
            .delay
            .and_then(|(delay, share)| is_hit(share, rng).then_some(delay)),
        abort: fault
            .abort
            .and_then(|(abort, share)| is_hit(share, rng).then_some(abort)),
    }
}

/// The first fault whose headers match.
pub(crate) fn of_request<'f>(faults: &'f [Fault], headers: &HeaderMap) -> Option<&'f Fault> {
    let is_meant = |fault: &&Fault| fault.headers.iter().all(|field| matches(field, headers));
    faults.iter().find(is_meant)
}

/// Several values are compared joined by commas (RFC 9110 section 5.3).
fn matches(field: &FieldMatch, headers: &HeaderMap) -> bool {
    let mut values = headers
        .get_all(&field.name)
        .iter()
        .map(http::HeaderValue::as_bytes);
    let Some(first) = values.next() else { return false };
    let joined = values.fold(Cow::Borrowed(first), |mut joined, value| {
        joined.to_mut().extend_from_slice(b",");
        joined.to_mut().extend_from_slice(value);
        joined
    });
    field.value.is_match(&joined)
}

fn is_hit(share: Share, rng: &mut impl Rng) -> bool {
    rng.random_range(0..share.denominator.max(1)) < share.numerator
}
