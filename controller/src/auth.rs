//! Who calls: told by the client certificate of the connection alone, and what that role may do.

use tonic::Status;
use weft_proto::SpiffeId;

/// The namespace of the mesh's own identities.
pub const SYSTEM_NAMESPACE: &str = "weft-system";
/// The service account of every controller.
pub const CONTROLLER_ACCOUNT: &str = "weft-controller";

/// Whoever made a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// It showed no certificate, or one that names nobody who calls a controller: it may join, and nothing else.
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

/// Whom a call is open to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everyone, without a certificate too.
    Anyone,
    /// Everyone with a certificate, also one that expired within the grace.
    Renewal,
    /// Sidecars.
    Workload,
    /// Operators of any role.
    Viewer,
    /// Operators who may change things.
    Admin,
}

/// Every call that there is, and whom it is open to. What is not here is open to nobody.
pub const CALLS: [(&str, Access); 23] = [
    ("/weft.mesh.v1.Identity/Join", Access::Anyone),
    ("/weft.mesh.v1.Identity/Renew", Access::Renewal),
    ("/weft.mesh.v1.Control/Connect", Access::Workload),
    ("/weft.mesh.v1.Admin/Get", Access::Viewer),
    ("/weft.mesh.v1.Admin/Plan", Access::Viewer),
    ("/weft.mesh.v1.Admin/Watch", Access::Viewer),
    ("/weft.mesh.v1.Admin/Fleet", Access::Viewer),
    ("/weft.mesh.v1.Admin/Ask", Access::Viewer),
    ("/weft.mesh.v1.Admin/Resolve", Access::Viewer),
    ("/weft.mesh.v1.Admin/Tokens", Access::Viewer),
    ("/weft.mesh.v1.Admin/TrustStatus", Access::Viewer),
    ("/weft.mesh.v1.Admin/Audit", Access::Viewer),
    ("/weft.mesh.v1.Admin/Info", Access::Viewer),
    ("/weft.mesh.v1.Admin/Apply", Access::Admin),
    ("/weft.mesh.v1.Admin/Delete", Access::Admin),
    ("/weft.mesh.v1.Admin/Export", Access::Admin),
    ("/weft.mesh.v1.Admin/Command", Access::Admin),
    ("/weft.mesh.v1.Admin/Evict", Access::Admin),
    ("/weft.mesh.v1.Admin/CreateToken", Access::Admin),
    ("/weft.mesh.v1.Admin/RevokeToken", Access::Admin),
    ("/weft.mesh.v1.Admin/RotateRoot", Access::Admin),
    ("/weft.mesh.v1.Admin/RetireRoot", Access::Admin),
    ("/weft.mesh.v1.Admin/RenewLeaves", Access::Admin),
];

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
            None if id.namespace().is_some() => Self::Workload(id),
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

    /// What it is, for people.
    pub fn role(&self) -> &'static str {
        match self {
            Self::Anonymous => "anonymous",
            Self::Expired(_) => "expired",
            Self::Workload(_) => "workload",
            Self::Operator(_, role) => role.as_str(),
        }
    }

    /// Whether it may make a call, by the call's path.
    ///
    /// # Errors
    /// It may not: the status to answer, which says who may.
    pub fn permit(&self, path: &str) -> Result<(), Status> {
        let Some((_, access)) = CALLS.iter().find(|(known, _)| *known == path) else {
            return Err(Status::unimplemented("this controller has no such call"));
        };
        if self.has(*access) {
            return Ok(());
        }
        let call = path.rsplit('/').next().unwrap_or(path);
        Err(match self {
            Self::Anonymous => Status::unauthenticated(format!(
                "{call} takes a client certificate: join first (weft login TOKEN, or weft-proxy run --join TOKEN)"
            )),
            Self::Expired(id) => Status::unauthenticated(format!(
                "the certificate of {id} has expired: renew it, which is all that it is still good for"
            )),
            Self::Workload(_) | Self::Operator(..) => Status::permission_denied(format!(
                "{call} is not open to {} ({}): it takes {}",
                self.name(),
                self.role(),
                access.whom()
            )),
        })
    }

    fn has(&self, access: Access) -> bool {
        match access {
            Access::Anyone => true,
            Access::Renewal => !matches!(self, Self::Anonymous),
            Access::Workload => matches!(self, Self::Workload(_)),
            Access::Viewer => matches!(self, Self::Operator(..)),
            Access::Admin => matches!(self, Self::Operator(_, Role::Admin)),
        }
    }
}

impl Access {
    fn whom(self) -> &'static str {
        match self {
            Self::Anyone => "nothing",
            Self::Renewal => "a certificate",
            Self::Workload => "a workload's certificate",
            Self::Viewer => "an operator's certificate",
            Self::Admin => "an admin's certificate",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(path: &str) -> SpiffeId {
        format!("spiffe://mesh.test{path}").parse().unwrap()
    }

    #[test]
    fn the_path_tells_the_role_and_nothing_near_it_does() {
        assert!(matches!(Caller::of(id("/ns/shop/sa/web")), Caller::Workload(_)));
        assert!(matches!(
            Caller::of(id("/weft/admin/ann")),
            Caller::Operator(_, Role::Admin)
        ));
        assert!(matches!(
            Caller::of(id("/weft/viewer/vic")),
            Caller::Operator(_, Role::Viewer)
        ));
        for path in [
            "/weft/admin",
            "/weft/admin/ann/x",
            "/weft/root/ann",
            "/weft/Admin/ann",
            "/ns/weft/sa/admin/ann",
        ] {
            assert_eq!(Caller::of(id(path)), Caller::Anonymous, "{path}");
        }
        assert!(matches!(Caller::of(id("/ns/weft/sa/admin")), Caller::Workload(_)));
    }

    /// The calls that the `.proto` files have, as paths.
    fn declared() -> Vec<String> {
        let files = [
            include_str!("../../proto/mesh/v1/identity.proto"),
            include_str!("../../proto/mesh/v1/control.proto"),
            include_str!("../../proto/mesh/v1/admin.proto"),
        ];
        let mut calls = Vec::new();
        for file in files {
            let mut service = "";
            for line in file.lines().map(str::trim) {
                let mut words = line.split([' ', '(']);
                match (words.next(), words.next()) {
                    (Some("service"), Some(name)) => service = name,
                    (Some("rpc"), Some(name)) => calls.push(format!("/weft.mesh.v1.{service}/{name}")),
                    _ => {}
                }
            }
        }
        calls
    }

    #[test]
    fn every_call_has_its_place_in_the_table() {
        let mut declared = declared();
        let mut known: Vec<String> = CALLS.iter().map(|(path, _)| (*path).to_owned()).collect();
        declared.sort();
        known.sort();
        assert_eq!(declared, known);
    }

    #[test]
    fn each_role_has_exactly_its_calls() {
        let callers = [
            Caller::Anonymous,
            Caller::Expired(id("/ns/shop/sa/web")),
            Caller::Workload(id("/ns/shop/sa/web")),
            Caller::Operator(id("/weft/viewer/vic"), Role::Viewer),
            Caller::Operator(id("/weft/admin/ann"), Role::Admin),
        ];
        for (path, access) in CALLS {
            let permitted: Vec<bool> = callers.iter().map(|caller| caller.permit(path).is_ok()).collect();
            let wanted = match access {
                Access::Anyone => [true, true, true, true, true],
                Access::Renewal => [false, true, true, true, true],
                Access::Workload => [false, false, true, false, false],
                Access::Viewer => [false, false, false, true, true],
                Access::Admin => [false, false, false, false, true],
            };
            assert_eq!(permitted, wanted, "{path}");
        }
        for caller in callers {
            assert!(caller.permit("/weft.mesh.v1.Admin/Nothing").is_err());
            assert!(caller.permit("").is_err());
        }
    }
}
