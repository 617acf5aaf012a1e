//! Names and labels in Kubernetes' syntax, as types that hold nothing else.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Deref;
use std::str::FromStr;
use std::sync::Arc;

/// The longest label of DNS, in bytes (RFC 1123 section 2.1).
const MAX_LABEL_BYTES: usize = 63;
/// The longest name of DNS in Kubernetes, in bytes.
const MAX_NAME_BYTES: usize = 253;
/// The longest name of a service, in bytes (RFC 6335 section 5.1).
const MAX_PORT_NAME_BYTES: usize = 15;
/// The longest uid, in bytes. The default, NAMESPACE/NAME, has at most 317.
const MAX_UID_BYTES: usize = 512;

/// Why a string is not a name of the wanted kind: a sentence to follow the string itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NameError(&'static str);

/// Declares a type for strings that a function has checked.
macro_rules! checked_string {
    ($(#[$doc:meta])* $name:ident, $check:path) => {
        $(#[$doc])*
        ///
        /// Cloning is cheap.
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Reads one.
            pub fn parse(text: &str) -> Result<Self, NameError> {
                $check(text)?;
                Ok(Self(text.into()))
            }

            /// The string.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The string, shared.
            pub fn to_shared(&self) -> Arc<str> {
                self.0.clone()
            }
        }

        impl Deref for $name {
            type Target = str;

            fn deref(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::parse(text)
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl PartialEq<str> for $name {
            fn eq(&self, other: &str) -> bool {
                &*self.0 == other
            }
        }

        impl PartialEq<&str> for $name {
            fn eq(&self, other: &&str) -> bool {
                &*self.0 == *other
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }
    };
}

checked_string!(
    /// A label of DNS as RFC 1123 has it: 1 to 63 of `a-z`, `0-9` and `-`, a dash neither first nor last.
    /// Namespaces and ports of a Service have such names.
    DnsLabel,
    check_label
);

checked_string!(
    /// Labels of DNS joined by dots, at most 253 bytes: what Kubernetes calls a DNS-1123 subdomain.
    /// Most objects have such names.
    DnsName,
    check_name
);

checked_string!(
    /// The name of a port of a workload: an IANA service name (RFC 6335 section 5.1) in lower case, 1 to 15 of
    /// `a-z`, `0-9` and `-`, with a letter in it, a dash neither first nor last nor twice in a row.
    PortName,
    check_port_name
);

checked_string!(
    /// What tells one workload from every other, also from one that had its name before: 1 to 512 visible
    /// characters of ASCII.
    WorkloadUid,
    check_uid
);

impl DnsLabel {
    /// The namespace of a document that names none.
    pub fn default_namespace() -> Self {
        Self("default".into())
    }

    /// Whether it is also a label as RFC 1035 has it, which begins with a letter. Services have such names.
    pub fn is_rfc1035(&self) -> bool {
        self.0.starts_with(|c: char| c.is_ascii_lowercase())
    }
}

impl DnsName {
    /// The service account of a workload that names none, as in Kubernetes.
    pub fn default_service_account() -> Self {
        Self("default".into())
    }
}

impl From<DnsLabel> for DnsName {
    fn from(label: DnsLabel) -> Self {
        Self(label.0)
    }
}

impl WorkloadUid {
    /// The uid of a workload that declares none: NAMESPACE/NAME.
    pub fn of(namespace: &DnsLabel, name: &DnsName) -> Self {
        Self(format!("{namespace}/{name}").into())
    }
}

/// Labels, or the labels that a selector asks for: keys and values in Kubernetes' syntax.
///
/// Reads like the map that it is. A key is a name of 1 to 63 bytes, after an optional DNS name and a slash;
/// a value has at most 63 bytes and may be empty. Both are of `a-z`, `A-Z`, `0-9`, `.`, `-` and `_`, a letter or
/// a digit first and last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Labels(BTreeMap<String, String>);

impl Labels {
    /// Checks and adds a label. The label that had the key before is replaced and given back.
    pub fn insert(&mut self, key: &str, value: &str) -> Result<Option<String>, NameError> {
        check_label_key(key)?;
        check_label_value(value)?;
        Ok(self.0.insert(key.to_owned(), value.to_owned()))
    }

    /// Whether these labels are all that `selector` asks for. A selector that asks for nothing selects nothing.
    pub fn are_selected_by(&self, selector: &Labels) -> bool {
        !selector.is_empty() && selector.iter().all(|(key, value)| self.get(key) == Some(value))
    }
}

impl Deref for Labels {
    type Target = BTreeMap<String, String>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl<'a> IntoIterator for &'a Labels {
    type Item = (&'a String, &'a String);
    type IntoIter = std::collections::btree_map::Iter<'a, String, String>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

/// Checks the key of a label or an annotation.
pub(crate) fn check_label_key(key: &str) -> Result<(), NameError> {
    const ERROR: NameError = NameError(
        "is not a label key (a name of at most 63 letters, digits, '.', '-' and '_', a letter or digit first \
         and last, after an optional DNS name and '/')",
    );
    let name = match key.split_once('/') {
        Some((prefix, name)) => {
            check_name(prefix).map_err(|_| ERROR)?;
            name
        }
        None => key,
    };
    if is_qualified(name) { Ok(()) } else { Err(ERROR) }
}

/// Checks the value of a label.
pub(crate) fn check_label_value(value: &str) -> Result<(), NameError> {
    if value.is_empty() || is_qualified(value) {
        return Ok(());
    }
    Err(NameError(
        "is not a label value (empty, or at most 63 letters, digits, '.', '-' and '_', a letter or digit first \
         and last)",
    ))
}

fn is_qualified(name: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    let bytes = name.as_bytes();
    bytes.len() <= MAX_LABEL_BYTES
        && bytes.iter().all(|&byte| is_allowed(byte))
        && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
}

fn is_label(label: &str) -> bool {
    let bytes = label.as_bytes();
    (1..=MAX_LABEL_BYTES).contains(&bytes.len()) && has_label_bytes(bytes)
}

fn has_label_bytes(bytes: &[u8]) -> bool {
    bytes
        .iter()
        .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
        && !bytes.starts_with(b"-")
        && !bytes.ends_with(b"-")
}

fn check_label(label: &str) -> Result<(), NameError> {
    if is_label(label) {
        return Ok(());
    }
    Err(NameError(
        "is not a DNS label (1 to 63 of a-z, 0-9 and '-', a dash neither first nor last)",
    ))
}

fn check_name(name: &str) -> Result<(), NameError> {
    // Kubernetes bounds the whole name alone, not each of its labels.
    let is_part = |part: &str| !part.is_empty() && has_label_bytes(part.as_bytes());
    if name.len() <= MAX_NAME_BYTES && name.split('.').all(is_part) {
        return Ok(());
    }
    Err(NameError(
        "is not a DNS name (at most 253 of a-z, 0-9, '-' and '.', a letter or digit first and last and beside \
         each dot)",
    ))
}

fn check_port_name(name: &str) -> Result<(), NameError> {
    let bytes = name.as_bytes();
    if bytes.len() <= MAX_PORT_NAME_BYTES
        && has_label_bytes(bytes)
        && bytes.iter().any(u8::is_ascii_lowercase)
        && !name.contains("--")
    {
        return Ok(());
    }
    Err(NameError(
        "is not a port name (1 to 15 of a-z, 0-9 and '-', with a letter, a dash neither first nor last nor twice \
         in a row)",
    ))
}

fn check_uid(uid: &str) -> Result<(), NameError> {
    if (1..=MAX_UID_BYTES).contains(&uid.len()) && uid.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(());
    }
    Err(NameError("is not a uid (1 to 512 visible characters of ASCII)"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn assert_names<T>(parse: fn(&str) -> Result<T, NameError>, names: &[&str], others: &[&str]) {
        for name in names {
            assert!(parse(name).is_ok(), "{name:?}");
        }
        for other in others {
            assert!(parse(other).is_err(), "{other:?}");
        }
    }

    #[test]
    fn dns_labels() {
        let (long, too_long) = ("a".repeat(63), "a".repeat(64));
        assert_names(
            DnsLabel::parse,
            &["a", "0", "a-b", "0--0", "xn--p1ai", &long],
            &[
                "", "-", "-a", "a-", "A", "a.b", "a_b", "a b", "a\n", "\u{e9}", "\0", &too_long,
            ],
        );
        assert!(DnsLabel::parse("a0").unwrap().is_rfc1035());
        assert!(!DnsLabel::parse("0a").unwrap().is_rfc1035());
    }

    #[test]
    fn dns_names() {
        let long = format!("{}.b", "a".repeat(251));
        let too_long = format!("{}.b", "a".repeat(252));
        assert_names(
            DnsName::parse,
            &["a", "web-0", "a.b", "0.1.2", &long],
            &[
                "", ".", "a.", ".a", "a..b", "a.-b", "a-.b", "A.b", "a/b", "a_b", &too_long,
            ],
        );
    }

    #[test]
    fn port_names() {
        assert_names(
            PortName::parse,
            &["a", "http", "http-2", "2a", "abcdefghijklmno"],
            &[
                "",
                "80",
                "1-2",
                "-a",
                "a-",
                "a--b",
                "A",
                "a.b",
                "a_b",
                "abcdefghijklmnop",
            ],
        );
    }

    #[test]
    fn uids() {
        let (long, too_long) = ("x".repeat(512), "x".repeat(513));
        assert_names(
            WorkloadUid::parse,
            &["a", "A/b:c~!", &long],
            &["", " ", "a b", "a\n", "\u{7f}", "\u{e9}", &too_long],
        );
        let longest = WorkloadUid::of(
            &DnsLabel::parse(&"a".repeat(63)).unwrap(),
            &DnsName::parse(&"b".repeat(253)).unwrap(),
        );
        assert!(WorkloadUid::parse(&longest).is_ok());
    }

    #[test]
    fn label_keys_and_values() {
        let (long, too_long) = ("a".repeat(63), "a".repeat(64));
        let prefixed = format!("{}/{long}", "p".repeat(253));
        for key in ["a", "A_b.c-1", "example.com/a", "0", &long, &prefixed] {
            assert_eq!(check_label_key(key), Ok(()), "{key}");
        }
        let too_long_prefix = format!("{}/a", "p".repeat(254));
        for key in [
            "",
            "/",
            "a/",
            "/a",
            "a/b/c",
            "_a",
            "a_",
            "A.com/a",
            "a b",
            "\u{e9}",
            &too_long,
            &too_long_prefix,
        ] {
            assert!(check_label_key(key).is_err(), "{key}");
        }
        for value in ["", "a", "A_b.c-1", &long] {
            assert_eq!(check_label_value(value), Ok(()), "{value}");
        }
        for value in ["_", "a-", ".a", "a/b", "a b", &too_long] {
            assert!(check_label_value(value).is_err(), "{value}");
        }
    }

    #[test]
    fn selection() {
        let labels = |pairs: &[(&str, &str)]| {
            let mut labels = Labels::default();
            for (key, value) in pairs {
                labels.insert(key, value).unwrap();
            }
            labels
        };
        let web = labels(&[("app", "web"), ("tier", "front")]);
        assert!(web.are_selected_by(&labels(&[("app", "web")])));
        assert!(web.are_selected_by(&web));
        assert!(!web.are_selected_by(&labels(&[("app", "db")])));
        assert!(!web.are_selected_by(&labels(&[("app", "web"), ("zone", "a")])));
        assert!(!web.are_selected_by(&labels(&[])));
        assert!(labels(&[]).clone().insert("a b", "c").is_err());
        assert!(labels(&[]).clone().insert("a", "b c").is_err());
    }

    proptest! {
        #[test]
        fn a_name_is_a_segment_of_a_spiffe_id(namespace in "[a-z0-9.-]{1,70}", account in "[a-z0-9.-]{1,260}") {
            let trust_domain = crate::identity::TrustDomain::parse("mesh.example").unwrap();
            if let (Ok(namespace), Ok(account)) = (DnsLabel::parse(&namespace), DnsName::parse(&account)) {
                let id = crate::identity::SpiffeId::for_service_account(&trust_domain, &namespace, &account);
                prop_assert_eq!(
                    id,
                    Ok(crate::identity::SpiffeId::from_checked_segments(&trust_domain, &namespace, &account))
                );
            }
        }
    }
}
