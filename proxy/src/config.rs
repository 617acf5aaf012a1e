//! The proxy's own file: whom it stands beside, what it listens on, where its certificates and documents are.
//!
//! It is read once, at the start, and as a whole: either there is a [`Config`], in which nothing invalid is left,
//! or there are all of its errors, each with its line and field. Paths in it are relative to the file itself.
//!
//! | field | absent |
//! |---|---|
//! | `workload` | required: `name`; `namespace` and `serviceAccount` are `default`; no `labels` |
//! | `state` | nothing is kept: after a restart, peers notice by their idle timeout that connections are gone; with a controller a directory of its own, see [`default_state`] |
//! | `controller` | none: `address`, one or more `HOST:PORT`; `join.tokenFile`, for the first certificate |
//! | `identity` | required without a controller: `certificate`, `key`, `trustBundle`; with one only `cache`: true |
//! | `application` | `address` 127.0.0.1; no `ports`: it only calls others; `source` 127.0.0.6 on IPv4 loopback; `health`: not checked |
//! | `listen` | see [`Listen::default`]; an empty list: no such listener |
//! | `inbound` | `plaintext`: as MeshConfig says; no `plaintextPorts` |
//! | `capture` | not looked after; `instance`: none, `mark`: none, `required`: true |
//! | `binds` | none |
//! | `workers` | 1 |
//! | `documents` | required without a controller, one or more; none with one |
//! | `accessLog` | `stdout`; also `none`, or the path of a file |
//! | `drainTimeout` | `30s` |

mod read;

pub(crate) use read::duration;

use std::{
    fmt,
    fs::File,
    io::{self, Read},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use weft_proto::{
    DocumentError, Source, SpiffeId, TrustDomain,
    identity::SpiffeIdError,
    model::{InboundMode, WorkloadPort},
    names::{DnsLabel, DnsName, Labels},
    reader::read_document,
};
use zeroize::Zeroizing;

use crate::{access_log::Sink, health::HealthCheck};

/// Far above any real one; a bound on what a wrong path can make us read.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// The file of a proxy.
///
/// No two listeners overlap, nor does a port of the application with one of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Config {
    /// Whom this proxy stands beside.
    pub(crate) workload: Workload,
    /// The directory for keys of this process, 0700, made if it is missing. `None`: they end with the process.
    pub(crate) state: Option<PathBuf>,
    /// Where certificates and documents come from.
    pub(crate) origin: Origin,
    /// How the application is reached.
    pub(crate) application: Application,
    /// Where this proxy listens.
    pub(crate) listen: Listen,
    /// What comes for the application and not through the mesh.
    pub(crate) plaintext: Plaintext,
    /// The capture that this proxy relies on, if any.
    pub(crate) capture: Option<Capture>,
    /// Ports that lead to one service each, for applications that cannot name it.
    pub(crate) binds: Vec<Bind>,
    /// How many threads carry traffic: 1 to 64.
    pub(crate) workers: u8,
    /// Where the access log goes.
    pub(crate) access_log: Sink,
    /// How long a drain may take before it cuts what is still under way; at most an hour.
    pub(crate) drain_timeout: Duration,
}

/// Where a proxy has its certificates and documents from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Files.
    Files(Files),
    /// A controller.
    Controller(Controller),
}

/// Certificates and documents in files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Files {
    /// Where the workload's credentials are.
    pub(crate) identity: IdentityPaths,
    /// Files with the documents of the mesh. Never empty, none twice.
    pub(crate) documents: Vec<PathBuf>,
}

/// How the controller is reached, and what it is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Controller {
    /// `HOST:PORT` of each. Never empty.
    pub(crate) addresses: Vec<String>,
    /// What the first certificate is asked for with. `None`: there is one in the state directory.
    pub(crate) join: Option<Join>,
    /// Whether identity and configuration are kept in the state directory.
    pub(crate) cache: bool,
    /// Where others reach this workload. `None`: where its connection to the controller comes from.
    pub(crate) address: Option<IpAddr>,
}

/// Where a join token is.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Join {
    /// Here.
    Token(Zeroizing<String>),
    /// In a file, which is read whenever it is needed.
    File(PathBuf),
}

impl fmt::Debug for Join {
    /// Never the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Token(_) => f.write_str("Token"),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
        }
    }
}

/// Which workload of the mesh this is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Workload {
    pub(crate) name: DnsName,
    pub(crate) namespace: DnsLabel,
    pub(crate) service_account: DnsName,
    pub(crate) labels: Labels,
}

/// The files of the workload's credentials, in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IdentityPaths {
    /// The certificate chain, leaf first.
    pub(crate) certificate: PathBuf,
    /// The leaf's private key.
    pub(crate) key: PathBuf,
    /// The roots of the trust domain.
    pub(crate) trust_bundle: PathBuf,
}

/// The application beside this proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Application {
    /// Where it listens: the loopback address, or the workload's own.
    pub(crate) address: IpAddr,
    /// Its ports, which alone are reached from the mesh. No two share a number and transport, or a name.
    pub(crate) ports: Vec<WorkloadPort>,
    /// Where connections to it come from, of the same family as its address. `None`: from where the connector of
    /// the application's side says.
    pub(crate) source: Option<IpAddr>,
    /// How it is asked whether it is well. `None`: it counts as such.
    pub(crate) health: Option<HealthCheck>,
}

/// What is done with connections that the kernel redirected to the inbound listener.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plaintext {
    /// Whether they reach the application. `None`: as the mesh says.
    pub(crate) mode: Option<InboundMode>,
    /// Ports of the application that they reach all the same, such as those of probes.
    pub(crate) ports: Vec<u16>,
}

/// The kernel's rules that bring the application's connections here. `weft-proxy capture` makes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Capture {
    /// Which of the captures of this host.
    pub(crate) instance: Option<DnsLabel>,
    /// What this proxy's own sockets are marked with, so that the rules let them pass. Never 0.
    pub(crate) mark: Option<u32>,
    /// Whether the proxy is ready only while they are in force.
    pub(crate) required: bool,
}

/// Where this proxy listens. Port 0 is any that is free, for tests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listen {
    /// UDP, for the sidecars of others.
    pub(crate) mesh: Vec<SocketAddr>,
    /// TCP, for what the application sends.
    pub(crate) outbound: Vec<SocketAddr>,
    /// TCP, for what was meant for the application and did not come through the mesh.
    pub(crate) inbound: Vec<SocketAddr>,
    /// TCP, for operators on this host: loopback addresses only.
    pub(crate) admin: Vec<SocketAddr>,
    /// TCP, for scrapers and probes.
    pub(crate) metrics: Vec<SocketAddr>,
}

/// A port that leads to one port of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bind {
    /// TCP, for the application.
    pub(crate) listen: SocketAddr,
    /// The service, as `NAME.NAMESPACE`.
    pub(crate) host: Arc<str>,
    /// The service's port. Never 0.
    pub(crate) port: u16,
}

impl Config {
    /// Reads a file. Paths in it are relative to its directory.
    ///
    /// # Errors
    /// All that is wrong with it, in the order of its lines.
    pub(crate) fn load(path: &Path) -> Result<Self, Vec<DocumentError>> {
        let name = path.display().to_string();
        match read_text(path) {
            Ok(text) => Self::parse(&Source::new(name, text), path.parent().unwrap_or(Path::new(""))),
            Err(error) => Err(vec![error_of_file(name, format_args!("cannot be read: {error}"))]),
        }
    }

    /// Reads a text. Paths in it are relative to `directory`.
    ///
    /// # Errors
    /// All that is wrong with it, in the order of its lines.
    pub(crate) fn parse(source: &Source, directory: &Path) -> Result<Self, Vec<DocumentError>> {
        read_document(source, |root| read::config(root, directory))
    }
}

impl Config {
    /// The files that certificates and documents come from, if they do.
    pub(crate) fn files(&self) -> Option<&Files> {
        match &self.origin {
            Origin::Files(files) => Some(files),
            Origin::Controller(_) => None,
        }
    }

    /// The controller that they come from, if they do.
    pub(crate) fn controller(&self) -> Option<&Controller> {
        match &self.origin {
            Origin::Files(_) => None,
            Origin::Controller(controller) => Some(controller),
        }
    }
}

/// Where a proxy with a controller keeps its state unless it is told: below `/var/lib` as root, else where the user's
/// programs keep theirs. One directory a workload: two proxies must not have the same keys.
pub(crate) fn default_state(workload: &Workload) -> Option<PathBuf> {
    let name = format!("{}.{}", workload.name, workload.namespace);
    if nix::unistd::geteuid().is_root() {
        return Some(Path::new("/var/lib/weft-proxy").join(name));
    }
    let base = match std::env::var_os("XDG_STATE_HOME").filter(|path| !path.is_empty()) {
        Some(base) => PathBuf::from(base),
        None => PathBuf::from(std::env::var_os("HOME")?).join(".local/state"),
    };
    Some(base.join("weft").join(name))
}

impl Workload {
    /// The identity that this workload must have in a trust domain: its certificate's, and what peers dial it by.
    ///
    /// # Errors
    /// None in practice: names of this model are parts of a SPIFFE ID.
    pub(crate) fn identity(&self, trust_domain: &TrustDomain) -> Result<SpiffeId, SpiffeIdError> {
        SpiffeId::for_service_account(trust_domain, &self.namespace, &self.service_account)
    }
}

impl Listen {
    /// Every listener with the name of its field.
    pub(crate) fn named(&self) -> [(&'static str, &[SocketAddr]); 5] {
        [
            ("mesh", &self.mesh),
            ("outbound", &self.outbound),
            ("inbound", &self.inbound),
            ("admin", &self.admin),
            ("metrics", &self.metrics),
        ]
    }
}

impl Default for Listen {
    /// The ports that other tools rely on, on the families that this host has.
    fn default() -> Self {
        Self::defaults(has_ipv6())
    }
}

impl Listen {
    fn defaults(ipv6: bool) -> Self {
        let any = |port| match ipv6 {
            // Takes IPv4 too.
            true => SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port),
            false => SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port),
        };
        let v4 = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
        let v6 = |port| ipv6.then_some(SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), port));
        Self {
            mesh: vec![any(15_008)],
            outbound: [Some(v4(15_001)), v6(15_001)].into_iter().flatten().collect(),
            inbound: vec![any(15_006)],
            admin: vec![v4(15_000)],
            metrics: vec![any(15_020)],
        }
    }
}

/// A host may have no IPv6 at all, or none on loopback: then nothing can listen there.
fn has_ipv6() -> bool {
    std::net::UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).is_ok()
}

impl Default for Application {
    /// One that only calls others.
    fn default() -> Self {
        Self {
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            ports: Vec::new(),
            source: None,
            health: None,
        }
    }
}

/// An error of a file as a whole.
pub(crate) fn error_of_file(file: String, message: impl std::fmt::Display) -> DocumentError {
    DocumentError {
        file,
        line: 0,
        column: 0,
        path: String::new(),
        message: message.to_string(),
    }
}

/// Unlike a document or a certificate, this may come from a pipe: it is read once.
fn read_text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let length = File::open(path)?
        .take(MAX_FILE_BYTES + 1)
        .read_to_string(&mut text)?;
    if length as u64 > MAX_FILE_BYTES {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "larger than 1 MiB"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests;
