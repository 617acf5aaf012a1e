//! What this proxy knows of the mesh: made whole by [`compile`](crate::compile), never changed, read once by each
//! request.

use std::{
    collections::HashSet,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use http::uri::Authority;
use rustc_hash::FxHashMap;
use weft_proto::{
    SpiffeId,
    model::{AppProtocol, Authorization, Egress, InboundMode, Locality, MeshConfig},
    names::Labels,
};
use weft_transport::PeerKey;

pub(crate) use crate::balance::{InFlight, Load};
use crate::{
    policy::{Guard, Policy},
    route,
};

/// The whole of it.
#[derive(Debug)]
pub(crate) struct Snapshot {
    /// Counts publications; for operators.
    pub(crate) generation: u64,
    pub(crate) config: MeshConfig,
    /// Where a destination address leads: cluster IPs and workload addresses.
    pub(super) by_address: FxHashMap<SocketAddr, Arc<Frontend>>,
    /// The ports of a service, by `name.namespace`.
    pub(super) by_name: FxHashMap<Box<str>, Vec<Arc<Frontend>>>,
    /// Hosts outside the mesh that may be called, in lower case.
    pub(super) externals: FxHashMap<Box<str>, Vec<Arc<External>>>,
    /// The namespace in which a name without one is looked up.
    pub(super) namespace: Box<str>,
    pub(crate) inbound: Inbound,
}

/// A port of a service, or of one workload, as applications call it.
#[derive(Debug)]
pub(crate) struct Frontend {
    /// Where its requests go without routes. Its name and port are those that are called.
    pub(crate) backend: Arc<Backend>,
    /// How its requests are told apart, if they are.
    pub(crate) routes: Option<route::Table>,
    /// Whether somebody asked for it since somebody last looked.
    pub(crate) used: Arc<Used>,
}

/// A port of a service, or of one workload, that requests are sent to: its endpoints, and what holds for them.
#[derive(Debug)]
pub(crate) struct Backend {
    /// `NAMESPACE/NAME` of the service, or the uid of the workload.
    pub(crate) name: Arc<str>,
    /// The port that callers use.
    pub(crate) port: u16,
    pub(crate) protocol: AppProtocol,
    /// Those that may be used. Empty: there is none now.
    pub(crate) endpoints: Vec<Arc<Endpoint>>,
    /// Endpoints left out because they have no sidecar and the mesh does not allow that.
    pub(crate) unmeshed_denied: usize,
    /// Endpoints left out because they are not ready, or end.
    pub(crate) unready: usize,
    /// What holds for requests that are sent there.
    pub(crate) policy: Policy,
}

/// Whether something was used. It outlives snapshots.
#[derive(Debug, Default)]
pub(crate) struct Used(AtomicBool);

/// A host outside the mesh that may be called, even where egress is denied.
#[derive(Debug)]
pub(crate) struct External {
    /// `NAMESPACE/NAME` of the document.
    pub(crate) name: Arc<str>,
    /// Never empty.
    pub(crate) ports: Vec<u16>,
    /// Its addresses; empty: the DNS knows them.
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) used: Arc<Used>,
}

/// One workload's port behind a backend.
#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(crate) uid: Arc<str>,
    /// The port at the workload.
    pub(crate) port: u16,
    pub(crate) reach: Reach,
    /// By which a policy chooses among endpoints.
    pub(crate) labels: Labels,
    /// Which version of the application it runs, for metrics.
    pub(crate) version: Option<Arc<str>>,
    /// Where it runs.
    pub(crate) locality: Option<Locality>,
    /// What is under way there, and how it fares. It outlives a snapshot.
    pub(crate) load: Arc<Load>,
}

/// How an endpoint is reached.
#[derive(Debug)]
pub(crate) enum Reach {
    /// Through its sidecar.
    Mesh(PeerKey),
    /// In the clear: it has none, and the mesh allows that.
    Plain(SocketAddr),
}

/// What this proxy takes for its own application.
#[derive(Debug)]
pub(crate) struct Inbound {
    pub(crate) identity: SpiffeId,
    pub(crate) mode: InboundMode,
    pub(crate) authorization: Authorization,
    pub(crate) ports: Vec<InboundPort>,
    /// Those of them that plaintext reaches in `strict` as well.
    pub(crate) plaintext_ports: Vec<u16>,
    /// What a CONNECT may call this workload, without port: its address, and its names.
    pub(crate) names: Vec<Box<str>>,
}

/// A declared port of the application.
#[derive(Clone, Debug)]
pub(crate) struct InboundPort {
    pub(crate) port: u16,
    pub(crate) protocol: AppProtocol,
    /// Where the application listens.
    pub(crate) address: SocketAddr,
    /// What policies have this proxy enforce.
    pub(crate) guards: Vec<Guard>,
}

/// Where a request or connection leads.
#[derive(Clone, Debug)]
pub(crate) enum Upstream {
    /// Into the mesh.
    Mesh(Arc<Frontend>),
    /// Out of it, as it is.
    External(SocketAddr),
}

/// Why a destination leads nowhere. The variants are label values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoRoute {
    #[error("no service or workload of the mesh has this address and port")]
    UnknownInMesh,
    #[error("the destination is outside the mesh, and egress is denied")]
    EgressDenied,
    #[error("no service of this name is known")]
    UnknownName,
    #[error("the service has no such port")]
    UnknownPort,
    #[error("the service has several ports: name one")]
    AmbiguousPort,
    #[error("the request names no destination")]
    NoDestination,
    #[error("the destination is a listener of this proxy")]
    OwnListener,
    #[error("the controller can't be asked for this name or address")]
    ControllerUnavailable,
    #[error("too many names and addresses are asked for that are not known")]
    TooManyNames,
    #[error("this host outside the mesh has no address now, or one that is not outside")]
    Unresolved,
}

impl NoRoute {
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::UnknownInMesh => "unknown_in_mesh",
            Self::EgressDenied => "egress_denied",
            Self::UnknownName => "unknown_service",
            Self::UnknownPort => "unknown_port",
            Self::AmbiguousPort => "ambiguous_port",
            Self::NoDestination => "no_destination",
            Self::OwnListener => "own_listener",
            Self::ControllerUnavailable => "controller_unavailable",
            Self::TooManyNames => "too_many_names",
            Self::Unresolved => "unresolved",
        }
    }
}

impl Snapshot {
    /// Every destination by which a request can reach the mesh, for operators.
    pub(crate) fn frontends(&self) -> impl Iterator<Item = (String, &Frontend)> {
        let addresses = self
            .by_address
            .iter()
            .map(|(address, frontend)| (address.to_string(), &**frontend));
        let names = self.by_name.iter().flat_map(|(name, ports)| {
            ports
                .iter()
                .map(move |frontend| (format!("{name}:{}", frontend.backend.port), &**frontend))
        });
        addresses.chain(names)
    }

    /// Every host outside the mesh that may be called, for operators.
    pub(crate) fn externals(&self) -> impl Iterator<Item = (&str, &External)> {
        self.externals
            .iter()
            .flat_map(|(host, all)| all.iter().map(move |external| (&**host, &**external)))
    }

    /// Where an address leads: a service, then one workload, then out of the mesh if it is outside. An address
    /// that belongs to the mesh and is not known is refused: it must never be reached in the clear.
    pub(crate) fn by_address(&self, destination: SocketAddr) -> Result<Upstream, NoRoute> {
        let destination = SocketAddr::new(destination.ip().to_canonical(), destination.port());
        if let Some(frontend) = self.by_address.get(&destination) {
            frontend.used.mark();
            return Ok(Upstream::Mesh(frontend.clone()));
        }
        if self.config.contains(destination.ip()) {
            return Err(NoRoute::UnknownInMesh);
        }
        match self.config.egress {
            Egress::Allow => Ok(Upstream::External(destination)),
            Egress::Deny if self.is_declared_outside(destination) => Ok(Upstream::External(destination)),
            Egress::Deny => Err(NoRoute::EgressDenied),
        }
    }

    /// Where a host name leads, as an application writes it: `web`, `web.default`, `web.default.svc`,
    /// `web.default.svc.cluster.local`, or an address. `host` is in lower case.
    pub(crate) fn by_host(&self, host: &str, port: Option<u16>) -> Result<Upstream, NoRoute> {
        if let Some(ip) = address(host) {
            return self.by_address(SocketAddr::new(ip, port.unwrap_or(HTTP_PORT)));
        }
        let host = host.strip_suffix('.').unwrap_or(host);
        let short = short_name(host);
        let ports = match short.contains('.') {
            true => self.by_name.get(short),
            false => self.by_name.get(format!("{short}.{}", self.namespace).as_str()),
        };
        let Some(ports) = ports else {
            return self.by_external(host, port);
        };
        let frontend = select_port(ports, port)?;
        frontend.used.mark();
        Ok(Upstream::Mesh(frontend.clone()))
    }

    /// A host that a document declares to be outside, with the port that is meant.
    pub(crate) fn external(&self, host: &str, port: Option<u16>) -> Result<(&Arc<External>, u16), NoRoute> {
        let host = host.strip_suffix('.').unwrap_or(host);
        let externals = self.externals.get(host).ok_or(NoRoute::UnknownName)?;
        let find = |number| externals.iter().find(|external| external.ports.contains(&number));
        let mut ports = externals.iter().flat_map(|external| &external.ports);
        let port = match (port, ports.next(), ports.next()) {
            (Some(port), _, _) => port,
            (None, Some(only), None) => *only,
            (None, _, _) => HTTP_PORT,
        };
        let external = find(port).ok_or(NoRoute::UnknownPort)?;
        external.used.mark();
        Ok((external, port))
    }

    /// `Unresolved`: the DNS knows its address.
    fn by_external(&self, host: &str, port: Option<u16>) -> Result<Upstream, NoRoute> {
        let (external, port) = self.external(host, port)?;
        let address = external.addresses.first().ok_or(NoRoute::Unresolved)?;
        Ok(Upstream::External(SocketAddr::new(*address, port)))
    }

    fn is_declared_outside(&self, destination: SocketAddr) -> bool {
        self.externals.values().flatten().any(|external| {
            let is_it = external.ports.contains(&destination.port())
                && external.addresses.contains(&destination.ip());
            if is_it {
                external.used.mark();
            }
            is_it
        })
    }

    /// Who was used since this was last asked: names as [`full_name`](Self::full_name) has them, and addresses.
    pub(crate) fn take_used(&self) -> (HashSet<String>, HashSet<IpAddr>) {
        let is_used = |frontend: &Arc<Frontend>| frontend.used.is_marked();
        let names = self.by_name.iter().filter(|(_, ports)| ports.iter().any(is_used));
        let names = names.map(|(name, _)| name.to_string());
        let is_called = |external: &Arc<External>| external.used.is_marked();
        let hosts = self.externals.iter().filter(|(_, all)| all.iter().any(is_called));
        let names = names.chain(hosts.map(|(host, _)| host.to_string())).collect();
        let addresses = self.by_address.iter().filter(|(_, frontend)| is_used(frontend));
        let addresses = addresses.map(|(address, _)| address.ip()).collect();
        let used = self.by_name.values().flatten().chain(self.by_address.values());
        used.for_each(|frontend| frontend.used.clear());
        self.externals
            .values()
            .flatten()
            .for_each(|external| external.used.clear());
        (names, addresses)
    }

    /// A host in the one spelling by which it is asked for: `web.default` for a service, whatever the application wrote.
    pub(crate) fn full_name(&self, host: &str) -> String {
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        let short = short_name(&host);
        match short.contains('.') {
            true => short.to_owned(),
            false => format!("{short}.{}", self.namespace),
        }
    }
}

/// Without what the DNS of a cluster appends to the name of a service.
fn short_name(host: &str) -> &str {
    [".svc.cluster.local", ".svc"]
        .iter()
        .find_map(|suffix| host.strip_suffix(suffix))
        .unwrap_or(host)
}

/// What a URL of scheme `http` means without a port.
const HTTP_PORT: u16 = 80;

/// The named port; without one that of HTTP, or the only one there is.
fn select_port(ports: &[Arc<Frontend>], port: Option<u16>) -> Result<&Arc<Frontend>, NoRoute> {
    let find = |number| ports.iter().find(|frontend| frontend.backend.port == number);
    match (port, ports) {
        (Some(number), _) => find(number).ok_or(NoRoute::UnknownPort),
        (None, [only]) => Ok(only),
        (None, _) => find(HTTP_PORT).ok_or(NoRoute::AmbiguousPort),
    }
}

/// The address that a host is, if it is one.
pub(crate) fn address(host: &str) -> Option<IpAddr> {
    host.strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(host)
        .parse()
        .ok()
}

impl Upstream {
    /// What the request is for, where it does not say so itself.
    pub(crate) fn authority(&self) -> Authority {
        let text = match self {
            Self::Mesh(frontend) => return frontend.authority(),
            Self::External(address) => address.to_string(),
        };
        Authority::try_from(text).unwrap_or_else(|_| Authority::from_static("unknown"))
    }
}

impl Frontend {
    /// As it is called: NAME.NAMESPACE and port.
    pub(crate) fn authority(&self) -> Authority {
        let backend = &self.backend;
        let name = backend
            .name
            .split_once('/')
            .map(|(namespace, name)| format!("{name}.{namespace}"));
        let text = format!("{}:{}", name.as_deref().unwrap_or(&backend.name), backend.port);
        Authority::try_from(text).unwrap_or_else(|_| Authority::from_static("unknown"))
    }
}

impl Endpoint {
    /// The identity that it must prove; none in the clear.
    pub(crate) fn identity(&self) -> Option<&SpiffeId> {
        match &self.reach {
            Reach::Mesh(peer) => Some(&peer.identity),
            Reach::Plain(_) => None,
        }
    }
}

impl Used {
    /// It is used. Nearly always it is marked already, and then its cache line is only read.
    pub(crate) fn mark(&self) {
        if !self.0.load(Relaxed) {
            self.0.store(true, Relaxed);
        }
    }

    fn is_marked(&self) -> bool {
        self.0.load(Relaxed)
    }

    fn clear(&self) {
        self.0.store(false, Relaxed);
    }
}

impl Inbound {
    /// The declared port that a request asks for; the only one if it asks for none.
    pub(crate) fn port(&self, wanted: Option<u16>) -> Result<&InboundPort, NoPort> {
        match (wanted, self.ports.as_slice()) {
            (Some(wanted), ports) => ports
                .iter()
                .find(|port| port.port == wanted)
                .ok_or(NoPort::Undeclared),
            (None, [only]) => Ok(only),
            (None, _) => Err(NoPort::Missing),
        }
    }

    /// Whether a CONNECT to `host` means this workload.
    pub(crate) fn is_named(&self, host: &str) -> bool {
        self.names.iter().any(|name| **name == *host)
    }
}

/// Why a request reaches no port of the application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoPort {
    /// It asks for one that is not declared.
    Undeclared,
    /// It asks for none, and there is not just one.
    Missing,
}
