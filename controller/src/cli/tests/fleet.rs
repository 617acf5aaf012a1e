use weft_proto::mesh::v1::{self, answer::Answer, proxy_status::State};

use crate::cli::testing::{Fake, NOW, Typing, proxy, type_to};

fn fleet(proxies: Vec<v1::ProxyStatus>) -> v1::FleetResponse {
    v1::FleetResponse {
        proxies,
        revision: 42,
        trust_version: 1,
    }
}

/// One of each standing.
fn mixed() -> v1::FleetResponse {
    let mut behind = proxy("shop", "behind-0");
    behind.is_current = false;
    behind.acked_revision = 40;
    let mut refused = proxy("shop", "refused-0");
    refused.nacked = vec![v1::Problem {
        document: "Service shop/web".to_owned(),
        field: "spec.ports[0]".to_owned(),
        message: "requires magic".to_owned(),
        ..Default::default()
    }];
    let mut lost = proxy("bank", "lost-0");
    lost.state = State::Lost.into();
    lost.last_seen = NOW - 125;
    lost.certificate_not_after = NOW - 1;
    let mut sick = proxy("shop", "sick-0");
    sick.readiness = v1::Readiness::NotReady.into();
    sick.reason = "the application refuses connections".to_owned();
    sick.renewal_failing_since = NOW - 3600;
    sick.renewal_error = "no route".to_owned();
    fleet(vec![behind, refused, lost, sick, proxy("shop", "web-0")])
}

#[tokio::test]
async fn status_shows_every_sidecar_and_what_is_wrong() {
    let said = type_to(&Fake::with_fleet(mixed()), "weft status").await;
    assert_eq!(
        said.out,
        "\
NAMESPACE   WORKLOAD    READY       CONFIG    CERTIFICATE   SEEN   VERSION
bank        lost-0      ready       lost      expired       2m5s   0.1.0
shop        behind-0    ready       behind    20h           3s     0.1.0
shop        refused-0   ready       refused   20h           3s     0.1.0
shop        sick-0      not ready   current   20h           3s     0.1.0
shop        web-0       ready       current   20h           3s     0.1.0

bank/lost-0: lost 2m5s ago: still an endpoint for its grace
shop/refused-0: refused: Service shop/web: spec.ports[0]: requires magic
shop/sick-0: not ready: the application refuses connections
shop/sick-0: its certificate cannot be renewed since 1h ago: no route

5 sidecars: 2 current, 1 behind, 1 refused, 1 lost
"
    );
    assert_eq!(said.code, 1);
}

#[tokio::test]
async fn the_exit_code_of_status_is_whether_all_are_current() {
    let said = type_to(
        &Fake::with_fleet(fleet(vec![proxy("shop", "web-0")])),
        "weft status",
    )
    .await;
    assert_eq!(said.code, 0);
    assert_eq!(
        type_to(&Fake::with_fleet(fleet(vec![])), "weft status")
            .await
            .code,
        0
    );
    let mixed = Fake::with_fleet(mixed());
    assert_eq!(type_to(&mixed, "weft status shop/web-0").await.code, 0);
    for name in ["shop/behind-0", "shop/refused-0", "bank/lost-0"] {
        assert_eq!(
            type_to(&mixed, &format!("weft status {name}")).await.code,
            1,
            "{name}"
        );
    }
    let said = type_to(&mixed, "weft status nobody").await;
    assert_eq!(said.code, 1);
    assert!(
        said.err.contains("knows no sidecar of default/nobody"),
        "{}",
        said.err
    );
}

#[tokio::test]
async fn one_sidecar_is_shown_whole() {
    let said = type_to(&Fake::with_fleet(mixed()), "weft status web-0 -n shop").await;
    assert_eq!(
        said.out,
        "\
Workload:           shop/web-0
Identity:           spiffe://mesh.test/ns/shop/sa/web
Version:            0.1.0
Address:            10.0.0.7:40000
Readiness:          ready
Configuration:      current
Acknowledged:       revision 42 of 42
Resources:          5
Trust bundle:       version 1 of 1
Certificate ends:   2026-01-01T20:00:00Z (in 20h)
Certificate's root: -
Connected since:    2025-12-31T22:00:00Z (2h ago)
Last seen:          2025-12-31T23:59:57Z (3s ago)
Traffic:            1000 requests, 2 failed, 3 connections
Asks for:
  web.shop
"
    );
}

#[tokio::test]
async fn status_for_programs() {
    let fake = Fake::with_fleet(mixed());
    let said = type_to(&fake, "weft status -o json").await;
    let value: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(value["proxies"][0]["standing"], "lost");
    assert_eq!(value["proxies"][2]["refused"][0]["message"], "requires magic");
    assert_eq!(value["proxies"][4]["certificateNotAfter"], "2026-01-01T20:00:00Z");
    assert_eq!(said.code, 1);
    let said = type_to(&fake, "weft status -n bank -o name").await;
    assert_eq!(said.out, "bank/lost-0\n");
    let said = type_to(&fake, "weft status -n bank -o yaml").await;
    assert!(said.out.contains("  standing: lost\n"), "{}", said.out);
}

#[tokio::test(start_paused = true)]
async fn status_waits_until_all_have_it() {
    let mut behind = proxy("shop", "web-0");
    behind.is_current = false;
    let fake = Fake::default();
    *fake.fleets.lock().unwrap() = vec![
        fleet(vec![behind.clone()]),
        fleet(vec![behind.clone()]),
        fleet(vec![proxy("shop", "web-0")]),
    ];
    let said = type_to(&fake, "weft status --wait").await;
    assert_eq!(said.code, 0);
    assert_eq!(said.err, "1 of 1 sidecars are not current yet\n");
    assert_eq!(fake.calls.lock().unwrap().len(), 3);
    let said = type_to(
        &Fake::with_fleet(fleet(vec![behind])),
        "weft status --wait --timeout 1m",
    )
    .await;
    assert_eq!(said.code, 1);
    assert!(said.err.contains("--timeout"), "{}", said.err);
}

fn part(text: &str, is_last: bool) -> v1::Answer {
    v1::Answer {
        id: 1,
        answer: Some(Answer::Part(text.to_owned().into())),
        is_last,
    }
}

#[tokio::test]
async fn connections_are_a_table() {
    let page = r#"{"workers":[{"worker":0,"connections":[{"worker":0,"direction":"outbound","workload":"shop/db-0",
        "address":"10.0.0.9:15008","identity":"spiffe://mesh.test/ns/shop/sa/db","transport":"h3","phase":"open",
        "ageSeconds":125,"streams":2,"streamsTotal":70,"rttMicros":480,"packetsSent":900,"packetsLost":1,"mtu":1452}]},
        {"worker":1,"error":"no answer"}]}"#;
    let (first, second) = page.split_at(100);
    let fake = Fake {
        answers: vec![part(first, false), part(second, true)],
        ..Fake::default()
    };
    let said = type_to(&fake, "weft proxy connections web-0 -n shop").await;
    assert_eq!(
        said.out,
        "DIRECTION   PEER                               ADDRESS          OVER   PHASE   AGE    STREAMS   RTT      LOST       MTU\n\
         outbound    spiffe://mesh.test/ns/shop/sa/db   10.0.0.9:15008   h3     open    2m5s   2 of 70   0.48ms   1 of 900   1452\n\
         \n1 connection\n"
    );
    assert_eq!(said.err, "warning: worker 1: no answer\n");
    let calls = fake.calls.lock().unwrap().join("");
    assert!(
        calls.contains("namespace: \"shop\", workload: \"web-0\""),
        "{calls}"
    );
}

#[tokio::test]
async fn a_sidecars_configuration_is_shown() {
    let page = r#"{"generation":7,"problems":{"documents":null,"identity":"old"},
        "identity":{"spiffeId":"spiffe://mesh.test/ns/shop/sa/web"},
        "mesh":{"trustDomain":"mesh.test","egress":"deny"},
        "inbound":{"mode":"strict","authorization":"authenticated","ports":[{"port":8080,"protocol":"http"}]},
        "backends":[{"destination":"db.shop:5432","name":"db","port":5432,"protocol":"tcp","endpoints":[
          {"workload":"shop/db-0","address":"10.0.0.9:15008","transport":"h3","identity":"spiffe://mesh.test/ns/shop/sa/db"}]},
          {"destination":"a.shop:80","name":"a","protocol":"http","endpoints":[]}]}"#;
    let fake = Fake {
        answers: vec![part(page, true)],
        ..Fake::default()
    };
    let said = type_to(&fake, "weft proxy config web-0").await;
    assert!(
        said.out
            .contains("Own ports:     8080/http\nProblem:       identity: old\n"),
        "{}",
        said.out
    );
    assert!(
        said.out
            .contains("db.shop:5432   db        tcp        shop/db-0   10.0.0.9:15008   h3"),
        "{}",
        said.out
    );
    assert!(
        said.out.contains("a.shop:80      a         http       none"),
        "{}",
        said.out
    );
    let said = type_to(&fake, "weft proxy config web-0 -o json").await;
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(&said.out).unwrap()["generation"],
        7
    );
}

#[tokio::test]
async fn logs_are_escaped_for_a_terminal_alone() {
    let fake = Fake {
        answers: vec![part("GET /\x1b[2J\n", false), part("GET /b\n", true)],
        ..Fake::default()
    };
    let said = type_to(&fake, "weft proxy logs web-0 --access --tail 5").await;
    assert_eq!(said.out, "GET /\x1b[2J\nGET /b\n");
    assert!(fake.calls.lock().unwrap()[0].contains("TailLog { lines: 5, follow: false, access: true }"));
    let typing = Typing {
        is_terminal: true,
        ..Typing::default()
    };
    let said = typing.type_to(&fake, "weft proxy logs web-0").await;
    assert_eq!(said.out, "GET /\\u{1b}[2J\nGET /b\n");
}

#[tokio::test]
async fn a_sidecar_may_refuse_to_answer() {
    let fake = Fake {
        answers: vec![v1::Answer {
            id: 1,
            answer: Some(Answer::Error("debug\x1b is no filter".to_owned())),
            is_last: true,
        }],
        ..Fake::default()
    };
    let said = type_to(&fake, "weft proxy log-level web-0 loud --for 1h").await;
    assert_eq!(
        (said.err.as_str(), said.code),
        ("error: the sidecar says: debug\\u{1b} is no filter\n", 1)
    );
    assert!(fake.calls.lock().unwrap()[0].contains("for_ms: 3600000"));
    let said = type_to(&Fake::default(), "weft proxy log-level web-0 debug").await;
    assert_eq!((said.out.as_str(), said.code), ("web-0 logs debug for 10m\n", 0));
}

#[tokio::test]
async fn evict_says_whether_there_was_one() {
    let said = type_to(&Fake::default(), "weft proxy evict web-0").await;
    assert_eq!(said.code, 1);
    let fake = Fake {
        is_there: true,
        ..Fake::default()
    };
    let said = type_to(&fake, "weft proxy evict shop/web-0").await;
    assert_eq!((said.out.as_str(), said.code), ("shop/web-0 forgotten\n", 0));
}

#[tokio::test]
async fn check_finds_what_is_wrong_or_soon_will_be() {
    let root = |not_before, not_after| v1::Root {
        id: vec![0x4b; 32].into(),
        state: "signing".to_owned(),
        not_before,
        not_after,
        ..Default::default()
    };
    let trust = |root| v1::TrustStatusResponse {
        step: "stable".to_owned(),
        roots: vec![root],
        leaf_lifetime_seconds: 86_400,
        signer_not_after: NOW + 90 * 86_400,
        ..Default::default()
    };
    let year = 365 * 86_400;
    let mut fake = Fake::with_fleet(fleet(vec![proxy("shop", "web-0")]));
    fake.trusts = Fake::with_trust(vec![trust(root(NOW - year, NOW + 9 * year))]).trusts;
    fake.info = v1::InfoResponse {
        version: "0.1.0".to_owned(),
        now_ms: NOW * 1000,
        started_at: NOW - 60,
        ..Default::default()
    };
    let said = type_to(&fake, "weft check").await;
    assert_eq!(said.code, 0, "{}", said.out);
    assert!(said.out.ends_with("\n0 wrong, 0 warnings\n"), "{}", said.out);
    assert!(
        said.out
            .contains("ok      root 4b4b4b4b4b4b4b4b (signing) ends in 9y\n"),
        "{}",
        said.out
    );

    fake.trusts = Fake::with_trust(vec![trust(root(NOW - year, NOW + 20 * 86_400))]).trusts;
    fake.info.now_ms = (NOW + 300) * 1000;
    *fake.fleets.lock().unwrap() = vec![mixed()];
    let said = type_to(&fake, "weft check").await;
    assert_eq!(said.code, 1);
    for line in [
        "warning root 4b4b4b4b4b4b4b4b (signing) ends in 20d\n          Replace it: weft ca rotate --wait\n",
        "wrong   the controller's clock is 5m ahead of this machine's\n",
        "wrong   bank/lost-0: lost 2m5s ago: still an endpoint for its grace; its certificate ended 1s ago\n",
        "warning shop/behind-0: behind: acknowledged 40 of 42\n",
    ] {
        assert!(said.out.contains(line), "{line}{}", said.out);
    }
    let said = type_to(&fake, "weft check -o json").await;
    let value: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!((&value["ok"], said.code), (&serde_json::json!(false), 1));
}
