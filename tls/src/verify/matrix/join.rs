//! The first call: a chain to a root that is known by its hash alone.

use rustls_pki_types::ServerName;

use super::*;
use crate::{
    credentials::Svid,
    grpc::{ALPN_H2, Admission, Peer},
    join::{RootHash, client_config, client_config_of_path},
};

fn root_of(world: &World) -> CertificateDer<'static> {
    world.root.certificate.der().clone()
}

/// A joiner with the hash of the world's root, expecting `web`, meets a listener that shows this.
fn join(world: &World, shown: &Exhibit) -> (Outcome, Option<CertificateDer<'static>>) {
    let hash = RootHash::of(&root_of(world));
    let client = client_config(hash, &WEB.parse().unwrap()).unwrap();
    let mut server = careless_server(shown);
    server.alpn_protocols = vec![ALPN_H2.to_vec()];
    let pair = Pair::handshake_with(&Arc::new(client), &Arc::new(server), hash.server_name().unwrap());
    let outcome = outcome(
        pair.complete(),
        pair.client_error.as_ref(),
        pair.server_error.as_ref(),
        &Mutex::new(Vec::new()),
    );
    let root = pair.client.peer_certificates().and_then(|chain| hash.find(chain));
    (outcome, root.map(|root| root.clone().into_owned()))
}

fn refused_join(reason: Refusal) -> Outcome {
    Outcome::Refused {
        error: Some(reason),
        told: Vec::new(),
        alert: Some(AlertDescription::CertificateUnknown),
    }
}

#[test]
fn a_joiner_takes_the_root_of_its_token_and_hands_it_out() {
    let world = World::new();
    let root = root_of(&world);
    for mut shown in [world.leaf(|_| {}), world.under(|_| {}), world.deep(4)] {
        shown.chain.push(root.clone());
        assert_eq!(join(&world, &shown), (Outcome::Accepted, Some(root.clone())));
    }
    // Where it stands in the chain does not matter.
    let mut shown = world.under(|_| {});
    shown.chain.insert(1, root.clone());
    assert_eq!(join(&world, &shown), (Outcome::Accepted, Some(root)));
}

#[test]
fn bad_chains_are_refused_by_a_joiner_for_their_own_reason() {
    let world = World::new();
    let root = root_of(&world);
    let mut wrong = Vec::new();
    for (name, mut shown, reason) in bad_chains(&world) {
        if shown.chain.len() < MAX_CHAIN {
            shown.chain.insert(1, root.clone());
        }
        let (outcome, _) = join(&world, &shown);
        if outcome != refused_join(reason) {
            wrong.push(format!("{name}: {outcome:?} instead of {reason:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_chain_without_the_root_of_the_token_is_refused() {
    let world = World::new();
    let other = World::under_root("another root");
    let unknown = refused_join(Refusal::UnknownAuthority);
    assert_eq!(join(&world, &world.leaf(|_| {})).0, unknown, "no root at all");
    let mut shown = other.leaf(|_| {});
    shown.chain.push(root_of(&other));
    assert_eq!(join(&world, &shown).0, unknown, "another mesh");
    // The root is public: that it is shown says nothing about the leaf.
    shown.chain.push(root_of(&world));
    assert_eq!(
        join(&world, &shown).0,
        unknown,
        "another mesh that shows our root"
    );
    let mut shown = world.leaf(|_| {});
    shown.chain.push(root_of(&other));
    assert_eq!(join(&world, &shown).0, unknown, "our leaf with a stranger's root");
    let alone = Exhibit {
        chain: vec![root_of(&world)],
        key: signing_key(&world.root.key),
    };
    assert_eq!(join(&world, &alone).0, unknown, "the root as a leaf");
}

#[test]
fn only_the_controller_will_do() {
    let world = World::new();
    let mut shown =
        world.leaf(|leaf| leaf.subject_alt_names = vec![uri("spiffe://mesh.test/ns/default/sa/db")]);
    shown.chain.push(root_of(&world));
    assert_eq!(join(&world, &shown).0, refused_join(Refusal::WrongIdentity));
    // A leaf of another trust domain, from the right root.
    let mut shown =
        world.leaf(|leaf| leaf.subject_alt_names = vec![uri("spiffe://other.test/ns/default/sa/web")]);
    shown.chain.push(root_of(&world));
    assert_eq!(join(&world, &shown).0, refused_join(Refusal::WrongTrustDomain));
}

#[test]
fn a_joiner_that_knows_the_path_alone_learns_the_trust_domain_from_the_root_of_its_token() {
    let world = World::new();
    let hash = RootHash::of(&root_of(&world));
    let meet = |mut shown: Exhibit, root: &World| {
        shown.chain.push(root_of(root));
        let client = client_config_of_path(hash, "/ns/default/sa/web").unwrap();
        let mut server = careless_server(&shown);
        server.alpn_protocols = vec![ALPN_H2.to_vec()];
        let pair = Pair::handshake_with(&Arc::new(client), &Arc::new(server), hash.server_name().unwrap());
        pair.client_error.as_ref().and_then(refusal)
    };
    assert_eq!(meet(world.leaf(|_| {}), &world), None);
    let db = world.leaf(|leaf| leaf.subject_alt_names = vec![uri("spiffe://mesh.test/ns/default/sa/db")]);
    assert_eq!(meet(db, &world), Some(Refusal::WrongIdentity));
    let other = World::under_root("another root");
    assert_eq!(meet(other.leaf(|_| {}), &other), Some(Refusal::UnknownAuthority));
    assert_eq!(meet(other.leaf(|_| {}), &world), Some(Refusal::UnknownAuthority));
    assert_eq!(
        meet(world.leaf(|leaf| leaf.subject_alt_names.clear()), &world),
        Some(Refusal::NoUriName)
    );
}

#[test]
fn what_has_the_hash_must_also_be_a_root() {
    let world = World::new();
    let mut params = ca_params("root");
    params.not_after = date_time_ymd(2021, 1, 1);
    let expired = World {
        root: Ca::root_with(params),
        key: KeyPair::generate().unwrap(),
    };
    let mut shown = expired.leaf(|_| {});
    shown.chain.push(root_of(&expired));
    assert_eq!(join(&expired, &shown).0, refused_join(Refusal::RootExpired));

    // The hash of a leaf is no way in, whoever was talked into it.
    let leaf = world.leaf(|_| {});
    let hash = RootHash::of(&leaf.chain[0]);
    let mut shown = world.leaf(|_| {});
    shown.chain.push(leaf.chain[0].clone());
    let mut server = careless_server(&shown);
    server.alpn_protocols = vec![ALPN_H2.to_vec()];
    let client = client_config(hash, &WEB.parse().unwrap()).unwrap();
    let pair = Pair::handshake_with(&Arc::new(client), &Arc::new(server), hash.server_name().unwrap());
    assert_eq!(
        pair.client_error.as_ref().and_then(refusal),
        Some(Refusal::IssuerNotCa)
    );
}

#[test]
fn a_joiner_must_see_the_key_of_the_leaf() {
    let world = World::new();
    let mut shown = world.leaf(|_| {});
    shown.chain.push(root_of(&world));
    shown.key = signing_key(&KeyPair::generate().unwrap());
    assert_eq!(join(&world, &shown).0, refused_join(Refusal::BadSignature));
}

#[test]
fn the_controller_serves_the_chain_to_the_root_that_a_joiner_names() {
    // Two roots while one replaces the other; the tokens of each are served.
    let (old, new) = (World::new(), World::under_root("new root"));
    let svid = |world: &World| -> (RootHash, Svid) {
        let root = root_of(world);
        (
            RootHash::of(&root),
            world.credentials().svid().with_root(&root).unwrap(),
        )
    };
    let svids = [svid(&old), svid(&new)];
    let choose = {
        let svids = svids.clone();
        Arc::new(move |name: Option<&str>| {
            let asked = svids
                .iter()
                .find(|(hash, _)| name.is_some_and(|name| hash.is_asked_for_by(name)));
            Some(asked.unwrap_or(&svids[1]).1.clone())
        })
    };
    let bundle = Arc::new(new.credentials().bundle().clone());
    let admission = Admission::new(bundle, std::time::Duration::ZERO);
    let server = Arc::new(admission.server_config(choose).unwrap());
    for (hash, svid) in &svids {
        let client = Arc::new(client_config(*hash, &WEB.parse().unwrap()).unwrap());
        let pair = Pair::handshake_with(&client, &server, hash.server_name().unwrap());
        assert!(pair.complete(), "{:?}", pair.client_error);
        let chain = pair.client.peer_certificates().unwrap();
        assert_eq!(chain, svid.chain());
        assert_eq!(hash.find(chain), chain.last());
        assert_eq!(
            admission.peer(pair.server.peer_certificates(), SystemTime::now()),
            Ok(Peer::None)
        );
        // The name of the other, or none that says anything, is not the way to this root.
        let other = ServerName::try_from("weft.invalid").unwrap();
        let pair = Pair::handshake_with(&client, &server, other);
        assert_eq!(
            pair.complete(),
            *hash == svids[1].0,
            "the default is the new root"
        );
    }
}

#[test]
fn the_name_of_a_root_is_the_start_of_its_hash() {
    let hash = RootHash::new([0xab; 32]);
    let name = format!("r-{}.weft.invalid", "ab".repeat(16));
    assert_eq!(hash.server_name().unwrap().to_str(), name);
    assert!(hash.is_asked_for_by(&name));
    assert!(hash.is_asked_for_by(&name.to_uppercase()));
    for other in [
        "",
        "weft.invalid",
        "r-.weft.invalid",
        &name[1..],
        &name[..name.len() - 1],
    ] {
        assert!(!hash.is_asked_for_by(other), "{other}");
    }
    assert!(!RootHash::new([0xac; 32]).is_asked_for_by(&name));
}
