use std::net::IpAddr;

use proptest::prelude::*;

use super::*;
use crate::world::{
    Change, Meaning,
    testing::{config, grant, key, key_in, labels, policy, put, remove, route, route_of, service, workload},
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
    assert!(affected.values().all(|touched| touched.keys("shop").count() == 1));
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
    for (topic, touched) in world.apply(vec![service("web", 1, "web")], 1) {
        wants.on_affected(&world, &topic, &touched, &mut stale);
    }
    assert!(wants.is_known(&name("web")) && stale.subjects.contains(&name("web")));
    assert_eq!(wants.version(&world, &key(Kind::Service, "web")), Some(1));
}

fn shop_service(name: &str) -> DocumentKey {
    key(Kind::Service, name)
}

/// `web` in front of `v1` and, in another namespace, `v2`; a route behind a backend; and what goes with them.
fn routed() -> World {
    let in_bank = |kind, name: &str| key_in(kind, "bank", name);
    let of_bank = |kind, name: &str, meaning| put(in_bank(kind, name), 1, meaning);
    let v2 = Meaning::Service {
        address: None,
        selector: labels(&[("app", "v2")]),
    };
    let v2_0 = Meaning::Workload {
        address: "10.0.2.2".parse().unwrap(),
        labels: labels(&[("app", "v2")]),
    };
    let mut world = World::new();
    world.apply(
        vec![
            service("web", 1, "web"),
            workload("web-0", 1, "web", "10.0.0.1"),
            service("v1", 1, "v1"),
            workload("v1-0", 1, "v1", "10.0.1.1"),
            of_bank(Kind::Service, "v2", v2),
            of_bank(Kind::Workload, "v2-0", v2_0),
            service("deep", 1, "deep"),
            service("other", 1, "other"),
            route(
                "split",
                1,
                &[shop_service("web")],
                &[
                    shop_service("v1"),
                    in_bank(Kind::Service, "v2"),
                    shop_service("gone"),
                ],
            ),
            route("behind", 1, &[shop_service("v1")], &[shop_service("deep")]),
            route_of(
                in_bank(Kind::HttpRoute, "banks-own"),
                1,
                &[shop_service("web")],
                &[shop_service("other")],
            ),
            policy("web", 1, &[shop_service("web")], false),
            policy("v1", 1, &[shop_service("v1")], false),
            policy("deep", 1, &[shop_service("deep"), shop_service("gone")], false),
            grant("bank", "shop", 1, "shop"),
            grant("bank", "garage", 1, "garage"),
            grant("shop", "bank", 1, "bank"),
        ],
        1,
    );
    world
}

#[test]
fn a_service_comes_with_its_routes_and_their_backends_with_theirs_and_no_further() {
    let world = routed();
    let plan_of =
        |namespace: &str, name: &str| kinds(&plan(&world, namespace, None, &[Subject::name(name).unwrap()]));
    assert_eq!(
        plan_of("shop", "web"),
        [
            "Service bank/v2",
            "Service shop/v1",
            "Service shop/web",
            "Workload bank/v2-0",
            "Workload shop/v1-0",
            "Workload shop/web-0",
            "HTTPRoute shop/split",
            "ReferenceGrant bank/shop",
            "TrafficPolicy shop/v1",
            "TrafficPolicy shop/web",
        ]
    );
    assert_eq!(
        plan_of("shop", "v1"),
        [
            "Service shop/deep",
            "Service shop/v1",
            "Workload shop/v1-0",
            "HTTPRoute shop/behind",
            "TrafficPolicy shop/deep",
            "TrafficPolicy shop/v1",
        ]
    );
    assert_eq!(
        plan_of("shop", "deep"),
        ["Service shop/deep", "TrafficPolicy shop/deep"]
    );
}

#[test]
fn a_consumers_route_is_for_the_clients_of_its_namespace() {
    let world = routed();
    let plan_of = |namespace: &str| plan(&world, namespace, None, &[name("web.shop")]).resources;
    let consumers = key_in(Kind::HttpRoute, "bank", "banks-own");
    for (namespace, is_for_it) in [("bank", true), ("shop", false), ("garage", false)] {
        let plan = plan_of(namespace);
        // The grant of the backend's namespace comes with it.
        for key in [
            &consumers,
            &shop_service("other"),
            &key(Kind::ReferenceGrant, "bank"),
        ] {
            assert_eq!(plan.contains_key(key), is_for_it, "{namespace}: {key}");
        }
        assert!(
            plan.contains_key(&key(Kind::HttpRoute, "split")),
            "{namespace}: the producer's"
        );
    }
}

#[test]
fn a_change_behind_a_consumers_route_is_nothing_to_other_namespaces() {
    let mut world = routed();
    let affected = world.apply(vec![service("other", 2, "other")], 2);
    let web = &affected[&Topic::Service(shop_service("web"))];
    assert_eq!(web.keys("bank").count(), 1);
    for namespace in ["shop", "garage"] {
        assert!(
            !web.concerns(namespace) && web.keys(namespace).count() == 0,
            "{namespace}"
        );
    }
    // And one behind the producer's is something to all.
    let affected = world.apply(vec![workload("v1-0", 2, "v1", "10.0.1.1")], 3);
    let web = &affected[&Topic::Service(shop_service("web"))];
    assert_eq!(
        web.keys("garage").collect::<Vec<_>>(),
        [&key(Kind::Workload, "v1-0")]
    );
}

#[test]
fn a_proxy_has_its_own_services_only_for_a_policy_that_it_enforces() {
    let mut world = routed();
    let own = key(Kind::Workload, "web-0");
    let plan_of = |world: &World| kinds(&plan(world, "shop", Some(&own), &[]));
    assert_eq!(plan_of(&world), ["Workload shop/web-0"]);
    let policies = vec![
        policy("rates", 2, &[shop_service("web")], true),
        policy("others", 2, &[shop_service("v1")], true),
        workload("web-1", 2, "web", "10.0.0.2"),
    ];
    world.apply(policies, 2);
    assert_eq!(
        plan_of(&world),
        [
            "Service shop/web",
            "Workload shop/web-0",
            "Workload shop/web-1",
            "TrafficPolicy shop/rates",
            "TrafficPolicy shop/web",
        ],
        "without its routes, which are for those that call it"
    );
}

#[derive(Clone, Debug)]
enum Step {
    Service {
        at: Place,
        app: u8,
        address: Option<u8>,
    },
    Workload {
        at: Place,
        app: u8,
        address: u8,
    },
    External {
        index: u8,
        host: u8,
        address: u8,
    },
    Route {
        at: Place,
        is_grpc: bool,
        parents: Vec<Place>,
        backends: Vec<Place>,
    },
    Policy {
        at: Place,
        targets: Vec<u8>,
        is_at_server: bool,
    },
    Grant {
        at: Place,
        is_grpc: bool,
        from: u8,
    },
    Config(u8),
    Remove {
        kind: Kind,
        at: Place,
    },
    Subscribe(u8),
    Unsubscribe(u8),
}

/// Of which namespace, and which of it.
type Place = (u8, u8);

fn place(count: u8) -> impl Strategy<Value = Place> {
    (prop_oneof![3 => Just(0u8), 1 => Just(1u8)], 0..count)
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let places = || prop::collection::vec(place(4), 1..3);
    let step = prop_oneof![
        3 => (place(4), 0..3u8, prop::option::of(0..4u8))
            .prop_map(|(at, app, address)| Step::Service { at, app, address }),
        6 => (place(6), 0..3u8, 0..4u8).prop_map(|(at, app, address)| Step::Workload { at, app, address }),
        2 => (0..3u8, 0..3u8, 0..4u8).prop_map(|(index, host, address)| Step::External { index, host, address }),
        6 => (place(3), prop::bool::weighted(0.2), places(), places())
            .prop_map(|(at, is_grpc, parents, backends)| Step::Route { at, is_grpc, parents, backends }),
        4 => (place(2), prop::collection::vec(0..4u8, 1..3), any::<bool>())
            .prop_map(|(at, targets, is_at_server)| Step::Policy { at, targets, is_at_server }),
        3 => (place(2), prop::bool::weighted(0.2), 0..2u8)
            .prop_map(|(at, is_grpc, from)| Step::Grant { at, is_grpc, from }),
        1 => (0..2u8).prop_map(Step::Config),
        5 => (prop::sample::select(Kind::ALL.to_vec()), place(6)).prop_map(|(kind, at)| Step::Remove { kind, at }),
        5 => (0..14u8).prop_map(Step::Subscribe),
        2 => (0..14u8).prop_map(Step::Unsubscribe),
    ];
    prop::collection::vec(step, 0..80)
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
        8..10 => name(&format!("s{}.bank", index - 8)),
        _ => Subject::Address(address(index - 10)),
    }
}

fn key_at(kind: Kind, (namespace, index): Place) -> DocumentKey {
    let namespace = match (kind.is_namespaced(), namespace) {
        (false, _) => "",
        (true, 0) => "shop",
        (true, _) => "bank",
    };
    key_in(kind, namespace, &format!("s{index}"))
}

fn services_at(places: &[Place]) -> BTreeSet<DocumentKey> {
    places.iter().map(|at| key_at(Kind::Service, *at)).collect()
}

fn change(step: &Step, version: u64) -> Option<Change> {
    let app = |app: &u8| labels(&[("app", &format!("a{app}")), ("mesh", "yes")]);
    let route_kind = |is_grpc: bool| if is_grpc { Kind::GrpcRoute } else { Kind::HttpRoute };
    let (kind, at, meaning) = match step {
        Step::Service {
            at,
            app: a,
            address: ip,
        } => {
            let address = ip.map(address);
            let selector = app(a);
            (Kind::Service, *at, Meaning::Service { address, selector })
        }
        Step::Workload {
            at,
            app: a,
            address: ip,
        } => {
            let address = address(*ip);
            let labels = app(a);
            (Kind::Workload, *at, Meaning::Workload { address, labels })
        }
        Step::External {
            index,
            host,
            address: at,
        } => {
            let hosts = vec![format!("host{host}.example")];
            let addresses = vec![address(*at)];
            let meaning = Meaning::ExternalService { hosts, addresses };
            (Kind::ExternalService, (0, *index), meaning)
        }
        Step::Route {
            at,
            is_grpc,
            parents,
            backends,
        } => {
            let parents = services_at(parents);
            let backends = services_at(backends);
            (route_kind(*is_grpc), *at, Meaning::Route { parents, backends })
        }
        Step::Policy {
            at,
            targets,
            is_at_server,
        } => {
            let targets: Vec<Place> = targets.iter().map(|target| (at.0, *target)).collect();
            let targets = services_at(&targets);
            let is_at_server = *is_at_server;
            (
                Kind::TrafficPolicy,
                *at,
                Meaning::Policy {
                    targets,
                    is_at_server,
                },
            )
        }
        Step::Grant { at, is_grpc, from } => {
            let namespace = if *from == 0 { "shop" } else { "bank" }.to_owned();
            let from = vec![(route_kind(*is_grpc), namespace.parse().unwrap())];
            (Kind::ReferenceGrant, *at, Meaning::Grant { from })
        }
        Step::Config(index) => (Kind::MeshConfig, (0, *index), Meaning::MeshConfig),
        Step::Remove { kind, at } => return Some(remove(key_at(*kind, *at))),
        Step::Subscribe(_) | Step::Unsubscribe(_) => return None,
    };
    Some(put(key_at(kind, at), version, meaning))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Whatever happens, in whatever order: looking only at what each change touches leads to the same as planning from
    /// nothing.
    #[test]
    fn incremental_plans_are_those_from_nothing(steps in steps()) {
        let mut world = World::new();
        let own = key(Kind::Workload, "s0");
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
                    for (topic, touched) in affected.iter().filter(|(topic, _)| topics.contains(topic)) {
                        wants.on_affected(&world, topic, touched, &mut stale);
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
