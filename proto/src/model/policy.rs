//! `weft.dev/v1alpha1 TrafficPolicy`: how requests for a Service are balanced, repeated, limited and kept from endpoints
//! that fail.

use super::{FieldMatch, Name, Share};
use crate::names::{DnsLabel, Labels};
use std::time::Duration;

/// How requests for Services of its namespace are treated.
///
/// Of each section the one counts that says it for the port, then the one that says it for the Service, then the
/// default; two policies with the same target are a conflict, which the older one wins whole.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TrafficPolicy {
    /// Its name.
    pub name: Name,
    /// When it was made, in seconds since 1970; as of a [`Route`](super::Route).
    pub created: Option<i64>,
    /// For which Services. Never empty; none twice.
    pub targets: Vec<PolicyTarget>,
    /// What it says.
    pub sections: Sections,
}

/// What a policy says. A section that is `None` is not said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Sections {
    /// Which endpoint gets a request.
    pub load_balancing: Option<LoadBalancing>,
    /// Which requests are sent again.
    pub retries: Option<Retries>,
    /// How many there may be.
    pub limits: Option<Limits>,
    /// Which endpoints are left alone for a while.
    pub outlier_ejection: Option<OutlierEjection>,
    /// How long they may take.
    pub timeouts: Option<Timeouts>,
    /// Faults made on purpose: the first whose headers match is made. `None` or empty: none.
    pub faults: Option<Vec<Fault>>,
}

/// A Service of the policy's namespace, or one of its ports.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub struct PolicyTarget {
    /// The Service.
    pub service: DnsLabel,
    /// Only the port of this name.
    pub section: Option<DnsLabel>,
}

/// Which endpoint gets a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LoadBalancing {
    /// How one is chosen.
    pub algorithm: Algorithm,
    /// How long a new endpoint, or one that comes back, gets less than its share. Default: not.
    pub slow_start: Option<Duration>,
    /// Whether near endpoints come first.
    pub locality: LocalityMode,
    /// Only endpoints with all of these labels. Default: all.
    pub subset: Labels,
}

/// How an endpoint is chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Algorithm {
    /// `LeastLatency`: the better of two that chance picks, by peak latency times requests in flight. The default.
    #[default]
    LeastLatency,
    /// `RoundRobin`: one after the other.
    RoundRobin,
    /// `Random`: any.
    Random,
    /// `ConsistentHash`: the same for the same key, as far as endpoints stay.
    ConsistentHash(HashKey),
}

/// What a consistent hash is of. A request without it gets any endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashKey {
    /// The value of this header, in lower case.
    Header(String),
    /// The value of this cookie.
    Cookie(String),
    /// The address from which the application called.
    Source,
}

/// Whether near endpoints come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocalityMode {
    /// Those of the same subzone, then zone, then region, then all. As the healthy share of a place falls below
    /// `overflow`, a growing part goes to the next.
    Prefer {
        /// 1 to 100 percent.
        overflow: u8,
    },
    /// All alike.
    Ignore,
}

impl Default for LocalityMode {
    /// Near ones first, as long as seven in ten of them are healthy.
    fn default() -> Self {
        Self::Prefer { overflow: 70 }
    }
}

/// Which requests are sent again. What is proved unprocessed goes to another endpoint whatever this says.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Retries {
    /// Tries after the first one that may have reached an application. At most 10.
    pub attempts: u32,
    /// What is worth another try.
    pub on: RetryOn,
    /// Statuses of the application that are: 400 to 599.
    pub codes: Vec<u16>,
    /// gRPC statuses that are: 1 to 16.
    pub grpc: Vec<u16>,
    /// Whether all this holds for methods too that do not mean the same done twice.
    pub non_idempotent: bool,
    /// How long one try may take. Default: as long as the request.
    pub per_try_timeout: Option<Duration>,
    /// The wait before the first try again; it doubles with each, up to `backoff_max`, and is drawn evenly between
    /// nothing and that.
    pub backoff: Duration,
    /// See `backoff`.
    pub backoff_max: Duration,
    /// How many tries again there may be to a hundred requests for the Service, from this client. At most 100.
    pub budget_percent: u32,
    /// And how many a second there may be however few the requests are.
    pub budget_floor: u32,
    /// Bytes of content that are kept so that they can be sent again. At most 1 MiB.
    pub replay_bytes: usize,
    /// Another try beside the first one, if that takes long.
    pub hedging: Option<Hedging>,
}

/// What is worth another try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RetryOn {
    /// The endpoint could not be connected to, and it is not proved that it saw nothing.
    pub connect_failure: bool,
    /// The connection or stream was lost before the answer, or the try took too long.
    pub reset: bool,
    /// 502, 503 and 504.
    pub gateway_error: bool,
    /// 500 to 599.
    pub server_error: bool,
}

/// A second try beside the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Hedging {
    /// After how long without an answer.
    pub after: Duration,
    /// How many beside the first. 1 to 3.
    pub max: u32,
}

impl Hedging {
    /// So many tries beside the first, each after so long.
    pub fn new(after: Duration, max: u32) -> Self {
        Self { after, max }
    }
}

impl Default for Retries {
    /// Two tries again of what was lost on the way and may be done twice, after 25 ms; for one in five requests, and
    /// three a second.
    fn default() -> Self {
        Self {
            attempts: 2,
            on: RetryOn::default(),
            codes: Vec::new(),
            grpc: Vec::new(),
            non_idempotent: false,
            per_try_timeout: None,
            backoff: Duration::from_millis(25),
            backoff_max: Duration::from_millis(250),
            budget_percent: 20,
            budget_floor: 3,
            replay_bytes: 64 << 10,
            hedging: None,
        }
    }
}

impl Default for RetryOn {
    fn default() -> Self {
        Self {
            connect_failure: true,
            reset: true,
            gateway_error: false,
            server_error: false,
        }
    }
}

/// How many there may be, of one client's sidecar unless said otherwise. `None`: without limit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// TCP connections to the Service.
    pub connections: Option<u32>,
    /// Requests in flight to the Service.
    pub requests: Option<u32>,
    /// TCP connections to one endpoint.
    pub endpoint_connections: Option<u32>,
    /// Requests in flight to one endpoint.
    pub endpoint_requests: Option<u32>,
    /// Requests that wait for room under `requests`. Default: none.
    pub queue: u32,
    /// How long they wait. Default: 100 ms.
    pub queue_timeout: Option<Duration>,
    /// Requests a time, all of these. At most [`MAX_RATES`].
    pub rates: Vec<RateLimit>,
}

/// Limits of requests a time in one policy.
pub const MAX_RATES: usize = 8;

/// A token bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RateLimit {
    /// So many. Never 0.
    pub requests: u32,
    /// In so long. Never 0.
    pub per: Duration,
    /// At once, if there was nothing before. Never 0; default: `requests`.
    pub burst: u32,
    /// Of what.
    pub scope: RateScope,
}

impl RateLimit {
    /// So many in so long, at once as well.
    pub fn new(requests: u32, per: Duration, scope: RateScope) -> Self {
        Self {
            requests,
            per,
            burst: requests,
            scope,
        }
    }
}

/// What has a bucket of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum RateScope {
    /// Each endpoint, for all callers together. Kept where calls arrive. The default.
    #[default]
    Endpoint,
    /// Each caller's identity at each endpoint. Kept where calls arrive.
    Caller,
    /// Each rule of a route, in each client's sidecar.
    Route,
}

/// Which endpoints are left alone for a while. Refusals of a request never count.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OutlierEjection {
    /// So many failures one after the other: no answer, one too late, 502, 503 or 504. 0: not looked at.
    pub consecutive_failures: u32,
    /// Fewer successes than this percentage in an interval. `None`: not looked at.
    pub success_rate: Option<u8>,
    /// A mean latency of more than so many times the median of all endpoints', in an interval. Never below 2. `None`:
    /// not looked at.
    pub latency_factor: Option<u32>,
    /// What `success_rate` and `latency_factor` look at.
    pub interval: Duration,
    /// Endpoints with fewer requests in an interval are not looked at.
    pub min_requests: u32,
    /// How long the first time; then twice as long each time, up to `max_time`, and less again with time.
    pub base_time: Duration,
    /// See `base_time`.
    pub max_time: Duration,
    /// Never more than this percentage of the endpoints at a time, rounded down.
    pub max_percent: u8,
    /// If less than this percentage of the endpoints is left, all are used. 0: never.
    pub panic_percent: u8,
}

impl Default for OutlierEjection {
    /// Five failures one after the other, for 10 seconds and more, of at most half of the endpoints.
    fn default() -> Self {
        Self {
            consecutive_failures: 5,
            success_rate: None,
            latency_factor: None,
            interval: Duration::from_secs(10),
            min_requests: 20,
            base_time: Duration::from_secs(10),
            max_time: Duration::from_secs(300),
            max_percent: 50,
            panic_percent: 50,
        }
    }
}

/// How long requests may take. Zero: without limit. `None`: the default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Timeouts {
    /// From the request's head to the end of the answer, all tries together. Default: without limit.
    pub request: Option<Duration>,
    /// Without a byte in either direction. Default: without limit.
    pub idle: Option<Duration>,
    /// For a connection and a stream to an endpoint. Default: 5 s.
    pub connect: Option<Duration>,
}

/// A fault made on purpose.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Fault {
    /// Requests with all of these. Empty: all requests.
    pub headers: Vec<FieldMatch>,
    /// A wait before the request is sent, and of how many of them.
    pub delay: Option<(Duration, Share)>,
    /// An answer in place of the application's, and to how many of them.
    pub abort: Option<(Abort, Share)>,
}

/// The answer of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Abort {
    /// A status: 400 to 599.
    Http(u16),
    /// A gRPC status, in gRPC's form: 1 to 16.
    Grpc(u16),
}
