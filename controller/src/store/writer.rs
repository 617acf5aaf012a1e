//! The thread that writes. Transactions that wait for it are made durable together, with one sync of the disk: each
//! has its own conditions and its own outcome, in the order in which they came.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use super::{
    CommitError, Condition, Revision, StoreError, Transaction,
    batch::{Batch, Decided},
    contents::Contents,
    disk::Disk,
};

/// The transactions that are written together at most: a sync takes longer than to decide as many.
const GROUP: usize = 512;
/// The bytes that are written together at most, so that the first of them does not wait long for the others.
const GROUP_BYTES: usize = 8 << 20;

/// A transaction, and who waits for its outcome.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) transaction: Transaction,
    pub(super) reply: oneshot::Sender<Result<Revision, CommitError>>,
}

type Outcome = (
    oneshot::Sender<Result<Revision, CommitError>>,
    Result<Revision, Condition>,
);

/// Writes until nobody can send any more.
pub(super) fn run(mut jobs: mpsc::Receiver<Job>, mut disk: Disk, contents: &Arc<Contents>) {
    while let Some(first) = jobs.blocking_recv() {
        let group = group(first, &mut jobs);
        write(group, &mut disk, contents);
    }
    contents.close();
}

/// Those that wait already.
fn group(first: Job, jobs: &mut mpsc::Receiver<Job>) -> Vec<Job> {
    let mut bytes = first.transaction.size();
    let mut group = vec![first];
    while group.len() < GROUP && bytes < GROUP_BYTES {
        let Ok(job) = jobs.try_recv() else { break };
        bytes += job.transaction.size();
        group.push(job);
    }
    group
}

fn write(group: Vec<Job>, disk: &mut Disk, contents: &Contents) {
    let (outcomes, written) = decide_and_write(group, disk, contents);
    match written {
        Ok(decided) => {
            if let Some(decided) = decided {
                contents.publish(decided);
            }
            for (reply, outcome) in outcomes {
                let _ = reply.send(outcome.map_err(CommitError::Conflict));
            }
        }
        Err(error) => {
            tracing::warn!(%error, transactions = outcomes.len(), "the store refuses a write");
            // Even what did not hold may be due to what did not happen before it.
            for (reply, _) in outcomes {
                let _ = reply.send(Err(error.clone().into()));
            }
        }
    }
}

/// Only this thread changes the contents, so what was decided holds while it is written, without a lock.
fn decide_and_write(
    group: Vec<Job>,
    disk: &mut Disk,
    contents: &Contents,
) -> (Vec<Outcome>, Result<Option<Decided>, StoreError>) {
    let (outcomes, decided) = decide(group, contents);
    if decided.changes.is_empty() {
        return (outcomes, Ok(None));
    }
    let written = disk.commit(contents, &decided);
    (outcomes, written.map(|()| Some(decided)))
}

fn decide(group: Vec<Job>, contents: &Contents) -> (Vec<Outcome>, Decided) {
    let state = contents.read();
    let mut batch = Batch::new(&state.records, state.revision);
    let outcomes = group
        .into_iter()
        .map(|job| (job.reply, batch.apply(job.transaction)))
        .collect();
    (outcomes, batch.decided())
}
