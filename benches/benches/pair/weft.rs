//! Weft: `weft-proxy` as it is shipped, configured from files.

use crate::Result;
use crate::arguments::Options;
use crate::certificates::{CLIENT, Certificates, SERVER, TRUST_DOMAIN};
use crate::ground::{Ground, HTTP_PORT, Layer, STARTUP, TCP_PORT, Target};
use crate::pairs::Running;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use weft_lab::netns::Host;
use weft_lab::process::{Process, Ready};

/// The service that the load asks for.
pub(crate) const SERVICE_HOST: &str = "web";

/// weft-proxy's defaults.
const OUTBOUND: SocketAddr = loopback(15001);
const ADMIN: SocketAddr = loopback(15000);
const MESH_PORT: u16 = 15008;

/// The bind of the L4 service.
const BIND: SocketAddr = loopback(5432);

/// The services' own addresses, which captured applications connect to.
const SERVICE_RANGE: &str = "10.96.0.0/16";
const HTTP_SERVICE: SocketAddr = service(10, 80);
const TCP_SERVICE: SocketAddr = service(11, 5432);

/// What the sidecars mark their sockets with where there is capture.
const MARK: u32 = 4711;

/// How connections come to the sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Door {
    /// The load is told the sidecar's ports.
    Explicit,
    /// The load connects to the services, and the kernel brings it to the sidecar.
    Captured,
}

/// What the mesh is told of the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Traffic {
    /// Where it is.
    Plain,
    /// Also a route that every request matches, and a policy with everything on that costs something.
    Routed,
}

pub(crate) struct Weft {
    binary: PathBuf,
}

impl Weft {
    /// Finds weft-proxy, or builds it.
    pub(crate) fn prepare(options: &Options) -> Result<Self> {
        let binary = match &options.weft_proxy {
            Some(path) => fs::canonicalize(path).map_err(|error| format!("{}: {error}", path.display()))?,
            None => build()?,
        };
        Ok(Self { binary })
    }

    pub(crate) fn start(
        &self,
        ground: &Ground,
        certificates: &Certificates,
        door: Door,
        traffic: Traffic,
    ) -> Result<Running> {
        let directory = ground.directory.path();
        let mut documents = mesh(ground);
        if traffic == Traffic::Routed {
            documents += &routed();
        }
        fs::write(directory.join("mesh.yaml"), documents)?;
        let server = format!(
            "application: {{address: 127.0.0.1, ports: [{{name: http, port: {HTTP_PORT}}}, {{name: tcp, port: {TCP_PORT}}}]}}\n"
        );
        let client = format!("binds: [{{listen: \"{BIND}\", service: \"db.default:5432\"}}]\n");
        let sidecars = [(&ground.right, SERVER, server), (&ground.left, CLIENT, client)].map(
            |(host, account, mut extra)| {
                if door == Door::Captured {
                    extra += &format!("capture: {{mark: {MARK}}}\n");
                }
                let config = directory.join(format!("{account}.yaml"));
                fs::write(&config, proxy(account, &extra, certificates))?;
                if door == Door::Captured {
                    // First: a sidecar is not ready while the capture that it is told of is missing.
                    self.capture(host, &config)?;
                }
                self.sidecar(host, account, &config)
            },
        );
        let sidecars = sidecars.into_iter().collect::<Result<_>>()?;
        let (http, tcp) = match door {
            Door::Explicit => (OUTBOUND, BIND),
            Door::Captured => (HTTP_SERVICE, TCP_SERVICE),
        };
        let target = |layer, address| Target {
            layer,
            address,
            host: SERVICE_HOST.to_owned(),
        };
        Ok(Running::new(
            sidecars,
            vec![target(Layer::L7, http), target(Layer::L4, tcp)],
        ))
    }

    /// Installs the capture that a sidecar's file describes.
    fn capture(&self, host: &Host, config: &Path) -> Result<()> {
        let mut command = host.command(&self.binary);
        command.args(["capture", "install", "--config"]).arg(config);
        let output = command.output()?;
        if output.status.success() {
            return Ok(());
        }
        Err(format!("no capture: {}", String::from_utf8_lossy(&output.stderr)).into())
    }

    fn sidecar(&self, host: &Host, account: &str, config: &Path) -> Result<Process> {
        let mut command = host.command(&self.binary);
        command.args(["run", "--config"]).arg(config);
        let ready = Ready::Http(ADMIN, "/ready".to_owned());
        Ok(Process::spawn_ready(
            &format!("weft-proxy of {account}"),
            command,
            &ready,
            STARTUP,
        )?)
    }
}

/// The file of one sidecar.
fn proxy(account: &str, extra: &str, certificates: &Certificates) -> String {
    let files = certificates.of(account);
    format!(
        "workload: {{name: {account}-0, namespace: default, serviceAccount: {account}, labels: {{app: {account}}}}}\n\
         state: {account}-state\n\
         identity: {{certificate: {}, key: {}, trustBundle: {}}}\n\
         {extra}\
         accessLog: none\n\
         documents: [mesh.yaml]\n",
        files.certificate.display(),
        files.key.display(),
        files.authority.display(),
    )
}

/// What both sidecars believe: one workload behind two services, and the client.
fn mesh(ground: &Ground) -> String {
    let (left, right) = (ground.left_address, ground.right_address);
    let (http_service, tcp_service) = (HTTP_SERVICE.ip(), TCP_SERVICE.ip());
    format!(
        "apiVersion: weft.dev/v1alpha1
kind: MeshConfig
metadata: {{name: mesh}}
spec: {{trustDomain: {TRUST_DOMAIN}, meshRanges: [\"{left}/32\", \"{right}/32\"], serviceRanges: [{SERVICE_RANGE}]}}
---
apiVersion: v1
kind: Service
metadata: {{name: {SERVICE_HOST}, namespace: default}}
spec:
  selector: {{app: {SERVER}}}
  clusterIP: {http_service}
  ports: [{{name: http, port: 80, targetPort: {HTTP_PORT}, appProtocol: http}}]
---
apiVersion: v1
kind: Service
metadata: {{name: db, namespace: default}}
spec:
  selector: {{app: {SERVER}}}
  clusterIP: {tcp_service}
  ports: [{{name: tcp, port: 5432, targetPort: {TCP_PORT}, appProtocol: tcp}}]
---
apiVersion: weft.dev/v1alpha1
kind: Workload
metadata: {{name: {SERVER}-0, namespace: default, labels: {{app: {SERVER}}}}}
spec:
  address: {right}
  meshPort: {MESH_PORT}
  serviceAccount: {SERVER}
  ports:
  - {{name: http, port: {HTTP_PORT}, protocol: http}}
  - {{name: tcp, port: {TCP_PORT}, protocol: tcp}}
---
apiVersion: weft.dev/v1alpha1
kind: Workload
metadata: {{name: {CLIENT}-0, namespace: default, labels: {{app: {CLIENT}}}}}
spec: {{address: {left}, meshPort: {MESH_PORT}, serviceAccount: {CLIENT}}}
"
    )
}

/// A route with several matches, the last of which every request of the load has; retries, limits, ejection and
/// deadlines, none of which a healthy service meets.
fn routed() -> String {
    format!(
        "---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: {SERVICE_HOST}, namespace: default}}
spec:
  parentRefs: [{{group: \"\", kind: Service, name: {SERVICE_HOST}}}]
  rules:
  - matches: [{{headers: [{{name: x-tester, value: \"yes\"}}]}}, {{path: {{type: PathPrefix, value: /beta}}}}]
    backendRefs: [{{name: {SERVICE_HOST}, port: 80}}]
  - backendRefs: [{{name: {SERVICE_HOST}, port: 80, weight: 90}}, {{name: {SERVICE_HOST}, port: 80, weight: 10}}]
    retry: {{attempts: 2, codes: [502, 503, 504]}}
---
apiVersion: weft.dev/v1alpha1
kind: TrafficPolicy
metadata: {{name: {SERVICE_HOST}, namespace: default}}
spec:
  targetRefs: [{{group: \"\", kind: Service, name: {SERVICE_HOST}}}]
  retries: {{retryOn: [ConnectFailure, Reset, GatewayError], attempts: 2, budget: {{percent: 20, minPerSecond: 3}}}}
  limits:
    requests: 10000
    queue: {{length: 1000, timeout: 1s}}
    endpoint: {{requests: 10000}}
    rates: [{{requests: 1000000000, per: 1s, by: Caller}}, {{requests: 1000000000, per: 1s, by: Route}}]
  outlierEjection: {{consecutiveFailures: 5, successRate: 80, latencyFactor: 10}}
"
    )
}

/// Builds weft-proxy as it is shipped; Cargo says where it is.
fn build() -> Result<PathBuf> {
    eprintln!("building weft-proxy with the dist profile");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args([
            "build",
            "--profile",
            "dist",
            "-p",
            "weft-proxy",
            "--bin",
            "weft-proxy",
        ])
        .arg("--message-format=json-render-diagnostics")
        .stderr(Stdio::inherit())
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()?;
    if !output.status.success() {
        return Err("weft-proxy does not build (--weft-proxy PATH takes one, --only leaves Weft out)".into());
    }
    let messages = String::from_utf8(output.stdout)?;
    let executable = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == "weft-proxy")
        .find_map(|message| message["executable"].as_str().map(PathBuf::from));
    executable.ok_or_else(|| "Cargo built weft-proxy, but named no executable".into())
}

const fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

const fn service(number: u8, port: u16) -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(10, 96, 0, number)), port)
}
