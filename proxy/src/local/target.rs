//! The one authority and path of an application's request.
//!
//! A request says where it goes in up to three places: the target of an HTTP/1.1 request line, Host, and
//! `:authority`. Two parsers that pick differently are how requests get past a policy, so there is one authority from
//! here on, in one spelling, and a head that contradicts itself is refused (RFC 9112 section 3.2, RFC 9113 section
//! 8.3.1).

use http::header::{HOST, HeaderMap, HeaderValue};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, StatusCode, Uri, Version};

/// Where a request goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    /// Host in lower case without a trailing dot, and the port if the caller named one. `None` where an HTTP/1.0
    /// caller named no host, or an HTTP/1.1 one sent an empty Host: only the address it connected to tells then.
    pub(crate) authority: Option<Authority>,
    /// `None` for CONNECT.
    pub(crate) path: Option<PathAndQuery>,
}

/// Why a head is refused. The variants are label values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HeadError {
    /// HTTP/1.1 without Host.
    #[error("the request has no Host")]
    MissingHost,
    /// More than one Host.
    #[error("the request has several Host fields")]
    SeveralHosts,
    /// Host and the target name different authorities.
    #[error("Host contradicts the request target")]
    HostMismatch,
    /// The authority is not `host` or `host:port`.
    #[error("the authority is not a host with an optional port")]
    Authority,
    /// The request target is of no known form, or of one that does not go with the method.
    #[error("the request target is malformed")]
    Target,
    /// Transfer codings other than `chunked`.
    #[error("the transfer coding is not supported")]
    TransferCoding,
    /// The lengths of a message disagree or are none.
    #[error("the content length is malformed")]
    ContentLength,
    /// A WebSocket handshake that is none.
    #[error("the WebSocket handshake is malformed")]
    WebSocket,
}

impl HeadError {
    /// The status that the caller gets.
    pub(crate) fn status(self) -> StatusCode {
        match self {
            Self::TransferCoding => StatusCode::NOT_IMPLEMENTED,
            _ => StatusCode::BAD_REQUEST,
        }
    }

    /// The reason as it stands in logs and labels.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::MissingHost => "missing_host",
            Self::SeveralHosts => "several_hosts",
            Self::HostMismatch => "host_mismatch",
            Self::Authority => "bad_authority",
            Self::Target => "bad_target",
            Self::TransferCoding => "transfer_coding",
            Self::ContentLength => "bad_content_length",
            Self::WebSocket => "bad_websocket",
        }
    }
}

impl Target {
    /// Reads the target of a request whose head is as it was received.
    ///
    /// # Errors
    /// If the head does not say, or contradicts itself.
    pub(crate) fn read(head: &Parts) -> Result<Self, HeadError> {
        let host = host_field(&head.headers)?;
        if host.is_none() && head.version == Version::HTTP_11 {
            return Err(HeadError::MissingHost);
        }
        let host = match host {
            Some(value) if !value.is_empty() => Some(parse_authority(value.as_bytes())?),
            _ => None,
        };
        if head.method == Method::CONNECT {
            return connect_target(&head.uri, host);
        }
        let path = request_path(head)?;
        let authority = match head.uri.authority() {
            None => host,
            Some(target) => {
                let target = parse_authority(target.as_str().as_bytes())?;
                // Host must repeat the target's authority; both are there in a request to a proxy.
                if host.is_some_and(|host| !same(&host, &target, default_port(&head.uri))) {
                    return Err(HeadError::HostMismatch);
                }
                Some(target)
            }
        };
        Ok(Self {
            authority,
            path: Some(path),
        })
    }
}

fn host_field(headers: &HeaderMap) -> Result<Option<&HeaderValue>, HeadError> {
    let mut hosts = headers.get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (host, None) => Ok(host),
        _ => Err(HeadError::SeveralHosts),
    }
}

/// CONNECT names host and port (RFC 9110 section 9.3.6). Clients that send Host with it may leave out the port.
fn connect_target(uri: &Uri, host: Option<Authority>) -> Result<Target, HeadError> {
    let (Some(target), None, None) = (uri.authority(), uri.scheme(), uri.path_and_query()) else {
        return Err(HeadError::Target);
    };
    let target = parse_authority(target.as_str().as_bytes())?;
    let port = target.port_u16().ok_or(HeadError::Target)?;
    if host.is_some_and(|host| !same(&host, &target, Some(port))) {
        return Err(HeadError::HostMismatch);
    }
    Ok(Target {
        authority: Some(target),
        path: None,
    })
}

/// Origin-form, absolute-form or, for OPTIONS, an asterisk (RFC 9112 section 3.2).
fn request_path(head: &Parts) -> Result<PathAndQuery, HeadError> {
    let uri = &head.uri;
    let http2 = head.version == Version::HTTP_2;
    match uri.scheme() {
        // HTTP/2 always has a scheme, and a caller behind something that ended its TLS says https.
        None => {}
        Some(scheme) if *scheme == Scheme::HTTP || http2 && *scheme == Scheme::HTTPS => {}
        Some(_) => return Err(HeadError::Target),
    }
    // `GET web HTTP/1.1` parses as an authority.
    if uri.scheme().is_none() && uri.authority().is_some() {
        return Err(HeadError::Target);
    }
    match uri.path_and_query() {
        Some(path) if path.as_str().starts_with('/') => Ok(path.clone()),
        Some(path) if path.as_str() == "*" && head.method == Method::OPTIONS => Ok(path.clone()),
        // Absolute-form without a path, but with a query.
        Some(path) if uri.authority().is_some() && path.as_str().starts_with('?') => {
            PathAndQuery::try_from(format!("/{}", path.as_str())).map_err(|_| HeadError::Target)
        }
        _ => Err(HeadError::Target),
    }
}

/// Whether two canonical authorities name the same place, `default` being the port of one that names none.
fn same(left: &Authority, right: &Authority, default: Option<u16>) -> bool {
    left.host() == right.host() && left.port_u16().or(default) == right.port_u16().or(default)
}

fn default_port(uri: &Uri) -> Option<u16> {
    match uri.scheme() {
        Some(scheme) if *scheme == Scheme::HTTPS => Some(443),
        _ => Some(80),
    }
}

/// `host[:port]` in its canonical spelling: a DNS name or an address, never user information.
fn parse_authority(bytes: &[u8]) -> Result<Authority, HeadError> {
    let (host, port) = split_port(bytes).ok_or(HeadError::Authority)?;
    let host = std::str::from_utf8(host).map_err(|_| HeadError::Authority)?;
    let host = host.strip_suffix('.').unwrap_or(host);
    if !is_host(host) {
        return Err(HeadError::Authority);
    }
    let canonical = match port {
        // The common case: one copy, which Authority needs anyway.
        None if !host.bytes().any(|byte| byte.is_ascii_uppercase()) => Authority::try_from(host),
        None => Authority::try_from(host.to_ascii_lowercase()),
        Some(port) => Authority::try_from(format!("{}:{port}", host.to_ascii_lowercase())),
    };
    canonical.map_err(|_| HeadError::Authority)
}

/// The host, brackets included, and the port. An empty port is none (RFC 3986 section 3.2.3).
fn split_port(bytes: &[u8]) -> Option<(&[u8], Option<u16>)> {
    let host_end = match bytes.first()? {
        b'[' => bytes.iter().position(|&byte| byte == b']')? + 1,
        _ => bytes.iter().position(|&byte| byte == b':').unwrap_or(bytes.len()),
    };
    let (host, rest) = bytes.split_at(host_end);
    match rest {
        [] | [b':'] => Some((host, None)),
        [b':', digits @ ..] if digits.len() <= 5 && digits.iter().all(u8::is_ascii_digit) => {
            let port: u16 = std::str::from_utf8(digits).ok()?.parse().ok()?;
            (port != 0).then_some((host, Some(port)))
        }
        _ => None,
    }
}

/// A DNS name (RFC 1123 labels, and the underscore that some have), or an address. Percent-encoding, which a name
/// resolver would not undo, is none.
fn is_host(host: &str) -> bool {
    if let Some(address) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return address.parse::<std::net::Ipv6Addr>().is_ok();
    }
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    host.len() <= 253 && host.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(
        method: &str,
        uri: &str,
        version: Version,
        hosts: &[&str],
    ) -> Result<(String, String), HeadError> {
        let mut request = http::Request::builder().method(method).uri(uri).version(version);
        for host in hosts {
            request = request.header(HOST, *host);
        }
        let (head, ()) = request.body(()).unwrap().into_parts();
        let target = Target::read(&head)?;
        let text = |part: Option<&str>| part.unwrap_or("-").to_owned();
        Ok((
            text(target.authority.as_ref().map(Authority::as_str)),
            text(target.path.as_ref().map(|p| p.as_str())),
        ))
    }

    fn get(uri: &str, hosts: &[&str]) -> Result<(String, String), HeadError> {
        read("GET", uri, Version::HTTP_11, hosts)
    }

    fn ok(authority: &str, path: &str) -> Result<(String, String), HeadError> {
        Ok((authority.to_owned(), path.to_owned()))
    }

    #[test]
    fn one_spelling_of_an_authority() {
        for (host, authority) in [
            ("web", "web"),
            ("Web.Default.SVC.cluster.local.", "web.default.svc.cluster.local"),
            ("web:8080", "web:8080"),
            ("web:", "web"),
            ("WEB.:080", "web:80"),
            ("10.0.0.1:80", "10.0.0.1:80"),
            ("[FD00::1]:80", "[fd00::1]:80"),
            ("my_service", "my_service"),
        ] {
            assert_eq!(get("/a?b", &[host]), ok(authority, "/a?b"), "{host}");
        }
    }

    #[test]
    fn what_is_no_authority_is_refused() {
        for host in [
            "user@web",
            "web:0",
            "web:65536",
            "web:+80",
            "web:80:80",
            "web:8a",
            "a b",
            "web/",
            "web?x",
            "web#x",
            "%77eb",
            "[::1",
            "::1",
            "[::1]x",
            "[::1%25lo]",
            "[web]",
            ".",
            "..",
            "a..b",
            ".web",
            "web,web",
            "web\\x",
            ":80",
            "wéb",
        ] {
            let mut head = http::Request::get("/").body(()).unwrap().into_parts().0;
            head.headers
                .insert(HOST, HeaderValue::from_bytes(host.as_bytes()).unwrap());
            assert_eq!(Target::read(&head), Err(HeadError::Authority), "{host}");
        }
        let long = ["a"; 128].join(".");
        assert_eq!(get("/", &[&long]), Err(HeadError::Authority));
    }

    #[test]
    fn hosts_must_be_one_and_agree() {
        assert_eq!(get("/", &[]), Err(HeadError::MissingHost));
        assert_eq!(get("/", &["web", "web"]), Err(HeadError::SeveralHosts));
        assert_eq!(get("http://web/", &["api"]), Err(HeadError::HostMismatch));
        assert_eq!(get("http://web:81/", &["web"]), Err(HeadError::HostMismatch));
        assert_eq!(get("http://web/x", &[]), Err(HeadError::MissingHost));
        assert_eq!(
            read("GET", "http://web/", Version::HTTP_2, &["api"]),
            Err(HeadError::HostMismatch)
        );
        assert_eq!(get("http://web:80/", &["WEB"]), ok("web:80", "/"));
        assert_eq!(
            read("GET", "https://web/", Version::HTTP_2, &["web:443"]),
            ok("web", "/")
        );
        assert_eq!(
            read("GET", "https://web/", Version::HTTP_2, &["web:80"]),
            Err(HeadError::HostMismatch)
        );
    }

    #[test]
    fn no_host_at_all_is_for_those_who_may() {
        assert_eq!(read("GET", "/", Version::HTTP_10, &[]), ok("-", "/"));
        assert_eq!(get("/", &[""]), ok("-", "/"));
        assert_eq!(
            read("GET", "/", Version::HTTP_10, &["a", "b"]),
            Err(HeadError::SeveralHosts)
        );
    }

    #[test]
    fn the_forms_of_a_target() {
        assert_eq!(get("http://web/a", &["web"]), ok("web", "/a"));
        assert_eq!(get("http://web", &["web"]), ok("web", "/"));
        assert_eq!(get("http://web?q=1", &["web"]), ok("web", "/?q=1"));
        assert_eq!(read("OPTIONS", "*", Version::HTTP_11, &["web"]), ok("web", "*"));
        for target in ["*", "web", "ftp://web/", "https://web/"] {
            assert_eq!(get(target, &["web"]), Err(HeadError::Target), "{target}");
        }
    }

    #[test]
    fn connect_names_host_and_port() {
        let connect = |uri, hosts: &[&str]| read("CONNECT", uri, Version::HTTP_11, hosts);
        assert_eq!(
            connect("Db.default:5432", &["db.default:5432"]),
            ok("db.default:5432", "-")
        );
        assert_eq!(
            connect("db.default:5432", &["db.default"]),
            ok("db.default:5432", "-")
        );
        assert_eq!(
            connect("db.default:5432", &["web:5432"]),
            Err(HeadError::HostMismatch)
        );
        assert_eq!(
            connect("db.default:5432", &["db.default:1"]),
            Err(HeadError::HostMismatch)
        );
        assert_eq!(connect("db.default", &["db.default"]), Err(HeadError::Target));
        assert_eq!(connect("/", &["db"]), Err(HeadError::Target));
        assert_eq!(connect("http://db:1/", &["db:1"]), Err(HeadError::Target));
    }

    proptest! {
        #[test]
        fn reading_never_panics_and_canonical_is_stable(host in proptest::collection::vec(any::<u8>(), 0..30)) {
            if let Ok(authority) = parse_authority(&host) {
                prop_assert_eq!(parse_authority(authority.as_str().as_bytes()), Ok(authority.clone()));
                prop_assert_eq!(authority.as_str().to_ascii_lowercase(), authority.as_str());
                prop_assert!(!authority.as_str().contains(['@', '/', '%', ' ']));
            }
        }

        #[test]
        fn a_plain_name_reads_as_itself(name in "[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?(\\.[a-z0-9]{1,10}){0,4}", port in proptest::option::of(1u16..)) {
            let authority = port.map_or(name.clone(), |port| format!("{name}:{port}"));
            prop_assert_eq!(get("/", &[&authority]), ok(&authority, "/"));
        }
    }
}
