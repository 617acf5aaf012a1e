//! Join tokens: good once, for one identity, for minutes.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use futures_util::future::{BoxFuture, join_all};
use tokio::sync::{Barrier, mpsc};

use super::*;
use crate::{
    ca::tests::{Place, holder, request},
    store::{Changes, Listing, SharedStore},
};

struct Mesh {
    place: Place,
    tokens: Arc<Tokens>,
    authority: Arc<Authority>,
}

impl Mesh {
    async fn new() -> Self {
        Self::at(Place::new()).await
    }

    async fn at(place: Place) -> Self {
        let authority = place.open().await;
        Self {
            place,
            tokens: Arc::new(Tokens::new(authority.clone())),
            authority,
        }
    }

    async fn token(&self) -> v1::CreateTokenResponse {
        self.tokens
            .create(for_web(), "spiffe://mesh.test/weft/admin/ann")
            .await
            .unwrap()
    }

    async fn join(&self, token: &str, name: &str) -> Result<Issued, JoinError> {
        let request = v1::JoinRequest {
            token: token.to_owned(),
            csr: request().into(),
            holder: None,
        };
        self.tokens.join(&request, &holder(name)).await
    }

    async fn entries(&self, prefix: &str) -> Vec<Entry> {
        self.place.store.list(prefix).await.unwrap().entries
    }
}

fn for_web() -> v1::CreateTokenRequest {
    v1::CreateTokenRequest {
        namespace: "shop".to_owned(),
        service_account: "web".to_owned(),
        ..Default::default()
    }
}

fn for_operator(role: &str, name: &str) -> v1::CreateTokenRequest {
    v1::CreateTokenRequest {
        role: role.to_owned(),
        name: name.to_owned(),
        ..Default::default()
    }
}

#[tokio::test]
async fn a_token_gives_its_identity_once() {
    let mesh = Mesh::new().await;
    let token = mesh.token().await;
    assert_eq!(token.identity, "spiffe://mesh.test/ns/shop/sa/web");
    assert_eq!(token.token.len(), 113);
    let issued = mesh.join(&token.token, "web-1").await.unwrap();
    let id = weft_tls::verify::peer_identity(&issued.chain).unwrap().id;
    assert_eq!(id.as_str(), token.identity);
    let again = mesh.join(&token.token, "web-1").await.unwrap_err();
    assert!(matches!(again, JoinError::Used(_)));
    let status = mesh.tokens.refuse(&again, "here");
    assert!(status.message().contains("weft token create"), "{status}");
    let [listed] = mesh.tokens.list().await.unwrap().tokens.try_into().unwrap();
    assert_eq!(
        (listed.id, listed.used_by.as_str()),
        (token.id, "Workload shop/web-1")
    );
    assert!(listed.used_at > 0 && !listed.revoked);
    let did: Vec<_> = crate::audit::last(&*mesh.place.store, 10, 0).await.unwrap();
    let did: Vec<_> = did.iter().map(|entry| entry.what.as_str()).collect();
    assert_eq!(did, ["token.create", "join"]);
}

/// A store at which a hundred uses of tokens wait for each other: all have read before the first one writes.
struct Together {
    store: SharedStore,
    uses: Barrier,
}

impl Store for Together {
    fn get(&self, key: &str) -> BoxFuture<'_, Result<Option<Entry>, StoreError>> {
        self.store.get(key)
    }

    fn list(&self, prefix: &str) -> BoxFuture<'_, Result<Listing, StoreError>> {
        self.store.list(prefix)
    }

    fn commit(&self, transaction: Transaction) -> BoxFuture<'_, Result<Revision, CommitError>> {
        let is_issue =
            |operation: &Operation| matches!(operation, Operation::Put(key, _) if key.starts_with("ledger/"));
        let is_use = transaction.operations.iter().any(is_issue);
        Box::pin(async move {
            if is_use {
                self.uses.wait().await;
            }
            self.store.commit(transaction).await
        })
    }

    fn watch(
        &self,
        prefix: &str,
        after: Revision,
    ) -> BoxFuture<'_, Result<mpsc::Receiver<Changes>, StoreError>> {
        self.store.watch(prefix, after)
    }

    fn revision(&self) -> Revision {
        self.store.revision()
    }
}

#[tokio::test]
async fn of_a_hundred_who_come_with_it_at_once_exactly_one_joins() {
    let mut place = Place::new();
    place.store = Arc::new(Together {
        store: place.store.clone(),
        uses: Barrier::new(100),
    });
    let mesh = Mesh::at(place).await;
    let token = mesh.token().await.token;
    let names: Vec<String> = (0..100).map(|number| format!("web-{number}")).collect();
    let outcomes = join_all(names.iter().map(|name| mesh.join(&token, name))).await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
    let is_used = |outcome: &&Result<Issued, JoinError>| matches!(outcome, Err(JoinError::Used(_)));
    assert_eq!(outcomes.iter().filter(is_used).count(), 99);
    assert_eq!(
        mesh.entries(crate::ledger::PREFIX).await.len(),
        1,
        "one certificate is in the world"
    );
}

#[tokio::test]
async fn a_request_that_is_no_good_does_not_use_it_up() {
    let mesh = Mesh::new().await;
    let token = mesh.token().await.token;
    let bad = v1::JoinRequest {
        token: token.clone(),
        csr: b"no request".to_vec().into(),
        holder: None,
    };
    let refused = mesh.tokens.join(&bad, &holder("web-1")).await;
    assert!(matches!(refused, Err(JoinError::Sign(SignError::Request(_)))));
    assert!(matches!(
        mesh.join(&token, "").await,
        Err(JoinError::Sign(SignError::Holder(_)))
    ));
    mesh.join(&token, "web-1").await.unwrap();
}

#[tokio::test]
async fn what_is_not_quite_the_token_is_refused_and_says_nothing_of_the_real_one() {
    let mesh = Mesh::new().await;
    let token = mesh.token().await.token;
    let other = mesh.token().await.token;
    mesh.join(&token, "web-1").await.unwrap();
    // The name of one that is used, with another secret: as unknown as any.
    let bytes = |text: &str| URL_SAFE_NO_PAD.decode(&text["weft1.".len()..]).unwrap();
    let mixed = [&bytes(&token)[..16], &bytes(&other)[16..]].concat();
    let mixed = format!("weft1.{}", URL_SAFE_NO_PAD.encode(mixed));
    assert!(matches!(mesh.join(&mixed, "x").await, Err(JoinError::Secret(_))));
    let unknown = JoinToken::generate(mesh.authority.signing_root().0.hash()).expose();
    let unknown = mesh.join(&unknown, "x").await.unwrap_err();
    assert!(matches!(unknown, JoinError::Unknown(_)));
    let secret = mesh.join(&mixed, "x").await.unwrap_err();
    let messages = [&unknown, &secret].map(|error| mesh.tokens.refuse(error, "x").message().to_owned());
    assert_eq!(messages[0], messages[1]);
    for text in [
        "",
        "weft1.",
        "weft1.AAAA",
        &token[6..],
        &token[..112],
        &format!("{token}A"),
    ] {
        assert!(
            matches!(mesh.join(text, "x").await, Err(JoinError::Malformed)),
            "{text}"
        );
    }
    for at in 0..token.len() {
        let mut changed = other.clone().into_bytes();
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(changed).unwrap();
        // The hash of the root is for the joiner: the controller looks at its own.
        let is_of_root = JoinToken::parse(&changed).is_some_and(|text| {
            let real = JoinToken::parse(&other).unwrap();
            text.id() == real.id() && text.hash() == real.hash()
        });
        assert!(is_of_root || mesh.join(&changed, "x").await.is_err(), "{at}");
    }
    mesh.join(&format!(" {other}\n"), "web-2").await.unwrap();
}

#[tokio::test]
async fn a_token_ends_and_can_be_revoked() {
    let mesh = Mesh::new().await;
    let (ends, revoked) = (mesh.token().await, mesh.token().await);
    assert!(mesh.tokens.revoke(&revoked.id, "ann").await.unwrap().was_usable);
    assert!(!mesh.tokens.revoke(&revoked.id, "ann").await.unwrap().was_usable);
    assert!(matches!(
        mesh.tokens.revoke("ab", "ann").await,
        Err(TokenError::Unknown(_))
    ));
    assert!(matches!(
        mesh.join(&revoked.token, "x").await,
        Err(JoinError::Revoked(_))
    ));
    assert_eq!(
        open_tokens(&*mesh.place.store, mesh.authority.now())
            .await
            .unwrap()
            .len(),
        1
    );
    mesh.place.pass(600);
    assert!(matches!(
        mesh.join(&ends.token, "x").await,
        Err(JoinError::Expired(_))
    ));
    assert!(
        open_tokens(&*mesh.place.store, mesh.authority.now())
            .await
            .unwrap()
            .is_empty()
    );
    mesh.place.pass(3601);
    prune(&*mesh.place.store, mesh.authority.now()).await.unwrap();
    assert!(mesh.entries(PREFIX).await.is_empty());
}

#[tokio::test]
async fn tokens_are_for_workloads_and_operators_and_for_an_hour_at_most() {
    let mesh = Mesh::new().await;
    let admin = mesh
        .tokens
        .create(for_operator("admin", "ann"), "x")
        .await
        .unwrap();
    assert_eq!(admin.identity, "spiffe://mesh.test/weft/admin/ann");
    let asked = v1::CreateTokenRequest {
        lifetime_seconds: 3600,
        ..for_web()
    };
    mesh.tokens.create(asked.clone(), "x").await.unwrap();
    let account = |namespace: &str, account: &str| v1::CreateTokenRequest {
        namespace: namespace.to_owned(),
        service_account: account.to_owned(),
        ..Default::default()
    };
    for wrong in [
        v1::CreateTokenRequest::default(),
        v1::CreateTokenRequest {
            lifetime_seconds: 3601,
            ..asked
        },
        v1::CreateTokenRequest {
            role: "admin".to_owned(),
            ..for_web()
        },
        for_operator("root", "ann"),
        for_operator("admin", ""),
        for_operator("admin", "a/b"),
        account("", "web"),
        account("shop", "../admin"),
        account("Shop", "web"),
        account("weft-system", "weft-controller"),
    ] {
        let refused = mesh.tokens.create(wrong.clone(), "x").await;
        assert!(matches!(refused, Err(TokenError::Request(_))), "{wrong:?}");
    }
}

#[tokio::test]
async fn no_secret_of_a_token_is_stored_or_shown() {
    let mesh = Mesh::new().await;
    let token = mesh.token().await.token;
    let text = JoinToken::parse(&token).unwrap();
    let secret = &token[28..70];
    let mut shown = format!("{text:?}");
    for entry in mesh.entries("").await {
        shown.push_str(&entry.key);
        shown.push_str(&String::from_utf8_lossy(&entry.value));
    }
    assert!(shown.contains(&text.id()) && shown.contains(&crate::hex::encode(&text.hash())));
    assert!(!shown.contains(secret));
}

#[tokio::test]
async fn a_flood_of_bad_tokens_keeps_nobody_out() {
    let mesh = Mesh::new().await;
    let token = mesh.token().await.token;
    let refused = (0..200).map(|_| mesh.tokens.refuse(&JoinError::Malformed, "x").code());
    let limited = refused
        .filter(|code| *code == tonic::Code::ResourceExhausted)
        .count();
    assert!((140..=150).contains(&limited), "{limited}");
    mesh.join(&token, "web-1").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_rotation_waits_for_the_tokens_of_the_old_root() {
    let mesh = Mesh::new().await;
    let task = tokio::spawn(mesh.authority.clone().run());
    let old = mesh.token().await;
    mesh.authority
        .rotate(&v1::RotateRootRequest::default(), "ann")
        .await
        .unwrap();
    let step = async || mesh.authority.status().await.unwrap().step;
    let until = async |wanted: &str| {
        for _ in 0..1_000 {
            if step().await == wanted {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("never {wanted}");
    };
    until("signing").await;
    // One that is made now leads to the new root, and holds nothing up.
    let new = mesh.token().await;
    let root = |token: &str| JoinToken::parse(token).unwrap().root();
    assert_ne!(root(&old.token), root(&new.token));
    let status = mesh.authority.status().await.unwrap();
    assert_eq!(status.waiting.len(), 1);
    assert!(status.waiting[0].why.contains(&old.id));
    for _ in 0..50 {
        assert_eq!(step().await, "signing");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    mesh.tokens.revoke(&old.id, "ann").await.unwrap();
    until("stable").await;
    mesh.join(&new.token, "web-1").await.unwrap();
    task.abort();
}
