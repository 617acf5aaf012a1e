//! The state directory's copy of identity and configuration, so that a restart needs no controller.
//!
//! A file is one header line and a body: `weft-cache 1 KIND SECONDS LENGTH SHA256`. It is written beside its place,
//! made durable, and moved there; so there is always a whole one, the old or the new. One that is damaged, or of
//! another version, is as good as none, with a warning. The key is in there in the clear: the directory is 0700, the
//! file 0600.

use std::{
    fs::{self, DirBuilder, File},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use aws_lc_rs::digest::{SHA256, digest};
use prost::Message;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use weft_proto::{
    Source, TrustDomain,
    mesh::v1 as mesh,
    model::MeshConfig,
    parse::{Model, parse_document},
};
use weft_tls::{Credentials, Svid, TrustBundle};
use zeroize::Zeroizing;

use crate::watch_files::read_file;

const IDENTITY: &str = "identity";
const CONFIGURATION: &str = "configuration";
const VERSION: &str = "1";
/// Far above any chain with its bundle.
const MAX_IDENTITY_BYTES: u64 = 1 << 20;
/// Far above the configuration of a proxy that uses thousands of services.
const MAX_CONFIGURATION_BYTES: u64 = 64 << 20;

/// Where the copies are.
#[derive(Clone, Debug)]
pub(crate) struct Cache {
    directory: PathBuf,
}

/// The identity as it is kept.
pub(crate) struct CachedIdentity {
    pub(crate) credentials: Credentials,
    /// PKCS#8 in DER.
    pub(crate) key: Zeroizing<Vec<u8>>,
    pub(crate) bundle_version: u64,
    pub(crate) received: SystemTime,
    pub(crate) lifetime: Duration,
}

/// The configuration as it is kept.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct CachedConfiguration {
    /// All resources, as one whole update.
    pub(crate) update: mesh::Update,
    /// What was asked for.
    pub(crate) subscribe: mesh::Subscribe,
    pub(crate) saved: SystemTime,
}

/// What is kept of an identity beside the credentials, which do not give their key back.
pub(crate) struct Issued<'a> {
    pub(crate) key: &'a [u8],
    pub(crate) chain: &'a [CertificateDer<'static>],
    pub(crate) bundle: &'a TrustBundle,
    pub(crate) bundle_version: u64,
    pub(crate) received: SystemTime,
    pub(crate) lifetime: Duration,
}

impl Cache {
    /// Opens the directory, and makes it if it is missing.
    ///
    /// # Errors
    /// It cannot be made, or others may look into it.
    pub(crate) fn open(directory: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        let mode = fs::metadata(directory)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!("it is open to others (mode {mode:o}) and must be 700"),
            ));
        }
        Ok(Self {
            directory: directory.to_owned(),
        })
    }

    /// Keeps an identity.
    ///
    /// # Errors
    /// Those of the file system.
    pub(crate) fn save_identity(&self, issued: &Issued<'_>) -> io::Result<()> {
        let identity = mesh_identity(issued);
        let mut body = Zeroizing::new(Vec::with_capacity(identity.encoded_len()));
        identity.encode(&mut *body).map_err(io::Error::other)?;
        // What prost holds of the key is overwritten with it.
        drop(
            identity
                .key
                .try_into_mut()
                .map(|mut key| zeroize::Zeroize::zeroize(&mut key[..])),
        );
        self.write(IDENTITY, issued.received, &body)
    }

    /// The identity that was kept; `None` if there is none that can be used.
    pub(crate) fn load_identity(&self) -> Option<CachedIdentity> {
        let (_, body) = self.read(IDENTITY, MAX_IDENTITY_BYTES)?;
        match identity_of(&body) {
            Ok(identity) => Some(identity),
            Err(why) => {
                self.warn(IDENTITY, &why);
                None
            }
        }
    }

    /// Keeps a configuration.
    ///
    /// # Errors
    /// Those of the file system.
    pub(crate) fn save_configuration(
        &self,
        update: &mesh::Update,
        subscribe: &mesh::Subscribe,
        now: SystemTime,
    ) -> io::Result<()> {
        let mut body = update.encode_length_delimited_to_vec();
        subscribe
            .encode_length_delimited(&mut body)
            .map_err(io::Error::other)?;
        self.write(CONFIGURATION, now, &body)
    }

    /// The configuration that was kept; `None` if there is none that can be used.
    pub(crate) fn load_configuration(&self) -> Option<CachedConfiguration> {
        let (saved, body) = self.read(CONFIGURATION, MAX_CONFIGURATION_BYTES)?;
        let mut rest = &body[..];
        let read = mesh::Update::decode_length_delimited(&mut rest)
            .and_then(|update| Ok((update, mesh::Subscribe::decode_length_delimited(&mut rest)?)));
        match read {
            Ok((update, subscribe)) => Some(CachedConfiguration {
                update,
                subscribe,
                saved,
            }),
            Err(error) => {
                self.warn(CONFIGURATION, &error.to_string());
                None
            }
        }
    }

    fn write(&self, kind: &str, time: SystemTime, body: &[u8]) -> io::Result<()> {
        let seconds = time
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs();
        let header = format!(
            "weft-cache {VERSION} {kind} {seconds} {} {}\n",
            body.len(),
            hex(digest(&SHA256, body).as_ref())
        );
        let temporary = self.directory.join(format!(".{kind}.new"));
        // One that a crash has left may be open to others, or a link.
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let mut file = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(header.as_bytes())?;
        file.write_all(body)?;
        file.sync_all()?;
        fs::rename(&temporary, self.directory.join(kind))?;
        File::open(&self.directory)?.sync_all()
    }

    fn read(&self, kind: &str, max: u64) -> Option<(SystemTime, Zeroizing<Vec<u8>>)> {
        let bytes = match read_file(&self.directory.join(kind), max) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                self.warn(kind, &error.to_string());
                return None;
            }
        };
        match body(kind, &bytes) {
            Ok((saved, body)) => Some((saved, Zeroizing::new(body.to_vec()))),
            Err(why) => {
                self.warn(kind, why);
                None
            }
        }
    }

    fn warn(&self, kind: &str, why: &str) {
        let file = self.directory.join(kind);
        tracing::warn!(file = %file.display(), %why, "what was kept from before can't be used: going on without it");
    }
}

/// The settings of the mesh as they were last kept in a state directory.
pub(crate) fn mesh_config(directory: &Path) -> Option<MeshConfig> {
    let cache = Cache {
        directory: directory.to_owned(),
    };
    let cached = cache.load_configuration()?;
    cached.update.changed.iter().find_map(|resource| {
        let text = std::str::from_utf8(&resource.document).ok()?;
        match parse_document(&Source::new("cache", text)).ok()?.model {
            Model::MeshConfig(config) => Some(config),
            _ => None,
        }
    })
}

/// Checks the header, and that the body is whole.
fn body<'a>(kind: &str, bytes: &'a [u8]) -> Result<(SystemTime, &'a [u8]), &'static str> {
    const DAMAGED: &str = "it is damaged";
    let at = bytes.iter().position(|byte| *byte == b'\n').ok_or(DAMAGED)?;
    let (header, rest) = bytes.split_at(at);
    let body = rest.get(1..).ok_or(DAMAGED)?;
    let header = std::str::from_utf8(header).map_err(|_| DAMAGED)?;
    let fields: Vec<&str> = header.split(' ').collect();
    let ["weft-cache", version, known, seconds, length, sum] = fields.as_slice() else {
        return Err(DAMAGED);
    };
    if *version != VERSION {
        return Err("it is of another version of this program");
    }
    let is_whole =
        *known == kind && length.parse() == Ok(body.len()) && *sum == hex(digest(&SHA256, body).as_ref());
    let seconds: u64 = seconds.parse().map_err(|_| DAMAGED)?;
    let saved = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
    match (is_whole, saved) {
        (true, Some(saved)) => Ok((saved, body)),
        _ => Err(DAMAGED),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The body of an identity.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
struct Kept {
    #[prost(bytes = "bytes", tag = "1")]
    key: bytes::Bytes,
    #[prost(bytes = "bytes", repeated, tag = "2")]
    chain: Vec<bytes::Bytes>,
    #[prost(string, tag = "3")]
    trust_domain: String,
    #[prost(bytes = "bytes", repeated, tag = "4")]
    roots: Vec<bytes::Bytes>,
    #[prost(uint64, tag = "5")]
    bundle_version: u64,
    #[prost(uint64, tag = "6")]
    received_ms: u64,
    #[prost(uint64, tag = "7")]
    lifetime_ms: u64,
}

impl std::fmt::Debug for Kept {
    /// Never the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kept").finish_non_exhaustive()
    }
}

fn mesh_identity(issued: &Issued<'_>) -> Kept {
    let milliseconds = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let copy = |certificate: &CertificateDer<'_>| bytes::Bytes::copy_from_slice(certificate);
    let received = issued.received.duration_since(SystemTime::UNIX_EPOCH);
    Kept {
        key: bytes::Bytes::copy_from_slice(issued.key),
        chain: issued.chain.iter().map(copy).collect(),
        trust_domain: issued.bundle.trust_domain().to_string(),
        roots: issued.bundle.roots().map(copy).collect(),
        bundle_version: issued.bundle_version,
        received_ms: milliseconds(received.unwrap_or_default()),
        lifetime_ms: milliseconds(issued.lifetime),
    }
}

fn identity_of(body: &[u8]) -> Result<CachedIdentity, String> {
    let kept = Kept::decode(body).map_err(|error| error.to_string())?;
    let domain = TrustDomain::parse(&kept.trust_domain).map_err(|error| error.to_string())?;
    let der = |bytes: &bytes::Bytes| CertificateDer::from(bytes.to_vec());
    let bundle =
        TrustBundle::from_der(&domain, kept.roots.iter().map(der)).map_err(|error| error.to_string())?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(kept.key.to_vec()));
    let svid =
        Svid::from_der(kept.chain.iter().map(der).collect(), key).map_err(|error| error.to_string())?;
    let credentials = Credentials::new(svid, bundle).map_err(|error| error.to_string())?;
    let received = SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(kept.received_ms));
    Ok(CachedIdentity {
        credentials,
        key: Zeroizing::new(kept.key.to_vec()),
        bundle_version: kept.bundle_version,
        received: received.ok_or("its time is none")?,
        lifetime: Duration::from_millis(kept.lifetime_ms),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache() -> (tempfile::TempDir, Cache) {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::open(&directory.path().join("state")).unwrap();
        (directory, cache)
    }

    fn configuration() -> (mesh::Update, mesh::Subscribe) {
        let update = mesh::Update {
            is_whole: true,
            changed: vec![mesh::Resource {
                version: 7,
                document: bytes::Bytes::from_static(b"{}"),
                ..mesh::Resource::default()
            }],
            ..mesh::Update::default()
        };
        let subscribe = mesh::Subscribe {
            names: vec!["web.default".to_owned()],
            ..mesh::Subscribe::default()
        };
        (update, subscribe)
    }

    #[test]
    fn a_configuration_comes_back_with_its_age() {
        let (_directory, cache) = cache();
        assert_eq!(cache.load_configuration(), None);
        let (update, subscribe) = configuration();
        let saved = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        cache.save_configuration(&update, &subscribe, saved).unwrap();
        cache.save_configuration(&update, &subscribe, saved).unwrap();
        assert_eq!(
            cache.load_configuration(),
            Some(CachedConfiguration {
                update,
                subscribe,
                saved
            })
        );
    }

    #[test]
    fn one_that_is_damaged_anywhere_is_as_good_as_none() {
        let (_directory, cache) = cache();
        let (update, subscribe) = configuration();
        cache
            .save_configuration(&update, &subscribe, SystemTime::now())
            .unwrap();
        let path = cache.directory.join(CONFIGURATION);
        let good = fs::read(&path).unwrap();
        // The time of it is no part of what is summed up, and is only shown.
        let time = "weft-cache 1 configuration ".len();
        for at in (0..good.len()).filter(|at| !(time..time + 10).contains(at)) {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(&path, bad).unwrap();
            assert_eq!(cache.load_configuration(), None, "byte {at}");
        }
        for length in 0..good.len() {
            fs::write(&path, &good[..length]).unwrap();
            assert_eq!(cache.load_configuration(), None, "{length} bytes");
        }
        fs::write(&path, &good).unwrap();
        assert!(cache.load_configuration().is_some());
    }

    #[test]
    fn others_can_read_nothing() {
        let (directory, cache) = cache();
        let (update, subscribe) = configuration();
        cache
            .save_configuration(&update, &subscribe, SystemTime::now())
            .unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&cache.directory), 0o700);
        assert_eq!(mode(&cache.directory.join(CONFIGURATION)), 0o600);
        fs::set_permissions(&cache.directory, fs::Permissions::from_mode(0o750)).unwrap();
        assert!(Cache::open(&directory.path().join("state")).is_err());
    }

    #[test]
    fn an_identity_comes_back_whole() {
        let (_directory, cache) = cache();
        let domain: TrustDomain = "mesh.test".parse().unwrap();
        let now = time::OffsetDateTime::now_utc();
        let authority = crate::dev_certs::DevAuthority::create(&domain, now).unwrap();
        let id = "spiffe://mesh.test/ns/default/sa/web".parse().unwrap();
        let svid = authority.issue(&id, Duration::from_secs(3600), now).unwrap();
        let credentials = Credentials::from_pem(
            svid.chain.as_bytes(),
            svid.key.as_bytes(),
            authority.bundle_pem().as_bytes(),
        )
        .unwrap();
        let key =
            <PrivateKeyDer<'_> as rustls_pki_types::pem::PemObject>::from_pem_slice(svid.key.as_bytes())
                .unwrap();
        let received = SystemTime::UNIX_EPOCH + Duration::from_millis(1_800_000_000_123);
        let issued = Issued {
            key: key.secret_der(),
            chain: credentials.svid().chain(),
            bundle: credentials.bundle(),
            bundle_version: 3,
            received,
            lifetime: Duration::from_secs(3600),
        };
        cache.save_identity(&issued).unwrap();
        let loaded = cache.load_identity().unwrap();
        assert_eq!(loaded.credentials.svid().id(), &id);
        assert_eq!(loaded.credentials.svid().chain(), credentials.svid().chain());
        assert_eq!(
            (loaded.bundle_version, loaded.received, loaded.lifetime.as_secs()),
            (3, received, 3600)
        );
        let file = fs::read(cache.directory.join(IDENTITY)).unwrap();
        let cut = file.len() - 1;
        fs::write(cache.directory.join(IDENTITY), &file[..cut]).unwrap();
        assert!(cache.load_identity().is_none());
    }
}
