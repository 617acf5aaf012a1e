//! What becomes of the request, and what the sidecars of its endpoints say to it.

use serde_json::{Value, json};
use weft_proto::{SpiffeId, model::Authorization};

use crate::{authorize, respond::Failure, route::Redirected, snapshot::Endpoint};

/// What becomes of it.
#[derive(Debug)]
pub(super) enum Outcome {
    /// It goes to an application of the mesh.
    Forward,
    /// Its caller is told to go elsewhere.
    Redirect(Redirected),
    /// The mesh answers itself.
    Answer(Failure),
    /// It leaves the mesh: in a sentence, where it goes.
    Outside(String),
}

/// What the policy at the endpoints says, as far as it is known here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Authorized {
    /// There is no endpoint with a sidecar.
    Unasked,
    Yes,
    /// By which rule not.
    No(&'static str),
}

impl Outcome {
    pub(super) fn show(&self) -> Value {
        match self {
            Self::Forward => json!({ "decision": "forward" }),
            Self::Redirect(redirected) => json!({
                "decision": "redirect",
                "status": redirected.status.as_u16(),
                "location": String::from_utf8_lossy(redirected.location.as_bytes()),
            }),
            Self::Answer(failure) => json!({
                "decision": "answer",
                "status": failure.status().as_u16(),
                "reason": failure.reason(),
                "detail": failure.detail(),
            }),
            Self::Outside(detail) => json!({ "decision": "outside", "detail": detail }),
        }
    }
}

impl Authorized {
    /// Of these endpoints, each of which decides for itself: no if all of them say so.
    pub(super) fn at<'a>(
        endpoints: impl IntoIterator<Item = &'a Endpoint>,
        authorization: Authorization,
        caller: &SpiffeId,
    ) -> Self {
        let mut authorized = Self::Unasked;
        for workload in endpoints.into_iter().filter_map(Endpoint::identity) {
            match authorize::decide(authorization, workload, caller) {
                Ok(()) => return Self::Yes,
                Err(denied) => authorized = Self::No(denied.rule),
            }
        }
        authorized
    }

    pub(super) fn show(self, authorization: Authorization) -> Value {
        let said = match authorization {
            Authorization::Authenticated => "MeshConfig authorization: authenticated",
            Authorization::Deny => "MeshConfig authorization: deny",
        };
        let (decision, by) = match self {
            Self::Unasked => return Value::Null,
            Self::Yes => ("allow", said),
            Self::No("trust_domain") => ("deny", "the trust domain, which is another one"),
            Self::No(_) => ("deny", said),
        };
        json!({ "decision": decision, "by": by, "where": "at the sidecar of each endpoint" })
    }
}
