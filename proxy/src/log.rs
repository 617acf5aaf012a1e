//! The proxy's own log: to standard error, and its last lines in memory for who asks; its level can be changed.

use std::{
    collections::VecDeque,
    io::{self, Write},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::broadcast;
use tracing_subscriber::{
    EnvFilter, Registry, fmt::MakeWriter, layer::SubscriberExt, reload, util::SubscriberInitExt,
};

use crate::cli::{LogArgs, Output};

/// How many lines are kept.
pub(crate) const KEPT: usize = 1_000;
/// The longest line that is kept whole.
const MAX_LINE: usize = 4 << 10;
/// How many pieces of log a follower may be behind.
const FOLLOWED: usize = 256;

/// The last of a log. Clones are of the same one.
#[derive(Clone, Debug)]
pub(crate) struct Recent(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    pieces: Mutex<Pieces>,
    new: broadcast::Sender<Arc<[u8]>>,
}

/// Whole lines, several in a piece, as they were written.
#[derive(Debug, Default)]
struct Pieces {
    pieces: VecDeque<(Arc<[u8]>, usize)>,
    lines: usize,
}

impl Default for Recent {
    fn default() -> Self {
        Self(Arc::new(Shared {
            pieces: Mutex::default(),
            new: broadcast::Sender::new(FOLLOWED),
        }))
    }
}

impl Recent {
    /// Takes so many whole lines.
    pub(crate) fn push(&self, bytes: Vec<u8>, lines: usize) {
        let piece: Arc<[u8]> = bytes.into();
        let mut kept = self.lock();
        kept.lines += lines;
        kept.pieces.push_back((piece.clone(), lines));
        while let Some(oldest) = kept.pieces.front().map(|(_, lines)| *lines)
            && kept.lines - oldest >= KEPT
        {
            kept.lines -= oldest;
            kept.pieces.pop_front();
        }
        drop(kept);
        // Nobody follows, mostly.
        let _ = self.0.new.send(piece);
    }

    /// The last lines, at most so many, oldest first, and what comes after them.
    pub(crate) fn tail(&self, lines: usize) -> (Vec<String>, broadcast::Receiver<Arc<[u8]>>) {
        let kept = self.lock();
        let new = self.0.new.subscribe();
        let lines = lines.min(KEPT);
        let mut tail: Vec<String> = Vec::new();
        for (piece, _) in kept.pieces.iter().rev() {
            if tail.len() >= lines {
                break;
            }
            let text = String::from_utf8_lossy(piece);
            tail.extend(text.lines().rev().take(lines - tail.len()).map(str::to_owned));
        }
        tail.reverse();
        (tail, new)
    }

    fn lock(&self) -> MutexGuard<'_, Pieces> {
        self.0.pieces.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Standard error, and the last lines.
struct Tee(Recent);

/// One event on its way.
struct Line {
    recent: Recent,
    bytes: Vec<u8>,
}

impl<'a> MakeWriter<'a> for Tee {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line {
            recent: self.0.clone(),
            bytes: Vec::new(),
        }
    }
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = MAX_LINE.saturating_sub(self.bytes.len());
        self.bytes.extend_from_slice(bytes.get(..room).unwrap_or(bytes));
        io::stderr().write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if !self.bytes.is_empty() {
            self.recent.push(std::mem::take(&mut self.bytes), 1);
        }
    }
}

/// The log of this process.
#[derive(Clone)]
pub(crate) struct Log {
    recent: Recent,
    level: reload::Handle<EnvFilter, Registry>,
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Log").finish_non_exhaustive()
    }
}

/// A level can't be set.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LevelError {
    #[error("{0} is no filter: {1}")]
    Filter(String, tracing_subscriber::filter::ParseError),
    #[error("{0}")]
    Set(#[from] reload::Error),
}

impl Log {
    /// Starts the log of this process.
    ///
    /// # Errors
    /// The filter is none.
    pub(crate) fn start(args: &LogArgs) -> Result<Self, LevelError> {
        let (filter, level) = reload::Layer::new(filter(&args.log)?);
        let recent = Recent::default();
        let layer = tracing_subscriber::fmt::layer().with_writer(Tee(recent.clone()));
        let registry = tracing_subscriber::registry().with(filter);
        match args.log_format {
            Output::Text => registry.with(layer).init(),
            Output::Json => registry.with(layer.json()).init(),
        }
        Ok(Self { recent, level })
    }

    /// A log that nobody writes, for tests.
    #[cfg(test)]
    pub(crate) fn detached() -> Self {
        let (layer, level) = reload::Layer::new(EnvFilter::new("info"));
        // The handle works as long as its layer is there.
        std::mem::forget(layer);
        Self {
            recent: Recent::default(),
            level,
        }
    }

    /// Its last lines.
    pub(crate) fn recent(&self) -> &Recent {
        &self.recent
    }

    /// The level in force.
    pub(crate) fn level(&self) -> String {
        self.level.with_current(ToString::to_string).unwrap_or_default()
    }

    /// Sets the level.
    ///
    /// # Errors
    /// It is no filter.
    pub(crate) fn set_level(&self, text: &str) -> Result<(), LevelError> {
        Ok(self.level.reload(filter(text)?)?)
    }
}

fn filter(text: &str) -> Result<EnvFilter, LevelError> {
    EnvFilter::builder()
        .parse(text)
        .map_err(|error| LevelError::Filter(text.chars().take(200).collect(), error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_kept_whatever_pieces_they_came_in() {
        let recent = Recent::default();
        for piece in 0..600 {
            recent.push(format!("{piece} a\n{piece} b\n{piece} c\n").into_bytes(), 3);
        }
        let (tail, _) = recent.tail(4);
        assert_eq!(tail, ["598 c", "599 a", "599 b", "599 c"]);
        assert_eq!(recent.tail(usize::MAX).0.len(), KEPT);
        assert_eq!(recent.tail(0).0.len(), 0);
        assert!(recent.lock().lines < KEPT + 3, "older ones are let go");
    }

    #[test]
    fn who_follows_misses_nothing_between_tail_and_news() {
        let recent = Recent::default();
        recent.push(b"old\n".to_vec(), 1);
        let (tail, mut new) = recent.tail(10);
        recent.push(b"new\n".to_vec(), 1);
        assert_eq!(tail, ["old"]);
        assert_eq!(&*new.try_recv().unwrap(), b"new\n");
        assert!(new.try_recv().is_err());
    }

    #[test]
    fn the_level_changes_and_nonsense_is_refused() {
        let log = Log::detached();
        assert_eq!(log.level(), "info");
        log.set_level("warn,weft_proxy=debug").unwrap();
        assert!(log.level().contains("weft_proxy=debug"));
        assert!(log.set_level("weft=loud").is_err());
        assert!(log.level().contains("weft_proxy=debug"));
    }
}
