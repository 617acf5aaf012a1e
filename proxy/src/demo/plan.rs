//! Who takes part in the demo, on which addresses, and the files that make it a mesh.

use std::{
    fmt, fs, io,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    path::Path,
    time::Duration,
};

use weft_proto::TrustDomain;

use super::DemoError;
use crate::dev_certs::{self, DevCertsArgs};

/// Never a real one: this mesh ends with the demo.
const TRUST_DOMAIN: &str = "weft.demo";

/// Longer than anyone leaves a demo up.
const LIFETIME: Duration = Duration::from_secs(7 * 24 * 3600);

/// The ports that other tools rely on: the demo has them on addresses of its own, so that none is changed.
const MESH: u16 = 15_008;
const OUTBOUND: u16 = 15_001;
const ADMIN: u16 = 15_000;
const METRICS: u16 = 15_020;

/// Messages of the lab's gRPC service are opaque; this shape lets grpcurl write and read them.
const ECHO_PROTO: &str = "syntax = \"proto3\";
package weft.lab.v1;
message Message { string text = 1; }
service Echo {
  rpc Unary(Message) returns (Message);
  rpc BidiStream(stream Message) returns (stream Message);
}
";

/// The file of [`ECHO_PROTO`].
pub(super) const ECHO_PROTO_FILE: &str = "echo.proto";

/// The one that only calls others.
pub(super) const CLIENT: &Member = &Member {
    name: "client",
    account: "client",
    host: 1,
    application: None,
};

/// Everyone else, in the order of their start. Two of them are one service.
pub(super) const SERVERS: [Member; 4] = [
    Member {
        name: "web-0",
        account: "web",
        host: 2,
        application: Some(&WEB),
    },
    Member {
        name: "web-1",
        account: "web",
        host: 3,
        application: Some(&WEB),
    },
    Member {
        name: "greeter-0",
        account: "greeter",
        host: 4,
        application: Some(&GREETER),
    },
    Member {
        name: "db-0",
        account: "db",
        host: 5,
        application: Some(&DB),
    },
];

pub(super) static WEB: Application = Application {
    service: "web",
    kind: "http",
    protocol: "http",
    port: 80,
    target: 8080,
};
pub(super) static GREETER: Application = Application {
    service: "greeter",
    kind: "grpc",
    protocol: "grpc",
    port: 50051,
    target: 50051,
};
pub(super) static DB: Application = Application {
    service: "db",
    kind: "tcp-greeter",
    protocol: "tcp",
    port: 5432,
    target: 5432,
};

/// A workload.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) name: &'static str,
    /// Its service account.
    pub(super) account: &'static str,
    /// The last byte of its address.
    host: u8,
    /// What it serves.
    pub(super) application: Option<&'static Application>,
}

/// An example service of the lab.
#[derive(Debug)]
pub(super) struct Application {
    /// The Service, in the namespace `default`.
    pub(super) service: &'static str,
    /// As `weft-proxy lab services` calls it.
    pub(super) kind: &'static str,
    /// Its appProtocol.
    protocol: &'static str,
    /// The Service's port.
    port: u16,
    /// Where the application listens.
    target: u16,
}

/// The addresses of a demo: 127.A.B.0/24, in which each workload has its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Subnet(Ipv4Addr);

/// Which port of a workload.
#[derive(Clone, Copy)]
enum Transport {
    Tcp,
    Udp,
}

impl Subnet {
    pub(super) fn address(self, member: &Member, port: u16) -> SocketAddr {
        let [a, b, c, _] = self.0.octets();
        SocketAddr::new(IpAddr::V4(Ipv4Addr::new(a, b, c, member.host)), port)
    }

    /// Where a workload's application sends what is for the mesh.
    pub(super) fn outbound(self, member: &Member) -> SocketAddr {
        self.address(member, OUTBOUND)
    }

    pub(super) fn admin(self, member: &Member) -> SocketAddr {
        self.address(member, ADMIN)
    }

    pub(super) fn metrics(self, member: &Member) -> SocketAddr {
        self.address(member, METRICS)
    }

    /// The client's port that leads to the database.
    pub(super) fn bind(self) -> SocketAddr {
        self.address(CLIENT, DB.port)
    }

    /// Where a workload's application listens.
    pub(super) fn application(self, member: &Member) -> Option<SocketAddr> {
        member
            .application
            .map(|application| self.address(member, application.target))
    }

    /// Checks that nobody else has a port that the demo needs.
    ///
    /// # Errors
    /// The first that is taken.
    pub(super) fn check_ports(self) -> Result<(), DemoError> {
        let mut ports = vec![(self.bind(), Transport::Tcp)];
        for member in members() {
            ports.push((self.address(member, MESH), Transport::Udp));
            let tcp = [self.outbound(member), self.admin(member), self.metrics(member)];
            ports.extend(
                tcp.into_iter()
                    .chain(self.application(member))
                    .map(|port| (port, Transport::Tcp)),
            );
        }
        for (address, transport) in ports {
            let bound = match transport {
                Transport::Tcp => TcpListener::bind(address).map(drop),
                Transport::Udp => UdpSocket::bind(address).map(drop),
            };
            bound.map_err(|source| DemoError::Port {
                transport: transport.name(),
                address,
                source,
            })?;
        }
        Ok(())
    }
}

impl Default for Subnet {
    fn default() -> Self {
        Self(Ipv4Addr::new(127, 77, 0, 0))
    }
}

impl std::str::FromStr for Subnet {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let address: Ipv4Addr = text.parse().map_err(|_| "is not an IPv4 address".to_owned())?;
        match address.octets() {
            // Its first addresses are everybody's, and 127.0.0.6 is where sidecars call applications from.
            [127, 0, 0, 0] => Err("is the loopback network that others use".to_owned()),
            [127, _, _, 0] => Ok(Self(address)),
            _ => Err("is not a loopback network of 256 addresses, such as 127.78.0.0".to_owned()),
        }
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Transport {
    fn name(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        }
    }
}

impl Member {
    /// Its SPIFFE ID.
    pub(super) fn identity(&self) -> String {
        format!("spiffe://{TRUST_DOMAIN}/ns/default/sa/{}", self.account)
    }

    /// What the mesh calls it.
    pub(super) fn uid(&self) -> String {
        format!("default/{}", self.name)
    }

    /// The file of its sidecar.
    pub(super) fn file(&self) -> String {
        format!("{}.yaml", self.name)
    }

    fn config(&self, subnet: Subnet) -> String {
        let Self { name, account, .. } = self;
        let mut text = format!(
            "workload: {{name: {name}, namespace: default, serviceAccount: {account}, labels: {{app: {account}}}}}\n\
             state: {name}-state\n\
             identity: {{certificate: {account}.pem, key: {account}.key, trustBundle: ca.pem}}\n\
             listen:\n  mesh: \"{}\"\n  outbound: \"{}\"\n  inbound: []\n  admin: \"{}\"\n  metrics: \"{}\"\n\
             documents: [mesh.yaml]\n\
             accessLog: {name}-access.log\n",
            subnet.address(self, MESH),
            subnet.outbound(self),
            subnet.admin(self),
            subnet.metrics(self),
        );
        match self.application {
            Some(Application { protocol, target, .. }) => {
                let address = subnet.address(self, 0).ip();
                text += &format!(
                    "application: {{address: {address}, ports: [{{name: {protocol}, port: {target}, protocol: {protocol}}}]}}\n"
                );
            }
            None => {
                text += &format!(
                    "binds: [{{listen: \"{}\", service: \"{}.default:{}\"}}]\n",
                    subnet.bind(),
                    DB.service,
                    DB.port
                );
            }
        }
        text
    }

    fn document(&self, subnet: Subnet) -> String {
        let Self { name, account, .. } = self;
        let address = subnet.address(self, 0).ip();
        let ports = self.application.map(|Application { protocol, target, .. }| {
            format!("  ports: [{{name: {protocol}, port: {target}, protocol: {protocol}}}]\n")
        });
        format!(
            "---\napiVersion: weft.dev/v1alpha1\nkind: Workload\n\
             metadata: {{name: {name}, namespace: default, labels: {{app: {account}}}}}\n\
             spec:\n  address: {address}\n  meshPort: {MESH}\n  serviceAccount: {account}\n{}",
            ports.unwrap_or_default()
        )
    }
}

impl Application {
    fn document(&self) -> String {
        let Self {
            service,
            protocol,
            port,
            target,
            ..
        } = self;
        format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {service}, namespace: default}}\n\
             spec:\n  selector: {{app: {service}}}\n  \
             ports: [{{name: {protocol}, port: {port}, targetPort: {target}, appProtocol: {protocol}}}]\n"
        )
    }

    /// As gRPC and HTTP clients name it.
    pub(super) fn host(&self) -> String {
        format!("{}.default", self.service)
    }

    /// The workloads behind it.
    pub(super) fn members(&self) -> impl Iterator<Item = &'static Member> {
        let service = self.service;
        SERVERS.iter().filter(move |member| {
            member
                .application
                .is_some_and(|application| application.service == service)
        })
    }
}

/// All workloads, in the order of their start.
pub(super) fn members() -> impl Iterator<Item = &'static Member> {
    SERVERS.iter().chain([CLIENT])
}

/// Writes everything that the sidecars read.
///
/// # Errors
/// What could not be made or written.
pub(super) fn write_files(directory: &Path, subnet: Subnet) -> Result<(), DemoError> {
    let mut accounts: Vec<_> = members().map(|member| member.account).collect();
    accounts.dedup();
    let not_names = |message| DemoError::Step {
        step: "make certificates".to_owned(),
        message,
    };
    let trust_domain: TrustDomain = TRUST_DOMAIN
        .parse()
        .map_err(|error: weft_proto::identity::SpiffeIdError| not_names(error.to_string()))?;
    let names = accounts
        .iter()
        .map(|account| account.parse())
        .collect::<Result<_, _>>()
        .map_err(not_names)?;
    let directory_of_keys = directory.to_owned();
    let args = DevCertsArgs {
        directory: directory_of_keys,
        names,
        trust_domain,
        lifetime: LIFETIME,
        force: false,
    };
    dev_certs::write(&args)?;
    write(directory, "mesh.yaml", &mesh(subnet))?;
    write(directory, ECHO_PROTO_FILE, ECHO_PROTO)?;
    for member in members() {
        write(directory, &member.file(), &member.config(subnet))?;
    }
    Ok(())
}

fn mesh(subnet: Subnet) -> String {
    let mut text = format!(
        "apiVersion: weft.dev/v1alpha1\nkind: MeshConfig\nmetadata: {{name: mesh}}\n\
         spec: {{trustDomain: {TRUST_DOMAIN}, meshRanges: [\"{subnet}/24\"]}}\n"
    );
    for application in [&WEB, &GREETER, &DB] {
        text += &application.document();
    }
    for member in members() {
        text += &member.document(subnet);
    }
    text
}

fn write(directory: &Path, name: &str, text: &str) -> Result<(), DemoError> {
    let path = directory.join(name);
    fs::write(&path, text).map_err(|source: io::Error| DemoError::Io { path, source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::documents::DocumentsWatcher;

    #[test]
    fn the_files_are_right() {
        let directory = tempfile::tempdir().unwrap();
        write_files(directory.path(), Subnet::default()).unwrap();
        for member in members() {
            let config = Config::load(&directory.path().join(member.file())).unwrap();
            let (_, documents) = DocumentsWatcher::load(&config.files().unwrap().documents).unwrap();
            let mesh = documents.mesh.borrow().clone();
            assert_eq!((mesh.services.len(), mesh.workloads.len()), (3, 5));
            let workload = mesh
                .workloads
                .iter()
                .find(|known| known.uid.to_string() == member.uid())
                .unwrap();
            assert_eq!(
                workload.identity(&mesh.config.trust_domain).as_str(),
                member.identity()
            );
        }
        assert_eq!(WEB.members().count(), 2);
    }

    #[test]
    fn only_loopback_networks_of_their_own() {
        assert_eq!("127.77.0.0".parse(), Ok(Subnet::default()));
        for bad in ["127.0.0.0", "127.78.0.1", "10.0.0.0", "::1", "127.78", ""] {
            assert!(bad.parse::<Subnet>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_taken_port_is_named_with_the_way_out() {
        let subnet: Subnet = "127.76.9.0".parse().unwrap();
        let taken = UdpSocket::bind("127.76.9.4:15008").unwrap();
        let error = subnet.check_ports().unwrap_err().to_string();
        assert!(
            error.contains("UDP 127.76.9.4:15008") && error.contains("--subnet"),
            "{error}"
        );
        drop(taken);
        subnet.check_ports().unwrap();
    }
}
