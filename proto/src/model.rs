//! The documents of a mesh once they are read: what they mean, with nothing invalid left in them.
//!
//! These are made by [`parse`](crate::parse) alone, which also upholds what concerns several fields of a document
//! at once and is stated here as a promise; what concerns several documents holds of a [`Mesh`].

pub mod policy;
pub mod route;

use crate::identity::{SpiffeId, TrustDomain};
use crate::names::{DnsLabel, DnsName, Labels, PortName, WorkloadUid};
use ipnet::IpNet;
pub use policy::TrafficPolicy;
pub use route::{FieldMatch, ReferenceGrant, Route, RouteKind, Share};
use std::fmt;
use std::net::IpAddr;

/// All documents of a mesh, consistent with each other.
///
/// No two services and no two workloads share a name; no two workloads share a uid, or a port of an address; no
/// two services share a port of a cluster IP; no two external services share a port of a host. Nothing that an
/// external service declares is a name or an address of the mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Mesh {
    /// What holds for the mesh as a whole.
    pub config: MeshConfig,
    /// The services, in the order of the documents.
    pub services: Vec<Service>,
    /// The workloads, in the order of the documents.
    pub workloads: Vec<Workload>,
    /// The names outside the mesh that may be called, in the order of the documents.
    pub external_services: Vec<ExternalService>,
    /// How requests for services are told apart, in the order of the documents.
    pub routes: Vec<Route>,
    /// Which services routes of other namespaces may send requests to, in the order of the documents.
    pub reference_grants: Vec<ReferenceGrant>,
    /// How requests for services are treated, in the order of the documents.
    pub traffic_policies: Vec<TrafficPolicy>,
}

impl Mesh {
    /// The workloads that stand behind a service, in the order of the documents.
    pub fn workloads_of<'a>(&'a self, service: &'a Service) -> impl Iterator<Item = &'a Workload> {
        self.workloads.iter().filter(|workload| service.selects(workload))
    }
}

/// `weft.dev/v1alpha1 MeshConfig`: what holds for the mesh as a whole.
///
/// A setting that is absent has the safe value: see each. With egress allowed there is at least one mesh range,
/// and if there are mesh ranges then every meshed workload's address is in one: so traffic for a workload that is
/// gone, or not known yet, is never passed through in the clear.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MeshConfig {
    /// The trust domain of every identity of the mesh. Required.
    pub trust_domain: TrustDomain,
    /// The addresses that belong to the mesh. Absent: none.
    pub mesh_ranges: Vec<IpNet>,
    /// The addresses from which cluster IPs are taken; they belong to the mesh as well. If there are any, every
    /// cluster IP is in one. Absent: none.
    pub service_ranges: Vec<IpNet>,
    /// What happens to traffic for addresses outside the mesh.
    pub egress: Egress,
    /// Whether a sidecar takes traffic that did not come through the mesh.
    pub inbound: InboundMode,
    /// Whether an endpoint without a sidecar may be used, in the clear.
    pub unmeshed: Unmeshed,
    /// Who may call whom where no policy says otherwise.
    pub authorization: Authorization,
}

impl MeshConfig {
    /// The settings of a mesh about which nothing but its trust domain is said.
    pub fn new(trust_domain: TrustDomain) -> Self {
        Self {
            trust_domain,
            mesh_ranges: Vec::new(),
            service_ranges: Vec::new(),
            egress: Egress::default(),
            inbound: InboundMode::default(),
            unmeshed: Unmeshed::default(),
            authorization: Authorization::default(),
        }
    }

    /// Whether an address belongs to the mesh: one that does and is not known is refused, never passed through.
    pub fn contains(&self, address: IpAddr) -> bool {
        // The kernel may hand an IPv4 destination over as an IPv4-mapped one.
        let address = address.to_canonical();
        self.mesh_ranges
            .iter()
            .chain(&self.service_ranges)
            .any(|range| range.contains(&address))
    }
}

/// What happens to traffic for addresses outside the mesh.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Egress {
    /// It is refused. The default.
    #[default]
    Deny,
    /// It is passed through as it is.
    Allow,
}

/// Whether a sidecar takes traffic that did not come through the mesh.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum InboundMode {
    /// No: only what comes over mutual TLS. The default.
    #[default]
    Strict,
    /// Yes, in the clear and without an identity.
    Permissive,
}

/// Whether an endpoint without a sidecar may be used, in the clear.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Unmeshed {
    /// No. The default.
    #[default]
    Deny,
    /// Yes; it shows as plaintext in logs, metrics and status.
    Allow,
}

/// Who may call whom where no policy says otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Authorization {
    /// Any identity of the trust domain may. The default, meant for the start: identities are always checked, and
    /// `deny` is one word away.
    #[default]
    Authenticated,
    /// Nobody may.
    Deny,
}

/// The name of a document that belongs to a namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name {
    /// The namespace; `default` if the document has none.
    pub namespace: DnsLabel,
    /// The name in the namespace.
    pub name: DnsName,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// `v1 Service`: a name and ports for the workloads that its selector selects.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Service {
    /// Its name, of a single label that begins with a letter (RFC 1035), as it is also a name in DNS.
    pub name: Name,
    /// The address that stands for all of its workloads.
    pub cluster_ip: ClusterIp,
    /// The labels of its workloads, which are those of the same namespace that have all of these. Never empty.
    pub selector: Labels,
    /// Its ports. Never empty; no two share a number and transport, or a name; all have names if there are two
    /// or more.
    pub ports: Vec<ServicePort>,
}

impl Service {
    /// Whether a workload stands behind this service: it is of the same namespace and has the labels.
    pub fn selects(&self, workload: &Workload) -> bool {
        self.name.namespace == workload.name.namespace && workload.labels.are_selected_by(&self.selector)
    }
}

/// The address that stands for all workloads of a service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ClusterIp {
    /// None was given: the service is reached by its name, through the sidecar.
    #[default]
    Unassigned,
    /// `None`: the service is a set of workloads, each reached at its own address.
    Headless,
    /// This one, shared with no other service on the same port.
    Address(IpAddr),
}

impl ClusterIp {
    /// The address, if there is one.
    pub fn address(self) -> Option<IpAddr> {
        match self {
            ClusterIp::Address(address) => Some(address),
            ClusterIp::Unassigned | ClusterIp::Headless => None,
        }
    }
}

/// A port of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServicePort {
    /// Its name.
    pub name: Option<DnsLabel>,
    /// The port that callers use. Never 0.
    pub port: u16,
    /// The port of the workload; the same number if the document does not say.
    pub target: TargetPort,
    /// What it speaks.
    pub protocol: AppProtocol,
}

impl ServicePort {
    /// The port at this workload, if it declares one to which this port leads.
    pub fn target_at<'a>(&self, workload: &'a Workload) -> Option<&'a WorkloadPort> {
        workload.ports.iter().find(|port| {
            port.protocol.is_udp() == self.protocol.is_udp()
                && match &self.target {
                    TargetPort::Number(number) => port.port == *number,
                    TargetPort::Name(name) => port.name.as_ref() == Some(name),
                }
        })
    }
}

/// The port of a workload to which a port of a service leads.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TargetPort {
    /// This number. Never 0.
    Number(u16),
    /// The port that the workload declares under this name, which may have another number at each.
    Name(PortName),
}

impl fmt::Display for TargetPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TargetPort::Number(number) => write!(f, "{number}"),
            TargetPort::Name(name) => write!(f, "{name}"),
        }
    }
}

/// What a port speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum AppProtocol {
    /// Not declared: the first bytes decide.
    #[default]
    Detect,
    /// `http`: HTTP/1.1.
    Http,
    /// `http2` or `kubernetes.io/h2c`: HTTP/2 with prior knowledge.
    Http2,
    /// `grpc`: gRPC, which is HTTP/2 with prior knowledge.
    Grpc,
    /// `tcp`: bytes.
    Tcp,
    /// `udp`: datagrams.
    Udp,
    /// `tls`: bytes of TLS, which the application encrypts and decrypts itself.
    Tls,
}

impl AppProtocol {
    /// Whether it runs over UDP. All others run over TCP, where the same port number is another port.
    pub fn is_udp(self) -> bool {
        self == AppProtocol::Udp
    }

    /// Whether it is declared to be HTTP of any version.
    pub fn is_http(self) -> bool {
        matches!(self, AppProtocol::Http | AppProtocol::Http2 | AppProtocol::Grpc)
    }

    /// The word for it in a document, and in metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            AppProtocol::Detect => "detect",
            AppProtocol::Http => "http",
            AppProtocol::Http2 => "http2",
            AppProtocol::Grpc => "grpc",
            AppProtocol::Tcp => "tcp",
            AppProtocol::Udp => "udp",
            AppProtocol::Tls => "tls",
        }
    }
}

/// `weft.dev/v1alpha1 Workload`: one instance of an application.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Workload {
    /// What tells it from every other workload; NAMESPACE/NAME if the document has none.
    pub uid: WorkloadUid,
    /// Its name.
    pub name: Name,
    /// Its address: neither unspecified, multicast, broadcast nor IPv4-mapped.
    pub address: IpAddr,
    /// The UDP port of its sidecar, which is none of its own ports; `None` if it has no sidecar. Never 0.
    pub mesh_port: Option<u16>,
    /// The service account that it runs as; `default` if the document has none.
    pub service_account: DnsName,
    /// Its ports, to which alone its sidecar forwards. No two share a number and transport, or a name.
    pub ports: Vec<WorkloadPort>,
    /// Its labels, by which services select it.
    pub labels: Labels,
    /// Where it runs.
    pub locality: Option<Locality>,
}

impl Workload {
    /// One of which nothing but its name and address is said. What is promised of a workload is promised once the
    /// [document of it](crate::render::workload) was read.
    pub fn new(name: Name, address: IpAddr) -> Self {
        Self {
            uid: WorkloadUid::of(&name.namespace, &name.name),
            name,
            address,
            mesh_port: None,
            service_account: DnsName::default_service_account(),
            ports: Vec::new(),
            labels: Labels::default(),
            locality: None,
        }
    }

    /// The identity that its sidecar must prove.
    pub fn identity(&self, trust_domain: &TrustDomain) -> SpiffeId {
        SpiffeId::from_checked_segments(trust_domain, &self.name.namespace, &self.service_account)
    }

    /// Whether it has a sidecar.
    pub fn is_meshed(&self) -> bool {
        self.mesh_port.is_some()
    }
}

/// A port of a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct WorkloadPort {
    /// Its name.
    pub name: Option<PortName>,
    /// Its number. Never 0.
    pub port: u16,
    /// What it speaks.
    pub protocol: AppProtocol,
}

impl WorkloadPort {
    /// A port, of which the same is promised as of a [workload](Workload::new).
    pub fn new(name: Option<PortName>, port: u16, protocol: AppProtocol) -> Self {
        Self { name, port, protocol }
    }
}

/// Whether a workload takes requests now, as its own proxy says.
///
/// A workload that is only a document has no proxy to say so, and counts as ready.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Readiness {
    /// It does.
    #[default]
    Ready,
    /// Not yet, or not any more: its application does not pass its checks.
    NotReady,
    /// It is going away: requests under way end there, new ones go elsewhere.
    Draining,
}

impl Readiness {
    /// The word for it in tables, metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Readiness::Ready => "ready",
            Readiness::NotReady => "not_ready",
            Readiness::Draining => "draining",
        }
    }

    /// Whether new requests may be sent to it.
    pub fn takes_requests(self) -> bool {
        self == Readiness::Ready
    }
}

impl fmt::Display for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Where a workload runs, from the largest to the smallest place.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Locality {
    /// Such as `eu-west-1`.
    pub region: String,
    /// A part of the region, such as `eu-west-1a`.
    pub zone: Option<String>,
    /// A part of the zone, such as a rack; only with a zone.
    pub subzone: Option<String>,
}

impl Locality {
    /// A region, of which the same is promised as of a [workload](Workload::new).
    pub fn new(region: String) -> Self {
        Self {
            region,
            zone: None,
            subzone: None,
        }
    }
}

/// `weft.dev/v1alpha1 ExternalService`: names outside the mesh that its workloads may call.
///
/// What an application sends to one of the hosts, on one of the ports, is passed to where the host leads although
/// egress is denied otherwise: as the application sent it, which is in the clear unless the application encrypts.
/// A host that turns out to lead into the mesh's own addresses is not passed on: see [`MeshConfig::contains`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExternalService {
    /// Its name, of use to operators alone.
    pub name: Name,
    /// What it is called outside, of two labels or more. Never empty; none twice. Neither addresses nor names of
    /// the mesh.
    pub hosts: Vec<DnsName>,
    /// Its ports. Never empty; no two share a number and transport, or a name.
    pub ports: Vec<ExternalPort>,
    /// How a host becomes addresses.
    pub resolution: Resolution,
}

/// A port of an external service.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExternalPort {
    /// Its name.
    pub name: Option<DnsLabel>,
    /// Its number. Never 0.
    pub port: u16,
    /// What it speaks.
    pub protocol: AppProtocol,
}

/// How a host outside the mesh becomes addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Resolution {
    /// `dns`: the proxy asks the DNS. The default.
    #[default]
    Dns,
    /// `static`: these, whatever the DNS says. Never empty; none twice; none of the mesh, none of the proxy's own
    /// host.
    Static(Vec<IpAddr>),
}
