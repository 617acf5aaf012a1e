//! How long a request may still take, and how that is told to the next hop.

use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderName, HeaderValue};
use weft_transport::h3::fields::WEFT_TIMEOUT;

use crate::respond::Failure;

/// Whoever asks for longer asks for no deadline: a year.
const MAX: Duration = Duration::from_secs(365 * 24 * 3600);
/// Digits of a `weft-timeout`: more milliseconds than anybody waits.
const MAX_DIGITS: usize = 15;
/// Digits of a `grpc-timeout` (the gRPC protocol over HTTP/2).
const MAX_GRPC_DIGITS: usize = 8;

const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// The units of a `grpc-timeout`, from the finest, in nanoseconds.
const GRPC_UNITS: [(u8, u64); 6] = [
    (b'n', 1),
    (b'u', 1_000),
    (b'm', 1_000_000),
    (b'S', 1_000_000_000),
    (b'M', 60_000_000_000),
    (b'H', 3_600_000_000_000),
];

/// When something must have ended, if it must.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Deadline(Option<Instant>);

impl Deadline {
    /// There is none.
    pub(crate) const NONE: Self = Self(None);

    /// So long from now. Zero, and what is not said, is without limit.
    pub(crate) fn after(now: Instant, timeout: Option<Duration>) -> Self {
        match timeout {
            Some(timeout) if !timeout.is_zero() => Self::within(now, timeout),
            _ => Self::NONE,
        }
    }

    /// Of a request from the application: what the route allows, what the policy does, and how long its caller waits if
    /// that is gRPC.
    pub(crate) fn of_request(
        now: Instant,
        route: Option<Duration>,
        policy: Option<Duration>,
        headers: &HeaderMap,
        is_grpc: bool,
    ) -> Self {
        let caller = headers.get(GRPC_TIMEOUT).filter(|_| is_grpc);
        // What is not a time is the application's to judge.
        let caller = caller.and_then(|value| parse_grpc(value.as_bytes()));
        Self::after(now, route)
            .or_earlier(Self::after(now, policy))
            .or_earlier(caller.map_or(Self::NONE, |left| Self::within(now, left)))
    }

    /// Of a request from the mesh, which may say what the caller's sidecar has left for it. The clock is read only then.
    ///
    /// # Errors
    /// `weft-timeout` is malformed.
    pub(crate) fn of_inbound(headers: &HeaderMap, now: impl FnOnce() -> Instant) -> Result<Self, Failure> {
        let mut values = headers.get_all(WEFT_TIMEOUT).iter();
        let Some(value) = values.next() else {
            return Ok(Self::NONE);
        };
        let left = parse_millis(value.as_bytes()).filter(|_| values.next().is_none());
        let left = left.ok_or(Failure::BadField("weft-timeout"))?;
        Ok(Self::within(now(), left))
    }

    /// The earlier of the two.
    pub(crate) fn or_earlier(self, other: Self) -> Self {
        match (self.0, other.0) {
            (Some(one), Some(other)) => Self(Some(one.min(other))),
            (one, other) => Self(one.or(other)),
        }
    }

    /// Of one try, that begins now: what the policy and the route allow to one, within the deadline of the request.
    pub(crate) fn of_try(self, now: Instant, policy: Option<Duration>, route: Option<Duration>) -> Self {
        self.or_earlier(Self::after(now, policy))
            .or_earlier(Self::after(now, route))
    }

    /// When it is, for a timer.
    pub(crate) fn at(self) -> Option<Instant> {
        self.0
    }

    /// What is left; `None`: there is no deadline.
    pub(crate) fn left(self, now: Instant) -> Option<Duration> {
        self.0.map(|at| at.saturating_duration_since(now))
    }

    /// Tells the next hop what is left for it. Rounded down, so that nobody waits for an answer that comes too late; what
    /// is left of a request that is still sent is never nothing.
    pub(crate) fn tell(self, now: Instant, headers: &mut HeaderMap, is_grpc: bool) {
        let Some(left) = self.left(now) else { return };
        let millis = u64::try_from(left.as_millis()).unwrap_or(u64::MAX).max(1);
        headers.insert(WEFT_TIMEOUT, HeaderValue::from(millis));
        if is_grpc && let Some(value) = grpc_timeout(left) {
            headers.insert(GRPC_TIMEOUT, value);
        }
    }

    /// Nothing left is a deadline too.
    fn within(now: Instant, left: Duration) -> Self {
        Self(now.checked_add(left).filter(|_| left < MAX))
    }
}

/// Milliseconds: digits alone.
fn parse_millis(value: &[u8]) -> Option<Duration> {
    number(value, MAX_DIGITS).map(Duration::from_millis)
}

/// `TimeoutValue TimeoutUnit`: at most eight digits and one letter. Nothing left is said by `0n`, although the protocol
/// asks for a positive number.
fn parse_grpc(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    let (_, nanos) = GRPC_UNITS.iter().find(|(name, _)| name == unit)?;
    let count = number(digits, MAX_GRPC_DIGITS)?;
    // 10^8 hours are more nanoseconds than fit.
    Some(Duration::from_nanos(count.saturating_mul(*nanos)))
}

/// The finest unit in which it has eight digits.
fn grpc_timeout(left: Duration) -> Option<HeaderValue> {
    let left = left.as_nanos();
    let fits = |count: u128| count < 10_u128.pow(MAX_GRPC_DIGITS as u32);
    let in_units = GRPC_UNITS.map(|(unit, nanos)| (left / u128::from(nanos), unit));
    let (count, unit) = in_units.into_iter().find(|(count, _)| fits(*count))?;
    HeaderValue::try_from(format!("{}{}", count.max(1), char::from(unit))).ok()
}

fn number(digits: &[u8], max: usize) -> Option<u64> {
    let is_number = (1..=max).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(digits).ok().filter(|_| is_number)?;
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn headers(fields: &[(HeaderName, &[u8])]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(name, HeaderValue::from_bytes(value).unwrap());
        }
        headers
    }

    fn inbound(now: Instant, values: &[&[u8]]) -> Result<Option<Duration>, &'static str> {
        let fields: Vec<_> = values.iter().map(|value| (WEFT_TIMEOUT, *value)).collect();
        let deadline = Deadline::of_inbound(&headers(&fields), || now);
        deadline
            .map(|deadline| deadline.left(now))
            .map_err(|failure| failure.reason())
    }

    #[test]
    fn the_earliest_counts_and_zero_is_none() {
        let now = Instant::now();
        let grpc = headers(&[(GRPC_TIMEOUT, b"3S")]);
        let left = |route: Option<u32>, policy: Option<u32>, headers: &HeaderMap, is_grpc| {
            let seconds = |count: u32| SECOND * count;
            let (route, policy) = (route.map(seconds), policy.map(seconds));
            Deadline::of_request(now, route, policy, headers, is_grpc)
                .left(now)
                .map(|left| left.as_secs())
        };
        let none = HeaderMap::new();
        assert_eq!(left(None, None, &none, true), None);
        assert_eq!(left(Some(0), Some(0), &none, true), None);
        assert_eq!(left(Some(5), None, &none, true), Some(5));
        assert_eq!(left(Some(5), Some(4), &none, true), Some(4));
        assert_eq!(left(Some(0), Some(4), &none, true), Some(4));
        assert_eq!(left(Some(5), Some(4), &grpc, true), Some(3));
        assert_eq!(left(Some(2), Some(4), &grpc, true), Some(2));
        assert_eq!(left(None, None, &grpc, true), Some(3));
        assert_eq!(left(None, None, &grpc, false), None, "it is not gRPC");
    }

    #[test]
    fn a_try_has_no_longer_than_the_request() {
        let now = Instant::now();
        let request = Deadline::after(now, Some(5 * SECOND));
        let left = |deadline: Deadline| deadline.left(now).map(|left| left.as_secs());
        assert_eq!(left(request.of_try(now, None, None)), Some(5));
        assert_eq!(left(request.of_try(now, Some(9 * SECOND), None)), Some(5));
        assert_eq!(
            left(request.of_try(now, Some(3 * SECOND), Some(2 * SECOND))),
            Some(2)
        );
        assert_eq!(
            left(Deadline::NONE.of_try(now, Some(Duration::ZERO), Some(SECOND))),
            Some(1)
        );
        assert_eq!(left(Deadline::NONE.of_try(now, None, None)), None);
        assert_ne!(request.left(now), Some(Duration::ZERO));
        assert_eq!(request.left(now + 5 * SECOND), Some(Duration::ZERO));
        assert_eq!(request.left(now + 6 * SECOND), Some(Duration::ZERO));
        assert_eq!(Deadline::NONE.left(now), None);
    }

    #[test]
    fn a_grpc_timeout_is_up_to_eight_digits_and_a_unit() {
        for (value, nanos) in [
            (&b"1n"[..], 1),
            (b"2u", 2_000),
            (b"3m", 3_000_000),
            (b"4S", 4_000_000_000),
            (b"5M", 300_000_000_000),
            (b"6H", 21_600_000_000_000),
            (b"00000001S", 1_000_000_000),
            (b"99999999m", 99_999_999_000_000),
            (b"0n", 0),
        ] {
            assert_eq!(parse_grpc(value), Some(Duration::from_nanos(nanos)), "{value:?}");
        }
        for value in [
            &b""[..],
            b"S",
            b"1",
            b"1s",
            b"1h",
            b"1 S",
            b" 1S",
            b"+1S",
            b"-1S",
            b"1.5S",
            b"1SS",
            b"000000001S",
            b"123456789n",
            b"\xff\xffS",
            b"1\xc2\xb5",
        ] {
            assert_eq!(parse_grpc(value), None, "{value:?}");
        }
        let now = Instant::now();
        let forever = headers(&[(GRPC_TIMEOUT, b"99999999H")]);
        assert_eq!(
            Deadline::of_request(now, None, None, &forever, true),
            Deadline::NONE
        );
        let malformed = headers(&[(GRPC_TIMEOUT, b"soon")]);
        assert_eq!(
            Deadline::of_request(now, None, None, &malformed, true),
            Deadline::NONE
        );
        let over = headers(&[(GRPC_TIMEOUT, b"0n")]);
        assert_eq!(
            Deadline::of_request(now, None, None, &over, true).left(now),
            Some(Duration::ZERO)
        );
    }

    #[test]
    fn what_a_peer_says_is_digits_alone_and_said_once() {
        let now = Instant::now();
        assert_eq!(inbound(now, &[]), Ok(None));
        assert_eq!(inbound(now, &[b"1500"]), Ok(Some(SECOND * 3 / 2)));
        assert_eq!(inbound(now, &[b"0"]), Ok(Some(Duration::ZERO)));
        assert_eq!(
            inbound(now, &[b"999999999999999"]),
            Ok(None),
            "as good as without limit"
        );
        for value in [
            &b""[..],
            b"+1",
            b"-1",
            b" 1",
            b"1ms",
            b"1.0",
            b"1000000000000000",
            b"\xff",
        ] {
            assert_eq!(inbound(now, &[value]), Err("bad_field"), "{value:?}");
        }
        assert_eq!(inbound(now, &[b"1", b"1"]), Err("bad_field"));
    }

    #[test]
    fn the_next_hop_is_told_what_is_left() {
        let now = Instant::now();
        let mut told = headers(&[(GRPC_TIMEOUT, b"10S"), (WEFT_TIMEOUT, b"7")]);
        Deadline::NONE.tell(now, &mut told, true);
        assert_eq!(told[GRPC_TIMEOUT], "10S", "it is the caller's own");
        let deadline = Deadline::after(now, Some(10 * SECOND));
        deadline.tell(now + SECOND, &mut told, false);
        assert_eq!(
            (&told[WEFT_TIMEOUT], &told[GRPC_TIMEOUT]),
            (&"9000".parse().unwrap(), &"10S".parse().unwrap())
        );
        deadline.tell(now + SECOND, &mut told, true);
        assert_eq!(told[GRPC_TIMEOUT], "9000000u");
        deadline.tell(now + 10 * SECOND, &mut told, true);
        assert_eq!(
            (told.get_all(WEFT_TIMEOUT).iter().count(), &told[WEFT_TIMEOUT]),
            (1, &"1".parse().unwrap())
        );
        assert_eq!(told[GRPC_TIMEOUT], "1n");
    }

    proptest! {
        #[test]
        fn a_grpc_timeout_that_is_told_is_read_again_and_never_longer(nanos in prop_oneof![
            1..1_000_000_000_u64,
            1..MAX.as_nanos() as u64,
        ]) {
            let left = Duration::from_nanos(nanos);
            let value = grpc_timeout(left).unwrap();
            prop_assert!(value.len() <= 9, "{value:?}");
            let read = parse_grpc(value.as_bytes()).unwrap();
            prop_assert!(read <= left);
            // Eight digits are exact to a ten-millionth, but where the next unit has few.
            prop_assert!(left - read <= left / 100_000, "{left:?} became {value:?}");
        }

        #[test]
        fn what_is_told_to_a_sidecar_is_read_again(millis in 1..MAX.as_millis() as u64) {
            let now = Instant::now();
            let mut told = HeaderMap::new();
            Deadline::after(now, Some(Duration::from_millis(millis))).tell(now, &mut told, false);
            let read = Deadline::of_inbound(&told, || now).unwrap();
            prop_assert_eq!(read.left(now), Some(Duration::from_millis(millis)));
        }

        #[test]
        fn nothing_that_a_header_can_hold_is_trouble(value in "[0-9numSMH+. -]{0,20}") {
            let now = Instant::now();
            let headers = headers(&[(GRPC_TIMEOUT, value.as_bytes()), (WEFT_TIMEOUT, value.as_bytes())]);
            let _ = Deadline::of_request(now, None, None, &headers, true).left(now);
            let _ = Deadline::of_inbound(&headers, || now);
        }
    }
}
