//! `weft-proxy dev-certs`: a development CA and SVIDs, in files or in memory.
//!
//! For a laptop, a test or a demo. The CA's key lies beside its certificate, which is no way to run a
//! mesh that matters. Everything is ECDSA P-256. An existing CA in the directory is used again, so that
//! certificates made on different days trust each other; it is never overwritten.

use std::{
    fmt, fs, io,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
    str::FromStr,
    time::{Duration, SystemTime},
};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};
use time::{OffsetDateTime, macros::format_description};
use weft_proto::{SpiffeId, TrustDomain, identity::SpiffeIdError};
use weft_transport::credentials::{Credentials, CredentialsError, TrustBundle, TrustBundleError};

/// The namespace of a name that has none, as in Kubernetes.
const DEFAULT_NAMESPACE: &str = "default";

/// How long a new development CA is valid. Long, since nobody renews it; not so long that one that
/// leaked is good for ever.
const CA_LIFETIME: Duration = Duration::from_secs(365 * 24 * 3600);

/// How far notBefore lies in the past, for peers whose clock is behind.
const BACKDATE: Duration = Duration::from_secs(5 * 60);

/// File names of the CA. No workload can take them: [`DevName`] refuses `ca`.
const CA_CERTIFICATE: &str = "ca.pem";
const CA_KEY: &str = "ca.key";

const CERTIFICATE_MODE: u32 = 0o644;
const KEY_MODE: u32 = 0o600;
const DIRECTORY_MODE: u32 = 0o700;

/// Make a development CA and certificates for workloads.
///
/// Writes DIR/ca.pem and DIR/ca.key (or uses them again), and NAME.pem and NAME.key for each name.
/// Keys can be read by their owner alone. To start over with another CA, delete the directory.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct DevCertsArgs {
    /// Where to write; made if missing
    #[arg(value_name = "DIR")]
    pub(crate) directory: PathBuf,
    /// Service accounts: `web` (in the namespace `default`) or `shop/web`
    #[arg(value_name = "NAME", required = true)]
    pub(crate) names: Vec<DevName>,
    /// Trust domain of the mesh, as in its MeshConfig
    #[arg(long, default_value = "cluster.local")]
    pub(crate) trust_domain: TrustDomain,
    /// How long the certificates are valid (s, m, h, d), at most as long as the CA
    #[arg(long, default_value = "7d", value_parser = parse_lifetime)]
    pub(crate) lifetime: Duration,
    /// Replace certificates and keys of these names; the CA is never replaced
    #[arg(long)]
    pub(crate) force: bool,
}

/// A service account on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DevName {
    /// As it was given, which is also the name of its files.
    text: String,
    namespace: String,
    service_account: String,
}

/// One file that was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Written {
    /// Where it is.
    pub(crate) path: PathBuf,
    /// What is in it, for the reader.
    pub(crate) content: String,
}

/// Why development certificates could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DevCertsError {
    #[error("{} exists already; --force replaces it", list(.0))]
    Exists(Vec<PathBuf>),
    #[error("{} has only one of {CA_CERTIFICATE} and {CA_KEY}; a CA needs both", .0.display())]
    HalfCa(PathBuf),
    #[error("{}: not a CA of trust domain {trust_domain}: {error}", path.display())]
    NotCa {
        path: PathBuf,
        trust_domain: TrustDomain,
        error: TrustBundleError,
    },
    #[error("{}: not a private key", .0.display())]
    NotKey(PathBuf),
    #[error("the CA of trust domain {0} is expired; delete it and make a new one")]
    CaExpired(TrustDomain),
    #[error("{0}: not a SPIFFE ID: {1}")]
    Name(String, SpiffeIdError),
    #[error("certificate not made: {0}")]
    Make(#[from] rcgen::Error),
    #[error("the CA's certificates cannot be used (does its key belong to it?): {0}")]
    Unusable(#[from] CredentialsError),
    #[error("{}: {error}", path.display())]
    Io { path: PathBuf, error: io::Error },
}

/// Makes the files that the arguments ask for. Nothing is written unless everything can be made and no
/// file is in the way.
pub(crate) fn write(args: &DevCertsArgs) -> Result<Vec<Written>, DevCertsError> {
    let now = OffsetDateTime::now_utc();
    let ca = args.directory.join(CA_CERTIFICATE);
    let ca_key = args.directory.join(CA_KEY);
    let existing = read_authority(&args.trust_domain, &ca, &ca_key)?;
    let new = existing.is_none();
    let authority = match existing {
        Some(authority) => authority,
        None => DevAuthority::create(&args.trust_domain, now)?,
    };

    let mut files = Vec::new();
    if new {
        let until = format!("until {}", date(authority.not_after));
        let key = authority.issuer.key().serialize_pem();
        let content = "the key of the development CA: keep it to yourself".to_owned();
        files.push(File {
            path: ca_key,
            text: key,
            mode: KEY_MODE,
            replace: false,
            content,
        });
        let content = format!("the development CA of {}, {until}", args.trust_domain);
        let text = authority.pem.clone();
        files.push(File {
            path: ca,
            text,
            mode: CERTIFICATE_MODE,
            replace: false,
            content,
        });
    }
    for (index, name) in args.names.iter().enumerate() {
        if args.names.iter().take(index).any(|earlier| earlier == name) {
            continue;
        }
        let id = name.id(&args.trust_domain)?;
        let svid = authority.issue(&id, args.lifetime, now)?;
        let path = |extension: &str| args.directory.join(format!("{}.{extension}", name.text));
        let replace = args.force;
        let content = format!("the key of {id}");
        files.push(File {
            path: path("key"),
            text: svid.key,
            mode: KEY_MODE,
            replace,
            content,
        });
        let content = format!("{id}, until {}", date(svid.not_after));
        files.push(File {
            path: path("pem"),
            text: svid.chain,
            mode: CERTIFICATE_MODE,
            replace,
            content,
        });
    }
    write_files(files)
}

/// A development CA in memory.
pub(crate) struct DevAuthority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    not_after: OffsetDateTime,
    trust_domain: TrustDomain,
}

/// An SVID as text.
pub(crate) struct DevSvid {
    /// The certificate.
    pub(crate) chain: String,
    /// The private key, PKCS#8.
    pub(crate) key: String,
    /// Valid until then.
    pub(crate) not_after: OffsetDateTime,
}

impl DevAuthority {
    /// Makes a new CA for a trust domain.
    pub(crate) fn create(trust_domain: &TrustDomain, now: OffsetDateTime) -> Result<Self, DevCertsError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        // The name has something of the key in it: two CAs of one name would make a peer that has the
        // other one complain of a bad signature, where it should say that it does not know this one.
        let fingerprint: String = params
            .key_identifier(&key)
            .iter()
            .take(4)
            .map(|byte| format!("{byte:02x}"))
            .collect();
        params.distinguished_name = distinguished_name(&format!("Weft development CA {fingerprint}"));
        params.not_before = now - BACKDATE;
        params.not_after = whole_seconds(now + CA_LIFETIME);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.subject_alt_names = vec![spiffe_name(&trust_domain.id())?];
        let pem = params.self_signed(&key)?.pem();
        let not_after = params.not_after;
        Ok(Self {
            issuer: Issuer::new(params, key),
            pem,
            not_after,
            trust_domain: trust_domain.clone(),
        })
    }

    /// Makes an SVID that is valid for a lifetime, but never longer than the CA.
    pub(crate) fn issue(
        &self,
        id: &SpiffeId,
        lifetime: Duration,
        now: OffsetDateTime,
    ) -> Result<DevSvid, DevCertsError> {
        if now >= self.not_after {
            return Err(DevCertsError::CaExpired(self.trust_domain.clone()));
        }
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = distinguished_name("Weft development workload");
        params.not_before = now - BACKDATE;
        params.not_after = whole_seconds(now + lifetime).min(self.not_after);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.use_authority_key_identifier_extension = true;
        params.subject_alt_names = vec![spiffe_name(id)?];
        let svid = DevSvid {
            chain: params.signed_by(&key, &self.issuer)?.pem(),
            key: key.serialize_pem(),
            not_after: params.not_after,
        };
        // Proves that key, CA and leaf belong together, above all when the CA came from files.
        self.load(&svid)?;
        Ok(svid)
    }

    /// The CA's certificate, which is the trust bundle.
    #[cfg(test)]
    pub(crate) fn bundle_pem(&self) -> &str {
        &self.pem
    }

    fn load(&self, svid: &DevSvid) -> Result<Credentials, DevCertsError> {
        let (chain, key) = (svid.chain.as_bytes(), svid.key.as_bytes());
        Ok(Credentials::from_pem(chain, key, self.pem.as_bytes())?)
    }
}

impl DevName {
    fn id(&self, trust_domain: &TrustDomain) -> Result<SpiffeId, DevCertsError> {
        SpiffeId::for_service_account(trust_domain, &self.namespace, &self.service_account)
            .map_err(|error| DevCertsError::Name(self.text.clone(), error))
    }
}

impl FromStr for DevName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (namespace, service_account) = text.split_once('/').unwrap_or((DEFAULT_NAMESPACE, text));
        if text == "ca" {
            return Err(format!(
                "its files would be those of the CA; write {DEFAULT_NAMESPACE}/ca"
            ));
        }
        // The characters of a SPIFFE ID's segment are also safe in a file name: no slash, no dot alone.
        let any: TrustDomain = "any".parse().map_err(|error: SpiffeIdError| error.to_string())?;
        SpiffeId::for_service_account(&any, namespace, service_account).map_err(|error| error.to_string())?;
        Ok(Self {
            text: text.to_owned(),
            namespace: namespace.to_owned(),
            service_account: service_account.to_owned(),
        })
    }
}

impl fmt::Display for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.content)
    }
}

/// A file to write.
struct File {
    path: PathBuf,
    text: String,
    mode: u32,
    /// Whether it may take the place of another.
    replace: bool,
    /// What is in it, for the reader.
    content: String,
}

fn write_files(files: Vec<File>) -> Result<Vec<Written>, DevCertsError> {
    let in_the_way: Vec<_> = files
        .iter()
        .filter(|file| !file.replace && file.path.symlink_metadata().is_ok())
        .map(|file| file.path.clone())
        .collect();
    if !in_the_way.is_empty() {
        return Err(DevCertsError::Exists(in_the_way));
    }
    let mut written = Vec::with_capacity(files.len());
    for file in files {
        write_file(&file)?;
        written.push(Written {
            path: file.path,
            content: file.content,
        });
    }
    Ok(written)
}

/// Writes a file whole or not at all, with its mode from the start.
fn write_file(file: &File) -> Result<(), DevCertsError> {
    let failed = |error| DevCertsError::Io {
        path: file.path.clone(),
        error,
    };
    let directory = file.path.parent().unwrap_or(Path::new("."));
    fs::DirBuilder::new()
        .recursive(true)
        .mode(DIRECTORY_MODE)
        .create(directory)
        .map_err(failed)?;
    let mut temporary = tempfile::Builder::new()
        .permissions(fs::Permissions::from_mode(file.mode))
        .tempfile_in(directory)
        .map_err(failed)?;
    io::Write::write_all(&mut temporary, file.text.as_bytes()).map_err(failed)?;
    temporary.as_file().sync_all().map_err(failed)?;
    let persisted = if file.replace {
        temporary.persist(&file.path)
    } else {
        temporary.persist_noclobber(&file.path)
    };
    match persisted {
        Ok(_) => Ok(()),
        // Somebody else wrote it since we looked.
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => {
            Err(DevCertsError::Exists(vec![file.path.clone()]))
        }
        Err(error) => Err(failed(error.error)),
    }
}

/// The CA in two files, if both are there.
fn read_authority(
    trust_domain: &TrustDomain,
    certificate: &Path,
    key: &Path,
) -> Result<Option<DevAuthority>, DevCertsError> {
    let (pem, key_pem) = match (read_if_there(certificate)?, read_if_there(key)?) {
        (Some(pem), Some(key)) => (pem, key),
        (None, None) => return Ok(None),
        _ => {
            let directory = certificate.parent().unwrap_or(certificate);
            return Err(DevCertsError::HalfCa(directory.to_owned()));
        }
    };
    let bundle =
        TrustBundle::from_pem(trust_domain, pem.as_bytes()).map_err(|error| DevCertsError::NotCa {
            path: certificate.to_owned(),
            trust_domain: trust_domain.clone(),
            error,
        })?;
    let not_after = bundle.expiries().min().unwrap_or(SystemTime::UNIX_EPOCH);
    let key = KeyPair::from_pem(&key_pem).map_err(|_| DevCertsError::NotKey(key.to_owned()))?;
    Ok(Some(DevAuthority {
        issuer: Issuer::from_ca_cert_pem(&pem, key)?,
        pem,
        not_after: not_after.into(),
        trust_domain: trust_domain.clone(),
    }))
}

fn read_if_there(path: &Path) -> Result<Option<String>, DevCertsError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(DevCertsError::Io {
            path: path.to_owned(),
            error,
        }),
    }
}

fn spiffe_name(id: &SpiffeId) -> Result<SanType, rcgen::Error> {
    Ok(SanType::URI(id.as_str().try_into()?))
}

fn distinguished_name(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

/// X.509 has no fractions of a second.
fn whole_seconds(time: OffsetDateTime) -> OffsetDateTime {
    time - Duration::from_nanos(time.nanosecond().into())
}

fn date(time: OffsetDateTime) -> String {
    let form = format_description!("[year]-[month]-[day] [hour]:[minute] UTC");
    // Formatting a UTC time into a string cannot fail; seconds since 1970 would still be of use.
    time.format(form)
        .unwrap_or_else(|_| time.unix_timestamp().to_string())
}

/// A number with a unit: `90s`, `30m`, `24h`, `7d`.
fn parse_lifetime(text: &str) -> Result<Duration, String> {
    const SECONDS: [(char, u64); 4] = [('s', 1), ('m', 60), ('h', 3600), ('d', 24 * 3600)];
    /// So that no sum with the present leaves the calendar; the CA limits it much sooner.
    const MAX: u64 = 100 * 365 * 24 * 3600;
    SECONDS
        .iter()
        .find_map(|(unit, seconds)| {
            let number: u64 = text.strip_suffix(*unit)?.parse().ok()?;
            number
                .checked_mul(*seconds)
                .filter(|total| (1..=MAX).contains(total))
        })
        .map(Duration::from_secs)
        .ok_or_else(|| "not a length of time such as 90s, 30m, 24h or 7d".to_owned())
}

fn list(paths: &[PathBuf]) -> String {
    paths
        .iter()
        .map(|path| path.display().to_string())
        .collect::<Vec<_>>()
        .join(", ")
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        args: DevCertsArgs,
    }

    fn args(directory: &Path, rest: &[&str]) -> DevCertsArgs {
        let directory = directory.to_str().unwrap();
        Cli::try_parse_from(["dev-certs", directory].iter().chain(rest))
            .unwrap()
            .args
    }

    fn load(directory: &Path, name: &str) -> Credentials {
        let read = |file: &str| fs::read(directory.join(file)).unwrap();
        Credentials::from_pem(
            &read(&format!("{name}.pem")),
            &read(&format!("{name}.key")),
            &read("ca.pem"),
        )
        .unwrap()
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_ca_and_svids_are_written_and_load() {
        let temporary = tempfile::tempdir().unwrap();
        let directory = temporary.path().join("certs");
        let written = write(&args(&directory, &["web", "shop/db"])).unwrap();
        let paths: Vec<_> = written
            .iter()
            .map(|file| file.path.strip_prefix(&directory).unwrap())
            .collect();
        let expected = [
            "ca.key",
            "ca.pem",
            "web.key",
            "web.pem",
            "shop/db.key",
            "shop/db.pem",
        ];
        assert_eq!(paths, expected.map(Path::new));
        assert!(
            written[3]
                .to_string()
                .contains("spiffe://cluster.local/ns/default/sa/web, until 2")
        );

        assert_eq!(
            load(&directory, "web").svid().id().as_str(),
            "spiffe://cluster.local/ns/default/sa/web"
        );
        let db = load(&directory, "shop/db");
        assert_eq!(db.svid().id().as_str(), "spiffe://cluster.local/ns/shop/sa/db");
        let lifetime = db
            .svid()
            .not_after()
            .duration_since(db.svid().not_before())
            .unwrap();
        let week = Duration::from_secs(7 * 24 * 3600) + BACKDATE;
        assert!(
            lifetime <= week && lifetime + Duration::from_secs(2) > week,
            "{lifetime:?}"
        );
        assert!(
            db.svid().not_before() + BACKDATE <= SystemTime::now(),
            "not backdated"
        );
    }

    #[test]
    fn keys_are_for_their_owner_alone() {
        let temporary = tempfile::tempdir().unwrap();
        let directory = temporary.path().join("certs");
        for file in write(&args(&directory, &["web", "shop/db"])).unwrap() {
            let key = file.path.extension().unwrap() == "key";
            assert_eq!(mode(&file.path), if key { 0o600 } else { 0o644 }, "{file}");
            assert_eq!(file.content.contains("key"), key, "{file}");
        }
        assert_eq!(mode(&directory), 0o700);
        let left: Vec<_> = fs::read_dir(&directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(left.len(), 5, "temporary files left: {left:?}");
    }

    #[test]
    fn the_ca_is_used_again_and_nothing_is_overwritten_unasked() {
        let temporary = tempfile::tempdir().unwrap();
        let directory = temporary.path();
        write(&args(directory, &["web"])).unwrap();
        let (ca, web) = (
            fs::read(directory.join("ca.pem")).unwrap(),
            fs::read(directory.join("web.pem")).unwrap(),
        );

        let error = write(&args(directory, &["db", "web"])).unwrap_err();
        let DevCertsError::Exists(files) = &error else {
            panic!("{error}")
        };
        assert_eq!(files, &[directory.join("web.key"), directory.join("web.pem")]);
        assert!(
            !directory.join("db.pem").exists(),
            "something was written nevertheless"
        );

        assert_eq!(
            write(&args(directory, &["db", "db"])).unwrap().len(),
            2,
            "a second CA, or db twice"
        );
        load(directory, "db");
        write(&args(directory, &["--force", "web"])).unwrap();
        load(directory, "web");
        assert_ne!(fs::read(directory.join("web.pem")).unwrap(), web);
        assert_eq!(fs::read(directory.join("ca.pem")).unwrap(), ca);
    }

    #[test]
    fn a_ca_that_does_not_fit_is_refused() {
        let temporary = tempfile::tempdir().unwrap();
        let directory = temporary.path();
        write(&args(directory, &["web"])).unwrap();
        let fails = |rest: &[&str]| write(&args(directory, rest)).unwrap_err();
        let error = fails(&["--trust-domain", "mesh.example", "db"]);
        assert!(matches!(error, DevCertsError::NotCa { .. }), "{error}");

        let other = tempfile::tempdir().unwrap();
        write(&args(other.path(), &["web"])).unwrap();
        fs::copy(other.path().join("ca.key"), directory.join("ca.key")).unwrap();
        assert!(matches!(fails(&["db"]), DevCertsError::Unusable(_)));
        fs::write(directory.join("ca.key"), "no key").unwrap();
        assert!(matches!(fails(&["db"]), DevCertsError::NotKey(_)));
        fs::remove_file(directory.join("ca.key")).unwrap();
        assert!(matches!(fails(&["db"]), DevCertsError::HalfCa(_)));
        assert!(!directory.join("db.pem").exists());
    }

    #[test]
    fn no_certificate_outlives_the_ca() {
        let domain: TrustDomain = "mesh.test".parse().unwrap();
        let now = OffsetDateTime::now_utc();
        let authority = DevAuthority::create(&domain, now).unwrap();
        let id = SpiffeId::for_service_account(&domain, "default", "web").unwrap();
        let svid = authority.issue(&id, CA_LIFETIME * 2, now).unwrap();
        assert_eq!(svid.not_after, authority.not_after);
        assert!(matches!(
            authority.issue(&id, BACKDATE, now + CA_LIFETIME),
            Err(DevCertsError::CaExpired(_))
        ));

        let credentials = authority
            .load(&authority.issue(&id, Duration::from_secs(60), now).unwrap())
            .unwrap();
        assert_eq!(credentials.svid().id(), &id);
        let end: OffsetDateTime = credentials.svid().not_after().into();
        assert_eq!(end, whole_seconds(now + Duration::from_secs(60)));
        assert!(authority.bundle_pem().contains("BEGIN CERTIFICATE"));
    }

    #[test]
    fn names_that_could_leave_the_directory_are_refused() {
        for name in [
            "", "/", "a/", "/a", "a/b/c", "..", "../a", "a/..", ".", "a b", "a%2fb", "ca",
        ] {
            assert!(name.parse::<DevName>().is_err(), "{name:?}");
        }
        for name in ["web", "shop/web", "default/ca", "web-1.v2"] {
            assert!(name.parse::<DevName>().is_ok(), "{name:?}");
        }
    }

    #[test]
    fn lifetimes_have_a_unit() {
        assert_eq!(parse_lifetime("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_lifetime("7d"), Ok(Duration::from_secs(604_800)));
        for text in [
            "",
            "7",
            "d",
            "0s",
            "-1h",
            "1.5h",
            "1w",
            "99999999999999999999d",
            "40000d",
            "7 d",
        ] {
            assert!(parse_lifetime(text).is_err(), "{text:?}");
        }
    }
}
