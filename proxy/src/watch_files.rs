//! Following files: looking at them again and again, and deciding what becomes of what was read.
//!
//! The files are looked at every few seconds, and at once on SIGHUP. Looking means reading them and
//! comparing what is in them. That is little work for a few files, and unlike inotify or a file's time it
//! cannot miss anything: not the symlink that Kubernetes swaps above a mounted file, not a write of the
//! same size within one tick of the clock, not a directory on a network.
//!
//! Files are seldom replaced all at the same instant. While what is read is of no use, the last good
//! stays; only what is still wrong at the next look is worth a warning.

use std::{fmt::Display, fs, io, path::Path, sync::Arc, time::Duration};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::{Interval, MissedTickBehavior, interval},
};
use zeroize::Zeroizing;

/// How often files are looked at: soon enough for someone who edits one and waits, and too seldom to cost anything.
const POLL: Duration = Duration::from_secs(2);

/// When to look at the files.
#[derive(Debug)]
pub(crate) struct Looks<H = Signal> {
    ticks: Interval,
    hangup: H,
    /// What is looked at, for the log.
    what: &'static str,
}

/// SIGHUP, or a test.
pub(crate) trait Hangup {
    /// The next one. Nothing is lost if this is dropped before.
    async fn received(&mut self);
}

/// Decides what becomes of what was read: no I/O and no clock. `K` tells one content of the files from another,
/// and `T` is made of it.
#[derive(Debug)]
pub(crate) struct Reloader<K, T> {
    /// What the current value was made of.
    used: K,
    current: Arc<T>,
    state: State,
}

/// What to do after a look at the files.
#[derive(Debug)]
pub(crate) enum Decision<T, E> {
    /// Nothing has changed.
    Keep,
    /// They cannot be used; look once more before saying so.
    Wait,
    /// They cannot be used, for a reason not told yet.
    Refuse(E),
    /// They could not be used, and now are again what is in use.
    Recovered,
    /// A new value.
    Publish(Arc<T>),
}

/// How the files compare with the value in use.
#[derive(Debug, PartialEq, Eq)]
enum State {
    /// They are the same.
    Good,
    /// At the last look they could not be used. It may have been a moment of change.
    Suspect,
    /// They could not be used twice in a row, for this reason, which was told.
    Refused(String),
}

impl Looks {
    /// Begins with a look at once.
    ///
    /// # Errors
    /// SIGHUP cannot be listened for.
    pub(crate) fn begin(what: &'static str) -> io::Result<Self> {
        Ok(Self::with(signal(SignalKind::hangup())?, what))
    }
}

impl<H: Hangup> Looks<H> {
    /// The same with another cause than SIGHUP.
    pub(crate) fn with(hangup: H, what: &'static str) -> Self {
        let mut ticks = interval(POLL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { ticks, hangup, what }
    }

    /// Waits until it is time to look. Nothing is lost if this is dropped before.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.ticks.tick() => {}
            () = self.hangup.received() => tracing::info!("SIGHUP: looking at {}", self.what),
        }
    }
}

impl Hangup for Signal {
    async fn received(&mut self) {
        // Without signals any more there is still the poll.
        if self.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
    }
}

impl<K: PartialEq, T> Reloader<K, T> {
    /// Begins with a value and what it was made of.
    pub(crate) fn new(used: K, current: Arc<T>) -> Self {
        Self {
            used,
            current,
            state: State::Good,
        }
    }

    /// The value in use.
    pub(crate) fn current(&self) -> &Arc<T> {
        &self.current
    }

    /// Takes what was read. Where that is new, `make` makes a value of it, or says why not; it is also given the value
    /// in use.
    pub(crate) fn on_read<E: Display>(
        &mut self,
        read: Result<K, E>,
        make: impl FnOnce(&K, &T) -> Result<T, E>,
    ) -> Decision<T, E> {
        let made = read.and_then(|read| {
            if read == self.used {
                return Ok(None);
            }
            let value = make(&read, &self.current)?;
            Ok(Some((read, value)))
        });
        match made {
            Ok(None) => match std::mem::replace(&mut self.state, State::Good) {
                State::Good | State::Suspect => Decision::Keep,
                State::Refused(_) => Decision::Recovered,
            },
            Ok(Some((read, value))) => {
                self.used = read;
                self.current = Arc::new(value);
                self.state = State::Good;
                Decision::Publish(self.current.clone())
            }
            Err(error) => self.on_unusable(error),
        }
    }

    fn on_unusable<E: Display>(&mut self, error: E) -> Decision<T, E> {
        let reason = error.to_string();
        match &self.state {
            State::Good => {
                self.state = State::Suspect;
                Decision::Wait
            }
            State::Refused(told) if *told == reason => Decision::Keep,
            State::Suspect | State::Refused(_) => {
                self.state = State::Refused(reason);
                Decision::Refuse(error)
            }
        }
    }
}

/// Reads a regular file of at most `max` bytes. What was read is overwritten when it is dropped, for it may be a key.
///
/// # Errors
/// Those of the system, `InvalidInput` for what is no regular file, and `FileTooLarge`.
pub(crate) fn read_file(path: &Path, max: u64) -> io::Result<Zeroizing<Vec<u8>>> {
    let metadata = fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    let too_large = || {
        io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("larger than {} MiB", max >> 20),
        )
    };
    if metadata.len() > max {
        return Err(too_large());
    }
    // With room for all of it at once, so that no copy of a key is left behind by a growing vector.
    let mut bytes = Zeroizing::new(Vec::with_capacity(
        usize::try_from(metadata.len()).unwrap_or(0) + 1,
    ));
    io::Read::read_to_end(&mut io::Read::take(fs::File::open(path)?, max + 1), &mut bytes)?;
    if bytes.len() as u64 > max {
        return Err(too_large());
    }
    Ok(bytes)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use tokio::sync::mpsc;

    impl Hangup for mpsc::UnboundedReceiver<()> {
        async fn received(&mut self) {
            if self.recv().await.is_none() {
                std::future::pending::<()>().await;
            }
        }
    }

    type Seen = Decision<u32, &'static str>;

    /// What a number that is read makes: odd ones are of no use.
    fn read(reloader: &mut Reloader<u32, u32>, read: Result<u32, &'static str>) -> Seen {
        reloader.on_read(
            read,
            |read, _| if read % 2 == 0 { Ok(read * 10) } else { Err("odd") },
        )
    }

    #[test]
    fn what_is_new_and_good_is_published_once() {
        let mut reloader = Reloader::new(0, Arc::new(0));
        assert!(matches!(read(&mut reloader, Ok(0)), Decision::Keep));
        assert!(matches!(read(&mut reloader, Ok(2)), Decision::Publish(value) if *value == 20));
        assert!(matches!(read(&mut reloader, Ok(2)), Decision::Keep));
        assert_eq!(**reloader.current(), 20);
    }

    #[test]
    fn what_is_wrong_twice_is_told_once_and_changes_nothing() {
        let mut reloader = Reloader::new(0, Arc::new(0));
        assert!(matches!(read(&mut reloader, Ok(1)), Decision::Wait));
        assert!(
            matches!(read(&mut reloader, Ok(0)), Decision::Keep),
            "only a moment"
        );
        assert!(matches!(read(&mut reloader, Ok(1)), Decision::Wait));
        assert!(matches!(read(&mut reloader, Ok(1)), Decision::Refuse("odd")));
        assert!(matches!(read(&mut reloader, Ok(3)), Decision::Keep), "told twice");
        assert!(
            matches!(read(&mut reloader, Err("gone")), Decision::Refuse("gone")),
            "another reason"
        );
        assert_eq!(**reloader.current(), 0);
        assert!(matches!(read(&mut reloader, Ok(0)), Decision::Recovered));
        assert!(matches!(read(&mut reloader, Ok(0)), Decision::Keep));
        assert!(
            matches!(read(&mut reloader, Ok(1)), Decision::Wait),
            "a new change begins anew"
        );
        assert!(matches!(read(&mut reloader, Ok(2)), Decision::Publish(_)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_is_due_at_once_then_every_two_seconds_and_on_sighup() {
        let (hangup, hangups) = mpsc::unbounded_channel();
        let begin = tokio::time::Instant::now();
        let mut looks = Looks::with(hangups, "a test");
        looks.next().await;
        assert_eq!(begin.elapsed(), Duration::ZERO);
        looks.next().await;
        assert_eq!(begin.elapsed(), POLL);
        hangup.send(()).unwrap();
        looks.next().await;
        assert_eq!(begin.elapsed(), POLL);
        drop(hangup);
        looks.next().await;
        assert_eq!(begin.elapsed(), 2 * POLL);
    }

    #[test]
    fn only_regular_files_of_moderate_size_are_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let error = |path: &Path| read_file(path, 4 << 20).unwrap_err();
        assert_eq!(error(directory.path()).kind(), io::ErrorKind::InvalidInput);
        assert_eq!(error(Path::new("/dev/zero")).kind(), io::ErrorKind::InvalidInput);
        assert_eq!(error(&path("none")).kind(), io::ErrorKind::NotFound);
        let big = fs::File::create(path("big")).unwrap();
        big.set_len((4 << 20) + 1).unwrap();
        assert_eq!(error(&path("big")).to_string(), "larger than 4 MiB");
        big.set_len(4 << 20).unwrap();
        assert_eq!(read_file(&path("big"), 4 << 20).unwrap().len(), 4 << 20);
    }
}
