//! SPIFFE IDs.

use std::str::FromStr;

use super::{Memory, Target};
use crate::identity::{MAX_ID_BYTES, MAX_TRUST_DOMAIN_BYTES, SpiffeId, TrustDomain};

pub(super) const TARGET: Target = Target {
    name: "spiffe_id",
    body,
    memory: Memory {
        floor: 1 << 10,
        per_byte: 24,
    },
};

fn body(input: &[u8]) {
    // Certificates hold bytes; a name that is not UTF-8 never comes as far as the parser.
    let text = String::from_utf8_lossy(input);
    let parsed = SpiffeId::parse(&text);
    assert_eq!(parsed.is_ok(), is_spiffe_id(text.as_bytes()), "{text:?}");
    let workload = SpiffeId::parse_workload(&text);
    assert_eq!(
        workload.is_ok(),
        parsed.as_ref().is_ok_and(SpiffeId::is_workload),
        "{text:?}"
    );
    let domain = TrustDomain::parse(&text);
    assert_eq!(domain.is_ok(), is_trust_domain(text.as_bytes()), "{text:?}");
    if let Ok(domain) = domain {
        assert_eq!(SpiffeId::parse(domain.id().as_str()), Ok(domain.id()));
        assert!(!domain.id().is_workload());
    }
    if let Ok(id) = parsed {
        accepted(&text, &id);
    }
}

/// One identity has one spelling, and its parts are parts of it.
fn accepted(text: &str, id: &SpiffeId) {
    assert_eq!((id.as_str(), id.to_string().as_str()), (text, text));
    assert_eq!(SpiffeId::from_str(text).as_ref(), Ok(id));
    assert_eq!(format!("spiffe://{}{}", id.trust_domain(), id.path()), text);
    if let (Some(namespace), Some(account)) = (id.namespace(), id.service_account()) {
        let again = SpiffeId::for_service_account(id.trust_domain(), namespace, account);
        assert_eq!(again.as_ref(), Ok(id));
    }
}

/// SPIFFE-ID sections 2.1 to 2.4, written a second time.
fn is_spiffe_id(uri: &[u8]) -> bool {
    let Some(rest) = uri.strip_prefix(b"spiffe://") else {
        return false;
    };
    let is_segment_byte =
        |byte: &u8| matches!(byte, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'_');
    let mut parts = rest.split(|byte| *byte == b'/');
    uri.len() <= MAX_ID_BYTES
        && parts.next().is_some_and(is_trust_domain)
        && parts.all(|segment| !matches!(segment, b"" | b"." | b"..") && segment.iter().all(is_segment_byte))
}

fn is_trust_domain(name: &[u8]) -> bool {
    (1..=MAX_TRUST_DOMAIN_BYTES).contains(&name.len())
        && name
            .iter()
            .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_'))
}
