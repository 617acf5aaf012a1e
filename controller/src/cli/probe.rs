//! `probe`: calls each endpoint of a service with the operator's own identity, and says what happened at each hop.
//!
//! It speaks HTTP/3 with quinn and the h3 crate, which share nothing with the sidecars but the standards: so what it
//! sees is what any client of the mesh would see.

mod call;
mod explain;

use std::{net::SocketAddr, time::Duration};

use http::{HeaderName, HeaderValue, Method};
use serde_json::{Value, json};
use tokio::time::Instant;
use weft_proto::{SpiffeId, mesh::v1};
use weft_tls::Credentials;

use super::{
    Outcome,
    args::Format,
    failure::{Failure, many},
    head, human, json as values, names,
    screen::{Colour, Screen, clean},
    session::Session,
};
use call::{Answer, Call, Hop};

pub(crate) const HELP: &str = "\
The call is made from here, as the operator of the context, to the sidecar of every endpoint: UDP must reach them. It is \
subject to the mesh's policy as every other call.

Examples:
  weft probe web
  weft probe web.shop:8080 --path /health
  weft probe web --method POST --header content-type:application/json

Exit codes: 0 every endpoint's application answered, none with 5xx, 1 one did not, or failure, 2 wrong use.";

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ProbeArgs {
    /// SERVICE, SERVICE.NAMESPACE, either with :PORT
    service: String,
    /// What to ask for
    #[arg(long, value_name = "PATH", default_value = "/", value_parser = path)]
    path: String,
    /// How to ask
    #[arg(long, value_name = "METHOD", default_value = "GET", value_parser = head::method)]
    method: Method,
    /// A field of the head, as NAME:VALUE; several times for several
    #[arg(long = "header", value_name = "NAME:VALUE", value_parser = head::field)]
    headers: Vec<(HeaderName, HeaderValue)>,
    /// How long each of handshake and answer may take
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = human::parse_duration)]
    timeout: Duration,
    /// How to print it: table, json or yaml
    #[arg(long, short, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
}

/// Calls.
///
/// # Errors
/// There is no such service, or it failed.
pub(crate) async fn run(
    args: ProbeArgs,
    session: &mut Session,
    screen: &mut Screen,
) -> Result<Outcome, Failure> {
    let service = qualified(&args.service, &session.namespace);
    let begun = Instant::now();
    let request = v1::ResolveRequest { service };
    let response = session.admin.resolve(request).await;
    let resolved = response.map_err(|status| session.refused(status))?.into_inner();
    let took = begun.elapsed();
    let is_text = !matches!(args.output, Format::Json | Format::Yaml);
    if is_text {
        screen.line(format_args!(
            "resolve    {} port {} ({}): {} in {}",
            clean(&names::shown(resolved.service.as_ref())),
            resolved.port,
            clean(&resolved.protocol),
            many(resolved.endpoints.len(), "endpoint"),
            milliseconds(took)
        ))?;
    }
    let mut answers = Vec::new();
    let mut outcome = if resolved.endpoints.is_empty() {
        Outcome::Differs
    } else {
        Outcome::Done
    };
    for endpoint in &resolved.endpoints {
        let answer = probe(&args, &resolved, endpoint, session).await?;
        if !answer.is_good() {
            outcome = Outcome::Differs;
        }
        if is_text {
            show(endpoint, &answer, screen)?;
        }
        answers.push((endpoint, answer));
    }
    if !is_text {
        let endpoints: Vec<Value> = answers
            .iter()
            .map(|(endpoint, answer)| to_json(endpoint, answer))
            .collect();
        let value = json!({
            "service": names::shown(resolved.service.as_ref()),
            "port": resolved.port,
            "protocol": resolved.protocol,
            "endpoints": endpoints,
            "ok": outcome == Outcome::Done,
        });
        values::print(screen, args.output, &value)?;
    } else if resolved.endpoints.is_empty() {
        screen.line("no workload stands behind it: its selector matches none that declares the port (weft get workloads -o wide)")?;
    }
    Ok(outcome)
}

/// Calls one sidecar with this credential, and no session's: for the demo.
///
/// # Errors
/// Where the call ended, and why.
pub(crate) async fn call(
    credentials: &Credentials,
    address: SocketAddr,
    identity: &SpiffeId,
    authority: String,
    port: u32,
) -> Result<(), String> {
    let call = Call {
        address,
        identity,
        credentials,
        authority,
        port,
        method: Method::GET,
        path: "/".to_owned(),
        headers: Vec::new(),
        timeout: Duration::from_secs(5),
        is_http: true,
    };
    match call.make().await.failure {
        None => Ok(()),
        Some((hop, why)) => Err(format!("{}: {why}", hop.as_str())),
    }
}

async fn probe(
    args: &ProbeArgs,
    resolved: &v1::ResolveResponse,
    endpoint: &v1::Endpoint,
    session: &Session,
) -> Result<Answer, Failure> {
    if endpoint.mesh_address.is_empty() {
        return Ok(Answer::failed(
            Hop::Resolve,
            "it has no sidecar: a probe goes through sidecars alone",
        ));
    }
    let wrong = |what: &str| Failure::other(format!("the controller gave {what} that is none"));
    let address: SocketAddr = endpoint.mesh_address.parse().map_err(|_| wrong("an address"))?;
    let identity: SpiffeId = endpoint.identity.parse().map_err(|_| wrong("an identity"))?;
    let credentials = session
        .credentials
        .as_ref()
        .ok_or_else(|| Failure::other("there is no credential to probe with"))?;
    let service = resolved.service.clone().unwrap_or_default();
    // What is no HTTP is not sent any: the handshake and the identities are what can be told.
    let is_http = !matches!(resolved.protocol.as_str(), "tcp" | "udp" | "tls");
    let call = Call {
        address,
        identity: &identity,
        credentials,
        authority: format!("{}.{}", service.name, service.namespace),
        port: endpoint.port,
        method: args.method.clone(),
        path: args.path.clone(),
        headers: args.headers.clone(),
        timeout: args.timeout,
        is_http,
    };
    Ok(call.make().await)
}

/// `web` is that of the session's namespace; a port stays.
fn qualified(service: &str, namespace: &str) -> String {
    let (host, port) = match service.rsplit_once(':') {
        Some((host, port)) => (host, format!(":{port}")),
        None => (service, String::new()),
    };
    if host.contains('.') {
        format!("{host}{port}")
    } else {
        format!("{host}.{namespace}{port}")
    }
}

fn show(endpoint: &v1::Endpoint, answer: &Answer, screen: &mut Screen) -> Result<(), Failure> {
    let readiness = values::readiness(endpoint.readiness());
    screen.line(format_args!(
        "\n{} at {} ({readiness})",
        clean(&endpoint.workload),
        if endpoint.mesh_address.is_empty() {
            "no sidecar".into()
        } else {
            clean(&endpoint.mesh_address)
        }
    ))?;
    if let Some((took, rtt)) = answer.handshake {
        screen.line(format_args!(
            "  handshake  QUIC and TLS in {}, round trip {}",
            milliseconds(took),
            milliseconds(rtt)
        ))?;
        screen.line(format_args!("  identity   {} proved", clean(&endpoint.identity)))?;
    }
    if let Some((status, took)) = answer.status {
        let text = status.to_string();
        let colour = if answer.is_good() {
            Colour::Green
        } else {
            Colour::Red
        };
        let status = screen.paint(colour, &text).into_owned();
        screen.line(format_args!("  answer     {status} in {}", milliseconds(took)))?;
    }
    match &answer.failure {
        Some((hop, why)) => {
            let failed = screen.paint(Colour::Red, "failed:").into_owned();
            screen.line(format_args!("  {:<10} {failed} {}", hop.as_str(), clean(why)))
        }
        None if answer.status.is_none() => screen.line("  answer     none asked for: the port is no HTTP"),
        None => Ok(()),
    }
}

fn to_json(endpoint: &v1::Endpoint, answer: &Answer) -> Value {
    let micros = |duration: Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    json!({
        "workload": endpoint.workload,
        "address": values::text(&endpoint.mesh_address),
        "identity": values::text(&endpoint.identity),
        "readiness": values::text(values::readiness(endpoint.readiness())),
        "handshakeMicros": answer.handshake.map(|(took, _)| micros(took)),
        "rttMicros": answer.handshake.map(|(_, rtt)| micros(rtt)),
        "status": answer.status.map(|(status, _)| status.as_u16()),
        "answerMicros": answer.status.map(|(_, took)| micros(took)),
        "reason": answer.reason,
        "failedAt": answer.failure.as_ref().map(|(hop, _)| hop.as_str()),
        "why": answer.failure.as_ref().map(|(_, why)| why),
        "ok": answer.is_good(),
    })
}

fn milliseconds(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1e3)
}

fn path(text: &str) -> Result<String, String> {
    let is_path = text.starts_with('/') && text.parse::<http::uri::PathAndQuery>().is_ok();
    if is_path {
        Ok(text.to_owned())
    } else {
        Err("is not a path, such as /health".to_owned())
    }
}

#[cfg(test)]
mod tests;
