//! Envoy, configured as one half of a pair of sidecars: mutual TLS 1.3 with pinned identities, one worker, no access
//! log, no telemetry filters. Parts of a configuration to put together; its user adds what else it needs.

use crate::certificates::Files;
use crate::error::{Doing, Error, Result};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

pub use crate::tools::{ENVOY_VERSION, envoy as install};

const TYPES: &str = "type.googleapis.com/envoy.extensions";

/// Checks that `binary` is an Envoy of the version that is tested and measured.
///
/// # Errors
/// That it is none, or another.
pub fn check(binary: &Path) -> Result<()> {
    let output = Command::new(binary).arg("--version").output();
    let output = output.doing(|| format!("start {}", binary.display()))?;
    let version = String::from_utf8_lossy(&output.stdout);
    if version.contains(ENVOY_VERSION) {
        return Ok(());
    }
    let message = format!(
        "{} is not Envoy {ENVOY_VERSION}: {}",
        binary.display(),
        version.trim()
    );
    Err(Error::Protocol(message))
}

/// Writes a configuration to `path` and gives the arguments to run Envoy with it.
///
/// # Errors
/// That it can't be written.
pub fn arguments(config: &Value, path: PathBuf) -> Result<Vec<String>> {
    std::fs::write(&path, format!("{config:#}")).doing(|| format!("write {}", path.display()))?;
    let path = path.to_string_lossy().into_owned();
    let fixed = ["--concurrency", "1", "--disable-hot-restart"].map(str::to_owned);
    Ok(["--config-path".to_owned(), path]
        .into_iter()
        .chain(fixed)
        .collect())
}

/// A `CommonTlsContext` in an object: TLS 1.3 alone, with an identity, that accepts one peer. The cipher can't be
/// chosen for TLS 1.3.
pub fn tls(files: &Files, peer_id: &str, alpn: &[&str]) -> Value {
    json!({"common_tls_context": {
        "alpn_protocols": alpn,
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
        "tls_certificates": [{
            "certificate_chain": {"filename": files.certificate},
            "private_key": {"filename": files.key},
        }],
        "validation_context": {
            "trusted_ca": {"filename": files.authority},
            "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": {"exact": peer_id}}],
        },
    }})
}

/// The transport socket of a listener that requires certificates, on TCP.
pub fn tls_downstream(mut tls: Value) -> Value {
    tls["@type"] = json!(format!("{TYPES}.transport_sockets.tls.v3.DownstreamTlsContext"));
    tls["require_client_certificate"] = json!(true);
    json!({"name": "envoy.transport_sockets.tls", "typed_config": tls})
}

/// The same on QUIC.
pub fn quic_downstream(mut tls: Value) -> Value {
    tls["require_client_certificate"] = json!(true);
    let kind = format!("{TYPES}.transport_sockets.quic.v3.QuicDownstreamTransport");
    json!({
        "name": "envoy.transport_sockets.quic",
        "typed_config": {"@type": kind, "downstream_tls_context": tls},
    })
}

/// The transport socket of a cluster, on TCP.
pub fn tls_upstream(mut tls: Value, name: &str) -> Value {
    tls["@type"] = json!(format!("{TYPES}.transport_sockets.tls.v3.UpstreamTlsContext"));
    tls["sni"] = json!(name);
    json!({"name": "envoy.transport_sockets.tls", "typed_config": tls})
}

/// The same on QUIC, which insists on a name.
pub fn quic_upstream(mut tls: Value, name: &str) -> Value {
    tls["sni"] = json!(name);
    let kind = format!("{TYPES}.transport_sockets.quic.v3.QuicUpstreamTransport");
    json!({
        "name": "envoy.transport_sockets.quic",
        "typed_config": {"@type": kind, "upstream_tls_context": tls},
    })
}

/// A network filter that forwards bytes to a cluster.
pub fn tcp_proxy(cluster: &str) -> Value {
    json!({"name": "envoy.filters.network.tcp_proxy", "typed_config": {
        "@type": format!("{TYPES}.filters.network.tcp_proxy.v3.TcpProxy"),
        "stat_prefix": "tcp", "cluster": cluster,
    }})
}

/// A network filter that forwards requests to a cluster, with one virtual host.
pub fn connection_manager(codec: &str, cluster: &str) -> Value {
    let router = format!("{TYPES}.filters.http.router.v3.Router");
    json!({"name": "envoy.filters.network.http_connection_manager", "typed_config": {
        "@type": format!("{TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "http", "codec_type": codec,
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {"@type": router}}],
        // The default timeout of 15 s is that of a whole answer.
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [
            {"match": {"prefix": "/"}, "route": {"cluster": cluster, "timeout": "0s"}},
        ]}]},
    }})
}

/// A listener on TCP.
pub fn listener(address: SocketAddr, filter: &Value, transport_socket: Option<Value>) -> Value {
    let mut chain = json!({"filters": [filter]});
    if let Some(socket) = transport_socket {
        chain["transport_socket"] = socket;
    }
    json!({"name": "listener", "address": socket_address(address), "filter_chains": [chain]})
}

/// Makes a QUIC listener of a listener.
pub fn on_udp(mut listener: Value) -> Value {
    listener["address"]["socket_address"]["protocol"] = json!("UDP");
    listener["udp_listener_config"] =
        json!({"quic_options": {}, "downstream_socket_config": {"prefer_gro": true}});
    listener
}

/// A cluster of one endpoint.
pub fn cluster(name: &str, address: SocketAddr) -> Value {
    json!({"name": name, "type": "STATIC", "connect_timeout": "5s", "load_assignment": {
        "cluster_name": name,
        "endpoints": [{"lb_endpoints": [{"endpoint": {"address": socket_address(address)}}]}],
    }})
}

/// Makes a cluster speak one version of HTTP: the name of its options, and the options.
pub fn speaking(mut cluster: Value, options: &str, values: Value) -> Value {
    let kind = format!("{TYPES}.upstreams.http.v3.HttpProtocolOptions");
    cluster["typed_extension_protocol_options"] = json!({
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": kind, "explicit_http_config": {options: values},
        }
    });
    cluster
}

/// The whole configuration.
pub fn bootstrap(admin: SocketAddr, listener: &Value, cluster: &Value) -> Value {
    json!({
        "admin": {"address": socket_address(admin)},
        "static_resources": {"listeners": [listener], "clusters": [cluster]},
    })
}

fn socket_address(address: SocketAddr) -> Value {
    json!({"socket_address": {"address": address.ip(), "port_value": address.port()}})
}
