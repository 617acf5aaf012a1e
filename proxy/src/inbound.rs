//! One request from the mesh, from its head to the application's answer: check, authorize, call, answer.

mod tunnel;

use std::{
    cell::Cell,
    future::{Future, poll_fn},
    pin::Pin,
    rc::Rc,
    task::Poll,
    time::Instant,
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, uri, uri::Scheme,
};
use http_body::Body;
use hyper::body::Incoming as AppResponse;
use weft_proto::{SpiffeId, model::AppProtocol};
use weft_transport::{
    Error, ErrorKind, Incoming, RecvStream, RequestStream, SendStream,
    h3::{Protocol, RequestHead, ResponseHead, fields},
};

use crate::{
    authorize::authorize,
    body::InboundBody,
    deadline::Deadline,
    local::{
        HttpVersion,
        body::{expects_continue, on_continue},
        headers::{clean_response, clean_trailers},
    },
    respond::{self, Failure, Late, is_grpc},
    snapshot::{InboundPort, Snapshot},
    telemetry::Record,
    worker::Worker,
};

/// Serves one stream of a peer.
pub(crate) async fn serve(worker: Rc<Worker>, incoming: Incoming) {
    let Incoming {
        caller,
        remote,
        mut stream,
    } = incoming;
    let _under_way = worker.drain.enter();
    let mut record = worker.begin_inbound(&caller, remote);
    let head = match read_head(&worker, &mut stream).await {
        Ok(head) => head,
        Err(error) => return Box::pin(on_bad_head(stream, &error, record)).await,
    };
    record.set_head(&head);
    let grpc = is_grpc(&head.headers);
    let snapshot = worker.snapshot();
    let answered = match plan(&snapshot, &caller, &head) {
        Ok(plan) => carry_out(&worker, plan, head, &caller, stream, &mut record).await,
        Err(failure) => Err(Unanswered {
            failure,
            send: stream.send,
        }),
    };
    if let Err(Unanswered { failure, mut send }) = answered {
        record.refuse(&failure);
        Box::pin(answer(&mut send, &failure, grpc)).await;
    }
}

/// A request that ends with an answer of our own.
struct Unanswered {
    failure: Failure,
    send: SendStream,
}

/// What a request asks of the application.
enum Plan {
    Request {
        port: InboundPort,
        version: HttpVersion,
        deadline: Deadline,
    },
    WebSocket(InboundPort),
    Tcp(InboundPort),
}

/// Everything that is checked before the application hears of the request. Nothing here waits.
fn plan(snapshot: &Snapshot, caller: &SpiffeId, head: &RequestHead) -> Result<Plan, Failure> {
    let inbound = &snapshot.inbound;
    let is_tcp = head.is_connect() && head.protocol.is_none();
    let wanted = if is_tcp {
        connect_port(snapshot, head)?
    } else {
        number_field(head, fields::WEFT_PORT)?
    };
    let port = inbound.port(wanted).map_err(Failure::NoPort)?.clone();
    if port.protocol == AppProtocol::Udp {
        return Err(Failure::Unsupported("a request to a UDP port"));
    }
    authorize(inbound, caller).map_err(|denied| Failure::Denied(denied.rule))?;
    if !port.guards.is_empty() {
        let now = Instant::now();
        port.guards
            .iter()
            .try_for_each(|guard| guard.admit(caller, now))?;
    }
    Ok(match head.protocol {
        None if is_tcp => Plan::Tcp(port),
        None => Plan::Request {
            version: version(head, &port)?,
            deadline: Deadline::of_inbound(&head.headers, Instant::now)?,
            port,
        },
        Some(Protocol::WebSocket) => Plan::WebSocket(port),
        Some(Protocol::ConnectUdp) => return Err(Failure::Unsupported("UDP")),
    })
}

/// CONNECT names this workload, by its own address or name, and a port. Nothing is resolved: a peer never chooses
/// an address.
fn connect_port(snapshot: &Snapshot, head: &RequestHead) -> Result<Option<u16>, Failure> {
    let authority = head.authority.as_ref().ok_or(Failure::NotHere)?;
    let port = authority.port_u16().ok_or(Failure::NotHere)?;
    if !snapshot.inbound.is_named(authority.host()) {
        return Err(Failure::NotHere);
    }
    Ok(Some(port))
}

fn number_field(head: &RequestHead, name: http::HeaderName) -> Result<Option<u16>, Failure> {
    let mut values = head.headers.get_all(&name).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    // Digits alone: `+80` and ` 80` are other spellings that someone else may read otherwise.
    let digits = value
        .to_str()
        .ok()
        .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    match (digits.and_then(|text| text.parse().ok()), values.next()) {
        (Some(number), None) => Ok(Some(number)),
        _ => Err(Failure::BadField("weft-port")),
    }
}

/// How the application is called: as the caller spoke, else as the port says, else HTTP/1.1.
fn version(head: &RequestHead, port: &InboundPort) -> Result<HttpVersion, Failure> {
    match head.headers.get(&fields::WEFT_PROTOCOL) {
        Some(value) => HttpVersion::parse(value.as_bytes()).ok_or(Failure::BadField("weft-protocol")),
        None => Ok(match port.protocol {
            AppProtocol::Http2 | AppProtocol::Grpc => HttpVersion::Http2,
            _ => HttpVersion::Http1,
        }),
    }
}

async fn carry_out(
    worker: &Worker,
    plan: Plan,
    mut head: RequestHead,
    caller: &SpiffeId,
    stream: RequestStream,
    record: &mut Record,
) -> Result<(), Unanswered> {
    set_mesh_fields(&mut head.headers, caller);
    match plan {
        Plan::Request {
            port,
            version,
            deadline,
        } => request(worker, &port, version, deadline, head, stream, record).await,
        // Boxed: what is rare must not make the future of every request larger.
        Plan::WebSocket(port) => Box::pin(tunnel::websocket(worker, &port, head, stream, record)).await,
        Plan::Tcp(port) => Box::pin(tunnel::tcp(worker, &port, stream, record)).await,
    }
}

/// The application sees who calls, from TLS, and how far the request has come; nothing else of ours.
pub(crate) fn set_mesh_fields(headers: &mut HeaderMap, caller: &SpiffeId) {
    for name in [
        fields::WEFT_PORT,
        fields::WEFT_PROTOCOL,
        fields::WEFT_TIMEOUT,
        fields::WEFT_ERROR,
        fields::WEFT_UNPROCESSED,
    ] {
        headers.remove(name);
    }
    // A sidecar sends no other; a peer that is none of ours might.
    let is_ours = |name: &&HeaderName| name.as_str().starts_with("weft-") && **name != fields::WEFT_HOPS;
    let others: Vec<_> = headers.keys().filter(is_ours).cloned().collect();
    for name in others {
        headers.remove(name);
    }
    match HeaderValue::try_from(caller.as_str()) {
        Ok(value) => headers.insert(fields::WEFT_CALLER, value),
        // A SPIFFE ID is ASCII; never let another caller's claim stand in its place.
        Err(_) => headers.remove(fields::WEFT_CALLER),
    };
}

/// An HTTP request: to the application and back.
async fn request(
    worker: &Worker,
    port: &InboundPort,
    version: HttpVersion,
    deadline: Deadline,
    head: RequestHead,
    stream: RequestStream,
    record: &mut Record,
) -> Result<(), Unanswered> {
    let RequestStream { mut send, recv } = stream;
    let received = Rc::new(Cell::new(0));
    let method = head.method.clone();
    let expects = expects_continue(&head.headers);
    let mut request = match app_request(recv, head, received.clone()).await {
        Ok(request) => request,
        Err(failure) => return Err(Unanswered { failure, send }),
    };
    let continued = expects.then(|| on_continue(&mut request));
    send.mark_processed();
    let response = tokio::select! {
        biased;
        response = worker.apps.send(port.address, version, request) => Some(response),
        // A caller that gave up must not keep the application busy.
        () = beside(&mut send, continued) => None,
        // Nor one that waits no longer.
        () = over(deadline) => {
            let failure = Failure::TimedOut(Late::Request);
            return Err(Unanswered { failure, send });
        }
    };
    let response = match response {
        Some(Ok(response)) => response,
        Some(Err(error)) => {
            return Err(Unanswered {
                failure: Failure::Application(error),
                send,
            });
        }
        None => {
            record.fail("caller_cancelled");
            return Ok(());
        }
    };
    let sent = send_response(&mut send, &method, response, record).await;
    record.add_received(received.get());
    finish(sent, send, record)
}

/// Resolves at the deadline.
async fn over(deadline: Deadline) {
    match deadline.at() {
        // Boxed: most requests have none.
        Some(at) => Box::pin(tokio::time::sleep_until(at.into())).await,
        None => std::future::pending().await,
    }
}

/// While the application works: passes its 100 on, and resolves when the caller gives up.
async fn beside(send: &mut SendStream, continued: Option<impl Future<Output = bool>>) {
    if let Some(continued) = continued
        && continued.await
        && send
            .queue_response(&ResponseHead::new(StatusCode::CONTINUE))
            .is_ok()
        && send.flush().await.is_err()
    {
        return;
    }
    poll_fn(|cx| send.poll_stopped(cx)).await;
}

async fn app_request(
    mut recv: RecvStream,
    head: RequestHead,
    received: Rc<Cell<u64>>,
) -> Result<Request<InboundBody>, Failure> {
    let ended = poll_fn(|cx| Poll::Ready(recv.poll_ended(cx)))
        .await
        .map_err(Failure::Transport)?;
    let mut request = Request::new(InboundBody::new(recv, ended, received));
    *request.method_mut() = head.method;
    *request.uri_mut() = app_uri(head.authority, head.path)?;
    *request.headers_mut() = head.headers;
    Ok(request)
}

pub(crate) fn app_uri(
    authority: Option<uri::Authority>,
    path: Option<uri::PathAndQuery>,
) -> Result<Uri, Failure> {
    let mut parts = uri::Parts::default();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = authority;
    parts.path_and_query = path;
    Uri::from_parts(parts).map_err(|_| Failure::BadField(":path"))
}

/// Notes how the sending of an answer ended. Dropping an unfinished stream resets it: what was sent does not look
/// complete.
#[expect(
    clippy::result_large_err,
    reason = "the stream goes back to the caller, who answers on it"
)]
fn finish(sent: Result<(), SendError>, send: SendStream, record: &mut Record) -> Result<(), Unanswered> {
    match sent {
        Ok(()) => record.complete(),
        Err(SendError::Head(failure)) => return Err(Unanswered { failure, send }),
        Err(SendError::Application) => record.fail("application_closed"),
        Err(SendError::Caller(error)) => record.fail(error.reason()),
    }
    Ok(())
}

enum SendError {
    /// Before anything was sent.
    Head(Failure),
    Application,
    Caller(Error),
}

/// A head that cannot be sent is the application's doing; all else is the connection's.
fn unsent(error: Error) -> Failure {
    match error.kind() {
        ErrorKind::Unsendable(_) => Failure::UnsendableResponse(error),
        _ => Failure::Transport(error),
    }
}

async fn send_response(
    send: &mut SendStream,
    method: &Method,
    response: Response<AppResponse>,
    record: &mut Record,
) -> Result<(), SendError> {
    let (mut parts, mut body) = response.into_parts();
    clean_response(&mut parts.headers).map_err(|error| SendError::Head(Failure::BadResponse(error)))?;
    let status = parts.status;
    let mut head = ResponseHead {
        status,
        headers: parts.headers,
    };
    if *method == Method::CONNECT && status.is_success() {
        // Only 101 accepts a WebSocket of HTTP/1.1; here a success would.
        head.status = StatusCode::BAD_GATEWAY;
        head.headers
            .insert(fields::WEFT_STATUS, HeaderValue::from(status.as_u16()));
    }
    send.queue_response(&head)
        .map_err(|error| SendError::Head(unsent(error)))?;
    record.set_status(status);
    record.on_fields(&head.headers);
    if *method == Method::HEAD || body.is_end_stream() {
        send.queue_end().map_err(SendError::Caller)?;
        return send.flush().await.map_err(SendError::Caller);
    }
    let mut ended = false;
    while !ended {
        // The head waits for the first piece of content, if that is there already: one datagram for both.
        match next_frame(&mut body, send).await? {
            None => ended = true,
            Some(Ok(data)) => {
                record.add_sent(data.len() as u64);
                send.queue_data(data).map_err(SendError::Caller)?;
                ended = body.is_end_stream();
            }
            Some(Err(mut trailers)) => {
                clean_trailers(&mut trailers);
                record.on_fields(&trailers);
                if !trailers.is_empty() {
                    send.queue_trailers(&trailers).map_err(SendError::Caller)?;
                }
                ended = true;
            }
        }
        if ended {
            send.queue_end().map_err(SendError::Caller)?;
        }
        send.flush().await.map_err(SendError::Caller)?;
    }
    Ok(())
}

/// The next piece of content, or trailers; while there is none, sends what is queued.
async fn next_frame(
    body: &mut AppResponse,
    send: &mut SendStream,
) -> Result<Option<Result<Bytes, HeaderMap>>, SendError> {
    poll_fn(|cx| match Pin::new(&mut *body).poll_frame(cx) {
        Poll::Ready(None) => Poll::Ready(Ok(None)),
        Poll::Ready(Some(Err(_))) => Poll::Ready(Err(SendError::Application)),
        Poll::Ready(Some(Ok(frame))) => Poll::Ready(Ok(Some(
            frame
                .into_data()
                .map_err(|frame| frame.into_trailers().unwrap_or_default()),
        ))),
        Poll::Pending => match send.poll_flush(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(SendError::Caller(error))),
            // Nothing to send: then a caller that gives up is noticed here.
            Poll::Ready(Ok(())) => send
                .poll_stopped(cx)
                .map(|()| Err(SendError::Caller(ErrorKind::Closed.into()))),
            Poll::Pending => Poll::Pending,
        },
    })
    .await
}

async fn read_head(worker: &Worker, stream: &mut RequestStream) -> Result<RequestHead, Error> {
    let mut head = std::pin::pin!(stream.request_head());
    // It is here already more often than not: then no timer is made.
    if let Poll::Ready(head) = poll_fn(|cx| Poll::Ready(head.as_mut().poll(cx))).await {
        return head;
    }
    match tokio::time::timeout(worker.transport_config.head_timeout, head).await {
        Ok(head) => head,
        Err(_) => Err(ErrorKind::StreamLimit.into()),
    }
}

/// Answers a head that breaks HTTP/3 where an answer is possible, and resets the stream.
async fn on_bad_head(mut stream: RequestStream, error: &Error, mut record: Record) {
    let failure = match error.kind() {
        ErrorKind::Malformed(error) if error.status().is_some() => Failure::Malformed(*error),
        ErrorKind::TooLarge => Failure::Malformed(weft_transport::h3::H3Error::FieldSectionTooLarge),
        _ => return record.fail(error.reason()),
    };
    record.refuse(&failure);
    answer(&mut stream.send, &failure, false).await;
}

/// The mesh's own answer. If it can't be sent, the reset of the stream says as much.
async fn answer(send: &mut SendStream, failure: &Failure, grpc: bool) {
    if send.head_queued() {
        return;
    }
    let (head, text) = respond::to_peer(failure, grpc);
    let sent: Result<(), Error> = async {
        send.queue_response(&head)?;
        if let Some(text) = text {
            send.queue_data(text)?;
        }
        send.queue_end()?;
        send.flush().await
    }
    .await;
    if let Err(error) = sent {
        tracing::debug!(%error, reason = failure.reason(), "could not answer");
    }
}
