//! A client and a server of a few lines.
#![allow(dead_code, reason = "each test file uses some of it")]

pub(crate) mod load;

use std::{future::poll_fn, time::Duration};

use bytes::Bytes;
use http::{
    Method, StatusCode,
    uri::{Authority, PathAndQuery, Scheme},
};
use weft_transport::{
    Error, ErrorKind, Incoming, PeerKey, Pool, RecvStream, RequestStream, SendStream,
    h3::{Code, RequestHead, ResponseHead},
};

pub(crate) fn request(method: Method, path: &'static str) -> RequestHead {
    let authority = Authority::from_static("server");
    RequestHead::new(method, Scheme::HTTP, authority, PathAndQuery::from_static(path))
}

pub(crate) fn post(path: &'static str) -> RequestHead {
    request(Method::POST, path)
}

/// Bytes that differ wherever they are misplaced.
pub(crate) fn pattern(length: usize) -> Vec<u8> {
    (0..length as u64)
        .map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8)
        .collect()
}

pub(crate) async fn get(
    pool: &Pool,
    peer: &PeerKey,
    path: &'static str,
) -> Result<(ResponseHead, Vec<u8>), Error> {
    let mut stream = pool.stream(peer).await?;
    stream.queue_request(&request(Method::GET, path))?;
    stream.send.queue_end()?;
    stream.send.flush().await?;
    let head = stream.recv.response_head().await?;
    let body = body_of(&mut stream.recv).await?;
    Ok((head, body))
}

pub(crate) async fn body_of(recv: &mut RecvStream) -> Result<Vec<u8>, Error> {
    let mut body = Vec::new();
    while let Some(data) = poll_fn(|cx| recv.poll_data(cx)).await? {
        body.extend_from_slice(&data);
    }
    Ok(body)
}

pub(crate) async fn respond(mut stream: RequestStream, body: &'static [u8]) -> Result<(), Error> {
    stream.send.queue_response(&ResponseHead::new(StatusCode::OK))?;
    stream.send.queue_data(Bytes::from_static(body))?;
    stream.send.queue_end()?;
    stream.send.flush().await
}

/// Sends the content of the request back as it comes.
pub(crate) async fn echo(incoming: Incoming) {
    let mut stream = incoming.stream;
    if stream.request_head().await.is_err() {
        return;
    }
    stream.mark_processed();
    let result: Result<(), Error> = async {
        stream.send.queue_response(&ResponseHead::new(StatusCode::OK))?;
        while let Some(data) = poll_fn(|cx| stream.recv.poll_data(cx)).await? {
            stream.send.queue_data(data)?;
            stream.send.flush().await?;
        }
        stream.send.queue_end()?;
        stream.send.flush().await
    }
    .await;
    drop(result);
}

/// Sends the head and the end of a GET.
pub(crate) async fn start_get(
    pool: &Pool,
    peer: &PeerKey,
    path: &'static str,
) -> Result<RequestStream, Error> {
    let mut stream = pool.stream(peer).await?;
    stream.queue_request(&request(Method::GET, path))?;
    stream.send.queue_end()?;
    stream.send.flush().await?;
    Ok(stream)
}

/// Sends the head of a POST.
pub(crate) async fn start_post(
    pool: &Pool,
    peer: &PeerKey,
    path: &'static str,
) -> Result<RequestStream, Error> {
    let mut stream = pool.stream(peer).await?;
    stream.queue_request(&post(path))?;
    stream.send.flush().await?;
    Ok(stream)
}

/// Sends zeroes until it is stopped; returns how many were handed over, and why it ended.
pub(crate) async fn pour(send: &mut SendStream, chunk: usize, limit: usize) -> (usize, Result<(), Error>) {
    let zeroes = Bytes::from(vec![0; chunk]);
    let mut sent = 0;
    while sent < limit {
        let result = match send.queue_data(zeroes.clone()) {
            Ok(()) => send.flush().await,
            Err(error) => Err(error),
        };
        if result.is_err() {
            return (sent, result);
        }
        sent += chunk;
    }
    (sent, Ok(()))
}

/// What ended the stream with a code of the peer's.
pub(crate) fn reset_code(error: &Error) -> Option<Code> {
    match error.kind() {
        ErrorKind::Reset(code) => Some(*code),
        _ => None,
    }
}

/// Lets `duration` of virtual time pass.
pub(crate) async fn pass(duration: Duration) {
    tokio::time::sleep(duration).await;
}

pub(crate) const MILLISECOND: Duration = Duration::from_millis(1);
pub(crate) const SECOND: Duration = Duration::from_secs(1);
