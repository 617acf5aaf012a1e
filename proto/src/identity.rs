//! SPIFFE IDs: the names by which workloads know each other.
//!
//! The only SPIFFE parser of the project. It follows the SPIFFE-ID specification (sections 2.1 to 2.4) to the
//! letter and accepts one spelling of each identity, so that two identities are equal exactly when their bytes
//! are. Nothing is decoded, folded or repaired: what is not a SPIFFE ID is an error.
//!
//! ```
//! use weft_proto::identity::{SpiffeId, TrustDomain};
//!
//! let id = SpiffeId::parse("spiffe://mesh.example/ns/shop/sa/web")?;
//! assert_eq!(id.trust_domain(), &TrustDomain::parse("mesh.example")?);
//! assert_eq!((id.namespace(), id.service_account()), (Some("shop"), Some("web")));
//! # Ok::<(), weft_proto::identity::SpiffeIdError>(())
//! ```

use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::sync::Arc;

/// The longest SPIFFE ID, in bytes (SPIFFE-ID section 2.3).
pub const MAX_ID_BYTES: usize = 2048;

/// The longest trust domain name, in bytes (SPIFFE-ID section 2.3).
pub const MAX_TRUST_DOMAIN_BYTES: usize = 255;

/// What every SPIFFE ID begins with. The scheme is compared as it stands: no other case is accepted.
const SCHEME: &str = "spiffe://";

/// The name of a trust domain: 1 to 255 bytes of `a-z`, `0-9`, `.`, `-` and `_` (SPIFFE-ID section 2.1).
///
/// Cloning is cheap.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrustDomain(Arc<str>);

/// A SPIFFE ID: `spiffe://`, a trust domain, and a path.
///
/// The path may be empty: that is the identity of the trust domain itself, which no workload may have.
/// Whoever checks a peer's certificate reads it with [`SpiffeId::parse_workload`], which refuses it.
/// Cloning is cheap.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SpiffeId {
    uri: Arc<str>,
    trust_domain: TrustDomain,
}

/// Why a string is not a SPIFFE ID, or not that of a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SpiffeIdError {
    /// More than [`MAX_ID_BYTES`].
    #[error("a SPIFFE ID has at most 2048 bytes, this one has {0}")]
    TooLong(usize),
    /// It does not begin with `spiffe://`, in lower case.
    #[error("a SPIFFE ID begins with spiffe:// (in lower case)")]
    Scheme,
    /// Nothing stands between `spiffe://` and the path.
    #[error("the trust domain is empty")]
    EmptyTrustDomain,
    /// More than [`MAX_TRUST_DOMAIN_BYTES`].
    #[error("a trust domain has at most 255 bytes, this one has {0}")]
    TrustDomainTooLong(usize),
    /// A user before the trust domain: `spiffe://user@mesh.example`.
    #[error("a SPIFFE ID has no user information ('@')")]
    UserInfo,
    /// A port after the trust domain: `spiffe://mesh.example:443`.
    #[error("a SPIFFE ID has no port (':')")]
    Port,
    /// A query: `?`.
    #[error("a SPIFFE ID has no query ('?')")]
    Query,
    /// A fragment: `#`.
    #[error("a SPIFFE ID has no fragment ('#')")]
    Fragment,
    /// A percent-encoded byte, in the trust domain or the path.
    #[error("a SPIFFE ID has no percent-encoding ('%')")]
    PercentEncoding,
    /// A character that a trust domain cannot have.
    #[error("{0:?} is not allowed in a trust domain (a-z, 0-9, '.', '-', '_')")]
    TrustDomainCharacter(char),
    /// A character that a path segment cannot have.
    #[error("{0:?} is not allowed in the path (a-z, A-Z, 0-9, '.', '-', '_')")]
    PathCharacter(char),
    /// Two slashes in a row, or, for a single segment, nothing at all.
    #[error("the path has an empty segment")]
    EmptySegment,
    /// The path ends in a slash.
    #[error("the path ends in a slash")]
    TrailingSlash,
    /// A segment `.` or `..`.
    #[error("the path has a segment '.' or '..'")]
    DotSegment,
    /// The identity of a trust domain where that of a workload is needed.
    #[error("this is the identity of a trust domain: that of a workload has a path")]
    NoPath,
}

impl TrustDomain {
    /// Reads the name of a trust domain, such as `mesh.example`.
    pub fn parse(name: &str) -> Result<Self, SpiffeIdError> {
        check_trust_domain(name)?;
        Ok(Self(name.into()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The identity of the trust domain itself, which has no path.
    pub fn id(&self) -> SpiffeId {
        SpiffeId {
            uri: format!("{SCHEME}{self}").into(),
            trust_domain: self.clone(),
        }
    }
}

impl SpiffeId {
    /// Reads a SPIFFE ID, that of a trust domain included.
    pub fn parse(uri: &str) -> Result<Self, SpiffeIdError> {
        if uri.len() > MAX_ID_BYTES {
            return Err(SpiffeIdError::TooLong(uri.len()));
        }
        let rest = uri.strip_prefix(SCHEME).ok_or(SpiffeIdError::Scheme)?;
        let (name, path) = match rest.split_once('/') {
            Some((name, path)) => (name, Some(path)),
            None => (rest, None),
        };
        let trust_domain = TrustDomain::parse(name)?;
        if let Some(path) = path {
            check_path(path)?;
        }
        Ok(Self {
            uri: uri.into(),
            trust_domain,
        })
    }

    /// Reads the SPIFFE ID of a workload: as [`SpiffeId::parse`], and its path is not empty
    /// (X509-SVID section 2 and 5.2: a leaf certificate has a path).
    pub fn parse_workload(uri: &str) -> Result<Self, SpiffeIdError> {
        let id = Self::parse(uri)?;
        if id.is_workload() {
            Ok(id)
        } else {
            Err(SpiffeIdError::NoPath)
        }
    }

    /// The identity of a service account: `spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT`.
    pub fn for_service_account(
        trust_domain: &TrustDomain,
        namespace: &str,
        service_account: &str,
    ) -> Result<Self, SpiffeIdError> {
        check_segment(namespace)?;
        check_segment(service_account)?;
        let id = Self::from_checked_segments(trust_domain, namespace, service_account);
        if id.uri.len() > MAX_ID_BYTES {
            return Err(SpiffeIdError::TooLong(id.uri.len()));
        }
        Ok(id)
    }

    /// The same for names that are known to be path segments and short enough, as those of the model are:
    /// 255 bytes of trust domain and twice 253 of names are well below [`MAX_ID_BYTES`].
    pub(crate) fn from_checked_segments(
        trust_domain: &TrustDomain,
        namespace: &str,
        service_account: &str,
    ) -> Self {
        let uri = format!("{SCHEME}{trust_domain}/ns/{namespace}/sa/{service_account}");
        Self {
            uri: uri.into(),
            trust_domain: trust_domain.clone(),
        }
    }

    /// The trust domain.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The path with its leading slash, such as `/ns/shop/sa/web`; empty for the identity of a trust domain.
    pub fn path(&self) -> &str {
        let start = SCHEME.len() + self.trust_domain.0.len();
        self.uri.get(start..).unwrap_or_default()
    }

    /// The whole SPIFFE ID.
    pub fn as_str(&self) -> &str {
        &self.uri
    }

    /// The whole SPIFFE ID, shared.
    pub fn to_shared(&self) -> Arc<str> {
        self.uri.clone()
    }

    /// Whether a workload may have it: its path is not empty.
    pub fn is_workload(&self) -> bool {
        !self.path().is_empty()
    }

    /// The namespace, if the path has the form `/ns/NAMESPACE/sa/SERVICE-ACCOUNT`.
    pub fn namespace(&self) -> Option<&str> {
        self.namespace_and_service_account()
            .map(|(namespace, _)| namespace)
    }

    /// The service account, if the path has the form `/ns/NAMESPACE/sa/SERVICE-ACCOUNT`.
    pub fn service_account(&self) -> Option<&str> {
        self.namespace_and_service_account()
            .map(|(_, service_account)| service_account)
    }

    fn namespace_and_service_account(&self) -> Option<(&str, &str)> {
        let (namespace, rest) = self.path().strip_prefix("/ns/")?.split_once('/')?;
        let service_account = rest.strip_prefix("sa/")?;
        (!service_account.contains('/')).then_some((namespace, service_account))
    }
}

impl Hash for SpiffeId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // The trust domain is a part of the URI.
        self.uri.hash(state);
    }
}

impl FromStr for TrustDomain {
    type Err = SpiffeIdError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::parse(name)
    }
}

impl FromStr for SpiffeId {
    type Err = SpiffeIdError;

    fn from_str(uri: &str) -> Result<Self, Self::Err> {
        Self::parse(uri)
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri)
    }
}

/// SPIFFE-ID section 2.1.
fn check_trust_domain(name: &str) -> Result<(), SpiffeIdError> {
    if name.is_empty() {
        return Err(SpiffeIdError::EmptyTrustDomain);
    }
    let is_allowed = |c: char| matches!(c, 'a'..='z' | '0'..='9' | '.' | '-' | '_');
    if let Some(character) = name.chars().find(|&c| !is_allowed(c)) {
        return Err(match character {
            '@' => SpiffeIdError::UserInfo,
            // A colon is a port, or the end of a user's name when an '@' follows.
            ':' if name.contains('@') => SpiffeIdError::UserInfo,
            ':' => SpiffeIdError::Port,
            other => reserved(other).unwrap_or(SpiffeIdError::TrustDomainCharacter(other)),
        });
    }
    if name.len() > MAX_TRUST_DOMAIN_BYTES {
        return Err(SpiffeIdError::TrustDomainTooLong(name.len()));
    }
    Ok(())
}

/// SPIFFE-ID section 2.2, for what follows the first slash.
fn check_path(path: &str) -> Result<(), SpiffeIdError> {
    if path.is_empty() || path.ends_with('/') {
        return Err(SpiffeIdError::TrailingSlash);
    }
    path.split('/').try_for_each(check_segment)
}

fn check_segment(segment: &str) -> Result<(), SpiffeIdError> {
    match segment {
        "" => return Err(SpiffeIdError::EmptySegment),
        "." | ".." => return Err(SpiffeIdError::DotSegment),
        _ => {}
    }
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    match segment.chars().find(|&c| !is_allowed(c)) {
        None => Ok(()),
        Some(character) => Err(reserved(character).unwrap_or(SpiffeIdError::PathCharacter(character))),
    }
}

/// The characters of a URI that the specification names one by one.
fn reserved(character: char) -> Option<SpiffeIdError> {
    match character {
        '%' => Some(SpiffeIdError::PercentEncoding),
        '?' => Some(SpiffeIdError::Query),
        '#' => Some(SpiffeIdError::Fragment),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::hash_map::DefaultHasher;

    fn error_of(uri: &str) -> SpiffeIdError {
        SpiffeId::parse(uri).expect_err(uri)
    }

    #[test]
    fn parts() {
        let id = SpiffeId::parse("spiffe://mesh.example/ns/shop/sa/web").unwrap();
        assert_eq!(id.as_str(), "spiffe://mesh.example/ns/shop/sa/web");
        assert_eq!(id.to_string(), id.as_str());
        assert_eq!(id.trust_domain().as_str(), "mesh.example");
        assert_eq!(id.path(), "/ns/shop/sa/web");
        assert_eq!(id.namespace(), Some("shop"));
        assert_eq!(id.service_account(), Some("web"));
        assert!(id.is_workload());
    }

    #[test]
    fn accepted() {
        for uri in [
            "spiffe://a",
            "spiffe://0",
            "spiffe://10.0.0.1/x",
            "spiffe://_-./x",
            "spiffe://mesh.example/a",
            "spiffe://mesh.example/A-b_c.d/9",
            "spiffe://mesh.example/.../..a/a..",
        ] {
            assert_eq!(SpiffeId::parse(uri).expect(uri).as_str(), uri);
        }
    }

    #[test]
    fn refused() {
        use SpiffeIdError::*;
        for (uri, error) in [
            ("", Scheme),
            ("spiffe", Scheme),
            ("spiffe:", Scheme),
            ("spiffe:/mesh.example/x", Scheme),
            ("SPIFFE://mesh.example/x", Scheme),
            ("Spiffe://mesh.example/x", Scheme),
            ("https://mesh.example/x", Scheme),
            (" spiffe://mesh.example/x", Scheme),
            ("spiffe://", EmptyTrustDomain),
            ("spiffe:///x", EmptyTrustDomain),
            ("spiffe:////x", EmptyTrustDomain),
            ("spiffe://Mesh.example/x", TrustDomainCharacter('M')),
            ("spiffe://mesh example/x", TrustDomainCharacter(' ')),
            ("spiffe://m\u{e9}sh/x", TrustDomainCharacter('\u{e9}')),
            ("spiffe://[::1]/x", TrustDomainCharacter('[')),
            ("spiffe://mesh\\x", TrustDomainCharacter('\\')),
            ("spiffe://mesh\0/x", TrustDomainCharacter('\0')),
            ("spiffe://user@mesh.example/x", UserInfo),
            ("spiffe://user:secret@mesh.example/x", UserInfo),
            ("spiffe://@mesh.example/x", UserInfo),
            ("spiffe://mesh.example:443/x", Port),
            ("spiffe://mesh.example:/x", Port),
            ("spiffe://mesh%2eexample/x", PercentEncoding),
            ("spiffe://mesh.example/%41", PercentEncoding),
            ("spiffe://mesh.example/a%2fb", PercentEncoding),
            ("spiffe://mesh.example?a", Query),
            ("spiffe://mesh.example/x?a=b", Query),
            ("spiffe://mesh.example/x?", Query),
            ("spiffe://mesh.example#a", Fragment),
            ("spiffe://mesh.example/x#", Fragment),
            ("spiffe://mesh.example/", TrailingSlash),
            ("spiffe://mesh.example/x/", TrailingSlash),
            ("spiffe://mesh.example//", TrailingSlash),
            ("spiffe://mesh.example//x", EmptySegment),
            ("spiffe://mesh.example/ns//sa/web", EmptySegment),
            ("spiffe://mesh.example/.", DotSegment),
            ("spiffe://mesh.example/..", DotSegment),
            ("spiffe://mesh.example/a/../b", DotSegment),
            ("spiffe://mesh.example/./b", DotSegment),
            ("spiffe://mesh.example/a b", PathCharacter(' ')),
            ("spiffe://mesh.example/a\r\nx: y", PathCharacter('\r')),
            ("spiffe://mesh.example/a\0", PathCharacter('\0')),
            ("spiffe://mesh.example/a:b", PathCharacter(':')),
            ("spiffe://mesh.example/a@b", PathCharacter('@')),
            ("spiffe://mesh.example/a+b", PathCharacter('+')),
            ("spiffe://mesh.example/a*", PathCharacter('*')),
            ("spiffe://mesh.example/\u{ff0e}", PathCharacter('\u{ff0e}')),
        ] {
            assert_eq!(error_of(uri), error, "{uri:?}");
        }
    }

    #[test]
    fn an_error_cannot_break_a_log_line() {
        assert_eq!(
            error_of("spiffe://mesh.example/a\nb").to_string(),
            r"'\n' is not allowed in the path (a-z, A-Z, 0-9, '.', '-', '_')",
        );
    }

    #[test]
    fn lengths() {
        let domain = "d".repeat(MAX_TRUST_DOMAIN_BYTES);
        assert!(SpiffeId::parse(&format!("spiffe://{domain}/x")).is_ok());
        assert_eq!(
            error_of(&format!("spiffe://{domain}d/x")),
            SpiffeIdError::TrustDomainTooLong(256)
        );

        let longest = format!("spiffe://d/{}", "p".repeat(MAX_ID_BYTES - "spiffe://d/".len()));
        assert_eq!(longest.len(), MAX_ID_BYTES);
        assert!(SpiffeId::parse(&longest).is_ok());
        assert_eq!(error_of(&format!("{longest}p")), SpiffeIdError::TooLong(2049));
    }

    #[test]
    fn a_workload_has_a_path() {
        let domain = TrustDomain::parse("mesh.example").unwrap();
        assert_eq!(SpiffeId::parse("spiffe://mesh.example"), Ok(domain.id()));
        assert!(!domain.id().is_workload());
        assert_eq!(domain.id().path(), "");
        assert_eq!(
            SpiffeId::parse_workload("spiffe://mesh.example"),
            Err(SpiffeIdError::NoPath)
        );
        assert!(SpiffeId::parse_workload("spiffe://mesh.example/x").is_ok());
    }

    #[test]
    fn service_accounts() {
        let domain = TrustDomain::parse("mesh.example").unwrap();
        let id = SpiffeId::for_service_account(&domain, "shop", "web").unwrap();
        assert_eq!(
            id,
            SpiffeId::parse("spiffe://mesh.example/ns/shop/sa/web").unwrap()
        );
        for (namespace, account, error) in [
            ("", "web", SpiffeIdError::EmptySegment),
            ("shop", "", SpiffeIdError::EmptySegment),
            ("shop/sa/admin", "web", SpiffeIdError::PathCharacter('/')),
            ("..", "web", SpiffeIdError::DotSegment),
            ("shop", "we b", SpiffeIdError::PathCharacter(' ')),
        ] {
            assert_eq!(
                SpiffeId::for_service_account(&domain, namespace, account),
                Err(error)
            );
        }
        let long = "a".repeat(1024);
        assert_eq!(
            SpiffeId::for_service_account(&domain, &long, &long),
            Err(SpiffeIdError::TooLong(2077))
        );
    }

    #[test]
    fn other_paths_have_no_service_account() {
        for path in [
            "",
            "/ns",
            "/ns/shop",
            "/ns/shop/sa",
            "/ns/shop/sa/web/x",
            "/x/ns/shop/sa/web",
            "/ns/shop/SA/web",
        ] {
            let id = SpiffeId::parse(&format!("spiffe://mesh.example{path}")).unwrap();
            assert_eq!((id.namespace(), id.service_account()), (None, None), "{path}");
        }
    }

    fn hash_of(id: &SpiffeId) -> u64 {
        let mut hasher = DefaultHasher::new();
        id.hash(&mut hasher);
        hasher.finish()
    }

    /// The rules again, as a table of bytes rather than as the parser has them.
    fn is_valid(uri: &[u8]) -> bool {
        let Some(rest) = uri.strip_prefix(b"spiffe://") else {
            return false;
        };
        let mut parts = rest.split(|&byte| byte == b'/');
        let domain = parts.next().unwrap_or_default();
        let domain_bytes = b"abcdefghijklmnopqrstuvwxyz0123456789.-_";
        uri.len() <= 2048
            && (1..=255).contains(&domain.len())
            && domain.iter().all(|byte| domain_bytes.contains(byte))
            && parts.all(|segment| {
                !matches!(segment, b"" | b"." | b"..")
                    && segment
                        .iter()
                        .all(|byte| domain_bytes.contains(byte) || byte.is_ascii_uppercase())
            })
    }

    fn valid_uri() -> impl Strategy<Value = String> {
        let segment = "[a-zA-Z0-9._-]{1,12}".prop_filter("a dot segment", |s| s != "." && s != "..");
        ("[a-z0-9._-]{1,40}", prop::collection::vec(segment, 0..6)).prop_map(|(domain, segments)| {
            let path: String = segments.iter().map(|segment| format!("/{segment}")).collect();
            format!("spiffe://{domain}{path}")
        })
    }

    proptest! {
        #[test]
        fn a_valid_id_comes_back_as_it_was(uri in valid_uri()) {
            let id = SpiffeId::parse(&uri).unwrap();
            prop_assert_eq!(id.as_str(), &uri);
            let again: SpiffeId = id.to_string().parse().unwrap();
            prop_assert_eq!(hash_of(&again), hash_of(&id));
            prop_assert_eq!(format!("spiffe://{}{}", id.trust_domain(), id.path()), uri);
            prop_assert_eq!(again, id);
        }

        #[test]
        fn a_byte_inserted_or_replaced_is_judged_by_the_rules(
            uri in valid_uri(), at in any::<prop::sample::Index>(), byte in 0_u8..128, replace: bool
        ) {
            let mut bytes = uri.clone().into_bytes();
            let at = at.index(bytes.len());
            if replace { bytes[at] = byte } else { bytes.insert(at, byte) }
            let near = String::from_utf8(bytes).unwrap();
            let parsed = SpiffeId::parse(&near);
            prop_assert_eq!(parsed.is_ok(), is_valid(near.as_bytes()), "{:?}", near);
            // A near miss is never taken for the identity it resembles.
            if near != uri {
                prop_assert_ne!(parsed.ok(), SpiffeId::parse(&uri).ok());
            }
        }

        #[test]
        fn any_string_is_judged_by_the_rules(text in "(spiffe://)?\\PC{0,40}") {
            prop_assert_eq!(SpiffeId::parse(&text).is_ok(), is_valid(text.as_bytes()));
        }

        #[test]
        fn any_bytes_of_a_certificate_are_judged_by_the_rules(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let text = String::from_utf8_lossy(&bytes);
            prop_assert_eq!(SpiffeId::parse(&text).is_ok(), is_valid(text.as_bytes()));
        }

        #[test]
        fn service_accounts_come_back(namespace in "[a-z0-9][a-z0-9-]{0,20}", account in "[a-z0-9][a-z0-9.-]{0,20}") {
            let domain = TrustDomain::parse("mesh.example").unwrap();
            let id = SpiffeId::for_service_account(&domain, &namespace, &account).unwrap();
            prop_assert_eq!(id.namespace(), Some(namespace.as_str()));
            prop_assert_eq!(id.service_account(), Some(account.as_str()));
            prop_assert_eq!(SpiffeId::parse_workload(id.as_str()), Ok(id));
        }
    }
}
