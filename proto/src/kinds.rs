//! The kinds of documents, and what one document is called: the one table that the parser, the controller and the
//! command line read.
//!
//! ```
//! use weft_proto::kinds::{DocumentKey, Kind};
//! use weft_proto::names::DnsLabel;
//!
//! let shop = DnsLabel::parse("shop")?;
//! let key = DocumentKey::parse_word("svc/web", &shop)?;
//! assert_eq!(key.to_string(), "Service shop/web");
//! assert_eq!((key.kind(), key.namespace(), key.name()), (Kind::Service, "shop", "web"));
//! assert_eq!("Service shop/web".parse(), Ok(key));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use crate::error::{nearest, shown};
use crate::model::Name;
use crate::names::{DnsLabel, DnsName, NameError};
use std::fmt;
use std::str::FromStr;

/// The group and version of the project's own documents.
const WEFT: &str = "weft.dev/v1alpha1";
/// The group of Gateway API.
pub(crate) const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";
/// Its group and version.
const GATEWAY: &str = "gateway.networking.k8s.io/v1";
/// The version in which its grants have been the longest; newer releases have them in the other one, too.
const GATEWAY_BETA: &str = "gateway.networking.k8s.io/v1beta1";

/// A kind of document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// `v1 Service`.
    Service,
    /// `weft.dev/v1alpha1 Workload`.
    Workload,
    /// `weft.dev/v1alpha1 MeshConfig`.
    MeshConfig,
    /// `weft.dev/v1alpha1 ExternalService`.
    ExternalService,
    /// `gateway.networking.k8s.io/v1 HTTPRoute`.
    HttpRoute,
    /// `gateway.networking.k8s.io/v1 GRPCRoute`.
    GrpcRoute,
    /// `gateway.networking.k8s.io/v1beta1 ReferenceGrant`.
    ReferenceGrant,
    /// `weft.dev/v1alpha1 TrafficPolicy`.
    TrafficPolicy,
}

/// What is known of a kind.
struct Facts {
    api_version: &'static str,
    name: &'static str,
    plural: &'static str,
    short: &'static [&'static str],
    is_namespaced: bool,
}

impl Kind {
    /// Every kind, in the order in which they are listed to a reader.
    pub const ALL: [Kind; 8] = [
        Kind::Service,
        Kind::Workload,
        Kind::MeshConfig,
        Kind::ExternalService,
        Kind::HttpRoute,
        Kind::GrpcRoute,
        Kind::ReferenceGrant,
        Kind::TrafficPolicy,
    ];

    /// The table.
    const fn facts(self) -> Facts {
        let (api_version, name, plural, short, is_namespaced): (_, _, _, &'static [&'static str], _) =
            match self {
                Kind::Service => ("v1", "Service", "services", &["svc"], true),
                Kind::Workload => (WEFT, "Workload", "workloads", &["wl"], true),
                Kind::MeshConfig => (WEFT, "MeshConfig", "meshconfigs", &["mc"], false),
                Kind::ExternalService => (WEFT, "ExternalService", "externalservices", &["es"], true),
                Kind::HttpRoute => (GATEWAY, "HTTPRoute", "httproutes", &[], true),
                Kind::GrpcRoute => (GATEWAY, "GRPCRoute", "grpcroutes", &[], true),
                Kind::ReferenceGrant => (
                    GATEWAY_BETA,
                    "ReferenceGrant",
                    "referencegrants",
                    &["refgrant"],
                    true,
                ),
                Kind::TrafficPolicy => (WEFT, "TrafficPolicy", "trafficpolicies", &["tp"], true),
            };
        Facts {
            api_version,
            name,
            plural,
            short,
            is_namespaced,
        }
    }

    /// Its group and version, as `apiVersion` has them.
    pub const fn api_version(self) -> &'static str {
        self.facts().api_version
    }

    /// Whether its documents may have this `apiVersion`.
    pub fn is_of(self, api_version: &str) -> bool {
        api_version == self.api_version() || (self == Kind::ReferenceGrant && api_version == GATEWAY)
    }

    /// Its name, as `kind` has it.
    pub const fn name(self) -> &'static str {
        self.facts().name
    }

    /// Its name in lower case, for several.
    pub const fn plural(self) -> &'static str {
        self.facts().plural
    }

    /// Its short names.
    pub const fn short_names(self) -> &'static [&'static str] {
        self.facts().short
    }

    /// Whether its documents belong to a namespace; those that do not belong to the mesh as a whole.
    pub const fn is_namespaced(self) -> bool {
        self.facts().is_namespaced
    }

    /// Whether the older one of two of its documents counts where they disagree, so that `creationTimestamp` says
    /// something.
    pub const fn has_age(self) -> bool {
        matches!(self, Kind::HttpRoute | Kind::GrpcRoute | Kind::TrafficPolicy)
    }

    /// The kind of this `kind`, exactly so written.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// The kind that a word of a command line means: `service`, `services` or `svc`, in any case.
    ///
    /// # Errors
    /// It is none of the words. The error has the one that was probably meant, or else all of them.
    pub fn from_word(word: &str) -> Result<Self, UnknownKind> {
        let is_meant = |kind: &Kind| kind.words().any(|known| known.eq_ignore_ascii_case(word));
        Self::ALL.into_iter().find(is_meant).ok_or_else(|| UnknownKind {
            word: word.to_owned(),
        })
    }

    /// All words for it: its name, the plural, the short names.
    pub fn words(self) -> impl Iterator<Item = &'static str> {
        [self.name(), self.plural()]
            .into_iter()
            .chain(self.short_names().iter().copied())
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A word that is none for a kind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct UnknownKind {
    word: String,
}

impl fmt::Display for UnknownKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is no kind of document", shown(&self.word))?;
        match nearest(&self.word, Kind::ALL.into_iter().flat_map(Kind::words)) {
            Some(word) => write!(f, "; did you mean {}?", word.to_ascii_lowercase()),
            None => write!(f, " (there are {})", Kind::ALL.map(Kind::plural).join(", ")),
        }
    }
}

/// What one document is called: its kind, its namespace if the kind has any, its name.
///
/// The order is that of kinds, namespaces and names. It reads `Service shop/web`, or `MeshConfig mesh`, and is
/// read from that again. Cloning is cheap.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DocumentKey {
    kind: Kind,
    /// `None` exactly if the kind has no namespaces.
    namespace: Option<DnsLabel>,
    name: DnsName,
}

/// Why a text is not the key of a document.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// It does not begin with a kind.
    #[error(transparent)]
    Kind(#[from] UnknownKind),
    /// It is not of the form that is read.
    #[error("{} is not of the form {form}", shown(text))]
    Form {
        /// The text.
        text: String,
        /// The form.
        form: &'static str,
    },
    /// Its kind has no namespaces.
    #[error("a {0} belongs to no namespace")]
    NotNamespaced(Kind),
    /// Its namespace is none.
    #[error("the namespace {} {error}", shown(text))]
    Namespace {
        /// The namespace.
        text: String,
        /// Why.
        error: NameError,
    },
    /// Its name is none.
    #[error("the name {} {error}", shown(text))]
    Name {
        /// The name.
        text: String,
        /// Why.
        error: NameError,
    },
    /// A Service has a name with which only others may be called.
    #[error("{}: the name of a Service is a DNS label that begins with a letter", shown(.0))]
    ServiceName(String),
}

impl KeyError {
    fn form(text: &str, form: &'static str) -> Self {
        let text = text.to_owned();
        Self::Form { text, form }
    }
}

impl DocumentKey {
    /// The key of a document of this kind. `namespace` is left out where the kind has none.
    pub fn of(kind: Kind, Name { namespace, name }: &Name) -> Self {
        Self {
            kind,
            namespace: kind.is_namespaced().then(|| namespace.clone()),
            name: name.clone(),
        }
    }

    /// The key with these parts; `namespace` is empty exactly if the kind has none.
    ///
    /// # Errors
    /// A part that no document of the kind can have.
    pub fn new(kind: Kind, namespace: &str, name: &str) -> Result<Self, KeyError> {
        let namespace = match (kind.is_namespaced(), namespace) {
            (false, "") => None,
            (false, _) => return Err(KeyError::NotNamespaced(kind)),
            (true, text) => {
                let text = text.to_owned();
                Some(DnsLabel::parse(&text).map_err(|error| KeyError::Namespace { text, error })?)
            }
        };
        if kind == Kind::Service && !DnsLabel::parse(name).is_ok_and(|label| label.is_rfc1035()) {
            return Err(KeyError::ServiceName(name.to_owned()));
        }
        let text = name.to_owned();
        let name = DnsName::parse(name).map_err(|error| KeyError::Name { text, error })?;
        Ok(Self {
            kind,
            namespace,
            name,
        })
    }

    /// Reads a key as it is typed: `svc/web`, of this namespace if the kind has any, or `svc/shop/web`.
    ///
    /// # Errors
    /// The kind is none, or a part cannot be.
    pub fn parse_word(text: &str, namespace: &DnsLabel) -> Result<Self, KeyError> {
        let form = || KeyError::form(text, "KIND/NAME or KIND/NAMESPACE/NAME");
        let (word, rest) = text.split_once('/').ok_or_else(form)?;
        let kind = Kind::from_word(word)?;
        match rest.split_once('/') {
            Some(("", _)) => Err(form()),
            Some((namespace, name)) => Self::new(kind, namespace, name),
            None if kind.is_namespaced() => Self::new(kind, namespace, rest),
            None => Self::new(kind, "", rest),
        }
    }

    /// The kind.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The namespace; empty if the kind has none.
    pub fn namespace(&self) -> &str {
        self.namespace.as_deref().unwrap_or_default()
    }

    /// The name in the namespace.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The namespace and name, where there is a namespace.
    pub fn namespaced_name(&self) -> Option<Name> {
        Some(Name {
            namespace: self.namespace.clone()?,
            name: self.name.clone(),
        })
    }
}

impl fmt::Display for DocumentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{} {namespace}/{}", self.kind, self.name),
            None => write!(f, "{} {}", self.kind, self.name),
        }
    }
}

impl FromStr for DocumentKey {
    type Err = KeyError;

    /// Reads what [`Display`](fmt::Display) writes.
    fn from_str(text: &str) -> Result<Self, KeyError> {
        let form = || KeyError::form(text, "KIND NAMESPACE/NAME");
        let (kind, rest) = text.split_once(' ').ok_or_else(form)?;
        let kind = Kind::from_name(kind).ok_or_else(|| UnknownKind {
            word: kind.to_owned(),
        })?;
        match rest.split_once('/') {
            Some((namespace, name)) if kind.is_namespaced() => Self::new(kind, namespace, name),
            None if !kind.is_namespaced() => Self::new(kind, "", rest),
            Some(_) => Err(KeyError::NotNamespaced(kind)),
            None => Err(form()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    const ALL: &str = "there are services, workloads, meshconfigs, externalservices, httproutes, grpcroutes, \
                       referencegrants, trafficpolicies";

    fn key(text: &str) -> Result<String, String> {
        DocumentKey::parse_word(text, &DnsLabel::parse("shop").unwrap())
            .map(|key| key.to_string())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn words_for_kinds() {
        for (word, kind) in [
            ("Service", Kind::Service),
            ("SERVICES", Kind::Service),
            ("svc", Kind::Service),
            ("workload", Kind::Workload),
            ("WL", Kind::Workload),
            ("meshconfig", Kind::MeshConfig),
            ("mc", Kind::MeshConfig),
            ("externalServices", Kind::ExternalService),
            ("es", Kind::ExternalService),
            ("httproute", Kind::HttpRoute),
            ("HTTPRoutes", Kind::HttpRoute),
            ("GRPCRoute", Kind::GrpcRoute),
            ("referencegrants", Kind::ReferenceGrant),
            ("refgrant", Kind::ReferenceGrant),
            ("trafficpolicies", Kind::TrafficPolicy),
            ("tp", Kind::TrafficPolicy),
        ] {
            assert_eq!(Kind::from_word(word), Ok(kind), "{word}");
        }
        for (word, error) in [
            ("servcie", "servcie is no kind of document; did you mean service?"),
            (
                "work-loads",
                "work-loads is no kind of document; did you mean workloads?",
            ),
            (
                "grpcrout",
                "grpcrout is no kind of document; did you mean grpcroute?",
            ),
            ("pods", &format!("pods is no kind of document ({ALL})")),
            ("", &format!("\"\" is no kind of document ({ALL})")),
        ] {
            assert_eq!(Kind::from_word(word).unwrap_err().to_string(), error);
        }
    }

    #[test]
    fn grants_are_of_two_versions() {
        assert!(Kind::ReferenceGrant.is_of("gateway.networking.k8s.io/v1beta1"));
        assert!(Kind::ReferenceGrant.is_of("gateway.networking.k8s.io/v1"));
        assert!(!Kind::ReferenceGrant.is_of("gateway.networking.k8s.io/v1alpha2"));
        assert!(Kind::HttpRoute.is_of("gateway.networking.k8s.io/v1"));
        assert!(!Kind::HttpRoute.is_of("gateway.networking.k8s.io/v1beta1"));
    }

    #[test]
    fn no_word_means_two_kinds() {
        let words: Vec<String> = Kind::ALL
            .into_iter()
            .flat_map(|kind| kind.words().map(str::to_ascii_lowercase))
            .collect();
        assert_eq!(
            words.iter().collect::<HashSet<_>>().len(),
            words.len(),
            "{words:?}"
        );
    }

    #[test]
    fn keys_as_they_are_typed() {
        assert_eq!(key("svc/web"), Ok("Service shop/web".to_owned()));
        assert_eq!(key("Workloads/web-0.a"), Ok("Workload shop/web-0.a".to_owned()));
        assert_eq!(key("es/bank/api"), Ok("ExternalService bank/api".to_owned()));
        assert_eq!(key("mc/mesh"), Ok("MeshConfig mesh".to_owned()));
        assert_eq!(key("httproute/web"), Ok("HTTPRoute shop/web".to_owned()));
        for (text, error) in [
            ("web", "web is not of the form KIND/NAME or KIND/NAMESPACE/NAME"),
            (
                "svc//web",
                "svc//web is not of the form KIND/NAME or KIND/NAMESPACE/NAME",
            ),
            ("mc/shop/mesh", "a MeshConfig belongs to no namespace"),
            ("sv/web", &format!("sv is no kind of document ({ALL})")),
            (
                "svc/0",
                "0: the name of a Service is a DNS label that begins with a letter",
            ),
            (
                "svc/a/b/c",
                "b/c: the name of a Service is a DNS label that begins with a letter",
            ),
        ] {
            assert_eq!(key(text), Err(error.to_owned()), "{text}");
        }
        assert!(
            key("wl/A")
                .unwrap_err()
                .starts_with("the name A is not a DNS name")
        );
        assert!(
            key("wl/a.b/c")
                .unwrap_err()
                .starts_with("the namespace a.b is not a DNS label")
        );
    }

    #[test]
    fn a_key_comes_back_from_its_text() {
        for text in ["Service shop/web", "Workload default/web-0.a", "MeshConfig mesh"] {
            let key: DocumentKey = text.parse().unwrap();
            assert_eq!(key.to_string(), text);
        }
        for text in [
            "",
            "Service",
            "Service web",
            "service shop/web",
            "MeshConfig shop/mesh",
            "Service /web",
        ] {
            assert!(text.parse::<DocumentKey>().is_err(), "{text}");
        }
    }

    #[test]
    fn keys_are_ordered_by_kind_namespace_and_name() {
        let mut keys: Vec<DocumentKey> = [
            "Workload a/a",
            "Service b/a",
            "MeshConfig a",
            "Service a/b",
            "Service a/a",
        ]
        .map(|text| text.parse().unwrap())
        .into();
        keys.sort();
        let keys: Vec<String> = keys.iter().map(ToString::to_string).collect();
        assert_eq!(
            keys,
            [
                "Service a/a",
                "Service a/b",
                "Service b/a",
                "Workload a/a",
                "MeshConfig a"
            ]
        );
    }
}
