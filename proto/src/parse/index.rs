//! The documents of a mesh with what finds them: so that a change of one is checked without a look at all.

use super::{Model, Parsed};
use crate::attach::target_service;
use crate::model::{ExternalService, Mesh, MeshConfig, Name, Resolution, Service, Workload, WorkloadPort};
use crate::names::{DnsLabel, DnsName, WorkloadUid};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

/// A document of an [`Index`]. Later ones are greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Id(u64);

impl Id {
    /// How many were inserted before.
    pub(crate) fn position(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

/// What one document has and no other may have. The first to claim it has it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Claim {
    /// The uid of a workload.
    Uid(WorkloadUid),
    /// A port of an address, of a workload, `true` being UDP.
    Port(IpAddr, u16, bool),
    /// The cluster IP of a service.
    ClusterIp(IpAddr),
    /// A port of a host outside the mesh, `true` being UDP.
    Host(DnsName, u16, bool),
}

/// What several documents may have, and are found by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Trait {
    /// The workloads of a namespace with a label.
    Label(DnsLabel, Box<str>, Box<str>),
    /// The services of a namespace whose selector asks for a label: of several, the first.
    Selector(DnsLabel, Box<str>, Box<str>),
    /// The workloads at an address.
    Address(IpAddr),
    /// The service that is called so, as NAME.NAMESPACE.
    ServiceHost(Box<str>),
    /// The external services with a host.
    ExternalHost(Box<str>),
    /// The external services with a static endpoint at an address.
    Endpoint(IpAddr),
    /// The MeshConfig.
    Config,
    /// The routes with a Service as a parent.
    RouteOf(Name),
    /// The policies with a Service as a target.
    PolicyOf(Name),
    /// The grants of a namespace.
    GrantOf(DnsLabel),
}

/// The field by which a document has something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Field {
    Uid,
    MeshPort,
    Port(usize),
    ClusterIp,
    Host(usize),
    Name,
    Address,
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Field::Uid => f.write_str("spec.uid"),
            Field::MeshPort => f.write_str("spec.meshPort"),
            Field::Port(index) => write!(f, "spec.ports[{index}].port"),
            Field::ClusterIp => f.write_str("spec.clusterIP"),
            Field::Host(index) => write!(f, "spec.hosts[{index}]"),
            Field::Name => f.write_str("metadata.name"),
            Field::Address => f.write_str("spec.address"),
        }
    }
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub(crate) struct Index {
    documents: BTreeMap<Id, Arc<Parsed>>,
    next: u64,
    claims: HashMap<Claim, (Id, Field)>,
    traits: HashMap<Trait, BTreeSet<Id>>,
}

impl Index {
    /// Adds a document, and what it is found by. What it claims is for the checks to claim.
    pub(crate) fn insert(&mut self, document: Arc<Parsed>) -> Id {
        let id = Id(self.next);
        self.next += 1;
        self.put(id, document);
        id
    }

    /// Adds a document that was [removed](Self::remove) when all was right, with what it claimed.
    pub(crate) fn restore(&mut self, id: Id, document: Arc<Parsed>) {
        for (claim, field) in claims(&document) {
            self.claims.insert(claim, (id, field));
        }
        self.put(id, document);
    }

    fn put(&mut self, id: Id, document: Arc<Parsed>) {
        for key in traits(&document) {
            self.traits.entry(key).or_default().insert(id);
        }
        self.documents.insert(id, document);
    }

    /// Takes a document out, with all that it claimed.
    pub(crate) fn remove(&mut self, id: Id) -> Option<Arc<Parsed>> {
        let document = self.documents.remove(&id)?;
        for (claim, _) in claims(&document) {
            if self.claims.get(&claim).is_some_and(|(owner, _)| *owner == id) {
                self.claims.remove(&claim);
            }
        }
        for key in traits(&document) {
            if let Some(ids) = self.traits.get_mut(&key) {
                ids.remove(&id);
                if ids.is_empty() {
                    self.traits.remove(&key);
                }
            }
        }
        Some(document)
    }

    /// Claims something for a document, unless it is claimed.
    pub(crate) fn claim(&mut self, claim: Claim, id: Id, field: Field) {
        self.claims.entry(claim).or_insert((id, field));
    }

    /// Who has something, and by which field.
    pub(crate) fn owner(&self, claim: &Claim) -> Option<(Id, Field)> {
        self.claims.get(claim).copied()
    }

    /// The documents with a trait, the first first.
    pub(crate) fn with(&self, key: &Trait) -> impl Iterator<Item = Id> + use<'_> {
        self.traits.get(key).into_iter().flatten().copied()
    }

    /// A document.
    pub(crate) fn get(&self, id: Id) -> Option<&Arc<Parsed>> {
        self.documents.get(&id)
    }

    /// All documents, the first first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Id, &Arc<Parsed>)> {
        self.documents.iter().map(|(id, document)| (*id, document))
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.documents.len()
    }

    /// The first MeshConfig.
    pub(crate) fn config(&self) -> Option<(Id, &MeshConfig)> {
        let id = self.with(&Trait::Config).next()?;
        Some((id, self.get(id)?.model.config()?))
    }

    /// The workloads that stand behind a service, the first first.
    pub(crate) fn selected<'i>(&'i self, service: &'i Service) -> impl Iterator<Item = &'i Workload> + Clone {
        let namespace = &service.name.namespace;
        // Those with that label of the selector which the fewest have.
        let candidates = service
            .selector
            .iter()
            .map(|(key, value)| self.traits.get(&label(Trait::Label, namespace, key, value)))
            .min_by_key(|ids| ids.map_or(0, BTreeSet::len))
            .flatten();
        candidates
            .into_iter()
            .flatten()
            .filter_map(|id| self.get(*id)?.model.workload())
            .filter(|workload| service.selects(workload))
    }

    /// The services that select a workload, which need not be among the documents.
    pub(crate) fn selecting<'i>(&'i self, workload: &'i Workload) -> impl Iterator<Item = Id> + 'i {
        let namespace = &workload.name.namespace;
        workload
            .labels
            .iter()
            .filter_map(move |(key, value)| self.traits.get(&label(Trait::Selector, namespace, key, value)))
            .flatten()
            .copied()
            .filter(|id| {
                let service = self.get(*id).and_then(|document| document.model.service());
                service.is_some_and(|service| service.selects(workload))
            })
    }

    /// All documents as a mesh, those of a kind in the order of `order`; `None` without a MeshConfig.
    pub(crate) fn mesh<'i>(&self, order: impl Iterator<Item = &'i Arc<Parsed>>) -> Option<Mesh> {
        let (_, config) = self.config()?;
        let mut mesh = Mesh {
            config: config.clone(),
            services: Vec::new(),
            workloads: Vec::new(),
            external_services: Vec::new(),
            routes: Vec::new(),
            reference_grants: Vec::new(),
            traffic_policies: Vec::new(),
        };
        for document in order {
            match &document.model {
                Model::MeshConfig(_) => {}
                Model::Service(service) => mesh.services.push(service.clone()),
                Model::Workload(workload) => mesh.workloads.push(workload.clone()),
                Model::ExternalService(external) => mesh.external_services.push(external.clone()),
                Model::Route(route) => mesh.routes.push(route.clone()),
                Model::ReferenceGrant(grant) => mesh.reference_grants.push(grant.clone()),
                Model::TrafficPolicy(policy) => mesh.traffic_policies.push(policy.clone()),
            }
        }
        Some(mesh)
    }
}

fn label(
    make: fn(DnsLabel, Box<str>, Box<str>) -> Trait,
    namespace: &DnsLabel,
    key: &str,
    value: &str,
) -> Trait {
    make(namespace.clone(), key.into(), value.into())
}

/// The name by which the mesh calls a service: NAME.NAMESPACE.
pub(crate) fn service_host(service: &Service) -> Box<str> {
    format!("{}.{}", service.name.name, service.name.namespace).into()
}

/// What a document is found by.
fn traits(document: &Parsed) -> Vec<Trait> {
    match &document.model {
        Model::MeshConfig(_) => vec![Trait::Config],
        Model::Service(service) => {
            let first = |(key, value): (&String, &String)| {
                label(Trait::Selector, &service.name.namespace, key, value)
            };
            let selector = service.selector.iter().next().map(first);
            selector
                .into_iter()
                .chain([Trait::ServiceHost(service_host(service))])
                .collect()
        }
        Model::Workload(workload) => {
            let namespace = &workload.name.namespace;
            let labels = workload
                .labels
                .iter()
                .map(|(key, value)| label(Trait::Label, namespace, key, value));
            labels.chain([Trait::Address(workload.address)]).collect()
        }
        Model::ExternalService(external) => {
            let hosts = external
                .hosts
                .iter()
                .map(|host| Trait::ExternalHost(host.as_str().into()));
            let addresses = endpoints(external).iter().copied().map(Trait::Endpoint);
            hosts.chain(addresses).collect()
        }
        Model::Route(route) => {
            let parents = route.parents.iter();
            parents
                .map(|parent| Trait::RouteOf(parent.service.clone()))
                .collect()
        }
        Model::ReferenceGrant(grant) => vec![Trait::GrantOf(grant.name.namespace.clone())],
        Model::TrafficPolicy(policy) => {
            let targets = policy.targets.iter();
            targets
                .map(|target| Trait::PolicyOf(target_service(policy, target)))
                .collect()
        }
    }
}

/// What a document has alone.
fn claims(document: &Parsed) -> Vec<(Claim, Field)> {
    match &document.model {
        Model::MeshConfig(_) | Model::Route(_) | Model::ReferenceGrant(_) | Model::TrafficPolicy(_) => {
            Vec::new()
        }
        Model::Service(service) => {
            let address = service.cluster_ip.address();
            address
                .into_iter()
                .map(|address| (Claim::ClusterIp(address), Field::ClusterIp))
                .collect()
        }
        Model::Workload(workload) => {
            let uid = (Claim::Uid(workload.uid.clone()), Field::Uid);
            let ports = workload_ports(workload).flat_map(|(field, port, transports)| {
                let claim = move |is_udp: &bool| (Claim::Port(workload.address, port, *is_udp), field);
                transports.iter().map(claim)
            });
            [uid].into_iter().chain(ports).collect()
        }
        Model::ExternalService(external) => host_ports(external).collect(),
    }
}

/// The ports of an address that a workload takes, each with its field and transports, `true` being UDP. A sidecar
/// takes its port over UDP and, for where UDP is blocked, over TCP.
pub(crate) fn workload_ports(
    workload: &Workload,
) -> impl Iterator<Item = (Field, u16, &'static [bool])> + '_ {
    let transports =
        |port: &WorkloadPort| -> &'static [bool] { if port.protocol.is_udp() { &[true] } else { &[false] } };
    let declared = workload
        .ports
        .iter()
        .enumerate()
        .map(move |(index, port)| (Field::Port(index), port.port, transports(port)));
    let mesh = workload
        .mesh_port
        .map(|port| (Field::MeshPort, port, &[true, false][..]));
    declared.chain(mesh)
}

/// The ports of the hosts of an external service.
pub(crate) fn host_ports(external: &ExternalService) -> impl Iterator<Item = (Claim, Field)> + '_ {
    external.hosts.iter().enumerate().flat_map(|(index, host)| {
        external.ports.iter().map(move |port| {
            let claim = Claim::Host(host.clone(), port.port, port.protocol.is_udp());
            (claim, Field::Host(index))
        })
    })
}

/// The static endpoints of an external service; none if the DNS has them.
pub(crate) fn endpoints(external: &ExternalService) -> &[IpAddr] {
    match &external.resolution {
        Resolution::Dns => &[],
        Resolution::Static(addresses) => addresses,
    }
}
