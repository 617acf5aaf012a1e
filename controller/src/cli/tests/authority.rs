use weft_proto::mesh::v1;

use crate::cli::testing::{Fake, NOW, type_to};

fn token() -> Fake {
    Fake {
        token: v1::CreateTokenResponse {
            id: "5f0c".to_owned(),
            token: "weft1.abc".to_owned(),
            expires_at: NOW + 600,
            identity: "spiffe://mesh.test/ns/shop/sa/web".to_owned(),
        },
        ..Fake::default()
    }
}

#[tokio::test]
async fn a_token_comes_with_what_to_type() {
    let fake = token();
    let said = type_to(&fake, "weft token create --service-account web -n shop").await;
    assert_eq!(
        said.out,
        "A token for spiffe://mesh.test/ns/shop/sa/web, good for one join within 10m. To type there:\n\n  weft-proxy run \
         --controller 10.0.0.1:15010 --join weft1.abc --namespace shop --service-account web --port 8080 --label app=web\n"
    );
    let said = type_to(&fake, "weft token create --role viewer --name ann --ttl 1h").await;
    assert!(
        said.out
            .ends_with("\n  weft login weft1.abc --controller 10.0.0.1:15010\n"),
        "{}",
        said.out
    );
    let said = type_to(&fake, "weft token create --service-account web -q").await;
    assert_eq!((said.out.as_str(), said.err.as_str()), ("weft1.abc\n", ""));
    let said = type_to(&fake, "weft token create --service-account web -o json").await;
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(&said.out).unwrap()["token"],
        "weft1.abc"
    );
    let calls = fake.calls.lock().unwrap().clone();
    assert!(
        calls[0].contains(r#"namespace: "shop", service_account: "web", role: "", name: """#),
        "{}",
        calls[0]
    );
    assert!(
        calls[1].contains(
            r#"namespace: "", service_account: "", role: "viewer", name: "ann", lifetime_seconds: 3600"#
        ),
        "{}",
        calls[1]
    );
}

#[tokio::test]
async fn tokens_are_listed_with_what_became_of_them() {
    let of = |id: &str| v1::Token {
        id: id.to_owned(),
        identity: "spiffe://mesh.test/ns/shop/sa/web".to_owned(),
        created_at: NOW - 60,
        expires_at: NOW + 540,
        created_by: "spiffe://mesh.test/weft/admin/ann".to_owned(),
        ..Default::default()
    };
    let fake = Fake {
        tokens: vec![
            of("a"),
            v1::Token {
                used_at: NOW - 5,
                ..of("b")
            },
            v1::Token {
                revoked: true,
                ..of("c")
            },
            v1::Token {
                expires_at: NOW - 1,
                ..of("d")
            },
        ],
        is_there: true,
        ..Fake::default()
    };
    let said = type_to(&fake, "weft token list").await;
    assert_eq!(
        said.out,
        "\
ID   IDENTITY                            STATE                AGE
a    spiffe://mesh.test/ns/shop/sa/web   usable, ends in 9m   1m
b    spiffe://mesh.test/ns/shop/sa/web   used                 1m
c    spiffe://mesh.test/ns/shop/sa/web   revoked              1m
d    spiffe://mesh.test/ns/shop/sa/web   expired              1m
"
    );
    let said = type_to(&fake, "weft token list -o json").await;
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(&said.out).unwrap()["tokens"][1]["state"],
        "used"
    );
    assert_eq!(type_to(&fake, "weft token revoke a").await.out, "a revoked\n");
    let said = type_to(&Fake::default(), "weft token revoke a").await;
    assert_eq!(
        said.out,
        "a could not be used any more: it was used, revoked or too old\n"
    );
}

fn trust(step: &str, waiting: &[&str]) -> v1::TrustStatusResponse {
    let root = |first: u8, state: &str| v1::Root {
        id: [first; 32].to_vec().into(),
        state: state.to_owned(),
        not_before: NOW - 86_400,
        not_after: NOW + 3650 * 86_400,
        unexpired_leaves: 4,
        ..Default::default()
    };
    v1::TrustStatusResponse {
        version: 2,
        step: step.to_owned(),
        roots: vec![root(0x4b, "trusted"), root(0x99, "signing")],
        waiting: waiting
            .iter()
            .map(|workload| v1::Waiting {
                namespace: "shop".to_owned(),
                workload: (*workload).to_owned(),
                identity: "spiffe://mesh.test/ns/shop/sa/web".to_owned(),
                why: "has not acknowledged the new root".to_owned(),
                until: NOW + 3600,
            })
            .collect(),
        leaf_lifetime_seconds: 86_400,
        signer_not_after: NOW + 90 * 86_400,
        unexpired_leaves: 8,
    }
}

#[tokio::test]
async fn the_authority_names_who_holds_it_up() {
    let said = type_to(
        &Fake::with_trust(vec![trust("distributing", &["web-0"])]),
        "weft ca status",
    )
    .await;
    assert_eq!(
        said.out,
        "\
Step:          distributing, trust bundle version 2
Leaves:        valid for 1d; 8 not expired
Signer ends:   2026-04-01T00:00:00Z (in 90d)

ROOT               STATE     ENDS                               LEAVES
4b4b4b4b4b4b4b4b   trusted   2035-12-30T00:00:00Z (in 10y)      4
9999999999999999   signing   2035-12-30T00:00:00Z (in 10y)      4

The next step waits for:
WHO          WHY                                 AT MOST
shop/web-0   has not acknowledged the new root   in 1h
"
        .replace("(in 10y)      4", "(in 10y)   4")
        .replace(
            "ENDS                               LEAVES",
            "ENDS                            LEAVES"
        )
    );
    let said = type_to(
        &Fake::with_trust(vec![trust("stable", &[])]),
        "weft ca status -o json",
    )
    .await;
    let value: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(value["roots"][1]["id"], "99".repeat(32));
    assert_eq!(value["waiting"], serde_json::json!([]));
}

#[tokio::test(start_paused = true)]
async fn a_rotation_is_followed_step_by_step() {
    let steps = vec![
        trust("distributing", &["web-0", "web-1"]),
        trust("distributing", &["web-1"]),
        trust("signing", &["web-1"]),
        trust("retiring", &[]),
        trust("stable", &[]),
    ];
    let said = type_to(&Fake::with_trust(steps.clone()), "weft ca rotate --wait").await;
    let told: Vec<&str> = said
        .err
        .lines()
        .filter_map(|line| line.trim_start().split_once(' '))
        .map(|(_, said)| said)
        .collect();
    assert_eq!(
        told,
        [
            "distributing: waiting for shop/web-0 (has not acknowledged the new root) and 1 more",
            "distributing: waiting for shop/web-1 (has not acknowledged the new root)",
            "signing: waiting for shop/web-1 (has not acknowledged the new root)",
            "retiring",
            "stable",
        ]
    );
    assert_eq!(said.code, 0);
    let stuck = Fake::with_trust(vec![trust("signing", &["web-1"])]);
    let said = type_to(&stuck, "weft ca rotate --wait --timeout 1m").await;
    assert_eq!(said.code, 1);
    assert!(said.err.contains("not done within --timeout"), "{}", said.err);
    let kept = Fake::with_trust(vec![trust("distributing", &["web-1"]), trust("signing", &[])]);
    assert_eq!(type_to(&kept, "weft ca rotate --wait --keep-old").await.code, 0);
}

#[tokio::test]
async fn a_root_is_retired_by_the_beginning_of_its_id() {
    let fake = Fake::with_trust(vec![trust("signing", &[])]);
    type_to(&fake, "weft ca retire 4b4b").await;
    let calls = fake.calls.lock().unwrap().clone();
    assert!(
        calls
            .last()
            .unwrap()
            .starts_with("RetireRootRequest { id: b\"KKKK"),
        "{calls:?}"
    );
    assert_eq!(type_to(&fake, "weft ca retire abcd").await.code, 2);
    assert_eq!(
        type_to(&fake, "weft ca renew").await.out,
        "3 sidecars asked to renew within 1m\n"
    );
}

#[tokio::test]
async fn the_audit_is_in_order() {
    let entry = |revision, what: &str, from, to| v1::AuditEntry {
        revision,
        at_ms: NOW * 1000,
        who: "spiffe://mesh.test/weft/admin/ann".to_owned(),
        what: what.to_owned(),
        target: "Service shop/web".to_owned(),
        from_generation: from,
        to_generation: to,
        detail: String::new(),
    };
    let fake = Fake {
        audit: vec![
            entry(9, "delete", 2, 0),
            entry(8, "apply", 1, 2),
            entry(7, "apply", 0, 1),
        ],
        ..Fake::default()
    };
    let said = type_to(&fake, "weft audit --limit 3").await;
    assert_eq!(
        said.out,
        "\
WHEN                   REVISION   WHO         WHAT     TARGET             GENERATION   DETAIL
2026-01-01T00:00:00Z   7          admin/ann   apply    Service shop/web   1            -
2026-01-01T00:00:00Z   8          admin/ann   apply    Service shop/web   1 -> 2       -
2026-01-01T00:00:00Z   9          admin/ann   delete   Service shop/web   2 -> gone    -
"
    );
    let said = type_to(&fake, "weft audit -o json").await;
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(&said.out).unwrap()["entries"][0]["revision"],
        7
    );
}
