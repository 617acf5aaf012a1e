//! What becomes of requests when endpoints refuse, die, leave and come back.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
    time::{Duration, Instant},
};

use http::{Method, Request, StatusCode};
use nix::sys::signal::Signal;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::{JoinSet, LocalSet},
};
use weft_lab::services::{self, http::Options};

use crate::common::{
    Mesh,
    app::{self, Counter},
    eventually,
    http::{Answer, Connection, assert_is_reset, empty, full, get, ping},
    port, soon,
};

/// Load while things happen: connections that send one request after another, GET and POST in turn, each with an
/// id of its own.
struct Load {
    stop: Rc<Cell<bool>>,
    answers: Rc<RefCell<Vec<Sent>>>,
    /// When the requests began that have no answer yet, by client.
    pending: Rc<RefCell<HashMap<usize, Instant>>>,
    clients: JoinSet<()>,
}

/// One request and what came of it.
#[derive(Debug)]
struct Sent {
    id: String,
    begun: Instant,
    answer: Result<Answer, String>,
}

impl Sent {
    fn is_lost(&self) -> bool {
        !matches!(&self.answer, Ok(answer) if answer.status == StatusCode::OK && answer.text() == self.body())
    }

    fn body(&self) -> &str {
        if self.id.starts_with("POST") { &self.id } else { "" }
    }
}

impl Load {
    fn start(mesh: &Mesh, clients: usize) -> Self {
        let mut load = Self {
            stop: Rc::default(),
            answers: Rc::default(),
            pending: Rc::default(),
            clients: JoinSet::new(),
        };
        for client in 0..clients {
            let (address, stop, answers) = (mesh.outbound(), load.stop.clone(), load.answers.clone());
            let pending = load.pending.clone();
            load.clients.spawn_local(async move {
                let mut connection = Connection::http1(address).await;
                let methods = [Method::GET, Method::POST].into_iter().cycle();
                for (number, method) in methods.enumerate() {
                    if stop.get() {
                        return;
                    }
                    let id = format!("{method} {client} {number}");
                    let body = if method == Method::POST {
                        full(id.clone())
                    } else {
                        empty()
                    };
                    let request = Request::builder()
                        .method(method)
                        .uri("/")
                        .header("host", "web")
                        .header("x-id", &id);
                    let begun = Instant::now();
                    pending.borrow_mut().insert(client, begun);
                    let sent = soon("an answer", connection.try_send(request.body(body).unwrap())).await;
                    let answer = sent.map_err(|error| error.to_string());
                    if answer.is_err() {
                        connection = Connection::http1(address).await;
                    }
                    pending.borrow_mut().remove(&client);
                    answers.borrow_mut().push(Sent { id, begun, answer });
                }
            });
        }
        load
    }

    fn count(&self) -> usize {
        self.answers.borrow().len()
    }

    /// Waits for so many more answers.
    async fn more(&self, count: usize) {
        let wanted = self.count() + count;
        eventually("answers under load", async || self.count() >= wanted).await;
    }

    async fn finish(mut self) -> Vec<Sent> {
        self.stop.set(true);
        while let Some(ended) = self.clients.join_next().await {
            ended.expect("a client");
        }
        self.answers.take()
    }
}

/// Two replicas of `web` that count what they get.
async fn replicas() -> (Mesh, [Counter; 2]) {
    let mut mesh = Mesh::of_web();
    mesh.workload(Mesh::web("web-1"));
    let counters = [Counter::default(), Counter::default()];
    for (name, counter) in ["web-0", "web-1"].into_iter().zip(&counters) {
        counter.serve(mesh.named(name).listen(port::HTTP).await, Duration::ZERO);
    }
    mesh.start();
    (mesh, counters)
}

fn assert_once(sent: &[Sent], counters: &[Counter]) {
    for Sent { id, answer, .. } in sent.iter().filter(|sent| !sent.is_lost()) {
        let count: usize = counters
            .iter()
            .filter_map(|counter| counter.counts().get(id).copied())
            .sum();
        assert_eq!(count, 1, "{id} came {count} times, {answer:?}");
    }
}

#[tokio::test]
async fn a_refused_connection_sends_every_request_elsewhere_once() {
    let mut mesh = Mesh::of_web();
    mesh.workload(Mesh::web("web-1"));
    let counter = Counter::default();
    // The application of web-0 is not there.
    counter.serve(mesh.named("web-1").listen(port::HTTP).await, Duration::ZERO);
    mesh.start();
    let mut connection = Connection::http1(mesh.outbound()).await;
    for number in 0..40 {
        let request = Request::post("/")
            .header("host", "web")
            .header("x-id", number.to_string());
        let answer = connection
            .send(request.body(full(format!("body {number}"))).unwrap())
            .await;
        assert_eq!(
            (answer.status, answer.text()),
            (StatusCode::OK, &*format!("body {number}"))
        );
    }
    let counts = counter.counts();
    assert_eq!(counts.len(), 40);
    assert!(counts.values().all(|count| *count == 1), "{counts:?}");
    let client = mesh.sidecar("client-0");
    client.access(&[("tries", "2"), ("status", "200")]).await;
    let retries = client
        .metric("weft_retries_total", &["direction=\"outbound\""])
        .await
        .expect("a metric");
    assert!(retries > 0.0);
    let line = mesh
        .sidecar("web-0")
        .access(&[("reason", "application_refused")])
        .await;
    assert_eq!(line["status"], 503);
}

#[tokio::test]
async fn with_every_application_gone_the_answer_says_so() {
    let mut mesh = Mesh::of_web();
    mesh.start();
    let answer = get(mesh.outbound(), "web", "/").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.field("weft-error"), Some("refused_by_endpoint"));
    assert_eq!(
        answer.field("weft-unprocessed"),
        None,
        "an application is told nothing of it"
    );
    assert!(answer.text().contains("application_refused"), "{}", answer.text());
}

#[tokio::test]
async fn a_drain_under_load_loses_nothing() {
    LocalSet::new()
        .run_until(async {
            let (mut mesh, counters) = replicas().await;
            let load = Load::start(&mesh, 8);
            load.more(100).await;
            let mut leaving = mesh.take("web-1");
            leaving.process.signal(Signal::SIGTERM).unwrap();
            assert_eq!(leaving.ended().await, Some(0));
            load.more(100).await;
            let sent = load.finish().await;
            let lost: Vec<_> = sent.iter().filter(|sent| sent.is_lost()).collect();
            assert!(lost.is_empty(), "{} of {}: {lost:?}", lost.len(), sent.len());
            assert!(counters.iter().all(|counter| counter.total() > 0));
            assert_once(&sent, &counters);
        })
        .await;
}

#[tokio::test]
async fn a_killed_sidecar_costs_only_what_it_had() {
    LocalSet::new()
        .run_until(async {
            let (mut mesh, counters) = replicas().await;
            let load = Load::start(&mesh, 8);
            load.more(100).await;
            mesh.take("web-1").process.kill();
            let killed = Instant::now();
            load.more(500).await;
            // Without a goodbye, what is at the dead endpoint waits there, and what comes later goes where less waits.
            let known = killed + Duration::from_secs(2);
            for (client, begun) in load.pending.borrow().iter() {
                assert!(
                    *begun < known || begun.elapsed() < Duration::from_secs(5),
                    "{client} waits"
                );
            }
            drop(load.clients);
            let sent = load.answers.take();
            for lost in sent.iter().filter(|sent| sent.is_lost()) {
                assert!(lost.begun < known, "{lost:?}");
            }
            assert_once(&sent, &counters);
        })
        .await;
}

#[tokio::test]
async fn a_drain_waits_for_what_is_under_way() {
    let mut mesh = Mesh::of_web();
    app::serve_web(&mesh.named("web-0")).await;
    mesh.start();
    let mut echo = TcpStream::connect(mesh.bind(port::BIND_TCP)).await.unwrap();
    echo.write_all(b"x").await.unwrap();
    assert_eq!(soon("the echo", echo.read_u8()).await.unwrap(), b'x');
    let mut slow = Connection::http1(mesh.outbound()).await;
    let request = Request::get("/slow?ms=400")
        .header("host", "web")
        .body(empty())
        .unwrap();
    let slow = tokio::spawn(async move { slow.send(request).await });
    let web = mesh.sidecar("web-0");
    eventually("the request", async || {
        web.json("/connections").await["workers"][0]["connections"][0]["streams"] == 2
    })
    .await;
    let mut web = mesh.take("web-0");
    web.process.signal(Signal::SIGTERM).unwrap();
    assert_eq!(slow.await.unwrap().status, StatusCode::OK);
    // The tunnel still works, and is what it waits for.
    echo.write_all(b"y").await.unwrap();
    assert_eq!(soon("the echo", echo.read_u8()).await.unwrap(), b'y');
    assert!(web.process.is_running().unwrap());
    drop(echo);
    assert_eq!(web.ended().await, Some(0));
}

#[tokio::test]
async fn a_drain_of_the_callers_sidecar_finishes_what_its_application_sent() {
    LocalSet::new()
        .run_until(async {
            let mut mesh = Mesh::of_web();
            app::serve_web(&mesh.named("web-0")).await;
            mesh.start();
            let mut idle = Connection::http1(mesh.outbound()).await;
            let request = || {
                Request::get("/slow?ms=300")
                    .header("host", "web")
                    .body(empty())
                    .unwrap()
            };
            assert_eq!(idle.send(request()).await.status, StatusCode::OK);
            let mut busy = Connection::http1(mesh.outbound()).await;
            let slow = tokio::task::spawn_local(async move { busy.send(request()).await });
            let client = mesh.sidecar("client-0");
            eventually("the request", async || {
                client.json("/connections").await["workers"][0]["connections"][0]["streams"] == 1
            })
            .await;
            let mut client = mesh.take("client-0");
            client.process.signal(Signal::SIGTERM).unwrap();
            let answer = slow.await.unwrap();
            assert_eq!(answer.status, StatusCode::OK);
            assert_eq!(
                answer.field("connection"),
                Some("close"),
                "the application must know that this was the last"
            );
            assert_eq!(client.ended().await, Some(0));
            soon("the end of the idle connection", idle.try_send(request()))
                .await
                .unwrap_err();
        })
        .await;
}

#[tokio::test]
async fn a_drain_ends_at_its_deadline() {
    let mut mesh = Mesh::of_web();
    mesh.named_mut("web-0").extra = "drainTimeout: 100ms\n".to_owned();
    app::serve_web(&mesh.named("web-0")).await;
    mesh.start();
    let mut echo = TcpStream::connect(mesh.bind(port::BIND_TCP)).await.unwrap();
    echo.write_all(b"x").await.unwrap();
    soon("the echo", echo.read_u8()).await.unwrap();
    let mut web = mesh.take("web-0");
    web.process.signal(Signal::SIGTERM).unwrap();
    assert_eq!(web.ended().await, Some(0));
    // The caller hears of it at once, and sees that its connection was cut, not ended.
    let rest = tokio::time::timeout(Duration::from_secs(2), echo.read_u8())
        .await
        .expect("word of it in time");
    assert_eq!(rest.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_restarted_sidecar_is_found_again_at_once() {
    let mut mesh = Mesh::of_web();
    app::serve_web(&mesh.named("web-0")).await;
    mesh.start();
    assert_eq!(get(mesh.outbound(), "web", "/").await.status, StatusCode::OK);
    let mut echo = TcpStream::connect(mesh.bind(port::BIND_TCP)).await.unwrap();
    echo.write_all(b"x").await.unwrap();
    soon("the echo", echo.read_u8()).await.unwrap();
    // No goodbye: the client's sidecar does not know that its connection is gone.
    mesh.take("web-0").process.kill();
    mesh.start_one("web-0");
    let begun = Instant::now();
    // What waits on the old connection learns from its stateless reset that it is gone, if not before.
    let exchange = tokio::time::timeout(Duration::from_secs(1), ping(&mut echo)).await;
    assert_is_reset(exchange.expect("a reset in time"));
    let answer = get(mesh.outbound(), "web", "/").await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    mesh.sidecar("client-0")
        .access(&[("protocol", "tcp"), ("reason", "connection_reset")])
        .await;
}

#[tokio::test]
async fn a_short_keep_alive_of_the_application_loses_no_post() {
    LocalSet::new()
        .run_until(async {
            let mut mesh = Mesh::of_web();
            let options = Options {
                keep_alive: Some(Duration::from_secs(1)),
                ..Options::named("web-0")
            };
            tokio::spawn(services::http::serve(
                mesh.named("web-0").listen(port::HTTP).await,
                options,
            ));
            mesh.start();
            let mut clients = JoinSet::new();
            // Pauses around the moment at which the application closes.
            for pause in (980..=1020).step_by(2) {
                let address = mesh.outbound();
                clients.spawn_local(async move {
                    let mut connection = Connection::http1(address).await;
                    for _ in 0..3 {
                        let request = Request::post("/echo")
                            .header("host", "web")
                            .body(full("content"))
                            .unwrap();
                        let answer = connection.send(request).await;
                        assert_eq!(
                            (answer.status, answer.text()),
                            (StatusCode::OK, "content"),
                            "after {pause} ms"
                        );
                        tokio::time::sleep(Duration::from_millis(pause)).await;
                    }
                });
            }
            while let Some(ended) = clients.join_next().await {
                ended.expect("a client");
            }
        })
        .await;
}
