//! The proxy's side against a controller in the same process, over real TCP and TLS.

mod fake;

use std::{os::unix::fs::PermissionsExt, path::Path, sync::Arc};

use bytes::Bytes;
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::json;
use tokio::sync::oneshot;
use weft_proto::{Source, mesh::v1::proxy_message};
use zeroize::Zeroizing;

use self::fake::{Authority, Connected, Fake, PATIENCE};
use super::*;
use crate::{
    admin::Workers,
    config::Join,
    control::keeper::{Keeper, Kept},
    demand::Demand,
    health::Health,
    log::Log,
    snapshot::{NoRoute, Upstream},
};

/// One proxy's control plane, without anything that carries traffic. It ends with this.
struct Proxy {
    credentials: watch::Receiver<Arc<Credentials>>,
    rotation: watch::Receiver<RotationState>,
    snapshots: oneshot::Receiver<watch::Receiver<Arc<Snapshot>>>,
    told: watch::Sender<Told>,
    state: watch::Receiver<ControlState>,
    ask: mpsc::Sender<Ask>,
    tasks: Vec<tokio::task::AbortHandle>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.tasks.iter().for_each(tokio::task::AbortHandle::abort);
    }
}

fn config(addresses: &[String], state: &Path) -> Config {
    let text = json!({
        "workload": { "name": "web-0", "serviceAccount": "web", "labels": { "app": "web" } },
        "controller": { "address": addresses },
        "application": { "ports": [{ "name": "http", "port": 8080 }] },
        "state": state,
    });
    Config::parse(&Source::new("a test", text.to_string()), Path::new("")).unwrap()
}

/// Asks for a certificate: what is seen of it, and its task.
fn keeper(config: &Config, token: Option<&str>, cache: &Cache) -> (Kept, tokio::task::AbortHandle) {
    let mut controller = config.controller().unwrap().clone();
    controller.join = token.map(|token| Join::Token(Zeroizing::new(token.to_owned())));
    let (keeper, kept) = Keeper::new(&config.workload, &controller, None, Some(cache.clone()), "one");
    (kept, tokio::spawn(keeper.run()).abort_handle())
}

impl Proxy {
    async fn start(fake: &Fake, state: &Path, token: Option<&str>) -> Self {
        let config = Arc::new(config(&[fake.address.to_string()], state));
        let cache = Cache::open(state).unwrap();
        let (kept, keeper) = keeper(&config, token, &cache);
        let credentials = within(kept.first).await.unwrap();
        let (publisher, snapshots) = Publisher::new(config.clone());
        let (ask, asks) = mpsc::channel(16);
        let (told, told_seen) = watch::channel(Told {
            phase: Phase::Serving,
            health: Health::Ready,
            traffic: Arc::default(),
        });
        let (state, state_seen) = watch::channel(ControlState::default());
        let control = Control::new(Start {
            controller: config.controller().unwrap().clone(),
            config,
            instance: "one".to_owned(),
            mesh_port: Some(15_008),
            publisher,
            credentials: credentials.clone(),
            rotation: kept.state.clone(),
            keeper: kept.inputs,
            asks,
            told: told_seen,
            sources: Sources {
                snapshot: Arc::new(|| json!({ "generation": 7 })),
                workers: Workers::new(0).0,
                explainer: crate::explain::testing::without_snapshot(),
                log: Log::detached(),
                access_log: None,
            },
            cache: Some(cache),
            state,
        });
        let control = tokio::spawn(control.run()).abort_handle();
        Self {
            credentials,
            rotation: kept.state,
            snapshots,
            told,
            state: state_seen,
            ask,
            tasks: vec![keeper, control],
        }
    }

    /// The snapshots, once there are any, and the way to ask for more.
    async fn serving(&mut self) -> (watch::Receiver<Arc<Snapshot>>, Demand) {
        let snapshots = within(&mut self.snapshots).await.unwrap();
        let demand = Demand::new(self.ask.clone(), snapshots.clone());
        (snapshots, demand)
    }

    /// Its application calls the service `web`: until somebody asked for it, a service that is held may not be called.
    async fn asks_for_web(&self, stream: &mut Connected) {
        let (answer, _) = oneshot::channel();
        let web = Subject::name("web.default".to_owned()).unwrap();
        self.ask.send((web, answer)).await.unwrap();
        assert_eq!(stream.subscribe().await.names, ["web.default"]);
    }

    async fn wait_for(&mut self, wanted: impl FnMut(&ControlState) -> bool) -> ControlState {
        within(self.state.wait_for(wanted)).await.unwrap().clone()
    }
}

/// The answer to who asked for the service `web`.
fn with_web(mut update: mesh::Update) -> mesh::Update {
    update.known = vec!["web.default".to_owned()];
    update
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future)
        .await
        .expect("it happens in time")
}

const HEARTBEAT: Duration = Duration::from_secs(5);
const CONFIG: &str = r#"{"apiVersion":"weft.dev/v1alpha1","kind":"MeshConfig","metadata":{"name":"mesh"},"spec":{"trustDomain":"mesh.test","meshRanges":["10.0.0.0/16"],"serviceRanges":["10.96.0.0/16"]}}"#;

fn resource(kind: &str, name: &str, version: u64, document: &str) -> mesh::Resource {
    mesh::Resource {
        key: Some(mesh::ResourceKey {
            kind: kind.to_owned(),
            namespace: if kind == "MeshConfig" {
                String::new()
            } else {
                "default".to_owned()
            },
            name: name.to_owned(),
        }),
        version,
        document: Bytes::copy_from_slice(document.as_bytes()),
        ..mesh::Resource::default()
    }
}

fn service(name: &str, version: u64, last: u8) -> mesh::Resource {
    let document = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": name, "namespace": "default" },
        "spec": { "clusterIP": format!("10.96.0.{last}"), "selector": { "app": name }, "ports": [{ "port": 80 }] },
    });
    resource("Service", name, version, &document.to_string())
}

fn workload(name: &str, version: u64, last: u8) -> mesh::Resource {
    let document = json!({
        "apiVersion": "weft.dev/v1alpha1", "kind": "Workload",
        "metadata": { "name": format!("{name}-0"), "namespace": "default", "labels": { "app": name } },
        "spec": {
            "address": format!("10.0.0.{last}"), "meshPort": 15008, "serviceAccount": name,
            "ports": [{ "port": 80 }],
        },
    });
    let mut resource = resource("Workload", &format!("{name}-0"), version, &document.to_string());
    resource.set_readiness(mesh::Readiness::Ready);
    resource
}

fn first() -> mesh::Update {
    mesh::Update {
        is_whole: true,
        changed: vec![resource("MeshConfig", "mesh", 1, CONFIG)],
        revision: 1,
        ..mesh::Update::default()
    }
}

fn update(changed: Vec<mesh::Resource>) -> mesh::Update {
    mesh::Update {
        changed,
        ..mesh::Update::default()
    }
}

/// A proxy that has joined, and has its first configuration.
async fn joined(fake: &mut Fake, state: &Path) -> (Proxy, Connected) {
    let token = fake.authority.token();
    let proxy = Proxy::start(fake, state, Some(&token)).await;
    let mut stream = fake.stream().await;
    stream.welcome("a", HEARTBEAT);
    stream.update(first()).await.unwrap();
    (proxy, stream)
}

/// A directory with room for a state directory in it.
fn state() -> (tempfile::TempDir, std::path::PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state");
    (directory, state)
}

fn address(text: &str) -> std::net::SocketAddr {
    text.parse().unwrap()
}

#[tokio::test]
async fn a_token_makes_an_identity_and_a_stream_of_that_identity() {
    let mut fake = Fake::start().await;
    let (_directory, state) = state();
    let (mut proxy, stream) = joined(&mut fake, &state).await;
    within(proxy.rotation.wait_for(|rotation| rotation.is_kept))
        .await
        .unwrap();
    assert_eq!(
        proxy.credentials.borrow().svid().id().as_str(),
        "spiffe://mesh.test/ns/default/sa/web"
    );
    {
        let signing = fake.signing.lock().unwrap();
        assert_eq!(signing.joins.len(), 1);
        assert_eq!(signing.joins[0].token, fake.authority.token());
        assert_eq!(signing.joins[0].holder.as_ref().unwrap().workload, "web-0");
    }
    let registration = stream.hello.registration.unwrap();
    let document: serde_json::Value = serde_json::from_slice(&registration.document).unwrap();
    assert_eq!(
        document["spec"]["address"], "127.0.0.1",
        "where the connection comes from"
    );
    assert_eq!(document["spec"]["meshPort"], 15_008);
    assert_eq!(
        document["metadata"],
        json!({ "name": "web-0", "labels": { "app": "web" } })
    );
    assert_eq!(
        document["spec"]["ports"],
        json!([{ "name": "http", "port": 8080 }])
    );
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&state), mode(&state.join("identity"))), (0o700, 0o600));
    let shown = format!("{:?}", proxy.rotation.borrow());
    assert!(!shown.contains("weft1."), "{shown}");
}

#[tokio::test]
async fn a_controller_with_another_root_is_told_nothing() {
    let fake = Fake::start().await;
    let (_directory, state) = state();
    let config = config(&[fake.address.to_string()], &state);
    let token = Authority::new().token();
    let (mut kept, _task) = keeper(&config, Some(&token), &Cache::open(&state).unwrap());
    let failing = within(kept.state.wait_for(|state| state.failing.is_some()))
        .await
        .unwrap()
        .clone();
    let (_, _, why) = failing.failing.unwrap();
    assert!(why.contains("certificate is refused"), "{why}");
    assert!(
        fake.signing.lock().unwrap().joins.is_empty(),
        "the token has left the proxy"
    );
    assert!(kept.first.try_recv().is_err());
}

#[tokio::test]
async fn a_token_of_another_identity_and_no_token_say_so() {
    let fake = Fake::start().await;
    fake.signing.lock().unwrap().account = "default/other".to_owned();
    let (_directory, state) = state();
    let config = config(&[fake.address.to_string()], &state);
    let cache = Cache::open(&state).unwrap();
    for (token, wanted) in [
        (Some(fake.authority.token()), "the token is another's"),
        (None, "a join token is needed"),
    ] {
        let (mut kept, _task) = keeper(&config, token.as_deref(), &cache);
        let state = within(kept.state.wait_for(|state| state.failing.is_some()))
            .await
            .unwrap()
            .clone();
        let (_, _, why) = state.failing.unwrap();
        assert!(why.contains(wanted), "{why}");
    }
}

#[tokio::test]
async fn a_certificate_is_renewed_through_failures_with_a_new_key_and_stays_until_then() {
    let fake = Fake::start().await;
    {
        let mut signing = fake.signing.lock().unwrap();
        signing.lifetime = Duration::from_secs(60);
        signing.failures = 1;
    }
    let (_directory, state) = state();
    let config = config(&["127.0.0.1:1".to_owned(), fake.address.to_string()], &state);
    let token = fake.authority.token();
    let (kept, _task) = keeper(&config, Some(&token), &Cache::open(&state).unwrap());
    let mut credentials = within(kept.first).await.unwrap();
    let first = credentials.borrow_and_update().svid().chain()[0].clone();
    kept.inputs
        .send(keeper::Input::RenewSoon(Duration::ZERO))
        .await
        .unwrap();
    let mut rotation = kept.state;
    let failing = within(rotation.wait_for(|state| state.failing.is_some() && state.is_valid))
        .await
        .unwrap()
        .clone();
    assert!(failing.not_after.is_some());
    fake.signing.lock().unwrap().lifetime = Duration::from_secs(3600);
    within(credentials.changed()).await.unwrap();
    assert_ne!(credentials.borrow().svid().chain()[0], first);
    within(rotation.wait_for(|state| state.failing.is_none() && state.is_valid))
        .await
        .unwrap();
    let signing = fake.signing.lock().unwrap();
    assert_eq!(
        (signing.joins.len(), signing.renewals, signing.failures),
        (1, 2, 0)
    );
    assert_ne!(signing.csrs[0], signing.csrs[1], "one key each");
}

#[tokio::test]
async fn a_renewal_that_is_asked_for_and_new_roots_are_taken() {
    let mut fake = Fake::start().await;
    let (_directory, state) = state();
    let (mut proxy, mut stream) = joined(&mut fake, &state).await;
    proxy.credentials.borrow_and_update();
    stream.send(controller_message::Message::Renew(mesh::RenewSoon {
        within_ms: 50,
        trust_version: 1,
    }));
    within(proxy.credentials.changed()).await.unwrap();
    assert_eq!(fake.signing.lock().unwrap().renewals, 1);
    proxy.credentials.borrow_and_update();
    let roots = vec![
        fake.authority.root().to_vec().into(),
        Authority::new().root().to_vec().into(),
    ];
    let bundle = mesh::TrustBundle {
        version: 2,
        trust_domain: "mesh.test".to_owned(),
        roots,
    };
    stream.send(controller_message::Message::Trust(mesh::TrustUpdate {
        bundle: Some(bundle.clone()),
    }));
    within(proxy.credentials.changed()).await.unwrap();
    assert_eq!(proxy.credentials.borrow_and_update().bundle().roots().len(), 2);
    let report = stream
        .next(|message| match message {
            proxy_message::Message::Report(report) if report.trust_version == 2 => Some(report),
            _ => None,
        })
        .await;
    assert_eq!(report.certificate_root.len(), 32);
    // Versions of a bundle never go back.
    let old = mesh::TrustBundle {
        version: 1,
        roots: vec![fake.authority.root().to_vec().into()],
        ..bundle
    };
    stream.send(controller_message::Message::Trust(mesh::TrustUpdate {
        bundle: Some(old),
    }));
    stream.update(update(vec![service("web", 2, 1)])).await.unwrap();
    assert_eq!(proxy.credentials.borrow().bundle().roots().len(), 2);
}

/// Changes an update so that it is hardly one any more.
fn mutate(update: &mut mesh::Update, rng: &mut StdRng) {
    let index = rng.random_range(0..update.changed.len());
    let resource = &mut update.changed[index];
    match rng.random_range(0..6) {
        0..3 => {
            let mut bytes = resource.document.to_vec();
            let at = rng.random_range(0..bytes.len());
            bytes[at] = rng.random();
            resource.document = bytes.into();
        }
        3 => resource
            .document
            .truncate(rng.random_range(0..resource.document.len())),
        4 => resource.requires = vec!["magic".to_owned()],
        _ => resource.key = None,
    }
}

#[tokio::test]
async fn bad_updates_are_refused_with_reasons_and_change_nothing() {
    let mut fake = Fake::start().await;
    let (_directory, state) = state();
    let (mut proxy, mut stream) = joined(&mut fake, &state).await;
    proxy.asks_for_web(&mut stream).await;
    let good = with_web(update(vec![workload("web", 3, 1), service("web", 3, 1)]));
    stream.update(good.clone()).await.unwrap();
    let (snapshots, _) = proxy.serving().await;
    let mut rng = StdRng::seed_from_u64(300);
    let (mut refused, mut version) = (0, 4);
    for round in 0..300 {
        let before = snapshots.borrow().generation;
        let mut mutated = good.clone();
        mutated
            .changed
            .iter_mut()
            .for_each(|resource| resource.version = version);
        mutate(&mut mutated, &mut rng);
        match stream.update(mutated).await {
            Ok(()) => version += 1,
            Err(problems) => {
                refused += 1;
                assert!(
                    problems.iter().all(|problem| !problem.message.is_empty()),
                    "{round}"
                );
                assert_eq!(snapshots.borrow().generation, before, "{round}");
                let state = proxy.wait_for(|state| !state.problems.is_empty()).await;
                assert!(state.controller.is_some());
            }
        }
        let mut good = good.clone();
        good.changed
            .iter_mut()
            .for_each(|resource| resource.version = version);
        stream.update(good).await.unwrap();
        version += 1;
        let snapshot = snapshots.borrow().clone();
        assert!(
            matches!(snapshot.by_host("web", None), Ok(Upstream::Mesh(_))),
            "{round}"
        );
    }
    assert!(refused > 200, "{refused} of 300: the others prove nothing");
}

#[tokio::test]
async fn a_name_is_asked_for_at_its_first_use_and_once() {
    let mut fake = Fake::start().await;
    let (_directory, state) = state();
    let (mut proxy, mut stream) = joined(&mut fake, &state).await;
    let (_, demand) = proxy.serving().await;
    let db = || demand.ask(Subject::name("db.default".to_owned()).unwrap());
    let asked = async {
        let subscribe = stream.subscribe().await;
        assert_eq!(subscribe.names, ["db.default"]);
        let mut answer = update(vec![workload("db", 2, 2), service("db", 2, 2)]);
        answer.known = vec!["db.default".to_owned()];
        stream.update(answer).await.unwrap();
    };
    let (one, two, ()) = within(futures_util::future::join3(db(), db(), asked)).await;
    for snapshot in [one.unwrap(), two.unwrap()] {
        assert!(matches!(snapshot.by_host("db", Some(80)), Ok(Upstream::Mesh(_))));
    }
    // One that is nothing, and becomes something.
    let ghost = || demand.ask(Subject::Address("10.96.0.9".parse().unwrap()));
    let answer = async {
        let subscribe = stream.subscribe().await;
        assert_eq!(subscribe.addresses, ["10.96.0.9"], "the name was asked for once");
        let answer = mesh::Update {
            unknown: vec!["10.96.0.9".to_owned()],
            ..mesh::Update::default()
        };
        stream.update(answer).await.unwrap();
    };
    let (nothing, ()) = within(futures_util::future::join(ghost(), answer)).await;
    assert_eq!(nothing.err(), Some(NoRoute::UnknownInMesh));
    assert_eq!(within(ghost()).await.err(), Some(NoRoute::UnknownInMesh));
    let mut later = update(vec![service("ghost", 4, 9)]);
    later.known = vec!["10.96.0.9".to_owned()];
    stream.update(later).await.unwrap();
    let snapshot = within(ghost()).await.unwrap();
    assert!(matches!(
        snapshot.by_address(address("10.96.0.9:80")),
        Ok(Upstream::Mesh(_))
    ));
}

#[tokio::test]
async fn a_restart_without_the_controller_goes_on_with_what_was_kept() {
    let mut fake = Fake::start().await;
    let (_directory, state) = state();
    let (mut proxy, mut stream) = joined(&mut fake, &state).await;
    let (_, demand) = proxy.serving().await;
    let web = demand.ask(Subject::name("web.default".to_owned()).unwrap());
    let answer = async {
        stream.subscribe().await;
        let mut answer = update(vec![workload("web", 2, 1), service("web", 2, 1)]);
        answer.known = vec!["web.default".to_owned()];
        stream.update(answer).await.unwrap();
    };
    within(futures_util::future::join(web, answer)).await.0.unwrap();
    proxy
        .wait_for(|state| state.kept.is_some_and(|(_, resources)| resources == 3))
        .await;
    within(proxy.rotation.wait_for(|rotation| rotation.is_kept))
        .await
        .unwrap();
    drop(proxy);
    fake.freeze(true);
    let mut again = Proxy::start(&fake, &state, None).await;
    assert_eq!(
        fake.signing.lock().unwrap().joins.len(),
        1,
        "the token is used once"
    );
    let (snapshots, demand) = again.serving().await;
    let snapshot = snapshots.borrow().clone();
    assert!(matches!(snapshot.by_host("web", None), Ok(Upstream::Mesh(_))));
    assert!(
        again
            .wait_for(|state| state.cached.is_some())
            .await
            .cached
            .is_some()
    );
    let unknown = demand.ask(Subject::name("other.default".to_owned()).unwrap());
    assert_eq!(within(unknown).await.err(), Some(NoRoute::ControllerUnavailable));
    // Once it is back it hears what is held and asked for, and the cache is not what is in use any more.
    fake.freeze(false);
    let mut stream = fake.stream().await;
    assert_eq!(stream.hello.held.len(), 3);
    let mut names = stream.hello.subscribe.clone().unwrap().names;
    names.sort_unstable();
    assert_eq!(names, ["other.default", "web.default"]);
    stream.welcome("a", HEARTBEAT);
    stream.update(update(Vec::new())).await.unwrap();
    again
        .wait_for(|state| state.cached.is_none() && state.controller.is_some())
        .await;
}

#[tokio::test]
async fn a_controller_that_hangs_is_noticed_and_everything_goes_on() {
    let mut fake = Fake::start().await;
    let (_directory, state) = state();
    let token = fake.authority.token();
    let mut proxy = Proxy::start(&fake, &state, Some(&token)).await;
    let mut stream = fake.stream().await;
    stream.welcome("a", Duration::from_millis(100));
    stream.update(first()).await.unwrap();
    proxy.asks_for_web(&mut stream).await;
    stream
        .update(with_web(update(vec![
            workload("web", 2, 1),
            service("web", 2, 1),
        ])))
        .await
        .unwrap();
    let frozen = Instant::now();
    fake.freeze(true);
    let state = proxy.wait_for(|state| state.lost.is_some()).await;
    assert!(
        frozen.elapsed() < Duration::from_secs(2),
        "{:?}",
        frozen.elapsed()
    );
    let (_, why) = state.lost.unwrap();
    assert!(why.contains("silent"), "{why}");
    let (snapshots, _) = proxy.serving().await;
    let snapshot = snapshots.borrow().clone();
    assert!(matches!(snapshot.by_host("web", None), Ok(Upstream::Mesh(_))));
    fake.freeze(false);
    let stream = fake.stream().await;
    assert_eq!(stream.hello.held.len(), 3, "only what changed has to be sent");
    stream.welcome("a", HEARTBEAT);
    proxy.wait_for(|state| state.lost.is_none()).await;
}

#[tokio::test]
async fn what_differs_is_asked_for_again() {
    let mut fake = Fake::start().await;
    let (_directory, state) = state();
    let (_proxy, mut stream) = joined(&mut fake, &state).await;
    let heartbeat = mesh::Heartbeat {
        digest: Bytes::from_static(&[1; 16]),
    };
    stream.send(controller_message::Message::Heartbeat(heartbeat));
    stream
        .next(|message| matches!(message, proxy_message::Message::Resync(_)).then_some(()))
        .await;
    let mut digest = weft_proto::wire::Digest::default();
    digest.add("MeshConfig mesh", 1);
    let heartbeat = mesh::Heartbeat {
        digest: Bytes::copy_from_slice(&digest.to_bytes()),
    };
    stream.send(controller_message::Message::Heartbeat(heartbeat));
    stream.update(update(Vec::new())).await.unwrap();
}

#[tokio::test]
async fn questions_are_answered_on_the_stream() {
    let mut fake = Fake::start().await;
    let (_directory, state) = state();
    let (_proxy, mut stream) = joined(&mut fake, &state).await;
    let question = Some(mesh::question::Question::Snapshot(mesh::Ask {}));
    stream.send(controller_message::Message::Question(mesh::Question {
        id: 9,
        question,
        timeout_ms: 1_000,
    }));
    let answer = stream
        .next(|message| match message {
            proxy_message::Message::Answer(answer) => Some(answer),
            _ => None,
        })
        .await;
    assert!(answer.id == 9 && answer.is_last);
    assert_eq!(
        answer.answer,
        Some(mesh::answer::Answer::Part(Bytes::from(
            "{\n  \"generation\": 7\n}\n"
        )))
    );
}

#[tokio::test]
async fn the_end_is_told_and_the_controllers_word_that_others_know_is_heard() {
    let mut fake = Fake::start().await;
    let (_directory, state) = state();
    let (mut proxy, mut stream) = joined(&mut fake, &state).await;
    stream.update(update(vec![workload("web", 2, 1)])).await.unwrap();
    proxy.told.send_modify(|told| told.phase = Phase::Draining);
    stream
        .next(|message| match message {
            proxy_message::Message::Report(report) => {
                (report.readiness() == mesh::Readiness::Draining).then_some(())
            }
            _ => None,
        })
        .await;
    assert!(!proxy.state.borrow().known_draining);
    let mut draining = workload("web", 3, 1);
    draining.set_readiness(mesh::Readiness::Draining);
    stream.update(update(vec![draining])).await.unwrap();
    proxy.wait_for(|state| state.known_draining).await;
}

#[tokio::test]
async fn an_endpoint_that_is_not_ready_is_reached_by_its_own_address_alone() {
    let mut fake = Fake::start().await;
    let (_directory, state) = state();
    let (mut proxy, mut stream) = joined(&mut fake, &state).await;
    proxy.asks_for_web(&mut stream).await;
    let (snapshots, _) = proxy.serving().await;
    for (version, readiness, endpoints) in [
        (2, mesh::Readiness::NotReady, 0),
        (3, mesh::Readiness::Ready, 1),
        (4, mesh::Readiness::Draining, 0),
    ] {
        let mut workload = workload("web", version, 1);
        workload.set_readiness(readiness);
        stream
            .update(with_web(update(vec![workload, service("web", version, 1)])))
            .await
            .unwrap();
        let snapshot = snapshots.borrow().clone();
        let Ok(Upstream::Mesh(service)) = snapshot.by_host("web", None) else {
            panic!("{readiness:?}")
        };
        assert_eq!(
            (service.backend.endpoints.len(), service.backend.unready),
            (endpoints, 1 - endpoints),
            "{readiness:?}"
        );
        let Ok(Upstream::Mesh(own)) = snapshot.by_address(address("10.0.0.1:80")) else {
            panic!("{readiness:?}")
        };
        assert_eq!(own.backend.endpoints.len(), 1, "{readiness:?}");
    }
}

#[tokio::test]
async fn a_declared_host_outside_is_reached_where_egress_is_denied() {
    let mut fake = Fake::start().await;
    let (_directory, state) = state();
    let (mut proxy, mut stream) = joined(&mut fake, &state).await;
    let (snapshots, _) = proxy.serving().await;
    let document = json!({
        "apiVersion": "weft.dev/v1alpha1", "kind": "ExternalService",
        "metadata": { "name": "api", "namespace": "default" },
        "spec": {
            "hosts": ["api.example.com"], "ports": [{ "port": 443 }], "resolution": "static",
            "endpoints": ["192.0.2.7"],
        },
    });
    stream
        .update(update(vec![resource(
            "ExternalService",
            "api",
            2,
            &document.to_string(),
        )]))
        .await
        .unwrap();
    let snapshot = snapshots.borrow().clone();
    let outside = |route: Result<Upstream, NoRoute>| match route {
        Ok(Upstream::External(address)) => Ok(address),
        Ok(Upstream::Mesh(_)) => panic!("into the mesh"),
        Err(error) => Err(error),
    };
    assert_eq!(
        outside(snapshot.by_host("api.example.com", None)),
        Ok(address("192.0.2.7:443"))
    );
    assert_eq!(
        outside(snapshot.by_host("api.example.com", Some(80))),
        Err(NoRoute::UnknownPort)
    );
    assert_eq!(
        outside(snapshot.by_address(address("192.0.2.7:443"))),
        Ok(address("192.0.2.7:443"))
    );
    assert_eq!(
        outside(snapshot.by_address(address("192.0.2.7:80"))),
        Err(NoRoute::EgressDenied)
    );
    let dns = document
        .to_string()
        .replace(r#""resolution":"static""#, r#""resolution":"dns""#)
        .replace(r#""endpoints":["192.0.2.7"],"#, "");
    stream
        .update(update(vec![resource("ExternalService", "api", 3, &dns)]))
        .await
        .unwrap();
    let snapshot = snapshots.borrow().clone();
    assert_eq!(
        outside(snapshot.by_host("api.example.com", None)),
        Err(NoRoute::Unresolved)
    );
}
