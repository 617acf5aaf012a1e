//! The data directory: all that a controller has.
//!
//! | path | what |
//! |---|---|
//! | `store.redb` | documents, tokens, ledger, audit: no keys |
//! | `ca/` | root and signer with their keys |
//! | `admin.yaml` | the admin's credential, as a context of `weft` |

use std::{
    fs::{self, DirBuilder},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use crate::{
    ca::{AdminCredential, Authority},
    cli::context,
};

/// How long a start waits for the admin's credential: what comes after it may count on the file.
const FIRST_ADMIN: Duration = Duration::from_secs(5);

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct DataDir(PathBuf);

/// Why it is none.
#[derive(Debug, thiserror::Error)]
pub(super) enum DataError {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{} is open to others (mode {mode:o}): it holds the keys of the mesh; chmod 700 it", path.display())]
    Open { path: PathBuf, mode: u32 },
}

impl DataDir {
    /// Opens one, or makes it.
    pub(super) fn open(path: &Path) -> Result<Self, DataError> {
        let failed = |source| DataError::Io {
            path: path.to_owned(),
            source,
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(failed)?;
        Self::existing(path)
    }

    /// Opens one that is there.
    pub(super) fn existing(path: &Path) -> Result<Self, DataError> {
        let failed = |source| DataError::Io {
            path: path.to_owned(),
            source,
        };
        let mode = fs::metadata(path).map_err(failed)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(DataError::Open {
                path: path.to_owned(),
                mode,
            });
        }
        // Absolute, as it is printed for other terminals.
        Ok(Self(fs::canonicalize(path).map_err(failed)?))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    pub(super) fn store(&self) -> PathBuf {
        self.0.join("store.redb")
    }

    fn admin(&self) -> PathBuf {
        self.0.join("admin.yaml")
    }

    /// Writes the admin's credential now and whenever it is renewed; the first time, says what to type next.
    pub(super) async fn follow_admin(
        &self,
        authority: &Arc<Authority>,
        local: &str,
        reachable: &str,
    ) -> Result<(), DataError> {
        let mut credentials = authority.local_admin();
        let is_first = !self.admin().exists();
        let first = tokio::time::timeout(FIRST_ADMIN, credentials.wait_for(Option::is_some)).await;
        let first = first.ok().and_then(|seen| seen.ok()?.clone());
        match first {
            Some(credential) => self.write_admin(local, &credential)?,
            None => tracing::warn!(
                "no credential for the admin can be signed now; it is written as soon as one can"
            ),
        }
        if is_first {
            self.welcome(reachable);
        }
        let (data, local) = (self.clone(), local.to_owned());
        tokio::spawn(async move {
            while credentials.changed().await.is_ok() {
                let credential = credentials.borrow_and_update().clone();
                let Some(credential) = credential else { continue };
                if let Err(error) = data.write_admin(&local, &credential) {
                    tracing::error!(%error, "the admin's credential could not be written");
                }
            }
        });
        Ok(())
    }

    fn write_admin(&self, local: &str, credential: &AdminCredential) -> Result<(), DataError> {
        let AdminCredential {
            chain_pem,
            key_pem,
            bundle_pem,
            ..
        } = credential;
        let path = self.admin();
        context::write_admin(&path, local, chain_pem, key_pem, bundle_pem)
            .map_err(|source| DataError::Io { path, source })
    }

    fn welcome(&self, reachable: &str) {
        println!(
            "A new mesh. Its certificate authority and all else is in {}.",
            self.0.display()
        );
        println!();
        println!("In another terminal:");
        println!("  export WEFT_CONFIG={}", self.admin().display());
        println!("  weft token create --service-account web    # prints the line that starts a sidecar");
        println!();
        println!("Sidecars reach this controller at {reachable} (--advertise).");
    }
}

/// How a program on this host reaches the port.
pub(super) fn local(address: SocketAddr) -> String {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        // It takes IPv4 too, which every host has on loopback.
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) => ip.to_ipv4_mapped().map_or(IpAddr::V6(ip), IpAddr::V4),
        ip @ IpAddr::V4(_) => ip,
    };
    SocketAddr::new(ip, address.port()).to_string()
}

/// How sidecars reach the port, as they are told.
pub(super) fn reachable(advertise: Option<&str>, address: SocketAddr) -> String {
    match advertise {
        None => local(address),
        Some(host) if host.parse::<Ipv6Addr>().is_ok() => format!("[{host}]:{}", address.port()),
        Some(host)
            if host
                .rsplit_once(':')
                .is_some_and(|(_, port)| port.parse::<u16>().is_ok()) =>
        {
            host.to_owned()
        }
        Some(host) => format!("{host}:{}", address.port()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_reached_by_what_was_advertised_or_from_this_host() {
        let any: SocketAddr = "[::]:15010".parse().unwrap();
        assert_eq!(local(any), "127.0.0.1:15010");
        assert_eq!(local("10.0.0.1:1".parse().unwrap()), "10.0.0.1:1");
        for (advertise, wanted) in [
            (None, "127.0.0.1:15010"),
            (Some("weft.example"), "weft.example:15010"),
            (Some("weft.example:443"), "weft.example:443"),
            (Some("fd00::1"), "[fd00::1]:15010"),
            (Some("[fd00::1]:443"), "[fd00::1]:443"),
        ] {
            assert_eq!(reachable(advertise, any), wanted);
        }
    }

    #[test]
    fn a_directory_that_others_can_read_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("data");
        DataDir::open(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let error = DataDir::open(&path).unwrap_err().to_string();
        assert!(error.contains("chmod 700"), "{error}");
    }
}
