//! One request of the application, from its head to its answer: route, pick, send, retry, respond.

pub(crate) mod attempt;

use std::{future::poll_fn, net::SocketAddr, rc::Rc, sync::Arc, task::Poll};

use http::{HeaderValue, Method, Request, Response, request::Parts, uri::Scheme};
use weft_transport::{
    RequestStream,
    h3::{RequestHead, ResponseHead, fields},
};

use attempt::{CONNECT, Patience, attempt, refusal};

use crate::{
    body::{MeshBody, ResponseBody},
    local::{
        HttpVersion,
        body::{Continue, RequestBody},
        error::Reset,
        headers::clean_request,
        target::Target,
        upgrade::PendingUpgrade,
        websocket::{self, WebSocketKey},
    },
    plain, resolve,
    respond::{self, Failure, is_grpc},
    retry::{Tried, may_retry},
    snapshot::{Backend, NoRoute, Reach, Upstream},
    telemetry::Record,
    tunnel,
    upload::{self, Upload},
    worker::Worker,
};

/// A request that has passed this many sidecars goes round in circles.
const MAX_HOPS: u16 = 16;

/// What the request's connection is.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub(crate) destination: Meant,
    pub(crate) version: HttpVersion,
}

/// Where the requests of a connection go.
#[derive(Clone, Debug)]
pub(crate) enum Meant {
    /// Where each says.
    Said,
    /// Where the connection was redirected from, whatever they say.
    Address(SocketAddr),
    /// To one service, whatever they say.
    Service { host: Arc<str>, port: u16 },
}

/// Serves one request.
///
/// # Errors
/// The application went away while it sent the request: there is nobody to answer.
pub(crate) async fn serve(
    worker: Rc<Worker>,
    caller: Caller,
    mut request: Request<RequestBody>,
) -> Result<Response<ResponseBody>, Reset> {
    let upgrade = PendingUpgrade::take(&mut request);
    let (mut head, body) = request.into_parts();
    let mut record = worker.begin_record(&head, caller.version);
    let grpc = is_grpc(&head.headers);
    let result = match plan(&worker, &caller, &mut head, &mut record).await {
        Ok(Plan::Request(upstream, target)) => {
            exchange(&worker, caller.version, upstream, target, head, body, record).await
        }
        Ok(Plan::WebSocket(upstream, target, key)) => {
            let handshake = tunnel::Handshake { key, upgrade };
            Box::pin(tunnel::websocket(
                &worker, upstream, target, head, handshake, record,
            ))
            .await
        }
        Ok(Plan::Connect(upstream)) => Box::pin(tunnel::connect(&worker, upstream, upgrade, record)).await,
        Err(failure) => Err(Refused { failure, record }),
    };
    match result {
        Ok(response) => Ok(response),
        Err(Refused { failure, .. }) if attempt::is_callers_end(&failure) => {
            Err(Reset::new(h2::Reason::CANCEL))
        }
        Err(Refused { failure, mut record }) => {
            record.refuse(&failure);
            Ok(respond::to_application(&failure, grpc))
        }
    }
}

/// A failure, with the record of the request that it ends.
pub(crate) struct Refused {
    pub(crate) failure: Failure,
    pub(crate) record: Record,
}

/// What a request asks of us.
enum Plan {
    Request(Upstream, Target),
    WebSocket(Upstream, Target, WebSocketKey),
    /// A tunnel, as a client of an HTTP proxy asks for it.
    Connect(Upstream),
}

/// Reads the head, finds where it leads, and makes it fit to travel.
async fn plan(
    worker: &Worker,
    caller: &Caller,
    head: &mut Parts,
    record: &mut Record,
) -> Result<Plan, Failure> {
    let target = Target::read(head)?;
    record.set_target(&target);
    let upstream = resolve(worker, &caller.destination, &target, &head.method).await?;
    // The application could get at them itself, but whom it serves might have written the destination.
    if let Upstream::External(address) = &upstream
        && worker.listeners.contains(*address)
    {
        return Err(NoRoute::OwnListener.into());
    }
    record.set_upstream(&upstream);
    count_hop(head)?;
    if head.method == Method::CONNECT {
        return Ok(Plan::Connect(upstream));
    }
    let handshake = websocket::handshake(head)?;
    clean_request(&mut head.headers)?;
    Ok(match handshake {
        Some(key) => Plan::WebSocket(upstream, target, key),
        None => Plan::Request(upstream, target),
    })
}

/// CONNECT always says where it leads; other requests may be on a connection that has said so already.
async fn resolve(
    worker: &Worker,
    meant: &Meant,
    target: &Target,
    method: &Method,
) -> Result<Upstream, NoRoute> {
    match meant {
        Meant::Address(address) if *method != Method::CONNECT => {
            return resolve::by_address(worker, *address).await;
        }
        Meant::Service { host, port } if *method != Method::CONNECT => {
            return resolve::by_host(worker, host, Some(*port)).await;
        }
        Meant::Said | Meant::Address(_) | Meant::Service { .. } => {}
    }
    let authority = target.authority.as_ref().ok_or(NoRoute::NoDestination)?;
    resolve::by_host(worker, authority.host(), authority.port_u16()).await
}

/// One more sidecar on the way of this request.
pub(crate) fn count_hop(head: &mut Parts) -> Result<(), Failure> {
    let hops = match head.headers.get(fields::WEFT_HOPS) {
        None => 0,
        Some(value) => {
            // Digits alone: `+1` is a number to Rust and not to others.
            let digits = value.as_bytes().iter().all(u8::is_ascii_digit);
            let hops = value.to_str().ok().and_then(|text| text.parse::<u16>().ok());
            hops.filter(|_| digits).ok_or(Failure::BadField("weft-hops"))?
        }
    };
    if hops >= MAX_HOPS {
        return Err(Failure::Loop);
    }
    head.headers
        .insert(fields::WEFT_HOPS, HeaderValue::from(hops + 1));
    Ok(())
}

/// Sends the request where it leads, and returns its answer.
async fn exchange(
    worker: &Rc<Worker>,
    version: HttpVersion,
    upstream: Upstream,
    target: Target,
    head: Parts,
    body: RequestBody,
    record: Record,
) -> Result<Response<ResponseBody>, Refused> {
    let head = mesh_head(version, &upstream, target, head);
    let upload = Upload::new(body, upload::REPLAY);
    match upstream {
        Upstream::Mesh(frontend) => {
            at_endpoints(worker, version, &frontend.backend, head, upload, record).await
        }
        Upstream::External(address) => {
            Box::pin(plain::call(
                &worker.outside,
                address,
                version,
                head,
                upload,
                record,
            ))
            .await
        }
    }
}

/// Sends the request to an endpoint of the backend, and to another one as long as that is safe.
async fn at_endpoints(
    worker: &Rc<Worker>,
    version: HttpVersion,
    backend: &Backend,
    mut head: RequestHead,
    mut upload: Upload,
    mut record: Record,
) -> Result<Response<ResponseBody>, Refused> {
    let mut expects = upload.take_continue();
    let mut tried = Tried::default();
    loop {
        let Some(endpoint) = tried.pick(&backend.endpoints, &mut *worker.rng()).cloned() else {
            let none = Failure::NoEndpoint {
                unmeshed: backend.unmeshed_denied,
                unready: backend.unready,
            };
            return Err(Refused {
                failure: record.last_failure().unwrap_or(none),
                record,
            });
        };
        record.set_endpoint(&endpoint);
        let in_flight = endpoint.load.begin();
        let peer = match &endpoint.reach {
            Reach::Mesh(peer) => peer,
            Reach::Plain(address) => {
                return Box::pin(plain::call(
                    &worker.outside,
                    *address,
                    version,
                    head,
                    upload,
                    record,
                ))
                .await;
            }
        };
        head.headers
            .insert(fields::WEFT_PORT, HeaderValue::from(endpoint.port));
        let elsewhere = upload.can_restart() && tried.leaves_another(&head.method, backend.endpoints.len());
        let patience = Patience {
            connect: CONNECT,
            answer: None,
            elsewhere,
        };
        let failure = match attempt(worker, peer, &head, &mut upload, &mut expects, patience).await {
            Ok((stream, answer)) => match refusal(&answer) {
                None => {
                    record.on_answer(answer.status, Some(in_flight), upload.sent());
                    record.on_fields(&answer.headers);
                    return Ok(respond_with(stream, answer, upload, record).await);
                }
                Some(reason) => Failure::Unprocessed(reason),
            },
            Err(failure) => failure,
        };
        tried.add(&endpoint, &failure);
        if !may_retry(&failure, &head.method, tried.count()) || !upload.can_restart() {
            return Err(Refused { failure, record });
        }
        record.on_retry(failure);
        upload.restart();
    }
}

async fn respond_with(
    mut stream: RequestStream,
    answer: ResponseHead,
    upload: Upload,
    mut record: Record,
) -> Response<ResponseBody> {
    let ended = poll_fn(|cx| Poll::Ready(stream.recv.poll_ended(cx)))
        .await
        .unwrap_or(false);
    let upload = (!upload.is_done()).then(|| upload.spawn(stream.send));
    if ended {
        record.complete();
    }
    let mut response = Response::new(ResponseBody::Mesh(Box::new(MeshBody::new(
        stream.recv,
        ended,
        upload,
        record,
    ))));
    *response.status_mut() = answer.status;
    *response.headers_mut() = answer.headers;
    response
}

/// The head as it travels.
pub(crate) fn mesh_head(
    version: HttpVersion,
    upstream: &Upstream,
    target: Target,
    head: Parts,
) -> RequestHead {
    let mut headers = head.headers;
    headers.insert(fields::WEFT_PROTOCOL, HeaderValue::from_static(version.as_str()));
    RequestHead {
        method: head.method,
        scheme: Some(Scheme::HTTP),
        authority: Some(target.authority.unwrap_or_else(|| upstream.authority())),
        path: target.path,
        protocol: None,
        headers,
    }
}
