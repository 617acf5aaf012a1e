//! A mesh that changes one document at a time is always what it would be if it were read all at once.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use weft_proto::kinds::DocumentKey;
use weft_proto::mesh_set::{Change, MeshSet, Unserved};
use weft_proto::parse::{Parsed, parse_document, parse_documents};
use weft_proto::{DocumentError, Source};

const CONFIG: &str = "{apiVersion: weft.dev/v1alpha1, kind: MeshConfig, metadata: {name: mesh}, \
                      spec: {trustDomain: mesh.example}}";

fn parse(text: &str) -> Arc<Parsed> {
    let parsed =
        parse_document(&Source::new("?", text)).unwrap_or_else(|errors| panic!("{errors:#?}\n{text}"));
    // Errors name documents by their keys, as the controller has it.
    let name = parsed.key.to_string();
    Arc::new(parse_document(&Source::new(name, text)).unwrap())
}

fn service(name: &str, spec: &str) -> String {
    format!("{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, spec: {{{spec}}}}}")
}

fn workload(name: &str, labels: &str, spec: &str) -> String {
    format!(
        "{{apiVersion: weft.dev/v1alpha1, kind: Workload, metadata: {{name: {name}, labels: {{{labels}}}}}, spec: {{{spec}}}}}"
    )
}

fn external(name: &str, spec: &str) -> String {
    format!(
        "{{apiVersion: weft.dev/v1alpha1, kind: ExternalService, metadata: {{name: {name}}}, spec: {{{spec}}}}}"
    )
}

fn put(text: &str) -> Change {
    Change::Put(parse(text))
}

fn remove(key: &str) -> Change {
    Change::Remove(key.parse().unwrap())
}

fn set_of(texts: &[&str]) -> MeshSet {
    let mut set = MeshSet::new();
    let changes = [CONFIG].iter().chain(texts).map(|text| put(text));
    set.apply(changes, Unserved::Refuse).unwrap();
    set
}

/// Asserts that a change is refused with these errors, and that nothing has changed.
fn assert_refused(set: &mut MeshSet, changes: Vec<Change>, wanted: &[&str]) {
    let before = set.mesh();
    let errors = set.apply(changes, Unserved::Refuse).unwrap_err();
    let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(errors, wanted);
    assert_eq!(set.mesh(), before);
}

#[test]
fn nothing_is_no_change() {
    let mut set = MeshSet::new();
    assert_eq!(set.apply([], Unserved::Refuse).unwrap(), Default::default());
    assert_eq!(
        set.apply([remove("Service default/web")], Unserved::Refuse)
            .unwrap(),
        Default::default()
    );
    assert!(set.is_empty() && set.mesh().is_none());
    let mut set = set_of(&[&workload("a", "", "address: 10.0.0.1")]);
    set.apply([], Unserved::Refuse).unwrap();
    assert_eq!(set.len(), 2);
}

#[test]
fn documents_are_put_replaced_and_removed() {
    let mut set = set_of(&[
        &workload("a", "app: web", "address: 10.0.0.1, ports: [{port: 80}]"),
        &service(
            "web",
            "selector: {app: web}, clusterIP: 10.96.0.1, ports: [{port: 80}]",
        ),
    ]);
    let web = set.service_at("10.96.0.1".parse().unwrap()).unwrap().clone();
    assert_eq!(set.workloads_of(&web).count(), 1);
    let applied = set
        .apply(
            [
                put(&workload(
                    "a",
                    "app: db",
                    "address: 10.0.0.2, ports: [{port: 80}]",
                )),
                put(&workload(
                    "b",
                    "app: web",
                    "address: 10.0.0.1, ports: [{port: 80}]",
                )),
            ],
            Unserved::Refuse,
        )
        .unwrap();
    assert_eq!((applied.put, applied.removed, applied.unserved), (2, 0, vec![]));
    let name = |address: &str| {
        let mut names = set
            .workloads_at(address.parse().unwrap())
            .map(|workload| workload.name.to_string());
        (names.next(), names.next())
    };
    assert_eq!(name("10.0.0.1"), (Some("default/b".into()), None));
    assert_eq!(name("10.0.0.2"), (Some("default/a".into()), None));
    assert_eq!(name("10.0.0.3"), (None, None));
    let selected: Vec<String> = set
        .workloads_of(&web)
        .map(|workload| workload.name.to_string())
        .collect();
    assert_eq!(selected, ["default/b"]);
    let applied = set
        .apply([remove("Workload default/b")], Unserved::Refuse)
        .unwrap();
    assert_eq!((applied.put, applied.removed), (0, 1));
    assert_eq!((set.workloads_of(&web).count(), set.len()), (0, 3));
}

#[test]
fn the_mesh_config_can_be_replaced_but_not_removed() {
    let mut set = MeshSet::new();
    let web = workload("a", "", "address: 10.0.0.1, meshPort: 15008");
    assert_refused(
        &mut set,
        vec![put(&web)],
        &["no weft.dev/v1alpha1 MeshConfig: a mesh needs one, for its trustDomain"],
    );
    let mut set = set_of(&[&web]);
    let why = "is what the whole mesh has its trustDomain from: it can be replaced, not removed";
    assert_refused(
        &mut set,
        vec![remove("MeshConfig mesh")],
        &[&format!("MeshConfig mesh: the MeshConfig mesh {why}")],
    );
    let other = CONFIG.replace("name: mesh", "name: other");
    assert_refused(
        &mut set,
        vec![put(&other)],
        &["MeshConfig other: kind: a mesh has one MeshConfig, and there is the MeshConfig mesh already"],
    );
    // Of documents that did not change as well: the MeshConfig is about all of them.
    let narrow = CONFIG.replace("mesh.example", "mesh.example, meshRanges: [10.1.0.0/16]");
    assert_refused(
        &mut set,
        vec![put(&narrow)],
        &[
            "Workload default/a: spec.address: 10.0.0.1 is in none of the MeshConfig's meshRanges: without this \
           document, traffic for it would count as leaving the mesh",
        ],
    );
    set.apply([remove("MeshConfig mesh"), put(&other)], Unserved::Refuse)
        .unwrap();
    assert_eq!(set.len(), 2);
}

#[test]
fn a_change_is_made_whole_or_not_at_all() {
    let mut set = set_of(&[
        &workload("a", "", "address: 10.0.0.1, uid: one, ports: [{port: 80}]"),
        &workload("b", "", "address: 10.0.0.2, uid: two, ports: [{port: 80}]"),
    ]);
    assert_refused(
        &mut set,
        vec![
            put(&workload("c", "", "address: 10.0.0.3, uid: three")),
            remove("Workload default/a"),
            put(&workload("b", "", "address: 10.0.0.3, uid: three")),
            put(&workload("d", "", "address: 10.0.0.4, uid: three")),
        ],
        &[
            "Workload default/b: spec.uid: three is also the uid of the Workload default/c",
            "Workload default/d: spec.uid: three is also the uid of the Workload default/c",
        ],
    );
    // What the refused change had removed is still claimed, and what it had put is not.
    assert_refused(
        &mut set,
        vec![put(&workload(
            "c",
            "",
            "address: 10.0.0.1, uid: three, ports: [{port: 80}]",
        ))],
        &[
            "Workload default/c: spec.ports[0].port: port 80 of 10.0.0.1 is spec.ports[0].port of the \
           Workload default/a already",
        ],
    );
    // Two that change places, which neither could alone.
    set.apply(
        [
            put(&workload(
                "a",
                "",
                "address: 10.0.0.2, uid: two, ports: [{port: 80}]",
            )),
            put(&workload(
                "b",
                "",
                "address: 10.0.0.1, uid: one, ports: [{port: 80}]",
            )),
        ],
        Unserved::Refuse,
    )
    .unwrap();
    let twice = put(&workload("c", "", "address: 10.0.0.3"));
    assert_refused(
        &mut set,
        vec![twice, remove("Workload default/c")],
        &["Workload default/c: metadata.name: the Workload default/c is in the change already"],
    );
}

#[test]
fn a_port_to_which_nobody_answers() {
    let web = |target: u16| {
        service(
            "web",
            &format!("selector: {{app: web}}, ports: [{{port: 80, targetPort: {target}}}]"),
        )
    };
    let pod = |name: &str, last: u8, port: u16| {
        workload(
            name,
            "app: web",
            &format!("address: 10.0.0.{last}, meshPort: 15008, ports: [{{port: {port}}}]"),
        )
    };
    let mut set = set_of(&[&web(1), &pod("a", 1, 1), &pod("b", 2, 2)]);
    let unserved = |target: u16| {
        format!(
            "Service default/web: spec.ports[0].targetPort: none of the 2 workloads selected (default/a, ...) \
             declares a TCP port {target}"
        )
    };
    assert_refused(&mut set, vec![put(&web(3))], &[&unserved(3)]);
    // Where documents arrive one by one it passes, and is said.
    let applied = set.apply([put(&web(3))], Unserved::Report).unwrap();
    assert_eq!(applied.unserved.first().unwrap().to_string(), unserved(3));
    set.apply([put(&web(1))], Unserved::Refuse).unwrap();
    // A workload that goes is gone, whatever it leaves.
    let applied = set
        .apply([remove("Workload default/a")], Unserved::Refuse)
        .unwrap();
    let why = "Service default/web: spec.ports[0].targetPort: the workload selected, default/b, declares no TCP port 1";
    assert_eq!(applied.unserved.first().unwrap().to_string(), why);
    let applied = set
        .apply([remove("Workload default/b")], Unserved::Refuse)
        .unwrap();
    assert_eq!(applied.unserved, []);
}

#[test]
fn a_workload_may_not_take_a_port_of_a_service() {
    let mut set = set_of(&[&service(
        "web",
        "selector: {app: web}, clusterIP: 10.0.0.1, ports: [{port: 80}]",
    )]);
    assert_refused(
        &mut set,
        vec![put(&workload("a", "", "address: 10.0.0.1, ports: [{port: 80}]"))],
        &[
            "Service default/web: spec.ports[0].port: port 80 of 10.0.0.1 is spec.ports[0].port of the \
           Workload default/a already",
        ],
    );
}

#[test]
fn what_is_outside_stays_outside() {
    let bank = external(
        "bank",
        "hosts: [web.default], ports: [{port: 80}], resolution: static, endpoints: [10.0.0.9]",
    );
    let mut set = set_of(&[&bank]);
    assert_eq!(set.external_services_of("web.default").count(), 1);
    assert_refused(
        &mut set,
        vec![put(&service(
            "web",
            "selector: {a: b}, clusterIP: 10.0.0.9, ports: [{port: 80}]",
        ))],
        &[
            "ExternalService default/bank: spec.hosts[0]: web.default is the name of the Service default/web in the mesh",
            "ExternalService default/bank: spec.endpoints[0]: 10.0.0.9 belongs to the mesh: it is that of the \
             Service default/web",
        ],
    );
    assert_refused(
        &mut set,
        vec![put(&workload("a", "", "address: 10.0.0.9"))],
        &[
            "ExternalService default/bank: spec.endpoints[0]: 10.0.0.9 belongs to the mesh: it is that of the \
           Workload default/a",
        ],
    );
    assert_refused(
        &mut set,
        vec![put(&CONFIG.replace(
            "mesh.example",
            "mesh.example, serviceRanges: [10.0.0.0/28]",
        ))],
        &[
            "ExternalService default/bank: spec.endpoints[0]: 10.0.0.9 belongs to the mesh: it is in the MeshConfig's \
           meshRanges or serviceRanges",
        ],
    );
    assert_refused(
        &mut set,
        vec![put(&external(
            "shop",
            "hosts: [a.b, web.default], ports: [{port: 81}, {port: 80}]",
        ))],
        &[
            "ExternalService default/shop: spec.hosts[1]: port 80 of web.default is also that of the \
           ExternalService default/bank",
        ],
    );
    let other = external("shop", "hosts: [a.b, web.default], ports: [{port: 81}]");
    set.apply([put(&other)], Unserved::Refuse).unwrap();
    assert_eq!(set.external_services_of("web.default").count(), 2);
    set.apply([remove("ExternalService default/bank")], Unserved::Refuse)
        .unwrap();
    assert_eq!(set.mesh().unwrap().external_services.len(), 1);
}

/// Few names, addresses and ports, so that they meet.
fn document() -> impl Strategy<Value = String> {
    let pick = |words: &'static [&'static str]| prop::sample::select(words);
    let address = || pick(&["10.0.0.1", "10.0.0.2", "10.0.1.1", "10.96.0.1"]);
    let config = (
        pick(&["mesh", "other"]),
        pick(&[
            "",
            ", meshRanges: [10.0.0.0/24]",
            ", serviceRanges: [10.96.0.0/16]",
        ]),
    )
        .prop_map(|(name, more)| {
            CONFIG
                .replace("name: mesh", &format!("name: {name}"))
                .replace("example}", &format!("example{more}}}"))
        });
    let service = (pick(&["s", "t"]), pick(&["a", "b"]), address(), 1_u8..4, pick(&["1", "2", "x", "y"])).prop_map(
        |(name, app, address, port, target)| {
            service(
                name,
                &format!("selector: {{app: {app}}}, clusterIP: {address}, ports: [{{port: {port}, targetPort: {target}}}]"),
            )
        },
    );
    let workload = (
        pick(&["v", "w", "x", "y"]),
        pick(&["app: a", "app: b", "app: a, tier: c", ""]),
        address(),
        pick(&["", ", uid: one", ", uid: default/v"]),
        pick(&["", ", meshPort: 1", ", meshPort: 15008"]),
        pick(&[
            "{port: 1, name: x}",
            "{port: 2, name: y}, {port: 1, protocol: udp}",
            "",
        ]),
    )
        .prop_map(|(name, labels, address, uid, mesh_port, ports)| {
            workload(
                name,
                labels,
                &format!("address: {address}{uid}{mesh_port}, ports: [{ports}]"),
            )
        });
    let external = (
        pick(&["e", "f"]),
        pick(&["a.b", "s.default", "t.default, a.b", "a.mesh.example"]),
        1_u8..3,
        pick(&[
            "",
            ", resolution: static, endpoints: [10.0.0.1]",
            ", resolution: static, endpoints: [10.96.0.1, 10.9.9.9]",
        ]),
    )
        .prop_map(|(name, hosts, port, more)| {
            external(
                name,
                &format!("hosts: [{hosts}], ports: [{{port: {port}}}]{more}"),
            )
        });
    prop_oneof![1 => config, 2 => service, 4 => workload, 2 => external]
}

/// One change: a document, and whether it is removed instead.
fn changes() -> impl Strategy<Value = Vec<(String, bool)>> {
    prop::collection::vec((document(), prop::bool::weighted(0.3)), 1..5)
}

/// An error as it is wherever its document came from: document, field, message without lines.
type Plain = (String, String, String);

fn plain(errors: &[DocumentError]) -> BTreeSet<Plain> {
    let plain = |error: &DocumentError| {
        let mut message = error.message.clone();
        while let Some((start, end)) = line_in(&message) {
            message.replace_range(start..end, "");
        }
        // Which workload is named as the first depends on their order, which is another.
        if let (Some(start), Some(end)) = (message.find(" ("), message.find(", ...)")) {
            message.replace_range(start..end + 6, "");
        }
        if let Some(start) = message.find("it is that of the Workload") {
            message.truncate(start);
        }
        if message.starts_with("a mesh has one") {
            message.truncate("a mesh has one".len());
        }
        if message.contains("it can be replaced, not removed") {
            return (String::new(), String::new(), "no MeshConfig".to_owned());
        }
        if message.starts_with("no weft.dev/v1alpha1 MeshConfig") {
            message = "no MeshConfig".to_owned();
        }
        (error.file.clone(), error.path.clone(), message)
    };
    errors.iter().map(plain).collect()
}

/// Where a message has the place of another document, such as ` (Service default/web:1)`.
fn line_in(message: &str) -> Option<(usize, usize)> {
    let end = message.find(":1)")? + 3;
    Some((message[..end].rfind(" (")?, end))
}

/// The texts read all at once: what is wrong with them, ports without workloads apart.
fn read_whole<'a>(
    texts: impl Iterator<Item = &'a (DocumentKey, String)>,
) -> (BTreeSet<Plain>, BTreeSet<Plain>) {
    let sources: Vec<Source> = texts
        .map(|(key, text)| Source::new(key.to_string(), text.clone()))
        .collect();
    let errors = plain(&parse_documents(&sources).err().unwrap_or_default());
    errors
        .into_iter()
        .partition(|(_, path, _)| !path.ends_with("targetPort"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn a_set_is_what_its_documents_are(batches in prop::collection::vec(changes(), 1..15)) {
        let config = parse(CONFIG);
        let mut set = MeshSet::new();
        let mut whole: BTreeMap<DocumentKey, String> = BTreeMap::from([(config.key.clone(), CONFIG.to_owned())]);
        set.apply([Change::Put(config)], Unserved::Refuse).unwrap();
        let mut unserved_before = BTreeSet::new();
        for batch in batches {
            let mut seen = BTreeSet::new();
            let batch: Vec<(DocumentKey, String, bool)> = batch
                .into_iter()
                .map(|(text, is_removed)| (parse(&text).key.clone(), text, is_removed))
                .filter(|(key, _, _)| seen.insert(key.clone()))
                .collect();
            let changes: Vec<Change> = batch
                .iter()
                .map(|(key, text, is_removed)| if *is_removed { Change::Remove(key.clone()) } else { put(text) })
                .collect();
            let mut after = whole.clone();
            after.retain(|key, _| !seen.contains(key));
            // What stays comes before what changes: so the blame is on the change.
            let mut texts: Vec<(DocumentKey, String)> = after.clone().into_iter().collect();
            let new = batch.iter().filter(|(_, _, is_removed)| !is_removed);
            texts.extend(new.map(|(key, text, _)| (key.clone(), text.clone())));
            let (wanted, unserved) = read_whole(texts.iter());
            match set.apply(changes, Unserved::Report) {
                Ok(applied) => {
                    prop_assert_eq!(&wanted, &BTreeSet::new());
                    let reported = plain(&applied.unserved);
                    prop_assert!(reported.is_subset(&unserved));
                    let newly: BTreeSet<Plain> = unserved.difference(&unserved_before).cloned().collect();
                    prop_assert!(newly.is_subset(&reported), "{newly:?} {reported:?}");
                    unserved_before = unserved;
                    whole = texts.into_iter().collect();
                }
                Err(errors) => prop_assert_eq!(plain(&errors), wanted),
            }
            let keys: Vec<&DocumentKey> = set.documents().map(|document| &document.key).collect();
            prop_assert_eq!(keys, whole.keys().collect::<Vec<_>>());
            for (key, text) in &whole {
                prop_assert_eq!(&set.get(key).unwrap().model, &parse(text).model);
            }
        }
    }
}
