//! Who takes part in the demo, on which addresses, and what each sidecar is told at its start.

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    path::Path,
};

use super::DemoError;

/// Never a real one: this mesh ends with the demo.
pub(super) const TRUST_DOMAIN: &str = "weft.demo";

/// The ports that other tools rely on: the demo has them on addresses of its own, so that none is changed.
const MESH: u16 = 15_008;
const OUTBOUND: u16 = 15_001;
const INBOUND: u16 = 15_006;
const ADMIN: u16 = 15_000;
const METRICS: u16 = 15_020;
const CONTROLLER: u16 = 15_010;
const CONTROLLER_METRICS: u16 = 15_014;

/// The last byte of the controller's address.
const CONTROLLER_HOST: u8 = 1;

/// Messages of the lab's gRPC service are opaque; this shape lets grpcurl write and read them.
pub(super) const ECHO_PROTO: &str = "syntax = \"proto3\";
package weft.lab.v1;
message Message { string text = 1; }
service Echo {
  rpc Unary(Message) returns (Message);
  rpc BidiStream(stream Message) returns (stream Message);
}
";

/// The file of [`ECHO_PROTO`].
pub(super) const ECHO_PROTO_FILE: &str = "echo.proto";

/// The versions of the catalog; of other services there is the first alone.
pub(super) const V1: &str = "v1";
pub(super) const V2: &str = "v2";

/// The workload that customers would reach. The demo itself is its application.
pub(super) static FRONTEND: Member = Member::new("frontend", "frontend", 2);
/// Two replicas of the old version of one service, and one of the new.
pub(super) static CATALOG_V1_0: Member = Member::new("catalog-v1-0", "catalog", 3).serving(&CATALOG, V1);
/// The replica that bad things happen to.
pub(super) static CATALOG_V1_1: Member = Member::new("catalog-v1-1", "catalog", 8).serving(&CATALOG, V1);
static CATALOG_V2_0: Member = Member::new("catalog-v2-0", "catalog", 4).serving(&CATALOG, V2);
static CART_0: Member = Member::new("cart-0", "cart", 5).serving(&CART, V1);
/// It also calls: `orders`, through a port of its sidecar.
pub(super) static CHECKOUT_0: Member = Member::new("checkout-0", "checkout", 6).serving(&CHECKOUT, V1);
static ORDERS_0: Member = Member::new("orders-0", "orders", 7).serving(&ORDERS, V1);

/// All workloads of the shop, in the order of their start.
pub(super) static MEMBERS: [&Member; 7] = [
    &CATALOG_V1_0,
    &CATALOG_V1_1,
    &CATALOG_V2_0,
    &CART_0,
    &CHECKOUT_0,
    &ORDERS_0,
    &FRONTEND,
];

pub(super) static CATALOG: Application = Application {
    service: "catalog",
    kind: "http",
    protocol: "http",
    port: 80,
    target: 8080,
};
pub(super) static CART: Application = Application {
    service: "cart",
    kind: "grpc",
    protocol: "grpc",
    port: 50_051,
    target: 50_051,
};
pub(super) static CHECKOUT: Application = Application {
    service: "checkout",
    kind: "http",
    protocol: "http",
    port: 80,
    target: 8080,
};
pub(super) static ORDERS: Application = Application {
    service: "orders",
    kind: "tcp-greeter",
    protocol: "tcp",
    port: 5432,
    target: 5432,
};

/// A workload.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) name: &'static str,
    /// Its service account, and its label `app`.
    pub(super) account: &'static str,
    /// Its label `version`.
    pub(super) version: &'static str,
    /// The last byte of its address.
    host: u8,
    /// What it serves.
    pub(super) application: Option<&'static Application>,
}

/// An example service of the lab.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Application {
    /// The Service, in the namespace `default`.
    pub(super) service: &'static str,
    /// As `weft __lab services` calls it.
    pub(super) kind: &'static str,
    /// Its appProtocol.
    pub(super) protocol: &'static str,
    /// The Service's port.
    pub(super) port: u16,
    /// Where the application listens.
    pub(super) target: u16,
}

/// The addresses of a demo: 127.A.B.0/24, in which each workload has its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Subnet(Ipv4Addr);

/// Which port of a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Transport {
    Tcp,
    Udp,
}

impl Subnet {
    fn at(self, host: u8, port: u16) -> SocketAddr {
        let [a, b, c, _] = self.0.octets();
        SocketAddr::new(IpAddr::V4(Ipv4Addr::new(a, b, c, host)), port)
    }

    /// Where the controller is reached.
    pub(super) fn controller(self) -> SocketAddr {
        self.at(CONTROLLER_HOST, CONTROLLER)
    }

    /// The controller's pages.
    pub(super) fn controller_metrics(self) -> SocketAddr {
        self.at(CONTROLLER_HOST, CONTROLLER_METRICS)
    }

    /// Where a sidecar is reached by others, over UDP.
    pub(super) fn mesh(self, member: &Member) -> SocketAddr {
        self.at(member.host, MESH)
    }

    /// Where a workload's application sends what is for the mesh.
    pub(super) fn outbound(self, member: &Member) -> SocketAddr {
        self.at(member.host, OUTBOUND)
    }

    /// A sidecar's pages for operators.
    pub(super) fn admin(self, member: &Member) -> SocketAddr {
        self.at(member.host, ADMIN)
    }

    /// A sidecar's pages for scrapers.
    pub(super) fn metrics(self, member: &Member) -> SocketAddr {
        self.at(member.host, METRICS)
    }

    /// The port of checkout's sidecar that leads to `orders`.
    pub(super) fn orders(self) -> SocketAddr {
        self.at(CHECKOUT_0.host, ORDERS.port)
    }

    /// Where a workload's application listens.
    pub(super) fn application(self, member: &Member) -> Option<SocketAddr> {
        member
            .application
            .map(|application| self.at(member.host, application.target))
    }

    /// Every port that the demo will have.
    fn ports(self) -> Vec<(SocketAddr, Transport)> {
        let mut ports = vec![
            (self.controller(), Transport::Tcp),
            (self.controller_metrics(), Transport::Tcp),
            (self.orders(), Transport::Tcp),
        ];
        for member in MEMBERS {
            ports.push((self.at(member.host, MESH), Transport::Udp));
            let tcp = [OUTBOUND, INBOUND, ADMIN, METRICS].map(|port| self.at(member.host, port));
            ports.extend(
                tcp.into_iter()
                    .chain(self.application(member))
                    .map(|address| (address, Transport::Tcp)),
            );
        }
        ports
    }

    /// Checks that nobody else has a port that the demo needs.
    ///
    /// # Errors
    /// The first that is taken.
    pub(super) fn check_ports(self) -> Result<(), DemoError> {
        for (address, transport) in self.ports() {
            let bound = match transport {
                Transport::Tcp => TcpListener::bind(address).map(drop),
                Transport::Udp => UdpSocket::bind(address).map(drop),
            };
            bound.map_err(|source: io::Error| DemoError::Port {
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
    const fn new(name: &'static str, account: &'static str, host: u8) -> Self {
        Self {
            name,
            account,
            version: V1,
            host,
            application: None,
        }
    }

    const fn serving(self, application: &'static Application, version: &'static str) -> Self {
        Self {
            application: Some(application),
            version,
            ..self
        }
    }

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

    /// The file of its sidecar's join token.
    pub(super) fn token_file(&self) -> String {
        format!("{}.token", self.name)
    }

    /// The directory of its sidecar's keys.
    pub(super) fn state(&self) -> String {
        format!("{}-state", self.name)
    }

    /// What its sidecar is told at its start. Paths are relative to the file.
    pub(super) fn config(&self, subnet: Subnet) -> String {
        let Self {
            name,
            account,
            version,
            ..
        } = self;
        let address = subnet.at(self.host, 0).ip();
        let mut text = format!(
            "workload: {{name: {name}, namespace: default, serviceAccount: {account}, \
             labels: {{app: {account}, version: {version}}}}}\n\
             controller: {{address: \"{}\", workloadAddress: {address}, join: {{tokenFile: {}}}}}\n\
             state: {}\n\
             listen:\n",
            subnet.controller(),
            self.token_file(),
            self.state(),
        );
        let listeners = [
            ("mesh", MESH),
            ("outbound", OUTBOUND),
            ("inbound", INBOUND),
            ("admin", ADMIN),
            ("metrics", METRICS),
        ];
        for (listener, port) in listeners {
            text += &format!("  {listener}: \"{}\"\n", subnet.at(self.host, port));
        }
        text += &format!("accessLog: {name}-access.log\n");
        if let Some(Application { protocol, target, .. }) = self.application {
            text += &format!(
                "application: {{address: {address}, ports: [{{name: {protocol}, port: {target}, protocol: {protocol}}}]}}\n"
            );
        }
        if self.name == CHECKOUT_0.name {
            text += &format!(
                "binds: [{{listen: \"{}\", service: \"{}:{}\"}}]\n",
                subnet.orders(),
                ORDERS.host(),
                ORDERS.port
            );
        }
        text
    }
}

impl Application {
    /// As gRPC and HTTP clients name it.
    pub(super) fn host(&self) -> String {
        format!("{}.default", self.service)
    }

    /// The workloads behind it.
    pub(super) fn members(&self) -> impl Iterator<Item = &'static Member> {
        let service = self.service;
        MEMBERS.into_iter().filter(move |member| {
            member
                .application
                .is_some_and(|application| application.service == service)
        })
    }
}

/// Where the demo keeps something of the controller's.
pub(super) fn data_directory(directory: &Path) -> std::path::PathBuf {
    directory.join("controller")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_share_a_port() {
        let mut ports: Vec<_> = Subnet::default()
            .ports()
            .into_iter()
            .map(|(address, transport)| (address, transport.name()))
            .collect();
        let count = ports.len();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), count);
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
