//! Envoy as a pair of sidecars, with the least configuration that does the same work: see [`weft_lab::envoy`].

use crate::Result;
use crate::arguments::Options;
use crate::certificates::{CLIENT, Certificates, SERVER};
use crate::ground::{Ground, HTTP_PORT, Layer, STARTUP, Target};
use crate::pairs::Running;
use crate::weft::SERVICE_HOST;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use weft_lab::envoy;
use weft_lab::netns::Host;
use weft_lab::process::{Process, Ready};

const OUTBOUND_PORT: u16 = 15001;
const MESH_PORT: u16 = 15008;
const ADMIN: SocketAddr = SocketAddr::new(LOCALHOST, 15000);
const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const EVERYWHERE: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

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
            None => envoy::install()?,
        };
        envoy::check(&binary)?;
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
        let mut command = host.command(&self.binary);
        command.args(envoy::arguments(
            config,
            directory.join(format!("envoy-{name}.json")),
        )?);
        command.args(["--log-level", "warn"]);
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
    let tls = envoy::tls(certificates.of(SERVER), &certificates.id(CLIENT), wire.alpn());
    let codec = match wire {
        Wire::H2 => "HTTP2",
        Wire::H3 => "HTTP3",
        Wire::Tcp => "",
    };
    let filter = filter(wire, codec, "application");
    let address = SocketAddr::new(EVERYWHERE, MESH_PORT);
    let listener = match wire {
        Wire::H3 => envoy::on_udp(envoy::listener(
            address,
            &filter,
            Some(envoy::quic_downstream(tls)),
        )),
        Wire::H2 | Wire::Tcp => envoy::listener(address, &filter, Some(envoy::tls_downstream(tls))),
    };
    let application = envoy::cluster("application", SocketAddr::new(LOCALHOST, HTTP_PORT));
    envoy::bootstrap(ADMIN, &listener, &application)
}

/// The sidecar of the client.
fn client(certificates: &Certificates, wire: Wire, server: IpAddr) -> Value {
    let mut mesh = envoy::cluster("mesh", SocketAddr::new(server, MESH_PORT));
    let tls = envoy::tls(certificates.of(CLIENT), &certificates.id(SERVER), wire.alpn());
    let name = certificates.name(SERVER);
    mesh["transport_socket"] = match wire {
        Wire::H3 => envoy::quic_upstream(tls, &name),
        Wire::H2 | Wire::Tcp => envoy::tls_upstream(tls, &name),
    };
    let mesh = match wire {
        Wire::H2 => envoy::speaking(mesh, "http2_protocol_options", json!({})),
        Wire::H3 => envoy::speaking(mesh, "http3_protocol_options", json!({})),
        Wire::Tcp => mesh,
    };
    let address = SocketAddr::new(LOCALHOST, OUTBOUND_PORT);
    let listener = envoy::listener(address, &filter(wire, "AUTO", "mesh"), None);
    envoy::bootstrap(ADMIN, &listener, &mesh)
}

fn filter(wire: Wire, codec: &str, cluster: &str) -> Value {
    match wire {
        Wire::Tcp => envoy::tcp_proxy(cluster),
        Wire::H2 | Wire::H3 => envoy::connection_manager(codec, cluster),
    }
}

impl Wire {
    fn alpn(self) -> &'static [&'static str] {
        match self {
            Self::H2 => &["h2"],
            Self::H3 => &["h3"],
            Self::Tcp => &[],
        }
    }
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
