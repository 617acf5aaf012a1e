//! May this caller call this workload? The answer to every question that can't be answered is no.

use weft_proto::{SpiffeId, model::Authorization};

use crate::snapshot::Inbound;

/// A refusal, with the rule that decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Denied {
    /// For the log and the answer: a fixed set.
    pub(crate) rule: &'static str,
}

/// Decides from the caller's identity, which TLS has proved.
pub(crate) fn authorize(inbound: &Inbound, caller: &SpiffeId) -> Result<(), Denied> {
    decide(inbound.authorization, &inbound.identity, caller)
}

/// The same for a workload of this identity, which need not be our own.
pub(crate) fn decide(
    authorization: Authorization,
    workload: &SpiffeId,
    caller: &SpiffeId,
) -> Result<(), Denied> {
    if caller.trust_domain() != workload.trust_domain() {
        return Err(Denied { rule: "trust_domain" });
    }
    match authorization {
        Authorization::Authenticated => Ok(()),
        Authorization::Deny => Err(Denied {
            rule: "mesh_default_deny",
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_proto::model::InboundMode;

    fn inbound(authorization: Authorization) -> Inbound {
        Inbound {
            identity: "spiffe://example.org/ns/default/sa/web".parse().unwrap(),
            mode: InboundMode::Strict,
            authorization,
            ports: Vec::new(),
            plaintext_ports: Vec::new(),
            names: Vec::new(),
        }
    }

    #[test]
    fn any_identity_of_the_trust_domain_may_when_that_is_said() {
        let caller = "spiffe://example.org/ns/other/sa/client".parse().unwrap();
        assert_eq!(authorize(&inbound(Authorization::Authenticated), &caller), Ok(()));
        assert_eq!(
            authorize(&inbound(Authorization::Deny), &caller),
            Err(Denied {
                rule: "mesh_default_deny"
            })
        );
    }

    #[test]
    fn another_trust_domain_may_not() {
        let caller = "spiffe://example.com/ns/default/sa/web".parse().unwrap();
        assert_eq!(
            authorize(&inbound(Authorization::Authenticated), &caller),
            Err(Denied { rule: "trust_domain" })
        );
    }
}
