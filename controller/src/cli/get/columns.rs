//! What tables show of each kind.

use serde_json::Value;
use weft_proto::{kinds::Kind, mesh::v1};

use crate::cli::{attached, failure::Failure, json, names, screen::Colour, table::Cell};

/// Which columns there are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    pub(super) has_namespace: bool,
    pub(super) is_wide: bool,
}

/// The columns of a kind.
pub(super) fn head(kind: Kind, layout: Layout) -> Vec<&'static str> {
    let mut head = Vec::new();
    if layout.has_namespace && kind.is_namespaced() {
        head.push("NAMESPACE");
    }
    head.push("NAME");
    let (columns, wide): (&[&str], &[&str]) = match kind {
        Kind::Service => (&["CLUSTER-IP", "PORTS"], &["SELECTOR"]),
        Kind::Workload => (
            &["READY", "ADDRESS", "MESH-PORT", "PORTS"],
            &["SERVICE-ACCOUNT", "FROM", "LABELS"],
        ),
        Kind::MeshConfig => (
            &["TRUST-DOMAIN", "EGRESS", "INBOUND", "AUTHORIZATION"],
            &["MESH-RANGES"],
        ),
        Kind::ExternalService => (&["HOSTS", "PORTS", "RESOLUTION"], &[]),
        Kind::HttpRoute | Kind::GrpcRoute => (&["HOSTNAMES", "PARENTS", "ACCEPTED", "RESOLVED"], &["RULES"]),
        Kind::ReferenceGrant => (&["FROM", "TO"], &[]),
        Kind::TrafficPolicy => (&["TARGETS", "SECTIONS", "ACCEPTED"], &[]),
    };
    head.extend(columns);
    head.push("GENERATION");
    if layout.is_wide {
        head.extend(wide);
        head.push("REVISION");
    }
    head
}

/// The cells of a document, in the order of [`head`].
///
/// # Errors
/// It is not JSON.
pub(super) fn row(kind: Kind, layout: Layout, document: &v1::StoredDocument) -> Result<Vec<Cell>, Failure> {
    let key = document.key.clone().unwrap_or_default();
    let value = json::document(&names::shown(Some(&key)), &document.document)?;
    let at = |pointer: &str| value.pointer(pointer).unwrap_or(&Value::Null);
    let or = |pointer: &str, absent: &str| match text(at(pointer)) {
        text if text.is_empty() => Cell::from(absent),
        text => Cell::from(text),
    };
    let mut row = Vec::new();
    if layout.has_namespace && kind.is_namespaced() {
        row.push(Cell::from(key.namespace.as_str()));
    }
    row.push(Cell::from(key.name.as_str()));
    let ports = || Cell::from(ports(at("/spec/ports")));
    let status = attached::status(document)?.unwrap_or_default();
    let verdict = |condition: &str| attached::verdict(&attached::places(&status, &key.namespace), condition);
    let (columns, wide): (Vec<Cell>, Vec<Cell>) = match kind {
        Kind::Service => (
            vec![or("/spec/clusterIP", ""), ports()],
            vec![Cell::from(pairs(at("/spec/selector")))],
        ),
        Kind::Workload => (
            vec![
                ready(document.readiness()),
                or("/spec/address", ""),
                or("/spec/meshPort", ""),
                ports(),
            ],
            vec![
                or("/spec/serviceAccount", "default"),
                Cell::from(document.origin.as_str()),
                Cell::from(pairs(at("/metadata/labels"))),
            ],
        ),
        Kind::MeshConfig => (
            vec![
                or("/spec/trustDomain", ""),
                or("/spec/egress", "deny"),
                or("/spec/inbound", "strict"),
                or("/spec/authorization", "authenticated"),
            ],
            vec![Cell::from(items(at("/spec/meshRanges")))],
        ),
        Kind::ExternalService => (
            vec![
                Cell::from(items(at("/spec/hosts"))),
                ports(),
                or("/spec/resolution", "dns"),
            ],
            Vec::new(),
        ),
        Kind::HttpRoute | Kind::GrpcRoute => {
            let rules = at("/spec/rules").as_array().map_or(0, Vec::len);
            (
                vec![
                    Cell::from(items(at("/spec/hostnames"))),
                    Cell::from(attached::named(&value, &key.namespace).join(",")),
                    verdict("Accepted"),
                    verdict("ResolvedRefs"),
                ],
                vec![Cell::from(rules as u64)],
            )
        }
        Kind::ReferenceGrant => (
            vec![
                Cell::from(attached::grant_from(&value)),
                Cell::from(attached::grant_to(&value)),
            ],
            Vec::new(),
        ),
        Kind::TrafficPolicy => (
            vec![
                Cell::from(attached::named(&value, &key.namespace).join(",")),
                Cell::from(attached::sections(&value)),
                verdict("Accepted"),
            ],
            Vec::new(),
        ),
    };
    row.extend(columns);
    row.push(Cell::from(document.generation));
    if layout.is_wide {
        row.extend(wide);
        row.push(Cell::from(document.revision));
    }
    Ok(row)
}

/// Whether a workload takes requests.
pub(crate) fn ready(readiness: v1::Readiness) -> Cell {
    let colour = match readiness {
        v1::Readiness::Ready => Colour::Green,
        v1::Readiness::NotReady => Colour::Red,
        v1::Readiness::Draining => Colour::Yellow,
        v1::Readiness::Unspecified => return Cell::from(""),
    };
    Cell::painted(json::readiness(readiness), colour)
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn items(value: &Value) -> String {
    let items = value.as_array().map(Vec::as_slice).unwrap_or_default();
    items.iter().map(text).collect::<Vec<_>>().join(",")
}

fn pairs(value: &Value) -> String {
    let Some(entries) = value.as_object() else {
        return String::new();
    };
    let pairs = entries
        .iter()
        .map(|(key, value)| format!("{key}={}", text(value)));
    pairs.collect::<Vec<_>>().join(",")
}

/// `http:80->8080/http`, as far as it is said.
fn ports(value: &Value) -> String {
    let port = |port: &Value| {
        let at = |name: &str| text(port.get(name).unwrap_or(&Value::Null));
        let mut shown = at("port");
        let target = at("targetPort");
        if !target.is_empty() && target != shown {
            shown = format!("{shown}->{target}");
        }
        let protocol = match at("appProtocol") {
            protocol if protocol.is_empty() => at("protocol").to_lowercase(),
            protocol => protocol,
        };
        if !protocol.is_empty() {
            shown = format!("{shown}/{protocol}");
        }
        shown
    };
    let ports = value.as_array().map(Vec::as_slice).unwrap_or_default();
    ports.iter().map(port).collect::<Vec<_>>().join(",")
}
