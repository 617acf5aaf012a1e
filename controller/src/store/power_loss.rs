//! The power goes at any moment: the store opens again, what was acknowledged is there, and nothing in part.
//!
//! `WEFT_FULL=1` takes the number that is promised: 1,000 disks, with several losses of power each.

use futures_util::future::join_all;
use rand::{Rng, SeedableRng, rngs::StdRng};

use super::{
    Store, Transaction,
    disk::Disk,
    model::Model,
    redb::{Options, RedbStore},
    sim::SimDisk,
};

/// How often the power goes on one disk.
const LOSSES: usize = 4;

/// What was done on one disk, as far as it is known.
struct Life {
    disk: SimDisk,
    random: StdRng,
    /// After each revision that may be there, from `acknowledged`. Those after the first may have been lost.
    possible: Vec<Model>,
    losses: usize,
    acknowledged: usize,
    /// The losses after which more was there than acknowledged.
    unacknowledged: usize,
}

impl Life {
    fn new(seed: u64) -> Self {
        let disk = SimDisk::new(seed);
        drop(Disk::create(disk.medium(), [7; 16]).unwrap());
        Self {
            disk,
            random: StdRng::seed_from_u64(seed ^ 0x5eed),
            possible: vec![Model::default()],
            losses: 0,
            acknowledged: 0,
            unacknowledged: 0,
        }
    }

    /// Until the power has gone often enough.
    async fn run(&mut self) {
        while self.losses < LOSSES {
            // Opening after a loss takes a few dozen operations, a transaction a dozen.
            let operations = self.random.random_range(0..800);
            self.disk.lose_power_after(operations);
            let opened = RedbStore::open_on(self.disk.medium(), &Options::default());
            if let Ok(store) = &opened {
                self.check(store).await;
                while self.write(store).await {}
            }
            drop(opened);
            self.losses += 1;
            self.disk.restart();
        }
        let store = RedbStore::open_on(self.disk.medium(), &Options::default()).unwrap();
        self.check(&store).await;
    }

    /// It is exactly as after one of the transactions that may have happened.
    async fn check(&mut self, store: &RedbStore) {
        let revision = store.revision();
        let found = self
            .possible
            .iter()
            .position(|model| model.revision() == revision);
        let acknowledged = self.possible[0].revision();
        let index =
            found.unwrap_or_else(|| panic!("{acknowledged:?} was acknowledged, and {revision:?} found"));
        self.unacknowledged += usize::from(index > 0);
        let model = self.possible.swap_remove(index);
        let entries = store.list("").await.unwrap().entries;
        assert!(
            entries.iter().eq(model.entries.values()),
            "{revision:?} is not what was written then"
        );
        self.possible = vec![model];
    }

    /// Whether the power is still there.
    async fn write(&mut self, store: &RedbStore) -> bool {
        let group: Vec<_> = (0..self.random.random_range(1..4))
            .map(|_| self.transaction())
            .collect();
        let outcomes = join_all(group.iter().map(|transaction| store.commit(transaction.clone()))).await;
        let mut powered = true;
        for (transaction, outcome) in group.iter().zip(outcomes) {
            let mut model = self.possible.last().unwrap().clone();
            let expected = model.commit(transaction).unwrap();
            self.possible.push(model);
            match outcome {
                Ok(revision) => {
                    assert!(powered, "one was acknowledged after one that was not");
                    assert_eq!(revision, expected);
                    self.acknowledged += 1;
                    // Whatever may have been before, this is there now.
                    self.possible.drain(..self.possible.len() - 1);
                }
                Err(_) => powered = false,
            }
        }
        powered
    }

    /// Small and large ones, with keys that come and go.
    fn transaction(&mut self) -> Transaction {
        let random = &mut self.random;
        let mut transaction = Transaction::new();
        for key in 0..6 {
            let key = format!("key/{key}/{}", random.random_range(0..20));
            let size = if random.random_bool(0.05) {
                60_000
            } else {
                random.random_range(1..2_000)
            };
            transaction = match random.random_range(0..4) {
                0 => transaction.delete(key),
                1 | 2 => transaction.put(key, vec![random.random::<u8>(); size]),
                _ => transaction,
            };
        }
        // So that each changes something, and whole.
        let total = self.possible.last().unwrap().revision().0;
        transaction.put("last", total.to_string())
    }
}

#[tokio::test]
async fn what_was_acknowledged_outlives_a_loss_of_power() {
    let seeds = if std::env::var_os("WEFT_FULL").is_some() {
        1_000
    } else {
        200
    };
    let (mut losses, mut acknowledged, mut unacknowledged) = (0, 0, 0);
    for seed in 0..seeds {
        let mut life = Life::new(seed);
        life.run().await;
        losses += life.losses;
        acknowledged += life.acknowledged;
        unacknowledged += life.unacknowledged;
    }
    println!(
        "{seeds} disks, {losses} losses of power, {acknowledged} transactions acknowledged and none lost; after \
         {unacknowledged} losses there was more than acknowledged"
    );
    assert!(
        unacknowledged > 0,
        "no loss came between a write and its acknowledgement"
    );
}
