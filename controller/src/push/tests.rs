use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::StreamExt;
use prost::Message as _;
use tokio::time::{Instant, advance};
use tonic::Code;
use weft_proto::{
    kinds::Kind,
    mesh::v1::{self as mesh, controller_message::Message, proxy_message},
};

use super::{
    Bundle, Options, RenewHint,
    admission::Limits,
    testing::{Peer, Setup, hello, registration},
};
use crate::world::{
    Change,
    testing::{config, key, remove, service, workload},
};

fn shop() -> Vec<Change> {
    vec![
        config(1),
        service("web", 1, "web"),
        service("api", 1, "api"),
        workload("web-0", 1, "web", "10.0.0.1"),
        workload("web-1", 1, "web", "10.0.0.2"),
        workload("api-0", 1, "api", "10.0.0.3"),
    ]
}

async fn with_shop() -> Setup {
    let setup = Setup::new(Options::default(), Vec::new());
    setup.publish(shop()).await;
    setup
}

#[tokio::test(start_paused = true)]
async fn a_proxy_has_what_it_asked_for_and_each_change_of_that_alone() {
    let setup = with_shop().await;
    let mut peer = Peer::connect(&setup.hub, hello("client", &["web", "gone"])).await;
    let first = peer.update().await;
    assert!(first.is_whole);
    assert_eq!(
        peer.holds(),
        [
            "Service shop/web",
            "Workload shop/web-0",
            "Workload shop/web-1",
            "MeshConfig mesh"
        ]
    );
    assert!(peer.unknown.contains("gone") && first.known == ["web"]);

    setup.publish(vec![workload("api-0", 2, "api", "10.0.0.3")]).await;
    setup.publish(vec![workload("web-1", 2, "web", "10.0.0.2")]).await;
    let change = peer.update().await;
    assert_eq!(
        (change.changed.len(), change.removed.len(), change.is_whole),
        (1, 0, false)
    );
    assert!(change.encoded_len() < 1024);

    setup
        .publish(vec![
            remove(key(Kind::Workload, "web-0")),
            service("gone", 3, "api"),
        ])
        .await;
    let change = peer.update().await;
    assert_eq!(change.known, ["gone"]);
    assert_eq!(
        peer.holds(),
        [
            "Service shop/gone",
            "Service shop/web",
            "Workload shop/api-0",
            "Workload shop/web-1",
            "MeshConfig mesh"
        ]
    );
    assert!(peer.unknown.is_empty());
}

#[tokio::test(start_paused = true)]
async fn one_update_is_under_way_and_the_newest_wins() {
    let setup = with_shop().await;
    let mut peer = Peer::connect(&setup.hub, hello("client", &["web"])).await;
    let first = peer.unacked().await;
    for version in 2..100 {
        setup
            .publish(vec![workload("web-0", version, "web", "10.0.0.1")])
            .await;
    }
    let status = setup.status("client").await;
    assert_eq!((status.acked_revision, status.is_current), (0, false));
    peer.take(&first);
    let second = peer.update().await;
    assert_eq!((second.changed.len(), second.changed[0].version), (1, 99));
    setup.until_current("client").await;
    // What does not concern it, it is not behind with.
    setup.publish(vec![workload("api-0", 2, "api", "10.0.0.3")]).await;
    setup
        .publish(vec![workload("web-0", 100, "web", "10.0.0.1")])
        .await;
    let third = peer.unacked().await;
    let status = setup.status("client").await;
    assert_eq!(
        (status.acked_revision, status.is_current),
        (third.revision - 1, false)
    );
    peer.take(&third);
    peer.ask_for(&["web"]);
    let answer = peer.update().await;
    assert_eq!(
        (answer.changed.len(), answer.known),
        (0, vec!["web".to_owned()]),
        "asked again, answered again"
    );
}

#[tokio::test(start_paused = true)]
async fn nobody_is_sent_anything_before_the_world_was_read() {
    let setup = Setup::new(Options::default(), Vec::new());
    let mut before = hello("client", &["web"]);
    let held = |kind: Kind, name: &str| mesh::Held {
        key: Some(crate::world::key_message(&key(kind, name))),
        version: 1,
    };
    before.held = vec![
        held(Kind::MeshConfig, "mesh"),
        held(Kind::Service, "web"),
        held(Kind::Service, "old"),
    ];
    let mut peer = Peer::connect(&setup.hub, before).await;
    assert!(matches!(peer.next().await, Some(Ok(Message::Welcome(_)))));
    assert!(
        matches!(peer.next().await, Some(Ok(Message::Heartbeat(heartbeat))) if heartbeat.digest.is_empty())
    );
    setup.publish(shop()).await;
    // What it had is not sent again, and what is gone is removed.
    let update = peer.update().await;
    assert_eq!(
        (update.is_whole, update.changed.len(), update.removed.len()),
        (false, 2, 1)
    );
    assert_eq!(peer.holds().len(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_heartbeat_has_the_digest_and_a_difference_heals() {
    let setup = with_shop().await;
    let mut peer = Peer::connect(&setup.hub, hello("client", &["web"])).await;
    peer.update().await;
    let heartbeat = loop {
        if let Message::Heartbeat(heartbeat) = peer.next().await.unwrap().unwrap() {
            break heartbeat;
        }
    };
    assert_eq!(heartbeat.digest, peer.digest());
    peer.held.clear();
    peer.send(proxy_message::Message::Resync(mesh::Resync {}));
    let whole = peer.update().await;
    assert!(whole.is_whole && peer.held.len() == 4);
    peer.send(proxy_message::Message::Resync(mesh::Resync {}));
    assert!(
        matches!(peer.next().await, Some(Ok(Message::GoAway(_)))),
        "not all the time"
    );
    assert_eq!(peer.end().await.unwrap().code(), Code::Unavailable);
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_is_held_back_and_nothing_else_until_it_changes() {
    let setup = with_shop().await;
    let mut peer = Peer::connect(&setup.hub, hello("client", &["web"])).await;
    peer.update().await;
    setup
        .publish(vec![config(2), workload("web-0", 2, "web", "10.0.0.1")])
        .await;
    let refused = peer.unacked().await;
    let problem = mesh::Problem {
        document: "MeshConfig mesh".to_owned(),
        message: "spec.magic is not known".to_owned(),
        ..mesh::Problem::default()
    };
    let nack = mesh::Nack {
        nonce: refused.nonce,
        problems: vec![problem.clone()],
    };
    peer.send(proxy_message::Message::Nack(nack));
    let rest = peer.update().await;
    assert_eq!(rest.changed.len(), 1, "the endpoint alone");
    let status = setup.status("client").await;
    assert_eq!((status.nacked, status.is_current), (vec![problem], false));
    setup.publish(vec![workload("web-1", 3, "web", "10.0.0.2")]).await;
    assert_eq!(peer.update().await.changed.len(), 1);
    setup.publish(vec![config(4)]).await;
    let healed = peer.update().await;
    assert_eq!(healed.changed[0].version, 4);
    let status = setup.until_current("client").await;
    assert!(status.nacked.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_registered_workload_is_an_endpoint_until_its_grace_ends() {
    let setup = with_shop().await;
    let mut client = Peer::connect(&setup.hub, hello("client", &["web"])).await;
    client.update().await;
    let mut web = hello("web-9", &[]);
    web.registration = Some(registration("web-9", "web", "10.0.9.9"));
    let peer = Peer::connect(&setup.hub, web.clone()).await;
    assert_eq!(
        client.update().await.changed[0].key.as_ref().unwrap().name,
        "web-9"
    );
    let stored = setup.registrar.state.lock().unwrap().registered[&key(Kind::Workload, "web-9")].clone();
    let document: serde_json::Value = serde_json::from_slice(&stored.document).unwrap();
    assert_eq!(
        (
            &document["metadata"]["namespace"],
            &document["spec"]["serviceAccount"]
        ),
        (&"shop".into(), &"web".into())
    );

    // Heartbeats write nothing; what changes is passed on at once.
    let writes = setup.registrar.state.lock().unwrap().writes;
    peer.report(mesh::Readiness::Ready, 1);
    peer.report(mesh::Readiness::NotReady, 1);
    peer.report(mesh::Readiness::NotReady, 1);
    let update = client.update().await;
    assert_eq!(update.changed[0].readiness, i32::from(mesh::Readiness::NotReady));
    assert_eq!(setup.registrar.state.lock().unwrap().writes, writes + 1);

    // The stream is lost, and comes back in time.
    drop(peer);
    advance(Duration::from_secs(8)).await;
    let peer = Peer::connect(&setup.hub, web.clone()).await;
    assert_eq!(
        client.update().await.changed[0].readiness,
        i32::from(mesh::Readiness::Ready)
    );
    // It is lost, and does not.
    let lost = Instant::now();
    drop(peer);
    let update = client.update().await;
    assert_eq!(update.removed.len(), 1);
    let stayed = lost.elapsed();
    assert!(
        (Duration::from_secs(10)..Duration::from_secs(12)).contains(&stayed),
        "{stayed:?}"
    );
    assert_eq!(
        setup.status("web-9").await.state(),
        mesh::proxy_status::State::Gone
    );

    // One that drains and goes leaves at once.
    let peer = Peer::connect(&setup.hub, web).await;
    client.update().await;
    peer.report(mesh::Readiness::Draining, 1);
    assert_eq!(
        client.update().await.changed[0].readiness,
        i32::from(mesh::Readiness::Draining)
    );
    let closed = Instant::now();
    drop(peer);
    assert_eq!(client.update().await.removed.len(), 1);
    assert!(closed.elapsed() < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn a_name_is_its_identitys_and_the_newest_instance_wins() {
    let setup = with_shop().await;
    let mut web = hello("web-9", &[]);
    web.registration = Some(registration("web-9", "web", "10.0.9.9"));
    let mut first = Peer::connect(&setup.hub, web.clone()).await;
    first.update().await;
    let mut thief = Peer::connect_as(&setup.hub, "thief", web.clone()).await.unwrap();
    let refused = thief.end().await.unwrap();
    assert_eq!(refused.code(), Code::AlreadyExists);
    assert!(
        refused.message().contains("spiffe://mesh.test/ns/shop/sa/web"),
        "{refused}"
    );

    web.holder.as_mut().unwrap().instance = "2".to_owned();
    let mut second = Peer::connect(&setup.hub, web).await;
    second.update().await;
    assert_eq!(first.end().await.unwrap().code(), Code::Aborted);
    // The end of the first does not touch the second.
    drop(first);
    advance(Duration::from_secs(15)).await;
    assert_eq!(
        setup.status("web-9").await.state(),
        mesh::proxy_status::State::Connected
    );

    setup
        .registrar
        .state
        .lock()
        .unwrap()
        .taken
        .insert(key(Kind::Workload, "taken"));
    let mut taken = hello("taken", &[]);
    taken.registration = Some(registration("taken", "web", "10.0.9.8"));
    let mut taken = Peer::connect(&setup.hub, taken).await;
    let refused = taken.end().await.unwrap();
    assert_eq!(
        (refused.code(), refused.message()),
        (Code::FailedPrecondition, "Workload shop/taken is a document")
    );
    // It is nobody's after that.
    assert!(
        !setup
            .registrar
            .state
            .lock()
            .unwrap()
            .registered
            .contains_key(&key(Kind::Workload, "taken"))
    );
}

#[tokio::test(start_paused = true)]
async fn registrations_survive_a_restart_for_a_longer_grace() {
    let first = with_shop().await;
    let mut web = hello("web-9", &[]);
    web.registration = Some(registration("web-9", "web", "10.0.9.9"));
    let mut other = hello("web-8", &[]);
    other.registration = Some(registration("web-8", "web", "10.0.9.8"));
    let mut peers = Vec::new();
    for hello in [&web, &other] {
        let mut peer = Peer::connect(&first.hub, hello.clone()).await;
        while !peer.holds().iter().any(|held| held.starts_with("Workload")) {
            peer.update().await;
        }
        peers.push(peer);
    }
    first.hub.stop("it ends", Duration::from_secs(1)).await;
    assert_eq!(peers[0].end().await.unwrap().code(), Code::Unavailable);
    let before = first.registrar.state.lock().unwrap().registered.clone();

    let setup = Setup::new(Options::default(), before.into_iter().collect());
    setup.publish(shop()).await;
    advance(Duration::from_millis(900)).await;
    let mut back = Peer::connect(&setup.hub, web).await;
    back.update().await;
    // As it was: nothing is written.
    let started = Instant::now();
    while setup.registrar.state.lock().unwrap().writes == 0 {
        back.report(mesh::Readiness::Ready, 1);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!(started.elapsed() > Duration::from_secs(55));
    assert_eq!(
        setup.status("web-8").await.state(),
        mesh::proxy_status::State::Gone
    );
    assert_eq!(
        setup.status("web-9").await.state(),
        mesh::proxy_status::State::Connected
    );
}

#[tokio::test(start_paused = true)]
async fn roots_and_hints_reach_all_and_acks_come_back() {
    let setup = with_shop().await;
    let mut peer = Peer::connect(&setup.hub, hello("client", &[])).await;
    peer.update().await;
    setup.bundle.send_replace(Arc::new(Bundle {
        version: 2,
        trust_domain: "mesh.test".to_owned(),
        roots: vec![Bytes::from_static(b"old"), Bytes::from_static(b"new")],
    }));
    let Some(Ok(Message::Trust(trust))) = peer.next().await else {
        panic!("no roots")
    };
    assert_eq!(trust.bundle.unwrap().roots.len(), 2);
    let hint = RenewHint {
        epoch: 1,
        within: Duration::from_secs(9),
        trust_version: 2,
    };
    setup.renew.send_replace(hint);
    assert!(matches!(peer.next().await, Some(Ok(Message::Renew(renew))) if renew.within_ms == 9_000));
    assert_eq!(setup.sink.0.lock().unwrap()[&key(Kind::Workload, "client")], 1);
    peer.report(mesh::Readiness::Ready, 2);
    while setup.status("client").await.trust_version != 2 {
        tokio::task::yield_now().await;
    }
    assert_eq!(setup.sink.0.lock().unwrap()[&key(Kind::Workload, "client")], 2);
}

#[tokio::test(start_paused = true)]
async fn a_question_is_answered_cut_and_cancelled() {
    let setup = with_shop().await;
    let mut peer = Peer::connect(&setup.hub, hello("client", &[])).await;
    peer.update().await;
    let ask = || mesh::AskRequest {
        namespace: "shop".to_owned(),
        workload: "client".to_owned(),
        question: Some(mesh::Question {
            timeout_ms: 5_000,
            question: Some(mesh::question::Question::Snapshot(mesh::Ask {})),
            ..mesh::Question::default()
        }),
    };
    let part = |id: u64, bytes: usize, is_last: bool| {
        let answer = Some(mesh::answer::Answer::Part(vec![b'x'; bytes].into()));
        proxy_message::Message::Answer(mesh::Answer { id, answer, is_last })
    };
    let mut answers = setup.hub.ask(ask()).await.unwrap();
    let Some(Ok(Message::Question(question))) = peer.next().await else {
        panic!("no question")
    };
    peer.send(part(question.id, 10, false));
    peer.send(part(question.id, 5, true));
    assert!(!answers.next().await.unwrap().is_last && answers.next().await.unwrap().is_last);
    assert!(answers.next().await.is_none());

    // Too long: cut, and cancelled at the proxy.
    let answers = setup.hub.ask(ask()).await.unwrap();
    let Some(Ok(Message::Question(question))) = peer.next().await else {
        panic!("no question")
    };
    (0..5).for_each(|_| peer.send(part(question.id, 1 << 20, false)));
    let parts: Vec<mesh::Answer> = answers.collect().await;
    assert!(
        matches!(&parts.last().unwrap().answer, Some(mesh::answer::Answer::Error(error)) if error.contains("4 MiB"))
    );
    let Some(Ok(Message::Question(cancel))) = peer.next().await else {
        panic!("not cancelled")
    };
    assert_eq!((cancel.id, cancel.question), (question.id, None));

    // Nobody waits any more: cancelled at once. Nobody answers: it times out.
    let asked = Instant::now();
    drop(setup.hub.ask(ask()).await.unwrap());
    assert!(matches!(peer.next().await, Some(Ok(Message::Question(_)))));
    assert!(matches!(peer.next().await, Some(Ok(Message::Question(cancel))) if cancel.question.is_none()));
    assert!(asked.elapsed() < Duration::from_secs(1));
    let asked = Instant::now();
    let parts: Vec<mesh::Answer> = setup.hub.ask(ask()).await.unwrap().collect().await;
    assert!(parts.len() == 1 && parts[0].is_last && asked.elapsed() < Duration::from_secs(7));
    let missing = mesh::AskRequest {
        workload: "nobody".to_owned(),
        ..ask()
    };
    assert_eq!(setup.hub.ask(missing).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test(start_paused = true)]
async fn a_question_that_would_end_the_stream_is_not_asked() {
    let setup = with_shop().await;
    let mut peer = Peer::connect(&setup.hub, hello("client", &[])).await;
    peer.update().await;
    let ask = |bytes: usize, headers: usize| mesh::AskRequest {
        namespace: "shop".to_owned(),
        workload: "client".to_owned(),
        question: Some(mesh::Question {
            question: Some(mesh::question::Question::Explain(mesh::Explain {
                url: "x".repeat(bytes),
                headers: vec![String::new(); headers],
                ..mesh::Explain::default()
            })),
            ..mesh::Question::default()
        }),
    };
    for question in [ask((64 << 10) + 1, 0), ask(0, (16 << 10) + 1)] {
        let refused = setup.hub.ask(question).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
    }
    let _answers = setup.hub.ask(ask(60 << 10, 0)).await.unwrap();
    let next = peer.next().await;
    assert!(matches!(next, Some(Ok(Message::Question(question))) if question.encoded_len() > 60 << 10));
}

#[tokio::test(start_paused = true)]
async fn first_updates_are_in_turn_and_past_a_number_proxies_come_later() {
    let admission = Limits {
        syncing: 1,
        waiting: 1,
    };
    let setup = Setup::new(
        Options {
            admission,
            ..Options::default()
        },
        Vec::new(),
    );
    setup.publish(shop()).await;
    let mut first = Peer::connect(&setup.hub, hello("a", &["web"])).await;
    let update = first.unacked().await;
    let mut second = Peer::connect(&setup.hub, hello("b", &["web"])).await;
    assert!(matches!(second.next().await, Some(Ok(Message::Welcome(_)))));
    let mut third = Peer::connect(&setup.hub, hello("c", &["web"])).await;
    assert!(matches!(third.next().await, Some(Ok(Message::GoAway(away))) if away.retry_after_ms > 0));
    assert_eq!(third.end().await.unwrap().code(), Code::Unavailable);
    first.take(&update);
    second.update().await;
    assert_eq!(second.holds(), first.holds());
}

#[tokio::test(start_paused = true)]
async fn a_proxy_that_does_not_ack_or_says_nothing_is_ended_and_others_are_not() {
    let setup = with_shop().await;
    let mut good = Peer::connect(&setup.hub, hello("good", &["web"])).await;
    good.update().await;
    let mut deaf = Peer::connect(&setup.hub, hello("deaf", &["web"])).await;
    deaf.unacked().await;
    let started = Instant::now();
    let ended = deaf.end().await.unwrap();
    assert_eq!(ended.code(), Code::DeadlineExceeded);
    assert!(started.elapsed() < Duration::from_secs(35));
    good.report(mesh::Readiness::Ready, 1);
    setup.publish(vec![workload("web-0", 2, "web", "10.0.0.1")]).await;
    good.update().await;
    assert!(matches!(good.end().await, Some(status) if status.message().contains("said nothing")));
}

#[tokio::test(start_paused = true)]
async fn what_does_not_fit_into_one_update_comes_in_several_services_last() {
    let setup = Setup::new(Options::default(), Vec::new());
    let mut changes = vec![config(1), service("big", 1, "big")];
    for index in 0..200 {
        let address = format!("10.1.{}.{}", index / 200, index % 200);
        let mut change = workload(&format!("big-{index}"), 1, "big", &address);
        change.document.as_mut().unwrap().json = vec![b'x'; 40 << 10].into();
        changes.push(change);
    }
    setup.publish(changes).await;
    let mut peer = Peer::connect(&setup.hub, hello("client", &["big"])).await;
    let mut updates = 0;
    while peer.held.len() < 202 {
        let update = peer.update().await;
        assert!(update.encoded_len() < 4 << 20);
        assert_eq!(
            update.known.is_empty(),
            peer.held.len() < 202,
            "answered when all of it is there"
        );
        updates += 1;
    }
    assert!(updates > 2);
    // In no order is a whole one possible: the proxy comes back, and says what it holds.
    peer.send(proxy_message::Message::Resync(mesh::Resync {}));
    assert!(matches!(peer.next().await, Some(Ok(Message::GoAway(_)))));
}

/// Deterministic, so that a failure is repeated by running the test again.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % below
    }
}

fn mutated(dice: &mut Dice, mut bytes: Vec<u8>) -> Vec<u8> {
    for _ in 0..=dice.roll(4) {
        let at = dice.roll(bytes.len().max(1));
        match dice.roll(4) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << dice.roll(8),
            1 => bytes.truncate(at),
            2 => bytes.insert(at.min(bytes.len()), u8::try_from(dice.roll(256)).unwrap()),
            _ if at < bytes.len() => drop(bytes.remove(at)),
            _ => {}
        }
    }
    bytes
}

#[tokio::test(start_paused = true)]
async fn mutated_messages_harm_nobody_else() {
    let setup = with_shop().await;
    let mut good = Peer::connect(&setup.hub, hello("good", &["web"])).await;
    good.update().await;
    let mut bad_hello = hello("bad", &["web", "api", "host.example"]);
    bad_hello.registration = Some(registration("bad", "bad", "10.0.66.6"));
    let subscribe = mesh::Subscribe {
        names: vec!["web".to_owned(), "x.example".to_owned()],
        addresses: vec!["10.0.0.1".to_owned()],
        drop_names: vec!["api".to_owned()],
        drop_addresses: vec!["::1".to_owned()],
    };
    let problem = mesh::Problem {
        document: "Service shop/web".to_owned(),
        ..mesh::Problem::default()
    };
    let messages = [
        proxy_message::Message::Hello(bad_hello.clone()),
        proxy_message::Message::Subscribe(subscribe),
        proxy_message::Message::Ack(mesh::Ack {
            nonce: 1,
            trust_version: 1,
        }),
        proxy_message::Message::Nack(mesh::Nack {
            nonce: 1,
            problems: vec![problem],
        }),
        proxy_message::Message::Report(mesh::Report {
            readiness: 1,
            ..mesh::Report::default()
        }),
        proxy_message::Message::Answer(mesh::Answer {
            id: 1,
            is_last: true,
            ..mesh::Answer::default()
        }),
        proxy_message::Message::Resync(mesh::Resync {}),
    ];
    let mut dice = Dice(7);
    let (mut sent, mut said_hello, mut version) = (0, 0, 1);
    while sent < 1_000 {
        let message = messages[dice.roll(messages.len())].clone();
        let bytes = mutated(
            &mut dice,
            mesh::ProxyMessage {
                message: Some(message),
            }
            .encode_to_vec(),
        );
        let Ok(message) = mesh::ProxyMessage::decode(bytes.as_slice()) else {
            continue;
        };
        sent += 1;
        match message.message {
            // Of another name, it would be another proxy; of the good one's, it would be that.
            Some(proxy_message::Message::Hello(hello)) => {
                said_hello += 1;
                let workload = hello
                    .holder
                    .as_ref()
                    .map_or("", |holder| holder.workload.as_str());
                if workload != "good" {
                    drop(Peer::connect_as(&setup.hub, "bad", hello).await);
                }
            }
            _ => {
                let mut bad = Peer::connect_as(&setup.hub, "bad", hello("bad", &["web"]))
                    .await
                    .unwrap();
                bad.unacked().await;
                bad.send_raw(message);
            }
        }
        if sent % 10 == 0 {
            version += 1;
            setup
                .publish(vec![workload("web-0", version, "web", "10.0.0.1")])
                .await;
            good.update().await;
            assert_eq!(good.held.len(), 4);
            good.report(mesh::Readiness::Ready, 1);
        }
    }
    assert!(said_hello > 50);
    assert!(setup.status("good").await.state() == mesh::proxy_status::State::Connected);
    // Whatever was registered is whole, and the mutant's own.
    for (key, registered) in &setup.registrar.state.lock().unwrap().registered {
        let document: serde_json::Value = serde_json::from_slice(&registered.document).unwrap();
        assert_eq!(document["metadata"]["name"], key.name());
        assert_eq!(
            (
                &document["metadata"]["namespace"],
                &document["spec"]["serviceAccount"]
            ),
            (&"shop".into(), &"bad".into())
        );
    }
}
