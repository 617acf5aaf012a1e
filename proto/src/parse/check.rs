//! What concerns several documents: names, addresses and references that must agree.
//!
//! One set of rules, for documents that are read all at once and for a change of a few: it looks at what changed
//! and at what that concerns.

use super::fields::transport;
use super::index::{Claim, Field, Id, Index, Trait, endpoints, host_ports, service_host, workload_ports};
use super::{Parsed, Unread, Unserved};
use crate::error::{DocumentError, Errors};
use crate::model::{ExternalService, MeshConfig, Service, ServicePort, TargetPort, Workload};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

/// What changed in an [`Index`].
pub(crate) struct Changed<'c> {
    /// The documents that were inserted, and have claimed nothing yet, the first first.
    pub(crate) new: &'c [Id],
    /// Those that were removed, also to be replaced.
    pub(crate) old: &'c [(Id, Arc<Parsed>)],
    /// What was given and could not be read.
    pub(crate) unread: Unread,
    /// What becomes of a port of a service to which no workload answers.
    pub(crate) unserved: Unserved,
}

/// Where errors go.
pub(crate) struct Reporter<'r> {
    pub(crate) errors: &'r Errors,
    /// Where a field of a document is.
    pub(crate) place: &'r dyn Fn(Id, &Parsed, &str) -> Place,
}

/// A place in a source; the line is 0 if it is not known.
pub(crate) struct Place {
    pub(crate) line: usize,
    pub(crate) column: usize,
}

/// Checks what changed against the whole, and claims for the new documents what they have alone. `reported` takes
/// what is worth saying, but no error.
pub(crate) fn check(
    index: &mut Index,
    changed: &Changed<'_>,
    report: &Reporter<'_>,
    reported: &Reporter<'_>,
) {
    let config = config(index, changed, report);
    if let Some((id, config)) = &config
        && let Some(config) = config.model.config()
    {
        let concerned: Vec<Id> = match changed.is_new(*id) {
            true => index.iter().map(|(id, _)| id).collect(),
            false => changed.new.to_vec(),
        };
        check_ranges(index, config, &concerned, report);
    }
    check_uids(index, changed.new, report);
    check_workload_ports(index, changed.new, report);
    check_cluster_ips(index, changed.new, report);
    if !changed.unread.workloads {
        check_targets(index, changed, report, reported);
    }
    let config = config.as_ref().and_then(|(_, config)| config.model.config());
    check_external(index, config, changed.new, report);
}

/// The one MeshConfig.
fn config(index: &Index, changed: &Changed<'_>, report: &Reporter<'_>) -> Option<(Id, Arc<Parsed>)> {
    let configs: Vec<Id> = index.with(&Trait::Config).collect();
    let Some(first) = configs.first() else {
        let removed = changed
            .old
            .iter()
            .find(|(_, document)| document.model.config().is_some());
        match removed {
            Some((id, document)) => {
                let message = format!(
                    "the {} is what the whole mesh has its trustDomain from: it can be replaced, not removed",
                    document.key
                );
                report.error(*id, document, "", message);
            }
            None if changed.unread.configs => {}
            None => report.errors.push(DocumentError {
                file: String::new(),
                line: 0,
                column: 0,
                path: String::new(),
                message: "no weft.dev/v1alpha1 MeshConfig: a mesh needs one, for its trustDomain".to_owned(),
            }),
        }
        return None;
    };
    let first_document = index.get(*first)?;
    for (id, other) in configs
        .iter()
        .skip(1)
        .filter_map(|id| Some((*id, index.get(*id)?)))
    {
        let place = report.place(*first, first_document, "kind");
        let there = match place.line {
            0 => format!("there is the {} already", first_document.key),
            line => format!("it is in {}:{line} already", first_document.source),
        };
        report.error(
            id,
            other,
            "kind",
            format!("a mesh has one MeshConfig, and {there}"),
        );
    }
    Some((*first, first_document.clone()))
}

fn check_ranges(index: &Index, config: &MeshConfig, concerned: &[Id], report: &Reporter<'_>) {
    for (id, document, service) in services(index, concerned) {
        let Some(address) = service.cluster_ip.address() else {
            continue;
        };
        if !config.service_ranges.is_empty()
            && !config.service_ranges.iter().any(|range| range.contains(&address))
        {
            let message =
                format!("{address} is in none of the MeshConfig's serviceRanges: nothing would lead there");
            report.error(id, document, "spec.clusterIP", message);
        }
    }
    for (id, document, workload) in workloads(index, concerned) {
        let is_outside = !config.mesh_ranges.is_empty() && !config.contains(workload.address);
        if workload.is_meshed() && is_outside {
            let address = workload.address;
            let message = format!(
                "{address} is in none of the MeshConfig's meshRanges: without this document, traffic for it would \
                 count as leaving the mesh"
            );
            report.error(id, document, "spec.address", message);
        }
    }
    for (id, document, external) in externals(index, concerned) {
        check_outside(config, id, document, external, report);
    }
}

/// What an external service declares is neither a name nor an address of the mesh.
fn check_outside(
    config: &MeshConfig,
    id: Id,
    document: &Parsed,
    external: &ExternalService,
    report: &Reporter<'_>,
) {
    let trust_domain = config.trust_domain.as_str();
    for (index, host) in external.hosts.iter().enumerate() {
        let above = host.strip_suffix(trust_domain);
        if above.is_some_and(|above| above.is_empty() || above.ends_with('.')) {
            let message = format!("{host} is in the mesh's own trustDomain, {trust_domain}");
            report.error(id, document, &format!("spec.hosts[{index}]"), message);
        }
    }
    for (index, address) in endpoints(external).iter().enumerate() {
        if config.contains(*address) {
            let message = format!(
                "{address} belongs to the mesh: it is in the MeshConfig's meshRanges or serviceRanges"
            );
            report.error(id, document, &format!("spec.endpoints[{index}]"), message);
        }
    }
}

fn check_uids(index: &mut Index, new: &[Id], report: &Reporter<'_>) {
    for id in new {
        let Some(document) = index.get(*id).cloned() else {
            continue;
        };
        let Some(workload) = document.model.workload() else {
            continue;
        };
        let claim = Claim::Uid(workload.uid.clone());
        if let Some((owner, field)) = index.owner(&claim) {
            let other = report.other(index, owner, field);
            let message = format!("{} is also the uid of the {other}", workload.uid);
            report.error(*id, &document, "spec.uid", message);
        }
        index.claim(claim, *id, Field::Uid);
    }
}

/// No two workloads listen on the same port.
fn check_workload_ports(index: &mut Index, new: &[Id], report: &Reporter<'_>) {
    for id in new {
        let Some(document) = index.get(*id).cloned() else {
            continue;
        };
        let Some(workload) = document.model.workload() else {
            continue;
        };
        let address = workload.address;
        for (field, port, transports) in workload_ports(workload) {
            let taken = transports
                .iter()
                .find_map(|is_udp| index.owner(&Claim::Port(address, port, *is_udp)));
            if let Some((owner, its_field)) = taken {
                let other = report.other(index, owner, its_field);
                let message = format!("port {port} of {address} is {its_field} of the {other} already");
                report.error(*id, &document, &field.to_string(), message);
                continue;
            }
            for is_udp in transports {
                index.claim(Claim::Port(address, port, *is_udp), *id, field);
            }
        }
    }
}

fn check_cluster_ips(index: &mut Index, new: &[Id], report: &Reporter<'_>) {
    // A new workload may have taken a port of a service that is there: its service is concerned.
    let beside = |(_, _, workload): (Id, &Arc<Parsed>, &Workload)| {
        index.owner(&Claim::ClusterIp(workload.address)).map(|(id, _)| id)
    };
    let mut concerned: BTreeSet<Id> = workloads(index, new).filter_map(beside).collect();
    concerned.extend(services(index, new).map(|(id, _, _)| id));
    for id in concerned {
        let Some(document) = index.get(id).cloned() else {
            continue;
        };
        let Some((service, address)) = document
            .model
            .service()
            .and_then(|service| Some((service, service.cluster_ip.address()?)))
        else {
            continue;
        };
        let claim = Claim::ClusterIp(address);
        if let Some((owner, field)) = index.owner(&claim).filter(|(owner, _)| *owner != id) {
            let other = report.other(index, owner, field);
            let message = format!("{address} is also the clusterIP of the {other}");
            report.error(id, &document, "spec.clusterIP", message);
        }
        index.claim(claim, id, Field::ClusterIp);
        check_service_ports(index, id, &document, (service, address), report);
    }
}

/// No port of a cluster IP is one of a workload as well.
fn check_service_ports(
    index: &Index,
    id: Id,
    document: &Parsed,
    (service, address): (&Service, IpAddr),
    report: &Reporter<'_>,
) {
    for (position, port) in service.ports.iter().enumerate() {
        let claim = Claim::Port(address, port.port, port.protocol.is_udp());
        if let Some((owner, field)) = index.owner(&claim) {
            let other = report.other(index, owner, field);
            let message = format!(
                "port {} of {address} is {field} of the {other} already",
                port.port
            );
            report.error(id, document, &Field::Port(position).to_string(), message);
        }
    }
}

/// A port of a Service leads to a port that one of its workloads declares. A Service that selects no workload is
/// scaled to zero, which is no error.
fn check_targets(index: &Index, changed: &Changed<'_>, report: &Reporter<'_>, reported: &Reporter<'_>) {
    let mut concerned: BTreeSet<Id> = services(index, changed.new).map(|(id, _, _)| id).collect();
    let old = changed
        .old
        .iter()
        .filter_map(|(_, document)| document.model.workload());
    let new = workloads(index, changed.new).map(|(_, _, workload)| workload);
    // Where all documents are new, all services are among them.
    if changed.new.len() < index.len() || !changed.old.is_empty() {
        old.chain(new)
            .for_each(|workload| concerned.extend(index.selecting(workload)));
    }
    let concerned: Vec<Id> = concerned.into_iter().collect();
    for (id, document, service) in services(index, &concerned) {
        let selected = index.selected(service);
        if selected.clone().next().is_none() {
            continue;
        }
        for (position, port) in service.ports.iter().enumerate() {
            if !selected.clone().any(|workload| is_served(port, workload)) {
                let selected: Vec<&Workload> = selected.clone().collect();
                let is_refused = changed.unserved == Unserved::Refuse && changed.is_new(id);
                let report = if is_refused { report } else { reported };
                report_target((id, document), position, port, &selected, report);
            }
        }
    }
}

/// A sidecar forwards to declared ports alone; a workload without one takes what comes.
fn is_served(port: &ServicePort, workload: &Workload) -> bool {
    let is_by_number = matches!(port.target, TargetPort::Number(_));
    port.target_at(workload).is_some() || (is_by_number && !workload.is_meshed())
}

fn report_target(
    (id, document): (Id, &Parsed),
    position: usize,
    port: &ServicePort,
    selected: &[&Workload],
    report: &Reporter<'_>,
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
    report.error(
        id,
        document,
        &format!("spec.ports[{position}].targetPort"),
        message,
    );
}

/// What an external service declares is not what another document has already.
fn check_external(index: &mut Index, config: Option<&MeshConfig>, new: &[Id], report: &Reporter<'_>) {
    let mut concerned: BTreeSet<Id> = externals(index, new).map(|(id, _, _)| id).collect();
    for (_, _, service) in services(index, new) {
        concerned.extend(index.with(&Trait::ExternalHost(service_host(service))));
        if let Some(address) = service.cluster_ip.address() {
            concerned.extend(index.with(&Trait::Endpoint(address)));
        }
    }
    for (_, _, workload) in workloads(index, new) {
        concerned.extend(index.with(&Trait::Endpoint(workload.address)));
    }
    for id in concerned {
        let Some(document) = index.get(id).cloned() else {
            continue;
        };
        let Some(external) = document.model.external_service() else {
            continue;
        };
        claim_host_ports(index, id, &document, external, report);
        check_apart(index, config, (id, &document), external, report);
    }
}

/// No two external services share a port of a host.
fn claim_host_ports(
    index: &mut Index,
    id: Id,
    document: &Parsed,
    external: &ExternalService,
    report: &Reporter<'_>,
) {
    let mut refused = None;
    for (claim, field) in host_ports(external) {
        let owner = index.owner(&claim).filter(|(owner, _)| *owner != id);
        // Of a host, one error: it may share all of its ports.
        if let (Some((owner, its_field)), Claim::Host(host, port, _)) = (owner, &claim)
            && refused != Some(field)
        {
            let other = report.other(index, owner, its_field);
            let message = format!("port {port} of {host} is also that of the {other}");
            report.error(id, document, &field.to_string(), message);
            refused = Some(field);
        }
        index.claim(claim, id, field);
    }
}

/// Traffic for what belongs to the mesh never leaves it in the clear: neither by a name nor by an address.
fn check_apart(
    index: &Index,
    config: Option<&MeshConfig>,
    (id, document): (Id, &Parsed),
    external: &ExternalService,
    report: &Reporter<'_>,
) {
    for (position, host) in external.hosts.iter().enumerate() {
        let key = Trait::ServiceHost(host.as_str().into());
        if let Some(service) = index.with(&key).next() {
            let other = report.other(index, service, Field::Name);
            let message = format!("{host} is the name of the {other} in the mesh");
            report.error(id, document, &format!("spec.hosts[{position}]"), message);
        }
    }
    for (position, address) in endpoints(external).iter().enumerate() {
        // What the MeshConfig says already is said once.
        if config.is_some_and(|config| config.contains(*address)) {
            continue;
        }
        let workload = index
            .with(&Trait::Address(*address))
            .next()
            .map(|id| (id, Field::Address));
        let owner = workload.or_else(|| index.owner(&Claim::ClusterIp(*address)));
        if let Some((owner, field)) = owner {
            let other = report.other(index, owner, field);
            let message = format!("{address} belongs to the mesh: it is that of the {other}");
            report.error(id, document, &format!("spec.endpoints[{position}]"), message);
        }
    }
}

impl Changed<'_> {
    fn is_new(&self, id: Id) -> bool {
        self.new.binary_search(&id).is_ok()
    }
}

impl Reporter<'_> {
    /// Reports an error of a field of a document.
    fn error(&self, id: Id, document: &Parsed, path: &str, message: String) {
        let Place { line, column } = self.place(id, document, path);
        self.errors.push(DocumentError {
            file: document.source.to_string(),
            line,
            column,
            path: path.to_owned(),
            message,
        });
    }

    /// Another document as a message names it, with the place of its field: `Service default/web (m.yaml:12)`.
    fn other(&self, index: &Index, id: Id, field: Field) -> String {
        let Some(document) = index.get(id) else {
            return String::new();
        };
        match self.place(id, document, &field.to_string()).line {
            0 => document.key.to_string(),
            line => format!("{} ({}:{line})", document.key, document.source),
        }
    }

    /// Nowhere, once there are so many errors that this one is not kept.
    fn place(&self, id: Id, document: &Parsed, path: &str) -> Place {
        if self.errors.is_full() {
            return Place { line: 0, column: 0 };
        }
        (self.place)(id, document, path)
    }
}

type Found<'i, T> = (Id, &'i Arc<Parsed>, &'i T);

fn services<'i>(index: &'i Index, ids: &'i [Id]) -> impl Iterator<Item = Found<'i, Service>> {
    let find = |document: &'i Arc<Parsed>| document.model.service();
    found(index, ids, find)
}

fn workloads<'i>(index: &'i Index, ids: &'i [Id]) -> impl Iterator<Item = Found<'i, Workload>> {
    let find = |document: &'i Arc<Parsed>| document.model.workload();
    found(index, ids, find)
}

fn externals<'i>(index: &'i Index, ids: &'i [Id]) -> impl Iterator<Item = Found<'i, ExternalService>> {
    let find = |document: &'i Arc<Parsed>| document.model.external_service();
    found(index, ids, find)
}

/// Those of the documents in which `find` finds something.
fn found<'i, T: 'i>(
    index: &'i Index,
    ids: &'i [Id],
    find: impl Fn(&'i Arc<Parsed>) -> Option<&'i T>,
) -> impl Iterator<Item = Found<'i, T>> {
    ids.iter().filter_map(move |id| {
        let document = index.get(*id)?;
        Some((*id, document, find(document)?))
    })
}
