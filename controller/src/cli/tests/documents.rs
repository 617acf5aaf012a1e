use std::fs;

use serde_json::json;
use weft_proto::mesh::v1::{self, change::Kind};

use crate::cli::{
    args::Cli,
    documents, finish,
    screen::{Screen, Stream},
    testing::{Buffer, Fake, Typing, document, type_to},
};
use clap::Parser;

const WEB: &str = "\
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  selector: {app: web}
  ports:
  - port: 80
";

fn service() -> serde_json::Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "shop"},
        "spec": {"selector": {"app": "web"}, "clusterIP": "10.96.0.1",
                 "ports": [{"name": "http", "port": 80, "targetPort": 8080, "appProtocol": "http"},
                           {"name": "dns", "port": 53, "protocol": "UDP"}]}
    })
}

fn workload(name: &str) -> serde_json::Value {
    json!({
        "apiVersion": "weft.dev/v1alpha1", "kind": "Workload",
        "metadata": {"name": name, "namespace": "shop", "labels": {"app": "web"}},
        "spec": {"address": "10.0.0.7", "meshPort": 15008, "ports": [{"port": 8080}, {"port": 53, "protocol": "udp"}]}
    })
}

fn stored() -> Fake {
    let mut web_0 = document("Workload", "shop/web-0", 2, workload("web-0"));
    web_0.readiness = v1::Readiness::Ready.into();
    web_0.origin = "proxy".to_owned();
    Fake {
        documents: vec![document("Service", "shop/web", 3, service()), web_0],
        revision: 44,
        ..Fake::default()
    }
}

fn change(kind: Kind, generation: u64, before: &str, after: &str) -> v1::Change {
    v1::Change {
        key: Some(v1::ResourceKey {
            kind: "Service".to_owned(),
            namespace: "shop".to_owned(),
            name: "web".to_owned(),
        }),
        kind: kind.into(),
        generation,
        before: before.to_owned().into(),
        after: after.to_owned().into(),
    }
}

/// A file with a document, which is gone with its directory.
fn file(text: &str) -> (tempfile::TempDir, String) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("web.yaml");
    fs::write(&path, text).unwrap();
    let path = path.display().to_string();
    (directory, path)
}

/// A command that calls no controller.
fn validate(line: &str) -> (String, String, u8) {
    let cli = Cli::try_parse_from(line.split_whitespace()).unwrap();
    let (out, err) = (Buffer::default(), Buffer::default());
    let stream = |buffer: &Buffer| Stream::new(Box::new(buffer.clone()), false, false);
    let mut screen = Screen::new(stream(&out), stream(&err));
    let crate::cli::args::Command::Validate(args) = cli.command else {
        panic!("{line}")
    };
    let code = finish(documents::validate(&args, &cli.global, &mut screen), &mut screen);
    (out.take(), err.take(), code)
}

#[tokio::test]
async fn apply_says_what_became_of_each_document() {
    let (_directory, path) = file(WEB);
    let fake = Fake {
        applied: v1::ApplyResponse {
            changes: vec![change(Kind::Created, 1, "", "{}")],
            warnings: vec![v1::Problem {
                document: path.clone(),
                line: 7,
                field: "spec.ports[0]".to_owned(),
                message: "no workload answers to it".to_owned(),
            }],
            revision: 45,
            ..Default::default()
        },
        ..Fake::default()
    };
    let said = type_to(&fake, &format!("weft apply -f {path}")).await;
    assert_eq!(said.out, "service/shop/web created, generation 1\n");
    assert_eq!(
        said.err,
        format!("warning: {path}:7: spec.ports[0]: no workload answers to it\n")
    );
    assert_eq!(said.code, 0);
    let said = type_to(&fake, &format!("weft apply -f {path} --dry-run")).await;
    assert_eq!(said.out, "service/shop/web created, generation 1 (dry run)\n");
    let said = type_to(&fake, &format!("weft apply -f {path} -o name")).await;
    assert_eq!(said.out, "service/shop/web\n");
    let said = type_to(&fake, &format!("weft apply -f {path} -o json")).await;
    let value: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(value["changes"][0]["change"], "created");
    assert_eq!(value["revision"], 45);
}

#[tokio::test]
async fn apply_compares_the_generation_it_was_told() {
    let (_directory, path) = file(WEB);
    let fake = Fake::default();
    type_to(&fake, &format!("weft apply -f {path} --if-generation 3 -n bank")).await;
    let calls = fake.calls.lock().unwrap().join("\n");
    assert!(calls.contains("generation: 3"), "{calls}");
    assert!(calls.contains("namespace: \"bank\""), "{calls}");
    drop(calls);
    let (_directory, two) = file(&format!("{WEB}---\n{}", WEB.replace("name: web", "name: db")));
    let said = type_to(&fake, &format!("weft apply -f {two} --if-generation 3")).await;
    assert_eq!(said.code, 2);
}

#[tokio::test]
async fn wrong_documents_are_told_without_a_controller() {
    let (_directory, path) = file(&WEB.replace("80", "70000"));
    let fake = Fake::default();
    for command in ["apply", "diff", "delete"] {
        let said = type_to(&fake, &format!("weft {command} -f {path}")).await;
        assert_eq!(
            said.err,
            format!("error: 1 error\n{path}:7: spec.ports[0].port: 70000 is not a port (1 to 65535)\n")
        );
        assert_eq!(said.code, 1);
    }
    assert!(fake.calls.lock().unwrap().is_empty());
}

#[tokio::test]
async fn problems_of_the_whole_are_lines() {
    let (_directory, path) = file(WEB);
    let fake = Fake {
        applied: v1::ApplyResponse {
            problems: vec![v1::Problem {
                document: path.clone(),
                line: 3,
                field: "spec.clusterIP".to_owned(),
                message: "is taken".to_owned(),
            }],
            ..Default::default()
        },
        ..Fake::default()
    };
    let said = type_to(&fake, &format!("weft apply -f {path}")).await;
    assert_eq!(
        said.err,
        format!("error: refused, nothing was changed: 1 error\n{path}:3: spec.clusterIP: is taken\n")
    );
    assert_eq!((said.out.as_str(), said.code), ("", 1));
}

#[tokio::test]
async fn diff_is_unified_and_its_exit_code_tells() {
    let (_directory, path) = file(WEB);
    let before = json!({"kind": "Service", "spec": {"ports": [{"port": 80}]}}).to_string();
    let after = json!({"kind": "Service", "spec": {"ports": [{"port": 81}]}}).to_string();
    let with = |change: v1::Change| Fake {
        applied: v1::ApplyResponse {
            changes: vec![change],
            ..Default::default()
        },
        ..Fake::default()
    };
    let changed = with(change(Kind::Changed, 4, &before, &after));
    let line = format!("weft diff -f {path}");
    let said = type_to(&changed, &line).await;
    assert_eq!(
        said.out,
        "--- service/shop/web (stored)\n+++ service/shop/web (generation 4)\n@@ -1,4 +1,4 @@\n kind: Service\n spec:\n   \
         ports:\n-  - port: 80\n+  - port: 81\n"
    );
    assert_eq!(said.code, 1);
    let created = type_to(&with(change(Kind::Created, 1, "", &after)), &line).await;
    assert!(
        created
            .out
            .starts_with("--- /dev/null\n+++ service/shop/web (generation 1)\n"),
        "{}",
        created.out
    );
    let same = type_to(&with(change(Kind::Unchanged, 4, &before, &before)), &line).await;
    assert_eq!((same.out.as_str(), same.code), ("", 0));
    let typing = Typing {
        is_terminal: true,
        ..Typing::default()
    };
    assert!(
        typing
            .type_to(&changed, &line)
            .await
            .out
            .contains("\x1b[31m-  - port: 80\x1b[0m\n")
    );
}

#[test]
fn validate_finds_all_errors_offline() {
    let (_directory, path) = file(WEB);
    let (out, err, code) = validate(&format!("weft validate -f {path}"));
    assert_eq!((out.as_str(), err.as_str(), code), ("1 document: valid\n", "", 0));

    let twice = "apiVersion: weft.dev/v1alpha1\nkind: Workload\nmetadata: {name: NAME}\nspec: {address: 10.0.0.1, ports: [{port: 80}]}\n";
    let text = format!(
        "{}---\n{}",
        twice.replace("NAME", "a"),
        twice.replace("NAME", "b")
    );
    let (_directory, path) = file(&text);
    let (_, err, code) = validate(&format!("weft validate -f {path}"));
    assert_eq!(code, 1);
    assert!(err.contains(&format!("{path}:9: ")), "{err}");

    let (_directory, path) = file(&format!(
        "{}---\nkind: Servcie\napiVersion: v1\n",
        WEB.replace("80", "0")
    ));
    let (out, _, code) = validate(&format!("weft validate -f {path} -o json"));
    let value: serde_json::Value = serde_json::from_str(&out).unwrap();
    let errors = value["errors"].as_array().unwrap();
    assert_eq!(code, 1);
    assert_eq!(errors.len(), 2);
    assert_eq!(
        (&errors[0]["line"], &errors[0]["field"]),
        (&json!(7), &json!("spec.ports[0].port"))
    );
    assert!(
        errors[1]["message"]
            .as_str()
            .unwrap()
            .contains("did you mean Service?")
    );
}

#[tokio::test]
async fn delete_takes_names_or_files() {
    let fake = Fake {
        applied: v1::ApplyResponse {
            changes: vec![change(Kind::Deleted, 0, "{}", "")],
            ..Default::default()
        },
        ..Fake::default()
    };
    let said = type_to(&fake, "weft delete svc web -n shop --if-generation 2").await;
    assert_eq!((said.out.as_str(), said.code), ("service/shop/web deleted\n", 0));
    let (_directory, path) = file(WEB);
    type_to(&fake, &format!("weft delete -f {path} --ignore-not-found")).await;
    let calls = fake.calls.lock().unwrap().clone();
    let key = r#"ResourceKey { kind: "Service", namespace: "shop", name: "web" }"#;
    assert!(
        calls[0].contains(&format!("keys: [{key}]")) && calls[0].contains("generation: 2"),
        "{calls:?}"
    );
    assert!(
        calls[1].contains(key) && calls[1].contains("ignore_missing: true"),
        "{calls:?}"
    );
}

#[tokio::test]
async fn get_has_tables_of_each_kind() {
    let fake = stored();
    let said = type_to(&fake, "weft get svc -n shop").await;
    assert_eq!(
        said.out,
        "NAME   CLUSTER-IP   PORTS                  GENERATION\nweb    10.96.0.1    80->8080/http,53/udp   3\n"
    );
    let said = type_to(&fake, "weft get wl -A -o wide").await;
    assert_eq!(
        said.out,
        "NAMESPACE   NAME    READY   ADDRESS    MESH-PORT   PORTS         GENERATION   SERVICE-ACCOUNT   FROM    LABELS    REVISION\n\
         shop        web-0   ready   10.0.0.7   15008       8080,53/udp   2            default           proxy   app=web   42\n"
    );
    let said = type_to(&fake, "weft get all -A -o name").await;
    assert_eq!(said.out, "service/shop/web\nworkload/shop/web-0\n");
    let said = type_to(&fake, "weft get svc").await;
    assert_eq!(
        (said.out.as_str(), said.err.as_str()),
        ("", "no services in namespace default (-A: in all)\n")
    );
}

#[tokio::test]
async fn get_gives_documents_that_can_be_applied() {
    let fake = stored();
    let said = type_to(&fake, "weft get svc/shop/web wl/shop/web-0 -o yaml").await;
    let (_directory, path) = file(&said.out);
    let (_, err, code) = validate(&format!("weft validate -f {path}"));
    assert_eq!((err.as_str(), code), ("", 0), "{}", said.out);
    assert!(said.out.contains("  generation: 3\n"), "{}", said.out);
    let said = type_to(&fake, "weft get svc web -n shop -o json").await;
    let value: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(
        (&value["kind"], &value["metadata"]["resourceVersion"]),
        (&json!("Service"), &json!("43"))
    );
    let said = type_to(&fake, "weft get svc -n shop -o json").await;
    let value: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(
        (&value["kind"], value["items"].as_array().unwrap().len()),
        (&json!("List"), 1)
    );
}

#[tokio::test]
async fn get_names_what_is_not_there() {
    let said = type_to(&stored(), "weft get svc web db -n shop").await;
    assert_eq!(said.err, "error: there is no Service shop/db\n");
    assert_eq!(said.code, 1);
    let said = type_to(&stored(), "weft get pods").await;
    assert_eq!(said.code, 2);
    assert!(said.err.contains("pods is no kind of document"), "{}", said.err);
}

#[tokio::test]
async fn get_goes_on_with_each_change() {
    let mut fake = stored();
    let gone = v1::ResourceKey {
        kind: "Workload".to_owned(),
        namespace: "shop".to_owned(),
        name: "web-0".to_owned(),
    };
    let mut other = document("Workload", "bank/web-0", 1, workload("web-0"));
    other.revision = 45;
    let stored = |document| v1::WatchEvent {
        revision: 45,
        event: Some(v1::watch_event::Event::Stored(document)),
    };
    fake.events = vec![
        stored(other),
        stored(document("Workload", "shop/web-1", 1, workload("web-1"))),
        v1::WatchEvent {
            revision: 46,
            event: Some(v1::watch_event::Event::Deleted(gone)),
        },
    ];
    let said = type_to(&fake, "weft get wl -n shop --watch -l app=web").await;
    let rows: Vec<Vec<&str>> = said
        .out
        .lines()
        .map(|line| line.split_whitespace().take(2).collect())
        .collect();
    assert_eq!(
        rows,
        [
            ["EVENT", "NAME"],
            ["present", "web-0"],
            ["changed", "web-1"],
            ["deleted", "web-0"]
        ]
    );
    assert_eq!(said.code, 1);
    assert!(said.err.contains("ended the watch"), "{}", said.err);
    assert!(fake.calls.lock().unwrap()[1].contains("after_revision: 44"));
    let said = type_to(&fake, "weft get wl -n shop --watch -l app=db -o name").await;
    assert!(!said.out.contains("changed"), "{}", said.out);
}

#[tokio::test]
async fn describe_tells_who_has_it() {
    let mut fake = stored();
    fake.resolved = v1::ResolveResponse {
        port: 80,
        endpoints: vec![v1::Endpoint {
            workload: "shop/web-0".to_owned(),
            mesh_address: "10.0.0.7:15008".to_owned(),
            identity: "spiffe://mesh.test/ns/shop/sa/web".to_owned(),
            port: 8080,
            readiness: v1::Readiness::NotReady.into(),
        }],
        ..Default::default()
    };
    let mut behind = crate::cli::testing::proxy("shop", "client-0");
    behind.names = vec!["web".to_owned()];
    behind.is_current = false;
    behind.acked_revision = 40;
    let mut stranger = crate::cli::testing::proxy("bank", "bank-0");
    stranger.names = vec!["web".to_owned()];
    *fake.fleets.lock().unwrap() = vec![v1::FleetResponse {
        proxies: vec![behind, stranger, crate::cli::testing::proxy("bank", "bank-1")],
        revision: 44,
        trust_version: 1,
    }];
    let said = type_to(&fake, "weft describe svc web -n shop").await;
    assert!(
        said.out
            .starts_with("Service shop/web\nGeneration 3 of revision 43, applied\n"),
        "{}",
        said.out
    );
    assert!(
        said.out.contains("  spec:\n    clusterIP: 10.96.0.1\n"),
        "{}",
        said.out
    );
    assert!(
        said.out
            .contains("80     shop/web-0   not ready   10.0.0.7:15008   8080"),
        "{}",
        said.out
    );
    let sidecars = said.out.split("Sidecars\n").nth(1).unwrap();
    assert_eq!(
        sidecars,
        "WORKLOAD        HAS IT              CONFIG    ACKED\nbank/bank-1     yes (by name)       current   42 of 44\n\
         shop/client-0   not yet (by name)   behind    40 of 44\n"
    );
    let said = type_to(&fake, "weft describe wl/shop/web-0").await;
    assert!(said.out.contains("registered by its sidecar"), "{}", said.out);
    assert!(
        said.out.contains("Services\n  service/shop/web\n"),
        "{}",
        said.out
    );
    let said = type_to(&fake, "weft describe svc db").await;
    assert_eq!(
        (said.err.as_str(), said.code),
        ("error: there is no Service default/db\n", 1)
    );
}

#[tokio::test]
async fn an_export_is_every_byte_of_it() {
    let fake = Fake {
        export: vec![b"one\n", b"two\x1b\n"],
        ..Fake::default()
    };
    let said = type_to(&fake, "weft export").await;
    assert_eq!((said.out.as_str(), said.code), ("one\ntwo\x1b\n", 0));
    let typing = Typing {
        is_terminal: true,
        ..Typing::default()
    };
    assert_eq!(typing.type_to(&fake, "weft export").await.code, 2);
}
