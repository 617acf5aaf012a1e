//! Every failure of the mesh's own becomes an answer: a status, a reason and a sentence; for gRPC callers in
//! gRPC's form.
//!
//! There are two kinds (DESIGN, the wire): *this endpoint cannot now* is 503 with `weft-unprocessed`, and the
//! sender may try elsewhere; *this request may not* has `weft-error`, and nobody retries it. An application sees
//! `weft-error` alone.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Response, StatusCode,
    header::{CONTENT_TYPE, RETRY_AFTER},
};
use weft_proto::model::policy::Abort;
use weft_transport::{
    Error, ErrorKind, Processed,
    h3::{H3Error, ResponseHead, fields},
};

use crate::{
    body::ResponseBody,
    local::{
        error::{AppError, AppErrorKind, Processed as AppProcessed},
        target::HeadError,
    },
    snapshot::{NoPort, NoRoute},
};

/// Why a request was not served. Outbound and inbound share it: the same thing has the same name on both sides.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The application's head is malformed.
    Head(HeadError),
    /// The destination leads nowhere.
    NoRoute(NoRoute),
    /// The backend has no endpoint that may be used; so many were left out.
    NoEndpoint { unmeshed: usize, unready: usize },
    /// The service has routes, and the request matches none of their rules.
    NoRule,
    /// The rule of this route leads nowhere, for this request: why, as a label and in a sentence.
    DeadRule {
        route: Arc<str>,
        reason: &'static str,
        detail: String,
    },
    /// All endpoints are ejected, and the policy says that then none is used.
    AllEjected,
    /// There are as many as the policy allows.
    Limit(Limit),
    /// It took longer than it may.
    TimedOut(Late),
    /// A fault that a policy asks for: the status of the answer, and that of gRPC if the fault names one.
    Fault { status: StatusCode, grpc: Option<u16> },
    /// Every endpoint was tried; the last error.
    Transport(Error),
    /// Every endpoint refused for now; the last one's reason.
    Unprocessed(String),
    /// The request has passed too many sidecars.
    Loop,
    /// `weft-port`, `weft-protocol` or `weft-hops` is malformed.
    BadField(&'static str),
    /// The request asks for a port that the workload does not declare, or for none of several.
    NoPort(NoPort),
    /// CONNECT to something that is not this workload.
    NotHere,
    /// The policy said no: its rule.
    Denied(&'static str),
    /// The peer's head breaks HTTP/3.
    Malformed(H3Error),
    /// The connection carries as many tunnels as it may.
    TunnelLimit,
    /// The application could not be called, or did not answer.
    Application(AppError),
    /// The application's answer can't be passed on.
    BadResponse(HeadError),
    /// The application's answer breaks HTTP/3, or has more fields than the caller takes.
    UnsendableResponse(Error),
    /// What the request asks for is not supported.
    Unsupported(&'static str),
    /// The far sidecar refused the tunnel for good: its status and reason.
    Declined { status: StatusCode, reason: String },
}

/// A limit of a policy that is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Limit {
    #[error("there are as many requests in flight to the service as its TrafficPolicy allows")]
    Requests,
    #[error("as many requests wait for room at the service as its TrafficPolicy allows")]
    Queue,
    #[error("the request has waited for room at the service as long as its TrafficPolicy allows")]
    QueueTime,
    #[error("there are as many connections to the service as its TrafficPolicy allows")]
    Connections,
    #[error("every endpoint has as many requests or connections as the TrafficPolicy allows")]
    Endpoint,
    #[error("there are more requests than the TrafficPolicy allows; the next one may come in {} ms", after.as_millis())]
    Rate { after: Duration },
}

impl Limit {
    fn reason(self) -> &'static str {
        match self {
            Self::Requests => "request_limit",
            Self::Queue => "queue_full",
            Self::QueueTime => "queue_timeout",
            Self::Connections => "connection_limit",
            Self::Endpoint => "endpoint_limit",
            Self::Rate { .. } => "rate_limited",
        }
    }
}

/// What took longer than it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Late {
    #[error("the request took longer than its deadline allows")]
    Request,
    #[error("the last try took longer than one may")]
    Try,
}

impl Late {
    fn reason(self) -> &'static str {
        match self {
            Self::Request => "request_timeout",
            Self::Try => "try_timeout",
        }
    }
}

impl Failure {
    /// The answer of a fault.
    pub(crate) fn fault(abort: Abort) -> Self {
        match abort {
            Abort::Http(status) => Self::Fault {
                status: StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE),
                grpc: None,
            },
            // To a caller that is no gRPC caller.
            Abort::Grpc(status) => Self::Fault {
                status: StatusCode::INTERNAL_SERVER_ERROR,
                grpc: Some(status),
            },
        }
    }

    /// A label for metrics and logs, from a fixed set; also the value of `weft-error`.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Head(error) => error.reason(),
            Self::NoRoute(no_route) => no_route.reason(),
            Self::NoEndpoint { unready: 1.., .. } => "no_ready_endpoint",
            Self::NoEndpoint { unmeshed: 0, .. } => "no_endpoint",
            Self::NoEndpoint { .. } => "unmeshed_denied",
            Self::NoRule => "no_matching_route",
            Self::DeadRule { reason, .. } => reason,
            Self::AllEjected => "all_ejected",
            Self::Limit(limit) => limit.reason(),
            Self::TimedOut(late) => late.reason(),
            Self::Fault { .. } => "fault_injected",
            Self::Transport(error) => error.reason(),
            Self::Unprocessed(_) => "refused_by_endpoint",
            Self::Loop => "loop",
            Self::BadField(_) => "bad_field",
            Self::NoPort(NoPort::Undeclared) => "undeclared_port",
            Self::NoPort(NoPort::Missing) => "missing_port",
            Self::NotHere => "not_this_workload",
            Self::Denied(_) => "denied",
            Self::Malformed(_) => "malformed",
            Self::TunnelLimit => "tunnel_limit",
            Self::Application(error) => error.kind.reason(),
            Self::BadResponse(_) | Self::UnsendableResponse(_) => "application_bad_response",
            Self::Unsupported(_) => "unsupported",
            Self::Declined { .. } => "declined_by_peer",
        }
    }

    /// The status of the answer.
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::Head(error) => error.status(),
            Self::NoRoute(NoRoute::UnknownInMesh | NoRoute::EgressDenied | NoRoute::Unresolved) => {
                StatusCode::BAD_GATEWAY
            }
            Self::NoRoute(NoRoute::ControllerUnavailable | NoRoute::TooManyNames) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::NoRoute(NoRoute::OwnListener) => StatusCode::LOOP_DETECTED,
            Self::NoRoute(_) => StatusCode::NOT_FOUND,
            Self::NoRule => StatusCode::NOT_FOUND,
            Self::DeadRule { .. } => StatusCode::INTERNAL_SERVER_ERROR,
            Self::NoEndpoint { .. } | Self::AllEjected | Self::Unprocessed(_) | Self::TunnelLimit => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::Limit(Limit::Rate { .. }) => StatusCode::TOO_MANY_REQUESTS,
            Self::Limit(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::TimedOut(_) => StatusCode::GATEWAY_TIMEOUT,
            Self::Fault { status, .. } => *status,
            Self::Transport(error) => match (error.processed(), error.kind()) {
                (Processed::No, _) => StatusCode::SERVICE_UNAVAILABLE,
                (_, ErrorKind::Unsendable(_)) => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                (Processed::Maybe, _) => StatusCode::BAD_GATEWAY,
            },
            Self::Loop => StatusCode::LOOP_DETECTED,
            Self::BadField(_) | Self::NoPort(NoPort::Missing) => StatusCode::BAD_REQUEST,
            Self::NoPort(NoPort::Undeclared) | Self::NotHere => StatusCode::NOT_FOUND,
            Self::Denied(_) => StatusCode::FORBIDDEN,
            Self::Malformed(error) => error.status().unwrap_or(StatusCode::BAD_REQUEST),
            Self::Application(error) => match (error.processed, error.kind) {
                (AppProcessed::No, _) => StatusCode::SERVICE_UNAVAILABLE,
                (AppProcessed::Maybe, AppErrorKind::RequestBody) => StatusCode::BAD_REQUEST,
                (AppProcessed::Maybe, _) => StatusCode::BAD_GATEWAY,
            },
            Self::BadResponse(_) | Self::UnsendableResponse(_) => StatusCode::BAD_GATEWAY,
            Self::Unsupported(_) => StatusCode::NOT_IMPLEMENTED,
            Self::Declined { status, .. } => *status,
        }
    }

    /// Whether the sender may try another endpoint: this one cannot now, and its application saw nothing.
    pub(crate) fn is_unprocessed(&self) -> bool {
        match self {
            Self::TunnelLimit => true,
            Self::Application(error) => error.processed == AppProcessed::No,
            _ => false,
        }
    }

    /// A sentence for people: what happened and, where it is known, what to do.
    pub(crate) fn detail(&self) -> String {
        match self {
            Self::Head(error) | Self::BadResponse(error) => error.to_string(),
            Self::NoRoute(no_route) => no_route.to_string(),
            Self::NoEndpoint {
                unready: unready @ 1..,
                ..
            } => {
                format!("none of the service's endpoints is ready ({unready} are not, or end)")
            }
            Self::NoEndpoint { unmeshed: 0, .. } => "the service has no endpoint".to_owned(),
            Self::NoEndpoint { unmeshed, .. } => {
                format!("{unmeshed} endpoints have no sidecar, and MeshConfig does not say `unmeshed: allow`")
            }
            Self::NoRule => "the service has routes, and none of their rules matches the request".to_owned(),
            Self::DeadRule { route, detail, .. } => format!("{route}: {detail}"),
            Self::AllEjected => "all endpoints of the service are ejected, because they failed".to_owned(),
            Self::Limit(limit) => limit.to_string(),
            Self::TimedOut(late) => late.to_string(),
            Self::Fault { .. } => "a fault that a TrafficPolicy asks for".to_owned(),
            Self::Transport(error) | Self::UnsendableResponse(error) => error.to_string(),
            Self::Unprocessed(reason) => format!("no endpoint can take the request now: {reason}"),
            Self::Loop => "the request has passed too many sidecars".to_owned(),
            Self::BadField(name) => format!("{name} is malformed"),
            Self::NoPort(NoPort::Undeclared) => "the workload does not declare this port".to_owned(),
            Self::NoPort(NoPort::Missing) => "the workload has several ports: name one".to_owned(),
            Self::NotHere => "the target is not a port of this workload".to_owned(),
            Self::Denied(rule) => format!("denied by {rule}"),
            Self::Malformed(error) => error.to_string(),
            Self::TunnelLimit => "the connection carries as many tunnels as it may".to_owned(),
            Self::Application(error) => error.to_string(),
            Self::Unsupported(what) => format!("{what} is not supported"),
            Self::Declined { reason, .. } => format!("the workload's sidecar refused the tunnel: {reason}"),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Transport(error)
    }
}

impl From<Limit> for Failure {
    fn from(limit: Limit) -> Self {
        Self::Limit(limit)
    }
}

impl From<HeadError> for Failure {
    fn from(error: HeadError) -> Self {
        Self::Head(error)
    }
}

impl From<NoRoute> for Failure {
    fn from(no_route: NoRoute) -> Self {
        Self::NoRoute(no_route)
    }
}

/// The answer to the application.
pub(crate) fn to_application(failure: &Failure, is_grpc: bool) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::Own(None));
    let (status, text) = fill(failure, is_grpc, response.headers_mut());
    response
        .headers_mut()
        .insert(fields::WEFT_ERROR, HeaderValue::from_static(failure.reason()));
    *response.status_mut() = status;
    *response.body_mut() = ResponseBody::Own(text);
    response
}

/// The answer to the peer's sidecar: its head, and its text.
pub(crate) fn to_peer(failure: &Failure, is_grpc: bool) -> (ResponseHead, Option<Bytes>) {
    let mut headers = HeaderMap::with_capacity(4);
    let (status, text) = if failure.is_unprocessed() {
        // Even to gRPC callers: it is the sidecar that reads this.
        fill(failure, false, &mut headers)
    } else {
        fill(failure, is_grpc, &mut headers)
    };
    let field = if failure.is_unprocessed() {
        fields::WEFT_UNPROCESSED
    } else {
        fields::WEFT_ERROR
    };
    headers.insert(field, HeaderValue::from_static(failure.reason()));
    (ResponseHead { status, headers }, text)
}

/// Whether a request is gRPC, by its content type.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    headers
        .get(CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

fn fill(failure: &Failure, is_grpc: bool, headers: &mut HeaderMap) -> (StatusCode, Option<Bytes>) {
    let status = failure.status();
    let detail = failure.detail();
    if is_grpc {
        // Trailers-only: one head with everything, no content (the gRPC protocol over HTTP/2).
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        let status = match failure {
            Failure::Fault { grpc: Some(grpc), .. } => *grpc,
            _ => grpc_status(status),
        };
        headers.insert(GRPC_STATUS, HeaderValue::from(status));
        let message = format!("weft: {}: {detail}", failure.reason());
        if let Ok(message) = HeaderValue::try_from(percent_encoded(&message)) {
            headers.insert(GRPC_MESSAGE, message);
        }
        return (StatusCode::OK, None);
    }
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    if let Some(after) = retry_after(failure, status) {
        headers.insert(RETRY_AFTER, HeaderValue::from(after));
    }
    (
        status,
        Some(format!("weft: {}: {detail}\n", failure.reason()).into()),
    )
}

/// Seconds after which another try may do better.
fn retry_after(failure: &Failure, status: StatusCode) -> Option<u64> {
    match failure {
        Failure::Limit(Limit::Rate { after }) => {
            Some(after.as_millis().div_ceil(1_000).clamp(1, 3_600) as u64)
        }
        _ => (status == StatusCode::SERVICE_UNAVAILABLE).then_some(1),
    }
}

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// The mapping that gRPC gives for answers of proxies (its http-grpc-status-mapping), with what it leaves out.
fn grpc_status(status: StatusCode) -> u16 {
    /// Names of the gRPC status codes.
    const INTERNAL: u16 = 13;
    const UNAUTHENTICATED: u16 = 16;
    const PERMISSION_DENIED: u16 = 7;
    const UNIMPLEMENTED: u16 = 12;
    const UNAVAILABLE: u16 = 14;
    const DEADLINE_EXCEEDED: u16 = 4;
    const UNKNOWN: u16 = 2;
    match status {
        StatusCode::BAD_REQUEST | StatusCode::LOOP_DETECTED => INTERNAL,
        StatusCode::UNAUTHORIZED => UNAUTHENTICATED,
        StatusCode::FORBIDDEN => PERMISSION_DENIED,
        StatusCode::NOT_FOUND | StatusCode::NOT_IMPLEMENTED => UNIMPLEMENTED,
        StatusCode::TOO_MANY_REQUESTS | StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE => {
            UNAVAILABLE
        }
        StatusCode::GATEWAY_TIMEOUT => DEADLINE_EXCEEDED,
        _ => UNKNOWN,
    }
}

/// `grpc-message` is percent-encoded: printable ASCII but for the percent sign stands for itself.
fn percent_encoded(text: &str) -> String {
    use std::fmt::Write;
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if matches!(byte, b' '..=b'~') && byte != b'%' {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use http_body::Body;

    use super::*;

    #[test]
    fn a_refusal_of_the_request_is_an_error_and_never_unprocessed() {
        for failure in [
            Failure::Denied("rule"),
            Failure::Loop,
            Failure::NotHere,
            Failure::BadField("weft-port"),
        ] {
            let (head, _) = to_peer(&failure, false);
            assert!(
                !head.headers.contains_key(fields::WEFT_UNPROCESSED),
                "{failure:?}"
            );
            assert_eq!(head.headers[fields::WEFT_ERROR], failure.reason());
            assert_ne!(head.status, StatusCode::SERVICE_UNAVAILABLE);
        }
    }

    #[test]
    fn what_this_endpoint_cannot_now_is_503_and_unprocessed() {
        {
            let failure = Failure::TunnelLimit;
            let (head, _) = to_peer(&failure, true);
            assert_eq!(head.status, StatusCode::SERVICE_UNAVAILABLE);
            assert_eq!(head.headers[fields::WEFT_UNPROCESSED], failure.reason());
            assert!(!head.headers.contains_key(fields::WEFT_ERROR));
        }
    }

    #[test]
    fn a_grpc_caller_gets_trailers_only() {
        let response = to_application(&Failure::Denied("mesh_default_deny"), true);
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["grpc-status"], "7");
        assert_eq!(
            response.headers()["grpc-message"],
            "weft: denied: denied by mesh_default_deny"
        );
        assert_eq!(response.headers()["content-type"], "application/grpc");
        assert!(response.body().is_end_stream());
    }

    #[test]
    fn messages_are_percent_encoded() {
        assert_eq!(percent_encoded("50% of \u{e4}\n"), "50%25 of %C3%A4%0A");
    }
}
