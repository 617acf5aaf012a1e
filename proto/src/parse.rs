//! Documents in, the [`Mesh`] out, or all that is wrong with them.
//!
//! Documents are YAML in Kubernetes' shapes, several in a text. A field is either read, or on a list of those
//! that say nothing to the mesh and are skipped, or on a list of those that say something the mesh cannot do and
//! are refused by name; any other is an error. The lists stand beside what is read, one file a kind:
//!
//! | document | file |
//! |---|---|
//! | every one: `apiVersion`, `kind`, `metadata` | `parse/object.rs` |
//! | `v1 Service` | `parse/service.rs` |
//! | `weft.dev/v1alpha1 Workload` | `parse/workload.rs` |
//! | `weft.dev/v1alpha1 MeshConfig` | `parse/mesh_config.rs` |
//! | `weft.dev/v1alpha1 ExternalService` | `parse/external_service.rs` |
//! | `gateway.networking.k8s.io/v1 HTTPRoute` | `parse/http_route.rs` |
//! | `gateway.networking.k8s.io/v1 GRPCRoute` | `parse/grpc_route.rs` |
//! | what both have | `parse/route.rs`, `parse/route/filter.rs` |
//! | `gateway.networking.k8s.io/v1beta1 ReferenceGrant`, also of `v1` | `parse/reference_grant.rs` |
//! | `weft.dev/v1alpha1 TrafficPolicy` | `parse/traffic_policy.rs`, a file for each of its larger sections |
//! | what concerns several of them | `parse/check.rs` |
//!
//! [`parse_documents`] reads all documents of a mesh; [`parse_document`] reads one, which a
//! [`MeshSet`](crate::mesh_set::MeshSet) then checks against the others by the same rules.
//!
//! ```
//! use weft_proto::parse::parse_documents;
//! use weft_proto::Source;
//!
//! let text = "
//! apiVersion: weft.dev/v1alpha1
//! kind: MeshConfig
//! metadata: {name: mesh}
//! spec: {trustDomain: mesh.example}
//! ---
//! apiVersion: v1
//! kind: Service
//! metadata: {name: web}
//! spec:
//!   selector: {app: web}
//!   ports:
//!   - port: 70000
//! ";
//! let errors = parse_documents(&[Source::new("mesh.yaml", text)]).err().unwrap_or_default();
//! assert_eq!(errors.len(), 1);
//! assert_eq!(errors[0].to_string(), "mesh.yaml:13: spec.ports[0].port: 70000 is not a port (1 to 65535)");
//! ```

pub(crate) mod check;
pub mod duration;
mod external_service;
pub mod fields;
mod grpc_route;
mod http_route;
pub(crate) mod index;
mod mesh_config;
pub mod moment;
pub(crate) mod object;
mod reference_grant;
mod route;
mod service;
pub(crate) mod sources;
pub(crate) mod traffic_policy;
mod workload;

use crate::error::{DocumentError, Errors, Source};
use crate::kinds::{DocumentKey, Kind};
use crate::model::{
    ExternalService, Mesh, MeshConfig, ReferenceGrant, Route, Service, TrafficPolicy, Workload,
};
use crate::names::DnsLabel;
use crate::reader::{Value, read_document};
use check::{Changed, Place, Reporter};
use index::{Id, Index};
use object::Naming;
use sources::{Origin, each_document, sorted};
use std::sync::Arc;

/// The most documents of a mesh, all sources together.
pub const MAX_DOCUMENTS: usize = 100_000;

/// One document that was read on its own, and is right as far as that can be told without the others.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Parsed {
    /// What it is called.
    pub key: DocumentKey,
    /// The name of its source, by which errors call it.
    pub source: Arc<str>,
    /// What it means.
    pub model: Model,
}

/// What one document means.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the kinds have theirs")]
#[expect(
    clippy::large_enum_variant,
    reason = "each stands in an Arc of its own, and is never moved about"
)]
pub enum Model {
    MeshConfig(MeshConfig),
    Service(Service),
    Workload(Workload),
    ExternalService(ExternalService),
    Route(Route),
    ReferenceGrant(ReferenceGrant),
    TrafficPolicy(TrafficPolicy),
}

/// What becomes of a port of a service to which no workload answers, although there are workloads.
///
/// When documents are written by hand it is a mistake. When workloads come and go by themselves, or arrive one by
/// one, it is a state that passes, and must not keep a workload that is gone in the set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unserved {
    /// A service is refused in which a port is so. A service that is there already, and that only a workload's
    /// coming or going leaves so, is reported.
    Refuse,
    /// It is reported.
    Report,
}

/// Reads a source that holds exactly one document.
///
/// # Errors
/// All that is wrong with it, by line. What concerns other documents as well is not looked at.
pub fn parse_document(source: &Source) -> Result<Parsed, Vec<DocumentError>> {
    let (key, model) = read_document(source, |root| object::read(root, &mut Naming::default()).1)?;
    Ok(Parsed {
        key,
        source: source.name.as_str().into(),
        model,
    })
}

/// Reads all documents of a mesh and checks them against each other. All errors come out at once, by source and
/// line; past [`MAX_ERRORS`](crate::error::MAX_ERRORS) they are only counted.
///
/// What depends on several documents is checked only as far as the documents it depends on could be read: one
/// mistake is one error.
pub fn parse_documents(sources: &[Source]) -> Result<Mesh, Vec<DocumentError>> {
    let errors = Errors::new();
    let mut documents = Documents::default();
    for source in sources {
        documents.read_source(source, &errors);
    }
    let Documents {
        mut index,
        ids,
        origins,
        unread,
        ..
    } = documents;
    let place = |id: Id, _: &Parsed, path: &str| {
        let at = origins.get(id.position()).and_then(|origin| origin.locate(path));
        let (line, column) = at.map_or((0, 0), |at| (at.line, at.column));
        Place { line, column }
    };
    let report = Reporter {
        errors: &errors,
        place: &place,
    };
    let changed = Changed {
        new: &ids,
        old: &[],
        unread,
        unserved: Unserved::Refuse,
    };
    check::check(&mut index, &changed, &report, &report);
    match index.mesh(index.iter().map(|(_, document)| document)) {
        Some(mesh) if errors.count() == 0 => Ok(mesh),
        _ => Err(sorted(errors, sources)),
    }
}

/// Reads all documents of some sources, each on its own, in their order; what names no namespace is of this one.
/// `read` is given each that is right, with what stands there.
///
/// # Errors
/// As of [`parse_documents`], but for what concerns several documents: only their names are compared.
pub(crate) fn parse_each<'a>(
    sources: &'a [Source],
    namespace: &DnsLabel,
    mut read: impl FnMut(&Value<'_>, Origin<'a>, Parsed),
) -> Result<(), Vec<DocumentError>> {
    let errors = Errors::new();
    let mut naming = Naming::with_default(namespace.clone());
    let mut count = 0;
    for source in sources {
        let name: Arc<str> = source.name.as_str().into();
        each_document(source, &mut count, &errors, |root, origin| {
            let errors_before = errors.count();
            let (_, document) = object::read(root, &mut naming);
            if let Some((key, model)) = document.filter(|_| errors.count() == errors_before) {
                let source = name.clone();
                read(root, origin, Parsed { key, source, model });
            }
        });
    }
    if errors.count() > 0 {
        return Err(sorted(errors, sources));
    }
    Ok(())
}

/// What was read, before its parts are checked against each other.
#[derive(Default)]
struct Documents<'a> {
    index: Index,
    /// The documents of the index, in their order, and where each came from.
    ids: Vec<Id>,
    origins: Vec<Origin<'a>>,
    names: Naming,
    /// How many documents there were, those that could not be read and empty ones included.
    count: usize,
    unread: Unread,
}

/// Whether something was given that could not be read. What seems to be missing may be that.
#[derive(Clone, Copy, Default)]
pub(crate) struct Unread {
    configs: bool,
    workloads: bool,
}

impl<'a> Documents<'a> {
    fn read_source(&mut self, source: &'a Source, errors: &Errors) {
        let name: Arc<str> = source.name.as_str().into();
        let mut count = self.count;
        let is_incomplete = each_document(source, &mut count, errors, |root, origin| {
            self.read(root, &name, origin);
        });
        self.count = count;
        if is_incomplete {
            self.unread = Unread {
                configs: true,
                workloads: true,
            };
        }
    }

    fn read(&mut self, root: &Value<'_>, source: &Arc<str>, origin: Origin<'a>) {
        let errors_before = root.error_count();
        let (kind, document) = object::read(root, &mut self.names);
        // What was read in part is not compared with others: what it lacks would show as errors of theirs.
        match document.filter(|_| root.error_count() == errors_before) {
            Some((key, model)) => {
                let source = source.clone();
                let document = Parsed { key, source, model };
                self.ids.push(self.index.insert(Arc::new(document)));
                self.origins.push(origin);
            }
            None => {
                self.unread.configs |= matches!(kind, None | Some(Kind::MeshConfig));
                self.unread.workloads |= matches!(kind, None | Some(Kind::Workload));
            }
        }
    }
}

impl Model {
    /// The MeshConfig that it is.
    pub fn config(&self) -> Option<&MeshConfig> {
        match self {
            Model::MeshConfig(config) => Some(config),
            _ => None,
        }
    }

    /// The service that it is.
    pub fn service(&self) -> Option<&Service> {
        match self {
            Model::Service(service) => Some(service),
            _ => None,
        }
    }

    /// The workload that it is.
    pub fn workload(&self) -> Option<&Workload> {
        match self {
            Model::Workload(workload) => Some(workload),
            _ => None,
        }
    }

    /// The external service that it is.
    pub fn external_service(&self) -> Option<&ExternalService> {
        match self {
            Model::ExternalService(external) => Some(external),
            _ => None,
        }
    }

    /// The route that it is.
    pub fn route(&self) -> Option<&Route> {
        match self {
            Model::Route(route) => Some(route),
            _ => None,
        }
    }

    /// The grant that it is.
    pub fn reference_grant(&self) -> Option<&ReferenceGrant> {
        match self {
            Model::ReferenceGrant(grant) => Some(grant),
            _ => None,
        }
    }

    /// The policy that it is.
    pub fn traffic_policy(&self) -> Option<&TrafficPolicy> {
        match self {
            Model::TrafficPolicy(policy) => Some(policy),
            _ => None,
        }
    }
}
