use bytes::Bytes;
use rand::{Rng, SeedableRng, rngs::StdRng};

use super::*;

const CONFIG: &str = r#"{"apiVersion":"weft.dev/v1alpha1","kind":"MeshConfig","metadata":{"name":"mesh"},"spec":{"trustDomain":"mesh.test","meshRanges":["10.0.0.0/16"],"serviceRanges":["10.96.0.0/16"]}}"#;
const WEB: &str = r#"{"apiVersion":"v1","kind":"Service","metadata":{"name":"web","namespace":"default"},"spec":{"clusterIP":"10.96.0.1","ports":[{"port":80}],"selector":{"app":"web"}}}"#;
const WEB_0: &str = r#"{"apiVersion":"weft.dev/v1alpha1","kind":"Workload","metadata":{"labels":{"app":"web"},"name":"web-0","namespace":"default"},"spec":{"address":"10.0.0.1","meshPort":15008,"ports":[{"port":80}],"serviceAccount":"web"}}"#;

fn resource(document: &str, version: u64) -> mesh::Resource {
    let parsed = parse_document(&Source::new("a test", document)).unwrap();
    mesh::Resource {
        key: Some(key_message(&parsed.key)),
        version,
        document: Bytes::copy_from_slice(document.as_bytes()),
        ..mesh::Resource::default()
    }
}

fn update(changed: Vec<mesh::Resource>) -> mesh::Update {
    mesh::Update {
        changed,
        ..mesh::Update::default()
    }
}

fn good() -> mesh::Update {
    update(vec![resource(CONFIG, 1), resource(WEB_0, 2), resource(WEB, 3)])
}

fn holdings() -> Holdings {
    let mut holdings = Holdings::new("mesh.test".parse().unwrap());
    holdings.on_welcome("one");
    holdings.on_update(&good()).unwrap();
    holdings
}

fn key(text: &str) -> DocumentKey {
    text.parse().unwrap()
}

/// Everything that can be seen of it.
fn seen(holdings: &Holdings) -> String {
    format!(
        "{:?} {:?} {:?}",
        holdings.held(),
        holdings.view(),
        holdings.digest
    )
}

#[test]
fn an_update_is_held_with_its_digest() {
    let mut holdings = holdings();
    let view = holdings.view().unwrap();
    assert_eq!((view.mesh.services.len(), view.mesh.workloads.len()), (1, 1));
    let mut digest = Digest::default();
    for (name, version) in [
        ("MeshConfig mesh", 1),
        ("Service default/web", 3),
        ("Workload default/web-0", 5),
    ] {
        digest.add(name, version);
    }
    let mut next = update(vec![resource(WEB_0, 5)]);
    next.digest = Bytes::copy_from_slice(&digest.to_bytes());
    let taken = holdings.on_update(&next).unwrap();
    assert_eq!(
        taken,
        Taken {
            agrees: true,
            changed: true
        }
    );
    assert!(holdings.is_same(&digest.to_bytes()));
    next.digest = Bytes::from_static(&[0; 16]);
    assert!(!holdings.on_update(&next).unwrap().agrees);
}

#[test]
fn what_is_not_ready_is_told_apart() {
    let mut holdings = holdings();
    for (readiness, unready) in [
        (mesh::Readiness::NotReady, true),
        (mesh::Readiness::Draining, true),
        (mesh::Readiness::Ready, false),
        (mesh::Readiness::Unspecified, false),
    ] {
        let mut workload = resource(WEB_0, 4);
        workload.set_readiness(readiness);
        holdings.on_update(&update(vec![workload])).unwrap();
        let name = key("Workload default/web-0").namespaced_name().unwrap();
        assert_eq!(
            holdings.view().unwrap().unready.contains(&name),
            unready,
            "{readiness:?}"
        );
        assert_eq!(
            holdings.readiness(&key("Workload default/web-0")),
            Some(readiness)
        );
    }
}

#[test]
fn one_wrong_resource_refuses_the_update_as_a_whole_and_is_named() {
    let mut holdings = holdings();
    let before = seen(&holdings);
    let mut bad = resource(WEB, 7);
    bad.document = Bytes::from(WEB.replace("80", "70000"));
    let other = WEB_0.replace("web-0", "web-1").replace("10.0.0.1", "10.0.0.2");
    let problems = holdings
        .on_update(&update(vec![resource(&other, 6), bad]))
        .unwrap_err();
    assert_eq!(problems.len(), 1);
    assert_eq!(problems[0].document, "Service default/web");
    assert_eq!(problems[0].field, "spec.ports[0].port");
    assert_eq!(seen(&holdings), before);
    // What is right alone and wrong beside the others is refused as well.
    let taken = WEB_0.replace("web-0", "web-1");
    let problems = holdings
        .on_update(&update(vec![resource(&taken, 6)]))
        .unwrap_err();
    assert_eq!(problems[0].document, "Workload default/web-1");
    assert_eq!(seen(&holdings), before);
}

#[test]
fn an_unknown_feature_is_refused_by_name() {
    let mut holdings = holdings();
    let mut next = resource(WEB, 9);
    next.requires = vec!["documents.v1alpha1".to_owned(), "magic".to_owned()];
    let problems = holdings.on_update(&update(vec![next])).unwrap_err();
    assert!(
        problems[0].field == "requires" && problems[0].message.contains("\"magic\""),
        "{problems:?}"
    );
}

#[test]
fn versions_never_go_back_on_one_controller() {
    let mut holdings = holdings();
    let old = update(vec![resource(WEB, 2)]);
    assert_eq!(holdings.on_update(&old).unwrap_err()[0].field, "version");
    // Those of another controller, which may have been set up anew, are not comparable.
    holdings.on_welcome("two");
    holdings.on_update(&old).unwrap();
    holdings.on_welcome("one");
    holdings.on_update(&old).unwrap();
}

#[test]
fn nothing_is_not_an_order_to_forget_everything() {
    let mut holdings = holdings();
    let before = seen(&holdings);
    holdings.on_update(&mesh::Update::default()).unwrap();
    let whole = mesh::Update {
        is_whole: true,
        ..mesh::Update::default()
    };
    let problems = holdings.on_update(&whole).unwrap_err();
    assert!(
        problems[0].message.contains("the last good configuration stays"),
        "{problems:?}"
    );
    let mut removed = mesh::Update::default();
    removed.removed.push(key_message(&key("MeshConfig mesh")));
    assert!(holdings.on_update(&removed).is_err());
    assert_eq!(seen(&holdings), before);
    // A whole update with the settings is one.
    let whole = mesh::Update {
        is_whole: true,
        changed: vec![resource(CONFIG, 8)],
        ..mesh::Update::default()
    };
    holdings.on_update(&whole).unwrap();
    assert_eq!(holdings.len(), 1);
    // And to a proxy that has nothing, nothing is no harm.
    let mut fresh = Holdings::new("mesh.test".parse().unwrap());
    let nothing = mesh::Update {
        is_whole: true,
        ..mesh::Update::default()
    };
    fresh.on_update(&nothing).unwrap();
    assert!(fresh.view().is_none());
}

#[test]
fn settings_of_another_trust_domain_are_refused() {
    let mut holdings = holdings();
    let other = CONFIG.replace("mesh.test", "other.test");
    let problems = holdings
        .on_update(&update(vec![resource(&other, 9)]))
        .unwrap_err();
    assert_eq!(problems[0].field, "spec.trustDomain");
}

#[test]
fn what_is_held_comes_back_from_its_own_whole() {
    let holdings = holdings();
    let mut again = Holdings::new("mesh.test".parse().unwrap());
    again.on_update(&holdings.whole()).unwrap();
    assert_eq!(seen(&again), seen(&holdings));
}

/// Changes bytes, fields and whole parts of an update at random.
fn mutate(update: &mut mesh::Update, rng: &mut StdRng) {
    let index = rng.random_range(0..update.changed.len());
    let resource = &mut update.changed[index];
    resource.version += 10;
    match rng.random_range(0..8) {
        0..4 => {
            let mut bytes = resource.document.to_vec();
            for _ in 0..rng.random_range(1..4) {
                let at = rng.random_range(0..bytes.len());
                bytes[at] = rng.random();
            }
            resource.document = bytes.into();
        }
        4 => {
            let length = rng.random_range(0..resource.document.len());
            resource.document.truncate(length);
        }
        5 => resource.key = rng.random::<bool>().then(mesh::ResourceKey::default),
        6 => resource.requires.push("magic".to_owned()),
        _ => {
            let copy = resource.clone();
            update.changed.push(copy);
        }
    }
}

#[test]
fn no_mutation_is_half_applied_and_every_refusal_names_something() {
    let mut rng = StdRng::seed_from_u64(4);
    let mut refused = 0;
    for round in 0..2_000 {
        let mut holdings = holdings();
        let before = seen(&holdings);
        let mut mutated = good();
        mutate(&mut mutated, &mut rng);
        match holdings.on_update(&mutated) {
            Ok(_) => assert!(holdings.view().is_some(), "{round}"),
            Err(problems) => {
                refused += 1;
                assert_eq!(seen(&holdings), before, "{round}");
                assert!(
                    !problems.is_empty() && problems.iter().all(|problem| !problem.message.is_empty()),
                    "{round}"
                );
                holdings.on_update(&good()).unwrap();
            }
        }
    }
    assert!(
        refused > 1_000,
        "{refused} refused: mutations that change nothing prove nothing"
    );
}
