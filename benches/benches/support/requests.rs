//! What the transport benches ask of a pool, and what answers it.

use std::{
    cell::Cell,
    future::poll_fn,
    rc::Rc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{
    Method, StatusCode,
    uri::{Authority, PathAndQuery, Scheme},
};
use weft_transport::{
    Error, Incoming, PeerKey, Pool,
    h3::{RequestHead, ResponseHead},
};

/// Bytes of one bulk download.
pub(crate) const BULK: usize = 16 << 20;
const PIECE: Bytes = Bytes::from_static(&[7; 64 << 10]);
const SMALL: Bytes = Bytes::from_static(&[7; 128]);

/// Where requests go.
pub(crate) struct Target {
    pub(crate) pool: Pool,
    pub(crate) peer: PeerKey,
    /// Lives as long as the target.
    pub(crate) _keep: Box<dyn std::any::Any>,
}

/// The application of the listener.
pub(crate) fn serve(incoming: Incoming) {
    tokio::task::spawn_local(async move {
        let _ = answer(incoming).await;
    });
}

async fn answer(incoming: Incoming) -> Result<(), Error> {
    let mut stream = incoming.stream;
    let head = stream.request_head().await?;
    stream.mark_processed();
    stream.send.queue_response(&ResponseHead::new(StatusCode::OK))?;
    if head.path.is_some_and(|path| path == "/bulk") {
        for _ in 0..BULK / PIECE.len() {
            stream.send.queue_data(PIECE)?;
            stream.send.flush().await?;
        }
    } else {
        stream.send.queue_data(SMALL)?;
    }
    stream.send.queue_end()?;
    stream.send.flush().await
}

async fn get(target: &Target, path: &'static str) -> Result<usize, Error> {
    let mut stream = target.pool.stream(&target.peer).await?;
    let authority = Authority::from_static("server");
    let path = PathAndQuery::from_static(path);
    stream.queue_request(&RequestHead::new(Method::GET, Scheme::HTTP, authority, path))?;
    stream.send.queue_end()?;
    stream.send.flush().await?;
    stream.recv.response_head().await?;
    let mut length = 0;
    while let Some(data) = poll_fn(|cx| stream.recv.poll_data(cx)).await? {
        length += data.len();
    }
    Ok(length)
}

async fn expect(target: &Target, path: &'static str, length: usize) {
    assert_eq!(get(target, path).await.ok(), Some(length), "a request failed");
}

/// The time that `requests` small requests take, `concurrency` at a time.
pub(crate) async fn measure(target: Rc<Target>, concurrency: u64, requests: u64) -> Duration {
    expect(&target, "/small", SMALL.len()).await;
    let left = Rc::new(Cell::new(requests));
    let started = Instant::now();
    let tasks: Vec<_> = (0..concurrency.min(requests))
        .map(|_| {
            let (target, left) = (target.clone(), left.clone());
            tokio::task::spawn_local(async move {
                while let Some(next) = left.get().checked_sub(1) {
                    left.set(next);
                    expect(&target, "/small", SMALL.len()).await;
                }
            })
        })
        .collect();
    for task in tasks {
        assert!(task.await.is_ok(), "a task failed");
    }
    started.elapsed()
}

/// The time that `downloads` of [`BULK`] take, one after the other.
pub(crate) async fn bulk(target: Rc<Target>, downloads: u64) -> Duration {
    expect(&target, "/bulk", BULK).await;
    let started = Instant::now();
    for _ in 0..downloads {
        expect(&target, "/bulk", BULK).await;
    }
    started.elapsed()
}
