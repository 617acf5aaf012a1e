//! Copies of requests, whose answers nobody reads.
//!
//! A copy is sent once, beside the request and never before it is whole here; what becomes of it changes nothing for the
//! application. It goes to the endpoints of its backend as they are: no route is asked again, so no copy is copied.

use std::{future::poll_fn, rc::Rc, sync::Arc, time::Duration};

use tokio::time::{Instant, timeout_at};
use weft_transport::{
    RequestStream,
    h3::{RequestHead, fields},
};

use crate::{
    balance::Pick,
    forward::attempt::{CONNECT, Patience, attempt},
    respond::{Failure, Late},
    snapshot::Backend,
    upload::{Upload, Whole},
    worker::Worker,
};

/// Copies under way on a worker; more are left out, and counted.
const MAX_UNDER_WAY: usize = 256;
/// How long a copy may take, its answer included.
const TIMEOUT: Duration = Duration::from_secs(15);
/// Of an answer so much is read before it is cancelled: an application should not see its answers refused.
const MAX_ANSWER: u64 = 1 << 20;

/// Sends a copy to `backend`; `content` is all of it, or none if that is more than is kept.
pub(crate) fn send(
    worker: &Rc<Worker>,
    backend: &Arc<Backend>,
    mut head: RequestHead,
    content: Option<Whole>,
) {
    let Some(content) = content else {
        return worker.sink.mirrored(backend, "too_large");
    };
    if worker.mirrors.get() >= MAX_UNDER_WAY {
        return worker.sink.mirrored(backend, "too_many");
    }
    worker.mirrors.set(worker.mirrors.get() + 1);
    // Its deadline is not the request's: nobody waits for it.
    head.headers.remove(fields::WEFT_TIMEOUT);
    let (worker, backend) = (worker.clone(), backend.clone());
    tokio::task::spawn_local(async move {
        let outcome = match copy(&worker, &backend, head, content.upload()).await {
            Ok(()) => "sent",
            Err(failure) => {
                tracing::debug!(backend = %backend.name, reason = failure.reason(), "a copy of a request failed");
                "failed"
            }
        };
        worker.sink.mirrored(&backend, outcome);
        worker.mirrors.set(worker.mirrors.get() - 1);
    });
}

async fn copy(
    worker: &Worker,
    backend: &Backend,
    mut head: RequestHead,
    mut upload: Upload,
) -> Result<(), Failure> {
    let deadline = Instant::now() + TIMEOUT;
    let now = std::time::Instant::now();
    let pick = Pick {
        tried: &[],
        key: None,
        may_probe: false,
        now,
    };
    let picked = backend.policy.balancer.pick(&pick, &mut *worker.rng());
    let endpoint = picked
        .map_err(|_| Failure::NoEndpoint {
            unmeshed: 0,
            unready: 0,
        })?
        .endpoint
        .clone();
    let _in_flight = endpoint.load.begin();
    head.headers.insert(fields::WEFT_PORT, endpoint.port.into());
    let patience = Patience {
        connect: CONNECT,
        answer: Some((deadline, Late::Request)),
        elsewhere: false,
    };
    let (stream, _) = attempt(worker, &endpoint, &head, &mut upload, &mut None, patience).await?;
    timeout_at(deadline, drain(stream, upload))
        .await
        .unwrap_or(Err(Failure::TimedOut(Late::Request)))
}

/// Reads the answer to its end, and sends what is left of the request.
async fn drain(mut stream: RequestStream, upload: Upload) -> Result<(), Failure> {
    let _upload = (!upload.is_done()).then(|| upload.spawn(stream.send));
    let mut read = 0;
    while let Some(data) = poll_fn(|cx| stream.recv.poll_data(cx)).await? {
        read += data.len() as u64;
        if read > MAX_ANSWER {
            break;
        }
    }
    Ok(())
}
