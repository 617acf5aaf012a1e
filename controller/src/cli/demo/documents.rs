//! The documents of the demo's mesh: those that it begins with, and those that its steps apply.

use super::plan::{Application, CART, CATALOG, CHECKOUT, ORDERS, Subnet, TRUST_DOMAIN, V1, V2};

/// The service that the first step makes.
pub(super) const STABLE: &str = "catalog-stable";
/// The first of its ports that a change adds; the next change adds the next one.
const STABLE_PORT: u16 = 8_000;

/// Of a hundred requests to the catalog, so many go to each version.
pub(super) const SPLIT: [(&str, u64); 2] = [(V1, 90), (V2, 10)];

/// The field by which the catalog's testers are known, and its value.
pub(super) const TESTER: (&str, &str) = ("x-tester", "yes");

/// What a step applies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Document {
    /// The name of its file.
    pub(super) file: &'static str,
    /// What is in it, as an operator names it.
    pub(super) names: String,
    pub(super) text: String,
}

/// The documents that the mesh begins with.
pub(super) fn beginning(subnet: Subnet) -> String {
    let mut text = mesh_config(subnet, 0);
    for application in [&CATALOG, &CART, &CHECKOUT, &ORDERS] {
        text += &service(application.service, application, None);
    }
    for version in [V1, V2] {
        text += &service(&version_service(version), &CATALOG, Some(version));
    }
    text
}

/// The documents of the first step, the `number`th time, from 1: a service that only the first version of the
/// catalog stands behind, on one more port each time (and still on the one before, which traffic uses until every
/// sidecar knows the new one), and one more range of addresses of the mesh, which every sidecar must hear of.
pub(super) fn change(subnet: Subnet, number: u16) -> Document {
    let Application { protocol, target, .. } = CATALOG;
    let port = |number: u16| {
        format!(
            "{{name: {protocol}-{number}, port: {}, targetPort: {target}, appProtocol: {protocol}}}",
            stable_port(number)
        )
    };
    let ports = match number {
        0 | 1 => port(1),
        _ => format!("{}, {}", port(number - 1), port(number)),
    };
    let text = format!(
        "{}---\napiVersion: v1\nkind: Service\nmetadata: {{name: {STABLE}, namespace: default}}\n\
         spec:\n  selector: {{app: {}, version: {V1}}}\n  ports: [{ports}]\n",
        mesh_config(subnet, number),
        CATALOG.service,
    );
    Document {
        file: "change.yaml",
        names: format!("MeshConfig mesh, Service default/{STABLE}"),
        text,
    }
}

/// The catalog's requests, split between its versions.
pub(super) fn split() -> Document {
    let backends: Vec<_> = SPLIT
        .iter()
        .map(|(version, weight)| format!("      {}\n", backend(version, Some(*weight))))
        .collect();
    Document {
        file: "split.yaml",
        names: format!("HTTPRoute default/{}", CATALOG.service),
        text: route(
            CATALOG.service,
            &format!("  - backendRefs:\n{}", backends.concat()),
        ),
    }
}

/// The new version for testers. It is a route beside that of the split, before which it comes because it asks for more.
pub(super) fn testers() -> Document {
    let name = format!("{}-testers", CATALOG.service);
    let (field, value) = TESTER;
    let rule = format!(
        "  - matches:\n      - headers: [{{name: {field}, value: \"{value}\"}}]\n    backendRefs:\n      {}\n",
        backend(V2, None)
    );
    Document {
        file: "testers.yaml",
        text: route(&name, &rule),
        names: format!("HTTPRoute default/{name}"),
    }
}

/// What keeps requests from a replica that turned bad, for the old version and whatever else leads to it.
pub(super) fn policy(has_stable: bool) -> Document {
    let mut targets = vec![version_service(V1)];
    if has_stable {
        targets.push(STABLE.to_owned());
    }
    let targets: String = targets
        .iter()
        .map(|name| format!("    - {{group: \"\", kind: Service, name: {name}}}\n"))
        .collect();
    let name = version_service(V1);
    Document {
        file: "policy.yaml",
        names: format!("TrafficPolicy default/{name}"),
        text: format!(
            "apiVersion: weft.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {{name: {name}, namespace: default}}\n\
             spec:\n  targetRefs:\n{targets}  \
             loadBalancing: {{algorithm: RoundRobin}}\n  \
             retries: {{retryOn: [ConnectFailure, Reset, GatewayError], attempts: 2}}\n  \
             outlierEjection: {{consecutiveFailures: 5, time: {{base: 5s, max: 30s}}, maxPercent: 50}}\n"
        ),
    }
}

/// The port of the stable service that the `number`th change added.
pub(super) fn stable_port(number: u16) -> u16 {
    STABLE_PORT + number % 1_000
}

/// The Service of one version of the catalog.
fn version_service(version: &str) -> String {
    format!("{}-{version}", CATALOG.service)
}

fn service(name: &str, application: &Application, version: Option<&str>) -> String {
    let Application {
        service: app,
        protocol,
        port,
        target,
        ..
    } = application;
    let version = version.map(|version| format!(", version: {version}"));
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: default}}\n\
         spec:\n  selector: {{app: {app}{}}}\n  \
         ports: [{{name: {protocol}, port: {port}, targetPort: {target}, appProtocol: {protocol}}}]\n",
        version.unwrap_or_default()
    )
}

/// A route of the catalog's requests.
fn route(name: &str, rules: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}, namespace: default}}\n\
         spec:\n  parentRefs: [{{group: \"\", kind: Service, name: {}}}]\n  rules:\n{rules}",
        CATALOG.service
    )
}

fn backend(version: &str, weight: Option<u64>) -> String {
    let weight = weight.map(|weight| format!(", weight: {weight}"));
    format!(
        "- {{name: {}, port: {}{}}}",
        version_service(version),
        CATALOG.port,
        weight.unwrap_or_default()
    )
}

/// The settings of the mesh after so many changes: each adds a range for documentation (RFC 5737).
fn mesh_config(subnet: Subnet, changes: u16) -> String {
    let mut ranges = format!("\"{subnet}/24\"");
    if changes > 0 {
        ranges += &format!(", \"192.0.2.{}/32\"", changes % 256);
    }
    format!(
        "apiVersion: weft.dev/v1alpha1\nkind: MeshConfig\nmetadata: {{name: mesh}}\n\
         spec: {{trustDomain: {TRUST_DOMAIN}, meshRanges: [{ranges}]}}\n"
    )
}

#[cfg(test)]
mod tests {
    use weft_proto::{Source, model::Mesh, parse::parse_documents};

    use super::*;

    fn parsed(text: &str) -> Mesh {
        let text = match text.contains("MeshConfig") {
            true => text.to_owned(),
            false => format!("{}---\n{text}", beginning(Subnet::default())),
        };
        match parse_documents(&[Source::new("demo", &text)]) {
            Ok(mesh) => mesh,
            Err(errors) => panic!("{errors:?}\n{text}"),
        }
    }

    #[test]
    fn the_documents_are_right() {
        let mesh = parsed(&beginning(Subnet::default()));
        let names: Vec<_> = mesh
            .services
            .iter()
            .map(|service| service.name.to_string())
            .collect();
        assert_eq!(names.len(), 6, "{names:?}");
        assert_eq!(CATALOG.members().count(), 3);
    }

    #[test]
    fn a_change_keeps_the_port_that_traffic_uses() {
        for number in [1, 2, 3, 999] {
            let mesh = parsed(&change(Subnet::default(), number).text);
            let ports: Vec<_> = mesh.services[0].ports.iter().map(|port| port.port).collect();
            assert!(ports.contains(&stable_port(number)), "{ports:?}");
            assert!(
                number == 1 || ports.contains(&stable_port(number - 1)),
                "{ports:?}"
            );
            assert_eq!(mesh.config.mesh_ranges.len(), 2);
        }
        assert_ne!(change(Subnet::default(), 1), change(Subnet::default(), 2));
    }

    #[test]
    fn the_split_is_of_both_versions_and_testers_get_the_new_one() {
        let mesh = parsed(&format!("{}---\n{}", split().text, testers().text));
        assert_eq!(mesh.routes.len(), 2);
        let rules: Vec<_> = mesh.routes.iter().flat_map(|route| &route.rules).collect();
        let is_tester = |rule: &&&weft_proto::model::route::RouteRule| {
            rule.matches.iter().any(|found| !found.headers.is_empty())
        };
        let told = |rule: &weft_proto::model::route::RouteRule| -> Vec<_> {
            rule.backends
                .iter()
                .map(|backend| (backend.target.service.name.to_string(), backend.weight))
                .collect()
        };
        let split = rules.iter().find(|rule| !is_tester(rule)).unwrap();
        assert_eq!(
            told(split),
            [("catalog-v1".to_owned(), 90), ("catalog-v2".to_owned(), 10)]
        );
        let testers = rules.iter().find(is_tester).unwrap();
        assert_eq!(told(testers), [("catalog-v2".to_owned(), 1)]);
    }

    #[test]
    fn the_policy_retries_and_ejects_wherever_the_replica_is_reached() {
        for (has_stable, targets) in [(false, 1), (true, 2)] {
            let mesh = parsed(&policy(has_stable).text);
            let policy = &mesh.traffic_policies[0];
            assert_eq!(policy.targets.len(), targets);
            assert!(policy.sections.retries.as_ref().unwrap().on.gateway_error);
            let ejection = policy.sections.outlier_ejection.as_ref().unwrap();
            assert_eq!(ejection.consecutive_failures, 5);
        }
    }
}
