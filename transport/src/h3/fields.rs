//! Names of the fields that sidecars exchange with each other and with applications.

use http::HeaderName;

/// Target port at the workload. Absent: its only declared port.
pub const WEFT_PORT: HeaderName = HeaderName::from_static("weft-port");
/// `http/1.1` or `h2`, as the calling application spoke.
pub const WEFT_PROTOCOL: HeaderName = HeaderName::from_static("weft-protocol");
/// Sidecar hops so far.
pub const WEFT_HOPS: HeaderName = HeaderName::from_static("weft-hops");
/// What is left of the deadline.
pub const WEFT_TIMEOUT: HeaderName = HeaderName::from_static("weft-timeout");
/// To the application: the caller's SPIFFE ID, from TLS.
pub const WEFT_CALLER: HeaderName = HeaderName::from_static("weft-caller");
/// On an answer of the mesh's own: its reason.
pub const WEFT_ERROR: HeaderName = HeaderName::from_static("weft-error");
/// On such an answer, when the application saw nothing of the request: the reason.
pub const WEFT_UNPROCESSED: HeaderName = HeaderName::from_static("weft-unprocessed");
/// On the answer to an extended CONNECT that the application did not accept although its status is a success, as
/// HTTP/1.1 allows: that status. The answer's own is 502, since a success would open the tunnel (RFC 9220 section 3).
pub const WEFT_STATUS: HeaderName = HeaderName::from_static("weft-status");
