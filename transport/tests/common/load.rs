//! Requests one after the other, and who saw which of them.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
    time::Duration,
};

use http::{HeaderValue, Method};
use tokio::task::JoinHandle;
use weft_transport::{Error, Incoming, PeerKey, Pool, Processed, sim::Pair};

use super::{MILLISECOND, body_of, pass, request, respond};

/// How often the server's application saw each request.
pub(crate) type Seen = Rc<RefCell<HashMap<u64, u32>>>;

/// A listener's owner that notes each request before it answers.
pub(crate) fn noting(seen: &Seen) -> impl Fn(Incoming) + 'static {
    let seen = seen.clone();
    move |incoming| {
        let seen = seen.clone();
        tokio::task::spawn_local(async move {
            let mut stream = incoming.stream;
            let Ok(head) = stream.request_head().await else {
                return;
            };
            let id = head.headers["id"].to_str().unwrap().parse().unwrap();
            stream.mark_processed();
            *seen.borrow_mut().entry(id).or_default() += 1;
            pass(Duration::from_millis(id % 7)).await;
            let _ = respond(stream, b"done").await;
        });
    }
}

/// How many requests a task sent and how often it had to try again; or which was lost, and how.
pub(crate) type Sent = Result<(u64, u64), (u64, Error)>;

async fn send_once(pool: &Pool, peer: &PeerKey, id: u64) -> Result<(), Error> {
    let mut stream = pool.stream(peer).await?;
    let mut head = request(Method::POST, "/");
    head.headers.insert("id", HeaderValue::from(id));
    stream.queue_request(&head)?;
    stream.send.queue_end()?;
    stream.send.flush().await?;
    stream.recv.response_head().await?;
    assert_eq!(body_of(&mut stream.recv).await?, b"done");
    Ok(())
}

/// Tries again for as long as that is proved to be safe.
async fn send(pool: &Pool, peer: &PeerKey, id: u64) -> Result<u32, Error> {
    let mut tries = 1;
    loop {
        match send_once(pool, peer, id).await {
            Ok(()) => return Ok(tries),
            Err(error) if error.processed() == Processed::No => tries += 1,
            Err(error) => return Err(error),
        }
        pass(5 * MILLISECOND).await;
    }
}

/// `tasks` that send requests until `stop`, with a pause between two; each returns how many it sent and how often it
/// had to try again.
pub(crate) fn load(pair: &Pair, tasks: u64, pause: Duration, stop: &Rc<Cell<bool>>) -> Vec<JoinHandle<Sent>> {
    let task = |task: u64| {
        let (pool, peer, stop) = (pair.pool.clone(), pair.peer.clone(), stop.clone());
        tokio::task::spawn_local(async move {
            let (mut sent, mut repeated) = (0, 0);
            while !stop.get() {
                let id = task * 1_000_000 + sent;
                let tries = send(&pool, &peer, id).await.map_err(|error| (id, error))?;
                sent += 1;
                repeated += u64::from(tries - 1);
                if !pause.is_zero() {
                    pass(pause).await;
                }
            }
            Ok((sent, repeated))
        })
    };
    (0..tasks).map(task).collect()
}
