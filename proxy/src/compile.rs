//! Documents become a [`Snapshot`]: the lookups of the hot path, made once and off it.

mod facts;

use std::{net::SocketAddr, sync::Arc, time::Instant};

use rustc_hash::{FxHashMap, FxHashSet};
use weft_proto::{
    attach::{self, Effective},
    model::{
        ExternalService, Locality, Mesh, Name, Resolution, Route, Service, ServicePort, Unmeshed, Workload,
        WorkloadPort, route::BackendTarget,
    },
};
use weft_transport::PeerKey;

pub(crate) use facts::Facts;

use crate::{
    demand::Asked,
    policy::{Guard, Policy},
    route::{self, Unresolved},
    snapshot::{Backend, Endpoint, External, Frontend, Inbound, Reach, Snapshot},
};

/// Workloads that are not to be chosen as endpoints of a service. They can be called by their own addresses.
pub(crate) type Unready = FxHashSet<Name>;

/// For whom a snapshot is made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Client<'a> {
    /// Of the proxy: routes of consumers hold for their own namespace.
    pub(crate) namespace: &'a str,
    /// Its workload, as far as there is a document of it.
    pub(crate) own: Option<&'a Workload>,
    /// The services that its application may call; `None`: all. Others are there for routes that lead to them.
    pub(crate) asked: Option<&'a Asked>,
}

/// Compiles the documents for a proxy.
pub(crate) fn compile(
    mesh: &Mesh,
    unready: &Unready,
    client: &Client<'_>,
    mut inbound: Inbound,
    facts: &Facts,
    generation: u64,
) -> Snapshot {
    let mut compiler = Compiler {
        mesh,
        lookup: attach::Lookup::new(mesh),
        unready,
        facts,
        client,
        home: client.own.and_then(|own| own.locality.as_ref()),
        now: Instant::now(),
        backends: FxHashMap::default(),
        by_address: FxHashMap::default(),
        by_name: FxHashMap::default(),
    };
    for service in &mesh.services {
        compiler.add_backends(service);
    }
    // Services go last: a cluster IP wins over a workload's address, as the walk of a request says.
    for workload in &mesh.workloads {
        compiler.add_workload(workload);
    }
    for service in mesh.services.iter().filter(|service| client.may_call(service)) {
        compiler.add_frontends(service);
    }
    let mut externals: FxHashMap<Box<str>, Vec<Arc<External>>> = FxHashMap::default();
    for service in &mesh.external_services {
        compiler.add_external(service, &mut externals);
    }
    if let Some(own) = client.own {
        compiler.add_guards(own, &mut inbound);
    }
    facts.forget_unused();
    Snapshot {
        generation,
        config: mesh.config.clone(),
        by_address: compiler.by_address,
        by_name: compiler.by_name,
        externals,
        namespace: client.namespace.into(),
        inbound,
    }
}

impl Client<'_> {
    fn may_call(&self, service: &Service) -> bool {
        let name = format!("{}.{}", service.name.name, service.name.namespace);
        self.asked
            .is_none_or(|asked| asked.has(&name, service.cluster_ip.address()))
    }
}

struct Compiler<'a> {
    mesh: &'a Mesh,
    lookup: attach::Lookup<'a>,
    unready: &'a Unready,
    facts: &'a Facts,
    client: &'a Client<'a>,
    home: Option<&'a Locality>,
    now: Instant,
    /// By service and port.
    backends: FxHashMap<(Name, u16), Arc<Backend>>,
    by_address: FxHashMap<SocketAddr, Arc<Frontend>>,
    by_name: FxHashMap<Box<str>, Vec<Arc<Frontend>>>,
}

impl Compiler<'_> {
    /// A workload's own address leads to it alone.
    fn add_workload(&mut self, workload: &Workload) {
        for port in workload.ports.iter().filter(|port| !port.protocol.is_udp()) {
            let endpoint = self.endpoint(workload, port);
            let unmeshed_denied = usize::from(endpoint.is_none());
            let endpoints: Vec<_> = endpoint.into_iter().map(Arc::new).collect();
            let name: Arc<str> = workload.uid.to_string().into();
            let backend = Backend {
                policy: self.policy(
                    format!("workload {name}:{}", port.port),
                    Effective::default(),
                    port.protocol,
                    &endpoints,
                ),
                name,
                port: port.port,
                protocol: port.protocol,
                endpoints,
                unmeshed_denied,
                unready: 0,
            };
            let frontend = Frontend {
                backend: Arc::new(backend),
                routes: None,
                used: self.facts.uses.of(format!("workload {}", workload.uid).into()),
            };
            self.by_address
                .insert(SocketAddr::new(workload.address, port.port), Arc::new(frontend));
        }
    }

    fn add_backends(&mut self, service: &Service) {
        for port in service.ports.iter().filter(|port| !port.protocol.is_udp()) {
            let backend = Arc::new(self.backend(service, port));
            self.backends.insert((service.name.clone(), port.port), backend);
        }
    }

    fn add_frontends(&mut self, service: &Service) {
        let mut ports = Vec::with_capacity(service.ports.len());
        for port in service.ports.iter().filter(|port| !port.protocol.is_udp()) {
            let Some(backend) = self.backends.get(&(service.name.clone(), port.port)) else {
                continue;
            };
            let frontend = Arc::new(Frontend {
                backend: backend.clone(),
                routes: self.routes(service, port),
                used: self.facts.uses.of(format!("service {}", service.name).into()),
            });
            if let Some(ip) = service.cluster_ip.address() {
                self.by_address
                    .insert(SocketAddr::new(ip, port.port), frontend.clone());
            }
            ports.push(frontend);
        }
        let name = format!("{}.{}", service.name.name, service.name.namespace);
        self.by_name.insert(name.into(), ports);
    }

    /// `None`: the service has no routes.
    fn routes(&self, service: &Service, port: &ServicePort) -> Option<route::Table> {
        let routes = attach::routes(&self.lookup, service, port, self.client.namespace);
        let mut resolve = |route: &Route, target: &BackendTarget| self.resolve(route, target);
        (!routes.is_empty()).then(|| route::Table::compile(&routes, &mut resolve))
    }

    /// Where a reference of a route leads.
    fn resolve(&self, route: &Route, target: &BackendTarget) -> Result<Arc<Backend>, Unresolved> {
        let (service, port) = attach::backend(&self.lookup, route, target)?;
        let backend = self.backends.get(&(service.name.clone(), port.port));
        backend.cloned().ok_or_else(|| Unresolved {
            reason: "unsupported_protocol",
            sentence: format!("port {} of {} is UDP", port.port, service.name),
        })
    }

    fn backend(&self, service: &Service, port: &ServicePort) -> Backend {
        let mut endpoints = Vec::new();
        let mut unmeshed_denied = 0;
        let mut unready = 0;
        for workload in self.mesh.workloads_of(service) {
            let Some(target) = port.target_at(workload) else {
                continue;
            };
            if self.unready.contains(&workload.name) {
                unready += 1;
                continue;
            }
            match self.endpoint(workload, target) {
                Some(endpoint) => endpoints.push(Arc::new(endpoint)),
                None => unmeshed_denied += 1,
            }
        }
        let name: Arc<str> = service.name.to_string().into();
        Backend {
            policy: self.policy(
                format!("service {name}:{}", port.port),
                attach::policy(&self.lookup, &service.name, port),
                port.protocol,
                &endpoints,
            ),
            name,
            port: port.port,
            protocol: port.protocol,
            endpoints,
            unmeshed_denied,
            unready,
        }
    }

    fn policy(
        &self,
        key: String,
        effective: Effective,
        protocol: weft_proto::model::AppProtocol,
        endpoints: &[Arc<Endpoint>],
    ) -> Policy {
        let facts = self.facts.policies.of(key.into());
        Policy::new(effective, protocol, endpoints, self.home, facts, self.now)
    }

    /// What policies of the services that this workload is of have its sidecar enforce.
    fn add_guards(&self, own: &Workload, inbound: &mut Inbound) {
        for service in self.mesh.services.iter().filter(|service| service.selects(own)) {
            for port in &service.ports {
                let Some(target) = port.target_at(own).map(|target| target.port) else {
                    continue;
                };
                let effective = attach::policy(&self.lookup, &service.name, port);
                let key = format!("{}:{}", service.name, port.port);
                let guard = Guard::new(&effective.limits, || self.facts.guards.of(key.into()));
                if let Some(port) = inbound.ports.iter_mut().find(|port| port.port == target) {
                    port.guards.extend(guard);
                }
            }
        }
    }

    fn add_external(
        &self,
        service: &ExternalService,
        externals: &mut FxHashMap<Box<str>, Vec<Arc<External>>>,
    ) {
        let name: Arc<str> = service.name.to_string().into();
        let external = Arc::new(External {
            used: self.facts.uses.of(format!("external {name}").into()),
            name,
            ports: service.ports.iter().map(|port| port.port).collect(),
            addresses: match &service.resolution {
                Resolution::Dns => Vec::new(),
                Resolution::Static(addresses) => addresses.clone(),
            },
        });
        for host in &service.hosts {
            externals
                .entry(host.to_string().into())
                .or_default()
                .push(external.clone());
        }
    }

    /// `None`: the workload has no sidecar, and may not be used without.
    fn endpoint(&self, workload: &Workload, port: &WorkloadPort) -> Option<Endpoint> {
        let uid: Arc<str> = workload.uid.to_string().into();
        let reach = match (workload.mesh_port, self.mesh.config.unmeshed) {
            (Some(mesh_port), _) => Reach::Mesh(PeerKey {
                uid: uid.clone(),
                address: SocketAddr::new(workload.address, mesh_port),
                identity: workload.identity(&self.mesh.config.trust_domain),
            }),
            (None, Unmeshed::Allow) => Reach::Plain(SocketAddr::new(workload.address, port.port)),
            (None, Unmeshed::Deny) => return None,
        };
        Some(Endpoint {
            load: self.facts.loads.of((uid.clone(), port.port)),
            uid,
            port: port.port,
            reach,
            version: version(workload),
            labels: workload.labels.clone(),
            locality: workload.locality.clone(),
        })
    }
}

impl From<attach::Unresolved> for Unresolved {
    fn from(unresolved: attach::Unresolved) -> Self {
        Self {
            reason: match unresolved.reason() {
                "RefNotPermitted" => "ref_not_permitted",
                "UnsupportedProtocol" => "unsupported_protocol",
                _ => "backend_not_found",
            },
            sentence: unresolved.to_string(),
        }
    }
}

/// The labels that say which version of the application a workload runs: that of Kubernetes' recommended labels, and the
/// one that is common in meshes.
const VERSION_LABELS: [&str; 2] = ["version", "app.kubernetes.io/version"];

fn version(workload: &Workload) -> Option<Arc<str>> {
    let label = VERSION_LABELS
        .iter()
        .find_map(|name| workload.labels.get(*name))?;
    Some(label.as_str().into())
}
