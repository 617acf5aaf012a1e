//! Documents become a [`Snapshot`]: the lookups of the hot path, made once and off it.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use rustc_hash::{FxHashMap, FxHashSet};
use weft_proto::model::{
    ExternalService, Mesh, Name, Resolution, Service, ServicePort, Unmeshed, Workload, WorkloadPort,
};
use weft_transport::PeerKey;

use crate::snapshot::{Backend, Endpoint, External, Frontend, Inbound, Load, Reach, Snapshot, Used};

/// Workloads that are not to be chosen as endpoints of a service. They can be called by their own addresses.
pub(crate) type Unready = FxHashSet<Name>;

/// Facts about endpoints that outlive snapshots, one table for all workers.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    /// By workload and port: another port is another application.
    loads: Mutex<FxHashMap<(Arc<str>, u16), Arc<Load>>>,
    /// By service, workload or external service.
    uses: Mutex<FxHashMap<Arc<str>, Arc<Used>>>,
}

/// Compiles the documents for a proxy in `namespace`.
pub(crate) fn compile(
    mesh: &Mesh,
    unready: &Unready,
    namespace: &str,
    inbound: Inbound,
    facts: &Facts,
    generation: u64,
) -> Snapshot {
    let mut compiler = Compiler {
        mesh,
        unready,
        facts,
        by_address: FxHashMap::default(),
        by_name: FxHashMap::default(),
    };
    // Services go last: a cluster IP wins over a workload's address, as the walk of a request says.
    for workload in &mesh.workloads {
        compiler.add_workload(workload);
    }
    for service in &mesh.services {
        compiler.add_service(service);
    }
    let mut externals: FxHashMap<Box<str>, Vec<Arc<External>>> = FxHashMap::default();
    for service in &mesh.external_services {
        compiler.add_external(service, &mut externals);
    }
    facts.forget_unused();
    Snapshot {
        generation,
        config: mesh.config.clone(),
        by_address: compiler.by_address,
        by_name: compiler.by_name,
        externals,
        namespace: namespace.into(),
        inbound,
    }
}

struct Compiler<'a> {
    mesh: &'a Mesh,
    unready: &'a Unready,
    facts: &'a Facts,
    by_address: FxHashMap<SocketAddr, Arc<Frontend>>,
    by_name: FxHashMap<Box<str>, Vec<Arc<Frontend>>>,
}

impl Compiler<'_> {
    /// A workload's own address leads to it alone.
    fn add_workload(&mut self, workload: &Workload) {
        for port in workload.ports.iter().filter(|port| !port.protocol.is_udp()) {
            let endpoint = self.endpoint(workload, port);
            let backend = Backend {
                name: workload.uid.to_string().into(),
                port: port.port,
                protocol: port.protocol,
                unmeshed_denied: usize::from(endpoint.is_none()),
                unready: 0,
                endpoints: endpoint.into_iter().map(Arc::new).collect(),
            };
            let frontend = Frontend {
                backend: Arc::new(backend),
                routes: None,
                used: self.facts.used(format!("workload {}", workload.uid)),
            };
            self.by_address
                .insert(SocketAddr::new(workload.address, port.port), Arc::new(frontend));
        }
    }

    fn add_service(&mut self, service: &Service) {
        let mut ports = Vec::with_capacity(service.ports.len());
        for port in service.ports.iter().filter(|port| !port.protocol.is_udp()) {
            let frontend = Arc::new(Frontend {
                backend: Arc::new(self.service_port(service, port)),
                routes: None,
                used: self.facts.used(format!("service {}", service.name)),
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

    fn service_port(&self, service: &Service, port: &ServicePort) -> Backend {
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
            unready,
            name,
            port: port.port,
            protocol: port.protocol,
            endpoints,
            unmeshed_denied,
        }
    }

    fn add_external(
        &self,
        service: &ExternalService,
        externals: &mut FxHashMap<Box<str>, Vec<Arc<External>>>,
    ) {
        let name: Arc<str> = service.name.to_string().into();
        let external = Arc::new(External {
            used: self.facts.used(format!("external {name}")),
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
            load: self.facts.load(&uid, port.port),
            uid,
            port: port.port,
            reach,
            version: version(workload),
            labels: workload.labels.clone(),
            locality: workload.locality.clone(),
        })
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

impl Facts {
    fn load(&self, uid: &Arc<str>, port: u16) -> Arc<Load> {
        let mut loads = self.loads.lock().unwrap_or_else(PoisonError::into_inner);
        loads.entry((uid.clone(), port)).or_default().clone()
    }

    fn used(&self, name: String) -> Arc<Used> {
        let mut uses = self.uses.lock().unwrap_or_else(PoisonError::into_inner);
        uses.entry(name.into()).or_default().clone()
    }

    /// Drops what no snapshot and no request holds any more.
    fn forget_unused(&self) {
        let mut loads = self.loads.lock().unwrap_or_else(PoisonError::into_inner);
        loads.retain(|_, load| Arc::strong_count(load) > 1);
        let mut uses = self.uses.lock().unwrap_or_else(PoisonError::into_inner);
        uses.retain(|_, used| Arc::strong_count(used) > 1);
    }
}
