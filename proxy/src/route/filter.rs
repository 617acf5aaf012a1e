//! What the filters of a rule or a backend do to a request and its answer.

use std::sync::Arc;

use http::{
    HeaderMap, HeaderName, HeaderValue, StatusCode,
    uri::{Authority, PathAndQuery},
};
use rand::Rng;
use weft_proto::model::route::{self as model, BackendTarget, Filter, HeaderChange, PathChange, Share};

use super::rule::Unresolved;
use crate::snapshot::Backend;

/// The filters of a rule, or of one of its backends.
#[derive(Debug, Default)]
pub(crate) struct Filters {
    pub(super) request: Option<HeaderEdit>,
    pub(super) response: Option<HeaderEdit>,
    pub(super) rewrite: Option<Rewrite>,
    redirect: Option<Redirect>,
    /// In the order of the document.
    pub(crate) mirrors: Vec<Mirror>,
}

/// A copy of some requests goes elsewhere.
#[derive(Debug)]
pub(crate) struct Mirror {
    /// As the document has it.
    pub(crate) target: BackendTarget,
    /// An unresolved one gets none.
    pub(crate) backend: Result<Arc<Backend>, Unresolved>,
    pub(crate) share: Share,
}

/// A request as it was made, which a redirect leads away from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin<'a> {
    /// `http` or `https`.
    pub(crate) scheme: &'a str,
    /// Without port; an IPv6 address with its brackets.
    pub(crate) host: &'a str,
    /// The port of the service that was called.
    pub(crate) port: u16,
    pub(crate) path: &'a PathAndQuery,
    /// The prefix that the rule matched.
    pub(crate) prefix: Option<&'a str>,
}

/// The answer of a redirect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Redirected {
    pub(crate) status: StatusCode,
    pub(crate) location: HeaderValue,
}

/// Done in this order.
#[derive(Debug)]
pub(super) struct HeaderEdit {
    pub(super) set: Vec<(HeaderName, HeaderValue)>,
    pub(super) add: Vec<(HeaderName, HeaderValue)>,
    pub(super) remove: Vec<HeaderName>,
}

#[derive(Debug)]
pub(super) struct Rewrite {
    pub(super) authority: Option<Authority>,
    pub(super) path: Option<PathChange>,
}

#[derive(Debug)]
struct Redirect {
    to: model::Redirect,
    status: StatusCode,
}

impl Filters {
    pub(super) fn compile(
        filters: &[Filter],
        resolve: &mut impl FnMut(&BackendTarget) -> Result<Arc<Backend>, Unresolved>,
    ) -> Self {
        let mut compiled = Self::default();
        for filter in filters {
            match filter {
                Filter::RequestHeaders(change) => compiled.request = Some(HeaderEdit::new(change)),
                Filter::ResponseHeaders(change) => compiled.response = Some(HeaderEdit::new(change)),
                Filter::Rewrite(rewrite) => compiled.rewrite = Some(Rewrite::new(rewrite)),
                Filter::Redirect(redirect) => compiled.redirect = Some(Redirect::new(redirect)),
                Filter::Mirror(mirror) => compiled.mirrors.push(Mirror {
                    backend: resolve(&mirror.target),
                    target: mirror.target.clone(),
                    share: mirror.share,
                }),
            }
        }
        compiled
    }

    /// Whether there is a redirect.
    pub(crate) fn redirects(&self) -> bool {
        self.redirect.is_some()
    }

    /// The answer, if there is a redirect: then nothing is sent anywhere.
    pub(crate) fn redirect(&self, origin: &Origin<'_>) -> Option<Redirected> {
        let redirect = self.redirect.as_ref()?;
        Some(Redirected {
            status: redirect.status,
            location: redirect.location(origin)?,
        })
    }

    /// Changes a request that is sent on. `prefix` is the one that the rule matched.
    pub(crate) fn on_request(
        &self,
        headers: &mut HeaderMap,
        authority: &mut Option<Authority>,
        path: &mut Option<PathAndQuery>,
        prefix: Option<&str>,
    ) {
        if let Some(edit) = &self.request {
            edit.apply(headers);
        }
        let Some(rewrite) = &self.rewrite else { return };
        if let Some(new) = &rewrite.authority {
            *authority = Some(new.clone());
        }
        if let Some(change) = &rewrite.path
            && let Some(old) = path.as_ref()
            && let Ok(new) = PathAndQuery::try_from(changed(change, old, prefix))
        {
            *path = Some(new);
        }
    }

    /// Changes the answer of a backend.
    pub(crate) fn on_response(&self, headers: &mut HeaderMap) {
        if let Some(edit) = &self.response {
            edit.apply(headers);
        }
    }

    /// The backends that get a copy of one request.
    pub(crate) fn copies(&self, rng: &mut impl Rng) -> impl Iterator<Item = &Arc<Backend>> {
        self.mirrors.iter().filter_map(move |mirror| {
            let Share {
                numerator,
                denominator,
                ..
            } = mirror.share;
            let is_in_share = numerator >= denominator || rng.random_range(0..denominator) < numerator;
            mirror.backend.as_ref().ok().filter(|_| is_in_share)
        })
    }
}

impl HeaderEdit {
    fn new(change: &HeaderChange) -> Self {
        let fields = |fields: &[(String, String)]| {
            let fields = fields.iter().filter_map(|(name, value)| {
                Some((changeable(name)?, HeaderValue::from_bytes(value.as_bytes()).ok()?))
            });
            fields.collect()
        };
        Self {
            set: fields(&change.set),
            add: fields(&change.add),
            remove: change.remove.iter().filter_map(|name| changeable(name)).collect(),
        }
    }

    /// More fields than a head can hold are left out.
    fn apply(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.set {
            drop(headers.try_insert(name, value.clone()));
        }
        for (name, value) in &self.add {
            drop(headers.try_append(name, value.clone()));
        }
        for name in &self.remove {
            headers.remove(name);
        }
    }
}

/// A field that filters may change. Those that frame a message or belong to one hop are not theirs, nor are the
/// mesh's own: documents that name them are refused, and nothing here relies on that.
fn changeable(name: &str) -> Option<HeaderName> {
    let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
    let is_framing = matches!(
        name.as_str(),
        "connection"
            | "content-length"
            | "host"
            | "http2-settings"
            | "keep-alive"
            | "proxy-connection"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
    );
    (!is_framing && !name.as_str().starts_with("weft-")).then_some(name)
}

impl Rewrite {
    fn new(rewrite: &model::Rewrite) -> Self {
        let hostname = rewrite.hostname.as_ref();
        Self {
            authority: hostname.and_then(|name| Authority::try_from(name.as_str()).ok()),
            path: rewrite.path.clone(),
        }
    }
}

impl Redirect {
    fn new(redirect: &model::Redirect) -> Self {
        Self {
            to: redirect.clone(),
            // Gateway API's default.
            status: StatusCode::from_u16(redirect.status).unwrap_or(StatusCode::FOUND),
        }
    }

    fn location(&self, origin: &Origin<'_>) -> Option<HeaderValue> {
        let to = &self.to;
        let scheme = to.scheme.unwrap_or(origin.scheme);
        let host = to.hostname.as_ref().map_or(origin.host, |name| name.as_str());
        let port = to.port.or_else(|| well_known(to.scheme?)).unwrap_or(origin.port);
        let mut location = format!("{scheme}://{host}");
        if well_known(scheme) != Some(port) {
            location.push_str(&format!(":{port}"));
        }
        let path = match &to.path {
            Some(change) => changed(change, origin.path, origin.prefix),
            None => origin.path.as_str().to_owned(),
        };
        push_ascii(&mut location, &path);
        HeaderValue::try_from(location).ok()
    }
}

fn well_known(scheme: &str) -> Option<u16> {
    match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    }
}

/// What is no visible ASCII is not in a URI (RFC 3986 section 2), though requests are served that have it.
fn push_ascii(location: &mut String, path: &str) {
    for byte in path.bytes() {
        match byte {
            b'!'..=b'~' => location.push(char::from(byte)),
            _ => location.push_str(&format!("%{byte:02X}")),
        }
    }
}

/// The new path and the old query.
fn changed(change: &PathChange, old: &PathAndQuery, prefix: Option<&str>) -> String {
    let mut new = match change {
        PathChange::Full(full) => full.clone(),
        PathChange::Prefix(replacement) => with_prefix(old.path(), prefix, replacement),
    };
    if let Some(query) = old.query() {
        new.push('?');
        new.push_str(query);
    }
    new
}

/// A path with another prefix in place of its own: the table at `HTTPPathModifier.replacePrefixMatch`. A slash at the
/// end of a prefix is of no account. A path that has not got the prefix, another filter having changed it, stays.
fn with_prefix(path: &str, prefix: Option<&str>, replacement: &str) -> String {
    let rest = prefix.and_then(|prefix| {
        let rest = path.strip_prefix(prefix.trim_end_matches('/'))?;
        (rest.is_empty() || rest.starts_with('/')).then_some(rest)
    });
    let Some(rest) = rest else { return path.to_owned() };
    let replacement = replacement.trim_matches('/');
    let mut new = String::with_capacity(1 + replacement.len() + rest.len());
    if !replacement.is_empty() {
        new.push('/');
        new.push_str(replacement);
    }
    new.push_str(rest);
    if new.is_empty() {
        new.push('/');
    }
    new
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::SmallRng};
    use weft_proto::names::DnsName;

    use super::{
        super::testing::{backend, target},
        *,
    };

    fn compile(filters: &[Filter]) -> Filters {
        Filters::compile(filters, &mut |target| match target.service.name.as_str() {
            "missing" => Err(Unresolved {
                reason: "missing",
                sentence: "there is no such service".to_owned(),
            }),
            name => Ok(backend(name)),
        })
    }

    fn change(set: &[(&str, &str)], add: &[(&str, &str)], remove: &[&str]) -> HeaderChange {
        let pairs = |pairs: &[(&str, &str)]| {
            let pairs = pairs
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            pairs.collect()
        };
        let mut change = HeaderChange::default();
        change.set = pairs(set);
        change.add = pairs(add);
        change.remove = remove.iter().map(|name| (*name).to_owned()).collect();
        change
    }

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    /// The head after a filter: headers, authority, path.
    fn forwarded(
        filter: Filter,
        before: HeaderMap,
        path: &str,
        prefix: Option<&str>,
    ) -> (HeaderMap, String, String) {
        let mut headers = before;
        let mut authority = Some(Authority::from_static("web:8080"));
        let mut path = Some(path.parse().unwrap());
        compile(&[filter]).on_request(&mut headers, &mut authority, &mut path, prefix);
        (headers, authority.unwrap().to_string(), path.unwrap().to_string())
    }

    #[test]
    fn headers_are_set_then_added_then_removed() {
        let edit = change(
            &[("a", "1"), ("new", "2")],
            &[("a", "3"), ("b", "4,5")],
            &["c", "none"],
        );
        let before = headers(&[
            ("a", "x"),
            ("a", "y"),
            ("b", "z"),
            ("c", "1"),
            ("c", "2"),
            ("d", "1"),
        ]);
        let after = headers(&[
            ("a", "1"),
            ("a", "3"),
            ("new", "2"),
            ("b", "z"),
            ("b", "4,5"),
            ("d", "1"),
        ]);
        let (request, authority, path) =
            forwarded(Filter::RequestHeaders(edit.clone()), before.clone(), "/a?b", None);
        assert_eq!(
            (request, &*authority, &*path),
            (after.clone(), "web:8080", "/a?b")
        );
        let filters = compile(&[Filter::ResponseHeaders(edit)]);
        let mut response = before.clone();
        filters.on_response(&mut response);
        assert_eq!(response, after);
        let mut request = before.clone();
        filters.on_request(&mut request, &mut None, &mut None, None);
        assert_eq!(request, before, "it is for answers");
    }

    #[test]
    fn what_frames_a_message_or_is_the_meshs_stays() {
        let names = [
            "weft-hops",
            "weft-port",
            "content-length",
            "transfer-encoding",
            "connection",
            "host",
            "te",
        ];
        let before: HeaderMap = names
            .iter()
            .map(|name| (HeaderName::from_static(name), HeaderValue::from_static("1")))
            .collect();
        let pairs = names.map(|name| (name, "2"));
        for edit in [
            change(&pairs, &[], &[]),
            change(&[], &pairs, &[]),
            change(&[], &[], &names),
        ] {
            let (after, ..) = forwarded(Filter::RequestHeaders(edit), before.clone(), "/", None);
            assert_eq!(after, before);
        }
    }

    #[test]
    fn a_prefix_is_replaced_as_the_standards_table_has_it() {
        for (path, prefix, replacement, modified) in [
            // The table at `HTTPPathModifier.replacePrefixMatch`.
            ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz/", "/xyz/bar"),
            ("/foo", "/foo", "/xyz", "/xyz"),
            ("/foo/", "/foo", "/xyz", "/xyz/"),
            ("/foo/bar", "/foo", "", "/bar"),
            ("/foo/", "/foo", "", "/"),
            ("/foo", "/foo", "", "/"),
            ("/foo/", "/foo", "/", "/"),
            ("/foo", "/foo", "/", "/"),
            // What it leaves open.
            ("/foo", "/foo", "/xyz/", "/xyz"),
            ("/bar", "/", "/xyz", "/xyz/bar"),
            ("/", "/", "/xyz", "/xyz/"),
            ("/foo//bar", "/foo", "/xyz", "/xyz//bar"),
            ("/foobar", "/foo", "/xyz", "/foobar"),
            ("/other", "/foo", "/xyz", "/other"),
            ("/foo", "/foo", "a/b", "/a/b"),
        ] {
            let mut rewrite = model::Rewrite::default();
            rewrite.path = Some(PathChange::Prefix(replacement.to_owned()));
            for query in ["", "?", "?a=/foo"] {
                let path = format!("{path}{query}");
                let filter = Filter::Rewrite(rewrite.clone());
                let (_, authority, is) = forwarded(filter, HeaderMap::new(), &path, Some(prefix));
                assert_eq!(is, format!("{modified}{query}"), "{path} {prefix} {replacement}");
                assert_eq!(authority, "web:8080");
            }
        }
    }

    #[test]
    fn a_rewrite_changes_host_and_path() {
        let mut rewrite = model::Rewrite::default();
        rewrite.hostname = Some(DnsName::parse("other.example").unwrap());
        rewrite.path = Some(PathChange::Full("/new".to_owned()));
        let filter = || Filter::Rewrite(rewrite.clone());
        let (_, authority, path) = forwarded(filter(), HeaderMap::new(), "/old/path?q=1", None);
        assert_eq!((&*authority, &*path), ("other.example", "/new?q=1"));
        let (_, _, path) = forwarded(filter(), HeaderMap::new(), "*", None);
        assert_eq!(path, "/new");
    }

    fn location(made: impl Fn(&mut model::Redirect), origin: (&str, &str, u16, &str)) -> String {
        let mut redirect = model::Redirect::new(301);
        made(&mut redirect);
        let filters = compile(&[Filter::Redirect(redirect)]);
        let (scheme, host, port, path) = origin;
        let answer = filters.redirect(&Origin {
            scheme,
            host,
            port,
            path: &path.parse().unwrap(),
            prefix: Some("/a"),
        });
        let answer = answer.unwrap();
        assert_eq!(answer.status, StatusCode::MOVED_PERMANENTLY);
        answer.location.to_str().unwrap().to_owned()
    }

    #[test]
    fn a_redirect_keeps_what_it_does_not_name() {
        let here = ("http", "web", 8080, "/a/b?q=1");
        let is = |made: &dyn Fn(&mut model::Redirect), ought: &str| assert_eq!(location(made, here), ought);
        is(&|_| {}, "http://web:8080/a/b?q=1");
        is(
            &|to| to.hostname = Some(DnsName::parse("o.example").unwrap()),
            "http://o.example:8080/a/b?q=1",
        );
        is(
            &|to| to.path = Some(PathChange::Full("/n".into())),
            "http://web:8080/n?q=1",
        );
        is(
            &|to| to.path = Some(PathChange::Prefix("/n".into())),
            "http://web:8080/n/b?q=1",
        );
        is(
            &|to| to.path = Some(PathChange::Prefix("".into())),
            "http://web:8080/b?q=1",
        );
        let strange = ("http", "[::1]", 80, "/a/\u{e9}");
        assert_eq!(location(|_| {}, strange), "http://[::1]/a/%C3%A9");
    }

    #[test]
    fn the_port_of_a_redirect_follows_from_its_scheme() {
        for (scheme, port, listener, ought) in [
            (None, None, 80, "http://web/"),
            (None, None, 443, "http://web:443/"),
            (None, Some(80), 8080, "http://web/"),
            (None, Some(443), 8080, "http://web:443/"),
            (Some("http"), None, 8080, "http://web/"),
            (Some("https"), None, 8080, "https://web/"),
            (Some("https"), Some(443), 8080, "https://web/"),
            (Some("https"), Some(80), 8080, "https://web:80/"),
            (Some("https"), Some(8443), 80, "https://web:8443/"),
        ] {
            let is = location(
                |to| (to.scheme, to.port) = (scheme, port),
                ("http", "web", listener, "/"),
            );
            assert_eq!(is, ought, "{scheme:?} {port:?} {listener}");
        }
    }

    #[test]
    fn nothing_is_redirected_without_a_redirect() {
        let origin = Origin {
            scheme: "http",
            host: "web",
            port: 80,
            path: &PathAndQuery::from_static("/"),
            prefix: None,
        };
        assert_eq!(compile(&[]).redirect(&origin), None);
        for status in [301, 302, 303, 307, 308] {
            let filters = compile(&[Filter::Redirect(model::Redirect::new(status))]);
            assert_eq!(filters.redirect(&origin).unwrap().status.as_u16(), status);
        }
    }

    #[test]
    fn mirrors_copy_their_share() {
        let mirror = |service: &str, share| Filter::Mirror(model::Mirror::new(target(service), share));
        let filters = compile(&[
            mirror("shop/all", Share::ALL),
            mirror("shop/none", Share::percent(0)),
            mirror("shop/third", Share::new(1, 3)),
            mirror("shop/missing", Share::ALL),
        ]);
        let mut rng = SmallRng::seed_from_u64(1);
        let mut copies = std::collections::HashMap::<String, u32>::new();
        for _ in 0..30_000 {
            for backend in filters.copies(&mut rng) {
                *copies.entry(backend.name.to_string()).or_default() += 1;
            }
        }
        assert_eq!(copies.remove("all"), Some(30_000));
        assert!(copies.remove("third").unwrap().abs_diff(10_000) < 300);
        assert!(copies.is_empty(), "{copies:?}");
    }
}
