//! Envoy, whose other side speaks HTTP/2 without TLS: with a client of ours it is a client, with an application of
//! ours a server. HTTP/2 and not HTTP/1.1, because that has trailers, resets and tunnels too.

use std::{collections::HashMap, future::poll_fn, net::SocketAddr, process::Command, rc::Rc, time::Duration};

use bytes::Bytes;
use h2::{RecvStream, SendStream, ext::Protocol};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Mutex, mpsc},
};
use weft_lab::{envoy, process::Process};

use crate::{
    call::{Call, Content, End, Fields, Gate, Outcome, Seen, Then, pattern, to_fields, to_headers},
    place::Identity,
};

/// For Envoy to start, on a busy machine.
const STARTUP: Duration = Duration::from_secs(30);

/// How much content is handed over at once.
const PIECE: usize = 100_000;

const ANY_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

/// An Envoy.
struct Running {
    address: SocketAddr,
    admin: SocketAddr,
    _process: Process,
    _directory: TempDir,
}

impl Running {
    async fn start(directory: TempDir, listener: &Value, cluster: &Value) -> Self {
        let config = envoy::bootstrap(ANY_PORT, listener, cluster);
        let admin_path = directory.path().join("admin");
        let mut command = Command::new(envoy::install().unwrap());
        command.args(envoy::arguments(&config, directory.path().join("config.json")).unwrap());
        command.arg("--admin-address-path").arg(&admin_path);
        let mut process = Process::spawn("envoy", command).unwrap();
        process.wait_line("starting workers", STARTUP).unwrap();
        let admin = std::fs::read_to_string(&admin_path).unwrap().parse().unwrap();
        let listeners = ask(admin, "GET", "/listeners?format=json").await;
        let listeners: Value = serde_json::from_str(&listeners).unwrap();
        let socket = &listeners["listener_statuses"][0]["local_address"]["socket_address"];
        let port = u16::try_from(socket["port_value"].as_u64().unwrap()).unwrap();
        Self {
            address: SocketAddr::from(([127, 0, 0, 1], port)),
            admin,
            _process: process,
            _directory: directory,
        }
    }
}

/// Asks the admin page.
async fn ask(admin: SocketAddr, method: &str, path: &str) -> String {
    let stream = TokioIo::new(TcpStream::connect(admin).await.unwrap());
    let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
    tokio::task::spawn_local(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "admin");
    let request = request.body(Empty::<Bytes>::new()).unwrap();
    let answer = sender.send_request(request).await.unwrap();
    assert_eq!(answer.status(), 200, "{path}");
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(body.to_vec()).unwrap()
}

/// A connection manager that also takes tunnels, which Envoy does only where it is told to.
fn manager(codec: &str, cluster: &str) -> Value {
    let mut manager = envoy::connection_manager(codec, cluster);
    let config = &mut manager["typed_config"];
    config["http2_protocol_options"] = json!({"allow_connect": true, "max_concurrent_streams": 1000});
    config["http3_protocol_options"] = json!({"allow_extended_connect": true});
    config["upgrade_configs"] = json!([{"upgrade_type": "CONNECT"}, {"upgrade_type": "websocket"}]);
    // The caller's identity, from its certificate.
    config["forward_client_cert_details"] = json!("SANITIZE_SET");
    config["set_current_client_cert_details"] = json!({"uri": true});
    // Interim responses other than 100 pass too.
    config["proxy_100_continue"] = json!(true);
    let routes = &mut config["route_config"]["virtual_hosts"][0]["routes"];
    let connect = json!({"match": {"connect_matcher": {}}, "route": {"cluster": cluster, "timeout": "0s"}});
    routes.as_array_mut().unwrap().insert(0, connect);
    manager
}

/// A client of Envoy's.
pub(crate) struct Client {
    envoy: Running,
    /// Made at the first call.
    send: Mutex<Option<h2::client::SendRequest<Bytes>>>,
}

impl Client {
    pub(crate) async fn start(identity: &Identity, server: &Identity, address: SocketAddr) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let files = identity
            .authority
            .issue_files(identity.account, &identity.believes, directory.path())
            .unwrap();
        let mut tls = envoy::tls(&files, &server.id(), &["h3"]);
        if !identity.shows {
            tls["common_tls_context"]["tls_certificates"] = json!([]);
        }
        let mut mesh = envoy::cluster("mesh", address);
        let name = server.authority.name(server.account);
        mesh["transport_socket"] = envoy::quic_upstream(tls, &name);
        let options = json!({"allow_extended_connect": true});
        let mesh = envoy::speaking(mesh, "http3_protocol_options", options);
        let listener = envoy::listener(ANY_PORT, &manager("HTTP2", "mesh"), None);
        Self {
            envoy: Running::start(directory, &listener, &mesh).await,
            send: Mutex::new(None),
        }
    }

    async fn sender(&self) -> h2::client::SendRequest<Bytes> {
        let mut send = self.send.lock().await;
        if send.is_none() {
            let stream = TcpStream::connect(self.envoy.address).await.unwrap();
            let (sender, mut connection) = h2::client::handshake(stream).await.unwrap();
            // Extended CONNECT may be used once the other side's settings are known.
            let mut ping = connection.ping_pong().unwrap();
            tokio::task::spawn_local(connection);
            ping.ping(h2::Ping::opaque()).await.unwrap();
            *send = Some(sender);
        }
        send.clone().unwrap()
    }

    pub(crate) async fn call(&self, call: Call) -> Outcome {
        let mut outcome = Outcome::default();
        outcome.end = match self.exchange(&call, &mut outcome).await {
            Ok(end) => end,
            Err(error) => end_of(&error),
        };
        // Envoy says with a response of its own that the other side reset the stream; one of the other side
        // says how long that took.
        let is_own = !outcome.headers.contains_key("x-envoy-upstream-service-time");
        if outcome.end == End::Complete && outcome.status == Some(503) && is_own {
            outcome.end = End::Reset(None);
        }
        outcome
    }

    async fn exchange(&self, call: &Call, outcome: &mut Outcome) -> Result<End, h2::Error> {
        let mut sender = self.sender().await.ready().await?;
        let (mut response, mut send) = sender.send_request(head_of(call), false)?;
        if call.method == "CONNECT" {
            let head = (&mut response).await?;
            let (sent, received) = tokio::join!(upload(&mut send, call), download(head, call, outcome));
            return received.and_then(|end| sent.map(|()| end));
        }
        if call.then == Then::CancelUpload {
            upload(&mut send, call).await?;
            let _head = response.await?;
            send.send_reset(h2::Reason::CANCEL);
            return Ok(End::Cancelled);
        }
        let reading = async {
            while let Some(interim) = poll_fn(|cx| response.poll_informational(cx)).await {
                outcome.interim.push(interim?.status().as_u16());
            }
            let head = response.await?;
            download(head, call, outcome).await
        };
        let (sent, received) = tokio::join!(upload(&mut send, call), reading);
        if let Err(error) = sent {
            match error.reason() {
                // HTTP/2 has the code of HTTP/3's H3_NO_ERROR.
                Some(h2::Reason::NO_ERROR) => outcome.stopped = Some(0x100),
                _ => received.as_ref().map(drop).map_err(|_| error)?,
            }
        }
        received
    }
}

fn head_of(call: &Call) -> Request<()> {
    let uri = if call.is_plain_connect() {
        call.target.clone()
    } else {
        format!("http://server{}", call.target)
    };
    let mut head = Request::builder().method(call.method).uri(uri).body(()).unwrap();
    *head.headers_mut() = to_headers(&call.headers);
    if let Some(protocol) = call.protocol {
        head.extensions_mut().insert(Protocol::from_static(protocol));
    }
    head
}

async fn upload(send: &mut SendStream<Bytes>, call: &Call) -> Result<(), h2::Error> {
    send_content(send, pattern(call.content)).await?;
    match call.then {
        Then::CancelUpload => return Ok(()),
        Then::SendUntilStopped => loop {
            send_content(send, pattern(PIECE)).await?;
        },
        Then::Finish | Then::CancelDownload => {}
    }
    if call.trailers.is_empty() {
        send.send_data(Bytes::new(), true)
    } else {
        send.send_trailers(to_headers(&call.trailers))
    }
}

/// Sends as much at once as the other side has room for.
async fn send_content(send: &mut SendStream<Bytes>, mut content: Bytes) -> Result<(), h2::Error> {
    while !content.is_empty() {
        send.reserve_capacity(content.len());
        let ended = poll_fn(|cx| {
            if let std::task::Poll::Ready(reason) = send.poll_reset(cx) {
                return std::task::Poll::Ready(Err(reason));
            }
            send.poll_capacity(cx).map(Ok)
        });
        match ended.await {
            Ok(Some(Ok(room))) if room > 0 => {
                let part = content.split_to(room.min(content.len()));
                send.send_data(part, false)?;
            }
            Ok(Some(Ok(_))) => {}
            Ok(Some(Err(error))) | Err(Err(error)) => return Err(error),
            Ok(None) => return Err(h2::Reason::STREAM_CLOSED.into()),
            Err(Ok(reason)) => return Err(reason.into()),
        }
    }
    Ok(())
}

async fn download(head: Response<RecvStream>, call: &Call, outcome: &mut Outcome) -> Result<End, h2::Error> {
    outcome.status = Some(head.status().as_u16());
    outcome.headers = to_fields(head.headers());
    let mut content = Content::new();
    content.tell(outcome);
    if head.status() == StatusCode::NOT_MODIFIED {
        // h2 misses content here where content-length says what there would have been (RFC 9110 section 8.6).
        return Ok(End::Complete);
    }
    let mut body = head.into_body();
    let result = loop {
        match body.data().await {
            Some(Ok(data)) => {
                let _ = body.flow_control().release_capacity(data.len());
                content.push(&data);
            }
            Some(Err(error)) => break Err(error),
            None => break Ok(End::Complete),
        }
        if call.then == Then::CancelDownload {
            // The stream is dropped, which cancels it.
            break Ok(End::Cancelled);
        }
    };
    content.tell(outcome);
    if matches!(result, Ok(End::Complete))
        && let Some(trailers) = body.trailers().await?
    {
        outcome.trailers = to_fields(&trailers);
    }
    result
}

fn end_of(error: &h2::Error) -> End {
    if error.is_reset() || error.reason().is_some() {
        End::Reset(None)
    } else {
        End::Closed(None)
    }
}

/// A server of Envoy's.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) seen: mpsc::UnboundedReceiver<Seen>,
    pub(crate) gate: Rc<Gate>,
    envoy: Running,
}

impl Server {
    pub(crate) async fn start(client: &Identity, server: &Identity) -> Self {
        let listener = TcpListener::bind(ANY_PORT).await.unwrap();
        let application = listener.local_addr().unwrap();
        let (saw, seen) = mpsc::unbounded_channel();
        let gate = Gate::new();
        tokio::task::spawn_local(accept(listener, saw, gate.clone()));
        let directory = tempfile::tempdir().unwrap();
        let files = server
            .authority
            .issue_files(server.account, &server.believes, directory.path())
            .unwrap();
        let tls = envoy::tls(&files, &client.id(), &["h3"]);
        let filter = manager("HTTP3", "application");
        let listener = envoy::listener(ANY_PORT, &filter, Some(envoy::quic_downstream(tls)));
        let cluster = envoy::cluster("application", application);
        let options = json!({"allow_connect": true});
        let cluster = envoy::speaking(cluster, "http2_protocol_options", options);
        let envoy = Running::start(directory, &envoy::on_udp(listener), &cluster).await;
        Self {
            address: envoy.address,
            seen,
            gate,
            envoy,
        }
    }

    pub(crate) async fn go_away(&self) {
        ask(self.envoy.admin, "POST", "/drain_listeners?graceful").await;
    }
}

async fn accept(listener: TcpListener, saw: mpsc::UnboundedSender<Seen>, gate: Rc<Gate>) {
    while let Ok((stream, _)) = listener.accept().await {
        let (saw, gate) = (saw.clone(), gate.clone());
        tokio::task::spawn_local(async move {
            let mut builder = h2::server::Builder::new();
            let handshake = builder.enable_connect_protocol().handshake::<_, Bytes>(stream);
            let Ok(mut connection) = handshake.await else {
                return;
            };
            while let Some(Ok((head, respond))) = connection.accept().await {
                tokio::task::spawn_local(application(head, respond, saw.clone(), gate.clone()));
            }
        });
    }
}

async fn application(
    head: Request<RecvStream>,
    respond: h2::server::SendResponse<Bytes>,
    saw: mpsc::UnboundedSender<Seen>,
    gate: Rc<Gate>,
) {
    let certificate = head.headers().get("x-forwarded-client-cert");
    let parts = certificate.and_then(|value| value.to_str().ok());
    let mut parts = parts.unwrap_or_default().split(';');
    let caller = parts.find_map(|part| part.strip_prefix("URI="));
    let caller = caller.unwrap_or_default().to_owned();
    let is_connect = head.method() == http::Method::CONNECT;
    let target = match head.uri().path() {
        "" => head
            .uri()
            .authority()
            .map(ToString::to_string)
            .unwrap_or_default(),
        path => path.to_owned(),
    };
    let result = serve(head, respond, is_connect, &target, &gate).await;
    let end = match result {
        Ok(()) => End::Complete,
        Err(error) => end_of(&error),
    };
    let _ = saw.send(Seen { caller, target, end });
}

async fn serve(
    head: Request<RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
    is_connect: bool,
    target: &str,
    gate: &Gate,
) -> Result<(), h2::Error> {
    let is_head = head.method() == http::Method::HEAD;
    if is_connect || target == "/echo" {
        let send = respond.send_response(response(200, &[]), false)?;
        return echo(head.into_body(), send).await;
    }
    match target {
        "/hello" | "/interim" => {
            if target == "/interim" {
                respond.send_informational(response(103, &[("link", "</style>; rel=preload")]))?;
            }
            let mut send = respond.send_response(response(200, &[("content-length", "5")]), is_head)?;
            if !is_head {
                send.send_data(Bytes::from_static(b"hello"), true)?;
            }
        }
        "/empty" => drop(respond.send_response(response(204, &[("etag", "\"1\"")]), true)?),
        "/unchanged" => {
            let fields = [("etag", "\"1\""), ("content-length", "5")];
            respond.send_response(response(304, &fields), true)?;
        }
        "/refused" => respond.send_reset(h2::Reason::REFUSED_STREAM),
        "/half" => {
            let mut send = respond.send_response(response(200, &[]), false)?;
            send_content(&mut send, pattern(1_000)).await?;
            gate.pass().await;
            send.send_reset(h2::Reason::INTERNAL_ERROR);
        }
        "/endless" => {
            let mut send = respond.send_response(response(200, &[]), false)?;
            loop {
                send_content(&mut send, pattern(PIECE)).await?;
            }
        }
        "/hold" => {
            let mut send = respond.send_response(response(200, &[]), false)?;
            gate.pass().await;
            send.send_data(Bytes::from_static(b"released"), true)?;
        }
        "/early" | "/denied" => {
            let status = if target == "/early" { 200 } else { 403 };
            let mut send = respond.send_response(response(status, &[]), false)?;
            send.send_data(Bytes::from(target[1..].to_owned()), true)?;
            // What is left of the request is dropped, with RST_STREAM(NO_ERROR).
        }
        "/large-head" => {
            let large = "x".repeat(50_000);
            respond.send_response(response(200, &[("x-large", &large)]), true)?;
        }
        _ => drop(respond.send_response(response(404, &[]), true)?),
    }
    Ok(())
}

fn response(status: u16, headers: &[(&str, &str)]) -> Response<()> {
    let fields: Fields = headers
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect::<HashMap<_, _>>()
        .into_iter()
        .collect();
    let mut head = Response::builder().status(status).body(()).unwrap();
    *head.headers_mut() = to_headers(&fields);
    head
}

async fn echo(mut body: RecvStream, mut send: SendStream<Bytes>) -> Result<(), h2::Error> {
    while let Some(data) = body.data().await {
        let data = data?;
        let _ = body.flow_control().release_capacity(data.len());
        send_content(&mut send, data).await?;
    }
    match body.trailers().await? {
        Some(trailers) => send.send_trailers(trailers),
        None => send.send_data(Bytes::new(), true),
    }
}
