//! The workload's identity from files: loaded at the start, and again whenever they change.
//!
//! How they are followed, and what happens while they are in the middle of a change: [`crate::watch_files`].

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::sync::watch;
use weft_proto::SpiffeId;
use weft_transport::credentials::{Credentials, CredentialsError};
use zeroize::Zeroizing;

use crate::watch_files::{self, Hangup, Looks, read_file};

/// Far above any chain or bundle; a bound on what a wrong path can make us read.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// From when a root that ends is worth a warning: changing it takes people, not seconds.
const ROOT_WARNING: Duration = Duration::from_secs(30 * 24 * 3600);

/// Where the identity is, and whose it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IdentityFiles {
    /// The certificate chain, leaf first, in PEM.
    pub(crate) certificate: PathBuf,
    /// The private key, in PEM.
    pub(crate) key: PathBuf,
    /// The roots of the trust domain, in PEM.
    pub(crate) trust_bundle: PathBuf,
    /// The identity that the configuration gives this workload. Peers dial it by that name, so with
    /// another certificate it could not be reached.
    pub(crate) expected: Option<SpiffeId>,
}

impl fmt::Display for IdentityFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (certificate, key) = (self.certificate.display(), self.key.display());
        write!(
            f,
            "certificate {certificate}, key {key}, trust bundle {}",
            self.trust_bundle.display()
        )
    }
}

/// Why the files give no credentials.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IdentityError {
    #[error("{}: {error}", path.display())]
    Read { path: PathBuf, error: io::Error },
    #[error("{files}: {error}")]
    Credentials {
        files: Box<IdentityFiles>,
        error: CredentialsError,
    },
    #[error("{}: it is of {found}, and this workload is {expected}", certificate.display())]
    WrongIdentity {
        certificate: PathBuf,
        found: SpiffeId,
        expected: SpiffeId,
    },
    #[error("{}: it is not valid at this time, and the one in use is", .0.display())]
    NotValidNow(PathBuf),
}

/// Keeps the workload's credentials as its files have them.
#[derive(Debug)]
pub(crate) struct IdentityWatcher {
    reloader: Reloader,
    credentials: watch::Sender<Arc<Credentials>>,
    problem: watch::Sender<Option<String>>,
}

/// What others see of it.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    /// The credentials to use for the next handshake.
    pub(crate) credentials: watch::Receiver<Arc<Credentials>>,
    /// Why the files as they are now could not be used, if so.
    pub(crate) problem: watch::Receiver<Option<String>>,
}

impl IdentityWatcher {
    /// Loads the files once. An SVID that is not valid now is loaded too, with an error in the log: no
    /// peer accepts it, but its replacement will be picked up as soon as it is there.
    ///
    /// # Errors
    /// A file that cannot be read, credentials that are not valid, or those of another workload.
    pub(crate) fn load(files: IdentityFiles) -> Result<(Self, Identity), IdentityError> {
        warn_of_open_key(&files.key);
        let contents = Contents::read(&files)?;
        let (reloader, current) = Reloader::new(files, contents)?;
        let (credentials, credentials_seen) = watch::channel(current);
        let (problem, problem_seen) = watch::channel(None);
        let watcher = Self {
            reloader,
            credentials,
            problem,
        };
        Ok((
            watcher,
            Identity {
                credentials: credentials_seen,
                problem: problem_seen,
            },
        ))
    }

    /// Follows the files until nobody is interested any more.
    ///
    /// # Errors
    /// SIGHUP cannot be listened for.
    pub(crate) async fn run(self) -> io::Result<()> {
        self.follow(Looks::begin("the identity's files")?).await;
        Ok(())
    }

    async fn follow(mut self, mut looks: Looks<impl Hangup>) {
        loop {
            tokio::select! {
                () = looks.next() => {}
                () = self.credentials.closed() => return,
            }
            let files = self.reloader.files.clone();
            // On a thread of its own: a hanging network file system must not hold up anyone else.
            let Ok(read) = tokio::task::spawn_blocking(move || Contents::read(&files)).await else {
                continue;
            };
            self.apply(read, SystemTime::now());
        }
    }

    fn apply(&mut self, read: Result<Contents, IdentityError>, now: SystemTime) {
        match self.reloader.on_read(read, now) {
            Decision::Keep => {}
            Decision::Wait => tracing::debug!("the identity's files are changing"),
            Decision::Recovered => {
                tracing::info!("the identity's files are again those in use");
                self.problem.send_replace(None);
            }
            Decision::Publish(credentials) => {
                let svid = credentials.svid();
                tracing::info!(identity = %svid.id(), not_after = %date(svid.not_after()), "SVID reloaded");
                self.problem.send_replace(None);
                self.credentials.send_replace(credentials);
            }
            Decision::Refuse(error) => {
                tracing::warn!(%error, "identity not reloaded; the last good one stays in use");
                self.problem.send_replace(Some(error.to_string()));
            }
        }
        let credentials = self.credentials.borrow().clone();
        match self.reloader.on_time(now) {
            None => {}
            Some(Warning::SvidEndsSoon) => {
                let not_after = date(credentials.svid().not_after());
                tracing::warn!(%not_after, "the SVID expires soon and its files have no newer one");
            }
            Some(Warning::SvidNotValid) => {
                let (not_before, not_after) =
                    (credentials.svid().not_before(), credentials.svid().not_after());
                tracing::error!(
                    not_before = %date(not_before),
                    not_after = %date(not_after),
                    "the SVID is not valid now: no peer accepts it"
                );
            }
            Some(Warning::RootEndsSoon) => {
                tracing::warn!("a root of the trust bundle expires within 30 days");
            }
        }
    }
}

/// The bytes of all three files, read one after the other.
#[derive(PartialEq, Eq)]
struct Contents {
    certificate: Vec<u8>,
    key: Zeroizing<Vec<u8>>,
    trust_bundle: Vec<u8>,
}

impl fmt::Debug for Contents {
    /// Never the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Contents").finish_non_exhaustive()
    }
}

impl Contents {
    fn read(files: &IdentityFiles) -> Result<Self, IdentityError> {
        let read = |path: &Path| {
            read_file(path, MAX_FILE_BYTES).map_err(|error| IdentityError::Read {
                path: path.to_owned(),
                error,
            })
        };
        Ok(Self {
            certificate: read(&files.certificate)?.to_vec(),
            key: read(&files.key)?,
            trust_bundle: read(&files.trust_bundle)?.to_vec(),
        })
    }
}

type Decision = watch_files::Decision<Credentials, IdentityError>;

/// Decides what becomes of what was read. No I/O and no clock of its own.
#[derive(Debug)]
struct Reloader {
    files: IdentityFiles,
    inner: watch_files::Reloader<Contents, Credentials>,
    warned: Option<Warning>,
}

/// What an operator should know of the time, in rising order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Warning {
    /// A root ends within [`ROOT_WARNING`].
    RootEndsSoon,
    /// Three quarters of the SVID's life are over; it should have been replaced at half.
    SvidEndsSoon,
    /// The SVID is expired or not valid yet.
    SvidNotValid,
}

impl Reloader {
    fn new(files: IdentityFiles, contents: Contents) -> Result<(Self, Arc<Credentials>), IdentityError> {
        let current = Arc::new(make(&files, &contents)?);
        let reloader = Self {
            files,
            inner: watch_files::Reloader::new(contents, current.clone()),
            warned: None,
        };
        Ok((reloader, current))
    }

    fn on_read(&mut self, read: Result<Contents, IdentityError>, now: SystemTime) -> Decision {
        let files = &self.files;
        let decision = self.inner.on_read(read, |contents, current| {
            let credentials = make(files, contents)?;
            // A backup put back by mistake must not take a good identity away.
            if !valid_at(&credentials, now) && valid_at(current, now) {
                return Err(IdentityError::NotValidNow(files.certificate.clone()));
            }
            Ok(credentials)
        });
        if let Decision::Publish(_) = decision {
            self.warned = None;
        }
        decision
    }

    /// A warning that is due and was not given yet for these credentials.
    fn on_time(&mut self, now: SystemTime) -> Option<Warning> {
        let due = due_warning(self.inner.current(), now);
        if due <= self.warned {
            return None;
        }
        self.warned = due;
        due
    }
}

fn make(files: &IdentityFiles, contents: &Contents) -> Result<Credentials, IdentityError> {
    let credentials = Credentials::from_pem(&contents.certificate, &contents.key, &contents.trust_bundle)
        .map_err(|error| IdentityError::Credentials {
            files: Box::new(files.clone()),
            error,
        })?;
    let found = credentials.svid().id();
    match &files.expected {
        Some(expected) if expected != found => Err(IdentityError::WrongIdentity {
            certificate: files.certificate.clone(),
            found: found.clone(),
            expected: expected.clone(),
        }),
        Some(_) | None => Ok(credentials),
    }
}

fn valid_at(credentials: &Credentials, now: SystemTime) -> bool {
    (credentials.svid().not_before()..=credentials.svid().not_after()).contains(&now)
}

fn due_warning(credentials: &Credentials, now: SystemTime) -> Option<Warning> {
    let svid = credentials.svid();
    let lifetime = svid
        .not_after()
        .duration_since(svid.not_before())
        .unwrap_or_default();
    let left = |end: SystemTime| end.duration_since(now).unwrap_or_default();
    if !valid_at(credentials, now) {
        Some(Warning::SvidNotValid)
    } else if left(svid.not_after()) < lifetime / 4 {
        Some(Warning::SvidEndsSoon)
    } else if credentials
        .bundle()
        .expiries()
        .any(|end| left(end) < ROOT_WARNING)
    {
        Some(Warning::RootEndsSoon)
    } else {
        None
    }
}

/// A key that everybody can read is no secret. Group access is left alone: Kubernetes needs it.
fn warn_of_open_key(key: &Path) {
    use std::os::unix::fs::PermissionsExt;
    if let Ok(metadata) = fs::metadata(key)
        && metadata.permissions().mode() & 0o007 != 0
    {
        tracing::warn!(key = %key.display(), "every user of this host can access the private key");
    }
}

/// A time as operators read it: RFC 3339.
pub(crate) fn date(time: SystemTime) -> String {
    let time = time::OffsetDateTime::from(time);
    time.format(&time::format_description::well_known::Rfc3339)
        .unwrap_or_else(|_| time.unix_timestamp().to_string())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use time::OffsetDateTime;
    use tokio::sync::mpsc;

    use super::*;
    use crate::dev_certs::{DevAuthority, DevSvid};

    const DAY: Duration = Duration::from_secs(24 * 3600);

    /// A CA, and a directory with the three files of `web`.
    struct Lab {
        authority: DevAuthority,
        directory: tempfile::TempDir,
    }

    impl Lab {
        fn new() -> Self {
            let domain = "mesh.test".parse().unwrap();
            let authority = DevAuthority::create(&domain, OffsetDateTime::now_utc()).unwrap();
            let lab = Self {
                authority,
                directory: tempfile::tempdir().unwrap(),
            };
            lab.write(&lab.svid("web", DAY));
            lab
        }

        fn path(&self, name: &str) -> PathBuf {
            self.directory.path().join(name)
        }

        fn svid(&self, service_account: &str, lifetime: Duration) -> DevSvid {
            let id = format!("spiffe://mesh.test/ns/default/sa/{service_account}")
                .parse()
                .unwrap();
            self.authority
                .issue(&id, lifetime, OffsetDateTime::now_utc())
                .unwrap()
        }

        fn write(&self, svid: &DevSvid) {
            fs::write(self.path("web.pem"), &svid.chain).unwrap();
            fs::write(self.path("web.key"), &svid.key).unwrap();
            fs::write(self.path("ca.pem"), self.authority.bundle_pem()).unwrap();
        }

        fn files(&self) -> IdentityFiles {
            IdentityFiles {
                certificate: self.path("web.pem"),
                key: self.path("web.key"),
                trust_bundle: self.path("ca.pem"),
                expected: Some("spiffe://mesh.test/ns/default/sa/web".parse().unwrap()),
            }
        }

        fn contents(&self, svid: &DevSvid) -> Contents {
            Contents {
                certificate: svid.chain.clone().into(),
                key: Zeroizing::new(svid.key.clone().into()),
                trust_bundle: self.authority.bundle_pem().into(),
            }
        }

        fn reloader(&self, svid: &DevSvid) -> Reloader {
            Reloader::new(self.files(), self.contents(svid)).unwrap().0
        }

        /// A watcher in its task, what it publishes, and how to send it a SIGHUP.
        fn follow(&self) -> (Identity, mpsc::UnboundedSender<()>) {
            let (watcher, identity) = IdentityWatcher::load(self.files()).unwrap();
            let (hangup, hangups) = mpsc::unbounded_channel();
            tokio::spawn(watcher.follow(Looks::with(hangups, "a test")));
            (identity, hangup)
        }
    }

    fn chain(credentials: &Credentials) -> Vec<u8> {
        credentials.svid().chain()[0].to_vec()
    }

    #[test]
    fn a_renewed_svid_is_published_once() {
        let lab = Lab::new();
        let now = SystemTime::now();
        let (old, new) = (lab.svid("web", DAY), lab.svid("web", DAY));
        let mut reloader = lab.reloader(&old);
        let before = chain(reloader.inner.current());
        assert!(matches!(
            reloader.on_read(Ok(lab.contents(&old)), now),
            Decision::Keep
        ));
        let Decision::Publish(published) = reloader.on_read(Ok(lab.contents(&new)), now) else {
            panic!()
        };
        assert_ne!(chain(&published), before);
        assert!(matches!(
            reloader.on_read(Ok(lab.contents(&new)), now),
            Decision::Keep
        ));
    }

    #[test]
    fn files_in_the_middle_of_a_change_are_not_a_problem_unless_they_stay_so() {
        let lab = Lab::new();
        let now = SystemTime::now();
        let (old, new) = (lab.svid("web", DAY), lab.svid("web", DAY));
        let half = || {
            let mut contents = lab.contents(&new);
            contents.key = Zeroizing::new(old.key.clone().into());
            Ok(contents)
        };
        let mut reloader = lab.reloader(&old);
        assert!(matches!(reloader.on_read(half(), now), Decision::Wait));
        assert!(matches!(
            reloader.on_read(Ok(lab.contents(&new)), now),
            Decision::Publish(_)
        ));

        let mut reloader = lab.reloader(&old);
        assert!(matches!(reloader.on_read(half(), now), Decision::Wait));
        let Decision::Refuse(error) = reloader.on_read(half(), now) else {
            panic!()
        };
        assert!(
            error.to_string().contains("does not belong to the certificate"),
            "{error}"
        );
        assert!(
            matches!(reloader.on_read(half(), now), Decision::Keep),
            "told twice"
        );
        let gone = IdentityError::Read {
            path: "web.pem".into(),
            error: io::ErrorKind::NotFound.into(),
        };
        assert!(
            matches!(reloader.on_read(Err(gone), now), Decision::Refuse(_)),
            "another reason"
        );
        assert!(matches!(
            reloader.on_read(Ok(lab.contents(&old)), now),
            Decision::Recovered
        ));
        assert!(matches!(
            reloader.on_read(Ok(lab.contents(&old)), now),
            Decision::Keep
        ));
    }

    #[test]
    fn an_identity_that_is_not_this_workloads_is_refused() {
        let lab = Lab::new();
        let now = SystemTime::now();
        let db = lab.svid("db", DAY);
        let error = Reloader::new(lab.files(), lab.contents(&db)).unwrap_err();
        assert!(matches!(error, IdentityError::WrongIdentity { .. }), "{error}");
        let mut reloader = lab.reloader(&lab.svid("web", DAY));
        assert!(matches!(
            reloader.on_read(Ok(lab.contents(&db)), now),
            Decision::Wait
        ));
        assert!(matches!(
            reloader.on_read(Ok(lab.contents(&db)), now),
            Decision::Refuse(_)
        ));
    }

    #[test]
    fn an_expired_svid_never_replaces_a_valid_one_but_any_replaces_an_expired_one() {
        let lab = Lab::new();
        let (long, short) = (lab.svid("web", 2 * DAY), lab.svid("web", DAY));
        let tomorrow = SystemTime::now() + DAY + DAY / 2;
        let mut reloader = lab.reloader(&long);
        assert!(matches!(
            reloader.on_read(Ok(lab.contents(&short)), tomorrow),
            Decision::Wait
        ));
        let refused = reloader.on_read(Ok(lab.contents(&short)), tomorrow);
        assert!(matches!(refused, Decision::Refuse(IdentityError::NotValidNow(_))));
        let mut reloader = lab.reloader(&short);
        let other = lab.contents(&lab.svid("web", DAY));
        assert!(matches!(
            reloader.on_read(Ok(other), tomorrow),
            Decision::Publish(_)
        ));
        assert!(matches!(
            reloader.on_read(Ok(lab.contents(&long)), tomorrow),
            Decision::Publish(_)
        ));
    }

    #[test]
    fn each_warning_is_given_once_for_an_svid() {
        let lab = Lab::new();
        let start = SystemTime::now();
        let mut reloader = lab.reloader(&lab.svid("web", DAY));
        assert_eq!(reloader.on_time(start), None);
        assert_eq!(reloader.on_time(start + DAY / 2), None);
        assert_eq!(reloader.on_time(start + DAY * 4 / 5), Some(Warning::SvidEndsSoon));
        assert_eq!(reloader.on_time(start + DAY * 9 / 10), None);
        assert_eq!(reloader.on_time(start + DAY * 2), Some(Warning::SvidNotValid));
        assert_eq!(reloader.on_time(start + DAY * 3), None);
        // A new one starts afresh.
        let new = lab.contents(&lab.svid("web", 10 * DAY));
        assert!(matches!(reloader.on_read(Ok(new), start), Decision::Publish(_)));
        assert_eq!(reloader.on_time(start + 9 * DAY), Some(Warning::SvidEndsSoon));
        // The CA has 365 days.
        let mut reloader = lab.reloader(&lab.svid("web", 364 * DAY));
        assert_eq!(reloader.on_time(start), None);
        assert_eq!(due_warning(reloader.inner.current(), start + 200 * DAY), None);
        let short = lab.svid("web", 3650 * DAY);
        let reloader = lab.reloader(&short);
        assert_eq!(
            due_warning(reloader.inner.current(), start - DAY),
            Some(Warning::SvidNotValid)
        );
    }

    #[test]
    fn a_root_that_ends_is_warned_of() {
        let domain = "mesh.test".parse().unwrap();
        let long_ago = OffsetDateTime::now_utc() - 350 * DAY;
        let lab = Lab {
            authority: DevAuthority::create(&domain, long_ago).unwrap(),
            ..Lab::new()
        };
        let mut reloader = lab.reloader(&lab.svid("web", DAY));
        assert_eq!(reloader.on_time(SystemTime::now()), Some(Warning::RootEndsSoon));
        assert_eq!(reloader.on_time(SystemTime::now()), None);
    }

    #[tokio::test(start_paused = true)]
    async fn changed_files_are_published_within_a_poll() {
        let lab = Lab::new();
        let (mut identity, _hangup) = lab.follow();
        let before = chain(&identity.credentials.borrow_and_update());
        // In three steps, each seen by a poll: a cut-off certificate, all of it, and then the key.
        let new = lab.svid("web", DAY);
        fs::write(lab.path("web.pem"), &new.chain[..new.chain.len() / 2]).unwrap();
        identity
            .problem
            .wait_for(|problem| problem.as_ref().is_some_and(|text| text.contains("not PEM")))
            .await
            .unwrap();
        fs::write(lab.path("web.pem"), &new.chain).unwrap();
        identity
            .problem
            .wait_for(|problem| problem.as_ref().is_some_and(|text| text.contains("key")))
            .await
            .unwrap();
        assert_eq!(
            chain(&identity.credentials.borrow()),
            before,
            "the last good one was dropped"
        );
        fs::write(lab.path("web.key"), &new.key).unwrap();
        identity.credentials.changed().await.unwrap();
        assert_ne!(chain(&identity.credentials.borrow_and_update()), before);
        assert_eq!(*identity.problem.borrow(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_mounted_secret_that_is_swapped_by_a_symlink_is_seen() {
        let lab = Lab::new();
        // As Kubernetes mounts it: web.pem -> ..data/web.pem, ..data -> ..2026_1.
        let lay = |version: &str, svid: &DevSvid| {
            fs::create_dir(lab.path(version)).unwrap();
            fs::write(lab.path(version).join("web.pem"), &svid.chain).unwrap();
            fs::write(lab.path(version).join("web.key"), &svid.key).unwrap();
            symlink(version, lab.path("..data.new")).unwrap();
            fs::rename(lab.path("..data.new"), lab.path("..data")).unwrap();
        };
        lay("..2026_1", &lab.svid("web", DAY));
        for name in ["web.pem", "web.key"] {
            fs::remove_file(lab.path(name)).unwrap();
            symlink(format!("..data/{name}"), lab.path(name)).unwrap();
        }
        let (mut identity, _hangup) = lab.follow();
        let before = chain(&identity.credentials.borrow_and_update());
        lay("..2026_2", &lab.svid("web", DAY));
        identity.credentials.changed().await.unwrap();
        assert_ne!(chain(&identity.credentials.borrow_and_update()), before);
    }

    #[tokio::test(start_paused = true)]
    async fn sighup_is_faster_than_the_poll() {
        let lab = Lab::new();
        let (mut identity, hangup) = lab.follow();
        identity.credentials.borrow_and_update();
        // The first look is at once; the next is due in two seconds.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let asked = tokio::time::Instant::now();
        lab.write(&lab.svid("web", DAY));
        hangup.send(()).unwrap();
        identity.credentials.changed().await.unwrap();
        assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn the_watcher_ends_with_the_last_reader() {
        let lab = Lab::new();
        let (watcher, identity) = IdentityWatcher::load(lab.files()).unwrap();
        let (_hangup, hangups) = mpsc::unbounded_channel();
        let task = tokio::spawn(watcher.follow(Looks::with(hangups, "a test")));
        drop(identity);
        task.await.unwrap();
    }

    #[test]
    fn the_key_is_not_shown() {
        let lab = Lab::new();
        let svid = lab.svid("web", DAY);
        let (watcher, _identity) = IdentityWatcher::load(lab.files()).unwrap();
        for shown in [format!("{watcher:?}"), format!("{:?}", lab.contents(&svid))] {
            assert!(
                !shown.contains("[45, 45, 45") && !shown.contains("PRIVATE"),
                "{shown}"
            );
        }
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        let lab = Lab::new();
        let missing = IdentityFiles {
            certificate: lab.path("none"),
            ..lab.files()
        };
        let error = IdentityWatcher::load(missing).unwrap_err().to_string();
        assert!(error.contains("none"), "{error}");
        fs::File::create(lab.path("big"))
            .unwrap()
            .set_len(MAX_FILE_BYTES + 1)
            .unwrap();
        let big = IdentityFiles {
            trust_bundle: lab.path("big"),
            ..lab.files()
        };
        let error = IdentityWatcher::load(big).unwrap_err().to_string();
        assert!(error.ends_with("big: larger than 1 MiB"), "{error}");
    }
}
