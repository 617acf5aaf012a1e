//! Join tokens: good once, for minutes, for one identity.
//!
//! A token is a name, a secret of 256 bits, and the hash of the root by which the joiner knows the controller. The
//! store has the hash of the secret. The use of a token and the entry of the certificate in the ledger are one
//! transaction: whatever happens, it is good for one certificate at most, and lost for none.

mod failures;

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use serde::{Deserialize, Serialize};
use tonic::Status;
use weft_proto::{SpiffeId, TrustDomain, mesh::v1, names};
use weft_tls::token::JoinToken;

use self::failures::Failures;
use crate::{
    audit::Record,
    auth::{Caller, Role},
    ca::{Authority, Issued, SignError, controller_id},
    store::{CommitError, Condition, Entry, Operation, Revision, Store, StoreError, Transaction},
    trust::{OpenToken, RootId},
    unix::seconds,
};

/// Where tokens are.
pub const PREFIX: &str = "tokens/";
/// How long a token is good if nobody says otherwise.
const LIFETIME: Duration = Duration::from_secs(10 * 60);
/// How long at most: a token is for someone who waits for it.
const MAX_LIFETIME: Duration = Duration::from_secs(3600);
/// How long one that can't be used any more is kept, to tell who comes with it why.
const KEPT: Duration = Duration::from_secs(3600);
/// How often something is tried again because the store changed meanwhile.
const TRIES: usize = 5;

/// The join tokens of a mesh.
pub struct Tokens {
    authority: Arc<Authority>,
    failures: Failures,
}

/// A token as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Stored {
    identity: String,
    /// SHA-256 of the secret, in hexadecimal digits.
    hash: String,
    root: RootId,
    /// Seconds since 1970, as all times here.
    created_at: u64,
    expires_at: u64,
    created_by: String,
    state: State,
}

/// What became of a token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Open,
    Used { at: u64, by: String },
    Revoked,
}

/// Why a token was not made or changed.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The request is no good.
    #[error("{0}")]
    Request(String),
    /// There is no such token.
    #[error("there is no token {0}")]
    Unknown(String),
    /// The store failed, or something else changes the same all the time.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// The store failed, or what is in it is damaged.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why someone did not join.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// What it sent is not a token.
    #[error("not a join token")]
    Malformed,
    /// There is no token of that name.
    #[error("no such token")]
    Unknown(String),
    /// The secret is another one.
    #[error("a token with another secret")]
    Secret(String),
    /// It is used up.
    #[error("the token was used already")]
    Used(String),
    /// Its time is over.
    #[error("the token has expired")]
    Expired(String),
    /// An operator revoked it.
    #[error("the token was revoked")]
    Revoked(String),
    /// No certificate was issued; the token is still good.
    #[error(transparent)]
    Sign(SignError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Tokens {
    /// Those of the authority's store.
    pub fn new(authority: Arc<Authority>) -> Self {
        Self {
            authority,
            failures: Failures::default(),
        }
    }

    /// Makes a token for the identity that is asked for. Audited as `token.create`.
    ///
    /// # Errors
    /// The request names no identity that may join, or asks for more than an hour; or the store failed.
    pub async fn create(
        &self,
        request: v1::CreateTokenRequest,
        who: &str,
    ) -> Result<v1::CreateTokenResponse, TokenError> {
        let identity = identity_of(&request, self.authority.trust_domain())?;
        let lifetime = lifetime_of(&request)?;
        let mut tries = 0;
        loop {
            tries += 1;
            match self.try_create(&identity, lifetime, who).await {
                // The rotation took a step: the token must name the root that signs now.
                Err(TokenError::Commit(CommitError::Conflict(_))) if tries < TRIES => {
                    let refreshed = self.authority.refresh_state().await;
                    refreshed.map_err(|error| StoreError::Io(error.to_string()))?;
                }
                outcome => return outcome,
            }
        }
    }

    async fn try_create(
        &self,
        identity: &SpiffeId,
        lifetime: Duration,
        who: &str,
    ) -> Result<v1::CreateTokenResponse, TokenError> {
        let (root, still_signs) = self.authority.signing_root();
        let token = JoinToken::generate(root.hash());
        let now = self.authority.now();
        let stored = Stored {
            identity: identity.as_str().to_owned(),
            hash: crate::hex::encode(&token.hash()),
            root,
            created_at: seconds(now),
            expires_at: seconds(now + lifetime),
            created_by: who.to_owned(),
            state: State::Open,
        };
        let key = key(&token.id());
        let audit =
            Record::new(who, "token.create", format!("token {}", token.id())).detail(identity.as_str());
        let transaction = Transaction {
            conditions: vec![still_signs, Condition::Absent(key.clone())],
            operations: vec![stored.operation(key), audit.operation()],
        };
        self.authority.store().commit(transaction).await?;
        tracing::info!(token = token.id(), %identity, who, "a join token is created");
        Ok(v1::CreateTokenResponse {
            id: token.id(),
            token: token.expose().to_string(),
            expires_at: stored.expires_at,
            identity: stored.identity,
        })
    }

    /// All tokens that are kept, without secrets.
    ///
    /// # Errors
    /// The store can't be read.
    pub async fn list(&self) -> Result<v1::TokensResponse, TokenError> {
        let all = read_all(&**self.authority.store()).await?;
        Ok(v1::TokensResponse {
            tokens: all
                .into_iter()
                .map(|(entry, stored)| stored.show(id_of(&entry.key)))
                .collect(),
        })
    }

    /// Revokes a token, and says whether it could still have been used. Audited as `token.revoke`.
    ///
    /// # Errors
    /// There is no such token, or the store failed.
    pub async fn revoke(&self, id: &str, who: &str) -> Result<v1::RevokeTokenResponse, TokenError> {
        let mut tries = 0;
        loop {
            tries += 1;
            let found = self.find(id).await?;
            let (stored, modified) = found.ok_or_else(|| TokenError::Unknown(id.to_owned()))?;
            if stored.state != State::Open {
                return Ok(v1::RevokeTokenResponse { was_usable: false });
            }
            let was_usable = seconds(self.authority.now()) < stored.expires_at;
            let revoked = Stored {
                state: State::Revoked,
                ..stored
            };
            let audit = Record::new(who, "token.revoke", format!("token {id}"));
            let transaction = Transaction {
                conditions: vec![Condition::Unchanged(key(id), modified)],
                operations: vec![revoked.operation(key(id)), audit.operation()],
            };
            match self.authority.store().commit(transaction).await {
                // Someone used it just now, or revoked it too.
                Err(CommitError::Conflict(_)) if tries < TRIES => {}
                outcome => return Ok(outcome.map(|_| v1::RevokeTokenResponse { was_usable })?),
            }
        }
    }

    /// Uses a token up for a first certificate. Audited as `join`, by the identity that joins.
    ///
    /// # Errors
    /// See [`JoinError`]. [`Tokens::refuse`] makes the answer of it.
    pub async fn join(&self, request: &v1::JoinRequest, holder: &v1::Holder) -> Result<Issued, JoinError> {
        let token = JoinToken::parse(&request.token).ok_or(JoinError::Malformed)?;
        let id = token.id();
        let found = self.find(&id).await.map_err(|error| match error {
            TokenError::Store(error) => JoinError::Store(error),
            other => JoinError::Store(StoreError::Damaged(other.to_string())),
        })?;
        let (stored, modified) = found.ok_or_else(|| JoinError::Unknown(id.clone()))?;
        self.check(&token, &stored)?;
        let identity = SpiffeId::parse_workload(&stored.identity)
            .map_err(|error| StoreError::Damaged(format!("token {id}: {error}")))?;
        let used = Stored {
            state: State::Used {
                at: seconds(self.authority.now()),
                by: holder_name(&identity, holder),
            },
            ..stored
        };
        let audit = Record::new(identity.as_str(), "join", holder_name(&identity, holder))
            .detail(format!("token {id}"));
        let with = Transaction {
            conditions: vec![Condition::Unchanged(key(&id), modified)],
            operations: vec![used.operation(key(&id)), audit.operation()],
        };
        let signed = self
            .authority
            .sign_with(&identity, holder, &request.csr, &with)
            .await;
        match signed {
            Ok(issued) => Ok(issued),
            // Someone else was faster with the same token; or it was revoked, or is gone, which are rare enough to
            // be called the same.
            Err(SignError::Condition(Condition::Unchanged(changed, _))) if changed == key(&id) => {
                Err(JoinError::Used(id))
            }
            Err(error) => Err(JoinError::Sign(error)),
        }
    }

    /// The answer to whoever could not join, which says what helps an honest one. The log says the rest, of so many
    /// failures a second.
    pub fn refuse(&self, error: &JoinError, from: &str) -> Status {
        let is_an_attempt = !matches!(error, JoinError::Sign(_) | JoinError::Store(_));
        // Someone with the right token is never kept waiting by others who have none: 256 bits are not guessed.
        if is_an_attempt && !self.failures.take(std::time::Instant::now()) {
            return Status::resource_exhausted("too many joins fail: come again in a second");
        }
        tracing::warn!(reason = %error, token = error.token(), from, "a join is refused");
        error.status()
    }

    fn check(&self, token: &JoinToken, stored: &Stored) -> Result<(), JoinError> {
        let id = token.id();
        let hash = crate::hex::decode(&stored.hash).unwrap_or_default();
        // What became of a token is told only to who has its secret.
        if verify_slices_are_equal(&token.hash(), &hash).is_err() {
            return Err(JoinError::Secret(id));
        }
        match stored.state {
            State::Used { .. } => Err(JoinError::Used(id)),
            State::Revoked => Err(JoinError::Revoked(id)),
            State::Open if seconds(self.authority.now()) >= stored.expires_at => Err(JoinError::Expired(id)),
            State::Open if !self.authority.trusts(stored.root) => Err(JoinError::Expired(id)),
            State::Open => Ok(()),
        }
    }

    async fn find(&self, id: &str) -> Result<Option<(Stored, Revision)>, TokenError> {
        let Some(entry) = self.authority.store().get(&key(id)).await? else {
            return Ok(None);
        };
        Ok(Some((read(&entry)?, entry.modified)))
    }
}

impl JoinError {
    /// The name of the token, if it has one.
    fn token(&self) -> Option<&str> {
        match self {
            Self::Unknown(id) | Self::Secret(id) | Self::Used(id) | Self::Expired(id) | Self::Revoked(id) => {
                Some(id)
            }
            Self::Malformed | Self::Sign(_) | Self::Store(_) => None,
        }
    }

    fn status(&self) -> Status {
        const ANOTHER: &str = "create another: weft token create";
        match self {
            Self::Malformed => Status::unauthenticated(
                "this is not a join token: it begins with weft1. and has 113 characters",
            ),
            // Not which of the two: the name of a token is no secret, and must not become a way to ask for it.
            Self::Unknown(_) | Self::Secret(_) => Status::unauthenticated(format!(
                "the token is not known here: is it of this mesh, and not longer ago than an hour? Else {ANOTHER}"
            )),
            Self::Used(_) | Self::Expired(_) | Self::Revoked(_) => {
                Status::unauthenticated(format!("{self}; {ANOTHER}"))
            }
            Self::Sign(error) => error.status(),
            Self::Store(error) => Status::unavailable(error.to_string()),
        }
    }
}

/// The answer to whoever asked.
impl From<TokenError> for Status {
    fn from(error: TokenError) -> Self {
        let text = error.to_string();
        match error {
            TokenError::Request(_) => Self::invalid_argument(text),
            TokenError::Unknown(_) => Self::not_found(text),
            TokenError::Commit(CommitError::Conflict(_)) => {
                Self::aborted("the store changes at the same time: try again")
            }
            TokenError::Commit(CommitError::Store(_)) | TokenError::Store(_) => Self::unavailable(text),
        }
    }
}

impl Stored {
    fn operation(&self, key: String) -> Operation {
        Operation::Put(key, serde_json::to_vec(self).unwrap_or_default().into())
    }

    fn show(self, id: &str) -> v1::Token {
        let (used_at, used_by) = match self.state.clone() {
            State::Used { at, by } => (at, by),
            State::Open | State::Revoked => (0, String::new()),
        };
        v1::Token {
            id: id.to_owned(),
            identity: self.identity,
            created_at: self.created_at,
            expires_at: self.expires_at,
            created_by: self.created_by,
            used_at,
            used_by,
            revoked: self.state == State::Revoked,
        }
    }
}

/// The tokens that can still be used, which a rotation of the root waits for.
///
/// # Errors
/// The store can't be read.
pub(crate) async fn open_tokens(store: &dyn Store, now: SystemTime) -> Result<Vec<OpenToken>, StoreError> {
    let all = read_all(store).await?.into_iter();
    let open = all.filter(|(_, stored)| stored.state == State::Open && seconds(now) < stored.expires_at);
    Ok(open
        .map(|(entry, stored)| OpenToken {
            id: id_of(&entry.key).to_owned(),
            root: stored.root,
            until: UNIX_EPOCH + Duration::from_secs(stored.expires_at),
        })
        .collect())
}

/// Removes tokens that nobody asks about any more.
///
/// # Errors
/// The store failed.
pub(crate) async fn prune(store: &dyn Store, now: SystemTime) -> Result<(), CommitError> {
    let all = read_all(store).await?.into_iter();
    let old = all.filter(|(_, stored)| stored.expires_at + KEPT.as_secs() < seconds(now));
    let transaction = Transaction {
        conditions: Vec::new(),
        operations: old.map(|(entry, _)| Operation::Delete(entry.key)).collect(),
    };
    if !transaction.operations.is_empty() {
        store.commit(transaction).await?;
    }
    Ok(())
}

async fn read_all(store: &dyn Store) -> Result<Vec<(Entry, Stored)>, StoreError> {
    let entries = store.list(PREFIX).await?.entries.into_iter();
    entries
        .map(|entry| read(&entry).map(|stored| (entry, stored)))
        .collect()
}

fn read(entry: &Entry) -> Result<Stored, StoreError> {
    serde_json::from_slice(&entry.value)
        .map_err(|error| StoreError::Damaged(format!("{}: {error}", entry.key)))
}

fn key(id: &str) -> String {
    format!("{PREFIX}{id}")
}

fn id_of(key: &str) -> &str {
    key.strip_prefix(PREFIX).unwrap_or(key)
}

fn holder_name(identity: &SpiffeId, holder: &v1::Holder) -> String {
    match identity.namespace() {
        Some(namespace) => format!("Workload {namespace}/{}", holder.workload),
        None => identity.path().to_owned(),
    }
}

/// The identity that a token is asked for: that of a workload, or of an operator.
fn identity_of(request: &v1::CreateTokenRequest, trust_domain: &TrustDomain) -> Result<SpiffeId, TokenError> {
    let wrong = |what: String| TokenError::Request(what);
    let is_workload = !request.service_account.is_empty() || !request.namespace.is_empty();
    let is_operator = !request.role.is_empty() || !request.name.is_empty();
    let path = match (is_workload, is_operator) {
        (true, false) => {
            let namespace = names::DnsLabel::parse(&request.namespace)
                .map_err(|error| wrong(format!("namespace: {error}")))?;
            let account = names::DnsName::parse(&request.service_account)
                .map_err(|error| wrong(format!("service_account: {error}")))?;
            format!("ns/{namespace}/sa/{account}")
        }
        (false, true) => {
            let roles = [Role::Admin, Role::Viewer];
            let role = roles.into_iter().find(|role| role.as_str() == request.role);
            let role = role.ok_or_else(|| wrong("role: admin or viewer".to_owned()))?;
            let name =
                names::DnsName::parse(&request.name).map_err(|error| wrong(format!("name: {error}")))?;
            format!("weft/{}/{name}", role.as_str())
        }
        (true, true) | (false, false) => {
            return Err(wrong(
                "a token is for a workload (namespace and service_account) or for an operator (role and name)".to_owned(),
            ));
        }
    };
    let identity = SpiffeId::parse_workload(&format!("spiffe://{trust_domain}/{path}"))
        .map_err(|error| wrong(error.to_string()))?;
    let is_controller = controller_id(trust_domain).is_ok_and(|own| own == identity);
    if is_controller || matches!(Caller::of(identity.clone()), Caller::Anonymous) {
        return Err(wrong(format!("nobody joins as {identity}")));
    }
    Ok(identity)
}

fn lifetime_of(request: &v1::CreateTokenRequest) -> Result<Duration, TokenError> {
    match Duration::from_secs(request.lifetime_seconds) {
        Duration::ZERO => Ok(LIFETIME),
        asked if asked <= MAX_LIFETIME => Ok(asked),
        _ => Err(TokenError::Request(
            "a token is good for an hour at most".to_owned(),
        )),
    }
}

#[cfg(test)]
mod tests;
