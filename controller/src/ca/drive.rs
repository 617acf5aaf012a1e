//! The task of an authority: takes the steps of a rotation when nobody holds them up, and renews what is its own.

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;

use super::{
    AdminCredential, Authority, CaError, Current, TrustError,
    open::{self, read_brought},
    signer::Signer,
};
use crate::{attest, audit::Record, store::CommitError, trust::Step};

/// How often it is looked whether something is due.
const TICK: Duration = Duration::from_secs(1);
/// After news, so that a thousand acknowledgements are looked at together.
const GATHER: Duration = Duration::from_millis(20);
/// How often what has ended is removed from the store.
const PRUNE: Duration = Duration::from_secs(60);
/// How often an operator's files are looked at again.
const LOOK: Duration = Duration::from_secs(30);
/// How often something that an operator must do is said again.
const WARN: Duration = Duration::from_secs(3600);

/// When which chore was done last, by the clock of timers.
struct Chores {
    pruned: tokio::time::Instant,
    looked: tokio::time::Instant,
    warned: Option<tokio::time::Instant>,
}

impl Authority {
    /// Drives rotations and renewals for as long as it is polled. A failure is told in the log, and tried again.
    pub async fn run(self: Arc<Self>) {
        let now = tokio::time::Instant::now();
        let mut chores = Chores {
            pruned: now,
            looked: now,
            warned: None,
        };
        loop {
            if let Err(error) = self.turn(&mut chores).await {
                tracing::warn!(%error, "the certificate authority cannot do what is due; it tries again");
            }
            tokio::select! {
                () = sleep(TICK) => {}
                () = self.wake.notified() => sleep(GATHER).await,
            }
        }
    }

    async fn turn(&self, chores: &mut Chores) -> Result<(), TrustError> {
        let now = tokio::time::Instant::now();
        self.renew_signers()?;
        self.renew_own();
        if now.duration_since(chores.looked) >= LOOK {
            chores.looked = now;
            self.look_at_brought()?;
        }
        if chores
            .warned
            .is_none_or(|warned| now.duration_since(warned) >= WARN)
            && self.warn_of_ends()
        {
            chores.warned = Some(now);
        }
        let _alone = self.changing.lock().await;
        self.refresh().await?;
        self.advance().await?;
        let period = PRUNE.min(self.options.leaf_lifetime);
        if now.duration_since(chores.pruned) >= period {
            chores.pruned = now;
            self.prune().await?;
        }
        Ok(())
    }

    /// Takes the next step of a rotation, if nobody holds it up.
    async fn advance(&self) -> Result<(), TrustError> {
        let current = self.current();
        if matches!(current.state.trust.step, Step::Stable { .. }) {
            return Ok(());
        }
        let (view, _) = self.view().await?;
        let Some(trust) = current.state.trust.advance(&view, self.now()) else {
            return Ok(());
        };
        let next = current.state.with(trust, None);
        let audit = Record::new("controller", "ca.step", format!("root {}", next.trust.signing()))
            .detail(format!("{} -> {}", current.state.trust.name(), next.trust.name()));
        tracing::info!(from = current.state.trust.name(), to = next.trust.name(), signing = %next.trust.signing(), trust_version = next.trust.version, "the rotation of the root takes a step");
        let gone: Vec<_> = next.retired.clone();
        match self.change(&current, next, vec![audit]).await {
            // Another controller was faster; the next turn goes on from there.
            Err(TrustError::Busy) => Ok(()),
            Err(error) => Err(error),
            Ok(()) => {
                for root in gone {
                    self.files.remove(root)?;
                }
                // The next step may be free already.
                self.wake.notify_one();
                Ok(())
            }
        }
    }

    async fn prune(&self) -> Result<(), TrustError> {
        let (view, ledger) = self.view().await?;
        self.heard().retain(&view);
        ledger
            .prune(&*self.store, self.options.renew_grace, self.now())
            .await?;
        attest::prune(&*self.store, self.now()).await?;
        Ok(())
    }

    /// Renews the signers whose root's key is here, when half of their life is over.
    fn renew_signers(&self) -> Result<(), CaError> {
        let current = self.current();
        let now = self.now();
        for signer in current.signers.values() {
            let renewed = signer.renewed(&self.options.trust_domain, self.options.signer_lifetime, now)?;
            if let Some(renewed) = renewed {
                self.use_signer(&current, renewed)?;
            }
        }
        Ok(())
    }

    /// An operator may have put another signer where the first one was.
    fn look_at_brought(&self) -> Result<(), CaError> {
        let Some(brought) = &self.options.brought else {
            return Ok(());
        };
        let current = self.current();
        let signer = read_brought(brought, &self.options)?;
        match current.signers.get(&signer.id) {
            Some(present) if present.differs_from(&signer) => self.use_signer(&current, signer),
            Some(_) => Ok(()),
            None => Err(CaError::UnknownRoot {
                brought: signer.id,
                path: brought.root.clone(),
            }),
        }
    }

    fn use_signer(&self, current: &Current, signer: Signer) -> Result<(), CaError> {
        open::add(&self.files, &signer)?;
        tracing::info!(root = %signer.id, not_after = super::error::date(signer.ends()), "another signer is used from now on");
        let mut signers = self.current().signers.clone();
        signers.insert(signer.id, Arc::new(signer));
        self.install(Current {
            revision: current.revision,
            state: current.state.clone(),
            signers,
        })
    }

    /// Says what ends soon and cannot renew itself. Whether there was anything to say.
    fn warn_of_ends(&self) -> bool {
        let current = self.current();
        let now = self.now();
        let Some(signer) = current.signing() else {
            return false;
        };
        let lifetime = signer
            .validity
            .not_after
            .duration_since(signer.validity.not_before);
        let margin = lifetime.unwrap_or_default() / 4;
        let ends = signer.ends();
        if now + margin < ends {
            return false;
        }
        tracing::warn!(root = %signer.id, not_after = super::error::date(ends), "the signer or its root ends soon, and leaves with it: weft ca rotate, or give the controller another signer");
        true
    }

    /// Renews the controller's own leaves and the credential of the data directory, as far as it is time.
    pub(super) fn renew_own(&self) {
        let current = self.current();
        let now = self.now();
        let trust = &current.state.trust;
        let signers = trust
            .roots()
            .into_iter()
            .filter_map(|id| current.signers.get(&id));
        let serving = self
            .serving
            .borrow()
            .renewed(trust.familiar(), signers, &self.options, now);
        self.serving.send_if_modified(|published| {
            let is_news = !published.is_as(&serving);
            *published = Arc::new(serving);
            is_news
        });
        self.renew_admin(&current);
    }

    fn renew_admin(&self, current: &Current) {
        let now = self.now();
        let version = current.state.trust.version;
        let (Some(signer), Ok(bundle)) = (current.signing(), current.bundle(&self.options.trust_domain))
        else {
            return;
        };
        let is_good = self.admin.borrow().as_ref().is_some_and(|admin| {
            admin.version == version && admin.root == signer.id && now < admin.validity.half()
        });
        if is_good {
            return;
        }
        match AdminCredential::make(signer, bundle.to_pem(), version, &self.options, now) {
            Ok(admin) => {
                self.admin.send_replace(Some(Arc::new(admin)));
            }
            Err(error) => tracing::error!(%error, "no certificate for the admin of the data directory"),
        }
    }
}

impl From<CommitError> for CaError {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::Conflict(_) => Self::State("it changed at the same time".to_owned()),
            CommitError::Store(error) => Self::Store(error),
        }
    }
}
