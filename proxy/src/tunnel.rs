//! Byte streams of the application through the mesh: raw TCP, CONNECT of an HTTP proxy's client, WebSocket.

use std::{future::poll_fn, rc::Rc, task::Poll, time::Instant};

use http::{HeaderMap, Method, Response, StatusCode, header, request::Parts, uri::Authority};
use tokio::{io::copy_bidirectional, time::sleep};
use weft_transport::{
    RequestStream, TunnelError, copy_tunnel,
    h3::{Protocol, RequestHead, ResponseHead, fields},
};

use crate::{
    body::{MeshBody, ResponseBody},
    forward::{
        self, Caller, Refused,
        attempt::{self, Patience, refusal},
        mesh_head,
        way::{self, Step, Way},
    },
    local::{
        HttpVersion,
        io::LocalStream,
        target::Target,
        upgrade::{PendingUpgrade, UpgradedStream},
        websocket::{self, WebSocketKey},
    },
    respond::{Failure, Limit},
    retry::{Decision, Outcome, Progress, Tried},
    snapshot::{Endpoint, InFlight, Reach, Upstream},
    telemetry::{self, Record},
    upload::Upload,
    worker::Worker,
};

/// A tunnel that the far side has accepted.
pub(crate) enum Tunnel {
    Mesh {
        stream: Box<RequestStream>,
        in_flight: InFlight,
    },
    /// To an endpoint without a sidecar, or out of the mesh.
    Plain(LocalStream),
}

/// What the caller's side of a WebSocket handshake leaves to do.
pub(crate) struct Handshake {
    pub(crate) key: WebSocketKey,
    pub(crate) upgrade: Option<PendingUpgrade>,
}

/// Opens a TCP tunnel to `upstream`, at another endpoint as long as nothing was delivered.
pub(crate) async fn open(
    worker: &Worker,
    upstream: &Upstream,
    record: &mut Record,
) -> Result<Tunnel, Failure> {
    let way = match upstream {
        Upstream::Mesh(frontend) => Way::direct(frontend),
        Upstream::External(address) => {
            record.set_plaintext();
            let stream = worker.outside_connector.connect(*address).await;
            return stream.map(Tunnel::Plain).map_err(Failure::Application);
        }
    };
    let head = |endpoint: &Endpoint| connect_head(endpoint);
    match open_stream_to(worker, &way, record, head).await? {
        Opened::Mesh {
            stream,
            answer,
            in_flight,
        } if answer.status.is_success() => Ok(Tunnel::Mesh { stream, in_flight }),
        Opened::Mesh { answer, .. } => Err(declined(&answer)),
        Opened::Plain(stream) => Ok(Tunnel::Plain(stream)),
    }
}

/// Carries bytes between the application and an opened tunnel to their end.
pub(crate) async fn carry(mut application: LocalStream, tunnel: Tunnel, mut record: Record) {
    record.on_tunnel();
    match tunnel {
        Tunnel::Mesh { stream, in_flight } => {
            let end = copy_tunnel(&mut application, *stream).await;
            drop(in_flight);
            record.add_sent(end.sent);
            record.add_received(end.received);
            match end.error {
                None => record.complete(),
                Some(TunnelError::Application(_)) => record.fail("application_closed"),
                Some(TunnelError::Peer(error)) => {
                    record.fail(error.reason());
                    application.reset();
                }
            }
        }
        Tunnel::Plain(mut outside) => match copy_bidirectional(&mut application, &mut outside).await {
            Ok((sent, received)) => {
                record.add_sent(sent);
                record.add_received(received);
                record.complete();
            }
            Err(_) => {
                record.fail("connection_closed");
                application.reset();
                outside.reset();
            }
        },
    }
}

/// CONNECT of a client of an HTTP proxy.
pub(crate) async fn connect(
    worker: &Rc<Worker>,
    upstream: Upstream,
    upgrade: Option<PendingUpgrade>,
    mut record: Record,
) -> Result<Response<ResponseBody>, Refused> {
    let tunnel = match open(worker, &upstream, &mut record).await {
        Ok(tunnel) => tunnel,
        Err(failure) => return Err(Refused { failure, record }),
    };
    record.set_status(StatusCode::OK);
    record.set_protocol(telemetry::Protocol::Tcp);
    worker.spawn_tunnel(async move {
        match complete(upgrade).await {
            Some(UpgradedStream::Tcp(application)) => carry(application, tunnel, record).await,
            Some(UpgradedStream::Http2(application)) => carry_upgraded(application, tunnel, record).await,
            None => record.fail("application_closed"),
        }
    });
    Ok(Response::new(ResponseBody::Own(None)))
}

/// A WebSocket handshake becomes an extended CONNECT (RFC 9220), and the stream then carries its frames.
pub(crate) async fn websocket(
    worker: &Rc<Worker>,
    caller: &Caller,
    upstream: Upstream,
    mut target: Target,
    mut head: Parts,
    handshake: Handshake,
    mut record: Record,
) -> Result<Response<ResponseBody>, Refused> {
    let Upstream::Mesh(frontend) = &upstream else {
        return Err(Refused {
            failure: Failure::Unsupported("a WebSocket that leaves the mesh"),
            record,
        });
    };
    let way = match way::find(
        worker,
        frontend,
        &mut target,
        &mut head,
        caller.source,
        &mut record,
    ) {
        Ok(Step::Send(way)) => way,
        Ok(Step::Redirect(redirected)) => return Ok(forward::redirect(redirected, record)),
        Err(failure) => return Err(Refused { failure, record }),
    };
    if let Err(failure) = way.admit(worker, &head.headers, &record).await {
        return Err(Refused { failure, record });
    }
    let head = websocket_head(&upstream, target, head);
    let with_port = |endpoint: &Endpoint| {
        let mut head = head.clone();
        head.headers.insert(fields::WEFT_PORT, endpoint.port.into());
        head
    };
    let opened = open_stream_to(worker, &way, &mut record, with_port).await;
    let (mut stream, mut answer, in_flight) = match opened {
        Ok(Opened::Mesh {
            stream,
            answer,
            in_flight,
        }) => (stream, answer, in_flight),
        Ok(Opened::Plain(_)) => {
            let failure = Failure::Unsupported("a WebSocket to an endpoint without a sidecar");
            return Err(Refused { failure, record });
        }
        Err(failure) => return Err(Refused { failure, record }),
    };
    if !answer.status.is_success() {
        // The application's own answer, passed on as it is.
        if let Some(status) = answer.headers.remove(fields::WEFT_STATUS) {
            answer.status = StatusCode::from_bytes(status.as_bytes()).unwrap_or(answer.status);
        }
        way.on_response(&mut answer.headers);
        record.on_answer(answer.status, Some(in_flight), 0);
        let ended = poll_fn(|cx| Poll::Ready(stream.recv.poll_ended(cx)))
            .await
            .unwrap_or(false);
        let body = MeshBody::new(stream.recv, ended, None, record);
        return Ok(response(
            answer.status,
            answer.headers,
            ResponseBody::Mesh(Box::new(body)),
        ));
    }
    let mut headers = answer.headers;
    websocket::remove_handshake(&mut headers);
    handshake.key.add_to_response(&mut headers);
    record.set_status(StatusCode::SWITCHING_PROTOCOLS);
    record.set_protocol(telemetry::Protocol::WebSocket);
    worker.spawn_tunnel(async move {
        match complete(handshake.upgrade).await {
            Some(UpgradedStream::Tcp(application)) => {
                carry(application, Tunnel::Mesh { stream, in_flight }, record).await;
            }
            Some(UpgradedStream::Http2(_)) | None => record.fail("application_closed"),
        }
    });
    Ok(response(
        StatusCode::SWITCHING_PROTOCOLS,
        headers,
        ResponseBody::Own(None),
    ))
}

enum Opened {
    Mesh {
        stream: Box<RequestStream>,
        answer: ResponseHead,
        in_flight: InFlight,
    },
    Plain(LocalStream),
}

/// Sends the head of a CONNECT to one endpoint after another, until one answers for its application.
async fn open_stream_to(
    worker: &Worker,
    way: &Way,
    record: &mut Record,
    head: impl Fn(&Endpoint) -> RequestHead,
) -> Result<Opened, Failure> {
    let policy = &way.backend.policy;
    let connection = policy.facts.connections.try_take(policy.limits.connections);
    record.hold(connection.ok_or(Failure::Limit(Limit::Connections))?);
    let mut tried = Tried::default();
    loop {
        let mut now = Instant::now();
        let picked = match way.pick(worker, &mut tried, now) {
            Ok(picked) => picked,
            Err(none) => return Err(record.last_failure().unwrap_or(none)),
        };
        let endpoint = picked.endpoint.clone();
        let mut in_flight = picked.begin(now);
        record.set_endpoint(&endpoint);
        let patience = way.patience(&Method::CONNECT, &tried, true, now);
        let sent = try_endpoint(worker, &endpoint, patience, record, head(&endpoint)).await;
        now = Instant::now();
        let outcome = match &sent {
            Ok(Sent::Mesh(_, answer)) => Outcome::of_answer(answer),
            Ok(Sent::Plain(_)) => Outcome::Final,
            Err(failure) => Outcome::from(failure),
        };
        way.on_outcome(&mut in_flight, outcome, now);
        let failure = match sent {
            Ok(Sent::Mesh(stream, answer)) => {
                return Ok(Opened::Mesh {
                    stream,
                    answer,
                    in_flight,
                });
            }
            Ok(Sent::Plain(stream)) => return Ok(Opened::Plain(stream)),
            Err(failure) => failure,
        };
        tried.add(&endpoint, outcome);
        let progress = Progress {
            method: &Method::CONNECT,
            tried: &tried,
            can_replay: true,
            left: way.deadline.left(now),
            retry_after: None,
        };
        match way.decide_from(worker, outcome, &progress, now) {
            Decision::GiveUp(_) => return Err(failure),
            Decision::Retry { after } => {
                record.on_retry(failure);
                sleep(after).await;
            }
        }
    }
}

/// What came of one try.
enum Sent {
    Mesh(Box<RequestStream>, ResponseHead),
    Plain(LocalStream),
}

async fn try_endpoint(
    worker: &Worker,
    endpoint: &Endpoint,
    patience: Patience,
    record: &mut Record,
    head: RequestHead,
) -> Result<Sent, Failure> {
    if let Reach::Plain(address) = endpoint.reach {
        record.set_plaintext();
        let stream = worker.outside_connector.connect(address).await;
        return stream.map(Sent::Plain).map_err(Failure::Application);
    }
    let mut upload = Upload::open();
    let (stream, answer) =
        attempt::attempt(worker, endpoint, &head, &mut upload, &mut None, patience).await?;
    match refusal(&answer) {
        Some(reason) => Err(Failure::Unprocessed(reason)),
        None => Ok(Sent::Mesh(Box::new(stream), answer)),
    }
}

fn connect_head(endpoint: &Endpoint) -> RequestHead {
    let ip = match &endpoint.reach {
        Reach::Mesh(peer) => peer.address.ip(),
        Reach::Plain(address) => address.ip(),
    };
    let authority = std::net::SocketAddr::new(ip, endpoint.port).to_string();
    RequestHead::connect(
        Authority::try_from(authority).unwrap_or_else(|_| Authority::from_static("unknown:1")),
    )
}

/// The head of an extended CONNECT for a WebSocket.
fn websocket_head(upstream: &Upstream, target: Target, mut head: Parts) -> RequestHead {
    websocket::remove_handshake(&mut head.headers);
    head.headers.remove(header::CONTENT_LENGTH);
    head.method = http::Method::CONNECT;
    let mut head = mesh_head(HttpVersion::Http1, upstream, target, head);
    head.protocol = Some(Protocol::WebSocket);
    head
}

/// The far sidecar said no for good: its reason, as it gave it.
fn declined(answer: &ResponseHead) -> Failure {
    let reason = answer
        .headers
        .get(fields::WEFT_ERROR)
        .and_then(|reason| reason.to_str().ok());
    Failure::Declined {
        status: answer.status,
        reason: reason.unwrap_or("declined").to_owned(),
    }
}

async fn complete(upgrade: Option<PendingUpgrade>) -> Option<UpgradedStream> {
    upgrade?.complete().await.ok()
}

async fn carry_upgraded<T>(mut application: T, tunnel: Tunnel, mut record: Record)
where
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    record.on_tunnel();
    match tunnel {
        Tunnel::Mesh { stream, in_flight } => {
            let end = copy_tunnel(&mut application, *stream).await;
            drop(in_flight);
            record.add_sent(end.sent);
            record.add_received(end.received);
            if end.error.is_none() {
                record.complete()
            } else {
                record.fail("connection_closed")
            }
        }
        Tunnel::Plain(mut outside) => {
            let result = copy_bidirectional(&mut application, &mut outside).await;
            if result.is_ok() {
                record.complete()
            } else {
                record.fail("connection_closed")
            }
        }
    }
}

fn response(status: StatusCode, headers: HeaderMap, body: ResponseBody) -> Response<ResponseBody> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}
