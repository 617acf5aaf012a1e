//! The identities of the sidecars, the same for every pair.

use crate::Result;
use std::collections::HashMap;
use tempfile::TempDir;
use weft_lab::certificates::{Authority, Files};

pub(crate) const TRUST_DOMAIN: &str = "bench.example";

/// The service accounts of the two sidecars.
pub(crate) const CLIENT: &str = "client";
pub(crate) const SERVER: &str = "web";

/// PEM files, deleted at the end.
pub(crate) struct Certificates {
    authority: Authority,
    files: HashMap<&'static str, Files>,
    _directory: TempDir,
}

impl Certificates {
    pub(crate) fn make() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let authority = Authority::new(TRUST_DOMAIN)?;
        let mut files = HashMap::new();
        for account in [CLIENT, SERVER] {
            let issued = authority.issue_files(account, authority.pem(), directory.path())?;
            files.insert(account, issued);
        }
        Ok(Self {
            authority,
            files,
            _directory: directory,
        })
    }

    pub(crate) fn of(&self, account: &str) -> &Files {
        &self.files[account]
    }

    pub(crate) fn id(&self, account: &str) -> String {
        self.authority.id(account)
    }

    /// The name in TLS.
    pub(crate) fn name(&self, account: &str) -> String {
        self.authority.name(account)
    }
}
