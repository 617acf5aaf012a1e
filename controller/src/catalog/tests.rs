//! The catalog over a real store, in memory.

use bytes::Bytes;
use weft_proto::{SpiffeId, model::Readiness};

use super::*;
use crate::store::redb::RedbStore;

struct Place {
    store: SharedStore,
    catalog: Catalog,
    published: mpsc::UnboundedReceiver<Published>,
}

impl Place {
    async fn new() -> Self {
        Self::over(Arc::new(RedbStore::in_memory().unwrap())).await
    }

    async fn over(store: SharedStore) -> Self {
        let domain = "mesh.test".parse().unwrap();
        let (catalog, published) = Catalog::open(store.clone(), domain).await.unwrap();
        Self {
            store,
            catalog,
            published,
        }
    }

    /// The keys of what was published since, with a mark at those that are gone.
    fn published(&mut self) -> Vec<String> {
        let mut keys = Vec::new();
        while let Ok(published) = self.published.try_recv() {
            let shown = |change: &Change| match change.document {
                Some(_) => change.key.to_string(),
                None => format!("-{}", change.key),
            };
            keys.extend(published.changes.iter().map(shown));
        }
        keys
    }

    async fn apply(&self, text: &str) -> Result<Outcome, CatalogError> {
        let sources = [Source::new("a.yaml", text)];
        self.catalog.apply(&sources, &Request::by("ann")).await
    }

    async fn names(&self) -> Vec<String> {
        let (documents, _) = self.catalog.list(|_, _| true).await;
        documents.iter().map(|listed| listed.key.to_string()).collect()
    }

    async fn audited(&self) -> Vec<(String, String, u64, u64)> {
        let entries = audit::last(&*self.store, 100, 0).await.unwrap();
        let show = |entry: weft_proto::mesh::v1::AuditEntry| {
            let what = format!("{} {}", entry.who, entry.what);
            (what, entry.target, entry.from_generation, entry.to_generation)
        };
        entries.into_iter().map(show).collect()
    }
}

fn service(name: &str, port: u32) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{selector: {{app: web}}, ports: [{{port: {port}}}]}}\n---\n"
    )
}

/// A route, with one line of metadata that may be empty.
fn route(metadata: &str, port: u32) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata:\n  name: split\n{metadata}spec:\n  parentRefs: [{{group: '', kind: Service, name: web}}]\n  rules: [{{backendRefs: [{{name: api, port: {port}}}]}}]\n"
    )
}

fn key(text: &str) -> DocumentKey {
    text.parse().unwrap()
}

fn registered(address: &str, readiness: Readiness) -> Registered {
    let document = format!(
        r#"{{"apiVersion":"weft.dev/v1alpha1","kind":"Workload","metadata":{{"name":"web-0","namespace":"default"}},"spec":{{"address":"{address}","meshPort":15008}}}}"#
    );
    Registered {
        document: Bytes::from(document),
        readiness,
        identity: SpiffeId::parse("spiffe://mesh.test/ns/default/sa/web").unwrap(),
        grace: None,
    }
}

#[tokio::test]
async fn a_new_mesh_has_its_config_and_a_restart_publishes_all_there_is() {
    let mut place = Place::new().await;
    assert_eq!(place.published(), ["MeshConfig mesh"]);
    place.apply(&service("web", 80)).await.unwrap();
    place
        .catalog
        .write(
            &key("Workload default/web-0"),
            Some(&registered("10.0.0.1", Readiness::NotReady)),
        )
        .await
        .unwrap();
    let before = place.names().await;
    let mut again = Place::over(place.store.clone()).await;
    assert_eq!(again.names().await, before);
    assert_eq!(
        again.published(),
        ["Service default/web", "Workload default/web-0", "MeshConfig mesh"]
    );
    let workload = again.catalog.get(&key("Workload default/web-0")).await.unwrap();
    assert_eq!(workload.readiness(), Readiness::NotReady);
    assert_eq!(again.catalog.registered().await.unwrap().len(), 1);
}

#[tokio::test]
async fn what_is_wrong_in_one_document_changes_nothing_and_is_named_with_its_line() {
    let mut place = Place::new().await;
    place.published();
    let revision = place.store.revision();
    // Wrong by itself, and wrong beside another: two services with one address and port.
    let twin = |name: &str| service(name, 80).replace("spec: {", "spec: {clusterIP: 10.9.9.9, ");
    for (text, wanted) in [
        (
            service("web", 80) + &service("cart", 70_000),
            "a.yaml:9: spec.ports[0].port",
        ),
        (twin("web") + &twin("cart"), "spec.clusterIP"),
    ] {
        let Err(CatalogError::Invalid(errors)) = place.apply(&text).await else {
            panic!("{text}")
        };
        let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert!(
            errors
                .iter()
                .any(|error| error.contains(wanted) && error.starts_with("a.yaml:")),
            "{errors:?}"
        );
    }
    assert_eq!(place.names().await, ["MeshConfig mesh"]);
    assert_eq!(
        (place.store.revision(), place.published()),
        (revision, Vec::new())
    );
    // Nothing given is nothing changed.
    assert_eq!(place.apply("").await.unwrap().changes, []);
    assert_eq!(place.store.revision(), revision);
    // What was refused left nothing behind in the set.
    place.apply(&service("web", 80)).await.unwrap();
}

#[tokio::test]
async fn changes_are_counted_audited_and_published_and_the_same_again_is_none() {
    let mut place = Place::new().await;
    place.published();
    place.apply(&service("web", 80)).await.unwrap();
    let again = place.apply(&service("web", 80)).await.unwrap();
    assert_eq!(again.changes[0].before, again.changes[0].after);
    let changed = place.apply(&service("web", 81)).await.unwrap();
    assert_eq!(changed.changes[0].after.as_ref().unwrap().generation, 2);
    let gone = place
        .catalog
        .delete(vec![key("Service default/web")], false, &Request::by("bob"))
        .await
        .unwrap();
    assert_eq!(gone.changes[0].after, None);
    assert_eq!(
        place.published(),
        [
            "Service default/web",
            "Service default/web",
            "-Service default/web"
        ]
    );
    let target = "Service default/web".to_owned();
    assert_eq!(
        place.audited().await,
        [
            ("controller apply".to_owned(), "MeshConfig mesh".to_owned(), 0, 1),
            ("ann apply".to_owned(), target.clone(), 0, 1),
            ("ann apply".to_owned(), target.clone(), 1, 2),
            ("bob delete".to_owned(), target, 2, 0),
        ]
    );
    let missing = place
        .catalog
        .delete(vec![key("Service default/web")], false, &Request::by("bob"))
        .await;
    assert!(matches!(missing, Err(CatalogError::Missing(_))));
    place
        .catalog
        .delete(vec![key("Service default/web")], true, &Request::by("bob"))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_dry_run_and_an_unexpected_generation_change_nothing() {
    let mut place = Place::new().await;
    place.apply(&service("web", 80)).await.unwrap();
    place.published();
    let sources = [Source::new("a.yaml", service("web", 81))];
    let dry = Request {
        dry_run: true,
        ..Request::by("ann")
    };
    let planned = place.catalog.apply(&sources, &dry).await.unwrap();
    assert_eq!(planned.changes[0].after.as_ref().unwrap().generation, 2);
    for expected in [0, 2] {
        let request = Request {
            expected: vec![(key("Service default/web"), expected)],
            ..Request::by("ann")
        };
        let refused = place.catalog.apply(&sources, &request).await;
        assert!(
            matches!(refused, Err(CatalogError::Conflict(_, 1, _))),
            "{refused:?}"
        );
    }
    assert_eq!(
        place
            .catalog
            .get(&key("Service default/web"))
            .await
            .unwrap()
            .generation,
        1
    );
    assert_eq!(place.published(), Vec::<String>::new());
    let request = Request {
        expected: vec![(key("Service default/web"), 1)],
        ..Request::by("ann")
    };
    place.catalog.apply(&sources, &request).await.unwrap();
}

#[tokio::test]
async fn the_trust_domain_stays_and_the_config_cannot_go() {
    let place = Place::new().await;
    let other = "apiVersion: weft.dev/v1alpha1\nkind: MeshConfig\nmetadata: {name: mesh}\nspec: {trustDomain: other.test}\n";
    let Err(CatalogError::Invalid(errors)) = place.apply(other).await else {
        panic!()
    };
    assert_eq!((errors[0].path.as_str(), errors[0].line), ("spec.trustDomain", 4));
    let gone = place
        .catalog
        .delete(vec![key("MeshConfig mesh")], false, &Request::by("ann"))
        .await;
    assert!(matches!(gone, Err(CatalogError::Invalid(_))), "{gone:?}");
    assert_eq!(place.names().await, ["MeshConfig mesh"]);
}

#[tokio::test]
async fn what_a_proxy_registered_is_its_own_and_a_document_is_not_a_proxys() {
    let mut place = Place::new().await;
    place.published();
    let workload = key("Workload default/web-0");
    place
        .catalog
        .write(&workload, Some(&registered("10.0.0.1", Readiness::Ready)))
        .await
        .unwrap();
    let document =
        "apiVersion: weft.dev/v1alpha1\nkind: Workload\nmetadata: {name: web-0}\nspec: {address: 10.0.0.2}\n";
    assert!(matches!(
        place.apply(document).await,
        Err(CatalogError::Registered(_))
    ));
    let deleted = place
        .catalog
        .delete(vec![workload.clone()], false, &Request::by("ann"))
        .await;
    assert!(matches!(deleted, Err(CatalogError::Registered(_))));
    // A change of readiness alone is a new version for proxies.
    let version = |stored: Option<Stored>| stored.unwrap().revision;
    let before = version(place.catalog.get(&workload).await);
    place
        .catalog
        .write(&workload, Some(&registered("10.0.0.1", Readiness::Draining)))
        .await
        .unwrap();
    assert!(version(place.catalog.get(&workload).await) > before);
    place.catalog.write(&workload, None).await.unwrap();
    assert_eq!(
        place.published(),
        [
            "Workload default/web-0",
            "Workload default/web-0",
            "-Workload default/web-0"
        ]
    );

    place.apply(document).await.unwrap();
    let refused = place
        .catalog
        .write(&workload, Some(&registered("10.0.0.1", Readiness::Ready)))
        .await;
    assert!(matches!(refused, Err(WriteError::Refused(reason)) if reason.contains("is a document")));
    // Its end does not take the document away.
    place.catalog.write(&workload, None).await.unwrap();
    assert!(place.catalog.get(&workload).await.is_some());
}

#[tokio::test]
async fn a_registration_that_does_not_fit_is_refused_with_the_reason_and_nothing_stays_of_it() {
    let place = Place::new().await;
    let workload = key("Workload default/web-0");
    for (address, wanted) in [("0.0.0.0", "spec.address"), ("nowhere", "spec.address")] {
        let refused = place
            .catalog
            .write(&workload, Some(&registered(address, Readiness::Ready)))
            .await;
        assert!(
            matches!(&refused, Err(WriteError::Refused(reason)) if reason.contains(wanted)),
            "{refused:?}"
        );
    }
    let another = key("Workload default/web-1");
    let refused = place
        .catalog
        .write(&another, Some(&registered("10.0.0.1", Readiness::Ready)))
        .await;
    assert!(matches!(refused, Err(WriteError::Refused(_))), "of another name");
    assert_eq!(place.names().await, ["MeshConfig mesh"]);
    assert!(
        place.audited().await.len() == 1,
        "sidecars come and go without an entry"
    );
}

/// When a stored document says that it was made; and what the set says of it, which is the same.
async fn created(place: &Place, of: &str) -> String {
    let stored = place.catalog.get(&key(of)).await.unwrap();
    let value: serde_json::Value = serde_json::from_slice(&stored.json).unwrap();
    let text = value["metadata"]["creationTimestamp"]
        .as_str()
        .unwrap()
        .to_owned();
    let model = |set: &MeshSet| match &set.get(&key(of)).unwrap().model {
        Model::Route(route) => route.created,
        _ => None,
    };
    let seconds = weft_proto::parse::moment::parse(&text).unwrap();
    assert_eq!(place.catalog.with_set(model).await, Some(seconds));
    text
}

#[tokio::test]
async fn a_route_has_the_moment_of_its_creation_for_good() {
    let place = Place::new().await;
    let of = "HTTPRoute default/split";
    place.apply(&route("", 80)).await.unwrap();
    let made = created(&place, of).await;
    assert!(
        made.ends_with('Z') && made.len() == "2026-01-31T12:00:00Z".len(),
        "{made}"
    );

    // As it was written, as it is shown, and with what somebody else wrote: no change.
    let stored = place.catalog.get(&key(of)).await.unwrap();
    let shown = String::from_utf8(stored.json.to_vec()).unwrap();
    let other = "  creationTimestamp: 2020-01-01T00:00:00Z\n";
    for text in [&route("", 80), &shown, &route(other, 80)] {
        let again = place.apply(text).await.unwrap();
        assert_eq!(again.changes[0].before, again.changes[0].after, "{text}");
    }
    // A change of something else is one, and leaves it.
    place.apply(&route(other, 81)).await.unwrap();
    assert_eq!(place.catalog.get(&key(of)).await.unwrap().generation, 2);
    assert_eq!(created(&place, of).await, made);

    // Made anew it brings it along, in whatever form.
    place
        .catalog
        .delete(vec![key(of)], false, &Request::by("ann"))
        .await
        .unwrap();
    let other = "  creationTimestamp: 2020-01-01T01:00:00.5+01:00\n";
    place.apply(&route(other, 80)).await.unwrap();
    assert_eq!(created(&place, of).await, "2020-01-01T00:00:00Z");
    let again = Place::over(place.store.clone()).await;
    assert_eq!(created(&again, of).await, "2020-01-01T00:00:00Z");
}

#[tokio::test]
async fn what_has_no_age_is_stored_as_it_was_written() {
    let place = Place::new().await;
    place.apply(&service("web", 80)).await.unwrap();
    let stored = place.catalog.get(&key("Service default/web")).await.unwrap();
    assert!(!String::from_utf8_lossy(&stored.json).contains("creationTimestamp"));
}

#[tokio::test]
async fn a_route_that_leads_nowhere_yet_is_stored_and_says_so_until_it_does() {
    let place = Place::new().await;
    let outcome = place.apply(&route("", 80)).await.unwrap();
    let warnings: Vec<String> = outcome.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    let (accepted, resolved) = (&warnings[0], &warnings[1]);
    // Where it was written, with the reason and what to do.
    assert!(
        accepted.starts_with("a.yaml:6: spec.parentRefs[0]: stored, but not accepted (NoMatchingParent): "),
        "{accepted}"
    );
    assert!(
        resolved.starts_with("a.yaml:7: spec.rules: ") && resolved.contains("(BackendNotFound)"),
        "{resolved}"
    );
    let of = key("HTTPRoute default/split");
    let statuses = async || {
        let status = place.catalog.status(&of).await.unwrap();
        let conditions = status["parents"][0]["conditions"].as_array().unwrap().clone();
        let shown = conditions
            .iter()
            .map(|condition| format!("{}={}", condition["type"], condition["status"]));
        shown.collect::<Vec<_>>().join(" ").replace('"', "")
    };
    assert_eq!(statuses().await, "Accepted=False ResolvedRefs=False");
    // It is told again however often it is applied, and of a dry run too, which changes nothing.
    let dry = Request {
        dry_run: true,
        ..Request::by("ann")
    };
    let sources = [Source::new("a.yaml", route("", 80))];
    assert_eq!(
        place.catalog.apply(&sources, &dry).await.unwrap().warnings.len(),
        2
    );

    // Others come, and nothing of it is stored anew.
    let generation = place.catalog.get(&of).await.unwrap().generation;
    let outcome = place.apply(&service("web", 80)).await.unwrap();
    assert_eq!(outcome.warnings, [], "of the route nothing was given");
    assert_eq!(statuses().await, "Accepted=True ResolvedRefs=False");
    place.apply(&service("api", 80)).await.unwrap();
    assert_eq!(statuses().await, "Accepted=True ResolvedRefs=True");
    assert_eq!(place.catalog.get(&of).await.unwrap().generation, generation);
    assert_eq!(place.apply(&route("", 80)).await.unwrap().warnings, []);
    let (listed, _) = place.catalog.list(|_, _| true).await;
    let with_status: Vec<String> = listed
        .iter()
        .filter(|listed| listed.status.is_some())
        .map(|listed| listed.key.to_string())
        .collect();
    assert_eq!(with_status, ["HTTPRoute default/split"]);
}

#[tokio::test]
async fn of_two_policies_with_one_target_the_one_that_was_there_first_holds() {
    let place = Place::new().await;
    let policy = |name: &str, created: &str| {
        format!(
            "apiVersion: weft.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {{name: {name}{created}}}\nspec:\n  targetRefs: [{{group: '', kind: Service, name: web}}]\n  limits: {{requests: 9}}\n"
        )
    };
    place.apply(&service("web", 80)).await.unwrap();
    place
        .apply(&policy("z", ", creationTimestamp: 2020-01-01T00:00:00Z"))
        .await
        .unwrap();
    // Its name would come first, and it does not say when it was made.
    let outcome = place.apply(&policy("a", "")).await.unwrap();
    let warnings: Vec<String> = outcome.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(
        warnings[0].starts_with("a.yaml:5: spec.targetRefs[0]: stored, but not accepted (Conflicted): "),
        "{warnings:?}"
    );
    let again = place.apply(&policy("z", "")).await.unwrap();
    assert_eq!(again.warnings, []);
    assert_eq!(again.changes[0].before, again.changes[0].after);
}
