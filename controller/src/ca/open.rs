//! The start of an authority: what the files and the store say, and whether they belong together.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
    sync::{Arc, Mutex},
};

use tokio::sync::{Notify, watch};

use super::{
    Authority, Brought, Bundle, CaError, CaOptions, Current, RenewHint, Serving,
    files::{Files, Texts, read_secret},
    heard::Heard,
    signer::Signer,
    state::{self, State},
};
use crate::{
    store::{CommitError, Condition, Revision, SharedStore, Store, Transaction},
    trust::{RootId, Trust},
};

impl Authority {
    /// Opens the authority of a data directory. The first start makes a root and a signer, or takes those that an
    /// operator brought; later ones go on where the last one ended, also in the middle of a rotation.
    ///
    /// # Errors
    /// Files and store do not belong together, or to this trust domain; or either cannot be read or written. Nothing
    /// is changed then that an operator would miss.
    pub async fn open(store: SharedStore, data: &Path, options: CaOptions) -> Result<Arc<Self>, CaError> {
        options.check()?;
        let files = Files::open(data)?;
        let (state, revision) = match State::read(&*store).await? {
            Some(known) => known,
            None => begin(&*store, &files, &options).await?,
        };
        if state.trust_domain != options.trust_domain.as_str() {
            return Err(CaError::OtherTrustDomain {
                place: "the store".to_owned(),
                found: state.trust_domain,
                wanted: options.trust_domain,
            });
        }
        for gone in &state.retired {
            files.remove(*gone)?;
        }
        if let Some(brought) = &options.brought {
            take_brought(&files, &state, brought, &options)?;
        }
        let signers = read_signers(&files, &state, &options)?;
        let signing = state.trust.signing();
        if !signers.contains_key(&signing) {
            return Err(CaError::NoSigner {
                root: signing,
                directory: files.of(signing),
            });
        }
        let current = Current {
            revision,
            state,
            signers,
        };
        Self::assemble(store, files, options, current)
    }

    fn assemble(
        store: SharedStore,
        files: Files,
        options: CaOptions,
        current: Current,
    ) -> Result<Arc<Self>, CaError> {
        let bundle: Bundle = current.bundle(&options.trust_domain)?;
        let hint = hint(&current.state.trust, &options);
        let authority = Self {
            store,
            files,
            options,
            current: Mutex::new(Arc::new(current)),
            heard: Mutex::new(Heard::default()),
            changing: tokio::sync::Mutex::new(()),
            wake: Notify::new(),
            bundle: watch::Sender::new(Arc::new(bundle)),
            renewals: watch::Sender::new(hint),
            serving: watch::Sender::new(Arc::new(Serving::default())),
            admin: watch::Sender::new(None),
        };
        authority.renew_own();
        Ok(Arc::new(authority))
    }

    /// Reads the state anew, since another controller may have changed it.
    pub(super) async fn refresh(&self) -> Result<(), CaError> {
        let Some((state, revision)) = State::read(&*self.store).await? else {
            return Err(CaError::State("it is gone".to_owned()));
        };
        if revision != self.current().revision {
            let signers = read_signers(&self.files, &state, &self.options)?;
            self.install(Current {
                revision,
                state,
                signers,
            })?;
        }
        Ok(())
    }

    /// Acts by another state from now on, and tells everyone.
    pub(super) fn install(&self, next: Current) -> Result<(), CaError> {
        let bundle = next.bundle(&self.options.trust_domain)?;
        let hint = hint(&next.state.trust, &self.options);
        {
            let mut current = self
                .current
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            // A slower one that read before must not undo this.
            if next.revision < current.revision {
                return Ok(());
            }
            *current = Arc::new(next);
        }
        self.renew_own();
        self.bundle.send_if_modified(|published| {
            let is_news = published.version < bundle.version;
            if is_news {
                *published = Arc::new(bundle);
            }
            is_news
        });
        self.renewals.send_if_modified(|published| {
            let is_news = published.epoch < hint.epoch;
            if is_news {
                *published = hint;
            }
            is_news
        });
        self.wake.notify_one();
        Ok(())
    }
}

/// The first state of a mesh: of the operator's root, of the one whose files are there already since the first start
/// was cut short, or of a new one.
async fn begin(store: &dyn Store, files: &Files, options: &CaOptions) -> Result<(State, Revision), CaError> {
    let there = files.read_all()?;
    let signer = match (&options.brought, there.as_slice()) {
        (Some(brought), _) => {
            let signer = read_brought(brought, options)?;
            add(files, &signer)?;
            signer
        }
        (None, [only]) => Signer::read(&options.trust_domain, only)?,
        (None, []) => {
            let signer = Signer::make(&options.trust_domain, options.lifetimes(), (options.clock)())?;
            add(files, &signer)?;
            signer
        }
        (None, _) => return Err(CaError::SeveralRoots(files.directory().to_owned())),
    };
    let state = State::new(
        &options.trust_domain,
        &signer.root,
        options.root_lifetime.as_secs(),
    );
    let first = Transaction {
        conditions: vec![Condition::Absent(state::KEY.to_owned())],
        operations: vec![state.operation()],
    };
    match store.commit(first).await {
        Ok(revision) => Ok((state, revision)),
        // Another controller of this store was first: its root is that of the mesh.
        Err(CommitError::Conflict(_)) => {
            let known = State::read(store).await?;
            known.ok_or_else(|| CaError::State("it comes and goes".to_owned()))
        }
        Err(CommitError::Store(error)) => Err(error.into()),
    }
}

/// Writes the files of a root that is new here.
pub(super) fn add(files: &Files, signer: &Signer) -> Result<(), CaError> {
    let key = signer.root_key_pem();
    let key = key.as_ref().map(|key| key.as_str());
    if files.of(signer.id).exists() {
        return files.replace_signer(signer.id, &signer.to_pem());
    }
    files.add(signer.id, &signer.root_pem(), key, &signer.to_pem())
}

/// The operator's signer, if its root is trusted and it is another one than ours.
fn take_brought(files: &Files, state: &State, brought: &Brought, options: &CaOptions) -> Result<(), CaError> {
    let signer = read_brought(brought, options)?;
    if !state.ids().any(|id| id == signer.id) {
        return Err(CaError::UnknownRoot {
            brought: signer.id,
            path: brought.root.clone(),
        });
    }
    add(files, &signer)
}

/// From the operator's files.
pub(super) fn read_brought(brought: &Brought, options: &CaOptions) -> Result<Signer, CaError> {
    Signer::brought(
        &options.trust_domain,
        (&brought.root, &read_secret(&brought.root)?),
        (&brought.signer, &read_secret(&brought.signer)?),
        &read_secret(&brought.signer_key)?,
    )
}

/// The signers of the roots that a state is about, as far as there are any. Other files are left alone: a store that
/// was restored from a copy may know less than they.
pub(super) fn read_signers(
    files: &Files,
    state: &State,
    options: &CaOptions,
) -> Result<BTreeMap<RootId, Arc<Signer>>, CaError> {
    let mut texts: HashMap<_, Texts> = files
        .read_all()?
        .into_iter()
        .map(|texts| (texts.directory.clone(), texts))
        .collect();
    let mut signers = BTreeMap::new();
    for id in state.ids() {
        let Some(texts) = texts.remove(&files.of(id)) else {
            continue;
        };
        let signer = Signer::read(&options.trust_domain, &texts)?;
        if signer.id != id {
            return Err(CaError::unfit(
                texts.directory,
                "root.pem is not the root of its directory's name",
            ));
        }
        signers.insert(id, Arc::new(signer));
    }
    for directory in texts.keys() {
        tracing::warn!(path = %directory.display(), "files of a root that this mesh does not know: left alone");
    }
    Ok(signers)
}

pub(super) fn hint(trust: &Trust, options: &CaOptions) -> RenewHint {
    RenewHint {
        epoch: trust.renewals,
        within: options.renew_within(),
        trust_version: trust.version,
    }
}
