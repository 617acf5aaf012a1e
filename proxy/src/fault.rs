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

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};
    use rand::{SeedableRng, rngs::StdRng};
    use weft_proto::{model::route::ValueMatch, pattern::Pattern};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn field(name: &str, value: ValueMatch) -> FieldMatch {
        FieldMatch::new(name.to_owned(), value)
    }

    fn fault(headers: Vec<FieldMatch>, status: u16) -> Fault {
        let mut fault = Fault::default();
        fault.headers = headers;
        fault.abort = Some((Abort::Http(status), Share::ALL));
        fault
    }

    fn request(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn the_first_fault_whose_headers_match_is_made() {
        let exact = |value: &str| ValueMatch::Exact(value.to_owned());
        let faults = [
            fault(
                vec![field("x-user", exact("eve")), field("x-test", exact("1"))],
                500,
            ),
            fault(
                vec![field("x-user", ValueMatch::Regex(Pattern::parse("e.*").unwrap()))],
                501,
            ),
            fault(vec![field("x-list", exact("a,b"))], 502),
        ];
        let aborted = |fields: &[(&'static str, &'static str)]| {
            let injected = inject(&faults, &request(fields), &mut rand::rng());
            assert_eq!(injected.delay, None);
            injected.abort.map(|abort| match abort {
                Abort::Http(status) | Abort::Grpc(status) => status,
            })
        };
        assert_eq!(aborted(&[("x-user", "eve"), ("x-test", "1")]), Some(500));
        assert_eq!(aborted(&[("x-user", "eve")]), Some(501), "all headers must match");
        assert_eq!(aborted(&[("x-user", "bob"), ("x-test", "1")]), None);
        assert_eq!(aborted(&[("x-list", "a"), ("x-list", "b")]), Some(502));
        assert_eq!(aborted(&[("x-list", "b"), ("x-list", "a")]), None);
        assert_eq!(aborted(&[]), None);
        assert_eq!(inject(&[], &request(&[]), &mut rand::rng()), Injected::default());
    }

    #[test]
    fn delay_and_abort_come_in_their_own_shares() {
        let mut fault = Fault::default();
        fault.delay = Some((SECOND, Share::percent(50)));
        fault.abort = Some((Abort::Grpc(14), Share::new(1, 1_000)));
        let mut rng = StdRng::seed_from_u64(1);
        let (mut delays, mut aborts, mut both) = (0, 0, 0);
        for _ in 0..100_000 {
            let injected = inject(std::slice::from_ref(&fault), &request(&[]), &mut rng);
            assert!(injected.delay.is_none_or(|delay| delay == SECOND));
            delays += u32::from(injected.delay.is_some());
            aborts += u32::from(injected.abort.is_some());
            both += u32::from(injected.delay.is_some() && injected.abort.is_some());
        }
        assert!((49_000..51_000).contains(&delays), "{delays}");
        assert!((60..140).contains(&aborts), "{aborts}");
        assert!((20..90).contains(&both), "{both}");
    }

    #[test]
    fn all_is_always_and_nothing_never() {
        let mut rng = StdRng::seed_from_u64(1);
        assert!((0..1_000).all(|_| is_hit(Share::ALL, &mut rng)));
        assert!(!(0..1_000).any(|_| is_hit(Share::percent(0), &mut rng)));
    }
}
