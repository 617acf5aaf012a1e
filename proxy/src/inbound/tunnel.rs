//! Tunnels of a peer to the application: WebSockets, and bytes of TCP.

use std::{future::poll_fn, net::SocketAddr};

use http::{HeaderMap, Method, Request, StatusCode, header};
use weft_transport::{
    Error, ErrorKind, RequestStream, TunnelError, copy_tunnel,
    h3::{Code, RequestHead, ResponseHead},
};

use super::{Unanswered, app_uri, finish, send_response};
use crate::{
    body::InboundBody,
    local::{
        headers::clean_response,
        io::LocalStream,
        pool::{AppPool, UpgradeAnswer},
        target::HeadError,
        websocket::{self, WebSocketKey},
    },
    respond::Failure,
    snapshot::InboundPort,
    telemetry::Record,
    worker::Worker,
};

/// An extended CONNECT becomes a WebSocket handshake with the application (RFC 9220).
pub(super) async fn websocket(
    worker: &Worker,
    port: &InboundPort,
    head: RequestHead,
    stream: RequestStream,
    record: &mut Record,
) -> Result<(), Unanswered> {
    let RequestStream { mut send, recv } = stream;
    let Ok(_slot) = send.admit_tunnel() else {
        return Err(Unanswered {
            failure: Failure::TunnelLimit,
            send,
        });
    };
    let (key, request) = match handshake(head) {
        Ok(handshake) => handshake,
        Err(failure) => return Err(Unanswered { failure, send }),
    };
    send.mark_processed();
    let switched = match worker.apps.upgrade(port.address, request).await {
        Ok(UpgradeAnswer::Switched(parts, application)) => {
            switched(&key, parts.headers).map(|head| (head, application))
        }
        Ok(UpgradeAnswer::Declined(response)) => {
            let sent = send_response(&mut send, &Method::CONNECT, response, record).await;
            return finish(sent, send, record);
        }
        Err(error) => Err(Failure::Application(error)),
    };
    match switched {
        Ok((head, application)) => {
            accept_tunnel(RequestStream { send, recv }, &head, application, None, record).await
        }
        Err(failure) => Err(Unanswered { failure, send }),
    }
}

fn handshake(head: RequestHead) -> Result<(WebSocketKey, Request<InboundBody>), Failure> {
    let key = WebSocketKey::generate();
    let mut request = Request::new(InboundBody::default());
    *request.uri_mut() = app_uri(head.authority, head.path)?;
    *request.headers_mut() = head.headers;
    request.headers_mut().remove(header::CONTENT_LENGTH);
    key.add_to_request(request.headers_mut());
    Ok((key, request))
}

fn switched(key: &WebSocketKey, mut headers: HeaderMap) -> Result<ResponseHead, Failure> {
    if !key.is_answered_by(&headers) {
        return Err(Failure::BadResponse(HeadError::WebSocket));
    }
    websocket::remove_handshake(&mut headers);
    clean_response(&mut headers).map_err(Failure::BadResponse)?;
    Ok(ResponseHead {
        status: StatusCode::OK,
        headers,
    })
}

/// CONNECT becomes a TCP connection to the application.
pub(super) async fn tcp(
    worker: &Worker,
    port: &InboundPort,
    mut stream: RequestStream,
    record: &mut Record,
) -> Result<(), Unanswered> {
    let Ok(_slot) = stream.send.admit_tunnel() else {
        return Err(Unanswered {
            failure: Failure::TunnelLimit,
            send: stream.send,
        });
    };
    match worker.app_connector.connect(port.address).await {
        Ok(application) => {
            stream.mark_processed();
            if port.protocol.is_http() {
                return hold_tunnel(stream, worker, (port.address, application), record).await;
            }
            let spare = Some((&worker.apps, port.address));
            accept_tunnel(
                stream,
                &ResponseHead::new(StatusCode::OK),
                application,
                spare,
                record,
            )
            .await
        }
        Err(error) => Err(Unanswered {
            failure: Failure::Application(error),
            send: stream.send,
        }),
    }
}

/// Says that the tunnel is open, and carries its bytes to their end.
///
/// The caller opens a tunnel before it knows that it needs one, where the server may speak first. If it turns out
/// to be HTTP it abandons the tunnel, in which nothing has passed: the connection to the application is as good as
/// new, goes to `spare`, and nothing is told of the tunnel.
async fn accept_tunnel(
    mut stream: RequestStream,
    head: &ResponseHead,
    mut application: LocalStream,
    spare: Option<(&AppPool<InboundBody>, SocketAddr)>,
    record: &mut Record,
) -> Result<(), Unanswered> {
    if let Err(error) = stream.send.queue_response(head) {
        return Err(Unanswered {
            failure: Failure::Transport(error),
            send: stream.send,
        });
    }
    record.set_status(head.status);
    record.on_tunnel();
    let end = copy_tunnel(&mut application, stream).await;
    record.add_sent(end.sent);
    record.add_received(end.received);
    match end.error {
        None => record.complete(),
        Some(TunnelError::Application(_)) => record.fail("application_closed"),
        Some(TunnelError::Peer(error)) => {
            record.fail(error.reason());
            match spare {
                Some((apps, address)) if end.sent == 0 && end.received == 0 && is_abandoned(&error) => {
                    record.mute();
                    apps.adopt(address, application);
                }
                _ => application.reset(),
            }
        }
    }
    Ok(())
}

/// A tunnel to a port that is declared as HTTP is there to be abandoned: HTTP comes as requests, which say who sends
/// them, and in a tunnel a peer could say in `weft-caller` what it likes. Its first byte ends it.
async fn hold_tunnel(
    mut stream: RequestStream,
    worker: &Worker,
    (address, application): (SocketAddr, LocalStream),
    record: &mut Record,
) -> Result<(), Unanswered> {
    let head = ResponseHead::new(StatusCode::OK);
    let opened = match stream.send.queue_response(&head) {
        Ok(()) => stream.send.flush().await,
        Err(error) => Err(error),
    };
    if let Err(error) = opened {
        return Err(Unanswered {
            failure: Failure::Transport(error),
            send: stream.send,
        });
    }
    record.set_status(head.status);
    record.on_tunnel();
    match poll_fn(|cx| stream.recv.poll_data(cx)).await {
        Err(error) if is_abandoned(&error) => {
            record.mute();
            worker.apps.adopt(address, application);
        }
        Err(error) => {
            record.fail(error.reason());
            application.reset();
        }
        Ok(_) => {
            record.fail("http_in_tunnel");
            stream.send.reset(Code::H3_CONNECT_ERROR);
            application.reset();
        }
    }
    Ok(())
}

fn is_abandoned(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Reset(code) if *code == Code::H3_REQUEST_CANCELLED)
}
