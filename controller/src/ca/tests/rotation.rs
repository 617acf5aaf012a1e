//! Rotations of a whole authority, with restarts, and roots of an operator's own.

use super::*;

/// One proxy that is there: it has a leaf, and says what it has.
struct Proxy {
    name: &'static str,
    chain: Vec<CertificateDer<'static>>,
    bundle: Arc<Bundle>,
}

impl Proxy {
    async fn join(authority: &Authority, name: &'static str) -> Self {
        let issued = authority.sign(&web(), &holder(name), &request()).await.unwrap();
        Self {
            name,
            chain: issued.chain,
            bundle: issued.bundle,
        }
    }

    fn ack(&mut self, authority: &Authority) {
        self.bundle = authority.bundle().borrow().clone();
        authority.on_ack(&holder(self.name), &web(), self.bundle.version);
    }

    async fn renew(&mut self, authority: &Authority) {
        let issued = authority
            .sign(&web(), &holder(self.name), &request())
            .await
            .unwrap();
        (self.chain, self.bundle) = (issued.chain, issued.bundle);
    }

    fn show(&self, authority: &Authority, root: RootId) -> HeldBy {
        authority.on_certificate(&holder(self.name), &web(), root)
    }

    fn accepts(&self, other: &Self, now: SystemTime) -> bool {
        verify_chain(&self.bundle.trust, &other.chain, now, TlsRole::Client).is_ok()
    }
}

async fn step(authority: &Authority) -> String {
    authority.status().await.unwrap().step
}

/// Waits until the step is as wanted. The runtime's time passes by itself; the store's thread is on the machine's, which
/// is what bounds this.
async fn until(authority: &Authority, wanted: &str) {
    let begun = std::time::Instant::now();
    while begun.elapsed() < Duration::from_secs(60) {
        if step(authority).await == wanted {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("never {wanted}: {:?}", authority.status().await.unwrap());
}

/// Long enough for the task to take every step that it may.
async fn some_turns(authority: &Authority) {
    for _ in 0..50 {
        step(authority).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn begin(authority: &Arc<Authority>) -> tokio::task::JoinHandle<()> {
    tokio::spawn(authority.clone().run())
}

#[tokio::test(start_paused = true)]
async fn a_rotation_goes_through_every_step_and_a_restart_at_each() {
    let place = Place::new();
    let mut authority = place.open().await;
    let mut task = begin(&authority);
    let (mut a, mut b) = (
        Proxy::join(&authority, "a").await,
        Proxy::join(&authority, "b").await,
    );
    let old = authority.signing_root().0;
    let status = authority
        .rotate(&v1::RotateRootRequest::default(), "ann")
        .await
        .unwrap();
    assert_eq!(
        (status.step.as_str(), status.version, status.roots.len()),
        ("distributing", 2, 2)
    );
    assert_eq!(status.waiting.len(), 2);
    assert!(matches!(
        authority.rotate(&v1::RotateRootRequest::default(), "ann").await,
        Err(TrustError::Refused(crate::trust::Refused::UnderWay(_)))
    ));

    for name in ["distributing", "signing", "retiring", "stable"] {
        until(&authority, name).await;
        // It starts again in this very step.
        task.abort();
        let before = (
            authority.current().state.clone(),
            authority.bundle().borrow().version,
        );
        authority = place.open().await;
        assert_eq!(
            (
                authority.current().state.clone(),
                authority.bundle().borrow().version
            ),
            before
        );
        task = begin(&authority);
        assert!(a.accepts(&b, place.now()) && b.accepts(&a, place.now()), "{name}");
        let signing = authority.signing_root().0;
        for proxy in [&mut a, &mut b] {
            proxy.ack(&authority);
            if name == "signing" {
                assert!(matches!(proxy.show(&authority, old), HeldBy::Old(_)));
                assert_eq!(proxy.show(&authority, old), HeldBy::OldAsked);
                proxy.renew(&authority).await;
                assert_eq!(proxy.show(&authority, signing), HeldBy::Signing);
            }
        }
        assert!(a.accepts(&b, place.now()) && b.accepts(&a, place.now()), "{name}");
    }
    let bundle = authority.bundle().borrow().clone();
    assert_eq!((bundle.version, bundle.roots_der.len()), (3, 1));
    assert_ne!(RootId::of(&bundle.roots_der[0]), old);
    assert_eq!(place.files().len(), 4, "the old root's keys are gone");
    let audit = crate::audit::last(&*place.store, 100, 0).await.unwrap();
    let did: Vec<&str> = audit.iter().map(|entry| entry.what.as_str()).collect();
    assert_eq!(did, ["ca.rotate", "ca.step", "ca.step", "ca.step"]);
    task.abort();
}

#[tokio::test(start_paused = true)]
async fn a_silent_proxy_is_named_and_waited_for_until_its_grace_is_over_or_it_is_evicted() {
    let place = Place::new();
    let authority = place.open().await;
    let task = begin(&authority);
    Proxy::join(&authority, "quiet").await;
    authority
        .rotate(&v1::RotateRootRequest::default(), "ann")
        .await
        .unwrap();
    let status = authority.status().await.unwrap();
    let [waiting] = status.waiting.as_slice() else {
        panic!()
    };
    assert_eq!(
        (waiting.namespace.as_str(), waiting.workload.as_str()),
        ("shop", "quiet")
    );
    assert_eq!(waiting.until, START + 600 + 100);
    some_turns(&authority).await;
    assert_eq!(step(&authority).await, "distributing");
    place.pass(700);
    until(&authority, "stable").await;

    Proxy::join(&authority, "gone").await;
    authority
        .rotate(&v1::RotateRootRequest::default(), "ann")
        .await
        .unwrap();
    some_turns(&authority).await;
    assert_eq!(step(&authority).await, "distributing");
    assert!(!authority.evict("shop", "other", "ann").await.unwrap());
    assert!(!authority.evict("other", "gone", "ann").await.unwrap());
    assert!(authority.evict("shop", "gone", "ann").await.unwrap());
    until(&authority, "stable").await;
    task.abort();
}

#[tokio::test(start_paused = true)]
async fn operators_hold_nothing_up() {
    let place = Place::new();
    let authority = place.open().await;
    let task = begin(&authority);
    authority
        .sign(&id("/weft/viewer/vic"), &v1::Holder::default(), &request())
        .await
        .unwrap();
    let before = authority.local_admin().borrow().clone().unwrap();
    authority
        .rotate(&v1::RotateRootRequest::default(), "ann")
        .await
        .unwrap();
    until(&authority, "stable").await;
    // That of the data directory follows by itself.
    let after = authority.local_admin().borrow().clone().unwrap();
    assert_ne!(before.chain_pem, after.chain_pem);
    let credentials = Credentials::from_pem(
        after.chain_pem.as_bytes(),
        after.key_pem.as_bytes(),
        after.bundle_pem.as_bytes(),
    );
    let id = credentials.unwrap().svid().id().clone();
    assert!(matches!(Caller::of(id), Caller::Operator(_, Role::Admin)));
    task.abort();
}

#[tokio::test(start_paused = true)]
async fn retiring_waits_for_an_operator_if_asked_to_and_refuses_what_would_cut_off() {
    let place = Place::new();
    let authority = place.open().await;
    let task = begin(&authority);
    let mut a = Proxy::join(&authority, "a").await;
    let old = authority.signing_root().0;
    let keep = v1::RotateRootRequest {
        keep_old: true,
        ..Default::default()
    };
    authority.rotate(&keep, "ann").await.unwrap();
    a.ack(&authority);
    until(&authority, "signing").await;
    let refused = authority.retire(old, "ann").await.unwrap_err();
    assert!(refused.to_string().contains("shop/a"), "{refused}");
    assert_eq!(refused.status().code(), tonic::Code::FailedPrecondition);
    a.renew(&authority).await;
    a.show(&authority, authority.signing_root().0);
    some_turns(&authority).await;
    assert_eq!(step(&authority).await, "signing");
    authority.retire(old, "ann").await.unwrap();
    a.ack(&authority);
    until(&authority, "stable").await;
    task.abort();
}

#[tokio::test(start_paused = true)]
async fn what_the_controller_shows_is_known_to_everyone_in_every_step() {
    let place = Place::new();
    let authority = place.open().await;
    let mut a = Proxy::join(&authority, "a").await;
    let old_bundle = a.bundle.clone();
    let old = authority.signing_root().0;
    authority
        .rotate(&v1::RotateRootRequest::default(), "ann")
        .await
        .unwrap();
    let task = begin(&authority);
    a.ack(&authority);
    until(&authority, "signing").await;
    let serving = authority.serving().borrow().clone();
    let new = authority.signing_root().0;
    let own = controller_id(authority.trust_domain()).unwrap();
    // Who knows only the old root still gets through.
    let svid = serving.choose(None).unwrap();
    let peer = verify_chain(&old_bundle.trust, svid.chain(), place.now(), TlsRole::Server).unwrap();
    assert_eq!(peer.id, own);
    for root in [old, new] {
        let rustls_pki_types::ServerName::DnsName(name) = root.hash().server_name().unwrap() else {
            panic!()
        };
        let svid = serving.choose(Some(name.as_ref())).unwrap();
        assert_eq!(RootHash::of(svid.chain().last().unwrap()), root.hash());
    }
    assert_eq!(
        serving.choose(Some("r-00.weft.invalid")).unwrap().chain(),
        svid.chain()
    );
    task.abort();
}

#[tokio::test]
async fn proxies_are_asked_to_renew_when_someone_wants_it() {
    let place = Place::new();
    let authority = place.open().await;
    let mut renewals = authority.renewals();
    assert_eq!(renewals.borrow_and_update().epoch, 0);
    authority
        .renew_leaves(Duration::from_secs(3), "ann")
        .await
        .unwrap();
    assert!(renewals.has_changed().unwrap());
    let hint = *renewals.borrow_and_update();
    assert_eq!(
        (hint.epoch, hint.within, hint.trust_version),
        (1, Duration::from_secs(3), 1)
    );
    authority.renew_leaves(Duration::ZERO, "ann").await.unwrap();
    let hint = *renewals.borrow_and_update();
    assert_eq!((hint.epoch, hint.within), (2, Duration::from_secs(60)));
}

#[tokio::test]
async fn a_rotation_that_cannot_be_stored_leaves_nothing_behind() {
    let place = Place::new();
    let authority = place.open().await;
    // Another controller changes the state at this very moment.
    let state = place.store.get(state::KEY).await.unwrap().unwrap();
    let stale = authority.current();
    let put = Transaction {
        conditions: Vec::<Condition>::new(),
        operations: vec![crate::store::Operation::Put(state::KEY.to_owned(), state.value)],
    };
    place.store.commit(put).await.unwrap();
    let audit = crate::audit::Record::new("ann", "ca.rotate", "x");
    let changed = authority.change(&stale, stale.state.clone(), vec![audit]).await;
    assert!(matches!(changed, Err(TrustError::Busy)));
    // A leaf is signed by the state of the store all the same.
    authority
        .sign(&web(), &holder("web-1"), &request())
        .await
        .unwrap();
    assert!(matches!(
        authority.current().state.trust.step,
        Step::Stable { .. }
    ));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_signed_or_promised_by_a_state_that_is_over() {
    let place = Place::new();
    let (authority, behind) = (place.open().await, place.open().await);
    let old = authority.signing_root().0;
    let task = begin(&authority);
    authority
        .rotate(&v1::RotateRootRequest::default(), "ann")
        .await
        .unwrap();
    until(&authority, "stable").await;
    task.abort();
    let new = authority.signing_root().0;
    // This one has not heard of it: a leaf or a token of the old root would be a trap.
    assert_eq!(behind.signing_root().0, old);
    let token = v1::CreateTokenRequest {
        namespace: "shop".to_owned(),
        service_account: "web".to_owned(),
        ..Default::default()
    };
    let tokens = crate::attest::Tokens::new(place.open().await);
    let stale = crate::attest::Tokens::new(behind.clone());
    let made = [tokens, stale].map(|tokens| (tokens, token.clone()));
    for (tokens, token) in made {
        let text = tokens.create(token, "ann").await.unwrap().token;
        assert_eq!(
            RootId::from(weft_tls::token::JoinToken::parse(&text).unwrap().root()),
            new
        );
    }
    let issued = behind.sign(&web(), &holder("web-1"), &request()).await.unwrap();
    check_profile(&issued, &web(), place.now());
    assert_eq!(
        (issued.bundle.version, RootId::of(&issued.bundle.roots_der[0])),
        (3, new)
    );
    assert_eq!(behind.bundle().borrow().version, 3);
}

#[tokio::test(start_paused = true)]
async fn a_leaf_is_signed_by_the_state_that_is_stored() {
    let place = Place::new();
    let (authority, behind) = (place.open().await, place.open().await);
    let task = begin(&authority);
    authority
        .rotate(&v1::RotateRootRequest::default(), "ann")
        .await
        .unwrap();
    until(&authority, "stable").await;
    task.abort();
    let issued = behind.sign(&web(), &holder("web-1"), &request()).await.unwrap();
    let current = &authority.bundle().borrow().clone().trust;
    verify_chain(current, &issued.chain, place.now(), TlsRole::Client).unwrap();
}

/// A root and a signer as an operator has them, in files.
fn bring(place: &Place, name: &str, trust_domain: &str) -> Brought {
    let domain: TrustDomain = trust_domain.parse().unwrap();
    let made = Signer::make(&domain, place.options.lifetimes(), place.now()).unwrap();
    let write = |what: &str, text: &str| {
        let path = place.directory.path().join(format!("{name}-{what}.pem"));
        fs::write(&path, text).unwrap();
        path
    };
    let pem = made.to_pem();
    let (chain, key) = pem.split_at(pem.find("-----BEGIN PRIVATE KEY-----").unwrap());
    Brought {
        root: write("root", &made.root_pem()),
        signer: write("signer", chain),
        signer_key: write("key", key),
    }
}

fn asks(brought: &Brought) -> v1::RotateRootRequest {
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    v1::RotateRootRequest {
        root_file: text(&brought.root),
        signer_file: text(&brought.signer),
        signer_key_file: text(&brought.signer_key),
        ..Default::default()
    }
}

#[tokio::test]
async fn an_operators_root_and_signer_are_used_and_checked() {
    let mut place = Place::new();
    let brought = bring(&place, "one", "mesh.test");
    place.options.brought = Some(brought.clone());
    let authority = place.open().await;
    let issued = authority
        .sign(&web(), &holder("web-1"), &request())
        .await
        .unwrap();
    check_profile(&issued, &web(), place.now());
    assert!(!place.files().iter().any(|path| path.ends_with("root.key")));
    // Another one is not slipped in by a restart.
    let second = bring(&place, "two", "mesh.test");
    place.options.brought = Some(second.clone());
    assert!(matches!(place.try_open().await, Err(CaError::UnknownRoot { .. })));
    // The signer's key belongs to another.
    let mixed = Brought {
        signer_key: second.signer_key.clone(),
        ..brought.clone()
    };
    place.options.brought = Some(mixed);
    assert!(matches!(place.try_open().await, Err(CaError::Unfit { .. })));
    // A root that is not that of the signer.
    let wrong = Brought {
        root: second.root.clone(),
        ..brought
    };
    assert!(matches!(
        authority.rotate(&asks(&wrong), "ann").await,
        Err(TrustError::Ca(CaError::Unfit { .. }))
    ));
    let foreign = bring(&place, "foreign", "other.test");
    assert!(matches!(
        authority.rotate(&asks(&foreign), "ann").await,
        Err(TrustError::Ca(CaError::OtherTrustDomain { .. }))
    ));
    let half = v1::RotateRootRequest {
        signer_file: String::new(),
        ..asks(&second)
    };
    assert!(matches!(
        authority.rotate(&half, "ann").await,
        Err(TrustError::Ca(CaError::Option(_)))
    ));
    let status = authority.rotate(&asks(&second), "ann").await.unwrap();
    assert_eq!((status.step.as_str(), status.roots.len()), ("distributing", 2));
}
