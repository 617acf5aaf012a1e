//! What concerns several documents: names, addresses and references that must agree.

use super::fields::transport;
use super::{Documents, Located, Origin};
use crate::error::{DocumentError, Errors};
use crate::model::{Mesh, MeshConfig, Service, ServicePort, TargetPort, Workload};
use crate::names::{DnsLabel, WorkloadUid};
use std::collections::HashMap;
use std::net::IpAddr;

type Services<'d, 'a> = &'d [Located<'a, Service>];
type Workloads<'d, 'a> = &'d [Located<'a, Workload>];

/// Checks the documents against each other. `None` if there is no `MeshConfig`, which is an error.
pub(super) fn check(documents: Documents<'_>, errors: &Errors) -> Option<Mesh> {
    let Documents {
        configs,
        services,
        workloads,
        unread,
        ..
    } = documents;
    let config = config(&configs, unread.configs, errors);
    if let Some(config) = config {
        check_ranges(config, &services, &workloads, errors);
    }
    check_uids(&workloads, errors);
    let claims = check_workload_ports(&workloads, errors);
    check_cluster_ips(&services, &claims, errors);
    if !unread.workloads {
        check_targets(&services, &workloads, errors);
    }
    let config = config.cloned()?;
    Some(Mesh {
        config,
        services: services.into_iter().map(|located| located.document).collect(),
        workloads: workloads.into_iter().map(|located| located.document).collect(),
    })
}

/// The one `MeshConfig`.
fn config<'d>(
    configs: &'d [Located<'_, MeshConfig>],
    is_one_unread: bool,
    errors: &Errors,
) -> Option<&'d MeshConfig> {
    let Some(first) = configs.first() else {
        if !is_one_unread {
            errors.push(DocumentError {
                file: String::new(),
                line: 0,
                column: 0,
                path: String::new(),
                message: "no weft.dev/v1alpha1 MeshConfig: a mesh needs one, for its trustDomain".to_owned(),
            });
        }
        return None;
    };
    for other in configs.iter().skip(1) {
        let place = first.origin.place_of(errors, "kind");
        other.origin.error(
            errors,
            "kind",
            format!("a mesh has one MeshConfig, and it is in {place} already"),
        );
    }
    Some(&first.document)
}

fn check_ranges(
    config: &MeshConfig,
    services: Services<'_, '_>,
    workloads: Workloads<'_, '_>,
    errors: &Errors,
) {
    for Located { document, origin } in services {
        let Some(address) = document.cluster_ip.address() else {
            continue;
        };
        if !config.service_ranges.is_empty()
            && !config.service_ranges.iter().any(|range| range.contains(&address))
        {
            let message =
                format!("{address} is in none of the MeshConfig's serviceRanges: nothing would lead there");
            origin.error(errors, "spec.clusterIP", message);
        }
    }
    for Located { document, origin } in workloads {
        let is_outside = !config.mesh_ranges.is_empty() && !config.contains(document.address);
        if document.is_meshed() && is_outside {
            let address = document.address;
            let message = format!(
                "{address} is in none of the MeshConfig's meshRanges: without this document, traffic for it would \
                 count as leaving the mesh"
            );
            origin.error(errors, "spec.address", message);
        }
    }
}

fn check_uids(workloads: Workloads<'_, '_>, errors: &Errors) {
    let mut seen: HashMap<&WorkloadUid, &Located<'_, Workload>> = HashMap::new();
    for workload in workloads {
        let Located { document, origin } = workload;
        match seen.get(&document.uid) {
            Some(other) => {
                let (name, place) = (&other.document.name, other.origin.place_of(errors, "spec.uid"));
                let message = format!(
                    "{} is also the uid of the Workload {name} ({place})",
                    document.uid
                );
                origin.error(errors, "spec.uid", message);
            }
            None => {
                seen.insert(&document.uid, workload);
            }
        }
    }
}

/// A port of an address, `true` being UDP.
type Port = (IpAddr, u16, bool);

/// Who has which port, and by which field.
type Claims<'d, 'a> = HashMap<Port, (&'d Located<'a, Workload>, String)>;

/// No two workloads listen on the same port. A sidecar takes its port over UDP and, for where UDP is blocked,
/// over TCP.
fn check_workload_ports<'d, 'a>(workloads: Workloads<'d, 'a>, errors: &Errors) -> Claims<'d, 'a> {
    let mut claims: Claims<'d, 'a> = HashMap::new();
    for workload in workloads {
        let Located { document, origin } = workload;
        let address = document.address;
        let declared = document.ports.iter().enumerate().map(|(index, port)| {
            (
                format!("spec.ports[{index}].port"),
                port.port,
                vec![port.protocol.is_udp()],
            )
        });
        let mesh = document
            .mesh_port
            .map(|port| ("spec.meshPort".to_owned(), port, vec![true, false]));
        for (path, port, transports) in declared.chain(mesh) {
            let taken = transports
                .iter()
                .find_map(|is_udp| claims.get(&(address, port, *is_udp)));
            if let Some((other, other_path)) = taken {
                let (name, place) = (&other.document.name, other.origin.place_of(errors, other_path));
                let message = format!(
                    "port {port} of {address} is {other_path} of the Workload {name} ({place}) already"
                );
                origin.error(errors, &path, message);
                continue;
            }
            for is_udp in transports {
                claims.insert((address, port, is_udp), (workload, path.clone()));
            }
        }
    }
    claims
}

fn check_cluster_ips(services: Services<'_, '_>, claims: &Claims<'_, '_>, errors: &Errors) {
    let mut seen: HashMap<IpAddr, &Located<'_, Service>> = HashMap::new();
    for service in services {
        let Located { document, origin } = service;
        let Some(address) = document.cluster_ip.address() else {
            continue;
        };
        match seen.get(&address) {
            Some(other) => {
                let (name, place) = (
                    &other.document.name,
                    other.origin.place_of(errors, "spec.clusterIP"),
                );
                let message = format!("{address} is also the clusterIP of the Service {name} ({place})");
                origin.error(errors, "spec.clusterIP", message);
            }
            None => {
                seen.insert(address, service);
            }
        }
        for (index, port) in document.ports.iter().enumerate() {
            if let Some((other, path)) = claims.get(&(address, port.port, port.protocol.is_udp())) {
                let (name, place) = (&other.document.name, other.origin.place_of(errors, path));
                let number = port.port;
                let message =
                    format!("port {number} of {address} is {path} of the Workload {name} ({place}) already");
                origin.error(errors, &format!("spec.ports[{index}].port"), message);
            }
        }
    }
}

/// The workloads of a namespace that have a label: namespace, key, value.
type ByLabel<'d> = HashMap<(&'d DnsLabel, &'d str, &'d str), Vec<&'d Workload>>;

/// A port of a Service leads to a port that one of its workloads declares. A Service that selects no workload is
/// scaled to zero, which is no error.
fn check_targets(services: Services<'_, '_>, workloads: Workloads<'_, '_>, errors: &Errors) {
    let mut by_label: ByLabel<'_> = HashMap::new();
    for Located { document, .. } in workloads {
        for (key, value) in &document.labels {
            by_label
                .entry((&document.name.namespace, key, value))
                .or_default()
                .push(document);
        }
    }
    for Located { document, origin } in services {
        let candidates = fewest_candidates(document, &by_label);
        let selected = || {
            candidates
                .iter()
                .copied()
                .filter(|workload| document.selects(workload))
        };
        if selected().next().is_none() {
            continue;
        }
        for (index, port) in document.ports.iter().enumerate() {
            if !selected().any(|workload| is_served(port, workload)) {
                report_target(origin, index, port, &selected().collect::<Vec<_>>(), errors);
            }
        }
    }
}

/// The workloads with that label of the selector which the fewest have.
fn fewest_candidates<'i, 'd>(service: &'d Service, by_label: &'i ByLabel<'d>) -> &'i [&'d Workload] {
    let namespace = &service.name.namespace;
    let with_label = |(key, value): (&'d String, &'d String)| {
        by_label
            .get(&(namespace, key.as_str(), value.as_str()))
            .map(Vec::as_slice)
            .unwrap_or_default()
    };
    service
        .selector
        .iter()
        .map(with_label)
        .min_by_key(|workloads| workloads.len())
        .unwrap_or_default()
}

/// A sidecar forwards to declared ports alone; a workload without one takes what comes.
fn is_served(port: &ServicePort, workload: &Workload) -> bool {
    let is_by_number = matches!(port.target, TargetPort::Number(_));
    port.target_at(workload).is_some() || (is_by_number && !workload.is_meshed())
}

fn report_target(
    origin: &Origin<'_>,
    index: usize,
    port: &ServicePort,
    selected: &[&Workload],
    errors: &Errors,
) {
    let target = match &port.target {
        TargetPort::Number(number) => format!("{} port {number}", transport(port.protocol)),
        TargetPort::Name(name) => format!("{} port named {name}", transport(port.protocol)),
    };
    let message = match selected {
        [one] => format!("the workload selected, {}, declares no {target}", one.name),
        [one, ..] => format!(
            "none of the {} workloads selected ({}, ...) declares a {target}",
            selected.len(),
            one.name
        ),
        [] => return,
    };
    origin.error(errors, &format!("spec.ports[{index}].targetPort"), message);
}
