//! What would become of the request, in one line.

use serde_json::Value;

use crate::cli::json::{list, shown as text};

/// The line.
pub(super) fn of(answer: &Value) -> String {
    let at = |pointer: &str| text(answer.pointer(pointer));
    let request = format!("{} from {}", request(answer), caller(answer));
    let because = match text(answer.pointer("/outcome/detail")) {
        detail if detail.is_empty() => String::new(),
        detail => format!(": {detail}"),
    };
    match at("/outcome/decision").as_str() {
        "forward" => format!("{request} goes to {}{}", backends(answer), by(answer)),
        "redirect" => format!(
            "{request} is redirected by the sidecar, {} to {}{}",
            at("/outcome/status"),
            at("/outcome/location"),
            by(answer)
        ),
        "answer" => format!(
            "{request} is answered {} {}: {}{because}",
            at("/outcome/status"),
            answerer(answer),
            at("/outcome/reason"),
        ),
        "outside" => format!("{request} leaves the mesh as it is{because}"),
        other => format!("{request}: {other}{because}"),
    }
}

/// A place that requests are sent to: the port is left out where it is that of HTTP.
pub(super) fn place(service: &str, port: Option<u64>) -> String {
    match port {
        None | Some(80) => service.to_owned(),
        Some(port) => format!("{service}:{port}"),
    }
}

/// A part of all in percent, with a decimal where there is one.
pub(super) fn percent(share: f64) -> String {
    let rounded = format!("{share:.1}");
    format!("{}%", rounded.strip_suffix(".0").unwrap_or(&rounded))
}

fn request(answer: &Value) -> String {
    let at = |name: &str| answer.get("request").and_then(|request| request.get(name));
    let host = place(&text(at("host")), at("port").and_then(Value::as_u64));
    format!("{} http://{host}{}", text(at("method")), text(at("path")))
}

fn caller(answer: &Value) -> String {
    let at = |name: &str| text(answer.get("from").and_then(|from| from.get(name)));
    match (at("namespace"), at("workload")) {
        (namespace, workload) if workload.is_empty() => format!("namespace {namespace}"),
        (namespace, workload) => format!("{namespace}/{workload}"),
    }
}

/// Where it goes: the backends that get any, and what is answered for those that take none.
fn backends(answer: &Value) -> String {
    let share = |backend: &Value| backend.get("share").and_then(Value::as_f64).unwrap_or(100.0);
    let all = list(answer.get("backends")).iter();
    let used: Vec<&Value> = all.filter(|backend| share(backend) > 0.0).collect();
    let is_dead = |backend: &&&Value| backend.get("error").is_some_and(|error| !error.is_null());
    let mut places: Vec<String> = Vec::new();
    let is_away = |backend: &&&Value| backend.get("redirect").is_some_and(|to| !to.is_null());
    let goes = |backend: &&&Value| !is_dead(backend) && !is_away(backend);
    for backend in used.iter().filter(goes) {
        let port = backend.get("port").and_then(Value::as_u64);
        let place = place(&text(backend.get("service")), port);
        places.push(match used.len() {
            1 => place,
            _ => format!("{place} ({})", percent(share(backend))),
        });
    }
    for backend in used.iter().filter(is_away) {
        let at = |name: &str| text(backend.pointer(&format!("/redirect/{name}")));
        let share = percent(share(backend));
        places.push(format!(
            "is redirected, {} to {} ({share})",
            at("status"),
            at("location")
        ));
    }
    for backend in used.iter().filter(is_dead) {
        let error = |name: &str| text(backend.pointer(&format!("/error/{name}")));
        let share = percent(share(backend));
        places.push(format!(
            "is answered {} {} ({share})",
            error("status"),
            error("reason")
        ));
    }
    places.join(" or ")
}

fn by(answer: &Value) -> String {
    match answer.get("route").filter(|route| !route.is_null()) {
        Some(route) => format!(
            " by {}, rule {}",
            text(route.get("route")),
            text(route.get("rule"))
        ),
        None => ": it has no routes".to_owned(),
    }
}

/// A request that may not is turned away where it arrives; all else is the caller's sidecar's.
fn answerer(answer: &Value) -> String {
    let at = |pointer: &str| text(answer.pointer(pointer));
    match (at("/authorization/decision").as_str(), at("/authorization/where")) {
        ("deny", place) if !place.is_empty() && at("/outcome/reason") == "denied" => place,
        _ => "by the sidecar".to_owned(),
    }
}
