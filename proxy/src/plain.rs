//! Requests that leave the mesh, or never were in it: to endpoints without a sidecar where `unmeshed: allow` says
//! so, and to the outside where `egress: allow` does. In the clear, and shown as such everywhere.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, Uri, uri};
use http_body::{Body, Frame, SizeHint};
use weft_transport::h3::{RequestHead, fields};

use crate::{
    body::{PlainBody, ResponseBody},
    forward::Refused,
    local::{HttpVersion, body::RequestBody, headers::clean_response, pool::AppPool},
    respond::Failure,
    telemetry::Record,
    upload::Upload,
};

/// Sends the request to `address` as it would have gone without a mesh, on a connection of `pool`.
pub(crate) async fn call(
    pool: &AppPool<OutsideBody>,
    address: SocketAddr,
    version: HttpVersion,
    head: RequestHead,
    upload: Upload,
    mut record: Record,
) -> Result<Response<ResponseBody>, Refused> {
    record.set_plaintext();
    let Some(request) = request(head, upload) else {
        return Err(Refused {
            failure: Failure::BadField("target"),
            record,
        });
    };
    match pool.send(address, version, request).await {
        Ok(response) => {
            let (mut parts, incoming) = response.into_parts();
            if let Err(error) = clean_response(&mut parts.headers) {
                return Err(Refused {
                    failure: Failure::BadResponse(error),
                    record,
                });
            }
            record.on_answer(parts.status, None, 0);
            if incoming.is_end_stream() {
                record.complete();
            }
            let body = ResponseBody::Plain(Box::new(PlainBody::new(incoming, record)));
            Ok(Response::from_parts(parts, body))
        }
        Err(error) => Err(Refused {
            failure: Failure::Application(error),
            record,
        }),
    }
}

fn request(head: RequestHead, upload: Upload) -> Option<Request<OutsideBody>> {
    let mut parts = uri::Parts::default();
    parts.scheme = head.scheme;
    parts.authority = head.authority;
    parts.path_and_query = head.path;
    let mut request = Request::new(OutsideBody::new(upload));
    *request.method_mut() = head.method;
    *request.uri_mut() = Uri::from_parts(parts).ok()?;
    *request.headers_mut() = head.headers;
    for ours in [fields::WEFT_PORT, fields::WEFT_PROTOCOL, fields::WEFT_HOPS] {
        request.headers_mut().remove(ours);
    }
    Some(request)
}

/// A request's content outside of the mesh: what was already taken from the application, then the rest.
#[derive(Default)]
pub(crate) struct OutsideBody {
    first: VecDeque<Bytes>,
    trailers: Option<HeaderMap>,
    rest: Option<RequestBody>,
}

impl OutsideBody {
    fn new(upload: Upload) -> Self {
        let (first, trailers, rest) = upload.into_parts();
        Self {
            first: first.into(),
            trailers,
            rest,
        }
    }
}

impl Body for OutsideBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if let Some(chunk) = self.first.pop_front() {
            return Poll::Ready(Some(Ok(Frame::data(chunk))));
        }
        if let Some(trailers) = self.trailers.take() {
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
        match &mut self.rest {
            Some(rest) => Pin::new(rest).poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_empty() && self.trailers.is_none() && self.rest.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        match &self.rest {
            Some(rest) if self.first.is_empty() && self.trailers.is_none() => rest.size_hint(),
            _ => SizeHint::default(),
        }
    }
}
