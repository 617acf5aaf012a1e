//! What operators do with the roots, and what they are told of them.

use std::{collections::HashMap, path::PathBuf, time::Duration};

use weft_proto::mesh::v1;

use super::{
    Authority, Brought, CaError, Current, TrustError, open,
    options::CaOptions,
    seconds,
    signer::{Lifetimes, Signer},
    state::{self, State},
};
use crate::{
    attest,
    audit::Record,
    ledger::Ledger,
    store::{Revision, Transaction},
    trust::{RootId, Step, Trust, View, Waiting, Who},
};

impl Authority {
    /// Begins a rotation to a new root: one made here, or an operator's own. Audited as `ca.rotate`.
    ///
    /// # Errors
    /// A rotation is under way, the operator's files are no good, or files or store could not be written.
    pub async fn rotate(
        &self,
        request: &v1::RotateRootRequest,
        who: &str,
    ) -> Result<v1::TrustStatusResponse, TrustError> {
        let _alone = self.changing.lock().await;
        self.refresh().await?;
        let current = self.current();
        // Asked before a root is made for nothing.
        if !matches!(current.state.trust.step, Step::Stable { .. }) {
            return Err(crate::trust::Refused::UnderWay(current.state.trust.name()).into());
        }
        let (signer, lifetime) = self.new_root(request, current.state.root_lifetime)?;
        let trust = current.state.trust.rotate(signer.id, request.keep_old)?;
        open::add(&self.files, &signer)?;
        let mut next = current.state.with(trust, Some(&signer.root));
        next.root_lifetime = lifetime;
        let audit = Record::new(who, "ca.rotate", format!("root {}", signer.id))
            .detail(format!("after root {}", current.state.trust.signing()));
        if let Err(error) = self.change(&current, next, vec![audit]).await {
            // Its keys are of no use to anyone now.
            if let Err(error) = self.files.remove(signer.id) {
                tracing::warn!(%error, "the files of a root that is not used could not be removed");
            }
            return Err(error);
        }
        Ok(self.status().await?)
    }

    /// Retires the old root of a rotation that stopped before it (`keep_old`); or gives up a rotation of which the
    /// new root does not sign yet. Audited as `ca.retire`.
    ///
    /// # Errors
    /// Someone would be cut off; the error has them all. Or it is no root that can go.
    pub async fn retire(&self, id: RootId, who: &str) -> Result<v1::TrustStatusResponse, TrustError> {
        let _alone = self.changing.lock().await;
        self.refresh().await?;
        let current = self.current();
        let view = self.view().await?.0;
        let trust = current.state.trust.retire(id, &view, self.now())?;
        let next = current.state.with(trust, None);
        let audit = Record::new(who, "ca.retire", format!("root {id}"));
        self.change(&current, next, vec![audit]).await?;
        Ok(self.status().await?)
    }

    /// Asks every proxy to renew within a time; zero: as after a change of the root. No longer than half a leaf's
    /// life, by which each renews by itself. Audited as `ca.renew`.
    ///
    /// # Errors
    /// The store could not be written.
    pub async fn renew_leaves(&self, within: Duration, who: &str) -> Result<(), TrustError> {
        let _alone = self.changing.lock().await;
        self.refresh().await?;
        let current = self.current();
        let next = current.state.with(current.state.trust.renew(), None);
        let audit = vec![Record::new(who, "ca.renew", "all leaves")];
        if within.is_zero() {
            return self.change(&current, next, audit).await;
        }
        let mut hint = open::hint(&next.trust, &self.options);
        hint.within = within.min(self.options.leaf_lifetime / 2);
        let revision = self.commit(&current, &next, audit).await?;
        // Before the state, which would be published with the usual time.
        self.renewals.send_replace(hint);
        Ok(self.adopt(next, revision)?)
    }

    /// Forgets the leaves of a workload, so that no rotation waits for it, and says whether there were any. It is
    /// waited for again when it has renewed. `who` is for the log; the audit is the caller's.
    ///
    /// # Errors
    /// The store could not be read or written.
    pub async fn evict(&self, namespace: &str, workload: &str, who: &str) -> Result<bool, TrustError> {
        let ledger = Ledger::read(&*self.store).await.map_err(CaError::from)?;
        let found = ledger.evict(&*self.store, namespace, workload).await?;
        self.heard().evict(namespace, workload);
        tracing::info!(
            namespace,
            workload,
            leaves = found,
            who,
            "the leaves of a workload are forgotten"
        );
        self.wake.notify_one();
        Ok(found > 0)
    }

    /// How it stands with the roots: step, leaves, and who holds up the next step.
    ///
    /// # Errors
    /// The store could not be read.
    pub async fn status(&self) -> Result<v1::TrustStatusResponse, CaError> {
        let now = self.now();
        let (view, ledger) = self.view().await?;
        let current = self.current();
        let mut leaves: HashMap<RootId, u64> = HashMap::new();
        for issue in ledger.unexpired(now) {
            *leaves.entry(issue.root).or_default() += 1;
        }
        let trust = &current.state.trust;
        let roots = current.state.ids();
        let waiting = trust.waiting(&view, now);
        Ok(v1::TrustStatusResponse {
            version: trust.version,
            step: trust.name().to_owned(),
            roots: roots
                .map(|id| show_root(&current, id, &leaves))
                .collect::<Result<_, _>>()?,
            waiting: waiting.into_iter().map(show_waiting).collect(),
            leaf_lifetime_seconds: self.options.leaf_lifetime.as_secs(),
            signer_not_after: current.signing().map_or(0, |signer| seconds(signer.ends())),
            unexpired_leaves: leaves.values().sum(),
        })
    }

    /// All that the machine looks at, and the ledger that it was made from.
    pub(super) async fn view(&self) -> Result<(View, Ledger), CaError> {
        let now = self.now();
        let ledger = Ledger::read(&*self.store).await?;
        let holders = ledger.holders(self.options.renew_grace, now);
        let tokens = attest::open_tokens(&*self.store, now).await?;
        let view = View {
            holders: self.heard().standings(holders),
            tokens,
        };
        Ok((view, ledger))
    }

    /// Writes another state, and acts by it.
    pub(super) async fn change(
        &self,
        from: &Current,
        next: State,
        audit: Vec<Record>,
    ) -> Result<(), TrustError> {
        let revision = self.commit(from, &next, audit).await?;
        Ok(self.adopt(next, revision)?)
    }

    fn adopt(&self, state: State, revision: Revision) -> Result<(), CaError> {
        let signers = open::read_signers(&self.files, &state, &self.options)?;
        self.install(Current {
            revision,
            state,
            signers,
        })
    }

    async fn commit(&self, from: &Current, next: &State, audit: Vec<Record>) -> Result<Revision, TrustError> {
        let audit = audit.iter().map(Record::operation);
        let transaction = Transaction {
            conditions: vec![state::unchanged(from.revision)],
            operations: std::iter::once(next.operation()).chain(audit).collect(),
        };
        Ok(self.store.commit(transaction).await?)
    }

    /// The new root of a request, and how long the next one lives if nobody says otherwise.
    fn new_root(&self, request: &v1::RotateRootRequest, last: u64) -> Result<(Signer, u64), CaError> {
        let files = [&request.root_file, &request.signer_file, &request.signer_key_file];
        if files.iter().any(|file| !file.is_empty()) {
            if files.iter().any(|file| file.is_empty()) {
                return Err(CaError::Option(
                    "a root of one's own takes all three: root_file, signer_file and signer_key_file"
                        .to_owned(),
                ));
            }
            let brought = Brought {
                root: PathBuf::from(&request.root_file),
                signer: PathBuf::from(&request.signer_file),
                signer_key: PathBuf::from(&request.signer_key_file),
            };
            return Ok((open::read_brought(&brought, &self.options)?, last));
        }
        let lifetime = match request.lifetime_seconds {
            0 => last,
            asked => asked,
        };
        let options = CaOptions {
            root_lifetime: Duration::from_secs(lifetime),
            ..self.options.clone()
        };
        options.check()?;
        let lifetimes = Lifetimes {
            root: options.root_lifetime,
            signer: options.signer_lifetime,
        };
        let signer = Signer::make(&options.trust_domain, lifetimes, self.now())?;
        Ok((signer, lifetime))
    }
}

fn show_root(current: &Current, id: RootId, leaves: &HashMap<RootId, u64>) -> Result<v1::Root, CaError> {
    let der = current.state.root(id)?;
    let validity = super::signer::validity(std::path::Path::new("the store"), &der)?;
    Ok(v1::Root {
        id: id.as_bytes().to_vec().into(),
        der: der.to_vec().into(),
        state: state_of(&current.state.trust, id).to_owned(),
        not_before: seconds(validity.not_before),
        not_after: seconds(validity.not_after),
        unexpired_leaves: leaves.get(&id).copied().unwrap_or(0),
    })
}

fn state_of(trust: &Trust, id: RootId) -> &'static str {
    match trust.step {
        Step::Retiring { old, .. } if id == old => "retiring",
        _ if id == trust.signing() => "signing",
        _ => "trusted",
    }
}

fn show_waiting(waiting: Waiting) -> v1::Waiting {
    let why = waiting.why.to_string();
    let until = seconds(waiting.until);
    match waiting.who {
        Who::Holder(holder) => v1::Waiting {
            namespace: holder.identity.namespace().unwrap_or_default().to_owned(),
            workload: holder.workload,
            identity: holder.identity.as_str().to_owned(),
            why,
            until,
        },
        Who::Token(id) => v1::Waiting {
            why: format!("token {id} {why}"),
            until,
            ..v1::Waiting::default()
        },
    }
}
