//! A disk in memory that can fail as disks do: by a loss of power, by errors, by want of space.
//!
//! What was written since the last sync may be there after a loss of power, or not, or in part, in any order. After a
//! failed sync it is as with Linux: what was written may be read as if nothing had been, or be gone, and no later sync
//! is about it.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard},
};

use ::redb::StorageBackend;
use rand::{Rng, SeedableRng, rngs::StdRng, seq::SliceRandom};

use super::{StoreError, medium::Medium};

/// What is written in one piece by every disk.
const SECTOR: usize = 512;

/// A disk, which outlives those who have it open.
#[derive(Clone, Debug)]
pub(super) struct SimDisk(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    /// What is there after a loss of power.
    durable: Vec<u8>,
    /// What is read.
    current: Vec<u8>,
    /// What was done since the last sync.
    pending: Vec<Operation>,
    /// What can still be done before the power goes.
    left: Option<u64>,
    fault: Option<Fault>,
    random: StdRng,
}

#[derive(Clone, Debug)]
enum Operation {
    Write(usize, Vec<u8>),
    Resize(usize),
}

/// What goes wrong until it is mended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Nothing can be written, and some of it was in the end.
    Write(io::ErrorKind),
    /// What was written cannot be brought to the disk.
    Sync,
    /// Nothing can be read or written.
    All,
}

impl SimDisk {
    /// An empty one.
    pub(super) fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(State {
            durable: Vec::new(),
            current: Vec::new(),
            pending: Vec::new(),
            left: None,
            fault: None,
            random: StdRng::seed_from_u64(seed),
        })))
    }

    /// As somebody finds it who opens it.
    pub(super) fn medium(&self) -> Box<dyn Medium> {
        Box::new(self.clone())
    }

    /// The power goes after so many more reads, writes and syncs.
    pub(super) fn lose_power_after(&self, operations: u64) {
        self.state().left = Some(operations);
    }

    /// The disk is reached again, and lost nothing meanwhile.
    pub(super) fn power_is_back(&self) {
        self.state().left = None;
    }

    /// The power is back, or was cut just now.
    pub(super) fn restart(&self) {
        let mut state = self.state();
        let pending = std::mem::take(&mut state.pending);
        // Often the loss comes when all was written, and only the answer of the disk was missing.
        let whole = state.random.random_bool(0.3);
        let mut survivors = Vec::new();
        for operation in pending {
            if whole {
                survivors.push(operation);
            } else {
                survivors.extend(state.torn(operation));
            }
        }
        // Each has a place of its own or comes after what it replaces, as the disk and the system see to; but of
        // those with different places the last may be there without the first.
        for operation in survivors {
            operation.apply(&mut state.durable);
        }
        state.current = state.durable.clone();
        state.left = None;
        state.fault = None;
    }

    /// From now on, until it is mended.
    pub(super) fn fail(&self, fault: Option<Fault>) {
        self.state().fault = fault;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }
}

impl State {
    fn tick(&mut self) -> io::Result<()> {
        match &mut self.left {
            None => {}
            Some(0) => return Err(io::Error::other("there is no power")),
            Some(left) => *left -= 1,
        }
        match self.fault {
            Some(Fault::All) => Err(io::Error::other("the disk fails")),
            _ => Ok(()),
        }
    }

    fn change(&mut self, operation: Operation) -> io::Result<()> {
        self.tick()?;
        if let Some(Fault::Write(kind)) = self.fault {
            if self.random.random_bool(0.5) {
                for part in self.torn(operation) {
                    part.apply(&mut self.current);
                    self.pending.push(part);
                }
            }
            return Err(kind.into());
        }
        operation.apply(&mut self.current);
        self.pending.push(operation);
        Ok(())
    }

    /// What is left of it, if it is cut short.
    fn torn(&mut self, operation: Operation) -> Vec<Operation> {
        let Operation::Write(offset, data) = &operation else {
            return if self.random.random_bool(0.5) {
                vec![operation]
            } else {
                vec![]
            };
        };
        match self.random.random_range(0..4) {
            0 => vec![],
            1 => vec![operation],
            // Up to some byte.
            2 => {
                let length = self.random.random_range(0..=data.len());
                vec![Operation::Write(*offset, data[..length].to_vec())]
            }
            // Some sectors, in any order.
            _ => {
                let mut sectors: Vec<_> = data
                    .chunks(SECTOR)
                    .enumerate()
                    .map(|(index, sector)| Operation::Write(offset + index * SECTOR, sector.to_vec()))
                    .collect();
                sectors.shuffle(&mut self.random);
                sectors.truncate(self.random.random_range(0..=sectors.len()));
                sectors
            }
        }
    }

    fn sync(&mut self) -> io::Result<()> {
        self.tick()?;
        if self.fault == Some(Fault::Sync) {
            // Often all of it stays in memory: then it looks as if nothing had happened.
            let visible = self.random.random_bool(0.5);
            for operation in std::mem::take(&mut self.pending) {
                match if visible {
                    1
                } else {
                    self.random.random_range(0..3)
                } {
                    // It is tried again.
                    0 => self.pending.push(operation),
                    // It seems to be there, as long as it is in memory.
                    1 => {}
                    // It was in memory, and is forgotten.
                    _ => operation.revert(&mut self.current, &self.durable),
                }
            }
            return Err(io::Error::other("input/output error"));
        }
        for operation in std::mem::take(&mut self.pending) {
            operation.apply(&mut self.durable);
        }
        Ok(())
    }
}

impl Operation {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Write(offset, data) => {
                let end = offset + data.len();
                if bytes.len() < end {
                    bytes.resize(end, 0);
                }
                bytes[*offset..end].copy_from_slice(data);
            }
            Self::Resize(length) => bytes.resize(*length, 0),
        }
    }

    /// Puts back what is on the disk.
    fn revert(&self, current: &mut [u8], durable: &[u8]) {
        if let Self::Write(offset, data) = self {
            for index in *offset..(offset + data.len()).min(current.len()) {
                current[index] = durable.get(index).copied().unwrap_or(0);
            }
        }
    }
}

impl Medium for SimDisk {
    fn name(&self) -> &'static str {
        "the simulated disk"
    }

    fn backend(&self) -> Result<Box<dyn StorageBackend>, StoreError> {
        Ok(Box::new(self.clone()))
    }

    fn rewrite(&self) -> io::Result<()> {
        let mut state = self.state();
        let length = state.current.len();
        state.change(Operation::Resize(length))?;
        let all = state.current.clone();
        state.change(Operation::Write(0, all))?;
        state.sync()
    }
}

impl StorageBackend for SimDisk {
    fn len(&self) -> io::Result<u64> {
        let mut state = self.state();
        state.tick()?;
        Ok(state.current.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut state = self.state();
        state.tick()?;
        let offset = usize::try_from(offset).unwrap();
        let found = state
            .current
            .get(offset..offset + out.len())
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(found);
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.state()
            .change(Operation::Resize(usize::try_from(length).unwrap()))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.state().sync()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.state()
            .change(Operation::Write(usize::try_from(offset).unwrap(), data.to_vec()))
    }
}
