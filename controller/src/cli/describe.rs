//! `describe`: a document, what stands behind it, and which sidecars have it.

mod rules;
mod standing;

use serde_json::Value;
use weft_proto::{
    document,
    kinds::{DocumentKey, Kind},
    mesh::v1,
};

use super::{
    Outcome, attached,
    failure::{Failure, many},
    get::{ready, whole},
    json, names,
    screen::{Colour, Screen, clean},
    session::Session,
    status::{self, Standing},
    table::{Cell, Table},
};

pub(crate) const HELP: &str = "\
Examples:
  weft describe service web
  weft describe wl/shop/web-0
  weft describe httproute web

Exit codes: 0 shown, 1 there is none, or failure, 2 wrong use.";

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct DescribeArgs {
    /// KIND NAME..., or KIND/NAME...
    #[arg(required = true, value_name = "KIND NAME")]
    what: Vec<String>,
}

/// Shows documents, each with what concerns it.
///
/// # Errors
/// One is not there, or it failed.
pub(crate) async fn run(
    args: DescribeArgs,
    session: &mut Session,
    screen: &mut Screen,
) -> Result<Outcome, Failure> {
    let keys = names::documents(&args.what, &session.namespace)?;
    for (index, key) in keys.iter().enumerate() {
        if index > 0 {
            screen.line("\n---")?;
        }
        describe(key, session, screen).await?;
    }
    Ok(Outcome::Done)
}

async fn describe(key: &DocumentKey, session: &mut Session, screen: &mut Screen) -> Result<(), Failure> {
    let document = fetch(key, session).await?;
    let mut value = whole(&document)?;
    // They have lines of their own.
    if let Some(Value::Object(metadata)) = value.get_mut("metadata") {
        metadata.remove("generation");
        metadata.remove("resourceVersion");
    }
    if let Value::Object(root) = &mut value {
        root.remove("status");
    }
    screen.line(format_args!("{key}"))?;
    let origin = match document.origin.as_str() {
        "proxy" => "registered by its sidecar",
        _ => "applied",
    };
    screen.line(format_args!(
        "Generation {} of revision {}, {origin}",
        document.generation, document.revision
    ))?;
    section("Document", screen)?;
    for line in document::yaml(&value).lines() {
        screen.line(format_args!("  {}", clean(line)))?;
    }
    match key.kind() {
        Kind::Service => {
            endpoints(key, &value, session, screen).await?;
            standing::to_service(key, session, screen).await?;
        }
        Kind::Workload => services(key, &value, session, screen).await?,
        Kind::HttpRoute | Kind::GrpcRoute => {
            standing::standing(key, &document, screen)?;
            standing::rules_of(&document, screen)?;
        }
        Kind::TrafficPolicy => standing::standing(key, &document, screen)?,
        Kind::MeshConfig | Kind::ExternalService | Kind::ReferenceGrant => {}
    }
    match key.kind() {
        // Which sidecars have it depends on all routes.
        Kind::ReferenceGrant => Ok(()),
        _ => users(key, &document, &value, session, screen).await,
    }
}

async fn fetch(key: &DocumentKey, session: &mut Session) -> Result<v1::StoredDocument, Failure> {
    let request = v1::GetRequest {
        kind: key.kind().name().to_owned(),
        namespace: key.namespace().to_owned(),
        name: key.name().to_owned(),
        labels: Vec::new(),
    };
    let response = session.admin.get(request).await;
    let documents = response
        .map_err(|status| session.refused(status))?
        .into_inner()
        .documents;
    documents
        .into_iter()
        .next()
        .ok_or_else(|| Failure::NotFound(format!("there is no {key}")))
}

/// What stands behind each port of a service.
async fn endpoints(
    key: &DocumentKey,
    value: &Value,
    session: &mut Session,
    screen: &mut Screen,
) -> Result<(), Failure> {
    section("Endpoints", screen)?;
    let mut table = Table::new(vec!["PORT", "WORKLOAD", "READY", "SIDECAR", "TARGET", "IDENTITY"]);
    let ports = value.pointer("/spec/ports").and_then(Value::as_array);
    for port in ports.into_iter().flatten() {
        let number = port.get("port").map(ToString::to_string).unwrap_or_default();
        let request = v1::ResolveRequest {
            service: format!("{}.{}:{number}", key.name(), key.namespace()),
        };
        let response = session.admin.resolve(request).await;
        let resolved = response.map_err(|status| session.refused(status))?.into_inner();
        if resolved.endpoints.is_empty() {
            table.row(vec![
                Cell::from(number),
                Cell::painted("none", Colour::Red),
                Cell::from(""),
                Cell::from(""),
                Cell::from(""),
                Cell::from(""),
            ]);
            continue;
        }
        for endpoint in &resolved.endpoints {
            table.row(vec![
                Cell::from(number.as_str()),
                Cell::from(endpoint.workload.as_str()),
                ready(endpoint.readiness()),
                Cell::from(endpoint.mesh_address.as_str()),
                Cell::from(u64::from(endpoint.port)),
                Cell::from(endpoint.identity.as_str()),
            ]);
        }
    }
    table.print(screen, false)
}

/// The services that select a workload.
async fn services(
    key: &DocumentKey,
    value: &Value,
    session: &mut Session,
    screen: &mut Screen,
) -> Result<(), Failure> {
    let request = v1::GetRequest {
        kind: Kind::Service.name().to_owned(),
        namespace: key.namespace().to_owned(),
        ..v1::GetRequest::default()
    };
    let response = session.admin.get(request).await;
    let all = response
        .map_err(|status| session.refused(status))?
        .into_inner()
        .documents;
    section("Services", screen)?;
    let labels = value.pointer("/metadata/labels");
    let mut found = Vec::new();
    for service in &all {
        let name = names::shown(service.key.as_ref());
        let document = json::document(&name, &service.document)?;
        let selector = document.pointer("/spec/selector").and_then(Value::as_object);
        let is_selected = selector.is_some_and(|selector| {
            !selector.is_empty()
                && selector
                    .iter()
                    .all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value))
        });
        if is_selected {
            found.push(name);
        }
    }
    if found.is_empty() {
        return screen.line("  none selects it");
    }
    found
        .iter()
        .try_for_each(|name| screen.line(format_args!("  {}", clean(name))))
}

/// The sidecars that a document concerns, and whether they have it.
async fn users(
    key: &DocumentKey,
    document: &v1::StoredDocument,
    value: &Value,
    session: &mut Session,
    screen: &mut Screen,
) -> Result<(), Failure> {
    let fleet = status::fetch(session, &v1::FleetRequest::default()).await?;
    section("Sidecars", screen)?;
    let mut table = Table::new(vec!["WORKLOAD", "HAS IT", "CONFIG", "ACKED"]);
    let mut count = 0;
    for proxy in &fleet.proxies {
        let reason = match concerns(key, value, proxy) {
            Some(reason) => reason,
            None => continue,
        };
        count += 1;
        let has_it = proxy.is_current || proxy.acked_revision >= document.revision;
        let has_it = if has_it {
            Cell::painted(format!("yes ({reason})"), Colour::Green)
        } else {
            Cell::painted(format!("not yet ({reason})"), Colour::Yellow)
        };
        table.row(vec![
            Cell::from(status::name(proxy)),
            has_it,
            Cell::from(Standing::of(proxy).as_str()),
            Cell::from(format!("{} of {}", proxy.acked_revision, fleet.revision)),
        ]);
    }
    if count == 0 {
        return screen.line("  none asks for it");
    }
    table.print(screen, false)
}

/// Why a sidecar needs a document, if it does: everyone needs the MeshConfig, and each its own workload, what it asked
/// for by name or address, and what is attached to that.
fn concerns(key: &DocumentKey, value: &Value, proxy: &v1::ProxyStatus) -> Option<&'static str> {
    let asks = |names: &[String]| {
        proxy
            .names
            .iter()
            .any(|asked| names.iter().any(|name| name == asked))
    };
    let asks_for = |namespace: &str, name: &str| {
        let qualified = format!("{name}.{namespace}");
        let is_here = proxy.namespace == namespace;
        (is_here && asks(&[name.to_owned()]))
            || asks(&[
                format!("{qualified}.svc"),
                format!("{qualified}.svc.cluster.local"),
                qualified,
            ])
    };
    match key.kind() {
        Kind::MeshConfig => Some("everyone"),
        Kind::Workload => {
            let address = value.pointer("/spec/address").and_then(Value::as_str);
            if proxy.namespace == key.namespace() && proxy.workload == key.name() {
                Some("its own")
            } else {
                asks(&[address?.to_owned()]).then_some("by address")
            }
        }
        Kind::Service => {
            let address = value.pointer("/spec/clusterIP").and_then(Value::as_str);
            if asks_for(key.namespace(), key.name()) {
                Some("by name")
            } else {
                asks(&[address?.to_owned()]).then_some("by address")
            }
        }
        Kind::ExternalService => {
            let hosts = value.pointer("/spec/hosts").and_then(Value::as_array)?;
            let hosts: Vec<String> = hosts
                .iter()
                .filter_map(|host| Some(host.as_str()?.to_owned()))
                .collect();
            asks(&hosts).then_some("by name")
        }
        Kind::HttpRoute | Kind::GrpcRoute | Kind::TrafficPolicy => {
            // A consumer's route is for the clients of its namespace.
            let is_for = |namespace: &str| namespace == key.namespace() || proxy.namespace == key.namespace();
            attached::services(value, key.namespace())
                .into_iter()
                .any(|(namespace, name)| is_for(namespace) && asks_for(namespace, name))
                .then_some("by its Service")
        }
        Kind::ReferenceGrant => None,
    }
}

/// The heading of a part of a page.
///
/// # Errors
/// It could not be written.
pub(crate) fn section(head: &str, screen: &mut Screen) -> Result<(), Failure> {
    let head = screen.paint(Colour::Bold, head).into_owned();
    screen.line(format_args!("\n{head}"))
}
