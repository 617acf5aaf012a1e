//! Who calls: told by the client certificate of the connection alone, and what that role may do.

use weft_proto::SpiffeId;

/// The namespace of the mesh's own identities.
pub const SYSTEM_NAMESPACE: &str = "weft-system";
/// The service account of every controller.
pub const CONTROLLER_ACCOUNT: &str = "weft-controller";

/// Whoever made a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// It showed no certificate: it may join, and nothing else.
    Anonymous,
    /// It showed a certificate that expired within the grace: it may renew it, and nothing else.
    Expired(SpiffeId),
    /// A sidecar, by the identity of its workload.
    Workload(SpiffeId),
    /// A person or a program that operates the mesh.
    Operator(SpiffeId, Role),
}

/// What an operator may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Everything.
    Admin,
    /// Look at everything that is no secret.
    Viewer,
}

impl Role {
    /// The word for it in a SPIFFE ID and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Viewer => "viewer",
        }
    }
}

impl Caller {
    /// Whom a valid certificate names: `/ns/NS/sa/SA` is a workload, `/weft/ROLE/NAME` an operator.
    pub fn of(id: SpiffeId) -> Self {
        let mut segments = id.path().split('/').skip(1);
        let role = match (segments.next(), segments.next(), segments.next(), segments.next()) {
            (Some("weft"), Some("admin"), Some(_), None) => Some(Role::Admin),
            (Some("weft"), Some("viewer"), Some(_), None) => Some(Role::Viewer),
            _ => None,
        };
        match role {
            Some(role) => Self::Operator(id, role),
            None if id.is_workload() => Self::Workload(id),
            None => Self::Anonymous,
        }
    }

    /// For logs and the audit.
    pub fn name(&self) -> &str {
        match self {
            Self::Anonymous => "anonymous",
            Self::Expired(id) | Self::Workload(id) | Self::Operator(id, _) => id.as_str(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(path: &str) -> Caller {
        Caller::of(format!("spiffe://mesh.test{path}").parse().unwrap())
    }

    #[test]
    fn the_path_tells_the_role_and_nothing_near_it_does() {
        assert!(matches!(caller("/ns/shop/sa/web"), Caller::Workload(_)));
        assert!(matches!(
            caller("/weft/admin/ann"),
            Caller::Operator(_, Role::Admin)
        ));
        assert!(matches!(
            caller("/weft/viewer/vic"),
            Caller::Operator(_, Role::Viewer)
        ));
        for path in [
            "/weft/admin",
            "/weft/admin/ann/x",
            "/weft/root/ann",
            "/weft/Admin/ann",
            "/ns/weft/sa/admin/ann",
        ] {
            assert!(!matches!(caller(path), Caller::Operator(..)), "{path}");
        }
        assert!(matches!(caller("/ns/weft/sa/admin"), Caller::Workload(_)));
    }
}
