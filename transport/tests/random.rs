//! Random requests on a random network, against a model of a few lines: what is complete is what was sent.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod common;

use std::{cell::RefCell, collections::BTreeMap, ops::Range, rc::Rc, time::Duration};

use bytes::Bytes;
use common::{body_of, pass, pattern, post, reset_code};
use http::{HeaderValue, StatusCode};
use proptest::prelude::*;
use tokio::time::timeout;
use weft_transport::{
    Config, Error, Incoming, PeerKey, Pool,
    h3::{Code, ResponseHead},
    sim::{self, Link},
};

/// One request, and what is done to it.
#[derive(Clone, Debug)]
struct Plan {
    /// Milliseconds after the start.
    at: u64,
    request: usize,
    response: usize,
    chunk: usize,
    fate: Fate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Both sides do what they should.
    Complete,
    /// The client drops it after so many milliseconds.
    Cancelled { after: u64 },
    /// The server drops its answer after so many bytes.
    Cut { at: usize },
    /// The server answers without reading the request.
    Early,
}

/// What the network does from a millisecond on.
type Weather = (u64, Link);

fn link() -> impl Strategy<Value = Link> {
    let mtu = prop_oneof![Just(1_200), Just(1_452), Just(4_000), Just(8_952)];
    (0..3_000u64, 0..3_000u64, 0.0..0.2, 0.0..0.2, 0.0..0.05, mtu).prop_map(
        |(latency, jitter, loss, duplicate, corrupt, mtu)| Link {
            latency: Duration::from_micros(latency),
            jitter: Duration::from_micros(jitter),
            loss,
            duplicate,
            corrupt,
            mtu,
        },
    )
}

fn plan() -> impl Strategy<Value = Plan> {
    let size = || prop_oneof![Just(0), 0..2_000usize, 0..400_000usize];
    let fate = prop_oneof![
        4 => Just(Fate::Complete),
        1 => (0..60u64).prop_map(|after| Fate::Cancelled { after }),
        1 => (0..200_000usize).prop_map(|at| Fate::Cut { at }),
        1 => Just(Fate::Early),
    ];
    (0..300u64, size(), size(), 1..30_000usize, fate).prop_map(|(at, request, response, chunk, fate)| Plan {
        at,
        request,
        response,
        chunk,
        fate,
    })
}

/// A slice of one long pattern: no two requests have the same content.
fn content(id: usize, length: usize) -> Vec<u8> {
    pattern(id + length).split_off(id)
}

/// What the server's application saw: how often each request began, and the contents that were complete.
#[derive(Default)]
struct Seen {
    begun: BTreeMap<usize, u32>,
    complete: BTreeMap<usize, Vec<u8>>,
}

async fn send_content(
    send: &mut weft_transport::SendStream,
    content: &[u8],
    chunk: usize,
) -> Result<(), Error> {
    for piece in content.chunks(chunk) {
        send.queue_data(Bytes::copy_from_slice(piece))?;
        send.flush().await?;
    }
    send.queue_end()?;
    send.flush().await
}

async fn serve(incoming: Incoming, plans: Rc<Vec<Plan>>, seen: Rc<RefCell<Seen>>) -> Result<(), Error> {
    let mut stream = incoming.stream;
    let head = stream.request_head().await?;
    let id: usize = head.headers["id"].to_str().unwrap().parse().unwrap();
    let plan = &plans[id];
    stream.mark_processed();
    *seen.borrow_mut().begun.entry(id).or_default() += 1;
    let mut response = content(id, plan.response);
    if plan.fate != Fate::Early {
        let body = body_of(&mut stream.recv).await?;
        seen.borrow_mut().complete.insert(id, body);
    }
    stream.send.queue_response(&ResponseHead::new(StatusCode::OK))?;
    if let Fate::Cut { at } = plan.fate {
        response.truncate(at);
        stream.send.queue_data(response.into())?;
        return stream.send.flush().await;
    }
    send_content(&mut stream.send, &response, plan.chunk).await
}

async fn request(pool: Pool, peer: PeerKey, id: usize, plan: Plan) -> Result<Vec<u8>, Error> {
    let stream = pool.stream(&peer).await?;
    let (mut send, mut recv) = {
        let mut stream = stream;
        let mut head = post("/");
        head.headers.insert("id", HeaderValue::from(id));
        stream.queue_request(&head)?;
        (stream.send, stream.recv)
    };
    let upload = async {
        match send_content(&mut send, &content(id, plan.request), plan.chunk).await {
            // It has its answer without: the upload may end (RFC 9114 section 4.1).
            Err(error) if reset_code(&error) == Some(Code::H3_NO_ERROR) => Ok(()),
            result => result,
        }
    };
    let download = async {
        recv.response_head().await?;
        body_of(&mut recv).await
    };
    let (uploaded, downloaded) = tokio::join!(upload, download);
    let body = downloaded?;
    uploaded?;
    Ok(body)
}

fn check(seed: u64, plans: Vec<Plan>, weather: Vec<Weather>) -> Result<(), TestCaseError> {
    let plans = Rc::new(plans);
    let seen = Rc::new(RefCell::new(Seen::default()));
    let (served, noted) = (plans.clone(), seen.clone());
    let outcomes = sim::run(async move {
        let pair = sim::pair(seed, weather[0].1, Config::default(), move |incoming| {
            let (plans, seen) = (served.clone(), noted.clone());
            tokio::task::spawn_local(async move {
                let _ = serve(incoming, plans, seen).await;
            });
        });
        let network = pair.network.clone();
        tokio::task::spawn_local(async move {
            let mut now = 0;
            for (at, link) in weather {
                pass(Duration::from_millis(at.saturating_sub(now))).await;
                now = at;
                network.set_link(link);
            }
        });
        let start = |(id, plan): (usize, &Plan)| {
            let (pool, peer, plan) = (pair.pool.clone(), pair.peer.clone(), plan.clone());
            tokio::task::spawn_local(async move {
                pass(Duration::from_millis(plan.at)).await;
                let fate = plan.fate;
                let request = request(pool, peer, id, plan);
                match fate {
                    Fate::Cancelled { after } => timeout(Duration::from_millis(after), request).await.ok(),
                    _ => Some(request.await),
                }
            })
        };
        let tasks: Vec<_> = plans.iter().enumerate().map(start).collect();
        let mut outcomes = Vec::new();
        for task in tasks {
            outcomes.push(task.await.unwrap());
        }
        (outcomes, plans)
    });
    judge(outcomes, &seen.borrow())
}

/// The answer, the failure, or nothing because it was cancelled.
type Outcome = Option<Result<Vec<u8>, Error>>;

/// The model.
fn judge((outcomes, plans): (Vec<Outcome>, Rc<Vec<Plan>>), seen: &Seen) -> Result<(), TestCaseError> {
    for (id, (outcome, plan)) in outcomes.into_iter().zip(plans.iter()).enumerate() {
        let begun = seen.begun.get(&id).copied().unwrap_or_default();
        prop_assert!(begun <= 1, "{id} was processed {begun} times");
        if let Some(body) = seen.complete.get(&id) {
            prop_assert!(
                *body == content(id, plan.request),
                "request {id} is complete and wrong"
            );
        }
        match (plan.fate, outcome) {
            (Fate::Cut { .. }, Some(Err(error))) => {
                prop_assert_eq!(reset_code(&error), Some(Code::H3_INTERNAL_ERROR), "{}", id);
            }
            (Fate::Cut { .. }, outcome) => prop_assert!(false, "a cut answer looks complete: {outcome:?}"),
            (Fate::Cancelled { .. }, None | Some(Err(_))) => {}
            (_, Some(Ok(body))) => {
                prop_assert!(
                    body == content(id, plan.response),
                    "answer {id} is complete and wrong"
                );
                prop_assert_eq!(begun, 1);
            }
            (_, outcome) => prop_assert!(false, "request {id} {plan:?} failed: {outcome:?}"),
        }
    }
    Ok(())
}

const REQUESTS: Range<usize> = 1..30;

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_complete_is_what_was_sent(
        seed: u64,
        plans in prop::collection::vec(plan(), REQUESTS),
        weather in prop::collection::vec((0..400u64, link()), 1..4),
    ) {
        let mut weather = weather;
        weather.sort_by_key(|(at, _)| *at);
        check(seed, plans, weather)?;
    }
}

#[test]
fn the_model_knows_a_wrong_answer() {
    let plan = Plan {
        at: 0,
        request: 0,
        response: 4,
        chunk: 1,
        fate: Fate::Complete,
    };
    let mut seen = Seen::default();
    seen.begun.insert(0, 1);
    let outcome = |body: Vec<u8>| (vec![Some(Ok(body))], Rc::new(vec![plan.clone()]));
    assert!(judge(outcome(content(0, 4)), &seen).is_ok());
    assert!(judge(outcome(content(1, 4)), &seen).is_err());
    assert!(judge(outcome(content(0, 3)), &seen).is_err());
    seen.begun.insert(0, 2);
    assert!(judge(outcome(content(0, 4)), &seen).is_err());
}
