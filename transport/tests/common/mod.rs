//! A client and a server of a few lines.
#![allow(dead_code, reason = "each test file uses some of it")]

use std::future::poll_fn;

use bytes::Bytes;
use http::{
    Method, StatusCode,
    uri::{Authority, PathAndQuery, Scheme},
};
use weft_transport::{
    Error, Incoming, PeerKey, Pool, RecvStream, RequestStream,
    h3::{RequestHead, ResponseHead},
};

pub fn request(method: Method, path: &'static str) -> RequestHead {
    let authority = Authority::from_static("server");
    RequestHead::new(method, Scheme::HTTP, authority, PathAndQuery::from_static(path))
}

pub fn post(path: &'static str) -> RequestHead {
    request(Method::POST, path)
}

/// Bytes that differ wherever they are misplaced.
pub fn pattern(length: usize) -> Vec<u8> {
    (0..length as u64)
        .map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8)
        .collect()
}

pub async fn get(pool: &Pool, peer: &PeerKey, path: &'static str) -> Result<(ResponseHead, Vec<u8>), Error> {
    let mut stream = pool.stream(peer).await?;
    stream.queue_request(&request(Method::GET, path))?;
    stream.send.queue_end()?;
    stream.send.flush().await?;
    let head = stream.recv.response_head().await?;
    let body = body_of(&mut stream.recv).await?;
    Ok((head, body))
}

pub async fn body_of(recv: &mut RecvStream) -> Result<Vec<u8>, Error> {
    let mut body = Vec::new();
    while let Some(data) = poll_fn(|cx| recv.poll_data(cx)).await? {
        body.extend_from_slice(&data);
    }
    Ok(body)
}

pub async fn respond(mut stream: RequestStream, body: &'static [u8]) -> Result<(), Error> {
    stream.send.queue_response(&ResponseHead::new(StatusCode::OK))?;
    stream.send.queue_data(Bytes::from_static(body))?;
    stream.send.queue_end()?;
    stream.send.flush().await
}

/// Sends the content of the request back as it comes.
pub async fn echo(incoming: Incoming) {
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
