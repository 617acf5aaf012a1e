//! The pages of controller and sidecars: plain HTTP on loopback.

use std::{io, net::SocketAddr, time::Duration};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::plan::{Member, Subnet};

/// How long a page may take: it is looked at again soon.
const PAGE: Duration = Duration::from_secs(2);
/// Far above any page of a demo.
const MAX_PAGE: u64 = 4 << 20;

/// Of the words that a sidecar has for how it has it with an endpoint, those for one that has not come back yet.
const EJECTED: [&str; 4] = ["ejected", "ejected_but_used", "probe_due", "probing"];

/// The connections that a sidecar dialled to one workload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Connections {
    pub(super) count: usize,
    /// What they are carried by.
    pub(super) transport: String,
    /// Who the other end has proved to be, if all proved the same.
    pub(super) identity: Option<String>,
}

/// How a sidecar has it with an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It gets requests.
    InUse,
    /// It is left alone for a while, by at least one of the services that lead to it.
    Ejected,
}

/// Status and body of a page, which has a length, as all of these do.
///
/// # Errors
/// It cannot be had in time.
pub(super) async fn get(address: SocketAddr, path: &str) -> io::Result<(u16, String)> {
    request("GET", address, path).await
}

/// The same with another method and no content.
///
/// # Errors
/// As [`get`].
pub(super) async fn request(method: &str, address: SocketAddr, path: &str) -> io::Result<(u16, String)> {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.take(MAX_PAGE).read_to_end(&mut answer).await?;
        io::Result::Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    let answer = match tokio::time::timeout(PAGE, exchange).await {
        Ok(answer) => answer?,
        Err(_) => return Err(io::ErrorKind::TimedOut.into()),
    };
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    match status {
        Some(status) => Ok((status, body.to_owned())),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// The connections of `from` to each of `to`; `None` if its sidecar does not tell.
pub(super) async fn connections(subnet: Subnet, from: &Member, to: &[&Member]) -> Option<Vec<Connections>> {
    let (_, page) = get(subnet.admin(from), "/connections").await.ok()?;
    let page: Value = serde_json::from_str(&page).ok()?;
    Some(to.iter().map(|to| to_one(&page, &to.uid())).collect())
}

/// How the sidecar of `from` has it with the workload `to`; `None` if it does not tell.
pub(super) async fn standing(subnet: Subnet, from: &Member, to: &Member) -> Option<Standing> {
    let (_, page) = get(subnet.admin(from), "/snapshot").await.ok()?;
    standing_in(&serde_json::from_str(&page).ok()?, &to.uid())
}

/// The page has an endpoint once for each service that leads to it.
fn standing_in(page: &Value, uid: &str) -> Option<Standing> {
    let backends = page["backends"].as_array()?;
    let mut endpoints = backends
        .iter()
        .flat_map(|backend| backend["endpoints"].as_array().into_iter().flatten())
        .filter(|endpoint| endpoint["workload"] == uid)
        .peekable();
    endpoints.peek()?;
    let is_ejected = |endpoint: &Value| {
        endpoint["standing"]
            .as_str()
            .is_some_and(|standing| EJECTED.contains(&standing))
    };
    match endpoints.any(is_ejected) {
        true => Some(Standing::Ejected),
        false => Some(Standing::InUse),
    }
}

fn to_one(page: &Value, uid: &str) -> Connections {
    let workers = page["workers"].as_array().into_iter().flatten();
    let mut found = workers
        .flat_map(|worker| worker["connections"].as_array().into_iter().flatten())
        .filter(|connection| connection["direction"] == "outbound" && connection["workload"] == uid)
        .peekable();
    let text = |connection: &Value, field: &str| connection[field].as_str().map(str::to_owned);
    let Some(first) = found.peek() else {
        return Connections::default();
    };
    let (transport, identity) = (text(first, "transport"), text(first, "identity"));
    let mut connections = Connections {
        count: 0,
        transport: transport.unwrap_or_default(),
        identity,
    };
    for connection in found {
        connections.count += 1;
        if text(connection, "identity") != connections.identity {
            connections.identity = None;
        }
    }
    connections
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_endpoint_that_one_service_ejected_is_ejected() {
        let endpoint = |workload: &str, standing: &str| json!({ "workload": workload, "standing": standing });
        let page = json!({ "backends": [
            { "endpoints": [endpoint("default/a", "eligible"), endpoint("default/b", "eligible")] },
            { "endpoints": [endpoint("default/a", "probing")] },
        ]});
        assert_eq!(standing_in(&page, "default/a"), Some(Standing::Ejected));
        assert_eq!(standing_in(&page, "default/b"), Some(Standing::InUse));
        assert_eq!(standing_in(&page, "default/c"), None);
        assert_eq!(standing_in(&json!({}), "default/a"), None);
    }

    #[test]
    fn an_identity_is_proved_only_if_all_prove_the_same() {
        let connection = |direction: &str, workload: &str, identity: &str| json!({ "direction": direction, "workload": workload, "identity": identity, "transport": "h3" });
        let mut page = json!({ "workers": [
            { "connections": [connection("outbound", "default/a", "x"), connection("inbound", "default/a", "y")] },
            { "connections": [connection("outbound", "default/a", "x"), connection("outbound", "default/b", "z")] },
        ]});
        let wanted = Connections {
            count: 2,
            transport: "h3".to_owned(),
            identity: Some("x".to_owned()),
        };
        assert_eq!(to_one(&page, "default/a"), wanted);
        page["workers"][1]["connections"][0]["identity"] = json!("other");
        assert_eq!(to_one(&page, "default/a").identity, None);
        assert_eq!(to_one(&page, "default/c"), Connections::default());
    }
}
