//! What is attached to a Service, and what a route or policy is attached to.

use serde_json::Value;
use weft_proto::{
    Source,
    kinds::{DocumentKey, Kind},
    mesh::v1,
    parse::{Model, parse_document},
};

use super::{rules, section};
use crate::cli::{
    attached::{self, places, sections, verdict},
    failure::Failure,
    json, names,
    screen::{Screen, clean},
    session::Session,
    table::{Cell, Table},
};

/// At which Services a route or policy is accepted, and what there is to say of that.
pub(super) fn standing(
    key: &DocumentKey,
    document: &v1::StoredDocument,
    screen: &mut Screen,
) -> Result<(), Failure> {
    let Some(status) = attached::status(document)? else {
        return Ok(());
    };
    let is_route = key.kind() != Kind::TrafficPolicy;
    section(if is_route { "Parents" } else { "Targets" }, screen)?;
    let places = places(&status, key.namespace());
    let mut head = vec!["SERVICE", "ACCEPTED"];
    if is_route {
        head.push("RESOLVED");
    }
    let mut table = Table::new(head);
    for place in &places {
        let mut row = vec![Cell::from(place.name.as_str()), place.cell("Accepted")];
        if is_route {
            row.push(place.cell("ResolvedRefs"));
        }
        table.row(row);
    }
    table.print(screen, false)?;
    let mut said: Vec<String> = Vec::new();
    for place in &places {
        let lines = place
            .messages()
            .into_iter()
            .map(|message| format!("  {}: {message}", place.name));
        said.extend(lines);
    }
    said.iter().try_for_each(|line| screen.line(clean(line)))
}

/// What a route does, in words. What this version of the program cannot read is only shown as it stands.
pub(super) fn rules_of(document: &v1::StoredDocument, screen: &mut Screen) -> Result<(), Failure> {
    let text = String::from_utf8_lossy(&document.document).into_owned();
    let parsed = parse_document(&Source::new("the route", text));
    let Ok(Model::Route(route)) = parsed.map(|parsed| parsed.model) else {
        return Ok(());
    };
    section("Rules", screen)?;
    rules::lines(&route)
        .iter()
        .try_for_each(|line| screen.line(format_args!("  {}", clean(line))))
}

/// The routes and policies that name a Service, of all namespaces.
pub(super) async fn to_service(
    key: &DocumentKey,
    session: &mut Session,
    screen: &mut Screen,
) -> Result<(), Failure> {
    let mut table = Table::new(vec!["DOCUMENT", "AT", "SAYS", "ACCEPTED", "RESOLVED"]);
    let mut is_any = false;
    for kind in attached::KINDS {
        let request = v1::GetRequest {
            kind: kind.name().to_owned(),
            ..v1::GetRequest::default()
        };
        let response = session.admin.get(request).await;
        let response = response.map_err(|status| session.refused(status))?.into_inner();
        for document in &response.documents {
            let name = names::shown(document.key.as_ref());
            let value = json::document(&name, &document.document)?;
            let namespace = document.key.as_ref().map_or("", |key| key.namespace.as_str());
            let is_it = (key.namespace(), key.name());
            if !attached::services(&value, namespace).contains(&is_it) {
                continue;
            }
            is_any = true;
            table.row(row(key, document, &value, name)?);
        }
    }
    section("Routes and policies", screen)?;
    match is_any {
        true => table.print(screen, false),
        false => screen.line("  none names it"),
    }
}

fn row(
    service: &DocumentKey,
    document: &v1::StoredDocument,
    value: &Value,
    name: String,
) -> Result<Vec<Cell>, Failure> {
    let status = attached::status(document)?.unwrap_or_default();
    // Seen from the Service: others of the document's parents have a namespace or another name.
    let is_here = |name: &str| name.split([':', '#']).next() == Some(service.name());
    let mut places = places(&status, service.namespace());
    places.retain(|place| is_here(&place.name));
    let at: Vec<String> = places.iter().map(|place| place.name.clone()).collect();
    let says = match value.pointer("/spec/rules").and_then(Value::as_array) {
        Some(rules) => super::many(rules.len(), "rule"),
        None => sections(value),
    };
    Ok(vec![
        Cell::from(name),
        Cell::from(at.join(",")),
        Cell::from(says),
        verdict(&places, "Accepted"),
        verdict(&places, "ResolvedRefs"),
    ])
}
