//! One request of the application, from its head to its answer: route, pick, send, retry, respond.

pub(crate) mod attempt;
mod beside;
pub(crate) mod way;

use std::{
    future::poll_fn,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::Arc,
    task::Poll,
    time::Instant,
};

use http::{
    HeaderValue, Method, Request, Response,
    header::LOCATION,
    request::Parts,
    uri::{Authority, Scheme},
};
use tokio::time::sleep;
use weft_transport::{
    RequestStream,
    h3::{RequestHead, ResponseHead, fields},
};

use attempt::{attempt, refusal};
use beside::Sent;
use way::{Step, Way};

use crate::{
    body::{MeshBody, ResponseBody, Timer},
    deadline::Deadline,
    limit::Admission,
    local::{
        HttpVersion,
        body::RequestBody,
        error::Reset,
        headers::clean_request,
        target::Target,
        upgrade::PendingUpgrade,
        websocket::{self, WebSocketKey},
    },
    plain, resolve,
    respond::{self, Failure, Late, Limit, is_grpc},
    retry::{Decision, Tried},
    route::Redirected,
    snapshot::{Frontend, NoRoute, Reach, Upstream},
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
    /// Where the application called from.
    pub(crate) source: Option<IpAddr>,
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
            exchange(&worker, &caller, upstream, target, head, body, record).await
        }
        Ok(Plan::WebSocket(upstream, target, key)) => {
            let handshake = tunnel::Handshake { key, upgrade };
            let opened = tunnel::websocket(&worker, &caller, upstream, target, head, handshake, record);
            Box::pin(opened).await
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
    caller: &Caller,
    upstream: Upstream,
    target: Target,
    head: Parts,
    body: RequestBody,
    record: Record,
) -> Result<Response<ResponseBody>, Refused> {
    match &upstream {
        Upstream::Mesh(frontend) => routed(worker, caller, frontend, target, head, body, record).await,
        Upstream::External(address) => {
            let head = mesh_head(caller.version, &upstream, target, head);
            let upload = Upload::new(body, upload::REPLAY);
            let call = plain::call(&worker.outside, *address, caller.version, head, upload, record);
            Box::pin(call).await
        }
    }
}

/// Sends the request where the routes of the service say, within what the policy there allows.
async fn routed(
    worker: &Rc<Worker>,
    caller: &Caller,
    frontend: &Frontend,
    mut target: Target,
    mut head: Parts,
    body: RequestBody,
    mut record: Record,
) -> Result<Response<ResponseBody>, Refused> {
    let way = match way::find(
        worker,
        frontend,
        &mut target,
        &mut head,
        caller.source,
        &mut record,
    ) {
        Ok(Step::Send(way)) => way,
        Ok(Step::Redirect(redirected)) => return Ok(redirect(redirected, record)),
        Err(failure) => return Err(Refused { failure, record }),
    };
    let admitted = way.admit(worker, &head.headers, &record).await;
    let room = match admitted.and_then(|()| way.room()) {
        Ok(Admission::Now(permit)) => Ok(permit),
        Ok(Admission::Later(room)) => within(way.deadline, room).await,
        Err(failure) => Err(failure),
    };
    match room {
        Ok(permit) => record.hold(permit),
        Err(failure) => return Err(Refused { failure, record }),
    }
    let upload = Upload::new(body, way.backend.policy.retries.replay_bytes);
    let head = travelling_head(caller.version, || frontend.authority(), target, head);
    at_endpoints(worker, caller.version, way, head, upload, record).await
}

/// What must come about before the deadline.
async fn within<T>(deadline: Deadline, future: impl Future<Output = Result<T, Limit>>) -> Result<T, Failure> {
    let result = match deadline.at() {
        None => future.await,
        Some(at) => tokio::time::timeout_at(at.into(), future)
            .await
            .map_err(|_| Failure::TimedOut(Late::Request))?,
    };
    result.map_err(Failure::Limit)
}

/// Sends the request to an endpoint of the backend, and to another one as long as that is safe.
async fn at_endpoints(
    worker: &Rc<Worker>,
    version: HttpVersion,
    mut way: Way,
    mut head: RequestHead,
    mut upload: Upload,
    mut record: Record,
) -> Result<Response<ResponseBody>, Refused> {
    let mut expects = upload.take_continue();
    let mut tried = Tried::default();
    way.backend.policy.facts.budget.on_request(record.started());
    loop {
        let now = Instant::now();
        let picked = match way.pick(worker, &mut tried, now) {
            Ok(picked) => picked,
            Err(none) => {
                let failure = record.last_failure().unwrap_or(none);
                return Err(Refused { failure, record });
            }
        };
        let endpoint = picked.endpoint.clone();
        if let Reach::Plain(address) = endpoint.reach {
            record.set_endpoint(&endpoint);
            let call = plain::call(&worker.outside, address, version, head, upload, record);
            return Box::pin(call).await;
        }
        let in_flight = picked.begin(now);
        way.prepare(&mut head, &endpoint, now);
        let mut sent = match way.beside(&head.method, &tried, &upload) {
            None => {
                let patience = way.patience(&head.method, &tried, upload.can_restart(), now);
                let result = attempt(worker, &endpoint, &head, &mut upload, &mut expects, patience).await;
                Sent::new(endpoint, in_flight, result)
            }
            Some(hedged) => {
                let first = (endpoint, in_flight);
                Box::pin(beside::race(worker, &way, hedged, first, &head, &mut tried)).await
            }
        };
        record.set_endpoint(&sent.endpoint);
        way.send_copies(worker, &head, &upload);
        match way.decide(worker, &mut sent, &head.method, &mut tried, &upload) {
            Decision::Retry { after } => {
                sent.take_back(&mut record);
                sleep(after).await;
                upload.restart();
            }
            Decision::GiveUp(reason) => {
                record.on_give_up(reason);
                return conclude(&way, sent, upload, record).await;
            }
        }
    }
}

/// What the last try came to is what the caller gets.
async fn conclude(
    way: &Way,
    sent: Sent,
    upload: Upload,
    mut record: Record,
) -> Result<Response<ResponseBody>, Refused> {
    let failure = match sent.result {
        Err(failure) => failure,
        Ok((stream, answer)) => match refusal(&answer) {
            None => {
                record.on_answer(answer.status, Some(sent.in_flight), upload.sent());
                record.on_fields(&answer.headers);
                return Ok(respond_with(way, stream, answer, upload, record).await);
            }
            Some(reason) => Failure::Unprocessed(reason),
        },
    };
    Err(Refused { failure, record })
}

async fn respond_with(
    way: &Way,
    mut stream: RequestStream,
    mut answer: ResponseHead,
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
    way.on_response(&mut answer.headers);
    let timer = match ended {
        true => None,
        false => Timer::new(
            way.deadline.at().map(Into::into),
            way.backend.policy.idle_timeout(),
        ),
    };
    let body = MeshBody::new(stream.recv, ended, upload, record).with_timer(timer);
    let mut response = Response::new(ResponseBody::Mesh(Box::new(body)));
    *response.status_mut() = answer.status;
    *response.headers_mut() = answer.headers;
    response
}

/// The answer of a route itself.
pub(crate) fn redirect(redirected: Redirected, mut record: Record) -> Response<ResponseBody> {
    record.set_status(redirected.status);
    record.complete();
    let mut response = Response::new(ResponseBody::Own(None));
    *response.status_mut() = redirected.status;
    response.headers_mut().insert(LOCATION, redirected.location);
    response
}

/// The head as it travels.
pub(crate) fn mesh_head(
    version: HttpVersion,
    upstream: &Upstream,
    target: Target,
    head: Parts,
) -> RequestHead {
    travelling_head(version, || upstream.authority(), target, head)
}

/// `called`: what the request is for, where it does not say so itself.
fn travelling_head(
    version: HttpVersion,
    called: impl FnOnce() -> Authority,
    target: Target,
    head: Parts,
) -> RequestHead {
    let mut headers = head.headers;
    headers.insert(fields::WEFT_PROTOCOL, HeaderValue::from_static(version.as_str()));
    RequestHead {
        method: head.method,
        scheme: Some(Scheme::HTTP),
        authority: Some(target.authority.unwrap_or_else(called)),
        path: target.path,
        protocol: None,
        headers,
    }
}
