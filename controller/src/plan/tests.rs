use std::net::IpAddr;

use proptest::prelude::*;

use super::*;
use crate::world::{
    Change, Meaning,
    testing::{config, key, labels, put, remove, service, workload},
};

fn name(text: &str) -> Subject {
    Subject::name(text).unwrap()
}

fn kinds(plan: &Plan) -> Vec<String> {
    plan.resources.keys().map(ToString::to_string).collect()
}

/// A world of a thousand services with ten workloads each.
fn large() -> World {
    let mut world = World::new();
    let mut changes = vec![config(1)];
    for index in 0..1_000 {
        let app = format!("app-{index}");
        changes.push(service(&format!("service-{index}"), 1, &app));
        for replica in 0..10 {
            let address = format!("10.{}.{}.{replica}", index / 250, index % 250);
            changes.push(workload(&format!("w-{index}-{replica}"), 1, &app, &address));
        }
    }
    world.apply(changes, 1);
    world
}

#[test]
fn a_name_is_of_the_namespace_of_the_proxy_or_of_the_one_it_says() {
    for (text, namespace, expected) in [
        ("web", "shop", Some("Service shop/web")),
        ("web", "bank", Some("Service bank/web")),
        ("web.shop", "bank", Some("Service shop/web")),
        ("web.shop.svc", "bank", Some("Service shop/web")),
        ("web.shop.svc.cluster.local", "bank", Some("Service shop/web")),
        ("web.shop.cluster.local", "bank", None),
        ("web.shop.pod", "bank", None),
        ("web.shop.svc.cluster.local.", "bank", None),
        ("", "bank", None),
    ] {
        let found = service_key(text, namespace).map(|key| key.to_string());
        assert_eq!(found.as_deref(), expected, "{text}");
    }
}

#[test]
fn a_proxy_that_uses_five_services_holds_five() {
    let world = large();
    let subjects: Vec<Subject> = (0..5).map(|index| name(&format!("service-{index}"))).collect();
    let own = key(Kind::Workload, "w-7-3");
    let plan = plan(&world, "shop", Some(&own), &subjects);
    // The settings, its own workload, five services with ten workloads each.
    assert_eq!(plan.resources.len(), 1 + 1 + 5 * 11);
    assert!(plan.unknown.is_empty());
}

#[test]
fn a_change_of_one_endpoint_touches_its_service_alone() {
    let mut world = large();
    let affected = world.apply(vec![workload("w-7-3", 2, "app-7", "10.0.7.3")], 2);
    let mut topics: Vec<&Topic> = affected.keys().collect();
    topics.sort_by_key(|topic| format!("{topic:?}"));
    let expected = [
        &Topic::Address("10.0.7.3".parse().unwrap()),
        &Topic::Service(key(Kind::Service, "service-7")),
        &Topic::Workload(key(Kind::Workload, "w-7-3")),
    ];
    assert_eq!(topics, expected);
    assert!(affected.values().all(|keys| keys.len() == 1));
    assert!(
        world
            .apply(vec![workload("w-7-3", 2, "app-7", "10.0.7.3")], 2)
            .is_empty()
    );
}

#[test]
fn an_address_leads_to_a_service_with_its_workloads_or_to_one_workload_alone() {
    let mut world = World::new();
    let meaning = Meaning::Service {
        address: Some("10.96.0.1".parse().unwrap()),
        selector: labels(&[("app", "web")]),
    };
    world.apply(
        vec![
            put(key(Kind::Service, "web"), 1, meaning),
            workload("web-0", 1, "web", "10.0.0.1"),
            workload("web-1", 1, "web", "10.0.0.2"),
        ],
        1,
    );
    let by = |text: &str| kinds(&plan(&world, "shop", None, &[Subject::address(text).unwrap()]));
    assert_eq!(
        by("10.96.0.1"),
        ["Service shop/web", "Workload shop/web-0", "Workload shop/web-1"]
    );
    assert_eq!(by("10.0.0.2"), ["Workload shop/web-1"]);
    assert_eq!(by("::ffff:10.0.0.2"), ["Workload shop/web-1"]);
    assert!(by("10.0.0.3").is_empty());
}

#[test]
fn what_is_unknown_is_answered_when_it_appears() {
    let mut world = World::new();
    let mut wants = Wants::new("shop", None);
    let mut stale = Stale::default();
    wants.subscribe(&world, name("web"), &mut stale);
    assert!(!wants.is_known(&name("web")));
    let mut stale = Stale::default();
    for (topic, keys) in world.apply(vec![service("web", 1, "web")], 1) {
        wants.on_affected(&world, &topic, &keys, &mut stale);
    }
    assert!(wants.is_known(&name("web")) && stale.subjects.contains(&name("web")));
    assert_eq!(wants.version(&world, &key(Kind::Service, "web")), Some(1));
}

#[derive(Clone, Debug)]
enum Step {
    Service { index: u8, app: u8, address: Option<u8> },
    Workload { index: u8, app: u8, address: u8 },
    External { index: u8, host: u8, address: u8 },
    Config(u8),
    Remove { kind: u8, index: u8 },
    Subscribe(u8),
    Unsubscribe(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0..4u8, 0..3u8, prop::option::of(0..4u8))
            .prop_map(|(index, app, address)| Step::Service { index, app, address }),
        6 => (0..6u8, 0..3u8, 0..4u8).prop_map(|(index, app, address)| Step::Workload { index, app, address }),
        2 => (0..3u8, 0..3u8, 0..4u8).prop_map(|(index, host, address)| Step::External { index, host, address }),
        1 => (0..2u8).prop_map(Step::Config),
        3 => (0..4u8, 0..6u8).prop_map(|(kind, index)| Step::Remove { kind, index }),
        4 => (0..12u8).prop_map(Step::Subscribe),
        2 => (0..12u8).prop_map(Step::Unsubscribe),
    ];
    prop::collection::vec(step, 0..60)
}

fn address(index: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, index])
}

/// Names of services, hosts and addresses, some of which mean the same.
fn subject(index: u8) -> Subject {
    match index {
        0..4 => name(&format!("s{index}")),
        4 => name("s0.shop"),
        5..8 => name(&format!("host{}.example", index - 5)),
        _ => Subject::Address(address(index - 8)),
    }
}

fn change(step: &Step, version: u64) -> Option<Change> {
    let app = |app: &u8| labels(&[("app", &format!("a{app}")), ("mesh", "yes")]);
    let change = match step {
        Step::Service {
            index,
            app: a,
            address: at,
        } => {
            let meaning = Meaning::Service {
                address: at.map(address),
                selector: app(a),
            };
            put(key(Kind::Service, &format!("s{index}")), version, meaning)
        }
        Step::Workload {
            index,
            app: a,
            address: at,
        } => {
            let meaning = Meaning::Workload {
                address: address(*at),
                labels: app(a),
            };
            put(key(Kind::Workload, &format!("k{index}")), version, meaning)
        }
        Step::External {
            index,
            host,
            address: at,
        } => {
            let hosts = vec![format!("host{host}.example")];
            let meaning = Meaning::ExternalService {
                hosts,
                addresses: vec![address(*at)],
            };
            put(key(Kind::ExternalService, &format!("e{index}")), version, meaning)
        }
        Step::Config(index) => put(
            key(Kind::MeshConfig, &format!("m{index}")),
            version,
            Meaning::MeshConfig,
        ),
        Step::Remove { kind, index } => remove(match kind {
            0 => key(Kind::Service, &format!("s{index}")),
            1 => key(Kind::Workload, &format!("k{index}")),
            2 => key(Kind::ExternalService, &format!("e{index}")),
            _ => key(Kind::MeshConfig, &format!("m{index}")),
        }),
        Step::Subscribe(_) | Step::Unsubscribe(_) => return None,
    };
    Some(change)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Whatever happens, in whatever order: looking only at what each change touches leads to the same as planning from
    /// nothing.
    #[test]
    fn incremental_plans_are_those_from_nothing(steps in steps()) {
        let mut world = World::new();
        let own = key(Kind::Workload, "k0");
        let mut wants = Wants::new("shop", Some(own.clone()));
        let mut held: BTreeMap<DocumentKey, u64> = BTreeMap::new();
        let mut unknown: BTreeSet<Subject> = BTreeSet::new();
        let mut topics: HashSet<Topic> = wants.own_topics().into_iter().collect();
        for (index, step) in steps.iter().enumerate() {
            let mut stale = Stale::default();
            match step {
                Step::Subscribe(index) => topics.extend(wants.subscribe(&world, subject(*index), &mut stale)),
                Step::Unsubscribe(index) => {
                    for topic in wants.unsubscribe(&world, &subject(*index), &mut stale) {
                        topics.remove(&topic);
                    }
                    unknown.remove(&subject(*index));
                }
                _ => {
                    let affected = world.apply(change(step, index as u64).into_iter().collect(), index as u64);
                    // Only what this proxy listens to reaches it.
                    for (topic, keys) in affected.iter().filter(|(topic, _)| topics.contains(topic)) {
                        wants.on_affected(&world, topic, keys, &mut stale);
                    }
                }
            }
            for key in stale.keys {
                match wants.version(&world, &key) {
                    Some(version) => held.insert(key, version),
                    None => held.remove(&key),
                };
            }
            for subject in stale.subjects {
                if wants.is_known(&subject) { unknown.remove(&subject) } else { unknown.insert(subject) };
            }
            let expected = plan(&world, "shop", Some(&own), wants.subjects());
            prop_assert_eq!(&held, &expected.resources, "after {:?}", step);
            prop_assert_eq!(&unknown, &expected.unknown);
            let needed: BTreeSet<&DocumentKey> = wants.needed(&world).collect();
            prop_assert_eq!(needed, expected.resources.keys().collect());
        }
    }
}
