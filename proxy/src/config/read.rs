//! Reading the file, field by field, and what concerns several of its fields.

mod origin;
mod ports;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use weft_proto::{
    model::{InboundMode, WorkloadPort},
    names::{DnsLabel, DnsName},
    parse::fields::{host_address, labels, workload_ports},
    reader::{Fields, Value},
};

use origin::origin;
use ports::{Owner, Ports};

use super::{Application, Bind, Capture, Config, Listen, Origin, Plaintext, Workload, default_state};
use crate::{
    access_log::Sink,
    health::{self, HealthCheck, Probe},
};

const MAX_WORKERS: u8 = 64;
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);
/// A process that is told to end and goes on for longer is a process that hangs.
const MAX_DRAIN_TIMEOUT: Duration = Duration::from_secs(3600);

/// More often an application is only kept busy; less often nobody hears in time.
const MIN_HEALTH_INTERVAL: Duration = Duration::from_millis(100);
const MAX_HEALTH_INTERVAL: Duration = Duration::from_secs(300);

/// Suffixes of a service's name in the cluster's DNS, as applications write them.
const SERVICE_SUFFIXES: [&str; 2] = [".svc.cluster.local", ".svc"];

/// Reads all of it.
pub(super) fn config(root: &Value<'_>, directory: &Path) -> Option<Config> {
    root.mapping(|fields| {
        let mut ports = Ports::default();
        let workload = fields.required("workload", workload);
        let namespace = match &workload {
            Some(workload) => workload.namespace.clone(),
            None => DnsLabel::default_namespace(),
        };
        let state = fields.optional("state", |value| path(value, directory));
        let origin = origin(fields, directory);
        let listen = listen(fields, &mut ports);
        let binds = fields.optional("binds", |value| {
            value.list(|value| bind(value, &namespace, &mut ports))
        });
        let application = fields.optional("application", |value| application(value, &mut ports));
        let declared = application
            .as_ref()
            .map_or(&[][..], |application| application.ports.as_slice());
        let plaintext = fields.optional("inbound", |value| plaintext(value, declared));
        let capture = fields.optional("capture", capture);
        let workers = fields.optional("workers", |value| {
            value.integer("a number of workers", 1..=MAX_WORKERS)
        });
        let access_log = fields.optional("accessLog", |value| access_log(value, directory));
        let drain_timeout = fields.optional("drainTimeout", |value| value.parse(drain_timeout));
        ports.report_overlaps();
        Some(Config {
            state: state.or_else(|| match &origin {
                Some(Origin::Controller(_)) => default_state(workload.as_ref()?),
                Some(Origin::Files(_)) | None => None,
            }),
            workload: workload?,
            origin: origin?,
            application: application.unwrap_or_default(),
            listen: listen?,
            plaintext: plaintext.unwrap_or_default(),
            capture,
            binds: binds.unwrap_or_default(),
            workers: workers.unwrap_or(1),
            access_log: access_log.unwrap_or(Sink::Stdout),
            drain_timeout: drain_timeout.unwrap_or(DRAIN_TIMEOUT),
        })
    })
}

fn health(value: &Value<'_>, declared: &[WorkloadPort]) -> Option<HealthCheck> {
    value.mapping(|fields| {
        let probe = fields.required("probe", |value| {
            let probe = value.parse(Probe::parse)?;
            let is_it = |port: &WorkloadPort| port.port == probe.port() && !port.protocol.is_udp();
            if matches!(probe, Probe::Tcp(_)) && !declared.iter().any(is_it) {
                value.error(format_args!(
                    "{} is not a TCP port of the application",
                    probe.port()
                ));
            }
            Some(probe)
        });
        let interval = fields.optional("interval", |value| value.parse(health_interval));
        Some(HealthCheck {
            probe: probe?,
            interval: interval.unwrap_or(health::INTERVAL),
        })
    })
}

fn health_interval(text: &str) -> Result<Duration, String> {
    let interval = duration(text)?;
    if !(MIN_HEALTH_INTERVAL..=MAX_HEALTH_INTERVAL).contains(&interval) {
        return Err("is not between 100ms and 5m".to_owned());
    }
    Ok(interval)
}

fn workload(value: &Value<'_>) -> Option<Workload> {
    value.mapping(|fields| {
        let name = fields.required("name", |value| value.parse(DnsName::parse));
        let namespace = fields.optional("namespace", |value| value.parse(DnsLabel::parse));
        let service_account = fields.optional("serviceAccount", |value| value.parse(DnsName::parse));
        let labels = fields.optional("labels", labels);
        Some(Workload {
            name: name?,
            namespace: namespace.unwrap_or_else(DnsLabel::default_namespace),
            service_account: service_account.unwrap_or_else(DnsName::default_service_account),
            labels: labels.unwrap_or_default(),
        })
    })
}

fn application<'a>(value: &Value<'a>, ports: &mut Ports<'a>) -> Option<Application> {
    value.mapping(|fields| {
        let default = Application::default();
        let address = fields.optional("address", host_address);
        let is_address_wrong = address.is_none() && fields.has("address");
        let address = address.unwrap_or(default.address);
        let source = fields.optional("source", |value| {
            let source = host_address(value)?;
            if source.is_ipv4() != address.is_ipv4() && !is_address_wrong {
                value.error(format_args!(
                    "{source} cannot reach the application's address {address}: one is IPv4, the other IPv6"
                ));
            }
            Some(source)
        });
        let declared = fields.optional("ports", |value| {
            let declared = workload_ports(value)?;
            let places = value.list(|value| Some(value.clone()))?;
            if !is_address_wrong {
                for (port, place) in declared.iter().zip(places) {
                    let owner = if port.protocol.is_udp() {
                        Owner::Udp
                    } else {
                        Owner::Tcp
                    };
                    ports.add(SocketAddr::new(address, port.port), owner, place);
                }
            }
            Some(declared)
        });
        let ports = declared.unwrap_or_default();
        let health = fields.optional("health", |value| health(value, &ports));
        Some(Application {
            address,
            ports,
            source,
            health,
        })
    })
}

fn plaintext(value: &Value<'_>, declared: &[WorkloadPort]) -> Option<Plaintext> {
    value.mapping(|fields| {
        let mode = fields.optional("plaintext", |value| {
            value.one_of(&[
                ("strict", InboundMode::Strict),
                ("permissive", InboundMode::Permissive),
            ])
        });
        let ports = fields.optional("plaintextPorts", |value| {
            value.list(|value| {
                let port = value.port()?;
                let is_tcp = |known: &WorkloadPort| known.port == port && !known.protocol.is_udp();
                if !declared.iter().any(is_tcp) {
                    value.error(format_args!("{port} is not a TCP port of the application"));
                }
                Some(port)
            })
        });
        Some(Plaintext {
            mode,
            ports: ports.unwrap_or_default(),
        })
    })
}

fn capture(value: &Value<'_>) -> Option<Capture> {
    value.mapping(|fields| {
        let instance = fields.optional("instance", |value| value.parse(DnsLabel::parse));
        let mark = fields.optional("mark", |value| value.integer("a mark", 1..=u32::MAX));
        let required = fields.optional("required", Value::boolean);
        Some(Capture {
            instance,
            mark,
            required: required.unwrap_or(true),
        })
    })
}

fn listen<'a>(fields: &mut Fields<'a>, ports: &mut Ports<'a>) -> Option<Listen> {
    let default = Listen::default();
    if !fields.has("listen") {
        // Asked for all the same, so that it is among the known fields.
        fields.optional("listen", |_| Some(()));
        ports.add_defaults(&default);
        return Some(default);
    }
    fields.optional("listen", |value| {
        value.mapping(|fields| {
            let mut read = |name, default: Vec<SocketAddr>, is_allowed: fn(&Value<'_>, SocketAddr)| {
                listeners(fields, ports, name, default, is_allowed)
            };
            Some(Listen {
                mesh: read("mesh", default.mesh, |_, _| {}),
                outbound: read("outbound", default.outbound, |_, _| {}),
                inbound: read("inbound", default.inbound, |_, _| {}),
                admin: read("admin", default.admin, report_not_loopback),
                metrics: read("metrics", default.metrics, |_, _| {}),
            })
        })
    })
}

fn listeners<'a>(
    fields: &mut Fields<'a>,
    ports: &mut Ports<'a>,
    name: &'static str,
    default: Vec<SocketAddr>,
    check: fn(&Value<'_>, SocketAddr),
) -> Vec<SocketAddr> {
    if !fields.has(name) {
        fields.optional(name, |_| Some(()));
        ports.add_default(name, &default);
        return default;
    }
    let listeners = fields.optional(name, |value| {
        value.one_or_list(|value| {
            let address = value.parse(socket_address)?;
            check(value, address);
            ports.add(address, Owner::of_listener(name), value.clone());
            Some(address)
        })
    });
    listeners.unwrap_or_default()
}

/// What admin shows and does is for operators on this host alone.
fn report_not_loopback(value: &Value<'_>, address: SocketAddr) {
    if !address.ip().is_loopback() {
        value.error(format_args!(
            "{address} is not a loopback address: admin is for this host alone (metrics and /ready are on \
             listen.metrics)"
        ));
    }
}

fn bind<'a>(value: &Value<'a>, namespace: &DnsLabel, ports: &mut Ports<'a>) -> Option<Bind> {
    value.mapping(|fields| {
        let listen = fields.required("listen", |value| {
            let address = value.parse(socket_address)?;
            ports.add(address, Owner::Listener, value.clone());
            Some(address)
        });
        let service = fields.required("service", |value| value.parse(|text| service(text, namespace)));
        let (host, port) = service?;
        Some(Bind {
            listen: listen?,
            host: host.into(),
            port,
        })
    })
}

/// `db:5432`, `db.default:5432`, `db.default.svc:5432`, `db.default.svc.cluster.local:5432`, as `NAME.NAMESPACE` and
/// port.
fn service(text: &str, namespace: &DnsLabel) -> Result<(String, u16), String> {
    let example = "such as db.default:5432";
    let (host, port) = text
        .rsplit_once(':')
        .ok_or_else(|| format!("has no port: a service and its port are wanted, {example}"))?;
    let port = port
        .parse()
        .ok()
        .filter(|number: &u16| *number != 0 && number.to_string() == port)
        .ok_or_else(|| "has no valid port (1 to 65535)".to_owned())?;
    let is_not_one = || format!("is not the name of a service and a port, {example}");
    let suffix = SERVICE_SUFFIXES.iter().find(|suffix| host.ends_with(**suffix));
    let short = suffix
        .and_then(|suffix| host.strip_suffix(suffix))
        .unwrap_or(host);
    let (name, namespace) = match (short.split_once('.'), suffix) {
        (Some((name, namespace)), _) => (name, namespace),
        (None, None) => (short, namespace.as_str()),
        // `db.svc` is the service `db` of a namespace `svc`, should that be meant, and otherwise a mistake.
        (None, Some(_)) => return Err(is_not_one()),
    };
    let name = DnsLabel::parse(name)
        .ok()
        .filter(DnsLabel::is_rfc1035)
        .ok_or_else(is_not_one)?;
    let namespace = DnsLabel::parse(namespace).map_err(|_| is_not_one())?;
    Ok((format!("{name}.{namespace}"), port))
}

/// Bare `off` is a boolean to YAML, and `"off"` is surely not meant as the name of a file.
fn access_log(value: &Value<'_>, directory: &Path) -> Option<Sink> {
    match value.string()? {
        "stdout" => Some(Sink::Stdout),
        "none" | "off" => Some(Sink::Off),
        _ => path(value, directory).map(Sink::File),
    }
}

fn path(value: &Value<'_>, directory: &Path) -> Option<PathBuf> {
    value.parse(|text| match text {
        "" => Err("is not a path"),
        text if text.contains('\0') => Err("is not a path: it has a NUL"),
        text => Ok(directory.join(text)),
    })
}

/// An address to listen on. Unlike one to connect to, it may be unspecified, and its port 0.
fn socket_address(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr = text
        .parse()
        .map_err(|_| "is not an address and port, such as 127.0.0.1:80 or [::1]:80".to_owned())?;
    match address {
        SocketAddr::V6(v6) if v6.scope_id() != 0 => Err("has a zone ('%')".to_owned()),
        SocketAddr::V6(v6) => match v6.ip().to_ipv4_mapped() {
            Some(v4) => Err(format!("has an IPv4-mapped address: write {v4}")),
            None => Ok(address),
        },
        SocketAddr::V4(_) => Ok(address),
    }
}

fn drain_timeout(text: &str) -> Result<Duration, String> {
    let duration = duration(text)?;
    if duration > MAX_DRAIN_TIMEOUT {
        return Err("is longer than 1h".to_owned());
    }
    Ok(duration)
}

/// A duration as in the Gateway API (GEP-2257): one to four times a whole number of at most five digits and a unit,
/// such as `30s` or `1m30s`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let is_not_one = || "is not a duration, such as 30s, 500ms or 1m30s".to_owned();
    let mut rest = text;
    let mut total = Duration::ZERO;
    for _ in 0..4 {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, after) = rest.split_at(digits);
        let unit = after.bytes().take_while(|byte| !byte.is_ascii_digit()).count();
        let (unit, after) = after.split_at_checked(unit).ok_or_else(is_not_one)?;
        let number: u64 = number
            .parse()
            .ok()
            .filter(|_| digits <= 5)
            .ok_or_else(is_not_one)?;
        total += match unit {
            "h" => Duration::from_secs(number * 3600),
            "m" => Duration::from_secs(number * 60),
            "s" => Duration::from_secs(number),
            "ms" => Duration::from_millis(number),
            _ => return Err(is_not_one()),
        };
        rest = after;
        if rest.is_empty() {
            return Ok(total);
        }
    }
    Err(is_not_one())
}
