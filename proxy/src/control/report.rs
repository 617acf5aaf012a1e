//! What this proxy tells of itself, to its controller and on its own pages.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::SystemTime,
};

use bytes::Bytes;
use serde_json::{Map, Value, json};
use weft_proto::{
    mesh::v1 as mesh,
    model::{AppProtocol, WorkloadPort},
};

use super::keeper::RotationState;
use crate::{
    config::{Config, Controller},
    health::Health,
    identity::date,
};

/// Where the process is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Nothing is listened on yet.
    Starting,
    Serving,
    Draining,
}

/// What is told to others of this workload.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    pub(crate) phase: Phase,
    pub(crate) health: Health,
    pub(crate) traffic: Arc<Traffic>,
}

/// What was carried since the start of the process.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    requests: AtomicU64,
    failed: AtomicU64,
    connections: AtomicU64,
}

impl Traffic {
    /// A request or tunnel ended.
    pub(crate) fn on_request(&self, has_failed: bool) {
        self.requests.fetch_add(1, Relaxed);
        if has_failed {
            self.failed.fetch_add(1, Relaxed);
        }
    }

    /// The application connected.
    pub(crate) fn on_connection(&self) {
        self.connections.fetch_add(1, Relaxed);
    }

    fn message(&self) -> mesh::Traffic {
        mesh::Traffic {
            requests: self.requests.load(Relaxed),
            failed: self.failed.load(Relaxed),
            connections: self.connections.load(Relaxed),
        }
    }
}

impl Told {
    /// As an endpoint's.
    pub(crate) fn readiness(&self) -> mesh::Readiness {
        match (self.phase, &self.health) {
            (Phase::Draining, _) => mesh::Readiness::Draining,
            (Phase::Serving, Health::Ready) => mesh::Readiness::Ready,
            (Phase::Serving, Health::Unknown | Health::Failing(_)) | (Phase::Starting, _) => {
                mesh::Readiness::NotReady
            }
        }
    }

    fn reason(&self) -> String {
        match (self.phase, &self.health) {
            (Phase::Draining, _) => "it ends".to_owned(),
            (Phase::Starting, _) => "it starts".to_owned(),
            (Phase::Serving, Health::Unknown) => "its health is not known yet".to_owned(),
            (Phase::Serving, Health::Failing(why)) => why.clone(),
            (Phase::Serving, Health::Ready) => String::new(),
        }
    }
}

/// How the control plane is, as this proxy sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ControlState {
    /// The controller that there is a stream to.
    pub(crate) controller: Option<String>,
    /// Since when there is none, and why.
    pub(crate) lost: Option<(SystemTime, String)>,
    /// Of the last update that was taken.
    pub(crate) revision: u64,
    /// Why the last update was refused, if it was.
    pub(crate) problems: Vec<String>,
    /// When what is in use was kept, if it is from the state directory.
    pub(crate) cached: Option<SystemTime>,
    /// When the configuration was last kept in the state directory, with how many resources.
    pub(crate) kept: Option<(SystemTime, usize)>,
    pub(crate) resources: usize,
    /// Names and addresses that are asked for.
    pub(crate) names: usize,
    /// The controller tells others that this workload ends.
    pub(crate) known_draining: bool,
}

impl ControlState {
    /// For the page.
    pub(crate) fn show(&self, rotation: &RotationState) -> Value {
        let age = |since: SystemTime| since.elapsed().unwrap_or_default().as_secs();
        json!({
            "controller": self.controller,
            "lost": self.lost.as_ref().map(|(since, why)| json!({ "since": date(*since), "why": why })),
            "revision": self.revision,
            "resources": self.resources,
            "names": self.names,
            "refused": self.problems,
            "kept": self.kept.map(|(at, _)| date(at)),
            "fromCache": self.cached.map(|saved| json!({ "saved": date(saved), "ageSeconds": age(saved) })),
            "certificate": {
                "valid": rotation.is_valid,
                "notAfter": rotation.not_after.map(date),
                "trustVersion": rotation.trust_version,
                "kept": rotation.is_kept,
                "renewalFailing": rotation.failing.as_ref().map(|(since, attempts, why)| {
                    json!({ "since": date(*since), "attempts": attempts, "why": why })
                }),
            },
        })
    }
}

/// What a controller is told at the beginning of a stream about the workload: `None` if it only calls others.
pub(super) fn registration(
    config: &Config,
    controller: &Controller,
    mesh_port: Option<u16>,
    local: IpAddr,
    readiness: mesh::Readiness,
) -> Option<mesh::Registration> {
    let ports = &config.application.ports;
    let mesh_port = mesh_port.filter(|_| !ports.is_empty())?;
    let listens = config.listen.mesh.iter().map(|address| address.ip());
    let own = listens.into_iter().find(|address| !address.is_unspecified());
    let address = controller.address.or(own).unwrap_or(local);
    let labels: Map<String, Value> = config
        .workload
        .labels
        .iter()
        .map(|(key, value)| (key.to_string(), value.to_string().into()))
        .collect();
    let document = json!({
        "apiVersion": "weft.dev/v1alpha1",
        "kind": "Workload",
        "metadata": { "name": config.workload.name.as_str(), "labels": labels },
        "spec": {
            "address": address.to_string(),
            "meshPort": mesh_port,
            "ports": ports.iter().map(port).collect::<Vec<_>>(),
        },
    });
    Some(mesh::Registration {
        document: Bytes::from(document.to_string()),
        readiness: readiness.into(),
        grace_ms: 0,
    })
}

fn port(port: &WorkloadPort) -> Value {
    let mut shown = json!({ "port": port.port });
    if let Some(name) = &port.name {
        shown["name"] = name.as_str().into();
    }
    if port.protocol != AppProtocol::Detect {
        shown["protocol"] = port.protocol.as_str().into();
    }
    shown
}

/// How this proxy is.
pub(super) fn report(told: &Told, rotation: &RotationState, readiness: mesh::Readiness) -> mesh::Report {
    let failing = rotation.failing.as_ref();
    let reason = match (readiness, told.reason()) {
        (mesh::Readiness::NotReady, reason) if reason.is_empty() => "it is not registered yet".to_owned(),
        (_, reason) => reason,
    };
    mesh::Report {
        readiness: readiness.into(),
        reason,
        certificate_not_after: rotation.not_after.map(seconds).unwrap_or_default(),
        renewal_failing_since: failing.map(|(since, ..)| seconds(*since)).unwrap_or_default(),
        renewal_error: failing.map(|(.., why)| why.clone()).unwrap_or_default(),
        traffic: Some(told.traffic.message()),
        certificate_root: rotation.root.clone(),
        trust_version: rotation.trust_version,
    }
}

/// Since 1970.
pub(super) fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

/// Limits of this host that are below what the proxy wants.
pub(super) fn warnings() -> Vec<String> {
    /// What a burst of one connection's packets takes twice over.
    const WANTED: u64 = 2 << 20;
    ["rmem_max", "wmem_max"]
        .iter()
        .filter_map(|name| {
            let path = format!("/proc/sys/net/core/{name}");
            let value: u64 = std::fs::read_to_string(path).ok()?.trim().parse().ok()?;
            (value < WANTED)
                .then(|| format!("net.core.{name} is {value}: UDP buffers of {WANTED} bytes are wanted"))
        })
        .collect()
}
