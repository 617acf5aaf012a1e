//! `explain`: what a sidecar would do with a request of its application, from what the sidecar itself knows and by the
//! functions that serve requests. Nothing is sent.

mod headline;
mod show;

use http::{HeaderName, HeaderValue, Method, Uri};
use serde_json::Value;
use weft_proto::mesh::v1::{self, question::Question};

use super::{
    Outcome,
    args::Format,
    failure::Failure,
    head,
    json::{self, shown},
    proxy,
    screen::Screen,
    session::Session,
};

pub(crate) const HELP: &str = "\
The answer is the sidecar's own, from the configuration and the state that it has now: which rule of which route the \
request matches and why not the others, where it goes, which endpoints may get it, and the policies that hold. A name \
that the sidecar does not know yet it asks its controller for, as it would for a request.

Examples:
  weft explain --from frontend-0 GET http://catalog/
  weft explain --from shop/frontend-0 GET http://catalog.shop:8080/items?page=2 -H x-tester:yes
  weft explain --from frontend-0 POST http://orders/ -o json

Exit codes: 0 it would be sent on, or redirected, 1 the mesh would answer it itself, or failure, 2 wrong use.";

/// The longest URL that is asked about: as long as the sidecar takes.
const MAX_URL: usize = 8 << 10;
/// The most fields.
const MAX_FIELDS: usize = 64;

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ExplainArgs {
    /// The workload whose application would send it: NAME or NS/NAME
    #[arg(long, value_name = "WORKLOAD")]
    from: String,
    /// Such as GET
    #[arg(value_name = "METHOD", value_parser = head::method)]
    method: Method,
    /// As the application would call it, with scheme, host, path and query
    #[arg(value_name = "URL", value_parser = url)]
    url: String,
    /// A field of the head, as NAME:VALUE; several times for several
    #[arg(short = 'H', long = "header", value_name = "NAME:VALUE", value_parser = field)]
    headers: Vec<(HeaderName, HeaderValue)>,
    /// How to print it: table, json or yaml
    #[arg(long, short, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
}

/// Asks, and shows.
///
/// # Errors
/// There is no such sidecar, or it does not answer, or it failed.
pub(crate) async fn run(
    args: ExplainArgs,
    session: &mut Session,
    screen: &mut Screen,
) -> Result<Outcome, Failure> {
    if args.headers.len() > MAX_FIELDS {
        return Err(Failure::Use(format!("more than {MAX_FIELDS} fields")));
    }
    let headers = args.headers.iter().map(|(name, value)| {
        let value = String::from_utf8_lossy(value.as_bytes());
        format!("{name}: {value}")
    });
    let question = Question::Explain(v1::Explain {
        method: args.method.to_string(),
        url: args.url,
        headers: headers.collect(),
    });
    let answer = proxy::ask(&args.from, question, session).await?;
    match args.output {
        Format::Json | Format::Yaml => json::print(screen, args.output, &answer)?,
        _ => show::page(&answer, screen)?,
    }
    outcome(&answer)
}

fn outcome(answer: &Value) -> Result<Outcome, Failure> {
    match shown(answer.pointer("/outcome/decision")).as_str() {
        "forward" | "redirect" | "outside" => Ok(Outcome::Done),
        "answer" => Ok(Outcome::Differs),
        other => Err(Failure::Other(
            format!("the sidecar decides {other:?}, which this program does not know"),
            Some("The sidecar is of another version: see `weft status`.".to_owned()),
        )),
    }
}

/// An absolute URL of plain HTTP, which is what a sidecar reads; as it was typed.
fn url(text: &str) -> Result<String, String> {
    if text.len() > MAX_URL {
        return Err(format!("has more than {MAX_URL} bytes"));
    }
    match text.split_once("://") {
        None => return Err(format!("has no scheme: http://{}", text.trim_start_matches('/'))),
        Some((scheme, _)) if scheme.eq_ignore_ascii_case("http") => {}
        Some((scheme, _)) if scheme.eq_ignore_ascii_case("https") => {
            return Err(
                "is HTTPS: the application's own encryption, of which a sidecar sees no request; it explains http://"
                    .to_owned(),
            );
        }
        Some(_) => return Err("is not HTTP: a sidecar explains http://".to_owned()),
    }
    let wrong = || "is not a URL, such as http://web:8080/path".to_owned();
    let uri: Uri = text.parse().map_err(|_| wrong())?;
    let authority = uri
        .authority()
        .filter(|it| !it.host().is_empty())
        .ok_or_else(wrong)?;
    if authority.as_str().contains('@') {
        return Err("names a user, which no request of HTTP carries".to_owned());
    }
    let has_port = authority.as_str().len() > authority.host().len() + 1;
    if has_port && authority.port_u16().is_none_or(|port| port == 0) {
        return Err("has a port that is none: 1 to 65535".to_owned());
    }
    Ok(text.to_owned())
}

/// A field; the host is that of the URL.
fn field(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = head::field(text)?;
    if name == http::header::HOST {
        return Err("the host is that of the URL".to_owned());
    }
    Ok((name, value))
}

#[cfg(test)]
mod tests;
