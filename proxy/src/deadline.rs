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

    /// Of a request from the mesh, which may say what the caller's sidecar has left for it.
    ///
    /// # Errors
    /// `weft-timeout` is malformed.
    pub(crate) fn of_inbound(now: Instant, headers: &HeaderMap) -> Result<Self, Failure> {
        let mut values = headers.get_all(WEFT_TIMEOUT).iter();
        let Some(value) = values.next() else {
            return Ok(Self::NONE);
        };
        let left = parse_millis(value.as_bytes()).filter(|_| values.next().is_none());
        let left = left.ok_or(Failure::BadField("weft-timeout"))?;
        Ok(Self::within(now, left))
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

    /// Whether it has come.
    pub(crate) fn is_over(self, now: Instant) -> bool {
        self.0.is_some_and(|at| at <= now)
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
