//! What every document has: `apiVersion`, `kind`, `metadata`.

use super::{
    Model, external_service, fields, mesh_config, reference_grant, route, service, traffic_policy, workload,
};
use crate::error::{nearest, shown};
use crate::kinds::{DocumentKey, Kind};
use crate::model::{Name, RouteKind};
use crate::names::{DnsLabel, DnsName, Labels, check_label_key};
use crate::reader::{Fields, Value};
use std::collections::HashMap;
use std::collections::hash_map::Entry;

/// Fields of `metadata` that are Kubernetes' own bookkeeping. `creationTimestamp` counts where a kind
/// [has an age](Kind::has_age).
pub(crate) const SKIPPED: [&str; 10] = [
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "selfLink",
    "managedFields",
    "ownerReferences",
    "finalizers",
];

/// How documents are named.
pub(super) struct Naming {
    /// The key of each document so far, and where it is. Kept also of documents that are wrong elsewhere.
    seen: HashMap<DocumentKey, String>,
    /// The namespace of documents that name none.
    default_namespace: DnsLabel,
}

impl Naming {
    /// With this namespace for documents that name none.
    pub(super) fn with_default(namespace: DnsLabel) -> Self {
        Self {
            seen: HashMap::new(),
            default_namespace: namespace,
        }
    }
}

impl Default for Naming {
    fn default() -> Self {
        Self::with_default(DnsLabel::default_namespace())
    }
}

/// `metadata`, as far as it says something.
pub(super) struct Metadata {
    pub(super) name: Name,
    pub(super) labels: Labels,
    /// When the document was made, in seconds since 1970, if its kind [has an age](Kind::has_age).
    pub(super) created: Option<i64>,
}

/// Reads a document. Its kind is known even if the rest is wrong. A name that was seen is an error.
pub(super) fn read(root: &Value<'_>, naming: &mut Naming) -> (Option<Kind>, Option<(DocumentKey, Model)>) {
    let mut kind = None;
    let document = root.mapping(|fields| {
        kind = read_kind(fields);
        let Some(kind) = kind else {
            fields.accept_all();
            return None;
        };
        // Written by Kubernetes into the documents that it gives out.
        fields.accept(&["status"]);
        let metadata = metadata(fields, kind, naming);
        let key = metadata
            .as_ref()
            .map(|metadata| DocumentKey::of(kind, &metadata.name));
        let model = match kind {
            Kind::MeshConfig => fields.required("spec", mesh_config::spec).map(Model::MeshConfig),
            Kind::Service => {
                let spec = fields.required("spec", service::spec);
                Some(Model::Service(service::service(metadata?, spec?)))
            }
            Kind::Workload => {
                let spec = fields.required("spec", workload::spec);
                Some(Model::Workload(workload::workload(metadata?, spec?)))
            }
            Kind::ExternalService => {
                let spec = fields.required("spec", external_service::spec);
                Some(Model::ExternalService(external_service::external_service(
                    metadata?, spec?,
                )))
            }
            Kind::HttpRoute => read_route(RouteKind::Http, fields, metadata, naming),
            Kind::GrpcRoute => read_route(RouteKind::Grpc, fields, metadata, naming),
            Kind::ReferenceGrant => {
                let spec = fields.required("spec", reference_grant::spec);
                Some(Model::ReferenceGrant(reference_grant::reference_grant(
                    metadata?, spec?,
                )))
            }
            Kind::TrafficPolicy => {
                let namespace = namespace_of(metadata.as_ref(), naming);
                let spec = fields.required("spec", |value| traffic_policy::spec(value, namespace));
                Some(Model::TrafficPolicy(traffic_policy::traffic_policy(
                    metadata?, spec?,
                )))
            }
        };
        Some((key?, model?))
    });
    (kind, document)
}

/// Of a route, whose references lead into its own namespace if they name none.
fn read_route(
    kind: RouteKind,
    fields: &mut Fields<'_>,
    metadata: Option<Metadata>,
    naming: &Naming,
) -> Option<Model> {
    let namespace = namespace_of(metadata.as_ref(), naming);
    let spec = fields.required("spec", |value| route::spec(value, kind, namespace));
    Some(Model::Route(route::route(kind, metadata?, spec?)))
}

/// The namespace of a document, whose name may be wrong.
fn namespace_of<'n>(metadata: Option<&'n Metadata>, naming: &'n Naming) -> &'n DnsLabel {
    metadata.map_or(&naming.default_namespace, |metadata| &metadata.name.namespace)
}

fn read_kind(fields: &mut Fields<'_>) -> Option<Kind> {
    let api_version = fields.required("apiVersion", |value| value.string().map(str::to_owned));
    let name = fields.required("kind", |value| value.string().map(str::to_owned));
    let (api_version, name) = (api_version?, name?);
    let Some(kind) = Kind::from_name(&name) else {
        let hint = match nearest(&name, Kind::ALL.map(Kind::name)) {
            Some(known) => format!("; did you mean {known}?"),
            None => {
                let known = Kind::ALL.map(|kind| format!("{} {}", kind.api_version(), kind.name()));
                format!(" (known here: {})", known.join(", "))
            }
        };
        let (name, api_version) = (shown(&name), shown(&api_version));
        fields.error(
            "kind",
            format_args!("{api_version} {name} is no kind of document known here{hint}"),
        );
        return None;
    };
    if !kind.is_of(&api_version) {
        let api_version = shown(&api_version);
        fields.error(
            "apiVersion",
            format_args!("{api_version} has no {name}: it is of {}", kind.api_version()),
        );
        return None;
    }
    Some(kind)
}

fn metadata(fields: &mut Fields<'_>, kind: Kind, naming: &mut Naming) -> Option<Metadata> {
    fields.required("metadata", |value| {
        value.mapping(|fields| {
            let namespace = namespace(fields, kind, &naming.default_namespace);
            let name = fields.required("name", |value| {
                let name = name(value, kind)?;
                let name = Name {
                    namespace: namespace.clone()?,
                    name,
                };
                report_name_seen(value, &name, kind, naming).then_some(name)
            });
            let labels = fields.optional("labels", fields::labels).unwrap_or_default();
            fields.optional("annotations", annotations);
            fields.refuse("generateName", "names are not generated here: give a name");
            let created = match kind.has_age() {
                true => fields.optional("creationTimestamp", fields::timestamp),
                false => None,
            };
            fields.accept(&SKIPPED);
            Some(Metadata {
                name: name?,
                labels,
                created,
            })
        })
    })
}

/// The namespace; `None` if it is wrong.
fn namespace(fields: &mut Fields<'_>, kind: Kind, default: &DnsLabel) -> Option<DnsLabel> {
    if !kind.is_namespaced() {
        fields.refuse(
            "namespace",
            format_args!("a {} belongs to no namespace", kind.name()),
        );
    }
    if !fields.has("namespace") {
        return Some(default.clone());
    }
    fields.optional("namespace", |value| value.parse(DnsLabel::parse))
}

fn name(value: &Value<'_>, kind: Kind) -> Option<DnsName> {
    if kind != Kind::Service {
        return value.parse(DnsName::parse);
    }
    fields::service_name(value).map(DnsName::from)
}

/// Reports a name that another document of the kind has. Whether it is new.
fn report_name_seen(value: &Value<'_>, name: &Name, kind: Kind, naming: &mut Naming) -> bool {
    // Of a kind without namespaces there is only one, which is checked when all are read.
    if !kind.is_namespaced() {
        return true;
    }
    match naming.seen.entry(DocumentKey::of(kind, name)) {
        Entry::Occupied(seen) => {
            value.error(format_args!(
                "the {} {name} is in {} already",
                kind.name(),
                seen.get()
            ));
            false
        }
        Entry::Vacant(unseen) => {
            unseen.insert(value.place());
            true
        }
    }
}

/// Annotations say nothing here, but what is no annotation is a mistake.
fn annotations(value: &Value<'_>) -> Option<()> {
    value.entries(|key, value| {
        if let Err(error) = check_label_key(key) {
            value.error(format_args!("{} {error}", shown(key)));
        }
        value.string().map(|_| ())
    })?;
    Some(())
}
