//! The controller's port: the same bad chains, a caller without a certificate, and one whose SVID ended.

use std::time::Duration;

use rustls::ClientConfig;

use super::*;
use crate::{
    credentials::Svid,
    grpc::{ALPN_H2, Admission, ChooseSvid, Peer, anonymous_client_config, client_config},
};

const GRACE: Duration = Duration::from_secs(3600);
const HOUR: Duration = Duration::from_secs(3600);

fn admission(ours: &Credentials) -> Admission {
    Admission::new(Arc::new(ours.bundle().clone()), GRACE)
}

/// Whoever asks for whatever gets this SVID.
fn always(svid: &Svid) -> ChooseSvid {
    let svid = svid.clone();
    Arc::new(move |_| Some(svid.clone()))
}

/// A caller that checks nothing and shows this.
fn caller(shown: Option<&Exhibit>) -> ClientConfig {
    let mut client = careless_client(shown);
    client.alpn_protocols = vec![ALPN_H2.to_vec()];
    client
}

/// The controller's port meets such a caller; and what it knows of it then.
fn call(ours: &Credentials, shown: Option<&Exhibit>) -> (Outcome, Option<Peer>) {
    let admission = admission(ours);
    let server = admission.server_config(always(ours.svid())).unwrap();
    let pair = Pair::handshake(caller(shown), server);
    let outcome = outcome(
        pair.complete(),
        pair.server_error.as_ref(),
        pair.client_error.as_ref(),
        &Mutex::new(Vec::new()),
    );
    let peer = (outcome == Outcome::Accepted).then(|| {
        admission
            .peer(pair.server.peer_certificates(), SystemTime::now())
            .unwrap()
    });
    (outcome, peer)
}

fn refused_call(reason: Refusal) -> Outcome {
    Outcome::Refused {
        error: Some(reason),
        told: Vec::new(),
        alert: Some(AlertDescription::CertificateUnknown),
    }
}

/// When the leaf of `Exhibit` is to end, as rcgen wants it.
fn ended(ago: Duration) -> impl FnOnce(&mut CertificateParams) {
    let at = SystemTime::now() - ago;
    move |params| params.not_after = at.into()
}

#[test]
fn bad_chains_are_refused_by_the_controller_for_their_own_reason() {
    let world = World::new();
    let ours = world.credentials();
    let mut wrong = Vec::new();
    for (name, shown, reason) in &bad_chains(&world) {
        let (outcome, _) = call(&ours, Some(shown));
        if outcome != refused_call(*reason) {
            wrong.push(format!("{name}: {outcome:?} instead of {reason:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn callers_with_and_without_a_certificate_are_told_apart() {
    let world = World::new();
    let ours = world.credentials();
    assert_eq!(call(&ours, None), (Outcome::Accepted, Some(Peer::None)));
    for shown in [world.leaf(|_| {}), world.under(|_| {})] {
        let (outcome, peer) = call(&ours, Some(&shown));
        assert_eq!(outcome, Outcome::Accepted);
        assert_eq!(peer, Some(Peer::Valid(peer_identity(&shown.chain).unwrap())));
    }
}

#[test]
fn operators_are_callers_and_peers_like_any_other() {
    let world = World::new();
    let ours = world.credentials();
    for name in [
        "spiffe://mesh.test/weft/admin/ann",
        "spiffe://mesh.test/weft/viewer/bob",
    ] {
        let shown = world.leaf(|leaf| leaf.subject_alt_names = vec![uri(name)]);
        let (_, peer) = call(&ours, Some(&shown));
        let Some(Peer::Valid(peer)) = peer else {
            panic!("{name}: {peer:?}")
        };
        assert_eq!(peer.id.as_str(), name);
        assert_eq!(
            listen(&ours, Some(&shown)),
            Outcome::Accepted,
            "a sidecar, {name}"
        );
    }
}

#[test]
fn an_svid_that_ended_passes_within_the_grace_and_is_known_for_it() {
    let world = World::new();
    let ours = world.credentials();
    for (ago, passes) in [
        (Duration::from_secs(2), true),
        (GRACE - Duration::from_secs(60), true),
        (GRACE + Duration::from_secs(2), false),
    ] {
        let shown = world.leaf(ended(ago));
        let (outcome, peer) = call(&ours, Some(&shown));
        if passes {
            let identity = peer_identity(&shown.chain).unwrap();
            assert_eq!(
                (outcome, peer),
                (Outcome::Accepted, Some(Peer::Expired(identity))),
                "{ago:?}"
            );
        } else {
            assert_eq!(outcome, refused_call(Refusal::Expired), "{ago:?}");
        }
        // Only the controller is so patient.
        assert_eq!(
            listen(&ours, Some(&shown)),
            refused(Refusal::Expired),
            "a sidecar"
        );
    }
}

#[test]
fn the_grace_is_counted_to_the_second() {
    let world = World::new();
    let ours = world.credentials();
    let shown = world.leaf(ended(Duration::ZERO));
    let identity = peer_identity(&shown.chain).unwrap();
    let at = |now| admission(&ours).peer(Some(&shown.chain), now);
    let end = identity.not_after;
    assert_eq!(at(end), Ok(Peer::Valid(identity.clone())), "notAfter is included");
    assert_eq!(
        at(end + Duration::from_secs(1)),
        Ok(Peer::Expired(identity.clone()))
    );
    assert_eq!(at(end + GRACE), Ok(Peer::Expired(identity.clone())));
    assert_eq!(at(end + GRACE + Duration::from_secs(1)), Err(Refusal::Expired));
    let strict = Admission::new(Arc::new(ours.bundle().clone()), Duration::ZERO);
    assert_eq!(
        strict.peer(Some(&shown.chain), end + Duration::from_secs(1)),
        Err(Refusal::Expired)
    );
}

#[test]
fn the_grace_is_for_the_leaf_alone() {
    let world = World::new();
    let ours = world.credentials();
    let old_leaf = || {
        let mut params = leaf_params();
        ended(HOUR / 2)(&mut params);
        params
    };
    let under = |spoil: &dyn Fn(&mut CertificateParams), leaf: CertificateParams| {
        let mut params = ca_params("intermediate");
        spoil(&mut params);
        let intermediate = world.root.intermediate(params);
        world.show([
            intermediate.sign(&leaf, &world.key).into(),
            intermediate.certificate.into(),
        ])
    };
    let refusal_of = |shown: &Exhibit| call(&ours, Some(shown)).0;

    assert_eq!(refusal_of(&under(&|_| {}, old_leaf())), Outcome::Accepted);
    let ended_ca = |ca: &mut CertificateParams| ended(HOUR / 4)(ca);
    assert_eq!(
        refusal_of(&under(&ended_ca, leaf_params())),
        refused_call(Refusal::Expired),
        "an intermediate that ended, a leaf that did not"
    );
    assert_eq!(
        refusal_of(&under(&ended_ca, old_leaf())),
        refused_call(Refusal::Expired),
        "an intermediate that ended after its leaf"
    );
    let future_ca = |ca: &mut CertificateParams| ca.not_before = (SystemTime::now() + HOUR).into();
    assert_eq!(
        refusal_of(&under(&future_ca, old_leaf())),
        refused_call(Refusal::NotYetValid)
    );
    let strange = World::under_root("another root");
    assert_eq!(
        refusal_of(&strange.leaf(ended(HOUR / 2))),
        refused_call(Refusal::UnknownAuthority)
    );
    assert_eq!(
        refusal_of(&world.leaf(|leaf| {
            ended(HOUR / 2)(leaf);
            leaf.extended_key_usages = vec![Eku::ServerAuth];
        })),
        refused_call(Refusal::ExtendedKeyUsage)
    );
    let elsewhere = world.leaf(|leaf| {
        ended(HOUR / 2)(leaf);
        leaf.subject_alt_names = vec![uri("spiffe://other.test/ns/default/sa/web")];
    });
    assert_eq!(refusal_of(&elsewhere), refused_call(Refusal::WrongTrustDomain));
}

#[test]
fn a_chain_is_judged_again_under_a_new_bundle() {
    let world = World::new();
    let ours = world.credentials();
    let shown = world.leaf(|_| {});
    let now = SystemTime::now();
    assert!(matches!(
        admission(&ours).peer(Some(&shown.chain), now),
        Ok(Peer::Valid(_))
    ));
    let new = Admission::new(
        Arc::new(World::under_root("another root").credentials().bundle().clone()),
        GRACE,
    );
    assert_eq!(
        new.peer(Some(&shown.chain), now),
        Err(Refusal::UnknownAuthority),
        "the root was retired"
    );
    assert_eq!(new.peer(None, now), Ok(Peer::None));
    assert_eq!(new.peer(Some(&[]), now), Ok(Peer::None));
}

#[test]
fn our_own_callers_are_served_and_pin_the_controller() {
    let world = World::new();
    let ours = world.credentials();
    let server = || admission(&ours).server_config(always(ours.svid())).unwrap();
    let web = WEB.parse().unwrap();
    let pair = Pair::handshake(client_config(&ours, &web).unwrap(), server());
    assert!(pair.complete());
    assert_eq!(pair.server.alpn_protocol(), Some(ALPN_H2));
    assert_eq!(pair.server.server_name(), None, "no SNI");
    let bundle = Arc::new(ours.bundle().clone());
    let pair = Pair::handshake(anonymous_client_config(bundle.clone(), &web).unwrap(), server());
    assert!(pair.complete());
    assert_eq!(pair.server.peer_certificates(), None);

    let other = "spiffe://mesh.test/ns/default/sa/db".parse().unwrap();
    for client in [
        client_config(&ours, &other).unwrap(),
        anonymous_client_config(bundle, &other).unwrap(),
    ] {
        let pair = Pair::handshake(client, server());
        assert_eq!(
            pair.client_error.as_ref().and_then(refusal),
            Some(Refusal::WrongIdentity)
        );
    }
    // A sidecar's port does not pass for the controller's, nor the other way round.
    let h3 = ours.server_config(ALPN_H3, told().0).unwrap();
    let pair = Pair::handshake(client_config(&ours, &web).unwrap(), h3);
    assert_eq!(pair.server_error, Some(Error::NoApplicationProtocol));
}

#[test]
fn the_controller_without_an_svid_for_a_name_ends_the_handshake() {
    let world = World::new();
    let ours = world.credentials();
    let server = admission(&ours).server_config(Arc::new(|_| None)).unwrap();
    let pair = Pair::handshake(client_config(&ours, &WEB.parse().unwrap()).unwrap(), server);
    assert!(!pair.complete());
    assert!(matches!(pair.client_error, Some(Error::AlertReceived(_))));
}
