//! `weft-proxy check`: everything that is wrong with a configuration, before a proxy meets it.

use std::{path::Path, process::ExitCode};

use serde_json::json;
use weft_proto::model::{Mesh, Workload};

use crate::{
    cli::Output,
    config::Config,
    documents::DocumentsWatcher,
    identity::{IdentityFiles, IdentityWatcher},
};

/// What was found.
#[derive(Debug, Default)]
struct Findings {
    errors: Vec<String>,
    warnings: Vec<String>,
    summary: Vec<String>,
}

/// Checks, and prints what was found. The exit code is 1 if there is an error.
pub(crate) fn run(path: &Path, output: Output) -> ExitCode {
    let findings = check(path);
    match output {
        Output::Text => print(&findings),
        Output::Json => println!(
            "{}",
            json!({ "ok": findings.errors.is_empty(), "errors": findings.errors, "warnings": findings.warnings })
        ),
    }
    if findings.errors.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn print(findings: &Findings) {
    for error in &findings.errors {
        eprintln!("{error}");
    }
    for warning in &findings.warnings {
        eprintln!("warning: {warning}");
    }
    match findings.errors.len() {
        0 => findings.summary.iter().for_each(|line| println!("{line}")),
        1 => eprintln!("1 error"),
        count => eprintln!("{count} errors"),
    }
}

fn check(path: &Path) -> Findings {
    let mut findings = Findings::default();
    let config = match Config::load(path) {
        Ok(config) => config,
        Err(errors) => {
            findings.errors.extend(errors.iter().map(ToString::to_string));
            return findings;
        }
    };
    let identity = check_identity(&config, &mut findings);
    match DocumentsWatcher::load(&config.documents) {
        Err(errors) => findings.errors.extend(errors.0.iter().map(ToString::to_string)),
        Ok((_, documents)) => {
            let mesh = documents.mesh.borrow().clone();
            check_mesh(&config, &mesh, identity.as_ref(), &mut findings);
        }
    }
    findings
}

fn check_identity(config: &Config, findings: &mut Findings) -> Option<weft_proto::SpiffeId> {
    let files = IdentityFiles {
        certificate: config.identity.certificate.clone(),
        key: config.identity.key.clone(),
        trust_bundle: config.identity.trust_bundle.clone(),
        expected: None,
    };
    match IdentityWatcher::load(files) {
        Ok((_, identity)) => {
            let svid = identity.credentials.borrow().svid().clone();
            if svid.not_after() <= std::time::SystemTime::now() {
                findings.errors.push(format!(
                    "{}: it has expired",
                    config.identity.certificate.display()
                ));
            }
            findings.summary.push(format!("identity {}", svid.id()));
            Some(svid.id().clone())
        }
        Err(error) => {
            findings.errors.push(error.to_string());
            None
        }
    }
}

fn check_mesh(
    config: &Config,
    mesh: &Mesh,
    identity: Option<&weft_proto::SpiffeId>,
    findings: &mut Findings,
) {
    let own = |known: &&Workload| {
        *known.name.name == *config.workload.name && *known.name.namespace == *config.workload.namespace
    };
    let name = format!("{}/{}", &*config.workload.namespace, &*config.workload.name);
    if let Some(identity) = identity.filter(|identity| identity.trust_domain() != &mesh.config.trust_domain) {
        let expected = &mesh.config.trust_domain;
        findings.errors.push(format!(
            "the certificate is for {identity}, but MeshConfig says trust domain {expected}"
        ));
    }
    match mesh.workloads.iter().find(own) {
        None => findings.warnings.push(format!(
            "no document describes the workload {name}: nobody can call it"
        )),
        Some(own) => {
            let expected = own.identity(&mesh.config.trust_domain);
            if let Some(identity) = identity.filter(|identity| **identity != expected) {
                let problem =
                    format!("the certificate is for {identity}, but peers expect {expected} of {name}");
                findings.errors.push(problem);
            }
            check_ports(config, own, findings);
        }
    }
    findings.summary.push(format!(
        "{} services, {} workloads: no errors",
        mesh.services.len(),
        mesh.workloads.len()
    ));
}

fn check_ports(config: &Config, own: &Workload, findings: &mut Findings) {
    for port in &own.ports {
        if !config
            .application
            .ports
            .iter()
            .any(|known| known.port == port.port)
        {
            let problem = format!(
                "{} declares port {}, which application.ports does not have",
                own.name, port.port
            );
            findings
                .warnings
                .push(format!("{problem}: requests to it are refused"));
        }
    }
    let listens = |port: u16| config.listen.mesh.iter().any(|address| address.port() == port);
    if let Some(port) = own.mesh_port.filter(|port| !listens(*port)) {
        findings.warnings.push(format!(
            "{} has meshPort {port}, on which listen.mesh does not listen",
            own.name
        ));
    }
}
