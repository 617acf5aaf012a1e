//! What a TrafficPolicy makes of replicas that fail, hang and come back, of crowds, and of callers in a hurry.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use http::{Method, Request, StatusCode};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};

use crate::common::{
    Mesh, Workload,
    app::{self, Does, Scripted},
    eventually,
    http::{Answer, Connection, empty, get},
    port, soon,
};

/// A service `web` with some replicas, and a policy.
struct Replicas {
    mesh: Mesh,
    applications: Vec<Scripted>,
}

impl Replicas {
    /// With the spec of a TrafficPolicy for `web`, as a flow mapping.
    async fn start(count: usize, spec: &str) -> Self {
        let mut mesh = Mesh::new();
        mesh.service(
            "web",
            &[("http", 80, port::HTTP, "http"), ("tcp", 5432, port::TCP, "tcp")],
        );
        mesh.workload(Mesh::client());
        let mut applications = Vec::new();
        for number in 0..count {
            let replica = Workload::new(&format!("web-{number}"), "web")
                .label("shard", &number.to_string())
                .port("http", port::HTTP, "")
                .port("tcp", port::TCP, "");
            let replica = mesh.workload(replica);
            applications.push(Scripted::serve(&replica, port::HTTP).await);
        }
        mesh.documents = policy(spec);
        mesh.start();
        Self { mesh, applications }
    }

    async fn get(&self) -> Answer {
        get(self.mesh.outbound(), "web", "/").await
    }

    /// Sends a request with an id on a connection of its own.
    async fn send(&self, method: Method, id: &str) -> Answer {
        let request = Request::builder()
            .method(method)
            .uri("/")
            .header("host", "web")
            .header("x-id", id);
        let mut connection = Connection::http1(self.mesh.outbound()).await;
        connection.send(request.body(empty()).unwrap()).await
    }

    /// How often a request came to the applications.
    fn came(&self, id: &str) -> usize {
        let counts = self.applications.iter().map(Scripted::counts);
        counts.filter_map(|counts| counts.get(id).copied()).sum()
    }
}

fn policy(spec: &str) -> String {
    let targets = "targetRefs: [{group: \"\", kind: Service, name: web}]";
    let separator = if spec.is_empty() { "" } else { ", " };
    format!(
        "---\napiVersion: weft.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {{name: web}}\nspec: {{{targets}{separator}{spec}}}\n"
    )
}

fn reason(answer: &Answer) -> (u16, Option<&str>) {
    (answer.status.as_u16(), answer.field("weft-error"))
}

#[tokio::test]
async fn a_bad_answer_is_retried_elsewhere_for_what_may_be_done_twice_and_for_nothing_else() {
    let spec = "loadBalancing: {algorithm: RoundRobin}, retries: {retryOn: [GatewayError], attempts: 2, backoff: {base: 1ms, max: 1ms}, budget: {minPerSecond: 1000}}, outlierEjection: {consecutiveFailures: 0}";
    let replicas = Replicas::start(2, spec).await;
    replicas.applications[0].will(Does::Answer(503));
    let mut refused = 0;
    for number in 0..40 {
        let id = format!("get {number}");
        assert_eq!(replicas.send(Method::GET, &id).await.text(), "web-1");
        assert!((1..=3).contains(&replicas.came(&id)));
        let id = format!("post {number}");
        let answer = replicas.send(Method::POST, &id).await;
        refused += usize::from(answer.status == StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(replicas.came(&id), 1, "{id}");
        // It is the application's own answer.
        assert_eq!(answer.field("weft-error"), None);
    }
    assert!(refused > 0, "the bad one was never asked");
}

#[tokio::test]
async fn a_request_comes_as_often_as_attempts_allow_and_then_the_answer_is_passed_on() {
    let spec = "retries: {retryOn: [ServerError], attempts: 3, backoff: {base: 1ms, max: 1ms}, budget: {minPerSecond: 1000}}";
    let mut replicas = Replicas::start(1, spec).await;
    replicas.applications[0].will(Does::Answer(500));
    let answer = replicas.send(Method::GET, "a").await;
    assert_eq!((reason(&answer), answer.text()), ((500, None), "web-0"));
    assert_eq!(replicas.came("a"), 4);
    // Nobody is asked again before the time that the application names.
    replicas.applications[0].will(Does::Later(1_000));
    assert_eq!(
        replicas.send(Method::GET, "b").await.status,
        StatusCode::SERVICE_UNAVAILABLE
    );
    assert_eq!(replicas.came("b"), 1);
    let retried = replicas
        .mesh
        .sidecar("client-0")
        .metric("weft_retries_total", &["service=\"default/web\""]);
    assert_eq!(retried.await, Some(3.0));
}

#[tokio::test]
async fn a_budget_keeps_an_outage_from_growing() {
    let spec = "retries: {retryOn: [GatewayError], attempts: 5, backoff: {base: 1ms, max: 1ms}, budget: {percent: 20, minPerSecond: 1}}";
    let replicas = Replicas::start(3, spec).await;
    for application in &replicas.applications {
        application.will(Does::Answer(503));
    }
    let mut connection = Connection::http1(replicas.mesh.outbound()).await;
    let begun = Instant::now();
    const COUNT: usize = 500;
    for _ in 0..COUNT {
        let request = Request::get("/").header("host", "web").body(empty()).unwrap();
        assert_eq!(
            connection.send(request).await.status,
            StatusCode::SERVICE_UNAVAILABLE
        );
    }
    let came: usize = replicas.applications.iter().map(Scripted::count).sum();
    // A fifth of them, or the floor of one a second on a machine that is very slow.
    let allowed = COUNT / 5 + usize::try_from(begun.elapsed().as_secs()).unwrap_or(usize::MAX) + 11;
    assert!(came > COUNT && came <= COUNT + allowed, "{came} for {COUNT}");
}

#[tokio::test]
async fn a_replica_that_hangs_is_left_after_the_time_of_a_try() {
    let spec = "loadBalancing: {algorithm: RoundRobin}, retries: {attempts: 2, perTryTimeout: 300ms, backoff: {base: 1ms, max: 1ms}, budget: {minPerSecond: 1000}}, outlierEjection: {consecutiveFailures: 0}";
    let replicas = Replicas::start(2, spec).await;
    replicas.applications[0].will(Does::Hang);
    for number in 0..10 {
        let answer = replicas.send(Method::GET, &format!("get {number}")).await;
        assert_eq!(answer.text(), "web-1");
    }
    // It may have been acted on.
    let mut hung = 0;
    for number in 0..10 {
        let id = format!("post {number}");
        let answer = replicas.send(Method::POST, &id).await;
        if answer.status != StatusCode::OK {
            assert_eq!(reason(&answer), (504, Some("try_timeout")));
            hung += 1;
        }
        assert_eq!(replicas.came(&id), 1);
    }
    assert!(hung > 0, "the hanging one was never asked");
}

#[tokio::test]
async fn a_request_ends_at_its_deadline_and_the_next_hop_knows_it() {
    let replicas = Replicas::start(1, "timeouts: {request: 500ms}").await;
    let application = &replicas.applications[0];
    assert_eq!(replicas.get().await.status, StatusCode::OK);
    application.will(Does::Hang);
    assert_eq!(reason(&replicas.get().await), (504, Some("request_timeout")));
    // A gRPC caller says itself how long it waits, and what is left of that goes with the call.
    application.will(Does::Grpc(0));
    let call = async |timeout: &str| {
        let request = Request::post("http://web/a.B/C")
            .header("content-type", "application/grpc")
            .header("grpc-timeout", timeout);
        let mut connection = Connection::http2(replicas.mesh.outbound()).await;
        connection.send(request.body(empty()).unwrap()).await
    };
    assert_eq!(call("10S").await.field("grpc-status"), Some("0"));
    let seen = application.seen().pop().expect("a call");
    let (digits, unit) = seen
        .field("grpc-timeout")
        .split_at(seen.field("grpc-timeout").len() - 1);
    let left = match unit {
        "m" => Duration::from_millis(digits.parse().unwrap()),
        "u" => Duration::from_micros(digits.parse().unwrap()),
        "n" => Duration::from_nanos(digits.parse().unwrap()),
        other => panic!("{digits}{other}"),
    };
    assert!(
        left <= Duration::from_millis(500),
        "the policy allows less than the caller: {left:?}"
    );
    assert_eq!(seen.field("weft-timeout"), "");
    application.will(Does::Hang);
    let answer = call("100m").await;
    assert_eq!(
        (answer.status.as_u16(), answer.field("grpc-status")),
        (200, Some("4"))
    );
}

#[tokio::test]
async fn a_replica_that_fails_is_ejected_and_comes_back_when_it_is_well() {
    let spec = "loadBalancing: {algorithm: RoundRobin}, retries: {retryOn: [GatewayError], attempts: 2, backoff: {base: 1ms, max: 1ms}}, outlierEjection: {consecutiveFailures: 3, time: {base: 1s, max: 1s}}";
    let mut replicas = Replicas::start(3, spec).await;
    replicas.applications[0].will(Does::Answer(503));
    let ejected = async |replicas: &mut Replicas| {
        let snapshot = replicas.mesh.sidecar("client-0").json("/snapshot").await;
        let backends = snapshot["backends"].as_array().expect("backends").clone();
        let web = backends
            .iter()
            .find(|backend| backend["name"] == "default/web")
            .expect("web")
            .clone();
        web["endpoints"]
            .as_array()
            .expect("endpoints")
            .iter()
            .any(|endpoint| endpoint["standing"] != "eligible")
    };
    while !ejected(&mut replicas).await {
        assert_eq!(replicas.get().await.status, StatusCode::OK);
    }
    let before = replicas.applications[0].count();
    for _ in 0..50 {
        assert_eq!(replicas.get().await.status, StatusCode::OK);
    }
    let after = replicas.applications[0].count();
    // A probe may have fallen into this, on a slow machine several.
    assert!(after - before <= 5, "{before} {after}");
    replicas.applications[0].will(Does::Answer(200));
    eventually("its return", async || replicas.get().await.text() == "web-0").await;
    eventually("the end of its ejection", async || !ejected(&mut replicas).await).await;
}

#[tokio::test]
async fn beyond_a_limit_the_answer_is_at_once_and_says_so() {
    let spec = "limits: {requests: 2, queue: {length: 1, timeout: 60s}}";
    let replicas = Replicas::start(1, spec).await;
    replicas.applications[0].will(Does::Hang);
    let mut held = JoinSet::new();
    let address = replicas.mesh.outbound();
    for _ in 0..3 {
        held.spawn(async move { get(address, "web", "/").await });
    }
    eventually("requests in flight", async || {
        replicas.applications[0].count() == 2
    })
    .await;
    // The third waits; nobody tells when it does.
    let mut answer = replicas.get().await;
    while reason(&answer).1 != Some("queue_full") {
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
        answer = replicas.get().await;
    }
    assert_eq!(
        (answer.status.as_u16(), answer.field("retry-after")),
        (503, Some("1"))
    );
    assert_eq!(replicas.applications[0].count(), 2);
    // Whoever gives up makes room for the one that waits.
    replicas.applications[0].will(Does::Answer(200));
    held.abort_all();
    while held.join_next().await.is_some() {}
    eventually("room", async || replicas.get().await.status == StatusCode::OK).await;
}

#[tokio::test]
async fn a_caller_gets_so_many_requests_a_time_and_is_told_when_the_next_may_come() {
    let spec = "limits: {rates: [{requests: 2, per: 1h, by: Caller}]}, retries: {retryOn: [ServerError], codes: [429], attempts: 3}";
    let mut replicas = Replicas::start(1, spec).await;
    for _ in 0..2 {
        assert_eq!(replicas.get().await.status, StatusCode::OK);
    }
    let answer = replicas.get().await;
    assert_eq!(reason(&answer), (429, Some("rate_limited")));
    let after: u64 = answer.field("retry-after").expect("a time").parse().unwrap();
    assert!((1_700..=1_800).contains(&after), "{after}");
    assert_eq!(
        replicas.applications[0].count(),
        2,
        "what the mesh refuses is not sent again"
    );
    let line = replicas
        .mesh
        .sidecar("web-0")
        .access(&[("reason", "rate_limited")])
        .await;
    assert_eq!(line["status"], 429);
}

#[tokio::test]
async fn faults_are_made_for_whoever_asks_for_them() {
    let spec = "faults: [{headers: [{name: x-fault, value: abort}], abort: {status: 418, percent: 100}}, {headers: [{name: x-fault, value: delay}], delay: {duration: 300ms, percent: 100}}, {headers: [{name: x-fault, value: late}], delay: {duration: 1h, percent: 100}}], timeouts: {request: 5s}";
    let replicas = Replicas::start(1, spec).await;
    let with = async |fault: &str| {
        let request = Request::get("/").header("host", "web").header("x-fault", fault);
        Connection::http1(replicas.mesh.outbound())
            .await
            .send(request.body(empty()).unwrap())
            .await
    };
    assert_eq!(reason(&with("abort").await), (418, Some("fault_injected")));
    assert_eq!(replicas.applications[0].count(), 0);
    let begun = Instant::now();
    assert_eq!(with("delay").await.status, StatusCode::OK);
    assert!(begun.elapsed() >= Duration::from_millis(300));
    assert_eq!(with("none").await.status, StatusCode::OK);
    assert_eq!(reason(&with("late").await), (504, Some("request_timeout")));
    assert_eq!(
        replicas.applications[0].count(),
        2,
        "it took all the time that the request had"
    );
}

#[tokio::test]
async fn a_second_try_beside_a_slow_first_one_answers() {
    let spec = "retries: {hedging: {after: 50ms, max: 1}, budget: {minPerSecond: 1000}}";
    let replicas = Replicas::start(2, spec).await;
    replicas.applications[0].will(Does::Hang);
    let mut hedged = 0;
    for number in 0..10 {
        let id = format!("get {number}");
        assert_eq!(replicas.send(Method::GET, &id).await.text(), "web-1");
        hedged += usize::from(replicas.came(&id) == 2);
    }
    assert!(hedged > 0, "the hanging one was never asked");
    // What may not be done twice is never beside itself.
    replicas.applications[0].will(Does::Wait(Duration::from_millis(200)));
    for number in 0..10 {
        let id = format!("post {number}");
        assert_eq!(replicas.send(Method::POST, &id).await.status, StatusCode::OK);
        assert_eq!(replicas.came(&id), 1, "{id}");
    }
}

#[tokio::test]
async fn the_same_key_leads_to_the_same_replica_and_a_subset_to_those_of_its_labels() {
    let spec = "loadBalancing: {algorithm: ConsistentHash, consistentHash: {header: x-user}}";
    let mut replicas = Replicas::start(3, spec).await;
    let of_user = async |user: usize| {
        let request = Request::get("/").header("host", "web").header("x-user", user);
        let mut connection = Connection::http1(replicas.mesh.outbound()).await;
        connection
            .send(request.body(empty()).unwrap())
            .await
            .text()
            .to_owned()
    };
    let mut servers = HashSet::new();
    for user in 0..20 {
        let server = of_user(user).await;
        for _ in 0..3 {
            assert_eq!(of_user(user).await, server, "user {user}");
        }
        servers.insert(server);
    }
    assert_eq!(servers.len(), 3);
    replicas.mesh.documents = policy("loadBalancing: {algorithm: RoundRobin, subset: {shard: \"1\"}}");
    replicas.mesh.publish();
    eventually("the subset", async || {
        let mut servers = HashSet::new();
        for _ in 0..6 {
            servers.insert(replicas.get().await.text().to_owned());
        }
        servers == HashSet::from(["web-1".to_owned()])
    })
    .await;
}

#[tokio::test]
async fn connections_of_applications_have_a_limit_of_their_own() {
    let replicas = Replicas::start(1, "limits: {connections: 1}").await;
    tokio::spawn(weft_lab::services::tcp::echo(
        replicas.mesh.named("web-0").listen(port::TCP).await,
    ));
    let open = async || {
        let mut stream = TcpStream::connect(replicas.mesh.bind(port::BIND_TCP))
            .await
            .expect("connect");
        stream.write_all(b"x").await?;
        let mut answer = [0];
        stream.read_exact(&mut answer).await.map(|_| stream)
    };
    let first = soon("the first", open()).await.expect("a tunnel");
    app::assert_refused(soon("the second", open()).await.map(drop));
    drop(first);
    eventually("room", async || open().await.is_ok()).await;
}
