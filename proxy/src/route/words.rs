//! Rules in words, for operators.

use weft_proto::model::{
    FieldMatch,
    route::{PathChange, PathMatch, Share, ValueMatch},
};

use super::{
    Filters, Mirror, Rule,
    filter::{HeaderEdit, Rewrite},
    matching::{Entry, Place},
};

impl Rule {
    /// Its route: `HTTPRoute shop/catalog`.
    pub(crate) fn route_in_words(&self) -> String {
        format!("{} {}", self.kind.as_str(), self.route)
    }
}

impl Entry {
    /// What it asks for: `path prefix /, method GET, header x-tester yes`.
    pub(super) fn in_words(&self) -> String {
        let mut words = match &self.place {
            Place::Path(PathMatch::Exact(path)) => vec![format!("path {path}")],
            Place::Path(PathMatch::Prefix(path)) => vec![format!("path prefix {path}")],
            Place::Path(PathMatch::Regex(pattern)) => vec![format!("path like {}", pattern.as_str())],
            Place::Call { service, method } => [("service", service), ("method", method)]
                .into_iter()
                .filter_map(|(what, wanted)| Some(format!("gRPC {what} {}", value(wanted.as_ref()?))))
                .collect(),
        };
        if let Some(method) = &self.method {
            words.push(format!("method {method}"));
        }
        let headers = self.headers.iter();
        words.extend(headers.map(|header| format!("header {} {}", header.name, value(&header.value))));
        words.extend(self.query.iter().map(parameter));
        match words.is_empty() {
            true => "any call".to_owned(),
            false => words.join(", "),
        }
    }
}

fn parameter(wanted: &FieldMatch) -> String {
    format!("parameter {} {}", wanted.name, value(&wanted.value))
}

fn value(wanted: &ValueMatch) -> String {
    match wanted {
        ValueMatch::Exact(exact) => exact.clone(),
        ValueMatch::Regex(pattern) => format!("like {}", pattern.as_str()),
    }
}

impl Filters {
    /// What each does, redirects aside.
    pub(crate) fn in_words(&self) -> Vec<String> {
        let mut words = Vec::new();
        for (edit, whose) in [(&self.request, "request"), (&self.response, "response")] {
            words.extend(edit.iter().flat_map(|edit| edit.in_words(whose)));
        }
        words.extend(self.rewrite.iter().flat_map(Rewrite::in_words));
        words.extend(self.mirrors.iter().map(Mirror::in_words));
        words
    }
}

impl HeaderEdit {
    fn in_words(&self, whose: &str) -> Vec<String> {
        let set = self
            .set
            .iter()
            .map(|(name, _)| format!("sets {whose} header {name}"));
        let add = self
            .add
            .iter()
            .map(|(name, _)| format!("adds {whose} header {name}"));
        let remove = self
            .remove
            .iter()
            .map(|name| format!("removes {whose} header {name}"));
        set.chain(add).chain(remove).collect()
    }
}

impl Rewrite {
    fn in_words(&self) -> Vec<String> {
        let authority = self.authority.iter();
        let authority = authority.map(|authority| format!("rewrites the host to {authority}"));
        let path = self.path.iter().map(|change| match change {
            PathChange::Full(path) => format!("rewrites the path to {path}"),
            PathChange::Prefix(prefix) => format!("rewrites the prefix of the path to {prefix}"),
        });
        authority.chain(path).collect()
    }
}

impl Mirror {
    fn in_words(&self) -> String {
        let (target, share) = (&self.target, percent(self.share));
        let copies = format!(
            "copies {share} of the requests to {}, port {}",
            target.service, target.port
        );
        match &self.backend {
            Ok(_) => copies,
            Err(unresolved) => format!("{copies}, which gets none: {}", unresolved.sentence),
        }
    }
}

/// A share in percent, with up to two decimals.
pub(crate) fn percent(share: Share) -> String {
    let percent = f64::from(share.numerator) * 100.0 / f64::from(share.denominator.max(1));
    let text = format!("{percent:.2}");
    format!("{}%", text.trim_end_matches('0').trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_a_percentage() {
        for (share, text) in [
            (Share::ALL, "100%"),
            (Share::percent(5), "5%"),
            (Share::new(1, 3), "33.33%"),
            (Share::new(1, 200), "0.5%"),
            (Share::percent(0), "0%"),
        ] {
            assert_eq!(percent(share), text);
        }
    }
}
