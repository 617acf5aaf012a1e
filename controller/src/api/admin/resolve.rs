//! Which endpoints stand behind a service, as an operator names it.

use tonic::Status;
use weft_proto::{
    kinds::{DocumentKey, Kind},
    mesh::v1 as mesh,
    mesh_set::MeshSet,
    model::{Readiness, Service, ServicePort, Workload},
    parse::Model,
};

use super::convert;
use crate::{catalog::Catalog, world::key_message};

/// What `web`, `web.shop` or `web.shop:8080` means.
pub(super) async fn resolve(catalog: &Catalog, text: &str) -> Result<mesh::ResolveResponse, Status> {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => {
            let number = port
                .parse()
                .map_err(|_| Status::invalid_argument(format!("{port:?} is no port")))?;
            (host, Some(number))
        }
        None => (text, None),
    };
    let (name, namespace) = host.split_once('.').unwrap_or((host, "default"));
    let namespace = namespace.split('.').next().unwrap_or(namespace);
    let key = DocumentKey::new(Kind::Service, namespace, name)
        .map_err(|error| Status::invalid_argument(error.to_string()))?;
    let (mut response, workloads) = catalog.with_set(|set| find(set, &key, port)).await?;
    for (endpoint, workload) in response.endpoints.iter_mut().zip(workloads) {
        let stored = catalog.get(&workload).await;
        let readiness = stored.map_or(Readiness::NotReady, |stored| stored.readiness());
        endpoint.readiness = convert::readiness(readiness).into();
    }
    Ok(response)
}

fn find(
    set: &MeshSet,
    key: &DocumentKey,
    port: Option<u16>,
) -> Result<(mesh::ResolveResponse, Vec<DocumentKey>), Status> {
    let service = match set.get(key).map(|parsed| &parsed.model) {
        Some(Model::Service(service)) => service,
        _ => {
            return Err(Status::not_found(format!(
                "there is no {key} (weft get services -A)"
            )));
        }
    };
    let port = choose(service, port)?;
    let workloads: Vec<&Workload> = set
        .workloads_of(service)
        .filter(|workload| port.target_at(workload).is_some())
        .collect();
    let endpoint = |workload: &&Workload| endpoint(set, workload, port);
    let response = mesh::ResolveResponse {
        service: Some(key_message(key)),
        port: port.port.into(),
        protocol: port.protocol.as_str().to_owned(),
        endpoints: workloads.iter().map(endpoint).collect(),
    };
    let keys = workloads
        .iter()
        .map(|workload| DocumentKey::of(Kind::Workload, &workload.name))
        .collect();
    Ok((response, keys))
}

fn choose(service: &Service, wanted: Option<u16>) -> Result<&ServicePort, Status> {
    let numbers: Vec<String> = service.ports.iter().map(|port| port.port.to_string()).collect();
    let numbers = numbers.join(", ");
    let found = match (wanted, service.ports.as_slice()) {
        (None, [only]) => Some(only),
        (None, ports) => ports.iter().find(|port| port.port == 80),
        (Some(wanted), ports) => ports.iter().find(|port| port.port == wanted),
    };
    found.ok_or_else(|| match wanted {
        Some(wanted) => Status::not_found(format!("{} has no port {wanted}: it has {numbers}", service.name)),
        None => Status::invalid_argument(format!(
            "{} has several ports: name one of {numbers}",
            service.name
        )),
    })
}

fn endpoint(set: &MeshSet, workload: &Workload, port: &ServicePort) -> mesh::Endpoint {
    let identity = set.config().map(|config| workload.identity(&config.trust_domain));
    let mesh_address = workload
        .mesh_port
        .map(|mesh_port| std::net::SocketAddr::new(workload.address, mesh_port).to_string());
    mesh::Endpoint {
        workload: workload.name.to_string(),
        mesh_address: mesh_address.unwrap_or_default(),
        identity: identity
            .map(|identity| identity.as_str().to_owned())
            .unwrap_or_default(),
        port: port.target_at(workload).map_or(0, |target| target.port.into()),
        readiness: mesh::Readiness::Unspecified.into(),
    }
}
