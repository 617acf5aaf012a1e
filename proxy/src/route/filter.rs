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
    request: Option<HeaderEdit>,
    response: Option<HeaderEdit>,
    rewrite: Option<Rewrite>,
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
struct HeaderEdit {
    set: Vec<(HeaderName, HeaderValue)>,
    add: Vec<(HeaderName, HeaderValue)>,
    remove: Vec<HeaderName>,
}

#[derive(Debug)]
struct Rewrite {
    authority: Option<Authority>,
    path: Option<PathChange>,
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
