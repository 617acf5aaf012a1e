//! A capture on this host: put in place, looked at, taken away.
//!
//! The table is the record: it comes first, with the addresses and routes that belong to it in its sets, and goes
//! last. So whatever moment an install or a removal ends at, what is left of it is found, by its record or by its
//! number, and the next one takes it from there. The seal is set at the very end.

use std::{fs::File, io, time::Duration};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};

use super::{
    loopback::{Loopback, LoopbackError, OnLoopback},
    nft::{self, Live, NftError, Seal},
    rules::{Rules, Table},
};

/// The network namespace itself is what is locked, so that there is no file to be left behind.
const LOCK: &str = "/proc/thread-self/ns/net";
/// An install takes some tens of milliseconds.
const LOCK_TRIES: u32 = 100;
const LOCK_PAUSE: Duration = Duration::from_millis(100);

/// A capture can't be made, read or removed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HostError {
    #[error(transparent)]
    Nft(#[from] NftError),
    #[error(transparent)]
    Loopback(#[from] LoopbackError),
    #[error("{LOCK}: {0}")]
    Lock(io::Error),
    #[error("another capture command has been at work in this network for 10 s")]
    Locked,
    #[error("the table {0} was taken away while it was installed")]
    Vanished(Table),
}

/// How a capture is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// As it was installed.
    Intact,
    /// There is none.
    Missing,
    /// Something is not as it was installed: what.
    Altered(Vec<String>),
}

/// A capture as it is.
#[derive(Debug)]
pub(crate) struct Inspection {
    pub(crate) state: State,
    pub(crate) live: Option<Live>,
}

/// Installs a capture, or replaces one of the same name.
///
/// # Errors
/// What could not be done. What was done till then is not sealed; [`remove`] takes it away.
pub(crate) async fn install(rules: &Rules) -> Result<(), HostError> {
    let _lock = lock().await?;
    let loopback = Loopback::open()?;
    let wanted = rules.on_loopback();
    // Before the record of an older install is replaced, what it alone has goes.
    let mut needed = recorded_by_others(&rules.table).await?;
    needed.merge(wanted.clone());
    remove_stale(&loopback, &rules.table, &needed).await?;
    nft::apply(&rules.script()).await?;
    loopback.add(&wanted).await?;
    let Some(live) = nft::read(&rules.table).await? else {
        return Err(HostError::Vanished(rules.table.clone()));
    };
    nft::apply(&Seal::of(&live).script(&rules.table)).await?;
    Ok(())
}

/// Removes a capture, whole or not; nothing happens if there is none. What other captures need stays.
///
/// # Errors
/// What could not be removed: try again.
pub(crate) async fn remove(table: &Table) -> Result<(), HostError> {
    let _lock = lock().await?;
    let needed = recorded_by_others(table).await?;
    remove_stale(&Loopback::open()?, table, &needed).await?;
    // To delete a table that may not be there, make it first.
    nft::apply(&format!("add table inet {table}\ndelete table inet {table}\n")).await?;
    Ok(())
}

/// Looks at a capture.
///
/// # Errors
/// It can't be read.
pub(crate) async fn inspect(table: &Table) -> Result<Inspection, HostError> {
    let Some(live) = nft::read(table).await? else {
        return Ok(Inspection {
            state: State::Missing,
            live: None,
        });
    };
    let loopback = Loopback::open()?;
    let mut there = loopback.ours(&live.record).await?;
    // An address that was there before us is not ours, and as good.
    there.addresses.extend(loopback.addresses().await?);
    let mut problems: Vec<String> = rules_problem(&live).into_iter().collect();
    let missing = live.record.without(&there);
    problems.extend(missing.lines().map(|line| format!("{line} is missing from lo")));
    Ok(Inspection {
        state: match problems.is_empty() {
            true => State::Intact,
            false => State::Altered(problems),
        },
        live: Some(live),
    })
}

fn rules_problem(live: &Live) -> Option<String> {
    match &live.seal {
        None => Some("the install did not come to its end".to_owned()),
        // Two versions of nft may write the same rules differently: there is nothing to compare with.
        Some(seal) if seal.version != live.version => None,
        Some(seal) if seal.digest != live.digest => {
            Some("the rules are not those that were installed".to_owned())
        }
        Some(_) => None,
    }
}

/// What the tables of other captures say that they need.
async fn recorded_by_others(table: &Table) -> Result<OnLoopback, HostError> {
    let mut recorded = OnLoopback::default();
    for other in nft::tables().await?.iter().filter(|other| *other != table) {
        // One that is gone since needs nothing.
        if let Some(live) = nft::read(other).await? {
            recorded.merge(live.record);
        }
    }
    Ok(recorded)
}

/// Removes what of ours nobody needs.
async fn remove_stale(loopback: &Loopback, table: &Table, needed: &OnLoopback) -> Result<(), HostError> {
    let recorded = nft::read(table)
        .await?
        .map(|live| live.record)
        .unwrap_or_default();
    let ours = loopback.ours(&recorded).await?;
    loopback.remove(&ours.without(needed)).await?;
    Ok(())
}

/// One command at a time in a network namespace.
async fn lock() -> Result<Flock<File>, HostError> {
    let mut file = File::open(LOCK).map_err(HostError::Lock)?;
    for _ in 0..LOCK_TRIES {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((unlocked, Errno::EWOULDBLOCK)) => file = unlocked,
            Err((_, errno)) => return Err(HostError::Lock(errno.into())),
        }
        tokio::time::sleep(LOCK_PAUSE).await;
    }
    Err(HostError::Locked)
}
