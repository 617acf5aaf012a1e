//! Names on the command line: kinds, documents, workloads.

use weft_proto::{
    kinds::{DocumentKey, Kind},
    mesh::v1::ResourceKey,
    names::{DnsLabel, DnsName},
};

use super::failure::Failure;

/// The word for all kinds.
const ALL: &str = "all";

/// A namespace.
///
/// # Errors
/// It cannot be one.
pub(crate) fn namespace(text: &str) -> Result<String, String> {
    DnsLabel::parse(text)
        .map(|label| label.to_string())
        .map_err(|error| error.to_string())
}

/// `key=value`, which a document's labels must have.
///
/// # Errors
/// It is none.
pub(crate) fn label(text: &str) -> Result<String, String> {
    let wrong = || "is not KEY=VALUE".to_owned();
    let (key, value) = text.split_once('=').ok_or_else(wrong)?;
    weft_proto::names::Labels::default()
        .insert(key, value)
        .map_err(|error| error.to_string())?;
    Ok(text.to_owned())
}

/// The kinds that a word means: one, several with commas between them, or `all`.
///
/// # Errors
/// One of them is none.
pub(crate) fn kinds(word: &str) -> Result<Vec<Kind>, Failure> {
    if word.eq_ignore_ascii_case(ALL) {
        return Ok(Kind::ALL.to_vec());
    }
    word.split(',')
        .map(|word| Kind::from_word(word).map_err(|error| Failure::Use(error.to_string())))
        .collect()
}

/// What `KIND NAME...` or `KIND/NAME...` names, in this namespace unless a name says another.
///
/// # Errors
/// A word is none of a kind, or cannot be a name.
pub(crate) fn documents(words: &[String], namespace: &str) -> Result<Vec<DocumentKey>, Failure> {
    let wrong = |error: String| Failure::Use(error);
    let namespace = DnsLabel::parse(namespace).map_err(|error| wrong(format!("{namespace} {error}")))?;
    let key =
        |text: &str| DocumentKey::parse_word(text, &namespace).map_err(|error| wrong(error.to_string()));
    match words {
        [first, ..] if first.contains('/') => words.iter().map(|word| key(word)).collect(),
        [_] => Err(wrong("a name is missing: KIND NAME, or KIND/NAME".to_owned())),
        [kind, names @ ..] => names.iter().map(|name| key(&format!("{kind}/{name}"))).collect(),
        [] => Ok(Vec::new()),
    }
}

/// A workload, `NAME` or `NAMESPACE/NAME`, as namespace and name.
///
/// # Errors
/// It cannot be one.
pub(crate) fn workload(text: &str, namespace: &str) -> Result<(String, String), Failure> {
    let (namespace, name) = text.split_once('/').unwrap_or((namespace, text));
    DnsLabel::parse(namespace).map_err(|error| Failure::Use(format!("the namespace {namespace} {error}")))?;
    DnsName::parse(name).map_err(|error| Failure::Use(format!("the workload {name} {error}")))?;
    Ok((namespace.to_owned(), name.to_owned()))
}

/// A key as it is sent.
pub(crate) fn to_wire(key: &DocumentKey) -> ResourceKey {
    ResourceKey {
        kind: key.kind().name().to_owned(),
        namespace: key.namespace().to_owned(),
        name: key.name().to_owned(),
    }
}

/// A key from the controller for people: `service/web`, as it can be typed again.
pub(crate) fn shown(key: Option<&ResourceKey>) -> String {
    let Some(key) = key else {
        return String::new();
    };
    let kind = key.kind.to_lowercase();
    if key.namespace.is_empty() {
        format!("{kind}/{}", key.name)
    } else {
        format!("{kind}/{}/{}", key.namespace, key.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_named_as_for_kubectl() {
        let keys = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            documents(&words, "shop").map(|keys| keys.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        assert_eq!(
            keys(&["svc", "web", "db"]).unwrap(),
            ["Service shop/web", "Service shop/db"]
        );
        assert_eq!(
            keys(&["svc/web", "wl/bank/db-0"]).unwrap(),
            ["Service shop/web", "Workload bank/db-0"]
        );
        assert_eq!(keys(&["meshconfig", "mesh"]).unwrap(), ["MeshConfig mesh"]);
        assert_eq!(keys(&["svc", "bank/web"]).unwrap(), ["Service bank/web"]);
        for words in [
            &["svc"][..],
            &["pods", "web"],
            &["svc", "a b"],
            &["svc/web", "web"],
        ] {
            assert!(matches!(keys(words), Err(Failure::Use(_))), "{words:?}");
        }
    }

    #[test]
    fn kinds_by_their_words() {
        assert_eq!(kinds("svc,workloads").unwrap(), [Kind::Service, Kind::Workload]);
        assert_eq!(kinds("All").unwrap().len(), Kind::ALL.len());
        assert!(matches!(kinds("pods"), Err(Failure::Use(_))));
    }

    #[test]
    fn workloads() {
        assert_eq!(
            workload("web-0", "shop").unwrap(),
            ("shop".to_owned(), "web-0".to_owned())
        );
        assert_eq!(
            workload("bank/web-0", "shop").unwrap(),
            ("bank".to_owned(), "web-0".to_owned())
        );
        assert!(workload("a/b/c", "shop").is_err());
        assert!(workload("", "shop").is_err());
    }
}
